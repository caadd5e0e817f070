//! Sizes in text form: `512`, `64KiB`, `1MiB`.
//!
//! Units are powers of 1024. `KB` is rejected because it means 1000 to some and 1024 to others.
//!
//! Invariant: `parse_size` reads what `print_size` writes back as the same number.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use super::BuildError;

/// Parses a size in bytes: digits followed by nothing or by `B`, `KiB`, `MiB` or `GiB`, or the short forms `k`, `m`
/// and `g`, in any case.
pub(super) fn parse_size(text: &str) -> Result<usize, BuildError> {
    let refuse = |what| BuildError::new(format!("size {text:?} {what}; accepted: {ACCEPTED}"));
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text.strip_prefix(digits).unwrap_or_default().to_ascii_lowercase();
    let factor: usize = match unit.as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err(refuse("has an unknown unit")),
    };
    if digits.is_empty() || digits.bytes().any(|b| !b.is_ascii_digit()) {
        return Err(refuse("is not a number"));
    }
    match digits.parse::<usize>().ok().and_then(|n| n.checked_mul(factor)) {
        None => Err(refuse("is too big")),
        Some(0) => Err(refuse("is zero")),
        Some(size) => Ok(size),
    }
}

/// Writes a size in the largest unit that needs no fraction.
pub(super) fn print_size(size: usize) -> String {
    match size {
        n if n != 0 && n.trailing_zeros() >= 30 => format!("{}GiB", n >> 30),
        n if n != 0 && n.trailing_zeros() >= 20 => format!("{}MiB", n >> 20),
        n if n != 0 && n.trailing_zeros() >= 10 => format!("{}KiB", n >> 10),
        n => n.to_string(),
    }
}

const ACCEPTED: &str = "a number of bytes from 1, such as 512, 64KiB, 1MiB or 2GiB";

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, size) in [("1", 1), ("12B", 12), ("3k", 3072), ("3KIB", 3072), ("1MiB", 1 << 20), ("1g", 1 << 30)] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
    }

    #[test]
    fn what_is_printed_reads_back() {
        for n in [1, 1023, 1024, 1025, 65_536, 1 << 20, (1 << 20) + 1024, 1 << 30, usize::MAX / 4, usize::MAX] {
            assert_eq!(parse_size(&print_size(n)), Ok(n));
        }
    }

    #[test]
    fn refusals_name_what_is_accepted() {
        for text in ["", "0", "0KiB", "KiB", "1KB", "1 MiB", "-1", "+1", "1.5M", "99999999999GiB", "9x9", "1\u{fc}"] {
            assert!(parse_size(text).unwrap_err().to_string().contains("accepted: a number of bytes"), "{text}");
        }
    }
}
