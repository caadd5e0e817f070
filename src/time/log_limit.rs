//! Rate limits for log lines that peers can provoke: a burst of ten lines, then one a second.
//!
//! Invariant: in any period at most `BURST` lines plus one a second pass, and the next line that passes reports how
//! many were suppressed.

use crate::time::Time;

/// Lines that may pass at once. Chosen: enough to see a pattern, few enough to read.
const BURST: u32 = 10;
/// Nanoseconds until one more line may pass. Chosen: one second, at most 86 400 lines a day for each limiter.
const REFILL: u64 = 1_000_000_000;

/// A token bucket for one kind of log line.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RateLimiter {
    spent: u32,
    since: Time,
    held_back: u64,
}

impl RateLimiter {
    /// Returns how many lines were suppressed since the last one that passed, or `None` if this one is suppressed too.
    pub(crate) fn allow(&mut self, now: Time) -> Option<u64> {
        let earned = now.nanos_since(self.since) / REFILL;
        if earned > 0 {
            self.spent = self.spent.saturating_sub(u32::try_from(earned).unwrap_or(u32::MAX));
            // Not `now`: the part of a second that has passed still counts.
            self.since = Time(self.since.0 + earned * REFILL);
        }
        if self.spent >= BURST {
            self.held_back += 1;
            return None;
        }
        // A full bucket earns nothing: its next second begins with this line.
        if self.spent == 0 {
            self.since = now;
        }
        self.spent += 1;
        Some(std::mem::take(&mut self.held_back))
    }
}

/// Returns `" (n more suppressed)"`, or an empty string for zero.
pub(crate) fn suppressed(n: u64) -> String {
    if n == 0 { String::new() } else { format!(" ({n} more suppressed)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_then_one_a_second() {
        let mut t = RateLimiter::default();
        let mut lines = 0;
        let mut held_back = 0;
        for i in 0..30_000u64 {
            if let Some(n) = t.allow(Time(i * 1_000_000)) {
                lines += 1;
                held_back += n;
            }
        }
        assert!((10..=10 + 30).contains(&lines), "{lines}");
        assert!(lines >= 38, "{lines}");
        assert!(held_back + lines >= 29_000 && held_back + lines <= 30_000);
    }

    #[test]
    fn a_quiet_minute_gives_back_the_burst() {
        let mut t = RateLimiter::default();
        let at = |s: u64| Time(s * 1_000_000_000);
        assert_eq!((0..50).filter(|_| t.allow(at(100)).is_some()).count(), 10);
        assert_eq!(t.allow(at(160)), Some(40));
        assert_eq!((0..50).filter(|_| t.allow(at(160)).is_some()).count(), 9);
    }
}
