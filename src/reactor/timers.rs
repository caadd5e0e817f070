//! Timers of handlers going off.
//!
//! Knows nothing of what they are for. Invariant: no more go off in a turn than its share, none that another one has
//! set in this very turn, and each is followed by what follows a callback.

use std::time::Duration;

use super::event_loop::EventLoop;
use crate::dispatch::CallSite;
use crate::sys::Sys;
use crate::time::Time;
use crate::time::timers::{Expired, Owner};

/// A deadline overdue by this much means that we, and not the peers, were late.
const LATE_THRESHOLD: Duration = Duration::from_secs(5);
/// Turns that may go by while we catch up on what arrived when we were late.
const MAX_DEFERRED_TURNS: u32 = 64;

impl<S: Sys> EventLoop<S> {
    pub(super) fn check_timers(&mut self) {
        let core = &mut self.dispatcher.core;
        let first = core.deadlines.next().map_or(Time::NEVER, |(at, _)| at);
        let overdue = core.now.since(first.min(core.timers.next()).min(core.connect_jobs.next()));
        let busy = !core.ready.is_empty() || self.events_truncated;
        self.timeouts_deferred = overdue > LATE_THRESHOLD && busy && self.deferred_turns < MAX_DEFERRED_TURNS;
        if overdue <= LATE_THRESHOLD {
            self.deferred_turns = 0;
        } else if self.timeouts_deferred {
            self.deferred_turns += 1;
            return;
        }
        self.expire_deadlines();
        self.fire_timers();
    }

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

    /// Calls `on_timer` and `on_tick` for what is due.
    pub(super) fn fire_timers(&mut self) {
        let core = &mut self.dispatcher.core;
        let (now, arm_count) = (core.now, core.timers.arm_count());
        for _ in 0..core.limits.timeouts_per_turn {
            let Some(expired) = self.dispatcher.core.timers.due(now, arm_count) else { return };
            self.fire(expired);
        }
    }

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
