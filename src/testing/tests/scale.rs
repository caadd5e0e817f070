//! Measures how the loop scales, with up to a million connections on a system that does almost nothing.
//!
//! Each poll of this system returns pings in a shuffled order, so that no two in a row are for neighbors in memory.
//! Its clock advances by 4.5 us per reading, of which there is one per event. A bare loop makes the same calls to
//! measure the cost of the system itself, which is subtracted. Times are only measured and printed, never checked.
//!
//! ```text
//! cargo test --release --lib tests::scale -- --ignored --nocapture     # nanoseconds and memory
//! python3 tests/scale.py                                        # instructions as well
//! ```

// Only this file measures real time.
#![allow(clippy::disallowed_methods)]

use std::io::{self, ErrorKind, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::builtin::Echo;
use crate::closed::Reason;
use crate::config::address::Address;
use crate::config::connect::{ConnectOptions, Existing};
use crate::config::datagram::{DatagramBind, DatagramOptions};
use crate::config::limits::{Limit, Limits};
use crate::config::listen::{ListenOptions, ListenTarget};
use crate::handler::Handler;
use crate::handler::context::Context;
use crate::id::{Generations, Key};
use crate::reactor::event_loop::EventLoop;
use crate::sys::datagram::{DatagramSys, LocalIp, ReceivedDatagram, SendStatus};
use crate::sys::{CloseHow, Ready, Received, Sys, Wake};
use crate::time::Time;

const PING: usize = 64;
/// How far the clock advances at each reading, in nanoseconds. Chosen: about the cost of an event.
const TICK: u64 = 4_500;
const SECOND: u64 = 1_000_000_000;

/// The peer's end of one connection.
#[derive(Clone, Copy)]
struct Peer {
    token: usize,
    pings: u32,
    echoes: u32,
}

struct Clients {
    clock: u64,
    peers: Vec<Peer>,
    /// The order in which the peers send, in each round.
    order: Vec<u32>,
    next: usize,
    /// The number of pings still to be delivered.
    due: usize,
    accepted: usize,
    fins: usize,
    closed: usize,
    events_per_turn: usize,
    tick: u64,
}

struct Stream(u32);

#[derive(Debug)]
struct Silent;

impl Wake for Silent {
    fn wake(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Clients {
    /// Creates a system in which this many connections wait to be accepted. Allocates and touches all its memory at
    /// once.
    fn new(connections: usize) -> Self {
        let mut order: Vec<u32> = (0..connections as u32).collect();
        let mut state = 1u64;
        for i in (1..connections).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            order.swap(i, (state >> 33) as usize % (i + 1));
        }
        Self {
            clock: SECOND,
            peers: vec![Peer { token: usize::MAX, pings: 0, echoes: 0 }; connections],
            order,
            next: 0,
            due: 0,
            accepted: 0,
            fins: 0,
            closed: 0,
            events_per_turn: Limits::default().events_per_turn,
            tick: TICK,
        }
    }

    /// The first bytes of a peer's latest ping.
    fn mark(&self, stream: &Stream) -> [u8; 8] {
        (u64::from(stream.0) << 32 | u64::from(self.peers[stream.0 as usize].pings)).to_le_bytes()
    }
}

impl DatagramSys for Clients {
    type Datagram = std::convert::Infallible;

    fn bind_datagram(&mut self, _: DatagramBind, _: &DatagramOptions) -> io::Result<Self::Datagram> {
        Err(ErrorKind::Unsupported.into())
    }

    fn datagram_addresses(&self, of: &Self::Datagram) -> io::Result<(Address, Option<Address>)> {
        match *of {}
    }

    fn add_datagram(&mut self, socket: &mut Self::Datagram, _: usize) -> io::Result<()> {
        match *socket {}
    }

    fn receive(&mut self, socket: &mut Self::Datagram, _: &mut [u8]) -> io::Result<ReceivedDatagram> {
        match *socket {}
    }

    fn send_datagram(
        &mut self,
        socket: &mut Self::Datagram,
        _: Option<&Address>,
        _: Option<LocalIp>,
        _: &[u8],
    ) -> io::Result<SendStatus> {
        match *socket {}
    }

    fn close_datagram(&mut self, socket: Self::Datagram) {
        match socket {}
    }
}

impl Sys for Clients {
    type Listener = ();
    type Stream = Stream;

    fn now(&mut self) -> Time {
        self.clock += self.tick;
        Time(self.clock)
    }

    #[inline(never)]
    fn poll(&mut self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> io::Result<bool> {
        // No peer twice in one poll.
        let n = self.due.min(self.events_per_turn).min(self.peers.len());
        self.due -= n;
        for _ in 0..n {
            let peer = &mut self.peers[self.order[self.next] as usize];
            self.next = if self.next + 1 == self.order.len() { 0 } else { self.next + 1 };
            peer.pings += 1;
            ready.push(Ready { token: peer.token, bits: Ready::READABLE | Ready::WRITABLE });
        }
        if n == 0 {
            self.clock += timeout.expect("nothing will ever happen").as_nanos() as u64;
        }
        Ok(n == self.events_per_turn)
    }

    #[inline(never)]
    fn read(&mut self, stream: &mut Stream, buf: &mut [u8]) -> io::Result<Received> {
        let peer = self.peers[stream.0 as usize];
        if peer.pings == peer.echoes {
            return Err(ErrorKind::WouldBlock.into());
        }
        let mark = self.mark(stream);
        buf[..PING].fill(b'.');
        buf[..mark.len()].copy_from_slice(&mark);
        Ok(Received { len: PING, drained: true })
    }

    #[inline(never)]
    fn write(&mut self, stream: &mut Stream, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        assert!(bufs.len() == 1 && bufs[0].len() == PING && bufs[0].starts_with(&self.mark(stream)));
        let peer = &mut self.peers[stream.0 as usize];
        peer.echoes += 1;
        assert_eq!(peer.echoes, peer.pings);
        Ok(PING)
    }

    fn connect(&mut self, _to: &Address, _options: &ConnectOptions) -> io::Result<Stream> {
        Err(ErrorKind::Unsupported.into())
    }

    fn finish_connect(&mut self, _stream: &mut Stream) -> io::Result<Address> {
        Err(ErrorKind::Unsupported.into())
    }

    fn take_over(&mut self, _given: Existing, _options: &ConnectOptions) -> io::Result<(Stream, Address)> {
        Err(ErrorKind::Unsupported.into())
    }

    fn begin_lookup(&mut self, _number: u64, _host: &str, _port: u16) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn next_lookup(&mut self) -> Option<(u64, io::Result<Vec<SocketAddr>>)> {
        None
    }

    fn cancel_lookup(&mut self, _number: u64) {}

    fn random(&mut self) -> u64 {
        0
    }

    fn accept(&mut self, (): &mut ()) -> io::Result<(Stream, Address)> {
        if self.accepted == self.peers.len() {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.accepted += 1;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        Ok((Stream(self.accepted as u32 - 1), Address::Tcp(address)))
    }

    fn add_stream(&mut self, stream: &mut Stream, token: usize) -> io::Result<()> {
        self.peers[stream.0 as usize].token = token;
        Ok(())
    }

    fn shutdown_write(&mut self, _: &mut Stream) -> io::Result<()> {
        self.fins += 1;
        Ok(())
    }

    fn close(&mut self, _: Stream, _: CloseHow) {
        self.closed += 1;
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(Silent)
    }

    fn descriptor_limit(&mut self) -> Option<(usize, usize)> {
        None
    }

    fn hold_descriptors(&mut self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn resolve(&mut self, _: &str, _: u16, _: Duration, _: &dyn Fn() -> bool) -> io::Result<Vec<SocketAddr>> {
        Ok(Vec::new())
    }

    fn listen(&mut self, _: ListenTarget, _: &ListenOptions) -> io::Result<()> {
        Ok(())
    }

    fn local_addr(&self, (): &()) -> io::Result<Address> {
        Ok(Address::Unix(None))
    }

    fn add_listener(&mut self, (): &mut (), _: usize) -> io::Result<()> {
        Ok(())
    }

    fn close_listener(&mut self, (): ()) {}

    fn take_error(&mut self, _: &mut Stream) -> io::Result<Option<io::Error>> {
        Ok(None)
    }

    fn add_source(&mut self, _: &mut dyn mio::event::Source, _: usize, _: mio::Interest) -> io::Result<()> {
        Ok(())
    }

    fn remove_source(&mut self, _: &mut dyn mio::event::Source) {}
}

/// A loop that runs on this system.
trait Turning {
    fn step(&mut self);
    fn sys(&mut self) -> &mut Clients;

    /// Accepts all waiting connections.
    fn accept_all(&mut self) {
        while self.sys().accepted < self.sys().peers.len() {
            self.step();
        }
    }

    /// Lets every peer ping this many times.
    fn ping_all(&mut self, rounds: usize) {
        self.sys().due = rounds * self.sys().peers.len();
        while self.sys().due > 0 {
            self.step();
        }
    }

    fn check_echoes(&mut self) {
        let pings = self.sys().peers[0].pings;
        assert!(self.sys().peers.iter().all(|p| (p.pings, p.echoes) == (pings, pings)), "not all were echoed");
    }
}

impl Turning for EventLoop<Clients> {
    fn step(&mut self) {
        self.turn(Some(Duration::ZERO)).unwrap();
    }

    fn sys(&mut self) -> &mut Clients {
        &mut self.sys
    }
}

/// Makes the calls of the loop and nothing else, to measure the cost of the system.
struct Bare {
    sys: Clients,
    streams: Vec<Option<Stream>>,
    ready: Vec<Ready>,
    buffer: Vec<u8>,
}

impl Bare {
    fn new(connections: usize) -> Self {
        let buffer = vec![0; Limits::default().read_buffer];
        Self { sys: Clients::new(connections), streams: Vec::new(), ready: Vec::new(), buffer }
    }
}

impl Turning for Bare {
    fn step(&mut self) {
        self.ready.clear();
        self.sys.poll(&mut self.ready, Some(Duration::ZERO)).unwrap();
        self.sys.now();
        for _ in 0..Limits::default().accepts_per_turn {
            let Ok((mut stream, _)) = self.sys.accept(&mut ()) else { break };
            self.sys.add_stream(&mut stream, self.streams.len()).unwrap();
            self.streams.push(Some(stream));
            self.sys.now();
        }
        for ready in &self.ready {
            let stream = self.streams[ready.token].as_mut().unwrap();
            let n = self.sys.read(stream, &mut self.buffer).unwrap().len;
            self.sys.now();
            self.sys.write(stream, &[IoSlice::new(&self.buffer[..n])]).unwrap();
        }
    }

    fn sys(&mut self) -> &mut Clients {
        &mut self.sys
    }
}

/// A loop with the echo handler and the default limits, except for the number of connections.
fn reactor(connections: usize) -> EventLoop<Clients> {
    reactor_with(connections, Echo).0
}

fn reactor_with<H: Handler>(connections: usize, handler: H) -> (EventLoop<Clients>, Key<H>) {
    let limits = Limits { connections: Limit::At(connections + 1), ..Limits::default() };
    let mut inner = EventLoop::new(Clients::new(connections), limits, Generations::new()).unwrap();
    let handler = inner.dispatcher.add(handler, true).unwrap();
    inner.add_listener((), handler, 0).unwrap();
    let key = inner.dispatcher.key(handler);
    (inner, key)
}

/// An echo that sets a timer for each connection, all for the same time.
struct Alarmed {
    at: u64,
    fired: Vec<u32>,
    /// When the first timer fired, and the last.
    from: u64,
    to: u64,
}

impl Handler for Alarmed {
    type State = usize;

    fn on_open(&mut self, cx: &mut Context<'_>) -> usize {
        // The delay starts at the next reading of the clock.
        cx.set_timer(Duration::from_nanos(self.at - cx.core().now.0 - TICK), 7);
        self.fired.push(0);
        self.fired.len() - 1
    }

    fn on_data(&mut self, cx: &mut Context<'_>, _number: &mut usize, data: &[u8]) {
        cx.send(data);
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, number: &mut usize, key: u64) {
        let now = cx.core().now.0;
        assert!(now >= self.at && key == 7, "{key} at {now}, not {}", self.at);
        self.fired[*number] += 1;
        (self.from, self.to) = (self.from.min(now), self.to.max(now));
    }
}

/// A loop with this many timers that do not expire for another hour.
fn alarmed(connections: usize) -> (EventLoop<Clients>, Key<Alarmed>) {
    let handler = Alarmed { at: 3_600 * SECOND, fired: Vec::new(), from: u64::MAX, to: 0 };
    reactor_with(connections, handler)
}

/// Operations on all connections.
impl EventLoop<Clients> {
    /// All peers ping, and a quarter of the idle timeout later all idle deadlines set before expire: each is checked
    /// once and set again, and no connection is closed. Returns how long the checks took.
    fn recheck_all(&mut self) -> Duration {
        let idle = self.dispatcher.core.limits.idle_timeout.get().as_nanos() as u64;
        let (first, _) = self.dispatcher.core.deadlines.next().unwrap();
        self.sys.clock = first.0 - idle / 4;
        let began = self.sys.clock;
        self.ping_all(1);
        self.sys.clock = first.0 + 2 * (self.sys.clock - began) + SECOND;
        let (now, turns) = (self.sys.clock, self.dispatcher.core.stats.turns);
        let took = timed(|| {
            while self.dispatcher.core.deadlines.next().unwrap().0.0 <= now {
                self.step();
            }
        });
        let (turns, most) = (self.dispatcher.core.stats.turns - turns, self.dispatcher.core.limits.timeouts_per_turn);
        assert_eq!(turns as usize, 1 + self.sys.peers.len().div_ceil(most), "turns to look at all");
        took
    }

    /// All peers stay silent: all connections are closed, no more per turn than the limit permits.
    fn end_all(&mut self) {
        let (n, most) = (self.dispatcher.core.conns.len(), self.dispatcher.core.limits.timeouts_per_turn);
        self.sys.clock += 2 * self.dispatcher.core.limits.idle_timeout.get().as_nanos() as u64;
        let mut turns = 0;
        while !self.dispatcher.core.conns.is_empty() {
            let before = (self.sys.fins, self.sys.closed);
            self.turn(None).unwrap();
            assert!(self.sys.fins - before.0 <= most && self.sys.closed - before.1 <= most);
            turns += 1;
            // Each is checked twice: when it is idle, and when it has lingered long enough.
            assert!(turns <= 2 * n.div_ceil(most) + 4, "{turns} turns");
        }
        let stats = self.dispatcher.core.snapshot();
        assert_eq!(stats.closed(&Reason::IdleTimeout), n as u64);
        assert_eq!((self.sys.fins, self.sys.closed, stats.accepted), (n, n, n as u64));
    }

    /// All timers expire at once: each fires once, and no more per turn than the limit permits.
    fn sound_all(&mut self, key: Key<Alarmed>) {
        let (n, most) = (self.dispatcher.core.conns.len(), self.dispatcher.core.limits.timeouts_per_turn);
        let at = self.dispatcher.get(key).unwrap().at;
        assert_eq!((self.dispatcher.core.timers.len(), self.dispatcher.core.timers.next()), (n, Time(at)));
        // No connection may be closed as idle meanwhile.
        self.dispatcher.core.limits.idle_timeout = Limit::Unlimited;
        (self.sys.clock, self.sys.tick) = (at, 0);
        let turns = self.dispatcher.core.stats.turns;
        while self.dispatcher.core.timers.len() > 0 {
            self.step();
        }
        let turns = self.dispatcher.core.stats.turns - turns;
        assert_eq!(turns as usize, 1 + n.div_ceil(most), "turns to sound them all");
        let handler = self.dispatcher.get(key).unwrap();
        assert!(handler.fired.len() == n && handler.fired.iter().all(|&times| times == 1));
        assert_eq!((handler.from, handler.to), (at, at));
        self.sys.tick = TICK;
    }

    fn check_crowd(&mut self) {
        self.check_echoes();
        let stats = self.dispatcher.core.snapshot();
        let n = self.sys.peers.len() as u64;
        let bytes = PING as u64 * n * u64::from(self.sys.peers[0].pings);
        assert_eq!((stats.open, stats.accepted, stats.closed_total()), (n, n, 0), "connections were lost");
        assert_eq!((stats.bytes_in, stats.bytes_out, stats.output_held, stats.input_held), (bytes, bytes, 0, 0));
    }
}

/// Returns the resident memory in bytes, without mapped files; 0 if it cannot be read. (The sum over the mappings:
/// the figures in `statm` may lag behind by a quarter of a megabyte.)
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("Anonymous:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<usize>().ok()).map_or(0, |kib| kib * 1024)
}

/// Returns nanoseconds per item.
fn each(took: Duration, n: usize) -> f64 {
    took.as_nanos() as f64 / n as f64
}

fn timed(what: impl FnOnce()) -> Duration {
    let began = Instant::now();
    what();
    began.elapsed()
}

/// The measurements of one quantity.
#[derive(Default)]
struct Figures(Vec<f64>);

impl Figures {
    fn median(&mut self) -> f64 {
        self.0.sort_by(f64::total_cmp);
        self.0[self.0.len() / 2]
    }
}

/// The number of repetitions of each measurement. Chosen: odd, so that there is a median.
const TIMES: usize = 7;

/// Returns the nanoseconds per accept and per close by timeout, for this many connections.
fn lives(n: usize) -> (f64, f64) {
    let (mut accepts, mut ends) = (Figures::default(), Figures::default());
    for _ in 0..TIMES {
        let (mut inner, mut bare) = (reactor(n), Bare::new(n));
        let both = each(timed(|| inner.accept_all()), n);
        accepts.0.push(both - each(timed(|| bare.accept_all()), n));
        // After this the deadlines are in the order of the pings, and so are the closes.
        inner.recheck_all();
        ends.0.push(each(timed(|| inner.end_all()), n));
    }
    (accepts.median(), ends.median())
}

/// Returns one row of the table: all measurements for this many connections.
fn row(n: usize) -> String {
    let mut inner = reactor(n);
    let empty = resident();
    inner.accept_all();
    let accepted = resident();
    inner.ping_all(1);
    let busy = resident();

    let mut bare = Bare::new(n);
    bare.accept_all();
    bare.ping_all(1);
    let rounds = 1_000_000usize.div_ceil(n);
    let (mut ours, mut boths, mut worlds) = (Figures::default(), Figures::default(), Figures::default());
    for _ in 0..TIMES {
        let both = each(timed(|| inner.ping_all(rounds)), n * rounds);
        let world = each(timed(|| bare.ping_all(rounds)), n * rounds);
        ours.0.push(both - world);
        boths.0.push(both);
        worlds.0.push(world);
    }
    inner.check_crowd();
    bare.check_echoes();
    let mut rechecks = Figures::default();
    for _ in 0..TIMES {
        rechecks.0.push(each(inner.recheck_all(), n));
    }
    inner.check_crowd();
    drop((inner, bare));

    let (accept, end) = lives(n);
    let (idle, more) = (accepted.saturating_sub(empty) / n, busy.saturating_sub(accepted) / n);
    let (ours, both, world) = (ours.median(), boths.median(), worlds.median());
    let recheck = rechecks.median();
    format!("| {n} | {idle} | {more} | {ours:.0} | {both:.0} | {world:.0} | {accept:.0} | {recheck:.0} | {end:.0} |")
}

/// One run for an instruction counter; the difference between two runs is the result. `accept` accepts all; `ping`
/// then pings this many rounds; `check` pings once more and checks all timeouts; `end` closes all. With the prefix
/// `alarmed-`, each connection has a timer.
fn run_to(until: &str, n: usize, rounds: usize) {
    if let Some(until) = until.strip_prefix("alarmed-") {
        return run_alarmed_to(until, n, rounds);
    }
    let mut inner = reactor(n);
    inner.accept_all();
    if until != "accept" {
        inner.ping_all(rounds);
    }
    if until == "check" || until == "end" {
        inner.recheck_all();
    }
    inner.check_crowd();
    if until == "end" {
        inner.end_all();
    }
}

/// The same with a timer for each connection, which does not expire; `alarm` lets all of them fire.
fn run_alarmed_to(until: &str, n: usize, rounds: usize) {
    let (mut inner, key) = alarmed(n);
    inner.accept_all();
    if until != "accept" {
        inner.ping_all(rounds);
    }
    inner.check_crowd();
    if until == "alarm" {
        inner.sound_all(key);
    }
}

fn run_bare_to(until: &str, n: usize, rounds: usize) {
    let mut bare = Bare::new(n);
    bare.accept_all();
    if until != "accept" {
        bare.ping_all(rounds);
    }
    bare.check_echoes();
}

/// With `CROWD_RUN` one run (see `run_to`), otherwise the table.
#[test]
#[ignore = "takes a minute and half a gigabyte: by hand, built for release"]
fn scale() {
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse().ok());
    if let Ok(until) = std::env::var("CROWD_RUN") {
        let n = number("CROWD_CONNECTIONS").expect("CROWD_CONNECTIONS is a number");
        let run = if std::env::var("CROWD_BARE").is_ok() { run_bare_to } else { run_to };
        return run(&until, n, number("CROWD_ROUNDS").expect("CROWD_ROUNDS is a number"));
    }
    println!(
        "| connections | resident bytes each, idle | more after pings | ns an event, ours | reactor and world \
         | world alone | ns an accept | ns a re-check | ns an end by timeout |\n|---|---|---|---|---|---|---|---|---|"
    );
    let all = [1_000, 10_000, 100_000, 1_000_000];
    for n in number("CROWD_CONNECTIONS").map_or(all.to_vec(), |n| vec![n]) {
        println!("{}", row(n));
    }
}

#[test]
fn a_crowd_is_served_looked_at_and_ended() {
    let mut inner = reactor(2_000);
    inner.accept_all();
    inner.ping_all(3);
    inner.audit().unwrap();
    inner.recheck_all();
    inner.recheck_all();
    inner.check_crowd();
    inner.audit().unwrap();
    inner.end_all();
    inner.audit().unwrap();
    run_bare_to("ping", 2_000, 1);
}

#[test]
fn timers_of_a_crowd_that_are_due_together_go_off_together() {
    let (mut inner, key) = alarmed(100_000);
    inner.accept_all();
    inner.ping_all(1);
    inner.check_crowd();
    inner.sound_all(key);
    inner.check_crowd();
    inner.audit().unwrap();
}
