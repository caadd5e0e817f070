//! The public face: making a reactor, putting handlers behind listeners, and turning it.
//!
//! Knows the real world ([`MioSys`]) and hides it: users see no type parameter. Invariant: everything a method here
//! does could be done between any two turns.

mod accept;
#[cfg(any(test, feature = "testing"))]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) mod audit;
mod close;
mod commands;
mod connect;
mod datagram;
pub(crate) mod event_loop;
mod open;
mod read;
mod shutdown;
mod sources;
mod tables;
#[cfg(test)]
mod tests;
mod timers;
pub(crate) mod turn;
mod write;

use std::io;
#[cfg(unix)]
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use crate::config::limits::{Limits, PanicPolicy};
use crate::handler::Handler;
use crate::handler::handle::{Handle, Notes};
use crate::handler::net::Net;
use crate::id::{ConnId, Generations, Key};
use crate::stats::Stats;
use crate::sys::mio::MioSys;
use crate::time::{Time, ceil_to_ms};

use self::event_loop::EventLoop;
pub use open::{Bound, Listening};
pub use tables::{Readiness, Report, SourceKey, Watch};
pub use turn::Turn;

/// An event loop with its listeners, connections and handlers, on the thread that turns it.
///
/// It is not `Send`, because handlers need not be: make it on the thread that turns it. What may go to other threads is
/// a [`Handle`].
///
/// To end in good order, [`shutdown`](Reactor::shutdown) it or ask a [`Handle`]. A reactor that is merely dropped
/// closes its sockets and drops the handlers and their states without calling [`on_close`](Handler::on_close); the
/// same goes for one that a panic has gone through ([`PanicPolicy::Propagate`]), which must not be turned again.
///
/// # In another loop
/// On Unix a reactor is [`AsFd`], so that `poll(2)`, an epoll, glib, calloop or tokio's `AsyncFd` can watch it. Watch
/// for *readable*, call [`turn`](Reactor::turn) with [`Duration::ZERO`] when it is, call it again at once while
/// [`Turn::more`] says so, and never sleep longer than [`next_deadline`](Reactor::next_deadline), which is to be asked
/// after everything else that was done with the reactor. That is all of it where readiness is a *level*. Where it is
/// an *edge* (tokio; an epoll with `EPOLLET`), forget the readiness *before* the turn and not after it, or events that
/// come between the two are missed. The examples `embed_poll` (a level) and `embed_tokio` (an edge) show both.
///
/// ```no_run
/// use turnwheel::{Echo, Reactor};
///
/// fn main() -> std::io::Result<()> {
///     let mut reactor = Reactor::new()?;
///     reactor.listen("127.0.0.1:7000", Echo)?;
///     reactor.run()
/// }
/// ```
pub struct Reactor {
    inner: EventLoop<MioSys>,
}

impl std::fmt::Debug for Reactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stats = self.stats();
        f.debug_struct("Reactor")
            .field("open", &stats.open)
            .field("accepted", &stats.accepted)
            .finish_non_exhaustive()
    }
}

impl Reactor {
    /// A reactor with the default [`Limits`].
    ///
    /// # Errors
    /// When the system gives no event queue.
    pub fn new() -> io::Result<Self> {
        Self::with_limits(Limits::default())
    }

    /// A reactor with limits of your own.
    ///
    /// # Errors
    /// When a limit is zero or contradicts another one (`InvalidInput`, and the text names both), or the system gives
    /// no event queue.
    pub fn with_limits(limits: Limits) -> io::Result<Self> {
        limits.check()?;
        let sys = MioSys::new(limits.events_per_turn)?;
        Ok(Self { inner: EventLoop::new(sys, limits, Generations::new())? })
    }

    /// What happens when a callback panics. By default its connection is aborted and everything else goes on.
    pub const fn set_panic_policy(&mut self, policy: PanicPolicy) {
        self.inner.dispatcher.set_panic_policy(policy);
    }

    /// Adds a handler, to be put behind any number of listeners with [`listen_on`](Reactor::listen_on). It stays as
    /// long as the reactor.
    ///
    /// # Errors
    /// When its framing's maximum does not fit the limits; the text names both.
    pub fn add<H: Handler>(&mut self, handler: H) -> io::Result<Key<H>> {
        let handler = self.inner.dispatcher.add(handler, true)?;
        Ok(self.inner.dispatcher.key(handler))
    }

    /// The handler behind a key; `None` for a key of another reactor.
    pub fn get<H: 'static>(&self, key: Key<H>) -> Option<&H> {
        self.inner.dispatcher.get(key)
    }

    /// The handler behind a key, to change it; `None` for a key of another reactor.
    pub fn get_mut<H: 'static>(&mut self, key: Key<H>) -> Option<&mut H> {
        self.inner.dispatcher.get_mut(key)
    }

    /// The verbs that handlers have, for use between turns. It counts time from this call on.
    pub fn net(&mut self) -> Net<'_> {
        self.inner.update_clock();
        Net::new(&mut self.inner.dispatcher.core, None, None)
    }

    /// A snapshot of the counters.
    pub fn stats(&self) -> Stats {
        self.inner.dispatcher.core.snapshot()
    }

    /// The name of the type of the handler that has a connection; `None` when the connection has gone.
    pub fn handler_name(&self, id: ConnId) -> Option<&'static str> {
        let dispatcher = &self.inner.dispatcher;
        dispatcher.core.conns.get(id).map(|c| dispatcher.name_of(c.handler))
    }

    /// The limits in force: those given, with the number of connections lowered to what the process may open.
    pub const fn limits(&self) -> &Limits {
        &self.inner.dispatcher.core.limits
    }

    /// What other threads have of this reactor: to send and close, to run closures, and to stop it (from a signal
    /// handler's thread, say).
    pub fn handle(&self) -> Handle {
        self.inner.handle()
    }

    /// The end through which other threads post notes of type `T` to the handler behind a key; they arrive in
    /// [`Handler::on_note`]. `None` for a key of another reactor.
    pub fn notes<T: Send + 'static>(&self, key: Key<impl Sized>) -> Option<Notes<T>> {
        self.handle().notes(key)
    }

    /// Turns until a shutdown that a [`Handle`] asked for has ended.
    ///
    /// # Errors
    /// Only when waiting for events itself fails.
    pub fn run(&mut self) -> io::Result<()> {
        while !self.inner.turn(None)?.stopped {}
        Ok(())
    }

    /// One turn: waits for something to do, no longer than `timeout` (`None`: as long as it takes), and does it.
    ///
    /// The timeout is rounded down to whole milliseconds: a turn never sleeps longer than asked, and not at all for
    /// [`Duration::ZERO`]. How to sit in an outer loop is told at [`Reactor`].
    ///
    /// # Errors
    /// Only when waiting for events itself fails.
    pub fn turn(&mut self, timeout: Option<Duration>) -> io::Result<Turn> {
        self.inner.update_clock();
        self.inner.turn(timeout)
    }

    /// For how long nothing is due that no descriptor will announce: zero while there is such work, `None` when nothing
    /// is. [`turn`](Reactor::turn) never sleeps longer than this; an outer loop should call it no later. It is rounded
    /// up to whole milliseconds, so that who sleeps so long finds it due.
    pub fn next_deadline(&mut self) -> Option<Duration> {
        self.inner.update_clock();
        let at = self.inner.next_deadline();
        (at != Time::NEVER).then(|| ceil_to_ms(at.since(self.inner.dispatcher.core.now)))
    }

    /// Ends in good order: takes the connections that wait, stops listening, calls
    /// [`on_shutdown`](Handler::on_shutdown) for every connection, turns until all have ended, and aborts those that
    /// have not after `grace`.
    ///
    /// # Errors
    /// Only when waiting for events itself fails.
    pub fn shutdown(&mut self, grace: Duration) -> io::Result<Report> {
        if !self.inner.shutdown.is_under_way() {
            self.inner.update_clock();
            self.inner.begin_shutdown(grace);
        }
        while self.inner.shutdown.is_under_way() {
            self.inner.turn(None)?;
        }
        Ok(self.inner.shutdown.last().unwrap_or_default())
    }

    /// What the last shutdown came to; `None` before there was one.
    pub const fn last_shutdown(&self) -> Option<Report> {
        self.inner.shutdown.last()
    }
}

/// The descriptor of the system's event queue, to be watched by an outer loop: it is readable while events wait in it.
/// It is to be watched and nothing else.
#[cfg(unix)]
impl AsFd for Reactor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.sys.as_fd()
    }
}

#[cfg(unix)]
impl AsRawFd for Reactor {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
