//! What a callback of a connection acts on.
//!
//! Knows no sockets and no loop. Invariant: as for [`Net`]; and what is said of input (kept, deferred, counted)
//! concerns the data of the callback that is running.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use bytes::Bytes;

use crate::codec::FrameError;
use crate::config::address::Address;
use crate::connection::{Connection, Origin};
use crate::core::{Core, Sent};
use crate::handler::net::Net;
use crate::id::{ConnId, Group, HandlerIdx, ListenerId, TimerId};
use crate::time::timers::Owner;

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
    pub(crate) const fn new(core: &'a mut Core, id: ConnId, handler: HandlerIdx) -> Self {
        Self { net: Net::new(core, Some(id), Some(handler)), id }
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
        let nowhere = Origin::Accepted(ListenerId { slot: u32::MAX, generation: 0 });
        self.net.core().conns.get(self.id).map_or(nowhere, Connection::origin)
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
        self.net.core_mut().begin_close(self.id, error.into());
    }

    /// Sends FIN once everything is written, and goes on receiving. Sends are refused from now on. The connection ends
    /// when the peer finishes too and [`on_end`](crate::Handler::on_end) has been called.
    pub fn shutdown_write(&mut self) {
        self.net.shutdown_write_id(self.id);
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
        self.net.core_mut().delivery.unused = n;
        self.net.core_mut().delivery.deferred = false;
    }

    /// The last `n` bytes of the data are not wanted now: they come back next turn, or on resume, without new bytes and
    /// before [`on_end`](crate::Handler::on_end). No message timeout runs on them.
    pub fn defer(&mut self, n: usize) {
        self.net.core_mut().delivery.unused = n;
        self.net.core_mut().delivery.deferred = n > 0;
    }

    /// In [`on_end`](crate::Handler::on_end): how many bytes of an unfinished message were kept.
    pub fn kept(&self) -> usize {
        self.net.core().conns.get(self.id).map_or(0, |c| c.buffered_len())
    }

    /// Whether to go on with the data at hand. False once the connection is closing, paused, has too much output
    /// waiting, or has used up its messages for this turn: then [`defer`](Context::defer) the rest.
    pub fn wants_more(&self) -> bool {
        self.net.core().wants_more(self.id)
    }

    /// Counts a whole message against the connection's budget for this turn, and in the statistics. For handlers that
    /// find messages by themselves; [`Framed`](crate::Framed) does it for others.
    pub fn count_message(&mut self) {
        self.net.core_mut().delivery.messages += 1;
        self.net.core_mut().stats.messages_in += 1;
    }

    /// Counts an over-long message that was thrown away, in the statistics.
    pub fn count_discarded(&mut self) {
        self.net.core_mut().delivery.messages += 1;
        self.net.core_mut().stats.discarded += 1;
    }

    /// Sets a timer of this connection: [`on_timer`](crate::Handler::on_timer) is called with `key` when `after` has
    /// gone by, not earlier, and once. The time is counted from the end of the callback that sets it. A connection has
    /// any number of timers; they end when it begins to close. `None` when it has
    /// [`Limits::timers_per_connection`](crate::Limits::timers_per_connection), there are
    /// [`Limits::timers`](crate::Limits::timers) in all, or it is closing.
    ///
    /// ```
    /// use std::time::Duration;
    /// use turnwheel::{Context, Handler};
    ///
    /// /// Closes after a minute without a word, and says so ten seconds before.
    /// struct Impatient;
    ///
    /// impl Handler for Impatient {
    ///     type State = turnwheel::TimerId;
    ///     fn on_open(&mut self, cx: &mut Context<'_>) -> Self::State {
    ///         cx.set_timer(Duration::from_secs(50), 0).expect("there are fewer timers than the limit")
    ///     }
    ///     fn on_data(&mut self, cx: &mut Context<'_>, timer: &mut Self::State, _data: &[u8]) {
    ///         cx.rearm_timer(*timer, Duration::from_secs(50));
    ///     }
    ///     fn on_timer(&mut self, cx: &mut Context<'_>, timer: &mut Self::State, key: u64) {
    ///         match (key, cx.set_timer(Duration::from_secs(10), 1)) {
    ///             (0, Some(last)) => {
    ///                 cx.send("are you there?\n");
    ///                 *timer = last;
    ///             }
    ///             _ => cx.close(),
    ///         }
    ///     }
    /// }
    /// ```
    pub fn set_timer(&mut self, after: Duration, key: u64) -> Option<TimerId> {
        self.net.core_mut().set_timer(Owner::Connection(self.id), key, after, None)
    }

    /// [`set_timer`](Context::set_timer), again and again: each time a multiple of `every` (1 ms at least) after the
    /// first, and without those that were missed.
    pub fn set_timer_every(&mut self, every: Duration, key: u64) -> Option<TimerId> {
        self.net.core_mut().set_timer(Owner::Connection(self.id), key, every, Some(every))
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
        self.net.core_mut().broadcast(group, message.as_ref(), Some(self.id), Some(self.id))
    }
}
