//! Datagram sockets as the core sees them: what each has queued, its readiness, and the lists of work.
//!
//! Does no I/O and calls no handler.
//!
//! Invariant: a socket with work that no event will announce is in `ready` or `dirty`, one that waits for a retry is in
//! `retries`, and a closed one is in `closed` until its handler was called; the datagrams queued at one never cost more
//! than [`Limits::datagram_queue`](crate::Limits::datagram_queue).

use std::collections::VecDeque;
use std::time::Duration;

use super::datagram_queue::DatagramQueue;
use super::own_addresses::OwnAddresses;
use super::source_rate::SourceRate;
use crate::config::address::Address;
use crate::config::datagram::DatagramOptions;
use crate::id::{DatagramId, GenSlab, HandlerIdx, HasId};
use crate::sys::Ready;
use crate::sys::datagram::{LocalIp, ReceivedDatagram};
use crate::time::Time;
use crate::work_list::WorkList;

/// The delay of a retry. The system reports no event when the *receiver* of a Unix datagram has space again, nor when a
/// persistent receive error ends. Chosen: rare enough to cost little, short enough for a receiver that catches up.
const RETRY_AFTER: Duration = Duration::from_millis(10);
/// The longest UDP payload over IPv4 and over IPv6: 65 535 bytes less the UDP header (8), and for IPv4 less the IP
/// header (20), which counts towards the length there (RFC 768, RFC 791, RFC 8200).
const MAX_UDP_PAYLOAD: (usize, usize) = (65_507, 65_527);

/// The phases of a datagram socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DatagramPhase {
    Open,
    /// Nothing is received any more; queued datagrams are still sent.
    Closing,
    /// Its handler is to be called, then it is removed.
    Closed,
}

/// Everything about a datagram socket except the socket itself.
#[derive(Debug)]
pub(crate) struct DatagramSocket {
    pub(crate) id: DatagramId,
    pub(crate) handler: HandlerIdx,
    pub(crate) local: Address,
    pub(crate) peer: Option<Address>,
    /// The longest datagram that is received, in bytes. Longer ones are discarded whole, and reported.
    pub(crate) max: usize,
    pub(crate) phase: DatagramPhase,
    /// Datagrams for the kernel.
    pub(crate) out: DatagramQueue,
    /// Datagrams for receivers that are full. No event announces when they have space again, so they are retried.
    pub(crate) retry_queue: DatagramQueue,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The first queued datagram failed with an error that may belong to an earlier one, and is sent once more.
    pub(crate) retrying_first: bool,
    /// While the callback for a datagram runs: its sender, and the local address that it was sent to, if the system
    /// told. Answers leave from there.
    pub(crate) asked: Option<(Address, LocalIp)>,
    /// The addresses of this host that it was asked at, if it is bound to any.
    own: OwnAddresses,
    /// The limit for each source, if there is one.
    pub(crate) rate: Option<SourceRate>,
    /// The number of receive errors in a row.
    pub(crate) errors: u32,
    /// Not received from until the next retry, after too many errors.
    pub(crate) recv_backoff: bool,
    /// A datagram was dropped, or much was queued: call `on_drain` when nothing is queued any more.
    pub(super) congested: bool,
    /// It is in `DatagramSockets::ready`.
    queued: bool,
    /// It is in `DatagramSockets::dirty`.
    dirty: bool,
    /// It is in `DatagramSockets::retries`.
    pub(super) retry_pending: bool,
    /// When a closing socket stops sending and is closed.
    pub(super) close_by: Time,
}

impl DatagramSocket {
    pub(crate) fn new(
        id: DatagramId,
        handler: HandlerIdx,
        local: Address,
        peer: Option<Address>,
        options: &DatagramOptions,
    ) -> Self {
        Self {
            id,
            handler,
            local,
            peer,
            max: options.max_size,
            asked: None,
            own: OwnAddresses::default(),
            rate: options.source_rate.map(SourceRate::new),
            phase: DatagramPhase::Open,
            out: DatagramQueue::default(),
            retry_queue: DatagramQueue::default(),
            // Until a call on the socket returns `WouldBlock`.
            readable: true,
            writable: true,
            retrying_first: false,
            errors: 0,
            recv_backoff: false,
            congested: false,
            queued: false,
            dirty: false,
            retry_pending: false,
            close_by: Time::NEVER,
        }
    }

    /// Returns whether a datagram comes from this socket itself: its source is forged. If the socket is bound to any
    /// address, those of this host are known where the system tells which one was asked.
    pub(crate) fn is_own(&mut self, got: &ReceivedDatagram, now: Time) -> bool {
        let (Address::Tcp(from), Address::Tcp(local)) = (&got.from, &self.local) else {
            return got.from == self.local && self.local != Address::Unix(None);
        };
        // What is sent to many comes back to its own host by design, also from others that share the port.
        if from.port() != local.port() || got.to_many {
            return false;
        }
        let here = local.ip().to_canonical();
        if !here.is_unspecified() {
            return from.ip() == here;
        }
        from.ip().is_loopback() || got.to.is_some_and(|to| self.own.has(from.ip(), to.ip, now))
    }

    pub(crate) fn is_open(&self) -> bool {
        self.phase == DatagramPhase::Open
    }

    /// Returns the cost of the queued datagrams, as counted against the limit.
    pub(crate) const fn cost(&self) -> usize {
        self.out.cost() + self.retry_queue.cost()
    }

    /// Returns the number of queued datagrams.
    pub(crate) fn pending(&self) -> usize {
        self.out.len() + self.retry_queue.len()
    }

    /// Returns whether a receive may be tried.
    pub(crate) fn may_receive(&self) -> bool {
        self.is_open() && self.readable && !self.recv_backoff
    }

    /// Returns whether `on_drain` is to be called.
    fn drain_due(&self) -> bool {
        // A retry that is pending for an empty queue: other output has used up the total, and
        // `on_drain` waits.
        self.is_open() && self.congested && self.pending() == 0 && !self.retry_pending
    }

    /// Returns whether processing this socket now would make progress.
    pub(crate) fn has_work(&self) -> bool {
        let done = self.phase == DatagramPhase::Closing && self.pending() == 0;
        let sends = self.phase != DatagramPhase::Closed && self.writable && !self.out.is_empty();
        self.may_receive() || sends || self.drain_due() || done
    }

    /// Returns whether it is in a list of work.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) const fn is_awaited(&self) -> bool {
        self.queued || self.dirty
    }

    /// Returns the address to send to for the requested one: `Some(None)` for the peer of a connected socket, `None` if
    /// this socket cannot send there. An IPv6 socket may be able to send to IPv4 addresses (dual-stack).
    pub(super) fn route(&self, to: Option<Address>) -> Option<Option<Address>> {
        match (to, &self.peer) {
            (None, Some(_)) => Some(None),
            (Some(to), Some(peer)) => (to == *peer).then_some(None),
            (None, None) => None,
            (Some(to), None) => {
                let fits = match (&to, &self.local) {
                    (Address::Tcp(to), Address::Tcp(local)) => to.is_ipv4() || local.is_ipv6(),
                    (Address::Unix(Some(_)), Address::Unix(_)) => true,
                    _ => false,
                };
                fits.then_some(Some(to))
            }
        }
    }

    /// Returns the length of the longest datagram that can be sent to `to`. The system limits Unix datagrams itself.
    pub(super) fn longest(&self, to: Option<&Address>) -> usize {
        match to.or(self.peer.as_ref()).and_then(Address::tcp) {
            Some(to) if to.is_ipv4() => MAX_UDP_PAYLOAD.0,
            Some(_) => MAX_UDP_PAYLOAD.1,
            None => usize::MAX,
        }
    }
}

impl HasId for DatagramSocket {
    type Id = DatagramId;

    fn id(&self) -> DatagramId {
        self.id
    }
}

/// All datagram sockets.
#[derive(Debug)]
pub(crate) struct DatagramSockets {
    pub(crate) slots: GenSlab<DatagramSocket>,
    /// Sockets with work, first in, first out.
    pub(crate) ready: WorkList<DatagramId>,
    /// Sockets on which datagrams were queued, or that were closed, by callbacks. Processed at the end of the turn.
    pub(crate) dirty: WorkList<DatagramId>,
    /// Closed sockets whose handler was not called yet.
    pub(crate) closed: Vec<DatagramId>,
    /// Sockets to process at `retry_at`.
    pub(super) retries: WorkList<DatagramId>,
    /// When the next retry is; `Time::NEVER` if there is none.
    pub(crate) retry_at: Time,
}

impl DatagramSockets {
    pub(super) const fn new() -> Self {
        Self {
            slots: GenSlab::new(),
            ready: WorkList::new(),
            dirty: WorkList::new(),
            closed: Vec::new(),
            retries: WorkList::new(),
            retry_at: Time::NEVER,
        }
    }

    /// Returns whether there is work that no event will announce.
    pub(crate) fn have_work(&self) -> bool {
        !(self.ready.is_empty() && self.dirty.is_empty() && self.closed.is_empty())
    }

    /// Appends a socket to `ready`, if it has work.
    pub(crate) fn enqueue(&mut self, id: DatagramId) {
        if let Some(m) = self.slots.get_mut(id).filter(|m| m.has_work()) {
            self.ready.push(id, &mut m.queued);
        }
    }

    /// Takes the next socket out of `ready`.
    pub(crate) fn next_ready(&mut self) -> Option<DatagramId> {
        let id = self.ready.pop()?;
        if let Some(m) = self.slots.get_mut(id) {
            m.queued = false;
        }
        Some(id)
    }

    /// Records the readiness that an event reports. Returns `false` if the socket does not exist.
    pub(crate) fn record_event(&mut self, id: DatagramId, bits: u8) -> bool {
        let Some(m) = self.slots.get_mut(id) else { return false };
        // Only a call on the socket returns what a hint or an error is about: try both directions.
        let any = bits & (Ready::HINT | Ready::ERROR) != 0;
        m.readable |= any || bits & Ready::READABLE != 0;
        m.writable |= any || bits & Ready::WRITABLE != 0;
        self.enqueue(id);
        true
    }

    /// Appends a socket to `dirty`.
    pub(super) fn mark_dirty(&mut self, id: DatagramId) {
        if let Some(m) = self.slots.get_mut(id) {
            self.dirty.push(id, &mut m.dirty);
        }
    }

    /// Takes all sockets out of `dirty`.
    pub(crate) fn take_dirty(&mut self) -> VecDeque<DatagramId> {
        let dirty = self.dirty.take();
        for &id in &dirty {
            if let Some(m) = self.slots.get_mut(id) {
                m.dirty = false;
            }
        }
        dirty
    }

    /// Schedules a retry for a socket, which does not depend on an event.
    pub(crate) fn schedule_retry(&mut self, id: DatagramId, now: Time) {
        if let Some(m) = self.slots.get_mut(id).filter(|m| !m.retry_pending) {
            self.retries.push(id, &mut m.retry_pending);
            self.retry_at = self.retry_at.min(now.after(RETRY_AFTER));
        }
    }

    /// Returns whether `on_drain` is to be called, and clears the mark.
    pub(crate) fn take_drained(&mut self, id: DatagramId) -> bool {
        self.slots.get_mut(id).is_some_and(|m| m.drain_due() && std::mem::take(&mut m.congested))
    }
}
