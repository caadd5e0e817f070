//! What must hold after every turn of a simulated run.
//!
//! Knows the loop, the world's facts, and what callbacks saw; it believes only what two of them agree on. Invariant: a
//! run that breaks one of the promises ends with an error that names it and the connection.
//!
//! ```text
//! N1   what was sent comes back, or arrives: a prefix always, all of it at a good end     the handler's own check
//! N2   a group's messages arrive in order and once; those skipped are counted             the handler's own check
//! N3   nobody gets what another sent                                       here, and the handler's own check
//! N4   each end has the reason that is given for it, each attempt too      here, close_checks, the handler's own check
//! N5   callbacks: on_open first, on_close last and once, never nested      checked_handler
//! N6   every count is what the world counted; no stream is left open       here, connect_checks, timer_checks, audit
//! N7   whoever has work is in a queue, or something will wake the loop     here, connect_checks, audit
//! N8   no turn without effect, no more calls than there is work            here, connect_checks
//! N9   memory within the limits, recounted; watermarks and links kept      here, timer_checks, audit
//! N10  no more than a budget in a turn, and nobody waits for many          here
//! N11  nothing lives past its deadline                                     here
//! N12  whoever waits is accepted or refused                                here, run
//! N13  a shutdown ends with its grace                                      here, run
//! N14  few lines in the log                                                tests/logs
//! N15  the same seed is the same run                                       seeds
//! N16  no panic, no overflow                                               the profile `sim`
//! I    what other threads sent is obeyed as promised                       threads
//! ```

use std::time::Duration;

use super::checked_handler::Record;
use super::close_checks::{judge, may_stop_lingering, require_earned};
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

/// Turns that a connection with work may wait.
const WAITS: u32 = 3;
/// Turns that would not wait and did nothing.
const SPINS: u32 = 3;
/// The same, where only deadlines are due: they may be many, and one a turn.
const DUE_SPINS: u32 = 200;
/// Time between two turns, in nanoseconds, after which deadlines may be judged late; by how many turns; and how late
/// they may be judged otherwise.
const ABSENCE: u64 = 200_000_000;
const MAX_DEFERRED_TURNS: u32 = 128;
const SLACK: Duration = Duration::from_secs(1);
/// Calls that a turn may make for each connection, and for how many there may be though none are there.
const CALLS: u64 = 8;
const FEW: u64 = 16;

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    seen: Vec<Seen>,
    /// Records whose end was judged already.
    judged: Vec<bool>,
    /// Calls of the seam, and bytes moved, ever.
    called: (u64, u64),
    /// Turns in a row that did nothing: for work that there was, and for deadlines.
    spins: [u32; 2],
    before: (u64, u64, bool),
    now: u64,
    /// For how many turns deadlines may be overdue.
    behind: u32,
    pub(crate) waits_to_be_accepted: bool,
    /// Connections after the last turn; and whether there ever were as many as allowed.
    open: usize,
    full: bool,
    dials: Dials,
    /// Attempts that were to be looked after, those there were, and how often one was to be tried again.
    attempts: (usize, usize, u64),
}

impl Oracle {
    pub(crate) fn closed_of(&self, peer: usize) -> Option<&Closed> {
        self.seen.get(peer)?.closed.as_ref()
    }

    /// Whether there ever were as many connections as allowed.
    #[cfg(test)]
    pub(crate) const fn is_full(&self) -> bool {
        self.full
    }

    /// Checks everything that a turn may have broken.
    pub(super) fn check<H: Handler>(
        &mut self,
        view: &View<H>,
        turn: Turn,
        calls: &[Call],
    ) -> Result<(), String> {
        let (core, sim) = (&view.inner.dispatcher.core, &view.inner.sys);
        let tick = core.now.0 - self.now;
        self.now = core.now.0;
        // After an absence the loop first catches up on input, and judges a few at a time.
        self.behind = if tick > ABSENCE { MAX_DEFERRED_TURNS } else { self.behind.saturating_sub(1) };
        self.seen.resize_with(sim.facts.len(), Seen::default);
        let were = self.open;
        let came =
            calls.iter().filter(|c| matches!(c, Call::Accept(_, Ok(_)) | Call::Connect(_) | Call::Lookup(_)));
        let came = came.count();
        self.full |= self.open + came >= core.limits.connections.get();
        self.open = core.conns.len();
        view.inner.audit()?;
        self.check_counts(view)?;
        self.check_calls(view, were + came)?;
        self.check_spin(view, turn, calls)?;
        for (peer, c) in view.connections() {
            self.check_peer(core, sim, c, peer).map_err(|e| format!("{e} (peer {peer}: {})", describe(c)))?;
            if !turn.more && sim.is_quiet() {
                check_wake_up(core, sim, c, peer)
                    .map_err(|e| format!("{e} (peer {peer}: {})", describe(c)))?;
            }
        }
        check_timers(core)?;
        check_links(core)?;
        self.dials.check(view, turn)?;
        self.check_listeners(view, turn)?;
        self.check_records(view, calls)?;
        self.check_shutdown(view)
    }

    /// N6: what the loop counts is what the world saw.
    fn check_counts<H: Handler>(&self, view: &View<H>) -> Result<(), String> {
        let (core, sim) = (&view.inner.dispatcher.core, &view.inner.sys);
        let (open, slots) = (sim.script.open_streams(), core.conns.len());
        require(open == slots, || format!("N6: {open} streams open in the world, {slots} in the loop"))?;
        let stale = core.stats.stale_events;
        require(stale == sim.stale, || format!("N6: {stale} stale events, {} were told", sim.stale))?;
        let moved = |of: fn(&Facts) -> u64| sim.facts.iter().map(of).sum::<u64>();
        let (read, written) = (moved(|f| f.read), moved(|f| f.written));
        let (i, o) = (core.stats.bytes_in, core.stats.bytes_out);
        require((i, o) == (read, written), || format!("N6: {i} B in, {o} B out of {read} and {written}"))?;
        if let Some(w) = view.checked() {
            let unsent: u64 = w.records.iter().filter_map(|r| r.closed.as_ref()).map(|c| c.unsent).sum();
            let counted = core.stats.bytes_unsent;
            // Of a connection whose on_open panicked nobody is told.
            let told = w.panics > 0 || unsent == counted;
            require(told, || format!("N6: {counted} B unsent, {unsent} were told"))?;
            let counted = core.stats.panics;
            require(w.panics == counted, || format!("N6: {counted} panics counted of {}", w.panics))?;
        }
        let peers = sim.facts.iter().zip(&sim.script.peers);
        let failed = peers.filter(|(f, p)| f.add_failed && !p.ours).count() as u64;
        let counted = core.stats.closed(&Reason::RegisterFailed);
        require(failed == counted, || format!("N4: {counted} register_failed, {failed} were made to fail"))?;
        let refused = core.stats.closed(&Reason::AtCapacity);
        let may = core.limits.at_capacity == AtCapacity::Refuse && self.full;
        require(refused == 0 || may, || format!("N4: {refused} refused though there was room"))
    }

    /// N8: no more calls than there are connections, and bytes.
    fn check_calls<H: Handler>(&mut self, view: &View<H>, conns: usize) -> Result<(), String> {
        let (core, sim) = (&view.inner.dispatcher.core, &view.inner.sys);
        let now = (sim.calls, core.stats.bytes_in + core.stats.bytes_out);
        let (calls, bytes) = (now.0 - self.called.0, now.1 - self.called.1);
        self.called = now;
        let most = CALLS * (conns as u64 + FEW) + bytes;
        require(calls <= most, || format!("N8: {calls} calls for {conns} connections and {bytes} B"))
    }

    /// N8: a turn that would not wait does something.
    fn check_spin<H: Handler>(&mut self, view: &View<H>, turn: Turn, calls: &[Call]) -> Result<(), String> {
        let obeyed = view.inner.dispatcher.core.stats.commands;
        let now = (view.inner.sys.calls, obeyed + view.checked().map_or(0, |w| w.calls));
        let (calls_before, callbacks_before, more) = self.before;
        let waited = !calls.contains(&Call::Poll(Some(Duration::ZERO)));
        // To look after an attempt takes no call where it is given up, or is to wait.
        let core = &view.inner.dispatcher.core;
        let attempts = (core.connect_jobs.queue.len(), core.connect_jobs.len(), core.stats.connect_retries);
        let same = std::mem::replace(&mut self.attempts, attempts) == attempts;
        let idle = !waited && turn.events == 0 && same && now == (calls_before, callbacks_before);
        let [spins, due] = self.spins;
        self.spins = match idle {
            false => [0, 0],
            true if more => [spins + 1, due],
            true => [0, due + 1],
        };
        self.before = (now.0, now.1, turn.more);
        let spins = self.spins[0] >= SPINS || self.spins[1] >= DUE_SPINS;
        require(!spins, || format!("N8: spins: {calls:?}"))
    }

    /// One connection, against what the world knows of it.
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
        // Where little may wait in all, or much does, it may be too much in the middle of every turn.
        let total = limits.output_total.get();
        let near = total < 128 * 1024 || core.pool.output() > total / 4;
        let tight = c.out.pending() > 0 && near;
        let idle = could && !tight && facts.read == seen.read && seen.phase == Some(Phase::Open);
        let unread = sim.script.unread(peer) > 0;
        seen.waited = if idle && unread { seen.waited + 1 } else { 0 };
        seen.read = facts.read;
        require(seen.waited <= WAITS, || format!("N10: not read for {} turns", seen.waited))?;
        let before = seen
            .high
            .filter(|_| !c.flow.above_high_water && c.phase == Phase::Open && !c.halves.write_failed);
        let fell = before.is_none_or(|(pending, written)| {
            pending as u64 <= limits.output_low as u64 + (facts.written - written)
        });
        require(fell, || format!("N9: read on above the low-water mark: {before:?}"))?;
        seen.high = c.flow.above_high_water.then_some((c.out.pending(), facts.written));
        if c.out.pending() == 0 {
            seen.idle_out = now.0;
        }
        if c.phase == Phase::Open && (c.is_read_blocked() || c.flow.throttled) {
            seen.held_at = now.0;
        }
        // Where we do not read, no time passes for the peer.
        let held = c.phase == Phase::Open && (!core.may_read(c) || c.flow.throttled || c.deferred);
        if seen.phase != Some(c.phase) || held {
            (seen.phase, seen.since) = (Some(c.phase), now.0);
        }
        let since = seen.since;
        if self.behind > 0 { Ok(()) } else { check_not_late(limits, facts, c, since, now) }
    }

    /// N7, N12: nobody waits at a listener that does not rest.
    fn check_listeners<H: Handler>(&mut self, view: &View<H>, turn: Turn) -> Result<(), String> {
        let (core, sim) = (&view.inner.dispatcher.core, &view.inner.sys);
        let waiting = sim.script.all_waiting();
        // Where there are as many as allowed, only an end makes room; otherwise time does.
        self.waits_to_be_accepted = waiting > 0 && view.inner.listeners.paused_until() != Time::NEVER;
        let quiet = !turn.more && sim.is_quiet() && waiting > 0;
        let rests = view.inner.listeners.is_paused(core);
        require(!quiet || rests, || format!("N7: {waiting} wait to be accepted, and nothing will wake us"))
    }

    /// What callbacks saw: N5, the bytes of N1, and N4 for those that have ended.
    fn check_records<H: Handler>(&mut self, view: &View<H>, calls: &[Call]) -> Result<(), String> {
        let Some(checked) = view.checked() else { return Err("the loop has lost its handler".to_owned()) };
        if let Some(broken) = checked.broken.first() {
            return Err(broken.clone());
        }
        let full = self.full;
        self.judged.resize(checked.records.len(), false);
        for (record, judged) in checked.records.iter().zip(&mut self.judged).filter(|(_, judged)| !**judged) {
            let peer = record.peer;
            let told = |e: String| format!("{e} (peer {peer}: {:?})", record.closed);
            let said = view.clients.iter().find(|c| c.peer == Some(peer)).map_or(&[][..], |c| &c.says);
            let seen = &mut self.seen[peer];
            let new = seen.compared..record.input.len();
            let same = record.input.get(new.clone()) == said.get(new);
            require(same, || told("N3: delivered what was not sent".to_owned()))?;
            seen.compared = record.input.len();
            let gone = view.inner.sys.facts[peer].closed.is_some();
            // Its id may have come round.
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
            *judged = true;
            seen.closed = Some(closed.clone());
            judge(view, record, closed).map_err(told)?;
            let facts = &view.inner.sys.facts[peer];
            require(gone, || told("N6: told, and not closed".to_owned()))?;
            let graceful = calls.contains(&Call::Close(peer, CloseHow::Graceful));
            let cut = record.aborted || record.panicked;
            let unheard = graceful && !cut && !facts.ended && facts.errors.is_empty();
            require(!unheard || may_stop_lingering(view, facts, full), || {
                told("N4: closed before the peer was".to_owned())
            })?;
        }
        Ok(())
    }

    /// N13: a shutdown ends with its grace, or the turn after.
    fn check_shutdown<H: Handler>(&mut self, view: &View<H>) -> Result<(), String> {
        let Some((at, grace)) = view.stopping.filter(|_| view.inner.shutdown.is_under_way()) else {
            return Ok(());
        };
        let over = view.inner.dispatcher.core.now.since(Time(at)) >= grace;
        let ended = |c: &Connection| matches!(c.phase, Phase::Connecting | Phase::Closed);
        let close_notify = view.inner.dispatcher.core.conns.iter().all(ended);
        require(!over || close_notify, || "N13: still open at the end of the grace".to_owned())
    }
}

/// N9: who has fallen to the low-water mark is told.
fn require_drained(record: &Record, seen: &mut Seen) -> Result<(), String> {
    let Some((before, turns)) = &mut seen.fell else { return Ok(()) };
    // It may have been told in the very turn.
    *before = (*before).min(seen.drains);
    *turns += 1;
    if record.drains > *before {
        seen.fell = None;
        return Ok(());
    }
    require(*turns <= WAITS, || "N9: below the low-water mark, and not told".to_owned())
}

/// A connection without its bytes.
fn describe(c: &Connection) -> String {
    let mut text = format!("{} {:?}, {} B wait, {} B kept", c.id, c.phase, c.out.pending(), c.buffered_len());
    let flags = [
        ("readable", c.readiness.readable),
        ("writable", c.readiness.writable),
        ("read_to_eagain", c.readiness.read_to_eagain),
        ("suspect", c.readiness.error_pending),
        ("peer_fin", c.halves.peer_fin),
        ("ended", c.halves.eof_delivered),
        ("fin_wanted", c.halves.fin_wanted),
        ("fin_sent", c.halves.fin_sent),
        ("broken", c.halves.write_failed),
        ("deferred", c.deferred),
        ("paused", c.flow.paused),
        ("high", c.flow.above_high_water),
        ("held", c.flow.pause_count > 0),
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

/// N7: nothing will wake the loop, so there is nothing that it could do.
fn check_wake_up(core: &Core, sim: &Sim, c: &Connection, peer: usize) -> Result<(), String> {
    let (p, facts) = (&sim.script.peers[peer], &sim.facts[peer]);
    let unread = p.has_input() && !facts.ended && facts.errors.is_empty();
    let high = c.flow.above_high_water && c.out.pending() > core.limits.output_low;
    let throttled = c.out.pending() > 0 && core.memory_pressure();
    let held = match c.phase {
        Phase::Open => c.flow.paused || high || c.flow.pause_count > 0 || throttled,
        Phase::Flushing | Phase::Closed => true,
        Phase::Connecting | Phase::Lingering => false,
    };
    require(!unread || held, || format!("N7: unread input, and nothing will wake us: {facts:?}"))?;
    let asked = !facts.told_error || !p.has_error() || matches!(c.phase, Phase::Closed | Phase::Lingering);
    require(asked, || format!("N7: an error waits, and nobody asks: {facts:?}"))?;
    let blocked = p.window() == 0 || c.phase == Phase::Closed;
    require(c.out.pending() == 0 || blocked, || "N7: output waits, and nothing will wake us".to_owned())
}

/// N11: nothing lives past its deadline. A turn may judge only so many, and what was not read is judged later.
fn check_not_late(
    limits: &Limits,
    facts: &Facts,
    c: &Connection,
    since: u64,
    now: Time,
) -> Result<(), String> {
    let late = |from: u64, most: Duration| now.since(Time(from)) > most.saturating_add(SLACK);
    let again = limits.idle_timeout.get().min(limits.message_timeout.get());
    let most = match c.phase {
        // Its own stamp may be later: it counts from when it was last read again.
        Phase::Open => {
            (facts.moved.max(since).max(c.last_activity.0), limits.idle_timeout.get().saturating_add(again))
        }
        Phase::Flushing => (facts.wrote.max(since), limits.write_stall.get()),
        Phase::Lingering => (since, limits.linger_total),
        // That of the attempt counts.
        Phase::Connecting | Phase::Closed => return Ok(()),
    };
    require(!late(most.0, most.1), || format!("N11: {:?} for too long", c.phase))
}
