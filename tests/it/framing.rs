//! Messages over real sockets: every framing, with the bytes split in different ways.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use turnwheel::{Echo, Framed, Limits, Reactor};

use crate::support::{codec, connect, pattern, read_n, read_to_end, serve, turn_until, wire};

/// Every framing, with the maximum message length in these tests.
const SPECS: [(&str, usize); 17] = [
    ("raw", 4000),
    ("lines", 4000),
    ("lines:crlf", 4000),
    ("len:u8,max=255", 255),
    ("len:u16be,max=4000", 4000),
    ("len:u16le,max=4000", 4000),
    ("len:u24be", 4000),
    ("len:u32be", 4000),
    ("len:u32le", 4000),
    ("len:u64be", 4000),
    ("len:u64le", 4000),
    ("varint", 4000),
    ("netstring", 4000),
    ("dec:10", 4000),
    ("delim:\\0", 4000),
    ("delim:\\r\\n--", 4000),
    ("fixed:16", 16),
];

/// Returns messages of many lengths that the framing can carry. They contain no delimiter.
fn messages(spec: &str, longest: usize, count: usize) -> Vec<Vec<u8>> {
    let lens = [5, 0, 1, 2, 127, 3, 128, 300, 9, 10, 1000, 4000];
    let text =
        |seed: usize, len: usize| pattern(seed as u64, len).into_iter().map(|b| b'a' + b % 26).collect::<Vec<u8>>();
    let len = |n: usize| if spec.starts_with("fixed") { longest } else { lens[n % lens.len()].min(longest) };
    (0..count).map(|n| text(n, len(n))).filter(|m| spec != "raw" || !m.is_empty()).collect()
}

fn step(reactor: &mut Reactor, client: &mut TcpStream, part: &[u8]) {
    let before = reactor.stats().bytes_in;
    client.write_all(part).unwrap();
    turn_until(reactor, "the part", |r| r.stats().bytes_in == before + part.len() as u64);
}

#[test]
fn the_echo_is_the_same_wherever_the_messages_are_cut() {
    for (spec, longest) in SPECS {
        let mut reactor = Reactor::new().unwrap();
        let at = reactor.listen("127.0.0.1:0", Framed::new(codec(spec), Echo)).unwrap();
        let mut client = connect(at.local_addr().unwrap());
        let sent = wire(spec, &messages(spec, longest.min(130), 5));
        for cut in 1..sent.len() {
            step(&mut reactor, &mut client, &sent[..cut]);
            step(&mut reactor, &mut client, &sent[cut..]);
            let back = read_n(&mut client, sent.len());
            assert!(back == sent, "{spec} cut at {cut}");
        }
        let stats = reactor.stats();
        assert_eq!((stats.open, stats.input_held), (1, 0), "{spec}");
        if spec != "raw" {
            assert_eq!(stats.messages_in, 5 * (sent.len() as u64 - 1), "{spec}");
            assert_eq!(stats.messages_out, stats.messages_in, "{spec}");
        }
    }
}

#[test]
fn the_echo_is_the_same_when_the_bytes_come_one_by_one() {
    for (spec, longest) in SPECS {
        let mut reactor = Reactor::new().unwrap();
        let at = reactor.listen("127.0.0.1:0", Framed::new(codec(spec), Echo)).unwrap();
        let mut client = connect(at.local_addr().unwrap());
        let sent = wire(spec, &messages(spec, longest.min(130), 8));
        for byte in &sent {
            step(&mut reactor, &mut client, &[*byte]);
        }
        assert!(read_n(&mut client, sent.len()) == sent, "{spec}");
    }
}

#[test]
fn many_messages_in_one_burst_come_back_whole_and_in_order() {
    let server = serve(Limits::default(), |reactor| {
        SPECS.iter().map(|(spec, _)| reactor.listen("127.0.0.1:0", Framed::new(codec(spec), Echo))).collect()
    });
    for (n, (spec, longest)) in SPECS.into_iter().enumerate() {
        let sent = wire(spec, &messages(spec, longest, 3000));
        let mut client = connect(server.addr_of(n));
        let mut out = client.try_clone().unwrap();
        let copy = sent.clone();
        let writer = thread::spawn(move || {
            out.write_all(&copy).unwrap();
            out.shutdown(Shutdown::Write).unwrap();
        });
        let back = read_to_end(&mut client);
        writer.join().unwrap();
        assert!(back == sent, "{spec}: {} of {} bytes, or others", back.len(), sent.len());
    }
}

#[test]
fn a_message_of_the_largest_size_passes_in_pieces() {
    let server = serve(Limits::default(), |reactor| {
        Ok(vec![reactor.listen("127.0.0.1:0", Framed::new(codec("len:u32be,max=1MiB"), Echo))?])
    });
    let sent = wire("len:u32be,max=1MiB", &[pattern(7, 1 << 20)]);
    let mut client = connect(server.addr());
    let mut out = client.try_clone().unwrap();
    let copy = sent.clone();
    let writer = thread::spawn(move || {
        for piece in copy.chunks(7919) {
            out.write_all(piece).unwrap();
        }
    });
    let mut back = vec![0; sent.len()];
    client.read_exact(&mut back).unwrap();
    writer.join().unwrap();
    assert!(back == sent);
    assert_eq!(server.wait_for("the storage", |s| s.input_held == 0 && s.output_held == 0).open, 1);
}

#[test]
fn an_over_long_line_is_dropped_and_counted_where_that_is_wanted() {
    let spec = "lines,discard,max=100";
    let server = serve(Limits::default(), move |reactor| {
        Ok(vec![reactor.listen("127.0.0.1:0", Framed::new(codec(spec), Echo))?])
    });
    let mut client = connect(server.addr());
    let long = "x".repeat(300_000);
    client.write_all(format!("one\n{long}\ntwo\n{long}\nthree\n").as_bytes()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client), b"one\ntwo\nthree\n");
    assert_eq!(server.wait_for("the end", |s| s.open == 0).discarded, 2);
}
