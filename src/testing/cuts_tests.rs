//! Tests of the codec checks: correct codecs pass, and each violation of the contract is reported.

use super::*;
use crate::codec::{EncodeError, LengthDelimited, Lines, Raw};

/// A codec built from one function per direction; messages have at most 3 bytes, with 2 bytes of framing.
struct Made<D, E>(D, E);

type Answer = Result<Decoded, FrameError>;

impl<D, E> Codec for Made<D, E>
where
    D: Fn(&mut usize, &[u8]) -> Answer + 'static,
    E: Fn(&[u8], &mut Vec<u8>) -> Result<(), EncodeError> + 'static,
{
    type State = usize;

    fn decode(&self, state: &mut usize, data: &[u8]) -> Answer {
        (self.0)(state, data)
    }

    fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        (self.1)(message, out)
    }

    fn max_message(&self) -> usize {
        3
    }

    fn max_overhead(&self) -> usize {
        2
    }
}

/// Returns the message of the check for a decoder with this `input`.
fn said(input: &[u8], decode: impl Fn(&mut usize, &[u8]) -> Answer + 'static) -> String {
    let codec = Made(decode, |_: &[u8], _: &mut Vec<u8>| Ok(()));
    complaint(|| drop(prove_cuts(&codec, input)))
}

/// Returns the message of the check for an encoder with the message "abc".
fn said_of(encode: impl Fn(&[u8], &mut Vec<u8>) -> Result<(), EncodeError> + 'static) -> String {
    // Messages of three bytes and a semicolon.
    let decode = |_: &mut usize, data: &[u8]| match data.len() {
        0..4 => Ok(Decoded::Incomplete),
        _ => message(0, 3, 4),
    };
    let codec = Made(decode, encode);
    complaint(|| drop(prove_round_trip(&codec, &["abc", "abc"])))
}

fn complaint(proof: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(proof)).expect_err("the proof passed");
    text_of(&*panic).to_owned()
}

fn message(start: usize, end: usize, consumed: usize) -> Answer {
    Ok(Decoded::Message { start, end, consumed })
}

#[test]
fn what_is_right_passes_whatever_its_length() {
    for len in [0, 1, 2, 13, 14, 15, 16, 47, 48, 49, 300] {
        let input: Vec<u8> = b"a\nbc\r\n\ndef\r\r\n".iter().copied().cycle().take(len).collect();
        let decoding = prove_cuts(&Lines::lf(4).unwrap(), &input);
        assert_eq!(decoding.messages.len(), input.iter().filter(|b| **b == b'\n').count());
        assert_eq!((decoding.skipped.len(), decoding.error), (0, None));
    }
}

#[test]
fn a_short_input_is_cut_in_every_way_and_a_long_one_at_every_place() {
    for len in 0..=EXHAUSTIVE {
        let mut seen = std::collections::BTreeSet::new();
        each_cutting(len, |cuts| assert!(seen.insert(cuts.to_vec()) && cuts.is_sorted()));
        // The cut before the first byte takes the place of no cut at all.
        assert_eq!(seen.len(), 1 << len.saturating_sub(1), "{len}");
    }
    for len in [EXHAUSTIVE + 1, PAIRS, PAIRS + 1, SINGLE, SINGLE + 1, 100_000] {
        let (mut single, mut pairs, mut every, mut others) = (0, 0, 0, 0);
        each_cutting(len, |cuts| match cuts {
            [0] => {}
            [at] => single += usize::from((1..len).contains(at)),
            [_, _] => pairs += 1,
            cuts if cuts.len() == len - 1 => every += 1,
            cuts => others += usize::from(cuts.is_sorted() && cuts.iter().all(|at| (1..len).contains(at))),
        });
        assert!(single >= (len - 1).min(SINGLE - 1) && every > 0 && others > RANDOM / 2, "{len}");
        assert!(len > PAIRS || pairs >= (len - 1) * (len - 2) / 2, "{len}");
    }
}

#[test]
fn a_decoder_that_depends_on_the_cuts_is_shown_with_both_outcomes() {
    let text = complaint(|| drop(prove_cuts(&Raw::new(9).unwrap(), b"a\nb")));
    for part in [
        "the outcome depends on how the input is cut",
        "input: b\"a\\nb\"",
        "cut before [1]: b\"a\" | b\"\\nb\"",
        "uncut: Decoding { messages: [b\"a\\nb\"], skipped: [], error: None, left: 0 }",
        "cut:   Decoding { messages: [b\"a\", b\"\\nb\"]",
    ] {
        assert!(text.contains(part), "{text}");
    }
    // The same messages, but the second begins elsewhere; the same error, but about another message.
    let unlike = |_: &mut usize, data: &[u8]| match data {
        [] => Ok(Decoded::Incomplete),
        [b'!', ..] => Err(FrameError::Malformed("!")),
        [_] => message(0, 0, 1),
        _ => message(0, 0, 2),
    };
    assert!(said(b"abc", unlike).contains("depends on how"));
    assert!(said(b"ab!", unlike).contains("uncut: Decoding { messages: [b\"\"], skipped: [], error: Some((2"));
    // Discarded messages are compared as well, with their offsets.
    let forgets = |seen: &mut usize, data: &[u8]| {
        *seen += 1;
        match data.len() {
            0 => Ok(Decoded::Incomplete),
            consumed => Ok(Decoded::Skipped { consumed, finished: *seen == 3 }),
        }
    };
    assert!(said(b"abc", forgets).contains("skipped: [0]"));
}

#[test]
fn a_fault_that_shows_at_one_place_only_is_found_in_a_long_input() {
    // Fails when the input so far ends at byte 77.
    let decode = |arrived: &mut usize, data: &[u8]| {
        *arrived += usize::from(*arrived + data.len() == 77) * 1000;
        match data {
            [] => Ok(Decoded::Incomplete),
            _ if *arrived > 1000 => Err(FrameError::Malformed("lost")),
            _ => {
                *arrived += 1;
                message(0, 1, 1)
            }
        }
    };
    assert!(said(&[b'x'; 200], decode).contains("cut before [77]"));
}

#[test]
fn each_breach_of_the_decoder_is_named() {
    type Decode = fn(&mut usize, &[u8]) -> Answer;
    let breaches: [(Decode, &str); 11] = [
        (|_, _| message(0, 0, 0), "consumed is out of range"),
        (|_, data| message(0, 1, data.len() + 1), "consumed is out of range"),
        (|_, _| Ok(Decoded::Skipped { consumed: 0, finished: true }), "consumed is out of range"),
        (|_, _| message(1, 0, 1), "not within what is consumed"),
        (|_, _| message(0, 2, 1), "not within what is consumed"),
        (|_, data| message(0, 4, data.len()), "over max_message, 3"),
        (|_, _| message(0, 0, 3), "more framing than max_overhead"),
        (|_, _| Ok(Decoded::Incomplete), "6 bytes are held back, and no message with its framing has over 5"),
        (|_, data| if data.is_empty() { Err(FrameError::Malformed("empty")) } else { message(0, 1, 1) }, "empty"),
        (|_, data| panic!("too {}", data.len()), "decode panicked: too 6"),
        (
            |skips, _| {
                *skips += 1;
                match skips {
                    1 => Ok(Decoded::Skipped { consumed: 1, finished: false }),
                    _ => message(0, 1, 1),
                }
            },
            "before the message that is thrown away has finished",
        ),
    ];
    for (decode, text) in breaches {
        let said = said(b"abcde\xff", decode);
        assert!(said.contains(text) && said.contains("input: b\"abcde\\xff\""), "{text}: {said}");
    }
}

fn to(out: &mut Vec<u8>, change: impl Fn(&mut Vec<u8>)) -> Result<(), EncodeError> {
    change(out);
    Ok(())
}

#[test]
fn each_breach_of_the_encoder_is_named() {
    type Encode = fn(&[u8], &mut Vec<u8>) -> Result<(), EncodeError>;
    let breaches: [(Encode, &str); 6] = [
        (|_, out| to(out, Vec::clear), "changed what was in the buffer"),
        (|_, out| to(out, |out| out.push(0)).and(Err(EncodeError::Delimiter)), "left something in the buffer"),
        (|m, out| to(out, |out| out.extend([m, b";;;"].concat())), "more to it than max_overhead"),
        (|m, out| to(out, |out| out.extend(&m[1..])), "other messages come back"),
        (|m, out| to(out, |out| out.extend([m, &[out.len() as u8]].concat())), "depends on the buffer"),
        (|_, out| to(out, |out| out.extend(b"xyz;")), "sent:    [b\"abc\", b\"abc\"]\nencoded: b\"xyz;xyz;\""),
    ];
    for (encode, text) in breaches {
        let said = said_of(encode);
        assert!(said.contains(text), "{text}: {said}");
    }
    let greedy = Made(|_: &mut usize, _: &[u8]| Ok(Decoded::Incomplete), |_: &[u8], _: &mut Vec<u8>| Ok(()));
    assert!(complaint(|| drop(prove_round_trip(&greedy, &["abcd"]))).contains("longer than max_message"));
}

#[test]
fn a_refused_message_is_left_out_and_the_rest_come_back() {
    let codec = LengthDelimited::builder(3).length_field_length(1).build().unwrap();
    assert_eq!(prove_round_trip(&codec, &[&b"abc"[..], b"four", b"", b"\0"]), b"\x03abc\0\x01\0");
    assert_eq!(prove_round_trip(&codec, &[""; 0]), b"");
}

#[test]
fn very_long_inputs_are_shown_in_part() {
    assert_eq!(Bytes(b"a\"\xff").to_string(), "b\"a\\\"\\xff\"");
    let text = Bytes(&[b'x'; 5_000]).to_string();
    assert!(text.len() < 500 && text.ends_with("x\" (5000 bytes)"), "{text}");
}
