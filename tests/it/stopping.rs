//! Shutting down while clients connect and send: each answer is complete or absent.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use turnwheel::{Context, Echo, Framed, Handler, Limits, Reactor, Reason};

use crate::support::process::{as_a_crowd, without_births};
use crate::support::{self, PATIENCE, codec, connect, echo, is_timeout, pattern, serve_one, wire};

/// Sends messages and reads the echoes until the server closes. Returns how many echoes it read.
fn talk(at: SocketAddr, seed: u64, talking: &AtomicUsize) -> usize {
    let Ok(mut client) = TcpStream::connect_timeout(&at, PATIENCE) else { return 0 };
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    let message = wire("len:u32be", &[pattern(seed, 1 + (seed as usize * 997) % 20_000)]);
    let mut rounds = 0;
    loop {
        let sent = client.write_all(&message);
        let mut back = Vec::new();
        let mut buffer = [0; 8192];
        while back.len() < message.len() {
            match client.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => back.extend_from_slice(&buffer[..n]),
                Err(e) if is_timeout(&e) => panic!("timed out: neither an answer nor an end"),
                Err(_) => break,
            }
        }
        if back.is_empty() {
            return rounds;
        }
        assert!(sent.is_ok() && back == message, "{} of {} bytes", back.len(), message.len());
        rounds += 1;
        talking.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_stop_amid_two_hundred_clients_gives_each_whole_answers_or_none() {
    let _crowd = as_a_crowd();
    for round in 0..4u64 {
        let server = serve_one(Limits::default(), || Framed::new(codec("len:u32be"), Echo));
        let at = server.addr();
        let answers = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = (0..200)
            .map(|n| {
                let answers = Arc::clone(&answers);
                thread::spawn(move || talk(at, round * 200 + n, &answers))
            })
            .collect();
        // Now some clients exchange messages, some connect, and some have not started.
        let few = 20 + round as usize * 150;
        server.wait_for("some answers", |s| s.messages_in as usize >= few);
        let outcome = server.stop();
        let heard: usize = clients.into_iter().map(|c| c.join().unwrap()).sum();
        let stats = outcome.stats;
        assert_eq!((stats.open, stats.closed_total()), (0, stats.accepted), "{stats}");
        assert_eq!(outcome.report.cut, 0, "{:?}", outcome.report);
        assert_eq!(stats.bytes_unsent, 0);
        assert!(heard as u64 <= stats.messages_in && heard == answers.load(Ordering::Relaxed));
    }
}

#[test]
fn those_who_wait_to_be_accepted_when_the_stop_comes_are_served() {
    struct Greet;
    impl Handler for Greet {
        type State = ();
        fn on_open(&mut self, cx: &mut Context<'_>) {
            cx.send(b"hello");
        }
        fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut (), _data: &[u8]) {}
    }
    let _undisturbed = without_births();
    let mut reactor = Reactor::new().unwrap();
    let at = reactor.listen("127.0.0.1:0", Greet).unwrap().local_addr().unwrap();
    let clients: Vec<TcpStream> = (0..50).map(|_| connect(at)).collect();
    let readers: Vec<_> =
        clients.into_iter().map(|mut c| thread::spawn(move || support::read_to_end(&mut c))).collect();
    let report = reactor.shutdown(PATIENCE).unwrap();
    for reader in readers {
        assert_eq!(reader.join().unwrap(), b"hello");
    }
    assert_eq!((report.clean, report.cut, report.bytes_lost), (50, 0, 0));
    assert_eq!(reactor.stats().closed(&Reason::Shutdown), 50);
    assert!(TcpStream::connect(at).is_err(), "it still listens");
}

/// Does not close its connections at a shutdown.
struct Stubborn;

impl Handler for Stubborn {
    type State = ();
    fn on_open(&mut self, cx: &mut Context<'_>) {
        cx.send(b"hello");
    }
    fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut (), _data: &[u8]) {}
    fn on_shutdown(&mut self, cx: &mut Context<'_>, _state: &mut ()) {
        cx.send(b"not yet");
    }
}

#[test]
fn what_is_still_open_when_the_grace_is_over_is_aborted() {
    let mut limits = Limits::default();
    limits.shutdown_grace = Duration::from_millis(50);
    let server = serve_one(limits, || Stubborn);
    let mut client = connect(server.addr());
    assert_eq!(support::read_n(&mut client, 5), b"hello");
    let outcome = server.stop();
    assert_eq!(outcome.stats.closed(&Reason::ShutdownDeadline), 1);
    assert_eq!((outcome.report.clean, outcome.report.cut), (0, 1));
}

#[test]
fn a_second_stop_ends_the_grace() {
    let mut limits = Limits::default();
    limits.shutdown_grace = 1000 * PATIENCE;
    let mut server = serve_one(limits, || Stubborn);
    let mut client = connect(server.addr());
    assert_eq!(support::read_n(&mut client, 5), b"hello");
    server.handle.stop().unwrap();
    assert_eq!(support::read_n(&mut client, 7), b"not yet");
    server.handle.clone().stop().unwrap();
    assert_eq!(server.join().stats.closed(&Reason::ShutdownDeadline), 1);
}

#[test]
fn run_returns_when_a_stop_has_ended_and_the_reactor_can_be_used_again() {
    let (ready, started) = mpsc::channel();
    let thread = thread::spawn(move || {
        let mut reactor = Reactor::new().unwrap();
        for _ in 0..3 {
            let at = reactor.listen("127.0.0.1:0", Echo).unwrap().local_addr().unwrap();
            ready.send((at, reactor.handle())).unwrap();
            reactor.run().unwrap();
            assert_eq!(reactor.stats().open, 0);
        }
        reactor.stats()
    });
    for _ in 0..3 {
        let (at, handle) = started.recv_timeout(PATIENCE).unwrap();
        let mut client = connect(at);
        echo(&mut client, b"round");
        handle.stop().unwrap();
        assert!(support::read_to_end(&mut client).is_empty());
    }
    let stats = thread.join().unwrap();
    assert_eq!((stats.accepted, stats.closed(&Reason::Shutdown)), (3, 3));
}
