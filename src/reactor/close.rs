//! Closing connections: sends FIN, discards input while a connection lingers, calls `on_close`, closes descriptors.
//!
//! The core decides which connection closes and why. Invariant: `on_close` is called once for each connection that
//! was opened, before its descriptor is closed; a slot is freed only at the end of a turn.

use std::io::ErrorKind;

use super::event_loop::{EventLoop, FRONT};
use crate::closed::{Closed, Reason};
use crate::connection::{Connection, Phase};
use crate::dispatch::CallSite;
use crate::id::ConnId;
use crate::sys::{CloseHow, Sys};
use crate::time::log_limit::suppressed;

impl<S: Sys> EventLoop<S> {
    /// Advances a graceful close, or a half-close of our output, as far as it can go now.
    #[inline]
    pub(super) fn advance_close(&mut self, id: ConnId) {
        let plain = |c: &Connection| c.phase == Phase::Open && !c.halves.fin_wanted;
        if !self.dispatcher.core.conns.get(id).is_none_or(plain) {
            self.step_close(id);
        }
    }

    fn step_close(&mut self, id: ConnId) {
        let core = &mut self.dispatcher.core;
        let Some(c) = core.conns.get(id).filter(|c| c.out.pending() == 0) else { return };
        let (fin_sent, resets) = (c.halves.fin_sent, c.resets_at_end());
        let no_need = c.halves.peer_fin && !resets || c.halves.write_failed;
        match c.phase {
            Phase::Open if fin_sent && c.halves.eof_delivered => core.finish(id, Reason::PeerClosed),
            Phase::Open if c.halves.fin_wanted && !fin_sent && !c.halves.write_failed => {
                let done = self.send_fin(id);
                let core = &mut self.dispatcher.core;
                match core.conns.get_mut(id) {
                    Some(c) if done => {
                        c.halves.fin_sent = true;
                        if c.halves.eof_delivered {
                            core.finish(id, Reason::PeerClosed);
                        }
                    }
                    // shutdown(2) fails (ENOTCONN) once the peer has reset the connection.
                    _ => core.write_failed(id, Reason::PeerReset),
                }
            }
            // The peer's FIN is read, so closing the socket sends ours and no RST; or a write failed, and nothing can
            // be sent any more.
            Phase::Flushing if no_need => core.finish(id, Reason::PeerClosed),
            // Closing a socket with unread input makes the kernel send RST, and that may destroy our last bytes before
            // the peer reads them. So send FIN, and read on until the peer's FIN; or, before a reset, for a while.
            Phase::Flushing => {
                if fin_sent || resets || self.send_fin(id) {
                    self.dispatcher.core.linger(id);
                } else {
                    self.dispatcher.core.finish(id, Reason::PeerReset);
                }
            }
            _ => {}
        }
    }

    fn send_fin(&mut self, id: ConnId) -> bool {
        self.streams.get_mut(id).is_some_and(|stream| self.sys.shutdown_write(stream).is_ok())
    }

    /// Fetches `SO_ERROR` after an error event, for a connection that is not being read: no read would return it.
    pub(super) fn check_socket_error(&mut self, id: ConnId) {
        let core = &mut self.dispatcher.core;
        let Some(c) = core.conns.live_mut(id) else { return };
        if !std::mem::take(&mut c.readiness.error_pending) {
            return;
        }
        let Some(stream) = self.streams.get_mut(id) else { return };
        // None is left if a read or a write has returned it: that clears SO_ERROR.
        if let Ok(Some(error)) | Err(error) = self.sys.take_error(stream) {
            core.write_failed(id, Reason::of_io(&error));
        }
    }

    /// Reads and discards input after our FIN (phase `Lingering`), up to `linger_input` bytes.
    pub(super) fn read_and_discard(&mut self, id: ConnId) {
        let core = &mut self.dispatcher.core;
        let (now, limit) = (core.now, core.limits.linger_input);
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Some(c) = core.conns.live_mut(id) else { return };
        let resets = c.resets_at_end();
        let Some(linger) = &mut c.cold_mut().linger else { return };
        let most = core.limits.read_buffer.min(limit.saturating_sub(linger.discarded));
        // If the peer has sent more than `linger_input`, the kernel sends RST when the socket is closed.
        if most == 0 {
            return core.finish(id, Reason::Handler);
        }
        let received = self.sys.read(stream, &mut self.buffer[FRONT..FRONT + most]);
        match received {
            Ok(received) if received.len > 0 => {
                linger.discarded += received.len;
                c.last_activity = now;
                c.bytes_in += received.len as u64;
                core.stats.bytes_in += received.len as u64;
                if received.drained && !c.readiness.read_to_eagain {
                    c.readiness.readable = false;
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                c.readiness.readable = false;
                c.readiness.read_to_eagain = false;
            }
            // The peer's FIN does not mean that it has read our last bytes.
            Ok(_) if resets => {
                c.halves.peer_fin = true;
                c.readiness.readable = false;
            }
            _ => core.finish(id, Reason::Handler),
        }
    }

    /// Calls `on_close` for closed connections. Those closed by these callbacks are notified in the next turn.
    pub(super) fn notify_closed(&mut self) {
        if self.dispatcher.core.close_notify.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.dispatcher.core.close_notify) {
            let core = &mut self.dispatcher.core;
            let Some(c) = core.conns.live(id) else { continue };
            let reason = c.reason().cloned().unwrap_or(Reason::Handler);
            let closed = Closed {
                who: id,
                why: reason,
                bad_input: c.cold().and_then(|cold| cold.bad_input.as_deref().cloned()),
                bytes_in: c.bytes_in,
                bytes_out: c.bytes_out,
                unsent: c.unsent(),
            };
            core.stats.closed[closed.why.index()] += 1;
            core.stats.bytes_unsent += closed.unsent;
            self.shutdown.count(&closed);
            self.log_closed(&closed);
            self.dispatcher.close(id, &closed);
            // Not `after_callback`: a closed connection has nothing left to write or to advance.
            self.after_handler_callback(CallSite::Connection(id));
            self.reap_queue.push(id);
        }
    }

    fn log_closed(&mut self, closed: &Closed) {
        let core = &self.dispatcher.core;
        if closed.why.is_policy() && log::log_enabled!(log::Level::Warn) {
            let peer = core.conns.get(closed.who).map(|c| c.peer.address());
            if let (Some(n), Some(peer)) = (self.log_limits.closed[closed.why.index()].allow(core.now), peer) {
                log::warn!("{closed}, peer {peer}{}", suppressed(n));
            }
        } else {
            log::debug!("{closed}");
        }
    }

    /// Closes the descriptors of cancelled connect attempts and of connections that `on_close` was called for, and
    /// frees their slots.
    ///
    /// Nothing is freed earlier in a turn: events and work lists of the turn may still name the slot, and a descriptor
    /// that is closed may be reused by the next `accept`.
    pub(super) fn reap(&mut self) {
        self.reap_connections();
        self.keep_descriptors();
    }

    fn reap_connections(&mut self) {
        let core = &mut self.dispatcher.core;
        if core.cancelled_dials.is_empty() && self.reap_queue.is_empty() {
            return;
        }
        // No handler was notified of a cancelled connect attempt, so there is no `on_close`.
        for id in std::mem::take(&mut core.cancelled_dials) {
            self.dispatcher.core.remove_connection(id);
            if let Some(stream) = self.streams.take(id) {
                self.sys.close(stream, CloseHow::Graceful);
            }
        }
        for id in std::mem::take(&mut self.reap_queue) {
            let Some(c) = self.dispatcher.core.remove_connection(id) else { continue };
            if let Some(stream) = self.streams.take(id) {
                self.sys.close(stream, if c.close_with_rst { CloseHow::Reset } else { CloseHow::Graceful });
            }
            if let (Some(attempt), Some(reason)) = (c.job(), c.reason()) {
                self.reconnect(attempt, reason);
            }
            self.dispatcher.release(c.handler);
        }
        self.listeners.resume(&self.dispatcher.core);
    }
}
