//! Framing: where one message ends and the next begins, both ways, with one object.
//!
//! A [`Codec`] looks at bytes that have arrived and says "a message lies here", "not yet" or "this can never be
//! one". It does no I/O, keeps no bytes and copies nothing; whoever calls it owns the buffer.
//!
//! Invariant: for any way of cutting the input, the same messages and the same error come out, and the work done is
//! linear in the input even when it arrives one byte at a time.

use std::fmt;

mod any;
mod decimal;
mod delimiter;
mod error;
mod fixed;
mod framing;
mod length;
mod length_builder;
mod lines;
mod netstring;
#[cfg(test)]
pub(crate) mod oracle_tests;
#[cfg(test)]
mod props_tests;
mod raw;
mod scan;
#[cfg(test)]
pub(crate) mod shape_tests;
mod size;
mod spec;
#[cfg(test)]
mod tests;
mod varint;

pub use any::AnyCodec;
pub use decimal::DecimalHeader;
pub use delimiter::Delimited;
pub use error::BuildError;
pub use fixed::FixedSize;
pub use framing::Framing;
pub use length::LengthDelimited;
pub use length_builder::LengthDelimitedBuilder;
pub use lines::Lines;
pub use netstring::Netstring;
pub use raw::Raw;
pub use scan::Scan;
pub use varint::Varint;

/// What a [`Codec`] found at the front of the bytes it was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A whole message: it is `data[start..end]`, and the first `consumed` bytes of `data` are done with.
    Message {
        /// Where the message begins.
        start: usize,
        /// Where the message ends (exclusive).
        end: usize,
        /// How many bytes, header and trailer included, to drop from the front; at least 1.
        consumed: usize,
    },
    /// The first `consumed` bytes (at least 1) belong to a message that is being thrown away because it is too long.
    /// Only a codec told to discard answers this. `finished` is true exactly once for each such message: with its
    /// last byte.
    Skipped {
        /// How many bytes to drop from the front; at least 1.
        consumed: usize,
        /// Whether the unwanted message ends here.
        finished: bool,
    },
    /// No whole message yet: show the same bytes again, with more behind them.
    Incomplete,
}

/// Why bytes from a peer can not be a message of this framing. The connection they came on cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The message is, or announces to be, longer than allowed (the peer's fault, or a limit set too low).
    TooLong {
        /// The announced length in bytes, or the length seen so far where none is announced.
        len: u64,
        /// The most bytes a message may have.
        max: u64,
    },
    /// The bytes are no message of this framing; the text says what was wrong.
    Malformed(&'static str),
    /// The peer finished sending in the middle of a message.
    Truncated {
        /// How many bytes of the unfinished message had arrived.
        have: u64,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len, max } => write!(f, "message of {len} bytes is over the maximum of {max}"),
            Self::Malformed(what) => write!(f, "malformed message: {what}"),
            Self::Truncated { have } => write!(f, "input ended inside a message, after {have} bytes of it"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Why a message cannot be sent in some framing. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// Longer than the framing's maximum.
    TooLong {
        /// Bytes in the message.
        len: usize,
        /// The most bytes a message may have.
        max: usize,
    },
    /// It contains the bytes that would end it, so the receiver would see more than one message.
    Delimiter,
    /// The framing wants messages of exactly one size.
    WrongSize {
        /// Bytes in the message.
        len: usize,
        /// The only size accepted.
        want: usize,
    },
    /// The framing cannot carry it for the reason given.
    Other(&'static str),
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len, max } => write!(f, "message of {len} bytes is over the maximum of {max}"),
            Self::Delimiter => f.write_str("message contains the delimiter that would end it"),
            Self::WrongSize { len, want } => write!(f, "message of {len} bytes where each has {want}"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for EncodeError {}

/// A framing: finds messages in arriving bytes, and wraps messages for sending.
///
/// One codec object serves any number of connections; what it must remember about one of them between calls (how far
/// it has already searched, say) is its [`State`](Codec::State).
///
/// # The contract of `decode`
/// - `data` begins with the first byte not yet consumed. After [`Decoded::Incomplete`] the same bytes come again with
///   more behind them and with the same `state`; after anything else, `data` begins `consumed` bytes further on.
/// - `data` may be empty; the answer is then `Incomplete`.
/// - After an error the connection is closed and `decode` is not called again.
/// - It must hold every message to [`max_message`](Codec::max_message), must answer before the whole of an oversized
///   message has arrived, and must not look at the same byte again and again as more arrive.
pub trait Codec: 'static {
    /// What is remembered about one connection between two calls of [`decode`](Codec::decode).
    type State: Default + 'static;

    /// Looks for one message at the front of `data`.
    ///
    /// # Errors
    /// When the bytes can never become a message of this framing.
    fn decode(&self, state: &mut Self::State, data: &[u8]) -> Result<Decoded, FrameError>;

    /// Appends `message`, framed, to `out`.
    ///
    /// # Errors
    /// When this framing cannot carry the message. `out` is then as it was.
    fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError>;

    /// The most bytes one message may have, without header and trailer.
    fn max_message(&self) -> usize;

    /// The most bytes that framing adds to one message, either way (header and trailer together).
    fn max_overhead(&self) -> usize;
}
