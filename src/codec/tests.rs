//! What the tests of all codecs share: an engine in small that feeds a codec in pieces, every way of cutting an
//! input, and naive oracles to compare with.

use super::*;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Message(Vec<u8>),
    Skip,
}

/// What came of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) events: Vec<Event>,
    /// The error, and the offset in the input of the first byte of the message it is about.
    pub(super) error: Option<(usize, FrameError)>,
    /// Bytes neither consumed nor refused at the end.
    pub(super) left: usize,
}

/// Feeds `input` cut before each offset where `cuts` says so, as the engine does: what is not consumed comes again.
pub(super) fn feed<C: Codec>(codec: &C, input: &[u8], cuts: impl Fn(usize) -> bool) -> Outcome {
    let (mut state, mut at, mut message_at) = (C::State::default(), 0, 0);
    let mut events = Vec::new();
    for end in (1..=input.len()).filter(|&end| end == input.len() || cuts(end)) {
        loop {
            let data = &input[at..end];
            let consumed = match codec.decode(&mut state, data) {
                Ok(Decoded::Incomplete) => break,
                Ok(Decoded::Message { start, end, consumed }) => {
                    assert!(start <= end && end <= consumed && 0 < consumed && consumed <= data.len());
                    assert!(end - start <= codec.max_message());
                    assert!(consumed - (end - start) <= codec.max_overhead());
                    events.push(Event::Message(data[start..end].to_vec()));
                    message_at = at + consumed;
                    consumed
                }
                Ok(Decoded::Skipped { consumed, finished }) => {
                    assert!(0 < consumed && consumed <= data.len());
                    if finished {
                        events.push(Event::Skip);
                        message_at = at + consumed;
                    }
                    consumed
                }
                Err(error) => return Outcome { events, error: Some((message_at, error)), left: 0 },
            };
            at += consumed;
        }
        assert!(end - at <= codec.max_message() + codec.max_overhead(), "held back more than one message");
    }
    Outcome { events, error: None, left: input.len() - at }
}

pub(super) fn whole<C: Codec>(codec: &C, input: &[u8]) -> Outcome {
    feed(codec, input, |_| false)
}

/// The messages of a good input, fed whole.
pub(super) fn messages_of<C: Codec>(codec: &C, input: &[u8]) -> Vec<Vec<u8>> {
    let outcome = whole(codec, input);
    assert_eq!((outcome.error, outcome.left), (None, 0));
    let message = |event| match event {
        Event::Message(message) => message,
        Event::Skip => panic!("skipped a message"),
    };
    outcome.events.into_iter().map(message).collect()
}

pub(super) fn error_of<C: Codec>(codec: &C, input: &[u8]) -> FrameError {
    whole(codec, input).error.expect("an error").1
}

/// Calls `check` with every way of cutting `input`.
pub(super) fn every_cutting(input: &[u8], check: impl Fn(&dyn Fn(usize) -> bool)) {
    for mask in 0..1u32 << input.len().saturating_sub(1) {
        check(&|end| mask >> (end - 1) & 1 != 0);
    }
}

pub(super) fn same_however_cut<C: Codec>(codec: &C, input: &[u8]) -> Outcome {
    let expected = whole(codec, input);
    every_cutting(input, |cuts| {
        let got = feed(codec, input, cuts);
        assert!(got == expected, "{input:?} whole: {expected:?}, cut: {got:?}");
    });
    expected
}

/// What an oracle sees at the front of an input of which nothing is missing.
#[derive(Debug)]
pub(super) enum Step {
    /// A message, and how many bytes of the input are behind us.
    Message(Vec<u8>, usize),
    /// A message too long, of so many bytes, that is thrown away.
    Skip(usize),
    Wait,
    Fail(FrameError),
}

pub(super) fn ask_oracle(input: &[u8], oracle: impl Fn(&[u8]) -> Step) -> Outcome {
    let (mut at, mut events) = (0, Vec::new());
    loop {
        match oracle(&input[at..]) {
            Step::Message(message, consumed) => {
                events.push(Event::Message(message));
                at += consumed;
            }
            Step::Skip(consumed) => {
                events.push(Event::Skip);
                at += consumed;
            }
            Step::Wait => return Outcome { events, error: None, left: input.len() - at },
            Step::Fail(error) => return Outcome { events, error: Some((at, error)), left: 0 },
        }
    }
}

/// Every input of up to `len` letters of `alphabet`, cut in every way, against the oracle.
pub(super) fn exhaust<C: Codec>(codec: &C, alphabet: &[u8], len: u32, oracle: impl Fn(&[u8]) -> Step + Copy) {
    for n in 0..=len {
        for mut number in 0..alphabet.len().pow(n) {
            let mut input = Vec::new();
            for _ in 0..n {
                input.push(alphabet[number % alphabet.len()]);
                number /= alphabet.len();
            }
            let mut got = same_however_cut(codec, &input);
            let expected = ask_oracle(&input, oracle);
            got.left = expected.left; // An oracle does not know what has been thrown away of an unfinished message.
            assert!(got == expected, "{input:?} oracle: {expected:?}, codec: {got:?}");
        }
    }
}

/// Longer inputs of letters of `alphabet`: whole, byte by byte and in odd pieces, against the oracle.
pub(super) fn differ<C: Codec>(codec: &C, alphabet: &[u8], oracle: impl Fn(&[u8]) -> Step + Copy) {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..300 {
        let mut input = Vec::new();
        for _ in 0..round % 97 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            input.push(alphabet[random as usize % alphabet.len()]);
        }
        let expected = whole(codec, &input);
        assert_eq!(feed(codec, &input, |_| true), expected, "byte by byte: {input:?}");
        assert_eq!(feed(codec, &input, |end| (random >> (end % 64)) & 1 != 0), expected, "{input:?}");
        let oracle = ask_oracle(&input, oracle);
        assert_eq!(Outcome { left: oracle.left, ..expected }, oracle, "{input:?}");
    }
}

/// Encodes all `messages` into one stream and finds them again, whole and byte by byte.
pub(super) fn round_trip<C: Codec>(codec: &C, messages: &[&[u8]]) {
    let mut wire = Vec::new();
    for message in messages {
        let before = wire.len();
        codec.encode(message, &mut wire).unwrap();
        assert!(wire.len() - before <= message.len() + codec.max_overhead());
    }
    assert_eq!(messages_of(codec, &wire), messages);
    assert_eq!(feed(codec, &wire, |_| true), whole(codec, &wire));
}

/// Sends messages of 0, 1, max - 1 and max bytes, and is refused one of max + 1.
pub(super) fn round_trip_sizes<C: Codec>(codec: &C) {
    let max = codec.max_message();
    let longest = vec![b'x'; max + 1];
    round_trip(codec, &[b"", b"x", &longest[..max - 1], &longest[..max], b""]);
    let mut out = b"before".to_vec();
    assert_eq!(codec.encode(&longest, &mut out), Err(EncodeError::TooLong { len: max + 1, max }));
    assert_eq!(out, b"before");
}

/// Feeds one message byte by byte, and counts the bytes that the codec has not promised to leave alone.
fn bytes_looked_at(spec: &str, message: &[u8]) -> (usize, usize) {
    let codec: AnyCodec = spec.parse().unwrap();
    let mut wire = Vec::new();
    codec.encode(message, &mut wire).unwrap();
    let (mut state, mut looked) = (Scan::default(), 0);
    for end in 1..=wire.len() {
        looked += end.saturating_sub(state.from);
        let found = codec.decode(&mut state, &wire[..end]).unwrap();
        assert_eq!(found != Decoded::Incomplete, end == wire.len());
        // Spoil what needs no second look, but for a last `\r`: nobody may notice.
        if spec.starts_with("lines") || spec.starts_with("delim") {
            wire[..state.from.saturating_sub(1)].fill(b'\n');
        }
    }
    (looked, wire.len())
}

#[test]
fn the_work_is_linear_when_bytes_come_one_by_one() {
    let header = ["len:u32", "len:u64le,offset=4", "dec:19", "varint", "netstring", "len:u16,strip=0"];
    for spec in header.into_iter().chain(["lines", "lines:crlf", "delim:\\n", "delim:-\\n"]) {
        let (looked, bytes) = bytes_looked_at(spec, &[b'x'; 5000]);
        assert!(looked <= 2 * bytes, "{spec}: looked at {looked} of {bytes} bytes");
    }
}

#[test]
fn no_bytes_no_message() {
    for spec in
        ["raw", "lines", "lines:crlf,discard", "len:u8", "dec:1", "varint", "netstring", "delim:a", "fixed:1"]
    {
        let codec: AnyCodec = spec.parse().unwrap();
        for discarding in [false, true] {
            let mut state = Scan { from: 0, discarding };
            assert_eq!(codec.decode(&mut state, b""), Ok(Decoded::Incomplete), "{spec}");
        }
    }
}

#[test]
fn a_state_that_lies_does_no_harm() {
    for spec in ["lines", "lines:crlf,discard", "len:u8", "dec:1", "varint", "netstring", "delim:ab,discard"]
    {
        let codec: AnyCodec = spec.parse().unwrap();
        for (from, discarding) in [(3, false), (usize::MAX, false), (3, true), (usize::MAX, true)] {
            let _ = codec.decode(&mut Scan { from, discarding }, b"1\n");
        }
    }
}

/// Far more inputs than the oracles of the single codecs see, but compared with nothing but themselves.
#[test]
#[ignore = "slow in debug builds; run it with --release"]
fn every_input_of_six_bytes_cut_in_every_way() {
    let alphabet = [0, 1, 0x7f, 0x80, 0xff, b'\n', b'\r'];
    for spec in
        ["lines,max=2", "lines:crlf,max=2,discard", "len:u8,max=3", "len:u16le,max=2,inclusive,strip=0"]
            .into_iter()
            .chain([
                "len:u8,offset=1,adjust=-1,max=127",
                "varint,max=130",
                "delim:\\n\\r\\n,max=2,discard",
                "fixed:2",
            ])
    {
        let codec: AnyCodec = spec.parse().unwrap();
        for number in 0..alphabet.len().pow(6) {
            let input: Vec<u8> = (0..6).map(|i| alphabet[number / alphabet.len().pow(i) % 7]).collect();
            for n in 1..=6 {
                if n == 6 || input[n..].iter().all(|b| *b == 0) {
                    same_however_cut(&codec, &input[..n]);
                }
            }
        }
    }
}
