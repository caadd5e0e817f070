//! The loop: wait → accept → read → timers → commands → tell → flush → reap, once a turn.
//!
//! Owns the sockets and moves bytes between them and the engine; it knows no handler and no framing. Invariant: within
//! a turn every phase is bounded, nothing is freed before the last one, and a connection with work that no event will
//! announce is in a queue that keeps the next wait from sleeping.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::accept::Doors;
use super::datagram::Outlets;
use super::shutdown::Stopping;
use super::sources::Sources;
use crate::closed::{Closed, REASONS, Reason};
use crate::config::limits::{Limit, Limits};
use crate::connection::Phase;
use crate::core::Core;
use crate::dispatch::{Engine, Who};
use crate::handler::handle::{Command, Line};
use crate::id::{ConnId, Generations, Token};
use crate::sys::{CloseHow, Ready, Sys};
use crate::time::log_limit::{Throttle, suppressed};
use crate::time::{Time, at_least, at_most};

/// Room in front of what is read, for an unfinished message to be put before it.
pub(super) const FRONT: usize = 4 * 1024;
/// A deadline overdue by this much means that we, and not the peers, were late.
const LATE: Duration = Duration::from_secs(5);
/// Turns that may go by while we catch up on what arrived when we were late.
const CATCH_UP: u32 = 64;

/// What a turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Turn {
    /// Readiness events taken from the system.
    pub events: usize,
    /// There is work that no descriptor will announce, or the system may hold more events than fitted in a turn: call
    /// again at once.
    pub more: bool,
    /// A shutdown has ended with this turn: the listeners and connections that there were are gone.
    pub stopped: bool,
}

#[derive(Debug, Default)]
pub(super) struct LogGates {
    closed: [Throttle; REASONS],
    pub(super) accept: Throttle,
    slow_call: Throttle,
}

pub(crate) struct Loop<S: Sys> {
    pub(crate) sys: S,
    pub(crate) engine: Engine,
    /// By slot.
    pub(crate) streams: Vec<Option<S::Stream>>,
    pub(crate) doors: Doors<S>,
    pub(super) sources: Sources,
    pub(super) outlets: Outlets<S>,
    events: Vec<Ready>,
    /// The last wait brought as many events as fit.
    crowded: bool,
    /// `FRONT` bytes, then what is read.
    pub(super) buffer: Vec<u8>,
    graves: Vec<ConnId>,
    /// What other threads want.
    pub(super) line: Arc<Line>,
    /// Empty but while commands are obeyed.
    pub(super) batch: Vec<Command>,
    pub(crate) stopping: Stopping,
    pub(super) gates: LogGates,
    catching_up: u32,
    /// We were away; what the peers sent meanwhile is read before anyone is judged.
    pub(super) lenient: bool,
    /// A callback that takes longer than this many nanoseconds is worth a line in the log.
    slow_call: u64,
}

impl<S: Sys> Loop<S> {
    pub(crate) fn new(mut sys: S, mut limits: Limits, generations: Generations) -> io::Result<Self> {
        limits.check()?;
        fit_descriptors(&mut sys, &mut limits);
        let slow_call = Time(0).after(limits.slow_callback.get()).0;
        let mut core = Core::new(limits, generations);
        core.set_now(sys.now());
        let engine = Engine::new(core);
        let limits = &engine.core.limits;
        Ok(Self {
            buffer: vec![0; FRONT + limits.read_buffer],
            line: Line::new(engine.core.number, limits.commands, sys.waker()),
            batch: Vec::new(),
            engine,
            streams: Vec::new(),
            doors: Doors::new(),
            sources: Sources::new(),
            outlets: Outlets::new(),
            events: Vec::new(),
            crowded: false,
            graves: Vec::new(),
            stopping: Stopping::default(),
            gates: LogGates::default(),
            catching_up: 0,
            lenient: false,
            slow_call,
            sys,
        })
    }

    /// One turn. Waits no longer than `timeout` (or for ever), and not at all while there is work.
    pub(crate) fn turn(&mut self, timeout: Option<Duration>) -> io::Result<Turn> {
        self.engine.core.timers.settle_as_set();
        self.wait(timeout)?;
        let core = &mut self.engine.core;
        let (began, shutdowns) = (core.now, self.stopping.done());
        core.turn = core.turn.wrapping_add(1);
        core.stats.turns += 1;
        let events = self.sort_events();
        self.flush_full_logs();
        self.check_stop();
        self.accept();
        self.visit_ready();
        self.visit_datagrams();
        self.visit_sources();
        self.check_timers();
        self.obey_commands();
        self.tell();
        self.connect();
        self.flush_datagrams();
        self.flush_all();
        self.reap();
        self.check_stopped();
        let core = &mut self.engine.core;
        core.longest_turn = core.longest_turn.max(core.now.nanos_since(began));
        Ok(Turn { events, more: self.has_more(), stopped: self.stopping.done() > shutdowns })
    }

    /// When the loop must turn though nothing is ready: now while there is work, or at the next deadline.
    pub(crate) fn next_deadline(&self) -> Time {
        let core = &self.engine.core;
        if self.has_more() {
            return core.now;
        }
        let deadlines = core.deadlines.next().map_or(Time::NEVER, |(at, _)| at);
        deadlines
            .min(core.timers.next())
            .min(core.attempts.next())
            .min(core.mail.alarm)
            .min(self.doors.paused_until())
            .min(self.stopping.deadline())
    }

    fn has_more(&self) -> bool {
        let core = &self.engine.core;
        self.crowded
            || !core.ready.is_empty()
            || !self.sources.are_quiet()
            || !core.dirty.is_empty()
            || !core.groups.live.is_empty()
            || !core.doomed.is_empty()
            || !core.attempts.wanted.is_empty()
            || core.mail.have_work()
            || self.doors.may_accept(core)
            || core.stop_wanted > 0
            || self.line.asked.load(Ordering::Relaxed) > self.stopping.heeded()
            || self.line.commands.is_flagged()
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let wake_at = self.next_deadline();
        // Who asks is not kept longer; what is due is not looked for in vain.
        let asked = timeout.map(at_most);
        let due = (wake_at != Time::NEVER).then(|| at_least(wake_at.since(self.engine.core.now)));
        let timeout = match (asked, due) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.events.clear();
        let done = self.sys.poll(&mut self.events, timeout);
        self.look_at_clock();
        self.crowded = done?;
        Ok(())
    }

    /// Writes down what the system reported; answers how many events there were.
    fn sort_events(&mut self) -> usize {
        let events = std::mem::take(&mut self.events);
        let core = &mut self.engine.core;
        core.stats.events += events.len() as u64;
        for ready in &events {
            match Token::unpack(ready.token) {
                Token::Connection(id) => note_event(core, id, ready.bits),
                Token::Listener(id) => {
                    if !self.doors.note_ready(id) {
                        core.stats.stale_events += 1;
                    }
                }
                Token::Source(id) => {
                    if !self.sources.note_ready(id, ready.bits) {
                        core.stats.stale_events += 1;
                    }
                }
                Token::Datagram(id) => {
                    if !core.mail.note_event(id, ready.bits) {
                        core.stats.stale_events += 1;
                    }
                }
            }
        }
        self.events = events;
        self.events.len()
    }

    /// Visits those that had work when the turn began; what is left over waits for the next one.
    fn visit_ready(&mut self) {
        for _ in 0..self.engine.core.ready.len() {
            let Some(id) = self.engine.core.ready.pop_front() else { return };
            self.visit(id);
        }
    }

    fn check_timers(&mut self) {
        let core = &mut self.engine.core;
        let first = core.deadlines.next().map_or(Time::NEVER, |(at, _)| at);
        let overdue = core.now.since(first.min(core.timers.next()).min(core.attempts.next()));
        let busy = !core.ready.is_empty() || self.crowded;
        self.lenient = overdue > LATE && busy && self.catching_up < CATCH_UP;
        if overdue <= LATE {
            self.catching_up = 0;
        } else if self.lenient {
            self.catching_up += 1;
            return;
        }
        self.judge_overdue();
        self.sound_alarms();
    }

    fn judge_overdue(&mut self) {
        let core = &mut self.engine.core;
        for _ in 0..core.limits.timeouts_per_turn {
            match core.deadlines.next() {
                Some((at, slot)) if at <= core.now => match core.conns.id_at(slot) {
                    Some(id) => core.judge(id),
                    None => core.deadlines.clear(slot),
                },
                _ => return,
            }
        }
    }

    /// Calls `on_close` for those whose fate is known. Whom a callback dooms is told in the next turn.
    fn tell(&mut self) {
        if self.engine.core.doomed.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.engine.core.doomed) {
            let core = &mut self.engine.core;
            let Some(c) = core.conns.get(id) else { continue };
            let why = c.why().cloned().unwrap_or(Reason::Handler);
            let closed =
                Closed { who: id, why, bytes_in: c.bytes_in, bytes_out: c.bytes_out, unsent: c.unsent() };
            core.stats.closed[closed.why.index()] += 1;
            core.stats.bytes_unsent += closed.unsent;
            self.stopping.count(&closed);
            self.log_closed(&closed);
            self.engine.close(id, &closed);
            self.timed_call(Who::Connection(id));
            self.graves.push(id);
            self.flush_full_logs();
        }
    }

    fn log_closed(&mut self, closed: &Closed) {
        let core = &self.engine.core;
        if closed.why.is_policy() && log::log_enabled!(log::Level::Warn) {
            let peer = core.conns.get(closed.who).map(|c| c.peer.address());
            if let (Some(n), Some(peer)) = (self.gates.closed[closed.why.index()].pass(core.now), peer) {
                log::warn!("{closed}, peer {peer}{}", suppressed(n));
            }
        } else {
            log::debug!("{closed}");
        }
    }

    /// Closes the descriptors of those that were told, and frees their slots.
    fn reap(&mut self) {
        self.bury_dropped();
        if self.graves.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.graves) {
            let Some(c) = self.engine.core.conns.remove(id) else { continue };
            if let Some(stream) = self.streams.get_mut(id.slot as usize).and_then(Option::take) {
                self.sys.close(stream, if c.reset { CloseHow::Reset } else { CloseHow::Graceful });
            }
            if let (Some(attempt), Some(why)) = (c.attempt(), c.why()) {
                self.redial(attempt, why);
            }
            self.engine.release(c.site);
        }
        self.doors.resume(&self.engine.core);
    }

    /// Looks at the clock after a callback: how long it took, and what time it is now.
    pub(super) fn timed_call(&mut self, who: Who) {
        let before = self.engine.core.now;
        self.look_at_clock();
        let core = &mut self.engine.core;
        core.timers.settle(core.now);
        let took = core.now.nanos_since(before);
        if took > core.longest_call {
            core.longest_call = took;
        }
        if took > self.slow_call {
            self.log_slow_call(who, took);
        }
    }

    #[cold]
    fn log_slow_call(&mut self, who: Who, took: u64) {
        if let Some(n) = self.gates.slow_call.pass(self.engine.core.now) {
            let (what, took) = (self.engine.describe(who), Duration::from_nanos(took));
            log::warn!("{what} took {took:?}; all others waited{}", suppressed(n));
        }
    }

    pub(crate) fn look_at_clock(&mut self) {
        let now = self.sys.now();
        self.engine.core.set_now(now);
    }

    pub(super) fn stream(&mut self, id: ConnId) -> Option<&mut S::Stream> {
        self.streams.get_mut(id.slot as usize)?.as_mut()
    }
}

/// Sets what an event says on its connection, and queues it if that makes work.
#[inline]
fn note_event(core: &mut Core, id: ConnId, bits: u8) {
    let Some(c) = core.conns.get_mut(id) else {
        core.stats.stale_events += 1;
        return;
    };
    c.readable |= bits & Ready::READABLE != 0;
    c.writable |= bits & Ready::WRITABLE != 0;
    if bits & (Ready::HINT | Ready::ERROR) != 0 {
        // Never to be trusted by itself, and never to be missed: the sockets will tell.
        c.readable |= !c.peer_fin;
        c.writable = true;
        c.hinted = true;
        c.suspect |= bits & Ready::ERROR != 0 && c.phase != Phase::Lingering;
    }
    let plain = c.phase == Phase::Open && c.readable && !c.held_up() && c.out.pending() == 0;
    if plain {
        core.enqueue(id);
    } else {
        core.enqueue_if_work(id);
    }
}

/// Descriptors that stay free for everything that is not a connection.
const SPARE_DESCRIPTORS: usize = 64;

/// Lowers the limit of connections to what the process may open.
fn fit_descriptors<S: Sys>(sys: &mut S, limits: &mut Limits) {
    let Some((limit, taken)) = sys.descriptor_limit() else { return };
    let room = limit.saturating_sub(taken).saturating_sub(SPARE_DESCRIPTORS).max(1);
    if let Limit::At(wanted) = limits.connections
        && wanted > room
    {
        log::warn!("at most {room} connections, not {wanted}: the process may open {limit} descriptors");
        limits.connections = Limit::At(room);
    }
}
