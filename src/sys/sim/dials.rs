//! The records of connect attempts and lookups in the simulated system, and the marks that addresses carry.
//!
//! Invariant: each mark has a bounded number of addresses.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::dice::Dice;
use crate::config::address::Address;

/// One call of [`Sys::connect`](crate::sys::Sys::connect).
#[derive(Debug)]
pub(crate) struct Dial {
    /// The mark of its address.
    pub(crate) mark: Option<u64>,
    /// The peer, or `None` if the call failed.
    pub(crate) peer: Option<usize>,
    pub(crate) at: u64,
    /// It failed because descriptors had run out. The loop repeats it at once if one is about to come free.
    pub(crate) shortage: bool,
    /// When the previous socket for the same mark began, if it was still connecting and none has failed since.
    pub(crate) beside: Option<u64>,
}

/// One lookup.
#[derive(Debug)]
pub(crate) struct Lookup {
    pub(super) number: u64,
    pub(crate) mark: Option<u64>,
    pub(crate) at: u64,
    /// When it will be answered, whether it was, and whether it was cancelled.
    pub(super) due: u64,
    pub(super) answered: bool,
    pub(super) cancelled: bool,
    pub(super) fails: bool,
    /// The number of addresses in the answer.
    pub(super) addresses: usize,
}

/// All connect attempts and lookups of a run.
#[derive(Debug, Default)]
pub(crate) struct Dials {
    pub(crate) dials: Vec<Dial>,
    pub(crate) lookups: Vec<Lookup>,
    /// The highest number of simultaneous lookups.
    pub(crate) most_lookups: usize,
    /// The errors that the loop got, each with its mark.
    pub(crate) told: Vec<(Option<u64>, ErrorKind)>,
    /// When the loop last got an error, by mark.
    pub(super) trouble: BTreeMap<u64, u64>,
    /// Connecting sockets: when the result is known, the peer, and the error if it fails.
    pub(super) pending: Vec<(u64, usize, Option<i32>)>,
    pub(super) found: VecDeque<(u64, io::Result<Vec<SocketAddr>>)>,
    /// Peers connected since the last call of [`Sim::take_born`](super::Sim::take_born).
    pub(super) born: Vec<usize>,
    /// All connections are refused.
    pub(super) closed: bool,
}

/// Returns the `n`-th address of a mark.
pub(crate) fn marked(mark: u64, n: usize, v6: bool) -> SocketAddr {
    let [.., high, low] = mark.to_be_bytes();
    let ip: IpAddr = match v6 {
        true => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, n as u16, mark as u16).into(),
        false => [10, n as u8, high, low].into(),
    };
    (ip, 7).into()
}

/// Returns the mark of an address or a path.
pub(crate) fn mark_of(address: &Address) -> Option<u64> {
    match address {
        Address::Tcp(SocketAddr::V4(a)) => match a.ip().octets() {
            [10, _, high, low] => Some(u64::from(u16::from_be_bytes([high, low]))),
            _ => None,
        },
        Address::Tcp(SocketAddr::V6(a)) => (a.ip().segments()[0] == 0xfd00).then(|| a.ip().segments()[7].into()),
        Address::Unix(path) => mark_of_name(path.as_ref()?.to_str()?.strip_prefix('/')?),
    }
}

pub(super) fn mark_of_name(name: &str) -> Option<u64> {
    name.strip_prefix("mark")?.parse().ok()
}

impl Lookup {
    /// Returns `true` if it will still be answered, even if it was cancelled.
    pub(super) const fn is_open(&self) -> bool {
        !self.answered
    }

    pub(super) fn answer(&self) -> io::Result<Vec<SocketAddr>> {
        if self.fails {
            return Err(ErrorKind::NotFound.into());
        }
        let mut dice = Dice::new(self.number ^ self.at);
        let mark = self.mark.unwrap_or(u64::from(u16::MAX));
        Ok((0..self.addresses).map(|n| marked(mark, n, dice.one_in(2))).collect())
    }
}
