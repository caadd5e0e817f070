//! Messages that all have the same size.
//!
//! There is nothing to resynchronize on: if a peer sends one byte too few, all later messages are shifted.
//!
//! Invariant: every message has exactly `size` bytes, in both directions.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use super::error::MOST;
use super::{BuildError, Codec, Decoded, EncodeError, FrameError, Scan};

/// Every message has exactly the same number of bytes; nothing is added on the wire.
///
/// ```
/// use turnwheel::codec::{Codec, Decoded, FixedSize, Scan};
///
/// let codec = FixedSize::new(4)?;
/// let found = codec.decode(&mut Scan::default(), b"abcdef").unwrap();
/// assert_eq!(found, Decoded::Message { start: 0, end: 4, consumed: 4 });
/// assert!(codec.encode(b"abc", &mut Vec::new()).is_err());
/// # Ok::<(), turnwheel::codec::BuildError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedSize {
    size: usize,
}

impl FixedSize {
    /// Creates a codec for messages of exactly `size` bytes.
    ///
    /// # Errors
    /// Returns an error if `size` is 0 (any input would then hold endless messages) or more than memory can hold.
    pub fn new(size: usize) -> Result<Self, BuildError> {
        if !(1..=MOST).contains(&size) {
            return Err(BuildError::new(format!("the message size is {size} bytes; accepted: 1 to {MOST}")));
        }
        Ok(Self { size })
    }
}

impl Codec for FixedSize {
    type State = Scan;

    #[inline]
    fn decode(&self, _state: &mut Scan, data: &[u8]) -> Result<Decoded, FrameError> {
        if data.len() < self.size {
            return Ok(Decoded::Incomplete);
        }
        Ok(Decoded::Message { start: 0, end: self.size, consumed: self.size })
    }

    fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if message.len() != self.size {
            return Err(EncodeError::WrongSize { len: message.len(), want: self.size });
        }
        out.extend_from_slice(message);
        Ok(())
    }

    fn max_message(&self) -> usize {
        self.size
    }

    fn max_overhead(&self) -> usize {
        0
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
mod tests {
    use super::super::oracle_tests::fixed;
    use super::super::tests::{exhaust, round_trip};
    use super::*;

    #[test]
    fn agrees_with_the_oracle_however_it_is_cut() {
        for size in 1..=3 {
            exhaust(&FixedSize::new(size).unwrap(), &[0, 0xff], 6, |rest| fixed(rest, size));
        }
    }

    #[test]
    fn sends_only_its_size() {
        let codec = FixedSize::new(3).unwrap();
        round_trip(&codec, &[b"abc", b"\0\n,"]);
        for wrong in [&b""[..], b"ab", b"abcd"] {
            let refused = EncodeError::WrongSize { len: wrong.len(), want: 3 };
            assert_eq!(codec.encode(wrong, &mut Vec::new()), Err(refused));
        }
        assert!(FixedSize::new(0).unwrap_err().to_string().contains("accepted: 1 to"));
        assert!(FixedSize::new(usize::MAX).is_err());
    }
}
