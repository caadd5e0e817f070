//! Handlers of datagrams, and the calls into them.
//!
//! They sit where all handlers sit. What leads from a socket to its handler's callbacks is a function that knows the
//! handler's type. Invariant: as for the dispatcher; and only the last callback is called for a
//! socket that is not open.

use std::any::{Any, type_name};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::slot::ErasedHandler;
use super::{CallSite, Dispatcher};
use crate::closed::Closed;
use crate::config::address::Address;
use crate::core::Delivery;
use crate::core::datagram_sockets::DatagramPhase;
use crate::handler::Note;
use crate::handler::context::Context;
use crate::handler::datagram::{DatagramContext, DatagramHandler};
use crate::handler::net::Net;
use crate::id::{DatagramId, HandlerIdx};

/// What a handler is told of a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DatagramEvent<'a> {
    Datagram(&'a Address, &'a [u8]),
    Truncated(&'a Address, usize),
    Drained,
    Error(&'a io::Error),
    Shutdown,
    Closed,
}

/// Tells a handler.
pub(crate) type DatagramCallback = fn(&mut dyn Any, &mut DatagramContext<'_>, DatagramEvent<'_>);

/// Tells a handler of type `H`.
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

/// A handler of nothing but datagrams.
struct DatagramSlot<H> {
    handler: H,
}

impl<H: DatagramHandler> ErasedHandler for DatagramSlot<H> {
    /// No connection leads here.
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
    /// Takes in a handler of nothing but datagrams. A keyed one stays for good, another as long as it has users.
    pub(crate) fn add_datagrams<H: DatagramHandler>(&mut self, handler: H, keyed: bool) -> HandlerIdx {
        self.register(Box::new(DatagramSlot { handler }), keyed)
    }

    /// Whether connections may lead to a handler.
    pub(crate) fn takes_connections(&self, handler: HandlerIdx) -> bool {
        self.handlers.get(handler.slot()).is_some_and(|entry| entry.handler.takes_connections())
    }

    /// Calls what tells `event` to the handler of a socket.
    pub(crate) fn call_datagram(
        &mut self,
        id: DatagramId,
        callback: DatagramCallback,
        event: DatagramEvent<'_>,
    ) {
        let Self { core, handlers, .. } = self;
        let last = matches!(event, DatagramEvent::Closed);
        let Some(m) =
            core.datagrams.get(id).filter(|m| m.is_open() || last && m.phase == DatagramPhase::Closed)
        else {
            return;
        };
        let handler = m.handler;
        let Some(entry) = handlers.get_mut(handler.slot()) else { return };
        core.delivery = Delivery::default();
        let mut cx = DatagramContext::new(core, id, handler);
        let handler = entry.handler.handler_mut();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| callback(handler, &mut cx, event))) {
            self.panicked(CallSite::Datagrams(id), panic);
        }
    }
}
