//! Listening on addresses of every kind, and the error if that fails.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use turnwheel::{Address, Echo, Limit, Limits, Listen, Reactor};

use crate::support::process::without_births;
use crate::support::{self, connect, echo, has_ipv6, serve, serve_one};

#[test]
fn an_ipv4_address_gets_a_free_port() {
    let server = serve_one(Limits::default(), || Echo);
    assert!(server.addr().is_ipv4() && server.addr().port() != 0);
    assert_eq!(server.listening[0].addresses().count(), 1);
    echo(&mut connect(server.addr()), b"over IPv4");
}

#[test]
fn an_ipv6_address_serves_ipv6() {
    if !has_ipv6() {
        return;
    }
    let server = serve(Limits::default(), |r| Ok(vec![r.listen("[::1]:0", Echo)?]));
    assert!(server.addr().is_ipv6());
    echo(&mut connect(server.addr()), b"over IPv6");
}

#[test]
fn all_ipv6_addresses_serve_ipv4_as_well_unless_that_is_not_wanted() {
    if !has_ipv6() {
        return;
    }
    let server = serve(Limits::default(), |r| {
        let both = Listen::new("[::]:0");
        let only = Listen::new("[::]:0").v6_only(true);
        Ok(vec![r.listen(both, Echo)?, r.listen(only, Echo)?])
    });
    for n in [0, 1] {
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, server.addr_of(n).port()));
        echo(&mut connect(v6), b"over IPv6");
    }
    let v4 = |n: usize| SocketAddr::from(([127, 0, 0, 1], server.addr_of(n).port()));
    echo(&mut connect(v4(0)), b"over IPv4");
    assert!(TcpStream::connect(v4(1)).is_err());
}

#[test]
fn a_name_is_listened_on_at_all_its_addresses_with_one_port() {
    let server = serve(Limits::default(), |r| Ok(vec![r.listen("localhost:0", Echo)?]));
    let addresses: Vec<SocketAddr> = server.listening[0].addresses().filter_map(Address::tcp).collect();
    assert!(!addresses.is_empty());
    for &address in &addresses {
        assert_eq!(address.port(), addresses[0].port(), "{addresses:?}");
        assert!(address.ip().is_loopback());
        echo(&mut connect(address), b"by name");
    }
}

#[test]
fn a_listener_that_the_caller_bound_is_taken_over() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    // This client connects before the reactor exists.
    let mut early = connect(at);
    let server = serve(Limits::default(), |r| Ok(vec![r.listen(listener, Echo)?]));
    assert_eq!(server.addr(), at);
    echo(&mut early, b"early");
    echo(&mut connect(at), b"late");
}

#[test]
fn several_listeners_lead_to_one_handler() {
    let server = serve(Limits::default(), |r| {
        let key = r.add(Echo)?;
        (0..5).map(|_| r.listen_on("127.0.0.1:0", key)).collect()
    });
    for n in 0..5 {
        echo(&mut connect(server.addr_of(n)), b"hello");
    }
    let mut ports: Vec<u16> = (0..5).map(|n| server.addr_of(n).port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 5);
}

#[test]
fn a_port_in_use_is_named_in_the_error() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = other.local_addr().unwrap();
    let mut reactor = Reactor::new().unwrap();
    let error = reactor.listen(at, Echo).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let said = error.to_string();
    assert!(said.starts_with(&format!("cannot listen on {at}: ")) && said.contains("in use"), "{said}");
    // A second reactor cannot use the same port either, unless both set `reuse_port`.
    let first = reactor.listen("127.0.0.1:0", Echo).unwrap().local_addr().unwrap();
    assert_eq!(Reactor::new().unwrap().listen(first, Echo).unwrap_err().kind(), ErrorKind::AddrInUse);
}

#[cfg(target_os = "linux")]
#[test]
fn a_port_can_be_shared_by_reactors_that_agree_to_it() {
    let mut one = Reactor::new().unwrap();
    let at = one.listen(Listen::new("127.0.0.1:0").reuse_port(true), Echo).unwrap().local_addr().unwrap();
    let mut two = Reactor::new().unwrap();
    two.listen(Listen::new(at).reuse_port(true), Echo).unwrap();
    let clients: Vec<_> = (0..64).map(|_| connect(at)).collect();
    let mut taken = 0;
    support::turn_until(&mut one, "all clients", |one| {
        two.turn(Some(std::time::Duration::ZERO)).unwrap();
        taken = one.stats().accepted;
        taken + two.stats().accepted == clients.len() as u64
    });
    assert!(taken > 0 && two.stats().accepted > 0, "one of them accepted nothing");
}

#[test]
fn a_bad_address_is_refused_with_what_is_wrong_and_what_is_accepted() {
    let mut reactor = Reactor::new().unwrap();
    let cases = [
        ("127.0.0.1", "port is missing"),
        ("127.0.0.1:70000", "out of range"),
        ("127.0.0.1:http", "not a number"),
        ("127.0.0.256:80", "looks like an IPv4 address"),
        ("::1:80", "brackets"),
        ("", "host is empty"),
        ("a b:80", "cannot be part of a host name"),
    ];
    for (text, part) in cases {
        let error = reactor.listen(text, Echo).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
        let said = error.to_string();
        assert!(said.contains(part) && said.contains("127.0.0.1:7000"), "{text}: {said}");
    }
    let error = reactor.listen(Listen::new("127.0.0.1:0").backlog(0), Echo).unwrap_err();
    assert!(error.to_string().contains("backlog"), "{error}");
}

#[test]
fn a_listener_that_reserves_more_than_the_limits_allow_says_so_at_the_start() {
    let refused = |change: fn(&mut Limits)| {
        let mut limits = Limits::default();
        change(&mut limits);
        let mut reactor = Reactor::with_limits(limits).unwrap();
        let error = reactor.listen(Listen::new("127.0.0.1:0").reserve_connects(1), Echo).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        error.to_string()
    };
    let said = refused(|limits| limits.connections = Limit::At(1));
    let expected = "cannot listen on 127.0.0.1:0: limit connections is 1, but must be at least \
                    1 + the connects that the listener reserves for each connection, which is 2";
    assert_eq!(said, expected);
    let mut limits = Limits::default();
    (limits.connections, limits.attempts, limits.lookups) = (Limit::At(2), 1, 1);
    let mut reactor = Reactor::with_limits(limits).unwrap();
    reactor.listen(Listen::new("127.0.0.1:0").reserve_connects(1), Echo).unwrap();
    let error = reactor.listen(Listen::new("127.0.0.1:0").reserve_connects(usize::MAX), Echo).unwrap_err();
    assert!(error.to_string().contains("limit connections is 2"), "{error}");
}

#[test]
fn a_closed_listeners_port_is_free_again() {
    let _undisturbed = without_births();
    let mut reactor = Reactor::new().unwrap();
    let listening = reactor.listen("127.0.0.1:0", Echo).unwrap();
    let at = listening.local_addr().unwrap();
    let _client = connect(at);
    assert!(reactor.close_listener(listening.sockets()[0].0));
    assert!(TcpStream::connect(at).is_err());
    assert_eq!(reactor.listen(at, Echo).unwrap().local_addr(), Some(at));
}
