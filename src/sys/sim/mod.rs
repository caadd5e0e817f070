//! The simulated system: the scripted one, driven by a seeded random number generator.
//!
//! Each call may be hit by a fault, and each event may be delayed, duplicated, split or reordered between the change
//! that causes it and its delivery. For each connection it records the facts against which a run is checked.
//! Invariant: an edge that is owed may come late, duplicated, split, reordered or along with spurious ones, but it
//! comes; and the script's pipes agree with every faked result.

mod answers;
mod clock;
mod connect;
mod datagram;
mod dials;
mod dice;
mod edges;
mod facts;
mod fault;
mod other_threads;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

#[cfg(test)]
pub(crate) use dials::marked;
pub(crate) use dials::{Dial, Dials};
pub use dice::Dice;
pub(crate) use facts::{Facts, Mark};
pub(crate) use fault::{Fault, Odds, State, Struck, new_struck};
pub(crate) use other_threads::OtherThreads;

use super::script::{Answer, EAGAIN, ECONNRESET, ENOBUFS, ENOTCONN, EPIPE, Listener, Script, Stream};
use super::{CloseHow, Ready, Received, Sys, Wake};
use crate::config::address::Address;
use crate::config::connect::{ConnectOptions, Existing};
use crate::config::listen::{ListenOptions, ListenTarget};
use crate::time::Time;

/// A millisecond in nanoseconds.
pub(crate) const MS: usize = 1_000_000;
// Error numbers of Linux, as in `script::peer`.
const ETIMEDOUT: i32 = 110;
const EHOSTUNREACH: i32 = 113;

/// The scripted system with random faults.
#[derive(Debug)]
pub(crate) struct Sim {
    pub(crate) script: Script,
    pub(crate) dice: Dice,
    pub(crate) odds: Odds,
    pub(crate) facts: Vec<Facts>,
    /// The latest time that the clock has returned to the loop.
    pub(crate) seen: u64,
    /// The number of events delivered for tokens that are no longer registered.
    pub(crate) stale: u64,
    /// A hash of all bytes that were written.
    pub(crate) content: u64,
    /// The number of calls of [`Sys`], without polls and reads of the clock.
    pub(crate) calls: u64,
    pub(crate) threads: Option<Box<dyn OtherThreads>>,
    /// Set if the loop went to sleep while other threads waited for it and nothing was going to wake it.
    pub(crate) overslept: bool,
    /// Events on their way, with the time of delivery.
    flight: Vec<(u64, Ready)>,
    /// All registered tokens, each with its peer (`None`: a listener or datagram socket); and the tokens that are no
    /// longer registered.
    live: BTreeMap<usize, Option<usize>>,
    retired: Vec<usize>,
    /// The last wait was interrupted.
    pub(crate) interrupted: bool,
    /// The last wait returned as many events as fit.
    pub(crate) truncated: bool,
    frozen: usize,
    shortage: u64,
    pub(crate) dials: Dials,
    pub(crate) mark: Mark,
}

impl Sim {
    pub(crate) fn new(mut dice: Dice, odds: Odds) -> Self {
        let mut script = Script::new();
        script.strict = dice.one_in(2);
        Self {
            script,
            dice,
            odds,
            facts: Vec::new(),
            seen: 0,
            stale: 0,
            content: 0,
            calls: 0,
            threads: None,
            overslept: false,
            flight: Vec::new(),
            live: BTreeMap::new(),
            retired: Vec::new(),
            interrupted: false,
            truncated: false,
            frozen: 0,
            shortage: 0,
            dials: Dials::default(),
            mark: Mark::default(),
        }
    }

    /// Ends all faults for the rest of the run.
    pub(crate) fn heal(&mut self) {
        self.odds.switch_all_off();
        self.threads.iter_mut().for_each(|o| o.rest());
        (self.frozen, self.shortage) = (0, 0);
        self.heal_dials();
    }

    /// Returns `true` if no event is on its way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.flight.is_empty() && self.script.is_quiet()
    }

    fn let_threads_act(&mut self) {
        if let Some(threads) = &mut self.threads {
            threads.act();
        }
    }

    pub(crate) fn strikes(&mut self, fault: Fault, peer: usize) -> Option<&mut Dice> {
        let state = self.facts.get(peer).map_or(State::None, |f| f.state);
        self.odds.strikes(fault, state)
    }

    fn strikes_all(&mut self, fault: Fault) -> Option<&mut Dice> {
        self.odds.strikes(fault, State::None)
    }

    /// Connects a client.
    pub(crate) fn connect(&mut self, listener: usize, window: usize, unix: bool) -> usize {
        let peer = self.script.connect(listener);
        self.script.peers[peer].unix = unix;
        self.script.set_window(peer, window);
        self.facts.push(Facts::default());
        peer
    }

    /// Fails a connection in the network.
    pub(crate) fn network_fails(&mut self, peer: usize) {
        let error = self.dice.pick(&[ETIMEDOUT, EHOSTUNREACH, ECONNRESET]);
        self.script.network_fails(peer, error);
    }

    fn record_error(&mut self, peer: usize, error: &io::Error) {
        self.facts[peer].errors.push(error.kind());
    }
}

/// Adds a number to a hash (FNV-1a, a word instead of a byte at a time).
pub(crate) const fn fold(hash: u64, x: u64) -> u64 {
    (hash ^ x).wrapping_mul(0x0100_0000_01b3)
}

impl Sys for Sim {
    type Listener = Listener;
    type Stream = Stream;

    fn now(&mut self) -> Time {
        self.let_threads_act();
        self.look()
    }

    fn poll(&mut self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> io::Result<bool> {
        self.script.record_poll(timeout);
        let found = self.settle_dials();
        self.launch();
        self.let_threads_act();
        let woken = self.script.take_wake() | found;
        let others_wait = self.threads.as_ref().is_some_and(|o| o.wait());
        self.overslept |= others_wait && !woken && timeout != Some(Duration::ZERO);
        if let Some(dice) = self.strikes_all(Fault::PollLate) {
            // As if the process had been stopped, or the machine suspended.
            let late = dice.size(60_000 * MS) as u64;
            self.script.clock = self.script.clock.saturating_add(late);
        }
        // As if a signal had interrupted the wait, but not twice in a row.
        self.interrupted = !self.interrupted && self.strikes_all(Fault::PollEarly).is_some();
        if self.interrupted {
            return Ok(true);
        }
        self.land(ready);
        if !ready.is_empty() || woken || timeout == Some(Duration::ZERO) {
            self.truncated = ready.len() >= self.script.capacity;
            return Ok(self.truncated);
        }
        let due = self.flight.iter().map(|f| f.0).min().unwrap_or(u64::MAX);
        let until = timeout.map_or(Time::NEVER, |timeout| Time(self.script.clock).after(timeout));
        let wake = due.min(until.0).min(self.next_dial());
        if wake == u64::MAX {
            return Ok(false);
        }
        self.script.clock = self.script.clock.max(wake);
        self.settle_dials();
        self.launch();
        self.land(ready);
        self.truncated = ready.len() >= self.script.capacity;
        Ok(self.truncated)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.script.waker()
    }

    fn descriptor_limit(&mut self) -> Option<(usize, usize)> {
        self.script.descriptor_limit()
    }

    fn hold_descriptors(&mut self, n: usize) -> io::Result<()> {
        self.script.hold_descriptors(n)
    }

    fn resolve(
        &mut self,
        host: &str,
        port: u16,
        within: Duration,
        stopped: &dyn Fn() -> bool,
    ) -> io::Result<Vec<SocketAddr>> {
        self.script.resolve(host, port, within, stopped)
    }

    fn listen(&mut self, at: ListenTarget, options: &ListenOptions) -> io::Result<Listener> {
        self.script.listen(at, options)
    }

    fn local_addr(&self, listener: &Listener) -> io::Result<Address> {
        self.script.local_addr(listener)
    }

    fn add_listener(&mut self, listener: &mut Listener, token: usize) -> io::Result<()> {
        self.live.insert(token, None);
        self.script.add_listener(listener, token)
    }

    fn close_listener(&mut self, listener: Listener) {
        if let Some(token) = self.script.listener_token(&listener) {
            self.live.remove(&token);
            self.retired.push(token);
        }
        self.script.close_listener(listener);
    }

    fn accept(&mut self, listener: &mut Listener) -> io::Result<(Stream, Address)> {
        self.calls += 1;
        if let Some(error) = self.accept_answer(listener) {
            self.script.accept_fails(listener, error);
        }
        self.script.accept(listener)
    }

    fn connect(&mut self, to: &Address, _options: &ConnectOptions) -> io::Result<Stream> {
        self.calls += 1;
        self.dial(to)
    }

    fn finish_connect(&mut self, stream: &mut Stream) -> io::Result<Address> {
        self.calls += 1;
        self.dial_done(stream)
    }

    fn take_over(&mut self, existing: Existing, options: &ConnectOptions) -> io::Result<(Stream, Address)> {
        self.facts.push(Facts::default());
        self.script.take_over(existing, options)
    }

    fn begin_lookup(&mut self, number: u64, host: &str, port: u16) -> io::Result<()> {
        self.calls += 1;
        self.look_up(number, host, port)
    }

    fn next_lookup(&mut self) -> Option<(u64, io::Result<Vec<SocketAddr>>)> {
        self.take_lookup()
    }

    fn cancel_lookup(&mut self, number: u64) {
        self.end_lookup(number);
    }

    fn random(&mut self) -> u64 {
        self.dice.roll()
    }

    fn add_stream(&mut self, stream: &mut Stream, token: usize) -> io::Result<()> {
        self.calls += 1;
        let peer = stream.peer();
        if let Some(dice) = self.strikes(Fault::AddFails, peer) {
            let error = dice.pick(&[28, 12]); // ENOSPC, ENOMEM: see epoll_ctl(2).
            self.facts[peer].add_failed = true;
            self.script.peers[peer].add = Some(error);
        } else {
            self.live.insert(token, Some(peer));
            let now = self.seen;
            let f = &mut self.facts[peer];
            (f.token, f.moved, f.heard, f.wrote) = (Some(token), now, now, now);
            let ours = self.script.peers[peer].ours;
            f.state = if ours { State::Connecting } else { State::Open };
        }
        let done = self.script.add_stream(stream, token);
        if let Some(mark) = self.dial_of(peer).map(|d| d.mark) {
            self.record_trouble(mark, &done);
            if done.is_ok() {
                self.mislead(peer, token);
            }
        }
        done
    }

    fn read(&mut self, stream: &mut Stream, buf: &mut [u8]) -> io::Result<Received> {
        self.calls += 1;
        self.let_threads_act();
        let peer = stream.peer();
        let p = &self.script.peers[peer];
        if p.has_input() && !p.dead {
            let answer = if let Some(dice) = self.strikes(Fault::ReadBroken, peer) {
                let error = dice.pick(&[ECONNRESET, ETIMEDOUT, EHOSTUNREACH]);
                Some(self.break_at_call(peer, error))
            } else if self.strikes(Fault::ReadBlocked, peer).is_some() {
                Some(Answer::Fail(EAGAIN))
            } else if buf.len() > 1 {
                self.strikes(Fault::ReadShort, peer).map(|dice| Answer::AtMost(dice.size(buf.len() - 1)))
            } else {
                None
            };
            self.script.peers[peer].reads.extend(answer);
        }
        let done = self.script.read(stream, buf);
        let now = self.seen;
        let f = &mut self.facts[peer];
        // A read that returned the end of input does not report a pending error.
        f.told_error &= matches!(done, Ok(Received { len: 0, .. }));
        match &done {
            Ok(Received { len: 0, .. }) => (f.ended, f.told_readable) = (true, false),
            Ok(Received { len, drained }) => {
                f.read += *len as u64;
                f.read_this_turn += len;
                (f.moved, f.heard, f.hints) = (now, now, 0);
                f.discarded += if f.fin.is_some() { *len as u64 } else { 0 };
                f.told_readable &= !drained;
            }
            Err(e) => {
                f.told_readable &= e.kind() != ErrorKind::WouldBlock;
                if e.kind() != ErrorKind::WouldBlock {
                    self.record_error(peer, e);
                }
            }
        }
        done
    }

    fn write(&mut self, stream: &mut Stream, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.calls += 1;
        self.let_threads_act();
        let peer = stream.peer();
        let all: usize = bufs.iter().map(|b| b.len()).sum();
        let p = &self.script.peers[peer];
        if p.window() > 0 && !p.dead {
            let answer = if let Some(dice) = self.strikes(Fault::WriteBroken, peer) {
                let error = dice.pick(&[EPIPE, ECONNRESET, ETIMEDOUT]);
                Some(self.break_at_call(peer, error))
            } else if self.strikes(Fault::WriteBlocked, peer).is_some() {
                Some(Answer::Fail(EAGAIN))
            } else if self.strikes(Fault::WriteNoBuffers, peer).is_some() {
                Some(Answer::Fail(ENOBUFS))
            } else if all > 1 {
                self.strikes(Fault::WriteShort, peer).map(|dice| Answer::AtMost(dice.size(all - 1)))
            } else {
                None
            };
            self.script.peers[peer].writes.extend(answer);
        }
        let done = self.script.write(stream, bufs);
        let now = self.seen;
        let f = &mut self.facts[peer];
        match &done {
            Ok(n) => {
                let taken = bufs.iter().flat_map(|b| b.iter()).take(*n);
                self.content = taken.fold(self.content, |h, b| fold(h, u64::from(*b)));
                f.written += *n as u64;
                (f.moved, f.wrote) = (now, now);
            }
            Err(e) if super::errno::is_full(e) => {}
            Err(e) => self.record_error(peer, e),
        }
        done
    }

    fn shutdown_write(&mut self, stream: &mut Stream) -> io::Result<()> {
        self.calls += 1;
        let peer = stream.peer();
        if self.strikes(Fault::ShutdownFails, peer).is_some() {
            self.script.network_fails(peer, ECONNRESET);
            self.script.peers[peer].shutdown = Some(ENOTCONN);
        }
        let done = self.script.shutdown_write(stream);
        match &done {
            Ok(()) => self.facts[peer].fin = Some(self.seen),
            // The loop treats a failed shutdown(2) as a reset.
            Err(_) => self.facts[peer].errors.push(ErrorKind::ConnectionReset),
        }
        done
    }

    fn take_error(&mut self, stream: &mut Stream) -> io::Result<Option<io::Error>> {
        self.calls += 1;
        let error = self.script.take_error(stream)?;
        self.facts[stream.peer()].told_error = false;
        if let Some(error) = &error {
            self.record_error(stream.peer(), error);
        }
        Ok(error)
    }

    fn close(&mut self, stream: Stream, how: CloseHow) {
        self.calls += 1;
        let peer = stream.peer();
        self.facts[peer].closed = Some(self.seen);
        if let Some(token) = self.facts[peer].token {
            self.live.remove(&token);
            self.retired.push(token);
        }
        self.script.close(stream, how);
        let p = &mut self.script.peers[peer];
        if p.cut_off {
            // The reset overtakes data that is still on its way.
            let kept = p.taken + self.dice.below(p.got.len() - p.taken + 1);
            p.lose(kept);
        }
    }

    fn add_source(
        &mut self,
        source: &mut dyn ::mio::event::Source,
        token: usize,
        interest: ::mio::Interest,
    ) -> io::Result<()> {
        self.script.add_source(source, token, interest)
    }

    fn remove_source(&mut self, source: &mut dyn ::mio::event::Source) {
        self.script.remove_source(source);
    }
}
