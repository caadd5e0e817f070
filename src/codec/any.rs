//! A codec chosen at run time, for example from text (parsed and printed in `spec.rs`).
//!
//! Each call is forwarded to the codec inside.
//!
//! Invariant: `codec.to_string().parse()` returns an equal codec.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use std::ops::Range;

use super::{
    Codec, DecimalHeader, Decoded, Delimited, EncodeError, FixedSize, FrameError, LengthDelimited, Lines, Netstring,
    Raw, Scan, Varint,
};

/// Any of the codecs of this crate, for servers and tools whose users choose one.
///
/// Its text form is a name, followed by a detail after a colon where one is needed, and options after commas:
///
/// | Spec | Codec | Options besides `max=SIZE` |
/// |---|---|---|
/// | `raw` | [`Raw`] | |
/// | `lines`, `lines:crlf` | [`Lines`] | `discard` |
/// | `delim:\0`, `delim:\r\n--` | [`Delimited`]; escapes `\0 \n \r \t \\ \,` and `\xNN` | `discard` |
/// | `len:u32be`, `len:u16le`, `len:u8`: any of 8 to 64 bits | [`LengthDelimited`] | `offset=N`, `adjust=N`, `inclusive`, `strip=N`, `prefix=HEX` |
/// | `dec:10` | [`DecimalHeader`] | |
/// | `varint` | [`Varint`] | |
/// | `netstring` | [`Netstring`] | |
/// | `fixed:64` | [`FixedSize`] | (no `max` either) |
///
/// A `SIZE` is in bytes, or has one of the units `KiB`, `MiB` and `GiB`. The default of `max` is 1 MiB, and 64 KiB for
/// `lines` and `delim`, or less if the length field or header cannot express it. A `max` beyond what it can express, or
/// beyond what memory can hold, is refused.
///
/// ```
/// use turnwheel::codec::{AnyCodec, Codec};
///
/// let codec: AnyCodec = "len:u16le,max=4KiB".parse()?;
/// let mut wire = Vec::new();
/// codec.encode(b"hello", &mut wire).unwrap();
/// assert_eq!(wire, b"\x05\0hello");
/// assert_eq!(codec.to_string(), "len:u16le,max=4KiB");
///
/// assert!("len:u12".parse::<AnyCodec>().is_err());
/// # Ok::<(), turnwheel::codec::BuildError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnyCodec {
    /// No framing.
    Raw(Raw),
    /// Lines.
    Lines(Lines),
    /// A delimiter of your choice.
    Delimited(Delimited),
    /// A binary length field.
    Length(LengthDelimited),
    /// A decimal length of fixed width.
    Decimal(DecimalHeader),
    /// A varint length.
    Varint(Varint),
    /// Netstrings.
    Netstring(Netstring),
    /// Messages of one fixed size.
    Fixed(FixedSize),
}

/// Evaluates the same expression for whichever codec it is.
macro_rules! each {
    ($self:ident, $codec:ident => $call:expr) => {
        match $self {
            Self::Raw($codec) => $call,
            Self::Lines($codec) => $call,
            Self::Delimited($codec) => $call,
            Self::Length($codec) => $call,
            Self::Decimal($codec) => $call,
            Self::Varint($codec) => $call,
            Self::Netstring($codec) => $call,
            Self::Fixed($codec) => $call,
        }
    };
}

impl Codec for AnyCodec {
    type State = Scan;

    #[inline]
    fn decode(&self, state: &mut Scan, data: &[u8]) -> Result<Decoded, FrameError> {
        each!(self, codec => codec.decode(state, data))
    }

    fn decode_end(&self, state: &mut Scan, data: &[u8]) -> Result<Decoded, FrameError> {
        each!(self, codec => codec.decode_end(state, data))
    }

    fn length_field(&self, data: &[u8]) -> Range<usize> {
        each!(self, codec => codec.length_field(data))
    }

    fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        each!(self, codec => codec.encode(message, out))
    }

    fn max_message(&self) -> usize {
        each!(self, codec => codec.max_message())
    }

    fn max_overhead(&self) -> usize {
        each!(self, codec => codec.max_overhead())
    }
}
