//! What errors of `accept` and of writes mean, by their kind or their number.

use std::io::{self, ErrorKind};

/// What an error of `accept` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AcceptError {
    /// The queue is empty (`EAGAIN`).
    Drained,
    /// The waiting connection has failed: accept the next one.
    Retry,
    /// Descriptors or memory have run out: pause accepting.
    Shortage,
    /// The listener itself is broken: close it.
    Broken,
    /// Unknown: try again in the next turn, and pause if it persists.
    Unknown,
}

/// Error numbers that `std::io::ErrorKind` has no kind for, from each system's `errno.h`.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod number {
    pub(super) const ENFILE: i32 = 23;
    pub(super) const EMFILE: i32 = 24;
    pub(super) const ENOBUFS: i32 = 105;
    pub(super) const EBADF: i32 = 9;
    pub(super) const ENOTSOCK: i32 = 88;
    pub(super) const ENONET: i32 = 64;
    pub(super) const EPROTO: i32 = 71;
    pub(super) const ENOPROTOOPT: i32 = 92;
    pub(super) const EOPNOTSUPP: i32 = 95;
    pub(super) const EHOSTDOWN: i32 = 112;
}

/// The numbers of the BSDs and macOS. They have no `ENONET`: `EHOSTDOWN` stands in for it.
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
mod number {
    pub(super) const ENFILE: i32 = 23;
    pub(super) const EMFILE: i32 = 24;
    pub(super) const ENOBUFS: i32 = 55;
    pub(super) const EBADF: i32 = 9;
    pub(super) const ENOTSOCK: i32 = 38;
    pub(super) const ENONET: i32 = EHOSTDOWN;
    pub(super) const EPROTO: i32 = 100;
    pub(super) const ENOPROTOOPT: i32 = 42;
    pub(super) const EOPNOTSUPP: i32 = 45;
    pub(super) const EHOSTDOWN: i32 = 64;
}

/// Winsock's numbers (`WSAEMFILE` and so on; `ERROR_INVALID_HANDLE` for `EBADF`). Where it has none, the nearest.
#[cfg(windows)]
mod number {
    pub(super) const ENFILE: i32 = EMFILE;
    pub(super) const EMFILE: i32 = 10024;
    pub(super) const ENOBUFS: i32 = 10055;
    pub(super) const EBADF: i32 = 6;
    pub(super) const ENOTSOCK: i32 = 10038;
    pub(super) const ENONET: i32 = EHOSTDOWN;
    pub(super) const EPROTO: i32 = 10043;
    pub(super) const ENOPROTOOPT: i32 = 10042;
    pub(super) const EOPNOTSUPP: i32 = 10045;
    pub(super) const EHOSTDOWN: i32 = 10064;
}

/// Classifies an error of `accept`. Linux's accept(2) says which errors of a waiting connection to retry: they are
/// pending network errors that `accept` passes on.
pub(crate) fn classify_accept(error: &io::Error) -> AcceptError {
    use number::{EBADF, EHOSTDOWN, EMFILE, ENFILE, ENOBUFS, ENONET, ENOPROTOOPT, ENOTSOCK, EOPNOTSUPP, EPROTO};
    let is = |numbers: &[i32]| error.raw_os_error().is_some_and(|n| numbers.contains(&n));
    match error.kind() {
        ErrorKind::WouldBlock => AcceptError::Drained,
        ErrorKind::OutOfMemory => AcceptError::Shortage,
        _ if is(&[EMFILE, ENFILE, ENOBUFS]) => AcceptError::Shortage,
        ErrorKind::InvalidInput => AcceptError::Broken,
        _ if is(&[EBADF, ENOTSOCK]) => AcceptError::Broken,
        // `PermissionDenied` is EPERM: firewall rules forbid this connection (accept(2)).
        ErrorKind::ConnectionAborted
        | ErrorKind::ConnectionReset
        | ErrorKind::NetworkDown
        | ErrorKind::NetworkUnreachable
        | ErrorKind::HostUnreachable
        | ErrorKind::TimedOut
        | ErrorKind::PermissionDenied => AcceptError::Retry,
        _ if is(&[EPROTO, ENOPROTOOPT, EHOSTDOWN, ENONET, EOPNOTSUPP]) => AcceptError::Retry,
        _ => AcceptError::Unknown,
    }
}

/// Whether a socket cannot be had because descriptors or the places of
/// [`Limits::connections`](crate::Limits::connections) (`QuotaExceeded`) have run out: closing another one helps.
pub(crate) fn is_out_of_places(error: &io::Error) -> bool {
    use number::{EMFILE, ENFILE};
    error.kind() == ErrorKind::QuotaExceeded || error.raw_os_error().is_some_and(|n| n == EMFILE || n == ENFILE)
}

/// Whether a write failed because there is no space now: in the socket's buffer (`WouldBlock`), or in the system's
/// (`ENOBUFS`, which some systems return for a while when buffers are short; libuv treats it alike).
#[inline]
pub(crate) fn is_full(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(number::ENOBUFS)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn linux_numbers() {
        let of = |n| classify_accept(&io::Error::from_raw_os_error(n));
        for n in [11, 103, 104, 71, 92, 112, 64, 95, 100, 101, 113, 110, 1] {
            assert_eq!(of(n), if n == 11 { AcceptError::Drained } else { AcceptError::Retry }, "{n}");
        }
        for n in [24, 23, 105, 12] {
            assert_eq!(of(n), AcceptError::Shortage, "{n}");
        }
        for n in [22, 9, 88] {
            assert_eq!(of(n), AcceptError::Broken, "{n}");
        }
        assert_eq!(of(5), AcceptError::Unknown);
        let full = |n| is_full(&io::Error::from_raw_os_error(n));
        assert!(full(11) && full(105) && !full(12) && !full(32));
    }
}
