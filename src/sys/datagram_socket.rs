//! Creates and configures datagram sockets.
//!
//! Sends and receives nothing. The files of Unix sockets are handled in `unix_socket`.
//!
//! Invariant: an error names the address and the operation.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::socket::{cannot, reuse_port, set_buffers, set_v6_only};
use crate::config::datagram::{DatagramOptions, Interface};

/// Opens a UDP socket.
pub(super) fn open_udp(address: SocketAddr, options: &DatagramOptions) -> io::Result<UdpSocket> {
    let socket = udp(address, options).map_err(|error| cannot("bind", &address, &error))?;
    tune_udp(&SockRef::from(&socket), address.is_ipv6(), options).map_err(|error| cannot("bind", &address, &error))?;
    Ok(socket.into())
}

/// Does not set `SO_REUSEADDR`: for UDP it would let two programs share a port and take each other's datagrams.
fn udp(address: SocketAddr, options: &DatagramOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if options.reuse_port {
        reuse_port(&socket)?;
    }
    set_v6_only(&socket, address, options.v6_only)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Sets the options that can be set on a bound socket. Connects it last.
pub(super) fn tune_udp(socket: &SockRef<'_>, v6: bool, options: &DatagramOptions) -> io::Result<()> {
    set_buffers(socket, options.receive_buffer, options.send_buffer)?;
    if options.broadcast {
        socket.set_broadcast(true)?;
    }
    if let Some(on) = options.multicast_loop {
        if v6 { socket.set_multicast_loop_v6(on)? } else { socket.set_multicast_loop_v4(on)? }
    }
    if let Some(hops) = options.multicast_ttl {
        let hops = u32::from(hops);
        if v6 { socket.set_multicast_hops_v6(hops)? } else { socket.set_multicast_ttl_v4(hops)? }
    }
    send_from(socket, v6, options.multicast_interface)
        .map_err(|error| cannot("send to multicast groups from", &"that interface", &error))?;
    for &(group, interface) in &options.groups {
        join(socket, group, interface).map_err(|error| cannot("join", &group, &error))?;
    }
    let Some(peer) = &options.peer else { return Ok(()) };
    let to = peer.tcp().ok_or_else(of_another_kind);
    let connected = to.and_then(|to| socket.connect(&to.into()));
    connected.map_err(|error| cannot("connect to", peer, &error))
}

/// The error for an address of the wrong family.
pub(super) fn of_another_kind() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the address is of the wrong family for this socket")
}

fn send_from(socket: &SockRef<'_>, v6: bool, interface: Interface) -> io::Result<()> {
    match interface {
        Interface::Any => Ok(()),
        Interface::Address(address) if !v6 => socket.set_multicast_if_v4(&address),
        Interface::Index(index) if v6 => socket.set_multicast_if_v6(index),
        // BSD systems and macOS take an address in 0.0.0.0/8 for an interface index, so the index must fit in 24
        // bits. Linux does not, and returns EADDRNOTAVAIL.
        Interface::Index(index) if cfg!(unix) && index < 1 << 24 => socket.set_multicast_if_v4(&Ipv4Addr::from(index)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "this socket cannot use an interface given in that form")),
    }
}

fn join(socket: &SockRef<'_>, group: IpAddr, interface: Interface) -> io::Result<()> {
    match (group, interface) {
        (IpAddr::V4(group), Interface::Any) => socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED),
        (IpAddr::V4(group), Interface::Address(address)) => socket.join_multicast_v4(&group, &address),
        (IpAddr::V4(group), Interface::Index(index)) => join_v4_by_index(socket, group, index),
        (IpAddr::V6(group), Interface::Index(index)) => socket.join_multicast_v6(&group, index),
        // An interface given by its address was refused before, for IPv6.
        (IpAddr::V6(group), _) => socket.join_multicast_v6(&group, 0),
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple", target_os = "freebsd", windows))]
fn join_v4_by_index(socket: &SockRef<'_>, group: Ipv4Addr, index: u32) -> io::Result<()> {
    socket.join_multicast_v4_n(&group, &socket2::InterfaceIndexOrAddress::Index(index))
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple", target_os = "freebsd", windows)))]
fn join_v4_by_index(_: &SockRef<'_>, _: Ipv4Addr, _: u32) -> io::Result<()> {
    let why = "this system selects an IPv4 interface by address only";
    Err(io::Error::new(io::ErrorKind::Unsupported, why))
}
