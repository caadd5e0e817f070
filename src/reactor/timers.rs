//! Expires the connections' deadlines and fires the handlers' timers.
//!
//! Invariant: at most `timeouts_per_turn` timers fire in a turn, and none that was armed by a timer of the same turn.

use std::time::Duration;

use super::event_loop::EventLoop;
use crate::dispatch::CallSite;
use crate::sys::Sys;
use crate::time::Time;
use crate::time::timers::{Expired, Owner};

/// If a deadline is overdue by more than this, the loop itself was late: a callback blocked, or the machine was
/// suspended. Chosen: far above the length of a busy turn.
const LATE_THRESHOLD: Duration = Duration::from_secs(5);
/// Turns in a row for which timeouts are deferred while the loop reads what arrived when it was late. Chosen: at 256
/// KiB for each connection and turn this empties any receive buffer, and peers that keep sending cannot defer
/// timeouts forever.
const MAX_DEFERRED_TURNS: u32 = 64;

impl<S: Sys> EventLoop<S> {
    /// Expires deadlines and fires timers, unless timeouts are deferred in this turn.
    ///
    /// After the loop was late, every peer looks idle or slow, though its bytes may have been waiting in the kernel all
    /// the time. So while there is still work from events, the input is read first, and timeouts wait.
    pub(super) fn check_timers(&mut self) {
        let core = &mut self.dispatcher.core;
        let first = core.deadlines.next().map_or(Time::NEVER, |(at, _)| at);
        let overdue = core.now.since(first.min(core.timers.next()).min(core.connect_jobs.next()));
        let busy = !core.ready.is_empty() || self.events_truncated;
        self.timeouts_deferred = overdue > LATE_THRESHOLD && busy && self.deferred_turns < MAX_DEFERRED_TURNS;
        // Not reset while timeouts of a leap of the clock are left. Working them off may take many
        // turns, and they are deferred only once.
        if overdue <= LATE_THRESHOLD {
            self.deferred_turns = 0;
        } else if self.timeouts_deferred {
            self.deferred_turns += 1;
            return;
        }
        self.expire_deadlines();
        self.fire_timers();
    }

    /// Checks the connections whose deadline has passed, up to `timeouts_per_turn`.
    fn expire_deadlines(&mut self) {
        let core = &mut self.dispatcher.core;
        for _ in 0..core.limits.timeouts_per_turn {
            match core.deadlines.next() {
                Some((at, slot)) if at <= core.now => match core.conns.id_in_slot(slot) {
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
        let (now, arm_count) = (core.now, core.timers.arm_count());
        for _ in 0..core.limits.timeouts_per_turn {
            let Some(expired) = self.dispatcher.core.timers.due(now, arm_count) else { return };
            self.fire(expired);
        }
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
