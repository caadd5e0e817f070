//! Tests of the whole event loop in a scripted system: one test for each hazard, written like a transcript.
//!
//! Invariant: [`Rig::check`] runs after every turn of every test.

mod accept;
mod broadcast;
mod close;
mod commands;
mod connect;
mod connect_in_callbacks;
mod datagram;
mod embedding;
mod encoders;
mod groups;
mod handlers;
mod identity;
mod late;
mod limits;
mod links;
mod logs;
#[cfg(unix)]
mod names;
mod places;
mod read;
mod readiness;
mod regressions;
mod send;
mod send_all;
mod shutdown;
mod switch;
mod telnet;
mod timeouts;
mod timers;

use std::time::Duration;

use super::event_loop::EventLoop;
use super::turn::Turn;
use crate::closed::{Closed, Reason};
use crate::config::limits::{Limit, Limits};
use crate::config::listen::{ListenOptions, ListenTarget};
use crate::connection::Phase;
use crate::handler::Handler;
use crate::handler::context::Context;
use crate::handler::net::Net;
use crate::id::{ConnId, Generations, HandlerIdx, Key, ListenerId};
use crate::stats::Stats;
use crate::sys::Sys;
use crate::sys::script::{Call, Script};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// The callback that an action replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On<'a> {
    Open,
    Data(&'a [u8]),
    End,
    Drain,
    Timer(u64),
    Shutdown,
}

/// A handler that records its callbacks, and runs the action of the test.
struct Puppet<A, B> {
    act: A,
    last: B,
    log: Vec<String>,
}

impl<A, B> Puppet<A, B> {
    fn record(&mut self, id: ConnId, what: &str) {
        self.log.push(format!("{} {what}", id.slot));
    }
}

impl<A, B> Handler for Puppet<A, B>
where
    A: FnMut(&mut Context<'_>, On<'_>) + 'static,
    B: FnMut(&mut Net<'_>, &Closed) + 'static,
{
    type State = u64;

    fn on_open(&mut self, cx: &mut Context<'_>) -> u64 {
        self.record(cx.id(), "open");
        (self.act)(cx, On::Open);
        0
    }

    fn on_data(&mut self, cx: &mut Context<'_>, state: &mut u64, data: &[u8]) {
        *state += 1;
        let shown = if data.len() > 40 { format!("{} B", data.len()) } else { data.escape_ascii().to_string() };
        self.record(cx.id(), &shown);
        (self.act)(cx, On::Data(data));
    }

    fn on_end(&mut self, cx: &mut Context<'_>, _state: &mut u64) {
        self.record(cx.id(), "end");
        (self.act)(cx, On::End);
    }

    fn on_drain(&mut self, cx: &mut Context<'_>, _state: &mut u64) {
        self.record(cx.id(), "drain");
        (self.act)(cx, On::Drain);
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, _state: &mut u64, key: u64) {
        self.record(cx.id(), &format!("timer {key}"));
        (self.act)(cx, On::Timer(key));
    }

    fn on_tick(&mut self, net: &mut Net<'_>, key: u64) {
        self.log.push(format!("tick {key}"));
        // Sending to all shows that `on_tick` can.
        let all: Vec<ConnId> = net.connections().collect();
        for id in all {
            net.send_to(id, "tick");
        }
    }

    fn on_connect_retry(&mut self, _net: &mut Net<'_>, tag: u64, error: &std::io::Error, _wait: Duration) {
        self.log.push(format!("{tag} retried: {error}"));
    }

    fn on_connect_failed(&mut self, _net: &mut Net<'_>, tag: u64, error: &std::io::Error) {
        self.log.push(format!("{tag} failed, {:?}: {error}", error.kind()));
    }

    fn on_shutdown(&mut self, cx: &mut Context<'_>, _state: &mut u64) {
        self.record(cx.id(), "shutdown");
        (self.act)(cx, On::Shutdown);
    }

    fn on_close(&mut self, net: &mut Net<'_>, _state: u64, closed: &Closed) {
        self.record(closed.who, &format!("closed {}", closed.why.name()));
        (self.last)(net, closed);
    }
}

/// Reads the log of a puppet, whatever its actions are.
type ReadLog = Box<dyn Fn(&mut EventLoop<Script>) -> Vec<String>>;

/// An event loop in a scripted system, with one listener and one handler.
struct Rig {
    inner: EventLoop<Script>,
    listener: ListenerId,
    handler: HandlerIdx,
    read_log: ReadLog,
    idle_turns: usize,
    seen: (usize, usize, u64),
}

/// A rig with a puppet: `act` runs for each callback but `on_close`.
fn puppet(act: impl FnMut(&mut Context<'_>, On<'_>) + 'static) -> Rig {
    puppet_within(limits(), act)
}

/// A handler that sends back what comes, once, and closes.
fn answers_and_closes() -> Rig {
    answers_and_closes_within(limits())
}

fn answers_and_closes_within(limits: Limits) -> Rig {
    puppet_within(limits, |cx, on| {
        if let On::Data(data) = on {
            cx.send(data);
            cx.close();
        }
    })
}

fn puppet_within(limits: Limits, act: impl FnMut(&mut Context<'_>, On<'_>) + 'static) -> Rig {
    puppet_to_the_last(limits, act, |_, _| {})
}

fn puppet_to_the_last(
    limits: Limits,
    act: impl FnMut(&mut Context<'_>, On<'_>) + 'static,
    last: impl FnMut(&mut Net<'_>, &Closed) + 'static,
) -> Rig {
    Rig::new(limits, Generations::new(), Puppet { act, last, log: Vec::new() }, |key| {
        Box::new(move |inner| inner.dispatcher.get_mut(key).map(|p| std::mem::take(&mut p.log)).unwrap_or_default())
    })
}

/// A rig with another handler than a puppet.
fn rig(limits: Limits, handler: impl Handler) -> Rig {
    Rig::new(limits, Generations::new(), handler, |_| Box::new(|_| Vec::new()))
}

/// The default limits, with a read buffer small enough for tests to fill.
fn limits() -> Limits {
    Limits { read_buffer: 64, ..Limits::default() }
}

/// Output limits within reach of a test: high-water mark 4 KiB, low-water mark 1 KiB, hard limit 8 KiB.
fn tight_limits() -> Limits {
    Limits { output_high: 4096, output_low: 1024, output_hard: Limit::At(8192), ..limits() }
}

/// Echoes, and closes when the peer does.
fn echo(cx: &mut Context<'_>, on: On<'_>) {
    match on {
        On::Data(data) => drop(cx.send(data)),
        On::End | On::Shutdown => cx.close(),
        On::Open | On::Drain | On::Timer(_) => {}
    }
}

impl Rig {
    fn new<H: Handler>(
        limits: Limits,
        generations: Generations,
        handler: H,
        read_log: impl FnOnce(Key<H>) -> ReadLog,
    ) -> Self {
        let mut inner = EventLoop::new(Script::new(), limits, generations).unwrap();
        let handler = inner.dispatcher.add(handler, true).unwrap();
        let read_log = read_log(inner.dispatcher.key(handler));
        let mut rig = Self {
            inner,
            listener: ListenerId { slot: 0, generation: 0 },
            handler,
            read_log,
            idle_turns: 0,
            seen: (0, 0, 0),
        };
        rig.listener = rig.listen(handler);
        rig.settle();
        rig.sys().trace.clear();
        rig
    }

    /// Adds a listener.
    fn listen(&mut self, handler: HandlerIdx) -> ListenerId {
        self.listen_reserving(handler, 0)
    }

    /// Adds a listener that reserves so many places for each connection.
    fn listen_reserving(&mut self, handler: HandlerIdx, reserve: usize) -> ListenerId {
        let at = ListenTarget::Tcp("127.0.0.1:0".parse().unwrap());
        let socket = self.inner.sys.listen(at, &ListenOptions::default()).unwrap();
        self.inner.add_listener(socket, handler, reserve).unwrap().0
    }

    const fn sys(&mut self) -> &mut Script {
        &mut self.inner.sys
    }

    const fn net(&mut self) -> Net<'_> {
        Net::new(&mut self.inner.dispatcher.core, None, None)
    }

    /// Returns the [`Net`] of the rig's handler.
    const fn net_of_handler(&mut self) -> Net<'_> {
        Net::new(&mut self.inner.dispatcher.core, None, Some(self.handler))
    }

    fn stats(&self) -> Stats {
        self.inner.dispatcher.core.snapshot()
    }

    /// Connects a client and lets it be accepted. Returns its peer number.
    fn connect(&mut self) -> usize {
        let peer = self.sys().connect(0);
        self.settle();
        peer
    }

    /// Returns the id of the connection with a peer.
    fn id(&self, peer: usize) -> ConnId {
        let (slot, _) = self.inner.streams.iter().find(|(_, stream)| stream.peer() == peer).unwrap();
        self.inner.dispatcher.core.conns.id_in_slot(slot).unwrap()
    }

    fn phase(&self, peer: usize) -> Phase {
        self.inner.dispatcher.core.conns.get(self.id(peer)).unwrap().phase
    }

    /// Runs one turn that does not wait, and checks the invariants.
    fn turn(&mut self) -> Turn {
        self.sys().sleeps = false;
        self.turn_for(None)
    }

    fn turn_for(&mut self, timeout: Option<Duration>) -> Turn {
        let turn = self.inner.turn(timeout).unwrap();
        self.check();
        turn
    }

    /// Runs turns until there is nothing to do but wait.
    fn settle(&mut self) {
        for _ in 0..5_000 {
            if !self.turn().more && self.sys().is_quiet() {
                return;
            }
        }
        panic!("no rest after 5 000 turns: {:?}", &self.inner.sys.trace[self.inner.sys.trace.len() - 20..]);
    }

    /// Lets time pass as fast as the loop waits, and settles.
    fn pass(&mut self, time: Duration) {
        let until = self.sys().clock + u64::try_from(time.as_nanos()).unwrap();
        for _ in 0..5_000 {
            let Some(left) = until.checked_sub(self.sys().clock).filter(|&n| n > 0) else {
                return self.settle();
            };
            self.sys().sleeps = true;
            // The loop does not sleep for less than a millisecond.
            self.turn_for(Some(Duration::from_nanos(left).max(MS)));
        }
        panic!("time does not pass");
    }

    /// The peer sends data; then settles.
    fn say(&mut self, peer: usize, data: impl AsRef<[u8]>) {
        self.sys().send(peer, data.as_ref());
        self.settle();
    }

    /// All of them send the same, before the next turn.
    fn all_send(&mut self, peers: &[usize], data: &[u8]) {
        peers.iter().for_each(|&peer| self.sys().send(peer, data));
    }

    fn fin(&mut self, peer: usize) {
        self.sys().fin(peer);
        self.settle();
    }

    fn reset(&mut self, peer: usize) {
        self.sys().reset(peer);
        self.settle();
    }

    /// The kernel takes this many more bytes for a peer; then settles.
    fn open_window(&mut self, peer: usize, window: usize) {
        self.sys().set_window(peer, window);
        self.settle();
    }

    /// Returns what a peer has received since the last call.
    fn heard(&mut self, peer: usize) -> String {
        std::mem::take(&mut self.sys().peers[peer].got).escape_ascii().to_string()
    }

    /// Returns the callbacks since the last call, one line each.
    fn log(&mut self) -> Vec<String> {
        (self.read_log)(&mut self.inner)
    }

    fn calls(&mut self) -> Vec<Call> {
        std::mem::take(&mut self.sys().trace)
    }

    /// Returns how many connections closed for this reason.
    fn closed(&self, reason: &Reason) -> u64 {
        self.stats().closed(reason)
    }

    /// Checks what must hold between any two turns.
    fn check(&mut self) {
        self.inner.audit().unwrap();
        self.check_progress();
    }

    /// Checks that the loop does not spin: no two turns in a row that neither wait nor do anything.
    fn check_progress(&mut self) {
        let sys = &self.inner.sys;
        let polls = sys.trace.iter().filter(|c| matches!(c, Call::Poll(_))).count();
        // After a full batch of events, the loop polls once more without waiting.
        let now = (sys.trace.len() - polls, sys.looks, self.inner.dispatcher.core.stats.events);
        let waited = !matches!(sys.trace.last(), Some(Call::Poll(Some(Duration::ZERO))));
        let idle = !waited && now.1 <= self.seen.1 + 1 && now.2 == self.seen.2;
        self.seen = now;
        self.idle_turns = if idle { self.idle_turns + 1 } else { 0 };
        assert!(self.idle_turns < 2, "spins: {:?}", sys.trace);
    }
}

/// Returns `n` bytes, each of which shows its position.
fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| b'a' + (i % 26) as u8).collect()
}
