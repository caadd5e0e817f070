//! The user's side of datagrams: the `DatagramHandler` trait and the context of its callbacks.
//!
//! Invariant: as for [`Net`], every method only changes memory of the core.

use std::any::Any;
use std::io;
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};

use crate::config::address::Address;
use crate::core::{Core, Posted};
use crate::handler::net::Net;
use crate::id::{DatagramId, HandlerIdx};

/// A datagram protocol, over UDP or Unix datagrams. One handler may serve any number of sockets. A type may implement
/// [`Handler`](crate::Handler) as well; then one value serves connections and datagrams.
///
/// Callbacks return no errors and never nest. No peer and no network error closes a socket. It ends when it is
/// [closed](DatagramContext::close), or with the reactor.
///
/// A panic in a callback is logged and counted, and costs the datagram that it was called for: the socket stays open,
/// because the next datagram may be from somebody else. The same handler gets it, in the state in which the panic left
/// it.
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
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler of datagrams: it does not implement `DatagramHandler`",
    label = "not a `DatagramHandler`",
    note = "the `Key` of a handler that was added before is passed to `bind_on(address, key)`, not to `bind`",
    note = "a `Handler`, which serves connections, is passed to `listen`, or added with `add`"
)]
pub trait DatagramHandler: 'static {
    /// Called when a datagram has arrived; it may be empty. Never called after the socket began to close.
    fn on_datagram(&mut self, cx: &mut DatagramContext<'_>, from: &Address, data: &[u8]);

    /// Called when a datagram longer than `max` bytes, the [maximum](crate::Datagrams::max_size) of the socket, has
    /// arrived. It was discarded whole and counted.
    fn on_truncated(&mut self, cx: &mut DatagramContext<'_>, from: &Address, max: usize) {
        let _ = (cx, from, max);
    }

    /// Called when the send queue is empty again, after a datagram was [dropped](Posted::Dropped) or more than half of
    /// [`Limits::datagram_queue`](crate::Limits::datagram_queue) was queued.
    fn on_drain(&mut self, cx: &mut DatagramContext<'_>) {
        let _ = cx;
    }

    /// Called when the OS reported an error, for example `ECONNREFUSED` on a connected socket, or a datagram that
    /// could not be sent (it was dropped and counted). The socket stays open.
    fn on_error(&mut self, cx: &mut DatagramContext<'_>, error: &io::Error) {
        let _ = (cx, error);
    }

    /// Called when a timer of the handler fires; `key` is the value it was set with. If the type also implements
    /// [`Handler`](crate::Handler) and was [added](crate::Reactor::add) as one, the method of that trait is called
    /// instead.
    fn on_tick(&mut self, net: &mut Net<'_>, key: u64) {
        let _ = (net, key);
    }

    /// Called when a note was posted to the handler, from any thread. The exception of [`on_tick`](Self::on_tick)
    /// applies.
    fn on_note(&mut self, net: &mut Net<'_>, note: Box<dyn Any + Send>) {
        let _ = (net, note);
    }

    /// Called when the reactor is shutting down. The default closes the socket. A socket still open when the grace
    /// period is over is closed then.
    fn on_shutdown(&mut self, cx: &mut DatagramContext<'_>) {
        cx.close();
    }

    /// Called last, when a socket has ended. Sends are rejected.
    fn on_close(&mut self, net: &mut Net<'_>, id: DatagramId) {
        let _ = (net, id);
    }
}

/// The context of a datagram socket's callback: its socket and, through [`Net`], everything else.
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

    /// Returns the socket's id. After the socket is removed it refers to nothing.
    pub const fn id(&self) -> DatagramId {
        self.id
    }

    /// Returns the actions that need no current socket, including those hidden by a method of the same name here.
    pub const fn net(&mut self) -> &mut Net<'a> {
        &mut self.net
    }

    /// Returns the address to which the socket is bound.
    pub fn local_addr(&self) -> Address {
        self.net.core().datagrams.slots.get(self.id).map_or(Address::Unix(None), |m| m.local.clone())
    }

    /// Returns the local address that the datagram of this callback was sent to: for a UDP socket that is bound to the
    /// unspecified address (`0.0.0.0`, `::`), on Linux and Apple systems. An answer to its sender leaves from
    /// there, so that a client which has connected its socket receives it; what is sent to it after the callback leaves
    /// from an address that the system chooses. On other systems it is always the system that chooses; there, bind a
    /// socket to each address.
    pub fn asked_addr(&self) -> Option<IpAddr> {
        self.net.core().datagrams.slots.get(self.id)?.asked.as_ref().map(|(_, asked)| asked.ip)
    }

    /// Returns the peer of a socket in connected mode.
    pub fn peer(&self) -> Option<Address> {
        self.net.core().datagrams.slots.get(self.id)?.peer.clone()
    }

    /// Sends a datagram as soon as the callback returns.
    pub fn send_to(&mut self, to: impl Into<Address>, data: impl AsRef<[u8]>) -> Posted {
        self.net.send_datagram_to(self.id, to, data)
    }

    /// Sends a datagram to the peer, in connected mode, as soon as the callback returns.
    pub fn send(&mut self, data: impl AsRef<[u8]>) -> Posted {
        self.net.send_datagram(self.id, data)
    }

    /// Returns how many datagrams are queued for sending.
    pub fn pending(&self) -> usize {
        self.net.pending_datagrams(self.id).unwrap_or(0)
    }

    /// Closes the socket once its queue is sent; see [`Net::close_datagram`].
    pub fn close(&mut self) {
        self.net.close_datagram(self.id);
    }
}

impl Net<'_> {
    /// Queues a datagram on any socket. It is sent at the end of the turn.
    pub fn send_datagram_to(&mut self, from: DatagramId, to: impl Into<Address>, data: impl AsRef<[u8]>) -> Posted {
        self.core_mut().enqueue_datagram(from, Some(to.into()), data.as_ref())
    }

    /// Queues a datagram to the peer of a socket in connected mode. It is sent at the end of the turn.
    pub fn send_datagram(&mut self, from: DatagramId, data: impl AsRef<[u8]>) -> Posted {
        self.core_mut().enqueue_datagram(from, None, data.as_ref())
    }

    /// Returns how many datagrams are queued on a socket; `None` if it has been removed.
    pub fn pending_datagrams(&self, id: DatagramId) -> Option<usize> {
        self.core().datagrams.slots.get(id).map(|m| m.pending())
    }

    /// Closes a datagram socket: stops receiving and sends what is queued, for at most
    /// [`Limits::linger_total`](crate::Limits::linger_total). What is left then is dropped and counted. Returns
    /// `false` if it is closing already.
    pub fn close_datagram(&mut self, id: DatagramId) -> bool {
        self.core_mut().close_datagram(id)
    }
}
