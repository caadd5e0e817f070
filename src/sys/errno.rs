//! What an error of `accept` means for the listener, and which errors of a write pass. Pure knowledge of the systems'
//! error numbers.

use std::io::{self, ErrorKind};

/// What to do about an error of accepting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AcceptError {
    /// The queue is empty.
    Drained,
    /// It concerns the one waiting connection, which is gone: take the next.
    Retry,
    /// Descriptors or memory have run out: rest a while.
    Shortage,
    /// The listener itself is broken.
    Dead,
    /// Not known: try again next turn, and rest if it goes on.
    Unknown,
}

// Error numbers that std has no kind for: (EMFILE, ENFILE, ENOBUFS), then (EBADF, ENOTSOCK), then those that Linux's
// accept(2) says to treat like EAGAIN by retrying (EPROTO, ENOPROTOOPT, EHOSTDOWN, ENONET, EOPNOTSUPP).
#[cfg(any(target_os = "linux", target_os = "android"))]
const NUMBERS: ([i32; 3], [i32; 2], [i32; 5]) = ([24, 23, 105], [9, 88], [71, 92, 112, 64, 95]);
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
const NUMBERS: ([i32; 3], [i32; 2], [i32; 5]) = ([24, 23, 55], [9, 38], [100, 42, 64, 64, 45]);
#[cfg(windows)]
const NUMBERS: ([i32; 3], [i32; 2], [i32; 5]) =
    ([10024, 10024, 10055], [6, 10038], [10043, 10042, 10064, 10064, 10045]);

/// Sorts an error of accepting.
pub(crate) fn classify_accept(error: &io::Error) -> AcceptError {
    let (shortage, dead, retry) = NUMBERS;
    let is = |numbers: &[i32]| error.raw_os_error().is_some_and(|n| numbers.contains(&n));
    match error.kind() {
        ErrorKind::WouldBlock => AcceptError::Drained,
        ErrorKind::OutOfMemory => AcceptError::Shortage,
        _ if is(&shortage) => AcceptError::Shortage,
        ErrorKind::InvalidInput => AcceptError::Dead,
        _ if is(&dead) => AcceptError::Dead,
        ErrorKind::ConnectionAborted
        | ErrorKind::ConnectionReset
        | ErrorKind::NetworkDown
        | ErrorKind::NetworkUnreachable
        | ErrorKind::HostUnreachable
        | ErrorKind::TimedOut
        | ErrorKind::PermissionDenied => AcceptError::Retry,
        _ if is(&retry) => AcceptError::Retry,
        _ => AcceptError::Unknown,
    }
}

/// Whether a write failed because there is no room now: the socket's, or the system's (which some report for a while
/// when buffers are short, and which libuv treats alike).
#[inline]
pub(crate) fn is_full(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(NUMBERS.0[2])
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
            assert_eq!(of(n), AcceptError::Dead, "{n}");
        }
        assert_eq!(of(5), AcceptError::Unknown);
        let full = |n| is_full(&io::Error::from_raw_os_error(n));
        assert!(full(11) && full(105) && !full(12) && !full(32));
    }
}
