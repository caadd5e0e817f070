//! Sending: into a connection's outbox, within its limits and the total.
//!
//! Knows nothing of writing. Invariant: what is not queued whole is not queued at all, and a connection that missed
//! bytes for want of spare is ended, so that no stream has a gap.

use bytes::Bytes;

use super::Core;
use crate::buffer::outbox::NoMemory;
use crate::buffer::pool::Pool;
use crate::closed::Reason;
use crate::codec::{EncodeError, Framing};
use crate::connection::{Connection, Phase};
use crate::id::ConnId;

/// What became of a message given to [`send`](crate::Context::send).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It will be written in its turn, whole, unless the connection ends first.
    Queued,
    /// There is no spare for it within the limits. The connection is cut, and takes no more.
    Full,
    /// The connection takes no more output: it is closing, or has gone.
    Closed,
    /// The receiver's framing cannot carry it (too long, or it contains the delimiter). Counted; nothing else happens.
    Unencodable,
}

impl Sent {
    /// Whether the message was queued.
    pub const fn is_queued(self) -> bool {
        matches!(self, Self::Queued)
    }
}

enum Refusal {
    Unencodable,
    Full,
}

impl From<NoMemory> for Refusal {
    fn from(_: NoMemory) -> Self {
        Self::Full
    }
}

impl From<EncodeError> for Refusal {
    fn from(_: EncodeError) -> Self {
        Self::Unencodable
    }
}

/// Queues a message in its receiver's framing, where `before` bytes wait and `hard` may.
#[inline]
fn queue(
    c: &mut Connection,
    framings: &[Framing],
    pool: &mut Pool,
    data: &[u8],
    before: usize,
    hard: usize,
) -> Result<(), Refusal> {
    let Some(framing) = framings.get(c.handler.slot()).filter(|f| !f.is_raw()) else {
        return Ok(c.out.push(data, pool)?);
    };
    let encode = |tail: &mut Vec<u8>| {
        let start = tail.len();
        framing.encode(data, tail)?;
        if before + (tail.len() - start) > hard { Err(Refusal::Full) } else { Ok(()) }
    };
    c.out.push_with(framing.encoded_len(data.len()), pool, encode).map(|_| ())
}

impl Core {
    /// Sends to a connection, framed as its handler says.
    #[inline]
    pub(crate) fn send(&mut self, id: ConnId, data: &[u8]) -> Sent {
        let Self { conns, groups, framings, pool, limits, delivery, stats, .. } = self;
        let (own, hard) = (delivery.conn == Some(id), limits.output_hard.get());
        let spare = pool.output().saturating_add(data.len()) <= limits.output_total.get();
        let plain = |c: &&mut Connection| {
            spare && groups.with_unsent.is_empty() && c.out.pending() > 0 && c.takes_output()
        };
        // The second and later messages of a callback: they go behind others, with nothing to settle.
        if let Some(c) = conns.get_mut(id).filter(plain) {
            // What is borrowed goes out in front of it.
            let echo_range = if own { delivery.echo_range.len() } else { 0 };
            let before = c.out.pending() + echo_range;
            if before.saturating_add(data.len()) <= hard {
                let queued = queue(c, framings, pool, data, before, hard);
                if own && queued.is_ok() && c.out.pending() + echo_range < limits.output_high {
                    // What `sent` would do comes to this.
                    stats.messages_out += 1;
                    delivery.sent_to_self = true;
                    return Sent::Queued;
                }
                return self.sent(id, queued);
            }
        }
        self.send_with_care(id, data)
    }

    /// Sends where something may have to be settled first, or need not be copied.
    fn send_with_care(&mut self, id: ConnId, data: &[u8]) -> Sent {
        if self.try_echo_in_place(id, data) {
            self.count_sent(id);
            return Sent::Queued;
        }
        if !self.may_send(id, data.len()) {
            return self.refused(id);
        }
        self.begin_waiting(id);
        let before = self.conns.get(id).map_or(0, |c| self.pending(c));
        let Self { conns, framings, pool, limits, .. } = self;
        let Some(c) = conns.live_mut(id) else { return Sent::Closed };
        let queued = queue(c, framings, pool, data, before, limits.output_hard.get());
        self.sent(id, queued)
    }

    /// Sends bytes by reference; framed connections get an encoded copy.
    pub(crate) fn send_bytes(&mut self, id: ConnId, data: Bytes) -> Sent {
        let raw = |f: Option<&Framing>| f.is_none_or(Framing::is_raw);
        if !self.conns.get(id).is_some_and(|c| raw(self.framings.get(c.handler.slot()))) {
            return self.send(id, &data);
        }
        if !self.may_send(id, data.len()) {
            return self.refused(id);
        }
        self.begin_waiting(id);
        let Self { conns, pool, .. } = self;
        let Some(c) = conns.live_mut(id) else { return Sent::Closed };
        let queued = c.out.push_bytes(data, pool).map_err(Refusal::from);
        self.sent(id, queued)
    }

    /// Starts the clock of a connection's waiting output, if none waits yet. (Where the kernel takes no more, no write
    /// will be tried that would set the deadline.)
    fn begin_waiting(&mut self, id: ConnId) {
        let Some(c) = self.conns.get_mut(id).filter(|c| c.out.pending() == 0) else { return };
        c.write_blocked_since = self.now;
        if !c.readiness.writable {
            self.deadlines.bring_forward(id.slot, self.now.after(self.limits.write_stall.get()));
        }
    }

    /// What follows from the attempt to queue a message.
    #[inline]
    fn sent(&mut self, id: ConnId, queued: Result<(), Refusal>) -> Sent {
        match queued {
            Ok(()) => {
                self.count_sent(id);
                Sent::Queued
            }
            Err(Refusal::Unencodable) => {
                log::debug!("{id}: its framing cannot carry a message");
                self.stats.unencodable += 1;
                Sent::Unencodable
            }
            Err(Refusal::Full) => {
                self.terminate(id, Reason::OutputLimit);
                Sent::Full
            }
        }
    }

    #[inline]
    fn count_sent(&mut self, id: ConnId) {
        self.stats.messages_out += 1;
        if self.delivery.conn == Some(id) {
            self.delivery.sent_to_self = true;
        } else {
            self.mark_dirty(id);
        }
        self.check_high_water(id);
    }

    /// Has `id` flushed at the end of the turn.
    pub(crate) fn mark_dirty(&mut self, id: ConnId) {
        if let Some(c) = self.conns.live_mut(id) {
            self.dirty.push(id, &mut c.queues.dirty);
        }
    }

    /// Stops reading a peer for whom much waits.
    #[inline]
    pub(crate) fn check_high_water(&mut self, id: ConnId) {
        let high = self.limits.output_high;
        if self.conns.get(id).is_some_and(|c| !c.flow.above_high_water && self.pending(c) >= high) {
            self.set_high(id);
        }
    }

    #[cold]
    fn set_high(&mut self, id: ConnId) {
        if let Some(c) = self.conns.live_mut(id) {
            c.flow.above_high_water = true;
        }
        self.sync_clock(id);
        self.notify_linked_senders(id, true);
    }

    /// What follows from a write, or the attempt: the watermarks, and the clock of what still waits.
    #[inline]
    pub(crate) fn after_write(&mut self, id: ConnId) {
        // All is written and nothing was held up: the usual case.
        if self.conns.get(id).is_some_and(|c| c.flow.above_high_water || c.out.pending() > 0) {
            self.apply_watermarks(id);
        }
    }

    fn apply_watermarks(&mut self, id: ConnId) {
        let (low, stall) = (self.limits.output_low, self.limits.write_stall.get());
        let Some(c) = self.conns.live_mut(id) else { return };
        let pending = c.out.pending();
        if pending > 0 {
            self.deadlines.bring_forward(id.slot, c.write_blocked_since.after(stall));
        }
        if !c.flow.above_high_water {
            return self.check_high_water(id);
        }
        if pending <= low {
            c.flow.above_high_water = false;
            c.flow.drain_due = c.phase == Phase::Open && c.has_state;
            self.sync_clock(id);
            self.clear_slow(id);
            self.notify_linked_senders(id, false);
            self.enqueue_if_work(id);
        }
    }

    /// Queues, before everything else, what was to be written directly and was not.
    pub(crate) fn requeue_front(&mut self, id: ConnId, rest: &[u8]) {
        let Self { conns, pool, .. } = self;
        let Some(c) = conns.get_mut(id).filter(|_| !rest.is_empty()) else { return };
        if c.halves.write_failed || c.phase >= Phase::Lingering {
            c.lose(rest.len());
            return;
        }
        if c.out.push_front(rest, pool).is_err() {
            c.lose(rest.len());
            return self.terminate_out_of_memory(id);
        }
        self.enforce_output_total(id);
    }

    /// Whether `data` is part of what was just delivered on the same, unframed connection, with nothing waiting before
    /// it. Then it need not be copied: it is written from where it lies as soon as the callback has returned.
    fn try_echo_in_place(&mut self, id: ConnId, data: &[u8]) -> bool {
        let Self { conns, delivery, groups, framings, limits, now, .. } = self;
        let start = data.as_ptr().addr();
        let inside = start >= delivery.input_range.start && start + data.len() <= delivery.input_range.end;
        if delivery.conn != Some(id) || !inside || data.is_empty() {
            return false;
        }
        let Some(c) = conns.live_mut(id) else { return false };
        let plain = framings.get(c.handler.slot()).is_none_or(Framing::is_raw);
        let logged = !c.groups.is_empty() && !groups.with_unsent.is_empty();
        if !plain || logged || !c.takes_output() || c.out.pending() > 0 {
            return false;
        }
        if delivery.echo_range.len() + data.len() > limits.output_hard.get() {
            return false;
        }
        let offset = start - delivery.input_range.start;
        if delivery.echo_range.is_empty() {
            delivery.echo_range = offset..offset;
        }
        if delivery.echo_range.end != offset {
            return false;
        }
        delivery.echo_range.end += data.len();
        if delivery.echo_range.len() == data.len() {
            c.write_blocked_since = *now;
        }
        true
    }

    /// Whether `len` more bytes may be queued for `id`, after what its groups have for it, and makes spare if need be.
    fn may_send(&mut self, id: ConnId, len: usize) -> bool {
        self.take_from_logs(id);
        let Some(c) = self.conns.get(id).filter(|c| c.takes_output()) else { return false };
        if self.pending(c).saturating_add(len) > self.limits.output_hard.get() {
            self.terminate(id, Reason::OutputLimit);
            return false;
        }
        if len > self.limits.output_total.get() {
            self.terminate(id, Reason::TotalOutputLimit);
            return false;
        }
        if !self.evict_output(len) {
            self.terminate(id, Reason::TotalOutputLimit);
        }
        self.conns.get(id).is_some_and(Connection::takes_output)
    }

    /// The answer to a send that [`may_send`](Core::may_send) did not let pass.
    fn refused(&self, id: ConnId) -> Sent {
        let overflowed =
            |c: &Connection| matches!(c.reason(), Some(Reason::OutputLimit | Reason::TotalOutputLimit));
        match self.conns.get(id) {
            Some(c) if c.phase == Phase::Closed && overflowed(c) => Sent::Full,
            _ => Sent::Closed,
        }
    }

    /// Keeps all output together within its limit, by cutting those who hold the most of it. False when there is no
    /// spare for `len` more all the same: who held much when the turn's scan was made is cut already.
    pub(crate) fn evict_output(&mut self, len: usize) -> bool {
        let total = self.limits.output_total.get();
        while self.pool.output().saturating_add(len) > total {
            let Self { evictor, conns, turn, .. } = self;
            let holders = || conns.iter().map(|c| (c.out.weight(), c.id)).filter(|h| h.0 > 0).collect();
            let Some(largest) = evictor.output.next(*turn, holders) else { return false };
            if self.conns.get(largest).is_some_and(|c| c.out.pending() > 0) {
                self.terminate(largest, Reason::TotalOutputLimit);
            }
        }
        true
    }

    /// After something was queued for a connection without asking first: keeps all output within its limit.
    pub(super) fn enforce_output_total(&mut self, id: ConnId) {
        if !self.evict_output(0) {
            self.terminate(id, Reason::TotalOutputLimit);
        }
    }
}
