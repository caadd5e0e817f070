//! Messages that end with a delimiter of your choice.
//!
//! There is no quoting: the delimiter ends the message wherever it occurs.
//!
//! Invariant: a message ends at the first complete delimiter. A search resumes one byte less than the length of the
//! delimiter before the point where it stopped, so it finds a delimiter that was split between two reads.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use memchr::memchr;
use memchr::memmem::Finder;

use super::error::{check_len, check_max};
use super::{BuildError, Codec, Decoded, EncodeError, FrameError, Scan};

/// Messages that end with a delimiter of 1 to 64 bytes.
///
/// ```
/// use turnwheel::codec::{Codec, Decoded, Delimited, Scan};
///
/// let codec = Delimited::new(b"\0", 80)?;
/// let mut wire = Vec::new();
/// codec.encode(b"hello", &mut wire).unwrap();
/// assert_eq!(wire, b"hello\0");
///
/// let found = codec.decode(&mut Scan::default(), &wire).unwrap();
/// assert_eq!(found, Decoded::Message { start: 0, end: 5, consumed: 6 });
/// # Ok::<(), turnwheel::codec::BuildError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Delimited {
    max: usize,
    pub(super) discard: bool,
    /// The delimiter, preprocessed for searching.
    finder: Box<Finder<'static>>,
}

impl Delimited {
    /// Creates a codec for messages of at most `max` bytes, not counting the `delimiter`.
    ///
    /// # Errors
    /// Returns an error if `max` is 0, or if the delimiter is empty or longer than 64 bytes.
    pub fn new(delimiter: &[u8], max: usize) -> Result<Self, BuildError> {
        if !(1..=MAX_DELIMITER).contains(&delimiter.len()) {
            let len = delimiter.len();
            return Err(BuildError::new(format!("the delimiter has {len} bytes; accepted: 1 to {MAX_DELIMITER}")));
        }
        let finder = Box::new(Finder::new(delimiter).into_owned());
        Ok(Self { max: check_max(max)?, discard: false, finder })
    }

    /// Discards messages over the maximum, and counts each once, instead of closing the connection.
    #[must_use]
    pub fn discard_too_long(self) -> Self {
        Self { discard: true, ..self }
    }

    pub(super) fn delimiter(&self) -> &[u8] {
        self.finder.needle()
    }

    /// Returns the start of the first delimiter that starts at `from` or later.
    fn find(&self, data: &[u8], from: usize) -> Option<usize> {
        let rest = data.get(from..)?;
        let at = match self.delimiter() {
            [byte] => memchr(*byte, rest)?,
            _ => self.finder.find(rest)?,
        };
        Some(from.saturating_add(at))
    }

    /// Returns how many bytes of `data`, which contains no delimiter, need not be searched again. The rest may be the
    /// start of a delimiter.
    fn searched(&self, data: &[u8]) -> usize {
        data.len().saturating_sub(self.delimiter().len().saturating_sub(1))
    }

    /// Discards what belongs to the message at the front, except bytes that may be the start of the delimiter.
    fn skip(&self, state: &mut Scan, data: &[u8]) -> Decoded {
        let found = self.find(data, state.from);
        let consumed = match found {
            Some(at) => at.saturating_add(self.delimiter().len()),
            None => self.searched(data),
        };
        *state = Scan { from: 0, discarding: found.is_none() };
        if consumed == 0 {
            return Decoded::Incomplete;
        }
        Decoded::Skipped { consumed, finished: found.is_some() }
    }
}

impl Codec for Delimited {
    type State = Scan;

    fn decode(&self, state: &mut Scan, data: &[u8]) -> Result<Decoded, FrameError> {
        if state.discarding {
            return Ok(self.skip(state, data));
        }
        let longest = self.max.saturating_add(self.delimiter().len());
        let window = data.get(..longest).unwrap_or(data);
        if let Some(end) = self.find(window, state.from) {
            state.from = 0;
            return Ok(Decoded::Message { start: 0, end, consumed: end.saturating_add(self.delimiter().len()) });
        }
        if window.len() < longest {
            state.from = self.searched(window);
            return Ok(Decoded::Incomplete);
        }
        if self.discard {
            return Ok(self.skip(state, data));
        }
        let max = self.max as u64;
        Err(FrameError::TooLong { len: max.saturating_add(1), max })
    }

    /// Rejects a message that would end early: it contains the delimiter, or would together with the delimiter
    /// appended to it.
    fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        check_len(message, self.max)?;
        let begin = out.len();
        out.reserve(message.len().saturating_add(self.delimiter().len()));
        out.extend_from_slice(message);
        let end = out.len();
        out.extend_from_slice(self.delimiter());
        // The delimiter may occur earlier, across the seam: `a` followed by the delimiter `aa` is `aaa`.
        if self.find(out, begin) != Some(end) {
            out.truncate(begin);
            return Err(EncodeError::Delimiter);
        }
        Ok(())
    }

    fn max_message(&self) -> usize {
        self.max
    }

    fn max_overhead(&self) -> usize {
        self.delimiter().len()
    }
}

impl PartialEq for Delimited {
    fn eq(&self, other: &Self) -> bool {
        (self.max, self.discard, self.delimiter()) == (other.max, other.discard, other.delimiter())
    }
}

impl Eq for Delimited {}

/// The maximum length of a delimiter in bytes (chosen): almost as many are searched again after each read.
const MAX_DELIMITER: usize = 64;

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
mod tests {
    use super::super::oracle_tests::delimited;
    use super::super::tests::{differ, error_of, exhaust, round_trip, round_trip_sizes, whole};
    use super::*;
    use crate::testing::prove_cuts;

    const MAX: usize = 2;
    const DELIMITERS: [&[u8]; 6] = [b"a", b"aa", b"ab", b"aba", b"aab", b"\0\n"];

    #[test]
    fn agrees_with_the_oracle_however_it_is_cut() {
        for delimiter in DELIMITERS {
            let codec = Delimited::new(delimiter, MAX).unwrap();
            let alphabet: &[u8] = if delimiter[0] == b'a' { b"abc" } else { b"\0\na" };
            exhaust(&codec, alphabet, 6, |rest| delimited(rest, delimiter, MAX, false));
            differ(&codec, alphabet, |rest| delimited(rest, delimiter, MAX, false));
        }
    }

    #[test]
    fn throws_the_same_messages_away_however_they_are_cut() {
        for delimiter in DELIMITERS {
            let codec = Delimited::new(delimiter, MAX).unwrap().discard_too_long();
            let alphabet: &[u8] = if delimiter[0] == b'a' { b"abc" } else { b"\0\na" };
            exhaust(&codec, alphabet, 6, |rest| delimited(rest, delimiter, MAX, true));
            differ(&codec, alphabet, |rest| delimited(rest, delimiter, MAX, true));
        }
    }

    #[test]
    fn a_message_too_long_is_counted_once_and_hardly_kept() {
        let codec = Delimited::new(b"--", 2).unwrap().discard_too_long();
        let decoding = prove_cuts(&codec, b"a--xx-xx--b--");
        assert_eq!((decoding.messages, decoding.skipped), (vec![b"a".to_vec(), b"b".to_vec()], vec![3]));
        assert_eq!(whole(&codec, &[b'x'; 1000]).left, 1);
        assert_eq!(error_of(&Delimited::new(b"--", 2).unwrap(), b"xxxx"), FrameError::TooLong { len: 3, max: 2 });
    }

    #[test]
    fn what_would_end_early_is_not_sent() {
        for (delimiter, message) in [("aa", "a"), ("aa", "baa"), ("aba", "ab"), ("\n", "x\n"), ("abab", "xab")] {
            let codec = Delimited::new(delimiter.as_bytes(), 9).unwrap();
            let mut out = delimiter.as_bytes().to_vec();
            assert_eq!(codec.encode(message.as_bytes(), &mut out), Err(EncodeError::Delimiter));
            assert_eq!(out, delimiter.as_bytes());
        }
        round_trip(&Delimited::new(b"aa", 9).unwrap(), &[b"", b"ab", b"bab"]);
        round_trip_sizes(&Delimited::new(b"\0", 9).unwrap());
        round_trip_sizes(&Delimited::new(&[b'-'; 64], 100).unwrap());
    }

    #[test]
    fn refusals_name_what_is_accepted() {
        for delimiter in [&b""[..], &[0; 65]] {
            assert!(Delimited::new(delimiter, 9).unwrap_err().to_string().contains("accepted: 1 to 64"));
        }
        assert!(Delimited::new(b"\n", 0).is_err());
    }
}
