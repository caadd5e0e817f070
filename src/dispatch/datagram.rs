//! Datagram handlers, and the calls of their callbacks.
//!
//! They are in the same table as all handlers. Each socket holds a function, [`DatagramCallback`], that downcasts its
//! handler and calls the callback. Invariant: as for the dispatcher; for a socket that is not open, only `on_close` is
//! called.

use std::any::{Any, type_name};
use std::io;
use std::time::Duration;

use super::slot::ErasedHandler;
use super::{CallSite, Dispatcher};
use crate::closed::Closed;
use crate::config::address::Address;
use crate::core::Delivery;
use crate::core::datagram_sockets::{DatagramPhase, DatagramSocket};
use crate::handler::Note;
use crate::handler::context::Context;
use crate::handler::datagram::{DatagramContext, DatagramHandler};
use crate::handler::net::Net;
use crate::id::{DatagramId, HandlerIdx};

/// An event of a datagram socket, one for each callback.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DatagramEvent<'a> {
    Datagram(&'a Address, &'a [u8]),
    Truncated(&'a Address, usize),
    Drained,
    Error(&'a io::Error),
    Shutdown,
    Closed,
}

/// Calls the callback of a handler for an event.
pub(crate) type DatagramCallback = fn(&mut dyn Any, &mut DatagramContext<'_>, DatagramEvent<'_>);

/// Calls the callback of a handler of type `H` for an event.
pub(crate) fn call_datagram_handler<H: DatagramHandler>(
    handler: &mut dyn Any,
    cx: &mut DatagramContext<'_>,
    event: DatagramEvent<'_>,
) {
    let Some(handler) = handler.downcast_mut::<H>() else { return };
    match event {
        DatagramEvent::Datagram(from, data) => handler.on_datagram(cx, from, data),
        DatagramEvent::Truncated(from, max) => handler.on_truncated(cx, from, max),
        DatagramEvent::Drained => handler.on_drain(cx),
        DatagramEvent::Error(error) => handler.on_error(cx, error),
        DatagramEvent::Shutdown => handler.on_shutdown(cx),
        DatagramEvent::Closed => {
            let id = cx.id();
            handler.on_close(cx.net(), id);
        }
    }
}

/// A handler that takes datagrams only.
struct DatagramSlot<H> {
    handler: H,
}

impl<H: DatagramHandler> ErasedHandler for DatagramSlot<H> {
    /// Never called for a real connection: [`Dispatcher::takes_connections`] is checked before.
    fn open(&mut self, cx: &mut Context<'_>) -> usize {
        cx.abort();
        0
    }

    fn data(&mut self, _cx: &mut Context<'_>, _state: usize, _data: &[u8]) {}
    fn end(&mut self, _cx: &mut Context<'_>, _state: usize) {}
    fn drain(&mut self, _cx: &mut Context<'_>, _state: usize) {}
    fn timer(&mut self, _cx: &mut Context<'_>, _state: usize, _key: u64) {}
    fn note_to(&mut self, _cx: &mut Context<'_>, _state: usize, _note: Note) {}
    fn connect_failed(&mut self, _net: &mut Net<'_>, _tag: u64, _error: &io::Error) {}
    fn connect_retry(&mut self, _net: &mut Net<'_>, _tag: u64, _error: &io::Error, _wait: Duration) {}
    fn shutdown(&mut self, _cx: &mut Context<'_>, _state: usize) {}
    fn close(&mut self, _net: &mut Net<'_>, _state: usize, _closed: &Closed) {}

    fn handler_timer(&mut self, net: &mut Net<'_>, key: u64) {
        self.handler.on_tick(net, key);
    }

    fn note(&mut self, net: &mut Net<'_>, note: Note) {
        self.handler.on_note(net, note);
    }

    fn takes_connections(&self) -> bool {
        false
    }

    fn insert_state(&mut self, _state: Box<dyn Any>) -> Option<usize> {
        None
    }

    fn remove_state(&mut self, _state: usize) {}

    fn name(&self) -> &'static str {
        type_name::<H>()
    }

    fn handler(&self) -> &dyn Any {
        &self.handler
    }

    fn handler_mut(&mut self) -> &mut dyn Any {
        &mut self.handler
    }
}

impl Dispatcher {
    /// Adds a handler that takes datagrams only. With `keyed` it lives as long as the reactor, otherwise as long as it
    /// has users.
    pub(crate) fn add_datagrams<H: DatagramHandler>(&mut self, handler: H, keyed: bool) -> HandlerIdx {
        self.register(Box::new(DatagramSlot { handler }), keyed)
    }

    /// Whether a handler takes connections.
    pub(crate) fn takes_connections(&self, handler: HandlerIdx) -> bool {
        self.handlers.get(handler.slot()).is_some_and(|entry| entry.handler.takes_connections())
    }

    /// Calls the callback for `event` of a socket's handler. A panic costs the event, and not the socket.
    pub(crate) fn call_datagram(&mut self, id: DatagramId, callback: DatagramCallback, event: DatagramEvent<'_>) {
        let last = matches!(event, DatagramEvent::Closed);
        let called = |m: &&DatagramSocket| m.is_open() || last && m.phase == DatagramPhase::Closed;
        let Some(handler) = self.core.datagrams.slots.get(id).filter(called).map(|m| m.handler) else { return };
        self.guarded(CallSite::Datagrams(id), |Self { core, handlers, .. }| {
            let Some(entry) = handlers.get_mut(handler.slot()) else { return };
            core.delivery = Delivery::default();
            callback(entry.handler.handler_mut(), &mut DatagramContext::new(core, id, handler), event);
        });
    }
}
