//! The error type of [`Limits::check`](crate::Limits::check).
//!
//! Invariant: each error names what is wrong and what would be accepted.

use std::fmt;

/// Why [`Limits`](crate::Limits) were rejected.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitsError {
    /// This limit is zero; it must be at least 1.
    Zero(&'static str),
    /// This limit is zero; it must be at least 1 or `Unlimited`.
    ZeroLimit(&'static str),
    /// This limit is the size of memory that is allocated up front, and it is too large for that.
    TooLarge {
        /// The name of the limit.
        name: &'static str,
        /// Its value.
        value: u64,
        /// The maximum.
        max: u64,
    },
    /// Two limits contradict each other: `name` is `value` but must be `relation` `other`, which is `number`.
    Contradiction {
        /// The name of the limit.
        name: &'static str,
        /// Its value.
        value: u64,
        /// The required relation to the other limit ("at least", "below").
        relation: &'static str,
        /// The name of the other limit.
        other: &'static str,
        /// The value of the other limit.
        number: u64,
    },
}

impl fmt::Display for LimitsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero(name) => write!(f, "limit {name} is zero; it must be at least 1"),
            Self::ZeroLimit(name) => {
                write!(f, "limit {name} is zero; it must be at least 1, or Limit::Unlimited")
            }
            Self::TooLarge { name, value, max } => {
                write!(f, "limit {name} is {value}; it may be at most {max}")
            }
            Self::Contradiction { name, value, relation, other, number } => {
                write!(f, "limit {name} is {value}, but must be {relation} {other}, which is {number}")
            }
        }
    }
}

impl std::error::Error for LimitsError {}

impl From<LimitsError> for std::io::Error {
    fn from(e: LimitsError) -> Self {
        Self::new(std::io::ErrorKind::InvalidInput, e)
    }
}

/// Writes the same text as `Display`: `main` prints an error that it returns with `Debug`.
impl fmt::Debug for LimitsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
