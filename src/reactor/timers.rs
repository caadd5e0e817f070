//! Expires the connections' deadlines and fires the handlers' timers.
//!
//! Invariant: at most `timeouts_per_turn` timers fire in a turn, and none that was armed by a timer of the same turn.

use super::event_loop::EventLoop;
use crate::dispatch::CallSite;
use crate::sys::Sys;
use crate::time::timers::{Expired, Owner};

/// How many turns a timer waits while input of its connection is unread. Chosen: at 256 KiB a turn this empties any
/// receive buffer, and a peer that keeps sending cannot hold back the timer that ends it.
const MAX_HELD: u8 = 64;

impl<S: Sys> EventLoop<S> {
    /// Expires deadlines and fires timers.
    pub(super) fn check_timers(&mut self) {
        self.expire_deadlines();
        self.fire_timers();
    }

    /// Checks the connections whose deadline has passed, up to `timeouts_per_turn`.
    fn expire_deadlines(&mut self) {
        let core = &mut self.dispatcher.core;
        for _ in 0..core.limits.timeouts_per_turn {
            match core.deadlines.next() {
                Some((at, slot)) if at <= core.seen_until => match core.conns.id_in_slot(slot) {
                    Some(id) => core.check_deadline(id),
                    None => core.deadlines.clear(slot),
                },
                _ => return,
            }
        }
    }

    /// Calls `on_timer` and `on_tick` for expired timers, up to `timeouts_per_turn`.
    pub(super) fn fire_timers(&mut self) {
        let core = &mut self.dispatcher.core;
        // Timers armed from here on wait for the next turn, or a timer of zero that re-arms itself would loop.
        let (until, arm_count) = (core.seen_until, core.timers.arm_count());
        let (mut share, mut held) = (core.limits.timeouts_per_turn, Vec::new());
        while share > 0 {
            let core = &mut self.dispatcher.core;
            let Some((id, owner)) = core.timers.next_due(until, arm_count) else { break };
            // What the handler waits for may be in the kernel, or in our buffer.
            let unread = matches!(owner, Owner::Connection(conn) if core.has_unread_input(conn));
            if let Some(timer) = unread.then(|| core.timers.hold(id, MAX_HELD)).flatten() {
                held.push(timer);
            } else if let Some(expired) = core.timers.expire(id, until) {
                share -= 1;
                self.fire(expired);
            }
        }
        held.into_iter().for_each(|timer| self.dispatcher.core.timers.unhold(timer));
    }

    /// Calls the callback of an expired timer. A one-shot timer is removed first, so that it does not count against the
    /// limits when the callback sets another one.
    fn fire(&mut self, Expired { id, owner, key, last }: Expired) {
        if last {
            self.dispatcher.core.cancel_timer(id);
        }
        match owner {
            Owner::Connection(conn) => {
                self.dispatcher.timer(conn, key);
                self.after_callback(conn, &[]);
                self.dispatcher.core.enqueue_if_work(conn);
            }
            Owner::Handler(handler) => {
                self.dispatcher.handler_timer(handler, key);
                self.after_handler_callback(CallSite::Handler(handler));
            }
        }
    }
}
