//! Joining and leaving groups, and broadcasting through their logs.
//!
//! Does not write: the loop takes each member's unsent range and writes it. Invariant: a connection takes from a log
//! exactly the messages sent while it was a member, in the order of sending and before anything sent to it later,
//! except those that its group's policy skipped, which are counted.

use std::ops::Range;
use std::rc::Rc;

use super::Core;
use crate::buffer::pool::Use;
use crate::closed::Reason;
use crate::config::limits::Limits;
use crate::connection::Membership;
use crate::group::{Appended, GroupState, Log, SlowMember};
use crate::id::{ConnId, Group, HandlerIdx};

/// How much of a log may be queued for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The bytes up to this offset in the block; so many messages after it are skipped.
    UpTo(usize, u64),
    /// The member is too slow: terminate it.
    Cut,
}

/// Applies a group's slow consumer policy: returns how much of `log`, from byte `start` on, may be queued for a member
/// with `pending` unsent bytes. `start` may lie inside a message that is partly written. Such a message is never
/// skipped: its rest must follow, or the stream would have a gap.
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
            // What is queued must be one range: behind a gap, everything is skipped.
            if skipped > 0 || !half_written && pending + (span.end - start) > limits.output_high {
                upto = upto.min(span.start);
                skipped += 1;
            }
        }
    }
    if pending + (upto - start) > hard { Admission::Cut } else { Admission::UpTo(upto, skipped) }
}

impl Core {
    /// Creates a group. Returns `None` if there are [`Limits::groups`] already.
    pub(crate) fn create_group(&mut self, policy: SlowMember) -> Option<Group> {
        if self.groups.states.len() >= self.limits.groups {
            return None;
        }
        self.groups.create(policy)
    }

    /// Removes a group. Its members stay connected, and get what was sent to it before. Returns `false` if it does not
    /// exist.
    pub(crate) fn drop_group(&mut self, group: Group) -> bool {
        // From the back, so that `swap_remove` moves no other member.
        while let Some(member) = self.groups.states.get(group).and_then(|r| r.members.last()) {
            let id = member.conn;
            self.leave(group, id);
        }
        let Some(state) = self.groups.states.remove(group) else { return false };
        self.groups.with_unsent.retain(|other| other != group);
        for mut log in state.logs {
            self.pool.recycle(log.take_block(), Use::Output);
        }
        self.remove_pauses(state.waiting);
        true
    }

    /// Adds a connection to a group. Returns `false` if either does not exist, the connection accepts no more output,
    /// or it is in [`Limits::groups_per_connection`] groups already.
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

    /// Removes a connection from a group. It gets what was sent before. Returns `false` if it was not a member.
    pub(crate) fn leave(&mut self, group: Group, id: ConnId) -> bool {
        self.take_from_logs(id);
        let found = self.conns.get(id).and_then(|c| c.groups.iter().position(|m| m.group == group));
        let Some(index) = found else { return false };
        self.remove_membership(id, index);
        true
    }

    /// Removes a connection from all groups, without taking what their logs hold for it.
    pub(crate) fn leave_all(&mut self, id: ConnId) {
        while self.conns.get(id).is_some_and(|c| !c.groups.is_empty()) {
            self.remove_membership(id, 0);
        }
    }

    /// Removes the membership at `index` in the connection's list, and resumes senders that only this member paused.
    fn remove_membership(&mut self, id: ConnId, index: usize) {
        let Self { conns, groups, .. } = self;
        let Some(c) = conns.live_mut(id) else { return };
        let membership = c.groups.swap_remove(index);
        if c.groups.is_empty() {
            c.groups = Vec::new();
        }
        let Some(state) = groups.states.live_mut(membership.group) else { return };
        let Some((_, moved)) = state.remove(membership.place) else { return };
        let freed = state.take_waiting_unless_slow();
        if let Some(other) = moved.and_then(|m| conns.get_mut(m))
            && let Some(m) = other.groups.iter_mut().find(|m| m.group == membership.group)
        {
            m.place = membership.place;
        }
        self.remove_pauses(freed);
    }

    /// Sends to every member of a group except `except`. Returns the number of members for which it was queued.
    pub(crate) fn broadcast(
        &mut self,
        group: Group,
        message: &[u8],
        sender: Option<ConnId>,
        except: Option<ConnId>,
    ) -> usize {
        if message.len() > self.limits.output_hard.get() {
            self.refuse_too_long(&group, message.len());
            return 0;
        }
        // `except` skips this message by moving its `from` past it, so it must have taken the earlier ones.
        if let Some(id) = except {
            self.take_from_logs(id);
        }
        if !self.evict_output(message.len()) {
            return self.refuse_broadcast(group, except);
        }
        self.make_log_space(group, message.len(), except);
        // Only now: where a member was terminated above, the last one has taken its place in the list.
        let place = except.and_then(|id| self.place(group, id));
        let Self { groups, framings, pool, stats, .. } = self;
        let number = groups.number();
        let Some(state) = groups.states.get_mut(group) else { return 0 };
        let Appended { mut reached, mut missed, grown, panicked } = state.append(number, framings, message, pool);
        if reached > 0 {
            groups.with_unsent.push(group, &mut state.has_unsent);
        }
        if let Some(place) = place {
            let carried = state.skip_message(place, number);
            if !panicked.iter().any(|(handler, _)| state.framing_at(place) == Some(*handler)) {
                *(if carried { &mut reached } else { &mut missed }) -= 1;
            }
        }
        stats.messages_out += reached as u64;
        stats.unencodable += missed as u64;
        if missed > 0 {
            let len = message.len();
            log::debug!("{group}: the framing of {missed} members cannot encode a message of {len} bytes");
        }
        self.logged += grown;
        if let Some(id) = sender.filter(|_| reached > 0) {
            self.record_sender(group, id);
        }
        for (handler, panic) in panicked {
            self.end_members_of(group, handler, except);
            self.codec_panics.push((handler, panic));
        }
        reached
    }

    /// Terminates the members of a group that are sent to in the framing of `handler`, whose codec has panicked.
    #[cold]
    fn end_members_of(&mut self, group: Group, handler: HandlerIdx, except: Option<ConnId>) {
        let Some(state) = self.groups.states.get(group) else { return };
        let places = (0..state.members.len() as u32).filter(|&place| state.framing_at(place) == Some(handler));
        let members: Vec<ConnId> = places.map(|place| state.members[place as usize].conn).collect();
        for id in members.into_iter().filter(|&id| Some(id) != except) {
            self.terminate(id, Reason::HandlerPanic);
        }
    }

    /// Handles a message for which there is no space within [`Limits::output_total`]: it is skipped, or, if the policy
    /// does not allow skipping, the members are terminated. Returns 0, the number of members it reaches.
    fn refuse_broadcast(&mut self, group: Group, except: Option<ConnId>) -> usize {
        let Some(state) = self.groups.states.get(group) else { return 0 };
        let members: Vec<ConnId> = state.members.iter().map(|m| m.conn).filter(|&id| Some(id) != except).collect();
        if state.policy == SlowMember::Skip {
            self.stats.skipped += members.len() as u64;
            return 0;
        }
        for id in members {
            self.terminate(id, Reason::TotalOutputLimit);
        }
        0
    }

    /// Returns the index of a connection in a group's list of members.
    fn place(&self, group: Group, id: ConnId) -> Option<u32> {
        self.conns.get(id)?.groups.iter().find(|m| m.group == group).map(|m| m.place)
    }

    /// If a log would exceed the hard limit within one callback: moves its content to the outboxes of its members, and
    /// terminates those for which that is too much.
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
            // `except` does not get the message, so it must not be terminated for its length.
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

    /// Queues for a member the part of its unsent range that was not written, from byte `start` of `block` on.
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
        // A failed write has ended the membership, and another member may have been moved to its index.
        let member = groups.states.get(group).filter(|r| r.members.get(place as usize).is_some_and(|m| m.conn == id));
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
            // Nothing was written now (`write` would have set it): the stall begins here.
            c.write_blocked_since = *now;
        }
        if c.out.push_block(block, start..upto, pool).is_err() {
            c.lose(left);
            return self.terminate_out_of_memory(id);
        }
        if c.out.pending() > limits.output_high {
            self.mark_slow(group, place);
        }
        self.enforce_output_total(id, 0);
    }

    /// Returns the number of bytes that logs hold for a connection.
    pub(crate) fn unsent_in_logs(&self, id: ConnId) -> usize {
        if self.groups.with_unsent.is_empty() {
            return 0;
        }
        self.unsents(id).map(|(_, _, unsent)| unsent.range.len()).sum()
    }

    /// Returns what the logs of each group hold for a connection.
    fn unsents(&self, id: ConnId) -> impl Iterator<Item = (Group, &GroupState, Unsent)> {
        let memberships = self.conns.get(id).map_or(&[][..], |c| &c.groups);
        memberships.iter().filter_map(|m| {
            let state = self.groups.states.live(m.group)?;
            Some((m.group, state, unsent_range(state, m.place)?))
        })
    }

    /// Returns the number of groups whose logs hold something for a connection.
    pub(crate) fn count_unsent_groups(&self, id: ConnId) -> usize {
        self.unsents(id).count()
    }

    /// Copies what logs hold for a connection to its outbox, in the order of sending. Called before anything else is
    /// sent to it, which would overtake the broadcasts otherwise.
    pub(crate) fn take_from_logs(&mut self, id: ConnId) {
        if self.groups.with_unsent.is_empty() || self.conns.get(id).is_none_or(|c| c.groups.is_empty()) {
            return;
        }
        let slices = self.slices(id);
        if slices.is_empty() {
            return;
        }
        let number = self.groups.next_number();
        // Mark everything as taken first: `terminate` must not count the bytes of the slices as lost a second time.
        let memberships = self.conns.get(id).map(|c| c.groups.clone()).unwrap_or_default();
        for m in &memberships {
            let state = self.groups.states.get_mut(m.group);
            if let Some(member) = state.and_then(|r| r.members.get_mut(m.place as usize)) {
                member.from = number;
            }
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
        // Last: it may terminate this connection.
        self.enforce_output_total(id, 0);
    }

    /// Returns what logs hold for a connection, in the order of sending: one slice for the whole range, or, if several
    /// groups must be merged, one slice for each message.
    fn slices(&self, id: ConnId) -> Vec<LogSlice> {
        let unsents: Vec<_> = self.unsents(id).collect();
        let merge = unsents.len() > 1;
        let mut slices = Vec::new();
        for (group, state, Unsent { log, range, from }) in unsents {
            let slice = |number, range| LogSlice { number, group, log, from: number, range };
            if merge {
                slices.extend(state.logs[log].messages(from).map(|(number, range)| slice(number, range)));
            } else {
                slices.push(slice(from, range));
            }
        }
        slices.sort_unstable_by_key(|p| p.number);
        slices
    }

    /// Copies one slice to the outbox, as far as its group's policy admits. Returns `false` if the connection was
    /// terminated.
    fn take_slice(&mut self, id: ConnId, slice: &LogSlice) -> bool {
        let Self { conns, groups, pool, limits, stats, now, .. } = self;
        let (Some(c), Some(state)) = (conns.get_mut(id), groups.states.get(slice.group)) else {
            return false;
        };
        let log = &state.logs[slice.log];
        let pending = c.out.pending();
        // The last message of a merge ends where its log ends. It goes to `admit`, which decides
        // alike for one message.
        let single = slice.range.end < log.range(slice.from).end;
        let admission = if single {
            // One message of a merge: all of it, or nothing.
            let limit = if state.policy == SlowMember::Skip { limits.output_high } else { limits.output_hard.get() };
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

/// A part of a log to copy to an outbox.
#[derive(Debug)]
struct LogSlice {
    /// The number of its first message, by which slices are sorted.
    number: u64,
    group: Group,
    log: usize,
    from: u64,
    range: Range<usize>,
}

/// The part of a log that a member has not taken.
#[derive(Debug)]
pub(crate) struct Unsent {
    /// The index of the log in its group.
    pub(crate) log: usize,
    /// The range of the log's block.
    pub(crate) range: Range<usize>,
    /// The member's `from`: it has taken all messages with lower numbers.
    pub(crate) from: u64,
}

/// Returns what the member at `place` has not taken yet, or `None` if that is nothing.
pub(crate) fn unsent_range(state: &GroupState, place: u32) -> Option<Unsent> {
    if !state.has_unsent {
        return None;
    }
    let member = state.members.get(place as usize)?;
    let range = state.logs[member.log as usize].range(member.from);
    (!range.is_empty()).then_some(Unsent { log: member.log as usize, range, from: member.from })
}
