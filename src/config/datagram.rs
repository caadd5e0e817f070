//! Which datagram socket to bind: an address or a socket that is already bound, with options.
//!
//! These are values: nothing here opens a socket. A socket passed in by the caller is not changed.
//!
//! Invariant: the options that [`Datagrams::into_parts`] returns are in range for every system call that takes them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
#[cfg(unix)]
use std::path::PathBuf;

use crate::config::address::{Address, AddressError, Endpoint, Problem};
use crate::config::builder::{BindTo, from_addresses, setters};
use crate::config::listen::not_zero;

/// The largest permitted [`Datagrams::max_size`] in bytes (chosen): a receive buffer of this size is allocated.
const MOST: usize = 16 * 1024 * 1024;

/// A network interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interface {
    /// The interface that the system chooses.
    #[default]
    Any,
    /// The interface with this address. IPv4 only.
    Address(Ipv4Addr),
    /// The interface with this index, as shown by `ip link`. Some systems do not accept an index for IPv4.
    Index(u32),
}

/// Which datagram socket to bind, with options: UDP over IPv4 or IPv6, or Unix datagrams.
///
/// It converts from anything that names an address: a string, a [`SocketAddr`], an [`Endpoint`], or a socket that is
/// already bound. An invalid string is reported when the value is used.
///
/// ```
/// use turnwheel::{Datagrams, Interface};
///
/// let client = Datagrams::new("0.0.0.0:0").peer("192.0.2.1:53");
/// let group = Datagrams::new("0.0.0.0:5000").join([239, 1, 2, 3], Interface::Any).max_size(1500);
/// let local = Datagrams::new("unix:/run/app.sock").unix_mode(0o660);
/// # let _ = (client, group, local);
/// ```
///
/// The file of a Unix socket is created with its mode. It replaces a stale socket file of a program of the same user
/// that no longer runs, and nothing else. It is removed when the socket is closed. A peer must bind a path to receive
/// replies.
///
/// A socket that is already bound keeps its settings; the options set here are applied in addition. If it has a socket
/// file, the file is left alone.
#[derive(Debug)]
pub struct Datagrams {
    to: Result<BindTo<DatagramBind>, AddressError>,
    peer: Option<Result<Endpoint, AddressError>>,
    options: DatagramOptions,
}

impl Datagrams {
    /// Binds to `at` with the default options.
    pub fn new(at: impl Into<Self>) -> Self {
        at.into()
    }

    /// Sets connected mode: datagrams are sent to and received from this address only, and the system reports errors
    /// such as an unreachable peer ([`on_error`](crate::DatagramHandler::on_error)). The address is written like the
    /// address to bind to; a host name is looked up once.
    pub fn peer(mut self, at: impl fmt::Display) -> Self {
        self.peer = Some(at.to_string().parse());
        self
    }

    setters! {
        /// Sets `SO_BROADCAST`: the socket may send to broadcast addresses. Default: off; sending to one is then an
        /// error.
        broadcast(on: bool) = on;
    }

    /// Joins a multicast group on an interface. May be called any number of times.
    pub fn join(mut self, group: impl Into<IpAddr>, on: Interface) -> Self {
        self.options.groups.push((group.into(), on));
        self
    }

    setters! {
        /// Sets the interface from which multicast datagrams are sent. Default: chosen by the system.
        multicast_interface(interface: Interface) = interface;

        /// Sets whether multicast datagrams are looped back to members on this host. Default: on, as in all systems.
        multicast_loop(on: bool) = Some(on);

        /// Sets the time to live (hop limit) of multicast datagrams. Default: 1, the local network.
        multicast_ttl(hops: u8) = Some(hops);

        /// Sets the longest datagram to receive, in bytes (1 to 16 MiB). A longer one is discarded whole, counted and
        /// reported ([`on_truncated`](crate::DatagramHandler::on_truncated)). Default: 65 535, so that every UDP
        /// datagram fits (its length field has 16 bits).
        max_size(bytes: usize) = bytes;

        /// Sets how many datagrams are received from one source address (with its port) in a second, at most; more are
        /// discarded and counted. Two servers that answer whatever comes can be made to answer each other for ever, by
        /// one datagram with a forged source; this bounds it. Default: no limit. Zero is rejected.
        source_rate(datagrams: u32) = Some(datagrams);

        /// Sets `SO_REUSEPORT`: several sockets may be bound to the same UDP port. Each datagram goes to one of them;
        /// a multicast or broadcast datagram goes to all. Default: off. On systems without it, binding fails with
        /// `Unsupported`.
        reuse_port(on: bool) = on;

        /// Sets `IPV6_V6ONLY`: an IPv6 socket rejects IPv4. Default: off, so that `[::]:7000` serves both.
        v6_only(on: bool) = on;

        /// Sets the kernel's receive buffer, in bytes. Datagrams that arrive faster than they are read and do not fit
        /// are lost without notice. Default: chosen by the system. Zero is rejected.
        receive_buffer(bytes: usize) = Some(bytes);

        /// Sets the kernel's send buffer, in bytes. Default: chosen by the system. Zero is rejected.
        send_buffer(bytes: usize) = Some(bytes);

        /// Sets the permissions of a Unix socket's file; sending to it requires write permission. Default: `0o600`,
        /// the owner only.
        unix_mode(mode: u32) = mode;
    }

    /// Returns what to bind or take over, the peer to connect to and the options, after checking all of them.
    pub(crate) fn into_parts(self) -> Result<(BindTo<DatagramBind>, Option<Endpoint>, DatagramOptions), AddressError> {
        let to = self.to?;
        let peer = self.peer.transpose()?;
        peer.iter().try_for_each(Endpoint::validate)?;
        to.check()?;
        self.options.check().map_err(|problem| AddressError { about: format!("options for {to}"), problem })?;
        Ok((to, peer, self.options))
    }

    fn of_endpoint(endpoint: Result<Endpoint, AddressError>) -> Self {
        Self::with(endpoint.map(BindTo::Endpoint))
    }

    fn of_address(address: SocketAddr) -> Self {
        Self::with(Ok(BindTo::Socket(DatagramBind::Udp(address))))
    }

    fn with(to: Result<BindTo<DatagramBind>, AddressError>) -> Self {
        Self { to, peer: None, options: DatagramOptions::default() }
    }
}

from_addresses!(Datagrams);

impl From<std::net::UdpSocket> for Datagrams {
    fn from(socket: std::net::UdpSocket) -> Self {
        Self::with(Ok(BindTo::Socket(DatagramBind::UdpSocket(socket))))
    }
}

#[cfg(unix)]
impl From<std::os::unix::net::UnixDatagram> for Datagrams {
    fn from(socket: std::os::unix::net::UnixDatagram) -> Self {
        Self::with(Ok(BindTo::Socket(DatagramBind::UnixDatagram(socket))))
    }
}

/// One socket to bind or to take over.
#[derive(Debug)]
pub(crate) enum DatagramBind {
    Udp(SocketAddr),
    #[cfg(unix)]
    Unix(PathBuf),
    UdpSocket(std::net::UdpSocket),
    #[cfg(unix)]
    UnixDatagram(std::os::unix::net::UnixDatagram),
}

impl fmt::Display for DatagramBind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(address) => address.fmt(f),
            #[cfg(unix)]
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::UdpSocket(_) => f.write_str("the given UDP socket"),
            #[cfg(unix)]
            Self::UnixDatagram(_) => f.write_str("the given Unix datagram socket"),
        }
    }
}

/// The options of a datagram socket. See the setters of [`Datagrams`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DatagramOptions {
    pub(crate) broadcast: bool,
    pub(crate) groups: Vec<(IpAddr, Interface)>,
    pub(crate) multicast_interface: Interface,
    pub(crate) multicast_loop: Option<bool>,
    pub(crate) multicast_ttl: Option<u8>,
    pub(crate) max_size: usize,
    pub(crate) source_rate: Option<u32>,
    pub(crate) reuse_port: bool,
    pub(crate) v6_only: bool,
    pub(crate) receive_buffer: Option<usize>,
    pub(crate) send_buffer: Option<usize>,
    pub(crate) unix_mode: u32,
    /// The peer to connect to, set after its name has been looked up.
    pub(crate) peer: Option<Address>,
}

impl Default for DatagramOptions {
    fn default() -> Self {
        Self {
            broadcast: false,
            groups: Vec::new(),
            multicast_interface: Interface::Any,
            multicast_loop: None,
            multicast_ttl: None,
            max_size: 65_535,
            source_rate: None,
            reuse_port: false,
            v6_only: false,
            receive_buffer: None,
            send_buffer: None,
            unix_mode: 0o600,
            peer: None,
        }
    }
}

impl DatagramOptions {
    fn check(&self) -> Result<(), Problem> {
        let refuse = |name, must: String| Err(Problem::Option(name, must));
        if !(1..=MOST).contains(&self.max_size) {
            return refuse("maximum size", format!("must be 1 to {MOST} bytes, not {}", self.max_size));
        }
        not_zero("receive buffer", self.receive_buffer)?;
        not_zero("send buffer", self.send_buffer)?;
        not_zero("rate of a source", self.source_rate.map(|n| n as usize))?;
        if self.unix_mode > 0o777 {
            return refuse("mode", format!("must be 0 to 0o777, not {:#o}", self.unix_mode));
        }
        for (group, interface) in &self.groups {
            if !group.is_multicast() {
                let must = "must be from 224.0.0.0 to 239.255.255.255 or begin with ff";
                return refuse("multicast group", format!("{must}, not {group}"));
            }
            if group.is_ipv6() && matches!(interface, Interface::Address(_)) {
                return refuse("interface", format!("must be given by its index for {group}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(datagrams: Datagrams) -> String {
        datagrams.into_parts().unwrap_err().to_string()
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        let plain = || Datagrams::new("[::1]:7000");
        let said = refused(plain().max_size(0));
        assert_eq!(said, "options for [::1]:7000: the maximum size must be 1 to 16777216 bytes, not 0");
        assert!(refused(plain().max_size(MOST + 1)).contains("not 16777217"));
        assert!(refused(plain().receive_buffer(0)).contains("the receive buffer must be at least 1"));
        assert!(refused(plain().send_buffer(0)).contains("the send buffer must be at least 1"));
        assert!(refused(plain().source_rate(0)).contains("the rate of a source must be at least 1"));
        assert!(refused(plain().unix_mode(0o1000)).contains("the mode must be 0 to 0o777, not 0o1000"));
        let said = refused(plain().join([192, 0, 2, 1], Interface::Any));
        assert!(said.ends_with("or begin with ff, not 192.0.2.1"), "{said}");
        let there = Interface::Address(Ipv4Addr::LOCALHOST);
        let said = refused(plain().join([0xff02, 0, 0, 0, 0, 0, 0, 1], there));
        assert!(said.ends_with("the interface must be given by its index for ff02::1"), "{said}");
    }

    #[test]
    fn a_bad_address_is_told_when_it_is_used() {
        assert!(refused(Datagrams::new("localhost")).starts_with("\"localhost\" is not a valid address"));
        let said = refused(Datagrams::new("0.0.0.0:0").peer("::1:5"));
        assert!(said.starts_with("\"::1:5\" is not a valid address: more than one colon"), "{said}");
        assert!(refused(Endpoint::Tcp { host: "a b".into(), port: 1 }.into()).contains("' ' cannot be part"));
    }

    #[test]
    fn options_are_kept_and_have_defaults() {
        let (to, peer, plain) = Datagrams::new("h:1").into_parts().unwrap();
        // The documented ones.
        let defaults = DatagramOptions {
            broadcast: false,
            groups: Vec::new(),
            multicast_interface: Interface::Any,
            multicast_loop: None,
            multicast_ttl: None,
            max_size: 65_535,
            source_rate: None,
            reuse_port: false,
            v6_only: false,
            receive_buffer: None,
            send_buffer: None,
            unix_mode: 0o600,
            peer: None,
        };
        assert_eq!((to.to_string().as_str(), peer, plain), ("h:1", None, defaults));
        let address: SocketAddr = "[::1]:9".parse().unwrap();
        let (to, peer, options) = Datagrams::new(address).peer(address).broadcast(true).into_parts().unwrap();
        assert_eq!((to.to_string(), peer.unwrap().to_string()), ("[::1]:9".into(), "[::1]:9".into()));
        assert_eq!(options, DatagramOptions { broadcast: true, ..DatagramOptions::default() });
    }
}
