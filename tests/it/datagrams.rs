//! Datagrams over real sockets: the results and errors of the kernel, and how the reactor handles them.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::mpsc;

use turnwheel::{Address, Datagrams, Interface, Limits, Posted, Reactor};

use crate::support::datagrams::{Echo, Told, World};
use crate::support::process::without_births;
use crate::support::{self, PATIENCE, has_ipv6, turn_until};

fn client(at: &str) -> UdpSocket {
    let client = UdpSocket::bind(at).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// Sends a datagram, and expects the echo from the address that it was sent to.
#[track_caller]
fn ping(world: &mut World, client: &UdpSocket, to: SocketAddr, data: &[u8]) {
    client.send_to(data, to).unwrap();
    let from = Address::Tcp(client.local_addr().unwrap());
    assert_eq!(world.next(), Told::Datagram(from, data.to_vec()));
    let mut buffer = vec![0; 70_000];
    let (n, from) = client.recv_from(&mut buffer).unwrap();
    assert!((&buffer[..n], from) == (data, to), "{n} of {} bytes came back", data.len());
}

#[test]
fn datagrams_of_every_size_come_back_over_ipv4() {
    let mut world = World::new("127.0.0.1:0");
    let (client, to) = (client("127.0.0.1:0"), world.ip());
    for len in [1, 0, 2, 1500, 0, 65_507] {
        ping(&mut world, &client, to, &support::pattern(len as u64, len));
    }
    let stats = world.reactor.stats();
    assert_eq!((stats.datagrams_in, stats.datagrams_out, stats.datagrams_dropped), (6, 6, 0));
    assert!(stats.to_string().contains(" datagrams_in 6 datagrams_out 6 closed"), "{stats}");
}

#[test]
fn datagrams_come_back_over_ipv6_and_from_ipv4_on_the_same_socket() {
    if !has_ipv6() {
        return;
    }
    let mut world = World::new("[::]:0");
    let (port, six, four) = (world.port(), client("[::1]:0"), client("127.0.0.1:0"));
    ping(&mut world, &six, SocketAddr::new("::1".parse().unwrap(), port), b"six");
    ping(&mut world, &six, SocketAddr::new("::1".parse().unwrap(), port), &support::pattern(6, 65_507));
    ping(&mut world, &four, SocketAddr::from(([127, 0, 0, 1], port)), b"four");
    let mut alone = World::new(Datagrams::new("[::]:0").v6_only(true));
    let port = alone.port();
    four.connect(("127.0.0.1", port)).unwrap();
    four.send(b"refused").unwrap();
    assert_eq!(four.recv(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    ping(&mut alone, &six, SocketAddr::new("::1".parse().unwrap(), port), b"six");
}

#[test]
fn a_datagram_longer_than_the_maximum_is_told_and_not_cut() {
    let mut world = World::new(Datagrams::new("127.0.0.1:0").max_size(512));
    let (client, to) = (client("127.0.0.1:0"), world.ip());
    ping(&mut world, &client, to, &[b'x'; 512]);
    let from = Address::Tcp(client.local_addr().unwrap());
    for len in [513, 514, 65_507] {
        client.send_to(&vec![b'x'; len], to).unwrap();
        assert_eq!(world.next(), Told::Truncated(from.clone(), 512));
    }
    ping(&mut world, &client, to, b"and on");
    assert_eq!(world.reactor.stats().datagrams_truncated, 3);
}

#[test]
fn in_connected_mode_a_closed_port_is_told_and_the_socket_goes_on() {
    let _undisturbed = without_births();
    let gone = client("127.0.0.1:0");
    let at = gone.local_addr().unwrap();
    drop(gone);
    let mut world = World::new(Datagrams::new("127.0.0.1:0").peer(at));
    for _ in 0..3 {
        assert_eq!(world.reactor.net().send_datagram(world.id, "anyone?"), Posted::Queued);
        assert!(matches!(world.next(), Told::Error(ErrorKind::ConnectionRefused, _)));
    }
    let back = UdpSocket::bind(at).unwrap();
    back.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(world.reactor.net().send_datagram(world.id, "now?"), Posted::Queued);
    world.reactor.turn(None).unwrap();
    let mut buffer = [0; 100];
    let (n, from) = back.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..n], from), (&b"now?"[..], world.ip()));
    // A datagram of another sender is not received, one of the peer is.
    client("127.0.0.1:0").send_to(b"stranger", world.ip()).unwrap();
    back.send_to(b"peer", world.ip()).unwrap();
    assert_eq!(world.next(), Told::Datagram(Address::Tcp(at), b"peer".to_vec()));
    assert_eq!(world.reactor.stats().datagram_errors, 3);
}

#[test]
fn a_peer_may_be_named_by_its_host() {
    let peer = client("127.0.0.1:0");
    let name = format!("localhost:{}", peer.local_addr().unwrap().port());
    let mut world = World::new(Datagrams::new("127.0.0.1:0").peer(name));
    assert_eq!(world.reactor.net().send_datagram(world.id, "hello"), Posted::Queued);
    world.reactor.turn(None).unwrap();
    let mut buffer = [0; 100];
    assert_eq!(peer.recv_from(&mut buffer).unwrap(), (5, world.ip()));
}

#[cfg(target_os = "linux")]
#[test]
fn without_the_flag_a_broadcast_is_an_error_and_with_it_none() {
    const EACCES: i32 = 13;
    let broadcast = SocketAddr::from((Ipv4Addr::BROADCAST, 9));
    let mut world = World::new("127.0.0.1:0");
    assert_eq!(world.reactor.net().send_datagram_to(world.id, broadcast, "x"), Posted::Queued);
    assert_eq!(world.next(), Told::Error(ErrorKind::PermissionDenied, Some(EACCES)));
    assert_eq!(world.reactor.stats().datagrams_dropped, 1);
    // Use the broadcast address of the loopback network, so that no packet leaves the host.
    let mut world = World::new(Datagrams::new("127.0.0.1:0").broadcast(true));
    let there = client("0.0.0.0:0");
    let to = SocketAddr::from(([127, 255, 255, 255], there.local_addr().unwrap().port()));
    assert_eq!(world.reactor.net().send_datagram_to(world.id, to, "all"), Posted::Queued);
    world.reactor.turn(None).unwrap();
    let mut buffer = [0; 10];
    assert_eq!(there.recv_from(&mut buffer).unwrap(), (3, world.ip()));
}

#[cfg(target_os = "linux")]
#[test]
fn a_broadcast_is_answered_whatever_the_socket_is_bound_to() {
    let dual = has_ipv6().then_some("[::]:0");
    for at in ["0.0.0.0:0"].into_iter().chain(dual) {
        let mut world = World::new(at);
        let client = client("127.0.0.1:0");
        client.set_broadcast(true).unwrap();
        client.send_to(b"anybody there?", (Ipv4Addr::new(127, 255, 255, 255), world.port())).unwrap();
        assert!(matches!(world.next(), Told::Datagram(..)));
        let mut buffer = [0; 100];
        assert_eq!(client.recv_from(&mut buffer).unwrap(), (14, ([127, 0, 0, 1], world.port()).into()), "{at}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_socket_that_tells_more_than_its_address_loses_no_datagram() {
    use nix::sys::socket::{setsockopt, sockopt};
    let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
    setsockopt(&taken, sockopt::ReceiveTimestamp, &true).unwrap();
    socket2::SockRef::from(&taken).set_recv_tos_v4(true).unwrap();
    let mut world = World::new(taken);
    let client = client("127.0.0.1:0");
    let to = SocketAddr::from(([127, 0, 0, 2], world.port()));
    ping(&mut world, &client, to, b"from where I asked");
}

#[cfg(target_os = "linux")]
#[test]
fn a_group_is_joined_on_an_interface() {
    let lo = Interface::Address(Ipv4Addr::LOCALHOST);
    let group = Ipv4Addr::new(239, 255, 77, 7);
    let receiver = Datagrams::new("0.0.0.0:0").join(group, lo);
    let mut world = World::new(receiver);
    let to = SocketAddr::from((group, world.port()));
    let sender = Datagrams::new("127.0.0.1:0").multicast_interface(lo).multicast_loop(true).multicast_ttl(0);
    let (tell, _told) = mpsc::channel();
    let sender = world.reactor.bind(sender, Echo(tell)).unwrap();
    let (id, from) = sender.sockets()[0].clone();
    assert_eq!(world.reactor.net().send_datagram_to(id, to, "all members"), Posted::Queued);
    assert_eq!(world.next(), Told::Datagram(from, b"all members".to_vec()));
}

#[cfg(target_os = "linux")]
#[test]
fn an_ipv6_group_is_joined_on_an_interface() {
    if !has_ipv6() {
        return;
    }
    const LO: u32 = 1;
    let group = std::net::Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0x77, 7);
    let receiver = Datagrams::new("[::]:0").join(group, Interface::Index(LO));
    let mut reactor = Reactor::new().unwrap();
    let (tell, told) = mpsc::channel();
    let bound = match reactor.bind(receiver, Echo(tell)) {
        Ok(bound) => bound,
        Err(e) if e.to_string().contains("cannot join") => return println!("skipped: {e}"),
        Err(e) => panic!("{e}"),
    };
    let to = SocketAddr::new(group.into(), bound.local_addr().unwrap().port());
    let sender = Datagrams::new("[::1]:0").multicast_interface(Interface::Index(LO)).multicast_ttl(0);
    let (tell, refused) = mpsc::channel();
    let sender = reactor.bind(sender, Echo(tell)).unwrap();
    let (id, from) = sender.sockets()[0].clone();
    assert_eq!(reactor.net().send_datagram_to(id, to, "six"), Posted::Queued);
    reactor.turn(None).unwrap();
    if let Ok(Told::Error(_, code)) = refused.try_recv() {
        return println!("skipped: IPv6 groups have no route here (error {code:?})");
    }
    turn_until(&mut reactor, "it", |r| r.stats().datagrams_in > 0);
    assert_eq!(told.try_recv().unwrap(), Told::Datagram(from, b"six".to_vec()));
}

#[test]
fn errors_of_binding_say_what_and_where() {
    let _undisturbed = without_births();
    let taken = client("127.0.0.1:0");
    let at = taken.local_addr().unwrap();
    let mut reactor = Reactor::new().unwrap();
    let (tell, told) = mpsc::channel();
    let mut refused = |at: Datagrams| reactor.bind(at, Echo(tell.clone())).unwrap_err();
    let error = refused(at.into());
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().starts_with(&format!("cannot bind {at}: address already in use")), "{error}");
    let error = refused("192.0.2.1:0".into());
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    assert!(error.to_string().starts_with("cannot bind 192.0.2.1:0: "), "{error}");
    let error = refused(Datagrams::new("127.0.0.1:0").max_size(0));
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let error = refused(Datagrams::new("127.0.0.1:0").peer("[::1]:9"));
    let said = "cannot connect from 127.0.0.1:0 to [::1]:9: the address families differ";
    assert_eq!(error.to_string(), said);
    let error = refused(Datagrams::new(client("127.0.0.1:0")).peer("unix:/nowhere"));
    assert!(
        error.to_string().contains("connect to unix:/nowhere: the address is of the wrong family for this socket"),
        "{error}"
    );
    let nowhere = Interface::Address(Ipv4Addr::new(192, 0, 2, 1));
    let error = refused(Datagrams::new("127.0.0.1:0").join([239, 1, 2, 3], nowhere));
    assert!(error.to_string().contains("cannot join 239.1.2.3: "), "{error}");
    drop(tell);
    assert!(told.recv().is_err(), "the handlers were dropped without a callback");
    drop(taken);
    let (tell, _told) = mpsc::channel();
    reactor.bind(at, Echo(tell)).unwrap();
}

#[cfg(unix)]
#[test]
fn a_port_is_shared_only_where_all_say_so() {
    let shared = || Datagrams::new("127.0.0.1:0").reuse_port(true);
    let mut world = World::new(shared());
    let (tell, _told) = mpsc::channel();
    let again = |d: Datagrams| d;
    let same = || Datagrams::new(world.at.to_string());
    let mut other = Reactor::new().unwrap();
    assert!(other.bind(again(same()), Echo(tell.clone())).is_err());
    other.bind(again(same().reuse_port(true)), Echo(tell)).unwrap();
    world.reactor.net().close_datagram(world.id);
    assert_eq!(world.next(), Told::Closed);
}

#[test]
fn a_full_queue_drops_and_counts() {
    let mut limits = Limits::default();
    limits.datagram_queue = 10_000;
    let mut world = World::within(limits, "127.0.0.1:0");
    let there = client("127.0.0.1:0");
    let to = there.local_addr().unwrap();
    // Datagrams are queued until the next turn.
    let posted: Vec<Posted> = (0..20).map(|_| world.reactor.net().send_datagram_to(world.id, to, [0; 936])).collect();
    let full = posted.iter().filter(|p| **p == Posted::Dropped).count();
    assert_eq!((full, world.reactor.stats().datagrams_dropped), (10, 10));
    turn_until(&mut world.reactor, "the rest", |r| r.stats().datagrams_out == 10);
    for _ in 0..10 {
        assert_eq!(there.recv(&mut [0; 1000]).unwrap(), 936);
    }
}

#[test]
fn a_flood_on_one_socket_leaves_another_its_turn() {
    let mut limits = Limits::default();
    limits.datagrams_per_turn = 2;
    let mut world = World::within(limits, "127.0.0.1:0");
    let (tell, told) = mpsc::channel();
    let quiet = world.reactor.bind("127.0.0.1:0", Echo(tell)).unwrap();
    let (flood, single) = (client("127.0.0.1:0"), client("127.0.0.1:0"));
    for _ in 0..50 {
        flood.send_to(b"flood", world.ip()).unwrap();
    }
    single.send_to(b"me", quiet.local_addr().unwrap()).unwrap();
    // Both sockets are readable, and both are served in the same turn.
    world.reactor.turn(None).unwrap();
    world.reactor.turn(None).unwrap();
    assert_eq!(told.try_iter().count(), 1);
    assert!((1..=4).contains(&world.told.try_iter().count()));
    turn_until(&mut world.reactor, "the flood", |r| r.stats().datagrams_in == 51);
    assert_eq!(single.recv(&mut [0; 10]).unwrap(), 2);
}

#[test]
fn a_panic_costs_one_datagram_and_a_close_ends_its_socket_alone_and_frees_the_port() {
    let _undisturbed = without_births();
    let mut world = World::new("127.0.0.1:0");
    let (tell, told) = mpsc::channel();
    let other = world.reactor.bind("127.0.0.1:0", Echo(tell)).unwrap();
    let (client, to) = (client("127.0.0.1:0"), other.local_addr().unwrap());
    client.send_to(b"boom", world.ip()).unwrap();
    client.send_to(b"next", world.ip()).unwrap();
    assert!(matches!(world.next(), Told::Datagram(_, data) if data == b"next"));
    assert_eq!(world.reactor.stats().panics, 1);
    assert_eq!(client.recv(&mut [0; 10]).unwrap(), 4);
    client.send_to(b"close", world.ip()).unwrap();
    assert!(matches!(world.next(), Told::Datagram(_, data) if data == b"close"));
    assert_eq!(world.next(), Told::Closed);
    assert_eq!(client.recv(&mut [0; 10]).unwrap(), 5);
    assert_eq!(world.reactor.net().send_datagram_to(world.id, to, "x"), Posted::Closed);
    UdpSocket::bind(world.ip()).unwrap();
    client.send_to(b"close", to).unwrap();
    turn_until(&mut world.reactor, "both", |_| told.try_iter().any(|t| t == Told::Closed));
    assert_eq!(client.recv(&mut [0; 10]).unwrap(), 5, "a datagram queued before the close is sent");
    UdpSocket::bind(to).unwrap();
}

#[test]
fn a_shutdown_closes_datagram_sockets_too() {
    let _undisturbed = without_births();
    let mut world = World::new("127.0.0.1:0");
    world.reactor.shutdown(PATIENCE).unwrap();
    assert_eq!(world.told.try_recv(), Ok(Told::Closed));
    UdpSocket::bind(world.ip()).unwrap();
}

#[test]
fn a_socket_that_is_bound_already_is_taken_over() {
    let mut world = World::new(UdpSocket::bind("127.0.0.1:0").unwrap());
    let (there, to) = (client("127.0.0.1:0"), world.ip());
    ping(&mut world, &there, to, b"hello");
    let mine = client("127.0.0.1:0");
    mine.connect(there.local_addr().unwrap()).unwrap();
    let mut world = World::new(mine);
    assert_eq!(world.reactor.net().send_datagram(world.id, "its peer is known"), Posted::Queued);
    world.reactor.turn(None).unwrap();
    assert_eq!(there.recv(&mut [0; 100]).unwrap(), 17);
}
