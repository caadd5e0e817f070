//! The recorded form of each call, and the addresses of peers.
//!
//! Invariant: two peers have different addresses.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::address::Address;
use crate::sys::CloseHow;

/// One call of the loop. Streams are identified by their peer's index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Poll(Option<Duration>),
    Accept(usize, Result<usize, i32>),
    Add(usize),
    Read(usize, Result<usize, i32>),
    Write(usize, Result<usize, i32>),
    ShutdownWrite(usize),
    TakeError(usize),
    Close(usize, CloseHow),
    CloseListener(usize),
    /// A connecting socket, by its peer's index; then the result of
    /// [`Sys::finish_connect`](crate::sys::Sys::finish_connect).
    Connect(Result<usize, i32>),
    FinishConnect(usize, Result<usize, i32>),
    Lookup(u64),
    AddSource(usize),
    RemoveSource,
    /// Calls on a datagram socket, by its index.
    Receive(usize, Result<usize, i32>),
    SendDatagram(usize, Result<usize, i32>),
    CloseDatagram(usize),
}

/// The number of peers that share one IP address, and their first port. Chosen: 40,000 + 25,000 stays below 65,536.
const PORTS: usize = 25_000;
const FIRST_PORT: usize = 40_000;

/// Returns the address of a peer.
pub(super) fn address_of(peer: usize) -> Address {
    let [high, low] = ((peer / PORTS) as u16).to_be_bytes();
    Address::Tcp(SocketAddr::from(([127, high, low, 1], (FIRST_PORT + peer % PORTS) as u16)))
}

/// Returns the peer that has an address.
pub(crate) fn peer_at(address: &Address) -> Option<usize> {
    let Some(SocketAddr::V4(at)) = address.tcp() else { return None };
    let [_, high, low, _] = at.ip().octets();
    let port = usize::from(at.port()).checked_sub(FIRST_PORT)?;
    Some(usize::from(u16::from_be_bytes([high, low])) * PORTS + port)
}

/// The result of a call, as it is recorded.
pub(super) fn outcome(result: &io::Result<usize>) -> Result<usize, i32> {
    result.as_ref().map(|&n| n).map_err(|e| e.raw_os_error().unwrap_or(0))
}
