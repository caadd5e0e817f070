//! The timers that handlers set: any number for a connection, and for the handler itself.
//!
//! Knows neither connections nor handlers, only whose a timer is. Each owner's timers hang together in a list, so that
//! they end with it; setting and cancelling leave nothing behind. Invariant: a timer is in the list of its owner; what
//! goes off first is what is due first, and of equal ones what was set first; none goes off before its time.

use std::time::Duration;

use crate::id::{ConnId, GenSlab, HandlerIdx, HasId, TimerId};
use crate::time::Time;
use crate::time::deadlines::Deadlines;

/// Whose a timer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Connection(ConnId),
    /// A handler, by its place among the handlers.
    Handler(HandlerIdx),
}

/// The timers of one owner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimerList {
    head: u32,
    pub(crate) len: u32,
}

impl Default for TimerList {
    fn default() -> Self {
        Self { head: NONE, len: 0 }
    }
}

const NONE: u32 = u32::MAX;
/// The shortest period: a timer that goes off in every turn would never let the loop rest.
const MIN_PERIOD: Duration = Duration::from_millis(1);

#[derive(Debug)]
struct Timer {
    id: TimerId,
    owner: Owner,
    key: u64,
    after: Duration,
    every: Option<Duration>,
    /// Its neighbours in the owner's list.
    prev: u32,
    next: u32,
    /// Where it is among those set in the callback that runs.
    just_armed: u32,
}

impl HasId for Timer {
    type Id = TimerId;

    fn id(&self) -> TimerId {
        self.id
    }
}

/// What a timer that goes off is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expired {
    pub(crate) id: TimerId,
    pub(crate) owner: Owner,
    pub(crate) key: u64,
    /// It will not go off again.
    pub(crate) last: bool,
}

/// All timers.
#[derive(Debug)]
pub(crate) struct Timers {
    slots: GenSlab<Timer>,
    due: Deadlines<(Time, u64)>,
    /// How often a timer was set, ever: who was first.
    arm_count: u64,
    /// Set since the clock was last looked at: their time begins with the next look, for the callback that set them may
    /// have run a while already.
    just_armed: Vec<u32>,
}

impl Default for Timers {
    fn default() -> Self {
        Self { slots: GenSlab::new(), due: Deadlines::default(), arm_count: 0, just_armed: Vec::new() }
    }
}

impl Timers {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Sets a timer, which goes off once, or again and again.
    pub(crate) fn set(
        &mut self,
        list: &mut TimerList,
        owner: Owner,
        key: u64,
        now: Time,
        after: Duration,
        every: Option<Duration>,
    ) -> Option<TimerId> {
        let every = every.map(|d| d.max(MIN_PERIOD));
        let next = list.head;
        let new = |id| Timer { id, owner, key, after, every, prev: NONE, next, just_armed: NONE };
        let id = self.slots.insert_with(new)?;
        if let Some(next) = self.slots.in_slot_mut(list.head) {
            next.prev = id.slot;
        }
        (list.head, list.len) = (id.slot, list.len + 1);
        self.arm(id.slot, now.after(after));
        Some(id)
    }

    /// Whose a timer is; `None` for one that is gone.
    pub(crate) fn owner(&self, id: TimerId) -> Option<Owner> {
        self.slots.get(id).map(|t| t.owner)
    }

    /// Lets a timer go off this much later, whenever it was due. False for one that is gone.
    pub(crate) fn rearm(&mut self, id: TimerId, now: Time, after: Duration) -> bool {
        let Some(timer) = self.slots.get_mut(id) else { return false };
        timer.after = after;
        self.arm(id.slot, now.after(after));
        true
    }

    /// Sets a slot's deadline, for now: see [`start_pending`](Timers::start_pending).
    fn arm(&mut self, slot: u32, at: Time) {
        self.due.set(slot, (at, self.arm_count));
        self.arm_count += 1;
        if let Some(timer) = self.slots.in_slot_mut(slot).filter(|t| t.just_armed == NONE) {
            timer.just_armed = self.just_armed.len() as u32;
            self.just_armed.push(slot);
        }
    }

    /// A callback has returned, and the clock was looked at: the time of what it set begins now.
    #[inline]
    pub(crate) fn start_pending(&mut self, now: Time) {
        if !self.just_armed.is_empty() {
            self.start_all_pending(now);
        }
    }

    #[cold]
    fn start_all_pending(&mut self, now: Time) {
        while let Some(slot) = self.just_armed.pop() {
            let Some(timer) = self.slots.in_slot_mut(slot) else { continue };
            timer.just_armed = NONE;
            let (at, number) = self.due.get(slot);
            let later = now.after(timer.after).max(at);
            if later > at {
                self.due.set(slot, (later, number));
            }
        }
    }

    /// What was set between turns begins when it was set.
    #[inline]
    pub(crate) fn start_pending_as_armed(&mut self) {
        self.start_pending(Time(0));
    }

    /// Ends a timer, which is in its owner's list. False for one that is gone.
    pub(crate) fn cancel(&mut self, list: &mut TimerList, id: TimerId) -> bool {
        let there = self.slots.get(id).is_some();
        if there {
            self.remove(list, id);
        }
        there
    }

    /// Ends all timers of an owner.
    pub(crate) fn clear(&mut self, list: &mut TimerList) {
        while let Some(id) = self.slots.id_in_slot(list.head) {
            self.remove(list, id);
        }
    }

    fn remove(&mut self, list: &mut TimerList, id: TimerId) {
        let Some(timer) = self.slots.remove(id) else { return };
        self.due.clear(id.slot);
        if timer.just_armed != NONE {
            self.just_armed.swap_remove(timer.just_armed as usize);
            if let Some(moved) = self.just_armed.get(timer.just_armed as usize)
                && let Some(other) = self.slots.in_slot_mut(*moved)
            {
                other.just_armed = timer.just_armed;
            }
        }
        if let Some(next) = self.slots.in_slot_mut(timer.next) {
            next.prev = timer.prev;
        }
        match self.slots.in_slot_mut(timer.prev) {
            Some(prev) => prev.next = timer.next,
            None => list.head = timer.next,
        }
        list.len -= 1;
    }

    /// When the first one is due.
    #[inline]
    pub(crate) fn next(&self) -> Time {
        self.due.next().map_or(Time::NEVER, |((at, _), _)| at)
    }

    /// How many times timers were set so far: who was set later waits for the next turn.
    pub(crate) const fn arm_count(&self) -> u64 {
        self.arm_count
    }

    /// What goes off at `now`, if it was set before `arm_count`. One that goes off again gets its next time, in step
    /// with its last one; times that have been missed are left out. One that does not is still there, to be cancelled.
    pub(crate) fn due(&mut self, now: Time, arm_count: u64) -> Option<Expired> {
        let ((at, number), slot) = self.due.next()?;
        if at > now || number >= arm_count {
            return None;
        }
        let timer = self.slots.in_slot(slot)?;
        let (id, owner, key) = (timer.id, timer.owner, timer.key);
        if let Some(every) = timer.every {
            let every = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX);
            let missed = now.nanos_since(at) / every;
            let next = Time(at.0.saturating_add(every.saturating_mul(missed + 1)));
            self.due.set(slot, (next, self.arm_count));
            self.arm_count += 1;
        }
        Some(Expired { id, owner, key, last: timer.every.is_none() })
    }
}

#[cfg(test)]
#[path = "timers_tests.rs"]
mod tests;
