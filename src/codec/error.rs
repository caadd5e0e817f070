//! The error for codecs that cannot be built, and the checks of maximum sizes that all codecs share.
//!
//! Invariant: a maximum returned by `check_max` is at least 1, and adding any header or trailer to it cannot overflow.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use std::fmt;

use super::EncodeError;

/// Why a codec could not be built: its options contradict each other, or its text spec cannot be parsed. The text
/// names the error and what is accepted.
///
/// ```
/// let error = turnwheel::codec::Lines::lf(0).unwrap_err();
/// assert_eq!(error.to_string(), "the maximum message is 0 bytes; accepted: 1 or more");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildError(String);

impl BuildError {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BuildError {}

impl From<BuildError> for std::io::Error {
    fn from(error: BuildError) -> Self {
        Self::new(std::io::ErrorKind::InvalidInput, error)
    }
}

/// Rejects a maximum of 0 and clips one that no memory could hold.
pub(super) fn check_max(max: usize) -> Result<usize, BuildError> {
    if max == 0 {
        return Err(BuildError::new("the maximum message is 0 bytes; accepted: 1 or more"));
    }
    Ok(max.min(MOST))
}

/// Returns the length of a message, or an error if it exceeds the maximum.
#[inline]
pub(super) fn check_len(message: &[u8], max: usize) -> Result<usize, EncodeError> {
    let len = message.len();
    if len > max { Err(EncodeError::TooLong { len, max }) } else { Ok(len) }
}

/// The largest maximum (chosen): 32 TiB, a quarter of the address space of a process on x86-64, or 1 GiB with pointers
/// of 32 bits. It is far enough from `usize::MAX` that adding a header cannot overflow.
pub(super) const MOST: usize = if usize::BITS < 64 { usize::MAX / 4 } else { (usize::MAX >> 19) + 1 };
