//! Joining, leaving, and broadcasting through the groups' logs.
//!
//! Knows nothing of writing; the loop asks what each member is unsent. Invariant: a connection has taken from a log
//! exactly the messages sent while it was a member, in the order of sending and before whatever was sent to it later,
//! but for those that its group's policy skipped, which are counted.

use std::ops::Range;
use std::rc::Rc;

use super::Core;
use crate::buffer::pool::Use;
use crate::closed::Reason;
use crate::config::limits::Limits;
use crate::connection::Membership;
use crate::group::{Appended, GroupState, Log, SlowMember};
use crate::id::{ConnId, Group};

/// How much of what lies in a log a member may have wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Up to this place in the block; this many messages behind it are skipped.
    UpTo(usize, u64),
    /// It is too slow and must be cut.
    Cut,
}

/// Decides what a member with `pending` bytes waiting may have of `log` from byte `start` on, which may lie inside a
/// message that is half written.
pub(crate) fn admit(
    policy: SlowMember,
    limits: &Limits,
    log: &Log,
    start: usize,
    from: u64,
    pending: usize,
) -> Admission {
    let hard = limits.output_hard.get();
    let end = log.range(from).end;
    let mut upto = end;
    let mut skipped = 0;
    if policy == SlowMember::Skip && pending + (end - start) > limits.output_high {
        for (_, span) in log.messages(from).filter(|(_, span)| span.end > start) {
            let half_written = span.start < start;
            if skipped > 0 || !half_written && pending + (span.end - start) > limits.output_high {
                upto = upto.min(span.start);
                skipped += 1;
            }
        }
    }
    if pending + (upto - start) > hard { Admission::Cut } else { Admission::UpTo(upto, skipped) }
}

impl Core {
    /// Makes a group. `None` when there are as many as allowed.
    pub(crate) fn create_group(&mut self, policy: SlowMember) -> Option<Group> {
        if self.groups.states.len() >= self.limits.groups {
            return None;
        }
        self.groups.create(policy)
    }

    /// Ends a group. Its members stay connected, and get what was sent to it before.
    pub(crate) fn drop_group(&mut self, group: Group) -> bool {
        while let Some(member) = self.groups.states.get(group).and_then(|r| r.members.last()) {
            let id = member.conn;
            self.leave(group, id);
        }
        let Some(state) = self.groups.states.remove(group) else { return false };
        self.groups.with_unsent.remove(group);
        for mut log in state.logs {
            self.pool.recycle(log.take_block(), Use::Output);
        }
        self.remove_pauses(state.waiting);
        true
    }

    /// Makes a connection a member. False when either does not exist (any more), it is ending, or it is in as many
    /// groups as allowed.
    pub(crate) fn join(&mut self, group: Group, id: ConnId) -> bool {
        let number = self.groups.next_number();
        let Self { conns, groups, limits, .. } = self;
        let (Some(c), Some(state)) = (conns.get_mut(id), groups.states.get_mut(group)) else { return false };
        if c.groups.iter().any(|m| m.group == group) {
            return true;
        }
        if !c.takes_output() || c.groups.len() >= limits.groups_per_connection {
            return false;
        }
        let place = state.add(id, c.handler, number);
        c.groups.push(Membership { group, place });
        true
    }

    /// Ends a membership; the member keeps what was sent before. False when there was none.
    pub(crate) fn leave(&mut self, group: Group, id: ConnId) -> bool {
        self.take_from_logs(id);
        let found = self.conns.get(id).and_then(|c| c.groups.iter().position(|m| m.group == group));
        let Some(index) = found else { return false };
        self.remove_membership(id, index);
        true
    }

    /// Ends all memberships, without taking what the logs still hold for it.
    pub(crate) fn leave_all(&mut self, id: ConnId) {
        while self.conns.get(id).is_some_and(|c| !c.groups.is_empty()) {
            self.remove_membership(id, 0);
        }
    }

    fn remove_membership(&mut self, id: ConnId, index: usize) {
        let Self { conns, groups, .. } = self;
        let Some(c) = conns.live_mut(id) else { return };
        let membership = c.groups.swap_remove(index);
        if c.groups.is_empty() {
            c.groups = Vec::new();
        }
        let Some(state) = groups.states.live_mut(membership.group) else { return };
        let Some((_, moved)) = state.remove(membership.place) else { return };
        let freed = if state.slow == 0 { std::mem::take(&mut state.waiting) } else { Vec::new() };
        if let Some(other) = moved.and_then(|m| conns.get_mut(m))
            && let Some(m) = other.groups.iter_mut().find(|m| m.group == membership.group)
        {
            m.place = membership.place;
        }
        self.remove_pauses(freed);
    }

    /// Sends to every member of a group but `except`; says how many it will reach.
    pub(crate) fn broadcast(
        &mut self,
        group: Group,
        message: &[u8],
        sender: Option<ConnId>,
        except: Option<ConnId>,
    ) -> usize {
        if let Some(id) = except {
            self.take_from_logs(id);
        }
        if message.len() > self.limits.output_total.get() || !self.evict_output(message.len()) {
            return self.refuse_broadcast(group, except);
        }
        self.make_log_space(group, message.len(), except);
        let place = except.and_then(|id| self.place(group, id));
        let Self { groups, framings, pool, stats, .. } = self;
        let number = groups.number();
        let Some(state) = groups.states.get_mut(group) else { return 0 };
        let Appended { mut reached, mut missed, grown } = state.append(number, framings, message, pool);
        if reached > 0 {
            groups.with_unsent.push(group, &mut state.has_unsent);
        }
        if let Some(place) = place
            && let Some(state) = groups.states.get_mut(group)
        {
            let carried = state.skip_message(place, number);
            *(if carried { &mut reached } else { &mut missed }) -= 1;
        }
        stats.messages_out += reached as u64;
        stats.unencodable += missed as u64;
        if missed > 0 {
            let len = message.len();
            log::debug!("{group}: the framing of {missed} members cannot carry a message of {len} bytes");
        }
        self.logged += grown;
        if let Some(id) = sender.filter(|_| reached > 0) {
            self.record_sender(group, id);
        }
        reached
    }

    /// There is no room for a message within the total of all output: those who may not miss one are cut.
    fn refuse_broadcast(&mut self, group: Group, except: Option<ConnId>) -> usize {
        let Some(state) = self.groups.states.get(group) else { return 0 };
        let members: Vec<ConnId> =
            state.members.iter().map(|m| m.conn).filter(|&id| Some(id) != except).collect();
        if state.policy == SlowMember::Skip {
            self.stats.skipped += members.len() as u64;
            return 0;
        }
        for id in members {
            self.terminate(id, Reason::TotalOutputLimit);
        }
        0
    }

    /// Where in a group's list of members a connection is.
    fn place(&self, group: Group, id: ConnId) -> Option<u32> {
        self.conns.get(id)?.groups.iter().find(|m| m.group == group).map(|m| m.place)
    }

    fn set_from(&mut self, group: Group, place: u32, from: u64) {
        if let Some(member) =
            self.groups.states.get_mut(group).and_then(|r| r.members.get_mut(place as usize))
        {
            member.from = from;
        }
    }

    /// Before a log would pass the hard limit inside one callback: settles it as what its members have waiting.
    fn make_log_space(&mut self, group: Group, len: usize, except: Option<ConnId>) {
        let hard = self.limits.output_hard.get();
        let Some(state) = self.groups.states.get(group) else { return };
        if state.length_with(len) <= hard {
            return;
        }
        let skips = state.policy == SlowMember::Skip;
        let members: Vec<ConnId> = state.members.iter().map(|m| m.conn).collect();
        for id in members {
            let waiting = self.conns.get(id).map_or(0, |c| c.out.pending()) + self.unsent_in_logs(id);
            if !skips && Some(id) != except && waiting.saturating_add(len) > hard {
                self.terminate(id, Reason::OutputLimit);
            } else {
                self.take_from_logs(id);
            }
        }
        let Self { groups, pool, .. } = self;
        for log in groups.states.get_mut(group).into_iter().flat_map(|r| &mut r.logs) {
            pool.recycle(log.take_block(), Use::Output);
            log.clear();
        }
    }

    /// Lets wait for a member what the kernel did not take of what it is unsent: from byte `start` of `block` on.
    pub(crate) fn queue_remainder(
        &mut self,
        group: Group,
        place: u32,
        id: ConnId,
        unsent: &Unsent,
        block: &Rc<Vec<u8>>,
        start: usize,
    ) {
        let Self { conns, groups, pool, limits, stats, now, .. } = self;
        let Some(c) = conns.live_mut(id) else { return };
        let left = unsent.range.end - start;
        // A write that failed has ended the membership, and another may stand in its place.
        let member =
            groups.states.get(group).filter(|r| r.members.get(place as usize).is_some_and(|m| m.conn == id));
        let Some(state) = member.filter(|_| c.takes_output()) else {
            c.lose(left);
            return;
        };
        let pending = c.out.pending();
        let Admission::UpTo(upto, skipped) =
            admit(state.policy, limits, &state.logs[unsent.log], start, unsent.from, pending)
        else {
            c.lose(left);
            return self.terminate(id, Reason::OutputLimit);
        };
        stats.skipped += skipped;
        if pending == 0 && start == unsent.range.start {
            c.write_blocked_since = *now;
        }
        if c.out.push_block(block, start..upto, pool).is_err() {
            c.lose(left);
            return self.terminate_out_of_memory(id);
        }
        if c.out.pending() > limits.output_high {
            self.mark_slow(group, place);
        }
        self.enforce_output_total(id);
    }

    /// Bytes that logs hold for a connection and that it has not taken.
    pub(crate) fn unsent_in_logs(&self, id: ConnId) -> usize {
        if self.groups.with_unsent.is_empty() {
            return 0;
        }
        let memberships = self.conns.get(id).map_or(&[][..], |c| &c.groups);
        memberships
            .iter()
            .filter_map(|m| unsent_range(self.groups.states.get(m.group)?, m.place))
            .map(|o| o.range.len())
            .sum()
    }

    /// In how many groups something waits for a connection.
    pub(crate) fn count_unsent_groups(&self, id: ConnId) -> usize {
        let memberships = self.conns.get(id).map_or(&[][..], |c| &c.groups);
        memberships
            .iter()
            .filter(|m| self.groups.states.get(m.group).is_some_and(|r| unsent_range(r, m.place).is_some()))
            .count()
    }

    /// Moves a copy of what its groups' logs hold for a connection into its outbox, in the order of sending. Done
    /// before anything else is sent to it.
    pub(crate) fn take_from_logs(&mut self, id: ConnId) {
        if self.groups.with_unsent.is_empty() || self.conns.get(id).is_none_or(|c| c.groups.is_empty()) {
            return;
        }
        let slices = self.slices(id);
        if slices.is_empty() {
            return;
        }
        let number = self.groups.next_number();
        let memberships = self.conns.get(id).map(|c| c.groups.clone()).unwrap_or_default();
        for m in &memberships {
            self.set_from(m.group, m.place, number);
        }
        for (i, slice) in slices.iter().enumerate() {
            if !self.take_slice(id, slice) {
                let lost: usize = slices[i..].iter().map(|p| p.range.len()).sum();
                if let Some(c) = self.conns.live_mut(id) {
                    c.lose(lost);
                }
                return;
            }
        }
        self.mark_dirty(id);
        self.check_high_water(id);
        if self.conns.get(id).is_some_and(|c| c.out.pending() > self.limits.output_high) {
            for m in memberships {
                self.mark_slow(m.group, m.place);
            }
        }
        self.enforce_output_total(id);
    }

    /// What logs hold for a connection: one slice for each group's range, or one for each message where several groups
    /// must be merged.
    fn slices(&self, id: ConnId) -> Vec<LogSlice> {
        let Some(c) = self.conns.live(id) else { return Vec::new() };
        let merge = self.count_unsent_groups(id) > 1;
        let mut slices = Vec::new();
        for m in &c.groups {
            let Some(state) = self.groups.states.live(m.group) else { continue };
            let Some(Unsent { log, range, from }) = unsent_range(state, m.place) else { continue };
            let slice = |number, range| LogSlice { number, group: m.group, log, from: number, range };
            if merge {
                slices.extend(state.logs[log].messages(from).map(|(number, range)| slice(number, range)));
            } else {
                slices.push(slice(from, range));
            }
        }
        slices.sort_unstable_by_key(|p| p.number);
        slices
    }

    /// Copies one slice into the outbox, as far as its group's policy admits. False when the connection was cut.
    fn take_slice(&mut self, id: ConnId, slice: &LogSlice) -> bool {
        let Self { conns, groups, pool, limits, stats, now, .. } = self;
        let (Some(c), Some(state)) = (conns.get_mut(id), groups.states.get(slice.group)) else {
            return false;
        };
        let log = &state.logs[slice.log];
        let pending = c.out.pending();
        let single = slice.range.end < log.range(slice.from).end;
        let admission = if single {
            // One message of several to be merged: all of it, or nothing.
            let limit =
                if state.policy == SlowMember::Skip { limits.output_high } else { limits.output_hard.get() };
            match pending + slice.range.len() > limit {
                false => Admission::UpTo(slice.range.end, 0),
                true if state.policy == SlowMember::Skip => Admission::UpTo(slice.range.start, 1),
                true => Admission::Cut,
            }
        } else {
            admit(state.policy, limits, log, slice.range.start, slice.from, pending)
        };
        let Admission::UpTo(end, skipped) = admission else {
            self.terminate(id, Reason::OutputLimit);
            return false;
        };
        stats.skipped += skipped;
        if pending == 0 {
            c.write_blocked_since = *now;
        }
        let bytes = log.bytes().get(slice.range.start..end).unwrap_or_default();
        if c.out.push(bytes, pool).is_err() {
            self.terminate_out_of_memory(id);
            return false;
        }
        true
    }
}

#[derive(Debug)]
struct LogSlice {
    number: u64,
    group: Group,
    log: usize,
    from: u64,
    range: Range<usize>,
}

/// What a log pause_count for a member.
#[derive(Debug)]
pub(crate) struct Unsent {
    /// Which of the group's logs.
    pub(crate) log: usize,
    /// Where in its block.
    pub(crate) range: Range<usize>,
    /// The first number in the range.
    pub(crate) from: u64,
}

/// What the member at `place` has not taken yet, if there is anything.
pub(crate) fn unsent_range(state: &GroupState, place: u32) -> Option<Unsent> {
    if !state.has_unsent {
        return None;
    }
    let member = state.members.get(place as usize)?;
    let range = state.logs[member.log as usize].range(member.from);
    (!range.is_empty()).then_some(Unsent { log: member.log as usize, range, from: member.from })
}
