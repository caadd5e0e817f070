//! Outbound connections: looks up names, tries addresses (happy eyeballs), retries with backoff, reconnects.
//!
//! Invariant: a socket that is connecting is in the `trying` list of its connect job, and no callback was called for
//! it; each connect job reports one success or one failure to its handler, unless it was cancelled.

use std::io::{self, ErrorKind};
use std::time::Duration;

use super::event_loop::EventLoop;
use crate::closed::Reason;
use crate::config::address::Address;
use crate::config::connect::Backoff;
use crate::connection::Connection;
use crate::core::Core;
use crate::core::connect_jobs::{ConnectStage, Destination, localhost};
use crate::dispatch::CallSite;
use crate::id::{AttemptId, ConnId, HandlerIdx, Token};
use crate::sys::errno::is_out_of_places;
use crate::sys::{CloseHow, Sys};

impl<S: Sys> EventLoop<S> {
    /// Advances the connect jobs that are queued or have reached their deadline.
    pub(super) fn connect(&mut self) {
        if self.dispatcher.core.connect_jobs.is_idle() {
            return;
        }
        self.dispatcher.retain_for_new_jobs();
        self.take_lookups();
        let core = &mut self.dispatcher.core;
        let share = core.limits.timeouts_per_turn;
        core.connect_jobs.enqueue_due(core.now, share);
        for _ in 0..core.connect_jobs.queue.len().min(share) {
            let Some(id) = self.dispatcher.core.connect_jobs.next_queued() else { return };
            self.advance(id);
            self.dispatcher.core.connect_jobs.update_deadline(id);
        }
    }

    /// Receives the results of finished lookups.
    fn take_lookups(&mut self) {
        while self.dispatcher.core.connect_jobs.awaits_lookups() {
            let Some((number, found)) = self.sys.next_lookup() else { return };
            let Core { connect_jobs: jobs, limits, now, seen_until, .. } = &mut self.dispatcher.core;
            let (now, seen_until) = (*now, *seen_until);
            let Some(id) = jobs.looked_up(number) else { continue };
            let Some(job) = jobs.live_mut(id) else { continue };
            match found {
                Ok(addresses) => {
                    // The answer was here before we looked, too late to use it. The delay is ours, so begin anew.
                    if job.until <= seen_until {
                        job.until = now.after(job.timeout(limits));
                    }
                    job.set_addresses(addresses);
                }
                Err(error) => job.errors.push((String::new(), error)),
            }
            jobs.set_stage(id, ConnectStage::Trying);
            jobs.enqueue(id);
        }
    }

    /// Advances one connect job by one step.
    fn advance(&mut self, id: AttemptId) {
        let core = &mut self.dispatcher.core;
        let (now, seen_until) = (core.now, core.seen_until);
        let Some(job) = core.connect_jobs.get_mut(id) else { return };
        if core.shutting_down && !matches!(job.stage, ConnectStage::Connected | ConnectStage::Cancelled) {
            job.errors = vec![(String::new(), io::Error::new(ErrorKind::Interrupted, "the reactor is shutting down"))];
            return self.give_up(id);
        }
        match job.stage {
            ConnectStage::Cancelled => self.remove_job(id),
            ConnectStage::New => self.begin_try(id),
            ConnectStage::Backoff if job.next <= now => self.begin_try(id),
            ConnectStage::LookingUp | ConnectStage::Trying if job.until <= seen_until => self.time_out(id),
            ConnectStage::Trying => self.try_next(id),
            ConnectStage::LookingUp | ConnectStage::Backoff | ConnectStage::Connected => {}
        }
    }

    /// Begins a try: starts a lookup, connects to an address, or takes over an existing stream.
    fn begin_try(&mut self, id: AttemptId) {
        if self.dispatcher.core.connect_jobs.get(id).is_some_and(|a| !self.dispatcher.takes_connections(a.handler)) {
            log::error!("{id}: the handler takes datagrams only; cannot connect");
            return self.remove_job(id);
        }
        let core = &mut self.dispatcher.core;
        let (now, looking, most) = (core.now, core.connect_jobs.active_lookups, core.limits.lookups);
        let Some(job) = core.connect_jobs.live_mut(id) else { return };
        job.until = now.after(job.timeout(&core.limits));
        job.errors.clear();
        match &mut job.destination {
            Destination::Invalid(error) => {
                let error = io::Error::from(error.clone());
                self.report_connect_failure(id, &error);
            }
            Destination::Existing(given) => {
                let Some(given) = given.take() else { return self.give_up(id) };
                let options = job.options.clone();
                let taken = self.sys.take_over(given, &options);
                let begun = taken.and_then(|(stream, peer)| self.register_dial(id, stream, peer));
                match begun {
                    Ok((conn, peer)) => self.connected(conn, peer),
                    Err(error) => self.try_failed(id, String::new(), error),
                }
            }
            Destination::Address(address) => {
                job.left = [address.clone()].into();
                core.connect_jobs.set_stage(id, ConnectStage::Trying);
                self.try_next(id);
            }
            Destination::Name(host, port) => {
                let (host, port) = (host.clone(), *port);
                if let Some(addresses) = localhost(&host, port) {
                    job.set_addresses(addresses);
                    core.connect_jobs.set_stage(id, ConnectStage::Trying);
                    return self.try_next(id);
                }
                if looking < most {
                    return self.look_up(id, &host, port);
                }
                let what = format!("limit of {most} concurrent lookups reached");
                job.errors.push((String::new(), io::Error::new(ErrorKind::QuotaExceeded, what)));
                self.give_up(id);
            }
        }
    }

    /// Starts the lookup of a name.
    fn look_up(&mut self, id: AttemptId, host: &str, port: u16) {
        let jobs = &mut self.dispatcher.core.connect_jobs;
        let number = jobs.next_lookup();
        match self.sys.begin_lookup(number, host, port) {
            Ok(()) => jobs.look_up(id, number),
            Err(error) => self.try_failed(id, String::new(), error),
        }
    }

    /// Starts connecting to the next address, unless the stagger of the last one has not passed yet.
    ///
    /// Happy eyeballs (RFC 8305): an address that is unreachable often fails only after a long timeout, so after
    /// `connect_stagger` the next one is tried in parallel, and the first socket that connects wins. All at once would
    /// open connections that a server accepts in vain.
    fn try_next(&mut self, id: AttemptId) {
        loop {
            let core = &mut self.dispatcher.core;
            let (now, stagger) = (core.now, core.limits.connect_stagger);
            let Some(job) = core.connect_jobs.live_mut(id) else { return };
            if !job.trying.is_empty() && job.next > now {
                return;
            }
            let Some(address) = job.left.pop_front() else {
                if job.trying.is_empty() {
                    self.give_up(id);
                }
                return;
            };
            job.next = now.after(stagger);
            match self.dial(id, &address) {
                Ok(_) => return,
                // The backlog of a Unix listener is full, and no event reports that it has space: retry after the
                // stagger, until the timeout.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.try_later(id, address),
                // Another socket of this job has the place that is reserved for it. If it was cancelled, it is closed
                // at the end of this turn.
                Err(error) if is_out_of_places(&error) && self.place_may_come_free(id) => {
                    return self.try_later(id, address);
                }
                Err(error) => self.record_failure(id, address.to_string(), error),
            }
        }
    }

    /// Puts an address back, to be tried after the stagger.
    fn try_later(&mut self, id: AttemptId, address: Address) {
        if let Some(job) = self.dispatcher.core.connect_jobs.live_mut(id) {
            job.left.push_back(address);
        }
    }

    /// Returns whether a place for this job may come free: now, for its next turn, or when one of its sockets fails.
    fn place_may_come_free(&mut self, id: AttemptId) -> bool {
        let core = &mut self.dispatcher.core;
        if core.connect_jobs.get(id).is_some_and(|job| !job.trying.is_empty()) {
            return true;
        }
        let soon = !core.cancelled_dials.is_empty();
        if soon {
            core.connect_jobs.enqueue(id);
        }
        soon
    }

    /// Opens a socket and starts connecting it.
    fn dial(&mut self, id: AttemptId, address: &Address) -> io::Result<(ConnId, Address)> {
        let core = &self.dispatcher.core;
        let Some(job) = core.connect_jobs.live(id) else { return Err(ErrorKind::NotFound.into()) };
        if !core.has_place_for(job.requester) {
            return Err(limit_reached(core.limits.connections.get()));
        }
        if core.unused_reserve(job.requester) > 0 {
            // The descriptor that was held for this socket. Holding fewer cannot fail.
            let _ = self.sys.hold_descriptors(core.reserved - 1);
        }
        let stream = self.sys.connect(address, &job.options)?;
        self.register_dial(id, stream, address.clone())
    }

    /// Inserts a connecting stream into a slot and registers it. Closes it on failure.
    fn register_dial(&mut self, id: AttemptId, mut stream: S::Stream, peer: Address) -> io::Result<(ConnId, Address)> {
        let core = &mut self.dispatcher.core;
        let Some(job) = core.connect_jobs.live(id) else { return Err(ErrorKind::NotFound.into()) };
        let (handler, tag, requester) = (job.handler, job.tag, job.requester);
        let new = |conn| Connection::connecting(conn, handler, tag, id, peer.clone(), core.now);
        let Some(conn) = core.has_place_for(requester).then(|| core.conns.insert_with(new)).flatten() else {
            self.sys.close(stream, CloseHow::Graceful);
            return Err(limit_reached(core.limits.connections.get()));
        };
        if let Err(error) = self.sys.add_stream(&mut stream, Token::Connection(conn).pack()) {
            core.conns.remove(conn);
            self.sys.close(stream, CloseHow::Graceful);
            return Err(error);
        }
        core.take_reserved(conn, requester);
        if let Some(job) = core.connect_jobs.live_mut(id) {
            job.trying.push(conn);
        }
        self.streams.insert(conn, stream);
        Ok((conn, peer))
    }

    /// Checks whether a connecting socket has connected or failed.
    pub(super) fn check_dial(&mut self, conn: ConnId) {
        // Its connect job is about to fail. If the connection were opened now, its `on_shutdown` would never be called:
        // `begin_shutdown` has called it already for all open connections.
        if self.dispatcher.core.shutting_down {
            return;
        }
        let Some(stream) = self.streams.get_mut(conn) else { return };
        let done = self.sys.finish_connect(stream);
        let core = &mut self.dispatcher.core;
        let Some(c) = core.conns.live_mut(conn) else { return };
        match done {
            Ok(peer) => self.connected(conn, peer),
            // A spurious wakeup: still connecting.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                (c.readiness.readable, c.readiness.writable, c.readiness.error_pending, c.readiness.read_to_eagain) =
                    (false, false, false, false);
            }
            Err(error) => {
                let (job, address) = (c.job(), c.peer.address().to_string());
                core.cancel_dial(conn);
                let Some(id) = job else { return };
                if let Some(job) = core.connect_jobs.live_mut(id) {
                    job.trying.retain(|&other| other != conn);
                }
                self.record_failure(id, address, error);
                self.dispatcher.core.connect_jobs.enqueue(id);
            }
        }
    }

    /// Opens a connection that is established: ends the other attempts of its job, and calls `on_open`.
    fn connected(&mut self, conn: ConnId, peer: Address) {
        let core = &mut self.dispatcher.core;
        let now = core.now;
        let Some(c) = core.conns.live_mut(conn) else { return };
        c.become_open(peer, now);
        let (handler, job) = (c.handler, c.job());
        core.deadlines.set(conn.slot, now.after(core.limits.idle_timeout.get()));
        core.stats.connected += 1;
        // Before `succeed`, which may end the job: its release could drop the handler as its last user.
        self.dispatcher.retain(handler);
        if let Some(id) = job {
            self.succeed(id, conn);
        }
        log::debug!("{conn} connected");
        self.dispatcher.open(conn);
        self.after_callback(conn, &[]);
        self.dispatcher.core.enqueue_if_work(conn);
    }

    /// Marks a connect job as successful and cancels its other sockets. Removes it unless it reconnects.
    fn succeed(&mut self, id: AttemptId, conn: ConnId) {
        let core = &mut self.dispatcher.core;
        let now = core.now;
        let Some(job) = core.connect_jobs.live_mut(id) else { return };
        let others = std::mem::take(&mut job.trying);
        (job.failed, job.next) = (0, now);
        job.left.clear();
        let anew = job.options.anew;
        for other in others.into_iter().filter(|&other| other != conn) {
            core.cancel_dial(other);
        }
        if anew {
            core.connect_jobs.set_stage(id, ConnectStage::Connected);
            core.connect_jobs.update_deadline(id);
        } else {
            self.remove_job(id);
        }
    }

    /// Reconnects after the connection of a job has closed, unless the handler or a shutdown closed it.
    pub(super) fn reconnect(&mut self, id: AttemptId, reason: &Reason) {
        let core = &mut self.dispatcher.core;
        let wished = matches!(reason, Reason::Handler | Reason::Shutdown | Reason::ShutdownDeadline);
        let (now, stopping) = (core.now, core.shutting_down);
        // Not if the job was cancelled while its connection was open: `advance` removes it.
        let Some(job) = core.connect_jobs.get_mut(id).filter(|a| matches!(a.stage, ConnectStage::Connected)) else {
            return;
        };
        let policy = job.options.retry.filter(|_| !wished && !stopping);
        let Some(policy) = policy else { return self.remove_job(id) };
        // It lasted longer than the longest wait: this is a new outage, and begins with the shortest one.
        if now.since(job.next) >= policy.max {
            job.backoffs = 0;
        }
        self.begin_backoff(id, &policy);
    }

    /// An attempt waits before its next try.
    fn begin_backoff(&mut self, id: AttemptId, policy: &Backoff) -> Duration {
        let random = self.sys.random();
        let core = &mut self.dispatcher.core;
        let now = core.now;
        let Some(job) = core.connect_jobs.live_mut(id) else { return policy.max };
        job.backoffs = job.backoffs.saturating_add(1);
        let wait = policy.wait(job.backoffs, random);
        job.next = now.after(wait);
        core.stats.connect_retries += 1;
        log::debug!("{id}: retrying in {wait:?}");
        core.connect_jobs.set_stage(id, ConnectStage::Backoff);
        core.connect_jobs.update_deadline(id);
        wait
    }

    /// Records why one address failed, for the error of the whole try.
    fn record_failure(&mut self, id: AttemptId, address: String, error: io::Error) {
        let core = &mut self.dispatcher.core;
        if let Some(job) = core.connect_jobs.live_mut(id) {
            log::debug!("{id}: {address}: {error}");
            job.errors.push((address, error));
            // The next address need not wait for the stagger.
            job.next = core.now;
        }
    }

    fn try_failed(&mut self, id: AttemptId, address: String, error: io::Error) {
        self.record_failure(id, address, error);
        self.give_up(id);
    }

    /// Ends a try that has reached its timeout.
    fn time_out(&mut self, id: AttemptId) {
        let core = &mut self.dispatcher.core;
        let Some(job) = core.connect_jobs.live_mut(id) else { return };
        let looking = matches!(job.stage, ConnectStage::LookingUp);
        job.left.clear();
        let timeout = job.timeout(&core.limits);
        let what = if looking { "name not resolved" } else { "no answer" };
        let error = io::Error::new(ErrorKind::TimedOut, format!("{what} within {timeout:?}"));
        self.try_failed(id, String::new(), error);
    }

    /// Ends a failed try: schedules the next one after a backoff, or reports the failure to the handler.
    fn give_up(&mut self, id: AttemptId) {
        self.end_lookup(id);
        let core = &mut self.dispatcher.core;
        let stopping = core.shutting_down;
        let Some(job) = core.connect_jobs.live_mut(id) else { return };
        let trying = std::mem::take(&mut job.trying);
        job.failed = job.failed.saturating_add(1);
        let failed = job.failed;
        let again = job.options.retry.filter(|policy| !stopping && !policy.is_over(failed));
        let (handler, tag, error) = (job.handler, job.tag, job.take_error());
        trying.into_iter().for_each(|conn| core.cancel_dial(conn));
        match again {
            Some(policy) => {
                // First the new stage, then the callback, which may cancel the job.
                let wait = self.begin_backoff(id, &policy);
                self.dispatcher.connect_retry(handler, tag, &error, wait);
                self.after_handler_callback(CallSite::Handler(handler));
            }
            None => self.report_connect_failure(id, &error),
        }
    }

    /// Removes a connect job and calls `on_connect_failed`.
    fn report_connect_failure(&mut self, id: AttemptId, error: &io::Error) {
        // Removed before the callback: the handler may connect again in it, and must find this job's slot free even at
        // the limit.
        let Some((handler, tag)) = self.take_job(id) else { return };
        self.dispatcher.core.stats.connect_failed += 1;
        self.dispatcher.connect_failed(handler, tag, error);
        self.after_handler_callback(CallSite::Handler(handler));
        // After the callback: without this job the handler may have no user left, and is dropped.
        self.dispatcher.release(handler);
    }

    /// Cancels the lookup of a connect job, if one is running. The caller ends its stage.
    fn end_lookup(&mut self, id: AttemptId) {
        if let Some(number) = self.dispatcher.core.connect_jobs.end_lookup(id) {
            self.sys.cancel_lookup(number);
        }
    }

    fn remove_job(&mut self, id: AttemptId) {
        if let Some((handler, _)) = self.take_job(id) {
            self.dispatcher.release(handler);
        }
    }

    /// Removes a connect job. Returns its handler and its tag.
    fn take_job(&mut self, id: AttemptId) -> Option<(HandlerIdx, u64)> {
        self.end_lookup(id);
        let job = self.dispatcher.core.connect_jobs.remove(id)?;
        Some((job.handler, job.tag))
    }
}

fn limit_reached(connections: usize) -> io::Error {
    let what = format!("limit of {connections} connections reached");
    io::Error::new(ErrorKind::QuotaExceeded, what)
}
