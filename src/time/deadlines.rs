//! One deadline for each slot: an indexed 4-ary heap.
//!
//! Setting, moving and clearing a deadline takes O(log n) and leaves no stale entries in the heap. Invariant:
//! `heap[place[slot]].slot == slot` for each slot with a deadline, and no entry is due before its parent.

use std::fmt;

use crate::time::Time;

/// A deadline: a time, or a time with a tiebreaker.
pub(crate) trait Due: Copy + Ord + fmt::Debug {
    /// Never reached; means that there is no deadline.
    const NEVER: Self;
}

impl Due for Time {
    const NEVER: Self = Self::NEVER;
}

impl Due for (Time, u64) {
    const NEVER: Self = (Time::NEVER, u64::MAX);
}

#[derive(Clone, Copy, Debug)]
struct Entry<D> {
    at: D,
    slot: u32,
}

/// The deadlines, at most one for each slot.
#[derive(Debug)]
pub(crate) struct Deadlines<D = Time> {
    heap: Vec<Entry<D>>,
    /// The index in `heap` of each slot, or [`NOWHERE`].
    place: Vec<u32>,
}

impl<D> Default for Deadlines<D> {
    fn default() -> Self {
        Self { heap: Vec::new(), place: Vec::new() }
    }
}

/// The place of a slot without a deadline. No heap can have so many entries.
const NOWHERE: u32 = u32::MAX;
/// Children of a node. With four the heap is half as deep as with two, and four entries of 16 bytes are as large as a
/// cache line.
const ARITY: usize = 4;

impl<D: Due> Deadlines<D> {
    /// Sets the deadline of `slot`, replacing an earlier one. [`Due::NEVER`] clears it.
    pub(crate) fn set(&mut self, slot: u32, at: D) {
        if at == D::NEVER {
            return self.clear(slot);
        }
        let s = slot as usize;
        if s >= self.place.len() {
            self.place.resize(s + 1, NOWHERE);
        }
        let i = match self.place[s] {
            NOWHERE => {
                self.heap.push(Entry { at, slot });
                self.heap.len() - 1
            }
            i => {
                self.heap[i as usize].at = at;
                i as usize
            }
        };
        // At most one of the two moves it.
        let i = self.up(i);
        self.down(i);
    }

    /// Moves the deadline of `slot` forward to `at` if it is later or not set.
    #[inline]
    pub(crate) fn bring_forward(&mut self, slot: u32, at: D) {
        if at < self.get(slot) {
            self.set(slot, at);
        }
    }

    pub(crate) fn clear(&mut self, slot: u32) {
        let Some(&i) = self.place.get(slot as usize) else { return };
        if i == NOWHERE {
            return;
        }
        self.place[slot as usize] = NOWHERE;
        let i = i as usize;
        self.heap.swap_remove(i);
        if i < self.heap.len() {
            let i = self.up(i);
            self.down(i);
        }
    }

    #[inline]
    pub(crate) fn get(&self, slot: u32) -> D {
        match self.place.get(slot as usize) {
            Some(&i) if i != NOWHERE => self.heap[i as usize].at,
            _ => D::NEVER,
        }
    }

    /// Returns the earliest deadline and its slot.
    #[inline]
    pub(crate) fn next(&self) -> Option<(D, u32)> {
        self.heap.first().map(|e| (e.at, e.slot))
    }

    /// Moves an entry towards the root until its parent is not later. Returns its new index.
    fn up(&mut self, mut i: usize) -> usize {
        let entry = self.heap[i];
        while i > 0 {
            let parent = (i - 1) / ARITY;
            if self.heap[parent].at <= entry.at {
                break;
            }
            self.put(i, self.heap[parent]);
            i = parent;
        }
        self.put(i, entry);
        i
    }

    /// Moves an entry towards the leaves until no child is earlier.
    fn down(&mut self, mut i: usize) {
        let entry = self.heap[i];
        loop {
            let first = i * ARITY + 1;
            let end = (first + ARITY).min(self.heap.len());
            let Some(least) = (first..end).min_by_key(|&c| self.heap[c].at) else { break };
            if entry.at <= self.heap[least].at {
                break;
            }
            self.put(i, self.heap[least]);
            i = least;
        }
        self.put(i, entry);
    }

    fn put(&mut self, i: usize, entry: Entry<D>) {
        self.heap[i] = entry;
        self.place[entry.slot as usize] = i as u32;
    }

    #[cfg(test)]
    fn check_invariants(&self) {
        for (i, e) in self.heap.iter().enumerate() {
            assert_eq!(self.place[e.slot as usize] as usize, i);
            assert!(i == 0 || self.heap[(i - 1) / ARITY].at <= e.at);
        }
        assert_eq!(self.place.iter().filter(|&&p| p != NOWHERE).count(), self.heap.len());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::property_tests::hold;

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Set(u32, u64),
        BringForward(u32, u64),
        Clear(u32),
        /// Time advances to the first number. Each slot that is due sets its next deadline so much later, or none.
        Advance(u64, Option<u64>),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let time = || prop_oneof![8 => 0..60u64, 1 => Just(u64::MAX), 1 => Just(u64::MAX - 1)];
        let op = prop_oneof![
            4 => (0..20u32, time()).prop_map(|(slot, at)| Op::Set(slot, at)),
            2 => (0..20u32, time()).prop_map(|(slot, at)| Op::BringForward(slot, at)),
            2 => (0..20u32).prop_map(Op::Clear),
            1 => (0..60u64, prop::option::of(1..30u64)).prop_map(|(to, again)| Op::Advance(to, again)),
        ];
        prop::collection::vec(op, 0..80)
    }

    /// Checks that exactly what is due by `now` comes out, in the order of deadlines.
    fn advance(real: &mut Deadlines, model: &mut BTreeMap<u32, u64>, now: u64, again: Option<u64>) {
        while let Some((Time(at), slot)) = real.next().filter(|(at, _)| at.0 <= now) {
            assert_eq!(model.remove(&slot), Some(at));
            assert!(model.values().all(|other| *other >= at), "an earlier one waits");
            match again {
                Some(later) => {
                    model.insert(slot, now + later);
                    real.set(slot, Time(now + later));
                }
                None => real.set(slot, Time::NEVER),
            }
        }
        assert!(model.values().all(|at| *at > now), "due and not returned");
    }

    #[test]
    fn any_changes_agree_with_a_sorted_map() {
        hold(400, ops(), |ops| {
            let mut real: Deadlines = Deadlines::default();
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Set(slot, at) => {
                        real.set(slot, Time(at));
                        model.insert(slot, at);
                    }
                    Op::BringForward(slot, at) => {
                        real.bring_forward(slot, Time(at));
                        let old = model.get(&slot).copied().unwrap_or(u64::MAX);
                        model.insert(slot, old.min(at));
                    }
                    Op::Clear(slot) => {
                        real.clear(slot);
                        model.remove(&slot);
                    }
                    Op::Advance(now, again) => advance(&mut real, &mut model, now, again),
                }
                model.retain(|_, at| *at != u64::MAX);
                real.check_invariants();
                assert_eq!(real.next().map(|(at, _)| at.0), model.values().min().copied());
                assert_eq!(real.heap.len(), model.len());
                for slot in 0..21 {
                    assert_eq!(real.get(slot).0, model.get(&slot).copied().unwrap_or(u64::MAX));
                }
            }
        });
    }

    #[test]
    fn far_deadlines_do_not_overflow() {
        assert_eq!(Time(5).after(Duration::MAX), Time::NEVER);
        assert_eq!(Time(u64::MAX - 1).after(Duration::from_secs(1)), Time::NEVER);
        assert_eq!(Time(5).since(Time(9)), Duration::ZERO);
        let mut d: Deadlines = Deadlines::default();
        d.set(3, Time::NEVER);
        assert_eq!(d.next(), None);
    }

    #[test]
    fn a_million_changes_leave_nothing_behind() {
        let mut d: Deadlines = Deadlines::default();
        for i in 0..1_000_000u64 {
            d.set(7, Time(i));
            d.bring_forward(7, Time(i / 2));
        }
        d.clear(7);
        assert_eq!(d.heap.len(), 0);
        assert!(d.heap.capacity() < 16);
    }
}
