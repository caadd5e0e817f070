//! Input: whether a connection is read and how much at once, what its callback leaves to be kept, and the clock of an
//! unfinished message.
//!
//! Does not read. Invariant: input is kept only by an open connection, and its message's clock runs only while it is
//! read.

use super::{Core, Delivery};
use crate::buffer::input::InputBuffer;
use crate::closed::Reason;
use crate::config::limits::LEAST_READ;
use crate::connection::{Connection, Phase};
use crate::id::ConnId;
use crate::time::pausable_clock::PausableClock;

impl Core {
    /// Begins what a callback for `id` with `data` may do.
    #[inline]
    pub(crate) fn begin_delivery(&mut self, id: ConnId, data: &[u8]) {
        let start = data.as_ptr().addr();
        self.delivery =
            Delivery { conn: Some(id), input_range: start..start + data.len(), ..Delivery::default() };
    }

    /// Whether input of this connection may be used now.
    #[inline]
    pub(crate) fn may_read(&self, c: &Connection) -> bool {
        c.phase == Phase::Open && !c.is_read_blocked() && !(c.out.pending() > 0 && self.memory_pressure())
    }

    /// The most to read at once: one buffer, but no more than an echo of it may wait; little while memory is tight.
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

    /// Whether the handler should go on with what it was given. See
    /// [`Context::wants_more`](crate::Context::wants_more).
    #[inline]
    pub(crate) fn wants_more(&self, id: ConnId) -> bool {
        self.delivery.messages < self.limits.messages_per_turn
            && self.switch.is_none()
            && self.conns.get(id).is_some_and(|c| {
                c.phase == Phase::Open
                    && !c.is_read_blocked()
                    && !(self.memory_pressure() && self.pending(c) > 0)
            })
    }

    /// Stores what the callback left of `data`, which came from the shared buffer. `continues`: it began with input
    /// kept before because its message was unfinished.
    pub(crate) fn buffer_copy(&mut self, id: ConnId, data: &[u8], continues: bool) {
        let unused = self.delivery.unused.min(data.len());
        if unused == 0 || !self.may_buffer(id, unused) {
            return;
        }
        match InputBuffer::new(&data[data.len() - unused..], &mut self.pool) {
            Some(input) => self.buffer_input(id, Box::new(input), continues && unused == data.len()),
            None => self.terminate_out_of_memory(id),
        }
    }

    /// Puts back what the callback left of `input`, whose bytes were delivered.
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

    /// Lets a connection's input wait. The clock of its message begins now, unless it is the `same` as before.
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

    /// Whether `id` is open and may keep `unused` bytes; if they are too many, this ends it.
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

    /// Stops the clock of an unfinished message while we do not read, and lets it go on when we do again.
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
        // Nothing could come in while we did not read: that was not idleness of the peer's.
        c.last_activity = now;
        if c.input.is_some() {
            let at = c.message_clock.started().after(self.limits.message_timeout.get());
            self.deadlines.bring_forward(id.slot, at);
        }
    }

    /// Pauses or resumes the reading of a connection, as its handler wishes.
    pub(crate) fn set_paused(&mut self, id: ConnId, paused: bool) -> bool {
        let Some(c) = self.conns.get_mut(id) else { return false };
        if c.phase != Phase::Open {
            return false;
        }
        c.flow.paused = paused;
        self.sync_clock(id);
        self.enqueue_if_work(id);
        true
    }

    /// Forgets input that nobody will use.
    pub(crate) fn discard_input(&mut self, id: ConnId) {
        let Some(c) = self.conns.live_mut(id) else { return };
        c.deferred = false;
        if let Some(input) = c.input.take() {
            input.recycle(&mut self.pool);
        }
    }

    /// Keeps all kept input together within its limit, by cutting those who hold the most of it, and at last `id`, who
    /// has just added to it.
    pub(crate) fn evict_input(&mut self, id: ConnId) {
        let total = self.limits.input_total.get();
        while self.pool.input() > total {
            let Self { evictor, conns, turn, .. } = self;
            let holders = || {
                conns
                    .iter()
                    .map(|c| (c.input.as_ref().map_or(0, |k| k.retained_bytes()), c.id))
                    .filter(|h| h.0 > 0)
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
