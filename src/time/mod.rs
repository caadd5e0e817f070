//! Points in time, and what is built on them: deadlines, handler timers, a pausable clock, log rate limits.

pub(crate) mod deadlines;
pub(crate) mod log_limit;
pub(crate) mod pausable_clock;
pub(crate) mod timers;

use std::time::Duration;

/// Nanoseconds on a monotonic clock with an arbitrary origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(pub(crate) u64);

impl Time {
    /// Never reached; means that there is no deadline.
    pub(crate) const NEVER: Self = Self(u64::MAX);

    /// Returns this time plus `d`; [`Time::NEVER`] if that overflows.
    pub(crate) fn after(self, d: Duration) -> Self {
        u64::try_from(d.as_nanos()).map_or(Self::NEVER, |n| Self(self.0.saturating_add(n)))
    }

    /// Returns the nanoseconds since `earlier`; zero if `earlier` is later.
    #[inline]
    pub(crate) const fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns the time since `earlier`; zero if `earlier` is later.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos_since(earlier))
    }
}

/// Rounds down to whole milliseconds: for a caller's timeout, which must not be exceeded.
pub(crate) const fn floor_to_ms(time: Duration) -> Duration {
    Duration::new(time.as_secs(), time.subsec_millis() * 1_000_000)
}

/// Rounds up to whole milliseconds: for our own deadlines, which must have passed on waking.
pub(crate) const fn ceil_to_ms(time: Duration) -> Duration {
    floor_to_ms(time.saturating_add(Duration::from_nanos(999_999)))
}
