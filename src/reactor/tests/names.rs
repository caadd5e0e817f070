//! Tests of names that are listened on, over real sockets: what each name is resolved to is made up.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use crate::config::datagram::Datagrams;
use crate::config::limits::{Limit, Limits};
use crate::handler::datagram::{DatagramContext, DatagramHandler};
use crate::testing::log_tests::lines;
use crate::{Address, Echo, Reactor};

struct Deaf;

impl DatagramHandler for Deaf {
    fn on_datagram(&mut self, _cx: &mut DatagramContext<'_>, _from: &Address, _data: &[u8]) {}
}

/// A name is a list of addresses, or silent. 192.0.2.1 and 198.51.100.1 are for documentation
/// (RFC 5737), so this machine has not got them.
fn resolve(host: &str) -> io::Result<Vec<SocketAddr>> {
    let addresses: [&[u8; 4]; 2] = match host {
        "mixed" => [&[192, 0, 2, 1], &[127, 0, 0, 1]],
        "two" => [&[127, 0, 0, 2], &[127, 0, 0, 1]],
        "none" => [&[192, 0, 2, 1], &[198, 51, 100, 1]],
        _ => loop {
            std::thread::park();
        },
    };
    Ok(addresses.map(|&ip| SocketAddr::from((ip, 0))).to_vec())
}

fn reactor() -> Reactor {
    let limits = Limits { connect_timeout: Limit::At(Duration::from_millis(30)), ..Limits::default() };
    let mut reactor = Reactor::with_limits(limits).unwrap();
    reactor.inner.sys.set_resolve(resolve);
    lines();
    reactor
}

#[test]
fn an_address_that_cannot_be_had_does_not_stop_the_others() {
    let mut reactor = reactor();
    let listening = reactor.listen("mixed:0", Echo).unwrap();
    let bound = reactor.bind("mixed:0", Deaf).unwrap();
    for at in [listening.local_addr(), bound.local_addr()] {
        assert_eq!(at.map(|at| at.ip().to_string()).as_deref(), Some("127.0.0.1"));
    }
    assert_eq!((listening.sockets().len(), bound.sockets().len()), (1, 1));
    let said: Vec<String> = lines().into_iter().filter(|line| line.contains("192.0.2.1:0")).collect();
    assert!(said.len() == 2 && said.iter().all(|line| line.contains("the other addresses of mixed")), "{said:?}");
    // The second address is taken by others.
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let listening = reactor.listen(format!("two:{}", tcp.local_addr().unwrap().port()), Echo).unwrap();
    let bound = reactor.bind(format!("two:{}", udp.local_addr().unwrap().port()), Deaf).unwrap();
    for at in [listening.local_addr(), bound.local_addr()] {
        assert_eq!(at.map(|at| at.ip().to_string()).as_deref(), Some("127.0.0.2"));
    }
    assert_eq!(reactor.listen("two:0", Echo).unwrap().sockets().len(), 2);
}

#[test]
fn a_name_without_any_address_that_can_be_had_is_an_error_that_names_all() {
    let mut reactor = reactor();
    let listen = reactor.listen("none:0", Echo).unwrap_err();
    let bind = reactor.bind("none:0", Deaf).unwrap_err();
    for error in [listen, bind] {
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
        let text = error.to_string();
        assert!(text.contains("192.0.2.1:0: ") && text.contains("; ") && text.contains("198.51.100.1:0: "), "{text}");
    }
}

#[test]
fn a_peer_is_the_first_of_its_addresses_that_can_be_connected_to() {
    let mut reactor = reactor();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    // From a loopback address there is no way to either of the others.
    let from_here = Datagrams::new("127.0.0.1:0").peer(format!("mixed:{port}"));
    let bound = reactor.bind(from_here, Deaf).unwrap();
    let id = bound.sockets()[0].0;
    let peer = reactor.inner.dispatcher.core.datagrams.slots.get(id).unwrap().peer.clone();
    assert_eq!(peer, Some(Address::Tcp(server.local_addr().unwrap())));
    assert!(reactor.bind(Datagrams::new("127.0.0.1:0").peer("none:1"), Deaf).is_err());
}

#[test]
fn a_silent_name_is_waited_for_as_long_as_a_connection_may_take() {
    let mut reactor = reactor();
    let error = reactor.listen("silent:0", Echo).unwrap_err();
    assert_eq!(error.to_string(), "cannot resolve \"silent\": no answer within 30ms");
    assert_eq!(reactor.bind("silent:0", Deaf).unwrap_err().kind(), ErrorKind::TimedOut);
    // An address is bound at once, whoever is silent.
    assert_eq!(reactor.listen("127.0.0.1:0", Echo).unwrap().sockets().len(), 1);
}

#[test]
fn a_stop_ends_the_lookup() {
    let limits = Limits { connect_timeout: Limit::Unlimited, ..Limits::default() };
    let mut reactor = Reactor::with_limits(limits).unwrap();
    reactor.inner.sys.set_resolve(resolve);
    let handle = reactor.handle();
    let stopper = std::thread::Builder::new().spawn(move || handle.stop().unwrap()).unwrap();
    assert_eq!(reactor.listen("silent:0", Echo).unwrap_err().kind(), ErrorKind::Interrupted);
    stopper.join().unwrap();
    reactor.run().unwrap();
}
