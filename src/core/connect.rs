//! Asking for connections, and giving them up.
//!
//! Opens no sockets. Invariant: a socket that was connecting and is given up is in `dropped` until the loop closes it.

use std::time::Duration;

use super::Core;
use super::connect_jobs::{ConnectStage, Destination, destination_of};
use crate::config::connect::{Connect, ConnectOptions};
use crate::connection::Phase;
use crate::id::{AttemptId, ConnId, HandlerIdx};

impl Core {
    /// Asks for a connection. `None` when as many are asked for as allowed, or the reactor is shutting down: who asks
    /// again whenever one fails would never let it end.
    pub(crate) fn connect(&mut self, handler: HandlerIdx, to: Connect, tag: u64) -> Option<AttemptId> {
        if self.shutting_down || self.connect_jobs.len() >= self.limits.attempts {
            return None;
        }
        let (destination, options) = match to.into_parts() {
            Ok((target, options)) => (destination_of(target), options),
            Err(error) => (Destination::Invalid(error), ConnectOptions::default()),
        };
        self.connect_jobs.insert(handler, tag, destination, options)
    }

    /// Gives an attempt up without a word; where it has led to a connection already, that is only the last. False when
    /// it is over.
    pub(crate) fn cancel_connect(&mut self, id: AttemptId) -> bool {
        let Some(job) = self.connect_jobs.get_mut(id) else { return false };
        if matches!(job.stage, ConnectStage::Cancelled) {
            return false;
        }
        for conn in std::mem::take(&mut job.trying) {
            self.cancel_dial(conn);
        }
        self.connect_jobs.set_stage(id, ConnectStage::Cancelled);
        self.connect_jobs.update_deadline(id);
        self.connect_jobs.enqueue(id);
        true
    }

    /// Ends a socket that was connecting, of which nobody was told.
    pub(crate) fn cancel_dial(&mut self, id: ConnId) {
        if let Some(c) = self.conns.get_mut(id).filter(|c| c.phase == Phase::Connecting) {
            c.phase = Phase::Closed;
            self.cancelled_dials.push(id);
        }
    }

    /// How many sockets are connecting, or were until this turn: connections that nobody was told of.
    pub(crate) fn count_dials(&self) -> usize {
        self.connect_jobs.iter().map(|a| a.trying.len()).sum::<usize>() + self.cancelled_dials.len()
    }

    /// How long one try of an attempt may take.
    pub(crate) fn connect_timeout(&self, options: &ConnectOptions) -> Duration {
        options.timeout.unwrap_or(self.limits.connect_timeout).get()
    }
}
