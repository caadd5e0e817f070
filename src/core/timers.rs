//! Setting and cancelling timers: those of a connection, and handler timers.
//!
//! Fires no timers; the loop does. Invariant: only open connections and registered handlers have timers, at most as
//! many as the limits allow.

use std::time::Duration;

use super::Core;
use crate::connection::Phase;
use crate::id::{ConnId, HandlerIdx, TimerId};
use crate::time::timers::Owner;

impl Core {
    /// Sets a timer. Returns `None` if the limit is reached, or the connection is not open, or the handler does not
    /// exist.
    pub(crate) fn set_timer(
        &mut self,
        owner: Owner,
        key: u64,
        after: Duration,
        every: Option<Duration>,
    ) -> Option<TimerId> {
        let most = match owner {
            Owner::Connection(_) => self.limits.timers_per_connection,
            Owner::Handler(_) => usize::MAX,
        };
        if self.timers.len() >= self.limits.timers {
            return None;
        }
        let Self { conns, handler_timers, timers, now, .. } = self;
        let list = match owner {
            Owner::Connection(id) => &mut conns.get_mut(id).filter(|c| c.phase == Phase::Open)?.cold_mut().timers,
            Owner::Handler(handler) => handler_timers.get_mut(handler.slot())?,
        };
        if list.len as usize >= most {
            return None;
        }
        timers.set(list, owner, key, *now, after, every)
    }

    /// Cancels a timer. Returns `false` if it does not exist any more.
    pub(crate) fn cancel_timer(&mut self, id: TimerId) -> bool {
        let Self { conns, handler_timers, timers, .. } = self;
        let list = match timers.owner(id) {
            None => return false,
            Some(Owner::Connection(owner)) => conns.get_mut(owner).map(|c| &mut c.cold_mut().timers),
            Some(Owner::Handler(handler)) => handler_timers.get_mut(handler.slot()),
        };
        list.is_some_and(|list| timers.cancel(list, id))
    }

    /// Cancels all timers of a connection.
    pub(crate) fn end_timers(&mut self, id: ConnId) {
        if let Some(c) = self.conns.get_mut(id).filter(|c| c.cold().is_some_and(|r| r.timers.len > 0)) {
            self.timers.clear(&mut c.cold_mut().timers);
        }
    }

    /// Cancels all handler timers of a handler.
    pub(crate) fn end_handler_timers(&mut self, handler: HandlerIdx) {
        if let Some(list) = self.handler_timers.get_mut(handler.slot()) {
            self.timers.clear(list);
        }
    }
}
