//! Tests of the text form: what is printed can be parsed, and what is rejected is explained.

#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use super::*;

#[test]
fn the_canonical_text_reads_back_as_an_equal_codec() {
    for (spec, canonical) in [
        ("raw", "raw,max=1MiB"),
        ("raw,max=4096", "raw,max=4KiB"),
        ("lines", "lines,max=64KiB"),
        ("lines:lf,discard", "lines,discard,max=64KiB"),
        ("lines:crlf,max=99,discard", "lines:crlf,discard,max=99"),
        ("len:u32be,max=1MiB", "len:u32be,max=1MiB"),
        ("len:u8", "len:u8,max=255"),
        ("len:u8le,max=7", "len:u8,max=7"),
        ("len:u24", "len:u24be,max=1MiB"),
        ("len:u56le,offset=2,prefix=CAfe", "len:u56le,offset=2,prefix=cafe,max=1MiB"),
        ("len:u64,prefix=0000,offset=2,inclusive", "len:u64be,offset=2,inclusive,max=1MiB"),
        ("len:u16,adjust=-2", "len:u16be,inclusive,max=65533"),
        ("len:u16,adjust=-2,inclusive,strip=2", "len:u16be,adjust=-4,max=65531"),
        ("len:u16,adjust=3,strip=0,offset=1,max=1k", "len:u16be,offset=1,adjust=3,strip=0,max=1KiB"),
        ("dec:10", "dec:10,max=1MiB"),
        ("dec:3", "dec:3,max=999"),
        ("dec:64,max=32768GiB", "dec:64,max=32768GiB"),
        ("len:u8,max=255", "len:u8,max=255"),
        ("varint,max=512m", "varint,max=512MiB"),
        ("netstring,max=1", "netstring,max=1"),
        ("delim:\\0", "delim:\\0,max=64KiB"),
        ("delim:\\,\\\\\\x41\\r\\n\\t \u{e9},discard", "delim:\\,\\\\A\\r\\n\\t\\x20\\xc3\\xa9,discard,max=64KiB"),
        ("delim:a\\,max=0", "delim:a\\,max=0,max=64KiB"),
        ("fixed:64", "fixed:64"),
        ("fixed:4096", "fixed:4KiB"),
    ] {
        let codec: AnyCodec = spec.parse().unwrap();
        assert_eq!(codec.to_string(), canonical, "{spec}");
        assert_eq!(canonical.parse(), Ok(codec), "{spec}");
    }
}

#[test]
fn refusals_say_what_was_wrong_and_what_is_accepted() {
    for (spec, wrong, accepted) in [
        ("", "unknown form \"\"", FORMS),
        ("line", "unknown form \"line\"", FORMS),
        ("lines:cr", "unknown form", FORMS),
        ("varint:3", "unknown form", FORMS),
        ("len", "the part after \"len:\" is missing", "len:u32be"),
        ("len:,max=3", "the part after \"len:\" is missing", "len:u32be"),
        ("dec", "the part after \"dec:\" is missing", "dec:10"),
        ("dec:", "the part after \"dec:\" is missing", "dec:10"),
        ("delim", "the part after \"delim:\" is missing", "delim:\\0"),
        ("fixed,max=3", "the part after \"fixed:\" is missing", "fixed:64"),
        ("len:u12", "unknown length field \"u12\"", "u8, u16, u24"),
        ("len:u32be,mox=3", "option \"mox\" is unknown", "max=SIZE, offset=N, adjust=N, inclusive"),
        ("lines,", "option \"\" is unknown", "max=SIZE, discard"),
        ("lines,max=3,max=3", "\"max\" is given twice", "each once"),
        ("lines,max", "\"max\" needs a value", "max=SIZE"),
        ("lines,max=", "\"max\" needs a value", "max=SIZE"),
        ("lines,discard=1", "\"discard\" takes no value", "discard"),
        ("lines,max=0", "size \"0\" is zero", "from 1"),
        ("lines,max=99999999999999999999", "is too big", "bytes"),
        ("lines,max=3KB", "unknown unit", "64KiB"),
        ("raw,discard", "\"discard\" is unknown", "max=SIZE"),
        ("fixed:64,max=3", "\"max\" is unknown", "no options"),
        ("fixed:0", "is zero", "from 1"),
        ("dec:x", "dec:x", "a whole number"),
        ("dec:65", "65 characters", "1 to 64"),
        ("dec:3,max=1000", "max=1000 is more than the length field or header can say", "up to 999"),
        ("len:u8,max=1MiB", "max=1MiB is more than the length field", "up to 255"),
        ("len:u16,adjust=-2,max=65534", "max=65534 is more than the length field", "up to 65533"),
        ("lines,discard,max=99999GiB", "max=99999GiB is more than memory can hold", "up to 32768GiB"),
        ("delim:\\,max=0,max=99999GiB", "is more than memory can hold", "up to 32768GiB"),
        ("len:u64,max=99999GiB", "is more than memory can hold", "up to 32768GiB"),
        ("raw,max=99999GiB", "is more than memory can hold", "up to 32768GiB"),
        ("fixed:99999GiB", "bytes", "accepted: 1 to"),
        ("delim:", "0 bytes", "1 to 64"),
        ("delim:\\q", "bad escape \\q", ESCAPES),
        ("delim:\\x4", "bad escape \\x", ESCAPES),
        ("delim:a\\", "ends inside an escape", ESCAPES),
        ("len:u32,offset=-1", "offset=-1", "a whole number"),
        ("len:u32,adjust=9999999999999999999", "adjust=", "a whole number"),
        ("len:u32,strip=3", "initial_bytes_to_strip is 3", "4 (the header) or 0"),
        ("len:u32,offset=1,prefix=abc", "prefix=abc", "even number of hexadecimal digits"),
        ("len:u32,offset=1,prefix=zz", "prefix=zz", "hexadecimal"),
        ("len:u32,offset=1,prefix=abcd", "header_prefix has 2 bytes", "exactly length_field_offset, 1"),
    ] {
        let error = spec.parse::<AnyCodec>().unwrap_err().to_string();
        let wanted = error.contains(wrong) && error.contains(accepted) && error.contains(&format!("{spec:?}"));
        assert!(wanted, "{error}");
    }
}

#[test]
fn no_text_does_harm() {
    let words = ["len:", "u16", "delim:", "\\", "x", ",", "=", "max", "dec:", "prefix", "9", "offset", "\u{20ac}"];
    for n in 0..words.len().pow(4) {
        let spec: String = (0..4).map(|i| words[n / words.len().pow(i) % words.len()]).collect();
        if let Ok(codec) = spec.parse::<AnyCodec>() {
            assert_eq!(codec.to_string().parse(), Ok(codec), "{spec}");
        }
    }
}
