//! Sending: queueing in a connection's outbox, within its limits and the total.
//!
//! Does not write; the loop does. Invariant: a message is queued as a whole or not at all, and a connection for which
//! one did not fit is terminated, so that no stream has a gap.

use bytes::Bytes;

use super::Core;
use crate::buffer::outbox::NoMemory;
use crate::buffer::pieces::Refused;
use crate::buffer::pool::Pool;
use crate::closed::Reason;
use crate::codec::{Framing, NotEncoded, Panic};
use crate::connection::{Connection, Phase};
use crate::id::ConnId;
use crate::time::log_limit::suppressed;

/// The result of [`send`](crate::Context::send).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It will be written in order and as a whole, unless the connection ends first.
    Queued,
    /// It does not fit behind what is unsent already, within the limits. The connection is terminated.
    Full,
    /// It is longer than [`Limits::output_hard`](crate::Limits::output_hard), so it would never fit. It is dropped and
    /// counted; the connection stays open. [`send_all`](crate::Context::send_all) sends bytes of any number.
    TooLong,
    /// The connection accepts no more output: it is closing, closed, or half-closed by `shutdown_write`.
    Closed,
    /// The receiver's framing cannot encode it: it is too long, or contains the delimiter. It is dropped and counted;
    /// the connection stays open.
    Unencodable,
}

impl Sent {
    /// Returns whether the message was queued.
    pub const fn is_queued(self) -> bool {
        matches!(self, Self::Queued)
    }
}

/// Why a message was not queued.
pub(super) enum Refusal {
    Unencodable,
    Panicked(Panic),
    /// Encoded, it has this many bytes.
    TooLong(usize),
    Full,
}

impl From<Refused> for Refusal {
    fn from(why: Refused) -> Self {
        match why {
            Refused::Unencodable => Self::Unencodable,
            Refused::Panicked(panic) => Self::Panicked(panic),
        }
    }
}

impl From<NoMemory> for Refusal {
    fn from(_: NoMemory) -> Self {
        Self::Full
    }
}

impl From<NotEncoded> for Refusal {
    fn from(why: NotEncoded) -> Self {
        match why {
            NotEncoded::Refused => Self::Unencodable,
            NotEncoded::Panicked(panic) => Self::Panicked(panic),
        }
    }
}

/// Returns the framing in which a connection is sent to; `None` if it is sent plain bytes.
#[inline]
pub(super) fn framing_of<'a>(framings: &'a [Framing], c: &Connection) -> Option<&'a Framing> {
    framings.get(c.handler.slot()).filter(|f| !f.is_raw())
}

/// Queues a message in its receiver's framing. `before` is the number of unsent bytes, `hard` their limit. The limit is
/// checked after encoding, because only then the length is known.
#[inline]
fn queue(
    c: &mut Connection,
    framings: &[Framing],
    pool: &mut Pool,
    data: &[u8],
    before: usize,
    hard: usize,
) -> Result<(), Refusal> {
    let Some(framing) = framing_of(framings, c) else {
        return Ok(c.out.push(data, pool)?);
    };
    let encode = |tail: &mut Vec<u8>| {
        let start = tail.len();
        framing.encode(data, tail)?;
        match tail.len() - start {
            len if len > hard => Err(Refusal::TooLong(len)),
            len if before + len > hard => Err(Refusal::Full),
            _ => Ok(()),
        }
    };
    c.out.push_with(framing.encoded_len(data.len()), pool, encode)
}

impl Core {
    /// Sends to a connection, in its handler's framing.
    #[inline]
    pub(crate) fn send(&mut self, id: ConnId, data: &[u8]) -> Sent {
        let Self { conns, groups, framings, pool, limits, delivery, stats, .. } = self;
        let (own, hard) = (delivery.conn == Some(id), limits.output_hard.get());
        let spare = pool.output().saturating_add(data.len()) <= limits.output_total.get();
        // An empty outbox takes the slow path: its stall timeout must start, and it may echo in place.
        let plain =
            |c: &&mut Connection| spare && groups.with_unsent.is_empty() && c.out.pending() > 0 && c.takes_output();
        // Fast path, for the second and later messages of a callback: there is unsent output already and there are no
        // broadcasts to take first, so the message is only appended.
        if let Some(c) = conns.get_mut(id).filter(plain) {
            // Bytes echoed in place are written in front of it.
            let echoed = if own { delivery.echo.len() } else { 0 };
            let before = c.out.pending() + echoed;
            // The only check for plain bytes. `queue` checks framed ones again, when their encoded
            // length is known.
            if before.saturating_add(data.len()) <= hard {
                let queued = queue(c, framings, pool, data, before, hard);
                if own && queued.is_ok() && c.out.pending() + echoed < limits.output_high {
                    // `after_queueing` would do just this.
                    stats.messages_out += 1;
                    delivery.sent_to_self = true;
                    return Sent::Queued;
                }
                return self.after_queueing(id, queued);
            }
        }
        self.send_slow_path(id, data)
    }

    /// Sends with all checks: echoes in place if possible, or takes broadcasts from the logs first and evicts if there
    /// is no space.
    fn send_slow_path(&mut self, id: ConnId, data: &[u8]) -> Sent {
        if self.try_echo_in_place(id, data) {
            self.count_sent(id);
            return Sent::Queued;
        }
        if let Err(refused) = self.may_send(id, data.len()) {
            return refused;
        }
        self.start_write_stall(id);
        // Counted after `may_send`, which moves broadcasts from the logs to the outbox.
        let before = self.conns.get(id).map_or(0, |c| self.pending(c));
        let Self { conns, framings, pool, limits, .. } = self;
        let Some(c) = conns.live_mut(id) else { return Sent::Closed };
        let queued = queue(c, framings, pool, data, before, limits.output_hard.get());
        self.after_queueing(id, queued)
    }

    /// Sends bytes by reference. Framed connections get an encoded copy.
    pub(crate) fn send_bytes(&mut self, id: ConnId, data: Bytes) -> Sent {
        if self.conns.get(id).is_none_or(|c| framing_of(&self.framings, c).is_some()) {
            return self.send(id, &data);
        }
        self.send_plain(id, data.len(), |c, pool| c.out.push_bytes(data, pool))
    }

    /// Sends bytes that are part of the framing itself, and no message.
    pub(crate) fn send_unframed(&mut self, id: ConnId, data: &[u8]) -> Sent {
        self.send_plain(id, data.len(), |c, pool| c.out.push(data, pool))
    }

    /// Queues `len` bytes as they are.
    fn send_plain(
        &mut self,
        id: ConnId,
        len: usize,
        push: impl FnOnce(&mut Connection, &mut Pool) -> Result<(), NoMemory>,
    ) -> Sent {
        if let Err(refused) = self.may_send(id, len) {
            return refused;
        }
        self.start_write_stall(id);
        let Self { conns, pool, .. } = self;
        let Some(c) = conns.live_mut(id) else { return Sent::Closed };
        let queued = push(c, pool).map_err(Refusal::from);
        self.after_queueing(id, queued)
    }

    /// Starts the write stall timeout, if nothing was unsent before. If the socket is not writable, no write will be
    /// tried that would set the deadline, so it is set here.
    pub(super) fn start_write_stall(&mut self, id: ConnId) {
        let Some(c) = self.conns.get_mut(id).filter(|c| c.out.pending() == 0) else { return };
        c.write_blocked_since = self.now;
        if !c.readiness.writable {
            self.deadlines.bring_forward(id.slot, self.now.after(self.limits.write_stall.get()));
        }
    }

    /// Updates the counters and marks after a message was queued or refused, and returns the result of the send.
    #[inline]
    pub(super) fn after_queueing(&mut self, id: ConnId, queued: Result<(), Refusal>) -> Sent {
        match queued {
            Ok(()) => {
                self.count_sent(id);
                Sent::Queued
            }
            Err(Refusal::Unencodable) => {
                log::debug!("{id}: its framing cannot encode a message");
                self.stats.unencodable += 1;
                Sent::Unencodable
            }
            Err(Refusal::Panicked(panic)) => {
                self.codec_panics.extend(self.conns.get(id).map(|c| (c.handler, panic)));
                self.terminate(id, Reason::HandlerPanic);
                Sent::Closed
            }
            Err(Refusal::TooLong(len)) => {
                self.refuse_too_long(&id, len);
                Sent::TooLong
            }
            Err(Refusal::Full) => {
                self.terminate(id, Reason::OutputLimit);
                Sent::Full
            }
        }
    }

    /// Counts a queued message and has it flushed: after the callback if it is for the callback's own connection,
    /// otherwise at the end of the turn.
    #[inline]
    pub(super) fn count_sent(&mut self, id: ConnId) {
        self.stats.messages_out += 1;
        if self.delivery.conn == Some(id) {
            self.delivery.sent_to_self = true;
        } else {
            self.mark_dirty(id);
        }
        self.check_high_water(id);
    }

    /// Queues a connection to be flushed at the end of the turn.
    pub(crate) fn mark_dirty(&mut self, id: ConnId) {
        if let Some(c) = self.conns.live_mut(id) {
            self.dirty.push(id, &mut c.queues.dirty);
        }
    }

    /// Stops reading a connection whose unsent output has reached the high-water mark (backpressure).
    #[inline]
    pub(crate) fn check_high_water(&mut self, id: ConnId) {
        let high = self.limits.output_high;
        if self.conns.get(id).is_some_and(|c| !c.flow.above_high_water && self.pending(c) >= high) {
            self.set_high(id);
        }
    }

    #[cold]
    pub(super) fn set_high(&mut self, id: ConnId) {
        if let Some(c) = self.conns.live_mut(id) {
            c.flow.above_high_water = true;
        }
        self.sync_clock(id);
        self.notify_linked_senders(id, true);
    }

    /// Updates the watermarks and the write stall deadline after a write was tried.
    #[inline]
    pub(crate) fn after_write(&mut self, id: ConnId) {
        // Usually everything is written and the high-water mark was not reached: nothing to do.
        if self.conns.get(id).is_some_and(|c| c.flow.above_high_water || c.out.pending() > 0) {
            self.apply_watermarks(id);
        }
    }

    /// Resumes reading at the low-water mark only: with a single mark, every write would stop and resume it.
    fn apply_watermarks(&mut self, id: ConnId) {
        let (low, stall) = (self.limits.output_low, self.limits.write_stall.get());
        let Some(c) = self.conns.live_mut(id) else { return };
        let pending = c.out.pending();
        if pending > 0 {
            self.deadlines.bring_forward(id.slot, c.write_blocked_since.after(stall));
        }
        if !c.flow.above_high_water {
            // `queue_remainder` and `requeue_front` leave this check to `after_write`.
            return self.check_high_water(id);
        }
        if c.out.has_pieces() {
            return;
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

    /// Queues in front of the outbox the bytes echoed in place that the kernel did not accept.
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
        self.enforce_output_total(id, 0);
    }

    /// Echoes in place: if `data` is a part of the bytes that were delivered to the running callback of the same,
    /// unframed connection, and nothing is unsent before it, only its range is recorded. The loop writes it from the
    /// read buffer when the callback has returned. This saves a copy of every byte that an echo server or a proxy sends
    /// back, and the buffer for it. Returns `false` if the bytes must be copied.
    fn try_echo_in_place(&mut self, id: ConnId, data: &[u8]) -> bool {
        let Self { conns, delivery, groups, framings, limits, now, .. } = self;
        let own = delivery.conn == Some(id);
        let Some(echoed) = delivery.echo.with(data).filter(|echoed| own && echoed.len() <= limits.output_hard.get())
        else {
            return false;
        };
        let Some(c) = conns.live_mut(id) else { return false };
        let plain = framing_of(framings, c).is_none();
        let logged = !c.groups.is_empty() && !groups.with_unsent.is_empty();
        if !plain || logged || !c.takes_output() || c.out.pending() > 0 {
            return false;
        }
        if delivery.echo.len() == 0 {
            c.write_blocked_since = *now;
        }
        delivery.echo.set(echoed);
        true
    }

    /// Makes space for `len` more bytes for `id`: takes its broadcasts from the logs first, evicts other connections if
    /// there is no space in the total, and terminates `id` if it exceeds a limit.
    pub(super) fn may_send(&mut self, id: ConnId, len: usize) -> Result<(), Sent> {
        if len > self.limits.output_hard.get() && self.conns.get(id).is_some_and(Connection::takes_output) {
            self.refuse_too_long(&id, len);
            return Err(Sent::TooLong);
        }
        self.take_from_logs(id);
        let Some(c) = self.conns.get(id).filter(|c| c.takes_output()) else { return Err(self.refused(id)) };
        if self.pending(c).saturating_add(len) > self.limits.output_hard.get() {
            self.terminate(id, Reason::OutputLimit);
            return Err(Sent::Full);
        }
        self.enforce_output_total(id, len);
        if self.conns.get(id).is_some_and(Connection::takes_output) { Ok(()) } else { Err(self.refused(id)) }
    }

    /// Counts and logs a message that is longer than the limit. Nobody is closed for it: it says nothing about who
    /// should receive it.
    #[cold]
    pub(super) fn refuse_too_long(&mut self, to: &dyn std::fmt::Display, len: usize) {
        self.stats.unencodable += 1;
        if let Some(n) = self.too_long_log.allow(self.now) {
            let max = self.limits.output_hard.get();
            let more = suppressed(n);
            log::warn!("{to}: a message of {len} bytes is dropped: output_hard is {max}; use send_all{more}");
        }
    }

    /// Returns the result of a send to a connection that takes no output.
    fn refused(&self, id: ConnId) -> Sent {
        let overflowed = |c: &Connection| matches!(c.reason(), Some(Reason::OutputLimit | Reason::TotalOutputLimit));
        match self.conns.get(id) {
            Some(c) if c.phase == Phase::Closed && overflowed(c) => Sent::Full,
            _ => Sent::Closed,
        }
    }

    /// Enforces the limit on the output of all connections: terminates those that hold the most, largest first, until
    /// `len` more bytes fit. Returns `false` if they do not fit even after all holders of this turn's scan are closed,
    /// or could never fit: then it closes nobody.
    ///
    /// Closing a few slow consumers keeps the server running for all others; without a limit the process would run out
    /// of memory. The holders are scanned once per turn: see [`Evictor`](super::evictor::Evictor).
    pub(crate) fn evict_output(&mut self, len: usize) -> bool {
        let total = self.limits.output_total.get();
        if len > total {
            return false;
        }
        while self.pool.output().saturating_add(len) > total {
            let Self { evictor, conns, turn, .. } = self;
            let holder = |c: &Connection| (!c.readiness.writable, c.out.weight(), c.id);
            let holders = || conns.iter().map(holder).filter(|h| h.1 > 0).collect();
            let Some(largest) = evictor.output.next(*turn, holders) else { return false };
            if self.conns.get(largest).is_some_and(|c| c.out.pending() > 0) {
                self.terminate(largest, Reason::TotalOutputLimit);
            }
        }
        true
    }

    /// Enforces the limit on all output when `len` more bytes are to be queued for `id`: terminates `id` if they do not
    /// fit.
    pub(super) fn enforce_output_total(&mut self, id: ConnId, len: usize) {
        if !self.evict_output(len) {
            self.terminate(id, Reason::TotalOutputLimit);
        }
    }
}
