//! Clients that violate their framing: each closes its own connection and no other.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;

use turnwheel::{Echo, Framed, Limits, Reason};

use crate::support::process::{affordable, as_a_crowd};
use crate::support::{
    self, Watch, codec, connect, echo, next_end, read_n, read_to_any_end, reset, serve, serve_one, wire,
};

/// What the client does after it has sent its bytes.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Wait,
    Finish,
    Reset,
}

const BAD: [(&str, &[u8], Then, &str); 18] = [
    ("len:u32be", b"\xff\xff\xff\xff", Then::Wait, "frame_too_long"),
    ("len:u32be", b"\x00\x10\x00\x01", Then::Wait, "frame_too_long"),
    ("len:u64be", b"\xff\xff\xff\xff\xff\xff\xff\xff", Then::Wait, "frame_too_long"),
    ("len:u64le", b"\x01\x00\x00\x00\x00\x00\x00\x80", Then::Wait, "frame_too_long"),
    ("len:u16be,max=10", b"\x00\x0bhello", Then::Wait, "frame_too_long"),
    ("lines,max=64", &[b'a'; 4000], Then::Wait, "frame_too_long"),
    ("delim:\\0,max=64", &[b'a'; 4000], Then::Wait, "frame_too_long"),
    ("netstring,max=64", b"999999999999:", Then::Wait, "frame_too_long"),
    ("netstring", b"garbage", Then::Wait, "bad_frame"),
    ("netstring", b"3:abcd", Then::Wait, "bad_frame"),
    ("varint", b"\x80\x00", Then::Wait, "bad_frame"),
    ("varint", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Then::Wait, ""),
    ("dec:10", b"GET / HTTP/1.1\r\n", Then::Wait, "bad_frame"),
    ("len:u32be", b"\0\0\0\x0ahalf", Then::Finish, "truncated_frame"),
    ("lines:crlf", b"no end", Then::Finish, "truncated_frame"),
    ("delim:;", b"no end", Then::Finish, "truncated_frame"),
    ("len:u32be", b"\0\0", Then::Finish, "truncated_frame"),
    ("len:u32be", b"\0\0\0\x0ahalf", Then::Reset, "peer_reset"),
];

#[test]
fn bad_bytes_end_only_the_connection_they_came_on_each_with_its_reason() {
    for (spec, bytes, then, expected) in BAD {
        let (ends, ended) = mpsc::channel();
        let framed = move || Watch::new(Framed::new(codec(spec), Echo), ends);
        let server = serve_one(Limits::default(), framed);
        let good_message = wire(spec, &[b"a good one"]);
        let mut good = connect(server.addr());
        echo(&mut good, &good_message);
        let mut bad: TcpStream = connect(server.addr());
        // The message before the error is answered.
        echo(&mut bad, &good_message);
        bad.write_all(bytes).unwrap();
        match then {
            Then::Wait => {
                // The server closes the connection although the client has not.
                let (rest, end) = read_to_any_end(&mut bad);
                assert!(rest.is_empty() && end.is_ok(), "{spec} {bytes:?}: {rest:?} {end:?}");
                drop(bad);
            }
            Then::Finish => {
                bad.shutdown(Shutdown::Write).unwrap();
                assert!(read_to_any_end(&mut bad).0.is_empty());
            }
            Then::Reset => {
                // Reset only after the server has read the bytes, so that it is in the middle of the message.
                server.wait_for("the bytes", |s| s.bytes_in == (2 * good_message.len() + bytes.len()) as u64);
                reset(bad);
            }
        }
        let closed = next_end(&ended);
        let name = closed.why.name();
        let either = expected.is_empty() && ["bad_frame", "frame_too_long"].contains(&name);
        assert!(either || name == expected, "{spec} {bytes:?}: {closed}, expected {expected}");
        echo(&mut good, &good_message);
        let stats = server.wait_for("the end", |s| s.open == 1);
        assert_eq!((stats.closed_total(), stats.closed(&closed.why)), (1, 1), "{spec}: {stats}");
        assert_eq!(stats.input_held, 0, "{spec}");
    }
}

#[test]
fn a_reason_tells_what_was_announced_and_what_is_allowed() {
    let (ends, ended) = mpsc::channel();
    let server =
        serve_one(Limits::default(), move || Watch::new(Framed::new(codec("len:u32be,max=64KiB"), Echo), ends));
    let mut client = connect(server.addr());
    client.write_all(&u32::MAX.to_be_bytes()).unwrap();
    assert_eq!(next_end_after_goodbye(client, &ended), Reason::FrameTooLong { len: 4_294_967_295, max: 65_536 });
    let mut client = connect(server.addr());
    client.write_all(b"\0\0\0\x0ahalf").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(next_end_after_goodbye(client, &ended), Reason::TruncatedFrame { have: 8 });
}

fn next_end_after_goodbye(mut client: TcpStream, ended: &mpsc::Receiver<turnwheel::Closed>) -> Reason {
    let _ = read_to_any_end(&mut client);
    drop(client);
    next_end(ended).why
}

#[test]
fn clients_that_announce_the_largest_message_and_stall_cost_little_memory() {
    let _crowd = as_a_crowd();
    let server = serve_one(Limits::default(), || Framed::new(codec("len:u32be,max=1MiB"), Echo));
    let count = affordable(400);
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = connect(server.addr());
        client.write_all(b"\x00\x10\x00\x00ten bytes.").unwrap();
        clients.push(client);
    }
    let stats = server.wait_for("all bytes", |s| s.bytes_in == count as u64 * 14);
    assert!(stats.input_held > 0);
    assert!(stats.input_held <= count as u64 * 4096, "{} B held for {count} stalled clients", stats.input_held);
    drop(clients);
    let stats = server.wait_for("their ends", |s| s.open == 0);
    assert_eq!(stats.input_held, 0);
    assert_eq!(stats.closed(&Reason::TruncatedFrame { have: 0 }), count as u64);
}

#[test]
fn a_million_empty_messages_in_one_burst_are_answered_while_others_are_served() {
    let server = serve_one(Limits::default(), || Framed::new(codec("len:u32be"), Echo));
    let mut other = connect(server.addr());
    let mut flood = connect(server.addr());
    let mut out = flood.try_clone().unwrap();
    let writer = thread::spawn(move || {
        out.write_all(&vec![0; 4_000_000]).unwrap();
        out.shutdown(Shutdown::Write).unwrap();
    });
    let reader = thread::spawn(move || {
        let (back, end) = read_to_any_end(&mut flood);
        assert!(end.is_ok() && back == vec![0; 4_000_000], "{} bytes, {end:?}", back.len());
    });
    let message = wire("len:u32be", &[b"in between"]);
    let mut served = 0;
    while !reader.is_finished() {
        echo(&mut other, &message);
        served += 1;
    }
    writer.join().unwrap();
    reader.join().unwrap();
    assert!(served > 0);
    server.wait_for("the end and every message", |s| s.open == 1 && s.messages_in == 1_000_000 + served);
}

#[test]
fn random_bytes_never_harm_another_connection() {
    let specs = ["len:u16be", "varint", "netstring", "lines", "dec:10", "len:u32le"];
    let server = serve(Limits::default(), move |reactor| {
        specs.iter().map(|spec| reactor.listen("127.0.0.1:0", Framed::new(codec(spec), Echo))).collect()
    });
    for (n, spec) in specs.into_iter().enumerate() {
        let message = wire(spec, &[b"good"]);
        let mut good = connect(server.addr_of(n));
        for seed in 0..30 {
            let mut bad = connect(server.addr_of(n));
            let _ = bad.write_all(&support::pattern(seed, 1 + seed as usize * 37));
            let _ = bad.shutdown(Shutdown::Write);
            let mut some = [0; 4096];
            while bad.read(&mut some).is_ok_and(|n| n > 0) {}
            good.write_all(&message).unwrap();
            assert_eq!(read_n(&mut good, message.len()), message, "{spec}");
        }
    }
    let stats = server.wait_for("their ends", |s| s.open == 0);
    assert_eq!((stats.accepted, stats.panics), (specs.len() as u64 * 31, 0));
    assert_eq!(stats.closed_total(), stats.accepted);
}
