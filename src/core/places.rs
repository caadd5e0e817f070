//! Places: what [`Limits::connections`](crate::Limits::connections) counts. A connection takes one from the moment it
//! has a slot until it is removed; further ones are reserved for connections that will be made.
//!
//! A listener may reserve places for each connection that it accepts. They are kept while that connection is open.
//! What is connected on its behalf takes a place from there, and returns it when it is removed.
//!
//! Invariant: `reserved` is the sum of the unused reserves of all open connections, and together with the connections
//! it never exceeds the limit. So a connect job with a reserve always finds a place, once its last socket is closed.

use super::Core;
use crate::connection::{Connection, Reserve};
use crate::id::ConnId;

impl Core {
    /// Returns how many places are neither taken nor reserved.
    pub(crate) fn free_places(&self) -> usize {
        self.limits.connections.get().saturating_sub(self.conns.len()).saturating_sub(self.reserved)
    }

    /// Returns the limit, with its name, that keeps a connection with this `reserve` from being accepted: `places` have
    /// to be free, and as many connect jobs and lookups as it reserves.
    pub(crate) fn lacks(&self, places: usize, reserve: usize) -> Option<(usize, &'static str)> {
        let (limits, jobs) = (&self.limits, &self.connect_jobs);
        // A job in the queue may be about to look up a name.
        let lookups = jobs.active_lookups + jobs.queue.len();
        if self.free_places() < places {
            Some((limits.connections.get(), "connections"))
        } else if reserve > limits.attempts.saturating_sub(jobs.len()) {
            Some((limits.attempts, "connect jobs"))
        } else if reserve > limits.lookups.saturating_sub(lookups) {
            Some((limits.lookups, "lookups"))
        } else {
            None
        }
    }

    /// Reserves places for connections on behalf of `id`, which was just accepted.
    pub(crate) fn begin_reserve(&mut self, id: ConnId, places: usize) {
        if places > 0 {
            self.change_reserve(id, |reserve| reserve.places = places);
        }
    }

    /// Frees the places that are reserved for `id` and not in use: it is closing.
    pub(super) fn end_reserve(&mut self, id: ConnId) {
        if self.conns.get(id).and_then(Connection::cold).is_some_and(|cold| cold.reserve.places > 0) {
            self.change_reserve(id, |reserve| reserve.places = 0);
        }
    }

    /// Returns how many reserved places a connect job of this requester may still take.
    pub(crate) fn unused_reserve(&self, requester: Option<ConnId>) -> usize {
        let cold = requester.and_then(|id| self.conns.get(id)?.cold());
        cold.map_or(0, |cold| cold.reserve.unused())
    }

    /// Returns the connection whose reserve is used by what is requested in a callback of `id`: itself, or the one on
    /// whose behalf it was made.
    pub(super) fn requester(&self, id: ConnId) -> Option<ConnId> {
        let cold = self.conns.get(id)?.cold()?;
        if cold.reserve.places > 0 { Some(id) } else { cold.requester }
    }

    /// Returns whether a socket may be opened for a connect job of this requester.
    pub(crate) fn has_place_for(&self, requester: Option<ConnId>) -> bool {
        self.free_places() > 0 || self.unused_reserve(requester) > 0
    }

    /// Counts a new connection against the reserve of its requester.
    pub(crate) fn take_reserved(&mut self, id: ConnId, requester: Option<ConnId>) {
        let Some(requester) = requester else { return };
        if let Some(c) = self.conns.live_mut(id) {
            c.cold_mut().requester = Some(requester);
        }
        self.change_reserve(requester, |reserve| reserve.used += 1);
    }

    /// Removes a connection, and returns its place to the reserve that it was taken from.
    pub(crate) fn remove_connection(&mut self, id: ConnId) -> Option<Connection> {
        let c = self.conns.remove(id)?;
        if let Some(requester) = c.cold().and_then(|cold| cold.requester) {
            self.change_reserve(requester, |reserve| reserve.used = reserve.used.saturating_sub(1));
        }
        Some(c)
    }

    /// Changes the reserve of a connection, and with it the sum of all. Does nothing if the connection is removed.
    fn change_reserve(&mut self, id: ConnId, change: impl FnOnce(&mut Reserve)) {
        let Some(c) = self.conns.get_mut(id) else { return };
        let reserve = &mut c.cold_mut().reserve;
        let before = reserve.unused();
        change(reserve);
        self.reserved = self.reserved + reserve.unused() - before;
    }
}
