//! One connection as the core sees it: unsent output, buffered input, phase, and the reasons why it is not read.
//!
//! Holds neither the socket nor the handler's state. Invariant: the phase only moves forward (`Connecting` → `Open` →
//! `Flushing` → `Lingering` → `Closed`; phases may be skipped), and the length of the table is the number of
//! connections.
//!
//! ```text
//!            close, fail, timeouts           all written           peer's FIN, quiet, limit
//!   Open ───────────────────────▶ Flushing ─────────────▶ Lingering ──────────────────────▶ Closed ──▶ on_close, freed
//!     └───────────── abort, reset, terminated by a limit (from any phase) ────────────────────▲
//! ```

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::PathBuf;

use crate::buffer::input::InputBuffer;
use crate::buffer::outbox::Outbox;
use crate::closed::{BadInput, Reason};
use crate::config::address::Address;
use crate::id::{AttemptId, ConnId, GenSlab, Group, HandlerIdx, HasId, ListenerId};
use crate::time::Time;
use crate::time::pausable_clock::PausableClock;
use crate::time::timers::TimerList;

/// The phases of a connection, in order. Comparisons such as `phase > Phase::Open` rely on the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// The socket is connecting. No handler has been called for it.
    Connecting,
    /// Established; the handler reads and writes it.
    Open,
    /// Closing gracefully: no more input is delivered, the output accepted before is still being written.
    Flushing,
    /// Everything is written and FIN is sent. Input is discarded until the peer's FIN: if the socket were closed with
    /// unread input, the kernel would answer with RST, and the peer could lose our last bytes.
    Lingering,
    /// Ended. `on_close` is called next, then the descriptor is closed and the slot is freed.
    Closed,
}

/// The peer's address in 16 bytes. The larger kinds are boxed, because every connection stores one.
#[derive(Debug)]
pub(crate) enum Peer {
    V4(SocketAddrV4),
    V6(Box<SocketAddrV6>),
    Unix(Option<Box<PathBuf>>),
}

impl From<Address> for Peer {
    fn from(address: Address) -> Self {
        match address {
            Address::Tcp(SocketAddr::V4(a)) => Self::V4(a),
            Address::Tcp(SocketAddr::V6(a)) => Self::V6(Box::new(a)),
            Address::Unix(path) => Self::Unix(path.map(Box::new)),
        }
    }
}

impl Peer {
    pub(crate) fn address(&self) -> Address {
        match self {
            Self::V4(a) => Address::Tcp(SocketAddr::V4(*a)),
            Self::V6(a) => Address::Tcp(SocketAddr::V6(**a)),
            Self::Unix(path) => Address::Unix(path.as_deref().cloned()),
        }
    }
}

/// A group that a connection is a member of, and its index in the group's list of members.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Membership {
    pub(crate) group: Group,
    pub(crate) place: u32,
}

/// How a connection was established.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A listener accepted it.
    Accepted(ListenerId),
    /// It was requested, or an existing stream was handed over, with this tag.
    Connected(u64),
}

/// The readiness of a connection's socket. Events set it, and only the result of a read or write clears it: events are
/// edge-triggered, so readiness that was cleared too early would not be reported again.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The last write returned `WouldBlock`, and none has written a byte since.
    pub(crate) write_blocked: bool,
    /// A hint was reported (`EPOLLRDHUP`, `EPOLLHUP`, `EPOLLPRI`): a short read does not mean that the socket is
    /// drained, because a FIN may follow. Read until `WouldBlock`.
    pub(crate) read_to_eagain: bool,
    /// An error was reported (`EPOLLERR`): query `SO_ERROR`, unless a read will return it.
    pub(crate) error_pending: bool,
    /// Hints in a row after which a read returned `WouldBlock`.
    pub(crate) spurious_wakeups: u8,
}

/// How far the two directions of a connection are closed.
#[derive(Debug, Default)]
pub(crate) struct Halves {
    /// The peer's FIN was read.
    pub(crate) peer_fin: bool,
    /// `on_end` was called for the peer's FIN.
    pub(crate) eof_delivered: bool,
    /// The handler called `shutdown_write`: send FIN once everything is written.
    pub(crate) fin_wanted: bool,
    pub(crate) fin_sent: bool,
    /// A write failed permanently: no more output can be sent, but input may still be read.
    pub(crate) write_failed: bool,
}

/// The reasons why a connection is not read at present (backpressure), and whether `on_drain` is to be called.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// The number of groups and links that pause it: groups with a slow member that it has sent to, and links to
    /// connections above their high-water mark.
    pub(crate) pause_count: u16,
    /// Its handler paused it.
    pub(crate) paused: bool,
    /// Its output reached the high-water mark and has not fallen to the low-water mark since. A peer that does not read
    /// its answers gets no further requests processed, which bounds our memory without closing the connection.
    pub(crate) above_high_water: bool,
    /// `on_drain` is to be called.
    pub(crate) drain_due: bool,
    /// What the last `on_drain` sent keeps input from being read: that is read before the next one.
    pub(crate) input_first: bool,
    /// Not read for a while: its handler defers its input again and again and takes none of it.
    pub(crate) resting: bool,
    /// Not read because of memory pressure: the output of all connections together is large, and some of it belongs to
    /// this one.
    pub(crate) throttled: bool,
}

/// Which work lists of the core a connection is in.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    pub(crate) ready: bool,
    pub(crate) dirty: bool,
    pub(crate) throttled: bool,
}

/// The last phase of a graceful close: input is discarded until the peer's FIN.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linger {
    pub(crate) since: Time,
    /// Bytes of input that were discarded.
    pub(crate) discarded: usize,
}

/// Places that are kept for connections made on behalf of an accepted one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reserve {
    /// As many as its listener reserves; none once it is closing.
    pub(crate) places: usize,
    /// Sockets that exist on its behalf. May be more, where addresses are tried in parallel.
    pub(crate) used: usize,
}

impl Reserve {
    /// Returns how many of the places are not in use.
    pub(crate) const fn unused(self) -> usize {
        self.places.saturating_sub(self.used)
    }
}

/// Fields that few connections use, or that are used only while closing. Boxed, to keep the other connections small.
#[derive(Debug, Default)]
pub(crate) struct Cold {
    /// Set when the phase leaves `Open`, or earlier if a write failed.
    pub(crate) reason: Option<Reason>,
    /// The input that the reason is about.
    pub(crate) bad_input: Option<Box<BadInput>>,
    /// Bytes that were accepted for sending and are lost.
    pub(crate) unsent: u64,
    /// The connect job that it belongs to, and the user's tag.
    job: Option<(AttemptId, u64)>,
    pub(crate) timers: TimerList,
    /// Connections whose output above the high-water mark pauses the reading of this one.
    pub(crate) links_to: Vec<ConnId>,
    /// Connections whose reading is paused while the output of this one is above the high-water mark.
    pub(crate) links_from: Vec<ConnId>,
    /// Set while the phase is `Lingering`.
    pub(crate) linger: Option<Linger>,
    /// It is closing, and its end is a reset in place of a FIN.
    pub(crate) reset_at_end: bool,
    /// Deliveries of deferred input in a row of which the handler took nothing, and until when that rests.
    pub(crate) unused_deliveries: u32,
    pub(crate) rest_until: Time,
    pub(crate) reserve: Reserve,
    /// The accepted connection on whose behalf this one was made, if that reserves places.
    pub(crate) requester: Option<ConnId>,
}

/// Everything about a connection except its socket and its handler's state.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnId,
    /// The listener that accepted it. Not used if the connection belongs to a connect job.
    listener: ListenerId,
    pub(crate) peer: Peer,
    pub(crate) handler: HandlerIdx,
    /// The slot of its state in the slab of its handler's states.
    pub(crate) state: u32,
    pub(crate) out: Outbox,
    pub(crate) input: Option<Box<InputBuffer>>,
    pub(crate) groups: Vec<Membership>,
    cold: Option<Box<Cold>>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,

    /// When it was accepted or established; while connecting, when that began.
    pub(crate) created_at: Time,
    /// When a byte was last read or written, reading resumed, or lingering began.
    pub(crate) last_activity: Time,
    /// Since when unsent output has made no progress.
    pub(crate) write_blocked_since: Time,
    /// Runs while a message is unfinished and the connection is read.
    pub(crate) message_clock: PausableClock,
    /// Bytes written in turn number `turn`.
    pub(crate) written_in_turn: u32,
    /// The turn that `written_in_turn` counts for.
    pub(crate) turn: u32,

    pub(crate) readiness: Readiness,
    pub(crate) halves: Halves,
    pub(crate) flow: Flow,
    pub(crate) queues: Queues,
    pub(crate) phase: Phase,
    /// The buffered input was deferred, not kept as incomplete: it is delivered again without waiting for more.
    pub(crate) deferred: bool,
    /// Close the socket with RST.
    pub(crate) close_with_rst: bool,
    /// The handler has a state for it: `on_open` returned.
    pub(crate) has_state: bool,
}

impl Connection {
    pub(crate) fn new(id: ConnId, handler: HandlerIdx, listener: ListenerId, peer: Address, now: Time) -> Self {
        Self {
            id,
            listener,
            peer: peer.into(),
            handler,
            state: 0,
            out: Outbox::default(),
            input: None,
            groups: Vec::new(),
            cold: None,
            bytes_in: 0,
            bytes_out: 0,
            created_at: now,
            last_activity: now,
            write_blocked_since: now,
            message_clock: PausableClock::start(now),
            written_in_turn: 0,
            turn: 0,
            // The send buffer of a new socket is empty: no event is needed before the first write.
            // Input that has arrived before is reported once the socket is registered.
            readiness: Readiness { writable: true, ..Readiness::default() },
            halves: Halves::default(),
            flow: Flow::default(),
            queues: Queues::default(),
            phase: Phase::Open,
            deferred: false,
            close_with_rst: false,
            has_state: false,
        }
    }

    /// Creates a connection whose socket is still connecting.
    pub(crate) fn connecting(
        id: ConnId,
        handler: HandlerIdx,
        tag: u64,
        job: AttemptId,
        peer: Address,
        now: Time,
    ) -> Self {
        let mut new = Self::new(id, handler, ListenerId::from_bits(0), peer, now);
        new.phase = Phase::Connecting;
        new.readiness.writable = false;
        new.cold_mut().job = Some((job, tag));
        new
    }

    /// Opens a connection whose socket has connected, and starts its clocks.
    pub(crate) fn become_open(&mut self, peer: Address, now: Time) {
        self.phase = Phase::Open;
        self.peer = peer.into();
        self.readiness.writable = true;
        (self.created_at, self.last_activity, self.write_blocked_since) = (now, now, now);
        self.message_clock = PausableClock::start(now);
    }

    /// Returns how it was established.
    pub(crate) fn origin(&self) -> Origin {
        match self.cold().and_then(|cold| cold.job) {
            Some((_, tag)) => Origin::Connected(tag),
            None => Origin::Accepted(self.listener),
        }
    }

    /// Returns the rarely used fields, if this connection has any.
    #[inline]
    pub(crate) fn cold(&self) -> Option<&Cold> {
        self.cold.as_deref()
    }

    /// Returns the rarely used fields, which are allocated on first use.
    pub(crate) fn cold_mut(&mut self) -> &mut Cold {
        self.cold.get_or_insert_default()
    }

    /// Returns the connect job that it belongs to.
    pub(crate) fn job(&self) -> Option<AttemptId> {
        self.cold()?.job.map(|(id, _)| id)
    }

    /// Returns why it closes, once that is decided.
    #[inline]
    pub(crate) fn reason(&self) -> Option<&Reason> {
        self.cold()?.reason.as_ref()
    }

    /// Returns the state of its lingering, or `None` in any other phase.
    pub(crate) fn linger(&self) -> Option<Linger> {
        self.cold()?.linger
    }

    /// Returns whether its graceful close ends with a reset in place of a FIN.
    pub(crate) fn resets_at_end(&self) -> bool {
        self.cold().is_some_and(|cold| cold.reset_at_end)
    }

    /// Returns how many bytes were accepted for sending and are lost.
    #[inline]
    pub(crate) fn unsent(&self) -> u64 {
        self.cold().map_or(0, |r| r.unsent)
    }

    /// Counts bytes that were accepted for sending and are lost.
    pub(crate) fn lose(&mut self, bytes: usize) {
        if bytes > 0 {
            self.cold_mut().unsent += bytes as u64;
        }
    }

    /// Returns whether its fields agree with its phase. Asserted at phase changes, in builds with debug assertions.
    pub(crate) fn is_consistent(&self) -> bool {
        let closing = self.phase > Phase::Open;
        let closed = self.phase == Phase::Closed;
        (!closing || self.reason().is_some() && self.groups.is_empty() && self.input.is_none())
            && (!closed || self.out.pending() == 0)
            && (self.phase != Phase::Lingering
                || self.linger().is_some() && (self.halves.fin_sent || self.resets_at_end()))
            && (!self.halves.eof_delivered || self.halves.peer_fin)
            && (self.phase != Phase::Connecting || !self.has_state && self.job().is_some())
    }

    /// Returns whether it accepts sends.
    #[inline]
    pub(crate) fn takes_output(&self) -> bool {
        self.phase == Phase::Open && !self.halves.fin_wanted && !self.halves.write_failed
    }

    /// Returns whether its handler, its own output, a group or a link pauses its reading. Memory pressure, which also
    /// stops reading, is not included: `Core::may_read` checks it.
    #[inline]
    pub(crate) const fn is_read_blocked(&self) -> bool {
        self.flow.paused || self.flow.above_high_water || self.flow.pause_count > 0 || self.flow.resting
    }

    /// Returns whether it is open and certainly has no work: the usual state after an answer was written. A cheap check
    /// in front of `Core::has_work`.
    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        let input = self.readiness.readable
            | self.deferred
            | self.halves.peer_fin
            | self.readiness.error_pending
            | self.flow.drain_due
            | self.halves.fin_wanted;
        self.phase == Phase::Open && !input && self.out.pending() == 0
    }

    /// Returns whether there may be input to deliver: bytes, or their end.
    #[inline]
    pub(crate) const fn has_input(&self) -> bool {
        self.readiness.readable || self.deferred || self.halves.peer_fin && !self.halves.eof_delivered
    }

    /// Returns whether a write may be tried.
    #[inline]
    pub(crate) fn can_be_written(&self) -> bool {
        self.readiness.writable && !self.halves.write_failed && self.phase < Phase::Lingering
    }

    /// Returns whether it has unsent output and the socket is writable.
    #[inline]
    pub(crate) const fn can_write(&self) -> bool {
        self.readiness.writable && self.out.pending() > 0
    }

    /// Returns the number of bytes of buffered input.
    pub(crate) fn buffered_len(&self) -> usize {
        self.input.as_ref().map_or(0, |k| k.len())
    }
}

/// All connections, by slot. Its length is the only count of them.
pub(crate) type Connections = GenSlab<Connection>;

impl HasId for Connection {
    type Id = ConnId;

    #[inline]
    fn id(&self) -> ConnId {
        self.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_small() {
        assert!(size_of::<Connection>() <= 192, "{}", size_of::<Connection>());
        assert!(size_of::<Peer>() <= 16, "{}", size_of::<Peer>());
    }

    #[test]
    fn phases_are_in_order() {
        assert!(
            Phase::Open < Phase::Flushing && Phase::Flushing < Phase::Lingering && Phase::Lingering < Phase::Closed
        );
    }
}
