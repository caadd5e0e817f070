//! The close state machine: graceful close, half-close, terminate, linger, and the deadlines that start them.
//!
//! A graceful close writes what was accepted, sends FIN, and lingers until the peer's FIN. Closing the socket at once
//! would lose data: if it still has unread input, or more arrives, the kernel answers with RST, and the peer discards
//! our last bytes even if it has received them (RFC 9112 section 9.6 describes the same for HTTP servers).
//!
//! Invariant: a connection that has left `Open` is in no group, gets no input, and has a `reason`; a `Closed` one holds
//! no buffer, is in `close_notify` until `on_close` is called, and changes no more.

use std::time::Duration;

use super::Core;
use crate::closed::Reason;
use crate::connection::{Connection, Linger, Phase};
use crate::id::ConnId;
use crate::time::Time;

impl Core {
    /// Closes a connection gracefully: the loop writes what was accepted for sending, sends FIN and lingers. Returns
    /// `false` if the connection does not exist or is not open.
    pub(crate) fn begin_close(&mut self, id: ConnId, reason: Reason) -> bool {
        if self.conns.get(id).is_none_or(|c| c.phase != Phase::Open) {
            return false;
        }
        // Broadcasts that were sent before the close are part of what is still written.
        self.take_from_logs(id);
        self.leave_all(id);
        self.remove_links(id);
        self.end_timers(id);
        let now = self.now;
        // Taking from the logs may have terminated it.
        let Some(c) = self.conns.get_mut(id).filter(|c| c.phase == Phase::Open) else { return false };
        c.phase = Phase::Flushing;
        // A write that failed before has set the reason already.
        c.cold_mut().reason.get_or_insert(reason);
        // A whole stall timeout from here, however long output has waited: the close itself is not tried yet.
        c.write_blocked_since = now;
        self.end_reserve(id);
        self.discard_input(id);
        // The deadline that is set may be a later one, such as the idle timeout.
        self.deadlines.bring_forward(id.slot, now.after(self.limits.write_stall.get()));
        self.assert_consistent(id);
        // If nothing is unsent no event will come, and the loop must send FIN.
        self.enqueue_if_work(id);
        true
    }

    /// Closes a connection gracefully, with RST in place of FIN. Returns `false` if it does not exist or is not open.
    ///
    /// A reset makes the kernel discard what the peer does not have yet, and no call tells when the peer has it. So the
    /// loop sends the reset only when it has written nothing for `linger_quiet`.
    pub(crate) fn close_with_reset(&mut self, id: ConnId) -> bool {
        // Broadcasts that were sent before are part of what is still written.
        self.take_from_logs(id);
        let Some(c) = self.conns.get(id).filter(|c| c.phase == Phase::Open) else { return false };
        let arrived = c.bytes_out == 0 || c.write_blocked_since.after(self.limits.linger_quiet) <= self.now;
        let done = arrived && self.pending(c) == 0;
        if let Some(c) = self.conns.live_mut(id) {
            c.cold_mut().reset_at_end = true;
        }
        match done {
            true => self.terminate(id, Reason::Handler),
            false => drop(self.begin_close(id, Reason::Handler)),
        }
        true
    }

    /// Asserts that the fields of a connection agree, in builds with debug assertions.
    fn assert_consistent(&self, id: ConnId) {
        debug_assert!(self.conns.get(id).is_none_or(Connection::is_consistent), "{:?}", self.conns.get(id));
    }

    /// Returns the reason that a close by the handler is counted as. An answer to the peer's FIN is `PeerClosed`.
    pub(crate) fn close_reason(&self, id: ConnId) -> Reason {
        match self.conns.get(id) {
            Some(c) if c.halves.peer_fin => Reason::PeerClosed,
            _ if self.shutting_down => Reason::Shutdown,
            _ => Reason::Handler,
        }
    }

    /// Half-closes: requests a FIN once everything is written. Reading continues. Returns `false` if the connection is
    /// closing or this was requested before.
    pub(crate) fn shutdown_write(&mut self, id: ConnId) -> bool {
        self.take_from_logs(id);
        let Some(c) = self.conns.get_mut(id).filter(|c| c.takes_output()) else { return false };
        c.halves.fin_wanted = true;
        self.leave_all(id);
        self.enqueue_if_work(id);
        true
    }

    /// Terminates a connection: closes it at once and counts its unsent bytes as lost. Sends RST unless the peer has
    /// closed, or everything was written already. The first reason stays, unless this cuts a graceful close short and
    /// loses bytes that it would have written.
    pub(crate) fn terminate(&mut self, id: ConnId, reason: Reason) {
        if self.conns.get(id).is_none_or(|c| matches!(c.phase, Phase::Connecting | Phase::Closed)) {
            return;
        }
        self.remove_links(id);
        // Before `leave_all`: only for members the logs tell how much is lost.
        self.lose_output(id);
        let Some(c) = self.conns.live_mut(id) else { return };
        // RST, because a FIN would look like a complete stream to the peer. It also drops what the kernel has buffered.
        let peer_gone = matches!(reason, Reason::PeerClosed | Reason::PeerReset);
        c.close_with_rst = !peer_gone && (c.phase == Phase::Open || c.unsent() > 0) || c.resets_at_end();
        if c.reason().is_none() || c.phase == Phase::Flushing && c.unsent() > 0 && !c.halves.write_failed {
            c.cold_mut().reason = Some(reason);
        }
        c.phase = Phase::Closed;
        self.end_reserve(id);
        self.leave_all(id);
        self.end_timers(id);
        self.discard_input(id);
        self.deadlines.clear(id.slot);
        self.close_notify.push(id);
        self.assert_consistent(id);
    }

    /// Discards all output that is not yet written: in the outbox, in the groups' logs, and echoed in place.
    fn lose_output(&mut self, id: ConnId) {
        let elsewhere = self.unsent_in_logs(id) + self.take_echoed(id).len();
        if let Some(c) = self.conns.live_mut(id) {
            let lost = c.out.clear(&mut self.pool) + elsewhere;
            c.lose(lost);
        }
    }

    /// Closes a connection that has nothing left to write or to wait for. No RST, unless bytes were lost or it was
    /// asked for.
    /// `reason` counts only if the close began without one, as in [`terminate`](Self::terminate).
    pub(crate) fn finish(&mut self, id: ConnId, reason: Reason) {
        self.terminate(id, reason);
        if let Some(c) = self.conns.live_mut(id)
            && c.unsent() == 0
        {
            c.close_with_rst = c.resets_at_end();
        }
    }

    pub(crate) fn terminate_out_of_memory(&mut self, id: ConnId) {
        self.terminate(id, Reason::Io(std::io::ErrorKind::OutOfMemory));
    }

    /// Handles a write that failed permanently. Terminates the connection, unless the peer may have sent input before
    /// its reset: then only the output is closed, and the input is still read.
    pub(crate) fn write_failed(&mut self, id: ConnId, reason: Reason) {
        let Some(c) = self.conns.live(id) else { return };
        // While its handler pauses it, or defers its input for ever, nothing would be read, and after the peer's FIN
        // there is nothing to read.
        let held = c.flow.paused || c.flow.resting;
        if c.phase != Phase::Open || held || c.halves.peer_fin || reason != Reason::PeerReset {
            return self.terminate(id, reason);
        }
        self.lose_output(id);
        let Some(c) = self.conns.live_mut(id) else { return };
        c.halves.write_failed = true;
        c.cold_mut().reason = Some(reason);
        // Read until EOF or an error, without waiting for an event: it may have been reported already.
        c.readiness.readable = true;
        c.readiness.read_to_eagain = true;
        let was_high = std::mem::take(&mut c.flow.above_high_water);
        // `on_drain` would invite output that can no longer be sent.
        c.flow.drain_due = false;
        // Pauses are counted: what `set_high` has added must be removed, and only once.
        if was_high {
            self.notify_linked_senders(id, false);
        }
        self.leave_all(id);
        self.sync_clock(id);
        self.enqueue(id);
    }

    /// Starts lingering: everything is written, and FIN is sent unless a reset is to follow. The loop discards input
    /// until the peer's FIN.
    pub(crate) fn linger(&mut self, id: ConnId) {
        let now = self.now;
        let Some(c) = self.conns.live_mut(id) else { return };
        c.phase = Phase::Lingering;
        c.halves.fin_sent |= !c.resets_at_end();
        c.last_activity = now;
        c.cold_mut().linger = Some(Linger { since: now, discarded: 0 });
        self.lingering.push_back(id);
        if self.is_mostly_stale(self.lingering.len()) {
            let conns = &self.conns;
            self.lingering.retain(|&id| conns.get(id).is_some_and(|c| c.phase == Phase::Lingering));
        }
        self.deadlines.set(id.slot, now.after(self.limits.linger_quiet.min(self.limits.linger_total)));
        self.assert_consistent(id);
        self.enqueue_if_work(id);
    }

    /// Closes the `n` connections that have lingered longest, to make space for a new one. Returns `false`, and closes
    /// none, if not so many linger.
    pub(crate) fn evict_oldest_lingering(&mut self, n: usize) -> bool {
        let mut oldest = Vec::new();
        while oldest.len() < n
            && let Some(id) = self.lingering.pop_front()
        {
            if self.conns.get(id).is_some_and(|c| c.phase == Phase::Lingering) {
                oldest.push(id);
            }
        }
        if oldest.len() < n {
            self.lingering.extend(oldest);
            return false;
        }
        oldest.into_iter().for_each(|id| self.finish(id, Reason::Handler));
        true
    }

    /// Checks a connection whose deadline has expired: closes it, or sets its next deadline. A timeout has expired only
    /// if it had at [`seen_until`](Core::seen_until), and not while what would end it is still to be read or written.
    ///
    /// Deadlines are re-checked lazily. A read or write only updates `last_activity`; the heap is not touched. When the
    /// deadline expires, the timeouts are computed from the current times. So the hot path does not pay for timeouts,
    /// at the price of one early expiry per timeout period.
    pub(crate) fn check_deadline(&mut self, id: ConnId) {
        let (now, seen_until) = (self.now, self.seen_until);
        let Some(c) = self.conns.live(id) else { return };
        let pending = c.out.pending() > 0;
        // The clock stands until a throttled connection is resumed, even if memory is free again by now.
        let reading = self.may_read(c) && !c.deferred && !c.message_clock.is_paused();
        let l = &self.limits;
        let mut next = Time::NEVER;
        // Returns whether this timeout has expired; if not, it limits the next deadline.
        let mut due = |since: Time, limit| {
            let at = since.after(limit);
            next = next.min(if at > seen_until { at } else { Time::NEVER });
            at <= seen_until
        };
        let action = match c.phase {
            Phase::Connecting | Phase::Closed => return self.deadlines.clear(id.slot),
            // Its FIN may be behind the input that is unread. `linger_input` bounds how much of it is read.
            Phase::Lingering if c.readiness.readable => {
                due(now, RECHECK);
                None
            }
            Phase::Lingering => {
                let since = c.linger().map_or(now, |linger| linger.since);
                // `|`, not `||`: both calls must run, because each also limits `next`.
                let over = due(c.last_activity, l.linger_quiet) | due(since, l.linger_total);
                over.then_some(TimeoutAction::Finish)
            }
            // The write, or our FIN, was not tried yet: the delay is ours, not the peer's.
            Phase::Flushing if !pending || c.readiness.writable => {
                due(now, RECHECK);
                None
            }
            Phase::Flushing => {
                due(c.write_blocked_since, l.write_stall.get()).then_some(TimeoutAction::Terminate(Reason::WriteStall))
            }
            // If it has not expired, the guard has limited `next`, and one of the arms below matches.
            Phase::Open if pending && !c.readiness.writable && due(c.write_blocked_since, l.write_stall.get()) => {
                Some(TimeoutAction::Terminate(Reason::WriteStall))
            }
            Phase::Open if c.flow.resting => {
                let until = c.cold().map_or(now, |cold| cold.rest_until);
                due(until, Duration::ZERO).then_some(TimeoutAction::EndRest)
            }
            Phase::Open if !reading => {
                // We do not read it, so its timeouts do not run. Check again after the shorter one.
                due(now, l.idle_timeout.get().min(l.message_timeout.get()));
                None
            }
            Phase::Open => {
                let unfinished = c.input.is_some() && due(c.message_clock.started(), l.message_timeout.get());
                let idle = due(c.last_activity, l.idle_timeout.get());
                match (unfinished, idle) {
                    (false, false) => None,
                    // Part of the time may be our own delay: first read what has arrived meanwhile.
                    _ if c.readiness.readable => {
                        due(now, RECHECK);
                        None
                    }
                    (true, _) => Some(TimeoutAction::Close(Reason::MessageTimeout)),
                    (false, true) => Some(TimeoutAction::Close(Reason::IdleTimeout)),
                }
            }
        };
        // Before the action, which sets or clears the deadline itself.
        self.deadlines.set(id.slot, next);
        if let Some(action) = action {
            self.time_out(id, action);
        }
    }

    fn time_out(&mut self, id: ConnId, action: TimeoutAction) {
        match action {
            TimeoutAction::EndRest => self.end_rest(id),
            TimeoutAction::Finish => self.finish(id, Reason::Handler),
            TimeoutAction::Terminate(reason) => self.terminate(id, reason),
            TimeoutAction::Close(reason) => drop(self.begin_close(id, reason)),
        }
    }
}

/// The delay until the next check of a connection that still has to be read or written. Chosen: the shortest timeout
/// that `epoll_wait` can wait for, so that the loop does not spin.
const RECHECK: Duration = Duration::from_millis(1);

/// What [`Core::check_deadline`] does with a connection.
enum TimeoutAction {
    /// Reads it again.
    EndRest,
    Terminate(Reason),
    Close(Reason),
    Finish,
}
