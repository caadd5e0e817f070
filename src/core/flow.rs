//! Flow control: who is not read because others do not read. Groups that pause their senders, links, and the total of
//! all output.
//!
//! Knows nothing of logs and writing. Invariant: a connection's `holds` counts the groups that it waits for and its
//! links to connections that are high; a group's `slow` is the number of its members marked so, and while it is zero
//! nobody waits; of two linked connections each knows the other, and both are open.

use super::Core;
use crate::connection::Phase;
use crate::group::SlowMember;
use crate::id::{ConnId, Group};

impl Core {
    /// In a group that pauses its senders: remembers one, or holds it up if a member is slow.
    pub(super) fn note_sender(&mut self, group: Group, id: ConnId) {
        let Some(room) = self.groups.get_mut(group) else { return };
        if room.policy != SlowMember::PauseSenders {
            return;
        }
        if room.slow > 0 {
            self.hold(group, id);
        } else if room.senders.last() != Some(&id) {
            room.senders.push(id);
        }
    }

    /// Stops reading a sender until no member of `group` is slow.
    fn hold(&mut self, group: Group, id: ConnId) {
        let Self { conns, groups, .. } = self;
        let (Some(c), Some(room)) = (conns.get(id), groups.get_mut(group)) else { return };
        if c.holds > 0 && room.waiting.contains(&id) {
            return;
        }
        room.waiting.push(id);
        self.hold_up(id);
    }

    /// Lets held-up senders be read again.
    pub(super) fn release(&mut self, waiting: Vec<ConnId>) {
        for id in waiting {
            if let Some(c) = self.conns.get_mut(id) {
                c.holds = c.holds.saturating_sub(1);
                self.sync_clock(id);
                self.enqueue_if_work(id);
            }
        }
    }

    /// Notes that what waits for a member has passed the high-water mark: it may hold up the senders.
    pub(super) fn note_slow(&mut self, group: Group, place: u32) {
        let Some(room) = self.groups.get_mut(group) else { return };
        let pauses = room.policy == SlowMember::PauseSenders;
        let Some(member) = room.members.get_mut(place as usize).filter(|m| pauses && !m.slow) else { return };
        member.slow = true;
        room.slow += 1;
        for id in std::mem::take(&mut room.senders) {
            self.hold(group, id);
        }
    }

    /// Notes that what waits for a connection has fallen to the low-water mark.
    pub(crate) fn note_drained(&mut self, id: ConnId) {
        let Some(c) = self.conns.get(id) else { return };
        for m in c.groups.clone() {
            let Some(room) = self.groups.get_mut(m.group) else { continue };
            let Some(member) = room.members.get_mut(m.place as usize).filter(|m| m.slow) else { continue };
            member.slow = false;
            room.slow -= 1;
            if room.slow == 0 {
                let waiting = std::mem::take(&mut room.waiting);
                self.release(waiting);
            }
        }
    }

    /// Stops reading `from` while much waits for `to`, until either ends. False when one of them is ending, or has as
    /// many links as allowed.
    pub(crate) fn link(&mut self, from: ConnId, to: ConnId) -> bool {
        let most = self.limits.links_per_connection;
        let open = |id| self.conns.get(id).filter(|c| c.phase == Phase::Open);
        let (Some(feeder), Some(fed)) = (open(from), open(to)) else { return false };
        if from == to || feeder.rare().is_some_and(|r| r.feeds.contains(&to)) {
            // One that feeds itself is held up by its own output without any link.
            return true;
        }
        let full = |links: Option<usize>| links.is_some_and(|n| n >= most);
        if full(feeder.rare().map(|r| r.feeds.len())) || full(fed.rare().map(|r| r.fed_by.len())) {
            return false;
        }
        let high = fed.high;
        if let Some(c) = self.conns.get_mut(from) {
            c.rare_mut().feeds.push(to);
        }
        if let Some(c) = self.conns.get_mut(to) {
            c.rare_mut().fed_by.push(from);
        }
        if high {
            self.hold_up(from);
        }
        true
    }

    /// Undoes a link. False when there is none.
    pub(crate) fn unlink_pair(&mut self, from: ConnId, to: ConnId) -> bool {
        let linked = |id: ConnId| self.conns.get(id).and_then(|c| c.rare());
        if !linked(from).is_some_and(|r| r.feeds.contains(&to)) {
            return false;
        }
        let high = self.conns.get(to).is_some_and(|c| c.high);
        if let Some(c) = self.conns.get_mut(from) {
            c.rare_mut().feeds.retain(|&id| id != to);
        }
        if let Some(c) = self.conns.get_mut(to) {
            c.rare_mut().fed_by.retain(|&id| id != from);
        }
        if high {
            self.release(vec![from]);
        }
        true
    }

    /// Undoes all links of a connection that ends, or whose output has ended.
    pub(crate) fn end_links(&mut self, id: ConnId) {
        let Some(rare) = self.conns.get(id).and_then(|c| c.rare()) else { return };
        if rare.feeds.is_empty() && rare.fed_by.is_empty() {
            return;
        }
        for to in rare.feeds.clone() {
            self.unlink_pair(id, to);
        }
        let fed_by = self.conns.get(id).and_then(|c| c.rare()).map(|r| r.fed_by.clone());
        for from in fed_by.unwrap_or_default() {
            self.unlink_pair(from, id);
        }
    }

    /// What waits for a connection has passed the high-water mark, or fallen to the low one: who feeds it is held up,
    /// or read again.
    pub(super) fn tell_feeders(&mut self, id: ConnId, high: bool) {
        let Some(rare) = self.conns.get(id).and_then(|c| c.rare()).filter(|r| !r.fed_by.is_empty()) else {
            return;
        };
        let feeders = rare.fed_by.clone();
        if !high {
            return self.release(feeders);
        }
        for from in feeders {
            self.hold_up(from);
        }
    }

    /// Counts one more reason not to read a connection.
    pub(super) fn hold_up(&mut self, id: ConnId) {
        if let Some(c) = self.conns.get_mut(id) {
            c.holds = c.holds.saturating_add(1);
        }
        self.sync_clock(id);
    }

    /// How much may be read of a connection so that none that it feeds gets more than may wait.
    #[inline]
    pub(super) fn room_behind(&self, feeds: &[ConnId]) -> usize {
        let room = |id: &ConnId| {
            let pending = self.conns.get(*id).map_or(0, |c| self.pending(c));
            self.limits.output_high.saturating_sub(pending)
        };
        feeds.iter().map(room).min().unwrap_or(usize::MAX)
    }

    /// Whether so much output waits in all that those who add to it are not read.
    #[inline]
    pub(crate) fn tight(&self) -> bool {
        self.pool.output() > self.limits.output_total.get() / 2
    }

    /// Notes that a connection is read again.
    #[inline]
    pub(crate) fn feed(&mut self, id: ConnId) {
        if let Some(c) = self.conns.get_mut(id)
            && std::mem::take(&mut c.starved)
        {
            self.sync_clock(id);
        }
    }

    /// Lets those be read again that were not because all output together was large.
    pub(crate) fn feed_starved(&mut self) {
        if self.starved.is_empty() || self.tight() {
            return;
        }
        for id in std::mem::take(&mut self.starved) {
            if let Some(c) = self.conns.get_mut(id) {
                c.listed = false;
            }
            self.feed(id);
            self.enqueue_if_work(id);
        }
    }
}
