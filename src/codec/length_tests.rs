//! Tests of the binary length field: against the oracle's 128-bit arithmetic, and with every header of two bytes.

#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use super::super::oracle_tests::Length;
use super::super::tests::{differ, error_of, exhaust, messages_of, round_trip, round_trip_sizes, whole};
use super::*;

const PLAIN: Length = Length { max: 3, offset: 0, width: 1, big: true, adjustment: 0, strip: true };

#[test]
fn agrees_with_the_oracle_however_it_is_cut() {
    let two = Length { width: 2, ..PLAIN };
    for plain in [PLAIN, two, Length { big: false, ..two }] {
        exhaust(&plain.codec(), &[0, 1, 2, 0x80], 6, |rest| plain.oracle(rest));
    }
}

#[test]
fn agrees_with_the_oracle_for_all_options_together() {
    for (width, offset, adjustment) in [(1, 1, 0), (1, 0, 2), (2, 1, -3), (3, 0, -1), (8, 2, 1), (8, 0, -8)] {
        for (big, strip) in [(true, true), (true, false), (false, true), (false, false)] {
            let plain = Length { max: 13, offset, width, big, adjustment, strip };
            exhaust(&plain.codec(), &[0, 4, 0xff], 4, |rest| plain.oracle(rest));
            differ(&plain.codec(), &[0, 0, 0, 0, 1, 2, 3, 13], |rest| plain.oracle(rest));
        }
    }
}

#[test]
fn all_headers_of_two_bytes_at_every_split() {
    let mut data = vec![0u8; 2 + 65_535];
    for codec in [LengthDelimited::u16_be(1000), LengthDelimited::u16_be(65_535)].map(Result::unwrap) {
        for len in 0..=65_535u16 {
            data[..2].copy_from_slice(&len.to_be_bytes());
            let (max, len) = (codec.max_message(), usize::from(len));
            let mut state = Scan::default();
            for seen in [0, 1] {
                assert_eq!(codec.decode(&mut state, &data[..seen]), Ok(Decoded::Incomplete));
            }
            if len > max {
                let error = FrameError::TooLong { len: len as u64, max: max as u64 };
                assert_eq!(codec.decode(&mut state, &data[..2]), Err(error));
                continue;
            }
            for seen in [2, 1 + len] {
                let found = codec.decode(&mut state, &data[..seen.min(1 + len)]);
                assert_eq!(found, Ok(Decoded::Incomplete));
            }
            let found = codec.decode(&mut state, &data[..2 + len]);
            assert_eq!(found, Ok(Decoded::Message { start: 2, end: 2 + len, consumed: 2 + len }));
        }
    }
}

#[test]
fn huge_lengths_are_too_long_not_wrapped() {
    let wide = |max| LengthDelimited::builder(max).length_field_length(8);
    let len = u64::MAX;
    assert_eq!(error_of(&wide(5).build().unwrap(), &[0xff; 8]), FrameError::TooLong { len, max: 5 });
    let positive = wide(50).length_adjustment(9).build().unwrap();
    assert_eq!(error_of(&positive, &[0xff; 8]), FrameError::TooLong { len, max: 50 });
    let frame = wide(50).initial_bytes_to_strip(0).build().unwrap();
    assert_eq!(error_of(&frame, &[0xff; 8]), FrameError::TooLong { len, max: 50 });
    let unlimited = wide(usize::MAX).length_adjustment(-8).build().unwrap();
    let error = error_of(&unlimited, &[0xff; 8]);
    assert_eq!(error, FrameError::TooLong { len: len - 8, max: unlimited.max_message() as u64 });
    assert_eq!(error_of(&unlimited, &[0, 0, 0, 0, 0, 0, 0, 7]), unlimited.impossible());
}

#[test]
fn a_header_that_counts_itself_is_no_reason_to_refuse_the_longest_message() {
    // tokio#4815: the maximum applies to the message, after adjustment.
    let codec = LengthDelimited::builder(4).length_includes_header(true).build().unwrap();
    assert_eq!(messages_of(&codec, b"\0\0\0\x08abcd"), [b"abcd"]);
    assert_eq!(error_of(&codec, b"\0\0\0\x09abcde"), FrameError::TooLong { len: 5, max: 4 });
    round_trip_sizes(&codec);
}

#[test]
fn round_trips() {
    round_trip_sizes(&LengthDelimited::u32_le(70_000).unwrap());
    round_trip_sizes(&LengthDelimited::builder(9).length_field_offset(3).header_prefix(*b"abc").build().unwrap());
    for width in 1..=8 {
        for adjustment in [-2, 0] {
            let plain = Length { max: 100, width, adjustment, ..PLAIN };
            round_trip_sizes(&plain.codec());
            round_trip_sizes(&Length { big: false, ..plain }.codec());
        }
    }
}

#[test]
fn a_length_that_the_field_cannot_carry_is_refused() {
    // tokio#5080: a length of 70 000 in two bytes was sent as 4464.
    let codec = LengthDelimited::u16_be(1 << 20).unwrap();
    assert_eq!(codec.max_message(), 65_535);
    let refused = EncodeError::TooLong { len: 70_000, max: 65_535 };
    assert_eq!(codec.encode(&[0; 70_000], &mut Vec::new()), Err(refused));
    let inclusive = LengthDelimited::builder(1000).length_field_length(1).length_includes_header(true);
    let codec = inclusive.build().unwrap();
    assert_eq!(codec.max_message(), 254);
    round_trip_sizes(&codec);
}

#[test]
fn a_message_may_be_its_whole_frame() {
    let plain = Length { max: 6, offset: 1, width: 2, strip: false, ..PLAIN };
    let codec = plain.codec();
    let mut wire = Vec::new();
    codec.encode(b"a??bcd", &mut wire).unwrap();
    assert_eq!(wire, b"a\0\x03bcd");
    assert_eq!(messages_of(&codec, &wire), [&wire[..]]);
    round_trip(&codec, &[b"a\0\0", b"a\0\x02bc"]);
    assert!(matches!(codec.encode(b"a?", &mut wire), Err(EncodeError::Other(_))));
    assert_eq!(codec.encode(b"a??bcde", &mut wire), Err(EncodeError::TooLong { len: 7, max: 6 }));
    assert_eq!(wire.len(), 6);
}

#[test]
fn a_message_below_the_adjustment_cannot_be_said() {
    let codec = Length { adjustment: 2, ..PLAIN }.codec();
    assert!(matches!(codec.encode(b"a", &mut Vec::new()), Err(EncodeError::Other(_))));
    round_trip(&codec, &[b"ab", b"abc"]);
    assert_eq!(whole(&codec, b"\0ab").left, 0);
}

#[test]
fn refusals_name_what_is_accepted() {
    let of = LengthDelimited::builder;
    for (builder, text) in [
        (of(0), "accepted: 1 or more"),
        (of(9).length_field_length(0), "accepted: 1 to 8"),
        (of(9).length_field_length(9), "accepted: 1 to 8"),
        (of(9).length_field_offset(usize::MAX), "accepted: 0 to 65535"),
        (of(9).initial_bytes_to_strip(3), "accepted: 4 (the header) or 0"),
        (of(9).length_field_offset(2).header_prefix(*b"abc"), "accepted: exactly length_field_offset, 2"),
        (of(9).initial_bytes_to_strip(0).header_prefix(*b""), "accepted: one of the two"),
        (of(3).initial_bytes_to_strip(0), "accepted: 4 or more"),
        (of(9).length_adjustment(10), "accepted here: -4294967294 to 9"),
        (of(9).length_field_length(1).length_adjustment(-255), "accepted here: -254 to 9"),
        (of(9).length_adjustment(i64::MIN).length_includes_header(true), "overflow"),
    ] {
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}
