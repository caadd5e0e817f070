//! Backpressure between connections: one is not read while another does not read what it is sent. Groups that pause
//! their senders, links, and memory pressure.
//!
//! The receive buffer of a connection that is not read fills up, and TCP slows its peer down. So the output for a slow
//! consumer is bounded without dropping messages.
//!
//! Invariant: the `pause_count` of a connection is the number of groups in whose `waiting` it is, plus its links to
//! connections above their high-water mark; the `slow` of a group is the number of its members marked slow, and while
//! it is zero, `waiting` is empty; linked connections list each other, and both are open.

use std::time::Duration;

use super::Core;
use crate::closed::Reason;
use crate::connection::Phase;
use crate::group::SlowMember;
use crate::id::{ConnId, Group};

/// How often in a row a handler may get its deferred input back at once and take nothing. Chosen: one that waits for a
/// turn or two is not slowed; one that waits for something else would make the loop spin.
const MAX_UNUSED: u32 = 16;
/// The first delay after that, and the longest: each is twice the one before. Chosen: the shortest that `epoll_wait`
/// can wait for, and one that a person hardly notices.
const FIRST_REST: Duration = Duration::from_millis(1);
const MAX_REST: Duration = Duration::from_millis(100);

impl Core {
    /// Records that a connection has sent to a group that pauses its senders, and pauses it if a member is slow.
    pub(super) fn record_sender(&mut self, group: Group, id: ConnId) {
        let Some(state) = self.groups.states.live_mut(group) else { return };
        if state.policy != SlowMember::PauseSenders {
            return;
        }
        if state.slow > 0 {
            self.pause_for_group(group, id);
        } else if state.senders.last() != Some(&id) {
            // Only repeats in a row are left out, which is cheap. `pause_for_group` drops the others.
            state.senders.push(id);
        }
    }

    /// Stops reading a sender until no member of `group` is slow.
    fn pause_for_group(&mut self, group: Group, id: ConnId) {
        let Self { conns, groups, .. } = self;
        let (Some(c), Some(state)) = (conns.get(id), groups.states.get_mut(group)) else { return };
        // The count first: it is cheap, and spares most senders the search.
        if c.flow.pause_count > 0 && state.waiting.contains(&id) {
            return;
        }
        state.waiting.push(id);
        self.add_pause(id);
    }

    /// Removes one pause from each of these connections, and resumes those that have none left.
    pub(super) fn remove_pauses(&mut self, waiting: Vec<ConnId>) {
        for id in waiting {
            // Some may have closed since. A new connection in the same slot has another id.
            if let Some(c) = self.conns.get_mut(id) {
                c.flow.pause_count = c.flow.pause_count.saturating_sub(1);
                self.sync_clock(id);
                self.enqueue_if_work(id);
            }
        }
    }

    /// Marks a member whose unsent output exceeds the high-water mark as slow, and pauses the group's senders, if that
    /// is its policy.
    pub(super) fn mark_slow(&mut self, group: Group, place: u32) {
        let Some(state) = self.groups.states.live_mut(group) else { return };
        let pauses = state.policy == SlowMember::PauseSenders;
        let Some(member) = state.members.get_mut(place as usize).filter(|m| pauses && !m.slow) else {
            return;
        };
        member.slow = true;
        state.slow += 1;
        for id in std::mem::take(&mut state.senders) {
            self.pause_for_group(group, id);
        }
    }

    /// Marks a connection as no longer slow in all its groups: its unsent output has fallen to the low-water mark.
    pub(crate) fn clear_slow(&mut self, id: ConnId) {
        let Some(c) = self.conns.live(id) else { return };
        for m in c.groups.clone() {
            let Some(state) = self.groups.states.live_mut(m.group) else { continue };
            let Some(member) = state.members.get_mut(m.place as usize).filter(|m| m.slow) else { continue };
            member.slow = false;
            state.slow -= 1;
            let waiting = state.take_waiting_unless_slow();
            self.remove_pauses(waiting);
        }
    }

    /// Links two connections: `from` is not read while `to` is above its high-water mark. The link lasts until either
    /// closes. Returns `false` if one of them is not open, or has
    /// [`Limits::links_per_connection`](crate::Limits::links_per_connection) links already.
    pub(crate) fn link(&mut self, from: ConnId, to: ConnId) -> bool {
        let most = self.limits.links_per_connection;
        let open = |id| self.conns.get(id).filter(|c| c.phase == Phase::Open);
        let (Some(sender), Some(fed)) = (open(from), open(to)) else { return false };
        if from == to {
            return false;
        }
        if sender.cold().is_some_and(|r| r.links_to.contains(&to)) {
            // They are linked already.
            return true;
        }
        let full = |links: Option<usize>| links.is_some_and(|n| n >= most);
        if full(sender.cold().map(|r| r.links_to.len())) || full(fed.cold().map(|r| r.links_from.len())) {
            return false;
        }
        let high = fed.flow.above_high_water;
        if let Some(c) = self.conns.live_mut(from) {
            c.cold_mut().links_to.push(to);
        }
        if let Some(c) = self.conns.live_mut(to) {
            c.cold_mut().links_from.push(from);
        }
        if high {
            self.add_pause(from);
        }
        true
    }

    /// Removes a link. Returns `false` if there is none.
    pub(crate) fn remove_link(&mut self, from: ConnId, to: ConnId) -> bool {
        let linked = |id: ConnId| self.conns.get(id).and_then(|c| c.cold());
        if !linked(from).is_some_and(|r| r.links_to.contains(&to)) {
            return false;
        }
        let high = self.conns.get(to).is_some_and(|c| c.flow.above_high_water);
        if let Some(c) = self.conns.live_mut(from) {
            c.cold_mut().links_to.retain(|&id| id != to);
        }
        if let Some(c) = self.conns.live_mut(to) {
            c.cold_mut().links_from.retain(|&id| id != from);
        }
        if high {
            self.remove_pauses(vec![from]);
        }
        true
    }

    /// Removes all links of a connection, in both directions. Called when it closes.
    pub(crate) fn remove_links(&mut self, id: ConnId) {
        let Some(cold) = self.conns.get(id).and_then(|c| c.cold()) else { return };
        if cold.links_to.is_empty() && cold.links_from.is_empty() {
            return;
        }
        for to in cold.links_to.clone() {
            self.remove_link(id, to);
        }
        let links_from = self.conns.get(id).and_then(|c| c.cold()).map(|r| r.links_from.clone());
        for from in links_from.unwrap_or_default() {
            self.remove_link(from, id);
        }
    }

    /// Pauses the connections linked to `id`, which has reached its high-water mark (`high`), or removes that pause
    /// when it has fallen to its low-water mark.
    pub(super) fn notify_linked_senders(&mut self, id: ConnId, high: bool) {
        let Some(cold) = self.conns.get(id).and_then(|c| c.cold()).filter(|r| !r.links_from.is_empty()) else {
            return;
        };
        let senders = cold.links_from.clone();
        if !high {
            return self.remove_pauses(senders);
        }
        for from in senders {
            self.add_pause(from);
        }
    }

    /// Adds one pause to a connection.
    pub(super) fn add_pause(&mut self, id: ConnId) {
        if let Some(c) = self.conns.live_mut(id) {
            c.flow.pause_count = c.flow.pause_count.saturating_add(1);
        }
        self.sync_clock(id);
    }

    /// Returns how much may be read at once from a connection with these links, so that relaying it raises none of
    /// their targets above the high-water mark. `usize::MAX` if there is no link.
    #[inline]
    pub(super) fn capacity_behind(&self, links_to: &[ConnId]) -> usize {
        let state = |id: &ConnId| {
            let pending = self.conns.get(*id).map_or(0, |c| self.pending(c));
            self.limits.output_high.saturating_sub(pending)
        };
        links_to.iter().map(state).min().unwrap_or(usize::MAX)
    }

    /// Returns whether there is memory pressure: more than half of
    /// [`Limits::output_total`](crate::Limits::output_total) is in use. Then connections with unsent output are not
    /// read. Half (chosen), so that backpressure slows peers down before the full limit evicts them.
    #[inline]
    pub(crate) fn memory_pressure(&self) -> bool {
        self.pool.output() > self.limits.output_total.get() / 2
    }

    /// Counts a delivery of deferred input of which the handler took nothing. After many in a row the next one has to
    /// wait, longer and longer. Returns whether this is the first that waits.
    #[cold]
    pub(crate) fn count_unused(&mut self, id: ConnId) -> bool {
        let now = self.now;
        let Some(c) = self.conns.live_mut(id) else { return false };
        let gone = c.halves.write_failed;
        let cold = c.cold_mut();
        cold.unused_deliveries = cold.unused_deliveries.saturating_add(1);
        let Some(over) = cold.unused_deliveries.checked_sub(MAX_UNUSED) else { return false };
        if gone {
            // The peer has reset it, and what is deferred would hold it for ever.
            self.finish(id, Reason::PeerReset);
            return over == 0;
        }
        let until = now.after(MAX_REST.min(FIRST_REST * 2_u32.pow(over.min(10))));
        cold.rest_until = until;
        c.flow.resting = true;
        self.deadlines.bring_forward(id.slot, until);
        self.sync_clock(id);
        over == 0
    }

    /// Lets a connection be read again whose handler took nothing.
    pub(crate) fn end_rest(&mut self, id: ConnId) {
        if self.conns.live_mut(id).is_some_and(|c| std::mem::take(&mut c.flow.resting)) {
            self.sync_clock(id);
            self.enqueue_if_work(id);
        }
    }

    /// Marks a connection as no longer throttled.
    #[inline]
    pub(crate) fn unthrottle(&mut self, id: ConnId) {
        if let Some(c) = self.conns.get_mut(id)
            && std::mem::take(&mut c.flow.throttled)
        {
            self.sync_clock(id);
        }
    }

    /// Resumes the connections that were not read because of memory pressure, once that has passed.
    pub(crate) fn resume_throttled(&mut self) {
        if self.throttled.is_empty() || self.memory_pressure() {
            return;
        }
        for id in self.throttled.take() {
            if let Some(c) = self.conns.get_mut(id) {
                c.queues.throttled = false;
            }
            self.unthrottle(id);
            self.enqueue_if_work(id);
        }
    }
}
