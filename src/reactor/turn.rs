//! One turn: wait, accept, read, datagrams, sources, timers, commands, `on_close`, connect, flush, reap.
//!
//! Invariant: every phase of a turn is bounded; nothing is freed before reap; and a connection with work that no event
//! will announce is in a queue that keeps the next wait from sleeping.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::event_loop::EventLoop;
use crate::connection::Phase;
use crate::core::Core;
use crate::id::{ConnId, Token};
use crate::sys::{Ready, Sys};
use crate::time::{Time, ceil_to_ms, floor_to_ms};

/// The result of a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Turn {
    /// Readiness events received from the system.
    pub events: usize,
    /// There is work that no descriptor will announce, or the system may hold more events than fit in a turn: call
    /// [`Reactor::turn`](crate::Reactor::turn) again at once.
    pub more: bool,
    /// A shutdown finished in this turn: its listeners and connections are closed.
    pub stopped: bool,
}

impl<S: Sys> EventLoop<S> {
    /// Runs one turn. Waits at most `timeout` (`None`: without limit), and not at all while there is work.
    ///
    /// The order of the phases matters. Input comes before timers, so that bytes that have arrived count before a
    /// timeout closes their connection. The flush comes after the callbacks, so that one write carries what all of them
    /// sent to a connection. Slots are freed after that: events and work lists of this turn may still name them.
    pub(crate) fn turn(&mut self, timeout: Option<Duration>) -> io::Result<Turn> {
        // Before the first callback: that starts all pending timers, and would postpone those that
        // were armed between turns by the whole wait.
        self.dispatcher.core.timers.start_pending_as_armed();
        self.wait(timeout)?;
        let core = &mut self.dispatcher.core;
        // After the wait: only work counts as the length of a turn.
        let began = core.now;
        // Only compared for equality, so it may wrap.
        core.turn = core.turn.wrapping_add(1);
        core.stats.turns += 1;
        let events = self.record_events();
        // Broadcasts sent between turns (`Reactor::net`) may have filled the logs, and no flush has
        // followed them.
        self.flush_early();
        self.check_stop_requests();
        self.accept();
        self.process_ready();
        self.process_datagrams();
        self.process_sources();
        self.check_timers();
        self.run_commands();
        self.notify_closed();
        self.connect();
        // Before `flush_all`: `on_error` and `on_close` of datagram sockets may send to connections.
        self.flush_datagrams();
        self.flush_all();
        self.reap();
        let stopped = self.check_shutdown_done();
        let core = &mut self.dispatcher.core;
        core.longest_turn = core.longest_turn.max(core.now.nanos_since(began));
        Ok(Turn { events, more: self.has_more(), stopped })
    }

    /// Returns when the next turn is needed even without an event: now while there is work, else the next deadline.
    pub(crate) fn next_deadline(&self) -> Time {
        let core = &self.dispatcher.core;
        if self.has_more() {
            return core.now;
        }
        let deadlines = core.deadlines.next().map_or(Time::NEVER, |(at, _)| at);
        deadlines
            .min(core.timers.next())
            .min(core.connect_jobs.next())
            .min(core.datagrams.retry_at)
            .min(self.listeners.paused_until())
            .min(self.shutdown.deadline())
    }

    /// Whether there is work that no event will announce.
    fn has_more(&self) -> bool {
        let core = &self.dispatcher.core;
        // Not the throttled connections: only a write or a close ends memory pressure, and
        // `flush_all` of that turn, or of the next one, which does not sleep, resumes them.
        self.events_truncated
            || !core.ready.is_empty()
            || !self.sources.are_quiet()
            || !core.dirty.is_empty()
            || !core.groups.with_unsent.is_empty()
            || !core.close_notify.is_empty()
            || !core.connect_jobs.queue.is_empty()
            || core.datagrams.have_work()
            || self.listeners.may_accept(core)
            || core.stop_requests > 0
            // Relaxed: a stop that is missed here ends the wait, because `Handle::stop` counts
            // before it wakes.
            || self.shared.stop_requests.load(Ordering::Relaxed) > self.shutdown.stop_requests_seen
            || self.shared.commands.is_flagged()
    }

    /// Waits for events, at most until `timeout` or the next deadline.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let wake_at = self.next_deadline();
        // The system waits in whole milliseconds. A caller's timeout is rounded down, so that a turn never oversleeps.
        // Our own deadlines are rounded up, so that they have expired when we wake; rounded down, the last millisecond
        // would be spent in turns that find nothing to do.
        let asked = timeout.map(floor_to_ms);
        let due = (wake_at != Time::NEVER).then(|| ceil_to_ms(wake_at.since(self.dispatcher.core.now)));
        let timeout = match (asked, due) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.events.clear();
        let began = self.dispatcher.core.now;
        let done = self.sys.poll(&mut self.events, timeout);
        self.update_clock();
        self.events_truncated = done?;
        self.update_seen_until(began);
        Ok(())
    }

    /// Notes up to which time everything is seen, after a wait that began at `began`. A wait that returned all events
    /// has seen what had happened when it began. Waits that returned as many as fit have seen it when they have
    /// returned, together, as many events as there are descriptors: the system returns the oldest first.
    fn update_seen_until(&mut self, began: Time) {
        let core = &mut self.dispatcher.core;
        let (since, returned) = self.unseen.get_or_insert((began, 0));
        *returned += self.events.len();
        let descriptors =
            core.conns.len() + core.datagrams.slots.len() + self.listeners.slots.len() + self.sources.entries.len();
        if !self.events_truncated {
            core.seen_until = began;
        } else if *returned >= descriptors {
            core.seen_until = *since;
        } else {
            return;
        }
        self.unseen = None;
    }

    /// Marks what the events made ready. Returns how many there were. An event for a closed socket is only counted: its
    /// token carries a generation, so it cannot reach a successor in the same slot.
    fn record_events(&mut self) -> usize {
        let core = &mut self.dispatcher.core;
        core.stats.events += self.events.len() as u64;
        for ready in &self.events {
            let known = match Token::unpack(ready.token) {
                Token::Connection(id) => record_event(core, id, ready.bits),
                Token::Listener(id) => self.listeners.mark_ready(id),
                Token::Source(id) => self.sources.mark_ready(id, ready.bits),
                Token::Datagram(id) => core.datagrams.record_event(id, ready.bits),
            };
            core.stats.stale_events += u64::from(!known);
        }
        self.events.len()
    }
}

/// Sets the readiness flags of a connection, and queues the connection if it now has work. Returns `false` if it is
/// closed.
#[inline]
fn record_event(core: &mut Core, id: ConnId, bits: u8) -> bool {
    let Some(c) = core.conns.get_mut(id) else { return false };
    // Edge-triggered: the kernel reports readiness once. The flags stay set until a read or write returns WouldBlock
    // (or a read drains the socket), or the edge would be lost.
    c.readiness.readable |= bits & Ready::READABLE != 0;
    c.readiness.writable |= bits & Ready::WRITABLE != 0;
    if bits & (Ready::HINT | Ready::ERROR) != 0 {
        // A hint (EPOLLRDHUP, EPOLLHUP, EPOLLPRI) may be stale, so it closes nothing by itself. It must not be missed
        // either: both flags are set, and the next read and write find out. Once the FIN has been read there is nothing
        // more to read, and the flag would only cause spurious wakeups.
        c.readiness.readable |= !c.halves.peer_fin;
        c.readiness.writable = true;
        c.readiness.read_to_eagain = true;
        c.readiness.error_pending |= bits & Ready::ERROR != 0 && c.phase != Phase::Lingering;
    }
    // The common case, without the full check for work.
    // Without unsent output, memory pressure does not keep it from being read.
    let plain = c.phase == Phase::Open && c.readiness.readable && !c.is_read_blocked() && c.out.pending() == 0;
    if plain {
        core.enqueue(id);
    } else {
        // What its handler waits for may have come.
        core.end_rest(id);
        core.enqueue_if_work(id);
    }
    true
}
