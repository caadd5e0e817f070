//! One datagram socket of the scripted system: what has arrived on it, and what was sent from it.
//!
//! Invariant: datagrams stay in the order in which they arrived or were sent.

use std::collections::VecDeque;

use crate::config::address::Address;
use crate::sys::datagram::LocalIp;

/// What the next receive call returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// A datagram: its sender, the local address that it was sent to, and its bytes.
    From(Address, Option<LocalIp>, Vec<u8>),
    /// The same, to a multicast group or a broadcast address.
    ToMany(Address, Option<LocalIp>, Vec<u8>),
    Fail(i32),
}

/// The kernel's side of a datagram socket.
#[derive(Debug)]
pub(crate) struct ScriptSocket {
    pub(super) local: Address,
    pub(super) peer: Option<Address>,
    pub(crate) token: Option<usize>,
    pub(crate) inbox: VecDeque<Came>,
    /// The datagrams sent, with their destinations (`None`: the connected peer) and the addresses they were sent from.
    pub(crate) sent: Vec<(Option<Address>, Option<LocalIp>, Vec<u8>)>,
    /// How many more datagrams the kernel accepts.
    pub(crate) window: usize,
    /// The errors of the next sends; 0 lets one succeed.
    pub(crate) answers: VecDeque<i32>,
    /// Receivers whose queues are full: sends to them return [`PeerFull`](crate::sys::datagram::SendStatus::PeerFull).
    pub(crate) stuck: Vec<Address>,
    pub(super) readable_armed: bool,
    pub(super) writable_armed: bool,
    pub(crate) closed: bool,
}

impl ScriptSocket {
    /// Returns what was sent since the last call, as text: `7001<hello`, or `7001<hello from 192.0.2.1`.
    pub(crate) fn said(&mut self) -> Vec<String> {
        let shown = |(to, via, data): (Option<Address>, Option<LocalIp>, Vec<u8>)| {
            let to = to.map_or_else(|| "peer".to_owned(), |a| a.tcp().map_or(a.to_string(), |a| a.port().to_string()));
            let via = via.map_or_else(String::new, |via| format!(" from {}", via.ip));
            format!("{to}<{}{via}", data.escape_ascii())
        };
        std::mem::take(&mut self.sent).into_iter().map(shown).collect()
    }
}
