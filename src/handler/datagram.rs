//! What a user writes for datagrams: the callbacks of a datagram socket, and what they act on.
//!
//! Knows no sockets and no loop. Invariant: as for [`Net`]: a verb only writes to the core's memory.

use std::any::Any;
use std::io;
use std::ops::{Deref, DerefMut};

use crate::config::address::Address;
use crate::core::{Core, Posted};
use crate::handler::net::Net;
use crate::id::{DatagramId, HandlerIdx};

/// A protocol of datagrams: UDP, or Unix datagrams. One handler may stand behind any number of sockets; a type may be a
/// [`Handler`](crate::Handler) as well, and then one value serves connections and datagrams.
///
/// Callbacks are infallible and never nest. A socket outlives everything that its peers or the network do; it ends when
/// it is [closed](DatagramContext::close), when a callback panics, or with the reactor.
///
/// ```
/// use turnwheel::{Address, DatagramContext, DatagramHandler, Reactor};
///
/// struct Echo;
///
/// impl DatagramHandler for Echo {
///     fn on_datagram(&mut self, cx: &mut DatagramContext<'_>, from: &Address, data: &[u8]) {
///         cx.send_to(from, data);
///     }
/// }
///
/// let mut reactor = Reactor::new()?;
/// reactor.bind("127.0.0.1:0", Echo)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait DatagramHandler: 'static {
    /// A datagram has come, maybe an empty one. Never called after the socket began to close.
    fn on_datagram(&mut self, cx: &mut DatagramContext<'_>, from: &Address, data: &[u8]);

    /// A datagram has come that was longer than the `max` bytes which the socket
    /// [takes](crate::Datagrams::max_size): it was thrown away whole, and counted.
    fn on_truncated(&mut self, cx: &mut DatagramContext<'_>, from: &Address, max: usize) {
        let _ = (cx, from, max);
    }

    /// Something was [dropped](Posted::Dropped), or more than half of
    /// [`Limits::datagram_queue`](crate::Limits::datagram_queue) waited for the kernel, and now nothing waits any more.
    fn on_drain(&mut self, cx: &mut DatagramContext<'_>) {
        let _ = cx;
    }

    /// The system told of an error: there is nobody at the peer's port (in connected mode), a datagram could not be
    /// sent (it was dropped, and counted), or the like. The socket goes on.
    fn on_error(&mut self, cx: &mut DatagramContext<'_>, error: &io::Error) {
        let _ = (cx, error);
    }

    /// A timer of the handler has gone off; `key` is what it was set with. (Of a type that is a
    /// [`Handler`](crate::Handler) too, and was [added](crate::Reactor::add) as one, that one's method is called.)
    fn on_tick(&mut self, net: &mut Net<'_>, key: u64) {
        let _ = (net, key);
    }

    /// Something was posted to the handler, by another thread perhaps. (As for [`on_tick`](Self::on_tick).)
    fn on_note(&mut self, net: &mut Net<'_>, note: Box<dyn Any + Send>) {
        let _ = (net, note);
    }

    /// The reactor is shutting down. By default the socket is closed; one that is not is closed when the grace is over.
    fn on_shutdown(&mut self, cx: &mut DatagramContext<'_>) {
        cx.close();
    }

    /// A socket has ended: the last callback for it. It takes no more sends.
    fn on_close(&mut self, net: &mut Net<'_>, id: DatagramId) {
        let _ = (net, id);
    }
}

/// What a callback of a datagram socket acts on: its socket, and through [`Net`] everything else.
#[derive(Debug)]
pub struct DatagramContext<'a> {
    net: Net<'a>,
    id: DatagramId,
}

impl<'a> Deref for DatagramContext<'a> {
    type Target = Net<'a>;
    fn deref(&self) -> &Self::Target {
        &self.net
    }
}

impl DerefMut for DatagramContext<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.net
    }
}

impl<'a> DatagramContext<'a> {
    pub(crate) const fn new(core: &'a mut Core, id: DatagramId, handler: HandlerIdx) -> Self {
        Self { net: Net::new(core, None, Some(handler)), id }
    }

    /// The socket's id. Once the socket has gone it names nothing.
    pub const fn id(&self) -> DatagramId {
        self.id
    }

    /// The verbs that need no current socket; those of the same name as one here included.
    pub const fn net(&mut self) -> &mut Net<'a> {
        &mut self.net
    }

    /// Where the socket is bound.
    pub fn local_addr(&self) -> Address {
        self.net.core().datagrams.get(self.id).map_or(Address::Unix(None), |m| m.local.clone())
    }

    /// In connected mode: the peer.
    pub fn peer(&self) -> Option<Address> {
        self.net.core().datagrams.get(self.id)?.peer.clone()
    }

    /// Sends a datagram, as soon as the callback has returned.
    pub fn send_to(&mut self, to: impl Into<Address>, data: impl AsRef<[u8]>) -> Posted {
        self.net.send_datagram_to(self.id, to, data)
    }

    /// In connected mode: sends a datagram to the peer, as soon as the callback has returned.
    pub fn send(&mut self, data: impl AsRef<[u8]>) -> Posted {
        self.net.send_datagram(self.id, data)
    }

    /// How many datagrams wait to be sent.
    pub fn pending(&self) -> usize {
        self.net.pending_datagrams(self.id).unwrap_or(0)
    }

    /// Closes the socket once what waits is sent; see [`Net::close_datagram`].
    pub fn close(&mut self) {
        self.net.close_datagram(self.id);
    }
}

impl Net<'_> {
    /// Sends a datagram from any socket. It is sent at the end of the turn.
    pub fn send_datagram_to(
        &mut self,
        from: DatagramId,
        to: impl Into<Address>,
        data: impl AsRef<[u8]>,
    ) -> Posted {
        self.core_mut().enqueue_datagram(from, Some(to.into()), data.as_ref())
    }

    /// Sends a datagram to the peer of a socket in connected mode. It is sent at the end of the turn.
    pub fn send_datagram(&mut self, from: DatagramId, data: impl AsRef<[u8]>) -> Posted {
        self.core_mut().enqueue_datagram(from, None, data.as_ref())
    }

    /// How many datagrams wait to be sent from a socket; `None` when it is gone.
    pub fn pending_datagrams(&self, id: DatagramId) -> Option<usize> {
        self.core().datagrams.get(id).map(|m| m.pending())
    }

    /// Closes a datagram socket: nothing is received any more, and what waits is sent, for
    /// [`Limits::linger_total`](crate::Limits::linger_total) at most; what is left then is dropped, and counted. False
    /// when it is closing already.
    pub fn close_datagram(&mut self, id: DatagramId) -> bool {
        self.core_mut().close_datagram(id)
    }
}
