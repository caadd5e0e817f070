//! A model of an actor's timers: which must fire, when, and in which order.
//!
//! Uses only the actor's own calls and the times of callbacks. The delay of a timer starts when its callback has
//! returned and the loop has read the clock; the simulated system reports that time ([`Mark`]). Invariant: each timer
//! fires as often as it should, in order, never early, and at most a bounded number of turns late.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::core::Core;
use crate::handler::Handler;
use crate::handler::net::Net;
use crate::id::{ConnId, TimerId};
use crate::reactor::audit::require;
use crate::sys::sim::Mark;
use crate::testing::view::View;
use crate::time::Time;

/// The shortest period, that of the public API.
const SHORTEST: Duration = Duration::from_millis(1);
/// The number of turns that a timer may be late: while input of its connection is unread (the loop's 64 turns and two
/// more), and for other reasons (chosen).
pub(super) const TURNS_TO_CATCH_UP: usize = 66;
const FEW: usize = 4;

#[derive(Debug)]
struct Alarm {
    id: TimerId,
    owner: Option<ConnId>,
    after: Duration,
    every: Option<Duration>,
    /// When it expires, once the clock has been read.
    at: Option<Time>,
    number: u64,
    /// The number of turns at whose end it was overdue.
    late: Cell<usize>,
}

#[derive(Debug, Default)]
pub(super) struct TimerModel {
    alarms: BTreeMap<u64, Alarm>,
    /// Some timers that no longer exist.
    gone: Vec<TimerId>,
    keys: u64,
    count: u64,
    pub(super) mark: Mark,
    /// The highest number of timers.
    most: usize,
    pub(super) fired: u64,
}

fn is_open(core: &Core, owner: Option<ConnId>) -> bool {
    owner.is_none_or(|id| core.conns.get(id).is_some_and(|c| c.phase == crate::connection::Phase::Open))
}

impl TimerModel {
    /// Records that a callback begins: the delays of the timers set before have started.
    pub(super) fn begin(&mut self) {
        let Some(now) = self.mark.take() else { return };
        for alarm in self.alarms.values_mut().filter(|a| a.at.is_none()) {
            alarm.at = Some(now.after(alarm.after));
        }
    }

    /// Removes the timers of a connection that has closed, or whose id was reused.
    pub(super) fn forget(&mut self, owner: ConnId) {
        let gone = &mut self.gone;
        self.alarms.retain(|_, a| {
            let stays = a.owner != Some(owner);
            if !stays {
                gone.push(a.id);
            }
            stays
        });
    }

    fn live<'a>(&'a self, core: &'a Core) -> impl Iterator<Item = &'a Alarm> {
        self.alarms.values().filter(|a| is_open(core, a.owner))
    }

    /// Returns the number of timers, including those of closing connections.
    pub(super) fn len(&self) -> usize {
        self.alarms.len()
    }

    /// Returns an unused key.
    pub(super) fn next_key(&mut self) -> u64 {
        self.keys += 1;
        self.keys
    }

    /// Records that a timer was set or refused.
    pub(super) fn set(
        &mut self,
        core: &Core,
        key: u64,
        owner: Option<ConnId>,
        (after, every): (Duration, bool),
        id: Option<TimerId>,
    ) -> Result<(), String> {
        let all = self.live(core).count();
        let own = self.live(core).filter(|a| owner.is_some() && a.owner == owner).count();
        let window = all < core.limits.timers && own < core.limits.timers_per_connection && is_open(core, owner);
        require(id.is_some() == window, || format!("a timer of {owner:?}: {id:?}, {own} and {all} there"))?;
        let Some(id) = id else { return Ok(()) };
        self.count += 1;
        let every = every.then(|| after.max(SHORTEST));
        let (number, late) = (self.count, Cell::new(0));
        self.alarms.insert(key, Alarm { id, owner, after, every, at: None, number, late });
        self.most = self.most.max(self.alarms.len());
        Ok(())
    }

    /// Returns the `n`-th existing timer, or one that no longer exists.
    fn some(&self, n: usize) -> Option<(Option<u64>, TimerId)> {
        let all = self.alarms.len() + self.gone.len().min(8);
        let n = n.checked_rem(all)?;
        match self.alarms.iter().nth(n) {
            Some((key, alarm)) => Some((Some(*key), alarm.id)),
            None => Some((None, self.gone[self.gone.len() - 1 - (n - self.alarms.len())])),
        }
    }

    fn is_there(&self, core: &Core, key: Option<u64>) -> bool {
        key.and_then(|key| self.alarms.get(&key)).is_some_and(|a| is_open(core, a.owner))
    }

    pub(super) fn cancel(&mut self, net: &mut Net<'_>, n: usize) -> Result<(), String> {
        let Some((key, id)) = self.some(n) else { return Ok(()) };
        let there = self.is_there(net.core(), key);
        require(net.cancel_timer(id) == there, || format!("cancelled {id:?}, which is there: {there}"))?;
        if let Some(key) = key {
            self.alarms.remove(&key);
            self.gone.push(id);
        }
        require(!net.cancel_timer(id), || format!("cancelled {id:?} twice"))
    }

    pub(super) fn rearm(&mut self, net: &mut Net<'_>, n: usize, after: Duration) -> Result<(), String> {
        let Some((key, id)) = self.some(n) else { return Ok(()) };
        let there = self.is_there(net.core(), key);
        require(net.rearm_timer(id, after) == there, || format!("rearmed {id:?}, which is there: {there}"))?;
        if let Some(alarm) = key.filter(|_| there).and_then(|key| self.alarms.get_mut(&key)) {
            self.count += 1;
            (alarm.after, alarm.at, alarm.number) = (after, None, self.count);
            alarm.late.set(0);
        }
        Ok(())
    }

    /// Checks a timer that fires.
    pub(super) fn fires(&mut self, net: &mut Net<'_>, owner: Option<ConnId>, key: u64) -> Result<(), String> {
        self.fired += 1;
        let core = net.core();
        let (now, seen_until) = (core.now, core.seen_until);
        let Some(alarm) = self.alarms.get(&key) else {
            return Err(format!("N5: timer {key} of {owner:?} went off, and is not there"));
        };
        require(alarm.owner == owner, || format!("N5: timer {key} of {:?} fired for {owner:?}", alarm.owner))?;
        let Some(at) = alarm.at else {
            return Err(format!("N11: timer {key} went off in the callback that set it"));
        };
        require(at <= seen_until, || {
            format!("N11: timer {key} fired at {now:?}, seen until {seen_until:?}, due at {at:?}")
        })?;
        // The timers of a connection are held while its input is unread.
        let comes = |a: &&Alarm| a.number == alarm.number || !core.timers.is_held(a.id);
        let first = self.live(core).filter(comes).filter_map(|a| Some((a.at?, a.number))).min();
        require(first == Some((at, alarm.number)), || {
            let before = self.live(core).find(|a| Some((a.at.unwrap_or(Time::NEVER), a.number)) == first);
            format!("N11: timer {key}, {alarm:?}, fired before {before:?} at {now:?}")
        })?;
        let (id, every) = (alarm.id, alarm.every);
        let Some(every) = every else {
            self.alarms.remove(&key);
            self.gone.push(id);
            return require(!net.cancel_timer(id), || format!("timer {key} could be cancelled when it went off"));
        };
        let every = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX);
        let missed = seen_until.nanos_since(at) / every;
        let next = Time(at.0.saturating_add(every.saturating_mul(missed + 1)));
        self.count += 1;
        let number = self.count;
        if let Some(alarm) = self.alarms.get_mut(&key) {
            (alarm.at, alarm.number) = (Some(next), number);
            alarm.late.set(0);
        }
        Ok(())
    }

    /// Checks at the end of a turn that the right number of timers exists, that something will wake the loop, and
    /// that none is long overdue.
    pub(super) fn check<H: Handler>(&self, view: &View<H>) -> Result<(), String> {
        let core = &view.inner.dispatcher.core;
        let (all, there) = (self.live(core).count(), core.timers.len());
        require(all == there, || format!("N6: {all} timers are set, {there} are there"))?;
        let share = core.limits.timeouts_per_turn;
        let most = TURNS_TO_CATCH_UP + FEW + 2 * self.most.div_ceil(share);
        let wakes = view.inner.next_deadline();
        for alarm in self.live(core) {
            let at = alarm.at.or_else(|| Some(self.mark.get()?.after(alarm.after)));
            let Some(at) = at else { continue };
            require(wakes <= at.max(core.now), || format!("N7: {alarm:?} is set, but the loop wakes at {wakes:?}"))?;
            if at <= core.seen_until {
                alarm.late.set(alarm.late.get() + 1);
            }
            require(alarm.late.get() <= most, || format!("N10: overdue for {} turns: {alarm:?}", alarm.late.get()))?;
        }
        Ok(())
    }
}
