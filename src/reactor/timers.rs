//! Timers of handlers going off.
//!
//! Knows nothing of what they are for. Invariant: no more go off in a turn than its share, none that another one has
//! set in this very turn, and each is followed by what follows a callback.

use super::turn::Loop;
use crate::dispatch::Who;
use crate::sys::Sys;
use crate::time::timers::{Alarm, Owner};

impl<S: Sys> Loop<S> {
    /// Calls `on_timer` and `on_tick` for what is due.
    pub(super) fn sound_alarms(&mut self) {
        let core = &mut self.engine.core;
        let (now, mark) = (core.now, core.timers.mark());
        for _ in 0..core.limits.timeouts_per_turn {
            let Some(alarm) = self.engine.core.timers.due(now, mark) else { return };
            self.sound(alarm);
        }
    }

    fn sound(&mut self, Alarm { id, owner, key, last }: Alarm) {
        if last {
            self.engine.core.cancel_timer(id);
        }
        match owner {
            Owner::Connection(conn) => {
                self.engine.timer(conn, key);
                self.after_call(conn, &[]);
                self.engine.core.enqueue_if_work(conn);
            }
            Owner::Handler(site) => {
                self.engine.tick(site, key);
                self.after_handler_call(Who::Handler(site));
            }
        }
    }

    /// What follows a callback that is for no connection.
    pub(super) fn after_handler_call(&mut self, who: Who) {
        self.timed_call(who);
        self.flush_full_logs();
    }
}
