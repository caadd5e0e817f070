//! Registered sources of every kind: how they are called, returned and refused.

// The callbacks share their findings with the tests.
#![allow(clippy::disallowed_types)]

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use turnwheel::mio::unix::{SourceFd, pipe};
use turnwheel::mio::{Interest, Registry, Token, event};
use turnwheel::{Broadcast, Echo, Limits, Net, Reactor, SourceKey, Watch, mio};

use crate::support::process::Scratch;
use crate::support::{connect, echo, read_n, serve, turn_until};

/// A source for any descriptor. Clones share the descriptor.
#[derive(Clone, Debug)]
struct Fd(Rc<OwnedFd>);

impl Fd {
    fn new(fd: impl Into<OwnedFd>) -> Self {
        Self(Rc::new(fd.into()))
    }
}

impl event::Source for Fd {
    fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        SourceFd(&self.0.as_raw_fd()).register(registry, token, interest)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        SourceFd(&self.0.as_raw_fd()).reregister(registry, token, interest)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.0.as_raw_fd()).deregister(registry)
    }
}

/// Reads until `WouldBlock` or the end.
fn drain(source: &mut impl Read, into: &mut Vec<u8>) -> Watch {
    match source.read_to_end(into) {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Watch::Wait,
        Ok(_) => Watch::Done,
        Err(e) => panic!("{e}"),
    }
}

/// Registers a reader, and collects its bytes.
fn collect<E: event::Source + Read + 'static>(
    reactor: &mut Reactor,
    source: E,
) -> (SourceKey<E>, Rc<RefCell<Vec<u8>>>) {
    let bytes = Rc::new(RefCell::new(Vec::new()));
    let into = Rc::clone(&bytes);
    let callback = move |_: &mut Net<'_>, source: &mut E, _| drain(source, &mut into.borrow_mut());
    (reactor.register(source, Interest::READABLE, callback).unwrap(), bytes)
}

#[test]
fn a_pipe_is_read_until_its_end_and_then_dropped() {
    let mut reactor = Reactor::new().unwrap();
    let (mut sender, receiver) = pipe::new().unwrap();
    // Bytes that are in the pipe before it is registered are reported as well.
    sender.write_all(b"early, ").unwrap();
    let (key, bytes) = collect(&mut reactor, receiver);
    turn_until(&mut reactor, "what came early", |_| *bytes.borrow() == b"early, ");
    sender.write_all(b"late").unwrap();
    turn_until(&mut reactor, "what came late", |_| *bytes.borrow() == b"early, late");
    drop(sender);
    turn_until(&mut reactor, "the end", |r| r.source_mut(key).is_none());
    assert!(reactor.deregister(key).is_none());
    assert_eq!(reactor.stats().stale_events, 0);
}

#[test]
fn half_a_socket_pair_answers_beside_connections() {
    let mut reactor = Reactor::new().unwrap();
    let at = reactor.listen("127.0.0.1:0", Echo).unwrap().local_addr().unwrap();
    let (half, other) = mio::net::UnixStream::pair().unwrap();
    let both = Interest::READABLE.add(Interest::WRITABLE);
    let key = reactor.register(half, both, |_, half, readiness| {
        let mut buffer = Vec::new();
        let watch = if readiness.is_readable() { drain(half, &mut buffer) } else { Watch::Wait };
        half.write_all(&buffer).unwrap();
        watch
    });
    let key = key.unwrap();
    let mut other = std::os::unix::net::UnixStream::from(OwnedFd::from(other));
    other.set_nonblocking(false).unwrap();
    for round in 0..3 {
        other.write_all(b"ping").unwrap();
        let mut client = connect(at);
        client.write_all(b"pong").unwrap();
        turn_until(&mut reactor, "the client", |r| r.stats().bytes_out == 4 * (round + 1));
        turn_until(&mut reactor, "the other half", |_| rustix::io::ioctl_fionread(&other).unwrap() == 4);
        assert_eq!((read_n(&mut other, 4), read_n(&mut client, 4)), (b"ping".to_vec(), b"pong".to_vec()));
    }
    reactor.source_mut(key).unwrap().write_all(b"from outside").unwrap();
    assert_eq!(read_n(&mut other, 12), b"from outside");
}

#[test]
fn a_source_is_told_of_what_was_asked_for_and_of_nothing_else() {
    let mut reactor = Reactor::new().unwrap();
    let (half, mut other) = mio::net::UnixStream::pair().unwrap();
    let calls = Rc::new(Cell::new(0));
    let counted = Rc::clone(&calls);
    let callback = move |_: &mut Net<'_>, half: &mut mio::net::UnixStream, _| {
        counted.set(counted.get() + 1);
        drain(half, &mut Vec::new())
    };
    reactor.register(half, Interest::READABLE, callback).unwrap();
    while reactor.turn(Some(Duration::ZERO)).unwrap().more {}
    assert_eq!(calls.get(), 0, "writable, but only readable was registered");
    other.write_all(b"x").unwrap();
    turn_until(&mut reactor, "the byte", |_| calls.get() == 1);
}

#[test]
fn a_source_speaks_to_all_connections() {
    let (mut sender, receiver) = pipe::new().unwrap();
    let server = serve(Limits::default(), move |reactor| {
        let group = reactor.net().group().unwrap();
        let room = reactor.add(Broadcast::to_others())?;
        let callback = move |net: &mut Net<'_>, receiver: &mut pipe::Receiver, _| {
            let mut line = Vec::new();
            let watch = drain(receiver, &mut line);
            let all: Vec<_> = net.connections().collect();
            assert!(all.iter().all(|&id| net.join_id(group, id)));
            net.broadcast(group, line);
            watch
        };
        reactor.register(receiver, Interest::READABLE, callback)?;
        Ok(vec![reactor.listen_on("127.0.0.1:0", room)?])
    });
    let mut clients: Vec<_> = (0..5).map(|_| connect(server.addr())).collect();
    server.wait_for("all to come", |s| s.accepted == 5);
    sender.write_all(b"news").unwrap();
    for client in &mut clients {
        assert_eq!(read_n(client, 4), b"news");
    }
}

#[test]
fn whoever_reads_a_little_at_a_time_asks_to_be_called_again() {
    let mut reactor = Reactor::new().unwrap();
    let (mut sender, receiver) = pipe::new().unwrap();
    let (calls, bytes) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(Vec::new())));
    let (counted, into) = (Rc::clone(&calls), Rc::clone(&bytes));
    let callback = move |_: &mut Net<'_>, receiver: &mut pipe::Receiver, _| {
        counted.set(counted.get() + 1);
        let mut one = [0];
        match receiver.read(&mut one) {
            Ok(1) => {
                into.borrow_mut().push(one[0]);
                Watch::Again
            }
            _ => Watch::Wait,
        }
    };
    reactor.register(receiver, Interest::READABLE, callback).unwrap();
    sender.write_all(b"slowly").unwrap();
    assert!(reactor.turn(None).unwrap().more);
    assert_eq!(*bytes.borrow(), b"s");
    assert_eq!(reactor.next_deadline(), Some(Duration::ZERO));
    let mut turns = 1;
    while reactor.turn(None).unwrap().more {
        turns += 1;
    }
    assert_eq!((bytes.borrow().as_slice(), calls.get(), turns), (&b"slowly"[..], 7, 6));
    assert_eq!(reactor.next_deadline(), None);
}

#[test]
fn a_source_is_given_back_with_what_waits_in_it_and_may_be_registered_again() {
    let mut reactor = Reactor::new().unwrap();
    let (mut sender, receiver) = pipe::new().unwrap();
    let (key, bytes) = collect(&mut reactor, receiver);
    sender.write_all(b"unread").unwrap();
    let mut stranger = Reactor::new().unwrap();
    assert!(stranger.source_mut(key).is_none() && stranger.deregister(key).is_none());
    let mut receiver = reactor.deregister(key).unwrap();
    reactor.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(bytes.borrow().len(), 0);
    assert!(reactor.source_mut(key).is_none() && reactor.deregister(key).is_none());
    assert_eq!(read_n(&mut receiver, 2), b"un");
    // The slot is reused, and the old key does not refer to the new source.
    let (other, bytes) = collect(&mut reactor, receiver);
    assert!(reactor.deregister(key).is_none() && reactor.source_mut(other).is_some());
    turn_until(&mut reactor, "the rest", |_| *bytes.borrow() == b"read");
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[test]
fn a_source_registered_twice_is_refused_and_nothing_else_is_hurt() {
    let mut reactor = Reactor::new().unwrap();
    let at = reactor.listen("127.0.0.1:0", Echo).unwrap().local_addr().unwrap();
    let (reader, mut writer) = io::pipe().unwrap();
    let fd = Fd::new(reader);
    let called = Rc::new(Cell::new(0));
    let register = |reactor: &mut Reactor, fd: Fd| {
        let called = Rc::clone(&called);
        reactor.register(fd, Interest::READABLE, move |_, _, _| {
            called.set(called.get() + 1);
            Watch::Wait
        })
    };
    let first = register(&mut reactor, fd.clone()).unwrap();
    let error = register(&mut reactor, fd.clone()).unwrap_err();
    assert_eq!(error.to_string(), "cannot register the source: File exists (os error 17)");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    // A regular file is refused as well: epoll cannot watch it (EPERM).
    let error = register(&mut reactor, Fd::new(File::open("/proc/self/exe").unwrap())).unwrap_err();
    assert_eq!(error.to_string(), "cannot register the source: Operation not permitted (os error 1)");

    writer.write_all(b"x").unwrap();
    turn_until(&mut reactor, "the first registration", |_| called.get() == 1);
    let mut client = connect(at);
    client.write_all(b"hello").unwrap();
    turn_until(&mut reactor, "the connection", |r| r.stats().bytes_out == 5);
    assert_eq!(read_n(&mut client, 5), b"hello");
    assert!(reactor.deregister(first).is_some());
    register(&mut reactor, fd).unwrap();
    turn_until(&mut reactor, "the second registration", |_| called.get() == 2);
}

#[cfg(target_os = "linux")]
#[test]
fn a_timer_descriptor_and_an_inotify_are_sources() {
    use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    };
    let mut reactor = Reactor::new().unwrap();
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC).unwrap();
    let soon = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    let spec = Itimerspec { it_interval: soon, it_value: soon };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spec).unwrap();
    let ticks = Rc::new(Cell::new(0));
    let counted = Rc::clone(&ticks);
    let callback = move |_: &mut Net<'_>, fd: &mut Fd, _| {
        let mut expired = [0; 8];
        while rustix::io::read(&*fd.0, &mut expired).is_ok() {
            counted.set(counted.get() + 1);
        }
        if counted.get() >= 3 { Watch::Done } else { Watch::Wait }
    };
    reactor.register(Fd::new(timer), Interest::READABLE, callback).unwrap();
    // Only the timer can wake these turns.
    while ticks.get() < 3 {
        reactor.turn(None).unwrap();
    }

    let scratch = Scratch::new();
    let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&watch, &scratch.0, WatchFlags::CREATE).unwrap();
    let told = Rc::new(Cell::new(false));
    let heard = Rc::clone(&told);
    let callback = move |_: &mut Net<'_>, fd: &mut Fd, _| {
        heard.set(rustix::io::read(&*fd.0, &mut [0; 512]).is_ok());
        Watch::Done
    };
    reactor.register(Fd::new(watch), Interest::READABLE, callback).unwrap();
    File::create(scratch.0.join("new")).unwrap();
    turn_until(&mut reactor, "the new file", |_| told.get());
}

#[test]
fn a_source_whose_callback_panics_is_dropped_and_everyone_else_goes_on() {
    let server = serve(Limits::default(), |reactor| {
        let (sender, receiver) = pipe::new()?;
        // Closing the other end makes the pipe readable, so the callback is called.
        drop(sender);
        reactor.register(receiver, Interest::READABLE, |_, _, _| panic!("on purpose"))?;
        Ok(vec![reactor.listen("127.0.0.1:0", Echo)?])
    });
    server.wait_for("the panic", |s| s.panics == 1);
    echo(&mut connect(server.addr()), b"still here");
    assert_eq!(server.stop().stats.panics, 1);
}
