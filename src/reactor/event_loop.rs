//! The event loop: the sockets, the handlers, and what each phase of a turn stands on.
//!
//! Each phase of a turn has a file: accept, read, write, close, timers, commands, connect, datagram, sources, shutdown.
//! Invariant: every callback is followed by `after_callback` or `after_handler_callback`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::tables::{BoundSockets, Listeners, ShutdownState, Sources};
use crate::closed::REASONS;
use crate::config::limits::{Limit, Limits};
use crate::core::Core;
use crate::dispatch::{CallSite, Dispatcher};
use crate::handler::handle::{Command, Handle, Shared};
use crate::id::{ConnId, Generations};
use crate::sys::{Ready, Sys};
use crate::time::Time;
use crate::time::log_limit::{RateLimiter, suppressed};

/// GroupState in front of what is read, for an unfinished message to be put before it.
pub(super) const FRONT: usize = 4 * 1024;
#[derive(Debug, Default)]
pub(super) struct LogLimits {
    pub(super) closed: [RateLimiter; REASONS],
    pub(super) accept: RateLimiter,
    slow_call: RateLimiter,
}

pub(crate) struct EventLoop<S: Sys> {
    pub(crate) sys: S,
    pub(crate) dispatcher: Dispatcher,
    /// By slot.
    pub(crate) streams: Vec<Option<S::Stream>>,
    pub(crate) listeners: Listeners<S>,
    pub(super) sources: Sources,
    pub(super) bound_sockets: BoundSockets<S>,
    pub(super) events: Vec<Ready>,
    /// The last wait brought as many events as fit.
    pub(super) events_truncated: bool,
    /// `FRONT` bytes, then what is read.
    pub(super) buffer: Vec<u8>,
    pub(super) reap_queue: Vec<ConnId>,
    /// What other threads want.
    pub(super) shared: Arc<Shared>,
    /// Empty but while commands are obeyed.
    pub(super) batch: Vec<Command>,
    pub(crate) shutdown: ShutdownState,
    pub(super) log_limits: LogLimits,
    pub(super) deferred_turns: u32,
    /// We were away; what the peers sent meanwhile is read before anyone is judged.
    pub(super) timeouts_deferred: bool,
    /// A callback that takes longer than this many nanoseconds is worth a line in the log.
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
            streams: Vec::new(),
            listeners: Listeners::new(),
            sources: Sources::new(),
            bound_sockets: BoundSockets::new(),
            events: Vec::new(),
            events_truncated: false,
            reap_queue: Vec::new(),
            shutdown: ShutdownState::default(),
            log_limits: LogLimits::default(),
            deferred_turns: 0,
            timeouts_deferred: false,
            slow_call,
            sys,
        })
    }

    /// What other threads have of this loop.
    pub(crate) fn handle(&self) -> Handle {
        Handle::new(std::sync::Arc::clone(&self.shared))
    }

    /// Looks at the clock after a callback: how long it took, and what time it is now.
    pub(super) fn measure_callback(&mut self, site: CallSite) {
        let before = self.dispatcher.core.now;
        self.update_clock();
        let core = &mut self.dispatcher.core;
        core.timers.start_pending(core.now);
        let took = core.now.nanos_since(before);
        if took > core.longest_call {
            core.longest_call = took;
        }
        if took > self.slow_call {
            self.log_slow_call(site, took);
        }
    }

    #[cold]
    fn log_slow_call(&mut self, site: CallSite, took: u64) {
        if let Some(n) = self.log_limits.slow_call.allow(self.dispatcher.core.now) {
            let (what, took) = (self.dispatcher.describe(site), Duration::from_nanos(took));
            log::warn!("{what} took {took:?}; all others waited{}", suppressed(n));
        }
    }

    pub(crate) fn update_clock(&mut self) {
        let now = self.sys.now();
        self.dispatcher.core.set_now(now);
    }

    pub(super) fn stream(&mut self, id: ConnId) -> Option<&mut S::Stream> {
        self.streams.get_mut(id.slot as usize)?.as_mut()
    }

    /// Puts a stream into its slot.
    pub(super) fn insert_stream(&mut self, id: ConnId, stream: S::Stream) {
        let slot = id.slot as usize;
        if slot >= self.streams.len() {
            self.streams.resize_with(slot + 1, || None);
        }
        self.streams[slot] = Some(stream);
    }

    /// What follows every callback of a connection: the time is taken, what it sent to its own peer is written (`data`
    /// is what it was given, part of which may be what it sent), and a close that it asked for goes on.
    pub(super) fn after_callback(&mut self, id: ConnId, data: &[u8]) {
        self.measure_callback(CallSite::Connection(id));
        let core = &mut self.dispatcher.core;
        let echoed = core.take_echo_range(id);
        let sent_to_self = std::mem::take(&mut core.delivery.sent_to_self);
        core.delivery.conn = None;
        if sent_to_self {
            let prefix = data.get(echoed).unwrap_or_default();
            let (written, _) = self.write(id, prefix, &[]);
            if written < prefix.len() {
                self.dispatcher.core.requeue_front(id, &prefix[written..]);
            }
            self.dispatcher.core.after_write(id);
        }
        self.advance_close(id);
        self.flush_full_logs();
    }

    /// What follows a callback that is for no connection.
    pub(super) fn after_handler_callback(&mut self, site: CallSite) {
        self.measure_callback(site);
        self.flush_full_logs();
    }
}

impl<S: Sys> Drop for EventLoop<S> {
    fn drop(&mut self) {
        let left = self.shared.commands.close();
        if !left.is_empty() {
            log::debug!("{} commands end with the reactor", left.len());
        }
    }
}

/// Descriptors that stay free for everything that is not a connection.
const SPARE_DESCRIPTORS: usize = 64;

/// Lowers the limit of connections to what the process may open.
fn fit_descriptors<S: Sys>(sys: &mut S, limits: &mut Limits) {
    let Some((limit, taken)) = sys.descriptor_limit() else { return };
    let spare = limit.saturating_sub(taken).saturating_sub(SPARE_DESCRIPTORS).max(1);
    if let Limit::At(wanted) = limits.connections
        && wanted > spare
    {
        log::warn!("at most {spare} connections, not {wanted}: the process may open {limit} descriptors");
        limits.connections = Limit::At(spare);
    }
}
