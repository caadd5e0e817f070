//! Shutdown: closes the listeners, calls `on_shutdown` everywhere, and aborts what is left at the deadline.
//!
//! Invariant: a shutdown that has begun ends at the latest one turn after its deadline.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::event_loop::EventLoop;
use super::tables::Report;
use crate::closed::Reason;
use crate::connection::Phase;
use crate::id::{AttemptId, ConnId};
use crate::sys::Sys;

impl<S: Sys> EventLoop<S> {
    /// Handles stop requests from callbacks and from other threads: the first begins a shutdown, a second one ends its
    /// grace period.
    pub(super) fn check_stop_requests(&mut self) {
        let wanted = std::mem::take(&mut self.dispatcher.core.stop_requests);
        if wanted > 0 {
            let more = |n: u8| Some(n.saturating_add(wanted));
            let _ = self.shared.stop_requests.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        }
        let requests = self.shared.stop_requests.load(Ordering::Acquire);
        if requests <= self.shutdown.stop_requests_seen {
            return;
        }
        let first = self.shutdown.stop_requests_seen == 0;
        self.shutdown.stop_requests_seen = requests;
        // `Reactor::shutdown` may have begun one. Then the first request changes nothing; the
        // second ends its grace.
        if first && !self.shutdown.is_under_way() {
            self.begin_shutdown(self.dispatcher.core.limits.shutdown_grace);
        }
        if requests > 1 && self.shutdown.is_under_way() {
            self.shutdown.until = Some(self.dispatcher.core.now);
        }
    }

    /// Accepts the pending connections, closes the listeners, and calls `on_shutdown` for every connection and datagram
    /// socket.
    pub(crate) fn begin_shutdown(&mut self, grace: Duration) {
        let core = &mut self.dispatcher.core;
        // As in `turn`: `Reactor::shutdown` calls this between turns.
        core.timers.start_pending_as_armed();
        self.shutdown.until = Some(core.now.after(grace));
        self.shutdown.report = Report::default();
        log::info!("shutting down, {} connections open", core.conns.len());
        // Before any callback: a connect job that one adds would keep the shutdown from ending.
        core.shutting_down = true;
        for id in self.listeners() {
            let most = self.dispatcher.core.limits.connections.get();
            // Closing a listener resets the connections in its backlog, so they are accepted first. Their event may not
            // have arrived yet. If the handler would have to connect for them, it can no longer serve them.
            if self.listeners.slots.get(id).is_some_and(|listener| listener.reserve == 0) {
                self.listeners.mark_ready(id);
                self.accept_at(id, most);
            }
            self.close_listener(id);
        }
        let core = &mut self.dispatcher.core;
        let requests: Vec<AttemptId> = core.connect_jobs.iter().map(|a| a.id).collect();
        // During a shutdown `advance` fails each queued job, except that of an established connection.
        requests.into_iter().for_each(|id| core.connect_jobs.enqueue(id));
        let open: Vec<ConnId> =
            self.dispatcher.core.conns.iter().filter(|c| c.phase == Phase::Open).map(|c| c.id).collect();
        for id in open {
            self.dispatcher.shutdown(id);
            self.after_callback(id, &[]);
            self.dispatcher.core.enqueue_if_work(id);
        }
        self.notify_datagrams_of_shutdown();
    }

    /// Finishes the shutdown if everything is closed; at its deadline, closes what is left. Returns whether it has
    /// finished.
    pub(super) fn check_shutdown_done(&mut self) -> bool {
        let Some(until) = self.shutdown.until else { return false };
        let core = &mut self.dispatcher.core;
        if core.conns.len() + core.connect_jobs.len() + core.datagrams.slots.len() == 0 {
            let report = self.shutdown.report;
            log::info!("shut down: {} clean, {} cut, {} bytes lost", report.clean, report.cut, report.bytes_lost);
            self.shutdown.until = None;
            self.shutdown.last = Some(report);
            // Requests that came meanwhile belong to this shutdown, and must not begin another one
            // in the next turn.
            self.shutdown.stop_requests_seen = 0;
            self.shared.stop_requests.store(0, Ordering::Release);
            core.shutting_down = false;
            return true;
        }
        if core.seen_until < until {
            return false;
        }
        let left: Vec<(ConnId, Phase)> = core.conns.iter().map(|c| (c.id, c.phase)).collect();
        for (id, phase) in left {
            match phase {
                // Connect jobs fail by themselves (`advance`); a closed connection is in
                // `close_notify`.
                Phase::Connecting | Phase::Closed => {}
                // The kernel has all bytes, including our FIN: a clean close.
                Phase::Lingering => core.finish(id, Reason::Shutdown),
                Phase::Open | Phase::Flushing => core.terminate(id, Reason::ShutdownDeadline),
            }
        }
        self.abort_datagrams();
        false
    }
}
