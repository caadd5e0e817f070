//! Why a codec could not be built, and the rule for maximum sizes that all codecs share.
//!
//! It knows no framing and no text; whoever refuses something writes the sentence.
//!
//! Invariant: a maximum that has passed `check_max` is at least 1 and small enough that adding any header or trailer
//! to it cannot overflow.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use std::fmt;

/// Why a codec could not be built: its options contradict each other, or its text spec is not understood. The text
/// names what was wrong and what is accepted.
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

/// Refuses a maximum of 0, and clips one that no memory could hold.
pub(super) fn check_max(max: usize) -> Result<usize, BuildError> {
    if max == 0 {
        return Err(BuildError::new("the maximum message is 0 bytes; accepted: 1 or more"));
    }
    Ok(max.min(MOST))
}

/// More than any buffer can hold, and far enough from `usize::MAX` for sums with headers.
pub(super) const MOST: usize = usize::MAX / 4;
