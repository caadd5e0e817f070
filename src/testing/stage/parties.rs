//! The parties on a stage besides the handler: its clients with the states of their connections, and the hosts that
//! it can connect to.
//!
//! Plain data; the methods are in `clients` and `hosts`.

use std::fmt;
use std::net::SocketAddr;

use super::client_codec::Decoder;
use crate::closed::Reason;

/// The far end of one connection.
pub(super) struct Client {
    pub(super) name: String,
    /// Its index in the scripted system.
    pub(super) peer: usize,
    pub(super) reading: bool,
    /// It has closed its end, or reset the connection.
    pub(super) finished: bool,
    /// Received and not consumed yet.
    pub(super) unheard: Vec<u8>,
    pub(super) ear: Option<Box<dyn Decoder>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, reading, finished, unheard, .. } = self;
        write!(f, "{name} (reading: {reading}, finished: {finished}, unheard: {} B)", unheard.len())
    }
}

impl Client {
    pub(super) const fn new(name: String, peer: usize, ear: Option<Box<dyn Decoder>>) -> Self {
        Self { name, peer, reading: true, finished: false, unheard: Vec::new(), ear }
    }
}

/// The state of a client's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ClientState {
    Waiting,
    Open,
    Closing,
    Ended(Reason),
}

impl fmt::Display for ClientState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => f.write_str("it waits to be accepted"),
            Self::Open => f.write_str("its connection is open"),
            Self::Closing => f.write_str("its connection is closing, and has not ended yet"),
            Self::Ended(why) => write!(f, "its connection has ended: {}", why.name()),
        }
    }
}

/// A host that the handler can connect to.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: String,
    /// As the handler writes it.
    pub(super) address: String,
    /// The address it resolves to, if it is a host name.
    pub(super) found: SocketAddr,
    /// The number of connections made to it.
    pub(super) times: usize,
}

impl Host {
    pub(super) fn is_at(&self, address: &str) -> bool {
        self.address == address || self.found.to_string() == address
    }
}
