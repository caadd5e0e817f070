//! A scripted world for tests: clock, listeners and streams in memory, in the hand of the test.
//!
//! No threads, no real time and no chance: what happens is what the test did, in that order. A stream is two byte
//! pipes; what a call answers can be scripted call by call, and by default follows from the pipes. Readiness is
//! edge-triggered as epoll's, or in *strict* mode as mio promises it: no second edge before `WouldBlock`. Knows nothing
//! of the loop. Invariant: a due edge is never lost, however late, doubled or disguised the test lets it come.

mod peer;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[cfg_attr(not(test), allow(unused_imports))]
pub(crate) use peer::{Answer, EAGAIN, ECONNRESET, EPIPE, Peer};
use peer::{Sent, fail};

use super::{CloseHow, Ready, Received, Sys, Time, Wake};
use crate::endpoint::Address;
use crate::listen::{Bind, ListenOptions};

/// One call, in the order in which the loop made them. Streams are named by their peer's number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Poll(Option<Duration>),
    Accept(usize, Result<usize, i32>),
    Add(usize),
    Read(usize, Result<usize, i32>),
    Write(usize, Result<usize, i32>),
    ShutdownWrite(usize),
    TakeError(usize),
    Close(usize, CloseHow),
    CloseListener(usize),
}

#[derive(Debug, Default)]
struct Backlog {
    token: Option<usize>,
    waiting: VecDeque<usize>,
    answers: VecDeque<i32>,
}

#[derive(Debug, Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(&self) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// The scripted world.
#[derive(Debug, Default)]
pub(crate) struct Script {
    /// The virtual clock in nanoseconds; the test may set it to whatever it likes.
    pub(crate) clock: u64,
    /// How far the clock goes on at each look at it.
    pub(crate) tick: u64,
    /// A poll with nothing to deliver takes as long as its timeout, rounded up to a millisecond.
    pub(crate) sleeps: bool,
    pub(crate) strict: bool,
    /// Events stay where they are until this is cleared.
    pub(crate) held: bool,
    pub(crate) capacity: usize,
    pub(crate) descriptors: Option<(usize, usize)>,
    pub(crate) peers: Vec<Peer>,
    pub(crate) trace: Vec<Call>,
    /// Looks at the clock, ever.
    pub(crate) looks: usize,
    listeners: Vec<Backlog>,
    events: VecDeque<Ready>,
    bell: Arc<Bell>,
    rung: usize,
}

/// A listener's number.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Listener(usize);

/// A stream, by its peer's number.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stream(usize);

impl Stream {
    pub(crate) const fn peer(&self) -> usize {
        self.0
    }
}

impl Script {
    pub(crate) fn new() -> Self {
        Self { clock: 1_000_000_000, capacity: 1024, ..Self::default() }
    }

    /// A client connects to a listener.
    pub(crate) fn connect(&mut self, listener: usize) -> usize {
        let peer = Peer { room: usize::MAX, readable_armed: true, ..Peer::default() };
        self.peers.push(peer);
        let backlog = &mut self.listeners[listener];
        let first = backlog.waiting.is_empty();
        backlog.waiting.push_back(self.peers.len() - 1);
        if let Some(token) = backlog.token.filter(|_| first || !self.strict) {
            self.inject(token, Ready::READABLE);
        }
        self.peers.len() - 1
    }

    /// The next accepts of a listener fail with these errors.
    pub(crate) fn accepts_fail(&mut self, listener: usize, errors: &[i32]) {
        self.listeners[listener].answers.extend(errors);
        if let Some(token) = self.listeners[listener].token {
            self.inject(token, Ready::READABLE);
        }
    }

    pub(crate) fn waiting(&self, listener: usize) -> usize {
        self.listeners[listener].waiting.len()
    }

    pub(crate) fn send(&mut self, peer: usize, data: &[u8]) {
        match self.peers[peer].sent.back_mut() {
            Some(Sent::Bytes(b)) => b.extend(data),
            _ => self.peers[peer].sent.push_back(Sent::Bytes(data.iter().copied().collect())),
        }
        self.arrived(peer, Ready::READABLE);
    }

    pub(crate) fn send_urgent(&mut self, peer: usize) {
        self.peers[peer].sent.push_back(Sent::Urgent);
        self.arrived(peer, Ready::READABLE | Ready::HINT);
    }

    pub(crate) fn fin(&mut self, peer: usize) {
        self.peers[peer].sent.push_back(Sent::Fin);
        self.arrived(peer, Ready::READABLE | Ready::HINT);
    }

    pub(crate) fn reset(&mut self, peer: usize) {
        self.peers[peer].sent.push_back(Sent::Reset);
        self.peers[peer].error = Some(ECONNRESET);
        self.peers[peer].dead = true;
        self.arrived(peer, Ready::READABLE | Ready::WRITABLE | Ready::HINT | Ready::ERROR);
    }

    /// Lets the kernel take this many more bytes, and no more.
    pub(crate) fn set_room(&mut self, peer: usize, room: usize) {
        self.peers[peer].room = room;
        if room > 0 && std::mem::take(&mut self.peers[peer].writable_armed) {
            self.arrived(peer, Ready::WRITABLE);
        }
    }

    /// Bytes sent to the loop that it has not read.
    pub(crate) fn unread(&self, peer: usize) -> usize {
        let len = |s: &Sent| if let Sent::Bytes(b) = s { b.len() } else { 0 };
        self.peers[peer].sent.iter().map(len).sum()
    }

    /// The token a stream was registered with, even if it is closed.
    pub(crate) fn token(&self, peer: usize) -> usize {
        self.peers[peer].token.unwrap_or(usize::MAX)
    }

    /// Adds an event of the test's own: stale, doubled, or simply untrue.
    pub(crate) fn inject(&mut self, token: usize, bits: u8) {
        self.events.push_back(Ready { token, bits });
    }

    /// Streams that the loop has accepted and not closed.
    pub(crate) fn open_streams(&self) -> usize {
        self.peers.iter().filter(|p| p.accepted && p.closed.is_none()).count()
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.held || self.events.is_empty()
    }

    /// An edge, unless strict mode has given one already and seen no `WouldBlock` since.
    fn arrived(&mut self, peer: usize, bits: u8) {
        let p = &mut self.peers[peer];
        let Some(token) = p.token.filter(|_| p.closed.is_none()) else { return };
        let first = bits & Ready::READABLE == 0 || std::mem::take(&mut p.readable_armed);
        if self.strict && !first {
            return;
        }
        match self.events.iter_mut().find(|e| e.token == token) {
            Some(event) => event.bits |= bits,
            None => self.inject(token, bits),
        }
    }

    fn note(&mut self, call: Call) {
        self.trace.push(call);
    }
}

/// What a traced call came to.
fn outcome(result: &io::Result<usize>) -> Result<usize, i32> {
    result.as_ref().map(|&n| n).map_err(|e| e.raw_os_error().unwrap_or(0))
}

impl Sys for Script {
    type Listener = Listener;
    type Stream = Stream;

    fn now(&mut self) -> Time {
        self.looks += 1;
        self.clock = self.clock.saturating_add(self.tick);
        Time(self.clock)
    }

    fn poll(&mut self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> io::Result<()> {
        self.note(Call::Poll(timeout));
        let rung = self.bell.0.load(Ordering::SeqCst);
        let woken = std::mem::replace(&mut self.rung, rung) != rung;
        if !self.is_quiet() {
            let n = self.events.len().min(self.capacity);
            ready.extend(self.events.drain(..n));
        } else if let Some(timeout) = timeout.filter(|_| self.sleeps && !woken) {
            let ms = u64::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
            self.clock = self.clock.saturating_add(ms.saturating_mul(1_000_000));
        }
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.bell) as _
    }

    fn descriptor_limit(&mut self) -> Option<(usize, usize)> {
        self.descriptors
    }

    fn resolve(&mut self, host: &str, _port: u16) -> io::Result<Vec<SocketAddr>> {
        Err(io::Error::new(io::ErrorKind::NotFound, host))
    }

    fn bind(&mut self, _at: Bind, _options: &ListenOptions) -> io::Result<Listener> {
        self.listeners.push(Backlog::default());
        Ok(Listener(self.listeners.len() - 1))
    }

    fn local_addr(&self, listener: &Listener) -> io::Result<Address> {
        Ok(Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 7000 + listener.0 as u16))))
    }

    fn add_listener(&mut self, listener: &mut Listener, token: usize) -> io::Result<()> {
        self.listeners[listener.0].token = Some(token);
        Ok(())
    }

    fn close_listener(&mut self, listener: Listener) {
        self.listeners[listener.0].token = None;
        self.note(Call::CloseListener(listener.0));
    }

    fn accept(&mut self, listener: &mut Listener) -> io::Result<(Stream, Address)> {
        let backlog = &mut self.listeners[listener.0];
        let taken = match backlog.answers.pop_front() {
            Some(number) => fail(number),
            None => backlog.waiting.pop_front().map_or_else(|| fail(EAGAIN), Ok),
        };
        self.note(Call::Accept(listener.0, outcome(&taken)));
        let peer = taken?;
        self.peers[peer].accepted = true;
        Ok((Stream(peer), Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 40_000 + peer as u16)))))
    }

    fn add_stream(&mut self, stream: &mut Stream, token: usize) -> io::Result<()> {
        self.note(Call::Add(stream.0));
        let peer = &mut self.peers[stream.0];
        if let Some(number) = peer.add.take() {
            return fail(number);
        }
        peer.token = Some(token);
        let waits = if peer.sent.is_empty() { 0 } else { Ready::READABLE };
        let hint = peer.sent.iter().any(|s| !matches!(s, Sent::Bytes(_)));
        peer.readable_armed = waits == 0;
        self.inject(token, Ready::WRITABLE | waits | if hint { Ready::HINT } else { 0 });
        Ok(())
    }

    fn read(&mut self, stream: &mut Stream, buf: &mut [u8]) -> io::Result<Received> {
        let (peer, strict) = (&mut self.peers[stream.0], self.strict);
        let answer = peer.reads.pop_front();
        let done = match answer {
            Some(Answer::Fail(number)) => fail(number),
            Some(Answer::AtMost(most)) => peer.read(buf, most),
            None => peer.read(buf, usize::MAX),
        };
        let blocked = outcome(&done) == Err(EAGAIN);
        peer.readable_armed |= blocked;
        self.note(Call::Read(stream.0, outcome(&done)));
        if blocked && answer.is_some() {
            self.arrived(stream.0, Ready::READABLE);
        }
        done.map(|len| Received { len, drained: !strict && len < buf.len() && answer.is_none() })
    }

    fn write(&mut self, stream: &mut Stream, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        assert!((1..=64).contains(&bufs.len()) && bufs.iter().all(|b| !b.is_empty()));
        let peer = &mut self.peers[stream.0];
        assert!(!peer.got_fin, "a write behind our FIN");
        let answer = peer.writes.pop_front();
        let done = match answer {
            Some(Answer::Fail(number)) => fail(number),
            Some(Answer::AtMost(0)) => Ok(0),
            Some(Answer::AtMost(most)) => peer.write(bufs, most),
            None => peer.write(bufs, usize::MAX),
        };
        let blocked = outcome(&done) == Err(EAGAIN);
        peer.writable_armed |= blocked && answer.is_none();
        self.note(Call::Write(stream.0, outcome(&done)));
        if blocked && answer.is_some() {
            self.arrived(stream.0, Ready::WRITABLE);
        }
        done
    }

    fn shutdown_write(&mut self, stream: &mut Stream) -> io::Result<()> {
        self.note(Call::ShutdownWrite(stream.0));
        let peer = &mut self.peers[stream.0];
        assert!(!peer.got_fin, "a second FIN");
        if let Some(number) = peer.shutdown.take() {
            return fail(number);
        }
        peer.got_fin = true;
        Ok(())
    }

    fn take_error(&mut self, stream: &mut Stream) -> io::Result<Option<io::Error>> {
        self.note(Call::TakeError(stream.0));
        Ok(self.peers[stream.0].error.take().map(io::Error::from_raw_os_error))
    }

    fn close(&mut self, stream: Stream, how: CloseHow) {
        let before = self.peers[stream.0].closed.replace(how);
        assert_eq!(before, None, "closed twice");
        self.note(Call::Close(stream.0, how));
    }
}
