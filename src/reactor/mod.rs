//! The public face: making a reactor, putting handlers behind listeners, and turning it.
//!
//! Knows the real world ([`MioSys`]) and hides it: users see no type parameter. Invariant: everything a method here
//! does could be done between any two turns.

mod accept;
#[cfg(any(test, feature = "testing"))]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) mod audit;
mod bind;
mod commands;
mod connect;
mod datagram;
mod read;
mod shutdown;
mod sources;
#[cfg(test)]
mod tests;
mod timers;
pub(crate) mod turn;
mod write;

use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use crate::config::address::{Address, Endpoint};
use crate::config::connect::Connect;
use crate::config::limits::{Limits, PanicPolicy};
use crate::config::listen::{Bind, Listen, ListenOptions, Source};
use crate::handler::Handler;
use crate::handler::handle::{Handle, Notes};
use crate::handler::net::Net;
use crate::id::{AttemptId, ConnId, Generations, Key, ListenerId};
use crate::stats::Stats;
use crate::sys::Sys;
use crate::sys::mio::MioSys;
use crate::time::{Time, at_least};

pub use bind::Bound;
pub use shutdown::Report;
pub use sources::{Readiness, SourceKey, Watch};
use turn::Loop;
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
    inner: Loop<MioSys>,
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
        Ok(Self { inner: Loop::new(sys, limits, Generations::new())? })
    }

    /// What happens when a callback panics. By default its connection is aborted and everything else goes on.
    pub const fn set_panic_policy(&mut self, policy: PanicPolicy) {
        self.inner.engine.set_panic_policy(policy);
    }

    /// Adds a handler, to be put behind any number of listeners with [`listen_on`](Reactor::listen_on). It stays as
    /// long as the reactor.
    ///
    /// # Errors
    /// When its framing's maximum does not fit the limits; the text names both.
    pub fn add<H: Handler>(&mut self, handler: H) -> io::Result<Key<H>> {
        let site = self.inner.engine.add(handler, true)?;
        Ok(self.inner.engine.key(site))
    }

    /// The handler behind a key; `None` for a key of another reactor.
    pub fn get<H: 'static>(&self, key: Key<H>) -> Option<&H> {
        self.inner.engine.get(key)
    }

    /// The handler behind a key, to change it; `None` for a key of another reactor.
    pub fn get_mut<H: 'static>(&mut self, key: Key<H>) -> Option<&mut H> {
        self.inner.engine.get_mut(key)
    }

    /// Listens at an address for a handler of its own, which is dropped when its listeners and connections are gone.
    ///
    /// The address is a string (`"127.0.0.1:7000"`, `"[::1]:7000"`, `"localhost:7000"`, `"unix:/path"`), a
    /// [`SocketAddr`], a listener that the caller has bound, or a [`Listen`] with options. Port 0 takes a free port;
    /// the answer has the real one. A host name is looked up here (which blocks) and listened on at all its
    /// addresses.
    ///
    /// # Errors
    /// When the address is wrong or taken, or the handler's framing does not fit the limits. Nothing is left listening
    /// then.
    pub fn listen<H: Handler>(&mut self, at: impl Into<Listen>, handler: H) -> io::Result<Listening> {
        let site = self.inner.engine.add(handler, false)?;
        // Whatever comes of it, the handler lives no longer than what leads to it.
        self.inner.engine.retain(site);
        let listening = self.listen_at(at.into(), site);
        self.inner.engine.release(site);
        listening
    }

    /// Listens at an address for a handler added before. See [`listen`](Reactor::listen).
    ///
    /// # Errors
    /// As for [`listen`](Reactor::listen), and `NotFound` for a key of another reactor, or of a handler that was added
    /// for [datagrams](Reactor::add_datagrams) only.
    pub fn listen_on<H: Handler>(&mut self, at: impl Into<Listen>, key: Key<H>) -> io::Result<Listening> {
        let site = self.site_of(key)?;
        self.listen_at(at.into(), site)
    }

    /// The place of a handler that connections may lead to.
    fn site_of<H>(&self, key: Key<H>) -> io::Result<u32> {
        let site = self.inner.engine.site(key).ok_or_else(wrong_key)?;
        match self.inner.engine.takes_connections(site) {
            true => Ok(site),
            false => Err(io::Error::new(io::ErrorKind::NotFound, "the key is one for datagrams only")),
        }
    }

    fn listen_at(&mut self, at: Listen, site: u32) -> io::Result<Listening> {
        let (source, options) =
            at.into_parts().map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let mut sockets = Vec::new();
        let done = self.open_all(source, &options, site, &mut sockets);
        if let Err(e) = done {
            for (id, _) in sockets {
                self.inner.close_door(id);
            }
            return Err(e);
        }
        Ok(Listening { sockets })
    }

    /// Opens the sockets that a source stands for: one, or one for each address of a name.
    fn open_all(
        &mut self,
        source: Source,
        options: &ListenOptions,
        site: u32,
        sockets: &mut Vec<(ListenerId, Address)>,
    ) -> io::Result<()> {
        let (host, port) = match source {
            Source::Bound(bind) => return self.open_one(bind, options, site, sockets),
            #[cfg(unix)]
            Source::Endpoint(Endpoint::Unix(path)) => {
                return self.open_one(Bind::Unix(path), options, site, sockets);
            }
            #[cfg(not(unix))]
            Source::Endpoint(Endpoint::Unix(_)) => {
                return Err(io::Error::new(io::ErrorKind::Unsupported, "no Unix sockets on this system"));
            }
            Source::Endpoint(Endpoint::Tcp { host, port }) => (host, port),
        };
        let mut port = port;
        for mut address in self.inner.sys.resolve(&host, port)? {
            // The addresses of one name share the port that the first one was given.
            address.set_port(port);
            self.open_one(Bind::Tcp(address), options, site, sockets)?;
            if port == 0 {
                port = sockets.first().and_then(|(_, a)| a.tcp()).map_or(0, |a| a.port());
            }
        }
        Ok(())
    }

    fn open_one(
        &mut self,
        at: Bind,
        options: &ListenOptions,
        site: u32,
        sockets: &mut Vec<(ListenerId, Address)>,
    ) -> io::Result<()> {
        let socket = self.inner.sys.bind(at, options)?;
        sockets.push(self.inner.open_door(socket, site)?);
        Ok(())
    }

    /// Asks for a connection, for a handler added before. The address is a string, a [`SocketAddr`], a stream that is
    /// connected already, or a [`Connect`] with options. It comes about in later turns: see [`Net::connect`], which
    /// does the same from within a callback.
    ///
    /// # Errors
    /// `NotFound` for a key of another reactor, `InvalidInput` when the address or an option is wrong, `QuotaExceeded`
    /// when [`Limits::attempts`] are asked for, and an error of no kind while the reactor is shutting down. Whatever
    /// goes wrong later is told to [`on_connect_failed`](Handler::on_connect_failed).
    pub fn connect<H: Handler>(
        &mut self,
        to: impl Into<Connect>,
        key: Key<H>,
        tag: u64,
    ) -> io::Result<AttemptId> {
        let site = self.site_of(key)?;
        let to = to.into().checked()?;
        self.inner.look_at_clock();
        let core = &mut self.inner.engine.core;
        if core.stopping {
            return Err(io::Error::other("the reactor is shutting down"));
        }
        core.connect(site, to, tag).ok_or_else(|| {
            let what = format!("{} connections are asked for, as many as allowed", core.limits.attempts);
            io::Error::new(io::ErrorKind::QuotaExceeded, what)
        })
    }

    /// Stops listening. Accepted connections go on; those still waiting in the kernel's queue are lost. False when it
    /// has stopped already.
    pub fn close_listener(&mut self, id: ListenerId) -> bool {
        self.inner.close_door(id)
    }

    /// The verbs that handlers have, for use between turns. It counts time from this call on.
    pub fn net(&mut self) -> Net<'_> {
        self.inner.look_at_clock();
        Net::new(&mut self.inner.engine.core, None, None)
    }

    /// A snapshot of the counters.
    pub fn stats(&self) -> Stats {
        self.inner.engine.core.snapshot()
    }

    /// The name of the type of the handler that has a connection; `None` when the connection has gone.
    pub fn handler_name(&self, id: ConnId) -> Option<&'static str> {
        let engine = &self.inner.engine;
        engine.core.conns.get(id).map(|c| engine.name_of(c.site))
    }

    /// The limits in force: those given, with the number of connections lowered to what the process may open.
    pub const fn limits(&self) -> &Limits {
        &self.inner.engine.core.limits
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
        self.inner.look_at_clock();
        self.inner.turn(timeout)
    }

    /// For how long nothing is due that no descriptor will announce: zero while there is such work, `None` when nothing
    /// is. [`turn`](Reactor::turn) never sleeps longer than this; an outer loop should call it no later. It is rounded
    /// up to whole milliseconds, so that who sleeps so long finds it due.
    pub fn next_deadline(&mut self) -> Option<Duration> {
        self.inner.look_at_clock();
        let at = self.inner.next_deadline();
        (at != Time::NEVER).then(|| at_least(at.since(self.inner.engine.core.now)))
    }

    /// Ends in good order: takes the connections that wait, stops listening, calls
    /// [`on_shutdown`](Handler::on_shutdown) for every connection, turns until all have ended, and aborts those that
    /// have not after `grace`.
    ///
    /// # Errors
    /// Only when waiting for events itself fails.
    pub fn shutdown(&mut self, grace: Duration) -> io::Result<Report> {
        if !self.inner.stopping.is_under_way() {
            self.inner.look_at_clock();
            self.inner.begin_shutdown(grace);
        }
        while self.inner.stopping.is_under_way() {
            self.inner.turn(None)?;
        }
        Ok(self.inner.stopping.last().unwrap_or_default())
    }

    /// What the last shutdown came to; `None` before there was one.
    pub const fn last_shutdown(&self) -> Option<Report> {
        self.inner.stopping.last()
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

fn wrong_key() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the key belongs to another reactor")
}

/// The sockets that one call of [`Reactor::listen`] opened; as [`Bound`], those of [`Reactor::bind`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening<I = ListenerId> {
    sockets: Vec<(I, Address)>,
}

impl<I> Listening<I> {
    /// Each socket's id and the address it is bound to.
    pub fn sockets(&self) -> &[(I, Address)] {
        &self.sockets
    }

    /// The addresses, with the real ports.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.sockets.iter().map(|(_, address)| address)
    }

    /// The first IP address; `None` for a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.addresses().find_map(Address::tcp)
    }
}
