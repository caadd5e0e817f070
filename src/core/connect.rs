//! Asking for connections, and giving them up.
//!
//! Opens no sockets. Invariant: a socket that was connecting and is given up is in `dropped` until the loop closes it.

use std::time::Duration;

use super::Core;
use super::connect_jobs::{Goal, Stage, goal_of};
use crate::config::connect::{Connect, ConnectOptions};
use crate::connection::Phase;
use crate::id::{AttemptId, ConnId};

impl Core {
    /// Asks for a connection. `None` when as many are asked for as allowed, or the reactor is shutting down: who asks
    /// again whenever one fails would never let it end.
    pub(crate) fn connect(&mut self, handler: u32, to: Connect, tag: u64) -> Option<AttemptId> {
        if self.shutting_down || self.attempts.len() >= self.limits.attempts {
            return None;
        }
        let (goal, options) = match to.into_parts() {
            Ok((target, options)) => (goal_of(target), options),
            Err(error) => (Goal::Nowhere(error), ConnectOptions::default()),
        };
        Some(self.attempts.insert(handler, tag, goal, options))
    }

    /// Gives an attempt up without a word; where it has led to a connection already, that is only the last. False when
    /// it is over.
    pub(crate) fn cancel_connect(&mut self, id: AttemptId) -> bool {
        let Some(attempt) = self.attempts.get_mut(id) else { return false };
        if matches!(attempt.stage, Stage::Cancelled) {
            return false;
        }
        for conn in std::mem::take(&mut attempt.trying) {
            self.drop_dialled(conn);
        }
        self.attempts.set_stage(id, Stage::Cancelled);
        self.attempts.settle(id);
        self.attempts.want(id);
        true
    }

    /// Ends a socket that was connecting, of which nobody was told.
    pub(crate) fn drop_dialled(&mut self, id: ConnId) {
        if let Some(c) = self.conns.get_mut(id).filter(|c| c.phase == Phase::Connecting) {
            c.phase = Phase::Closed;
            self.cancelled_dials.push(id);
        }
    }

    /// How many sockets are connecting, or were until this turn: connections that nobody was told of.
    pub(crate) fn dialling(&self) -> usize {
        self.attempts.iter().map(|a| a.trying.len()).sum::<usize>() + self.cancelled_dials.len()
    }

    /// How long one try of an attempt may take.
    pub(crate) fn connect_timeout(&self, options: &ConnectOptions) -> Duration {
        options.timeout.unwrap_or(self.limits.connect_timeout).get()
    }
}
