//! The methods of [`Reactor`] that open sockets: listeners, outbound connections and datagram sockets.
//!
//! Invariant: a call that fails leaves no socket open. An address of a name that cannot be had fails alone.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use super::Reactor;
use crate::config::address::{Address, Endpoint};
use crate::config::builder::BindTo;
use crate::config::connect::Connect;
use crate::config::datagram::{DatagramBind, DatagramOptions, Datagrams};
use crate::config::listen::{Listen, ListenOptions, ListenTarget};
use crate::dispatch::datagram::{DatagramCallback, call_datagram_handler};
use crate::handler::Handler;
use crate::handler::datagram::DatagramHandler;
use crate::id::{AttemptId, DatagramId, HandlerIdx, Key, ListenerId};
use crate::sys::Sys;
use crate::sys::datagram::DatagramSys;

/// The sockets opened by one call of [`Reactor::listen`]; as [`Bound`], by one call of [`Reactor::bind`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening<I = ListenerId> {
    sockets: Vec<(I, Address)>,
}

impl<I> Listening<I> {
    /// Each socket's id and the address it is bound to.
    pub fn sockets(&self) -> &[(I, Address)] {
        &self.sockets
    }

    /// Returns the bound addresses, with the actual ports.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.sockets.iter().map(|(_, address)| address)
    }

    /// Returns the first IP address; `None` for a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.addresses().find_map(Address::tcp)
    }
}

/// The sockets opened by one call of [`Reactor::bind`].
pub type Bound = Listening<DatagramId>;

impl Reactor {
    /// Listens on an address with a new handler. The handler is dropped when its last listener and connection are
    /// closed.
    ///
    /// The address is a string (`"127.0.0.1:7000"`, `"[::1]:7000"`, `"localhost:7000"`, `"unix:/path"`), a
    /// [`SocketAddr`], a listener that the caller has bound, or a [`Listen`] with options. With port 0 the system picks
    /// a free port; the result has the actual one. A host name is looked up here, and all its addresses are listened
    /// on. If some of them cannot be had, because they are in use or not of this machine, a warning names them, and the
    /// others are served. The lookup blocks, but for no longer than
    /// [`Limits::connect_timeout`](crate::Limits::connect_timeout) (`TimedOut`), and a [stop](crate::Handle::stop) ends
    /// it (`Interrupted`).
    ///
    /// # Errors
    /// If the address is invalid or in use (of a name: all its addresses), if the name cannot be resolved, if the
    /// handler's framing does not fit the limits, or if it [reserves](Listen::reserve_connects) more than the limits
    /// allow. No listener is left open then.
    pub fn listen<H: Handler>(&mut self, at: impl Into<Listen>, handler: H) -> io::Result<Listening> {
        let handler = self.inner.dispatcher.add(handler, false)?;
        // Hold a use of the handler meanwhile: if listening fails, the release drops it.
        self.inner.dispatcher.retain(handler);
        let listening = self.listen_at(at.into(), handler);
        self.inner.dispatcher.release(handler);
        listening
    }

    /// Listens on an address with a handler that was [added](Reactor::add) before. See [`listen`](Reactor::listen).
    ///
    /// # Errors
    /// As for [`listen`](Reactor::listen), and `NotFound` for a key of another reactor or of a handler that takes only
    /// [datagrams](Reactor::add_datagrams).
    pub fn listen_on<H: Handler>(&mut self, at: impl Into<Listen>, key: Key<H>) -> io::Result<Listening> {
        let handler = self.handler_of(key)?;
        self.listen_at(at.into(), handler)
    }

    /// Returns the index of a handler that takes connections.
    fn handler_of<H>(&self, key: Key<H>) -> io::Result<HandlerIdx> {
        let handler = self.inner.dispatcher.index_of(key).ok_or_else(wrong_key)?;
        match self.inner.dispatcher.takes_connections(handler) {
            true => Ok(handler),
            false => Err(io::Error::new(io::ErrorKind::NotFound, "the handler takes datagrams only")),
        }
    }

    fn listen_at(&mut self, at: Listen, handler: HandlerIdx) -> io::Result<Listening> {
        let (to, options) = at.into_parts()?;
        if let Err(error) = self.inner.dispatcher.core.limits.check_reserve(options.reserve_connects) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("cannot listen on {to}: {error}")));
        }
        let mut sockets = Vec::new();
        let done = self.open_all(to, &options, handler, &mut sockets);
        if let Err(e) = done {
            for (id, _) in sockets {
                self.inner.close_listener(id);
            }
            return Err(e);
        }
        Ok(Listening { sockets })
    }

    /// Opens the listeners: one, or one for each address of a host name.
    fn open_all(
        &mut self,
        to: BindTo<ListenTarget>,
        options: &ListenOptions,
        handler: HandlerIdx,
        sockets: &mut Vec<(ListenerId, Address)>,
    ) -> io::Result<()> {
        let (host, port) = match to {
            BindTo::Socket(bind) => return self.open_one(bind, options, handler, sockets),
            #[cfg(unix)]
            BindTo::Endpoint(Endpoint::Unix(path)) => {
                return self.open_one(ListenTarget::Unix(path), options, handler, sockets);
            }
            #[cfg(not(unix))]
            BindTo::Endpoint(Endpoint::Unix(_)) => return Err(no_unix_sockets()),
            BindTo::Endpoint(Endpoint::Tcp { host, port }) => (host, port),
        };
        let (mut port, mut failed) = (port, Vec::new());
        for mut address in self.look_up(&host, port)? {
            // With port 0, all addresses of a name share the port that the system picked for the first one.
            address.set_port(port);
            if let Err(error) = self.open_one(ListenTarget::Tcp(address), options, handler, sockets) {
                failed.push(error);
            }
            if port == 0 {
                port = sockets.first().and_then(|(_, a)| a.tcp()).map_or(0, |a| a.port());
            }
        }
        any_of(&host, sockets.is_empty(), failed)
    }

    /// Looks up a name. Blocks for at most [`Limits::connect_timeout`](crate::Limits::connect_timeout), and no longer
    /// than until a stop is requested.
    fn look_up(&mut self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let inner = &mut self.inner;
        let within = inner.dispatcher.core.limits.connect_timeout.get();
        let (requests, seen) = (&inner.shared.stop_requests, inner.shutdown.stop_requests_seen);
        inner.sys.resolve(host, port, within, &|| requests.load(Ordering::Acquire) > seen)
    }

    fn open_one(
        &mut self,
        at: ListenTarget,
        options: &ListenOptions,
        handler: HandlerIdx,
        sockets: &mut Vec<(ListenerId, Address)>,
    ) -> io::Result<()> {
        let socket = self.inner.sys.listen(at, options)?;
        sockets.push(self.inner.add_listener(socket, handler, options.reserve_connects)?);
        Ok(())
    }

    /// Starts connecting, for a handler that was [added](Reactor::add) before. The address is a string, a
    /// [`SocketAddr`], a stream that is connected already, or a [`Connect`] with options. The connection is established
    /// in later turns. [`Net::connect`](crate::Net::connect) does the same from within a callback.
    ///
    /// # Errors
    /// `NotFound` for a key of another reactor, `InvalidInput` if the address or an option is invalid, `QuotaExceeded`
    /// if there are [`Limits::attempts`](crate::Limits::attempts) connect jobs already, and `Other` while the reactor
    /// is shutting down. Later errors are reported to [`on_connect_failed`](Handler::on_connect_failed).
    pub fn connect<H: Handler>(&mut self, to: impl Into<Connect>, key: Key<H>, tag: u64) -> io::Result<AttemptId> {
        let handler = self.handler_of(key)?;
        let to = to.into().checked()?;
        self.inner.update_clock();
        let core = &mut self.inner.dispatcher.core;
        if core.shutting_down {
            return Err(io::Error::other("the reactor is shutting down"));
        }
        core.connect(handler, to, tag, None).ok_or_else(|| {
            let what = format!("limit of {} connection attempts reached", core.limits.attempts);
            io::Error::new(io::ErrorKind::QuotaExceeded, what)
        })
    }

    /// Closes a listener. Accepted connections continue; those still in the kernel's backlog are lost. Returns `false`
    /// if it is closed already.
    pub fn close_listener(&mut self, id: ListenerId) -> bool {
        self.inner.close_listener(id)
    }

    /// Adds a datagram handler and returns its key. [`bind_on`](Reactor::bind_on) attaches it to any number of sockets.
    /// The handler lives as long as the reactor. (If the type implements [`Handler`] too, [`add`](Reactor::add) it
    /// instead: that key serves for both.)
    pub fn add_datagrams<H: DatagramHandler>(&mut self, handler: H) -> Key<H> {
        let handler = self.inner.dispatcher.add_datagrams(handler, true);
        self.inner.dispatcher.key(handler)
    }

    /// Binds a datagram socket with a new handler. The handler is dropped when its last socket is closed.
    ///
    /// The address is a string (`"127.0.0.1:7000"`, `"[::1]:7000"`, `"localhost:7000"`, `"unix:/path"`), a
    /// [`SocketAddr`], a socket that the caller has bound, or a [`Datagrams`] with options. With port 0 the system
    /// picks a free port; the result has the actual one. A host name is looked up as by [`listen`](Reactor::listen),
    /// and one socket is bound to each of its addresses that can be had. With a [peer](Datagrams::peer), one socket is
    /// bound: to the first address that can be connected to one of the peer's.
    ///
    /// # Errors
    /// If the address is invalid, in use or not allowed (of a name: all its addresses), or an option cannot be set; the
    /// text says which. No socket is left open then.
    pub fn bind<H: DatagramHandler>(&mut self, at: impl Into<Datagrams>, handler: H) -> io::Result<Bound> {
        let handler = self.inner.dispatcher.add_datagrams(handler, false);
        // Hold a use of the handler meanwhile: if binding fails, the release drops it.
        self.inner.dispatcher.retain(handler);
        let bound = self.bind_at(at.into(), handler, call_datagram_handler::<H>);
        self.inner.dispatcher.release(handler);
        bound
    }

    /// Binds a datagram socket with a handler that was added before. See [`bind`](Reactor::bind).
    ///
    /// # Errors
    /// As for [`bind`](Reactor::bind), and `NotFound` for a key of another reactor.
    pub fn bind_on<H: DatagramHandler>(&mut self, at: impl Into<Datagrams>, key: Key<H>) -> io::Result<Bound> {
        let handler = self.inner.dispatcher.index_of(key).ok_or_else(wrong_key)?;
        self.bind_at(at.into(), handler, call_datagram_handler::<H>)
    }

    fn bind_at(&mut self, at: Datagrams, handler: HandlerIdx, callback: DatagramCallback) -> io::Result<Bound> {
        let (to, peer, mut options) = at.into_parts()?;
        let mut bound = Bound { sockets: Vec::new() };
        let done = self.bind_all(to, peer, &mut options, |reactor, bind, options| {
            let socket = reactor.inner.sys.bind_datagram(bind, options)?;
            bound.sockets.push(reactor.inner.add_datagram_socket(socket, handler, callback, options)?);
            Ok(bound.local_addr().map_or(0, |first| first.port()))
        });
        if let Err(e) = done {
            for (id, _) in bound.sockets {
                self.inner.remove_datagram_socket(id);
            }
            return Err(e);
        }
        Ok(bound)
    }

    /// Binds the sockets: one, or one for each address of a host name. `open` returns the port of the first
    /// one.
    fn bind_all(
        &mut self,
        to: BindTo<DatagramBind>,
        peer: Option<Endpoint>,
        options: &mut DatagramOptions,
        mut open: impl FnMut(&mut Self, DatagramBind, &DatagramOptions) -> io::Result<u16>,
    ) -> io::Result<()> {
        let peers = self.resolve_peer(peer)?;
        options.peer = peers.first().cloned();
        let name = to.to_string();
        let locals = match to {
            BindTo::Socket(DatagramBind::Udp(address)) => vec![address],
            BindTo::Endpoint(Endpoint::Tcp { host, port }) => self.look_up(&host, port)?,
            BindTo::Socket(bind) => return open(self, bind, options).map(drop),
            #[cfg(unix)]
            BindTo::Endpoint(Endpoint::Unix(path)) => {
                return open(self, DatagramBind::Unix(path), options).map(drop);
            }
            #[cfg(not(unix))]
            BindTo::Endpoint(Endpoint::Unix(_)) => return Err(no_unix_sockets()),
        };
        if options.peer.is_some() {
            return self.bind_one_with_peer(&name, &locals, &peers, options, open);
        }
        let (mut shared, mut failed, all) = (0, Vec::new(), locals.len());
        for mut local in locals {
            // With port 0, all addresses of a name share the port that the system picked for the first one.
            if local.port() == 0 {
                local.set_port(shared);
            }
            match open(self, DatagramBind::Udp(local), options) {
                Ok(port) => shared = port,
                Err(error) => failed.push(error),
            }
        }
        any_of(&name, failed.len() == all, failed)
    }

    /// Binds one socket: the first of the local addresses that can be connected to one of the peer's.
    fn bind_one_with_peer(
        &mut self,
        name: &str,
        locals: &[SocketAddr],
        peers: &[Address],
        options: &mut DatagramOptions,
        mut open: impl FnMut(&mut Self, DatagramBind, &DatagramOptions) -> io::Result<u16>,
    ) -> io::Result<()> {
        let pairs = locals.iter().flat_map(|&local| peers.iter().map(move |peer| (local, peer)));
        let mut failed = Vec::new();
        for (local, peer) in pairs.filter(|(local, peer)| goes_with(local, peer)) {
            options.peer = Some(peer.clone());
            match open(self, DatagramBind::Udp(local), options) {
                Ok(_) => return Ok(()),
                Err(error) => failed.push(error),
            }
        }
        match (failed.is_empty(), peers.first()) {
            (true, Some(peer)) => Err(no_way(locals, peer)),
            _ => any_of(name, true, failed),
        }
    }

    /// Resolves the addresses of a peer; none if there is no peer.
    fn resolve_peer(&mut self, peer: Option<Endpoint>) -> io::Result<Vec<Address>> {
        match peer {
            None => Ok(Vec::new()),
            Some(Endpoint::Unix(path)) => Ok(vec![Address::Unix(Some(path))]),
            Some(Endpoint::Tcp { host, port }) => {
                Ok(self.look_up(&host, port)?.into_iter().map(Address::Tcp).collect())
            }
        }
    }
}

#[cfg(not(unix))]
fn no_unix_sockets() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "no Unix sockets on this system")
}

fn wrong_key() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the key belongs to another reactor")
}

/// Returns the result for a name, of whose addresses some could not be opened: that does not stop the others.
fn any_of(name: &str, none: bool, failed: Vec<io::Error>) -> io::Result<()> {
    let Some(last) = failed.last().filter(|_| none) else {
        failed.iter().for_each(|error| log::warn!("{error}; the other addresses of {name} are served"));
        return Ok(());
    };
    let texts: Vec<String> = failed.iter().map(io::Error::to_string).collect();
    Err(io::Error::new(last.kind(), texts.join("; ")))
}

/// Whether a socket bound to `local` can be connected to `peer`: both addresses are of the same family.
fn goes_with(local: &SocketAddr, peer: &Address) -> bool {
    peer.tcp().is_some_and(|peer| peer.is_ipv4() == local.is_ipv4())
}

fn no_way(locals: &[SocketAddr], peer: &Address) -> io::Error {
    let from = locals.first().map_or_else(|| "nowhere".to_owned(), SocketAddr::to_string);
    let why = format!("cannot connect from {from} to {peer}: the address families differ");
    io::Error::new(io::ErrorKind::InvalidInput, why)
}
