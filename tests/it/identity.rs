//! Stale ids: those of closed connections and of dropped groups, and keys of other reactors.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use turnwheel::{Closed, ConnId, Context, Echo, Handler, Limits, Net, Reactor, Sent};

use crate::support::{self, connect, is_timeout, read_n, reset, serve_one};

/// Sends each client its id. On input, writes to the ids of all closed and of all open connections.
#[derive(Default)]
struct Haunted {
    live: Vec<ConnId>,
    gone: Vec<ConnId>,
}

fn label(id: ConnId) -> [u8; 24] {
    let mut label = [b' '; 24];
    let text = id.to_string();
    label[..text.len()].copy_from_slice(text.as_bytes());
    label[23] = b'\n';
    label
}

impl Handler for Haunted {
    type State = ();
    fn on_open(&mut self, cx: &mut Context<'_>) {
        assert!(!self.live.contains(&cx.id()) && !self.gone.contains(&cx.id()), "an id was used twice");
        self.live.push(cx.id());
        cx.send(label(cx.id()));
    }
    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), _data: &[u8]) {
        for &id in &self.gone {
            assert_eq!(cx.send_to(id, label(id)), Sent::Closed);
            assert!(!cx.is_open(id) && !cx.close_id(id) && !cx.abort_id(id));
            assert!(cx.peer_of(id).is_none() && cx.pending_of(id).is_none());
        }
        for &id in &self.live {
            cx.send_to(id, label(id));
        }
    }
    fn on_close(&mut self, net: &mut Net<'_>, _state: (), closed: &Closed) {
        // The id is not reused yet, and the connection accepts no more output.
        assert_eq!(net.send_to(closed.who, b"farewell"), Sent::Closed);
        self.live.retain(|id| *id != closed.who);
        self.gone.push(closed.who);
    }
}

/// Reads all available input, which must all be addressed to this client.
fn check_mail(client: &mut TcpStream, own: &[u8]) {
    client.set_nonblocking(true).unwrap();
    let mut data = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match client.read(&mut buffer) {
            Ok(0) => panic!("ended"),
            Ok(n) => data.extend_from_slice(&buffer[..n]),
            Err(e) if is_timeout(&e) => break,
            Err(e) => panic!("{e}"),
        }
    }
    client.set_nonblocking(false).unwrap();
    let rest = read_n(client, (own.len() - data.len() % own.len()) % own.len());
    data.extend(rest);
    for piece in data.chunks(own.len()) {
        assert_eq!(String::from_utf8_lossy(piece), String::from_utf8_lossy(own), "bytes for another client");
    }
}

#[test]
fn what_is_sent_to_an_ended_connection_reaches_nobody() {
    let server = serve_one(Limits::default(), Haunted::default);
    let mut clients: Vec<(TcpStream, Vec<u8>)> = Vec::new();
    for round in 0..300u64 {
        let mut client = connect(server.addr());
        let own = read_n(&mut client, 24);
        assert!(clients.iter().all(|(_, other)| *other != own));
        clients.push((client, own));
        if clients.len() > 5 {
            let (gone, _) = clients.remove(round as usize * 7 % 5);
            let ended = server.stats().closed_total();
            if round % 3 == 0 {
                reset(gone);
            } else {
                drop(gone);
            }
            server.wait_for("the end", |s| s.closed_total() > ended);
        }
        clients[0].0.write_all(b"!").unwrap();
        for (client, own) in &mut clients {
            check_mail(client, own);
        }
    }
    let stats = server.stop().stats;
    assert_eq!((stats.accepted, stats.panics), (300, 0));
}

#[test]
fn a_key_opens_nothing_in_another_reactor() {
    struct Other;
    impl Handler for Other {
        type State = ();
        fn on_open(&mut self, _cx: &mut Context<'_>) {}
        fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut (), _data: &[u8]) {}
    }
    let mut first = Reactor::new().unwrap();
    let key = first.add(Echo).unwrap();
    let mut empty = Reactor::new().unwrap();
    assert!(empty.get(key).is_none() && empty.get_mut(key).is_none());
    let error = empty.listen_on("127.0.0.1:0", key).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("another reactor"), "{error}");
    let mut with_other = Reactor::new().unwrap();
    with_other.add(Other).unwrap();
    assert_eq!(with_other.listen_on("127.0.0.1:0", key).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(first.listen_on("127.0.0.1:0", key).is_ok());
}

#[test]
fn a_key_opens_nothing_in_another_reactor_that_has_a_handler_of_the_same_type() {
    let mut first = Reactor::new().unwrap();
    let key = first.add(Echo).unwrap();
    let mut second = Reactor::new().unwrap();
    second.add(Echo).unwrap();
    assert!(second.get(key).is_none());
    assert_eq!(second.listen_on("127.0.0.1:0", key).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_dropped_group_names_nothing_though_another_took_its_place() {
    let mut reactor = Reactor::new().unwrap();
    let old = reactor.net().group().unwrap();
    let at = reactor.listen("127.0.0.1:0", Echo).unwrap().local_addr().unwrap();
    let _client = connect(at);
    support::turn_until(&mut reactor, "the client", |r| r.stats().open == 1);
    let mut net = reactor.net();
    let id = net.connections().next().unwrap();
    assert!(net.join_id(old, id) && net.drop_group(old) && !net.drop_group(old));
    let new = net.group().unwrap();
    assert!(net.join_id(new, id));
    assert!(!net.join_id(old, id));
    assert_eq!((net.broadcast(old, b"x"), net.broadcast(new, b"x")), (0, 1));
    assert_eq!((net.members(old).len(), net.members(new).len()), (0, 1));
}
