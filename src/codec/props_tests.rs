//! Properties that hold for every framing and every input, each checked against a model independent of the codec.

use proptest::prelude::*;

use super::shape_tests::{Shape, shapes, traffic};
use super::tests::agrees;
use super::*;
use crate::testing::property_tests::hold;
use crate::testing::{prove_cuts, prove_round_trip};

/// No panic, no more bytes consumed than there are, the same result for every split, and the result of the oracle.
#[test]
fn any_framing_agrees_with_its_oracle_on_any_traffic_however_it_is_cut() {
    hold(300, (shapes(), traffic()), |(shape, traffic)| {
        agrees(&shape.codec(), &traffic.spoken(&shape), |rest| shape.oracle(rest));
    });
}

#[test]
fn any_framing_agrees_with_its_oracle_on_any_bytes() {
    hold(300, (shapes(), prop::collection::vec(any::<u8>(), 0..15)), |(shape, bytes)| {
        agrees(&shape.codec(), &bytes, |rest| shape.oracle(rest));
    });
}

/// An echo of any message is possible, and its receiver gets the same message.
#[test]
fn what_a_framing_reads_it_can_write_again() {
    hold(300, (shapes(), traffic()), |(shape, traffic)| {
        let codec = shape.codec();
        let read = prove_cuts(&codec, &traffic.spoken(&shape)).messages;
        let wire = prove_round_trip(&codec, &read);
        assert_eq!(prove_cuts(&codec, &wire).messages, read);
    });
}

#[test]
fn what_a_framing_can_carry_comes_back_and_all_else_is_refused() {
    let drafts = prop::collection::vec((0..7usize, prop::collection::vec(any::<u8>(), 0..12)), 0..6);
    hold(300, (shapes(), drafts), |(shape, drafts)| {
        let codec = shape.codec();
        let mut messages: Vec<Vec<u8>> = drafts.iter().map(|(size, b)| shape.message(*size, b)).collect();
        if let Shape::Length(length) = &shape
            && !length.strip
        {
            // The receiver gets such a message with the length field filled in, so send it in that form.
            for message in &mut messages {
                let mut framed = Vec::new();
                let _ = codec.encode(message, &mut framed);
                if !framed.is_empty() {
                    *message = framed;
                }
            }
        }
        let wire = prove_round_trip(&codec, &messages);
        let carried: Vec<&Vec<u8>> = messages.iter().filter(|m| shape.carries(m)).collect();
        assert!(prove_cuts(&codec, &wire).messages.iter().eq(carried.iter().copied()), "{carried:?}");
    });
}

#[test]
fn a_spec_says_all_about_its_codec() {
    hold(300, shapes(), |shape| {
        let codec = shape.codec();
        assert_eq!(codec.to_string().parse(), Ok(codec.clone()));
        assert_eq!(codec.max_message(), shape.max());
    });
}

/// Compares discarded lines with a plain split: each terminated over-long line is counted once, at its first byte.
#[test]
fn each_line_too_long_is_counted_once() {
    let line = (prop::collection::vec(prop::sample::select(b"ab\r".to_vec()), 0..9), any::<bool>());
    let lines = prop::collection::vec(line, 0..8);
    hold(300, (lines, 1..6usize, any::<bool>()), |(lines, max, ends)| {
        let mut text = Vec::new();
        for (line, carriage_return) in &lines {
            text.extend(line);
            text.extend(if *carriage_return { &b"\r\n"[..] } else { b"\n" });
        }
        if !ends {
            text.pop();
        }
        let decoding = prove_cuts(&Lines::lf(max).unwrap().discard_too_long(), &text);
        let (mut short, mut long, mut at) = (Vec::new(), Vec::new(), 0);
        for line in text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            let bare = &line[..line.len() - 1];
            let bare = bare.strip_suffix(b"\r").unwrap_or(bare);
            if bare.len() > max {
                long.push(at);
            } else {
                short.push(bare.to_vec());
            }
            at += line.len();
        }
        assert_eq!((decoding.messages, decoding.skipped, decoding.error), (short, long, None));
    });
}

/// While a message is discarded, almost none of its bytes are inspected twice.
#[test]
fn throwing_away_is_linear_when_bytes_come_one_by_one() {
    for (spec, ending) in [("lines", "\n"), ("lines:crlf", "\r\n"), ("delim:ab", "ab"), ("delim:--->", "--->")] {
        let codec: AnyCodec = format!("{spec},max=10,discard").parse().unwrap();
        let input = ["x".repeat(5_000).as_bytes(), ending.as_bytes()].concat();
        let (mut state, mut at, mut shown, mut finished) = (Scan::default(), 0, 0, 0);
        for end in 1..=input.len() {
            shown += end - at;
            if let Decoded::Skipped { consumed, finished: last } = codec.decode(&mut state, &input[at..end]).unwrap() {
                at += consumed;
                finished += usize::from(last);
            }
        }
        assert!(shown <= 5 * input.len(), "{spec}: {shown} bytes shown of {}", input.len());
        assert_eq!((finished, at), (1, input.len()), "{spec}");
    }
}
