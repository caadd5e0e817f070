//! What was connected to and looked up in the seeded world, and the marks that addresses carry.
//!
//! Knows neither the loop nor the world. Invariant: an address with a mark names one of a bounded number of places.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::dice::Dice;
use crate::config::address::Address;

/// One call that connects.
#[derive(Debug)]
pub(crate) struct Dial {
    /// The mark of its address.
    pub(crate) mark: Option<u64>,
    /// `None`: the call failed.
    pub(crate) peer: Option<usize>,
    pub(crate) at: u64,
    /// When the socket before for the same mark began, if it was still connecting, and none had failed since.
    pub(crate) beside: Option<u64>,
}

/// One lookup.
#[derive(Debug)]
pub(crate) struct Lookup {
    pub(super) number: u64,
    pub(crate) mark: Option<u64>,
    pub(crate) at: u64,
    /// When it is answered, and whether it was; or whether nobody wants to know any more.
    pub(super) due: u64,
    pub(super) answered: bool,
    pub(super) cancelled: bool,
    pub(super) fails: bool,
    /// How many addresses there are.
    pub(super) addresses: usize,
}

/// What goes on, and what went on.
#[derive(Debug, Default)]
pub(crate) struct Dials {
    pub(crate) dials: Vec<Dial>,
    pub(crate) lookups: Vec<Lookup>,
    /// The most lookups that went on at once.
    pub(crate) most_lookups: usize,
    /// What the loop was told had gone wrong, for which mark.
    pub(crate) told: Vec<(Option<u64>, ErrorKind)>,
    /// When it was last told so.
    pub(super) trouble: BTreeMap<u64, u64>,
    /// Sockets that connect: when that is decided, and with which error.
    pub(super) pending: Vec<(u64, usize, Option<i32>)>,
    pub(super) found: VecDeque<(u64, io::Result<Vec<SocketAddr>>)>,
    /// Those that have come about since this was last asked for.
    pub(super) born: Vec<usize>,
    /// Nobody can be reached any more.
    pub(super) closed: bool,
}

/// An address with a mark: one of several, by its number among them.
pub(crate) fn marked(mark: u64, n: usize, v6: bool) -> SocketAddr {
    let [.., high, low] = mark.to_be_bytes();
    let ip: IpAddr = match v6 {
        true => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, n as u16, mark as u16).into(),
        false => [10, n as u8, high, low].into(),
    };
    (ip, 7).into()
}

/// The mark that an address, a path or a host name carries.
pub(crate) fn mark_of(address: &Address) -> Option<u64> {
    match address {
        Address::Tcp(SocketAddr::V4(a)) => match a.ip().octets() {
            [10, _, high, low] => Some(u64::from(u16::from_be_bytes([high, low]))),
            _ => None,
        },
        Address::Tcp(SocketAddr::V6(a)) => {
            (a.ip().segments()[0] == 0xfd00).then(|| a.ip().segments()[7].into())
        }
        Address::Unix(path) => mark_of_name(path.as_ref()?.to_str()?.strip_prefix('/')?),
    }
}

pub(super) fn mark_of_name(name: &str) -> Option<u64> {
    name.strip_prefix("mark")?.parse().ok()
}

impl Lookup {
    /// It is to be answered, whoever wants to know.
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
