//! A scripted world for tests: clock, listeners and streams in memory, in the hand of the test.
//!
//! No threads, no real time and no chance: what happens is what the test did, in that order. A stream is two byte
//! pipes; what a call answers can be scripted call by call, and by default follows from the pipes. Readiness is
//! edge-triggered as epoll's, or in *strict* mode as mio promises it: no second edge before `WouldBlock`. Knows nothing
//! of the loop. Invariant: a due edge is never lost, however late, doubled or disguised the test lets it come.

mod acts;
mod calls;
mod connect;
mod datagram;
mod datagram_socket;
mod peer;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub(crate) use calls::{Call, peer_at};
use calls::{address_of, outcome};
#[cfg(test)]
pub(crate) use datagram_socket::Came;
pub(crate) use datagram_socket::ScriptSocket;
use peer::fail;
#[cfg_attr(not(test), allow(unused_imports))]
pub(crate) use peer::{Answer, DialPlan, DialState, EAGAIN, ECONNRESET, ENOBUFS, ENOTCONN, EPIPE, End, Peer};

use super::{CloseHow, Ready, Received, Sys, Wake};
use crate::config::address::Address;
use crate::config::connect::{ConnectOptions, Existing};
use crate::config::listen::{ListenOptions, ListenTarget};
use crate::time::Time;

#[derive(Debug, Default)]
struct Backlog {
    token: Option<usize>,
    closed: bool,
    /// Strict mode: whether a client gives an edge.
    armed: bool,
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
    /// A poll with nothing to deliver takes as long as its timeout.
    pub(crate) sleeps: bool,
    pub(crate) strict: bool,
    /// Events stay where they are until this is cleared.
    pub(crate) held: bool,
    pub(crate) capacity: usize,
    pub(crate) descriptors: Option<(usize, usize)>,
    pub(crate) peers: Vec<Peer>,
    pub(crate) trace: Vec<Call>,
    /// Calls are not written down.
    pub(crate) untraced: bool,
    /// Looks at the clock, ever.
    pub(crate) looks: usize,
    /// What the next registration of a source fails with.
    pub(crate) source_fails: Option<i32>,
    listeners: Vec<Backlog>,
    pub(crate) sockets: Vec<ScriptSocket>,
    events: VecDeque<Ready>,
    /// How many events have left the queue.
    gone: usize,
    bell: Arc<Bell>,
    rung: usize,
    /// What becomes of the next sockets that connect; the others do at once.
    pub(crate) dials: VecDeque<DialPlan>,
    /// Sockets that connect wait for the test to decide, where nothing else is planned.
    pub(crate) dials_wait: bool,
    /// What was connected to, and as which peer if the call did not fail.
    pub(crate) dials_made: Vec<(Address, Option<usize>)>,
    /// Every lookup that was begun: its number, the host and the port.
    pub(crate) lookups: Vec<(u64, String, u16)>,
    found: VecDeque<(u64, io::Result<Vec<SocketAddr>>)>,
    /// What the next random number is; it grows.
    pub(crate) luck: u64,
    /// The next registration of a stream fails with this error.
    pub(crate) next_add: Option<i32>,
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

    /// The next accepts of a listener fail with these errors.
    pub(crate) fn accepts_fail(&mut self, listener: usize, errors: &[i32]) {
        self.listeners[listener].answers.extend(errors);
        if let Some(token) = self.listeners[listener].token {
            self.inject(token, Ready::READABLE);
        }
    }

    /// The next accept of a listener fails with this error, of which no event tells.
    pub(crate) fn accept_fails(&mut self, listener: &Listener, error: i32) {
        self.listeners[listener.0].answers.push_back(error);
    }

    pub(crate) fn listener_token(&self, listener: &Listener) -> Option<usize> {
        self.listeners[listener.0].token
    }

    pub(crate) fn record_poll(&mut self, timeout: Option<Duration>) {
        let whole = timeout.is_none_or(|t| t.subsec_nanos() % 1_000_000 == 0);
        assert!(whole, "some system would round {timeout:?}");
        self.record(Call::Poll(timeout));
    }

    /// The peer's pending error has been told in another way.
    pub(crate) fn forget_error(&mut self, peer: usize) {
        self.peers[peer].error = None;
    }

    /// Whether one can connect to a listener.
    pub(crate) fn is_listening(&self, listener: usize) -> bool {
        self.listeners.get(listener).is_some_and(|l| !l.closed)
    }

    /// Connections that wait at listeners that are open.
    pub(crate) fn all_waiting(&self) -> usize {
        self.listeners.iter().filter(|l| l.token.is_some()).map(|l| l.waiting.len()).sum()
    }

    pub(crate) fn waiting(&self, listener: usize) -> usize {
        self.listeners[listener].waiting.len()
    }

    /// Bytes sent to the loop that it has not read.
    pub(crate) fn unread(&self, peer: usize) -> usize {
        self.peers[peer].unread()
    }

    /// The token a stream was registered with, even if it is closed.
    pub(crate) fn token(&self, peer: usize) -> usize {
        self.peers[peer].token.unwrap_or(usize::MAX)
    }

    /// Adds an event of the test's own: stale, doubled, or simply untrue.
    pub(crate) fn inject(&mut self, token: usize, bits: u8) {
        self.events.push_back(Ready { token, bits });
    }

    /// Takes up to `most` events out of the queue, oldest first.
    pub(crate) fn take_events(&mut self, most: usize) -> impl Iterator<Item = Ready> {
        let n = self.events.len().min(most);
        self.gone += n;
        self.events.drain(..n)
    }

    /// Whether a wake-up has come since this was last asked.
    pub(crate) fn take_wake(&mut self) -> bool {
        let rung = self.bell.0.load(Ordering::SeqCst);
        std::mem::replace(&mut self.rung, rung) != rung
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
        let bits = if self.strict && !first { bits & Ready::WRITABLE } else { bits };
        if bits == 0 {
            return;
        }
        // An event tells of all that is so, whatever it comes from. None but epoll promises that.
        let bits = bits
            | match self.strict {
                false => p.all_ready(),
                true if bits & Ready::READABLE == 0 => 0,
                true => p.hints(),
            };
        let queued = self.peers[peer].event.and_then(|at| at.checked_sub(self.gone));
        match queued.and_then(|at| self.events.get_mut(at)) {
            Some(event) => event.bits |= bits,
            None => {
                self.peers[peer].event = Some(self.gone + self.events.len());
                self.inject(token, bits);
            }
        }
    }

    fn record(&mut self, call: Call) {
        if !self.untraced {
            self.trace.push(call);
        }
    }
}

impl Sys for Script {
    type Listener = Listener;
    type Stream = Stream;

    fn now(&mut self) -> Time {
        self.looks += 1;
        self.clock = self.clock.saturating_add(self.tick);
        Time(self.clock)
    }

    fn poll(&mut self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> io::Result<bool> {
        self.record_poll(timeout);
        let woken = self.take_wake();
        if !self.is_quiet() {
            ready.extend(self.take_events(self.capacity));
        } else if let Some(timeout) = timeout.filter(|_| self.sleeps && !woken) {
            self.clock = Time(self.clock).after(timeout).0;
        }
        Ok(ready.len() >= self.capacity)
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

    fn listen(&mut self, _at: ListenTarget, _options: &ListenOptions) -> io::Result<Listener> {
        self.listeners.push(Backlog::default());
        Ok(Listener(self.listeners.len() - 1))
    }

    fn local_addr(&self, listener: &Listener) -> io::Result<Address> {
        Ok(Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 7000 + listener.0 as u16))))
    }

    fn add_listener(&mut self, listener: &mut Listener, token: usize) -> io::Result<()> {
        let backlog = &mut self.listeners[listener.0];
        backlog.token = Some(token);
        backlog.armed = backlog.waiting.is_empty();
        if !backlog.armed {
            self.inject(token, Ready::READABLE);
        }
        Ok(())
    }

    fn close_listener(&mut self, listener: Listener) {
        let backlog = &mut self.listeners[listener.0];
        (backlog.token, backlog.closed) = (None, true);
        for peer in backlog.waiting.drain(..) {
            self.peers[peer].cut_off = true;
            self.peers[peer].ends_with(End::Reset);
        }
        self.record(Call::CloseListener(listener.0));
    }

    fn accept(&mut self, listener: &mut Listener) -> io::Result<(Stream, Address)> {
        let backlog = &mut self.listeners[listener.0];
        let taken = match backlog.answers.pop_front() {
            Some(number) => fail(number),
            None => backlog.waiting.pop_front().map_or_else(|| fail(EAGAIN), Ok),
        };
        backlog.armed |= outcome(&taken) == Err(EAGAIN);
        self.record(Call::Accept(listener.0, outcome(&taken)));
        let peer = taken?;
        self.peers[peer].accepted = true;
        Ok((Stream(peer), address_of(peer)))
    }

    fn add_stream(&mut self, stream: &mut Stream, token: usize) -> io::Result<()> {
        self.record(Call::Add(stream.0));
        let peer = &mut self.peers[stream.0];
        if let Some(number) = peer.add.take().or(self.next_add.take()) {
            return fail(number);
        }
        peer.token = Some(token);
        let waits = if peer.sent.is_empty() { 0 } else { Ready::READABLE };
        peer.readable_armed = true;
        if peer.dial == DialState::Pending {
            peer.writable_armed = true;
        } else {
            self.arrived(stream.0, Ready::WRITABLE | waits);
        }
        Ok(())
    }

    fn connect(&mut self, to: &Address, _options: &ConnectOptions) -> io::Result<Stream> {
        self.dial(to)
    }

    fn finish_connect(&mut self, stream: &mut Stream) -> io::Result<Address> {
        self.dial_done(stream.0)
    }

    fn take_over(&mut self, _given: Existing, _options: &ConnectOptions) -> io::Result<(Stream, Address)> {
        let stream = self.dial(&Address::Unix(None))?;
        let peer = stream.0;
        Ok((stream, address_of(peer)))
    }

    fn begin_lookup(&mut self, number: u64, host: &str, port: u16) -> io::Result<()> {
        self.record(Call::Lookup(number));
        self.lookups.push((number, host.to_owned(), port));
        Ok(())
    }

    fn next_lookup(&mut self) -> Option<(u64, io::Result<Vec<SocketAddr>>)> {
        self.found.pop_front()
    }

    fn cancel_lookup(&mut self, number: u64) {
        self.found.retain(|(other, _)| *other != number);
    }

    fn random(&mut self) -> u64 {
        self.luck = self.luck.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.luck
    }

    fn read(&mut self, stream: &mut Stream, buf: &mut [u8]) -> io::Result<Received> {
        let (peer, strict) = (&mut self.peers[stream.0], self.strict);
        let unix = peer.unix;
        let answer = peer.reads.pop_front();
        let done = match answer {
            Some(Answer::Fail(number)) => fail(number),
            Some(Answer::AtMost(most)) => peer.read(buf, most),
            None => peer.read(buf, usize::MAX),
        };
        let blocked = outcome(&done) == Err(EAGAIN);
        peer.readable_armed |= blocked;
        self.record(Call::Read(stream.0, outcome(&done)));
        if blocked && answer.is_some() {
            self.arrived(stream.0, Ready::READABLE);
        }
        let drained = |len| !strict && !unix && len < buf.len() && answer.is_none();
        done.map(|len| Received { len, drained: drained(len) })
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
        let blocked = matches!(outcome(&done), Err(EAGAIN | ENOBUFS));
        peer.writable_armed |= blocked && answer.is_none();
        let unheard = peer.deaf && !peer.dead && done.is_ok();
        self.record(Call::Write(stream.0, outcome(&done)));
        if blocked && answer.is_some() {
            self.arrived(stream.0, Ready::WRITABLE);
        }
        if unheard {
            self.reset(stream.0);
        }
        done
    }

    fn shutdown_write(&mut self, stream: &mut Stream) -> io::Result<()> {
        self.record(Call::ShutdownWrite(stream.0));
        let peer = &mut self.peers[stream.0];
        assert!(!peer.got_fin, "a second FIN");
        if let Some(number) = peer.shutdown.take() {
            return fail(number);
        }
        if peer.dead && !peer.unix {
            return fail(ENOTCONN);
        }
        peer.got_fin = true;
        peer.ends_with(End::Fin);
        if !self.strict {
            let bits = peer.all_ready();
            self.arrived(stream.0, bits);
        }
        Ok(())
    }

    fn take_error(&mut self, stream: &mut Stream) -> io::Result<Option<io::Error>> {
        self.record(Call::TakeError(stream.0));
        Ok(self.peers[stream.0].error.take().map(io::Error::from_raw_os_error))
    }

    fn close(&mut self, stream: Stream, how: CloseHow) {
        let peer = &mut self.peers[stream.0];
        let before = peer.closed.replace(how);
        assert_eq!(before, None, "closed twice");
        peer.was_closed(how);
        self.record(Call::Close(stream.0, how));
    }

    fn add_source(
        &mut self,
        _source: &mut dyn ::mio::event::Source,
        token: usize,
        _interest: ::mio::Interest,
    ) -> io::Result<()> {
        self.record(Call::AddSource(token));
        self.source_fails.take().map_or(Ok(()), fail)
    }

    fn remove_source(&mut self, _source: &mut dyn ::mio::event::Source) {
        self.record(Call::RemoveSource);
    }
}
