//! Framing: one object that finds where a message ends in received bytes and wraps messages for sending.
//!
//! A [`Codec`] inspects received bytes and returns a message, "incomplete", or an error. It does no I/O, stores no
//! bytes and copies nothing; the caller owns the buffer.
//!
//! Invariant: however the input is split into reads, the codec returns the same messages and the same error. The work
//! is linear in the input, even if it arrives one byte at a time.

use std::fmt;
use std::ops::Range;

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
pub(crate) mod telnet;
#[cfg(test)]
mod tests;
mod varint;

pub use any::AnyCodec;
pub use decimal::DecimalHeader;
pub use delimiter::Delimited;
pub use error::BuildError;
pub use fixed::FixedSize;
pub use framing::Framing;
pub(crate) use framing::{NotEncoded, Panic};
pub use length::LengthDelimited;
pub use length_builder::LengthDelimitedBuilder;
pub use lines::Lines;
pub use netstring::Netstring;
pub use raw::Raw;
pub use scan::Scan;
pub use varint::Varint;

/// What a [`Codec`] found at the front of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A complete message, `data[start..end]`. The first `consumed` bytes of `data` are used up.
    Message {
        /// The start of the message.
        start: usize,
        /// The end of the message (exclusive).
        end: usize,
        /// How many bytes to drop from the front, including header and trailer; at least 1.
        consumed: usize,
    },
    /// The first `consumed` bytes belong to a message that is discarded because it is too long. Only a codec
    /// configured to discard returns this. `finished` is true exactly once per discarded message: with its last byte.
    Skipped {
        /// How many bytes to drop from the front; at least 1.
        consumed: usize,
        /// Whether the discarded message ends here.
        finished: bool,
    },
    /// No complete message yet. Call again with the same bytes followed by more.
    Incomplete,
}

/// Why received bytes cannot be a message of this framing. The connection cannot continue.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The length of the message, announced or seen so far, exceeds the maximum. Either the peer is at fault or the
    /// limit is too low.
    TooLong {
        /// The announced length in bytes, or the length seen so far if none is announced.
        len: u64,
        /// The maximum length of a message in bytes.
        max: u64,
    },
    /// The bytes are not a message of this framing. The text names the error.
    Malformed(&'static str),
    /// The peer closed its sending side in the middle of a message.
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

/// Why a message cannot be sent in a framing. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// The message is longer than the framing's maximum.
    TooLong {
        /// The length of the message in bytes.
        len: usize,
        /// The maximum length of a message in bytes.
        max: usize,
    },
    /// The message contains the delimiter, so the receiver would see more than one message.
    Delimiter,
    /// The framing accepts messages of exactly one size.
    WrongSize {
        /// The length of the message in bytes.
        len: usize,
        /// The required length in bytes.
        want: usize,
    },
    /// Another reason, given as text.
    Other(&'static str),
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len, max } => write!(f, "message of {len} bytes is over the maximum of {max}"),
            Self::Delimiter => f.write_str("message contains the delimiter that would end it"),
            Self::WrongSize { len, want } => {
                write!(f, "message of {len} bytes, but every message must have {want}")
            }
            Self::Other(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for EncodeError {}

/// A framing: finds messages in received bytes, and wraps messages for sending.
///
/// One codec serves any number of connections. What it stores per connection between calls, such as how far it has
/// searched, is its [`State`](Codec::State). Only decoding has a state; `encode` cannot number or mask messages per
/// connection.
///
/// # The contract of `decode`
/// - `data` starts with the first byte not yet consumed. After [`Decoded::Incomplete`] the caller passes the same
///   bytes followed by more, with the same `state`. After any other result, `data` starts `consumed` bytes later.
/// - `data` may be empty; the result is then `Incomplete`.
/// - After an error the connection is closed and `decode` is not called again.
/// - It must enforce [`max_message`](Codec::max_message) on every message, must reject an oversized message before all
///   of it has arrived, and must not inspect the same bytes again each time more arrive.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a framing: it does not implement `Codec`",
    label = "not a `Codec`",
    note = "the codec comes first: `Framed::new(codec, handler)`",
    note = "a text such as \"lines\" is parsed first: see the module `codec`"
)]
pub trait Codec: 'static {
    /// What is stored per connection between two calls of [`decode`](Codec::decode).
    type State: Default + 'static;

    /// Looks for one message at the front of `data`.
    ///
    /// # Errors
    /// Returns an error if the bytes cannot become a message of this framing.
    fn decode(&self, state: &mut Self::State, data: &[u8]) -> Result<Decoded, FrameError>;

    /// Looks at `data`, the rest that is no complete message, when the peer has closed its sending side. A framing
    /// whose last message needs no ending returns it as [`Decoded::Message`]; one that was discarding a message returns
    /// [`Decoded::Skipped`], which may consume nothing here. Default: [`FrameError::Truncated`].
    ///
    /// # Errors
    /// Returns an error if the rest is only a part of a message.
    fn decode_end(&self, state: &mut Self::State, data: &[u8]) -> Result<Decoded, FrameError> {
        let _ = state;
        Err(FrameError::Truncated { have: data.len() as u64 })
    }

    /// Returns which bytes of `data`, the front of a message that [`decode`](Codec::decode) has refused, announce its
    /// length. They are quoted in the report on the connection. Default: none.
    fn length_field(&self, data: &[u8]) -> Range<usize> {
        let _ = data;
        0..0
    }

    /// Appends the framed `message` to `out`.
    ///
    /// # Errors
    /// Returns an error if this framing cannot carry the message. `out` must then be unchanged.
    fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError>;

    /// Returns the maximum length of a message in bytes, without header and trailer.
    fn max_message(&self) -> usize;

    /// Returns the maximum number of bytes that the framing adds to a message, header and trailer together, in either
    /// direction.
    fn max_overhead(&self) -> usize;
}
