//! The audit: checks the invariants that hold between any two turns, by recounting the structures.
//!
//! For tests and simulations only. Invariant: it changes nothing, and trusts no counter that it can recount.

use super::event_loop::EventLoop;
use crate::buffer::pool::LARGE;
use crate::connection::{Connection, Membership, Phase};
use crate::core::connect_jobs::ConnectStage;
use crate::core::datagram_sockets::DatagramPhase;
use crate::id::ConnId;
use crate::sys::Sys;

impl<S: Sys> EventLoop<S> {
    /// Checks all invariants. Returns the first violation.
    pub(crate) fn audit(&self) -> Result<(), String> {
        let core = &self.dispatcher.core;
        let (streams, conns) = (self.streams.iter().count(), core.conns.len());
        require(streams == conns, || format!("N6: {streams} streams in {conns} slots"))?;
        let stats = core.snapshot();
        let reconciled = stats.accepted + stats.connected + stats.refused == stats.open + stats.closed_total();
        require(reconciled, || format!("N6: the counters do not add up: {stats}"))?;
        let (max, reserved) = (core.limits.connections.get(), core.reserved);
        require(conns.saturating_add(reserved) <= max, || format!("N6: {conns} connections + {reserved} of {max}"))?;
        let unused: usize = core.conns.iter().map(|c| core.unused_reserve(Some(c.id))).sum();
        require(unused == reserved, || format!("N6: {unused} places reserved, {reserved} counted"))?;
        self.audit_memory()?;
        self.audit_datagrams()?;
        self.audit_holds()?;
        self.audit_connect_jobs()?;
        core.conns.iter().try_for_each(|c| self.audit_connection(c))
    }

    fn audit_memory(&self) -> Result<(), String> {
        let core = &self.dispatcher.core;
        let (pool, limits) = (&core.pool, &core.limits);
        let kept: usize = core.conns.iter().map(Connection::buffered_len).sum();
        require(pool.input() >= kept, || format!("N9: {} B counted of {kept} B buffered", pool.input()))?;
        let buffers: usize = core.conns.iter().filter_map(|c| c.input.as_ref()).map(|k| k.retained_bytes()).sum();
        require(pool.input() == buffers, || {
            format!("N9: {} B of input counted, {buffers} B in buffers", pool.input())
        })?;
        let held: usize = core.conns.iter().map(|c| c.out.retained_bytes()).sum();
        require(pool.output() >= held, || format!("N9: {} B counted of {held} B held", pool.output()))?;
        let most = limits.output_total.get().saturating_add(limits.read_buffer + LARGE);
        require(pool.output() <= most, || format!("N9: {} B of output, {most} B allowed", pool.output()))?;
        let most = limits.input_total.get().saturating_add(limits.read_buffer + LARGE);
        require(pool.input() <= most, || format!("N9: {} B of input, {most} B allowed", pool.input()))?;
        let idle = core.groups.with_unsent.is_empty()
            && core.conns.iter().all(|c| c.out.pending() == 0)
            && core.datagrams.slots.iter().all(|m| m.pending() == 0);
        require(!idle || pool.output() == 0, || format!("N9: nothing is unsent, {} B counted", pool.output()))
    }

    /// Datagram sockets: no queue exceeds its limit, none with work is unscheduled, and an empty one holds no memory.
    fn audit_datagrams(&self) -> Result<(), String> {
        let core = &self.dispatcher.core;
        let (sockets, states) = (self.bound_sockets.iter().count(), core.datagrams.slots.len());
        require(sockets == states, || format!("N6: {sockets} datagram sockets, {states} in the core"))?;
        core.datagrams.slots.iter().try_for_each(|m| {
            let told = |what: &str| format!("{what}: {m:?}");
            require(m.cost() <= core.limits.datagram_queue, || told("N9: queue above its limit"))?;
            require(m.pending() > 0 || m.out.retained_bytes() + m.retry_queue.retained_bytes() == 0, || {
                told("N9: an empty queue holds memory")
            })?;
            require(!m.has_work() || m.is_awaited(), || told("N7: has work, and is in no work list"))?;
            let closed = core.datagrams.closed.contains(&m.id);
            require(closed == (m.phase == DatagramPhase::Closed), || told("N5: closed, and not queued for on_close"))
        })
    }

    /// Backpressure: in each group, which members are slow, and which connections that pauses.
    fn audit_holds(&self) -> Result<(), String> {
        let core = &self.dispatcher.core;
        let mut pause_count = std::collections::BTreeMap::new();
        for state in core.groups.states.iter() {
            let slow = state.members.iter().filter(|m| m.slow).count();
            require(slow == state.slow as usize, || format!("N9: {slow} slow members, {} counted", state.slow))?;
            require(slow > 0 || state.waiting.is_empty(), || "N9: paused without a slow member".to_owned())?;
            for (place, m) in state.members.iter().enumerate() {
                let c = core.conns.get(m.conn);
                require(!m.slow || c.is_some_and(|c| c.flow.above_high_water), || {
                    format!("N9: slow, and below the high-water mark: {c:?}")
                })?;
                let named = |m: &Membership| {
                    m.place as usize == place && core.groups.states.get(m.group).is_some_and(|r| std::ptr::eq(r, state))
                };
                let same = c.is_some_and(|c| c.groups.iter().any(named));
                require(same, || format!("N3: member and connection disagree: {c:?}"))?;
            }
            state.waiting.iter().for_each(|id| *pause_count.entry(*id).or_insert(0) += 1);
        }
        core.conns.iter().filter(|c| c.phase == Phase::Open).try_for_each(|c| {
            let high = |to: &&ConnId| core.conns.get(**to).is_some_and(|c| c.flow.above_high_water);
            let links = c.cold().map_or(0, |r| r.links_to.iter().filter(high).count());
            let n = pause_count.get(&c.id).copied().unwrap_or(0) + links as u16;
            // `waiting` may hold ids of closed connections. A test with few generations reuses ids, so such an entry
            // may look like this connection's: hence `<=`.
            require(c.flow.pause_count <= n, || format!("N9: paused by {n}: {c:?}"))
        })
    }

    /// Connect jobs: their sockets and lookups agree with the counts.
    fn audit_connect_jobs(&self) -> Result<(), String> {
        let core = &self.dispatcher.core;
        let connecting = core.conns.iter().filter(|c| c.phase == Phase::Connecting).count();
        let tried: usize = core.connect_jobs.iter().map(|a| a.trying.len()).sum();
        require(connecting == tried, || format!("N6: {connecting} sockets connecting, {tried} in connect jobs"))?;
        let looking = core.connect_jobs.iter().filter(|a| matches!(a.stage, ConnectStage::LookingUp)).count();
        require(looking == core.connect_jobs.active_lookups, || {
            format!("N6: {looking} lookups, {} counted", core.connect_jobs.active_lookups)
        })?;
        require(core.cancelled_dials.is_empty(), || "N6: a cancelled socket is still open".to_owned())
    }

    fn audit_connection(&self, c: &Connection) -> Result<(), String> {
        let core = &self.dispatcher.core;
        let closed = c.phase == Phase::Closed;
        let told = |what: &str| format!("{what}: {c:?}");
        require(!closed || c.out.pending() == 0, || told("N9: closed, with unsent output"))?;
        let gone = c.groups.is_empty() && c.reason().is_some();
        require(c.phase <= Phase::Open || gone, || told("N5: closing without a reason, or in a group"))?;
        require(!closed || core.close_notify.contains(&c.id), || told("N5: closed, and not queued for on_close"))?;
        let most = core.limits.output_hard.get().saturating_add(core.limits.read_buffer);
        require(c.out.pending() <= most, || told("N9: outbox above its limit"))?;
        if c.phase == Phase::Open {
            let stopped = c.is_read_blocked() || c.flow.throttled;
            require(c.message_clock.is_paused() == stopped, || {
                told("N11: the message clock must be paused exactly while reading is")
            })?;
            let high = c.flow.above_high_water || c.halves.write_failed || c.out.pending() < core.limits.output_high;
            require(high, || told("N9: above the high-water mark, and read"))?;
        }
        let busy = core.has_work(c);
        require(!busy || c.queues.ready || c.queues.dirty, || told("N7: has work, and is in no work list"))
    }
}

/// Returns an error with this text unless the condition holds.
pub(crate) fn require(holds: bool, text: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(text()) }
}
