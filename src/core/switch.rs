//! Switching a connection to another handler.
//!
//! Invariant: what was sent before the switch is written in the old handler's framing, what is sent later in the new
//! one; the connection stays in its groups.

use std::any::Any;

use super::{Core, Switch};
use crate::connection::Phase;
use crate::id::{ConnId, HandlerIdx, Key};

impl Core {
    /// Requests that a connection is switched to another handler when its callback has returned. Returns `false` if the
    /// key is another reactor's, or the connection is not the one whose callback runs, is not open, or has pieces to
    /// fetch: those are in the framing of its handler.
    pub(crate) fn switch<H>(&mut self, id: ConnId, key: Key<H>, state: Box<dyn Any>) -> bool {
        let open = self.conns.get(id).is_some_and(|c| c.phase == Phase::Open && !c.out.has_pieces());
        let Some(handler) = key.index_in(self.number).filter(|_| open && self.delivery.conn == Some(id)) else {
            return false;
        };
        self.switch = Some(Switch { handler, state });
        true
    }

    /// Takes the request of the callback that has returned. The bytes that it did not use become deferred, so that the
    /// new handler gets them at once and not only when more arrive.
    pub(crate) fn take_switch(&mut self) -> Option<Switch> {
        let wish = self.switch.take()?;
        self.delivery.deferred = self.delivery.unused > 0;
        Some(wish)
    }

    /// Assigns a connection to another handler and `state`. Returns the old handler and the slot of the old state.
    pub(crate) fn change_handler(&mut self, id: ConnId, handler: HandlerIdx, state: u32) -> Option<(HandlerIdx, u32)> {
        // What the logs hold is encoded in the old framing: take it before the connection changes its log.
        self.take_from_logs(id);
        self.end_timers(id);
        self.end_rest(id);
        let number = self.groups.next_number();
        let Self { conns, groups, .. } = self;
        let c = conns.get_mut(id)?;
        // To the new handler the buffered input may be a complete message, and `on_end` was not called for it yet.
        c.deferred |= c.input.is_some();
        c.halves.eof_delivered = false;
        for m in &c.groups {
            if let Some(state) = groups.states.live_mut(m.group) {
                state.reframe(m.place, handler, number);
            }
        }
        Some((std::mem::replace(&mut c.handler, handler), std::mem::replace(&mut c.state, state)))
    }
}
