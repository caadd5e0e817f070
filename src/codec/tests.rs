//! Helpers for the tests of all codecs: short forms of the test kit's proofs, and generators of inputs to compare with
//! oracles.

use proptest::prelude::*;

use super::oracle_tests::{Step, ask_oracle};
use super::*;
use crate::testing::property_tests::hold;
use crate::testing::{Decoding, decode_cut, prove_cuts, prove_round_trip};

/// Decodes an input in one piece.
pub(super) fn whole<C: Codec>(codec: &C, input: &[u8]) -> Decoding {
    decode_cut(codec, input, &[])
}

/// Returns the messages of a valid input, decoded in one piece.
pub(super) fn messages_of<C: Codec>(codec: &C, input: &[u8]) -> Vec<Vec<u8>> {
    let decoding = whole(codec, input);
    assert!(decoding.error.is_none() && decoding.skipped.is_empty() && decoding.left == 0, "{decoding:?}");
    decoding.messages
}

pub(super) fn error_of<C: Codec>(codec: &C, input: &[u8]) -> FrameError {
    whole(codec, input).error.expect("an error").1
}

/// Splits an input in many ways and compares the results with those of an oracle.
pub(super) fn agrees<C: Codec>(codec: &C, input: &[u8], oracle: impl Fn(&[u8]) -> Step) {
    let expected = ask_oracle(input, oracle);
    let mut got = prove_cuts(codec, input);
    // An oracle does not model how much of an unfinished message has been discarded.
    got.left = got.left.max(expected.left);
    assert!(got == expected, "{:?}\noracle: {expected:?}\ncodec:  {got:?}", input.escape_ascii().to_string());
}

/// Compares every input of up to `len` letters of `alphabet`, split in every way, with the oracle.
pub(super) fn exhaust<C: Codec>(codec: &C, alphabet: &[u8], len: u32, oracle: impl Fn(&[u8]) -> Step + Copy) {
    for n in 0..=len {
        for mut number in 0..alphabet.len().pow(n) {
            let mut input = Vec::new();
            for _ in 0..n {
                input.push(alphabet[number % alphabet.len()]);
                number /= alphabet.len();
            }
            agrees(codec, &input, oracle);
        }
    }
}

/// Compares longer inputs of letters of `alphabet`, split in many ways, with the oracle.
pub(super) fn differ<C: Codec>(codec: &C, alphabet: &[u8], oracle: impl Fn(&[u8]) -> Step + Copy) {
    let letter = prop::sample::select(alphabet.to_vec());
    hold(20, prop::collection::vec(letter, 0..97), |input| agrees(codec, &input, oracle));
}

/// Encodes all `messages` and decodes them again.
pub(super) fn round_trip<C: Codec>(codec: &C, messages: &[&[u8]]) {
    let wire = prove_round_trip(codec, messages);
    assert_eq!(messages_of(codec, &wire), messages, "all of them");
}

/// Encodes and decodes messages of 0, 1, max - 1 and max bytes; encoding one of max + 1 bytes must fail.
pub(super) fn round_trip_sizes<C: Codec>(codec: &C) {
    let max = codec.max_message();
    let longest = vec![b'x'; max + 1];
    round_trip(codec, &[b"", b"x", &longest[..max - 1], &longest[..max], b""]);
    let mut out = b"before".to_vec();
    assert_eq!(codec.encode(&longest, &mut out), Err(EncodeError::TooLong { len: max + 1, max }));
    assert_eq!(out, b"before");
}

/// Decodes one message byte by byte, and counts the bytes that the codec may inspect in each call.
fn bytes_looked_at(spec: &str, message: &[u8]) -> (usize, usize) {
    let codec: AnyCodec = spec.parse().unwrap();
    let mut wire = Vec::new();
    codec.encode(message, &mut wire).unwrap();
    let (mut state, mut looked) = (Scan::default(), 0);
    for end in 1..=wire.len() {
        looked += end.saturating_sub(state.from);
        let found = codec.decode(&mut state, &wire[..end]).unwrap();
        assert_eq!(found != Decoded::Incomplete, end == wire.len());
        // Overwrites the bytes that need not be inspected again, except a last `\r`: the result must not change.
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
    for spec in ["raw", "lines", "lines:crlf,discard", "len:u8", "dec:1", "varint", "netstring", "delim:a", "fixed:1"] {
        let codec: AnyCodec = spec.parse().unwrap();
        for discarding in [false, true] {
            let mut state = Scan { from: 0, discarding };
            assert_eq!(codec.decode(&mut state, b""), Ok(Decoded::Incomplete), "{spec}");
        }
    }
}

#[test]
fn a_state_that_lies_does_no_harm() {
    for spec in ["lines", "lines:crlf,discard", "len:u8", "dec:1", "varint", "netstring", "delim:ab,discard"] {
        let codec: AnyCodec = spec.parse().unwrap();
        for (from, discarding) in [(3, false), (usize::MAX, false), (3, true), (usize::MAX, true)] {
            let _ = codec.decode(&mut Scan { from, discarding }, b"1\n");
        }
    }
}

/// Far more inputs than the tests with oracles, but each is compared only with itself under other splits.
#[test]
#[ignore = "slow in debug builds; CI runs it with --profile sim"]
fn every_input_of_six_bytes_cut_in_every_way() {
    let alphabet = [0, 1, 0x7f, 0x80, 0xff, b'\n', b'\r'];
    for spec in ["lines,max=2", "lines:crlf,max=2,discard", "len:u8,max=3", "len:u16le,max=2,inclusive,strip=0"]
        .into_iter()
        .chain(["len:u8,offset=1,adjust=-1,max=127", "varint,max=130", "delim:\\n\\r\\n,max=2,discard", "fixed:2"])
    {
        let codec: AnyCodec = spec.parse().unwrap();
        for number in 0..alphabet.len().pow(6) {
            let input: Vec<u8> = (0..6).map(|i| alphabet[number / alphabet.len().pow(i) % 7]).collect();
            for n in 1..=6 {
                if n == 6 || input[n..].iter().all(|b| *b == 0) {
                    prove_cuts(&codec, &input[..n]);
                }
            }
        }
    }
}
