//! Outgoing connections over real sockets: names, IPv4 and IPv6 addresses, Unix sockets, existing streams, and every
//! way in which connecting can fail.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use turnwheel::{Backoff, Closed, Connect, Context, Handler, Key, Limit, Limits, Net, Origin, Reactor, Reason};

use crate::support::process::{Scratch, affordable, as_a_crowd};
use crate::support::{PATIENCE, turn_until};

/// Sends a greeting to each peer, and records all callbacks.
#[derive(Default)]
struct Caller {
    greeting: Vec<u8>,
    opened: Vec<(u64, turnwheel::Address)>,
    heard: Vec<u8>,
    failed: Vec<(u64, ErrorKind, String)>,
    closed: Vec<Reason>,
}

impl Handler for Caller {
    type State = ();

    fn on_open(&mut self, cx: &mut Context<'_>) {
        let Origin::Connected(tag) = cx.origin() else { panic!("this handler has no listener") };
        self.opened.push((tag, cx.peer()));
        cx.send(&self.greeting);
    }

    fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
        self.heard.extend_from_slice(data);
    }

    fn on_connect_failed(&mut self, _net: &mut Net<'_>, tag: u64, error: &io::Error) {
        self.failed.push((tag, error.kind(), error.to_string()));
    }

    fn on_close(&mut self, _net: &mut Net<'_>, _state: (), closed: &Closed) {
        self.closed.push(closed.why.clone());
    }
}

struct Rig {
    reactor: Reactor,
    caller: Key<Caller>,
}

fn rig_within(limits: Limits) -> Rig {
    let mut reactor = Reactor::with_limits(limits).unwrap();
    let caller = reactor.add(Caller { greeting: b"hello".to_vec(), ..Caller::default() }).unwrap();
    Rig { reactor, caller }
}

fn rig() -> Rig {
    rig_within(Limits::default())
}

impl Rig {
    fn connect(&mut self, to: impl Into<Connect>, tag: u64) {
        self.reactor.connect(to, self.caller, tag).unwrap();
    }

    /// Runs turns until `done` returns `true`.
    #[track_caller]
    fn until(&mut self, what: &str, mut done: impl FnMut(&Caller) -> bool) -> &Caller {
        let caller = self.caller;
        turn_until(&mut self.reactor, what, |reactor| done(reactor.get(caller).unwrap()));
        self.reactor.get(caller).unwrap()
    }

    /// Starts a connection that fails, and returns the error.
    #[track_caller]
    fn fails(&mut self, to: impl Into<Connect>) -> (ErrorKind, String) {
        let before = self.reactor.get(self.caller).unwrap().failed.len();
        self.connect(to, 9);
        let (tag, kind, text) = self.until("a failure", |c| c.failed.len() > before).failed[before].clone();
        assert_eq!(tag, 9);
        (kind, text)
    }
}

/// Returns an address without a listener.
fn dead_port() -> (SocketAddr, Socket) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    (socket.local_addr().unwrap().as_socket().unwrap(), socket)
}

fn echo_once(listener: &TcpListener) -> Vec<u8> {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut got = [0; 5];
    stream.read_exact(&mut got).unwrap();
    stream.write_all(b"welcome").unwrap();
    got.to_vec()
}

#[test]
fn addresses_of_both_kinds_and_names_are_connected_to() {
    for host in ["127.0.0.1", "[::1]", "localhost"] {
        let Ok(listener) = TcpListener::bind(if host == "[::1]" { "[::1]:0" } else { "127.0.0.1:0" }) else {
            println!("skipped {host}: no such address here");
            continue;
        };
        let mut rig = rig();
        rig.connect(format!("{host}:{}", listener.local_addr().unwrap().port()), 7);
        let server = std::thread::spawn(move || echo_once(&listener));
        let caller = rig.until("an answer and the end", |c| c.heard == b"welcome" && !c.closed.is_empty());
        assert_eq!(caller.opened[0].0, 7);
        assert_eq!(caller.closed, [Reason::PeerClosed]);
        assert_eq!(server.join().unwrap(), b"hello");
    }
}

#[test]
fn the_local_address_is_the_one_that_was_asked_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut rig = rig();
    let local: SocketAddr = "127.0.0.2:0".parse().unwrap();
    rig.connect(Connect::new(listener.local_addr().unwrap()).local(local), 1);
    rig.until("the connection", |c| !c.opened.is_empty());
    assert_eq!(listener.accept().unwrap().1.ip(), local.ip());
    let (kind, text) = rig.fails(Connect::new(listener.local_addr().unwrap()).local("192.0.2.1:0".parse().unwrap()));
    assert_eq!(kind, ErrorKind::AddrNotAvailable);
    assert!(text.contains("cannot use the local address 192.0.2.1:0: "), "{text}");
}

#[test]
fn who_refuses_is_named() {
    let (mut rig, (at, _held)) = (rig(), dead_port());
    let (kind, text) = rig.fails(at);
    assert_eq!(kind, ErrorKind::ConnectionRefused);
    assert_eq!(text, format!("cannot connect to {at}: Connection refused (os error 111)"));
}

#[test]
fn an_unknown_host_is_named() {
    let (kind, text) = rig().fails("no-such-host.invalid:80");
    assert!(
        text.starts_with("cannot connect to no-such-host.invalid:80: cannot resolve \"no-such-host.invalid\": "),
        "{text}"
    );
    assert!(kind != ErrorKind::TimedOut, "{text}");
}

#[test]
fn what_is_unreachable_is_named() {
    // Class E (240.0.0.0/4) is reserved, so there is no route to it.
    let (kind, text) = rig().fails(Connect::new("255.255.255.255:80"));
    assert!(text.starts_with("cannot connect to 255.255.255.255:80: "), "{text}");
    assert!(matches!(kind, ErrorKind::NetworkUnreachable | ErrorKind::PermissionDenied), "{kind:?}");
}

#[test]
fn who_does_not_answer_is_given_up_when_the_time_is_over() {
    // A listener with a full backlog drops SYNs.
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let at = listener.local_addr().unwrap().as_socket().unwrap();
    let fillers: Vec<TcpStream> =
        (0..8).filter_map(|_| TcpStream::connect_timeout(&at, Duration::from_millis(100)).ok()).collect();
    if fillers.len() == 8 {
        println!("skipped: the listen backlog does not fill here");
        return;
    }
    let mut rig = rig();
    let begun = Instant::now();
    let (kind, text) = rig.fails(Connect::new(at).timeout(Duration::from_millis(300)));
    assert_eq!((kind, text), (ErrorKind::TimedOut, format!("cannot connect to {at}: no answer within 300ms")));
    assert!(begun.elapsed() >= Duration::from_millis(300), "the timeout expired early");
    assert_eq!(rig.reactor.stats().connecting, 0);
}

#[test]
fn a_socket_that_met_itself_is_refused() {
    let mut rig = rig();
    // A TCP socket that connects to the port that it is bound to connects to itself (simultaneous open).
    let (at, _held) = dead_port();
    let (kind, text) = rig.fails(Connect::new(at).local(at));
    assert_eq!(kind, ErrorKind::ConnectionRefused);
    assert!(text.ends_with("nothing listens there: the socket connected to itself"), "{text}");
}

#[test]
fn a_server_that_comes_late_is_found_by_trying_again() {
    let (mut rig, (at, late)) = (rig(), dead_port());
    let policy = Backoff { min: Duration::from_millis(1), max: Duration::from_millis(20), ..Backoff::default() };
    rig.connect(Connect::new(at).retry(Backoff { tries: Limit::Unlimited, ..policy }), 1);
    while rig.reactor.stats().connect_retries < 3 {
        rig.reactor.turn(Some(Duration::from_millis(50))).unwrap();
    }
    late.listen(8).unwrap();
    rig.until("the connection", |c| c.opened.len() == 1);
    assert!(rig.reactor.get(rig.caller).unwrap().failed.is_empty());
    let (at, _held) = dead_port();
    rig.fails(Connect::new(at).retry(Backoff { tries: Limit::At(3), ..policy }));
}

#[test]
fn a_stream_that_exists_is_taken_over() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut rig = rig();
    rig.connect(stream, 3);
    let server = std::thread::spawn(move || echo_once(&listener));
    rig.until("an answer", |c| c.heard == b"welcome");
    assert_eq!(server.join().unwrap(), b"hello");
    // A stream that is not connected is reported as an error, and has no other effect.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let (kind, text) = rig.fails(TcpStream::from(socket));
    assert_eq!(kind, ErrorKind::NotConnected, "{text}");
}

#[cfg(unix)]
#[test]
fn unix_sockets_are_connected_to_and_taken_over() {
    use std::os::unix::net::{UnixListener, UnixStream};
    let scratch = Scratch::new();
    let path = scratch.0.join("server");
    let listener = UnixListener::bind(&path).unwrap();
    let mut rig = rig();
    rig.connect(scratch.unix("server"), 1);
    rig.until("the connection", |c| c.opened.len() == 1);
    let (mut stream, _) = listener.accept().unwrap();
    let mut got = [0; 5];
    stream.read_exact(&mut got).unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    rig.connect(ours, 2);
    rig.until("the other one", |c| c.opened.len() == 2);
    theirs.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
    let (kind, text) = rig.fails(scratch.unix("nobody"));
    assert_eq!(kind, ErrorKind::NotFound, "{text}");
}

#[test]
fn a_wrong_address_or_option_or_key_is_refused_at_once() {
    let (mut a, b) = (rig(), rig());
    let error = a.reactor.connect("nonsense", a.caller, 1).unwrap_err();
    assert!(error.to_string().contains("the port is missing"), "{error}");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let error = a.reactor.connect(Connect::new("h:1").timeout(Duration::ZERO), a.caller, 1).unwrap_err();
    assert_eq!(error.to_string(), "cannot connect to h:1: the timeout must be longer than zero");
    let error = a.reactor.connect("127.0.0.1:1", b.caller, 1).unwrap_err();
    assert_eq!(error.to_string(), "the key belongs to another reactor");
    let mut few = rig_within({
        let mut limits = Limits::default();
        limits.attempts = 1;
        limits
    });
    few.connect("no-such-host.invalid:80", 1);
    let error = few.reactor.connect("127.0.0.1:1", few.caller, 2).unwrap_err();
    assert_eq!(error.to_string(), "limit of 1 connection attempts reached");
}

#[test]
fn a_crowd_of_connections_to_oneself_is_made_and_ended() {
    struct Both {
        opened: usize,
        closed: usize,
    }
    impl Handler for Both {
        type State = ();
        fn on_open(&mut self, cx: &mut Context<'_>) {
            self.opened += 1;
            if let Origin::Connected(tag) = cx.origin() {
                cx.send(tag.to_string());
                cx.shutdown_write();
            }
        }
        fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
            if matches!(cx.origin(), Origin::Accepted(_)) {
                cx.send(data);
            }
        }
        fn on_close(&mut self, _net: &mut Net<'_>, _state: (), closed: &Closed) {
            assert_eq!((&closed.why, closed.unsent), (&Reason::PeerClosed, 0));
            assert!(closed.bytes_in == closed.bytes_out, "{closed}");
            self.closed += 1;
        }
    }
    let _crowd = as_a_crowd();
    let count = affordable(1000);
    let mut reactor = Reactor::new().unwrap();
    let both = reactor.add(Both { opened: 0, closed: 0 }).unwrap();
    let at = reactor.listen_on("127.0.0.1:0", both).unwrap().local_addr().unwrap();
    for tag in 0..count as u64 {
        reactor.connect(at, both, tag).unwrap();
    }
    turn_until(&mut reactor, "both ends of all to close", |r| r.get(both).unwrap().closed >= 2 * count);
    let stats = reactor.stats();
    assert_eq!((stats.accepted, stats.connected, stats.open), (count as u64, count as u64, 0));
}
