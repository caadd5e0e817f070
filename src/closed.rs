//! Why a connection ended, and its byte counts.
//!
//! Invariant: every [`Reason`] has its own name and its own counter.

use std::fmt;
use std::io;

use crate::codec::FrameError;
use crate::id::ConnId;

/// The final report on a connection, passed to [`on_close`](crate::Handler::on_close).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Closed {
    /// The connection. Its id is never reused.
    pub who: ConnId,
    /// Why it ended.
    pub why: Reason,
    /// The input that it ended for, if a [`Framed`](crate::Framed) has refused some.
    pub bad_input: Option<BadInput>,
    /// Bytes read from the peer.
    pub bytes_in: u64,
    /// Bytes handed to the kernel. This does not mean that the peer has read them.
    pub bytes_out: u64,
    /// Bytes that were queued for sending but never handed to the kernel. Those that
    /// [`send_all`](crate::Context::send_all) had not fetched are not counted.
    pub unsent: u64,
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} closed: {}", self.who, self.why)?;
        if let Some(bad_input) = &self.bad_input {
            write!(f, "; {bad_input}")?;
        }
        write!(f, " ({} B in, {} B out", self.bytes_in, self.bytes_out)?;
        if self.unsent > 0 {
            write!(f, ", {} B unsent", self.unsent)?;
        }
        f.write_str(")")
    }
}

/// The message in the input of a connection that it was closed for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BadInput {
    /// Where it begins, or where its length does if that is announced: bytes from the first one that was read.
    pub at: u64,
    /// How it announces its length: the bytes as the peer sent them, at most 64. Empty in a framing that announces
    /// none, or if not all of them arrived.
    pub announced: Vec<u8>,
}

impl BadInput {
    /// How many bytes are quoted: those of the longest decimal header. (Chosen; other lengths have at most 20.)
    pub(crate) const QUOTED: usize = 64;
}

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.announced.is_empty() {
            true => write!(f, "it begins at byte {}", self.at),
            false => write!(f, "announced as \"{}\" at byte {}", self.announced.escape_ascii(), self.at),
        }
    }
}

/// Why a connection ended or was refused.
///
/// If there is more than one cause, this is the first one that made the connection close. Exception: if a graceful
/// close in progress is cut short with bytes unsent, this is what cut it short.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The peer closed its sending side (FIN), and then ours was closed.
    PeerClosed,
    /// The peer reset the connection, or the connection broke while data was in transit.
    PeerReset,
    /// Another socket error.
    Io(io::ErrorKind),
    /// A message is longer than its framing allows, or there is more unfinished input than
    /// [`Limits::input_kept`](crate::Limits::input_kept).
    FrameTooLong {
        /// The announced length in bytes, or the bytes seen so far.
        len: u64,
        /// The maximum in bytes.
        max: u64,
    },
    /// The bytes are not a message of the framing in use, or the handler rejected them.
    BadFrame(&'static str),
    /// The peer closed its sending side in the middle of a message.
    TruncatedFrame {
        /// Bytes of the unfinished message that had arrived.
        have: u64,
    },
    /// The unsent output exceeded [`Limits::output_hard`](crate::Limits::output_hard), or this was a slow member of a
    /// group whose policy is [`SlowMember::Cut`](crate::SlowMember::Cut).
    OutputLimit,
    /// It held the most output when the output of all connections exceeded
    /// [`Limits::output_total`](crate::Limits::output_total).
    TotalOutputLimit,
    /// It held the most input when the buffered input of all connections exceeded
    /// [`Limits::input_total`](crate::Limits::input_total).
    TotalInputLimit,
    /// Output was unsent and the peer took none of it for [`Limits::write_stall`](crate::Limits::write_stall).
    WriteStall,
    /// No byte was read or written for [`Limits::idle_timeout`](crate::Limits::idle_timeout).
    IdleTimeout,
    /// A message was not complete within [`Limits::message_timeout`](crate::Limits::message_timeout).
    MessageTimeout,
    /// The handler closed or aborted the connection.
    Handler,
    /// A callback panicked, or the codec while it encoded a message for this connection.
    HandlerPanic,
    /// The handler closed the connection while the reactor was shutting down.
    Shutdown,
    /// Still open when the grace period of a shutdown was over.
    ShutdownDeadline,
    /// Refused because [`Limits::connections`](crate::Limits::connections) was reached.
    AtCapacity,
    /// Accepted, but the socket could not be registered for events.
    RegisterFailed,
    /// The system kept reporting an error or a hang-up that no read, write or `SO_ERROR` query confirmed.
    Livelock,
    /// What [`send_all`](crate::Context::send_all) was to send could not be read.
    PiecesFailed(io::ErrorKind),
}

/// The number of reasons: the length of the counter array in [`Stats`](crate::Stats).
pub(crate) const REASONS: usize = 20;

/// The name of each reason's counter, indexed by [`Reason::index`].
pub(crate) const NAMES: [&str; REASONS] = [
    "peer_closed",
    "peer_reset",
    "io_error",
    "frame_too_long",
    "bad_frame",
    "truncated_frame",
    "output_limit",
    "total_output_limit",
    "total_input_limit",
    "write_stall",
    "idle_timeout",
    "message_timeout",
    "handler",
    "handler_panic",
    "shutdown",
    "shutdown_deadline",
    "at_capacity",
    "register_failed",
    "livelock",
    "pieces_failed",
];

impl Reason {
    /// Returns the index of this reason's counter.
    pub(crate) const fn index(&self) -> usize {
        match self {
            Self::PeerClosed => 0,
            Self::PeerReset => 1,
            Self::Io(_) => 2,
            Self::FrameTooLong { .. } => 3,
            Self::BadFrame(_) => 4,
            Self::TruncatedFrame { .. } => 5,
            Self::OutputLimit => 6,
            Self::TotalOutputLimit => 7,
            Self::TotalInputLimit => 8,
            Self::WriteStall => 9,
            Self::IdleTimeout => 10,
            Self::MessageTimeout => 11,
            Self::Handler => 12,
            Self::HandlerPanic => 13,
            Self::Shutdown => 14,
            Self::ShutdownDeadline => 15,
            Self::AtCapacity => 16,
            Self::RegisterFailed => 17,
            Self::Livelock => 18,
            Self::PiecesFailed(_) => 19,
        }
    }

    /// Returns the name of this reason's counter: the variant in snake case, as used in statistics and logs.
    pub const fn name(&self) -> &'static str {
        NAMES[self.index()]
    }

    /// Returns whether the connection ended because of a limit, a timeout or a protocol violation by the peer.
    pub(crate) const fn is_policy(&self) -> bool {
        !matches!(
            self,
            Self::PeerClosed | Self::PeerReset | Self::Io(_) | Self::Handler | Self::HandlerPanic | Self::Shutdown
        )
    }

    /// Maps a read or write error to a reason.
    pub(crate) fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                Self::PeerReset
            }
            kind => Self::Io(kind),
        }
    }
}

impl From<FrameError> for Reason {
    fn from(e: FrameError) -> Self {
        match e {
            FrameError::TooLong { len, max } => Self::FrameTooLong { len, max },
            FrameError::Malformed(what) => Self::BadFrame(what),
            FrameError::Truncated { have } => Self::TruncatedFrame { have },
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerClosed => f.write_str("peer closed"),
            Self::PeerReset => f.write_str("peer reset"),
            Self::Io(kind) => write!(f, "I/O error: {kind}"),
            Self::FrameTooLong { len, max } => write!(f, "message of {len} bytes, at most {max} allowed"),
            Self::BadFrame(what) => write!(f, "malformed message: {what}"),
            Self::TruncatedFrame { have } => {
                write!(f, "peer closed inside a message, after {have} bytes of it")
            }
            Self::OutputLimit => f.write_str("too much output waiting"),
            Self::TotalOutputLimit => f.write_str("held the most output when the total ran out"),
            Self::TotalInputLimit => f.write_str("held the most unfinished input when the total ran out"),
            Self::WriteStall => f.write_str("peer stopped reading"),
            Self::IdleTimeout => f.write_str("idle"),
            Self::MessageTimeout => f.write_str("message not finished in time"),
            Self::Handler => f.write_str("closed by the handler"),
            Self::HandlerPanic => f.write_str("the handler panicked"),
            Self::Shutdown => f.write_str("shutdown"),
            Self::ShutdownDeadline => f.write_str("still open at the end of the shutdown's grace"),
            Self::AtCapacity => f.write_str("too many connections"),
            Self::RegisterFailed => f.write_str("could not be registered"),
            Self::Livelock => f.write_str("endless readiness without progress"),
            Self::PiecesFailed(kind) => write!(f, "what was to be sent could not be read: {kind}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One reason of each kind.
    fn all() -> [Reason; REASONS] {
        [
            Reason::PeerClosed,
            Reason::PeerReset,
            Reason::Io(io::ErrorKind::TimedOut),
            Reason::FrameTooLong { len: 2, max: 1 },
            Reason::BadFrame("bad"),
            Reason::TruncatedFrame { have: 1 },
            Reason::OutputLimit,
            Reason::TotalOutputLimit,
            Reason::TotalInputLimit,
            Reason::WriteStall,
            Reason::IdleTimeout,
            Reason::MessageTimeout,
            Reason::Handler,
            Reason::HandlerPanic,
            Reason::Shutdown,
            Reason::ShutdownDeadline,
            Reason::AtCapacity,
            Reason::RegisterFailed,
            Reason::Livelock,
            Reason::PiecesFailed(io::ErrorKind::NotFound),
        ]
    }

    #[test]
    fn each_reason_has_a_counter_and_a_name_of_its_own() {
        for (i, reason) in all().iter().enumerate() {
            // The name is the variant's, in snake case.
            let variant = format!("{reason:?}");
            let variant = variant.split(|c: char| !c.is_alphanumeric()).next().unwrap();
            let snake: String = variant
                .char_indices()
                .flat_map(|(at, c)| (at > 0 && c.is_uppercase()).then_some('_').into_iter().chain(c.to_lowercase()))
                .collect();
            let expected = if snake == "io" { "io_error" } else { &snake };
            assert_eq!((reason.index(), reason.name()), (i, expected));
        }
    }
}
