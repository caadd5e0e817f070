//! Which datagram socket to bind, and how: an address or a socket that is bound already, with options.
//!
//! Nothing here opens a socket: these are values. A socket that the caller made is carried along as it is.
//!
//! Invariant: what [`Datagrams::into_parts`] lets pass, every system call can be asked for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
#[cfg(unix)]
use std::path::PathBuf;

use crate::config::address::{Address, AddressError, Endpoint, Problem};
use crate::config::builder::{from_addresses, setters};

/// The largest datagram that a socket may be told to take.
const MOST: usize = 16 * 1024 * 1024;

/// Which of the system's network interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interface {
    /// The one that the system chooses.
    #[default]
    Any,
    /// The one with this address. For IPv4 only.
    Address(Ipv4Addr),
    /// The one with this number, as `ip link` shows it. Not every system takes it for IPv4.
    Index(u32),
}

/// Which datagram socket to bind, and how: UDP over IPv4 or IPv6, or Unix datagrams.
///
/// Anything that names an address becomes one: a string, a [`SocketAddr`], an [`Endpoint`], or a socket that is already
/// bound. A string that is no address is reported when it is used.
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
/// The file of a Unix socket is made with its mode, replaces one that a dead program of the same user left behind,
/// never anything else, and is removed when the socket is closed. CallSite is to be answered must have a file as well.
///
/// A socket that is already bound keeps what it has and is given what was asked for beside; its file, where it has
/// one, is left alone.
#[derive(Debug)]
pub struct Datagrams {
    source: Result<DatagramSource, AddressError>,
    peer: Option<Result<Endpoint, AddressError>>,
    options: DatagramOptions,
}

impl Datagrams {
    /// Binds to `at` with the default options.
    pub fn new(at: impl Into<Self>) -> Self {
        at.into()
    }

    /// Connected mode: datagrams go to this address and come from it alone, and the system tells when there is nobody
    /// ([`on_error`](crate::DatagramHandler::on_error)). It is written like the addresses to bind to; a host name is
    /// looked up once.
    pub fn peer(mut self, at: impl fmt::Display) -> Self {
        self.peer = Some(at.to_string().parse());
        self
    }

    setters! {
        /// Whether it may send to broadcast addresses (`SO_BROADCAST`). Default: no; sending there is then an error.
        broadcast(on: bool) = on;
    }

    /// Receives what is sent to a multicast group, too. Any number of groups, each on an interface.
    pub fn join(mut self, group: impl Into<IpAddr>, on: Interface) -> Self {
        self.options.groups.push((group.into(), on));
        self
    }

    setters! {
        /// The interface from which it sends to multicast groups. Default: what the system chooses.
        multicast_interface(interface: Interface) = interface;

        /// Whether what it sends to a multicast group comes back to members on this host. Default: yes, as everywhere.
        multicast_loop(on: bool) = Some(on);

        /// How many routers what it sends to multicast groups may pass, plus one. Default: 1, the local network.
        multicast_ttl(hops: u8) = Some(hops);

        /// The longest datagram that is taken, in bytes (1 to 16 MiB). A longer one is thrown away whole, counted, and
        /// told ([`on_truncated`](crate::DatagramHandler::on_truncated)). Default: 65 535, which every UDP datagram
        /// fits.
        max_size(bytes: usize) = bytes;

        /// Whether several sockets may be bound to the same UDP port (`SO_REUSEPORT`). Each datagram goes to one of
        /// them, one to a multicast group, or a broadcast, to all. Default: no. Where it is missing, binding fails with
        /// `Unsupported`.
        reuse_port(on: bool) = on;

        /// Whether an IPv6 socket refuses IPv4. Default: no, so that `[::]:7000` serves both.
        v6_only(on: bool) = on;

        /// The kernel's receive buffer, in bytes: what comes faster than it is read and does not fit is lost, and
        /// nobody is told. Default: what the system chooses. Zero is refused.
        receive_buffer(bytes: usize) = Some(bytes);

        /// The kernel's send buffer, in bytes. Default: what the system chooses. Zero is refused.
        send_buffer(bytes: usize) = Some(bytes);

        /// The permissions of a Unix socket's file; sending to it takes the one to write. Default: `0o600`, the user
        /// only.
        unix_mode(mode: u32) = mode;
    }

    /// What to bind or take over, whom to connect to, and how, once all have been checked.
    pub(crate) fn into_parts(
        self,
    ) -> Result<(DatagramSource, Option<Endpoint>, DatagramOptions), AddressError> {
        let source = self.source?;
        let peer = self.peer.transpose()?;
        for endpoint in peer.iter().chain(source.endpoint()) {
            endpoint.check().map_err(|problem| AddressError { about: endpoint.to_string(), problem })?;
        }
        match self.options.check() {
            Ok(()) => Ok((source, peer, self.options)),
            Err(problem) => Err(AddressError { about: format!("cannot bind {source}"), problem }),
        }
    }

    fn of_endpoint(endpoint: Result<Endpoint, AddressError>) -> Self {
        Self::with(endpoint.map(DatagramSource::Endpoint))
    }

    fn of_address(address: SocketAddr) -> Self {
        Self::with(Ok(DatagramSource::Bound(DatagramBind::Udp(address))))
    }

    fn with(source: Result<DatagramSource, AddressError>) -> Self {
        Self { source, peer: None, options: DatagramOptions::default() }
    }
}

from_addresses!(Datagrams);

impl From<std::net::UdpSocket> for Datagrams {
    fn from(socket: std::net::UdpSocket) -> Self {
        Self::with(Ok(DatagramSource::Bound(DatagramBind::UdpSocket(socket))))
    }
}

#[cfg(unix)]
impl From<std::os::unix::net::UnixDatagram> for Datagrams {
    fn from(socket: std::os::unix::net::UnixDatagram) -> Self {
        Self::with(Ok(DatagramSource::Bound(DatagramBind::UnixDatagram(socket))))
    }
}

/// What a [`Datagrams`] names: an endpoint that may stand for several sockets, or one socket.
#[derive(Debug)]
pub(crate) enum DatagramSource {
    Endpoint(Endpoint),
    Bound(DatagramBind),
}

impl DatagramSource {
    const fn endpoint(&self) -> Option<&Endpoint> {
        match self {
            Self::Endpoint(endpoint) => Some(endpoint),
            Self::Bound(_) => None,
        }
    }
}

impl fmt::Display for DatagramSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(endpoint) => endpoint.fmt(f),
            Self::Bound(bind) => bind.fmt(f),
        }
    }
}

/// One concrete socket to bind or to take over.
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

/// How to bind. See [`Datagrams`] for what each means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DatagramOptions {
    pub(crate) broadcast: bool,
    pub(crate) groups: Vec<(IpAddr, Interface)>,
    pub(crate) multicast_interface: Interface,
    pub(crate) multicast_loop: Option<bool>,
    pub(crate) multicast_ttl: Option<u8>,
    pub(crate) max_size: usize,
    pub(crate) reuse_port: bool,
    pub(crate) v6_only: bool,
    pub(crate) receive_buffer: Option<usize>,
    pub(crate) send_buffer: Option<usize>,
    pub(crate) unix_mode: u32,
    /// Whom to connect to, once that has been looked up.
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
        for (name, bytes) in [("receive buffer", self.receive_buffer), ("send buffer", self.send_buffer)] {
            if bytes == Some(0) {
                return refuse(name, "must be at least 1".to_owned());
            }
        }
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
        assert_eq!(said, "cannot bind [::1]:7000: the maximum size must be 1 to 16777216 bytes, not 0");
        assert!(refused(plain().max_size(MOST + 1)).contains("not 16777217"));
        assert!(refused(plain().receive_buffer(0)).contains("the receive buffer must be at least 1"));
        assert!(refused(plain().send_buffer(0)).contains("the send buffer must be at least 1"));
        assert!(refused(plain().unix_mode(0o1000)).contains("the mode must be 0 to 0o777, not 0o1000"));
        let said = refused(plain().join([192, 0, 2, 1], Interface::Any));
        assert!(said.ends_with("or begin with ff, not 192.0.2.1"), "{said}");
        let there = Interface::Address(Ipv4Addr::LOCALHOST);
        let said = refused(plain().join([0xff02, 0, 0, 0, 0, 0, 0, 1], there));
        assert!(said.ends_with("the interface must be given by its index for ff02::1"), "{said}");
    }

    #[test]
    fn a_bad_address_is_told_when_it_is_used() {
        assert!(refused(Datagrams::new("localhost")).starts_with("\"localhost\" is not an address to use"));
        let said = refused(Datagrams::new("0.0.0.0:0").peer("::1:5"));
        assert!(said.starts_with("\"::1:5\" is not an address to use: more than one colon"), "{said}");
        assert!(refused(Endpoint::Tcp { host: "a b".into(), port: 1 }.into()).contains("' ' cannot be part"));
    }

    #[test]
    fn options_are_kept_and_have_defaults() {
        let (source, peer, plain) = Datagrams::new("h:1").into_parts().unwrap();
        assert_eq!((source.to_string().as_str(), peer, plain), ("h:1", None, DatagramOptions::default()));
        let address: SocketAddr = "[::1]:9".parse().unwrap();
        let (source, peer, options) =
            Datagrams::new(address).peer(address).broadcast(true).into_parts().unwrap();
        assert_eq!((source.to_string(), peer.unwrap().to_string()), ("[::1]:9".into(), "[::1]:9".into()));
        assert_eq!(options, DatagramOptions { broadcast: true, ..DatagramOptions::default() });
    }
}
