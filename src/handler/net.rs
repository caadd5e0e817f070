//! Actions that need no current connection.
//!
//! Invariant: every method only changes memory of the core. Its consequences (a write, a close, a callback of another
//! connection) follow after the running callback has returned.

use std::marker::PhantomData;
use std::time::Duration;

use bytes::Bytes;

use crate::buffer::pieces::Pieces;
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

/// Actions that need no current connection. A [`Context`](crate::Context) derefs to it; between turns, use
/// [`Reactor::net`](crate::Reactor::net).
///
/// For the id of a connection that has been removed, methods return `false`, `None` or [`Sent::Closed`]. An id never
/// refers to another connection.
#[derive(Debug)]
pub struct Net<'a> {
    /// First, so that the compiler names it before what is inside.
    not_send: PhantomData<dyn GiveAHandleToOtherThreads>,
    core: &'a mut Core,
    current: Option<ConnId>,
    /// The handler whose callback is running, or the one passed to [`Net::of`].
    handler: Option<HandlerIdx>,
}

/// Whoever uses a `Net` or a context in another thread reads this name in the error.
trait GiveAHandleToOtherThreads {}

impl<'a> Net<'a> {
    pub(crate) const fn new(core: &'a mut Core, current: Option<ConnId>, handler: Option<HandlerIdx>) -> Self {
        Self { not_send: PhantomData, core, current, handler }
    }

    /// Returns the core, which all actions work on.
    pub(crate) const fn core(&self) -> &Core {
        self.core
    }

    /// Returns the core, mutably.
    pub(crate) const fn core_mut(&mut self) -> &mut Core {
        self.core
    }

    /// Returns a `Net` that acts for another handler: timers and outbound connections will belong to it. Returns
    /// `None` for a key of another reactor.
    pub fn of<H>(&mut self, key: Key<H>) -> Option<Net<'_>> {
        let handler = key.index_in(self.core.number)?;
        Some(Net::new(self.core, self.current, Some(handler)))
    }

    /// Sends a message to any connection, in that connection's framing. It is written at the end of the turn.
    pub fn send_to(&mut self, id: ConnId, message: impl AsRef<[u8]>) -> Sent {
        self.core.send(id, message.as_ref())
    }

    /// Like [`send_to`](Net::send_to), but does not copy the bytes if the receiver has no framing and they are many.
    pub fn send_bytes_to(&mut self, id: ConnId, message: Bytes) -> Sent {
        self.core.send_bytes(id, message)
    }

    /// Sends [`Pieces`] to a connection: 64 KiB of them are fetched whenever those before are written, so they may be
    /// of any number of bytes. What is sent later waits behind them, and so do a close and a half-close. Until they
    /// are all fetched, the connection is not read, and [`on_drain`](crate::Handler::on_drain) is not called.
    ///
    /// If the source fails, the connection is closed with [`Reason::PiecesFailed`]; if it panics, with
    /// [`Reason::HandlerPanic`]. A piece that the framing cannot encode is dropped and counted. At most 64 calls may
    /// wait on a connection: one more terminates it, as an output limit does.
    pub fn send_all_to(&mut self, id: ConnId, pieces: impl Into<Pieces>) -> Sent {
        self.core.send_all(id, pieces.into())
    }

    /// Closes a connection gracefully: writes all queued output, sends FIN, then reads and discards input until the
    /// peer closes too, for a limited time. Without this a reset could destroy output that the peer has not read yet.
    /// Returns `false` if it is closing already.
    pub fn close_id(&mut self, id: ConnId) -> bool {
        let why = self.core.close_reason(id);
        self.core.begin_close(id, why)
    }

    /// Closes a connection as [`close_id`](Net::close_id) does, but ends it with a reset, so that the peer does not
    /// take what it has received for the whole. A reset destroys what has not reached the peer, and the system does not
    /// tell what has. So it is sent when nothing was written for
    /// [`Limits::linger_quiet`](crate::Limits::linger_quiet): at once, if the last write was longer ago. A peer that
    /// does not read for so long still loses what the kernel holds for it. Returns `false` if the connection is closing
    /// already.
    pub fn close_with_reset_id(&mut self, id: ConnId) -> bool {
        self.core.close_with_reset(id)
    }

    /// Half-closes a connection: sends FIN once everything is written, and continues to receive; see
    /// [`Context::shutdown_write`](crate::Context::shutdown_write). Returns `false` if it is closing, or if this was
    /// called before.
    pub fn shutdown_write_id(&mut self, id: ConnId) -> bool {
        self.core.shutdown_write(id)
    }

    /// Terminates a connection at once, with a reset. Unsent output is discarded and counted; to have it delivered
    /// first, use [`close_with_reset_id`](Net::close_with_reset_id). A connection that is closing and has no unsent
    /// output is not reset; it only stops waiting for the peer. Returns `false` if it has ended already.
    pub fn abort_id(&mut self, id: ConnId) -> bool {
        let alive = self.core.conns.get(id).is_some_and(|c| !matches!(c.phase, Phase::Connecting | Phase::Closed));
        self.core.terminate(id, Reason::Handler);
        alive
    }

    /// Stops reading a connection until [`resume_id`](Net::resume_id) is called. Backpressure then reaches the peer,
    /// and no input is lost. Returns `false` if the connection is closing.
    pub fn pause_id(&mut self, id: ConnId) -> bool {
        self.core.set_paused(id, true)
    }

    /// Resumes reading a paused connection. Returns `false` if the connection is closing.
    pub fn resume_id(&mut self, id: ConnId) -> bool {
        self.core.set_paused(id, false)
    }

    /// Requests an outbound connection for the handler of this callback. If it is established,
    /// [`on_open`](crate::Handler::on_open) is called with [`Origin::Connected(tag)`](crate::Origin::Connected) as its
    /// origin. If not, [`on_connect_failed`](crate::Handler::on_connect_failed) is called once, whatever the error,
    /// including an invalid address. Both happen after this callback.
    ///
    /// Returns `None`, and calls nothing later, if there are [`Limits::attempts`](crate::Limits::attempts) connect
    /// jobs, if the reactor is shutting down, or if this `Net` has no handler. [`Reactor::net`](crate::Reactor::net)
    /// has none: use [`Net::of`].
    ///
    /// At the limit of connections it fails, unless a place was reserved for it: see
    /// [`Listen::reserve_connects`](crate::Listen::reserve_connects).
    ///
    /// The tag is yours to choose: a number of your own, or the other end of a pair as
    /// [`id.to_bits()`](ConnId::to_bits).
    pub fn connect(&mut self, to: impl Into<Connect>, tag: u64) -> Option<AttemptId> {
        let handler = self.handler("connect")?;
        self.core.connect(handler, to.into(), tag, self.current)
    }

    /// Returns the handler that this `Net` acts for. Logs an error if there is none.
    fn handler(&self, verb: &str) -> Option<HandlerIdx> {
        if self.handler.is_none() {
            log::error!("`Net::{verb}` called without a handler; ignored. Use `Net::of(key)`.");
        }
        self.handler
    }

    /// Requests a shutdown with [`Limits::shutdown_grace`](crate::Limits::shutdown_grace), which begins after this
    /// turn. A second call ends the grace period at once. [`Handle::stop`](crate::Handle::stop) does the same from
    /// another thread.
    pub fn stop(&mut self) {
        self.core.stop_requests = self.core.stop_requests.saturating_add(1);
    }

    /// Cancels a connect job. No callback is called for it. If it has already led to a connection, the connection
    /// stays open, and there will be no reconnect ([`Connect::reconnect`]). Returns `false` if the job is over.
    pub fn cancel_connect(&mut self, attempt: AttemptId) -> bool {
        self.core.cancel_connect(attempt)
    }

    /// Links two connections for backpressure: stops reading `from` when `to` has
    /// [`Limits::output_high`](crate::Limits::output_high) of unsent output, until it has no more than
    /// [`Limits::output_low`](crate::Limits::output_low). Reads of `from` are also no larger than what `to` may still
    /// queue, so a relay that only passes bytes on never overruns the receiver. A link ends when either connection
    /// begins to close. A relay links both directions. Returns `false` if one of them is closing or has
    /// [`Limits::links_per_connection`](crate::Limits::links_per_connection) links, or if they are the same: a
    /// connection is always paused by its own output.
    pub fn link(&mut self, from: ConnId, to: ConnId) -> bool {
        self.core.link(from, to)
    }

    /// Removes a [`link`](Net::link). Returns `false` if there is none.
    pub fn unlink(&mut self, from: ConnId, to: ConnId) -> bool {
        self.core.remove_link(from, to)
    }

    /// Returns whether a connection is open: neither connecting, closing nor ended.
    pub fn is_open(&self, id: ConnId) -> bool {
        self.core.conns.get(id).is_some_and(|c| c.phase == Phase::Open)
    }

    /// Returns the address of a connection's peer; `None` if the connection has been removed.
    pub fn peer_of(&self, id: ConnId) -> Option<Address> {
        self.core.conns.get(id).map(|c| c.peer.address())
    }

    /// Returns how many bytes of output to a connection are unsent, without the broadcasts of this turn. Returns `None`
    /// if the connection has been removed.
    pub fn pending_of(&self, id: ConnId) -> Option<usize> {
        self.core.conns.get(id).map(|c| self.core.pending(c))
    }

    /// Returns the open connections, in no particular order. The ids are copied (8 bytes each), so the loop may send,
    /// close, or do anything else:
    ///
    /// ```
    /// # let mut reactor = turnwheel::Reactor::new()?;
    /// # let mut net = reactor.net();
    /// for id in net.connections() {
    ///     net.send_to(id, "good night\n");
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// A connection that closes meanwhile is still among them; what is done with its id returns `false`, `None` or
    /// [`Sent::Closed`].
    pub fn connections(&self) -> impl ExactSizeIterator<Item = ConnId> + use<> {
        let current = self.current;
        // The connection of a running `on_open` has no state yet, but it is open to its handler.
        let told = move |c: &&Connection| c.phase == Phase::Open && (c.has_state || Some(c.id) == current);
        self.core.conns.iter().filter(told).map(|c| c.id).collect::<Vec<_>>().into_iter()
    }

    /// Returns the current state of a connection; `None` if it has been removed.
    pub fn snapshot(&self, id: ConnId) -> Option<Snapshot> {
        self.core.conns.get(id).map(|c| Snapshot::new(self.core, c))
    }

    /// Returns the current state of every connection, including those that are connecting or closing, in no particular
    /// order. Each is read when the iterator reaches it, so nothing can be done meanwhile: collect the ids first.
    ///
    /// ```
    /// # let mut reactor = turnwheel::Reactor::new()?;
    /// # let mut net = reactor.net();
    /// let silent: Vec<_> = net.snapshots().filter(|s| s.bytes_in == 0).map(|s| s.id).collect();
    /// for id in silent {
    ///     net.close_id(id);
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn snapshots(&self) -> impl Iterator<Item = Snapshot> {
        self.core.conns.iter().map(|c| Snapshot::new(self.core, c))
    }

    /// Creates a group that closes slow members ([`SlowMember::Cut`]). Returns `None` if there are
    /// [`Limits::groups`](crate::Limits::groups) groups.
    pub fn group(&mut self) -> Option<Group> {
        self.group_with(SlowMember::default())
    }

    /// Like [`group`](Net::group), with another policy for slow members.
    pub fn group_with(&mut self, policy: SlowMember) -> Option<Group> {
        self.core.create_group(policy)
    }

    /// Drops a group. Its members stay connected and still receive what was sent to it before. Returns `false` if it
    /// does not exist.
    pub fn drop_group(&mut self, group: Group) -> bool {
        self.core.drop_group(group)
    }

    /// Returns the members of a group, in no particular order; none if the group has been dropped. The ids are copied,
    /// as by [`connections`](Net::connections).
    pub fn members(&self, group: Group) -> impl ExactSizeIterator<Item = ConnId> + use<> {
        let members = self.core.groups.states.get(group).map_or(&[][..], |state| &state.members);
        members.iter().map(|m| m.conn).collect::<Vec<_>>().into_iter()
    }

    /// Adds a connection to a group; does nothing if it is a member already. A connection leaves its groups when it
    /// closes. Returns `false` if the group or the connection does not exist, if the connection is closing, or if it
    /// is in [`Limits::groups_per_connection`](crate::Limits::groups_per_connection) groups.
    pub fn join_id(&mut self, group: Group, id: ConnId) -> bool {
        self.core.join(group, id)
    }

    /// Removes a connection from a group. It still receives what was sent to the group before. Returns `false` if it
    /// was not a member.
    pub fn leave_id(&mut self, group: Group, id: ConnId) -> bool {
        self.core.leave(group, id)
    }

    /// Sends a message to every member of a group, to each in its own framing and in the order of sending. It is
    /// written at the end of the turn, with one write per member. Returns how many members it was queued for; members
    /// whose framing cannot carry it are left out and counted.
    pub fn broadcast(&mut self, group: Group, message: impl AsRef<[u8]>) -> usize {
        self.core.broadcast(group, message.as_ref(), self.current, None)
    }

    /// Sets a timer of the handler itself, which belongs to no connection: [`on_tick`](crate::Handler::on_tick) is
    /// called once with `key`, no earlier than `after` from the end of the callback that sets it. Returns `None` if
    /// there are [`Limits::timers`](crate::Limits::timers) in total, or if this `Net` has no handler.
    /// [`Reactor::net`](crate::Reactor::net) has none: use [`Net::of`].
    pub fn set_tick(&mut self, after: Duration, key: u64) -> Option<TimerId> {
        let handler = self.handler("set_tick")?;
        self.core.set_timer(Owner::Handler(handler), key, after, None)
    }

    /// Like [`set_tick`](Net::set_tick), but repeats: it fires every `every` (at least 1 ms) at fixed multiples after
    /// the first time, and skips the ones that were missed.
    pub fn set_tick_every(&mut self, every: Duration, key: u64) -> Option<TimerId> {
        let handler = self.handler("set_tick_every")?;
        self.core.set_timer(Owner::Handler(handler), key, every, Some(every))
    }

    /// Cancels a timer of a connection or a handler. Returns `false` if it has fired for the last time or was
    /// canceled.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.core.cancel_timer(timer)
    }

    /// Re-arms a timer to fire `after` from now, whenever it was due before. Returns `false` if it has fired for the
    /// last time or was canceled.
    pub fn rearm_timer(&mut self, timer: TimerId, after: Duration) -> bool {
        let now = self.core.now;
        self.core.timers.rearm(timer, now, after)
    }

    /// Returns a snapshot of the reactor's counters.
    pub fn stats(&self) -> Stats {
        self.core.snapshot()
    }
}
