//! The loop: wait → accept → read → timers → commands → tell → flush → reap, once a turn.
//!
//! Owns the sockets and moves bytes between them and the dispatcher; it knows no handler and no framing. Invariant:
//! within a turn every phase is bounded, nothing is freed before the last one, and a connection with work that no event
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

impl<S: Sys> EventLoop<S> {
    /// One turn. Waits no longer than `timeout` (or for ever), and not at all while there is work.
    pub(crate) fn turn(&mut self, timeout: Option<Duration>) -> io::Result<Turn> {
        self.dispatcher.core.timers.start_pending_as_armed();
        self.wait(timeout)?;
        let core = &mut self.dispatcher.core;
        let (began, shutdowns) = (core.now, self.shutdown.done());
        core.turn = core.turn.wrapping_add(1);
        core.stats.turns += 1;
        let events = self.record_events();
        self.flush_full_logs();
        self.check_stop_requests();
        self.accept();
        self.process_ready();
        self.process_datagrams();
        self.process_sources();
        self.check_timers();
        self.run_commands();
        self.notify_closed();
        self.connect();
        self.flush_datagrams();
        self.flush_all();
        self.reap();
        self.check_shutdown_done();
        let core = &mut self.dispatcher.core;
        core.longest_turn = core.longest_turn.max(core.now.nanos_since(began));
        Ok(Turn { events, more: self.has_more(), stopped: self.shutdown.done() > shutdowns })
    }

    /// When the loop must turn though nothing is ready: now while there is work, or at the next deadline.
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

    fn has_more(&self) -> bool {
        let core = &self.dispatcher.core;
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
            || self.shared.stop_requests.load(Ordering::Relaxed) > self.shutdown.stop_requests_seen()
            || self.shared.commands.is_flagged()
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let wake_at = self.next_deadline();
        // CallSite asks is not kept longer; what is due is not looked for in vain.
        let asked = timeout.map(floor_to_ms);
        let due = (wake_at != Time::NEVER).then(|| ceil_to_ms(wake_at.since(self.dispatcher.core.now)));
        let timeout = match (asked, due) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.events.clear();
        let done = self.sys.poll(&mut self.events, timeout);
        self.update_clock();
        self.events_truncated = done?;
        Ok(())
    }

    /// Writes down what the system reported; answers how many events there were.
    fn record_events(&mut self) -> usize {
        let events = std::mem::take(&mut self.events);
        let core = &mut self.dispatcher.core;
        core.stats.events += events.len() as u64;
        for ready in &events {
            match Token::unpack(ready.token) {
                Token::Connection(id) => record_event(core, id, ready.bits),
                Token::Listener(id) => {
                    if !self.listeners.mark_ready(id) {
                        core.stats.stale_events += 1;
                    }
                }
                Token::Source(id) => {
                    if !self.sources.mark_ready(id, ready.bits) {
                        core.stats.stale_events += 1;
                    }
                }
                Token::Datagram(id) => {
                    if !core.datagrams.record_event(id, ready.bits) {
                        core.stats.stale_events += 1;
                    }
                }
            }
        }
        self.events = events;
        self.events.len()
    }
}

/// Sets what an event says on its connection, and queues it if that makes work.
#[inline]
fn record_event(core: &mut Core, id: ConnId, bits: u8) {
    let Some(c) = core.conns.get_mut(id) else {
        core.stats.stale_events += 1;
        return;
    };
    c.readiness.readable |= bits & Ready::READABLE != 0;
    c.readiness.writable |= bits & Ready::WRITABLE != 0;
    if bits & (Ready::HINT | Ready::ERROR) != 0 {
        // Never to be trusted by itself, and never to be missed: the sockets will tell.
        c.readiness.readable |= !c.halves.peer_fin;
        c.readiness.writable = true;
        c.readiness.read_to_eagain = true;
        c.readiness.error_pending |= bits & Ready::ERROR != 0 && c.phase != Phase::Lingering;
    }
    let plain =
        c.phase == Phase::Open && c.readiness.readable && !c.is_read_blocked() && c.out.pending() == 0;
    if plain {
        core.enqueue(id);
    } else {
        core.enqueue_if_work(id);
    }
}
