//! Tests of timers: against a model (a sorted map), and single cases.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::testing::property_tests::hold;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn at(n: u64) -> Time {
    Time(n * 1_000_000)
}

/// Timers of three owners, with their lists.
#[derive(Debug, Default)]
struct Bench {
    timers: Timers,
    lists: [TimerList; 3],
    now: Time,
}

impl Bench {
    fn set(&mut self, owner: u32, key: u64, after: Duration, every: Option<Duration>) -> TimerId {
        let list = &mut self.lists[owner as usize];
        self.timers.set(list, Owner::Handler(HandlerIdx(owner)), key, self.now, after, every).unwrap()
    }

    fn cancel(&mut self, id: TimerId) -> bool {
        let Some(Owner::Handler(HandlerIdx(owner))) = self.timers.owner(id) else { return false };
        self.timers.cancel(&mut self.lists[owner as usize], id)
    }

    /// Advances to `now`. Returns the keys of the timers that fire.
    fn advance(&mut self, now: Time) -> Vec<u64> {
        self.timers.start_pending(self.now);
        self.now = now;
        let (arm_count, mut keys) = (self.timers.arm_count(), Vec::new());
        while let Some((id, _)) = self.timers.next_due(now, arm_count) {
            let expired = self.timers.expire(id, now).unwrap();
            keys.push(expired.key);
            if expired.last {
                assert!(self.cancel(expired.id));
            }
        }
        keys
    }

    fn check(&self) {
        let sum: u32 = self.lists.iter().map(|l| l.len).sum();
        assert_eq!(sum as usize, self.timers.len());
        for (owner, list) in self.lists.iter().enumerate() {
            let (mut slot, mut n, mut prev) = (list.head, 0, NONE);
            while slot != NONE {
                let timer = &self.timers.slots.in_slot(slot).unwrap();
                assert_eq!((timer.owner, timer.prev), (Owner::Handler(HandlerIdx(owner as u32)), prev));
                (prev, slot, n) = (slot, timer.next, n + 1);
            }
            assert_eq!(n, list.len);
        }
        for (place, slot) in self.timers.just_armed.iter().enumerate() {
            assert_eq!(self.timers.slots.in_slot(*slot).unwrap().just_armed as usize, place);
        }
    }
}

#[test]
fn equal_ones_go_off_in_the_order_of_setting() {
    let mut b = Bench::default();
    for key in 0..100 {
        b.set((key % 3) as u32, key, ms(5), None);
    }
    assert_eq!(b.advance(at(4)), []);
    assert_eq!(b.advance(at(5)), (0..100).collect::<Vec<_>>());
}

#[test]
fn the_time_of_a_timer_begins_when_the_callback_that_set_it_returns() {
    let mut b = Bench::default();
    let id = b.set(0, 1, ms(10), None);
    b.set(0, 2, ms(10), None);
    b.timers.start_pending(at(7));
    b.now = at(7);
    assert!(b.timers.rearm(id, b.now, ms(3)));
    b.timers.start_pending(at(8));
    b.now = at(8);
    assert_eq!(b.advance(at(10)), []);
    assert_eq!(b.advance(at(11)), [1]);
    assert_eq!(b.advance(at(16)), []);
    assert_eq!(b.advance(at(17)), [2]);
}

#[test]
fn what_goes_off_again_keeps_step_and_leaves_out_what_it_missed() {
    let mut b = Bench::default();
    b.set(0, 1, ms(10), Some(ms(10)));
    assert_eq!(b.advance(at(10)), [1]);
    assert_eq!(b.advance(at(19)), []);
    assert_eq!(b.advance(at(23)), [1], "late");
    assert_eq!(b.advance(at(30)), [1], "and in step again");
    assert_eq!(b.advance(at(95)), [1], "once, for all that were missed");
    assert_eq!(b.advance(at(99)), []);
    assert_eq!(b.advance(at(100)), [1]);
    let id = b.set(0, 2, Duration::ZERO, Some(Duration::ZERO));
    assert_eq!(b.advance(at(100)), [2]);
    assert_eq!(b.timers.next(), at(101), "no shorter period than a millisecond");
    assert!(b.cancel(id) && !b.cancel(id));
}

#[test]
fn what_a_callback_sets_waits_for_the_next_turn() {
    let mut b = Bench::default();
    b.set(0, 1, Duration::ZERO, None);
    let arm_count = b.timers.arm_count();
    b.set(0, 2, Duration::ZERO, None);
    let first = b.timers.next_due(b.now, arm_count).and_then(|(id, _)| b.timers.expire(id, b.now));
    assert_eq!(first.map(|a| a.key), Some(1));
    let mut list = b.lists[0];
    b.timers.clear(&mut list);
    assert_eq!((list.len, b.timers.len()), (0, 0));
}

#[test]
fn from_a_millisecond_to_a_hundred_days_and_for_ever() {
    let mut b = Bench::default();
    let day = 86_400_000;
    for (key, after) in [ms(1), ms(100 * day), Duration::MAX].into_iter().enumerate() {
        b.set(0, key as u64, after, None);
    }
    assert_eq!(b.advance(Time(999_999)), []);
    assert_eq!(b.advance(at(1)), [0]);
    assert_eq!(b.advance(Time(100 * day * 1_000_000 - 1)), []);
    assert_eq!(b.advance(at(100 * day)), [1]);
    assert_eq!(b.advance(Time(u64::MAX - 1)), []);
    assert_eq!(b.timers.len(), 1, "it is there, to be cancelled");
}

#[test]
fn a_million_times_set_and_cancelled_leaves_nothing() {
    let mut b = Bench::default();
    let mut before = b.set(0, 0, ms(1), None);
    for key in 0..1_000_000 {
        let id = b.set(0, key, ms(key), None);
        assert!(b.cancel(before));
        before = id;
    }
    assert_eq!(b.timers.len(), 1);
    let capacity = (b.timers.slots.capacity(), b.timers.just_armed.capacity());
    assert!(capacity.0 <= 8 && capacity.1 <= 8, "{capacity:?}");
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Set(u32, u64, Option<u64>),
    Cancel(usize),
    Rearm(usize, u64),
    Clear(u32),
    Advance(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (0..3u32, 0..20u64, prop::option::of(1..9u64)).prop_map(|(o, a, e)| Op::Set(o, a, e)),
        2 => (0..30usize).prop_map(Op::Cancel),
        2 => (0..30usize, 0..20u64).prop_map(|(i, a)| Op::Rearm(i, a)),
        1 => (0..3u32).prop_map(Op::Clear),
        3 => (0..15u64).prop_map(Op::Advance),
    ];
    prop::collection::vec(op, 0..80)
}

/// A timer in the model: owner, period, deadline in milliseconds, and the number of the step that armed it.
type Model = BTreeMap<TimerId, (u32, Option<u64>, u64, u64)>;

#[test]
fn any_use_agrees_with_a_sorted_map() {
    hold(600, ops(), |ops| {
        let (mut b, mut model, mut given, mut count) = (Bench::default(), Model::new(), Vec::new(), 0);
        for op in ops {
            let now = b.now.0 / 1_000_000;
            count += 1;
            let old = |i: usize| given.get(i % given.len().max(1)).copied();
            match op {
                Op::Set(owner, after, every) => {
                    let id = b.set(owner, count, ms(after), every.map(ms));
                    model.insert(id, (owner, every, now + after, count));
                    given.push(id);
                }
                Op::Cancel(i) => {
                    let Some(id) = old(i) else { continue };
                    assert_eq!(b.cancel(id), model.remove(&id).is_some());
                }
                Op::Rearm(i, after) => {
                    let Some(id) = old(i) else { continue };
                    let there = model.get_mut(&id).map(|m| (m.2, m.3) = (now + after, count));
                    assert_eq!(b.timers.rearm(id, b.now, ms(after)), there.is_some());
                }
                Op::Clear(owner) => {
                    b.timers.clear(&mut b.lists[owner as usize]);
                    model.retain(|_, m| m.0 != owner);
                }
                Op::Advance(by) => {
                    let to = now + by;
                    let gone_off = b.advance(at(to)).len();
                    let due: Vec<TimerId> = model.iter().filter(|(_, m)| m.2 <= to).map(|(id, _)| *id).collect();
                    assert_eq!(gone_off, due.len());
                    for id in due {
                        let (owner, every, was, _) = model[&id];
                        match every {
                            Some(e) => model.insert(id, (owner, every, was + e * ((to - was) / e + 1), count)),
                            None => model.remove(&id),
                        };
                    }
                }
            }
            b.check();
            let first = model.values().map(|m| at(m.2)).min().unwrap_or(Time::NEVER);
            assert_eq!((b.timers.len(), b.timers.next()), (model.len(), first));
        }
    });
}

#[test]
fn the_timers_around_a_cancelled_one_still_end_with_their_owner() {
    for gone in 0..3 {
        let mut b = Bench::default();
        let ids: Vec<TimerId> = (0..3).map(|key| b.set(0, key, ms(5), None)).collect();
        assert!(b.cancel(ids[gone]));
        b.check();
        b.timers.clear(&mut b.lists[0]);
        assert_eq!((b.timers.len(), b.lists[0].len, b.timers.next()), (0, 0, Time::NEVER));
    }
}
