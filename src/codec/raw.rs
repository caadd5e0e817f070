//! No framing: what has arrived is one message.
//!
//! TCP is a stream of bytes and does not preserve the boundaries of the sender's writes. So this is the only codec
//! whose messages depend on how the input was split.
//!
//! Invariant: the messages concatenated are exactly the input, and none exceeds the maximum.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use super::error::{check_len, check_max};
use super::{BuildError, Codec, Decoded, EncodeError, FrameError, Scan};

/// No framing: whatever has arrived is a message, in pieces of at most the maximum.
///
/// ```
/// use turnwheel::codec::{Codec, Decoded, Raw, Scan};
///
/// let codec = Raw::new(4)?;
/// let found = codec.decode(&mut Scan::default(), b"abcdef").unwrap();
/// assert_eq!(found, Decoded::Message { start: 0, end: 4, consumed: 4 });
/// # Ok::<(), turnwheel::codec::BuildError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    max: usize,
}

impl Raw {
    /// Creates a codec for pieces of at most `max` bytes.
    ///
    /// # Errors
    /// Returns an error if `max` is 0.
    pub fn new(max: usize) -> Result<Self, BuildError> {
        Ok(Self { max: check_max(max)? })
    }
}

impl Codec for Raw {
    type State = Scan;

    #[inline]
    fn decode(&self, _state: &mut Scan, data: &[u8]) -> Result<Decoded, FrameError> {
        match data.len().min(self.max) {
            0 => Ok(Decoded::Incomplete),
            end => Ok(Decoded::Message { start: 0, end, consumed: end }),
        }
    }

    /// Copies the message unchanged. An empty message writes nothing.
    fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        check_len(message, self.max)?;
        out.extend_from_slice(message);
        Ok(())
    }

    fn max_message(&self) -> usize {
        self.max
    }

    fn max_overhead(&self) -> usize {
        0
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::testing::decode_cut;

    #[test]
    fn no_byte_is_lost_however_the_input_is_cut() {
        let codec = Raw::new(2).unwrap();
        for mask in 0..1 << 5 {
            let cuts: Vec<usize> = (1..6).filter(|at| mask >> (at - 1) & 1 != 0).collect();
            let decoding = decode_cut(&codec, b"abcdef", &cuts);
            assert!(decoding.messages.iter().all(|piece| (1..=2).contains(&piece.len())));
            assert_eq!(decoding.messages.concat(), b"abcdef");
        }
    }

    #[test]
    fn what_is_over_the_maximum_is_not_sent() {
        let mut out = b"x".to_vec();
        let codec = Raw::new(2).unwrap();
        assert_eq!(codec.encode(b"abc", &mut out), Err(EncodeError::TooLong { len: 3, max: 2 }));
        assert_eq!(codec.encode(b"", &mut out), Ok(()));
        assert_eq!(codec.encode(b"ab", &mut out), Ok(()));
        assert_eq!(out, b"xab");
        assert!(Raw::new(0).is_err());
    }
}
