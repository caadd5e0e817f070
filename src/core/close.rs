//! The close machine: how a connection's end begins, and what is settled when its fate is known.
//!
//! Knows neither sockets nor handlers. Invariant: a connection that leaves `Open` is in no group and gets no input, and
//! `reason` is set; one that is `Dead` pause_count no buffer, is in `close_notify`, and never comes back.

use std::time::Duration;

use super::Core;
use crate::closed::Reason;
use crate::connection::{Connection, Linger, Phase};
use crate::id::ConnId;
use crate::time::Time;

impl Core {
    /// Ends a connection in good order: what was accepted for sending is written, then FIN, then lingering.
    /// False when it was ending already.
    pub(crate) fn begin_close(&mut self, id: ConnId, reason: Reason) -> bool {
        if self.conns.get(id).is_none_or(|c| c.phase != Phase::Open) {
            return false;
        }
        self.take_from_logs(id);
        self.leave_all(id);
        self.remove_links(id);
        self.end_timers(id);
        let now = self.now;
        let Some(c) = self.conns.get_mut(id).filter(|c| c.phase == Phase::Open) else { return false };
        c.phase = Phase::Flushing;
        c.cold_mut().reason.get_or_insert(reason);
        c.write_blocked_since = now;
        self.discard_input(id);
        self.deadlines.bring_forward(id.slot, now.after(self.limits.write_stall.get()));
        self.assert_consistent(id);
        self.enqueue(id);
        true
    }

    fn assert_consistent(&self, id: ConnId) {
        debug_assert!(self.conns.get(id).is_none_or(Connection::is_consistent), "{:?}", self.conns.get(id));
    }

    /// What a handler's own close is counted as.
    pub(crate) fn close_reason(&self, id: ConnId) -> Reason {
        match self.conns.get(id) {
            Some(c) if c.halves.peer_fin => Reason::PeerClosed,
            _ if self.shutting_down => Reason::Shutdown,
            _ => Reason::Handler,
        }
    }

    /// Sends FIN once all is written; input goes on. False when the connection is ending or it was asked for before.
    pub(crate) fn shutdown_write(&mut self, id: ConnId) -> bool {
        self.take_from_logs(id);
        let Some(c) = self.conns.get_mut(id).filter(|c| c.takes_output()) else { return false };
        c.halves.fin_wanted = true;
        self.leave_all(id);
        self.enqueue(id);
        true
    }

    /// Ends a connection at once, with a reset unless the peer has gone already. The first reason stays, unless a close
    /// is cut short and bytes are lost that it would have delivered.
    pub(crate) fn terminate(&mut self, id: ConnId, reason: Reason) {
        let unsent_in_logs = self.unsent_in_logs(id);
        let echoed = self.take_echo_range(id).len();
        self.remove_links(id);
        let Some(c) =
            self.conns.get_mut(id).filter(|c| !matches!(c.phase, Phase::Connecting | Phase::Closed))
        else {
            return;
        };
        let lost = c.out.clear(&mut self.pool) + unsent_in_logs + echoed;
        c.lose(lost);
        let peer_gone = matches!(reason, Reason::PeerClosed | Reason::PeerReset);
        c.close_with_rst = !peer_gone && (c.phase == Phase::Open || c.unsent() > 0);
        if c.reason().is_none() || c.phase == Phase::Flushing && c.unsent() > 0 && !c.halves.write_failed {
            c.cold_mut().reason = Some(reason);
        }
        c.phase = Phase::Closed;
        self.leave_all(id);
        self.end_timers(id);
        self.discard_input(id);
        self.deadlines.clear(id.slot);
        self.close_notify.push(id);
        self.assert_consistent(id);
    }

    /// Ends a connection that has nothing left to say or to wait for, without a reset.
    pub(crate) fn finish(&mut self, id: ConnId, reason: Reason) {
        self.terminate(id, reason);
        if let Some(c) = self.conns.live_mut(id)
            && c.unsent() == 0
        {
            c.close_with_rst = false;
        }
    }

    pub(crate) fn terminate_out_of_memory(&mut self, id: ConnId) {
        self.terminate(id, Reason::Io(std::io::ErrorKind::OutOfMemory));
    }

    /// A write failed for good. Nothing can be sent any more, but what the peer sent before may still be read.
    pub(crate) fn write_failed(&mut self, id: ConnId, reason: Reason) {
        let Some(c) = self.conns.live(id) else { return };
        if c.phase != Phase::Open || c.flow.paused || c.halves.peer_fin || reason != Reason::PeerReset {
            return self.terminate(id, reason);
        }
        let unsent_in_logs = self.unsent_in_logs(id);
        let echoed = self.take_echo_range(id).len();
        let Some(c) = self.conns.live_mut(id) else { return };
        let lost = c.out.clear(&mut self.pool) + unsent_in_logs + echoed;
        c.lose(lost);
        c.halves.write_failed = true;
        c.cold_mut().reason = Some(reason);
        c.readiness.readable = true;
        c.readiness.read_to_eagain = true;
        let was_high = std::mem::take(&mut c.flow.above_high_water);
        c.flow.drain_due = false;
        if was_high {
            self.notify_linked_senders(id, false);
        }
        self.leave_all(id);
        self.sync_clock(id);
        self.enqueue(id);
    }

    /// All is written and FIN is sent (or need not be): waits for the peer's, or is done.
    pub(crate) fn linger(&mut self, id: ConnId) {
        let now = self.now;
        let Some(c) = self.conns.live_mut(id) else { return };
        c.phase = Phase::Lingering;
        c.halves.fin_sent = true;
        c.last_activity = now;
        c.cold_mut().linger = Some(Linger { since: now, discarded: 0 });
        self.lingering.push_back(id);
        if self.lingering.len() > 2 * self.conns.len() + 64 {
            // Most of them have ended since.
            let conns = &self.conns;
            self.lingering.retain(|&id| conns.get(id).is_some_and(|c| c.phase == Phase::Lingering));
        }
        self.deadlines.set(id.slot, now.after(self.limits.linger_quiet.min(self.limits.linger_total)));
        self.assert_consistent(id);
        self.enqueue_if_work(id);
    }

    /// Ends the connection that has lingered longest, to make room for a new one. False when none lingers.
    pub(crate) fn evict_oldest_lingering(&mut self) -> bool {
        while let Some(id) = self.lingering.pop_front() {
            if self.conns.get(id).is_some_and(|c| c.phase == Phase::Lingering) {
                self.finish(id, Reason::Handler);
                return true;
            }
        }
        false
    }

    /// Judges a connection whose deadline has come: ends it, or sets its next deadline.
    pub(crate) fn check_deadline(&mut self, id: ConnId) {
        let now = self.now;
        let Some(c) = self.conns.live(id) else { return };
        let pending = c.out.pending() > 0;
        let reading = self.may_read(c) && !c.deferred && !c.message_clock.is_paused();
        let l = &self.limits;
        let mut next = Time::NEVER;
        let mut due = |since: Time, limit| {
            let at = since.after(limit);
            next = next.min(if at > now { at } else { Time::NEVER });
            at <= now
        };
        let action = match c.phase {
            Phase::Connecting | Phase::Closed => return self.deadlines.clear(id.slot),
            Phase::Lingering => {
                let since = c.linger().map_or(now, |linger| linger.since);
                let over = due(c.last_activity, l.linger_quiet) | due(since, l.linger_total);
                over.then_some(TimeoutAction::Finish)
            }
            // A write, or our FIN, that is still to be tried is not the peer's fault.
            Phase::Flushing if !pending || c.readiness.writable => {
                due(now, RECHECK);
                None
            }
            Phase::Flushing => due(c.write_blocked_since, l.write_stall.get())
                .then_some(TimeoutAction::Terminate(Reason::WriteStall)),
            Phase::Open
                if pending && !c.readiness.writable && due(c.write_blocked_since, l.write_stall.get()) =>
            {
                Some(TimeoutAction::Terminate(Reason::WriteStall))
            }
            Phase::Open if !reading => {
                // Not the peer's time that passes: look again after the shortest of what may end it then.
                due(now, l.idle_timeout.get().min(l.message_timeout.get()));
                None
            }
            Phase::Open => {
                let unfinished = c.input.is_some() && due(c.message_clock.started(), l.message_timeout.get());
                let idle = due(c.last_activity, l.idle_timeout.get());
                match (unfinished, idle) {
                    (false, false) => None,
                    // Part of the time went by here. What the peer may have sent meanwhile is read first.
                    _ if c.readiness.readable => {
                        due(now, RECHECK);
                        None
                    }
                    (true, _) => Some(TimeoutAction::Close(Reason::MessageTimeout)),
                    (false, true) => Some(TimeoutAction::Close(Reason::IdleTimeout)),
                }
            }
        };
        self.deadlines.set(id.slot, next);
        match action {
            None => {}
            Some(TimeoutAction::Finish) => self.finish(id, Reason::Handler),
            Some(TimeoutAction::Terminate(reason)) => self.terminate(id, reason),
            Some(TimeoutAction::Close(reason)) => {
                self.begin_close(id, reason);
            }
        }
    }
}

/// When to judge a connection again that may have input waiting.
const RECHECK: Duration = Duration::from_millis(1);

enum TimeoutAction {
    Terminate(Reason),
    Close(Reason),
    Finish,
}
