//! Datagram sockets as callbacks see them: what each has still to send, and who of them has work.
//!
//! Nothing here sends, receives or calls a handler. Invariant: a socket with work that no event will announce is in
//! `ready` or `dirty`, one that waits for time to pass is in `retries`, and a closed one is in `closed` until that is
//! told; what waits at one never costs more than [`Limits::datagram_queue`](crate::Limits::datagram_queue).

use std::collections::VecDeque;
use std::time::Duration;

use super::datagram_queue::DatagramQueue;
use crate::config::address::Address;
use crate::id::{DatagramId, GenSlab, HandlerIdx, HasId};
use crate::sys::Ready;
use crate::time::Time;
use crate::work_list::WorkList;

/// How long what no event will announce is let rest before it is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(10);
/// The most that fits in a UDP datagram over IPv4, and over IPv6.
const MAX_UDP_PAYLOAD: (usize, usize) = (65_507, 65_527);

/// How far the life of a socket has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DatagramPhase {
    Open,
    /// Nothing is received any more; what waits is sent.
    Closing,
    /// To be told, and then gone.
    Closed,
}

/// What is owed by one socket.
#[derive(Debug)]
pub(crate) struct DatagramSocket {
    pub(crate) id: DatagramId,
    pub(crate) handler: HandlerIdx,
    pub(crate) local: Address,
    pub(crate) peer: Option<Address>,
    /// The longest datagram that is taken.
    pub(crate) max: usize,
    pub(crate) phase: DatagramPhase,
    /// Waiting for the kernel.
    pub(crate) out: DatagramQueue,
    /// Waiting for receivers that take no more, where the system will not say when they do.
    pub(crate) retry_queue: DatagramQueue,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The first that waits was refused for an error of an earlier one, and is tried once more.
    pub(crate) retrying_first: bool,
    /// Errors of receiving in a row.
    pub(crate) errors: u32,
    /// Not received from for a while, after too many errors.
    pub(crate) recv_backoff: bool,
    /// Something was dropped, or much waited: it is to be told when nothing waits any more.
    pub(super) congested: bool,
    queued: bool,
    dirty: bool,
    pub(super) retry_pending: bool,
    /// When a close waits no longer.
    pub(super) close_by: Time,
}

impl DatagramSocket {
    pub(crate) fn new(
        id: DatagramId,
        handler: HandlerIdx,
        local: Address,
        peer: Option<Address>,
        max: usize,
    ) -> Self {
        Self {
            id,
            handler,
            local,
            peer,
            max,
            phase: DatagramPhase::Open,
            out: DatagramQueue::default(),
            retry_queue: DatagramQueue::default(),
            // Until the kernel says otherwise.
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

    pub(crate) fn is_open(&self) -> bool {
        self.phase == DatagramPhase::Open
    }

    /// Bytes that wait, as counted against the limit.
    pub(crate) const fn cost(&self) -> usize {
        self.out.cost() + self.retry_queue.cost()
    }

    /// How many datagrams wait.
    pub(crate) fn pending(&self) -> usize {
        self.out.len() + self.retry_queue.len()
    }

    pub(crate) fn may_receive(&self) -> bool {
        self.is_open() && self.readable && !self.recv_backoff
    }

    fn drain_due(&self) -> bool {
        self.is_open() && self.congested && self.pending() == 0 && !self.retry_pending
    }

    /// Whether a visit would get something done.
    pub(crate) fn has_work(&self) -> bool {
        let done = self.phase == DatagramPhase::Closing && self.pending() == 0;
        let sends = self.phase != DatagramPhase::Closed && self.writable && !self.out.is_empty();
        self.may_receive() || sends || self.drain_due() || done
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) const fn is_awaited(&self) -> bool {
        self.queued || self.dirty
    }

    /// Where to send what is for `to`: `Some(None)` to the peer, `None` nowhere.
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

    /// The longest that can be sent to `to`.
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

/// All sockets.
#[derive(Debug)]
pub(crate) struct DatagramSockets {
    slots: GenSlab<DatagramSocket>,
    /// Those with work, first come first served.
    pub(crate) ready: WorkList<DatagramId>,
    /// Those that have been sent to, or closed, since they were last looked at.
    pub(crate) dirty: WorkList<DatagramId>,
    /// Those that closed and were not told yet.
    pub(crate) closed: Vec<DatagramId>,
    /// Those that are looked at when `retry_at` has come.
    pub(super) retries: WorkList<DatagramId>,
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

    /// Adds a socket. Returns `None` when no more ids can be issued.
    pub(crate) fn insert_with(
        &mut self,
        make: impl FnOnce(DatagramId) -> DatagramSocket,
    ) -> Option<DatagramId> {
        self.slots.insert_with(make)
    }

    pub(crate) fn get(&self, id: DatagramId) -> Option<&DatagramSocket> {
        self.slots.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: DatagramId) -> Option<&mut DatagramSocket> {
        self.slots.get_mut(id)
    }

    /// See [`GenSlab::live_mut`].
    #[track_caller]
    pub(crate) fn live_mut(&mut self, id: DatagramId) -> Option<&mut DatagramSocket> {
        self.slots.live_mut(id)
    }

    pub(crate) fn remove(&mut self, id: DatagramId) -> Option<DatagramSocket> {
        self.slots.remove(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &DatagramSocket> {
        self.slots.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is work that no event will announce.
    pub(crate) fn have_work(&self) -> bool {
        !(self.ready.is_empty() && self.dirty.is_empty() && self.closed.is_empty())
    }

    /// Puts one into the queue of those with work, if it has any.
    pub(crate) fn enqueue(&mut self, id: DatagramId) {
        if let Some(m) = self.slots.get_mut(id).filter(|m| m.has_work()) {
            self.ready.push(id, &mut m.queued);
        }
    }

    /// The next with work.
    pub(crate) fn next_ready(&mut self) -> Option<DatagramId> {
        let id = self.ready.pop()?;
        if let Some(m) = self.get_mut(id) {
            m.queued = false;
        }
        Some(id)
    }

    /// Sets what an event says. False for one that is gone.
    pub(crate) fn record_event(&mut self, id: DatagramId, bits: u8) -> bool {
        let Some(m) = self.get_mut(id) else { return false };
        // Only a call on the socket tells what a hint or an error is about.
        let any = bits & (Ready::HINT | Ready::ERROR) != 0;
        m.readable |= any || bits & Ready::READABLE != 0;
        m.writable |= any || bits & Ready::WRITABLE != 0;
        self.enqueue(id);
        true
    }

    /// Remembers to look at one at the end of the turn.
    pub(super) fn mark_dirty(&mut self, id: DatagramId) {
        if let Some(m) = self.slots.get_mut(id) {
            self.dirty.push(id, &mut m.dirty);
        }
    }

    /// Those to look at, at the end of the turn.
    pub(crate) fn take_dirty(&mut self) -> VecDeque<DatagramId> {
        let dirty = self.dirty.take();
        for &id in &dirty {
            if let Some(m) = self.get_mut(id) {
                m.dirty = false;
            }
        }
        dirty
    }

    /// Remembers to look at one in a while, whether or not an event comes.
    pub(crate) fn schedule_retry(&mut self, id: DatagramId, now: Time) {
        if let Some(m) = self.slots.get_mut(id).filter(|m| !m.retry_pending) {
            self.retries.push(id, &mut m.retry_pending);
            self.retry_at = self.retry_at.min(now.after(RETRY_AFTER));
        }
    }

    /// Whether nothing waits any more after it was told that much does; forgets it.
    pub(crate) fn take_drained(&mut self, id: DatagramId) -> bool {
        self.get_mut(id).is_some_and(|m| m.drain_due() && std::mem::take(&mut m.congested))
    }
}
