//! Requesting and cancelling connections.
//!
//! Opens no sockets; the loop does. Invariant: a connecting socket that was cancelled is in `cancelled_dials` until the
//! loop closes it.

use super::Core;
use super::connect_jobs::{ConnectStage, Destination, destination_of};
use crate::config::connect::{Connect, ConnectOptions};
use crate::connection::Phase;
use crate::id::{AttemptId, ConnId, HandlerIdx};

impl Core {
    /// Creates a connect job. Returns `None` if there are [`Limits::attempts`](crate::Limits::attempts) already, or the
    /// reactor is shutting down: a handler that connects again after every failure would keep it from ending.
    ///
    /// The job is on behalf of the connection that its options name, or of `current`.
    pub(crate) fn connect(
        &mut self,
        handler: HandlerIdx,
        to: Connect,
        tag: u64,
        current: Option<ConnId>,
    ) -> Option<AttemptId> {
        if self.shutting_down || self.connect_jobs.len() >= self.limits.attempts {
            return None;
        }
        // An invalid destination also becomes a job. So every failure is reported by the same callback, and never from
        // inside the callback that requested the connection.
        let (destination, options) = match to.into_parts() {
            Ok((target, options)) => (destination_of(target), options),
            Err(error) => (Destination::Invalid(error), ConnectOptions::default()),
        };
        let requester = options.on_behalf_of.or(current).and_then(|id| self.requester(id));
        self.connect_jobs.insert(handler, tag, destination, options, requester)
    }

    /// Cancels a connect job. No callback is called for it. If it has established a connection, that connection stays
    /// open and is not reconnected. Returns `false` if the job is over.
    pub(crate) fn cancel_connect(&mut self, id: AttemptId) -> bool {
        let Some(job) = self.connect_jobs.get_mut(id) else { return false };
        if matches!(job.stage, ConnectStage::Cancelled) {
            return false;
        }
        for conn in std::mem::take(&mut job.trying) {
            self.cancel_dial(conn);
        }
        // Not removed here: only the loop can cancel its lookup and release its handler.
        self.connect_jobs.set_stage(id, ConnectStage::Cancelled);
        self.connect_jobs.update_deadline(id);
        self.connect_jobs.enqueue(id);
        true
    }

    /// Closes a connecting socket. No callback is called, because no handler has seen the connection.
    pub(crate) fn cancel_dial(&mut self, id: ConnId) {
        if let Some(c) = self.conns.get_mut(id).filter(|c| c.phase == Phase::Connecting) {
            c.phase = Phase::Closed;
            self.cancelled_dials.push(id);
        }
    }

    /// Returns the number of connecting sockets, including those that the loop has still to close. They have a slot but
    /// do not count as open.
    pub(crate) fn count_dials(&self) -> usize {
        self.connect_jobs.iter().map(|a| a.trying.len()).sum::<usize>() + self.cancelled_dials.len()
    }
}
