//! Output: many small pieces, large shared ones, and peers that do not read.

use std::io::{Read, Write};
use std::sync::mpsc;
use std::thread;

use turnwheel::{Context, Echo, Handler, Limits, Listen, Reason, Sent};

use crate::support::process::without_crowds;
use crate::support::{
    self, Watch, check_pattern, connect, connect_narrow, echo, is_timeout, next_end, pattern, read_n, serve, serve_one,
};

/// Sends a pattern. The first byte of the input selects the pieces in which it is sent.
struct Pieces {
    /// Made once: in a callback it would hold up everyone.
    whole: bytes::Bytes,
}

impl Pieces {
    fn new() -> Self {
        Self { whole: pattern(8, 1_500_000).into() }
    }
}

impl Handler for Pieces {
    type State = ();
    fn on_open(&mut self, _cx: &mut Context<'_>) {}
    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
        let whole = &self.whole;
        match data[0] {
            b'1' => (0..5000).for_each(|n| assert_eq!(cx.send(&whole[n..n + 1]), Sent::Queued)),
            b's' => {
                // Slices of one allocation in many sizes, so that copied and referenced slices follow each other.
                let mut at = 0;
                for n in 0.. {
                    let end = whole.len().min(at + 1 + n * n % 5003);
                    assert_eq!(cx.send_bytes(whole.slice(at..end)), Sent::Queued);
                    at = end;
                    if at == whole.len() {
                        break;
                    }
                }
            }
            _ => assert_eq!(cx.send(whole), Sent::Queued),
        }
    }
}

/// Sends ten million bytes to everybody: from a file, from memory and from an iterator.
struct Long(std::path::PathBuf);

impl Handler for Long {
    type State = ();
    fn on_open(&mut self, _cx: &mut Context<'_>) {}
    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
        let sent = match data[0] {
            b'f' => cx.send_all(std::fs::File::open(&self.0).unwrap()),
            b'm' => cx.send_all(std::fs::read(&self.0).unwrap()),
            _ => {
                let whole = bytes::Bytes::from(std::fs::read(&self.0).unwrap());
                let cuts = (0..whole.len()).step_by(9_973);
                cx.send_all(turnwheel::Pieces::new(
                    cuts.map(move |at| whole.slice(at..whole.len().min(at + 9_973))).collect::<Vec<_>>(),
                ))
            }
        };
        assert_eq!(sent, Sent::Queued);
        cx.send("and the end");
        cx.close();
    }
}

#[test]
fn a_file_and_a_long_answer_arrive_whole_in_little_memory() {
    const LEN: usize = 10_000_000;
    let path = std::env::temp_dir().join(format!("turnwheel-long-{}", std::process::id()));
    std::fs::write(&path, pattern(5, LEN)).unwrap();
    let file = path.clone();
    let server = serve_one(Limits::default(), move || Long(file));
    for source in ["file", "memory", "iterator"] {
        let mut client = connect(server.addr());
        client.write_all(source.as_bytes()).unwrap();
        check_pattern(5, LEN, &read_n(&mut client, LEN));
        assert!(server.stats().output_held <= 256 * 1024, "{}", server.stats().output_held);
        assert_eq!(support::read_to_end(&mut client), b"and the end");
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(server.wait_for("all", |s| s.open == 0).closed(&Reason::Handler), 3);
}

#[test]
fn thousands_of_small_sends_arrive_as_one_stream() {
    let server = serve_one(Limits::default(), Pieces::new);
    let mut client = connect(server.addr());
    for _ in 0..10 {
        client.write_all(b"1").unwrap();
        check_pattern(8, 5000, &read_n(&mut client, 5000));
    }
    assert_eq!(server.wait_for("the count", |s| s.bytes_out == 50_000).messages_out, 50_000);
}

#[test]
fn copies_and_references_arrive_in_the_order_of_sending_through_a_narrow_socket() {
    let server = serve(Limits::default(), |reactor| {
        Ok(vec![reactor.listen(Listen::new("127.0.0.1:0").send_buffer(8192), Pieces::new())?])
    });
    for what in [b"s", b"w"] {
        let mut client = connect_narrow(server.addr(), 8192);
        client.write_all(what).unwrap();
        check_pattern(8, 1_500_000, &read_n(&mut client, 1_500_000));
    }
    server.wait_for("the buffers", |s| s.output_held == 0);
}

#[test]
fn clients_that_send_and_do_not_read_hold_little_memory_and_lose_nothing() {
    let limits = Limits::default();
    let most = (limits.output_high + limits.read_buffer) as u64;
    let server = serve(limits, |reactor| {
        let at = Listen::new("127.0.0.1:0").send_buffer(128 * 1024).receive_buffer(128 * 1024);
        Ok(vec![reactor.listen(at, Echo)?])
    });
    const SIZE: usize = 2 << 20;
    let mut good = connect(server.addr());
    let mut deaf: Vec<_> = (0..20).map(|_| (connect_narrow(server.addr(), 128 * 1024), 0)).collect();
    // The clients send until their writes block, and read nothing.
    for (n, (client, sent)) in deaf.iter_mut().enumerate() {
        let data = pattern(n as u64, SIZE);
        client.set_write_timeout(Some(std::time::Duration::from_millis(40))).unwrap();
        while *sent < SIZE {
            match client.write(&data[*sent..]) {
                Ok(more) => *sent += more,
                Err(e) if is_timeout(&e) => break,
                Err(e) => panic!("cut: {e}"),
            }
            let held = server.stats().output_held;
            assert!(held <= 2 * 20 * most, "{held} B of output held");
        }
        assert!(*sent < SIZE, "the server accepted everything although the client reads nothing");
        echo(&mut good, b"others are served meanwhile");
    }
    let stats = server.stats();
    assert!(stats.output_held <= 2 * 20 * most && stats.closed_total() == 0, "{stats}");
    // When the clients read at last, every byte arrives.
    let readers: Vec<_> = deaf
        .into_iter()
        .enumerate()
        .map(|(n, (mut client, sent))| thread::spawn(move || check_pattern(n as u64, sent, &read_n(&mut client, sent))))
        .collect();
    readers.into_iter().for_each(|r| r.join().unwrap());
    let stats = server.wait_for("the buffers", |s| s.output_held == 0);
    assert_eq!(stats.closed(&Reason::OutputLimit) + stats.closed(&Reason::WriteStall), 0);
}

#[test]
fn a_push_beyond_the_hard_limit_cuts_the_connection_and_leaves_no_gap() {
    /// Sends blocks until one is refused, and reports how many were queued.
    struct Push(mpsc::Sender<usize>);
    impl Handler for Push {
        type State = ();
        fn on_open(&mut self, _cx: &mut Context<'_>) {}
        fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), _data: &[u8]) {
            let block = pattern(9, 64 * 1024);
            let queued = (0..1000).take_while(|_| cx.send(&block).is_queued()).count();
            assert!(!cx.send(b"x").is_queued(), "queued after a refusal: a gap");
            self.0.send(queued).unwrap();
        }
    }
    let (counts, counted) = mpsc::channel();
    let (ends, ended) = mpsc::channel();
    let server = serve_one(Limits::default(), move || Watch::new(Push(counts), ends));
    let mut client = connect(server.addr());
    client.write_all(b"!").unwrap();
    assert_eq!(counted.recv_timeout(support::PATIENCE).unwrap(), 32, "two MiB in blocks of 64 KiB");
    let closed = next_end(&ended);
    assert_eq!(closed.why, Reason::OutputLimit);
    assert_eq!(closed.bytes_out + closed.unsent, 2 << 20);
    let mut back = Vec::new();
    let _ = client.read_to_end(&mut back);
    assert!(back.iter().enumerate().all(|(n, b)| *b == support::byte(9, n % (64 * 1024))));
}

#[test]
fn a_peer_that_stops_reading_for_too_long_is_cut_and_a_reading_one_is_not() {
    let _calm = without_crowds();
    let mut limits = Limits::default();
    limits.write_stall = turnwheel::Limit::At(std::time::Duration::from_millis(200));
    let (ends, ended) = mpsc::channel();
    let server = serve(limits, move |reactor| {
        let at = Listen::new("127.0.0.1:0").send_buffer(8192);
        Ok(vec![reactor.listen(at, Watch::new(Pieces::new(), ends))?])
    });
    let mut good = connect(server.addr());
    let mut deaf = connect_narrow(server.addr(), 8192);
    deaf.write_all(b"w").unwrap();
    good.write_all(b"w").unwrap();
    check_pattern(8, 1_500_000, &read_n(&mut good, 1_500_000));
    let closed = next_end(&ended);
    assert_eq!((closed.why, closed.bytes_out + closed.unsent), (Reason::WriteStall, 1_500_000));
    assert_eq!(server.wait_for("the end", |s| s.open == 1).closed(&Reason::WriteStall), 1);
}

#[test]
fn on_drain_tells_when_to_go_on() {
    /// Sends blocks while fewer than 256 KiB are pending, 5 MiB in all.
    struct Stream;
    impl Stream {
        fn go_on(cx: &mut Context<'_>, sent: &mut usize) {
            while *sent < 5 << 20 && cx.pending() < 256 * 1024 {
                let block: Vec<u8> = (*sent..*sent + 4096).map(|n| support::byte(10, n)).collect();
                assert!(cx.send(&block).is_queued());
                *sent += block.len();
            }
            if *sent == 5 << 20 {
                cx.close();
            }
        }
    }
    impl Handler for Stream {
        type State = usize;
        fn on_open(&mut self, cx: &mut Context<'_>) -> usize {
            let mut sent = 0;
            Self::go_on(cx, &mut sent);
            sent
        }
        fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut usize, _data: &[u8]) {}
        fn on_drain(&mut self, cx: &mut Context<'_>, sent: &mut usize) {
            Self::go_on(cx, sent);
        }
    }
    let server = serve(Limits::default(), |reactor| {
        Ok(vec![reactor.listen(Listen::new("127.0.0.1:0").send_buffer(16 * 1024), Stream)?])
    });
    let mut client = connect_narrow(server.addr(), 32 * 1024);
    check_pattern(10, 5 << 20, &support::read_to_end(&mut client));
}
