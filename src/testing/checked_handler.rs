//! A wrapper around a handler that checks the order of callbacks (N5).
//!
//! Invariant: every callback is passed to the inner handler unchanged. A violation is recorded and does not panic,
//! because the reactor would catch the panic.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use super::posted_event::PostedEvent;
use crate::closed::{Closed, Reason};
use crate::codec::Framing;
use crate::connection::{Connection, Phase};
use crate::core::Core;
use crate::dispatch::text_of;
use crate::handler::Handler;
use crate::handler::context::Context;
use crate::handler::net::Net;
use crate::id::ConnId;
use crate::sys::script::peer_at;
use crate::time::Time;

/// The record of one connection's callbacks.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) id: ConnId,
    /// The peer's index in the simulated system.
    pub(crate) peer: usize,
    /// All delivered input, and how much of it the handler has consumed.
    pub(crate) input: Vec<u8>,
    pub(crate) consumed: usize,
    /// Since when the handler has waited for the rest of a message.
    pub(crate) unfinished: Option<Time>,
    pub(crate) ended: bool,
    pub(crate) panicked: bool,
    /// One of its own callbacks began its close.
    pub(crate) closed_itself: bool,
    /// The number of on_drain calls.
    pub(crate) drains: u64,
    /// A callback aborted it, or closed it with a reset; one of its own or another connection's.
    pub(crate) aborted: bool,
    pub(crate) closed: Option<Closed>,
}

/// A handler under observation.
#[derive(Debug)]
pub(crate) struct CheckedHandler<H> {
    pub(crate) inner: H,
    pub(crate) records: Vec<Record>,
    /// The violations found.
    pub(crate) broken: Vec<String>,
    /// A panic of the inner handler is a violation.
    pub(crate) may_not_panic: bool,
    /// The number of callbacks.
    pub(crate) calls: u64,
    /// The number of callbacks that panicked.
    pub(crate) panics: u64,
    /// The number of on_connect_failed calls.
    pub(crate) failed: u64,
}

impl<H: Handler> CheckedHandler<H> {
    pub(crate) const fn new(inner: H) -> Self {
        Self { inner, records: Vec::new(), broken: Vec::new(), may_not_panic: false, calls: 0, panics: 0, failed: 0 }
    }

    /// Returns the record of a client, by its peer's index; `None` if the handler never saw it.
    pub(crate) fn record(&self, peer: usize) -> Option<&Record> {
        self.records.iter().rfind(|r| r.peer == peer)
    }

    fn complain(&mut self, index: usize, what: &str) {
        self.broken.push(format!("N5: {}: {what}", self.records[index].id));
    }

    fn begin(&mut self, index: usize, phase: Option<Phase>) {
        self.calls += 1;
        if self.records[index].closed.is_some() {
            self.complain(index, "a callback after on_close");
        }
        if phase != Some(Phase::Open) {
            self.complain(index, "a callback for a connection that is not open");
        }
    }

    /// Runs a callback of the inner handler, and records what it did to its own connection.
    fn around<T>(&mut self, cx: &mut Context<'_>, index: usize, call: impl FnOnce(&mut H, &mut Context<'_>) -> T) -> T {
        let id = cx.id();
        self.begin(index, cx.core().conns.get(id).map(|c| c.phase));
        let close_notify = cx.core().close_notify.len();
        let inner = &mut self.inner;
        let done = catch_unwind(AssertUnwindSafe(|| call(inner, cx)));
        let closing = cx.core().conns.get(id).is_some_and(|c| c.phase == Phase::Flushing);
        self.records[index].closed_itself |= closing;
        // After a switch to itself, the handler gets on_end again.
        self.records[index].ended &= !adopt_state::<H>(cx, index);
        self.note_aborts(cx.core(), close_notify);
        self.go_on(index, done)
    }

    /// Runs a callback of the inner handler that concerns no connection.
    fn around_handler(&mut self, net: &mut Net<'_>, call: impl FnOnce(&mut H, &mut Net<'_>)) {
        self.calls += 1;
        let close_notify = net.core().close_notify.len();
        let inner = &mut self.inner;
        let done = catch_unwind(AssertUnwindSafe(|| call(inner, net)));
        self.note_aborts(net.core(), close_notify);
        if let Err(panic) = done {
            self.panics += 1;
            if self.may_not_panic {
                self.broken.push(format!("the handler panicked: {}", text_of(&*panic)));
            }
            resume_unwind(panic);
        }
    }

    /// Returns the result of a callback, or records its panic and resumes it.
    fn go_on<T>(&mut self, index: usize, done: std::thread::Result<T>) -> T {
        done.unwrap_or_else(|panic| {
            self.records[index].panicked = true;
            self.panics += 1;
            if self.may_not_panic {
                let text = text_of(&*panic);
                self.broken.push(format!("{}: the handler panicked: {text}", self.records[index].id));
            }
            resume_unwind(panic)
        })
    }

    /// Records the connections that a callback has aborted: those that it added to `close_notify`, unless a limit
    /// closed them.
    fn note_aborts(&mut self, core: &Core, before: usize) {
        for id in core.close_notify.get(before..).unwrap_or_default() {
            use Reason::{OutputLimit, TotalInputLimit, TotalOutputLimit};
            let cut = |c: &Connection| matches!(c.reason(), Some(OutputLimit | TotalOutputLimit | TotalInputLimit));
            if core.conns.get(*id).is_some_and(|c| !cut(c))
                && let Some(record) = self.records.iter_mut().rfind(|r| r.id == *id)
            {
                record.aborted = true;
            }
        }
    }

    /// Records the input of a callback. It must begin with the bytes left unconsumed before.
    fn note_data(&mut self, index: usize, data: &[u8]) {
        let record = &mut self.records[index];
        let left = record.input.len() - record.consumed;
        let same = data.get(..left) == Some(&record.input[record.consumed..]);
        record.input.extend_from_slice(data.get(left..).unwrap_or_default());
        let ended = record.ended;
        if !same {
            self.complain(index, "buffered input was not delivered again unchanged");
        }
        if ended {
            self.complain(index, "data after the end");
        }
        if data.is_empty() {
            self.complain(index, "empty data");
        }
    }

    /// Checks that input is delivered only while reading is permitted, and a clean end only if no write has failed.
    fn note_input(&mut self, index: usize, cx: &Context<'_>, end: bool) {
        let core = cx.core();
        let c = core.conns.get(cx.id());
        if !c.is_some_and(|c| core.may_read(c)) {
            self.complain(index, "input while it is read blocked");
        }
        let high = |id: &ConnId| core.conns.get(*id).is_some_and(|c| c.flow.above_high_water);
        if c.and_then(|c| c.cold()).is_some_and(|r| r.links_to.iter().any(high)) {
            self.complain(index, "input while a connection that it links to is above its high-water mark");
        }
        if end && c.is_some_and(|c| c.halves.write_failed) {
            self.complain(index, "a clean end after a failed write");
        }
    }

    fn note_rest(&mut self, index: usize, cx: &Context<'_>, given: usize) {
        let delivery = &cx.core().delivery;
        let rest = delivery.unused.min(given);
        let record = &mut self.records[index];
        let same = rest == given && record.unfinished.is_some();
        record.consumed = record.input.len() - rest;
        if rest == 0 || delivery.deferred {
            record.unfinished = None;
        } else if !same {
            record.unfinished = Some(cx.core().now);
        }
    }
}

/// Keeps the record of a connection that switches to its own handler, with a new state. Returns `true` if it does.
fn adopt_state<H: Handler>(cx: &mut Context<'_>, index: usize) -> bool {
    let id = cx.id();
    let core = cx.core_mut();
    let own = core.conns.get(id).map(|c| c.handler);
    let Some(wish) = core.switch.as_mut().filter(|wish| Some(wish.handler) == own) else { return false };
    let given = std::mem::replace(&mut wish.state, Box::new(()));
    wish.state = match given.downcast::<H::State>() {
        Ok(state) => Box::new((index, *state)),
        Err(other) => other,
    };
    true
}

impl<H: Handler> Handler for CheckedHandler<H> {
    type State = (usize, H::State);

    fn on_open(&mut self, cx: &mut Context<'_>) -> Self::State {
        let index = self.records.len();
        let id = cx.id();
        if self.records.iter().any(|r| r.id == id && r.closed.is_none() && !r.panicked) {
            self.broken.push(format!("N5: {id}: opened twice"));
        }
        self.records.push(Record {
            id,
            peer: peer_at(&cx.peer()).unwrap_or(usize::MAX),
            input: Vec::new(),
            consumed: 0,
            unfinished: None,
            ended: false,
            panicked: false,
            closed_itself: false,
            drains: 0,
            aborted: false,
            closed: None,
        });
        (index, self.around(cx, index, Handler::on_open))
    }

    fn on_data(&mut self, cx: &mut Context<'_>, state: &mut Self::State, data: &[u8]) {
        let (index, inner) = state;
        self.note_input(*index, cx, false);
        self.note_data(*index, data);
        self.around(cx, *index, |h, cx| h.on_data(cx, inner, data));
        self.note_rest(*index, cx, data.len());
    }

    fn on_end(&mut self, cx: &mut Context<'_>, state: &mut Self::State) {
        let (index, inner) = state;
        self.note_input(*index, cx, true);
        if std::mem::replace(&mut self.records[*index].ended, true) {
            self.complain(*index, "a second end");
        }
        self.around(cx, *index, |h, cx| h.on_end(cx, inner));
        // It may have put the end off, behind a last message.
        self.records[*index].ended &= cx.core().conns.get(cx.id()).is_none_or(|c| c.halves.eof_delivered);
    }

    fn on_drain(&mut self, cx: &mut Context<'_>, state: &mut Self::State) {
        let (index, inner) = state;
        self.records[*index].drains += 1;
        self.around(cx, *index, |h, cx| h.on_drain(cx, inner));
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, state: &mut Self::State, key: u64) {
        let (index, inner) = state;
        self.around(cx, *index, |h, cx| h.on_timer(cx, inner, key));
    }

    fn on_tick(&mut self, net: &mut Net<'_>, key: u64) {
        self.around_handler(net, |h, net| h.on_tick(net, key));
    }

    fn on_note(&mut self, net: &mut Net<'_>, note: Box<dyn Any + Send>) {
        note_arrival(&*note);
        self.around_handler(net, |h, net| h.on_note(net, note));
    }

    fn on_note_to(&mut self, cx: &mut Context<'_>, state: &mut Self::State, note: Box<dyn Any + Send>) {
        note_arrival(&*note);
        let (index, inner) = state;
        self.around(cx, *index, |h, cx| h.on_note_to(cx, inner, note));
    }

    fn on_connect_failed(&mut self, net: &mut Net<'_>, tag: u64, error: &io::Error) {
        self.failed += 1;
        self.around_handler(net, |h, net| h.on_connect_failed(net, tag, error));
    }

    fn on_connect_retry(&mut self, net: &mut Net<'_>, tag: u64, error: &io::Error, wait: Duration) {
        self.around_handler(net, |h, net| h.on_connect_retry(net, tag, error, wait));
    }

    fn on_shutdown(&mut self, cx: &mut Context<'_>, state: &mut Self::State) {
        let (index, inner) = state;
        self.around(cx, *index, |h, cx| h.on_shutdown(cx, inner));
    }

    fn on_close(&mut self, net: &mut Net<'_>, state: Self::State, closed: &Closed) {
        let (index, inner) = state;
        self.begin(index, Some(Phase::Open));
        if self.records[index].id != closed.who {
            self.complain(index, "closed under another id");
        }
        self.records[index].aborted |= net.core().conns.get(closed.who).is_some_and(Connection::resets_at_end);
        self.records[index].closed = Some(closed.clone());
        let close_notify = net.core().close_notify.len();
        let handler = &mut self.inner;
        let done = catch_unwind(AssertUnwindSafe(|| handler.on_close(net, inner, closed)));
        self.note_aborts(net.core(), close_notify);
        self.go_on(index, done);
    }

    fn framing(&self) -> Framing {
        self.inner.framing()
    }
}

/// Records the arrival of a note from a simulated thread.
fn note_arrival(note: &(dyn Any + Send)) {
    if let Some(posted_event) = note.downcast_ref::<PostedEvent>() {
        posted_event.arrive();
    }
}

#[cfg(test)]
mod tests {
    /// Callbacks have defaults, so a new one that is not passed on would go unnoticed.
    #[test]
    fn every_callback_is_passed_on() {
        let names = |text: &'static str, from: &str| -> Vec<&str> {
            let body = text.split_once(from).unwrap().1.split_once("\n}\n").unwrap().0;
            body.lines().filter_map(|l| l.strip_prefix("    fn ")).map(|l| l.split('(').next().unwrap()).collect()
        };
        let all = names(include_str!("../handler/mod.rs"), "pub trait Handler");
        assert!(all.len() >= 7 && all.contains(&"on_drain"), "{all:?}");
        assert_eq!(names(include_str!("checked_handler.rs"), "for CheckedHandler<H>"), all);
    }
}
