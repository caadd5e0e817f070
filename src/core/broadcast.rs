//! Joining, leaving, and broadcasting through the groups' logs.
//!
//! Knows nothing of writing; the loop asks what each member is owed. Invariant: a connection has taken from a log
//! exactly the messages sent while it was a member, in the order of sending and before whatever was sent to it later,
//! but for those that its group's policy skipped, which are counted.

use std::ops::Range;
use std::rc::Rc;

use super::Core;
use crate::buffer::pool::Use;
use crate::closed::Reason;
use crate::config::limits::Limits;
use crate::connection::Membership;
use crate::group::{Appended, Log, Room, SlowMember};
use crate::id::{ConnId, Group};

/// How much of what lies in a log a member may have wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
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
) -> Admitted {
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
    if pending + (upto - start) > hard { Admitted::Cut } else { Admitted::UpTo(upto, skipped) }
}

impl Core {
    /// Makes a group. `None` when there are as many as allowed.
    pub(crate) fn create_group(&mut self, policy: SlowMember) -> Option<Group> {
        (self.groups.len() < self.limits.groups).then(|| self.groups.create(policy))
    }

    /// Ends a group. Its members stay connected, and get what was sent to it before.
    pub(crate) fn drop_group(&mut self, group: Group) -> bool {
        while let Some(member) = self.groups.get(group).and_then(|r| r.members.last()) {
            let id = member.conn;
            self.leave(group, id);
        }
        let Some(room) = self.groups.remove(group) else { return false };
        self.groups.live.retain(|&g| g != group);
        for mut log in room.logs {
            self.pool.give(log.take_block(), Use::Output);
        }
        self.release(room.waiting);
        true
    }

    /// Makes a connection a member. False when either does not exist (any more), it is ending, or it is in as many
    /// groups as allowed.
    pub(crate) fn join(&mut self, group: Group, id: ConnId) -> bool {
        let number = self.groups.next_number();
        let Self { conns, groups, limits, .. } = self;
        let (Some(c), Some(room)) = (conns.get_mut(id), groups.get_mut(group)) else { return false };
        if c.groups.iter().any(|m| m.group == group) {
            return true;
        }
        if !c.takes_output() || c.groups.len() >= limits.groups_per_connection {
            return false;
        }
        let place = room.add(id, c.handler, number);
        c.groups.push(Membership { group, place });
        true
    }

    /// Ends a membership; the member keeps what was sent before. False when there was none.
    pub(crate) fn leave(&mut self, group: Group, id: ConnId) -> bool {
        self.take_logs(id);
        let found = self.conns.get(id).and_then(|c| c.groups.iter().position(|m| m.group == group));
        let Some(index) = found else { return false };
        self.unlink(id, index);
        true
    }

    /// Ends all memberships, without taking what the logs still hold for it.
    pub(crate) fn leave_all(&mut self, id: ConnId) {
        while self.conns.get(id).is_some_and(|c| !c.groups.is_empty()) {
            self.unlink(id, 0);
        }
    }

    fn unlink(&mut self, id: ConnId, index: usize) {
        let Self { conns, groups, .. } = self;
        let Some(c) = conns.get_mut(id) else { return };
        let membership = c.groups.swap_remove(index);
        if c.groups.is_empty() {
            c.groups = Vec::new();
        }
        let Some(room) = groups.get_mut(membership.group) else { return };
        let Some((_, moved)) = room.remove(membership.place) else { return };
        let freed = if room.slow == 0 { std::mem::take(&mut room.waiting) } else { Vec::new() };
        if let Some(other) = moved.and_then(|m| conns.get_mut(m))
            && let Some(m) = other.groups.iter_mut().find(|m| m.group == membership.group)
        {
            m.place = membership.place;
        }
        self.release(freed);
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
            self.take_logs(id);
        }
        if message.len() > self.limits.output_total.get() || !self.make_room(message.len()) {
            return self.refuse_broadcast(group, except);
        }
        self.settle_overfull(group, message.len(), except);
        let place = except.and_then(|id| self.place(group, id));
        let Self { groups, framings, pool, stats, .. } = self;
        let number = groups.number();
        let Some(room) = groups.get_mut(group) else { return 0 };
        let Appended { mut reached, mut missed, grown } = room.append(number, framings, message, pool);
        if !room.live && reached > 0 {
            room.live = true;
            groups.live.push(group);
        }
        if let Some(place) = place
            && let Some(room) = groups.get_mut(group)
        {
            let carried = room.excuse(place, number);
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
            self.note_sender(group, id);
        }
        reached
    }

    /// There is no room for a message within the total of all output: those who may not miss one are cut.
    fn refuse_broadcast(&mut self, group: Group, except: Option<ConnId>) -> usize {
        let Some(room) = self.groups.get(group) else { return 0 };
        let members: Vec<ConnId> =
            room.members.iter().map(|m| m.conn).filter(|&id| Some(id) != except).collect();
        if room.policy == SlowMember::Skip {
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
        if let Some(member) = self.groups.get_mut(group).and_then(|r| r.members.get_mut(place as usize)) {
            member.from = from;
        }
    }

    /// Before a log would pass the hard limit inside one callback: settles it as what its members have waiting.
    fn settle_overfull(&mut self, group: Group, len: usize, except: Option<ConnId>) {
        let hard = self.limits.output_hard.get();
        let Some(room) = self.groups.get(group) else { return };
        if room.length_with(len) <= hard {
            return;
        }
        let skips = room.policy == SlowMember::Skip;
        let members: Vec<ConnId> = room.members.iter().map(|m| m.conn).collect();
        for id in members {
            let waiting = self.conns.get(id).map_or(0, |c| c.out.pending()) + self.untaken(id);
            if !skips && Some(id) != except && waiting.saturating_add(len) > hard {
                self.terminate(id, Reason::OutputLimit);
            } else {
                self.take_logs(id);
            }
        }
        let Self { groups, pool, .. } = self;
        for log in groups.get_mut(group).into_iter().flat_map(|r| &mut r.logs) {
            pool.give(log.take_block(), Use::Output);
            log.clear();
        }
    }

    /// Lets wait for a member what the kernel did not take of what it is owed: from byte `start` of `block` on.
    pub(crate) fn let_wait(
        &mut self,
        group: Group,
        place: u32,
        id: ConnId,
        owed: &Owed,
        block: &Rc<Vec<u8>>,
        start: usize,
    ) {
        let Self { conns, groups, pool, limits, stats, now, .. } = self;
        let Some(c) = conns.get_mut(id) else { return };
        let left = owed.range.end - start;
        // A write that failed has ended the membership, and another may stand in its place.
        let member =
            groups.get(group).filter(|r| r.members.get(place as usize).is_some_and(|m| m.conn == id));
        let Some(room) = member.filter(|_| c.takes_output()) else {
            c.lose(left);
            return;
        };
        let pending = c.out.pending();
        let Admitted::UpTo(upto, skipped) =
            admit(room.policy, limits, &room.logs[owed.log], start, owed.from, pending)
        else {
            c.lose(left);
            return self.terminate(id, Reason::OutputLimit);
        };
        stats.skipped += skipped;
        if pending == 0 && start == owed.range.start {
            c.stalled = *now;
        }
        if c.out.push_block(block, start..upto, pool).is_err() {
            c.lose(left);
            return self.terminate_out_of_memory(id);
        }
        if c.out.pending() > limits.output_high {
            self.note_slow(group, place);
        }
        self.hold_to_total(id);
    }

    /// Bytes that logs hold for a connection and that it has not taken.
    pub(crate) fn untaken(&self, id: ConnId) -> usize {
        if self.groups.live.is_empty() {
            return 0;
        }
        let memberships = self.conns.get(id).map_or(&[][..], |c| &c.groups);
        memberships
            .iter()
            .filter_map(|m| owed(self.groups.get(m.group)?, m.place))
            .map(|o| o.range.len())
            .sum()
    }

    /// In how many groups something waits for a connection.
    pub(crate) fn live_memberships(&self, id: ConnId) -> usize {
        let memberships = self.conns.get(id).map_or(&[][..], |c| &c.groups);
        memberships
            .iter()
            .filter(|m| self.groups.get(m.group).is_some_and(|r| owed(r, m.place).is_some()))
            .count()
    }

    /// Moves a copy of what its groups' logs hold for a connection into its outbox, in the order of sending. Done
    /// before anything else is sent to it.
    pub(crate) fn take_logs(&mut self, id: ConnId) {
        if self.groups.live.is_empty() || self.conns.get(id).is_none_or(|c| c.groups.is_empty()) {
            return;
        }
        let pieces = self.pieces(id);
        if pieces.is_empty() {
            return;
        }
        let number = self.groups.next_number();
        let memberships = self.conns.get(id).map(|c| c.groups.clone()).unwrap_or_default();
        for m in &memberships {
            self.set_from(m.group, m.place, number);
        }
        for (i, piece) in pieces.iter().enumerate() {
            if !self.take_piece(id, piece) {
                let lost: usize = pieces[i..].iter().map(|p| p.range.len()).sum();
                if let Some(c) = self.conns.get_mut(id) {
                    c.lose(lost);
                }
                return;
            }
        }
        self.mark_dirty(id);
        self.note_high(id);
        if self.conns.get(id).is_some_and(|c| c.out.pending() > self.limits.output_high) {
            for m in memberships {
                self.note_slow(m.group, m.place);
            }
        }
        self.hold_to_total(id);
    }

    /// What logs hold for a connection: one piece for each group's range, or one for each message where several groups
    /// must be merged.
    fn pieces(&self, id: ConnId) -> Vec<Piece> {
        let Some(c) = self.conns.get(id) else { return Vec::new() };
        let merge = self.live_memberships(id) > 1;
        let mut pieces = Vec::new();
        for m in &c.groups {
            let Some(room) = self.groups.get(m.group) else { continue };
            let Some(Owed { log, range, from }) = owed(room, m.place) else { continue };
            let piece = |number, range| Piece { number, group: m.group, log, from: number, range };
            if merge {
                pieces.extend(room.logs[log].messages(from).map(|(number, range)| piece(number, range)));
            } else {
                pieces.push(piece(from, range));
            }
        }
        pieces.sort_unstable_by_key(|p| p.number);
        pieces
    }

    /// Copies one piece into the outbox, as far as its group's policy admits. False when the connection was cut.
    fn take_piece(&mut self, id: ConnId, piece: &Piece) -> bool {
        let Self { conns, groups, pool, limits, stats, now, .. } = self;
        let (Some(c), Some(room)) = (conns.get_mut(id), groups.get(piece.group)) else { return false };
        let log = &room.logs[piece.log];
        let pending = c.out.pending();
        let single = piece.range.end < log.range(piece.from).end;
        let admitted = if single {
            // One message of several to be merged: all of it, or nothing.
            let limit =
                if room.policy == SlowMember::Skip { limits.output_high } else { limits.output_hard.get() };
            match pending + piece.range.len() > limit {
                false => Admitted::UpTo(piece.range.end, 0),
                true if room.policy == SlowMember::Skip => Admitted::UpTo(piece.range.start, 1),
                true => Admitted::Cut,
            }
        } else {
            admit(room.policy, limits, log, piece.range.start, piece.from, pending)
        };
        let Admitted::UpTo(end, skipped) = admitted else {
            self.terminate(id, Reason::OutputLimit);
            return false;
        };
        stats.skipped += skipped;
        if pending == 0 {
            c.stalled = *now;
        }
        let bytes = log.bytes().get(piece.range.start..end).unwrap_or_default();
        if c.out.push(bytes, pool).is_err() {
            self.terminate_out_of_memory(id);
            return false;
        }
        true
    }
}

#[derive(Debug)]
struct Piece {
    number: u64,
    group: Group,
    log: usize,
    from: u64,
    range: Range<usize>,
}

/// What a log holds for a member.
#[derive(Debug)]
pub(crate) struct Owed {
    /// Which of the group's logs.
    pub(crate) log: usize,
    /// Where in its block.
    pub(crate) range: Range<usize>,
    /// The first number in the range.
    pub(crate) from: u64,
}

/// What the member at `place` has not taken yet, if there is anything.
pub(crate) fn owed(room: &Room, place: u32) -> Option<Owed> {
    if !room.live {
        return None;
    }
    let member = room.members.get(place as usize)?;
    let range = room.logs[member.log as usize].range(member.from);
    (!range.is_empty()).then_some(Owed { log: member.log as usize, range, from: member.from })
}
