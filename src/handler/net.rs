//! The verbs that need no current connection.
//!
//! Knows no sockets and no loop. Invariant: every verb only writes to the core's memory; what follows from it (a write,
//! a close, another connection's callback) happens after the callback has returned.

use std::time::Duration;

use bytes::Bytes;

use crate::closed::Reason;
use crate::config::address::Address;
use crate::config::connect::Connect;
use crate::connection::{Connection, Phase};
use crate::core::{Core, Sent};
use crate::group::SlowMember;
use crate::handler::snapshot::Snapshot;
use crate::id::{AttemptId, ConnId, Group, HandlerIdx, Key, TimerId};
use crate::stats::Stats;
use crate::time::timers::Owner;

/// The verbs that need no current connection. A [`Context`](crate::Context) derefs to it; between turns,
/// [`Reactor::net`](crate::Reactor::net) gives it.
///
/// An id whose connection has gone is answered with `false`, `None` or [`Sent::Closed`]; it never names another one.
#[derive(Debug)]
pub struct Net<'a> {
    core: &'a mut Core,
    current: Option<ConnId>,
    /// The handler whose callback runs, or for which this was asked.
    handler: Option<HandlerIdx>,
}

impl<'a> Net<'a> {
    pub(crate) const fn new(
        core: &'a mut Core,
        current: Option<ConnId>,
        handler: Option<HandlerIdx>,
    ) -> Self {
        Self { core, current, handler }
    }

    /// Everything that verbs act on.
    pub(crate) const fn core(&self) -> &Core {
        self.core
    }

    /// Everything that verbs act on, to act on it.
    pub(crate) const fn core_mut(&mut self) -> &mut Core {
        self.core
    }

    /// The same verbs for another handler: its timers, and its connections to come. `None` for a key of another
    /// reactor.
    pub fn of<H>(&mut self, key: Key<H>) -> Option<Net<'_>> {
        let handler = key.index_in(self.core.number)?;
        Some(Net::new(self.core, self.current, Some(handler)))
    }

    /// Sends a message to any connection, in the framing of that one. It is written at the end of the turn.
    pub fn send_to(&mut self, id: ConnId, message: impl AsRef<[u8]>) -> Sent {
        self.core.send(id, message.as_ref())
    }

    /// [`send_to`](Net::send_to) without copying, where the receiver is not framed and the bytes are many.
    pub fn send_bytes_to(&mut self, id: ConnId, message: Bytes) -> Sent {
        self.core.send_bytes(id, message)
    }

    /// Closes a connection in good order: what was accepted for sending is written, FIN follows, and input is read and
    /// thrown away until the peer closes too (for a limited time), so that nothing of it is lost. False when it is
    /// ending already.
    pub fn close_id(&mut self, id: ConnId) -> bool {
        let why = self.core.close_reason(id);
        self.core.begin_close(id, why)
    }

    /// Sends FIN to a connection once everything is written, and goes on receiving; see
    /// [`Context::shutdown_write`](crate::Context::shutdown_write). False when it is ending, or was asked before.
    pub fn shutdown_write_id(&mut self, id: ConnId) -> bool {
        self.core.shutdown_write(id)
    }

    /// Ends a connection at once, with a reset; what waits for it is thrown away (and counted). One that is closing,
    /// and for which nothing waits any more, is not reset but only waits no longer. False when it has ended already.
    pub fn abort_id(&mut self, id: ConnId) -> bool {
        let alive =
            self.core.conns.get(id).is_some_and(|c| !matches!(c.phase, Phase::Connecting | Phase::Closed));
        self.core.terminate(id, Reason::Handler);
        alive
    }

    /// Stops reading a connection until [`resume_id`](Net::resume_id): the peer's sends back up, and nothing is lost.
    /// False when it is ending.
    pub fn pause_id(&mut self, id: ConnId) -> bool {
        self.core.set_paused(id, true)
    }

    /// Reads a paused connection again. False when it is ending.
    pub fn resume_id(&mut self, id: ConnId) -> bool {
        self.core.set_paused(id, false)
    }

    /// Asks for a connection, for the handler whose callback this is. It comes about later: then
    /// [`on_open`](crate::Handler::on_open) is called, with [`Origin::Connected(tag)`](crate::Origin::Connected); or it
    /// does not, and [`on_connect_failed`](crate::Handler::on_connect_failed) is, once, whatever was wrong: the address
    /// too.
    ///
    /// `None`, and nothing follows, when [`Limits::attempts`](crate::Limits::attempts) are asked for, the reactor is
    /// shutting down, or this is no handler's ([`Reactor::net`](crate::Reactor::net): ask [`Net::of`]).
    ///
    /// The tag is what you like: a number of your own, or the other end of a pair, as
    /// [`id.to_bits()`](ConnId::to_bits).
    pub fn connect(&mut self, to: impl Into<Connect>, tag: u64) -> Option<AttemptId> {
        let handler = self.handler("connect")?;
        self.core.connect(handler, to.into(), tag)
    }

    /// The handler that a verb is for, if it is for one.
    fn handler(&self, verb: &str) -> Option<HandlerIdx> {
        if self.handler.is_none() {
            log::error!("{verb} was asked of verbs that are no handler's: nothing follows (see `Net::of`)");
        }
        self.handler
    }

    /// Begins a shutdown with [`Limits::shutdown_grace`](crate::Limits::shutdown_grace) when the turn is over; asked
    /// again, the grace is over. [`Handle::stop`](crate::Handle::stop) does the same from another thread.
    pub fn stop(&mut self) {
        self.core.stop_requests = self.core.stop_requests.saturating_add(1);
    }

    /// Gives up an attempt to connect, without a word: nothing follows. Where it has led to a connection already, that
    /// goes on, and no other will follow it ([`Connect::reconnect`]). False when it is over.
    pub fn cancel_connect(&mut self, attempt: AttemptId) -> bool {
        self.core.cancel_connect(attempt)
    }

    /// Stops reading `from` while much waits to be written to `to`: from
    /// [`Limits::output_high`](crate::Limits::output_high) on, until no more than
    /// [`Limits::output_low`](crate::Limits::output_low) waits. What is read of `from` fits what may still wait for
    /// `to`, so that who only passes bytes on never overruns a receiver. Ends by itself when either begins to close. A
    /// relay links both ways. False when one of them is ending, or has
    /// [`Limits::links_per_connection`](crate::Limits::links_per_connection).
    pub fn link(&mut self, from: ConnId, to: ConnId) -> bool {
        self.core.link(from, to)
    }

    /// Undoes a [`link`](Net::link). False when there is none.
    pub fn unlink(&mut self, from: ConnId, to: ConnId) -> bool {
        self.core.remove_link(from, to)
    }

    /// Whether a connection is open: neither ended nor being closed.
    pub fn is_open(&self, id: ConnId) -> bool {
        self.core.conns.get(id).is_some_and(|c| c.phase == Phase::Open)
    }

    /// The address of a connection's peer.
    pub fn peer_of(&self, id: ConnId) -> Option<Address> {
        self.core.conns.get(id).map(|c| c.peer.address())
    }

    /// How many bytes wait to be written to a connection, not counting this turn's broadcasts.
    pub fn pending_of(&self, id: ConnId) -> Option<usize> {
        self.core.conns.get(id).map(|c| self.core.pending(c))
    }

    /// The open connections, in no particular order.
    pub fn connections(&self) -> impl Iterator<Item = ConnId> {
        let current = self.current;
        let told = move |c: &&Connection| c.phase == Phase::Open && (c.has_state || Some(c.id) == current);
        self.core.conns.iter().filter(told).map(|c| c.id)
    }

    /// What a connection is doing; `None` when it has gone.
    pub fn snapshot(&self, id: ConnId) -> Option<Snapshot> {
        self.core.conns.get(id).map(|c| Snapshot::new(self.core, c))
    }

    /// What each connection is doing, those included that are closing or not there yet, in no particular order.
    pub fn snapshots(&self) -> impl Iterator<Item = Snapshot> {
        self.core.conns.iter().map(|c| Snapshot::new(self.core, c))
    }

    /// Makes a group whose slow members are cut. `None` when there are [`Limits::groups`](crate::Limits::groups).
    pub fn group(&mut self) -> Option<Group> {
        self.group_with(SlowMember::default())
    }

    /// Makes a group with another policy for slow members.
    pub fn group_with(&mut self, policy: SlowMember) -> Option<Group> {
        self.core.create_group(policy)
    }

    /// Ends a group. Its members stay connected, and get what was sent to it before. False when there is none.
    pub fn drop_group(&mut self, group: Group) -> bool {
        self.core.drop_group(group)
    }

    /// The members of a group, in no particular order; none for a group that has been dropped.
    pub fn members(&self, group: Group) -> impl ExactSizeIterator<Item = ConnId> {
        self.core.groups.states.get(group).map_or(&[][..], |state| &state.members).iter().map(|m| m.conn)
    }

    /// Makes a connection a member of a group; a member stays one. It leaves by itself when it closes. False when there
    /// is no such group or connection, the connection is closing, or it is in
    /// [`Limits::groups_per_connection`](crate::Limits::groups_per_connection) groups.
    pub fn join_id(&mut self, group: Group, id: ConnId) -> bool {
        self.core.join(group, id)
    }

    /// Ends a membership. What was sent to the group before still arrives. False when there was none.
    pub fn leave_id(&mut self, group: Group, id: ConnId) -> bool {
        self.core.leave(group, id)
    }

    /// Sends a message to every member of a group, to each in its own framing, in the order of sending. Written at the
    /// end of the turn, one write for each member. Answers how many members it will reach, which leaves out those whose
    /// framing cannot carry it (counted).
    pub fn broadcast(&mut self, group: Group, message: impl AsRef<[u8]>) -> usize {
        self.core.broadcast(group, message.as_ref(), self.current, None)
    }

    /// Sets a timer of the handler's own, of no connection: [`on_tick`](crate::Handler::on_tick) is called with `key`
    /// when `after` has gone by, not earlier, and once. The time is counted from the end of the callback that sets it.
    /// `None` when there are [`Limits::timers`](crate::Limits::timers), or this is no handler's
    /// ([`Reactor::net`](crate::Reactor::net): ask [`Net::of`]).
    pub fn set_tick(&mut self, after: Duration, key: u64) -> Option<TimerId> {
        let handler = self.handler("set_tick")?;
        self.core.set_timer(Owner::Handler(handler), key, after, None)
    }

    /// [`set_tick`](Net::set_tick), again and again: each time a multiple of `every` (1 ms at least) after the first,
    /// and without those that were missed.
    pub fn set_tick_every(&mut self, every: Duration, key: u64) -> Option<TimerId> {
        let handler = self.handler("set_tick_every")?;
        self.core.set_timer(Owner::Handler(handler), key, every, Some(every))
    }

    /// Ends a timer, of a connection or a handler. False when it has gone off for the last time or ended already.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.core.cancel_timer(timer)
    }

    /// Lets a timer go off `after` from now, whenever it was due before. False when it has gone off for the last time
    /// or ended already.
    pub fn rearm_timer(&mut self, timer: TimerId, after: Duration) -> bool {
        let now = self.core.now;
        self.core.timers.rearm(timer, now, after)
    }

    /// A snapshot of the reactor's counters.
    pub fn stats(&self) -> Stats {
        self.core.snapshot()
    }
}
