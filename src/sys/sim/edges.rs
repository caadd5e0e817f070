//! The delivery of events: from the change that causes an event to the poll that reports it.
//!
//! Invariant: each event is delivered at least once with all its bits, though perhaps in parts, late, and after
//! events that were caused later.

use super::{Fault, MS, Sim, State};
use crate::sys::Ready;
use crate::time::Time;

impl Sim {
    /// Takes the events from the script and schedules their delivery, with faults.
    pub(super) fn launch(&mut self) {
        let due: Vec<Ready> = self.script.take_events(usize::MAX).collect();
        for ready in due {
            let peer = self.live.get(&ready.token).copied().flatten().unwrap_or(usize::MAX);
            let mut parts = vec![ready];
            if self.strikes(Fault::EdgeSplit, peer).is_some() {
                // The other half may overtake this one. A hint stays with the readiness that it explains.
                let apart = |bits| Ready { token: ready.token, bits };
                parts = [ready.bits & Ready::WRITABLE, ready.bits & !Ready::WRITABLE].map(apart).to_vec();
                parts.retain(|r| r.bits != 0);
            }
            if self.strikes(Fault::EdgeDouble, peer).is_some() {
                parts.push(ready);
            }
            if let Some(dice) = self.strikes(Fault::EdgeNoise, peer) {
                let bits = dice.between(1, 15) as u8;
                parts.push(Ready { token: ready.token, bits });
            }
            for part in parts {
                let late = self.strikes(Fault::EdgeLate, peer).map_or(0, |dice| dice.size(200 * MS));
                self.flight.push((self.script.clock.saturating_add(late as u64), part));
            }
        }
        if !self.retired.is_empty()
            && let Some(dice) = self.odds.strikes(Fault::EdgeStale, State::None)
        {
            let (token, bits) = (dice.pick(&self.retired), dice.between(1, 15) as u8);
            self.flight.push((self.script.clock, Ready { token, bits }));
        }
    }

    /// Delivers the events whose time has come, up to the capacity.
    pub(super) fn land(&mut self, ready: &mut Vec<Ready>) {
        if let Some(dice) = self.odds.strikes(Fault::EdgeOrder, State::None) {
            dice.shuffle(&mut self.flight);
        }
        let (clock, capacity) = (self.script.clock, self.script.capacity);
        let Self { flight, live, facts, stale, .. } = self;
        flight.retain(|&(at, event)| {
            if at > clock || ready.len() >= capacity {
                return true;
            }
            match live.get(&event.token) {
                None => *stale += 1,
                Some(&Some(peer)) => {
                    let strange = event.bits & (Ready::HINT | Ready::ERROR) != 0;
                    facts[peer].hints += u32::from(strange);
                    facts[peer].told_error |= event.bits & Ready::ERROR != 0;
                    facts[peer].told_readable |= strange || event.bits & Ready::READABLE != 0;
                }
                Some(None) => {}
            }
            ready.push(event);
            false
        });
    }

    /// Returns `true` if an event that reports input of this peer could have been delivered before `by`, and was not.
    pub(crate) fn owes(&self, peer: usize, by: Time) -> bool {
        let readable = |event: Ready| event.bits & (Ready::READABLE | Ready::HINT) != 0;
        let of_peer = |event: Ready| self.live.get(&event.token) == Some(&Some(peer));
        self.flight.iter().any(|&(at, event)| at < by.0 && readable(event) && of_peer(event))
    }
}
