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

/// What few connections have, or only at their end.
#[derive(Debug, Default)]
pub(crate) struct Cold {
    /// Set when the phase leaves `Open`.
    pub(crate) reason: Option<Reason>,
    pub(crate) unsent: u64,
    /// The attempt that it came from, or is part of.
    pub(crate) job: Option<AttemptId>,
    pub(crate) timers: TimerList,
    /// Those whose output pause_count up the reading of this one; and those that this one's pause_count up.
    pub(crate) links_to: Vec<ConnId>,
    pub(crate) links_from: Vec<ConnId>,
}

/// Everything about a connection but its socket and its handler's state.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnId,
    /// The listener's id; or the tag, where there is an attempt.
    origin: u64,
    pub(crate) peer: Peer,
    /// The handler's place among the handlers, and this connection's place among its states.
    pub(crate) handler: HandlerIdx,
    pub(crate) state: u32,
    pub(crate) out: Outbox,
    pub(crate) input: Option<Box<InputBuffer>>,
    pub(crate) groups: Vec<Membership>,
    cold: Option<Box<Cold>>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,

    /// When it was accepted, or asked for.
    pub(crate) created_at: Time,
    /// When a byte last moved either way. While lingering: when input last came.
    pub(crate) last_activity: Time,
    /// Since when waiting output has made no progress. While lingering: since when.
    pub(crate) write_blocked_since: Time,
    /// When the first byte of the unfinished message came; while reading is held up, how long ago that had been then.
    pub(crate) message_clock: Time,
    /// Bytes written in the turn `turn`; while lingering: input thrown away.
    pub(crate) written: u32,
    pub(crate) turn: u32,
    /// What pause_count up the reading: groups with a slow member, and links to connections with much output.
    pub(crate) pause_count: u16,
    /// Visits in a row that the system asked for and that came to nothing.
    pub(crate) spurious_wakeups: u8,

    pub(crate) phase: Phase,
    /// Sticky readiness: set by events, cleared only when the seam says that nothing is left.
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// A hint was seen: only `WouldBlock` means that nothing is left to read.
    pub(crate) read_to_eagain: bool,
    /// An error was reported and must be asked for.
    pub(crate) error_pending: bool,
    /// The peer's FIN was read; and `on_end` was called for it.
    pub(crate) peer_fin: bool,
    pub(crate) eof_delivered: bool,
    /// `shutdown_write` was asked for; and our FIN is sent.
    pub(crate) fin_wanted: bool,
    pub(crate) fin_sent: bool,
    /// A write failed for good: no output can leave any more, but input may still be read.
    pub(crate) write_failed: bool,
    /// What is kept was put off and not for want of more: it comes back without new bytes.
    pub(crate) deferred: bool,
    /// The handler paused reading.
    pub(crate) paused: bool,
    /// Output passed the high-water mark and has not fallen to the low one since.
    pub(crate) above_high_water: bool,
    /// `on_drain` is owed.
    pub(crate) drain_due: bool,
    /// The clock of the unfinished message is stopped.
    pub(crate) clock_stopped: bool,
    /// Close with RST.
    pub(crate) close_with_rst: bool,
    /// The handler has a state for it: `on_open` returned.
    pub(crate) has_state: bool,
    /// Not read because all output together is large; and in the list of those who are, or were.
    pub(crate) throttled: bool,
    pub(crate) in_throttled_list: bool,
    /// In the queue of connections with work; in the list of those with output to write at the end of the turn.
    pub(crate) queued: bool,
    pub(crate) dirty: bool,
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
            origin: listener.to_bits(),
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
            message_clock: now,
            written: 0,
            turn: 0,
            pause_count: 0,
            spurious_wakeups: 0,
            phase: Phase::Open,
            readable: false,
            writable: true,
            read_to_eagain: false,
            error_pending: false,
            peer_fin: false,
            eof_delivered: false,
            fin_wanted: false,
            fin_sent: false,
            write_failed: false,
            deferred: false,
            paused: false,
            above_high_water: false,
            drain_due: false,
            clock_stopped: false,
            close_with_rst: false,
            has_state: false,
            throttled: false,
            in_throttled_list: false,
            queued: false,
            dirty: false,
        }
    }

    /// One that is to come about.
    pub(crate) fn connecting(
        id: ConnId,
        handler: HandlerIdx,
        tag: u64,
        job: AttemptId,
        peer: Address,
        now: Time,
    ) -> Self {
        let mut new = Self::new(id, handler, ListenerId::from_bits(0), peer, now);
        (new.phase, new.writable, new.origin) = (Phase::Connecting, false, tag);
        new.cold_mut().job = Some(job);
        new
    }

    /// It has come about.
    pub(crate) fn become_open(&mut self, peer: Address, now: Time) {
        self.phase = Phase::Open;
        self.peer = peer.into();
        self.writable = true;
        (self.created_at, self.last_activity, self.write_blocked_since, self.message_clock) =
            (now, now, now, now);
    }

    /// Where it came from.
    pub(crate) fn origin(&self) -> Origin {
        if self.job().is_some() {
            Origin::Connected(self.origin)
        } else {
            Origin::Accepted(ListenerId::from_bits(self.origin))
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
        self.cold()?.job
    }

    /// Why it ends, once that is decided.
    #[inline]
    pub(crate) fn reason(&self) -> Option<&Reason> {
        self.cold()?.reason.as_ref()
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

    /// Whether sends are taken.
    #[inline]
    pub(crate) fn takes_output(&self) -> bool {
        self.phase == Phase::Open && !self.fin_wanted && !self.write_failed
    }

    /// Whether something of ours keeps input from being used. (The total of all output may as well.)
    #[inline]
    pub(crate) const fn is_read_blocked(&self) -> bool {
        self.paused || self.above_high_water || self.pause_count > 0
    }

    /// Whether there is plainly nothing to do: the usual state after an answer.
    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        let input = self.readable
            | self.deferred
            | self.peer_fin
            | self.error_pending
            | self.drain_due
            | self.fin_wanted;
        self.phase == Phase::Open && !input && self.out.pending() == 0
    }

    /// Whether there may be input to use: bytes, or the end of them.
    #[inline]
    pub(crate) const fn has_input(&self) -> bool {
        self.readable || self.deferred || self.peer_fin && !self.eof_delivered
    }

    /// Whether the kernel may take bytes.
    #[inline]
    pub(crate) fn can_be_written(&self) -> bool {
        self.writable && !self.write_failed && self.phase < Phase::Lingering
    }

    /// Whether something waits to be written and the kernel may take it.
    #[inline]
    pub(crate) const fn can_write(&self) -> bool {
        self.writable && self.out.pending() > 0
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
