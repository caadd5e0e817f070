//! Checks that a codec decodes the same messages however its input is split, and that it decodes what it encodes.
//!
//! A codec gets the same bytes in many splittings, and each outcome is compared with that of the unsplit input. Uses
//! only the [`Codec`] trait. Invariant: what is tried depends on the input alone, so a check that fails once fails
//! every time.

use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::codec::{Codec, Decoded, FrameError};
use crate::dispatch::text_of;
use crate::sys::sim::Dice;

/// The result of decoding some input.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decoding {
    /// The messages, in order.
    pub messages: Vec<Vec<u8>>,
    /// The offset in the input of each message that was discarded because it was too long.
    pub skipped: Vec<usize>,
    /// The error that ended decoding, with the offset in the input of the first byte of the message that it is about.
    pub error: Option<(usize, FrameError)>,
    /// The number of bytes at the end that belong to an incomplete message: neither consumed nor refused.
    pub left: usize,
}

/// Decodes `input` as a connection would if it received it in pieces, split before each offset of `cuts`. With no
/// cuts, the input arrives in one piece.
///
/// ```
/// use turnwheel::codec::{FrameError, Lines};
/// use turnwheel::testing::decode_cut;
///
/// let codec = Lines::lf(5)?;
/// let decoding = decode_cut(&codec, b"one\ntwo\nthr", &[2, 9]);
/// assert_eq!(decoding.messages, [b"one", b"two"]);
/// assert_eq!((decoding.error, decoding.left), (None, 3));
///
/// let decoding = decode_cut(&codec, b"one\ntoo long\n", &[]);
/// assert_eq!(decoding.error, Some((4, FrameError::TooLong { len: 6, max: 5 })));
/// # Ok::<(), turnwheel::codec::BuildError>(())
/// ```
///
/// # Panics
/// If the codec breaks the contract of [`Codec`], or `cuts` are not in ascending order or exceed the length of the
/// input.
pub fn decode_cut<C: Codec>(codec: &C, input: &[u8], cuts: &[usize]) -> Decoding {
    let rising = cuts.is_sorted() && cuts.last().is_none_or(|last| *last <= input.len());
    assert!(rising, "the cuts {cuts:?} are not ascending offsets within the input of {} bytes", input.len());
    feed(codec, input, cuts).decoding()
}

/// Checks that `codec` finds the same messages, and the same error at the same byte of `input`, however the input is
/// split; and that it keeps the contract of [`Codec`]. Returns the result of decoding.
///
/// An input of up to 14 bytes is split in every possible way. A longer one is decoded whole, byte by byte, split once
/// at every offset (at 4,096 random offsets if it is longer than that), split twice at every pair of offsets (if it
/// has up to 48 bytes), and split in 300 random ways, the same each time.
///
/// It checks no more than that. Check the returned messages yourself, and include messages that are too long, both
/// announced and actually sent. A `decode` that never returns hangs the test.
///
/// [`Raw`](crate::codec::Raw) is the only codec of this crate that cannot pass: its messages are the pieces.
///
/// ```
/// use turnwheel::codec::Netstring;
/// use turnwheel::testing::prove_cuts;
///
/// let decoding = prove_cuts(&Netstring::new(100)?, b"3:abc,0:,1:");
/// assert_eq!(decoding.messages, [&b"abc"[..], b""]);
/// assert_eq!(decoding.left, 2);
/// # Ok::<(), turnwheel::codec::BuildError>(())
/// ```
///
/// # Panics
/// If a splitting changes the outcome, or the codec
/// - consumes nothing, or more than it was given, or returns something for an empty input;
/// - returns a message that is not within what it consumes, is longer than its `max_message`, or has more framing
///   around it than its `max_overhead`;
/// - returns a message before it has finished discarding one;
/// - leaves more bytes unconsumed than the longest message with its framing has;
/// - panics itself.
///
/// The panic message shows the input, the splitting, and both outcomes.
pub fn prove_cuts<C: Codec>(codec: &C, input: &[u8]) -> Decoding {
    let whole = feed(codec, input, &[]);
    each_cutting(input.len(), |cuts| {
        let cut = feed(codec, input, cuts);
        assert!(
            cut.agrees_with(&whole),
            "the outcome depends on how the input is cut\n{}\nuncut: {:?}\ncut:   {:?}",
            Shown { input, cuts },
            whole.decoding(),
            cut.decoding(),
        );
    });
    whole.decoding()
}

/// Checks that `codec` decodes the `messages` that it encodes, however the bytes are split (see [`prove_cuts`]), and
/// that a message it refuses leaves the buffer unchanged. Returns the encoded bytes.
///
/// ```
/// use turnwheel::codec::Lines;
/// use turnwheel::testing::prove_round_trip;
///
/// let wire = prove_round_trip(&Lines::lf(80)?, &["hello", "", "two\nlines", "bye"]);
/// assert_eq!(wire, b"hello\n\nbye\n");
/// # Ok::<(), turnwheel::codec::BuildError>(())
/// ```
///
/// # Panics
/// As [`prove_cuts`]; also if the decoded messages are not those that were accepted, or `encode`
/// - accepts a message longer than `max_message`, or adds more than `max_overhead` to one;
/// - changes what the buffer held before, writes something different depending on it, or leaves bytes behind when it
///   refuses a message.
pub fn prove_round_trip<C: Codec, M: AsRef<[u8]>>(codec: &C, messages: &[M]) -> Vec<u8> {
    let (mut wire, mut accepted) = (Vec::new(), Vec::new());
    for message in messages.iter().map(AsRef::as_ref) {
        if let Some(frame) = encoded(codec, message) {
            let begin = wire.len();
            let done = codec.encode(message, &mut wire);
            let same = done.is_ok() && wire.get(begin..) == Some(&frame);
            assert!(same, "message {}: encoded in two ways: it depends on the buffer", Bytes(message));
            accepted.push(message);
        }
    }
    let decoding = prove_cuts(codec, &wire);
    let whole = decoding.error.is_none() && decoding.skipped.is_empty() && decoding.left == 0;
    assert!(
        whole && decoding.messages == accepted,
        "other messages come back than were sent\nsent:    {:?}\nencoded: {}\ndecoded: {decoding:?}",
        accepted.iter().map(|m| Bytes(m)).collect::<Vec<_>>(),
        Bytes(&wire),
    );
    wire
}

/// Encodes one message behind other bytes. Returns `None` if the codec refuses it.
fn encoded<C: Codec>(codec: &C, message: &[u8]) -> Option<Vec<u8>> {
    const BEFORE: &[u8] = b"\r\n,before";
    let mut out = BEFORE.to_vec();
    let done = codec.encode(message, &mut out);
    let frame = out.strip_prefix(BEFORE);
    let complain = |what: &str| -> ! { panic!("message {}: {what}", Bytes(message)) };
    match (done, frame) {
        (_, None) => complain("encode changed what was in the buffer before"),
        (Err(_), Some([])) => None,
        (Err(_), Some(_)) => complain("encode refused it and left something in the buffer"),
        (Ok(()), Some(_)) if message.len() > codec.max_message() => {
            complain("encode took it, though it is longer than max_message")
        }
        (Ok(()), Some(frame)) if frame.len() > message.len().saturating_add(codec.max_overhead()) => {
            complain("encode added more to it than max_overhead")
        }
        (Ok(()), Some(frame)) => Some(frame.to_vec()),
    }
}

/// Calls `check` with each splitting to try of an input of `len` bytes: ascending offsets, before each of which the
/// input is cut.
fn each_cutting(len: usize, mut check: impl FnMut(&[usize])) {
    let mut cuts = Vec::new();
    check(&[0]);
    if len <= EXHAUSTIVE {
        for mask in 1..1u32 << len.saturating_sub(1) {
            cuts.clear();
            cuts.extend((1..len).filter(|at| mask >> (at - 1) & 1 != 0));
            check(&cuts);
        }
        return;
    }
    let mut dice = Dice::new(len as u64);
    for place in 1..len.min(SINGLE) {
        check(&[if len <= SINGLE { place } else { dice.between(1, len - 1) }]);
    }
    if len <= PAIRS {
        for first in 1..len {
            (first + 1..len).for_each(|second| check(&[first, second]));
        }
    }
    check(&(1..len).collect::<Vec<_>>());
    for round in 0..RANDOM {
        // Pieces of about 1, 2, 4 bytes and so on, up to half of the input.
        let most = 2 << (round as u32 % len.ilog2());
        cuts.clear();
        let mut at = dice.between(1, most);
        while at < len {
            cuts.push(at);
            at += dice.between(1, most);
        }
        check(&cuts);
    }
}

/// The result of decoding, as ranges of the input.
#[derive(Default)]
struct Found<'a> {
    input: &'a [u8],
    messages: Vec<Range<usize>>,
    skipped: Vec<usize>,
    error: Option<FrameError>,
    /// The offset of the first byte that is not consumed.
    at: usize,
    /// The offset of the first byte of the unfinished message.
    message_at: usize,
}

impl Found<'_> {
    /// Returns `true` if two outcomes of one input are the same. How much of an unfinished message has been discarded
    /// so far does not count.
    fn agrees_with(&self, other: &Self) -> bool {
        let same = |(one, two): (&Range<usize>, &Range<usize>)| {
            one == two || self.input.get(one.clone()) == self.input.get(two.clone())
        };
        self.messages.len() == other.messages.len()
            && self.messages.iter().zip(&other.messages).all(same)
            && (&self.skipped, &self.error, self.message_at) == (&other.skipped, &other.error, other.message_at)
    }

    fn decoding(&self) -> Decoding {
        let bytes = |range: &Range<usize>| self.input.get(range.clone()).unwrap_or_default().to_vec();
        Decoding {
            messages: self.messages.iter().map(bytes).collect(),
            skipped: self.skipped.clone(),
            error: self.error.clone().map(|error| (self.message_at, error)),
            left: if self.error.is_some() { 0 } else { self.input.len() - self.at },
        }
    }

    /// Lets `codec` decode the bytes up to `end`, as long as it finds something. Returns `false` after an error of
    /// the codec, and `Err` with an explanation if the codec broke the contract.
    fn show<C: Codec>(&mut self, codec: &C, state: &mut C::State, end: usize) -> Result<bool, String> {
        loop {
            let data = self.input.get(self.at..end).unwrap_or_default();
            let consumed = match codec.decode(state, data) {
                Ok(Decoded::Incomplete) => break,
                Ok(found) => self.take(codec, found, data.len())?,
                Err(error) if data.is_empty() => return Err(format!("no bytes are an error: {error}")),
                Err(error) => {
                    self.error = Some(error);
                    return Ok(false);
                }
            };
            self.at += consumed;
        }
        let (held, most) = (end - self.at, codec.max_message().saturating_add(codec.max_overhead()));
        if held > most {
            return Err(format!("{held} bytes are held back, and no message with its framing has over {most}"));
        }
        Ok(true)
    }

    /// Records what was found in `len` bytes, and returns how many are consumed.
    fn take<C: Codec>(&mut self, codec: &C, found: Decoded, len: usize) -> Result<usize, String> {
        let consumed = match found {
            Decoded::Incomplete => 0,
            Decoded::Message { consumed, .. } | Decoded::Skipped { consumed, .. } => consumed,
        };
        if consumed == 0 || consumed > len {
            return Err(format!("{found:?} in {len} bytes: consumed is out of range"));
        }
        let behind = self.at + consumed;
        match found {
            Decoded::Message { start, end, .. } => {
                let (size, max) = (end.saturating_sub(start), codec.max_message());
                if start > end || end > consumed {
                    return Err(format!("{found:?}: the message is not within what is consumed"));
                }
                if size > max {
                    return Err(format!("a message of {size} bytes is over max_message, {max}"));
                }
                if consumed - size > codec.max_overhead() {
                    return Err(format!("{found:?} has more framing than max_overhead"));
                }
                if self.at != self.message_at {
                    return Err(format!("{found:?} before the message that is thrown away has finished"));
                }
                self.messages.push(self.at + start..self.at + end);
                self.message_at = behind;
            }
            Decoded::Skipped { finished: true, .. } => {
                self.skipped.push(self.message_at);
                self.message_at = behind;
            }
            Decoded::Skipped { .. } | Decoded::Incomplete => {}
        }
        Ok(consumed)
    }
}

/// Decodes `input` split before the offsets in `cuts`, as the reactor does: unconsumed bytes are passed again.
fn feed<'a, C: Codec>(codec: &C, input: &'a [u8], cuts: &[usize]) -> Found<'a> {
    let mut found = Found { input, ..Found::default() };
    let fed = catch_unwind(AssertUnwindSafe(|| {
        let mut state = C::State::default();
        for &end in cuts.iter().chain([&input.len()]) {
            if !found.show(codec, &mut state, end)? {
                break;
            }
        }
        Ok(())
    }));
    let broken = match fed {
        Ok(Ok(())) => return found,
        Ok(Err(how)) => how,
        Err(panic) => format!("decode panicked: {}", text_of(&*panic)),
    };
    panic!("the contract of Codec is broken at byte {}: {broken}\n{}", found.at, Shown { input, cuts })
}

impl fmt::Debug for Decoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let messages: Vec<_> = self.messages.iter().map(|message| Bytes(message)).collect();
        f.debug_struct("Decoding")
            .field("messages", &messages)
            .field("skipped", &self.skipped)
            .field("error", &self.error)
            .field("left", &self.left)
            .finish()
    }
}

/// Shows bytes as a byte string literal; the middle of a long one is left out.
struct Bytes<'a>(&'a [u8]);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = self.0.len();
        match (self.0.get(..SHOWN / 2), self.0.get(len.saturating_sub(SHOWN / 2)..)) {
            (Some(front), Some(back)) if len > SHOWN => {
                write!(f, "b\"{}\"..b\"{}\" ({len} bytes)", front.escape_ascii(), back.escape_ascii())
            }
            _ => write!(f, "b\"{}\"", self.0.escape_ascii()),
        }
    }
}

impl fmt::Debug for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Shows an input and how it was split.
struct Shown<'a> {
    input: &'a [u8],
    cuts: &'a [usize],
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "input: {}\ncut before {:?}", Bytes(self.input), self.cuts)?;
        if self.input.len() > SHOWN || self.cuts.is_empty() {
            return Ok(());
        }
        let mut begin = 0;
        for (i, &end) in self.cuts.iter().chain([&self.input.len()]).enumerate() {
            let piece = self.input.get(begin..end).unwrap_or_default();
            write!(f, "{}{}", if i == 0 { ": " } else { " | " }, Bytes(piece))?;
            begin = end;
        }
        Ok(())
    }
}

/// Inputs up to this length are split in every possible way. Chosen: 2^13 = 8,192 splittings at 14 bytes.
const EXHAUSTIVE: usize = 14;
/// Inputs up to this length are split at every pair of offsets. Chosen: about 1,100 pairs at 48 bytes.
const PAIRS: usize = 48;
/// The number of single cuts to try, at most. Chosen to bound the time, which grows with the length of the input as
/// well.
const SINGLE: usize = 4096;
/// The number of random splittings of a long input. Chosen: some 20 of each piece size for an input of 32 KiB.
const RANDOM: usize = 300;
/// The number of bytes of an input or message to show, at most. Chosen to fit a few lines of a terminal.
const SHOWN: usize = 400;

#[cfg(test)]
#[path = "cuts_tests.rs"]
mod tests;
