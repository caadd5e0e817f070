//! One connection as the core sees it: what we owe the peer, how far its life has gone, and what pause_count it up.
//!
//! Knows neither sockets nor handlers' states. Invariant: the phase only moves forward (`Connecting` → `Open` →
//! `Flushing` → `Lingering` → `Dead`, steps may be left out), and the table's length is the number of connections there
//! are.
//!
//! ```text
//!            close, fail, timeouts           all written            peer's FIN, quiet, limit
//!   Open ───────────────────────▶ Flushing ─────────────▶ Lingering ───────────────────────▶ Dead ──▶ on_close, freed
//!     └───────────── abort, reset, cut by a limit (from any phase) ───────────────────────────▲
//! ```

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::PathBuf;

use crate::buffer::input::InputBuffer;
use crate::buffer::outbox::Outbox;
use crate::closed::Reason;
use crate::config::address::Address;
use crate::id::{AttemptId, ConnId, GenSlab, Group, HandlerIdx, HasId, ListenerId};
use crate::time::Time;
use crate::time::pausable_clock::PausableClock;
use crate::time::timers::TimerList;

/// How far a connection's life has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It is to come about; no handler knows of it.
    Connecting,
    /// The handler has it.
    Open,
    /// Ended by us; what was accepted for sending is still being written.
    Flushing,
    /// All is written and FIN sent; input is thrown away until the peer's FIN, so that no reset destroys our last
    /// bytes.
    Lingering,
    /// Its fate is known; `on_close` and the closing of its descriptor are to come.
    Closed,
}

/// The peer's address, in as few bytes as may be.
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

/// That a connection is in a group, and where in its list of members.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Membership {
    pub(crate) group: Group,
    pub(crate) place: u32,
}

/// Where a connection came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A listener accepted it.
    Accepted(ListenerId),
    /// It was asked for, or given, with this tag.
    Connected(u64),
}

/// What the system has said about a connection's socket. Set by events, cleared only by the answer of a read or a
/// write: readiness is a hint, and epoll's edge comes once.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// A hint came (`EPOLLRDHUP`, `EPOLLHUP`, `EPOLLPRI`): a short read is not the last one, only `WouldBlock` is.
    pub(crate) read_to_eagain: bool,
    /// An error was reported (`EPOLLERR`): ask for `SO_ERROR` unless a read will return it.
    pub(crate) error_pending: bool,
    /// Hints in a row after which a read found nothing.
    pub(crate) spurious_wakeups: u8,
}

/// How far the two directions of a connection are closed.
#[derive(Debug, Default)]
pub(crate) struct Halves {
    /// The peer's FIN was read.
    pub(crate) peer_fin: bool,
    /// `on_end` was called for it.
    pub(crate) eof_delivered: bool,
    /// The handler asked for `shutdown_write`.
    pub(crate) fin_wanted: bool,
    pub(crate) fin_sent: bool,
    /// A write failed for good: no output can leave any more, but input may still be read.
    pub(crate) write_failed: bool,
}

/// Why a connection is not read at present, and whether its handler is told when output has drained.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// How many pause it: groups with a slow member, and links to connections above their high-water mark.
    pub(crate) pause_count: u16,
    /// Its handler paused it.
    pub(crate) paused: bool,
    /// Its output passed the high-water mark and has not fallen to the low one since.
    pub(crate) above_high_water: bool,
    /// `on_drain` is to be called.
    pub(crate) drain_due: bool,
    /// All output together is large, and some of it is for this connection.
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

/// What few connections have, or only at their end. Boxed, so that the others do not pay for it.
#[derive(Debug, Default)]
pub(crate) struct Cold {
    /// Set when the phase leaves `Open`.
    pub(crate) reason: Option<Reason>,
    pub(crate) unsent: u64,
    /// The connect job that it belongs to, and the tag that the user gave.
    job: Option<(AttemptId, u64)>,
    pub(crate) timers: TimerList,
    /// Connections whose output above the high-water mark pauses the reading of this one.
    pub(crate) links_to: Vec<ConnId>,
    /// Connections that are paused by the output of this one.
    pub(crate) links_from: Vec<ConnId>,
    /// Set while the phase is `Lingering`.
    pub(crate) linger: Option<Linger>,
}

/// Everything about a connection but its socket and its handler's state.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnId,
    /// The listener that accepted it; without meaning for one that belongs to a connect job.
    listener: ListenerId,
    pub(crate) peer: Peer,
    pub(crate) handler: HandlerIdx,
    /// The slot of its state in the handler's slab.
    pub(crate) state: u32,
    pub(crate) out: Outbox,
    pub(crate) input: Option<Box<InputBuffer>>,
    pub(crate) groups: Vec<Membership>,
    cold: Option<Box<Cold>>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,

    /// When it was accepted, or when connecting began.
    pub(crate) created_at: Time,
    /// When a byte last moved either way, reading resumed, or lingering began.
    pub(crate) last_activity: Time,
    /// Since when unsent output has made no progress.
    pub(crate) write_blocked_since: Time,
    /// Runs while a message is unfinished and the connection is read.
    pub(crate) message_clock: PausableClock,
    /// Bytes written in the turn with this number.
    pub(crate) written_in_turn: u32,
    pub(crate) turn: u32,

    pub(crate) readiness: Readiness,
    pub(crate) halves: Halves,
    pub(crate) flow: Flow,
    pub(crate) queues: Queues,
    pub(crate) phase: Phase,
    /// The buffered input was deferred, not kept as incomplete: it is delivered again without new bytes.
    pub(crate) deferred: bool,
    /// Close with RST.
    pub(crate) close_with_rst: bool,
    /// The handler has a state for it: `on_open` returned.
    pub(crate) has_state: bool,
}

impl Connection {
    pub(crate) fn new(
        id: ConnId,
        handler: HandlerIdx,
        listener: ListenerId,
        peer: Address,
        now: Time,
    ) -> Self {
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
            // A new socket takes bytes: no event is needed before the first write.
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

    /// One whose socket is still connecting.
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

    /// It has come about.
    pub(crate) fn become_open(&mut self, peer: Address, now: Time) {
        self.phase = Phase::Open;
        self.peer = peer.into();
        self.readiness.writable = true;
        (self.created_at, self.last_activity, self.write_blocked_since) = (now, now, now);
        self.message_clock = PausableClock::start(now);
    }

    /// Where it came from.
    pub(crate) fn origin(&self) -> Origin {
        match self.cold().and_then(|cold| cold.job) {
            Some((_, tag)) => Origin::Connected(tag),
            None => Origin::Accepted(self.listener),
        }
    }

    /// What few connections have.
    #[inline]
    pub(crate) fn cold(&self) -> Option<&Cold> {
        self.cold.as_deref()
    }

    /// What few connections have, which this one has from now on.
    pub(crate) fn cold_mut(&mut self) -> &mut Cold {
        self.cold.get_or_insert_default()
    }

    /// The attempt that it came from, or is part of.
    pub(crate) fn job(&self) -> Option<AttemptId> {
        self.cold()?.job.map(|(id, _)| id)
    }

    /// Why it ends, once that is decided.
    #[inline]
    pub(crate) fn reason(&self) -> Option<&Reason> {
        self.cold()?.reason.as_ref()
    }

    /// How its lingering goes; `None` in any other phase.
    pub(crate) fn linger(&self) -> Option<Linger> {
        self.cold()?.linger
    }

    /// Bytes accepted for sending that were lost.
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

    /// Whether its fields agree with its phase. Asserted where the phase changes, in builds with debug assertions.
    pub(crate) fn is_consistent(&self) -> bool {
        let closing = self.phase > Phase::Open;
        let closed = self.phase == Phase::Closed;
        (!closing || self.reason().is_some() && self.groups.is_empty() && self.input.is_none())
            && (!closed || self.out.pending() == 0)
            && (self.phase != Phase::Lingering || self.linger().is_some() && self.halves.fin_sent)
            && (!self.halves.eof_delivered || self.halves.peer_fin)
            && (self.phase != Phase::Connecting || !self.has_state && self.job().is_some())
    }

    /// Whether sends are taken.
    #[inline]
    pub(crate) fn takes_output(&self) -> bool {
        self.phase == Phase::Open && !self.halves.fin_wanted && !self.halves.write_failed
    }

    /// Whether something of ours keeps input from being used. (The total of all output may as well.)
    #[inline]
    pub(crate) const fn is_read_blocked(&self) -> bool {
        self.flow.paused || self.flow.above_high_water || self.flow.pause_count > 0
    }

    /// Whether there is plainly nothing to do: the usual state after an answer.
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

    /// Whether there may be input to use: bytes, or the end of them.
    #[inline]
    pub(crate) const fn has_input(&self) -> bool {
        self.readiness.readable || self.deferred || self.halves.peer_fin && !self.halves.eof_delivered
    }

    /// Whether the kernel may take bytes.
    #[inline]
    pub(crate) fn can_be_written(&self) -> bool {
        self.readiness.writable && !self.halves.write_failed && self.phase < Phase::Lingering
    }

    /// Whether something waits to be written and the kernel may take it.
    #[inline]
    pub(crate) const fn can_write(&self) -> bool {
        self.readiness.writable && self.out.pending() > 0
    }

    /// Bytes kept.
    pub(crate) fn buffered_len(&self) -> usize {
        self.input.as_ref().map_or(0, |k| k.len())
    }
}

/// All connections, by slot. Its length is the only count of connections.
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
            Phase::Open < Phase::Flushing
                && Phase::Flushing < Phase::Lingering
                && Phase::Lingering < Phase::Closed
        );
    }
}
