//! Closing connections: no byte that was accepted for sending is lost, and each close has its reason.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use turnwheel::{Context, Echo, Handler, Limit, Limits, Listen, Reason};

use crate::support::process::without_crowds;
use crate::support::{
    self, Watch, check_pattern, connect, connect_narrow, is_timeout, next_end, pattern, read_n, read_to_end, reset,
    serve, serve_one,
};

/// Sends a pattern of the requested size, at once or when the peer has sent something, and then closes if `close`.
struct Give {
    at_once: bool,
    close: bool,
}

impl Give {
    fn give(&self, cx: &mut Context<'_>, len: usize) {
        assert!(cx.send(pattern(len as u64, len)).is_queued());
        if self.close {
            cx.close();
            assert!(!cx.send(b"too late").is_queued());
        }
    }
}

impl Handler for Give {
    type State = ();
    fn on_open(&mut self, cx: &mut Context<'_>) {
        if self.at_once {
            self.give(cx, 64 * 1024);
        }
    }
    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
        if let Ok(len) = String::from_utf8_lossy(data).trim().parse() {
            self.give(cx, len);
        }
    }
}

fn roomy() -> Limits {
    let mut limits = Limits::default();
    limits.output_hard = Limit::At(16 << 20);
    limits
}

const SIZES: [usize; 8] = [1, 2, 1000, 4096, 65_536, 65_537, 1 << 20, 8 << 20];

#[test]
fn a_client_that_finishes_sending_at_once_and_reads_slowly_gets_every_byte() {
    let server = serve_one(Limits::default(), || Echo);
    for size in SIZES {
        let stream = connect_narrow(server.addr(), 16 * 1024);
        let mut out = stream.try_clone().unwrap();
        let writer = thread::spawn(move || {
            out.write_all(&pattern(size as u64, size)).unwrap();
            out.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        let mut stream = stream;
        let mut buffer = vec![0; 1 + size / 500];
        loop {
            match stream.read(&mut buffer).unwrap() {
                0 => break,
                n => back.extend_from_slice(&buffer[..n]),
            }
        }
        writer.join().unwrap();
        check_pattern(size as u64, size, &back);
    }
    let stats = server.wait_for("the ends", |s| s.open == 0);
    assert_eq!(stats.closed(&Reason::PeerClosed), SIZES.len() as u64);
    assert_eq!(stats.bytes_in, stats.bytes_out);
}

#[test]
fn what_is_sent_just_before_a_close_arrives_whole() {
    let server = serve_one(roomy(), || Give { at_once: false, close: true });
    for size in SIZES.into_iter().filter(|n| *n <= 4 << 20).chain([4 << 20]) {
        let mut client = connect(server.addr());
        client.write_all(size.to_string().as_bytes()).unwrap();
        check_pattern(size as u64, size, &read_to_end(&mut client));
    }
    let stats = server.wait_for("the ends", |s| s.open == 0);
    assert_eq!(stats.closed(&Reason::Handler), SIZES.len() as u64);
    assert_eq!(stats.bytes_unsent, 0);
}

#[test]
fn a_client_that_never_stops_sending_gets_the_whole_answer_before_the_close() {
    let server = serve_one(roomy(), || Give { at_once: true, close: true });
    for _ in 0..20 {
        let mut client = connect_narrow(server.addr(), 4096);
        let mut back = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            // The answer arrives slowly through a small window, and the server always has unread input. A close with
            // unread input would send RST and destroy the answer.
            client.write_all(&[b'x'; 512]).unwrap();
            match client.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => back.extend_from_slice(&buffer[..n]),
                Err(e) => panic!("after {} bytes: {e}", back.len()),
            }
        }
        check_pattern(64 * 1024, 64 * 1024, &back);
    }
}

#[test]
fn a_client_that_never_finishes_its_half_is_not_waited_for_for_ever() {
    let mut limits = roomy();
    limits.linger_quiet = Duration::from_millis(30);
    limits.linger_total = Duration::from_millis(60);
    let (ends, ended) = mpsc::channel();
    let server = serve_one(limits, move || Watch::new(Give { at_once: true, close: true }, ends));
    let mut quiet = connect(server.addr());
    check_pattern(64 * 1024, 64 * 1024, &read_to_end(&mut quiet));
    assert_eq!(next_end(&ended).why, Reason::Handler);

    let mut loud = connect(server.addr());
    check_pattern(64 * 1024, 64 * 1024, &read_to_end(&mut loud));
    // Keep sending until a write fails.
    while loud.write(&[0; 100]).is_ok() {}
    let closed = next_end(&ended);
    assert_eq!((closed.why, closed.bytes_out, closed.unsent), (Reason::Handler, 64 * 1024, 0));
    server.wait_for("the ends", |s| s.open == 0);
    drop((quiet, loud));
}

#[test]
fn a_reset_is_told_as_one_and_what_was_not_sent_is_counted() {
    let (ends, ended) = mpsc::channel();
    let server = serve(Limits::default(), move |reactor| {
        let give = Watch::new(Give { at_once: false, close: false }, ends);
        let at = Listen::new("127.0.0.1:0").send_buffer(16 * 1024);
        Ok(vec![reactor.listen(at, give)?])
    });
    for read_first in [0, 1, 50_000] {
        let mut client = connect_narrow(server.addr(), 16 * 1024);
        let size = 1 << 20;
        client.write_all(size.to_string().as_bytes()).unwrap();
        // The first byte has arrived, so the server is sending; the buffers are too small for all of it.
        assert!(client.peek(&mut [0]).unwrap() > 0);
        read_n(&mut client, read_first);
        reset(client);
        let closed = next_end(&ended);
        assert_eq!(closed.why, Reason::PeerReset);
        assert_eq!(closed.bytes_out + closed.unsent, size, "{closed}");
        assert!(closed.unsent > 0 && closed.bytes_out >= read_first as u64, "{closed}");
        assert_eq!(closed.bytes_in, 7);
    }
    let stats = server.wait_for("the ends", |s| s.open == 0);
    assert_eq!(stats.closed(&Reason::PeerReset), 3);
    assert_eq!(stats.output_held, 0);
}

#[test]
fn an_abort_reaches_the_client_as_a_reset() {
    struct Abort;
    impl Handler for Abort {
        type State = ();
        fn on_open(&mut self, _cx: &mut Context<'_>) {}
        fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
            cx.send(data);
            cx.abort();
        }
    }
    let (ends, ended) = mpsc::channel();
    let server = serve_one(Limits::default(), move || Watch::new(Abort, ends));
    let mut client = connect(server.addr());
    client.write_all(b"end me").unwrap();
    let (_, end) = support::read_to_any_end(&mut client);
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(next_end(&ended).why, Reason::Handler);
}

#[test]
fn after_the_end_of_output_the_other_direction_goes_on() {
    /// Sends a greeting and half-closes, then counts the input.
    struct Half(mpsc::Sender<usize>);
    impl Handler for Half {
        type State = usize;
        fn on_open(&mut self, cx: &mut Context<'_>) -> usize {
            cx.send(b"hello");
            cx.shutdown_write();
            0
        }
        fn on_data(&mut self, _cx: &mut Context<'_>, count: &mut usize, data: &[u8]) {
            *count += data.len();
        }
        fn on_end(&mut self, cx: &mut Context<'_>, count: &mut usize) {
            self.0.send(*count).unwrap();
            cx.close();
        }
    }
    let (counts, counted) = mpsc::channel();
    let server = serve_one(Limits::default(), move || Half(counts));
    let mut client = connect(server.addr());
    assert_eq!(read_to_end(&mut client), b"hello");
    client.write_all(&pattern(1, 3 << 20)).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(counted.recv_timeout(support::PATIENCE).unwrap(), 3 << 20);
    let stats = server.wait_for("the end", |s| s.open == 0);
    assert_eq!(stats.closed(&Reason::PeerClosed), 1);
}

#[test]
fn an_idle_connection_is_ended_cleanly_and_a_busy_one_is_not() {
    let _calm = without_crowds();
    let mut limits = Limits::default();
    limits.idle_timeout = Limit::At(Duration::from_millis(300));
    let server = serve_one(limits, || Echo);
    let mut idle = connect(server.addr());
    let mut busy: TcpStream = connect(server.addr());
    idle.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let mut ended = false;
    for _ in 0..5000 {
        support::echo(&mut busy, b"still here");
        match idle.read(&mut [0]) {
            Ok(0) => {
                ended = true;
                break;
            }
            Ok(_) => panic!("unexpected bytes"),
            Err(e) => assert!(is_timeout(&e), "{e}"),
        }
    }
    assert!(ended, "the idle connection was never closed");
    support::echo(&mut busy, b"still served");
    drop(idle);
    assert_eq!(server.wait_for("the end", |s| s.open == 1).closed(&Reason::IdleTimeout), 1);
}
