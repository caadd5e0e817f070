//! Lines of text, or of any bytes except the line ending.
//!
//! Character encodings do not matter: a message is bytes.
//!
//! Invariant: a bare carriage return never ends a line, and in strict mode only `\r\n` does, so two readers of one
//! stream cannot disagree about where the lines are. The maximum applies to the line without its ending.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use memchr::{memchr, memchr2};

use super::error::{check_len, check_max};
use super::{BuildError, Codec, Decoded, EncodeError, FrameError, Scan};

/// Messages that end with a line feed ([`lf`](Self::lf)), or strictly with `\r\n` ([`crlf`](Self::crlf)).
///
/// ```
/// use turnwheel::codec::{Codec, Decoded, EncodeError, Lines, Scan};
///
/// let codec = Lines::lf(80)?;
/// // What telnet sends: the `\r` directly before the `\n` is no part of the message.
/// let found = codec.decode(&mut Scan::default(), b"hello\r\nwor").unwrap();
/// assert_eq!(found, Decoded::Message { start: 0, end: 5, consumed: 7 });
///
/// let mut wire = Vec::new();
/// assert_eq!(codec.encode(b"forged\nline", &mut wire), Err(EncodeError::Delimiter));
/// codec.encode(b"hello", &mut wire).unwrap();
/// assert_eq!(wire, b"hello\n");
/// # Ok::<(), turnwheel::codec::BuildError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lines {
    max: usize,
    pub(super) crlf: bool,
    pub(super) discard: bool,
}

impl Lines {
    /// Creates a codec for lines of at most `max` bytes that end with `\n`, except that the last one before the end of
    /// the input may lack it: a peer that stops in the middle of a line cannot be told from one that never ends its
    /// last. One `\r` directly before it belongs to the
    /// ending, because telnet sends it; any other `\r` belongs to the message. A message that ends with `\r` is
    /// therefore sent with the ending `\r\n`.
    ///
    /// # Errors
    /// Returns an error if `max` is 0.
    pub fn lf(max: usize) -> Result<Self, BuildError> {
        Ok(Self { max: check_max(max)?, crlf: false, discard: false })
    }

    /// Creates a codec for lines of at most `max` bytes that end with `\r\n`. A `\n` or `\r` anywhere else is an
    /// error, and so is a last line without its ending.
    ///
    /// # Errors
    /// Returns an error if `max` is 0.
    pub fn crlf(max: usize) -> Result<Self, BuildError> {
        Ok(Self { max: check_max(max)?, crlf: true, discard: false })
    }

    /// Discards lines over the maximum, and counts each once, instead of closing the connection.
    #[must_use]
    pub fn discard_too_long(self) -> Self {
        Self { discard: true, ..self }
    }

    /// Looks for `\n`. In an acceptable line it is among the first `max + 2` bytes: `max` bytes, then possibly a `\r`.
    #[inline]
    fn decode_lf(&self, state: &mut Scan, data: &[u8]) -> Result<Decoded, FrameError> {
        let window = data.get(..self.max.saturating_add(2)).unwrap_or(data);
        let found = memchr(b'\n', window.get(state.from..).unwrap_or_default());
        let line = match found {
            Some(at) => window.get(..state.from.saturating_add(at)).unwrap_or_default(),
            None => window,
        };
        // A `\r` at the end of an incomplete line may turn out to be part of the ending.
        let end = line.strip_suffix(b"\r").unwrap_or(line).len();
        if end > self.max {
            return self.too_long(state, data);
        }
        if found.is_none() {
            state.from = window.len();
            return Ok(Decoded::Incomplete);
        }
        state.from = 0;
        Ok(Decoded::Message { start: 0, end, consumed: line.len().saturating_add(1) })
    }

    /// Looks for `\r` or `\n`. In an acceptable line the first one is among the first `max + 1` bytes.
    fn decode_crlf(&self, state: &mut Scan, data: &[u8]) -> Result<Decoded, FrameError> {
        let window = data.get(..self.max.saturating_add(1)).unwrap_or(data);
        match Self::find_crlf(window, data, state.from)? {
            Crlf::At(end) => {
                state.from = 0;
                Ok(Decoded::Message { start: 0, end, consumed: end.saturating_add(2) })
            }
            Crlf::Before(end) if end > self.max => self.too_long(state, data),
            Crlf::Before(end) => {
                state.from = end;
                Ok(Decoded::Incomplete)
            }
        }
    }

    /// Searches `window`, the front of `data`, starting at `from`. If a `\r` is its last byte, the next byte of `data`
    /// decides.
    fn find_crlf(window: &[u8], data: &[u8], from: usize) -> Result<Crlf, FrameError> {
        let Some(at) = memchr2(b'\r', b'\n', window.get(from..).unwrap_or_default()) else {
            return Ok(Crlf::Before(window.len()));
        };
        let at = from.saturating_add(at);
        match data.get(at..).unwrap_or_default() {
            [b'\r', b'\n', ..] => Ok(Crlf::At(at)),
            [b'\r'] => Ok(Crlf::Before(at)),
            [b'\r', ..] => Err(FrameError::Malformed("carriage return without line feed")),
            _ => Err(FrameError::Malformed("line feed without carriage return")),
        }
    }

    #[cold]
    fn too_long(&self, state: &mut Scan, data: &[u8]) -> Result<Decoded, FrameError> {
        if self.discard {
            return self.skip(state, data);
        }
        let max = self.max as u64;
        Err(FrameError::TooLong { len: max.saturating_add(1), max })
    }

    /// Discards what belongs to the line at the front, except a final `\r` that may be the start of `\r\n`.
    fn skip(&self, state: &mut Scan, data: &[u8]) -> Result<Decoded, FrameError> {
        let rest = data.get(state.from..).unwrap_or_default();
        let found = match self.crlf {
            true => Self::find_crlf(data, data, state.from)?,
            false => match memchr(b'\n', rest) {
                Some(at) => Crlf::At(state.from.saturating_add(at)),
                None => Crlf::Before(data.len()),
            },
        };
        let (consumed, finished) = match found {
            Crlf::At(end) => (end.saturating_add(if self.crlf { 2 } else { 1 }), true),
            Crlf::Before(end) => (end, false),
        };
        *state = Scan { from: 0, discarding: !finished };
        if consumed == 0 {
            return Ok(Decoded::Incomplete);
        }
        Ok(Decoded::Skipped { consumed, finished })
    }

    /// Returns the ending to send after `message`. A receiver takes one `\r` off, so a message's own needs another.
    fn ending(&self, message: &[u8]) -> &'static [u8] {
        if self.crlf || message.ends_with(b"\r") { b"\r\n" } else { b"\n" }
    }
}

impl Codec for Lines {
    type State = Scan;

    #[inline]
    fn decode(&self, state: &mut Scan, data: &[u8]) -> Result<Decoded, FrameError> {
        match (state.discarding, self.crlf) {
            (true, _) => self.skip(state, data),
            (_, false) => self.decode_lf(state, data),
            (_, true) => self.decode_crlf(state, data),
        }
    }

    /// The last line needs no `\n` at the end of the input, as in text files; in strict mode it needs its `\r\n`.
    fn decode_end(&self, state: &mut Scan, data: &[u8]) -> Result<Decoded, FrameError> {
        let (begun, consumed) = (*state, data.len());
        *state = Scan::default();
        match (self.crlf, begun.discarding) {
            (true, _) => Err(FrameError::Truncated { have: consumed as u64 }),
            (false, true) => Ok(Decoded::Skipped { consumed, finished: true }),
            (false, false) => {
                let end = data.strip_suffix(b"\r").unwrap_or(data).len();
                Ok(Decoded::Message { start: 0, end, consumed })
            }
        }
    }

    /// Rejects messages that the receiver would not decode as they were: with a `\n` inside or, in strict mode, any
    /// `\r`.
    #[inline]
    fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        check_len(message, self.max)?;
        let forged = match self.crlf {
            true => memchr2(b'\r', b'\n', message).is_some(),
            false => memchr(b'\n', message).is_some(),
        };
        if forged {
            return Err(EncodeError::Delimiter);
        }
        out.reserve(message.len().saturating_add(2));
        out.extend_from_slice(message);
        out.extend_from_slice(self.ending(message));
        Ok(())
    }

    fn max_message(&self) -> usize {
        self.max
    }

    fn max_overhead(&self) -> usize {
        2
    }
}

/// Where a line ends.
enum Crlf {
    /// The ending starts here.
    At(usize),
    /// No ending starts before here.
    Before(usize),
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
mod tests {
    use super::super::oracle_tests::{crlf, lf};
    use super::super::tests::{differ, error_of, exhaust, messages_of, round_trip, round_trip_sizes, whole};
    use super::*;
    use crate::testing::prove_cuts;

    const MAX: usize = 2;
    const TOO_LONG: FrameError = FrameError::TooLong { len: 3, max: 2 };
    const ALPHABET: &[u8] = b"a\r\n\x80";

    #[test]
    fn agrees_with_the_oracle_however_it_is_cut() {
        exhaust(&Lines::lf(MAX).unwrap(), ALPHABET, 6, |rest| lf(rest, MAX, false));
        exhaust(&Lines::crlf(MAX).unwrap(), ALPHABET, 6, |rest| crlf(rest, MAX, false));
    }

    #[test]
    fn throws_the_same_lines_away_however_they_are_cut() {
        let (lf_codec, crlf_codec) = (Lines::lf(MAX).unwrap(), Lines::crlf(MAX).unwrap());
        exhaust(&lf_codec.clone().discard_too_long(), ALPHABET, 6, |rest| lf(rest, MAX, true));
        exhaust(&crlf_codec.clone().discard_too_long(), ALPHABET, 6, |rest| crlf(rest, MAX, true));
        for alphabet in [&b"aaaaa\r\n"[..], b"a\n"] {
            differ(&lf_codec, alphabet, |rest| lf(rest, MAX, false));
            differ(&crlf_codec, alphabet, |rest| crlf(rest, MAX, false));
            differ(&lf_codec.clone().discard_too_long(), alphabet, |rest| lf(rest, MAX, true));
            differ(&crlf_codec.clone().discard_too_long(), alphabet, |rest| crlf(rest, MAX, true));
        }
    }

    #[test]
    fn a_line_too_long_is_noticed_at_its_first_byte_too_many() {
        for codec in [Lines::lf(2).unwrap(), Lines::crlf(2).unwrap()] {
            assert_eq!(error_of(&codec, b"abc"), TOO_LONG);
            assert_eq!(whole(&codec, b"ab\r").left, 3);
        }
        assert_eq!(error_of(&Lines::lf(2).unwrap(), b"ab\r\r"), TOO_LONG);
        assert_eq!(messages_of(&Lines::lf(2).unwrap(), b"ab\r\na\r\r\n"), [b"ab", b"a\r"]);
    }

    #[test]
    fn a_line_too_long_is_counted_once_and_never_kept() {
        for codec in [Lines::lf(2).unwrap(), Lines::crlf(2).unwrap()].map(Lines::discard_too_long) {
            let decoding = prove_cuts(&codec, b"a\r\nxxxxxx\r\nb\r\n");
            assert_eq!((decoding.messages, decoding.skipped), (vec![b"a".to_vec(), b"b".to_vec()], vec![3]));
            assert_eq!(whole(&codec, &[b'x'; 1000]).left, 0);
        }
    }

    #[test]
    fn what_would_come_back_as_something_else_is_not_sent() {
        let (lf, crlf) = (Lines::lf(9).unwrap(), Lines::crlf(9).unwrap());
        for (codec, message) in [(&lf, "a\nb"), (&lf, "\n"), (&crlf, "a\r"), (&crlf, "a\rb"), (&crlf, "a\nb")] {
            let mut out = b"x".to_vec();
            assert_eq!(codec.encode(message.as_bytes(), &mut out), Err(EncodeError::Delimiter), "{message:?}");
            assert_eq!(out, b"x");
        }
        round_trip_sizes(&lf);
        round_trip_sizes(&crlf);
        round_trip(&lf, &[b"a\rb", b"\r\ra", b"one\r", b"\r", b"a\r\r"]);
        let mut out = Vec::new();
        lf.encode(b"one\r", &mut out).unwrap();
        assert_eq!(out, b"one\r\r\n");
        assert!(Lines::lf(0).is_err() && Lines::crlf(0).is_err());
        assert!(Lines::lf(usize::MAX).unwrap().max_message() < usize::MAX);
    }
}
