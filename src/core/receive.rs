//! Input: whether a connection is read and how much at once, buffering what its callback did not use, and the clock of
//! an unfinished message.
//!
//! Does not read; the loop does. Invariant: only an open connection has buffered input, and its message clock runs only
//! while it is read.

use super::echo::EchoInPlace;
use super::{Core, Delivery};
use crate::buffer::input::InputBuffer;
use crate::closed::{BadInput, Reason};
use crate::codec::FrameError;
use crate::config::limits::LEAST_READ;
use crate::connection::{Connection, Phase};
use crate::id::ConnId;
use crate::time::pausable_clock::PausableClock;

impl Core {
    /// Starts the delivery of `data` to a callback of connection `id`.
    #[inline]
    pub(crate) fn begin_delivery(&mut self, id: ConnId, data: &[u8]) {
        self.delivery = Delivery { conn: Some(id), echo: EchoInPlace::new(data), ..Delivery::default() };
    }

    /// Returns whether a connection may be read now. Backpressure: a peer above its high-water mark is not read, nor,
    /// under memory pressure, one with any unsent output. Reading more requests of a peer that does not read the
    /// answers would only add to them.
    #[inline]
    pub(crate) fn may_read(&self, c: &Connection) -> bool {
        self.may_read_with(c, c.out.pending())
    }

    /// Returns whether input of a connection waits to be read or delivered, and may be.
    pub(crate) fn has_unread_input(&self, id: ConnId) -> bool {
        self.conns.get(id).is_some_and(|c| c.has_input() && self.may_read(c))
    }

    #[inline]
    fn may_read_with(&self, c: &Connection, unsent: usize) -> bool {
        c.phase == Phase::Open && !c.is_read_blocked() && !(unsent > 0 && self.memory_pressure())
    }

    /// Returns how much to read at once: at most one read buffer, and no more than an echo of it, or relaying it over
    /// links, could queue below the high-water mark; at most `LEAST_READ` bytes under memory pressure. Never zero: even
    /// then a connection makes progress.
    #[inline]
    pub(crate) fn read_budget(&self, id: ConnId) -> usize {
        let Some(c) = self.conns.live(id) else { return LEAST_READ };
        let mut spare = self.limits.output_high.saturating_sub(c.out.pending());
        if let Some(cold) = c.cold() {
            spare = spare.min(self.capacity_behind(&cold.links_to));
        }
        let spare = spare.max(LEAST_READ);
        if self.memory_pressure() {
            self.limits.read_buffer.min(LEAST_READ)
        } else {
            self.limits.read_buffer.min(spare)
        }
    }

    /// Returns whether the running callback should deliver further messages of its input. See
    /// [`Context::wants_more`](crate::Context::wants_more).
    #[inline]
    pub(crate) fn wants_more(&self, id: ConnId) -> bool {
        self.delivery.messages < self.limits.messages_per_turn
            // After a switch, the rest of the input is the new handler's.
            && self.switch.is_none()
            && self.conns.get(id).is_some_and(|c| self.may_read_with(c, self.pending(c)))
    }

    /// Buffers a copy of the bytes of `data` that the callback did not use. `data` is in the shared read buffer.
    /// `continues` if it began with buffered input of an unfinished message.
    pub(crate) fn buffer_copy(&mut self, id: ConnId, data: &[u8], continues: bool) {
        // A handler may name more bytes than it was given.
        let unused = self.delivery.unused.min(data.len());
        if unused == 0 || !self.may_buffer(id, unused) {
            return;
        }
        match InputBuffer::new(&data[data.len() - unused..], &mut self.pool) {
            Some(input) => self.buffer_input(id, Box::new(input), continues && unused == data.len()),
            None => self.terminate_out_of_memory(id),
        }
    }

    /// Buffers the bytes of `input`, which was delivered, that the callback did not use.
    pub(crate) fn buffer_rest(&mut self, id: ConnId, mut input: Box<InputBuffer>, continues: bool) {
        let unused = self.delivery.unused.min(input.len());
        if unused == 0 || !self.may_buffer(id, unused) {
            input.recycle(&mut self.pool);
            return;
        }
        let same = continues && unused == input.len();
        input.keep_last(unused);
        input.shrink(&mut self.pool);
        self.buffer_input(id, input, same);
    }

    /// Stores the buffered input of a connection. The message clock starts now, unless it is the `same` unfinished
    /// message as before: otherwise a peer could send one byte at a time and never time out.
    fn buffer_input(&mut self, id: ConnId, input: Box<InputBuffer>, same: bool) {
        let (now, deferred) = (self.now, self.delivery.deferred);
        let Some(c) = self.conns.live_mut(id) else { return };
        c.input = Some(input);
        c.deferred = deferred;
        if !deferred {
            if !same {
                c.message_clock = PausableClock::start(now);
            }
            self.deadlines.bring_forward(id.slot, now.after(self.limits.message_timeout.get()));
            self.sync_clock(id);
        }
        if self.pool.input() > self.limits.input_total.get() {
            self.evict_input(id);
        }
    }

    /// Returns whether `id` is open and may buffer `unused` bytes. Closes it if they are too many. Deferred input is
    /// exempt: it exceeds the limit by at most one read buffer, because no more is read before it is delivered.
    fn may_buffer(&mut self, id: ConnId, unused: usize) -> bool {
        let max = self.limits.input_kept;
        if self.conns.get(id).is_none_or(|c| c.phase != Phase::Open) {
            return false;
        }
        if unused > max && !self.delivery.deferred {
            let (len, max) = (unused as u64, max as u64);
            self.begin_close(id, crate::closed::Reason::FrameTooLong { len, max });
            return false;
        }
        true
    }

    /// Pauses the message clock while the connection is not read, and resumes it afterwards. Called whenever a reason
    /// not to read is added or removed.
    pub(crate) fn sync_clock(&mut self, id: ConnId) {
        let now = self.now;
        let Some(c) = self.conns.live_mut(id) else { return };
        let stop = c.is_read_blocked() || c.flow.throttled;
        if stop == c.message_clock.is_paused() {
            return;
        }
        if stop {
            return c.message_clock.pause(now);
        }
        c.message_clock.resume(now);
        // The peer could send nothing while we did not read, so that time does not count as idle.
        c.last_activity = now;
        if c.input.is_some() {
            let at = c.message_clock.started().after(self.limits.message_timeout.get());
            self.deadlines.bring_forward(id.slot, at);
        }
    }

    /// Pauses or resumes the reading of a connection, for its handler. Returns `false` if it is not open.
    pub(crate) fn set_paused(&mut self, id: ConnId, paused: bool) -> bool {
        let Some(c) = self.conns.get_mut(id) else { return false };
        if c.phase != Phase::Open {
            return false;
        }
        c.flow.paused = paused;
        // Whoever resumes expects to be called at once.
        c.flow.resting &= paused;
        self.sync_clock(id);
        self.enqueue_if_work(id);
        true
    }

    /// Closes a connection gracefully because of input that begins `behind` bytes before the end of what was read.
    pub(crate) fn refuse_input(&mut self, id: ConnId, error: FrameError, announced: &[u8], behind: usize) {
        if !self.begin_close(id, error.into()) {
            return;
        }
        if let Some(c) = self.conns.get_mut(id) {
            let at = c.bytes_in.saturating_sub(behind as u64);
            let announced = announced.iter().take(BadInput::QUOTED).copied().collect();
            c.cold_mut().bad_input = Some(Box::new(BadInput { at, announced }));
        }
    }

    /// Takes the buffered input of a connection out of its buffer.
    pub(crate) fn take_input(&mut self, id: ConnId) -> Vec<u8> {
        let Some(input) = self.conns.live_mut(id).and_then(|c| c.input.take()) else { return Vec::new() };
        let bytes = input.data().to_vec();
        input.recycle(&mut self.pool);
        bytes
    }

    /// Makes the loop call `on_end` again, in a later turn, once the connection may be read.
    pub(crate) fn defer_end(&mut self, id: ConnId) {
        if let Some(c) = self.conns.live_mut(id) {
            c.halves.eof_delivered = false;
            self.enqueue_if_work(id);
        }
    }

    /// Drops the buffered input of a connection.
    pub(crate) fn discard_input(&mut self, id: ConnId) {
        let Some(c) = self.conns.live_mut(id) else { return };
        c.deferred = false;
        if let Some(input) = c.input.take() {
            input.recycle(&mut self.pool);
        }
    }

    /// Enforces the limit on the buffered input of all connections: terminates those that hold the most, largest first,
    /// and finally `id`, which has just added to it and may be missing in this turn's scan.
    pub(crate) fn evict_input(&mut self, id: ConnId) {
        let total = self.limits.input_total.get();
        while self.pool.input() > total {
            let Self { evictor, conns, turn, .. } = self;
            let holders = || {
                conns
                    .iter()
                    .map(|c| (true, c.input.as_ref().map_or(0, |k| k.retained_bytes()), c.id))
                    .filter(|h| h.1 > 0)
                    .collect()
            };
            let Some(largest) = evictor.input.next(*turn, holders) else {
                return self.terminate(id, Reason::TotalInputLimit);
            };
            if self.conns.get(largest).is_some_and(|c| c.input.is_some()) {
                self.terminate(largest, Reason::TotalInputLimit);
            }
        }
    }
}
