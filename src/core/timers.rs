//! Handlers' timers: of a connection, and of a handler itself.
//!
//! Knows neither the clock nor who is called. Invariant: only what is open, or a handler that is there, has timers;
//! they are as many as allowed at most.

use std::time::Duration;

use super::Core;
use crate::connection::Phase;
use crate::id::{ConnId, HandlerIdx, TimerId};
use crate::time::timers::{Owner, TimerList};

impl Core {
    /// Sets a timer. `None` when there are as many as allowed, or the connection is ending.
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
            Owner::Connection(id) => {
                &mut conns.get_mut(id).filter(|c| c.phase == Phase::Open)?.cold_mut().timers
            }
            Owner::Handler(handler) => handler_timers.get_mut(handler.slot())?,
        };
        if list.len as usize >= most {
            return None;
        }
        timers.set(list, owner, key, *now, after, every)
    }

    /// Ends a timer. False when it is gone.
    pub(crate) fn cancel_timer(&mut self, id: TimerId) -> bool {
        let Self { conns, handler_timers, timers, .. } = self;
        let list = match timers.owner(id) {
            None => return false,
            Some(Owner::Connection(owner)) => conns.get_mut(owner).map(|c| &mut c.cold_mut().timers),
            Some(Owner::Handler(handler)) => handler_timers.get_mut(handler.slot()),
        };
        list.is_some_and(|list| timers.cancel(list, id))
    }

    /// Ends a connection's timers.
    pub(crate) fn end_timers(&mut self, id: ConnId) {
        if let Some(c) = self.conns.get_mut(id).filter(|c| c.cold().is_some_and(|r| r.timers.len > 0)) {
            self.timers.clear(&mut c.cold_mut().timers);
        }
    }

    /// Ends a handler's own timers.
    pub(crate) fn end_handler_timers(&mut self, handler: HandlerIdx) {
        if let Some(list) = self.handler_timers.get_mut(handler.slot()) {
            self.timers.clear(list);
            *list = TimerList::default();
        }
    }
}
