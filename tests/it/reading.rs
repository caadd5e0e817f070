//! Input, or its end, that is easy to miss: FIN with the last bytes, urgent bytes, passed descriptors.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::Command;

use turnwheel::{Context, Echo, Handler, Limits, Net, Reactor, Reason};

use crate::support::process::{Scratch, succeeds};
use crate::support::{self, connect, pattern, read_n, read_to_end, serve, serve_one, turn_until};

#[test]
fn the_end_of_input_is_seen_when_it_comes_with_the_last_bytes_whatever_their_number() {
    let mut limits = Limits::default();
    // Use the smallest buffer, so that the input is smaller than, equal to and larger than it, and a multiple of it.
    limits.read_buffer = 16;
    let mut reactor = Reactor::with_limits(limits).unwrap();
    let at = reactor.listen("127.0.0.1:0", Echo).unwrap().local_addr().unwrap();
    for len in 0..=70 {
        let mut client = connect(at);
        client.write_all(&pattern(3, len)).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let ended = len as u64 + 1;
        turn_until(&mut reactor, "the end", |r| r.stats().closed(&Reason::PeerClosed) == ended);
        assert_eq!(read_to_end(&mut client), pattern(3, len));
    }
}

#[test]
fn the_end_of_input_is_seen_when_it_comes_after_bytes_that_were_read_before() {
    let mut reactor = Reactor::new().unwrap();
    let at = reactor.listen("127.0.0.1:0", Echo).unwrap().local_addr().unwrap();
    for len in 0..=40u64 {
        let mut client = connect(at);
        let before = reactor.stats();
        client.write_all(&pattern(4, len as usize)).unwrap();
        turn_until(&mut reactor, "the bytes", |r| {
            let now = r.stats();
            now.accepted == before.accepted + 1 && now.bytes_in == before.bytes_in + len
        });
        client.shutdown(Shutdown::Write).unwrap();
        turn_until(&mut reactor, "the end", |r| r.stats().open == 0);
        assert_eq!(read_to_end(&mut client), pattern(4, len as usize));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_urgent_byte_hides_nothing_that_follows_it() {
    let mut reactor = Reactor::new().unwrap();
    let at = reactor.listen("127.0.0.1:0", Echo).unwrap().local_addr().unwrap();
    for round in 0..20 {
        let mut client = connect(at);
        if round % 2 == 0 {
            let open = round / 2 + 1;
            turn_until(&mut reactor, "the connection", |r| r.stats().accepted >= open);
        }
        client.write_all(b"abc").unwrap();
        assert_eq!(socket2::SockRef::from(&client).send_out_of_band(b"!").unwrap(), 1);
        client.write_all(b"def").unwrap();
        // The urgent byte itself is not part of the stream.
        let all = 6 * (round + 1);
        turn_until(&mut reactor, "all bytes around the urgent one", |r| r.stats().bytes_out == all);
        assert_eq!(read_n(&mut client, 6), b"abcdef");
        // The connection works as before.
        drop(client);
        turn_until(&mut reactor, "the end", |r| r.stats().open == 0);
    }
    assert_eq!(reactor.stats().closed(&Reason::PeerClosed), 20);
}

const PASS_A_DESCRIPTOR: &str = r#"
import array, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
s.settimeout(20)
s.connect(sys.argv[1])
def read(n):
    data = b""
    while len(data) < n:
        more = s.recv(n - len(data))
        assert more, "end after %r" % data
        data += more
    return data
for i in range(50):
    s.sendall(b"abc")
    s.sendmsg([b"d"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))])
    s.sendall(b"ef" * 100)
    got = read(204)
    assert got == b"abcd" + b"ef" * 100, got
s.shutdown(socket.SHUT_WR)
assert s.recv(1) == b""
"#;

#[cfg(unix)]
#[test]
fn a_descriptor_passed_over_a_unix_socket_hides_nothing_that_follows_it() {
    let scratch = Scratch::new();
    let at = scratch.unix("echo.sock");
    let server = serve(Limits::default(), move |reactor| Ok(vec![reactor.listen(at, Echo)?]));
    let path = scratch.0.join("echo.sock");
    if !succeeds(Command::new("python3").args(["-c", PASS_A_DESCRIPTOR]).arg(path)) {
        return;
    }
    let stats = server.wait_for("the end", |s| s.open == 0);
    assert_eq!((stats.accepted, stats.bytes_in, stats.bytes_out), (1, 50 * 204, 50 * 204));
}

/// Pauses its connection in each `on_data`. The test resumes it.
struct Shy;

impl Handler for Shy {
    type State = ();
    fn on_open(&mut self, _cx: &mut Context<'_>) {}
    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
        cx.send(data);
        cx.pause();
    }
}

fn resume_all(net: &mut Net<'_>) {
    let all: Vec<_> = net.connections().collect();
    for id in all {
        net.resume_id(id);
    }
}

#[test]
fn a_pause_holds_back_bytes_and_end_and_loses_neither() {
    let mut reactor = Reactor::new().unwrap();
    let at = reactor.listen("127.0.0.1:0", Shy).unwrap().local_addr().unwrap();
    let mut client = connect(at);
    client.write_all(&pattern(5, 200_000)).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    turn_until(&mut reactor, "the first delivery", |r| r.stats().bytes_in > 0);
    let held = reactor.stats().bytes_in;
    for _ in 0..50 {
        reactor.turn(Some(std::time::Duration::from_millis(1))).unwrap();
    }
    assert_eq!((reactor.stats().bytes_in, reactor.stats().open), (held, 1), "nothing is read while paused");
    let mut back = Vec::new();
    client.set_nonblocking(true).unwrap();
    turn_until(&mut reactor, "the rest", |r| {
        resume_all(&mut r.net());
        let mut buffer = [0; 65_536];
        if let Ok(n) = client.read(&mut buffer) {
            back.extend_from_slice(&buffer[..n]);
        }
        r.stats().open == 0
    });
    client.set_nonblocking(false).unwrap();
    back.extend(read_to_end(&mut client));
    support::check_pattern(5, 200_000, &back);
}

#[test]
fn a_hundred_kilobytes_in_one_burst_and_then_silence_are_all_read() {
    let server = serve_one(Limits::default(), || Echo);
    for _ in 0..20 {
        let mut client = connect(server.addr());
        client.write_all(&pattern(6, 100_000)).unwrap();
        assert!(read_n(&mut client, 100_000) == pattern(6, 100_000));
    }
}
