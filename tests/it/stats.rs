//! Compares the counters with what the clients saw.

use std::io::Write;
use std::net::Shutdown;
use std::sync::mpsc;
use std::thread;

use turnwheel::{Echo, Framed, Limits, Reason, Stats};

use crate::support::{
    self, Watch, codec, connect, echo, next_end, pattern, read_to_any_end, read_to_end, reset, serve_one, wire,
};

const U16: &str = "len:u16be,max=20000";

/// What one client did: how it closed, and how many bytes and messages it exchanged.
#[derive(Default)]
struct Did {
    ended: &'static str,
    sent: u64,
    received: u64,
    messages: u64,
}

/// Exchanges messages, then closes in the way that its number selects.
fn client(at: std::net::SocketAddr, n: u64) -> Did {
    let mut stream = connect(at);
    let mut did = Did::default();
    for round in 0..1 + n % 4 {
        let message = wire(U16, &[pattern(n, 1 + (n as usize * 131 + round as usize * 977) % 15_000)]);
        echo(&mut stream, &message);
        did.sent += message.len() as u64;
        did.received += message.len() as u64;
        did.messages += 1;
    }
    match n % 5 {
        0 => {
            did.ended = "peer_closed";
            stream.shutdown(Shutdown::Write).unwrap();
            assert!(read_to_end(&mut stream).is_empty());
        }
        1 => {
            did.ended = "peer_reset";
            reset(stream);
        }
        2 => {
            did.ended = "frame_too_long";
            stream.write_all(b"\xff\xff").unwrap();
            did.sent += 2;
            assert!(read_to_end(&mut stream).is_empty());
        }
        3 => {
            did.ended = "truncated_frame";
            stream.write_all(b"\x00\x05abc").unwrap();
            did.sent += 5;
            stream.shutdown(Shutdown::Write).unwrap();
            assert!(read_to_any_end(&mut stream).0.is_empty());
        }
        _ => did.ended = "peer_closed",
    }
    did
}

fn count(stats: &Stats, name: &str) -> u64 {
    stats.reasons().find(|(reason, _)| *reason == name).unwrap().1
}

#[test]
fn the_counters_agree_with_what_the_clients_did() {
    let (ends, ended) = mpsc::channel();
    let server = serve_one(Limits::default(), move || Watch::new(Framed::new(codec(U16), Echo), ends));
    let at = server.addr();
    let mut all = Vec::new();
    for group in 0..10u64 {
        let clients: Vec<_> = (0..20).map(|n| thread::spawn(move || client(at, group * 20 + n))).collect();
        all.extend(clients.into_iter().map(|c| c.join().unwrap()));
    }
    let stats = server.wait_for("the ends", |s| s.accepted == 200 && s.open == 0);
    let sum = |of: fn(&Did) -> u64| all.iter().map(of).sum::<u64>();
    assert_eq!((stats.bytes_in, stats.bytes_out), (sum(|d| d.sent), sum(|d| d.received)));
    assert_eq!((stats.messages_in, stats.messages_out), (sum(|d| d.messages), sum(|d| d.messages)));
    for name in ["peer_closed", "peer_reset", "frame_too_long", "truncated_frame"] {
        let did = all.iter().filter(|d| d.ended == name).count() as u64;
        assert_eq!(count(&stats, name), did, "{name}: {stats}");
        assert!(stats.to_string().contains(&format!("{name} {did}")), "{stats}");
    }
    assert_eq!((stats.closed_total(), stats.refused, stats.bytes_unsent), (200, 0, 0));
    assert_eq!((stats.input_held, stats.output_held, stats.panics), (0, 0, 0));
    // The handler saw the same reasons.
    let told: Vec<_> = (0..200).map(|_| next_end(&ended)).collect();
    assert_eq!(told.iter().map(|c| c.bytes_in).sum::<u64>(), stats.bytes_in);
    assert_eq!(told.iter().map(|c| c.bytes_out).sum::<u64>(), stats.bytes_out);
    let resets = told.iter().filter(|c| c.why == Reason::PeerReset).count();
    assert_eq!(resets as u64, stats.closed(&Reason::PeerReset));
}

#[test]
fn an_idle_reactor_does_not_turn() {
    let server = serve_one(Limits::default(), || Echo);
    let mut clients: Vec<_> = (0..20).map(|_| connect(server.addr())).collect();
    for client in &mut clients {
        echo(client, b"hello");
    }
    let before = server.stats();
    // Wait while nothing is sent.
    clients[0].set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    assert!(support::is_timeout(&std::io::Read::read(&mut clients[0], &mut [0]).unwrap_err()));
    let after = server.stats();
    assert!(after.turns - before.turns <= 3, "{} turns with nothing to do", after.turns - before.turns);
    assert_eq!(after.open, 20);
}
