//! A handler with its connections' states, type-erased behind [`ErasedHandler`].
//!
//! Invariant: a state is in its slot from `on_open` (or a switch to this handler) until `on_close` takes it or a switch
//! away drops it.

use std::any::{Any, type_name};
use std::io;
use std::time::Duration;

use slab::Slab;

use crate::closed::Closed;
use crate::handler::context::Context;
use crate::handler::net::Net;
use crate::handler::{Handler, Note};

/// A handler and its connections' states, without their types. `state` is the slot of a state.
pub(super) trait ErasedHandler: Any {
    fn open(&mut self, cx: &mut Context<'_>) -> usize;
    fn data(&mut self, cx: &mut Context<'_>, state: usize, data: &[u8]);
    fn end(&mut self, cx: &mut Context<'_>, state: usize);
    fn drain(&mut self, cx: &mut Context<'_>, state: usize);
    fn timer(&mut self, cx: &mut Context<'_>, state: usize, key: u64);
    fn handler_timer(&mut self, net: &mut Net<'_>, key: u64);
    fn note(&mut self, net: &mut Net<'_>, note: Note);
    fn note_to(&mut self, cx: &mut Context<'_>, state: usize, note: Note);
    fn connect_failed(&mut self, net: &mut Net<'_>, tag: u64, error: &io::Error);
    fn connect_retry(&mut self, net: &mut Net<'_>, tag: u64, error: &io::Error, wait: Duration);
    fn shutdown(&mut self, cx: &mut Context<'_>, state: usize);
    fn close(&mut self, net: &mut Net<'_>, state: usize, closed: &Closed);
    /// Inserts the state of a connection that switches to this handler. Returns its slot, or `None` if it is not of
    /// this handler's state type.
    fn insert_state(&mut self, state: Box<dyn Any>) -> Option<usize>;
    /// Drops the state of a connection that switches to another handler.
    fn remove_state(&mut self, state: usize);
    /// Drops the state of some connection. Returns `false` if there is none.
    fn drop_a_state(&mut self) -> bool {
        false
    }
    fn takes_connections(&self) -> bool {
        true
    }
    fn name(&self) -> &'static str;
    fn handler(&self) -> &dyn Any;
    fn handler_mut(&mut self) -> &mut dyn Any;
}

pub(super) struct HandlerSlot<H: Handler> {
    handler: H,
    states: Slab<H::State>,
}

impl<H: Handler> HandlerSlot<H> {
    pub(super) const fn new(handler: H) -> Self {
        Self { handler, states: Slab::new() }
    }

    #[inline]
    fn with(&mut self, state: usize, call: impl FnOnce(&mut H, &mut H::State)) {
        debug_assert!(self.states.contains(state), "a connection without its state");
        if let Some(state) = self.states.get_mut(state) {
            call(&mut self.handler, state);
        }
    }
}

impl<H: Handler> ErasedHandler for HandlerSlot<H> {
    fn open(&mut self, cx: &mut Context<'_>) -> usize {
        let state = self.handler.on_open(cx);
        self.states.insert(state)
    }

    #[inline]
    fn data(&mut self, cx: &mut Context<'_>, state: usize, data: &[u8]) {
        self.with(state, |h, s| h.on_data(cx, s, data));
    }

    fn end(&mut self, cx: &mut Context<'_>, state: usize) {
        self.with(state, |h, s| h.on_end(cx, s));
    }

    fn drain(&mut self, cx: &mut Context<'_>, state: usize) {
        self.with(state, |h, s| h.on_drain(cx, s));
    }

    fn timer(&mut self, cx: &mut Context<'_>, state: usize, key: u64) {
        self.with(state, |h, s| h.on_timer(cx, s, key));
    }

    fn handler_timer(&mut self, net: &mut Net<'_>, key: u64) {
        self.handler.on_tick(net, key);
    }

    fn note(&mut self, net: &mut Net<'_>, note: Note) {
        self.handler.on_note(net, note);
    }

    fn note_to(&mut self, cx: &mut Context<'_>, state: usize, note: Note) {
        self.with(state, |h, s| h.on_note_to(cx, s, note));
    }

    fn connect_failed(&mut self, net: &mut Net<'_>, tag: u64, error: &io::Error) {
        self.handler.on_connect_failed(net, tag, error);
    }

    fn connect_retry(&mut self, net: &mut Net<'_>, tag: u64, error: &io::Error, wait: Duration) {
        self.handler.on_connect_retry(net, tag, error, wait);
    }

    fn shutdown(&mut self, cx: &mut Context<'_>, state: usize) {
        self.with(state, |h, s| h.on_shutdown(cx, s));
    }

    fn close(&mut self, net: &mut Net<'_>, state: usize, closed: &Closed) {
        if let Some(state) = self.states.try_remove(state) {
            self.handler.on_close(net, state, closed);
        }
    }

    fn insert_state(&mut self, state: Box<dyn Any>) -> Option<usize> {
        state.downcast().ok().map(|state| self.states.insert(*state))
    }

    fn remove_state(&mut self, state: usize) {
        self.states.try_remove(state);
    }

    fn drop_a_state(&mut self) -> bool {
        let first = self.states.iter().next().map(|(state, _)| state);
        first.map(|state| self.states.remove(state)).is_some()
    }

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
