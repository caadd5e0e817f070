//! The text form of [`AnyCodec`]: `len:u32be,max=1MiB`.
//!
//! Checks names and which options belong together. Ranges of values are checked by the constructors of the codecs.
//!
//! Invariant: every text is parsed completely, or rejected with what is wrong and what is accepted. Nothing is
//! ignored.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use std::fmt;
use std::str::{Chars, FromStr};

use super::error::MOST;
use super::size::{parse_size, print_size};
use super::{
    AnyCodec, BuildError, Codec, DecimalHeader, Delimited, FixedSize, LengthDelimited, Lines, Netstring, Raw, Varint,
};

impl FromStr for AnyCodec {
    type Err = BuildError;

    /// Parses a spec such as `lines,discard`; see [`AnyCodec`] for all of them.
    fn from_str(spec: &str) -> Result<Self, BuildError> {
        parse(spec).map_err(|error| BuildError::new(format!("codec spec {spec:?}: {error}")))
    }
}

impl fmt::Display for AnyCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raw(_) => f.write_str("raw"),
            Self::Lines(lines) => f.write_str(if lines.crlf { "lines:crlf" } else { "lines" }),
            Self::Delimited(delimited) => print_delimiter(delimited.delimiter(), f),
            Self::Length(length) => print_length(length, f),
            Self::Decimal(decimal) => write!(f, "dec:{}", decimal.width),
            Self::Varint(_) => f.write_str("varint"),
            Self::Netstring(_) => f.write_str("netstring"),
            Self::Fixed(fixed) => return write!(f, "fixed:{}", print_size(fixed.max_message())),
        }?;
        if matches!(self, Self::Lines(Lines { discard: true, .. }) | Self::Delimited(Delimited { discard: true, .. })) {
            f.write_str(",discard")?;
        }
        write!(f, ",max={}", print_size(self.max_message()))
    }
}

fn print_length(codec: &LengthDelimited, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let order = match (codec.width(), codec.big_endian) {
        (1, _) => "",
        (_, true) => "be",
        (_, false) => "le",
    };
    write!(f, "len:u{}{order}", codec.width().saturating_mul(8))?;
    if codec.offset != 0 {
        write!(f, ",offset={}", codec.offset)?;
    }
    if codec.prefix.iter().any(|byte| *byte != 0) {
        f.write_str(",prefix=")?;
        codec.prefix.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
    }
    match codec.adjustment {
        0 => {}
        by if by.checked_neg() == Some(codec.header as i64) => f.write_str(",inclusive")?,
        by => write!(f, ",adjust={by}")?,
    }
    f.write_str(if codec.start == 0 { ",strip=0" } else { "" })
}

fn print_delimiter(delimiter: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("delim:")?;
    delimiter.iter().try_for_each(|byte| match byte {
        b'\0' => f.write_str("\\0"),
        b'\n' => f.write_str("\\n"),
        b'\r' => f.write_str("\\r"),
        b'\t' => f.write_str("\\t"),
        b'\\' | b',' => write!(f, "\\{}", char::from(*byte)),
        b'!'..=b'~' => write!(f, "{}", char::from(*byte)),
        _ => write!(f, "\\x{byte:02x}"),
    })
}

fn parse(spec: &str) -> Result<AnyCodec, BuildError> {
    if let Some(text) = spec.strip_prefix("delim:") {
        let (delimiter, options) = parse_delimiter(text)?;
        let options = Options::read(options, &["max=SIZE", "discard"])?;
        let codec = options.with_max(SHORT, |max| Delimited::new(&delimiter, max))?;
        return Ok(AnyCodec::Delimited(if options.has("discard") { codec.discard_too_long() } else { codec }));
    }
    let (form, options) = match spec.split_once(',') {
        Some((form, options)) => (form, Some(options)),
        None => (spec, None),
    };
    let missing = DETAILS.iter().find(|(name, _)| form.strip_suffix(':').unwrap_or(form) == *name);
    if let Some((name, full)) = missing {
        return Err(BuildError::new(format!("the part after \"{name}:\" is missing; accepted: {full}")));
    }
    let only_max = || Options::read(options, &["max=SIZE"]);
    match form.split_once(':').map_or((form, None), |(name, detail)| (name, Some(detail))) {
        ("raw", None) => Ok(AnyCodec::Raw(only_max()?.with_max(LONG, Raw::new)?)),
        ("lines", None | Some("lf" | "crlf")) => {
            let options = Options::read(options, &["max=SIZE", "discard"])?;
            let codec = options.with_max(SHORT, if form.ends_with(":crlf") { Lines::crlf } else { Lines::lf })?;
            Ok(AnyCodec::Lines(if options.has("discard") { codec.discard_too_long() } else { codec }))
        }
        ("len", Some(field)) => parse_length(field, options).map(AnyCodec::Length),
        ("dec", Some(width)) => {
            let width = number("dec:", width, "the characters of the header")?;
            Ok(AnyCodec::Decimal(only_max()?.with_max(LONG, |max| DecimalHeader::new(width, max))?))
        }
        ("varint", None) => Ok(AnyCodec::Varint(only_max()?.with_max(LONG, Varint::new)?)),
        ("netstring", None) => Ok(AnyCodec::Netstring(only_max()?.with_max(LONG, Netstring::new)?)),
        ("fixed", Some(size)) => {
            Options::read(options, &[])?;
            Ok(AnyCodec::Fixed(FixedSize::new(parse_size(size)?)?))
        }
        _ => Err(BuildError::new(format!("unknown form {form:?}; accepted: {FORMS}"))),
    }
}

/// Parses `u16le` and `offset=2` of `len:u16le,offset=2`.
fn parse_length(field: &str, options: Option<&str>) -> Result<LengthDelimited, BuildError> {
    let accepted = ["max=SIZE", "offset=N", "adjust=N", "inclusive", "strip=N", "prefix=HEX"];
    let options = Options::read(options, &accepted)?;
    let (bits, little) = match field.strip_suffix("le") {
        Some(bits) => (bits, true),
        None => (field.strip_suffix("be").unwrap_or(field), false),
    };
    let Some(bytes) = ["u8", "u16", "u24", "u32", "u40", "u48", "u56", "u64"].iter().position(|name| *name == bits)
    else {
        return Err(BuildError::new(format!(
            "unknown length field {field:?}; accepted: u8, u16, u24, u32, u40, u48, u56, u64, each with be or le"
        )));
    };
    let mut builder = LengthDelimited::builder(LONG)
        .length_field_length(bytes.saturating_add(1))
        .length_includes_header(options.has("inclusive"));
    if little && bytes > 0 {
        builder = builder.little_endian();
    }
    if let Some(text) = options.get("offset") {
        builder = builder.length_field_offset(number("offset=", text, "bytes before the length field")?);
    }
    if let Some(text) = options.get("adjust") {
        builder = builder.length_adjustment(number("adjust=", text, "what to add to the length, or -N")?);
    }
    if let Some(text) = options.get("strip") {
        builder = builder.initial_bytes_to_strip(number("strip=", text, "0, or the bytes of the header")?);
    }
    if let Some(text) = options.get("prefix") {
        builder = builder.header_prefix(parse_hex(text)?);
    }
    options.with_max(LONG, |max| builder.max(max).build())
}

/// Parses a delimiter up to the first unescaped comma. Also returns the text after that comma.
fn parse_delimiter(text: &str) -> Result<(Vec<u8>, Option<&str>), BuildError> {
    let mut delimiter = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ',' => return Ok((delimiter, Some(chars.as_str()))),
            '\\' => delimiter.push(parse_escape(&mut chars)?),
            c => delimiter.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Ok((delimiter, None))
}

fn parse_escape(chars: &mut Chars<'_>) -> Result<u8, BuildError> {
    match chars.next() {
        Some('0') => Ok(b'\0'),
        Some('n') => Ok(b'\n'),
        Some('r') => Ok(b'\r'),
        Some('t') => Ok(b'\t'),
        Some('\\') => Ok(b'\\'),
        Some(',') => Ok(b','),
        Some('x') => match (chars.next().and_then(hex_digit), chars.next().and_then(hex_digit)) {
            (Some(high), Some(low)) => Ok(high << 4 | low),
            _ => Err(BuildError::new(format!("bad escape \\x in the delimiter; accepted: {ESCAPES}"))),
        },
        Some(c) => Err(BuildError::new(format!("bad escape \\{c} in the delimiter; accepted: {ESCAPES}"))),
        None => Err(BuildError::new(format!("the delimiter ends inside an escape; accepted: {ESCAPES}"))),
    }
}

fn parse_hex(text: &str) -> Result<Vec<u8>, BuildError> {
    let refuse = || BuildError::new(format!("prefix={text}: accepted: an even number of hexadecimal digits"));
    let digits: Option<Vec<u8>> = text.chars().map(hex_digit).collect();
    let pairs = digits.ok_or_else(refuse)?;
    pairs.chunks(2).map(|pair| if let [high, low] = pair { Ok(high << 4 | low) } else { Err(refuse()) }).collect()
}

fn hex_digit(c: char) -> Option<u8> {
    c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn number<N: FromStr>(name: &str, text: &str, what: &str) -> Result<N, BuildError> {
    text.parse().map_err(|_| BuildError::new(format!("{name}{text}: accepted: a whole number ({what})")))
}

/// The options after the first comma, each at most once.
struct Options<'a>(Vec<(&'a str, Option<&'a str>)>);

impl<'a> Options<'a> {
    /// Splits `text` and checks each option against the `accepted` ones, written as `flag` or `name=WHAT`.
    fn read(text: Option<&'a str>, accepted: &[&str]) -> Result<Self, BuildError> {
        let mut list: Vec<(&str, Option<&str>)> = Vec::new();
        for option in text.into_iter().flat_map(|text| text.split(',')) {
            let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
            let form = accepted.iter().find(|form| form.split('=').next() == Some(name));
            let wrong = match (form, value) {
                (None, _) => "is unknown",
                (Some(form), None | Some("")) if form.contains('=') => "needs a value",
                (Some(form), Some(_)) if !form.contains('=') => "takes no value",
                _ if list.iter().any(|(known, _)| *known == name) => "is given twice",
                _ => {
                    list.push((name, value));
                    continue;
                }
            };
            let all = if accepted.is_empty() { "no options".to_owned() } else { accepted.join(", ") };
            return Err(BuildError::new(format!("option {name:?} {wrong}; accepted here, each once: {all}")));
        }
        Ok(Self(list))
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(known, _)| *known == name).and_then(|(_, value)| *value)
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| *known == name)
    }

    /// Builds a codec with the maximum that is given, or else the default. A constructor clips a maximum that its
    /// framing cannot carry; one that is given is refused, because its author relies on it.
    fn with_max<C: Codec>(
        &self,
        default: usize,
        build: impl FnOnce(usize) -> Result<C, BuildError>,
    ) -> Result<C, BuildError> {
        let Some(text) = self.get("max") else { return build(default) };
        let max = parse_size(text)?;
        let codec = build(max)?;
        let most = codec.max_message();
        if max > most {
            let beyond = if most == MOST { "memory can hold" } else { "the length field or header can say" };
            let most = print_size(most);
            return Err(BuildError::new(format!("max={text} is more than {beyond}; accepted: up to {most}")));
        }
        Ok(codec)
    }
}

/// The default maximum of most framings in bytes: 1 MiB, like the default `max_payload` of NATS and the item size of
/// memcached.
const LONG: usize = 1024 * 1024;
/// The default maximum of lines and delimited messages in bytes: 64 KiB, like `PROTO_INLINE_MAX_SIZE` of Redis.
const SHORT: usize = 64 * 1024;

const FORMS: &str = "raw, lines, lines:crlf, len:u32be (u8 to u64, be or le), dec:WIDTH, varint, netstring, \
                     delim:BYTES, fixed:SIZE, with options behind commas, such as lines,max=4KiB";
/// The forms with a part after the colon that cannot be left out.
const DETAILS: [(&str, &str); 4] = [
    ("len", "len:u32be (u8 to u64, be or le)"),
    ("dec", "dec:WIDTH, such as dec:10"),
    ("delim", "delim:BYTES, such as delim:\\0"),
    ("fixed", "fixed:SIZE, such as fixed:64"),
];
const ESCAPES: &str = "\\0 \\n \\r \\t \\\\ \\, \\xNN";

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
