//! The state of a simulated run as the checks see it: the loop, the simulated system, and the clients.
//!
//! Invariant: the oracle and the checks of a play only read it; the run changes it, and the effects of other threads
//! are recorded in it.

use std::time::Duration;

use super::checked_handler::CheckedHandler;
use super::client::Client;
use crate::connection::{Connection, Phase};
use crate::handler::Handler;
use crate::id::Key;
use crate::reactor::event_loop::EventLoop;
use crate::sys::sim::{Sim, State};

/// The state of a run.
pub(crate) struct View<H: Handler> {
    pub(crate) inner: EventLoop<Sim>,
    pub(crate) key: Key<CheckedHandler<H>>,
    pub(crate) clients: Vec<Client>,
    /// When a shutdown began, in nanoseconds, and its grace period.
    pub(crate) stopping: Option<(u64, Duration)>,
    pub(crate) turns: usize,
}

impl<H: Handler> View<H> {
    /// Iterates over the connections, each with its peer's index.
    pub(crate) fn connections(&self) -> impl Iterator<Item = (usize, &Connection)> {
        let (streams, conns) = (&self.inner.streams, &self.inner.dispatcher.core.conns);
        streams.iter().filter_map(|(slot, stream)| Some((stream.peer(), conns.in_slot(slot)?)))
    }

    /// The handler, with the record of its callbacks.
    pub(crate) fn checked(&self) -> Option<&CheckedHandler<H>> {
        self.inner.dispatcher.get(self.key)
    }

    /// Sets the state of each connection, for the table of faults by state.
    pub(super) fn record_states(&mut self) {
        let core = &self.inner.dispatcher.core;
        let state_of = |c: &Connection| match c.phase {
            Phase::Connecting => State::Connecting,
            Phase::Open if c.halves.peer_fin => State::ReadClosed,
            Phase::Open if !core.may_read(c) => State::Paused,
            Phase::Open => State::Open,
            Phase::Flushing => State::Flushing,
            Phase::Lingering | Phase::Closed => State::Lingering,
        };
        let states: Vec<_> = self.connections().map(|(peer, c)| (peer, state_of(c))).collect();
        for (peer, state) in states {
            self.inner.sys.facts[peer].state = state;
        }
    }
}
