//! The signals that stop a server: SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal has gone).
//!
//! A signal that the process was started to ignore stays ignored: SIGHUP under `nohup`, SIGINT in a shell's background.

#[cfg(not(unix))]
pub(crate) use self::other::block;
#[cfg(unix)]
pub(crate) use self::unix::block;

#[cfg(unix)]
mod unix {
    use std::io::Result;
    use std::thread;

    use nix::sys::signal::{SigSet, Signal};

    pub(crate) struct Signals(SigSet);

    /// Blocks the signals in this thread and in all that it starts: nothing but [`Signals::watch`] gets them. Call it
    /// before there is another thread.
    ///
    /// SIGTTIN is blocked as well, so that reading from a terminal in the background is an error. Otherwise it stops
    /// the process, with all its connections.
    pub(crate) fn block() -> Result<Signals> {
        let ignored = ignored();
        let wanted = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter();
        let wanted: SigSet = wanted.filter(|&signal| ignored >> (signal as i32 - 1) & 1 == 0).collect();
        let mut blocked = wanted;
        blocked.add(Signal::SIGTTIN);
        blocked.thread_block()?;
        Ok(Signals(wanted))
    }

    impl Signals {
        /// Calls `react` with the number of each signal, in a thread of its own.
        pub(crate) fn watch(self, mut react: impl FnMut(i32) + Send + 'static) -> Result<()> {
            thread::Builder::new().spawn(move || {
                while let Ok(signal) = self.0.wait() {
                    react(signal as i32);
                }
            })?;
            Ok(())
        }
    }

    /// Returns the ignored signals as a bit set: bit 0 is signal 1. Safe Rust can ask only Linux.
    fn ignored() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    }
}

#[cfg(not(unix))]
mod other {
    use std::io::{Error, Result};

    pub(crate) struct Signals;

    /// Here there is nothing to block.
    pub(crate) fn block() -> Result<Signals> {
        Ok(Signals)
    }

    impl Signals {
        /// Calls `react` at each Ctrl-C, with the number of SIGINT.
        pub(crate) fn watch(self, mut react: impl FnMut(i32) + Send + 'static) -> Result<()> {
            ctrlc::set_handler(move || react(2)).map_err(Error::other)
        }
    }
}
