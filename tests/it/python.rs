//! Clients as in Python tutorials, with servers as users of this crate write them.

use std::process::Command;

use turnwheel::{Address, Broadcast, Context, DatagramContext, DatagramHandler, Echo, Framed, Handler, Limits, Reason};

use crate::support::process::{Scratch, succeeds};
use crate::support::{codec, has_ipv6, serve, serve_one};

/// The start of each script: connects to the address in its argument.
const CONNECT: &str = r#"
import pickle, socket, sys, threading

def connect(at):
    if at.startswith("unix:"):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        to = at[5:]
    else:
        host, port = at.rsplit(":", 1)
        s = socket.socket(socket.AF_INET6 if "[" in host else socket.AF_INET, socket.SOCK_STREAM)
        to = (host.strip("[]"), int(port))
    s.settimeout(20)
    s.connect(to)
    return s

at = sys.argv[1]
"#;

/// Runs a script. Prints a message and returns `false` if there is no Python.
fn python(script: &str, at: &str) -> bool {
    succeeds(Command::new("python3").args(["-c", &format!("{CONNECT}\n{script}"), at]))
}

/// Sends a greeting and closes.
struct Greet;

impl Handler for Greet {
    type State = ();
    fn on_open(&mut self, cx: &mut Context<'_>) {
        cx.send(b"Welcome to the server!");
        cx.close();
    }
    fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut (), _data: &[u8]) {}
}

#[test]
fn a_client_that_reads_to_the_end_gets_the_whole_greeting_and_then_the_end() {
    let server = serve_one(Limits::default(), || Greet);
    let script = r#"
for size in (1024, 8, 7, 1):
    s = connect(at)
    full = ""
    while True:
        piece = s.recv(size)
        if len(piece) <= 0:
            break
        full += piece.decode("utf-8")
    assert full == "Welcome to the server!", full
    s.close()
"#;
    if python(script, &server.addr().to_string()) {
        let stats = server.wait_for("the ends", |s| s.open == 0);
        assert_eq!((stats.accepted, stats.closed(&Reason::Handler), stats.bytes_unsent), (4, 4, 0));
    }
}

const ECHO: &str = r#"
with connect(at) as s:
    s.sendall(b"Hello, world")
    data = s.recv(1024)
    assert data == b"Hello, world", data
    big = bytes(i * 7 % 251 for i in range(300000))
    back = []
    def read():
        have = 0
        while have < len(big):
            piece = s.recv(4096)
            assert piece, "an end after %d" % have
            back.append(piece)
            have += len(piece)
    reader = threading.Thread(target=read)
    reader.start()
    s.sendall(big)
    reader.join()
    assert b"".join(back) == big
"#;

#[test]
fn the_echo_client_works_over_ipv4() {
    let server = serve_one(Limits::default(), || Echo);
    if python(ECHO, &server.addr().to_string()) {
        let stats = server.wait_for("the end", |s| s.open == 0);
        assert_eq!((stats.bytes_in, stats.bytes_out), (300_012, 300_012));
    }
}

#[test]
fn the_echo_client_works_over_ipv6() {
    if !has_ipv6() {
        return;
    }
    let server = serve(Limits::default(), |r| Ok(vec![r.listen("[::1]:0", Echo)?]));
    python(ECHO, &server.addr().to_string());
}

#[cfg(unix)]
#[test]
fn the_echo_client_works_over_a_unix_socket() {
    let scratch = Scratch::new();
    let at = scratch.unix("echo.sock");
    let copy = at.clone();
    let _server = serve(Limits::default(), move |r| Ok(vec![r.listen(copy, Echo)?]));
    python(ECHO, &at);
}

#[test]
fn pickled_objects_behind_a_decimal_header_of_ten_characters_come_back_equal() {
    let server = serve_one(Limits::default(), || Framed::new(codec("dec:10"), Echo));
    let script = r#"
HEADERSIZE = 10
s = connect(at)
things = [{1: "hi", 2: "there"}, "x" * 100000, list(range(1000)), None, b""]
for thing in things:
    msg = pickle.dumps(thing)
    s.sendall(bytes(f"{len(msg):<{HEADERSIZE}}", "utf-8") + msg)
for thing in things:
    full_msg = b""
    new_msg = True
    while True:
        want = HEADERSIZE if new_msg else HEADERSIZE + msglen
        msg = s.recv(min(16, want - len(full_msg)))
        assert msg, "an end"
        full_msg += msg
        if new_msg and len(full_msg) == HEADERSIZE:
            msglen = int(full_msg)
            new_msg = False
        if not new_msg and len(full_msg) - HEADERSIZE == msglen:
            assert pickle.loads(full_msg[HEADERSIZE:]) == thing
            break
"#;
    python(script, &server.addr().to_string());
}

#[test]
fn two_people_chat_and_neither_hears_itself() {
    let server = serve_one(Limits::default(), || Framed::new(codec("lines"), Broadcast::to_others()));
    let script = r#"
a, b = connect(at), connect(at)
ra, rb = a.makefile("r", newline="\n"), b.makefile("r", newline="\n")
# Until both are in the room, what is said may go unheard.
b.settimeout(0.05)
heard = None
for _ in range(400):
    a.sendall(b"anyone?\n")
    try:
        heard = b.recv(8)
        break
    except TimeoutError:
        pass
assert heard == b"anyone?\n", heard
b.settimeout(20)
b.sendall("über\n".encode())
assert ra.readline() == "über\n"
for n in range(100):
    a.sendall(b"ping %d\n" % n)
    line = rb.readline()
    while line == "anyone?\n":
        line = rb.readline()
    assert line == "ping %d\n" % n, line
    b.sendall(b"pong %d\n" % n)
    assert ra.readline() == "pong %d\n" % n
"#;
    python(script, &server.addr().to_string());
}

/// Sends every datagram back in upper case.
struct Shout;

impl DatagramHandler for Shout {
    fn on_datagram(&mut self, cx: &mut DatagramContext<'_>, from: &Address, data: &[u8]) {
        cx.send_to(from, data.to_ascii_uppercase());
    }
}

/// The client in the documentation of Python's `socketserver`, with more than one message.
const SHOUTED_AT: &str = r#"
import os
if at.startswith("unix:"):
    sock, to = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), at[5:]
    sock.bind(to + ".client")
else:
    host, port = at.rsplit(":", 1)
    sock = socket.socket(socket.AF_INET6 if "[" in host else socket.AF_INET, socket.SOCK_DGRAM)
    to = (host.strip("[]"), int(port))
sock.settimeout(20)
for message in (b"hello world", b"", b"x" * 1400, b"the end"):
    sock.sendto(message, to)
    received, sender = sock.recvfrom(2048)
    assert received == message.upper(), received
    assert (sender if isinstance(to, str) else sender[:2]) == to, sender
sock.connect(to)
for n in range(100):
    sock.send(b"again")
    assert sock.recv(1024) == b"AGAIN"
"#;

#[test]
fn the_datagram_client_works_over_ipv4_ipv6_and_a_unix_socket() {
    let scratch = Scratch::new();
    let mut addresses = vec!["127.0.0.1:0".to_owned()];
    if cfg!(unix) {
        addresses.push(scratch.unix("shout"));
    }
    if std::net::UdpSocket::bind("[::1]:0").is_ok() {
        addresses.push("[::1]:0".to_owned());
    }
    let (tell, told) = std::sync::mpsc::channel();
    let _server = serve(Limits::default(), move |reactor| {
        let shout = reactor.add_datagrams(Shout);
        for at in &addresses {
            for address in reactor.bind_on(at, shout)?.addresses() {
                tell.send(address.to_string()).unwrap();
            }
        }
        Ok(Vec::new())
    });
    for at in told {
        if !python(SHOUTED_AT, &at) {
            return;
        }
    }
}
