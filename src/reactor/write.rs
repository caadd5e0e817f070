//! Writes output: that of one connection, and at the end of a turn that of all connections and groups.
//!
//! Invariant: `writable` is cleared only when the kernel returns `WouldBlock`; written bytes are counted and removed at
//! once, so none is written twice; a member takes each range of a log once.

use std::io::{self, ErrorKind, IoSlice};
use std::rc::Rc;

use super::event_loop::EventLoop;
use crate::buffer::outbox::{Outbox, SLICES};
use crate::closed::Reason;
use crate::core::unsent_range;
use crate::id::{ConnId, Group};
use crate::sys::Sys;
use crate::sys::errno::is_full;

impl<S: Sys> EventLoop<S> {
    /// Writes `prefix`, then the outbox of the connection, then `suffix`, until the kernel takes no more or the
    /// budget of the turn is used up. Returns how much of `prefix` and of `suffix` was written; the caller queues the
    /// rest.
    pub(super) fn write(&mut self, id: ConnId, prefix: &[u8], suffix: &[u8]) -> (usize, usize) {
        let (mut prefix_written, mut suffix_written) = (0, 0);
        let core = &mut self.dispatcher.core;
        let Some(stream) = self.streams.get_mut(id) else { return (0, 0) };
        let mut failed = None;
        // A short write is not the end: mio promises another event only after `WouldBlock`.
        while let Some(c) = core.conns.get_mut(id).filter(|c| c.can_be_written()) {
            if c.turn != core.turn {
                // Reset by the first write of a turn, instead of by a pass over all connections.
                (c.turn, c.written_in_turn) = (core.turn, 0);
            }
            // Pieces have no bound of their own.
            let bounded = !c.groups.is_empty() && !c.out.has_pieces();
            // Group output is bounded already, and what stays unwritten counts against the member as a slow consumer.
            // So for members only the kernel may limit a write, not our budget.
            let left = core.limits.write_per_turn.saturating_sub(c.written_in_turn as usize);
            let budget = if bounded { usize::MAX } else { left };
            let Some(result) =
                write_some(&mut self.sys, stream, &c.out, &prefix[prefix_written..], &suffix[suffix_written..], budget)
            else {
                break;
            };
            match result {
                // No slice is empty: a write of nothing would be repeated forever.
                Ok(0) => failed = Some(Reason::Io(ErrorKind::WriteZero)),
                Ok(taken) => {
                    c.bytes_out += taken as u64;
                    c.written_in_turn = c.written_in_turn.saturating_add(u32::try_from(taken).unwrap_or(u32::MAX));
                    (c.last_activity, c.write_blocked_since) = (core.now, core.now);
                    c.readiness.write_blocked = false;
                    core.stats.bytes_out += taken as u64;
                    let of_prefix = taken.min(prefix.len() - prefix_written);
                    let of_queue = (taken - of_prefix).min(c.out.pending());
                    prefix_written += of_prefix;
                    suffix_written += taken - of_prefix - of_queue;
                    c.out.advance(of_queue, &mut core.pool);
                    if c.out.front_pieces().is_some() {
                        core.fetch_pieces(id);
                    } else if prefix_written == prefix.len() && suffix_written == suffix.len() && c.out.pending() == 0 {
                        break;
                    }
                }
                Err(e) if is_full(&e) => {
                    c.readiness.writable = false;
                    // The time before the first try is ours: a callback may have taken long after it sent.
                    if !std::mem::replace(&mut c.readiness.write_blocked, true) {
                        c.write_blocked_since = core.now;
                    }
                    c.out.shrink(&mut core.pool);
                }
                Err(e) => failed = Some(Reason::of_io(&e)),
            }
            if failed.is_some() {
                break;
            }
        }
        if let Some(reason) = failed {
            // The unwritten prefix is lost too. Count it first: how the connection closes depends on what is lost.
            if let Some(c) = core.conns.live_mut(id) {
                c.lose(prefix.len() - prefix_written);
                // Counted, so the caller must not queue it. Of the suffix, `queue_remainder` counts what is lost.
                prefix_written = prefix.len();
            }
            core.write_failed(id, reason);
        }
        (prefix_written, suffix_written)
    }

    /// Writes the outbox of a connection.
    pub(super) fn flush(&mut self, id: ConnId) {
        self.write(id, &[], &[]);
        self.dispatcher.core.after_write(id);
    }

    /// Ends the output of a turn: writes the groups' logs, then the outboxes that callbacks of others have filled.
    pub(super) fn flush_all(&mut self) {
        let core = &mut self.dispatcher.core;
        if core.groups.with_unsent.is_empty() && core.dirty.is_empty() {
            return core.resume_throttled();
        }
        self.flush_groups();
        self.flush_dirty();
        // The writes took time. It belongs to the length of this turn, and is no idle time of those
        // read again now.
        self.update_clock();
        self.dispatcher.core.resume_throttled();
    }

    /// Writes the outboxes that callbacks of others have filled.
    fn flush_dirty(&mut self) {
        for _ in 0..self.dispatcher.core.dirty.len() {
            let Some(id) = self.dispatcher.core.dirty.pop() else { break };
            if let Some(c) = self.dispatcher.core.conns.live_mut(id) {
                c.queues.dirty = false;
                if c.can_write() {
                    self.flush(id);
                } else {
                    // What was taken from logs has no stall deadline yet, and no write is tried
                    // that would set one.
                    self.dispatcher.core.after_write(id);
                }
                self.advance_close(id);
                self.dispatcher.core.enqueue_if_work(id);
            }
        }
    }

    /// Writes what cannot wait for the end of the turn: the groups' logs that have reached their limit, and all output
    /// while memory is short, so that nobody is evicted for bytes that its peer would take.
    #[inline]
    pub(super) fn flush_early(&mut self) {
        if self.dispatcher.core.logs_full() {
            self.flush_groups();
        }
        if !self.dispatcher.core.dirty.is_empty() && self.dispatcher.core.memory_pressure() {
            self.flush_dirty();
        }
    }

    /// Writes the groups' logs to their members, one write for each member of a group.
    pub(super) fn flush_groups(&mut self) {
        self.dispatcher.core.logged = 0;
        self.merge_logs();
        // The logs stay in place meanwhile: if a member is closed, they show how many bytes it has lost.
        let mut next = 0;
        while let Some(group) = self.dispatcher.core.groups.with_unsent.get(next) {
            self.flush_group(group);
            next += 1;
        }
        self.dispatcher.core.groups.with_unsent.clear();
    }

    /// Moves the output of connections with more than one unsent log into their outboxes, in the order of sending.
    /// Written group by group, the messages would arrive out of order.
    fn merge_logs(&mut self) {
        let core = &self.dispatcher.core;
        if core.groups.with_unsent.len() < 2 {
            return;
        }
        let groups: Vec<Group> = core.groups.with_unsent.iter().collect();
        for group in groups {
            let core = &self.dispatcher.core;
            let members: Vec<ConnId> =
                core.groups.states.get(group).iter().flat_map(|r| &r.members).map(|m| m.conn).collect();
            for id in members {
                if self.dispatcher.core.count_unsent_groups(id) > 1 {
                    self.dispatcher.core.take_from_logs(id);
                    self.flush(id);
                }
            }
        }
    }

    /// Writes one group's logs to all its members.
    fn flush_group(&mut self, group: Group) {
        let Some(state) = self.dispatcher.core.groups.states.live_mut(group) else { return };
        // Shared, so that a long remainder of a slow member is queued by reference.
        let blocks: Vec<Rc<Vec<u8>>> = state.logs.iter_mut().map(|l| Rc::new(l.take_block())).collect();
        // Backwards: a member that is closed during its write is removed by `swap_remove`, so the last member takes its
        // place. Backwards that one has been served already; forwards it would be skipped.
        for place in (0..state.members.len() as u32).rev() {
            self.flush_member(group, place, &blocks);
        }
        let core = &mut self.dispatcher.core;
        if let Some(state) = core.groups.states.live_mut(group) {
            state.has_unsent = false;
            state.senders.clear();
            for log in &mut state.logs {
                log.clear();
            }
        }
        for block in blocks {
            core.pool.recycle_shared(block);
        }
    }

    /// Writes the unsent part of the log to one member. What the kernel does not take is queued for the member, if the
    /// policy of the group permits.
    fn flush_member(&mut self, group: Group, place: u32, blocks: &[Rc<Vec<u8>>]) {
        let core = &mut self.dispatcher.core;
        let number = core.groups.next_number();
        let Some(state) = core.groups.states.live_mut(group) else { return };
        let Some(unsent) = unsent_range(state, place) else { return };
        let Some(member) = state.members.get_mut(place as usize) else { return };
        // Before the write: if it closes the member, `lose_output` must not count this range;
        // `queue_remainder` does.
        member.from = number;
        let id = member.conn;
        let block = &blocks[unsent.log];
        let (_, written) = self.write(id, &[], block.get(unsent.range.clone()).unwrap_or_default());
        let start = unsent.range.start + written;
        if start < unsent.range.end {
            self.dispatcher.core.queue_remainder(group, place, id, &unsent, block, start);
        }
        self.dispatcher.core.after_write(id);
        self.dispatcher.core.enqueue_if_work(id);
    }
}

/// Makes one write of at most `budget` bytes of `prefix`, the outbox and `suffix`. Returns `None` if there is nothing
/// to write, or no budget.
#[inline]
fn write_some<S: Sys>(
    sys: &mut S,
    stream: &mut S::Stream,
    out: &Outbox,
    prefix: &[u8],
    suffix: &[u8],
    budget: usize,
) -> Option<io::Result<usize>> {
    if budget == 0 {
        return None;
    }
    if let Some(only) = out.single(prefix, suffix) {
        let only = only.get(..budget).unwrap_or(only);
        return (!only.is_empty()).then(|| sys.write(stream, &[IoSlice::new(only)]));
    }
    let mut slices = [IoSlice::new(&[]); SLICES];
    let n = out.gather(prefix, suffix, budget, &mut slices);
    (n > 0).then(|| sys.write(stream, &slices[..n]))
}
