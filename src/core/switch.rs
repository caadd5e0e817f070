//! A connection that goes over to another handler.
//!
//! Knows neither the handlers nor their states. Invariant: what was sent to a connection before is written in the
//! framing it was sent in, what is sent later in the new one; its memberships go on.

use std::any::Any;

use super::{Core, Switch};
use crate::connection::Phase;
use crate::id::{ConnId, HandlerIdx, Key};

impl Core {
    /// Notes that a connection is to go over to another handler when its callback has returned. False for a key of
    /// another reactor, and when this is not the connection whose callback runs, or it is ending.
    pub(crate) fn switch<H>(&mut self, id: ConnId, key: Key<H>, state: Box<dyn Any>) -> bool {
        let open = self.conns.get(id).is_some_and(|c| c.phase == Phase::Open);
        let Some(handler) = key.index_in(self.number).filter(|_| open && self.delivery.conn == Some(id))
        else {
            return false;
        };
        self.switch = Some(Switch { handler, state });
        true
    }

    /// The wish of the callback that has returned; what it did not use of its data is for the new handler, at once.
    pub(crate) fn take_switch(&mut self) -> Option<Switch> {
        let wish = self.switch.take()?;
        self.delivery.deferred = self.delivery.unused > 0;
        Some(wish)
    }

    /// Makes a connection another handler's; answers where the old one is, and its state there.
    pub(crate) fn change_handler(
        &mut self,
        id: ConnId,
        handler: HandlerIdx,
        state: u32,
    ) -> Option<(HandlerIdx, u32)> {
        self.take_from_logs(id);
        self.end_timers(id);
        let number = self.groups.next_number();
        let Self { conns, groups, .. } = self;
        let c = conns.get_mut(id)?;
        // What was kept before may be a whole message to the new handler, which knows of no end of input yet either.
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
