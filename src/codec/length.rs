//! Messages after a binary length field, with the options that Netty made common.
//!
//! ```text
//!  |<--- offset --->|<-- width -->|<----- value + adjustment ----->|
//!  +----------------+-------------+--------------------------------+
//!  |  header_prefix | length value|              body              |
//!  +----------------+-------------+--------------------------------+
//!  |<----- header (stripped) ---->|<----------- message ---------->|   strip = offset + width
//!  |<-------------------------- message -------------------------->|   strip = 0
//! ```
//!
//! The bytes before the length field are written but never checked.
//!
//! Invariant: the maximum applies to the message as delivered, after adjustment. A length that the field cannot hold
//! is rejected, never truncated.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use std::ops::Range;

use super::error::check_len;
use super::{Codec, Decoded, EncodeError, FrameError, Scan};

/// Messages after a length field of 1 to 8 bytes.
///
/// ```
/// use turnwheel::codec::{Codec, Decoded, LengthDelimited, Scan};
///
/// let codec = LengthDelimited::u32_be(1024)?;
/// let mut wire = Vec::new();
/// codec.encode(b"hello", &mut wire).unwrap();
/// assert_eq!(wire, b"\0\0\0\x05hello");
///
/// let found = codec.decode(&mut Scan::default(), &wire).unwrap();
/// assert_eq!(found, Decoded::Message { start: 4, end: 9, consumed: 9 });
///
/// // A length that counts itself, behind two bytes of magic.
/// let codec = LengthDelimited::builder(1024)
///     .length_field_offset(2)
///     .header_prefix(b"\xca\xfe")
///     .length_field_length(2)
///     .length_includes_header(true)
///     .build()?;
/// let mut wire = Vec::new();
/// codec.encode(b"hello", &mut wire).unwrap();
/// assert_eq!(wire, b"\xca\xfe\0\x09hello");
/// # Ok::<(), turnwheel::codec::BuildError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LengthDelimited {
    /// The number of bytes before the length field.
    pub(super) offset: usize,
    /// The number of bytes up to and including the length field.
    pub(super) header: usize,
    /// The start of the message in its frame: 0 or `header`.
    pub(super) start: usize,
    /// 64 minus the number of bits in the length field.
    pub(super) shift: u32,
    pub(super) big_endian: bool,
    /// Added to the value of the length field to get the number of bytes after it.
    pub(super) adjustment: i64,
    /// The maximum number of bytes after the length field. `header + max_body` does not overflow.
    pub(super) max_body: usize,
    /// What the encoder writes before the length field: `offset` bytes, or none if the message brings its own header.
    pub(super) prefix: Box<[u8]>,
}

impl LengthDelimited {
    /// Returns the length of the whole frame. `data` holds the whole header.
    #[inline]
    fn frame_len(&self, data: &[u8]) -> Result<usize, FrameError> {
        let Some(body) = self.field_value(data).checked_add_signed(self.adjustment) else {
            return Err(self.impossible());
        };
        match usize::try_from(body) {
            Ok(len) if len <= self.max_body => Ok(self.header.saturating_add(len)),
            _ => Err(self.too_long(body)),
        }
    }

    /// Reads the value of the length field. Usually 8 bytes are available, so it reads all 8 and shifts out those that
    /// do not belong to the field.
    #[inline]
    fn field_value(&self, data: &[u8]) -> u64 {
        let field = data.get(self.offset..).unwrap_or_default();
        let bytes = match field.first_chunk::<8>() {
            Some(bytes) => *bytes,
            None => {
                let mut bytes = [0; 8];
                bytes.iter_mut().zip(field).for_each(|(to, from)| *to = *from);
                bytes
            }
        };
        match self.big_endian {
            true => u64::from_be_bytes(bytes).wrapping_shr(self.shift),
            false => u64::from_le_bytes(bytes).wrapping_shl(self.shift).wrapping_shr(self.shift),
        }
    }

    /// Returns the length field that announces `body` bytes after it, at the front of eight bytes; `None` if the
    /// adjustment makes that impossible.
    fn field_bytes(&self, body: usize) -> Option<[u8; 8]> {
        let value = (body as i128).saturating_sub(self.adjustment.into());
        Some(self.raw_field(u64::try_from(value).ok()?))
    }

    /// Returns a length field at the front of eight bytes.
    #[inline]
    fn raw_field(&self, value: u64) -> [u8; 8] {
        if self.big_endian { value.wrapping_shl(self.shift).to_be_bytes() } else { value.to_le_bytes() }
    }

    #[cold]
    fn too_long(&self, body: u64) -> FrameError {
        let brought = self.header.saturating_sub(self.start) as u64;
        FrameError::TooLong { len: body.saturating_add(brought), max: self.max_message() as u64 }
    }

    #[cold]
    fn impossible(&self) -> FrameError {
        match self.adjustment < 0 {
            true => FrameError::Malformed("length is less than the bytes it must count"),
            false => self.too_long(u64::MAX),
        }
    }

    /// Returns the number of bytes in the length field.
    pub(super) fn width(&self) -> usize {
        self.header.saturating_sub(self.offset)
    }
}

impl Codec for LengthDelimited {
    type State = Scan;

    #[inline]
    fn decode(&self, state: &mut Scan, data: &[u8]) -> Result<Decoded, FrameError> {
        if data.len() < self.header.max(state.from) {
            return Ok(Decoded::Incomplete);
        }
        let frame = self.frame_len(data)?;
        Ok(state.message(data.len(), self.start, frame))
    }

    fn length_field(&self, _data: &[u8]) -> Range<usize> {
        self.offset..self.header
    }

    /// With `initial_bytes_to_strip(0)` the message brings its own header, and only its length field is filled in.
    #[inline]
    fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let stripped = self.start != 0;
        if stripped && self.offset == 0 && self.adjustment == 0 && message.len() <= self.max_body {
            // The common case: the header is the length field alone, and counts the message alone. Writing eight bytes
            // is one store; the bytes that the field does not need are truncated.
            let field_end = out.len().saturating_add(self.header);
            out.reserve(message.len().saturating_add(16));
            out.extend_from_slice(&self.raw_field(message.len() as u64));
            out.truncate(field_end);
            out.extend_from_slice(message);
            return Ok(());
        }
        let body_at = if stripped { 0 } else { self.header };
        let Some(body) = message.get(body_at..) else {
            return Err(EncodeError::Other("message is shorter than the header it must contain"));
        };
        check_len(message, self.max_message())?;
        let Some(bytes) = self.field_bytes(body.len()) else {
            return Err(EncodeError::Other("message is shorter than the length adjustment"));
        };
        out.reserve(self.header.saturating_add(body.len()).saturating_add(8));
        let prefix = if stripped { Some(&*self.prefix) } else { message.get(..self.offset) };
        out.extend_from_slice(prefix.unwrap_or_default());
        let field_end = out.len().saturating_add(self.width());
        out.extend_from_slice(&bytes);
        out.truncate(field_end);
        out.extend_from_slice(body);
        Ok(())
    }

    fn max_message(&self) -> usize {
        self.header.saturating_sub(self.start).saturating_add(self.max_body)
    }

    fn max_overhead(&self) -> usize {
        self.start
    }
}

#[cfg(test)]
#[path = "length_tests.rs"]
mod tests;
