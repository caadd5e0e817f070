//! A scripted system for tests: clock, listeners and streams in memory, controlled by the test.
//!
//! No threads, no real time and no randomness: what happens is what the test did, in that order. A stream is two byte
//! pipes. The result of a call follows from the pipes, unless the test has scripted it. Readiness is edge-triggered
//! as with epoll, or in *strict* mode as mio guarantees it: no second edge before `WouldBlock`. Invariant: an edge
//! that is owed is never lost, however late, duplicated or altered the test delivers it.

mod acts;
mod backlog;
mod bell;
mod calls;
mod connect;
mod datagram;
mod datagram_socket;
mod descriptors;
mod peer;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use backlog::Backlog;
pub(crate) use bell::Bell;
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

/// The scripted system.
#[derive(Debug, Default)]
pub(crate) struct Script {
    /// The virtual clock in nanoseconds; the test may set it to any value.
    pub(crate) clock: u64,
    /// How far the clock advances each time it is read, in nanoseconds.
    pub(crate) tick: u64,
    /// A poll without events advances the clock by its timeout.
    pub(crate) sleeps: bool,
    /// How far the clock advances in the next wait, in nanoseconds, and what that wait returns without looking for
    /// events: `true` as if interrupted, `false` as if they came just after it, `None` if it does look.
    pub(crate) late_wait: (u64, Option<bool>),
    pub(crate) strict: bool,
    /// Events are held back until this is cleared.
    pub(crate) held: bool,
    pub(crate) capacity: usize,
    pub(crate) descriptors: Option<(usize, usize)>,
    /// How many descriptors there are for streams and for those that are held; at the limit calls fail with `EMFILE`.
    pub(crate) most_open: Option<usize>,
    /// Descriptors that the loop holds.
    pub(crate) held_descriptors: usize,
    pub(crate) peers: Vec<Peer>,
    pub(crate) trace: Vec<Call>,
    /// Calls are not recorded in `trace`.
    pub(crate) untraced: bool,
    /// How often the clock was read.
    pub(crate) looks: usize,
    /// The error of the next registration of a source.
    pub(crate) source_fails: Option<i32>,
    listeners: Vec<Backlog>,
    pub(crate) sockets: Vec<ScriptSocket>,
    events: VecDeque<Ready>,
    /// The number of events that have left the queue.
    gone: usize,
    bell: Arc<Bell>,
    rung: usize,
    /// The results of the next connecting sockets; all later ones connect at once.
    pub(crate) dials: VecDeque<DialPlan>,
    /// Connecting sockets stay pending until the test decides, unless `dials` has a plan.
    pub(crate) dials_wait: bool,
    /// The addresses connected to, each with its peer's index if the call did not fail.
    pub(crate) dials_made: Vec<(Address, Option<usize>)>,
    /// Every lookup that was begun: its number, host and port.
    pub(crate) lookups: Vec<(u64, String, u16)>,
    found: VecDeque<(u64, io::Result<Vec<SocketAddr>>)>,
    /// The last random number; the next ones are derived from it.
    pub(crate) luck: u64,
    /// The error of the next registration of a stream.
    pub(crate) next_add: Option<i32>,
}

/// A listener, by its index.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Listener(usize);

/// A stream, by its peer's index.
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

    pub(crate) fn record_poll(&mut self, timeout: Option<Duration>) {
        let whole = timeout.is_none_or(|t| t.subsec_nanos() % 1_000_000 == 0);
        assert!(whole, "not whole milliseconds, some system would round it: {timeout:?}");
        self.record(Call::Poll(timeout));
    }

    /// Clears the peer's pending error, because it was reported in another way.
    pub(crate) fn forget_error(&mut self, peer: usize) {
        self.peers[peer].error = None;
    }

    /// The number of bytes sent to the loop that it has not read.
    pub(crate) fn unread(&self, peer: usize) -> usize {
        self.peers[peer].unread()
    }

    /// The token that a stream was registered with, even if it is closed.
    pub(crate) fn token(&self, peer: usize) -> usize {
        self.peers[peer].token.unwrap_or(usize::MAX)
    }

    /// Adds an event made up by the test: stale, duplicated or spurious.
    pub(crate) fn inject(&mut self, token: usize, bits: u8) {
        self.events.push_back(Ready { token, bits });
    }

    /// Takes up to `most` events from the queue, oldest first.
    pub(crate) fn take_events(&mut self, most: usize) -> impl Iterator<Item = Ready> {
        let n = self.events.len().min(most);
        self.gone += n;
        self.events.drain(..n)
    }

    /// Returns `true` if there was a wake-up since the last call.
    pub(crate) fn take_wake(&mut self) -> bool {
        let rung = self.bell.times_rung();
        std::mem::replace(&mut self.rung, rung) != rung
    }

    /// The number of streams that the loop has accepted and not closed.
    pub(crate) fn open_streams(&self) -> usize {
        self.peers.iter().filter(|p| p.accepted && p.closed.is_none()).count()
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.held || self.events.is_empty()
    }

    /// Queues an edge, unless strict mode has delivered one already and seen no `WouldBlock` since.
    fn arrived(&mut self, peer: usize, bits: u8) {
        let p = &mut self.peers[peer];
        let Some(token) = p.token.filter(|_| p.closed.is_none()) else { return };
        let first = bits & Ready::READABLE == 0 || std::mem::take(&mut p.readable_armed);
        let bits = if self.strict && !first { bits & Ready::WRITABLE } else { bits };
        if bits == 0 {
            return;
        }
        // An epoll event reports the whole current state, whatever triggered it. Other systems do not guarantee that,
        // so strict mode adds hints only.
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
        let (late, blind) = std::mem::take(&mut self.late_wait);
        self.clock = self.clock.saturating_add(late);
        if let Some(more) = blind {
            return Ok(more);
        }
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

    fn hold_descriptors(&mut self, n: usize) -> io::Result<()> {
        self.hold(n)
    }

    fn resolve(&mut self, host: &str, _: u16, _: Duration, _: &dyn Fn() -> bool) -> io::Result<Vec<SocketAddr>> {
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
        // As in Linux, a descriptor is needed even if nobody waits.
        let possible = self.may_open(1);
        let backlog = &mut self.listeners[listener.0];
        let taken = match (possible, backlog.answers.pop_front()) {
            (Err(shortage), _) => Err(shortage),
            (_, Some(number)) => fail(number),
            _ => backlog.waiting.pop_front().map_or_else(|| fail(EAGAIN), Ok),
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
        assert!(!peer.got_fin, "a write after our FIN");
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
