//! [`Reactor`], the public event loop: creates it, registers handlers, and runs its turns.
//!
//! Fixes the system interface to [`MioSys`], so that users see no type parameter. Invariant: no method here needs a
//! turn to be in progress; each may be called between any two turns.

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
use std::marker::PhantomData;
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

/// A single-threaded event loop with its listeners, connections and handlers.
///
/// It is not `Send`, because handlers need not be: create it on the thread that runs it. Other threads use a
/// [`Handle`].
///
/// ```
/// use std::thread;
/// use turnwheel::{Echo, Reactor};
///
/// // Not `let mut reactor = Reactor::new()?` here: it could not be moved into the closure.
/// let server = thread::spawn(|| -> std::io::Result<()> {
///     let mut reactor = Reactor::new()?;
///     reactor.listen("127.0.0.1:0", Echo)?;
///     reactor.handle().stop()?; // a real program passes the handle to another thread
///     reactor.run()
/// });
/// server.join().expect("no panic")?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// To stop gracefully, call [`shutdown`](Reactor::shutdown), or stop it through a [`Handle`]. Dropping a reactor closes
/// its sockets and drops the handlers and their states without calling [`on_close`](Handler::on_close). The same holds
/// after a panic has unwound through it ([`PanicPolicy::Propagate`]); such a reactor must not be turned again.
///
/// # In another event loop
/// On Unix a reactor implements [`AsFd`], so `poll(2)`, epoll, glib, calloop or tokio's `AsyncFd` can watch it:
///
/// - Watch for *readable*. When it is, call [`turn`](Reactor::turn) with [`Duration::ZERO`], and call it again at once
///   while [`Turn::more`] is set.
/// - Never sleep longer than [`next_deadline`](Reactor::next_deadline). Call it last, after everything else that you
///   did with the reactor.
///
/// That is all for level-triggered readiness. With edge-triggered readiness (tokio; epoll with `EPOLLET`), clear the
/// readiness *before* the turn, not after it, or events that arrive between the two are missed. See the examples
/// `embed_poll` (level-triggered) and `embed_tokio` (edge-triggered).
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
    /// First, so that the compiler names it before what is inside.
    not_send: PhantomData<dyn MakeTheReactorOnItsThread>,
    inner: EventLoop<MioSys>,
}

/// Whoever moves a reactor to another thread reads this name in the error.
trait MakeTheReactorOnItsThread {}

impl std::fmt::Debug for Reactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stats = self.stats();
        f.debug_struct("Reactor").field("open", &stats.open).field("accepted", &stats.accepted).finish_non_exhaustive()
    }
}

impl Reactor {
    /// Creates a reactor with the default [`Limits`].
    ///
    /// # Errors
    /// If the system cannot create an event queue.
    pub fn new() -> io::Result<Self> {
        Self::with_limits(Limits::default())
    }

    /// Creates a reactor with the given limits.
    ///
    /// # Errors
    /// `InvalidInput` if a limit is zero or contradicts another one (the text names both). Also fails if the system
    /// cannot create an event queue.
    pub fn with_limits(limits: Limits) -> io::Result<Self> {
        limits.check()?;
        let sys = MioSys::new(limits.events_per_turn)?;
        Ok(Self { not_send: PhantomData, inner: EventLoop::new(sys, limits, Generations::new())? })
    }

    /// Sets what happens when a callback panics. By default its connection is aborted and everything else continues.
    pub const fn set_panic_policy(&mut self, policy: PanicPolicy) {
        self.inner.dispatcher.set_panic_policy(policy);
    }

    /// Adds a handler and returns its key. [`listen_on`](Reactor::listen_on) attaches it to any number of listeners.
    /// The handler lives as long as the reactor.
    ///
    /// # Errors
    /// If the maximum of its framing does not fit the limits; the text names both.
    pub fn add<H: Handler>(&mut self, handler: H) -> io::Result<Key<H>> {
        let handler = self.inner.dispatcher.add(handler, true)?;
        Ok(self.inner.dispatcher.key(handler))
    }

    /// Returns the handler of a key; `None` for a key of another reactor.
    pub fn get<H: 'static>(&self, key: Key<H>) -> Option<&H> {
        self.inner.dispatcher.get(key)
    }

    /// Returns the handler of a key, mutably; `None` for a key of another reactor.
    pub fn get_mut<H: 'static>(&mut self, key: Key<H>) -> Option<&mut H> {
        self.inner.dispatcher.get_mut(key)
    }

    /// Returns the [`Net`] that handlers use, for use between turns. Its timers and timeouts count from this call.
    pub fn net(&mut self) -> Net<'_> {
        self.inner.update_clock();
        Net::new(&mut self.inner.dispatcher.core, None, None)
    }

    /// Returns a snapshot of the counters.
    pub fn stats(&self) -> Stats {
        self.inner.dispatcher.core.snapshot()
    }

    /// Returns the type name of a connection's handler; `None` if the connection no longer exists.
    pub fn handler_name(&self, id: ConnId) -> Option<&'static str> {
        let dispatcher = &self.inner.dispatcher;
        dispatcher.core.conns.get(id).map(|c| dispatcher.name_of(c.handler))
    }

    /// Returns the limits in force: the given ones, with [`Limits::connections`] lowered if the process may not open so
    /// many descriptors.
    pub const fn limits(&self) -> &Limits {
        &self.inner.dispatcher.core.limits
    }

    /// Returns a handle for other threads. It sends, closes, runs closures on the reactor's thread, and stops the
    /// reactor (for example from a signal-handling thread).
    pub fn handle(&self) -> Handle {
        self.inner.handle()
    }

    /// Returns a sender through which other threads post notes of type `T` to the handler of a key; they arrive in
    /// [`Handler::on_note`]. `None` for a key of another reactor.
    pub fn notes<T: Send + 'static>(&self, key: Key<impl Sized>) -> Option<Notes<T>> {
        self.handle().notes(key)
    }

    /// Runs turns until a shutdown has finished that a [`Handle`] or a callback requested.
    ///
    /// # Errors
    /// Only if waiting for events itself fails.
    pub fn run(&mut self) -> io::Result<()> {
        while !self.inner.turn(None)?.stopped {}
        Ok(())
    }

    /// Runs one turn: waits for work, at most for `timeout` (`None`: without limit), and does it.
    ///
    /// The timeout is rounded down to whole milliseconds: a turn never sleeps longer than `timeout`, and not at all for
    /// [`Duration::ZERO`]. See [`Reactor`] for how to drive it from an outer loop.
    ///
    /// # Errors
    /// Only if waiting for events itself fails.
    pub fn turn(&mut self, timeout: Option<Duration>) -> io::Result<Turn> {
        self.inner.update_clock();
        self.inner.turn(timeout)
    }

    /// Returns the time until the next deadline: zero while there is work that no descriptor will announce, `None` if
    /// there is no deadline. [`turn`](Reactor::turn) never sleeps longer than this, and an outer loop should call it no
    /// later. Rounded up to whole milliseconds: after sleeping this long the deadline has passed.
    pub fn next_deadline(&mut self) -> Option<Duration> {
        self.inner.update_clock();
        let at = self.inner.next_deadline();
        (at != Time::NEVER).then(|| ceil_to_ms(at.since(self.inner.dispatcher.core.now)))
    }

    /// Shuts down gracefully: accepts the pending connections, closes the listeners, calls
    /// [`on_shutdown`](Handler::on_shutdown) for every connection, and runs turns until all are closed. Connections
    /// that are still open after `grace` are aborted.
    ///
    /// # Errors
    /// Only if waiting for events itself fails.
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

    /// Returns the result of the last shutdown; `None` if there was none.
    pub const fn last_shutdown(&self) -> Option<Report> {
        self.inner.shutdown.last()
    }
}

/// The descriptor of the system's event queue. It is readable while events are queued. An outer loop may watch it, and
/// must not use it for anything else.
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
