//! The context of a connection's callback.
//!
//! Invariant: as for [`Net`]. In addition, `keep`, `defer` and the `count_` methods apply to the data of the running
//! callback.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use bytes::Bytes;

use crate::buffer::pieces::Pieces;
use crate::codec::FrameError;
use crate::config::address::Address;
use crate::connection::{Connection, Origin};
use crate::core::{Core, Sent};
use crate::handler::net::Net;
use crate::id::{ConnId, Group, HandlerIdx, ListenerId, TimerId};
use crate::time::timers::Owner;

/// The context of a callback: its connection and, through [`Net`], everything else.
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

    /// Returns the connection's id. It may be stored and compared; after the connection is removed it refers to
    /// nothing.
    pub const fn id(&self) -> ConnId {
        self.id
    }

    /// Returns the peer's address.
    pub fn peer(&self) -> Address {
        self.net.peer_of(self.id).unwrap_or(Address::Unix(None))
    }

    /// Returns where the connection came from.
    pub fn origin(&self) -> Origin {
        // Not reached: the connection of a running callback is in the table.
        let nowhere = Origin::Accepted(ListenerId { slot: u32::MAX, generation: 0 });
        self.net.core().conns.get(self.id).map_or(nowhere, Connection::origin)
    }

    /// Sends a message to the peer, in the connection's framing. It is written as soon as the callback returns.
    pub fn send(&mut self, message: impl AsRef<[u8]>) -> Sent {
        self.net.send_to(self.id, message)
    }

    /// Like [`send`](Context::send), but does not copy the bytes if the connection has no framing and they are many.
    pub fn send_bytes(&mut self, message: Bytes) -> Sent {
        self.net.send_bytes_to(self.id, message)
    }

    /// Sends bytes of any number, which are fetched as the peer reads: a file, an iterator, or one long answer; see
    /// [`Net::send_all_to`].
    pub fn send_all(&mut self, pieces: impl Into<Pieces>) -> Sent {
        self.net.send_all_to(self.id, pieces)
    }

    /// Sends bytes to the peer without framing.
    pub(crate) fn send_unframed(&mut self, bytes: &[u8]) {
        self.net.core_mut().send_unframed(self.id, bytes);
    }

    /// Returns how many bytes of output to the peer are unsent, including those sent in this callback.
    pub fn pending(&self) -> usize {
        self.net.pending_of(self.id).unwrap_or(0)
    }

    /// Closes the connection gracefully; see [`Net::close_id`].
    pub fn close(&mut self) {
        self.net.close_id(self.id);
    }

    /// Delivers what was sent, and ends the connection with a reset; see [`Net::close_with_reset_id`].
    pub fn close_with_reset(&mut self) {
        self.net.close_with_reset_id(self.id);
    }

    /// Terminates the connection with a reset; see [`Net::abort_id`].
    pub fn abort(&mut self) {
        self.net.abort_id(self.id);
    }

    /// Closes the connection gracefully because the peer violated the protocol; the error becomes the reason.
    pub fn fail(&mut self, error: FrameError) {
        self.net.core_mut().begin_close(self.id, error.into());
    }

    /// Like [`fail`](Context::fail), because of input that begins `behind` bytes before the end of what was read, with
    /// the length that it `announced`.
    pub(crate) fn fail_at(&mut self, error: FrameError, announced: &[u8], behind: usize) {
        self.net.core_mut().refuse_input(self.id, error, announced, behind);
    }

    /// Half-closes the connection: sends FIN once everything is written, and continues to receive. Further sends are
    /// rejected. The connection ends when the peer closes its side too and [`on_end`](crate::Handler::on_end) has been
    /// called.
    pub fn shutdown_write(&mut self) {
        self.net.shutdown_write_id(self.id);
    }

    /// Stops reading until [`resume`](Context::resume) or [`Net::resume_id`] is called. Backpressure then reaches the
    /// peer, and no input is lost. While paused, neither the idle timeout nor the message timeout runs; ending the
    /// connection is up to the handler.
    pub fn pause(&mut self) {
        self.net.pause_id(self.id);
    }

    /// Resumes reading after [`pause`](Context::pause).
    pub fn resume(&mut self) {
        self.net.resume_id(self.id);
    }

    /// Buffers the last `n` bytes of the data, the start of an incomplete message, and delivers them again followed by
    /// the next bytes that arrive. An `n` beyond the length of the data means all of it. If `keep` and `defer` are
    /// called more than once, the last call counts. At most [`Limits::input_kept`](crate::Limits::input_kept) bytes
    /// may be kept, for at most [`Limits::message_timeout`](crate::Limits::message_timeout); beyond that the
    /// connection is closed.
    pub fn keep(&mut self, n: usize) {
        self.net.core_mut().delivery.unused = n;
        self.net.core_mut().delivery.deferred = false;
    }

    /// Puts off the last `n` bytes of the data: they are delivered again next turn, or after a resume, without waiting
    /// for new bytes and before [`on_end`](crate::Handler::on_end). The message timeout does not apply to them. A
    /// handler that waits for something else should [pause](Context::pause): one that defers again and again and takes
    /// nothing is called less and less often, at least every 100 ms, and one warning names it. Then a reset by the peer
    /// ends the connection at once, as during a pause.
    pub fn defer(&mut self, n: usize) {
        self.net.core_mut().delivery.unused = n;
        self.net.core_mut().delivery.deferred = n > 0;
    }

    /// Returns how many bytes of an unfinished message are buffered. For use in [`on_end`](crate::Handler::on_end).
    pub fn kept(&self) -> usize {
        self.net.core().conns.get(self.id).map_or(0, |c| c.buffered_len())
    }

    /// Takes the bytes of an unfinished message out of the buffer. For use in `on_end`.
    pub(crate) fn take_kept(&mut self) -> Vec<u8> {
        self.net.core_mut().take_input(self.id)
    }

    /// Calls [`on_end`](crate::Handler::on_end) again when the connection may be read.
    pub(crate) fn defer_end(&mut self) {
        self.net.core_mut().defer_end(self.id);
    }

    /// Returns whether to continue with the data at hand. Returns `false` if the connection is closing, is paused, has
    /// too much unsent output, has used up its messages for this turn, or is about to [switch](Context::switch): then
    /// [`defer`](Context::defer) the rest.
    pub fn wants_more(&self) -> bool {
        self.net.core().wants_more(self.id)
    }

    /// Counts a complete message, in the statistics and against the connection's budget for this turn. For handlers
    /// that find messages themselves; [`Framed`](crate::Framed) calls it for the others.
    pub fn count_message(&mut self) {
        self.net.core_mut().delivery.messages += 1;
        self.net.core_mut().stats.messages_in += 1;
    }

    /// Counts an over-long message that was discarded, in the statistics and against the connection's budget for this
    /// turn.
    pub fn count_discarded(&mut self) {
        self.net.core_mut().delivery.messages += 1;
        self.net.core_mut().stats.discarded += 1;
    }

    /// Sets a timer of this connection: [`on_timer`](crate::Handler::on_timer) is called once with `key`, no earlier
    /// than `after` from the end of the callback that sets it. A connection may have several timers; they end when it
    /// begins to close. Returns `None` if the connection already has
    /// [`Limits::timers_per_connection`](crate::Limits::timers_per_connection) timers, if there are
    /// [`Limits::timers`](crate::Limits::timers) in total, or if it is closing.
    ///
    /// ```
    /// use std::time::Duration;
    /// use turnwheel::{Context, Handler};
    ///
    /// /// Closes a connection that sends nothing for a minute, with a warning ten seconds before.
    /// struct Impatient;
    ///
    /// impl Handler for Impatient {
    ///     type State = turnwheel::TimerId;
    ///     fn on_open(&mut self, cx: &mut Context<'_>) -> Self::State {
    ///         cx.set_timer(Duration::from_secs(50), 0).expect("below the limit of timers")
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

    /// Like [`set_timer`](Context::set_timer), but repeats: it fires every `every` (at least 1 ms) at fixed multiples
    /// after the first time, and skips the ones that were missed.
    pub fn set_timer_every(&mut self, every: Duration, key: u64) -> Option<TimerId> {
        self.net.core_mut().set_timer(Owner::Connection(self.id), key, every, Some(every))
    }

    /// Adds this connection to a group; see [`Net::join_id`].
    pub fn join(&mut self, group: Group) -> bool {
        self.net.join_id(group, self.id)
    }

    /// Removes this connection from a group; see [`Net::leave_id`].
    pub fn leave(&mut self, group: Group) -> bool {
        self.net.leave_id(group, self.id)
    }

    /// Sends to another connection; see [`Net::send_to`].
    pub fn send_to(&mut self, id: ConnId, message: impl AsRef<[u8]>) -> Sent {
        self.net.send_to(id, message)
    }

    /// Sends to every member of a group, including this connection if it is a member; see [`Net::broadcast`].
    pub fn broadcast(&mut self, group: Group, message: impl AsRef<[u8]>) -> usize {
        self.net.broadcast(group, message)
    }

    /// Like [`broadcast`](Net::broadcast), but skips this connection.
    pub fn broadcast_others(&mut self, group: Group, message: impl AsRef<[u8]>) -> usize {
        self.net.core_mut().broadcast(group, message.as_ref(), Some(self.id), Some(self.id))
    }
}
