//! The dispatcher: owns the handlers and their states, and calls their callbacks.
//!
//! Does no I/O: callbacks record what they request in the [`Core`], and the loop does it after they return.
//! Invariant: a callback runs with only the core and its own handler borrowed, and never inside another callback; if
//! it panics, only its connection is closed, and a datagram socket loses only the datagram.

pub(crate) mod datagram;
mod slot;

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use slab::Slab;

use self::slot::{ErasedHandler, HandlerSlot};
use crate::closed::{Closed, Reason};
use crate::config::limits::{LimitsError, PanicPolicy};
use crate::connection::{Connection, Phase};
use crate::core::{Core, Delivery, Switch};
use crate::handler::context::Context;
use crate::handler::net::Net;
use crate::handler::{Handler, Note};
use crate::id::{ConnId, DatagramId, HandlerIdx, Key, SourceId};
use crate::time::log_limit::{RateLimiter, suppressed};

/// Which user code is called: for measuring, logging and panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallSite {
    Connection(ConnId),
    Datagrams(DatagramId),
    /// A callback of a handler that is not for a connection.
    Handler(HandlerIdx),
    /// The callback of a source.
    Source(SourceId),
    /// The codec of a handler, while encoding.
    Codec(HandlerIdx),
    /// The drop of a handler, a source or a note.
    Dropped,
    /// A closure from another thread.
    Closure,
}

struct Registered {
    handler: Box<dyn ErasedHandler>,
    /// It has a key, so it lives as long as the reactor.
    keyed: bool,
    /// Listeners, connections, datagram sockets and connect jobs that use it.
    users: usize,
}

/// The core and the handlers that act on it.
pub(crate) struct Dispatcher {
    pub(crate) core: Core,
    handlers: Slab<Registered>,
    panics: PanicPolicy,
    /// Rate limit of the log lines about panics, which peers may provoke.
    log_limit: RateLimiter,
}

impl Dispatcher {
    pub(crate) fn new(core: Core) -> Self {
        Self { core, handlers: Slab::new(), panics: PanicPolicy::default(), log_limit: RateLimiter::default() }
    }

    pub(crate) const fn set_panic_policy(&mut self, policy: PanicPolicy) {
        self.panics = policy;
    }

    /// Adds a handler. With `keyed` it lives as long as the reactor, otherwise as long as it has users.
    pub(crate) fn add<H: Handler>(&mut self, handler: H, keyed: bool) -> Result<HandlerIdx, LimitsError> {
        let framing = handler.framing();
        if let Some((max, overhead)) = framing.bounds() {
            self.core.limits.check_framing(max, overhead)?;
        }
        let handler = self.register(Box::new(HandlerSlot::new(handler)), keyed);
        self.core.framings[handler.slot()] = framing;
        Ok(handler)
    }

    /// Inserts a handler, without framing. Returns its index.
    fn register(&mut self, handler: Box<dyn ErasedHandler>, keyed: bool) -> HandlerIdx {
        let index = self.handlers.insert(Registered { handler, keyed, users: 0 });
        let Core { framings, handler_timers, .. } = &mut self.core;
        if index >= framings.len() {
            framings.resize_with(index + 1, Default::default);
            handler_timers.resize_with(index + 1, Default::default);
        }
        HandlerIdx(index as u32)
    }

    /// Returns the key of a handler that was added as keyed.
    pub(crate) const fn key<H>(&self, handler: HandlerIdx) -> Key<H> {
        Key::new(self.core.number, handler)
    }

    /// Returns the index of a key's handler; `None` for a key of another reactor.
    pub(crate) fn index_of<H>(&self, key: Key<H>) -> Option<HandlerIdx> {
        key.index_in(self.core.number)
    }

    /// Returns the handler of a key; `None` for a key of another reactor.
    pub(crate) fn get<H: 'static>(&self, key: Key<H>) -> Option<&H> {
        self.handlers.get(self.index_of(key)?.slot())?.handler.handler().downcast_ref()
    }

    /// Returns the handler of a key, mutably; `None` for a key of another reactor.
    pub(crate) fn get_mut<H: 'static>(&mut self, key: Key<H>) -> Option<&mut H> {
        let handler = self.index_of(key)?;
        self.handlers.get_mut(handler.slot())?.handler.handler_mut().downcast_mut()
    }

    /// Adds a user (a listener, connection, datagram socket or connect job) to a handler.
    pub(crate) fn retain(&mut self, handler: HandlerIdx) {
        if let Some(entry) = self.handlers.get_mut(handler.slot()) {
            entry.users += 1;
        }
    }

    /// Adds the connect jobs that were created since the last call as users of their handlers.
    pub(crate) fn retain_for_new_jobs(&mut self) {
        for id in std::mem::take(&mut self.core.connect_jobs.unretained) {
            if let Some(handler) = self.core.connect_jobs.get(id).map(|a| a.handler) {
                self.retain(handler);
            }
        }
    }

    /// Removes a user from a handler. A handler without a key is dropped with its last user.
    pub(crate) fn release(&mut self, handler: HandlerIdx) {
        // A connect job that it created in its last callback is a user too, and may not be counted yet.
        self.retain_for_new_jobs();
        let Some(entry) = self.handlers.get_mut(handler.slot()) else { return };
        debug_assert!(entry.users > 0, "released more often than retained");
        entry.users = entry.users.saturating_sub(1);
        if entry.users > 0 || entry.keyed {
            return;
        }
        if let Some(entry) = self.handlers.try_remove(handler.slot()) {
            // The next handler may get this index: nothing of this one may be left.
            self.core.framings[handler.slot()] = Default::default();
            self.core.end_handler_timers(handler);
            self.guarded(CallSite::Dropped, move |_| drop(entry));
        }
    }

    /// Calls `on_open` for a new connection, and stores the state that it returns.
    pub(crate) fn open(&mut self, id: ConnId) {
        self.core.begin_delivery(id, &[]);
        let Some(handler) = self.core.conns.get(id).map(|c| c.handler) else { return };
        let state = self.call(id, handler, |handler, cx| handler.open(cx));
        // Also if `on_open` has closed the connection: for a state, `on_close` is called.
        if let (Some(state), Some(c)) = (state, self.core.conns.get_mut(id)) {
            c.state = state as u32;
            c.has_state = true;
        }
        self.apply_switch(id);
    }

    /// Calls `on_data`.
    #[inline]
    pub(crate) fn data(&mut self, id: ConnId, data: &[u8]) {
        self.core.begin_delivery(id, data);
        self.call_if_open(id, |handler, cx, state| handler.data(cx, state, data));
    }

    /// Calls `on_end`.
    pub(crate) fn end(&mut self, id: ConnId) {
        self.core.begin_delivery(id, &[]);
        self.call_if_open(id, |handler, cx, state| handler.end(cx, state));
    }

    /// Calls `on_drain`.
    pub(crate) fn drain(&mut self, id: ConnId) {
        self.core.begin_delivery(id, &[]);
        self.call_if_open(id, |handler, cx, state| handler.drain(cx, state));
    }

    /// Calls `on_timer`.
    pub(crate) fn timer(&mut self, id: ConnId, key: u64) {
        self.core.begin_delivery(id, &[]);
        self.call_if_open(id, |handler, cx, state| handler.timer(cx, state, key));
    }

    /// Calls `on_tick`.
    pub(crate) fn handler_timer(&mut self, handler: HandlerIdx, key: u64) {
        self.call_handler(handler, |handler, net| handler.handler_timer(net, key));
    }

    /// Calls `on_note`. Returns `false`, and drops the note, if the handler no longer exists.
    pub(crate) fn note(&mut self, handler: HandlerIdx, note: Note) -> bool {
        if !self.handlers.contains(handler.slot()) {
            self.drop_note(note);
            return false;
        }
        self.call_handler(handler, |handler, net| handler.note(net, note));
        true
    }

    /// Calls `on_note_to`. Returns `false`, and drops the note, if the connection is not open or has another handler.
    pub(crate) fn note_to(&mut self, handler: HandlerIdx, id: ConnId, note: Note) -> bool {
        let told = |c: &Connection| c.handler == handler && c.phase == Phase::Open && c.has_state;
        if !self.core.conns.get(id).is_some_and(told) {
            self.drop_note(note);
            return false;
        }
        self.core.begin_delivery(id, &[]);
        self.call_if_open(id, |handler, cx, state| handler.note_to(cx, state, note));
        true
    }

    /// Drops a note that has no receiver. Its drop is user code and may panic.
    fn drop_note(&mut self, note: Note) {
        self.guarded(CallSite::Dropped, move |_| drop(note));
    }

    /// Calls `on_connect_failed`.
    pub(crate) fn connect_failed(&mut self, handler: HandlerIdx, tag: u64, error: &io::Error) {
        self.call_handler(handler, |handler, net| handler.connect_failed(net, tag, error));
    }

    /// Calls `on_connect_retry`.
    pub(crate) fn connect_retry(&mut self, handler: HandlerIdx, tag: u64, error: &io::Error, wait: Duration) {
        self.call_handler(handler, |handler, net| handler.connect_retry(net, tag, error, wait));
    }

    /// Calls `on_shutdown`.
    pub(crate) fn shutdown(&mut self, id: ConnId) {
        self.core.begin_delivery(id, &[]);
        self.call_if_open(id, |handler, cx, state| handler.shutdown(cx, state));
    }

    /// Calls `on_close`, which takes the state.
    pub(crate) fn close(&mut self, id: ConnId, closed: &Closed) {
        let Some(c) = self.core.conns.live_mut(id) else { return };
        let (handler, state) = (c.handler, c.state as usize);
        if !std::mem::take(&mut c.has_state) {
            return;
        }
        self.guarded(CallSite::Connection(id), |Self { core, handlers, .. }| {
            let Some(entry) = handlers.get_mut(handler.slot()) else { return };
            entry.handler.close(&mut Net::new(core, None, Some(handler)), state, closed);
        });
    }

    /// Returns the type name of a handler, for the log.
    pub(crate) fn name_of(&self, handler: HandlerIdx) -> &'static str {
        self.handlers.get(handler.slot()).map_or("?", |entry| entry.handler.name())
    }

    /// Describes a call site for the log: `#3.0: a callback of Echo`.
    pub(crate) fn describe(&self, site: CallSite) -> impl fmt::Display {
        match site {
            CallSite::Connection(id) => {
                let handler = self.core.conns.get(id).map_or(HandlerIdx(u32::MAX), |c| c.handler);
                format!("{id}: a callback of {}", self.name_of(handler))
            }
            CallSite::Datagrams(id) => {
                let handler = self.core.datagrams.slots.get(id).map_or(HandlerIdx(u32::MAX), |m| m.handler);
                format!("{id}: a callback of {}", self.name_of(handler))
            }
            CallSite::Handler(handler) => format!("a callback of {}", self.name_of(handler)),
            CallSite::Source(id) => format!("the callback of {id}"),
            CallSite::Codec(handler) => format!("the codec of {}", self.name_of(handler)),
            CallSite::Dropped => "the drop of a handler, source or note".to_owned(),
            CallSite::Closure => "a closure".to_owned(),
        }
    }

    /// Runs a callback for a connection that is open and has a state, then the switch that it may have requested.
    #[inline]
    fn call_if_open(&mut self, id: ConnId, callback: impl FnOnce(&mut dyn ErasedHandler, &mut Context<'_>, usize)) {
        let Some(c) = self.core.conns.live(id) else { return };
        if c.phase != Phase::Open || !c.has_state {
            return;
        }
        let (handler, state) = (c.handler, c.state as usize);
        self.call(id, handler, |handler, cx| callback(handler, cx, state));
        self.apply_switch(id);
    }

    /// Switches the connection to another handler, if the callback requested it.
    #[inline]
    fn apply_switch(&mut self, id: ConnId) {
        if self.core.switch.is_some() {
            self.switch(id);
        }
    }

    /// Moves a connection to another handler: inserts the new state there, drops the old one.
    #[cold]
    fn switch(&mut self, id: ConnId) {
        let Some(Switch { handler, state }) = self.core.take_switch() else { return };
        let Some(c) = self.core.conns.live(id) else { return };
        // `on_open` panicked: the connection is closing and stays with its handler.
        if !c.has_state {
            self.guarded(CallSite::Dropped, move |_| drop(state));
            return;
        }
        let Some(place) = self.handlers.get_mut(handler.slot()).and_then(|h| h.handler.insert_state(state)) else {
            return;
        };
        self.retain(handler);
        let Some((old, old_state)) = self.core.change_handler(id, handler, place as u32) else { return };
        self.guarded(CallSite::Dropped, |Self { handlers, .. }| {
            if let Some(entry) = handlers.get_mut(old.slot()) {
                entry.handler.remove_state(old_state as usize);
            }
        });
        self.release(old);
    }

    /// Runs a callback for a connection. Returns `None` if it panicked; the connection is aborted then.
    #[inline]
    fn call<T>(
        &mut self,
        id: ConnId,
        handler: HandlerIdx,
        callback: impl FnOnce(&mut dyn ErasedHandler, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let Self { core, handlers, .. } = self;
        let entry = handlers.get_mut(handler.slot())?;
        let mut cx = Context::new(core, id, handler);
        match catch_unwind(AssertUnwindSafe(|| callback(&mut *entry.handler, &mut cx))) {
            Ok(done) => Some(done),
            Err(panic) => {
                self.panicked(CallSite::Connection(id), panic);
                None
            }
        }
    }

    /// Runs a callback of a handler that is not for a connection.
    fn call_handler(&mut self, handler: HandlerIdx, callback: impl FnOnce(&mut dyn ErasedHandler, &mut Net<'_>)) {
        self.guarded(CallSite::Handler(handler), |Self { core, handlers, .. }| {
            let Some(entry) = handlers.get_mut(handler.slot()) else { return };
            // No callback of a connection runs: what is sent to one is flushed at the end of the turn.
            core.delivery = Delivery::default();
            callback(&mut *entry.handler, &mut Net::new(core, None, Some(handler)));
        });
    }

    /// Runs the callback of a source. Returns `None` if it panicked.
    pub(crate) fn source<T>(&mut self, id: SourceId, callback: impl FnOnce(&mut Net<'_>) -> T) -> Option<T> {
        self.core.delivery = Delivery::default();
        self.guarded(CallSite::Source(id), |this| callback(&mut Net::new(&mut this.core, None, None)))
    }

    /// Runs a closure from another thread.
    pub(crate) fn run(&mut self, closure: Box<dyn FnOnce(&mut Net<'_>) + Send>) {
        self.core.delivery = Delivery::default();
        self.guarded(CallSite::Closure, |this| closure(&mut Net::new(&mut this.core, None, None)));
    }

    /// Runs user code. Returns `None` if it panicked.
    pub(crate) fn guarded<T>(&mut self, site: CallSite, code: impl FnOnce(&mut Self) -> T) -> Option<T> {
        catch_unwind(AssertUnwindSafe(|| code(self))).map_err(|panic| self.panicked(site, panic)).ok()
    }

    /// Reports the panics of codecs since this was last called.
    #[cold]
    pub(crate) fn report_codec_panics(&mut self) {
        for (handler, panic) in std::mem::take(&mut self.core.codec_panics) {
            self.panicked(CallSite::Codec(handler), panic);
        }
    }

    /// Handles a panic of user code: counts and logs it, and closes the connection that it was for. A datagram socket
    /// stays open: the next datagram is somebody else's. But in a shutdown nobody else would close it.
    fn panicked(&mut self, site: CallSite, panic: Box<dyn Any + Send>) {
        if self.panics == PanicPolicy::Propagate {
            resume_unwind(panic);
        }
        self.core.stats.panics += 1;
        if let Some(n) = self.log_limit.allow(self.core.now) {
            let text = printable(text_of(&*panic));
            log::error!("{} panicked: {text}{}", self.describe(site), suppressed(n));
        }
        match site {
            CallSite::Connection(id) => self.core.terminate(id, Reason::HandlerPanic),
            CallSite::Datagrams(id) if self.core.shutting_down => drop(self.core.close_datagram(id)),
            CallSite::Datagrams(_)
            | CallSite::Handler(_)
            | CallSite::Source(_)
            | CallSite::Codec(_)
            | CallSite::Closure
            | CallSite::Dropped => {}
        }
        // A requested switch does not happen. The drop of its state may panic too.
        if let Some(wish) = self.core.switch.take() {
            self.guarded(CallSite::Dropped, move |_| drop(wish));
        }
    }
}

impl Drop for Dispatcher {
    /// Drops each state, handler and codec on its own: two panics in one unwinding would abort the process.
    fn drop(&mut self) {
        for mut entry in std::mem::take(&mut self.handlers).into_iter().map(|(_, entry)| entry) {
            while self.guarded(CallSite::Dropped, |_| entry.handler.drop_a_state()).unwrap_or(true) {}
            self.guarded(CallSite::Dropped, |_| drop(entry));
        }
        while let Some(framing) = self.core.framings.pop() {
            self.guarded(CallSite::Dropped, |_| drop(framing));
        }
    }
}

/// The most characters of a panic's message that are logged. A message may contain what a peer has sent: escaped, it
/// cannot forge a line, and cut, it cannot flood the log. Chosen.
const MAX_PANIC_TEXT: usize = 500;

/// Returns the start of a text with everything escaped that does not print, quotes excepted.
fn printable(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().take(MAX_PANIC_TEXT) {
        match c {
            '"' | '\'' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// Returns the message of a panic.
pub(crate) fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no text)")
}

impl fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatcher").field("core", &self.core).field("handlers", &self.handlers.len()).finish()
    }
}
