//! Messages after a decimal length of fixed width, padded with spaces, as in many Python tutorials.
//!
//! ```text
//!  "5         hello"    f"{len(msg):<10}" and the message: what is sent
//!  "         5hello"    f"{len(msg):>10}": accepted
//!  "0000000005hello"    f"{len(msg):010}": accepted
//! ```
//!
//! The length counts bytes, which in Python is the length of the *encoded* text.
//!
//! Invariant: a header consists of optional spaces, at least one digit, and optional spaces. It is rejected at its
//! first invalid byte.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use std::ops::Range;

use super::error::{check_len, check_max};
use super::scan::Digits;
use super::{BuildError, Codec, Decoded, EncodeError, FrameError, Scan};

/// Messages after a header of 1 to 64 characters: the length in decimal, padded with spaces.
///
/// ```
/// use turnwheel::codec::{Codec, Decoded, DecimalHeader, Scan};
///
/// let codec = DecimalHeader::new(10, 1024)?;
/// let mut wire = Vec::new();
/// codec.encode(b"hello", &mut wire).unwrap();
/// assert_eq!(wire, b"5         hello");
///
/// let found = codec.decode(&mut Scan::default(), b"0000000005hello").unwrap();
/// assert_eq!(found, Decoded::Message { start: 10, end: 15, consumed: 15 });
/// # Ok::<(), turnwheel::codec::BuildError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecimalHeader {
    pub(super) width: usize,
    max: usize,
}

impl DecimalHeader {
    /// Creates a codec for messages of at most `max` bytes after a header of `width` characters. A maximum beyond what
    /// the header can express is clipped; a width beyond what a number needs is padding.
    ///
    /// # Errors
    /// Returns an error if `max` is 0, or if `width` is not 1 to 64.
    pub fn new(width: usize, max: usize) -> Result<Self, BuildError> {
        if !(1..=MAX_WIDTH).contains(&width) {
            return Err(BuildError::new(format!(
                "the decimal header has {width} characters; accepted: 1 to {MAX_WIDTH}"
            )));
        }
        let most = 10u64.saturating_pow(width as u32).saturating_sub(1);
        Ok(Self { width, max: check_max(max)?.min(usize::try_from(most).unwrap_or(usize::MAX)) })
    }

    /// Parses the part of the header that has arrived. The number is final when `data` holds the whole header.
    fn header(&self, data: &[u8]) -> Result<u64, FrameError> {
        let mut len = None;
        let mut ended = false;
        for byte in data.iter().take(self.width) {
            match byte {
                b'0'..=b'9' if !ended => {
                    let digit = u64::from(byte & 0x0f);
                    len = Some(len.unwrap_or(0u64).saturating_mul(10).saturating_add(digit));
                }
                b' ' => ended = len.is_some(),
                b'0'..=b'9' => {
                    return Err(FrameError::Malformed("decimal header has a space inside the number"));
                }
                _ => return Err(FrameError::Malformed(foreign(*byte))),
            }
        }
        if len.is_none() && data.len() >= self.width {
            return Err(FrameError::Malformed("decimal header has no digit"));
        }
        Ok(len.unwrap_or(0))
    }
}

impl Codec for DecimalHeader {
    type State = Scan;

    fn decode(&self, state: &mut Scan, data: &[u8]) -> Result<Decoded, FrameError> {
        if data.len() < state.from {
            return Ok(Decoded::Incomplete);
        }
        let announced = self.header(data)?;
        if data.len() < self.width {
            return Ok(Decoded::Incomplete);
        }
        let end = match usize::try_from(announced) {
            Ok(len) if len <= self.max => self.width.saturating_add(len),
            _ => return Err(FrameError::TooLong { len: announced, max: self.max as u64 }),
        };
        Ok(state.message(data.len(), self.width, end))
    }

    fn length_field(&self, _data: &[u8]) -> Range<usize> {
        0..self.width
    }

    fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let len = check_len(message, self.max)?;
        let header_end = out.len().saturating_add(self.width);
        out.reserve(len.saturating_add(self.width));
        out.extend_from_slice(Digits::of(len).as_bytes());
        out.resize(header_end, b' ');
        out.extend_from_slice(message);
        Ok(())
    }

    fn max_message(&self) -> usize {
        self.max
    }

    fn max_overhead(&self) -> usize {
        self.width
    }
}

/// Names the kind of a byte that is not part of a header.
const fn foreign(byte: u8) -> &'static str {
    match byte {
        b'+' | b'-' => "decimal header has a sign",
        b'.' | b',' => "decimal header has a point or comma",
        b'a'..=b'z' | b'A'..=b'Z' => "decimal header has a letter",
        _ => "decimal header has a byte that is neither digit nor space",
    }
}

/// The maximum width of a header: 64, as in widely copied Python tutorials. No length needs more than 20 digits.
const MAX_WIDTH: usize = 64;

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
mod tests {
    use super::super::oracle_tests::decimal;
    use super::super::tests::{differ, error_of, exhaust, messages_of, round_trip_sizes, whole};
    use super::*;

    #[test]
    fn agrees_with_the_oracle_however_it_is_cut() {
        for width in 1..=4 {
            let codec = DecimalHeader::new(width, 3).unwrap();
            exhaust(&codec, b"01 ", 6, |rest| decimal(rest, width, 3));
            exhaust(&codec, b"2 -\xff", 4, |rest| decimal(rest, width, 3));
            differ(&codec, b"0012  4", |rest| decimal(rest, width, 3));
        }
    }

    #[test]
    fn reads_all_three_ways_of_python_and_writes_the_first() {
        let codec = DecimalHeader::new(10, 99).unwrap();
        let messages = messages_of(&codec, b"5         hello         5world0000000003.14");
        assert!(messages.iter().eq([&b"hello"[..], b"world", b".14"].iter().copied()), "{messages:?}");
    }

    #[test]
    fn refuses_at_the_first_bad_byte() {
        let codec = DecimalHeader::new(4, 99).unwrap();
        for (bad, what) in [
            ("-", "has a sign"),
            ("+1", "has a sign"),
            ("1 2", "has a space inside"),
            (" 1 2", "has a space inside"),
            ("    ", "has no digit"),
            ("a", "has a letter"),
            ("1Z", "has a letter"),
            ("1.", "has a point or comma"),
            ("1,0", "has a point or comma"),
            ("\n", "neither digit nor space"),
        ] {
            let error = error_of(&codec, bad.as_bytes());
            assert!(error.to_string().contains(what), "{bad}: {error}");
        }
        assert_eq!(error_of(&codec, b"9999"), FrameError::TooLong { len: 9999, max: 99 });
        assert_eq!(whole(&codec, b"999").error, None);
        let widest = DecimalHeader::new(19, usize::MAX).unwrap();
        assert_eq!(
            error_of(&widest, &[b'9'; 19]),
            FrameError::TooLong { len: 9_999_999_999_999_999_999, max: widest.max_message() as u64 }
        );
    }

    #[test]
    fn a_header_may_be_wider_than_any_number() {
        let codec = DecimalHeader::new(64, 99).unwrap();
        assert_eq!(
            messages_of(&codec, format!("{:<64}hello{:>64}hi{:064}", 5, 2, 0).as_bytes()),
            [&b"hello"[..], b"hi", b""]
        );
        let error = error_of(&codec, &[b'9'; 64]);
        assert_eq!(error, FrameError::TooLong { len: u64::MAX, max: 99 });
    }

    #[test]
    fn round_trips_and_clips() {
        assert_eq!(DecimalHeader::new(2, 1000).unwrap().max_message(), 99);
        for width in 1..=64 {
            round_trip_sizes(&DecimalHeader::new(width, 120).unwrap());
        }
        for width in [0, 65, usize::MAX] {
            assert!(DecimalHeader::new(width, 9).unwrap_err().to_string().contains("accepted: 1 to 64"));
        }
        assert!(DecimalHeader::new(10, 0).is_err());
    }
}
