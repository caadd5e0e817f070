//! The text of a transcript: one step per line, with bytes in a readable notation.
//!
//! Only parses; [`stage::play`](super::stage) runs the steps. Invariant: [`parse`] reads back what [`show`] writes as
//! the same bytes.

use std::fmt::{self, Write};
use std::time::Duration;

use crate::closed::NAMES;

/// One step and its line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shared<'a> {
    /// Counted from 1.
    pub(super) number: usize,
    pub(super) text: &'a str,
    pub(super) step: Step<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// An action of a client, or an expectation about it.
    Client(&'a str, Act),
    /// Advances the clock.
    Wait(Duration),
    /// Begins the shutdown: with this grace period, or with that of the limits.
    Shutdown(Option<Duration>),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Act {
    Sends(Vec<u8>),
    Hears(Vec<u8>),
    HearsWhatever,
    HearsNothing,
    Connects,
    Closes,
    Resets,
    StopsReading,
    ReadsOn,
    IsOpen,
    SeesEnd,
    SeesReset,
    /// With the name of the expected reason, or `None` for any.
    IsClosed(Option<&'static str>),
}

/// A line that is not a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadLine<'a> {
    number: usize,
    text: &'a str,
    problem: Problem<'a>,
}

#[derive(Debug, PartialEq, Eq)]
enum Problem<'a> {
    NoStep,
    /// Not a valid client name.
    Name(&'a str),
    /// An unknown character after a backslash, or none.
    Escape(Option<char>),
    Hex,
    Time(&'a str),
    Reason(&'a str),
}

/// Parses a transcript. Skips blank lines and lines that begin with `#`.
pub(super) fn parse(text: &str) -> Result<Vec<Shared<'_>>, BadLine<'_>> {
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, text)| match step(text) {
            Ok(step) => Ok(Shared { number, text, step }),
            Err(problem) => Err(BadLine { number, text, problem }),
        })
        .collect()
}

fn step(line: &str) -> Result<Step<'_>, Problem<'_>> {
    let (word, rest) = line.split_once(char::is_whitespace).map_or((line, ""), |(w, r)| (w, r.trim()));
    // No space is needed between the sign and the text.
    if let Some(at) = word.find(['>', '<']) {
        let (who, text) = (name(&line[..at])?, line[at + 1..].trim());
        let act = match (&line[at..=at], text) {
            (">", _) => Act::Sends(unescape(text)?),
            (_, "...") => Act::HearsWhatever,
            _ => Act::Hears(unescape(text)?),
        };
        return Ok(Step::Client(who, act));
    }
    match (word, rest) {
        ("wait", _) => return time(rest).map(Step::Wait),
        ("shutdown", "") => return Ok(Step::Shutdown(None)),
        ("shutdown", _) => return time(rest).map(|grace| Step::Shutdown(Some(grace))),
        _ => {}
    }
    let verb = rest.split_whitespace().collect::<Vec<_>>();
    let act = match *verb {
        ["connects"] => Act::Connects,
        ["closes"] => Act::Closes,
        ["resets"] => Act::Resets,
        ["stops", "reading"] => Act::StopsReading,
        ["reads", "on"] => Act::ReadsOn,
        ["open"] => Act::IsOpen,
        ["hears", "nothing"] => Act::HearsNothing,
        ["sees", "end"] => Act::SeesEnd,
        ["sees", "reset"] => Act::SeesReset,
        ["closed"] => Act::IsClosed(None),
        ["closed", reason] => {
            let known = NAMES.into_iter().find(|&n| n == reason);
            Act::IsClosed(Some(known.ok_or(Problem::Reason(reason))?))
        }
        _ => return Err(Problem::NoStep),
    };
    Ok(Step::Client(name(word)?, act))
}

/// Returns `true` if this is a valid client name in a transcript.
pub(super) fn is_name(name: &str) -> bool {
    let letters = name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    letters && name.starts_with(char::is_alphabetic) && name != "wait" && name != "shutdown"
}

fn name(word: &str) -> Result<&str, Problem<'_>> {
    if is_name(word) { Ok(word) } else { Err(Problem::Name(word)) }
}

fn time(text: &str) -> Result<Duration, Problem<'_>> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let per_unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(Problem::Time(text)),
    };
    let ms = number.parse::<u64>().ok().and_then(|n| n.checked_mul(per_unit));
    ms.map(Duration::from_millis).ok_or(Problem::Time(text))
}

fn unescape(text: &str) -> Result<Vec<u8>, Problem<'_>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        bytes.push(match chars.next() {
            Some('n') => b'\n',
            Some('r') => b'\r',
            Some('t') => b'\t',
            Some('0') => 0,
            Some('\\') => b'\\',
            Some('x') => {
                let digits = chars.as_str().get(..2).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
                let byte = digits.and_then(|d| u8::from_str_radix(d, 16).ok()).ok_or(Problem::Hex)?;
                chars.nth(1);
                byte
            }
            other => return Err(Problem::Escape(other)),
        });
    }
    Ok(bytes)
}

/// Writes bytes in the notation of transcripts.
pub(super) fn show(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => shown.push_str("\\n"),
                '\r' => shown.push_str("\\r"),
                '\t' => shown.push_str("\\t"),
                '\0' => shown.push_str("\\0"),
                '\\' => shown.push_str("\\\\"),
                c if c.is_control() || c != ' ' && c.is_whitespace() => {
                    c.encode_utf8(&mut [0; 4]).bytes().for_each(|b| push_hex(&mut shown, b));
                }
                c => shown.push(c),
            }
        }
        chunk.invalid().iter().for_each(|&b| push_hex(&mut shown, b));
    }
    // Escapes what would not be read back as it is: spaces at either end, and a literal `...`.
    if shown.ends_with(' ') {
        shown.pop();
        shown.push_str("\\x20");
    }
    if shown.starts_with(' ') || shown == "..." {
        let first = shown.remove(0);
        let escaped = format!("\\x{:02x}", first as u32);
        shown.insert_str(0, &escaped);
    }
    shown
}

fn push_hex(to: &mut String, byte: u8) {
    // Writing to a string does not fail.
    let _ = write!(to, "\\x{byte:02x}");
}

/// The list of steps, for the error message.
const STEPS: &str = "\
    a step is one of (A stands for any client)
    A> bytes          A< bytes          A< ...
    A connects        A closes          A resets
    A stops reading   A reads on        A hears nothing
    A open            A sees end        A sees reset
    A closed          A closed REASON
    wait 10s          shutdown          shutdown 10s";

impl fmt::Display for BadLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of the transcript: `{}`: ", self.number, self.text)?;
        match &self.problem {
            Problem::NoStep => write!(f, "no such step; {STEPS}"),
            Problem::Name(name) => {
                write!(f, "`{name}` cannot be a client: a name is letters, digits, `_` and `-`, ")?;
                f.write_str("begins with a letter, and is neither `wait` nor `shutdown`")
            }
            Problem::Escape(Some(c)) => write!(f, "`\\{c}` is not an escape; {ESCAPES}"),
            Problem::Escape(None) => write!(f, "nothing follows the last backslash; {ESCAPES}"),
            Problem::Hex => f.write_str("`\\x` is followed by two hexadecimal digits"),
            Problem::Time(time) => {
                write!(f, "`{time}` is not a time: write 250ms, 10s, 5min or 2h, in whole numbers")
            }
            Problem::Reason(reason) => {
                write!(f, "`{reason}` is not a reason; the reasons are {}", NAMES.join(", "))
            }
        }
    }
}

const ESCAPES: &str = "there are \\n, \\r, \\t, \\0, \\\\ and \\x with two hexadecimal digits";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Parses a text of one step.
    fn one(text: &str) -> Step<'_> {
        let mut lines = parse(text).unwrap();
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.remove(0).step
    }

    fn act(text: &str) -> Act {
        match one(text) {
            Step::Client("A", act) => act,
            other => panic!("{other:?}"),
        }
    }

    fn refused(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn each_step_has_one_form() {
        assert_eq!(act("A> hello  you"), Act::Sends(b"hello  you".to_vec()));
        assert_eq!(act("A>hello"), Act::Sends(b"hello".to_vec()));
        assert_eq!(act("A< a > b"), Act::Hears(b"a > b".to_vec()));
        assert_eq!(act("A< ..."), Act::HearsWhatever);
        assert_eq!(act("A< \\x2e.."), Act::Hears(b"...".to_vec()));
        assert_eq!(act("A<"), Act::Hears(Vec::new()));
        assert_eq!(act("A hears nothing"), Act::HearsNothing);
        assert_eq!(act("A connects"), Act::Connects);
        assert_eq!(act("A closes"), Act::Closes);
        assert_eq!(act("A resets"), Act::Resets);
        assert_eq!(act("A  stops   reading"), Act::StopsReading);
        assert_eq!(act("A reads on"), Act::ReadsOn);
        assert_eq!(act("A open"), Act::IsOpen);
        assert_eq!(act("A sees end"), Act::SeesEnd);
        assert_eq!(act("A sees reset"), Act::SeesReset);
        assert_eq!(act("A closed"), Act::IsClosed(None));
        assert_eq!(act("A closed idle_timeout"), Act::IsClosed(Some("idle_timeout")));
        assert_eq!(one("shutdown"), Step::Shutdown(None));
        assert_eq!(one("shutdown 0s"), Step::Shutdown(Some(Duration::ZERO)));
        assert_eq!(one("b-2_x open"), Step::Client("b-2_x", Act::IsOpen));
        assert_eq!(one("waiter open"), Step::Client("waiter", Act::IsOpen));
    }

    #[test]
    fn times_have_units() {
        let ms = |n| Step::Wait(Duration::from_millis(n));
        assert_eq!(one("wait 250ms"), ms(250));
        assert_eq!(one("wait 10s"), ms(10_000));
        assert_eq!(one("wait 5min"), ms(300_000));
        assert_eq!(one("wait 2h"), ms(7_200_000));
        for wrong in ["", "10", "s", "1.5s", "-1s", "10 s", "10sec", "99999999999999999999s"] {
            let said = refused(&format!("wait {wrong}"));
            assert!(said.contains(&format!("`{wrong}` is not a time")) && said.contains("5min"), "{said}");
        }
        let long = format!("wait {}h", u64::MAX);
        assert!(refused(&long).contains("is not a time"));
        assert!(refused("shutdown now").contains("`now` is not a time"));
    }

    #[test]
    fn lines_are_counted_with_those_that_are_no_steps() {
        let lines = parse("\n  # first\n\tA> x # y\n\n  B open\r\n").unwrap();
        let seen: Vec<_> = lines.iter().map(|l| (l.number, l.text)).collect();
        assert_eq!(seen, [(3, "A> x # y"), (5, "B open")]);
        assert_eq!(lines[0].step, Step::Client("A", Act::Sends(b"x # y".to_vec())));
        assert_eq!(parse(" \n#\n").unwrap(), []);
    }

    #[test]
    fn escapes_stand_for_bytes() {
        let all = "A> \\n\\r\\t\\0\\\\\\x00\\xfF\\x20 é";
        assert_eq!(act(all), Act::Sends(b"\n\r\t\0\\\0\xff  \xc3\xa9".to_vec()));
        let said = refused("\n A> a\\q");
        assert!(said.starts_with("line 2 of the transcript: `A> a\\q`: `\\q` is not an escape"), "{said}");
        assert!(said.contains("\\x with two"), "{said}");
        assert!(refused("A< a\\").contains("nothing follows the last backslash"));
        for wrong in ["A> \\x", "A> \\x1", "A> \\xg0", "A> \\x+1", "A> \\x1é", "A> \\xé"] {
            assert!(refused(wrong).contains("two hexadecimal digits"), "{wrong}");
        }
    }

    #[test]
    fn bytes_are_shown_as_they_would_be_written() {
        for (bytes, shown) in [
            (&b"a b"[..], "a b"),
            (b" a ", "\\x20a\\x20"),
            (b"...", "\\x2e.."),
            (b"....", "...."),
            (b"\n\r\t\0\\\x1b\xff", "\\n\\r\\t\\0\\\\\\x1b\\xff"),
            ("é\u{a0}".as_bytes(), "é\\xc2\\xa0"),
        ] {
            assert_eq!(show(bytes), shown);
            assert_eq!(act(&format!("A< {shown}")), Act::Hears(bytes.to_vec()));
        }
    }

    #[test]
    fn what_is_no_step_is_refused_with_all_that_are() {
        for wrong in ["A", "A shouts", "A stops", "A closed handler now", "A closes now", "open", "hello all"] {
            let said = refused(wrong);
            assert!(said.starts_with(&format!("line 1 of the transcript: `{wrong}`: no such step")), "{said}");
            assert!(said.contains("A stops reading") && said.contains("shutdown 10s"), "{said}");
        }
    }

    #[test]
    fn a_wrong_name_is_named() {
        for (line, name) in [("> x", ""), ("1> x", "1"), ("a.b< x", "a.b"), ("wait> x", "wait"), ("é! open", "é!")] {
            let said = refused(line);
            assert!(said.contains(&format!("`{name}` cannot be a client")), "{said}");
        }
        // The sign must follow the name without a space.
        assert!(refused("A > x").contains("no such step"));
    }

    #[test]
    fn an_unknown_reason_is_answered_with_those_there_are() {
        let said = refused("A closed idle");
        assert!(said.contains("`idle` is not a reason"), "{said}");
        assert!(NAMES.iter().all(|name| said.contains(name)), "{said}");
    }

    #[test]
    fn the_first_bad_line_is_told() {
        assert!(refused("A open\nwhat\nA closed why").starts_with("line 2 "));
    }

    #[test]
    fn the_list_of_steps_is_true() {
        for line in STEPS.lines().skip(1) {
            for step in line.split("  ").filter(|s| !s.trim().is_empty()) {
                let step = step.replace("REASON", "handler");
                assert!(parse(&step).is_ok(), "{step}");
            }
        }
    }

    proptest! {
        #[test]
        fn shown_bytes_are_read_back(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(act(&format!("A<{}", show(&bytes))), Act::Hears(bytes.clone()), "{}", show(&bytes));
        }

        #[test]
        fn shown_text_is_read_back(text in "[ .a#\\\\\u{a0}\u{85}\u{2028}\n\té]{0,8}") {
            let shown = show(text.as_bytes());
            prop_assert_eq!(act(&format!("A< {shown}")), Act::Hears(text.into_bytes()), "{}", shown);
        }

        #[test]
        fn no_text_is_too_strange(text in ".{0,60}") {
            let _ = parse(&text).map_err(|e| e.to_string());
        }
    }
}
