//! The loop's tables: sockets by slot, listeners, sources, and the state of a shutdown.
//!
//! Calls neither handlers nor the system. Invariant: a source whose callback is pending is in the work list, once.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;

use crate::closed::{Closed, Reason};
use crate::config::address::Address;
use crate::config::limits::AtCapacity;
use crate::core::Core;
use crate::dispatch::datagram::DatagramCallback;
use crate::handler::net::Net;
use crate::id::{GenSlab, HandlerIdx, HasId, ListenerId, SlotId, SourceId};
use crate::sys::{Ready, Sys};
use crate::time::Time;
use crate::work_list::WorkList;

pub(super) struct ListenerEntry<L> {
    pub(super) id: ListenerId,
    pub(super) socket: L,
    pub(super) handler: HandlerIdx,
    /// Places reserved for connections that the handler makes for each one it accepts.
    pub(super) reserve: usize,
    pub(super) address: Address,
    pub(super) ready: bool,
    /// A limit kept it from accepting, and not enough connections have closed since.
    pub(super) full: bool,
    pub(super) unknown_errors: u32,
}

impl<L> HasId for ListenerEntry<L> {
    type Id = ListenerId;

    fn id(&self) -> ListenerId {
        self.id
    }
}

impl<L> ListenerEntry<L> {
    /// How many places have to be free before it accepts a connection.
    pub(super) const fn places(&self) -> usize {
        self.reserve.saturating_add(1)
    }

    /// Returns the limit that keeps it from accepting, with its name. Once there was one, a 64th of the places must be
    /// free, unless they were made free for the next connection (`evicted_for_new`). This hysteresis (chosen) avoids a
    /// change of state, and a log line, with every connection that closes at the limit.
    pub(super) fn lacks(&self, core: &Core, evicted_for_new: bool) -> Option<(usize, &'static str)> {
        let again = if self.full && !evicted_for_new { core.limits.connections.get() / 64 } else { 0 };
        core.lacks(self.places().max(again), self.reserve)
    }
}

/// All listeners.
pub(crate) struct Listeners<S: Sys> {
    pub(super) slots: GenSlab<ListenerEntry<S::Listener>>,
    /// Accepting is paused until then: descriptors or memory had run out.
    pub(super) paused: Option<Time>,
    /// Connections refused since this number was last logged.
    pub(super) refused: u64,
    /// A listener became ready since a lingering connection was last evicted. At most one is evicted for each event.
    pub(super) new_arrivals: bool,
    /// A lingering connection was evicted, and its slot is not taken yet.
    pub(super) evicted_for_new: bool,
}

impl<S: Sys> Listeners<S> {
    pub(super) const fn new() -> Self {
        Self { slots: GenSlab::new(), paused: None, refused: 0, new_arrivals: false, evicted_for_new: false }
    }

    /// Marks a listener as ready. Returns `false` if it is closed.
    pub(super) fn mark_ready(&mut self, id: ListenerId) -> bool {
        let listener = self.slots.get_mut(id);
        self.new_arrivals |= listener.is_some();
        listener.map(|d| d.ready = true).is_some()
    }

    /// Returns when accepting resumes; [`Time::NEVER`] if it is not paused.
    pub(crate) fn paused_until(&self) -> Time {
        self.paused.unwrap_or(Time::NEVER)
    }

    /// Whether a listener is ready, and the limits permit an `accept`.
    pub(super) fn may_accept(&self, core: &Core) -> bool {
        self.paused.is_none()
            && (self.slots.iter().filter(|d| d.ready))
                .any(|d| core.limits.at_capacity == AtCapacity::Refuse || d.lacks(core, self.evicted_for_new).is_none())
    }

    /// Resumes accepting: the pause has ended, or a descriptor was closed.
    pub(super) fn resume(&mut self, core: &Core) {
        if self.paused.take().is_some() {
            log::info!("accepting again, {} connections open", core.conns.len());
        }
    }

    /// Whether accepting is paused, or a listener is stopped by a limit.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn is_paused(&self, core: &Core) -> bool {
        let mut full = self.slots.iter().filter_map(|d| d.lacks(core, self.evicted_for_new));
        self.paused.is_some() || core.limits.at_capacity == AtCapacity::Pause && full.next().is_some()
    }
}

pub(super) struct BoundSocket<D> {
    pub(super) socket: D,
    pub(super) callback: DatagramCallback,
}

/// Sockets, by the slots of their ids. Generations are not compared: the core knows which ids are stale.
pub(crate) struct BySlot<T>(Vec<Option<T>>);

impl<T> BySlot<T> {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn insert(&mut self, id: impl SlotId, value: T) {
        if id.slot() >= self.0.len() {
            self.0.resize_with(id.slot() + 1, || None);
        }
        self.0[id.slot()] = Some(value);
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: impl SlotId) -> Option<&mut T> {
        self.0.get_mut(id.slot())?.as_mut()
    }

    pub(super) fn take(&mut self, id: impl SlotId) -> Option<T> {
        self.0.get_mut(id.slot())?.take()
    }

    /// Iterates over the values, each with its slot.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.0.iter().enumerate().filter_map(|(slot, value)| Some((slot as u32, value.as_ref()?)))
    }
}

/// What the loop does next with a source; returned by its callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Call again when the source is ready. The callback must have used the source until it returned `WouldBlock`;
    /// otherwise it may never be called again.
    Wait,
    /// Call again in the next turn, which does not wait: there is work left.
    Again,
    /// Deregister and drop the source.
    Done,
}

/// The readiness that the system reported for a source. It is a hint: only an operation on the source shows whether it
/// is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness(pub(super) u8);

impl Readiness {
    /// The source may have input, end of input, or an error.
    pub const fn is_readable(self) -> bool {
        self.0 & Ready::READABLE != 0
    }

    /// The source may accept output, or have an error.
    pub const fn is_writable(self) -> bool {
        self.0 & Ready::WRITABLE != 0
    }

    /// The source reported an error.
    pub const fn is_error(self) -> bool {
        self.0 & Ready::ERROR != 0
    }
}

/// The key of a registered source, with its type.
pub struct SourceKey<E> {
    /// The number of the reactor that issued it.
    pub(super) reactor: u32,
    pub(super) id: SourceId,
    pub(super) source: PhantomData<fn() -> E>,
}

impl<E> SourceKey<E> {
    /// Returns the id of the source, as it appears in the log.
    pub const fn id(self) -> SourceId {
        self.id
    }
}

impl<E> Clone for SourceKey<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for SourceKey<E> {}

impl<E> fmt::Debug for SourceKey<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SourceKey").field(&self.id).finish()
    }
}

/// A source and its callback, without their types.
pub(super) trait ErasedSource: Any {
    fn source(&mut self) -> &mut dyn mio::event::Source;
    fn call(&mut self, net: &mut Net<'_>, readiness: Readiness) -> Watch;
}

type Callback<E> = Box<dyn FnMut(&mut Net<'_>, &mut E, Readiness) -> Watch>;

pub(super) struct SourceSlot<E> {
    pub(super) source: E,
    pub(super) callback: Callback<E>,
}

impl<E: mio::event::Source + 'static> ErasedSource for SourceSlot<E> {
    fn source(&mut self) -> &mut dyn mio::event::Source {
        &mut self.source
    }

    fn call(&mut self, net: &mut Net<'_>, readiness: Readiness) -> Watch {
        (self.callback)(net, &mut self.source, readiness)
    }
}

pub(super) struct SourceEntry {
    pub(super) id: SourceId,
    pub(super) source: Box<dyn ErasedSource>,
    /// Readiness reported since its callback was last called.
    pub(super) bits: u8,
    pub(super) queued: bool,
}

impl HasId for SourceEntry {
    type Id = SourceId;

    fn id(&self) -> SourceId {
        self.id
    }
}

/// All sources.
pub(crate) struct Sources {
    pub(super) entries: GenSlab<SourceEntry>,
    /// Sources whose callback is pending, first in, first out.
    pub(super) ready: WorkList<SourceId>,
}

impl Sources {
    pub(super) const fn new() -> Self {
        Self { entries: GenSlab::new(), ready: WorkList::new() }
    }

    /// Whether no callback is pending.
    pub(super) fn are_quiet(&self) -> bool {
        self.ready.is_empty()
    }

    /// Records the readiness of a source and queues it. Returns `false` if it is no longer registered.
    pub(super) fn mark_ready(&mut self, id: SourceId, bits: u8) -> bool {
        let Some(entry) = self.entries.get_mut(id) else { return false };
        entry.bits |= bits;
        self.ready.push(id, &mut entry.queued);
        true
    }
}

/// The result of a shutdown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Connections that closed after the kernel had taken all their output.
    pub clean: u64,
    /// All other connections, including those aborted at the end of the grace period.
    pub cut: u64,
    /// Bytes accepted for sending that were lost with them.
    pub bytes_lost: u64,
}

/// The state of a shutdown.
#[derive(Debug, Default)]
pub(crate) struct ShutdownState {
    /// The deadline of the shutdown that is in progress.
    pub(super) until: Option<Time>,
    /// The result so far of that shutdown.
    pub(super) report: Report,
    /// The result of the last finished shutdown.
    pub(super) last: Option<Report>,
    /// How many stop requests have been handled.
    pub(super) stop_requests_seen: u8,
}

impl ShutdownState {
    /// Returns when the remaining connections are aborted; [`Time::NEVER`] if no shutdown is in progress.
    pub(super) fn deadline(&self) -> Time {
        self.until.unwrap_or(Time::NEVER)
    }

    pub(crate) const fn is_under_way(&self) -> bool {
        self.until.is_some()
    }

    pub(crate) const fn last(&self) -> Option<Report> {
        self.last
    }

    /// Counts a closed connection, if a shutdown is in progress.
    pub(super) fn count(&mut self, closed: &Closed) {
        if self.until.is_none() {
            return;
        }
        let cut = matches!(closed.why, Reason::ShutdownDeadline | Reason::HandlerPanic);
        if closed.unsent == 0 && !cut {
            self.report.clean += 1;
        } else {
            self.report.cut += 1;
            self.report.bytes_lost += closed.unsent;
        }
    }
}
