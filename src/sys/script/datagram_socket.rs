//! One datagram socket of the scripted world: what has come to it, and what was sent from it.
//!
//! Knows neither events nor the loop. Invariant: datagrams lie in the order in which they came or were sent.

use std::collections::VecDeque;

use crate::config::address::Address;

/// What a socket is to receive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    From(Address, Vec<u8>),
    Fail(i32),
}

/// A datagram socket, as the world sees it.
#[derive(Debug)]
pub(crate) struct ScriptSocket {
    pub(super) local: Address,
    pub(super) peer: Option<Address>,
    pub(crate) token: Option<usize>,
    pub(crate) inbox: VecDeque<Came>,
    /// What was sent, and where to (`None`: to the peer).
    pub(crate) sent: Vec<(Option<Address>, Vec<u8>)>,
    /// How many datagrams the kernel takes.
    pub(crate) window: usize,
    /// The next sends fail with these errors; 0: this one does not.
    pub(crate) answers: VecDeque<i32>,
    /// Receivers that take nothing, and of which nothing is told.
    pub(crate) stuck: Vec<Address>,
    pub(super) readable_armed: bool,
    pub(super) writable_armed: bool,
    pub(crate) closed: bool,
}

impl ScriptSocket {
    /// What was sent since this was last asked, as text: `7001<hello`.
    pub(crate) fn said(&mut self) -> Vec<String> {
        let shown = |(to, data): (Option<Address>, Vec<u8>)| {
            let to = to.map_or_else(
                || "peer".to_owned(),
                |a| a.tcp().map_or(a.to_string(), |a| a.port().to_string()),
            );
            format!("{to}<{}", data.escape_ascii())
        };
        std::mem::take(&mut self.sent).into_iter().map(shown).collect()
    }
}
