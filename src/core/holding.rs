//! Groups that pause their senders: who is slow, and who is held up by that.
//!
//! Knows nothing of logs and writing. Invariant: a group's `slow` is the number of its members marked so; while it is
//! zero nobody waits; a connection's `holds` counts the groups it waits for (and its links to
//! connections that are high).

use super::Core;
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
}
