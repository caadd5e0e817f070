//! Keeps what peers can provoke from flooding the log: ten lines at once, then one a second.
//!
//! Knows neither what is logged nor where. Invariant: over any stretch of time, at most `BURST` + one a second pass,
//! and what was held back is counted in the next line that passes.

use crate::time::Time;

/// Lines that may come at once.
const BURST: u32 = 10;
/// After that, one each second.
const REFILL: u64 = 1_000_000_000;

/// A token bucket for one kind of line.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RateLimiter {
    spent: u32,
    since: Time,
    held_back: u64,
}

impl RateLimiter {
    /// Whether a line may be written now, and how many were held back since the last one.
    pub(crate) fn allow(&mut self, now: Time) -> Option<u64> {
        let earned = now.0.saturating_sub(self.since.0) / REFILL;
        if earned > 0 {
            self.spent = self.spent.saturating_sub(u32::try_from(earned).unwrap_or(u32::MAX));
            self.since = Time(self.since.0 + earned * REFILL);
        }
        if self.spent >= BURST {
            self.held_back += 1;
            return None;
        }
        if self.spent == 0 {
            self.since = now;
        }
        self.spent += 1;
        Some(std::mem::take(&mut self.held_back))
    }
}

/// " (n more suppressed)", or nothing.
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
