//! Accepting connections: bursts, the cap per turn, the connection limit, the descriptor limit.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use turnwheel::{AtCapacity, Context, Echo, Handler, Limit, Limits, Reactor, Reason, Stats};

use crate::support::process::{affordable, again, as_a_crowd, is_child, spawn};
use crate::support::{self, PATIENCE, connect, echo, is_timeout, read_to_any_end, reset, serve_one, turn_until};

#[test]
fn connections_that_came_before_the_first_turn_are_all_taken_and_never_more_than_the_cap_in_a_turn() {
    let _crowd = as_a_crowd();
    let count = affordable(1000);
    for cap in [1, 4, 64] {
        let mut limits = Limits::default();
        limits.accepts_per_turn = cap;
        limits.connections = Limit::Unlimited;
        let mut reactor = Reactor::with_limits(limits).unwrap();
        let at = reactor.listen("127.0.0.1:0", Echo).unwrap().local_addr().unwrap();
        let clients: Vec<TcpStream> = (0..count).map(|_| connect(at)).collect();
        let mut before = 0;
        turn_until(&mut reactor, "all connections", |reactor| {
            let accepted = reactor.stats().accepted;
            assert!(accepted - before <= cap as u64, "{} in one turn, at most {cap}", accepted - before);
            before = accepted;
            accepted == count as u64
        });
        assert!(reactor.stats().turns >= (count / cap) as u64);
        drop(clients);
        turn_until(&mut reactor, "their ends", |r| r.stats().open == 0);
        assert_eq!(reactor.stats().closed(&Reason::PeerClosed), count as u64);
    }
}

#[test]
fn a_burst_against_a_busy_reactor_waits_in_the_kernel_and_nobody_is_turned_away() {
    let _crowd = as_a_crowd();
    let count = affordable(1500);
    let mut limits = Limits::default();
    limits.connections = Limit::Unlimited;
    let mut reactor = Reactor::with_limits(limits).unwrap();
    let at = reactor.listen("127.0.0.1:0", Echo).unwrap().local_addr().unwrap();
    // With a short listen backlog, the connects beyond it would hang.
    let mut clients: Vec<TcpStream> = (0..count).map(|_| connect(at)).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.write_all(&(n as u32).to_be_bytes()).unwrap();
    }
    let all = count as u64 * 4;
    turn_until(&mut reactor, "all bytes", |r| r.stats().bytes_out == all);
    for (n, client) in clients.iter_mut().enumerate() {
        let mut back = [0; 4];
        client.read_exact(&mut back).unwrap();
        assert_eq!(u32::from_be_bytes(back), n as u32);
    }
    assert_eq!((reactor.stats().accepted, reactor.stats().refused), (count as u64, 0));
}

#[test]
fn at_the_limit_more_wait_and_each_is_served_when_its_turn_comes() {
    let mut limits = Limits::default();
    limits.connections = Limit::At(8);
    let mut reactor = Reactor::with_limits(limits).unwrap();
    let at = reactor.listen("127.0.0.1:0", Echo).unwrap().local_addr().unwrap();
    let mut waiting: Vec<TcpStream> = (0..50).map(|_| connect(at)).collect();
    for client in &mut waiting {
        client.set_nonblocking(true).unwrap();
        client.write_all(b"hello").unwrap();
    }
    let mut served = 0;
    turn_until(&mut reactor, "all 50 to be served", |reactor| {
        assert!(reactor.stats().open <= 8, "{}", reactor.stats());
        waiting.retain_mut(|client| {
            let mut back = [0; 5];
            let got = client.read(&mut back);
            assert!(!matches!(got, Ok(0)), "refused");
            served += got.is_ok() as usize;
            got.is_err()
        });
        served == 50
    });
    assert_eq!((reactor.stats().accepted, reactor.stats().refused), (50, 0));
}

#[test]
fn at_the_limit_more_are_refused_and_counted_where_that_is_wanted() {
    let mut limits = Limits::default();
    limits.connections = Limit::At(8);
    limits.at_capacity = AtCapacity::Refuse;
    let server = serve_one(limits, || Echo);
    let mut clients: Vec<TcpStream> = (0..50).map(|_| connect(server.addr())).collect();
    server.wait_for("the refusals", |s| s.accepted + s.refused == 50);
    let (mut served, mut refused) = (0, 0);
    for client in &mut clients {
        // A write to a refused connection may fail with a reset, so only the end of the connection is checked.
        let _ = client.write_all(b"hello");
        let mut back = [0; 5];
        match client.read(&mut back) {
            Ok(0) => refused += 1,
            Ok(n) => {
                assert_eq!(n, 5);
                served += 1;
            }
            Err(e) if is_timeout(&e) => panic!("neither served nor refused"),
            Err(_) => refused += 1,
        }
    }
    assert_eq!((served, refused), (8, 42));
    let stats = server.stats();
    assert_eq!((stats.open, stats.refused, stats.closed(&Reason::AtCapacity)), (8, 42, 42));
    drop(clients);
    server.wait_for("the ends", |s| s.open == 0);
    echo(&mut connect(server.addr()), b"below the limit");
}

#[test]
fn connections_that_are_reset_before_they_are_accepted_disturb_nobody() {
    let _crowd = as_a_crowd();
    let count = affordable(1000);
    let mut reactor = Reactor::new().unwrap();
    let at = reactor.listen("127.0.0.1:0", Echo).unwrap().local_addr().unwrap();
    let mut good = connect(at);
    for _ in 0..count {
        reset(connect(at));
    }
    let mut last = connect(at);
    good.write_all(b"first").unwrap();
    last.write_all(b"lasts").unwrap();
    turn_until(&mut reactor, "the good clients", |r| r.stats().bytes_out == 10);
    turn_until(&mut reactor, "the ends", |r| r.stats().open == 2);
    for (client, expected) in [(&mut good, b"first"), (&mut last, b"lasts")] {
        let mut back = [0; 5];
        client.read_exact(&mut back).unwrap();
        assert_eq!(&back, expected);
    }
    let stats = reactor.stats();
    assert_eq!(stats.accepted, stats.open + stats.closed_total() - stats.refused, "{stats}");
    assert_eq!(stats.closed(&Reason::PeerReset) + stats.accept_errors, count as u64, "{stats}");
}

#[test]
fn one_event_at_a_time_is_enough_to_serve_everybody() {
    let mut limits = Limits::default();
    limits.events_per_turn = 1;
    let server = serve_one(limits, || Echo);
    let mut clients: Vec<TcpStream> = (0..50).map(|_| connect(server.addr())).collect();
    for round in 0..5u8 {
        for client in &mut clients {
            client.write_all(&[round; 1000]).unwrap();
        }
        for client in &mut clients {
            assert_eq!(support::read_n(client, 1000), [round; 1000]);
        }
    }
    for client in &mut clients {
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(read_to_any_end(client).1.is_ok());
    }
    let stats = server.wait_for("the ends", |s| s.open == 0);
    assert_eq!((stats.bytes_in, stats.bytes_out), (250_000, 250_000));
}

/// Echoes, except that it answers `?` with counters.
struct Reporter;

impl Handler for Reporter {
    type State = ();
    fn on_open(&mut self, _cx: &mut Context<'_>) {}
    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
        if data == b"?" {
            let Stats { turns, accept_pauses, accepted, .. } = cx.stats();
            cx.send(format!("{turns} {accept_pauses} {accepted}\n").as_bytes());
        } else {
            cx.send(data);
        }
    }
}

/// Runs in the child process: a server with a low limit of descriptors.
fn serve_in_a_child() -> ! {
    let mut limits = Limits::default();
    limits.connections = Limit::Unlimited;
    let mut reactor = Reactor::with_limits(limits).unwrap();
    let listening = reactor.listen("127.0.0.1:0", Reporter).unwrap();
    println!("listening on {}", listening.local_addr().unwrap());
    reactor.run().unwrap();
    std::process::exit(0);
}

struct KillAtEnd(Child);

impl Drop for KillAtEnd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ask(client: &mut TcpStream) -> [u64; 3] {
    client.write_all(b"?").unwrap();
    let mut line = String::new();
    BufReader::new(client).read_line(&mut line).unwrap();
    let numbers: Vec<u64> = line.split_whitespace().map(|n| n.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

#[cfg(unix)]
#[test]
fn at_the_limit_of_descriptors_accepting_rests_without_spinning_and_those_who_wait_are_served_later() {
    if is_child() {
        serve_in_a_child();
    }
    let me = "at_the_limit_of_descriptors_accepting_rests_without_spinning_and_those_who_wait_are_served_later";
    let mut command = again("ulimit -n 40;", module_path!(), me);
    let child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::null()));
    let mut child = KillAtEnd(child.unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let at = lines.find_map(|l| l.split("listening on ").nth(1).map(|a| a.parse().unwrap()));
    let at = at.expect("the child does not listen");

    let mut first = connect(at);
    echo(&mut first, b"served before the shortage");
    let mut others: Vec<TcpStream> = (0..79).map(|_| connect(at)).collect();
    let [turns, pauses, accepted] = loop {
        let now = ask(&mut first);
        if now[1] > 0 {
            break now;
        }
    };
    assert!((5..40).contains(&accepted), "{accepted} with 40 descriptors");
    // Nothing is sent for a while, so all turns in this time are the retries of the reactor.
    let since = std::time::Instant::now();
    first.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert!(is_timeout(&first.read(&mut [0]).unwrap_err()));
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    let [turns_then, pauses_then, _] = ask(&mut first);
    let (turned, paused) = (turns_then - turns, pauses_then - pauses);
    assert!(paused > 0, "it never retried");
    let most = 2 + since.elapsed().as_millis() as u64 / 100;
    assert!(paused <= most, "{paused} pauses of 100 ms each, at most {most} expected");
    assert!(turned <= 4 * paused + 20, "{turned} turns for {paused} pauses: it spins");
    echo(&mut first, b"served during the shortage");

    // The first clients close, and then about thirty of the others at a time are accepted and served.
    while !others.is_empty() {
        let rest = others.split_off(others.len().min(20));
        for client in &mut others {
            echo(client, b"served after the shortage");
        }
        others = rest;
    }
    assert_eq!(ask(&mut first)[2], 80);
}
