//! The seam's part for datagram sockets.
//!
//! Nothing here knows what a datagram is for. Invariant: as for the seam; and a world that answered `WouldBlock` owes
//! an edge, one that answered [`SendStatus::PeerFull`] owes none.

use std::io;

use crate::config::address::Address;
use crate::config::datagram::{DatagramBind, DatagramOptions};

/// What became of a datagram that was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendStatus {
    /// The kernel has it.
    Sent,
    /// The receiver takes no more now, and no event will tell when it does: its queue is full, not ours.
    PeerFull,
}

/// Everything the loop may ask of datagram sockets.
pub(crate) trait DatagramSys {
    type Datagram;

    /// Binds a datagram socket, or takes over one that is already bound.
    fn bind_datagram(&mut self, at: DatagramBind, options: &DatagramOptions) -> io::Result<Self::Datagram>;

    /// Where a socket is really bound, and the peer that it is connected to.
    fn datagram_addresses(&self, of: &Self::Datagram) -> io::Result<(Address, Option<Address>)>;

    /// Registers a socket. Once, for its life.
    fn add_datagram(&mut self, socket: &mut Self::Datagram, token: usize) -> io::Result<()>;

    /// Takes one datagram: its length and where it comes from. A length of the whole of `buf` (never empty) says that
    /// it may have been longer. `Interrupted` is retried inside.
    fn receive(&mut self, socket: &mut Self::Datagram, buf: &mut [u8]) -> io::Result<(usize, Address)>;

    /// Sends one datagram, to `to` or to the socket's peer. Raises no signal. `Interrupted` is retried inside;
    /// `WouldBlock` says that readiness will be reported.
    fn send_datagram(
        &mut self,
        socket: &mut Self::Datagram,
        to: Option<&Address>,
        data: &[u8],
    ) -> io::Result<SendStatus>;

    /// Deregisters, where it was registered, closes, and removes the file of a Unix socket that is ours.
    fn close_datagram(&mut self, socket: Self::Datagram);
}
