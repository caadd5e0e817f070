//! Listeners: taking what waits, within the limits, and recv_backoff when the system has run out of something.
//!
//! Knows nothing of what connections do later. Invariant: a listener stays *ready* until `accept` answered that its
//! queue is empty, and the number of connections is never over the limit.

use std::io;
use std::time::Duration;

use super::event_loop::EventLoop;
use super::tables::ListenerEntry;
use crate::closed::Reason;
use crate::config::address::Address;
use crate::config::limits::AtCapacity;
use crate::connection::Connection;
use crate::id::{HandlerIdx, ListenerId, Token};
use crate::sys::errno::{AcceptError, classify_accept};
use crate::sys::{CloseHow, Sys};
use crate::time::log_limit::suppressed;

/// Errors of an unknown kind in a row, before a listener rests.
const MAX_UNKNOWN_ERRORS: u32 = 10;

impl<S: Sys> EventLoop<S> {
    /// Registers a listener for the handler at `handler`.
    pub(crate) fn add_listener(
        &mut self,
        mut socket: S::Listener,
        handler: HandlerIdx,
    ) -> io::Result<(ListenerId, Address)> {
        let address = self.sys.local_addr(&socket)?;
        let mut added = Ok(());
        let id = self.listeners.slots.insert_with(|id| {
            added = self.sys.add_listener(&mut socket, Token::Listener(id).pack());
            ListenerEntry { id, socket, handler, address: address.clone(), ready: true, unknown_errors: 0 }
        });
        let id =
            id.ok_or_else(|| io::Error::new(io::ErrorKind::QuotaExceeded, "there are too many listeners"))?;
        if let Err(e) = added {
            if let Some(listener) = self.listeners.slots.remove(id) {
                self.sys.close_listener(listener.socket);
            }
            return Err(io::Error::new(e.kind(), format!("cannot listen on {address}: {e}")));
        }
        self.dispatcher.retain(handler);
        log::info!("listening on {address}");
        Ok((id, address))
    }

    /// Closes a listener; what waits in its queue is lost. False when it is gone already.
    pub(crate) fn close_listener(&mut self, id: ListenerId) -> bool {
        let Some(listener) = self.listeners.slots.remove(id) else { return false };
        self.sys.close_listener(listener.socket);
        self.dispatcher.release(listener.handler);
        log::info!("no longer listening on {}", listener.address);
        true
    }

    pub(crate) fn listeners(&self) -> Vec<ListenerId> {
        self.listeners.slots.ids().collect()
    }

    /// Takes what waits at every listener, a few at each.
    pub(super) fn accept(&mut self) {
        if self.listeners.paused.is_some_and(|until| until <= self.dispatcher.core.now) {
            self.listeners.resume(&self.dispatcher.core);
        }
        if self.listeners.paused.is_some() || !self.listeners.slots.iter().any(|d| d.ready) {
            return;
        }
        let cap = self.dispatcher.core.limits.accepts_per_turn;
        for id in self.listeners() {
            self.accept_at(id, cap);
        }
    }

    /// Takes up to `most` waiting connections at one listener.
    pub(super) fn accept_at(&mut self, id: ListenerId, most: usize) {
        for _ in 0..most {
            let ready = self.listeners.slots.get(id).is_some_and(|d| d.ready);
            if !ready || self.listeners.paused.is_some() || !self.may_admit() {
                return;
            }
            let Some(listener) = self.listeners.slots.get_mut(id).filter(|d| d.ready) else {
                return;
            };
            match self.sys.accept(&mut listener.socket) {
                Ok((stream, peer)) => {
                    listener.unknown_errors = 0;
                    let handler = listener.handler;
                    self.admit(id, handler, stream, peer);
                }
                Err(e) => {
                    if !self.accept_failed(id, &e) {
                        return;
                    }
                }
            }
        }
    }

    /// Whether one more connection may be taken: there is spare, or the policy is to take and refuse. The connection
    /// that has lingered longest makes spare.
    fn may_admit(&mut self) -> bool {
        let core = &mut self.dispatcher.core;
        let max = core.limits.connections.get();
        if !self.listeners.is_full(core) {
            if std::mem::take(&mut self.listeners.full) {
                let refused = std::mem::take(&mut self.listeners.refused);
                log::debug!("below {max} connections again ({refused} refused)");
            }
            return true;
        }
        let refuse = core.limits.at_capacity == AtCapacity::Refuse;
        if !std::mem::replace(&mut self.listeners.full, true)
            && let Some(n) = self.log_limits.accept.allow(core.now)
        {
            let then = if refuse { "more are refused" } else { "more wait" };
            log::warn!("{max} connections, as many as allowed: {then}{}", suppressed(n));
        }
        if !refuse
            && std::mem::take(&mut self.listeners.new_arrivals)
            && !core.shutting_down
            && core.evict_oldest_lingering()
        {
            // Its place is for whoever has come, without waiting for more to come free.
            self.listeners.evicted_for_new = true;
        }
        refuse
    }

    /// Gives an accepted stream a slot and a handler.
    fn admit(&mut self, listener: ListenerId, handler: HandlerIdx, mut stream: S::Stream, peer: Address) {
        let core = &mut self.dispatcher.core;
        let max = core.limits.connections.get();
        let over = core.conns.len() >= max;
        let id = if over {
            None
        } else {
            core.conns.insert_with(|id| Connection::new(id, handler, listener, peer, core.now))
        };
        let Some(id) = id else {
            self.listeners.refused += 1;
            self.count_refused(&Reason::AtCapacity);
            return self.sys.close(stream, CloseHow::Graceful);
        };
        if let Err(e) = self.sys.add_stream(&mut stream, Token::Connection(id).pack()) {
            core.conns.remove(id);
            self.count_refused(&Reason::RegisterFailed);
            self.sys.close(stream, CloseHow::Graceful);
            return self.pause_accepting(&format!("an accepted connection cannot be watched: {e}"));
        }
        self.insert_stream(id, stream);
        let core = &mut self.dispatcher.core;
        self.listeners.evicted_for_new = false;
        core.stats.accepted += 1;
        core.deadlines.set(id.slot, core.now.after(core.limits.idle_timeout.get()));
        self.dispatcher.retain(handler);
        if log::log_enabled!(log::Level::Debug)
            && let Some(peer) = self.dispatcher.core.conns.get(id).map(|c| c.peer.address())
        {
            log::debug!("{id} accepted from {peer}");
        }
        self.dispatcher.open(id);
        self.after_callback(id, &[]);
        self.dispatcher.core.enqueue_if_work(id);
    }

    fn count_refused(&mut self, reason: &Reason) {
        let stats = &mut self.dispatcher.core.stats;
        stats.refused += 1;
        stats.closed[reason.index()] += 1;
    }

    /// Sorts an error of accepting. True: go on with the next connection.
    fn accept_failed(&mut self, id: ListenerId, error: &io::Error) -> bool {
        let kind = classify_accept(error);
        let Some(listener) = self.listeners.slots.get_mut(id) else { return false };
        if kind == AcceptError::Drained {
            listener.ready = false;
            listener.unknown_errors = 0;
            return false;
        }
        self.dispatcher.core.stats.accept_errors += 1;
        match kind {
            AcceptError::Drained | AcceptError::Retry => {
                log::debug!("a connection went before it was accepted: {error}");
                return true;
            }
            AcceptError::Shortage => self.pause_accepting(&format!("cannot accept: {error}")),
            AcceptError::Broken => {
                log::error!("listener on {} is lost: {error}", listener.address);
                self.close_listener(id);
            }
            AcceptError::Unknown => {
                listener.unknown_errors += 1;
                if listener.unknown_errors >= MAX_UNKNOWN_ERRORS {
                    listener.unknown_errors = 0;
                    self.pause_accepting(&format!("cannot accept: {error}"));
                } else {
                    log::debug!("cannot accept: {error}");
                }
            }
        }
        false
    }

    /// Stops accepting for a while, or until a connection ends.
    fn pause_accepting(&mut self, why: &str) {
        let core = &mut self.dispatcher.core;
        let pause = core.limits.accept_pause;
        core.stats.accept_pauses += 1;
        self.listeners.paused = Some(core.now.after(pause.max(Duration::from_millis(1))));
        if let Some(n) = self.log_limits.accept.allow(core.now) {
            let open = core.conns.len();
            log::error!(
                "{why}; {open} connections open, trying again when one ends or in {pause:?}{}",
                suppressed(n)
            );
        }
    }
}
