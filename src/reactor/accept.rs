//! Listeners: accepts connections within the limits, and pauses when descriptors or memory have run out.
//!
//! Invariant: a listener stays *ready* until `accept` returns `WouldBlock`, and there are never more connections than
//! [`Limits::connections`](crate::Limits::connections).

use std::io;
use std::time::Duration;

use super::event_loop::{EventLoop, exposure};
use super::tables::ListenerEntry;
use crate::closed::Reason;
use crate::config::address::Address;
use crate::config::limits::AtCapacity;
use crate::connection::Connection;
use crate::id::{HandlerIdx, ListenerId, Token};
use crate::sys::errno::{AcceptError, classify_accept};
use crate::sys::{CloseHow, Sys};
use crate::time::log_limit::suppressed;

/// Unknown errors of `accept` in a row before accepting pauses. Chosen: a few may each concern one connection, but a
/// listener that keeps failing must not spin.
const MAX_UNKNOWN_ERRORS: u32 = 10;

impl<S: Sys> EventLoop<S> {
    /// Registers a listener for the handler at `handler`, which reserves so many places for each connection.
    pub(crate) fn add_listener(
        &mut self,
        mut socket: S::Listener,
        handler: HandlerIdx,
        reserve: usize,
    ) -> io::Result<(ListenerId, Address)> {
        let address = self.sys.local_addr(&socket)?;
        let mut added = Ok(());
        // Registered inside, because the token holds the id. An error is handled below, when the
        // slab is not borrowed.
        let id = self.listeners.slots.insert_with(|id| {
            added = self.sys.add_listener(&mut socket, Token::Listener(id).pack());
            ListenerEntry {
                id,
                socket,
                handler,
                reserve,
                address: address.clone(),
                ready: true,
                full: false,
                unknown_errors: 0,
            }
        });
        let id = id.ok_or_else(|| io::Error::new(io::ErrorKind::QuotaExceeded, "there are too many listeners"))?;
        if let Err(e) = added {
            if let Some(listener) = self.listeners.slots.remove(id) {
                self.sys.close_listener(listener.socket);
            }
            return Err(io::Error::new(e.kind(), format!("cannot listen on {address}: {e}")));
        }
        self.dispatcher.retain(handler);
        log::info!("listening on {address}{}", exposure(&address));
        Ok((id, address))
    }

    /// Closes a listener; connections in its backlog are lost. Returns `false` if it is closed already.
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

    /// Accepts from every ready listener, up to `accepts_per_turn` from each.
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

    /// Accepts up to `most` connections from one listener.
    pub(super) fn accept_at(&mut self, id: ListenerId, most: usize) {
        for _ in 0..most {
            let ready = self.listeners.slots.get(id).is_some_and(|d| d.ready);
            if !ready || self.listeners.paused.is_some() || !self.may_admit(id) || !self.hold_reserve(id) {
                return;
            }
            let Some(listener) = self.listeners.slots.get_mut(id) else { return };
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

    /// Whether to call `accept` once more: there are free places, or the policy is to accept and refuse. Otherwise it
    /// evicts the connections that have lingered longest, if something has arrived since the last eviction.
    fn may_admit(&mut self, id: ListenerId) -> bool {
        let core = &mut self.dispatcher.core;
        let listeners = &mut self.listeners;
        let Some(listener) = listeners.slots.get_mut(id) else { return false };
        let Some((max, what)) = listener.lacks(core, listeners.evicted_for_new) else {
            if std::mem::take(&mut listener.full) {
                let refused = std::mem::take(&mut listeners.refused);
                log::debug!("below the limits again ({refused} refused)");
            }
            return true;
        };
        let refuse = core.limits.at_capacity == AtCapacity::Refuse;
        if !std::mem::replace(&mut listener.full, true)
            && let Some(n) = self.log_limits.accept.allow(core.now)
        {
            let reserved = match core.reserved {
                0 => String::new(),
                n => format!(" ({n} of them reserved)"),
            };
            let then = if refuse { "refusing new ones" } else { "new ones wait in the backlog" };
            log::warn!("limit of {max} {what} reached{reserved}, {then}{}", suppressed(n));
        }
        let missing = listener.places().saturating_sub(core.free_places());
        if !refuse
            && std::mem::take(&mut listeners.new_arrivals)
            // A shutdown asks every connection to close, so none is evicted for a new one.
            && !core.shutting_down
            && missing > 0
            && core.evict_oldest_lingering(missing)
        {
            // The freed slots are for the new arrival: it need not wait until a 64th of the slots is free.
            listeners.evicted_for_new = true;
        }
        refuse
    }

    /// Holds descriptors for what will be connected on behalf of the next connection, and of those accepted before.
    /// Pauses accepting if they have run out.
    fn hold_reserve(&mut self, id: ListenerId) -> bool {
        let reserve = self.listeners.slots.get(id).map_or(0, |listener| listener.reserve);
        if reserve == 0 {
            return true;
        }
        let held = self.sys.hold_descriptors(self.dispatcher.core.reserved.saturating_add(reserve));
        if let Err(error) = &held {
            self.dispatcher.core.stats.accept_errors += 1;
            self.pause_accepting(&format!(
                "cannot accept, no descriptor is left for what the handler connects: {error}"
            ));
        }
        held.is_ok()
    }

    /// Holds as many descriptors as there are places reserved, at the end of a turn.
    pub(super) fn keep_descriptors(&mut self) {
        if let Err(error) = self.sys.hold_descriptors(self.dispatcher.core.reserved) {
            log::debug!("cannot hold a descriptor for each reserved place: {error}");
        }
    }

    /// Gives an accepted stream a slot, registers it, and calls `on_open`. Refuses it if there is no slot.
    fn admit(&mut self, listener: ListenerId, handler: HandlerIdx, mut stream: S::Stream, peer: Address) {
        let core = &mut self.dispatcher.core;
        let reserve = self.listeners.slots.get(listener).map_or(0, |listener| listener.reserve);
        let new = |id| Connection::new(id, handler, listener, peer, core.now);
        let spare = core.lacks(1 + reserve, reserve).is_none();
        let Some(id) = spare.then(|| core.conns.insert_with(new)).flatten() else {
            self.listeners.refused += 1;
            self.count_refused(&Reason::AtCapacity);
            return self.sys.close(stream, CloseHow::Graceful);
        };
        if let Err(e) = self.sys.add_stream(&mut stream, Token::Connection(id).pack()) {
            core.conns.remove(id);
            self.count_refused(&Reason::RegisterFailed);
            self.sys.close(stream, CloseHow::Graceful);
            // epoll_ctl(2) lacks memory or watches (ENOMEM, ENOSPC). That is not this connection's
            // fault: the next one would fail alike.
            return self.pause_accepting(&format!("cannot register an accepted connection: {e}"));
        }
        self.streams.insert(id, stream);
        let core = &mut self.dispatcher.core;
        self.listeners.evicted_for_new = false;
        core.stats.accepted += 1;
        core.begin_reserve(id, reserve);
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

    /// Handles an error of `accept`. Returns `true` if the next connection may be accepted at once.
    fn accept_failed(&mut self, id: ListenerId, error: &io::Error) -> bool {
        let kind = classify_accept(error);
        let Some(listener) = self.listeners.slots.get_mut(id) else { return false };
        if kind == AcceptError::Drained {
            // Nothing else clears it: after any other error connections may still wait, and their
            // edge was reported.
            listener.ready = false;
            listener.unknown_errors = 0;
            return false;
        }
        self.dispatcher.core.stats.accept_errors += 1;
        match kind {
            AcceptError::Drained | AcceptError::Retry => {
                // ECONNABORTED and the like: the error is of that connection, not of the listener.
                log::debug!("connection closed before it was accepted: {error}");
                return true;
            }
            AcceptError::Shortage => self.pause_accepting(&format!("cannot accept: {error}")),
            AcceptError::Broken => {
                log::error!("listener on {} failed, closing it: {error}", listener.address);
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

    /// Pauses accepting for `accept_pause`, or until a connection closes.
    ///
    /// At EMFILE or ENFILE the connection stays in the backlog, and the listener stays readable: without a pause the
    /// loop would call `accept` in every turn, in vain and at full load.
    fn pause_accepting(&mut self, why: &str) {
        let core = &mut self.dispatcher.core;
        let pause = core.limits.accept_pause;
        core.stats.accept_pauses += 1;
        self.listeners.paused = Some(core.now.after(pause.max(Duration::from_millis(1))));
        if let Some(n) = self.log_limits.accept.allow(core.now) {
            let open = core.conns.len();
            log::error!(
                "{why}; {open} connections open, accepting again when one closes or in {pause:?}{}",
                suppressed(n)
            );
        }
    }
}
