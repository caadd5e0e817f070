//! A visit to a connection: reading and delivering, the close as far as it can go, and what follows a callback.
//!
//! Knows nothing of accepting and stopping. Invariant: `readable` is cleared only when the seam says that nothing is
//! left, and every callback is followed by `after_call`.

use std::io::ErrorKind;

use super::turn::{FRONT, Loop};
use crate::closed::Reason;
use crate::connection::{Connection, Phase};
use crate::dispatch::Who;
use crate::id::ConnId;
use crate::sys::Sys;

/// Visits in a row that a hint asked for and that came to nothing, before a connection is given up.
const FRUITLESS: u8 = 64;

impl<S: Sys> Loop<S> {
    /// Does what there is to do for one connection, within its budgets.
    pub(super) fn visit(&mut self, id: ConnId) {
        let Some(c) = self.engine.core.conns.get_mut(id) else { return };
        c.queued = false;
        match c.phase {
            Phase::Dead => return,
            Phase::Connecting => self.check_dialled(id),
            Phase::Lingering => self.read_and_discard(id),
            Phase::Flushing => {
                self.ask_for_error(id);
                self.flush(id);
                self.progress(id);
            }
            Phase::Open => self.visit_open(id),
        }
        self.engine.core.enqueue_if_work(id);
    }

    fn visit_open(&mut self, id: ConnId) {
        let core = &mut self.engine.core;
        let Some(c) = core.conns.get(id) else { return };
        // Where it is read, the read will tell.
        if c.suspect && !(c.readable && core.may_read(c)) {
            self.ask_for_error(id);
        }
        let Some(c) = self.engine.core.conns.get(id) else { return };
        if c.can_write() {
            self.flush(id);
        }
        let Some(c) = self.engine.core.conns.get_mut(id) else { return };
        if c.fin_wanted {
            self.progress(id);
        }
        let Some(c) = self.engine.core.conns.get_mut(id) else { return };
        if std::mem::take(&mut c.drain_due) && !c.high {
            self.engine.drain(id);
            self.after_call(id, &[]);
        }
        self.use_input(id);
    }

    /// Delivers what was put off, or reads and delivers; then tells the end of input.
    fn use_input(&mut self, id: ConnId) {
        let core = &mut self.engine.core;
        let Some(c) = core.conns.get(id) else { return };
        if !core.may_read(c) {
            return;
        }
        core.feed(id);
        let Some(c) = core.conns.get(id) else { return };
        if c.deferred {
            return self.deliver_deferred(id);
        }
        if c.readable {
            self.read(id);
        }
        let core = &mut self.engine.core;
        let Some(c) = core.conns.get(id) else { return };
        if c.peer_fin && !c.ended && !c.deferred && core.may_read(c) {
            if let Some(c) = core.conns.get_mut(id) {
                c.ended = true;
            }
            self.engine.end(id);
            self.after_call(id, &[]);
        }
    }

    /// Reads once into the shared buffer, and delivers. Once more if a hint says that a short read may not be all.
    fn read(&mut self, id: ConnId) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..2 {
            let budget = self.engine.core.read_budget(id);
            let space = &mut buffer[FRONT..FRONT + budget];
            let Some(n) = self.read_into(id, space) else { break };
            self.deliver(id, &mut buffer, n);
            let core = &self.engine.core;
            let again =
                core.conns.get(id).is_some_and(|c| c.hinted && c.readable && !c.deferred && core.may_read(c));
            if n == budget || !again {
                break;
            }
        }
        self.buffer = buffer;
    }

    /// One read. `None`: nothing to deliver.
    fn read_into(&mut self, id: ConnId, space: &mut [u8]) -> Option<usize> {
        let stream = self.streams.get_mut(id.slot as usize)?.as_mut()?;
        let received = self.sys.read(stream, space);
        let core = &mut self.engine.core;
        let now = core.now;
        let c = core.conns.get_mut(id)?;
        match received {
            Ok(received) if received.len == 0 => {
                c.readable = false;
                c.peer_fin = true;
                if c.broken {
                    // A failed write took the error with it: this end is no clean one.
                    core.finish(id, Reason::PeerReset);
                }
                None
            }
            Ok(received) => {
                c.bytes_in += received.len as u64;
                c.active = now;
                c.fruitless = 0;
                c.suspect = false;
                if received.drained && !c.hinted {
                    c.readable = false;
                }
                core.stats.bytes_in += received.len as u64;
                Some(received.len)
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                (c.readable, c.suspect) = (false, false);
                if std::mem::take(&mut c.hinted) {
                    c.fruitless = c.fruitless.saturating_add(1);
                    if c.fruitless >= FRUITLESS {
                        core.kill(id, Reason::Livelock);
                    }
                }
                None
            }
            Err(e) => {
                core.kill(id, Reason::of_io(&e));
                None
            }
        }
    }

    /// Delivers the `n` bytes in the buffer, behind what was kept of an unfinished message.
    fn deliver(&mut self, id: ConnId, buffer: &mut [u8], n: usize) {
        let core = &mut self.engine.core;
        let Some(c) = core.conns.get_mut(id) else { return };
        let (data, continues) = match c.kept.take() {
            None => (&buffer[FRONT..FRONT + n], false),
            Some(kept) if kept.len() <= FRONT => {
                let start = FRONT - kept.len();
                buffer[start..FRONT].copy_from_slice(kept.data());
                kept.give(&mut core.pool);
                (&buffer[start..FRONT + n], true)
            }
            Some(mut kept) => {
                if !kept.append(&buffer[FRONT..FRONT + n], &mut core.pool) {
                    kept.give(&mut core.pool);
                    return core.kill_for_memory(id);
                }
                self.engine.data(id, kept.data());
                self.after_call(id, kept.data());
                return self.engine.core.keep_rest(id, kept, true);
            }
        };
        self.engine.data(id, data);
        self.after_call(id, data);
        self.engine.core.keep_copy(id, data, continues);
    }

    /// Delivers again what the handler had put off.
    fn deliver_deferred(&mut self, id: ConnId) {
        let Some(c) = self.engine.core.conns.get_mut(id) else { return };
        c.deferred = false;
        let Some(kept) = c.kept.take() else { return };
        self.engine.data(id, kept.data());
        self.after_call(id, kept.data());
        self.engine.core.keep_rest(id, kept, false);
    }

    /// What follows every callback of a connection: the time is taken, what it sent to its own peer is written (`data`
    /// is what it was given, part of which may be what it sent), and a close that it asked for goes on.
    pub(super) fn after_call(&mut self, id: ConnId, data: &[u8]) {
        self.timed_call(Who::Connection(id));
        let core = &mut self.engine.core;
        let borrowed = core.take_borrowed(id);
        let answered = std::mem::take(&mut core.delivery.answered);
        core.delivery.conn = None;
        if answered {
            let lead = data.get(borrowed).unwrap_or_default();
            let (written, _) = self.write(id, lead, &[]);
            if written < lead.len() {
                self.engine.core.put_back(id, &lead[written..]);
            }
            self.engine.core.after_write(id);
        }
        self.progress(id);
        self.flush_full_logs();
    }

    /// Takes a close, or the end of our output, as far as it can go now.
    #[inline]
    pub(super) fn progress(&mut self, id: ConnId) {
        let plain = |c: &Connection| c.phase == Phase::Open && !c.fin_wanted;
        if !self.engine.core.conns.get(id).is_none_or(plain) {
            self.progress_close(id);
        }
    }

    fn progress_close(&mut self, id: ConnId) {
        let core = &mut self.engine.core;
        let Some(c) = core.conns.get(id).filter(|c| c.out.pending() == 0) else { return };
        let (fin_sent, no_need) = (c.fin_sent, c.peer_fin || c.broken);
        match c.phase {
            Phase::Open if fin_sent && c.ended => core.finish(id, Reason::PeerClosed),
            Phase::Open if c.fin_wanted && !fin_sent && !c.broken => {
                let done = self.stream(id).is_some() && self.send_fin(id);
                let core = &mut self.engine.core;
                match core.conns.get_mut(id) {
                    Some(c) if done => {
                        c.fin_sent = true;
                        if c.ended {
                            core.finish(id, Reason::PeerClosed);
                        }
                    }
                    _ => core.write_failed(id, Reason::PeerReset),
                }
            }
            // The peer's FIN is read and ours goes with the close; or nothing can be sent any more.
            Phase::Flushing if no_need => core.finish(id, Reason::PeerClosed),
            Phase::Flushing => {
                if fin_sent || self.send_fin(id) {
                    self.engine.core.linger(id);
                } else {
                    self.engine.core.finish(id, Reason::PeerReset);
                }
            }
            _ => {}
        }
    }

    fn send_fin(&mut self, id: ConnId) -> bool {
        let stream = self.streams.get_mut(id.slot as usize).and_then(Option::as_mut);
        stream.is_some_and(|stream| self.sys.shutdown_write(stream).is_ok())
    }

    /// Asks a connection that is not read for the error that was reported on it.
    fn ask_for_error(&mut self, id: ConnId) {
        let core = &mut self.engine.core;
        let Some(c) = core.conns.get_mut(id) else { return };
        if !std::mem::take(&mut c.suspect) {
            return;
        }
        let Some(stream) = self.streams.get_mut(id.slot as usize).and_then(Option::as_mut) else { return };
        if let Ok(Some(error)) | Err(error) = self.sys.take_error(stream) {
            core.write_failed(id, Reason::of_io(&error));
        }
    }

    /// Reads on after our FIN, and throws away what comes.
    fn read_and_discard(&mut self, id: ConnId) {
        let core = &mut self.engine.core;
        let (now, limit) = (core.now, core.limits.linger_input);
        let Some(stream) = self.streams.get_mut(id.slot as usize).and_then(Option::as_mut) else { return };
        let Some(c) = core.conns.get_mut(id) else { return };
        let most = core.limits.read_buffer.min(limit.saturating_sub(c.written as usize));
        if most == 0 {
            return core.finish(id, Reason::Handler);
        }
        let received = self.sys.read(stream, &mut self.buffer[FRONT..FRONT + most]);
        match received {
            Ok(received) if received.len > 0 => {
                c.active = now;
                c.written = c.written.saturating_add(u32::try_from(received.len).unwrap_or(u32::MAX));
                c.bytes_in += received.len as u64;
                core.stats.bytes_in += received.len as u64;
                if received.drained && !c.hinted {
                    c.readable = false;
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                c.readable = false;
                c.hinted = false;
            }
            _ => core.finish(id, Reason::Handler),
        }
    }
}
