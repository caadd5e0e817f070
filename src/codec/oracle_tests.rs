//! Naive decoders of every framing, to compare the codecs with.
//!
//! Each inspects all that is left of a complete input, in the simplest possible way, with the parameters of the
//! framing. They share only the error texts with the codecs.

use super::*;
use crate::testing::Decoding;

/// What an oracle finds at the front of the remaining input.
#[derive(Debug)]
pub(crate) enum Step {
    /// A message, and how many bytes of the input it used.
    Message(Vec<u8>, usize),
    /// A discarded over-long message of this many bytes.
    Skip(usize),
    Wait,
    Fail(FrameError),
}

/// Decodes a whole input with an oracle.
pub(crate) fn ask_oracle(input: &[u8], oracle: impl Fn(&[u8]) -> Step) -> Decoding {
    let (mut at, mut messages, mut skipped) = (0, Vec::new(), Vec::new());
    let (error, left) = loop {
        match oracle(&input[at..]) {
            Step::Message(message, consumed) => {
                messages.push(message);
                at += consumed;
            }
            Step::Skip(consumed) => {
                skipped.push(at);
                at += consumed;
            }
            Step::Wait => break (None, input.len() - at),
            Step::Fail(error) => break (Some((at, error)), 0),
        }
    };
    Decoding { messages, skipped, error, left }
}

fn too_long(max: usize) -> Step {
    let max = max as u64;
    Step::Fail(FrameError::TooLong { len: max + 1, max })
}

fn malformed(what: &'static str) -> Step {
    Step::Fail(FrameError::Malformed(what))
}

/// Lines that end with `\n`, or `\r\n`.
pub(super) fn lf(rest: &[u8], max: usize, discard: bool) -> Step {
    let end = rest.iter().position(|b| *b == b'\n');
    let mut line = &rest[..end.unwrap_or(rest.len())];
    if line.ends_with(b"\r") {
        line = &line[..line.len() - 1];
    }
    match end {
        _ if line.len() > max && !discard => too_long(max),
        None => Step::Wait,
        Some(end) if line.len() > max => Step::Skip(end + 1),
        Some(end) => Step::Message(line.to_vec(), end + 1),
    }
}

/// Lines that end with `\r\n` only.
pub(super) fn crlf(rest: &[u8], max: usize, discard: bool) -> Step {
    for i in 0..rest.len() {
        match (rest[i], rest.get(i + 1)) {
            (b'\r', Some(b'\n')) if i > max => return Step::Skip(i + 2),
            (b'\r', Some(b'\n')) => return Step::Message(rest[..i].to_vec(), i + 2),
            (b'\r', None) => return Step::Wait,
            (b'\r', _) => return malformed("carriage return without line feed"),
            (b'\n', _) => return malformed("line feed without carriage return"),
            _ if i == max && !discard => return too_long(max),
            _ => {}
        }
    }
    Step::Wait
}

pub(super) fn delimited(rest: &[u8], delimiter: &[u8], max: usize, discard: bool) -> Step {
    match rest.windows(delimiter.len()).position(|window| window == delimiter) {
        Some(at) if at <= max => Step::Message(rest[..at].to_vec(), at + delimiter.len()),
        None if rest.len() < max + delimiter.len() => Step::Wait,
        _ if !discard => too_long(max),
        Some(at) => Step::Skip(at + delimiter.len()),
        None => Step::Wait,
    }
}

/// The options of a binary length field as plain numbers, independent of the codec's precomputed ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Length {
    pub(super) max: usize,
    pub(super) offset: usize,
    pub(super) width: usize,
    pub(super) big: bool,
    pub(super) adjustment: i64,
    pub(super) strip: bool,
}

impl Length {
    pub(super) fn build(self) -> Result<LengthDelimited, BuildError> {
        let builder = LengthDelimited::builder(self.max)
            .length_field_offset(self.offset)
            .length_field_length(self.width)
            .length_adjustment(self.adjustment)
            .initial_bytes_to_strip(if self.strip { self.offset + self.width } else { 0 });
        if self.big { builder.big_endian() } else { builder.little_endian() }.build()
    }

    pub(super) fn codec(self) -> LengthDelimited {
        self.build().unwrap()
    }

    /// Decodes with 128-bit arithmetic.
    pub(super) fn oracle(self, rest: &[u8]) -> Step {
        let header = self.offset + self.width;
        if rest.len() < header {
            return Step::Wait;
        }
        let mut value = 0i128;
        for i in 0..self.width {
            let at = if self.big { self.offset + i } else { header - 1 - i };
            value = value * 256 + i128::from(rest[at]);
        }
        let body = value + i128::from(self.adjustment);
        let message = if self.strip { body } else { body + header as i128 };
        if body < 0 {
            return malformed("length is less than the bytes it must count");
        }
        if message > self.max as i128 {
            let len = u64::try_from(message).unwrap_or(u64::MAX);
            return Step::Fail(FrameError::TooLong { len, max: self.max as u64 });
        }
        let total = header + body as usize;
        let start = if self.strip { header } else { 0 };
        if rest.len() < total { Step::Wait } else { Step::Message(rest[start..total].to_vec(), total) }
    }
}

/// Checks every prefix of the header against the pattern ` *[0-9]+ *`.
pub(super) fn decimal(rest: &[u8], width: usize, max: u64) -> Step {
    let text = &rest[..width.min(rest.len())];
    for end in 1..=text.len() {
        let part = String::from_utf8_lossy(&text[..end]);
        let number = part.trim_matches(' ');
        if number.contains(' ') && number.chars().all(|c| c == ' ' || c.is_ascii_digit()) {
            return malformed("decimal header has a space inside the number");
        }
        if let Some(foreign) = number.chars().find(|c| !c.is_ascii_digit() && *c != ' ') {
            return malformed(match foreign {
                '+' | '-' => "decimal header has a sign",
                '.' | ',' => "decimal header has a point or comma",
                c if c.is_ascii_alphabetic() => "decimal header has a letter",
                _ => "decimal header has a byte that is neither digit nor space",
            });
        }
        if end == width && number.is_empty() {
            return malformed("decimal header has no digit");
        }
    }
    if rest.len() < width {
        return Step::Wait;
    }
    let len = String::from_utf8_lossy(text).trim_matches(' ').parse::<u64>().unwrap_or(u64::MAX);
    if len > max {
        return Step::Fail(FrameError::TooLong { len, max });
    }
    let end = width + len as usize;
    if rest.len() < end { Step::Wait } else { Step::Message(rest[width..end].to_vec(), end) }
}

pub(super) fn netstring(rest: &[u8], max: u64) -> Step {
    for i in 0..rest.len() {
        let digits = std::str::from_utf8(&rest[..i]).unwrap();
        let number = digits.parse::<u64>();
        match rest[i] {
            b'0'..=b'9' if digits == "0" => return malformed("netstring length has a leading zero"),
            digit @ b'0'..=b'9' => {
                let len = number.unwrap_or(0) * 10 + u64::from(digit - b'0');
                if len > max {
                    return Step::Fail(FrameError::TooLong { len, max });
                }
            }
            b':' if i > 0 => {
                let end = i + 1 + number.unwrap() as usize;
                return match rest.get(end) {
                    None => Step::Wait,
                    Some(b',') => Step::Message(rest[i + 1..end].to_vec(), end + 1),
                    _ => malformed("netstring does not end with a comma"),
                };
            }
            _ => return malformed("netstring length is not digits and a colon"),
        }
    }
    Step::Wait
}

/// Computes, byte by byte in 128 bits, the smallest number that a length starting like this can be.
pub(super) fn varint(rest: &[u8], max: u128) -> Step {
    let (mut len, mut place) = (0u128, 1u128);
    for (i, byte) in rest.iter().enumerate() {
        len += u128::from(byte % 128) * place;
        place *= 128;
        let least = if *byte >= 128 { len + place } else { len };
        if least > max {
            return Step::Fail(FrameError::TooLong { len: least as u64, max: max as u64 });
        }
        if *byte == 0 && i > 0 {
            return malformed("varint is not in its shortest form");
        }
        if *byte < 128 {
            let message = rest[i + 1..].get(..len as usize);
            return message.map_or(Step::Wait, |m| Step::Message(m.to_vec(), i + 1 + m.len()));
        }
    }
    Step::Wait
}

pub(super) fn fixed(rest: &[u8], size: usize) -> Step {
    rest.get(..size).map_or(Step::Wait, |message| Step::Message(message.to_vec(), size))
}
