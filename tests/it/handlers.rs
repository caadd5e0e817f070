//! Handlers: a panic closes one connection, an unused handler is dropped, and limits that do not fit are refused.

use std::io::{ErrorKind, Write};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use turnwheel::{Closed, Context, Echo, Framed, Handler, Limit, Limits, Net, PanicPolicy, Reactor, Reason};

use crate::support::process::without_births;
use crate::support::{
    self, PATIENCE, Watch, codec, connect, echo, next_end, read_n, read_to_any_end, serve_one, turn_until,
};

/// Echoes, but panics in the callback that the first byte of the connection selects.
struct Fragile {
    opened: usize,
}

impl Fragile {
    /// Panics without a message in the output of the test.
    fn burst() -> ! {
        resume_unwind(Box::new("on purpose"));
    }
}

impl Handler for Fragile {
    type State = u8;
    fn on_open(&mut self, _cx: &mut Context<'_>) -> u8 {
        self.opened += 1;
        if self.opened == 2 {
            Self::burst();
        }
        0
    }
    fn on_data(&mut self, cx: &mut Context<'_>, state: &mut u8, data: &[u8]) {
        *state = data[0];
        cx.send(data);
        if data[0] == b'd' {
            Self::burst();
        }
    }
    fn on_end(&mut self, cx: &mut Context<'_>, state: &mut u8) {
        if *state == b'e' {
            Self::burst();
        }
        cx.close();
    }
    fn on_close(&mut self, _net: &mut Net<'_>, state: u8, _closed: &Closed) {
        if state == b'c' {
            Self::burst();
        }
    }
}

#[test]
fn a_panic_ends_only_the_connection_whose_callback_it_was() {
    let server = serve_one(Limits::default(), || Fragile { opened: 0 });
    let mut good = connect(server.addr());
    echo(&mut good, b"before");
    // A panic in on_open closes the connection.
    let (data, end) = match std::net::TcpStream::connect(server.addr()) {
        Ok(mut client) => {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            read_to_any_end(&mut client)
        }
        Err(e) => (Vec::new(), Err(e)),
    };
    assert!(data.is_empty() && end.is_err(), "a connection without a state stayed open");
    for (what, panics) in [(b'd', 2), (b'e', 3), (b'c', 4)] {
        let mut client = connect(server.addr());
        client.write_all(&[what, b'x']).unwrap();
        // The connection may be closed by now.
        let _ = client.shutdown(std::net::Shutdown::Write);
        let _ = read_to_any_end(&mut client);
        let stats = server.wait_for("the end", |s| s.open == 1);
        assert_eq!(stats.panics, panics);
        echo(&mut good, b"after");
    }
    let stats = server.stats();
    assert_eq!((stats.accepted, stats.closed(&Reason::HandlerPanic)), (5, 3), "{stats}");
    assert_eq!(stats.closed(&Reason::PeerClosed), 1, "the one whose on_close panicked");
}

#[test]
fn a_panic_goes_on_to_whoever_turns_the_reactor_where_that_is_wanted() {
    let mut reactor = Reactor::new().unwrap();
    reactor.set_panic_policy(PanicPolicy::Propagate);
    let at = reactor.listen("127.0.0.1:0", Fragile { opened: 0 }).unwrap().local_addr().unwrap();
    let mut client = connect(at);
    client.write_all(b"d").unwrap();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        turn_until(&mut reactor, "the panic", |r| r.stats().open == 0 && r.stats().accepted > 0);
    }));
    assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"on purpose"));
}

/// Counts how often it is dropped.
struct Mortal(Arc<AtomicUsize>);

impl Drop for Mortal {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Handler for Mortal {
    type State = ();
    fn on_open(&mut self, _cx: &mut Context<'_>) {}
    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
        cx.send(data);
    }
}

#[test]
fn a_handler_lives_as_long_as_a_listener_or_a_connection_leads_to_it() {
    let _undisturbed = without_births();
    let drops = Arc::new(AtomicUsize::new(0));
    let dropped = || drops.load(Ordering::SeqCst);
    let mut reactor = Reactor::new().unwrap();
    let listening = reactor.listen("127.0.0.1:0", Mortal(Arc::clone(&drops))).unwrap();
    let mut client = connect(listening.local_addr().unwrap());
    turn_until(&mut reactor, "the connection", |r| r.stats().open == 1);
    let (id, _) = listening.sockets()[0];
    assert!(reactor.close_listener(id) && !reactor.close_listener(id));
    assert!(std::net::TcpStream::connect(listening.local_addr().unwrap()).is_err());
    // The connection stays open without its listener.
    client.write_all(b"still here").unwrap();
    turn_until(&mut reactor, "the echo", |r| r.stats().bytes_out == 10);
    assert_eq!((read_n(&mut client, 10), dropped()), (b"still here".to_vec(), 0));
    drop(client);
    turn_until(&mut reactor, "the end", |r| r.stats().open == 0);
    assert_eq!(dropped(), 1);

    // A handler that never listened is dropped at once. A handler with a key lives as long as the reactor.
    assert!(reactor.listen("not an address", Mortal(Arc::clone(&drops))).is_err());
    assert_eq!(dropped(), 2);
    let key = reactor.add(Mortal(Arc::clone(&drops))).unwrap();
    let listening = reactor.listen_on("127.0.0.1:0", key).unwrap();
    reactor.close_listener(listening.sockets()[0].0);
    assert!(reactor.get(key).is_some() && dropped() == 2);
    drop(reactor);
    assert_eq!(dropped(), 3);
}

#[test]
fn a_framing_that_does_not_fit_the_limits_is_refused_with_both_numbers() {
    let mut limits = Limits::default();
    limits.input_kept = 70_000;
    let mut reactor = Reactor::with_limits(limits).unwrap();
    let error = reactor.listen("127.0.0.1:0", Framed::new(codec("len:u32be,max=80000"), Echo)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let said = error.to_string();
    assert!(said.contains("input_kept is 70000") && said.contains("80004"), "{said}");
    assert!(reactor.listen("127.0.0.1:0", Framed::new(codec("len:u32be,max=60000"), Echo)).is_ok());

    let mut limits = Limits::default();
    limits.input_kept = 8 << 20;
    let mut reactor = Reactor::with_limits(limits).unwrap();
    let said = reactor.add(Framed::new(codec("netstring,max=3MiB"), Echo)).unwrap_err().to_string();
    assert!(said.contains("output_hard is 2097152"), "{said}");

    let mut limits = Limits::default();
    limits.output_total = Limit::At(100);
    let said = Reactor::with_limits(limits).unwrap_err().to_string();
    assert!(said.contains("output_total is 100") && said.contains("2097152"), "{said}");
}

#[test]
fn every_connection_that_was_opened_is_closed_once_whatever_ends_it() {
    let (ends, ended) = mpsc::channel();
    let server = serve_one(Limits::default(), move || Watch::new(Echo, ends));
    for n in 0..200 {
        let mut client = connect(server.addr());
        echo(&mut client, b"hello");
        match n % 3 {
            0 => drop(client),
            1 => support::reset(client),
            _ => {
                client.shutdown(std::net::Shutdown::Write).unwrap();
                assert!(support::read_to_end(&mut client).is_empty());
            }
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let closed = next_end(&ended);
        assert!(seen.insert(closed.who), "{closed} for the second time");
        assert_eq!((closed.bytes_in, closed.bytes_out, closed.unsent), (5, 5, 0), "{closed}");
    }
    let outcome = server.stop();
    assert!(ended.try_recv().is_err(), "an extra on_close");
    assert_eq!(outcome.stats.closed(&Reason::PeerReset), 67);
    assert_eq!(outcome.stats.closed(&Reason::PeerClosed), 133);
}
