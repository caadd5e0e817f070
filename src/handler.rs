//! What a user writes ([`Handler`]) and what it acts on ([`Context`], [`Net`]).
//!
//! Knows no sockets and no loop. Invariant: callbacks never nest. Every verb here only writes to the core's memory;
//! what follows from it (a write, a close, another connection's callback) happens after the callback has returned.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;

use crate::closed::{Closed, Reason};
use crate::codec::{FrameError, Framing};
use crate::connection::Phase;
use crate::core::{Core, Sent};
use crate::endpoint::Address;
use crate::group::SlowMember;
use crate::id::{ConnId, Group, ListenerId};
use crate::stats::Stats;

/// A protocol as a state machine: the value owns what its connections share, and its [`State`](Handler::State) is what
/// it remembers about one of them.
///
/// Callbacks are infallible. What a handler wants to end, it ends: [`Context::close`] (in good order),
/// [`Context::abort`] (at once), [`Context::fail`] (in good order, with a protocol error as the reason). From then on
/// the connection is in no group, gets no data and refuses sends; [`on_close`](Handler::on_close) comes when its fate
/// is known.
///
/// ```
/// use turnwheel::{Context, Handler};
///
/// /// Greets, then counts the bytes it gets.
/// struct Counter;
///
/// impl Handler for Counter {
///     type State = u64;
///
///     fn on_open(&mut self, cx: &mut Context<'_>) -> u64 {
///         cx.send(b"hello\n");
///         0
///     }
///
///     fn on_data(&mut self, _cx: &mut Context<'_>, count: &mut u64, data: &[u8]) {
///         *count += data.len() as u64;
///     }
///
///     fn on_end(&mut self, cx: &mut Context<'_>, count: &mut u64) {
///         cx.send(format!("{count} bytes\n"));
///         cx.close();
///     }
/// }
/// ```
pub trait Handler: 'static {
    /// What is remembered about one connection. `()` takes no memory worth mention.
    type State: 'static;

    /// A connection begins: the first callback for it. The answer is its state.
    fn on_open(&mut self, cx: &mut Context<'_>) -> Self::State;

    /// Bytes have arrived (with what was [kept](Context::keep) or [deferred](Context::defer) in front of them); behind
    /// a [`Framed`](crate::Framed), one whole message. Never called after the connection began to close.
    fn on_data(&mut self, cx: &mut Context<'_>, state: &mut Self::State, data: &[u8]);

    /// The peer has finished sending, and all it sent has been delivered. It may still be reading. By default the
    /// connection is closed once everything is written.
    fn on_end(&mut self, cx: &mut Context<'_>, state: &mut Self::State) {
        let _ = state;
        cx.close();
    }

    /// What waits for the peer had passed [`Limits::output_high`](crate::Limits::output_high) and has fallen to
    /// [`Limits::output_low`](crate::Limits::output_low): go on sending. At most once in a turn. To send something
    /// long, send pieces while [`Context::wants_more`] says so, and go on here; who stops earlier than that is not
    /// called.
    fn on_drain(&mut self, cx: &mut Context<'_>, state: &mut Self::State) {
        let _ = (cx, state);
    }

    /// The reactor is shutting down. By default the connection is closed; one that is not is aborted when the grace is
    /// over.
    fn on_shutdown(&mut self, cx: &mut Context<'_>, state: &mut Self::State) {
        let _ = state;
        cx.close();
    }

    /// The connection has ended: the last callback for it, exactly once for each `on_open`. Its descriptor is still
    /// open, its id still names nothing else, and it takes no more sends.
    fn on_close(&mut self, net: &mut Net<'_>, state: Self::State, closed: &Closed) {
        let _ = (net, state, closed);
    }

    /// How messages sent to this handler's connections are framed. Asked once, when the handler is added to a reactor.
    /// By default bytes go out as they are given; [`Framed`](crate::Framed) answers its codec's framing.
    fn framing(&self) -> Framing {
        Framing::raw()
    }
}

/// Where a connection came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A listener accepted it.
    Accepted(ListenerId),
}

/// The verbs that need no current connection. A [`Context`] derefs to it; between turns,
/// [`Reactor::net`](crate::Reactor::net) gives it.
///
/// An id whose connection has gone is answered with `false`, `None` or [`Sent::Closed`]; it never names another one.
#[derive(Debug)]
pub struct Net<'a> {
    core: &'a mut Core,
    current: Option<ConnId>,
}

impl<'a> Net<'a> {
    pub(crate) const fn new(core: &'a mut Core) -> Self {
        Self { core, current: None }
    }

    /// Everything that verbs act on, for whoever watches a handler.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) const fn core(&self) -> &Core {
        self.core
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

    /// Ends a connection at once, with a reset; what waits for it is thrown away (and counted). One that is closing,
    /// and for which nothing waits any more, is not reset but only waits no longer. False when it has ended already.
    pub fn abort_id(&mut self, id: ConnId) -> bool {
        let alive = self.core.conns.get(id).is_some_and(|c| c.phase != Phase::Dead);
        self.core.kill(id, Reason::Handler);
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
        self.core.conns.iter().filter(|c| c.phase == Phase::Open && c.opened).map(|c| c.id)
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
        self.core.groups.get(group).map_or(&[][..], |room| &room.members).iter().map(|m| m.conn)
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

    /// A snapshot of the reactor's counters.
    pub fn stats(&self) -> Stats {
        self.core.snapshot()
    }
}

/// What a callback acts on: its connection, and through [`Net`] everything else.
#[derive(Debug)]
pub struct Context<'a> {
    net: Net<'a>,
    id: ConnId,
}

impl<'a> Deref for Context<'a> {
    type Target = Net<'a>;

    fn deref(&self) -> &Self::Target {
        &self.net
    }
}

impl DerefMut for Context<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.net
    }
}

impl<'a> Context<'a> {
    pub(crate) const fn new(core: &'a mut Core, id: ConnId) -> Self {
        Self { net: Net { core, current: Some(id) }, id }
    }

    /// The connection's id. It stays valid to compare and to keep; once the connection has gone it names nothing.
    pub const fn id(&self) -> ConnId {
        self.id
    }

    /// The peer's address.
    pub fn peer(&self) -> Address {
        self.net.peer_of(self.id).unwrap_or(Address::Unix(None))
    }

    /// Where the connection came from.
    pub fn origin(&self) -> Origin {
        let nowhere = ListenerId { slot: u32::MAX, generation: 0 };
        Origin::Accepted(self.net.core.conns.get(self.id).map_or(nowhere, |c| c.listener))
    }

    /// Sends a message to the peer, in the connection's framing. It is written as soon as the callback has returned.
    pub fn send(&mut self, message: impl AsRef<[u8]>) -> Sent {
        self.net.send_to(self.id, message)
    }

    /// [`send`](Context::send) without copying, where the connection is not framed and the bytes are many.
    pub fn send_bytes(&mut self, message: Bytes) -> Sent {
        self.net.send_bytes_to(self.id, message)
    }

    /// How many bytes wait to be written to the peer, with those sent in this callback.
    pub fn pending(&self) -> usize {
        self.net.pending_of(self.id).unwrap_or(0)
    }

    /// Closes in good order; see [`Net::close_id`].
    pub fn close(&mut self) {
        self.net.close_id(self.id);
    }

    /// Ends at once, with a reset; see [`Net::abort_id`].
    pub fn abort(&mut self) {
        self.net.abort_id(self.id);
    }

    /// Closes in good order because the peer broke the protocol: the reason is the error.
    pub fn fail(&mut self, error: FrameError) {
        self.net.core.begin_close(self.id, error.into());
    }

    /// Sends FIN once everything is written, and goes on receiving. Sends are refused from now on. The connection ends
    /// when the peer finishes too and [`on_end`](Handler::on_end) has been called.
    pub fn shutdown_write(&mut self) {
        self.net.core.shutdown_write(self.id);
    }

    /// Stops reading until [`resume`](Context::resume) or [`Net::resume_id`]: the peer's sends back up, and nothing is
    /// lost. Meanwhile neither the idle nor the message timeout runs: ending it is up to the handler.
    pub fn pause(&mut self) {
        self.net.pause_id(self.id);
    }

    /// Reads again after [`pause`](Context::pause).
    pub fn resume(&mut self) {
        self.net.resume_id(self.id);
    }

    /// The last `n` bytes of the data are the beginning of an incomplete message: they come back in front of the next
    /// bytes. (More than the data has means all of it; the last call of `keep` and `defer` counts.) At most
    /// [`Limits::input_kept`](crate::Limits::input_kept), for at most
    /// [`Limits::message_timeout`](crate::Limits::message_timeout).
    pub fn keep(&mut self, n: usize) {
        self.net.core.delivery.rest = n;
        self.net.core.delivery.deferred = false;
    }

    /// The last `n` bytes of the data are not wanted now: they come back next turn, or on resume, without new bytes and
    /// before [`on_end`](Handler::on_end). No message timeout runs on them.
    pub fn defer(&mut self, n: usize) {
        self.net.core.delivery.rest = n;
        self.net.core.delivery.deferred = n > 0;
    }

    /// In [`on_end`](Handler::on_end): how many bytes of an unfinished message were kept.
    pub fn kept(&self) -> usize {
        self.net.core.conns.get(self.id).map_or(0, |c| c.kept_len())
    }

    /// Whether to go on with the data at hand. False once the connection is closing, paused, has too much output
    /// waiting, or has used up its messages for this turn: then [`defer`](Context::defer) the rest.
    pub fn wants_more(&self) -> bool {
        self.net.core.wants_more(self.id)
    }

    /// Counts a whole message against the connection's budget for this turn, and in the statistics. For handlers that
    /// find messages by themselves; [`Framed`](crate::Framed) does it for others.
    pub fn count_message(&mut self) {
        self.net.core.delivery.messages += 1;
        self.net.core.stats.messages_in += 1;
    }

    /// Counts an over-long message that was thrown away, in the statistics.
    pub fn count_discarded(&mut self) {
        self.net.core.delivery.messages += 1;
        self.net.core.stats.discarded += 1;
    }

    /// Makes this connection a member of a group; see [`Net::join_id`].
    pub fn join(&mut self, group: Group) -> bool {
        self.net.join_id(group, self.id)
    }

    /// Ends this connection's membership; see [`Net::leave_id`].
    pub fn leave(&mut self, group: Group) -> bool {
        self.net.leave_id(group, self.id)
    }

    /// Sends to another connection; see [`Net::send_to`].
    pub fn send_to(&mut self, id: ConnId, message: impl AsRef<[u8]>) -> Sent {
        self.net.send_to(id, message)
    }

    /// Sends to every member of a group, this connection included if it is one; see [`Net::broadcast`].
    pub fn broadcast(&mut self, group: Group, message: impl AsRef<[u8]>) -> usize {
        self.net.broadcast(group, message)
    }

    /// [`broadcast`](Net::broadcast) to every member but this connection.
    pub fn broadcast_others(&mut self, group: Group, message: impl AsRef<[u8]>) -> usize {
        self.net.core.broadcast(group, message.as_ref(), Some(self.id), Some(self.id))
    }
}
