//! What is written down of each call, and the names that peers have in it.
//!
//! Knows no pipes. Invariant: two peers have two addresses.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::address::Address;
use crate::sys::CloseHow;

/// One call, in the order in which the loop made them. Streams are named by their peer's number.
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
    /// A socket that connects, by its peer's number; and whether it has.
    Connect(Result<usize, i32>),
    FinishConnect(usize, Result<usize, i32>),
    Lookup(u64),
    AddSource(usize),
    RemoveSource,
    /// Of a datagram socket, by its number.
    Receive(usize, Result<usize, i32>),
    SendDatagram(usize, Result<usize, i32>),
    CloseDatagram(usize),
}

/// Peers that have one IP address.
const PORTS: usize = 25_000;
const FIRST_PORT: usize = 40_000;

/// The address of a peer.
pub(super) fn address_of(peer: usize) -> Address {
    let [high, low] = ((peer / PORTS) as u16).to_be_bytes();
    Address::Tcp(SocketAddr::from(([127, high, low, 1], (FIRST_PORT + peer % PORTS) as u16)))
}

/// The peer that has an address.
pub(crate) fn peer_at(address: &Address) -> Option<usize> {
    let Some(SocketAddr::V4(at)) = address.tcp() else { return None };
    let [_, high, low, _] = at.ip().octets();
    let port = usize::from(at.port()).checked_sub(FIRST_PORT)?;
    Some(usize::from(u16::from_be_bytes([high, low])) * PORTS + port)
}

/// What a traced call came to.
pub(super) fn outcome(result: &io::Result<usize>) -> Result<usize, i32> {
    result.as_ref().map(|&n| n).map_err(|e| e.raw_os_error().unwrap_or(0))
}
