//! The oracle: checks the reactor's guarantees after every turn of a simulated run.
//!
//! Compares the state of the loop, the facts that the simulated system recorded, and what callbacks saw; a statement
//! counts only if two of them agree. Invariant: a run that breaks a guarantee ends with an error that names the
//! guarantee and the connection.
//!
//! ```text
//! N1   data sent arrives or comes back: always a prefix, all of it after a clean close    the handler's own check
//! N2   a group's messages arrive once and in order; skipped ones are counted             the handler's own check
//! N3   no connection gets data meant for another one                       here, and the handler's own check
//! N4   close reasons and connect failures are reported correctly           here, close_checks, the handler's own check
//! N5   callbacks: on_open first, on_close last and once, never nested      here, checked_handler, timer_checks
//! N6   every counter equals the system's count; no stream stays open       here, *_checks, audit
//! N7   pending work is in a queue, or an event or deadline will come       here, connect_checks, threads, audit
//! N8   no busy loop, no more system calls than there is work               here, connect_checks
//! N9   memory is within the limits; watermarks and links are respected     here, connect_checks, timer_checks, audit
//! N10  a turn stays within its budgets, and no connection waits without end      here, threads
//! N11  timeouts expire on time                                             here
//! N12  every waiting connection is accepted or refused                     here, run
//! N13  a shutdown ends with its grace period                               here, run
//! N14  the log is rate-limited                                             tests/logs
//! N15  the same seed gives the same run                                    seeds
//! N16  no panic, no arithmetic overflow                                    the profile `sim`
//! I    commands of other threads run once and in order                     threads
//! ```

use std::time::Duration;

use super::checked_handler::Record;
use super::close_checks::{check_closed, may_stop_lingering, require_earned};
use super::connect_checks::Dials;
use super::seen::Seen;
use super::timer_checks::{check_links, check_timers};
use super::view::View;
use crate::closed::{Closed, Reason};
use crate::config::limits::{AtCapacity, Limits};
use crate::connection::{Connection, Phase};
use crate::core::Core;
use crate::handler::Handler;
use crate::reactor::audit::require;
use crate::reactor::turn::Turn;
use crate::sys::CloseHow;
use crate::sys::script::Call;
use crate::sys::sim::{Facts, Sim};
use crate::time::Time;

/// The number of turns that a connection with work may wait. Chosen: a turn may find its budget used up, but not
/// repeatedly.
const WAITS: u32 = 3;
/// The number of consecutive turns that neither wait nor do anything, after which the loop counts as busy. Chosen.
const SPINS: u32 = 3;
/// The same where only deadlines have expired: there may be many, processed one per turn. Chosen.
const DUE_SPINS: u32 = 200;
/// After a gap of this many nanoseconds between two turns, timeouts may be late by this many turns: many have expired
/// together, a turn checks only a few, and input comes first. Otherwise they may be late by [`SLACK`]. Chosen.
const ABSENCE: u64 = 200_000_000;
const TURNS_TO_CATCH_UP: u32 = 128;
const SLACK: Duration = Duration::from_secs(1);
/// The system calls that a turn may make per connection, and the number of connections to assume in addition. Chosen,
/// well above what a turn needs.
const CALLS: u64 = 8;
const FEW: u64 = 16;

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    seen: Vec<Seen>,
    /// Records whose end has been checked.
    close_checked: Vec<bool>,
    /// The number of system calls and of bytes transferred so far.
    called: (u64, u64),
    /// Consecutive turns that did nothing: with work pending, and with expired deadlines.
    spins: [u32; 2],
    before: (u64, u64, bool),
    now: u64,
    /// For how many turns timeouts may still be deferred.
    behind: u32,
    pub(crate) waits_to_be_accepted: bool,
    /// The number of connections after the last turn, and of reserved places.
    open: usize,
    reserved: usize,
    /// How many places the listeners reserve for each connection.
    reserve: usize,
    /// Whether a limit was ever reached that keeps connections from being accepted.
    full: bool,
    dials: Dials,
    /// The connect jobs queued, those in existence, and the number of retries.
    attempts: (usize, usize, u64),
}

impl Oracle {
    pub(super) fn new(reserve: usize) -> Self {
        Self { reserve, ..Self::default() }
    }

    pub(crate) fn closed_of(&self, peer: usize) -> Option<&Closed> {
        self.seen.get(peer)?.closed.as_ref()
    }

    /// Returns `true` if the limit of connections was ever reached.
    #[cfg(test)]
    pub(crate) const fn is_full(&self) -> bool {
        self.full
    }

    /// Checks all guarantees after a turn.
    pub(super) fn check<H: Handler>(&mut self, view: &View<H>, turn: Turn, calls: &[Call]) -> Result<(), String> {
        let (core, sim) = (&view.inner.dispatcher.core, &view.inner.sys);
        let tick = core.now.0 - self.now;
        // N11: whatever happened before a wait that returned all events is seen.
        let all = !sim.interrupted && turn.events < sim.script.capacity;
        let seen = core.seen_until <= core.now && (!all || core.seen_until.0 >= self.now);
        require(seen, || format!("N11: seen until {:?}, at {:?}", core.seen_until, core.now))?;
        self.now = core.now.0;
        // After a long gap the loop first reads input, and then checks a few deadlines per turn.
        self.behind = if tick > ABSENCE { TURNS_TO_CATCH_UP } else { self.behind.saturating_sub(1) };
        self.seen.resize_with(sim.facts.len(), Seen::default);
        let were = self.open;
        let came = calls.iter().filter(|c| matches!(c, Call::Accept(_, Ok(_)) | Call::Connect(_) | Call::Lookup(_)));
        let came = came.count();
        self.full |= self.reaches_a_limit(core, came);
        (self.open, self.reserved) = (core.conns.len(), core.reserved);
        view.inner.audit()?;
        self.check_counts(view)?;
        self.check_calls(view, were + came)?;
        self.check_spin(view, turn, calls)?;
        for (peer, c) in view.connections() {
            self.check_peer(core, sim, c, peer).map_err(|e| format!("{e} (peer {peer}: {})", describe(c)))?;
            if !turn.more && sim.is_quiet() {
                check_wake_up(core, sim, c, peer).map_err(|e| format!("{e} (peer {peer}: {})", describe(c)))?;
            }
        }
        check_timers(core)?;
        check_links(core)?;
        self.dials.check(view, turn)?;
        self.check_listeners(view, turn)?;
        self.check_records(view, calls)?;
        self.check_shutdown(view)
    }

    /// Returns whether a listener may have met a limit in a turn with so many new connections and lookups.
    fn reaches_a_limit(&self, core: &Core, came: usize) -> bool {
        let places = self.open + self.reserved + came * (1 + self.reserve) + self.reserve;
        let jobs = self.attempts.1 + came + self.reserve;
        let few_jobs = self.reserve > 0 && jobs > core.limits.attempts.min(core.limits.lookups);
        places >= core.limits.connections.get() || few_jobs
    }

    /// N6: the loop's counters equal those of the simulated system.
    fn check_counts<H: Handler>(&self, view: &View<H>) -> Result<(), String> {
        let (core, sim) = (&view.inner.dispatcher.core, &view.inner.sys);
        let (open, slots) = (sim.script.open_streams(), core.conns.len());
        require(open == slots, || format!("N6: {open} streams open in the system, {slots} in the loop"))?;
        let stale = core.stats.stale_events;
        require(stale == sim.stale, || format!("N6: {stale} stale events counted, {} delivered", sim.stale))?;
        let moved = |of: fn(&Facts) -> u64| sim.facts.iter().map(of).sum::<u64>();
        let (read, written) = (moved(|f| f.read), moved(|f| f.written));
        let (i, o) = (core.stats.bytes_in, core.stats.bytes_out);
        require((i, o) == (read, written), || format!("N6: {i} B in, {o} B out of {read} and {written}"))?;
        if let Some(w) = view.checked() {
            let unsent: u64 = w.records.iter().filter_map(|r| r.closed.as_ref()).map(|c| c.unsent).sum();
            let counted = core.stats.bytes_unsent;
            // A connection whose on_open panicked gets no on_close.
            let told = w.panics > 0 || unsent == counted;
            require(told, || format!("N6: {counted} B unsent counted, {unsent} reported to on_close"))?;
            let counted = core.stats.panics;
            require(w.panics == counted, || format!("N6: {counted} panics counted of {}", w.panics))?;
        }
        let peers = sim.facts.iter().zip(&sim.script.peers);
        let failed = peers.filter(|(f, p)| f.add_failed && !p.ours).count() as u64;
        let counted = core.stats.closed(&Reason::RegisterFailed);
        require(failed == counted, || format!("N4: {counted} register_failed, {failed} were made to fail"))?;
        let refused = core.stats.closed(&Reason::AtCapacity);
        let may = core.limits.at_capacity == AtCapacity::Refuse && self.full;
        require(refused == 0 || may, || format!("N4: {refused} refused though the limit was not reached"))
    }

    /// N8: no more system calls than connections and bytes require.
    fn check_calls<H: Handler>(&mut self, view: &View<H>, conns: usize) -> Result<(), String> {
        let (core, sim) = (&view.inner.dispatcher.core, &view.inner.sys);
        let now = (sim.calls, core.stats.bytes_in + core.stats.bytes_out);
        let (calls, bytes) = (now.0 - self.called.0, now.1 - self.called.1);
        self.called = now;
        let most = CALLS * (conns as u64 + FEW) + bytes;
        require(calls <= most, || format!("N8: {calls} calls for {conns} connections and {bytes} B"))
    }

    /// N8: a turn that does not wait has some effect.
    fn check_spin<H: Handler>(&mut self, view: &View<H>, turn: Turn, calls: &[Call]) -> Result<(), String> {
        let ran = view.inner.dispatcher.core.stats.commands;
        let now = (view.inner.sys.calls, ran + view.checked().map_or(0, |w| w.calls));
        let (calls_before, callbacks_before, more) = self.before;
        let waited = !calls.contains(&Call::Poll(Some(Duration::ZERO)));
        // Processing a connect job makes no system call if it is dropped or must wait.
        let core = &view.inner.dispatcher.core;
        let attempts = (core.connect_jobs.queue.len(), core.connect_jobs.len(), core.stats.connect_retries);
        let same = std::mem::replace(&mut self.attempts, attempts) == attempts;
        let idle = !waited && turn.events == 0 && same && now == (calls_before, callbacks_before);
        let [spins, due] = self.spins;
        self.spins = match idle {
            false => [0, 0],
            // A wait that was interrupted is repeated.
            true if view.inner.sys.interrupted => [spins, due],
            true if more => [spins + 1, due],
            true => [0, due + 1],
        };
        self.before = (now.0, now.1, turn.more && !view.inner.sys.interrupted);
        let spins = self.spins[0] >= SPINS || self.spins[1] >= DUE_SPINS;
        require(!spins, || format!("N8: busy loop: {calls:?}"))
    }

    /// Checks one connection against the facts of the simulated system.
    fn check_peer(&mut self, core: &Core, sim: &Sim, c: &Connection, peer: usize) -> Result<(), String> {
        let (facts, limits, now) = (&sim.facts[peer], &core.limits, core.now);
        require(c.bytes_in == facts.read, || format!("N6: {} B in, {} were read", c.bytes_in, facts.read))?;
        require(c.bytes_out == facts.written, || format!("N6: {} B out of {}", c.bytes_out, facts.written))?;
        let most = 2 * limits.read_buffer;
        require(facts.read_this_turn <= most, || format!("N10: read {} in a turn", facts.read_this_turn))?;
        let was_high = self.seen[peer].high.is_some();
        let seen = &mut self.seen[peer];
        if c.flow.above_high_water || c.phase != Phase::Open || c.halves.write_failed {
            seen.fell = None;
        } else if was_high {
            seen.fell = Some((u64::MAX, 0));
        }
        let could = c.phase == Phase::Open && core.may_read(c) && !c.deferred && facts.told_readable;
        // If the total output limit is low, or much output is unsent, memory pressure may occur in the middle of any
        // turn.
        let total = limits.output_total.get();
        let near = total < 128 * 1024 || core.pool.output() > total / 4;
        let tight = c.out.pending() > 0 && near;
        let idle = could && !tight && facts.read == seen.read && seen.phase == Some(Phase::Open);
        let unread = sim.script.unread(peer) > 0;
        seen.waited = if idle && unread { seen.waited + 1 } else { 0 };
        seen.read = facts.read;
        require(seen.waited <= WAITS, || format!("N10: not read for {} turns", seen.waited))?;
        let before = seen.high.filter(|_| !c.flow.above_high_water && c.phase == Phase::Open && !c.halves.write_failed);
        let fell = before
            .is_none_or(|(pending, written)| pending as u64 <= limits.output_low as u64 + (facts.written - written));
        require(fell, || format!("N9: reading resumed above the low-water mark: {before:?}"))?;
        seen.high = c.flow.above_high_water.then_some((c.out.pending(), facts.written));
        if c.out.pending() == 0 {
            seen.idle_out = now.0;
        }
        if c.phase == Phase::Open && (c.is_read_blocked() || c.flow.throttled) {
            seen.held_at = now.0;
        }
        // Timeouts do not run against the peer while the loop does not read.
        let held = c.phase == Phase::Open && (!core.may_read(c) || c.flow.throttled || c.deferred);
        if seen.phase != Some(c.phase) || held {
            (seen.phase, seen.since) = (Some(c.phase), now.0);
        }
        if c.readiness.readable {
            seen.unread_at = now.0;
        }
        if c.readiness.writable {
            seen.untried_at = now.0;
        }
        if self.behind > 0 { Ok(()) } else { check_not_late(limits, facts, c, seen, now) }
    }

    /// N7, N12: no connection waits at a listener that accepts.
    fn check_listeners<H: Handler>(&mut self, view: &View<H>, turn: Turn) -> Result<(), String> {
        let (core, sim) = (&view.inner.dispatcher.core, &view.inner.sys);
        let waiting = sim.script.all_waiting();
        // At the limit of connections only a close makes space; otherwise the accept pause ends by itself.
        self.waits_to_be_accepted = waiting > 0 && view.inner.listeners.paused_until() != Time::NEVER;
        let quiet = !turn.more && sim.is_quiet() && waiting > 0;
        let rests = view.inner.listeners.is_paused(core);
        require(!quiet || rests, || format!("N7: {waiting} wait to be accepted, and nothing will wake the loop"))
    }

    /// Checks what callbacks saw: N5, the input bytes (N3), and N4 for connections that have ended.
    fn check_records<H: Handler>(&mut self, view: &View<H>, calls: &[Call]) -> Result<(), String> {
        let Some(checked) = view.checked() else { return Err("the loop has lost its handler".to_owned()) };
        if let Some(broken) = checked.broken.first() {
            return Err(broken.clone());
        }
        let full = self.full;
        self.close_checked.resize(checked.records.len(), false);
        for (record, close_checked) in
            checked.records.iter().zip(&mut self.close_checked).filter(|(_, close_checked)| !**close_checked)
        {
            let peer = record.peer;
            let told = |e: String| format!("{e} (peer {peer}: {:?})", record.closed);
            let said = view.clients.iter().find(|c| c.peer == Some(peer)).map_or(&[][..], |c| &c.says);
            let seen = &mut self.seen[peer];
            let new = seen.compared..record.input.len();
            let same = record.input.get(new.clone()) == said.get(new);
            require(same, || told("N3: delivered data that was not sent".to_owned()))?;
            seen.compared = record.input.len();
            let gone = view.inner.sys.facts[peer].closed.is_some();
            // The id may have been reused, where generations are few.
            let c = view.inner.dispatcher.core.conns.get(record.id).filter(|_| !gone);
            let why = record.closed.as_ref().map(|c| &c.why).or(c.and_then(|c| c.reason()));
            if let Some(why) = why.filter(|&why| seen.why.as_ref() != Some(why)) {
                require_earned(view, record, why, seen).map_err(told)?;
                seen.why = Some(why.clone());
            }
            seen.moved = view.inner.sys.facts[peer].moved;
            if c.is_some_and(|c| c.phase == Phase::Open) {
                require_drained(record, seen).map_err(told)?;
                seen.drains = record.drains;
            }
            let Some(closed) = &record.closed else {
                require(!gone || record.panicked, || told("N5: no on_close".to_owned()))?;
                continue;
            };
            *close_checked = true;
            seen.closed = Some(closed.clone());
            check_closed(view, record, closed).map_err(told)?;
            let facts = &view.inner.sys.facts[peer];
            require(gone, || told("N6: on_close called, but the stream is open".to_owned()))?;
            let graceful = calls.contains(&Call::Close(peer, CloseHow::Graceful));
            let cut = record.aborted || record.panicked;
            let unheard = graceful && !cut && !facts.ended && facts.errors.is_empty();
            require(!unheard || may_stop_lingering(view, facts, full), || {
                told("N4: closed without waiting for the peer".to_owned())
            })?;
        }
        Ok(())
    }

    /// N13: a shutdown ends with its grace period, or in the turn after.
    fn check_shutdown<H: Handler>(&mut self, view: &View<H>) -> Result<(), String> {
        let Some((at, grace)) = view.stopping.filter(|_| view.inner.shutdown.is_under_way()) else {
            return Ok(());
        };
        let over = view.inner.dispatcher.core.seen_until.since(Time(at)) >= grace;
        let ended = |c: &Connection| matches!(c.phase, Phase::Connecting | Phase::Closed);
        let close_notify = view.inner.dispatcher.core.conns.iter().all(ended);
        require(!over || close_notify, || "N13: still open after the grace period".to_owned())
    }
}

/// N9: a connection that has drained to the low-water mark gets on_drain.
fn require_drained(record: &Record, seen: &mut Seen) -> Result<(), String> {
    let Some((before, turns)) = &mut seen.fell else { return Ok(()) };
    // on_drain may have been called in this very turn.
    *before = (*before).min(seen.drains);
    *turns += 1;
    if record.drains > *before {
        seen.fell = None;
        return Ok(());
    }
    require(*turns <= WAITS, || "N9: below the low-water mark without on_drain".to_owned())
}

/// Describes a connection, without its data.
fn describe(c: &Connection) -> String {
    let mut text = format!("{} {:?}, {} B unsent, {} B buffered", c.id, c.phase, c.out.pending(), c.buffered_len());
    let flags = [
        ("readable", c.readiness.readable),
        ("writable", c.readiness.writable),
        ("read_to_eagain", c.readiness.read_to_eagain),
        ("error_pending", c.readiness.error_pending),
        ("peer_fin", c.halves.peer_fin),
        ("eof_delivered", c.halves.eof_delivered),
        ("fin_wanted", c.halves.fin_wanted),
        ("fin_sent", c.halves.fin_sent),
        ("write_failed", c.halves.write_failed),
        ("deferred", c.deferred),
        ("paused", c.flow.paused),
        ("resting", c.flow.resting),
        ("above_high_water", c.flow.above_high_water),
        ("pause_count", c.flow.pause_count > 0),
        ("drain_due", c.flow.drain_due),
        ("throttled", c.flow.throttled),
        ("queued", c.queues.ready),
    ];
    for (name, _) in flags.iter().filter(|(_, on)| *on) {
        text.push_str(", ");
        text.push_str(name);
    }
    text
}

/// N7: if nothing will wake the loop, there must be nothing that it could do.
fn check_wake_up(core: &Core, sim: &Sim, c: &Connection, peer: usize) -> Result<(), String> {
    let (p, facts) = (&sim.script.peers[peer], &sim.facts[peer]);
    let unread = p.has_input() && !facts.ended && facts.errors.is_empty();
    let high = c.flow.above_high_water && (c.out.pending() > core.limits.output_low || c.out.has_pieces());
    let throttled = c.out.pending() > 0 && core.memory_pressure();
    let held = match c.phase {
        Phase::Open => c.flow.paused || c.flow.resting || high || c.flow.pause_count > 0 || throttled,
        Phase::Flushing | Phase::Closed => true,
        Phase::Connecting | Phase::Lingering => false,
    };
    require(!unread || held, || format!("N7: unread input, and nothing will wake the loop: {facts:?}"))?;
    let asked = !facts.told_error || !p.has_error() || matches!(c.phase, Phase::Closed | Phase::Lingering);
    require(asked, || format!("N7: an error is pending, and is not fetched: {facts:?}"))?;
    let blocked = p.window() == 0 || c.phase == Phase::Closed;
    require(c.out.pending() == 0 || blocked, || "N7: unsent output, and nothing will wake the loop".to_owned())
}

/// N11: no connection outlives its timeout. A turn may check only so many, and a connection with unread input is
/// checked later.
fn check_not_late(limits: &Limits, facts: &Facts, c: &Connection, seen: &Seen, now: Time) -> Result<(), String> {
    let since = seen.since;
    let late = |from: u64, most: Duration| now.since(Time(from)) > most.saturating_add(SLACK);
    let again = limits.idle_timeout.get().min(limits.message_timeout.get());
    let most = match c.phase {
        // Its own timestamp may be later: the time counts from when reading resumed.
        Phase::Open => (facts.moved.max(since).max(c.last_activity.0), limits.idle_timeout.get().saturating_add(again)),
        // A stall counts from the first write that the kernel refused.
        Phase::Flushing => (facts.wrote.max(since).max(seen.untried_at), limits.write_stall.get()),
        // What it waits for may be unread, or was read only now, because the loop was late.
        Phase::Lingering if !late(seen.unread_at, Duration::ZERO) => return Ok(()),
        Phase::Lingering => (since, limits.linger_total),
        // The deadline of the connect job counts.
        Phase::Connecting | Phase::Closed => return Ok(()),
    };
    require(!late(most.0, most.1), || format!("N11: {:?} for too long", c.phase))
}
