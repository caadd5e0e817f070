//! The local address of a datagram: `IP_PKTINFO` (ip(7)) and `IPV6_RECVPKTINFO` (RFC 3542, section 6).
//!
//! Invariant: an IPv4 address is an IPv4 address to the loop, even on a dual-stack IPv6 socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use mio::net::UdpSocket;
use nix::libc;
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt};

use super::unmapped;
use crate::config::address::Address;
use crate::sys::datagram::{LocalIp, ReceivedDatagram};

/// Has the system tell the local address of each datagram.
pub(super) fn enable(socket: &UdpSocket, v6: bool) -> io::Result<()> {
    if v6 {
        setsockopt(socket, Ipv6RecvPacketInfo, &true)?;
    }
    // On Linux it comes for IPv4 on a dual-stack socket too, and only it has the address to answer a broadcast from.
    if !v6 || cfg!(target_os = "linux") {
        setsockopt(socket, Ipv4PacketInfo, &true)?;
    }
    Ok(())
}

/// Receives one datagram. `space` is for the control messages, and is kept between calls.
pub(super) fn receive(socket: &UdpSocket, buf: &mut [u8], space: &mut [u8]) -> io::Result<ReceivedDatagram> {
    let mut slices = [IoSliceMut::new(buf)];
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(space), MsgFlags::empty())?;
    let from = message.address.as_ref().and_then(socket_addr);
    let from = from.ok_or_else(|| io::Error::other("a datagram without an address"))?;
    // An error says that there was no space for all messages: the datagram is whole all the same.
    let (to, to_many) = message.cmsgs().map_or((None, false), sent_to);
    Ok(ReceivedDatagram { len: message.bytes, from: Address::Tcp(unmapped(from)), to, to_many })
}

/// Sends one datagram from a local address.
pub(super) fn send(socket: &UdpSocket, v6: bool, to: SocketAddr, via: LocalIp, data: &[u8]) -> io::Result<usize> {
    let (fd, data, to) = (socket.as_raw_fd(), [IoSlice::new(data)], SockaddrStorage::from(to));
    let sent = match via.ip {
        IpAddr::V4(ip) if !v6 => {
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: in_addr(ip), ipi_addr: in_addr(ip) };
            sendmsg(fd, &data, &[ControlMessage::Ipv4PacketInfo(&info)], MsgFlags::empty(), Some(&to))
        }
        ip => {
            let ip = match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            let address = libc::in6_addr { s6_addr: ip.octets() };
            let info = libc::in6_pktinfo { ipi6_addr: address, ipi6_ifindex: via.interface };
            sendmsg(fd, &data, &[ControlMessage::Ipv6PacketInfo(&info)], MsgFlags::empty(), Some(&to))
        }
    };
    Ok(sent?)
}

const fn in_addr(ip: Ipv4Addr) -> libc::in_addr {
    libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) }
}

fn socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
}

/// Returns the local address to answer from, and whether the datagram was sent to many.
fn sent_to(messages: impl Iterator<Item = ControlMessageOwned>) -> (Option<LocalIp>, bool) {
    let mut found = (None, false);
    for message in messages {
        match message {
            // It knows more than the other, which comes as well on a dual-stack socket.
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let ip = IpAddr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
                return (local_ip(ip, 0), to_many(ip) || info.ipi_spec_dst.s_addr != info.ipi_addr.s_addr);
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                // Only an address of a link needs its interface; with one, the answer could not take another way back.
                let interface = if ip.is_unicast_link_local() { info.ipi6_ifindex } else { 0 };
                let ip = ip.to_canonical();
                found = (local_ip(ip, interface), to_many(ip));
            }
            _ => {}
        }
    }
    found
}

/// Returns the address if it can be sent from.
fn local_ip(ip: IpAddr, interface: u32) -> Option<LocalIp> {
    (!to_many(ip)).then_some(LocalIp { ip, interface })
}

/// The broadcast address of a network does not look like one.
const fn to_many(ip: IpAddr) -> bool {
    ip.is_multicast() || matches!(ip, IpAddr::V4(Ipv4Addr::BROADCAST))
}

/// Returns space for the control messages of one datagram: these, and what else a socket that was taken over tells.
pub(super) fn space() -> Vec<u8> {
    nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo, [u8; 256])
}
