//! A stopwatch that can be paused: it measures a duration without its pauses.

use super::Time;

/// Measures how long something has taken, without its pauses.
///
/// One `u64`: the top bit is set while it is paused. The rest is the start time while it runs, and the elapsed time
/// while it is paused. (A monotonic clock in nanoseconds reaches the top bit after 292 years.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PausableClock(u64);

/// The bit that is set while the clock is paused.
const PAUSED: u64 = 1 << 63;

impl PausableClock {
    pub(crate) const fn start(now: Time) -> Self {
        Self(now.0 & !PAUSED)
    }

    #[inline]
    pub(crate) const fn is_paused(self) -> bool {
        self.0 & PAUSED != 0
    }

    pub(crate) fn pause(&mut self, now: Time) {
        debug_assert!(!self.is_paused(), "paused twice");
        self.0 = now.0.saturating_sub(self.0) | PAUSED;
    }

    pub(crate) fn resume(&mut self, now: Time) {
        debug_assert!(self.is_paused(), "resumed while it runs");
        self.0 = now.0.saturating_sub(self.0 & !PAUSED);
    }

    /// Returns when it would have started if it had never been paused. It must be running.
    #[inline]
    pub(crate) fn started(self) -> Time {
        debug_assert!(!self.is_paused(), "a paused clock has no start");
        Time(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_do_not_count() {
        let mut clock = PausableClock::start(Time(100));
        clock.pause(Time(130));
        assert!(clock.is_paused());
        clock.resume(Time(1_000));
        assert_eq!((clock.is_paused(), clock.started()), (false, Time(970)));
        clock.pause(Time(980));
        clock.resume(Time(980));
        assert_eq!(clock.started(), Time(970), "no pause at all");
    }
}
