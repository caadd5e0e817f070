//! Lines of people at a telnet client (RFC 854, RFC 855): sans-IO, like the codecs, but the lines are copied, because
//! commands may be inside them.
//!
//! ```text
//!  IAC WILL/WONT/DO/DONT option    FF FB-FE nn        answered or dropped, anywhere
//!  IAC SB ... IAC SE               FF FA ... FF F0    dropped
//!  IAC command                     FF nn              dropped, or run if it edits the line
//!  CR LF, CR NUL, CR, LF                              the end of a line
//! ```
//!
//! Invariant: however the input is split, the lines and the answers are the same. A line has at most the maximum of
//! bytes, and neither it nor what is sent contains a control character except tabs.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use std::mem::take;

use super::EncodeError;
use super::error::check_len;
use super::framing::Encode;

/// What a telnet client has sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TelnetEvent {
    Line(Vec<u8>),
    /// A line beyond the maximum has ended. It was discarded.
    TooLong,
    /// These bytes are to be sent as they are.
    Answer(Vec<u8>),
}

/// The input of one client: the unfinished line and the unfinished command.
#[derive(Debug, Default)]
pub(crate) struct TelnetInput {
    line: Vec<u8>,
    /// The line was longer than the maximum, and the rest of it is discarded.
    too_long: bool,
    at: At,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, Default)]
enum At {
    #[default]
    Text,
    /// Behind a CR, which has ended a line: a LF or NUL is a part of the ending.
    Cr,
    Iac,
    /// Behind this verb: the option.
    Option(u8),
    Subnegotiation,
    /// Behind an IAC inside a subnegotiation.
    SubnegotiationIac,
}

impl TelnetInput {
    /// Consumes `data` up to the first event. Returns how many bytes that took: all of them if there is none.
    pub(crate) fn next(&mut self, data: &[u8], max: usize) -> (usize, Option<TelnetEvent>) {
        for (at, byte) in data.iter().enumerate() {
            if let Some(event) = self.byte(*byte, max) {
                return (at.saturating_add(1), Some(event));
            }
        }
        (data.len(), None)
    }

    /// Returns the last line, which has no ending, at the end of the input.
    pub(crate) fn end(&mut self) -> Option<TelnetEvent> {
        (self.too_long || !self.line.is_empty()).then(|| self.end_line())
    }

    fn byte(&mut self, byte: u8, max: usize) -> Option<TelnetEvent> {
        match (take(&mut self.at), byte) {
            (At::Cr, LF | NUL) => None,
            (At::Text | At::Cr, _) => self.text(byte, max),
            (At::Iac, _) => self.command(byte, max),
            (At::Option(verb), option) => answer(verb, option),
            (At::SubnegotiationIac, SE) => None,
            (At::Subnegotiation, IAC) => {
                self.at = At::SubnegotiationIac;
                None
            }
            (At::Subnegotiation | At::SubnegotiationIac, _) => {
                self.at = At::Subnegotiation;
                None
            }
        }
    }

    fn text(&mut self, byte: u8, max: usize) -> Option<TelnetEvent> {
        match byte {
            IAC => self.at = At::Iac,
            CR => {
                self.at = At::Cr;
                return Some(self.end_line());
            }
            LF => return Some(self.end_line()),
            NUL => {}
            BACKSPACE | DELETE => self.erase_character(),
            _ => self.push(byte, max),
        }
        None
    }

    fn command(&mut self, byte: u8, max: usize) -> Option<TelnetEvent> {
        match byte {
            WILL..=DONT => self.at = At::Option(byte),
            SB => self.at = At::Subnegotiation,
            IAC => self.push(byte, max),
            ERASE_CHARACTER => self.erase_character(),
            ERASE_LINE => self.line.clear(),
            ARE_YOU_THERE => return Some(TelnetEvent::Answer(b"[yes]\r\n".to_vec())),
            // No command: what stood here was sent as urgent data, which the kernel takes out of the stream.
            0..SE => return self.text(byte, max),
            _ => {}
        }
        None
    }

    fn push(&mut self, byte: u8, max: usize) {
        if self.line.len() < max && !self.too_long {
            self.line.push(byte);
        } else {
            self.too_long = true;
            self.line = Vec::new();
        }
    }

    /// Removes the last character of the line, which may have several bytes in UTF-8.
    fn erase_character(&mut self) {
        while self.line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
    }

    fn end_line(&mut self) -> TelnetEvent {
        let line = take(&mut self.line);
        if take(&mut self.too_long) {
            return TelnetEvent::TooLong;
        }
        let mut shown = Vec::with_capacity(line.len());
        push_printable(&line, &mut shown);
        TelnetEvent::Line(shown)
    }
}

/// Returns the answer to a request: every option is refused, so that a client keeps to lines and echoes them itself.
/// Except that a timing mark is given: after Ctrl-C, clients show nothing until it arrives (RFC 860).
fn answer(verb: u8, option: u8) -> Option<TelnetEvent> {
    let verb = match (verb, option) {
        (DO, TIMING_MARK) => WILL,
        (DO, _) => WONT,
        (WILL, _) => DONT,
        // They confirm what is the case, and an answer to a confirmation would loop (RFC 854).
        _ => return None,
    };
    Some(TelnetEvent::Answer(vec![IAC, verb, option]))
}

/// Appends text with a `?` in place of each control character (but tabs) and of what is not UTF-8.
fn push_printable(text: &[u8], out: &mut Vec<u8>) {
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            let shown = if c.is_control() && c != '\t' { '?' } else { c };
            out.extend_from_slice(shown.encode_utf8(&mut [0; 4]).as_bytes());
        }
        if !chunk.invalid().is_empty() {
            out.push(b'?');
        }
    }
}

/// How lines are sent to a telnet client: printable, with `\r\n` behind.
pub(crate) struct TelnetOutput {
    pub(crate) max: usize,
}

impl TelnetOutput {
    /// The bytes added to a line.
    pub(crate) const OVERHEAD: usize = 2;
}

impl Encode for TelnetOutput {
    fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        check_len(message, self.max)?;
        if message.contains(&LF) {
            return Err(EncodeError::Delimiter);
        }
        push_printable(message, out);
        out.extend_from_slice(b"\r\n");
        Ok(())
    }
}

const NUL: u8 = 0;
const BACKSPACE: u8 = 8;
const LF: u8 = b'\n';
const CR: u8 = b'\r';
const DELETE: u8 = 127;

// The commands of RFC 854.
const SE: u8 = 240;
const ARE_YOU_THERE: u8 = 246;
const ERASE_CHARACTER: u8 = 247;
const ERASE_LINE: u8 = 248;
const SB: u8 = 250;
const WILL: u8 = 251;
const WONT: u8 = 252;
const DO: u8 = 253;
const DONT: u8 = 254;
const IAC: u8 = 255;

/// The option of RFC 860.
const TIMING_MARK: u8 = 6;

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
mod tests {
    use super::*;

    /// Feeds an input in two pieces, the second byte by byte. Returns the lines and what is to be answered.
    fn feed(input: &[u8], cut: usize) -> (Vec<String>, Vec<u8>) {
        let (mut client, mut lines, mut answers) = (TelnetInput::default(), Vec::new(), Vec::new());
        let mut see = |event| match event {
            TelnetEvent::Line(line) => lines.push(String::from_utf8(line).unwrap()),
            TelnetEvent::TooLong => lines.push("(too long)".to_owned()),
            TelnetEvent::Answer(bytes) => answers.extend(bytes),
        };
        for mut piece in [&input[..cut]].into_iter().chain(input[cut..].chunks(1)) {
            while !piece.is_empty() {
                let (consumed, event) = client.next(piece, 12);
                piece = &piece[consumed..];
                event.into_iter().for_each(&mut see);
            }
        }
        client.end().into_iter().for_each(&mut see);
        (lines, answers)
    }

    #[test]
    fn lines_are_found_and_commands_are_answered_wherever_they_are_cut() {
        let nothing: &[u8] = b"";
        for (input, lines, answers) in [
            (&b"one\r\ntwo\r\0three\nfour\rfive"[..], &["one", "two", "three", "four", "five"][..], nothing),
            (b"\r\n\r\0\n", &["", "", ""], nothing),
            // What a client offers at the start, and in the middle of a line.
            (b"\xff\xfd\x03\xff\xfb\x18he\xff\xfd\x01llo\r\n", &["hello"], b"\xff\xfc\x03\xff\xfe\x18\xff\xfc\x01"),
            (b"he\xff\xfc\x01\xff\xfe\x03llo\n", &["hello"], nothing),
            // Ctrl-C: interrupt process, and a timing mark is asked for.
            (b"\xff\xf4\xff\xfd\x06hello\r\n", &["hello"], b"\xff\xfb\x06"),
            // The data mark behind the last IAC was urgent, and is not in the stream.
            (b"\xff\xf4\xffhello\r\n", &["hello"], nothing),
            (b"a\xff\xfa\x18\0xterm\r\n\xff\xff\xff\xf0b\n", &["ab"], nothing),
            (b"a\xff\xf1\xff\xf9b\xff\xf6\n", &["ab"], b"[yes]\r\n"),
            (b"helpo\x08\x7flo\xc3\xa9\xff\xf7!\nab\xff\xf8c\n\x08x\n", &["hello!", "c", "x"], nothing),
            (
                b"0123456789ab\n0123456789abc\r\nx\n0123456789abcdefghi",
                &["0123456789ab", "(too long)", "x", "(too long)"],
                nothing,
            ),
        ] {
            for cut in 0..=input.len() {
                let (found, answered) = feed(input, cut);
                assert_eq!(
                    (found, &*answered),
                    (lines.iter().map(|l| (*l).to_owned()).collect(), answers),
                    "cut at {cut}"
                );
            }
        }
    }

    #[test]
    fn control_characters_do_not_pass_in_either_direction() {
        let evil = b"\x1b[2\tx\xc2\x9by\x9b\xff\xe2\x82\xac";
        let shown = "?[2\tx?y??\u{20ac}";
        let input = [&evil[..4], &b"x\xc2\x9b\n"[..]].concat();
        assert_eq!(feed(&input, 0).0, ["?[2\tx?"]);
        let output = TelnetOutput { max: 20 };
        let mut out = b"before".to_vec();
        output.encode(evil, &mut out).unwrap();
        assert_eq!(out, format!("before{shown}\r\n").as_bytes());
        output.encode(b"a\rb", &mut out).unwrap();
        assert!(out.ends_with(b"a?b\r\n"));
        assert_eq!(output.encode(b"forged\nline", &mut out), Err(EncodeError::Delimiter));
        assert_eq!(output.encode(&[b'x'; 21], &mut out), Err(EncodeError::TooLong { len: 21, max: 20 }));
    }

    #[test]
    fn no_input_puts_a_control_character_into_a_line() {
        let alphabet = [0xff, 0xfa, 0xf0, 0xfd, 6, b'\r', b'\n', 0, 0x9b, 0x1b, 8, b'a'];
        for number in 0..alphabet.len().pow(5) {
            let input: Vec<u8> = (0..5).map(|i| alphabet[number / alphabet.len().pow(i) % alphabet.len()]).collect();
            let (lines, answers) = feed(&input, 0);
            assert!(lines.iter().all(|line| line.chars().all(|c| !c.is_control())), "{input:?}: {lines:?}");
            assert!(answers.len() <= input.len(), "{input:?}");
            assert_eq!(feed(&input, 5), (lines, answers), "{input:?}");
        }
    }
}
