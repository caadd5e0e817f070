//! Descriptors: how many the process may open, and those that are held for sockets that will be opened.
//!
//! Invariant: what is held can be had later, because closing it frees as much as a socket needs.

use std::io;

/// Held descriptors: sockets, because at ENFILE each stands for an open file of its own. Windows has no such limit.
#[derive(Debug, Default)]
pub(super) struct HeldDescriptors {
    #[cfg(unix)]
    sockets: Vec<std::os::unix::net::UnixDatagram>,
}

impl HeldDescriptors {
    /// Holds `n` descriptors from now on.
    #[cfg(unix)]
    pub(super) fn hold(&mut self, n: usize) -> io::Result<()> {
        self.sockets.truncate(n);
        while self.sockets.len() < n {
            self.sockets.push(std::os::unix::net::UnixDatagram::unbound()?);
        }
        Ok(())
    }

    #[cfg(not(unix))]
    pub(super) fn hold(&mut self, _n: usize) -> io::Result<()> {
        Ok(())
    }
}

/// See [`Sys::descriptor_limit`](crate::sys::Sys::descriptor_limit).
pub(super) fn limit() -> Option<(usize, usize)> {
    if !cfg!(any(target_os = "linux", target_os = "android")) {
        return None;
    }
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let most = open_files_limit(&limits)?;
    // Minus one: the descriptor of the directory itself, open while it is read.
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    Some((most, open))
}

/// Parses the soft limit in the text of `/proc/self/limits`. Returns `None` if there is none.
pub(super) fn open_files_limit(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
