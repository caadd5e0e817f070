//! [`EventLoop`]: owns the sockets and the dispatcher, and holds what all phases of a turn share.
//!
//! `turn.rs` runs the phases. Each has a file: accept, read, write, close, timers, commands, connect, datagram,
//! sources, shutdown. Invariant: every callback is followed by `after_callback` or `after_handler_callback`.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::tables::{BoundSocket, BySlot, Listeners, ShutdownState, Sources};
use crate::closed::REASONS;
use crate::config::address::Address;
use crate::config::limits::{Limit, Limits, PanicPolicy};
use crate::core::Core;
use crate::dispatch::{CallSite, Dispatcher};
use crate::handler::handle::{Command, Handle, Shared};
use crate::id::{ConnId, Generations};
use crate::sys::{Ready, Sys};
use crate::time::Time;
use crate::time::log_limit::{RateLimiter, suppressed};

/// Space in front of the read buffer. A buffered incomplete message is copied there, so that it and the new bytes are
/// contiguous without an allocation. Chosen: 4 KiB holds what most protocols leave incomplete; a longer one is appended
/// to instead.
pub(super) const FRONT: usize = 4 * 1024;

/// Rate limits of the log lines that peers can provoke.
#[derive(Debug, Default)]
pub(super) struct LogLimits {
    pub(super) own_datagrams: RateLimiter,
    /// The types of handlers that were warned of because they defer their input for ever.
    pub(super) defers_for_ever: BTreeSet<&'static str>,
    pub(super) closed: [RateLimiter; REASONS],
    pub(super) accept: RateLimiter,
    slow_call: RateLimiter,
}

/// The event loop, generic over the system interface.
pub(crate) struct EventLoop<S: Sys> {
    pub(crate) sys: S,
    pub(crate) dispatcher: Dispatcher,
    /// The connections' sockets.
    pub(crate) streams: BySlot<S::Stream>,
    pub(crate) listeners: Listeners<S>,
    pub(super) sources: Sources,
    pub(super) bound_sockets: BySlot<BoundSocket<S::Datagram>>,
    /// The receive buffer of all datagram sockets. One byte longer than the longest datagram that any of them takes, to
    /// detect truncation.
    pub(super) datagram_buffer: Vec<u8>,
    pub(super) events: Vec<Ready>,
    /// The last wait returned as many events as fit, or a signal ended it, so the system may hold more.
    pub(super) events_truncated: bool,
    /// The read buffer of all connections: `FRONT` bytes, then what is read.
    pub(super) buffer: Vec<u8>,
    /// Connections whose `on_close` was called; closed and freed by `reap`.
    pub(super) reap_queue: Vec<ConnId>,
    /// Commands and stop requests of other threads.
    pub(super) shared: Arc<Shared>,
    /// The commands that are being run; empty otherwise. Kept to reuse its memory.
    pub(super) batch: Vec<Command>,
    pub(crate) shutdown: ShutdownState,
    pub(super) log_limits: LogLimits,
    /// Since when waits have returned as many events as fit, and how many they returned.
    pub(super) unseen: Option<(Time, usize)>,
    /// A callback that takes longer than this many nanoseconds is logged.
    slow_call: u64,
}

impl<S: Sys> EventLoop<S> {
    pub(crate) fn new(mut sys: S, mut limits: Limits, generations: Generations) -> io::Result<Self> {
        limits.check()?;
        fit_descriptors(&mut sys, &mut limits);
        let slow_call = Time(0).after(limits.slow_callback.get()).0;
        let mut core = Core::new(limits, generations);
        core.set_now(sys.now());
        let dispatcher = Dispatcher::new(core);
        let limits = &dispatcher.core.limits;
        Ok(Self {
            buffer: vec![0; FRONT + limits.read_buffer],
            shared: Shared::new(dispatcher.core.number, limits.commands, sys.waker()),
            batch: Vec::new(),
            dispatcher,
            streams: BySlot::new(),
            listeners: Listeners::new(),
            sources: Sources::new(),
            bound_sockets: BySlot::new(),
            datagram_buffer: Vec::new(),
            events: Vec::new(),
            events_truncated: false,
            reap_queue: Vec::new(),
            shutdown: ShutdownState::default(),
            log_limits: LogLimits::default(),
            unseen: None,
            slow_call,
            sys,
        })
    }

    /// Returns a handle for other threads.
    pub(crate) fn handle(&self) -> Handle {
        Handle::new(std::sync::Arc::clone(&self.shared))
    }

    /// Reads the clock after a callback: measures the callback, updates `now`, and starts the timers that it armed.
    fn measure_callback(&mut self, site: CallSite) {
        let before = self.dispatcher.core.now;
        self.update_clock();
        let core = &mut self.dispatcher.core;
        core.timers.start_pending(core.now);
        let took = core.now.nanos_since(before);
        let panicked = !core.codec_panics.is_empty();
        if took > core.longest_call {
            core.longest_call = took;
        }
        if took > self.slow_call {
            self.log_slow_call(site, took);
        }
        if panicked {
            self.dispatcher.report_codec_panics();
        }
    }

    #[cold]
    fn log_slow_call(&mut self, site: CallSite, took: u64) {
        if let Some(n) = self.log_limits.slow_call.allow(self.dispatcher.core.now) {
            let (what, took) = (self.dispatcher.describe(site), Duration::from_nanos(took));
            log::warn!("{what} took {took:?} and blocked the event loop{}", suppressed(n));
        }
    }

    pub(crate) fn update_clock(&mut self) {
        let now = self.sys.now();
        self.dispatcher.core.set_now(now);
    }

    /// Follows every callback of a connection: measures it, writes what it sent to its own peer, and advances a close
    /// that it requested. `data` is what the callback was given. A part of it may have been echoed in place: that is
    /// written from where it lies, before the buffer is reused, and only what the kernel does not take is copied into
    /// the outbox.
    pub(super) fn after_callback(&mut self, id: ConnId, data: &[u8]) {
        self.measure_callback(CallSite::Connection(id));
        let core = &mut self.dispatcher.core;
        let echoed = core.take_echoed(id);
        let sent_to_self = std::mem::take(&mut core.delivery.sent_to_self);
        // From here on, a send to it is flushed at the end of the turn: no callback is left whose
        // end would flush it.
        core.delivery.conn = None;
        if sent_to_self {
            let prefix = data.get(echoed).unwrap_or_default();
            let (written, _) = self.write(id, prefix, &[]);
            if written < prefix.len() {
                self.dispatcher.core.requeue_front(id, &prefix[written..]);
            }
            self.dispatcher.core.after_write(id);
        }
        // After the write: a close that the callback requested goes on only when nothing is unsent.
        self.advance_close(id);
        self.flush_early();
    }

    /// Follows every other callback: of a handler, a source or a closure, and the last one of a connection.
    pub(super) fn after_handler_callback(&mut self, site: CallSite) {
        self.measure_callback(site);
        self.flush_early();
    }
}

impl<S: Sys> Drop for EventLoop<S> {
    fn drop(&mut self) {
        self.dispatcher.set_panic_policy(PanicPolicy::CloseConnection);
        // Dropped here, outside the queue's lock: the drop of a closure or a note is user code, and
        // may use a `Handle`.
        let left = self.shared.commands.close();
        if !left.is_empty() {
            log::debug!("{} queued commands dropped with the reactor", left.len());
        }
        // Each on its own, as in the drop of the dispatcher.
        for command in left {
            self.dispatcher.guarded(CallSite::Dropped, |_| drop(command));
        }
        let Self { sources, sys, dispatcher, .. } = self;
        for id in sources.entries.ids().collect::<Vec<_>>() {
            dispatcher.guarded(CallSite::Dropped, |_| drop(sources.remove(id, sys)));
        }
    }
}

/// Returns what to add to the log line about a socket that was bound: a notice if other machines can reach it.
pub(super) fn exposure(bound: &Address) -> &'static str {
    match bound.is_exposed() {
        true => ": other machines can reach it, and there is no authentication but the handler's own",
        false => "",
    }
}

/// Descriptors kept free for everything that is not a connection: listeners, datagram sockets, sources, files. Chosen.
/// (Redis reserves 32.)
const SPARE_DESCRIPTORS: usize = 64;

/// Lowers the connection limit to the number of descriptors that the process may still open.
fn fit_descriptors<S: Sys>(sys: &mut S, limits: &mut Limits) {
    let Some((limit, taken)) = sys.descriptor_limit() else { return };
    // Saturates: RLIMIT_NOFILE may be lower than the number of descriptors that are open. At least
    // one, or no connection would ever be accepted.
    let spare = limit.saturating_sub(taken).saturating_sub(SPARE_DESCRIPTORS).max(1);
    if let Limit::At(wanted) = limits.connections
        && wanted > spare
    {
        log::warn!(
            "connection limit lowered from {wanted} to {spare}: the process may open {limit} descriptors \
             (RLIMIT_NOFILE, which `ulimit -n` raises)"
        );
        limits.connections = Limit::At(spare);
    }
}
