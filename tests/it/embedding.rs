//! The reactor inside other event loops, together with other reactors, and in a process without a logger.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use turnwheel::mio::unix::SourceFd;
use turnwheel::mio::{Events, Interest, Poll, Token};
use turnwheel::{Echo, Framed, Limit, Limits, Reactor, Reason, mio};

use crate::support::process::{again, is_child, output};
use crate::support::{PATIENCE, codec, connect, echo, read_n, read_to_any_end, serve_one};

const MS: Duration = Duration::from_millis(1);

/// An outer loop that watches reactors.
trait Outer {
    fn watch(reactors: &[&mut Reactor]) -> Self;
    /// Waits until a reactor is readable or `time` has passed. May return early.
    fn wait(&mut self, reactors: &[&mut Reactor], time: Duration);
}

/// A level-triggered loop: `poll(2)`.
struct Level;

impl Outer for Level {
    fn watch(_: &[&mut Reactor]) -> Self {
        Self
    }

    fn wait(&mut self, reactors: &[&mut Reactor], time: Duration) {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut fds: Vec<PollFd<'_>> = reactors.iter().map(|r| PollFd::new(*r, PollFlags::IN)).collect();
        poll(&mut fds, Some(&time.try_into().unwrap())).unwrap();
    }
}

/// An edge-triggered loop: mio.
struct Edge(Poll, Events);

impl Outer for Edge {
    fn watch(reactors: &[&mut Reactor]) -> Self {
        let poll = Poll::new().unwrap();
        for (n, reactor) in reactors.iter().enumerate() {
            let fd = reactor.as_raw_fd();
            poll.registry().register(&mut SourceFd(&fd), Token(n), Interest::READABLE).unwrap();
        }
        Self(poll, Events::with_capacity(8))
    }

    fn wait(&mut self, _: &[&mut Reactor], time: Duration) {
        // An edge is reported once, so taking the event clears the readiness.
        self.0.poll(&mut self.1, Some(time)).unwrap();
    }
}

/// Drives reactors as documented for outer loops, until `done`. Returns how often the loop woke.
fn drive<O: Outer>(
    reactors: &mut [&mut Reactor],
    what: &str,
    mut done: impl FnMut(&mut [&mut Reactor]) -> bool,
) -> usize {
    let mut outer = O::watch(reactors);
    let until = Instant::now() + PATIENCE;
    for turns in 0.. {
        if done(reactors) {
            return turns;
        }
        let left = until.saturating_duration_since(Instant::now());
        let due = reactors.iter_mut().filter_map(|r| r.next_deadline()).min();
        outer.wait(reactors, due.unwrap_or(left).min(left));
        // Check before the last turn: a turn now would hide a missed wakeup.
        assert!(Instant::now() < until, "timed out waiting for {what}: {}", reactors[0].stats());
        for reactor in &mut *reactors {
            reactor.turn(Some(Duration::ZERO)).unwrap();
        }
    }
    unreachable!()
}

fn echo_server(limits: Limits) -> (Reactor, SocketAddr) {
    let mut reactor = Reactor::with_limits(limits).unwrap();
    let at = reactor.listen("127.0.0.1:0", Echo).unwrap().local_addr().unwrap();
    (reactor, at)
}

fn accept_all<O: Outer>(reactor: &mut Reactor, at: SocketAddr, n: usize) -> Vec<TcpStream> {
    let clients = (0..n).map(|_| connect(at)).collect();
    drive::<O>(&mut [reactor], "all to be accepted", |r| r[0].stats().accepted == n as u64);
    clients
}

/// All clients send before the loop wakes. The reactor then takes at most two events per turn.
fn a_burst_is_answered<O: Outer>() {
    let mut limits = Limits::default();
    limits.events_per_turn = 2;
    let (mut reactor, at) = echo_server(limits);
    let mut clients = accept_all::<O>(&mut reactor, at, 60);
    for round in 1..=3 {
        for client in &mut clients {
            client.write_all(b"all at once").unwrap();
        }
        let bytes = 60 * 11 * round;
        let what = "all to be answered";
        let turns = drive::<O>(&mut [&mut reactor], what, |r| r[0].stats().bytes_out == bytes);
        assert!(turns >= 30, "60 events in {turns} turns");
        for client in &mut clients {
            assert_eq!(read_n(client, 11), b"all at once");
        }
    }
}

#[test]
fn in_a_level_triggered_loop_a_burst_is_answered() {
    a_burst_is_answered::<Level>();
}

#[test]
fn in_an_edge_triggered_loop_a_burst_is_answered() {
    a_burst_is_answered::<Edge>();
}

fn a_deadline_is_kept_without_spinning<O: Outer>() {
    let mut limits = Limits::default();
    limits.idle_timeout = Limit::At(Duration::from_micros(100_500));
    limits.linger_quiet = 50 * MS;
    let (mut reactor, at) = echo_server(limits);
    let mut clients = accept_all::<O>(&mut reactor, at, 1);
    let due = reactor.next_deadline().unwrap();
    assert!(due <= 101 * MS && due.subsec_nanos() % 1_000_000 == 0, "{due:?}");
    let turns = drive::<O>(&mut [&mut reactor], "the idle one to be closed", |r| {
        r[0].stats().closed(&Reason::IdleTimeout) == 1
    });
    assert!(turns < 30, "{turns} turns for two deadlines");
    assert_eq!(read_to_any_end(&mut clients[0]).0, b"");
    assert_eq!(reactor.next_deadline(), None);
}

#[test]
fn an_outer_loop_keeps_deadlines_without_spinning() {
    a_deadline_is_kept_without_spinning::<Level>();
    a_deadline_is_kept_without_spinning::<Edge>();
}

fn a_handle_wakes<O: Outer>() {
    let (mut reactor, at) = echo_server(Limits::default());
    let _client = accept_all::<O>(&mut reactor, at, 1);
    let handle = reactor.handle();
    let other = thread::spawn(move || {
        handle.stop().unwrap();
        // The second stop ends the grace period.
        handle.stop().unwrap();
    });
    drive::<O>(&mut [&mut reactor], "the shutdown to end", |r| r[0].last_shutdown().is_some());
    other.join().unwrap();
}

#[test]
fn a_handle_wakes_an_outer_loop() {
    a_handle_wakes::<Level>();
    a_handle_wakes::<Edge>();
}

fn two_reactors<O: Outer>() {
    let (mut a, at_a) = echo_server(Limits::default());
    let (mut b, at_b) = echo_server(Limits::default());
    let mut clients = [connect(at_a), connect(at_b)];
    for (n, client) in clients.iter_mut().enumerate() {
        client.write_all(&[n as u8; 9]).unwrap();
    }
    drive::<O>(&mut [&mut a, &mut b], "both to answer", |r| r.iter().all(|r| r.stats().bytes_out == 9));
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(read_n(client, 9), [n as u8; 9]);
    }
    let key = a.add(Echo).unwrap();
    assert!(a.get(key).is_some() && b.get(key).is_none());
    // Stopping one reactor does not stop the other.
    a.shutdown(Duration::ZERO).unwrap();
    clients[1].write_all(b"still here").unwrap();
    drive::<O>(&mut [&mut b], "the other one", |r| r[0].stats().bytes_out == 19);
}

#[test]
fn two_reactors_share_a_process_and_a_loop() {
    two_reactors::<Level>();
    two_reactors::<Edge>();
}

#[test]
fn each_thread_may_have_a_reactor() {
    let servers: Vec<_> = (0..4).map(|_| serve_one(Limits::default(), || Echo)).collect();
    let mut clients: Vec<_> = servers.iter().map(|s| connect(s.addr())).collect();
    for _ in 0..20 {
        clients.iter_mut().for_each(|c| echo(c, b"whose turn is it?"));
    }
    drop(clients);
    for server in servers {
        assert_eq!(server.stop().stats.accepted, 1);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_socket_given_as_a_listener_that_does_not_listen_is_refused() {
    use std::os::unix::net::{UnixListener, UnixStream};
    let (mut reactor, at) = echo_server(Limits::default());
    let tcp = TcpListener::from(OwnedFd::from(connect(at)));
    let error = reactor.listen(tcp, Echo).unwrap_err();
    assert_eq!(error.to_string(), "cannot listen on the given TCP listener: the socket is not listening");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let unix = UnixListener::from(OwnedFd::from(UnixStream::pair().unwrap().0));
    let error = reactor.listen(unix, Echo).unwrap_err();
    assert_eq!(error.to_string(), "cannot listen on the given Unix listener: the socket is not listening");
}

/// Returns how often this thread has slept (voluntary context switches).
#[cfg(target_os = "linux")]
fn sleeps() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn a_turn_does_not_sleep_unless_there_is_a_millisecond_for_it() {
    let (mut reactor, _) = echo_server(Limits::default());
    while reactor.turn(Some(Duration::ZERO)).unwrap().more {}
    for timeout in [Duration::ZERO, Duration::from_nanos(1), Duration::from_micros(999)] {
        let before = sleeps();
        for _ in 0..500 {
            assert_eq!(reactor.turn(Some(timeout)).unwrap().events, 0);
        }
        let slept = sleeps() - before;
        assert!(slept < 100, "slept {slept} times in 500 turns of {timeout:?}");
    }
    let before = sleeps();
    for _ in 0..20 {
        reactor.turn(Some(MS)).unwrap();
    }
    assert!(sleeps() - before >= 20, "it does not sleep although it has a timeout");
}

/// Runs in the child process of the next test. Does everything that might print or log.
fn say_nothing_of_anything() {
    let quiet = |mark: &str| {
        println!("{mark}");
        eprintln!("{mark}");
    };
    quiet("<<<");
    let mut limits = Limits::default();
    limits.connections = Limit::At(2);
    limits.slow_callback = Limit::At(Duration::from_nanos(1));
    limits.linger_quiet = MS;
    let mut reactor = Reactor::with_limits(limits).unwrap();
    let framed = Framed::new(codec("lines,max=10"), Echo);
    let at = reactor.listen("127.0.0.1:0", framed).unwrap().local_addr().unwrap();
    reactor.listen(at, Echo).unwrap_err();
    reactor.listen("nonsense", Echo).unwrap_err();
    let fd = reactor.as_raw_fd();
    let (_sender, receiver) = mio::unix::pipe::new().unwrap();
    let key = reactor.register(receiver, Interest::WRITABLE, |_, _, _| turnwheel::Watch::Done).unwrap();
    drop(reactor.deregister(key));
    assert!(fd > 2);
    let mut clients: Vec<TcpStream> = (0..4).map(|_| connect(at)).collect();
    for client in &mut clients {
        client.write_all(b"a line that is too long\n").unwrap();
    }
    drive::<Level>(&mut [&mut reactor], "the bad clients to be closed", |r| r[0].stats().closed_total() == 4);
    reactor.shutdown(Duration::ZERO).unwrap();
    drop(reactor);
    quiet(">>>");
}

#[test]
fn nothing_is_printed_where_nobody_listens_to_the_log() {
    if is_child() {
        return say_nothing_of_anything();
    }
    let me = "nothing_is_printed_where_nobody_listens_to_the_log";
    let child = output(&mut again("", module_path!(), me)).unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (said(&child.stdout), said(&child.stderr));
    assert!(child.status.success(), "{out}{err}");
    assert!(out.contains("<<<\n>>>\n"), "on stdout: {out}");
    assert_eq!(err, "<<<\n>>>\n", "on stderr");
}
