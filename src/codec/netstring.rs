//! Netstrings, as defined by D. J. Bernstein.
//!
//! ```text
//!  5:hello,    decimal length, colon, message, comma
//! ```
//!
//! Netstrings inside netstrings are left to the user.
//!
//! Invariant: every length has exactly one encoding (no leading zeros), and is rejected at the first digit that makes
//! it too long.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use std::ops::Range;

use super::error::{check_len, check_max};
use super::scan::Digits;
use super::{BuildError, Codec, Decoded, EncodeError, FrameError, Scan};

/// Messages as netstrings: `5:hello,`.
///
/// ```
/// use turnwheel::codec::{Codec, Decoded, Netstring, Scan};
///
/// let codec = Netstring::new(1024)?;
/// let mut wire = Vec::new();
/// codec.encode(b"hello", &mut wire).unwrap();
/// assert_eq!(wire, b"5:hello,");
///
/// let found = codec.decode(&mut Scan::default(), &wire).unwrap();
/// assert_eq!(found, Decoded::Message { start: 2, end: 7, consumed: 8 });
/// # Ok::<(), turnwheel::codec::BuildError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netstring {
    max: usize,
}

impl Netstring {
    /// Creates a codec for messages of at most `max` bytes.
    ///
    /// # Errors
    /// Returns an error if `max` is 0.
    pub fn new(max: usize) -> Result<Self, BuildError> {
        Ok(Self { max: check_max(max)? })
    }

    /// Parses the header. Returns its length, including the colon, and the announced length; `None` if `data` ends
    /// inside it. It inspects at most one digit more than the maximum has.
    fn header(&self, data: &[u8]) -> Result<Option<(usize, usize)>, FrameError> {
        let mut len = 0u64;
        for (i, byte) in data.iter().enumerate() {
            match byte {
                b'0'..=b'9' if i > 0 && len == 0 => {
                    return Err(FrameError::Malformed("netstring length has a leading zero"));
                }
                b'0'..=b'9' => len = len.saturating_mul(10).saturating_add(u64::from(byte & 0x0f)),
                // Each digit was checked against the maximum, so the cast is exact.
                b':' if i > 0 => return Ok(Some((i.saturating_add(1), len as usize))),
                _ => return Err(FrameError::Malformed("netstring length is not digits and a colon")),
            }
            if len > self.max as u64 {
                return Err(FrameError::TooLong { len, max: self.max as u64 });
            }
        }
        Ok(None)
    }
}

impl Codec for Netstring {
    type State = Scan;

    /// Rejects a length over the maximum before all of its digits have arrived; the error then holds the number so
    /// far.
    fn decode(&self, state: &mut Scan, data: &[u8]) -> Result<Decoded, FrameError> {
        if data.len() < state.from {
            return Ok(Decoded::Incomplete);
        }
        let Some((start, len)) = self.header(data)? else {
            return Ok(Decoded::Incomplete);
        };
        let end = start.saturating_add(len);
        let consumed = end.saturating_add(1);
        match data.get(end) {
            Some(b',') => {
                state.from = 0;
                Ok(Decoded::Message { start, end, consumed })
            }
            Some(_) => Err(FrameError::Malformed("netstring does not end with a comma")),
            None => {
                state.from = consumed;
                Ok(Decoded::Incomplete)
            }
        }
    }

    /// All digits that have arrived, which may be more than it took to refuse the length.
    fn length_field(&self, data: &[u8]) -> Range<usize> {
        0..data.iter().take_while(|byte| byte.is_ascii_digit()).count()
    }

    fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let len = check_len(message, self.max)?;
        out.reserve(len.saturating_add(self.max_overhead()));
        out.extend_from_slice(Digits::of(len).as_bytes());
        out.push(b':');
        out.extend_from_slice(message);
        out.push(b',');
        Ok(())
    }

    fn max_message(&self) -> usize {
        self.max
    }

    /// The digits of the maximum, the colon and the comma.
    fn max_overhead(&self) -> usize {
        Digits::of(self.max).as_bytes().len().saturating_add(2)
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
mod tests {
    use super::super::oracle_tests::netstring;
    use super::super::tests::{differ, error_of, exhaust, messages_of, round_trip_sizes};
    use super::*;

    #[test]
    fn agrees_with_the_oracle_however_it_is_cut() {
        for max in [1, 3, 12] {
            let codec = Netstring::new(max as usize).unwrap();
            exhaust(&codec, b"01:,", 6, |rest| netstring(rest, max));
            exhaust(&codec, b"02:,\x80", 4, |rest| netstring(rest, max));
        }
        differ(&Netstring::new(12).unwrap(), b"0123::,,a", |rest| netstring(rest, 12));
    }

    #[test]
    fn refuses_at_the_first_bad_byte() {
        let codec = Netstring::new(100).unwrap();
        assert_eq!(error_of(&codec, b"101"), FrameError::TooLong { len: 101, max: 100 });
        assert_eq!(error_of(&codec, b"9999"), FrameError::TooLong { len: 999, max: 100 });
        for bad in [":", "a", "-", "+", " ", "00", "05", "1,", "5 ", "1:ab", "0:x", "\0"] {
            assert!(matches!(error_of(&codec, bad.as_bytes()), FrameError::Malformed(_)), "{bad}");
        }
        let unlimited = Netstring::new(usize::MAX).unwrap();
        assert!(matches!(error_of(&unlimited, &[b'9'; 30]), FrameError::TooLong { .. }));
        assert_eq!(messages_of(&codec, b"0:,3:a,b,"), [&b""[..], b"a,b"]);
    }

    #[test]
    fn round_trips() {
        for max in [1, 9, 10, 99, 100, 1000] {
            round_trip_sizes(&Netstring::new(max).unwrap());
        }
        assert!(Netstring::new(0).is_err());
    }
}
