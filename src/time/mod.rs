//! Points in time, and what is kept by them: deadlines, timers, and the rate of log lines.

pub(crate) mod deadlines;
pub(crate) mod log_limit;
pub(crate) mod pausable_clock;
pub(crate) mod timers;

use std::time::Duration;

/// Nanoseconds on a monotonic clock with an arbitrary origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(pub(crate) u64);

impl Time {
    /// Never reached: the deadline of what has none.
    pub(crate) const NEVER: Self = Self(u64::MAX);

    /// This time plus `d`; [`Time::NEVER`] when that is too far to count.
    pub(crate) fn after(self, d: Duration) -> Self {
        u64::try_from(d.as_nanos()).map_or(Self::NEVER, |n| Self(self.0.saturating_add(n)))
    }

    /// Nanoseconds since `earlier`; zero when it is not in the past.
    #[inline]
    pub(crate) const fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// How long ago `earlier` was; zero when it is not in the past.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A time in whole milliseconds, rounded down: for who must not sleep longer.
pub(crate) const fn floor_to_ms(time: Duration) -> Duration {
    Duration::new(time.as_secs(), time.subsec_millis() * 1_000_000)
}

/// A time in whole milliseconds, rounded up: for who must not wake earlier.
pub(crate) const fn ceil_to_ms(time: Duration) -> Duration {
    floor_to_ms(time.saturating_add(Duration::from_nanos(999_999)))
}
