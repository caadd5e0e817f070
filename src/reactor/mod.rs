//! The public face: making a reactor, putting handlers behind listeners, and turning it.
//!
//! Knows the real world ([`MioSys`]) and hides it: users see no type parameter. Invariant: everything a method here
//! does could be done between any two turns.

mod accepting;
#[cfg(any(test, feature = "testing"))]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) mod audit;
mod flushing;
mod stopping;
#[cfg(test)]
mod tests;
mod transfer;
pub(crate) mod turn;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::endpoint::{Address, Endpoint};
use crate::engine::Key;
use crate::handler::{Handler, Net};
use crate::id::{Generations, ListenerId};
use crate::limits::{Limits, PanicPolicy};
use crate::listen::{Bind, Listen, ListenOptions, Source};
use crate::stats::Stats;
use crate::sys::Sys;
use crate::sys::mio::MioSys;

pub use stopping::Report;
pub use turn::Turn;
use turn::{Loop, StopFlag};

/// An event loop with its listeners, connections and handlers, on the thread that turns it.
///
/// It is not `Send`, because handlers need not be: make it on the thread that turns it. What may go to other threads is
/// a [`Stopper`].
///
/// To end in good order, [`shutdown`](Reactor::shutdown) it or ask a [`Stopper`]. A reactor that is merely dropped
/// closes its sockets and drops the handlers and their states without calling [`on_close`](Handler::on_close); the
/// same goes for one that a panic has gone through ([`PanicPolicy::Propagate`]), which must not be turned again.
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
    pub fn get<H: Handler>(&self, key: Key<H>) -> Option<&H> {
        self.inner.engine.get(key)
    }

    /// The handler behind a key, to change it; `None` for a key of another reactor.
    pub fn get_mut<H: Handler>(&mut self, key: Key<H>) -> Option<&mut H> {
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
    /// As for [`listen`](Reactor::listen), and `NotFound` for a key of another reactor.
    pub fn listen_on<H: Handler>(&mut self, at: impl Into<Listen>, key: Key<H>) -> io::Result<Listening> {
        let site = self.inner.engine.site(key);
        let site = site
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the key belongs to another reactor"))?;
        self.listen_at(at.into(), site)
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

    /// Stops listening. Accepted connections go on; those still waiting in the kernel's queue are lost. False when it
    /// has stopped already.
    pub fn close_listener(&mut self, id: ListenerId) -> bool {
        self.inner.close_door(id)
    }

    /// The verbs that handlers have, for use between turns.
    pub const fn net(&mut self) -> Net<'_> {
        Net::new(&mut self.inner.engine.core)
    }

    /// A snapshot of the counters.
    pub fn stats(&self) -> Stats {
        self.inner.engine.core.snapshot()
    }

    /// The limits in force: those given, with the number of connections lowered to what the process may open.
    pub const fn limits(&self) -> &Limits {
        &self.inner.engine.core.limits
    }

    /// What can ask this reactor to stop, from a signal handler's thread or any other.
    pub fn stopper(&self) -> Stopper {
        Stopper { flag: Arc::clone(&self.inner.stop) }
    }

    /// Turns until a shutdown that a [`Stopper`] asked for has ended.
    ///
    /// # Errors
    /// Only when waiting for events itself fails.
    pub fn run(&mut self) -> io::Result<()> {
        while !self.inner.turn(None)?.stopped {}
        Ok(())
    }

    /// One turn: waits for something to do, no longer than `timeout` (`None`: as long as it takes), and does it.
    ///
    /// # Errors
    /// Only when waiting for events itself fails.
    pub fn turn(&mut self, timeout: Option<Duration>) -> io::Result<Turn> {
        self.inner.look_at_clock();
        self.inner.turn(timeout)
    }

    /// For how long nothing is due that no descriptor will announce: zero while there is such work, `None` when nothing
    /// is. [`turn`](Reactor::turn) never sleeps longer than this; an outer loop should call it no later.
    pub fn next_deadline(&mut self) -> Option<Duration> {
        self.inner.look_at_clock();
        let at = self.inner.next_deadline();
        (at != crate::sys::Time::NEVER).then(|| at.since(self.inner.engine.core.now))
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

/// The sockets that one call of [`Reactor::listen`] opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    sockets: Vec<(ListenerId, Address)>,
}

impl Listening {
    /// Each socket's id and the address it is bound to.
    pub fn sockets(&self) -> &[(ListenerId, Address)] {
        &self.sockets
    }

    /// The addresses, with the real ports.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.sockets.iter().map(|(_, address)| address)
    }

    /// The first TCP address; `None` for a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.addresses().find_map(Address::tcp)
    }
}

/// Asks a reactor to stop, from any thread. Clones ask the same reactor.
#[derive(Clone, Debug)]
pub struct Stopper {
    flag: Arc<StopFlag>,
}

impl Stopper {
    /// Asks for a shutdown with [`Limits::shutdown_grace`]. Asked again, the grace is over: what is left is aborted.
    ///
    /// # Errors
    /// When the loop cannot be woken; it sees the request at its next turn all the same.
    pub fn stop(&self) -> io::Result<()> {
        let more = |n: u8| Some(n.saturating_add(1));
        let _ = self.flag.asked.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        self.flag.waker.wake()
    }
}
