//! The clock of the simulated system, which is late, leaps, freezes, or seems to step back.
//!
//! Invariant: the simulation's own time never goes back.

use super::{Fault, MS, Sim};
use crate::time::Time;

impl Sim {
    pub(super) fn look(&mut self) -> Time {
        let now = self.tick();
        self.seen = self.seen.max(now);
        if self.mark.get().is_none() {
            self.mark.set(Some(Time(self.seen)));
        }
        Time(now)
    }

    /// Advances the clock by a random step and returns the time to report.
    fn tick(&mut self) -> u64 {
        if self.frozen > 0 {
            self.frozen -= 1;
            return self.script.clock;
        }
        let mut step = self.dice.below(20_000);
        if let Some(dice) = self.strikes_all(Fault::ClockLate) {
            step = dice.below(500 * MS);
        }
        if self.strikes_all(Fault::ClockLeap).is_some() {
            step = 864_000_000 * MS;
        }
        if self.strikes_all(Fault::ClockFrozen).is_some() {
            self.frozen = 1000;
        }
        self.script.clock = self.script.clock.saturating_add(step as u64);
        if self.strikes_all(Fault::ClockBack).is_some() {
            return self.script.clock.saturating_sub(1000 * MS as u64);
        }
        self.script.clock
    }
}
