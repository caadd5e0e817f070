//! The engine: handlers with their states, and the calls into them. Bytes in, callbacks, bytes in outboxes.
//!
//! Does no I/O and knows no sockets: what it is given it delivers, what callbacks ask for it leaves written down in the
//! [`Core`]. Invariant: a callback runs with nothing else borrowed but the core and its own handler, never inside
//! another one, and if it panics only its connection ends.

use std::any::{Any, type_name};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU32, Ordering};

use slab::Slab;

use crate::closed::{Closed, Reason};
use crate::connection::Phase;
use crate::core::Core;
use crate::handler::{Context, Handler, Net};
use crate::id::ConnId;
use crate::limits::PanicPolicy;
use crate::throttle::{Throttle, suppressed};

/// A handler added to a reactor: what it can be reached by, and put behind listeners with.
#[derive(Debug)]
pub struct Key<H> {
    /// Whose key it is.
    reactor: u32,
    site: u32,
    handler: PhantomData<fn() -> H>,
}

impl<H> Clone for Key<H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H> Copy for Key<H> {}

/// Numbers reactors, so that a key of one does not open another.
static REACTORS: AtomicU32 = AtomicU32::new(0);

/// A handler and its connections' states, without their types.
trait Site: Any {
    fn open(&mut self, cx: &mut Context<'_>) -> usize;
    fn data(&mut self, cx: &mut Context<'_>, state: usize, data: &[u8]);
    fn end(&mut self, cx: &mut Context<'_>, state: usize);
    fn drain(&mut self, cx: &mut Context<'_>, state: usize);
    fn shutdown(&mut self, cx: &mut Context<'_>, state: usize);
    fn close(&mut self, net: &mut Net<'_>, state: usize, closed: &Closed);
    fn name(&self) -> &'static str;
    fn handler(&self) -> &dyn Any;
    fn handler_mut(&mut self) -> &mut dyn Any;
}

struct SiteOf<H: Handler> {
    handler: H,
    states: Slab<H::State>,
}

impl<H: Handler> SiteOf<H> {
    #[inline]
    fn with(&mut self, state: usize, call: impl FnOnce(&mut H, &mut H::State)) {
        if let Some(state) = self.states.get_mut(state) {
            call(&mut self.handler, state);
        }
    }
}

impl<H: Handler> Site for SiteOf<H> {
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

    fn shutdown(&mut self, cx: &mut Context<'_>, state: usize) {
        self.with(state, |h, s| h.on_shutdown(cx, s));
    }

    fn close(&mut self, net: &mut Net<'_>, state: usize, closed: &Closed) {
        if let Some(state) = self.states.try_remove(state) {
            self.handler.on_close(net, state, closed);
        }
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

struct Seat {
    site: Box<dyn Site>,
    /// A key to it was given out: it stays as long as the reactor.
    keyed: bool,
    /// Listeners and connections that lead to it.
    users: usize,
}

/// The core and the handlers that act on it.
pub(crate) struct Engine {
    pub(crate) core: Core,
    seats: Slab<Seat>,
    panics: PanicPolicy,
    /// Of the lines that tell of panics, which peers may provoke.
    gate: Throttle,
    number: u32,
}

impl Engine {
    pub(crate) fn new(core: Core) -> Self {
        let number = REACTORS.fetch_add(1, Ordering::Relaxed);
        Self { core, seats: Slab::new(), panics: PanicPolicy::default(), gate: Throttle::default(), number }
    }

    pub(crate) const fn set_panic_policy(&mut self, policy: PanicPolicy) {
        self.panics = policy;
    }

    /// Takes a handler in. A keyed one stays for good, another as long as it has users.
    pub(crate) fn add<H: Handler>(&mut self, handler: H, keyed: bool) -> Result<u32, crate::LimitsError> {
        let framing = handler.framing();
        if let Some((max, overhead)) = framing.bounds() {
            self.core.limits.check_framing(max, overhead)?;
        }
        let site = Box::new(SiteOf { handler, states: Slab::new() });
        let index = self.seats.insert(Seat { site, keyed, users: 0 });
        let framings = &mut self.core.framings;
        if index >= framings.len() {
            framings.resize_with(index + 1, Default::default);
        }
        framings[index] = framing;
        Ok(index as u32)
    }

    /// The key to a handler that was added as keyed.
    pub(crate) const fn key<H>(&self, site: u32) -> Key<H> {
        Key { reactor: self.number, site, handler: PhantomData }
    }

    /// Where a key's handler is; `None` for a key of another reactor.
    pub(crate) fn site<H>(&self, key: Key<H>) -> Option<u32> {
        (key.reactor == self.number).then_some(key.site)
    }

    /// The handler behind a key; `None` for a key of another reactor.
    pub(crate) fn get<H: Handler>(&self, key: Key<H>) -> Option<&H> {
        self.seats.get(self.site(key)? as usize)?.site.handler().downcast_ref()
    }

    /// [`get`](Engine::get), to change it.
    pub(crate) fn get_mut<H: Handler>(&mut self, key: Key<H>) -> Option<&mut H> {
        let site = self.site(key)?;
        self.seats.get_mut(site as usize)?.site.handler_mut().downcast_mut()
    }

    /// Counts a listener or a connection that leads to a handler.
    pub(crate) fn retain(&mut self, site: u32) {
        if let Some(seat) = self.seats.get_mut(site as usize) {
            seat.users += 1;
        }
    }

    /// Uncounts one; a handler that nothing leads to any more is dropped.
    pub(crate) fn release(&mut self, site: u32) {
        let Some(seat) = self.seats.get_mut(site as usize) else { return };
        seat.users = seat.users.saturating_sub(1);
        if seat.users > 0 || seat.keyed {
            return;
        }
        if let Some(seat) = self.seats.try_remove(site as usize) {
            self.core.framings[site as usize] = Default::default();
            self.guarded(None, move |_| drop(seat));
        }
    }

    /// Calls `on_open` for a connection that has a slot.
    pub(crate) fn open(&mut self, id: ConnId) {
        self.core.begin_delivery(id, &[]);
        let Some(site) = self.core.conns.get(id).map(|c| c.site) else { return };
        let state = self.call(id, site, |site, cx| site.open(cx));
        if let (Some(state), Some(c)) = (state, self.core.conns.get_mut(id)) {
            c.state = state as u32;
            c.opened = true;
        }
    }

    /// Calls `on_data`.
    #[inline]
    pub(crate) fn data(&mut self, id: ConnId, data: &[u8]) {
        self.core.begin_delivery(id, data);
        self.tell(id, |site, cx, state| site.data(cx, state, data));
    }

    /// Calls `on_end`.
    pub(crate) fn end(&mut self, id: ConnId) {
        self.core.begin_delivery(id, &[]);
        self.tell(id, |site, cx, state| site.end(cx, state));
    }

    /// Calls `on_drain`.
    pub(crate) fn drain(&mut self, id: ConnId) {
        self.core.begin_delivery(id, &[]);
        self.tell(id, |site, cx, state| site.drain(cx, state));
    }

    /// Calls `on_shutdown`.
    pub(crate) fn shutdown(&mut self, id: ConnId) {
        self.core.begin_delivery(id, &[]);
        self.tell(id, |site, cx, state| site.shutdown(cx, state));
    }

    /// Calls `on_close`, and lets go of the state.
    pub(crate) fn close(&mut self, id: ConnId, closed: &Closed) {
        let Some(c) = self.core.conns.get_mut(id) else { return };
        let (site, state) = (c.site, c.state as usize);
        if !std::mem::take(&mut c.opened) {
            return;
        }
        let Self { core, seats, .. } = self;
        let Some(seat) = seats.get_mut(site as usize) else { return };
        let done = catch_unwind(AssertUnwindSafe(|| seat.site.close(&mut Net::new(core), state, closed)));
        if let Err(panic) = done {
            self.panicked(Some(id), panic);
        }
    }

    /// The name of the handler's type, for the log.
    pub(crate) fn name_of(&self, id: ConnId) -> &'static str {
        let site = self.core.conns.get(id).map_or(u32::MAX, |c| c.site);
        self.seats.get(site as usize).map_or("?", |seat| seat.site.name())
    }

    #[inline]
    fn tell(&mut self, id: ConnId, callback: impl FnOnce(&mut dyn Site, &mut Context<'_>, usize)) {
        let Some(c) = self.core.conns.get(id) else { return };
        if c.phase != Phase::Open || !c.opened {
            return;
        }
        let (site, state) = (c.site, c.state as usize);
        self.call(id, site, |site, cx| callback(site, cx, state));
    }

    /// Runs a callback for a connection. If it panics, that connection is aborted.
    #[inline]
    fn call<T>(
        &mut self,
        id: ConnId,
        site: u32,
        callback: impl FnOnce(&mut dyn Site, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let Self { core, seats, .. } = self;
        let seat = seats.get_mut(site as usize)?;
        let mut cx = Context::new(core, id);
        match catch_unwind(AssertUnwindSafe(|| callback(&mut *seat.site, &mut cx))) {
            Ok(done) => Some(done),
            Err(panic) => {
                self.panicked(Some(id), panic);
                None
            }
        }
    }

    /// Runs other code of the user's (the drop of a handler).
    fn guarded(&mut self, id: Option<ConnId>, code: impl FnOnce(&mut Core)) {
        let core = &mut self.core;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| code(core))) {
            self.panicked(id, panic);
        }
    }

    fn panicked(&mut self, id: Option<ConnId>, panic: Box<dyn Any + Send>) {
        if self.panics == PanicPolicy::Propagate {
            resume_unwind(panic);
        }
        self.core.stats.panics += 1;
        let text = text_of(&*panic);
        let passed = self.gate.pass(self.core.now);
        match (id, passed) {
            (_, None) => {}
            (Some(id), Some(n)) => {
                log::error!("{id}: a callback of {} panicked: {text}{}", self.name_of(id), suppressed(n));
            }
            (None, Some(n)) => log::error!("a handler panicked when it was dropped: {text}{}", suppressed(n)),
        }
        if let Some(id) = id {
            self.core.kill(id, Reason::HandlerPanic);
        }
    }
}

/// What a panic says.
pub(crate) fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no text)")
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("core", &self.core).field("handlers", &self.seats.len()).finish()
    }
}
