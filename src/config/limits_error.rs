//! What is wrong with limits, in words. Knows none of them. Invariant: each error names what is wrong, and what would
//! be right.

use std::fmt;

/// Why a [`Limits`](crate::Limits) was refused.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitsError {
    /// This limit is zero; it must be at least 1.
    Zero(&'static str),
    /// This limit is zero; it must be at least 1, or `Unlimited`.
    ZeroLimit(&'static str),
    /// This limit is the size of something made at once, and too large for that.
    TooLarge {
        /// The limit at fault.
        name: &'static str,
        /// What it is.
        value: u64,
        /// The most it may be.
        max: u64,
    },
    /// Two limits contradict each other: `name` is `value` but must be `relation` `other`, which is `number`.
    Contradiction {
        /// The limit at fault.
        name: &'static str,
        /// What it is.
        value: u64,
        /// What it must be to the other ("at least", "below").
        relation: &'static str,
        /// The other limit.
        other: &'static str,
        /// What that one is.
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

/// The same text: it is what `main` prints of an error that it returns.
impl fmt::Debug for LimitsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
