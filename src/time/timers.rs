//! Handler timers: any number for a connection, and for a handler itself.
//!
//! The timers of an owner form a linked list, so that all can be cancelled with it. Invariant: a timer is in the list
//! of its owner; timers fire in the order of their deadlines, equal ones in the order in which they were armed, and
//! none fires early.

use std::time::Duration;

use crate::id::{ConnId, GenSlab, HandlerIdx, HasId, TimerId};
use crate::time::Time;
use crate::time::deadlines::{Deadlines, Due};

/// The owner of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Connection(ConnId),
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

/// No slot: the end of a list, or not in it.
const NONE: u32 = u32::MAX;
/// The shortest period of a repeating timer. A shorter one would expire in every turn, so that the loop never sleeps;
/// one millisecond is the resolution of the system's wait.
const MIN_PERIOD: Duration = Duration::from_millis(1);

#[derive(Debug)]
struct Timer {
    id: TimerId,
    owner: Owner,
    key: u64,
    after: Duration,
    every: Option<Duration>,
    /// How many times it was held since it last fired.
    held: u8,
    /// The slots of its neighbors in the owner's list, or [`NONE`].
    prev: u32,
    next: u32,
    /// Its index in [`Timers::just_armed`], or [`NONE`].
    just_armed: u32,
}

impl HasId for Timer {
    type Id = TimerId;

    fn id(&self) -> TimerId {
        self.id
    }
}

/// A timer that has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expired {
    pub(crate) id: TimerId,
    pub(crate) owner: Owner,
    pub(crate) key: u64,
    /// It does not repeat.
    pub(crate) last: bool,
}

/// A timer that is due, and waits for a later turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    id: TimerId,
    due: (Time, u64),
}

/// All timers.
#[derive(Debug)]
pub(crate) struct Timers {
    slots: GenSlab<Timer>,
    due: Deadlines<(Time, u64)>,
    /// How many times timers were armed. Each armed timer takes the next number, which orders equal deadlines.
    arm_count: u64,
    /// Timers armed since the clock was last read. Their delay starts at the next reading: the callback that armed them
    /// may have run for a while, and `now` is from before it.
    just_armed: Vec<u32>,
}

impl Default for Timers {
    fn default() -> Self {
        Self { slots: GenSlab::new(), due: Deadlines::default(), arm_count: 0, just_armed: Vec::new() }
    }
}

impl Timers {
    /// How many timers there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Sets a timer that fires after `after`, and then with the period `every`, if given. Returns `None` if no slot is
    /// left.
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
        let new = |id| Timer { id, owner, key, after, every, held: 0, prev: NONE, next, just_armed: NONE };
        let id = self.slots.insert_with(new)?;
        if let Some(next) = self.slots.in_slot_mut(list.head) {
            next.prev = id.slot;
        }
        (list.head, list.len) = (id.slot, list.len + 1);
        self.arm(id.slot, now.after(after));
        Some(id)
    }

    /// Returns the owner of a timer; `None` if the timer no longer exists.
    pub(crate) fn owner(&self, id: TimerId) -> Option<Owner> {
        self.slots.get(id).map(|t| t.owner)
    }

    /// Re-arms a timer to fire `after` from now, whenever it was due before. Returns `false` if it no longer exists.
    pub(crate) fn rearm(&mut self, id: TimerId, now: Time, after: Duration) -> bool {
        let Some(timer) = self.slots.get_mut(id) else { return false };
        timer.after = after;
        self.arm(id.slot, now.after(after));
        true
    }

    /// Sets the deadline of a timer. It is preliminary until [`start_pending`](Timers::start_pending).
    fn arm(&mut self, slot: u32, at: Time) {
        self.due.set(slot, (at, self.arm_count));
        self.arm_count += 1;
        if let Some(timer) = self.slots.in_slot_mut(slot).filter(|t| t.just_armed == NONE) {
            timer.just_armed = self.just_armed.len() as u32;
            self.just_armed.push(slot);
        }
    }

    /// Starts the delay of the timers that were just armed. Called when a callback has returned and the clock was read.
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
            // Never moved forward: `start_pending_as_armed` passes time zero. The number stays, so that timers with
            // equal deadlines fire in the order of arming.
            self.due.set(slot, (now.after(timer.after).max(at), number));
        }
    }

    /// Starts the timers that were armed between turns: their delay counts from when they were armed.
    #[inline]
    pub(crate) fn start_pending_as_armed(&mut self) {
        self.start_pending(Time(0));
    }

    /// Cancels a timer, which is in the list of its owner. Returns `false` if it no longer exists.
    pub(crate) fn cancel(&mut self, list: &mut TimerList, id: TimerId) -> bool {
        let Some(timer) = self.slots.remove(id) else { return false };
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
        true
    }

    /// Cancels all timers of an owner.
    pub(crate) fn clear(&mut self, list: &mut TimerList) {
        while let Some(id) = self.slots.id_in_slot(list.head) {
            self.cancel(list, id);
        }
    }

    /// Returns when the first timer is due; [`Time::NEVER`] if there is none.
    #[inline]
    pub(crate) fn next(&self) -> Time {
        self.due.next().map_or(Time::NEVER, |((at, _), _)| at)
    }

    /// How many times timers were armed so far. See [`due`](Timers::due).
    pub(crate) const fn arm_count(&self) -> u64 {
        self.arm_count
    }

    /// Returns the first timer that is due at `until`, with its owner, if it was armed before `arm_count`. (Timers
    /// armed later wait for the next turn.)
    pub(crate) fn next_due(&self, until: Time, arm_count: u64) -> Option<(TimerId, Owner)> {
        let ((at, number), slot) = self.due.next()?;
        let timer = self.slots.in_slot(slot).filter(|_| at <= until && number < arm_count)?;
        Some((timer.id, timer.owner))
    }

    /// Takes a timer that is due out of the order, so that the next one can be looked at. Returns `None` if that was
    /// done `most` times since it last fired, else what [`unhold`](Timers::unhold) needs.
    pub(crate) fn hold(&mut self, id: TimerId, most: u8) -> Option<Held> {
        let timer = self.slots.live_mut(id).filter(|t| t.held < most)?;
        timer.held += 1;
        let due = self.due.get(id.slot);
        self.due.clear(id.slot);
        Some(Held { id, due })
    }

    /// Puts a timer back where it was, unless it was cancelled or re-armed meanwhile.
    pub(crate) fn unhold(&mut self, Held { id, due }: Held) {
        if self.slots.get(id).is_some() && self.due.get(id.slot) == Due::NEVER {
            self.due.set(id.slot, due);
        }
    }

    /// Returns `true` if a timer is held.
    #[cfg(test)]
    pub(crate) fn is_held(&self, id: TimerId) -> bool {
        self.due.get(id.slot) == Due::NEVER
    }

    /// Expires a timer that is due at `until`. A repeating timer is re-armed in step with its period; missed periods
    /// are skipped. A one-shot timer stays; the caller cancels it.
    pub(crate) fn expire(&mut self, id: TimerId, until: Time) -> Option<Expired> {
        let (at, _) = self.due.get(id.slot);
        let timer = self.slots.live_mut(id)?;
        timer.held = 0;
        let expired = Expired { id, owner: timer.owner, key: timer.key, last: timer.every.is_none() };
        if let Some(every) = timer.every {
            let every = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX);
            // Missed periods are not made up for: after a leap of the clock they would fire in turn after turn.
            let missed = until.nanos_since(at) / every;
            let next = Time(at.0.saturating_add(every.saturating_mul(missed + 1)));
            self.due.set(id.slot, (next, self.arm_count));
            self.arm_count += 1;
        }
        Some(expired)
    }
}

#[cfg(test)]
#[path = "timers_tests.rs"]
mod tests;
