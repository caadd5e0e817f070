//! The part of the system interface for datagram sockets.
//!
//! Invariant: as for [`Sys`](super::Sys). After `WouldBlock` the implementation owes an edge; after
//! [`SendStatus::PeerFull`] it owes none.

use std::io;
use std::net::IpAddr;

use crate::config::address::Address;
use crate::config::datagram::{DatagramBind, DatagramOptions};

/// A local address, and the interface that it is of (0: any), to send from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LocalIp {
    pub(crate) ip: IpAddr,
    pub(crate) interface: u32,
}

/// A datagram that was received: its length, its sender, and the local address to answer from, which is the one that it
/// was sent to. That is known only for a socket bound to the unspecified address, where the system can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReceivedDatagram {
    pub(crate) len: usize,
    pub(crate) from: Address,
    pub(crate) to: Option<LocalIp>,
    /// It was sent to a multicast group or a broadcast address, as far as is known.
    pub(crate) to_many: bool,
}

/// The result of sending a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendStatus {
    /// The kernel has accepted it.
    Sent,
    /// The queue of the *receiver* is full, not ours. No event reports when it has space again: retry after a delay.
    PeerFull,
}

/// All operations of the event loop on datagram sockets.
pub(crate) trait DatagramSys {
    type Datagram;

    /// Binds a datagram socket, or takes over one that is already bound.
    fn bind_datagram(&mut self, at: DatagramBind, options: &DatagramOptions) -> io::Result<Self::Datagram>;

    /// Returns the address that a socket is bound to, and its peer if it is connected.
    fn datagram_addresses(&self, of: &Self::Datagram) -> io::Result<(Address, Option<Address>)>;

    /// Registers a socket. Called once per socket.
    fn add_datagram(&mut self, socket: &mut Self::Datagram, token: usize) -> io::Result<()>;

    /// Receives one datagram. If its length equals that of `buf` (never empty), it may have been truncated. Retries on
    /// `Interrupted`.
    fn receive(&mut self, socket: &mut Self::Datagram, buf: &mut [u8]) -> io::Result<ReceivedDatagram>;

    /// Sends one datagram, to `to` or to the socket's peer, from `via` or from the address that the system chooses.
    /// Does not raise SIGPIPE. Retries on `Interrupted`. After `WouldBlock`, readiness will be reported.
    fn send_datagram(
        &mut self,
        socket: &mut Self::Datagram,
        to: Option<&Address>,
        via: Option<LocalIp>,
        data: &[u8],
    ) -> io::Result<SendStatus>;

    /// Closes a socket, after deregistering it if it was registered, and removes the file of a Unix socket if this
    /// process created it.
    fn close_datagram(&mut self, socket: Self::Datagram);
}
