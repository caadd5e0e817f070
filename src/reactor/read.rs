//! Processes ready connections: flushes, advances a close, reads, and delivers input to the handler.
//!
//! Invariant: `readable` is cleared only when the system returns `WouldBlock`, end of input or *drained*; every
//! callback is followed by `after_callback`.

use std::io::ErrorKind;

use super::event_loop::{EventLoop, FRONT};
use crate::closed::Reason;
use crate::connection::Phase;
use crate::dispatch::CallSite;
use crate::id::ConnId;
use crate::sys::Sys;

/// Spurious wakeups in a row (a hint, then a read that returns `WouldBlock`) before a connection is closed with
/// [`Reason::Livelock`]. Chosen: a stale hint or two is normal; a system that repeats one forever would make the loop
/// spin.
const MAX_SPURIOUS_WAKEUPS: u8 = 64;

impl<S: Sys> EventLoop<S> {
    /// Processes the connections that have work now. Those that still have work afterwards are queued for the next
    /// turn.
    pub(super) fn process_ready(&mut self) {
        for _ in 0..self.dispatcher.core.ready.len() {
            let Some(id) = self.dispatcher.core.ready.pop() else { return };
            self.process(id);
        }
    }

    /// Does the work of one connection, within its budgets for a turn.
    pub(super) fn process(&mut self, id: ConnId) {
        let Some(c) = self.dispatcher.core.conns.get_mut(id) else { return };
        // First, so that what follows can queue it again.
        c.queues.ready = false;
        match c.phase {
            Phase::Closed => return,
            Phase::Connecting => self.check_dial(id),
            Phase::Lingering => self.read_and_discard(id),
            Phase::Flushing => {
                self.check_socket_error(id);
                self.flush(id);
                self.advance_close(id);
            }
            Phase::Open => self.process_open(id),
        }
        self.dispatcher.core.enqueue_if_work(id);
    }

    /// Does the work of an open connection: error, output, half-close, `on_drain`, input, in this order. Output comes
    /// before input, so that a peer that does not read is noticed before more of its input is handled.
    fn process_open(&mut self, id: ConnId) {
        let core = &mut self.dispatcher.core;
        let Some(c) = core.conns.live(id) else { return };
        // If the connection is about to be read, the read returns the error.
        if c.readiness.error_pending && !(c.readiness.readable && core.may_read(c)) {
            self.check_socket_error(id);
        }
        // Looked up again after each step, which may have terminated it. (It keeps its slot until reap.)
        let Some(c) = self.dispatcher.core.conns.live(id) else { return };
        if c.can_write() {
            self.flush(id);
        }
        let Some(c) = self.dispatcher.core.conns.live_mut(id) else { return };
        if c.halves.fin_wanted {
            self.advance_close(id);
        }
        let Some(c) = self.dispatcher.core.conns.live_mut(id) else { return };
        if !c.flow.drain_due {
            self.use_input(id);
        } else if std::mem::take(&mut c.flow.input_first) {
            self.use_input(id);
            self.drain(id);
        } else {
            self.drain(id);
            self.use_input(id);
        }
    }

    /// Calls `on_drain`. A handler that sends in it as much as its peer, or its group, reads is kept from being read at
    /// every visit, and would never hear its peer: then input comes first at the next visit.
    fn drain(&mut self, id: ConnId) {
        let Some(c) = self.dispatcher.core.conns.live_mut(id) else { return };
        // More may have been sent since. Then `on_drain` follows when the output has fallen to the
        // low-water mark again.
        if !std::mem::take(&mut c.flow.drain_due) || c.flow.above_high_water {
            return;
        }
        self.dispatcher.drain(id);
        self.after_callback(id, &[]);
        let core = &mut self.dispatcher.core;
        let input_first = core.conns.get(id).is_some_and(|c| c.has_input() && !c.flow.paused && !core.may_read(c));
        if let Some(c) = core.conns.live_mut(id) {
            c.flow.input_first = input_first;
        }
    }

    /// Delivers deferred input, or reads and delivers; then calls `on_end` if the peer's FIN was read.
    fn use_input(&mut self, id: ConnId) {
        let core = &mut self.dispatcher.core;
        let Some(c) = core.conns.live(id) else { return };
        if !core.may_read(c) {
            return;
        }
        // Even if memory pressure lasts, a connection without unsent output is read. Its message
        // clock must run from here, or a deadline would be checked against a paused clock.
        core.unthrottle(id);
        let Some(c) = core.conns.live(id) else { return };
        let read = if c.deferred { self.deliver_deferred(id) } else { c.readiness.readable };
        if read {
            self.read(id);
        }
        let core = &mut self.dispatcher.core;
        let Some(c) = core.conns.live(id) else { return };
        // The callback may have paused the connection, or deferred input that comes before the end.
        if c.halves.peer_fin && !c.halves.eof_delivered && !c.deferred && core.may_read(c) {
            // Before the callback: a switch in it clears the flag, so that the new handler gets `on_end` too.
            if let Some(c) = core.conns.live_mut(id) {
                c.halves.eof_delivered = true;
            }
            self.dispatcher.end(id);
            self.after_callback(id, &[]);
        }
    }

    /// Reads once into the shared buffer and delivers. Reads once more after a hint (EPOLLRDHUP, EPOLLHUP, EPOLLPRI):
    /// then a FIN or an error may follow the bytes of a short read, and no further event announces it.
    fn read(&mut self, id: ConnId) {
        // Taken out: `deliver` needs all of `self` while its input is borrowed from the buffer.
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..2 {
            // Anew for the second read: what answers the first may be unsent, and leaves less to read.
            let budget = self.dispatcher.core.read_budget(id);
            let space = &mut buffer[FRONT..FRONT + budget];
            let Some(n) = self.read_into(id, space) else { break };
            self.deliver(id, &mut buffer, n);
            let core = &self.dispatcher.core;
            let again = core
                .conns
                .get(id)
                .is_some_and(|c| c.readiness.read_to_eagain && c.readiness.readable && !c.deferred && core.may_read(c));
            // A full read leaves `readable` set: the rest waits for the next turn, behind the other connections.
            if n == budget || !again {
                break;
            }
        }
        self.buffer = buffer;
    }

    /// One read. `None`: nothing to deliver.
    fn read_into(&mut self, id: ConnId, space: &mut [u8]) -> Option<usize> {
        let stream = self.streams.get_mut(id)?;
        let received = self.sys.read(stream, space);
        let core = &mut self.dispatcher.core;
        let now = core.now;
        let c = core.conns.get_mut(id)?;
        match received {
            Ok(received) if received.len == 0 => {
                c.readiness.readable = false;
                c.halves.peer_fin = true;
                if c.halves.write_failed {
                    // The failed write consumed SO_ERROR, so a reset reads as end of input here. It is not a clean FIN.
                    core.finish(id, Reason::PeerReset);
                }
                None
            }
            Ok(received) => {
                c.bytes_in += received.len as u64;
                c.last_activity = now;
                c.readiness.spurious_wakeups = 0;
                // `error_pending` stays: the error is behind these bytes, and the handler may pause at them.
                // On TCP a short read has emptied the receive buffer, and later bytes bring a new edge (epoll(7)). This
                // saves the read that would return EAGAIN. After a hint it does not hold: the FIN behind the bytes has
                // been announced already.
                if received.drained && !c.readiness.read_to_eagain {
                    c.readiness.readable = false;
                }
                core.stats.bytes_in += received.len as u64;
                Some(received.len)
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                // recv(2) returns a pending error rather than EAGAIN: there is none, and the report was stale.
                (c.readiness.readable, c.readiness.error_pending) = (false, false);
                if std::mem::take(&mut c.readiness.read_to_eagain) {
                    c.readiness.spurious_wakeups = c.readiness.spurious_wakeups.saturating_add(1);
                    if c.readiness.spurious_wakeups >= MAX_SPURIOUS_WAKEUPS {
                        core.terminate(id, Reason::Livelock);
                    }
                }
                None
            }
            Err(e) => {
                core.terminate(id, Reason::of_io(&e));
                None
            }
        }
    }

    /// Delivers the `n` bytes in the buffer, together with the buffered start of an incomplete message.
    fn deliver(&mut self, id: ConnId, buffer: &mut [u8], n: usize) {
        let core = &mut self.dispatcher.core;
        let Some(c) = core.conns.live_mut(id) else { return };
        let (data, continues) = match c.input.take() {
            None => (&buffer[FRONT..FRONT + n], false),
            // Short: copied in front of the new bytes, and its buffer returns to the pool.
            Some(input) if input.len() <= FRONT => {
                let start = FRONT - input.len();
                buffer[start..FRONT].copy_from_slice(input.data());
                input.recycle(&mut core.pool);
                (&buffer[start..FRONT + n], true)
            }
            // Long: the new bytes are appended to it instead, which copies less.
            Some(mut input) => {
                if !input.append(&buffer[FRONT..FRONT + n], &mut core.pool) {
                    input.recycle(&mut core.pool);
                    return core.terminate_out_of_memory(id);
                }
                self.dispatcher.data(id, input.data());
                self.after_callback(id, input.data());
                return self.dispatcher.core.buffer_rest(id, input, true);
            }
        };
        self.dispatcher.data(id, data);
        self.after_callback(id, data);
        // Last: a connection that the callback or its write has closed buffers nothing.
        self.dispatcher.core.buffer_copy(id, data, continues);
    }

    /// Delivers the input that the handler deferred. Returns whether to read now: the handler used none of it and does
    /// not defer it again, so it needs more bytes. One that [switches](crate::Context::switch) at every visit would
    /// otherwise get the same bytes again for ever.
    fn deliver_deferred(&mut self, id: ConnId) -> bool {
        let Some(c) = self.dispatcher.core.conns.live_mut(id) else { return false };
        c.deferred = false;
        let Some(input) = c.input.take() else { return false };
        let len = input.len();
        self.dispatcher.data(id, input.data());
        self.after_callback(id, input.data());
        // `false`: it has waited for us, not for the peer, so the clock of an unfinished message starts now.
        self.dispatcher.core.buffer_rest(id, input, false);
        self.slow_down_if_unused(id, len);
        let core = &self.dispatcher.core;
        core.conns
            .live(id)
            .is_some_and(|c| !c.deferred && c.buffered_len() == len && c.readiness.readable && core.may_read(c))
    }

    /// Counts the deliveries of deferred input in a row of which the handler takes none of the `len` bytes.
    fn slow_down_if_unused(&mut self, id: ConnId, len: usize) {
        let core = &mut self.dispatcher.core;
        let Some(c) = core.conns.live(id) else { return };
        let unused = c.deferred && c.buffered_len() == len;
        if !unused {
            if c.cold().is_some_and(|cold| cold.unused_deliveries > 0)
                && let Some(c) = core.conns.live_mut(id)
            {
                c.cold_mut().unused_deliveries = 0;
            }
        } else if core.may_read(c) && core.count_unused(id) {
            self.log_unused(id);
        }
    }

    /// Warns once of each type of handler, so that one does not hide another.
    #[cold]
    fn log_unused(&mut self, id: ConnId) {
        let Some(handler) = self.dispatcher.core.conns.get(id).map(|c| c.handler) else { return };
        if self.log_limits.defers_for_ever.insert(self.dispatcher.name_of(handler)) {
            let what = self.dispatcher.describe(CallSite::Connection(id));
            log::warn!("{what} defers its input again and again, takes nothing and does not pause: it is slowed");
        }
    }
}
