//! Messages after a length in unsigned LEB128, the varint of protobuf.
//!
//! ```text
//!  1xxxxxxx  1xxxxxxx  0xxxxxxx  message        7 bits of the length a byte, the least significant first;
//!  the top bit says that another byte follows   300 is AC 02
//! ```
//!
//! Protobuf itself is not decoded: the message is bytes.
//!
//! Invariant: every length has exactly one encoding, the shortest. A length is rejected at the first byte after which
//! it can only be too long.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use std::ops::Range;

use super::error::{check_len, check_max};
use super::{BuildError, Codec, Decoded, EncodeError, FrameError, Scan};

/// Messages after a varint length, as written by protobuf's `writeDelimitedTo`.
///
/// ```
/// use turnwheel::codec::{Codec, Decoded, Scan, Varint};
///
/// let codec = Varint::new(1024)?;
/// let mut wire = Vec::new();
/// codec.encode(&[b'x'; 300], &mut wire).unwrap();
/// assert_eq!(&wire[..3], b"\xac\x02x");
///
/// let found = codec.decode(&mut Scan::default(), &wire).unwrap();
/// assert_eq!(found, Decoded::Message { start: 2, end: 302, consumed: 302 });
/// # Ok::<(), turnwheel::codec::BuildError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Varint {
    max: usize,
}

impl Varint {
    /// Creates a codec for messages of at most `max` bytes.
    ///
    /// # Errors
    /// Returns an error if `max` is 0.
    pub fn new(max: usize) -> Result<Self, BuildError> {
        Ok(Self { max: check_max(max)? })
    }

    /// Parses the header. Returns its length and the announced length; `None` if `data` ends inside it. Fails if the
    /// length, or the smallest length that can start like this, exceeds the maximum; and if the last byte adds nothing,
    /// so that a shorter encoding exists.
    #[inline]
    fn header(&self, data: &[u8]) -> Result<Option<(usize, usize)>, FrameError> {
        let mut len = 0u64;
        for (i, byte) in data.iter().take(MAX_HEADER).enumerate() {
            // At most 56, so no bit is lost: a length of nine bytes has 63 bits.
            let shift = (i as u32).saturating_mul(7);
            len |= u64::from(byte & 0x7f).wrapping_shl(shift);
            let more = byte & 0x80 != 0;
            // If more bytes follow, the last of them is not zero, so the length is at least this.
            let least = if more { len | 1u64.wrapping_shl(shift.saturating_add(7)) } else { len };
            if least > self.max as u64 {
                return Err(FrameError::TooLong { len: least, max: self.max as u64 });
            }
            if !more && *byte == 0 && i > 0 {
                return Err(FrameError::Malformed("varint is not in its shortest form"));
            }
            if !more {
                return Ok(Some((i.saturating_add(1), least as usize)));
            }
        }
        Ok(None)
    }
}

impl Codec for Varint {
    type State = Scan;

    /// Rejects a length over the maximum before all of it has arrived; the error then holds the smallest possible
    /// length.
    #[inline]
    fn decode(&self, state: &mut Scan, data: &[u8]) -> Result<Decoded, FrameError> {
        if data.len() < state.from {
            return Ok(Decoded::Incomplete);
        }
        let Some((start, len)) = self.header(data)? else {
            return Ok(Decoded::Incomplete);
        };
        let end = start.saturating_add(len);
        Ok(state.message(data.len(), start, end))
    }

    /// All bytes of the length that have arrived, which may be more than it took to refuse it.
    fn length_field(&self, data: &[u8]) -> Range<usize> {
        0..data.iter().take_while(|byte| **byte & 0x80 != 0).count().saturating_add(1)
    }

    fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let mut len = check_len(message, self.max)?;
        out.reserve(len.saturating_add(self.max_overhead()));
        while len >= 0x80 {
            out.push(len as u8 | 0x80);
            len >>= 7;
        }
        out.push(len as u8);
        out.extend_from_slice(message);
        Ok(())
    }

    fn max_message(&self) -> usize {
        self.max
    }

    /// The length of the longest header, that of the maximum.
    fn max_overhead(&self) -> usize {
        usize::BITS.saturating_sub(self.max.leading_zeros()).div_ceil(7) as usize
    }
}

/// The maximum number of bytes of a length: no maximum exceeds 62 bits, so a tenth byte (63 bits and more) is never
/// reached.
const MAX_HEADER: usize = 9;

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
mod tests {
    use super::super::error::MOST;
    use super::super::oracle_tests::varint;
    use super::super::tests::{differ, error_of, exhaust, messages_of, round_trip_sizes, whole};
    use super::*;

    #[test]
    fn agrees_with_the_oracle_however_it_is_cut() {
        for max in [3, 127, 128, 40_000] {
            let codec = Varint::new(max).unwrap();
            exhaust(&codec, &[0, 1, 0x80], 6, |rest| varint(rest, max as u128));
            exhaust(&codec, &[0, 2, 0x7f, 0x80, 0xff], 4, |rest| varint(rest, max as u128));
            differ(&codec, &[0, 1, 1, 2, 3, 0x80], |rest| varint(rest, max as u128));
        }
    }

    #[test]
    fn all_forms_of_two_bytes() {
        let codec = Varint::new(1 << 14).unwrap();
        for (first, second) in (0..=255u8).flat_map(|a| (0..=255u8).map(move |b| (a, b))) {
            let found = codec.header(&[first, second]);
            let expected = match (first, second) {
                (0..0x80, _) => Ok(Some((1, usize::from(first)))),
                (_, 0) => Err(FrameError::Malformed("varint is not in its shortest form")),
                (_, 1..0x80) => Ok(Some((2, usize::from(first & 0x7f) + usize::from(second) * 128))),
                (0x80, 0x80) => Ok(None), // the third byte can still make it 1 << 14
                _ => {
                    let len = u64::from(first & 0x7f) + u64::from(second & 0x7f) * 128 + (1 << 14);
                    Err(FrameError::TooLong { len, max: 1 << 14 })
                }
            };
            assert_eq!(found, expected, "{first:x} {second:x}");
        }
    }

    #[cfg(target_pointer_width = "64")]
    #[test]
    fn overlong_forms_are_refused_at_any_length() {
        let codec = Varint::new(usize::MAX).unwrap();
        for bytes in 2..=12 {
            for fill in [0x80, 0xff] {
                for last in [0, 1, 2, 0x7f] {
                    let mut wire = vec![fill; bytes - 1];
                    wire.push(last);
                    let refused = whole(&codec, &wire).error.is_some();
                    let bits = wire.iter().rev().fold(0u128, |bits, byte| bits << 7 | u128::from(byte & 0x7f));
                    assert_eq!(refused, bits > MOST as u128 || last == 0, "{wire:x?}");
                }
            }
        }
    }

    #[test]
    fn too_long_is_noticed_before_the_length_is_complete() {
        let codec = Varint::new(200).unwrap();
        assert_eq!(error_of(&codec, &[0x80, 0x80]), FrameError::TooLong { len: 1 << 14, max: 200 });
        assert_eq!(error_of(&codec, &[0xff]), FrameError::TooLong { len: 255, max: 200 });
        assert_eq!(error_of(&Varint::new(100).unwrap(), &[0x80]), FrameError::TooLong { len: 128, max: 100 });
    }

    #[test]
    fn round_trips() {
        for (max, header) in [(1, 1), (2, 1), (127, 1), (128, 2), (129, 2), (16_383, 2), (16_384, 3)] {
            let codec = Varint::new(max).unwrap();
            round_trip_sizes(&codec);
            assert_eq!(codec.max_overhead(), header);
        }
        assert_eq!(messages_of(&Varint::new(1).unwrap(), &[0, 1, 7, 0]), [&b""[..], &[7], &[]]);
        assert!(Varint::new(0).is_err());
    }
}
