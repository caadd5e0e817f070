//! Datagram sockets on mio.
//!
//! Passes on results of the system without decisions of its own. Invariant: an IPv4 address is an IPv4 address to the
//! loop, even on a dual-stack IPv6 socket.

use std::io;
use std::net::SocketAddr;

use ::mio::{Interest, Token};
use socket2::SockRef;

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
use super::packet_info;
#[cfg(unix)]
use super::unix_address;
use super::{MioSys, uninterrupted, unmapped};
use crate::config::address::Address;
use crate::config::datagram::{DatagramBind, DatagramOptions};
use crate::sys::datagram::{DatagramSys, LocalIp, ReceivedDatagram, SendStatus};
use crate::sys::datagram_socket::{of_another_kind, open_udp, tune_udp};
#[cfg(unix)]
use crate::sys::errno::is_full;
use crate::sys::socket;
#[cfg(unix)]
use crate::sys::unix_socket;

/// A datagram socket.
#[derive(Debug)]
pub(crate) struct Datagram {
    /// Declared first, so that it is dropped before the socket: see [`unix_socket::OwnFile`].
    #[cfg(unix)]
    file: Option<unix_socket::OwnFile>,
    socket: Kind,
}

#[derive(Debug)]
enum Kind {
    Udp(Udp),
    #[cfg(unix)]
    Unix(::mio::net::UnixDatagram),
}

#[derive(Debug)]
struct Udp {
    socket: ::mio::net::UdpSocket,
    v6: bool,
    /// Space for the control messages with the local addresses of datagrams, if the system tells them.
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    told: Option<Vec<u8>>,
}

impl Udp {
    fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let local = socket.local_addr()?;
        let socket = ::mio::net::UdpSocket::from_std(socket);
        Ok(Self {
            #[cfg(any(target_os = "linux", target_vendor = "apple"))]
            told: match local.ip().to_canonical().is_unspecified() && socket.peer_addr().is_err() {
                true => packet_info::enable(&socket, local.is_ipv6()).map(|()| Some(packet_info::space()))?,
                false => None,
            },
            socket,
            v6: local.is_ipv6(),
        })
    }

    #[inline]
    fn receive(&mut self, buf: &mut [u8]) -> io::Result<ReceivedDatagram> {
        #[cfg(any(target_os = "linux", target_vendor = "apple"))]
        if let Some(space) = &mut self.told {
            return uninterrupted(|| packet_info::receive(&self.socket, buf, space));
        }
        match uninterrupted(|| self.socket.recv_from(buf)) {
            Ok((len, from)) => {
                Ok(ReceivedDatagram { len, from: Address::Tcp(unmapped(from)), to: None, to_many: false })
            }
            Err(error) if is_cut(&error) => {
                Ok(ReceivedDatagram { len: buf.len(), from: Address::Tcp(NOBODY), to: None, to_many: false })
            }
            Err(error) => Err(error),
        }
    }

    #[inline]
    fn send_to(&self, to: SocketAddr, via: Option<LocalIp>, data: &[u8]) -> io::Result<usize> {
        let to = if self.v6 { mapped(to) } else { to };
        #[cfg(any(target_os = "linux", target_vendor = "apple"))]
        if let Some(via) = via {
            return uninterrupted(|| packet_info::send(&self.socket, self.v6, to, via, data));
        }
        // Without packet information there is none.
        let _ = via;
        uninterrupted(|| self.socket.send_to(data, to))
    }
}

impl Datagram {
    fn udp(socket: std::net::UdpSocket) -> io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            file: None,
            socket: Kind::Udp(Udp::new(socket)?),
        })
    }

    /// Takes over a UDP socket that is already bound.
    fn adopt_udp(socket: std::net::UdpSocket, options: &DatagramOptions) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let v6 = socket.local_addr()?.is_ipv6();
        tune_udp(&SockRef::from(&socket), v6, options)?;
        Self::udp(socket)
    }

    #[cfg(unix)]
    fn unix(
        socket: std::os::unix::net::UnixDatagram,
        file: Option<unix_socket::OwnFile>,
        options: &DatagramOptions,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let sock = SockRef::from(&socket);
        #[cfg(target_vendor = "apple")]
        sock.set_nosigpipe(true)?;
        socket::set_buffers(&sock, options.receive_buffer, options.send_buffer)?;
        if let Some(peer) = &options.peer {
            let connected = match peer {
                Address::Unix(Some(path)) => socket.connect(path),
                _ => Err(of_another_kind()),
            };
            connected.map_err(|error| socket::cannot("connect to", peer, &error))?;
        }
        Ok(Self { file, socket: Kind::Unix(::mio::net::UnixDatagram::from_std(socket)) })
    }
}

impl DatagramSys for MioSys {
    type Datagram = Datagram;

    fn bind_datagram(&mut self, at: DatagramBind, options: &DatagramOptions) -> io::Result<Datagram> {
        let existing = at.to_string();
        let told = |error| socket::cannot("bind", &existing, &error);
        match at {
            DatagramBind::Udp(address) => Datagram::udp(open_udp(address, options)?).map_err(told),
            DatagramBind::UdpSocket(socket) => Datagram::adopt_udp(socket, options).map_err(told),
            #[cfg(unix)]
            DatagramBind::Unix(path) => {
                let (socket, file) = unix_socket::open_unix_datagram(&path, options.unix_mode)?;
                Datagram::unix(socket, Some(file), options).map_err(told)
            }
            #[cfg(unix)]
            DatagramBind::UnixDatagram(socket) => Datagram::unix(socket, None, options).map_err(told),
        }
    }

    fn datagram_addresses(&self, of: &Datagram) -> io::Result<(Address, Option<Address>)> {
        #[cfg(unix)]
        let file = of.file.as_ref().map(|file| Address::Unix(Some(file.as_given().to_owned())));
        match &of.socket {
            Kind::Udp(Udp { socket, .. }) => {
                let peer = socket.peer_addr().ok().map(|peer| Address::Tcp(unmapped(peer)));
                Ok((Address::Tcp(socket.local_addr()?), peer))
            }
            #[cfg(unix)]
            Kind::Unix(socket) => {
                let local = file.map_or_else(|| socket.local_addr().map(|at| unix_address(at.as_pathname())), Ok)?;
                Ok((local, socket.peer_addr().ok().map(|peer| unix_address(peer.as_pathname()))))
            }
        }
    }

    fn add_datagram(&mut self, socket: &mut Datagram, token: usize) -> io::Result<()> {
        let both = Interest::READABLE.add(Interest::WRITABLE);
        let (registry, token) = (self.poll.registry(), Token(token));
        match &mut socket.socket {
            Kind::Udp(Udp { socket, .. }) => registry.register(socket, token, both),
            #[cfg(unix)]
            Kind::Unix(socket) => registry.register(socket, token, both),
        }
    }

    #[inline]
    fn receive(&mut self, socket: &mut Datagram, buf: &mut [u8]) -> io::Result<ReceivedDatagram> {
        match &mut socket.socket {
            Kind::Udp(socket) => socket.receive(buf),
            #[cfg(unix)]
            Kind::Unix(socket) => {
                let (len, from) = uninterrupted(|| socket.recv_from(buf))?;
                Ok(ReceivedDatagram { len, from: unix_address(from.as_pathname()), to: None, to_many: false })
            }
        }
    }

    #[inline]
    fn send_datagram(
        &mut self,
        socket: &mut Datagram,
        to: Option<&Address>,
        via: Option<LocalIp>,
        data: &[u8],
    ) -> io::Result<SendStatus> {
        let sent = match (&socket.socket, to) {
            (Kind::Udp(Udp { socket, .. }), None) => uninterrupted(|| socket.send(data)),
            (Kind::Udp(socket), Some(Address::Tcp(to))) => socket.send_to(*to, via, data),
            #[cfg(unix)]
            (Kind::Unix(socket), to) => return ship_unix(socket, to, data),
            _ => Err(of_another_kind()),
        };
        sent.map(|_| SendStatus::Sent)
    }

    fn close_datagram(&mut self, mut socket: Datagram) {
        match &mut socket.socket {
            Kind::Udp(Udp { socket, .. }) => self.deregister(socket),
            #[cfg(unix)]
            Kind::Unix(socket) => self.deregister(socket),
        }
    }
}

/// Sends on a Unix socket, and distinguishes a full receiver from a full send buffer. If the receiver's queue is
/// full, Linux returns `WouldBlock` and reports readiness later only if that receiver is the connected peer
/// (unix(7)). Other systems return ENOBUFS and report nothing.
#[cfg(unix)]
fn ship_unix(socket: &::mio::net::UnixDatagram, to: Option<&Address>, data: &[u8]) -> io::Result<SendStatus> {
    let sent = match to {
        Some(Address::Unix(Some(path))) => uninterrupted(|| socket.send_to(data, path)),
        None => {
            let send = || SockRef::from(socket).send_with_flags(data, super::NO_SIGNAL);
            uninterrupted(|| socket.try_io(send))
        }
        Some(_) => Err(of_another_kind()),
    };
    match sent {
        Ok(_) => Ok(SendStatus::Sent),
        Err(error) if to.is_none() && error.kind() == io::ErrorKind::WouldBlock => Err(error),
        Err(error) if is_full(&error) => Ok(SendStatus::PeerFull),
        Err(error) => Err(error),
    }
}

/// Maps an IPv4 address to the form that an IPv6 socket needs (`::ffff:a.b.c.d`).
fn mapped(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(v4) => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
        SocketAddr::V6(_) => to,
    }
}

/// Windows reports a datagram that is longer than the buffer as an error (`WSAEMSGSIZE`, 10040), without the sender's
/// address.
fn is_cut(error: &io::Error) -> bool {
    cfg!(windows) && error.raw_os_error() == Some(10040)
}

/// Stands for the unknown sender of a truncated datagram on Windows.
const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
