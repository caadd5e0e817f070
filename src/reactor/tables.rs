//! What the loop keeps beside the connections: listeners, datagram sockets, sources, and how far a shutdown is.
//!
//! Calls neither handlers nor the system. Invariant: a source whose callback is due is in the queue, once; one that is
//! gone is in neither the queue nor the system's.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;

use crate::closed::{Closed, Reason};
use crate::config::address::Address;
use crate::config::limits::AtCapacity;
use crate::core::Core;
use crate::dispatch::datagram::DatagramCallback;
use crate::handler::net::Net;
use crate::id::{DatagramId, GenSlab, HandlerIdx, HasId, ListenerId, SourceId};
use crate::sys::{Ready, Sys};
use crate::time::Time;
use crate::work_list::WorkList;

pub(super) struct ListenerEntry<L> {
    pub(super) id: ListenerId,
    pub(super) socket: L,
    pub(super) handler: HandlerIdx,
    pub(super) address: Address,
    pub(super) ready: bool,
    pub(super) unknown_errors: u32,
}

impl<L> HasId for ListenerEntry<L> {
    type Id = ListenerId;

    fn id(&self) -> ListenerId {
        self.id
    }
}

/// All listeners.
pub(crate) struct Listeners<S: Sys> {
    pub(super) slots: GenSlab<ListenerEntry<S::Listener>>,
    /// Accepting rests until then.
    pub(super) paused: Option<Time>,
    /// There were as many connections as allowed, and not enough have ended since.
    pub(super) full: bool,
    /// Connections refused since the log last said so.
    pub(super) refused: u64,
    /// Someone has come since a lingering connection was last dropped to make a place.
    pub(super) new_arrivals: bool,
    /// A place has been made that way and is not taken yet.
    pub(super) evicted_for_new: bool,
}

impl<S: Sys> Listeners<S> {
    pub(super) const fn new() -> Self {
        Self {
            slots: GenSlab::new(),
            paused: None,
            full: false,
            refused: 0,
            new_arrivals: false,
            evicted_for_new: false,
        }
    }

    /// Notes that connections wait. False for a listener that is gone.
    pub(super) fn mark_ready(&mut self, id: ListenerId) -> bool {
        let listener = self.slots.get_mut(id);
        self.new_arrivals |= listener.is_some();
        listener.map(|d| d.ready = true).is_some()
    }

    /// When accepting goes on, if it rests.
    pub(crate) fn paused_until(&self) -> Time {
        self.paused.unwrap_or(Time::NEVER)
    }

    /// Whether there may be someone to take, and spare.
    pub(super) fn may_accept(&self, core: &Core) -> bool {
        self.paused.is_none()
            && self.slots.iter().any(|d| d.ready)
            && (core.limits.at_capacity == AtCapacity::Refuse || !self.is_full(core))
    }

    /// Ends the rest: a descriptor has come free.
    pub(super) fn resume(&mut self, core: &Core) {
        if self.paused.take().is_some() {
            log::info!("accepting again, {} connections open", core.conns.len());
        }
    }

    /// Whether it is for a reason that nobody is accepted.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn is_paused(&self, core: &Core) -> bool {
        self.paused.is_some() || core.limits.at_capacity == AtCapacity::Pause && self.is_full(core)
    }

    /// Full at the limit, and then until a sixty-fourth of it has come free.
    pub(super) fn is_full(&self, core: &Core) -> bool {
        let max = core.limits.connections.get();
        let enough = if self.full && !self.evicted_for_new { max - (max / 64).max(1) } else { max - 1 };
        core.conns.len() > enough
    }
}

pub(super) struct BoundSocket<D> {
    pub(super) socket: D,
    pub(super) callback: DatagramCallback,
}

/// All datagram sockets.
pub(crate) struct BoundSockets<S: Sys> {
    /// By slot.
    pub(super) sockets: Vec<Option<BoundSocket<S::Datagram>>>,
    /// One byte longer than the longest datagram that any socket takes, so that a longer one shows.
    pub(super) buffer: Vec<u8>,
}

impl<S: Sys> BoundSockets<S> {
    pub(super) const fn new() -> Self {
        Self { sockets: Vec::new(), buffer: Vec::new() }
    }

    pub(super) fn get_mut(&mut self, id: DatagramId) -> Option<&mut BoundSocket<S::Datagram>> {
        self.sockets.get_mut(id.slot as usize)?.as_mut()
    }

    /// Sockets that are open.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn len(&self) -> usize {
        self.sockets.iter().flatten().count()
    }
}

/// What a source's callback wants to come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// To be called when the source is ready again. It was used until it answered `WouldBlock`; if it was not, nothing
    /// may come any more.
    Wait,
    /// To be called in the next turn, which does not wait: there is work left.
    Again,
    /// Never to be called again: the source is deregistered and dropped.
    Done,
}

/// What the system has said about a source. It is a hint: only the source itself tells what is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness(pub(super) u8);

impl Readiness {
    /// There may be something to read, or the end of it, or an error.
    pub const fn is_readable(self) -> bool {
        self.0 & Ready::READABLE != 0
    }

    /// Something may be written, or an error waits.
    pub const fn is_writable(self) -> bool {
        self.0 & Ready::WRITABLE != 0
    }

    /// The source has an error to tell.
    pub const fn is_error(self) -> bool {
        self.0 & Ready::ERROR != 0
    }
}

/// Names a registered source, and what it is.
pub struct SourceKey<E> {
    /// Whose key it is.
    pub(super) reactor: u32,
    pub(super) id: SourceId,
    pub(super) source: PhantomData<fn() -> E>,
}

impl<E> SourceKey<E> {
    /// The id that the log names the source by.
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
    /// What was said of it since its callback last had done all there was to do.
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
    /// Whose callbacks are due, first come first served.
    pub(super) ready: WorkList<SourceId>,
}

impl Sources {
    pub(super) const fn new() -> Self {
        Self { entries: GenSlab::new(), ready: WorkList::new() }
    }

    /// Whether no callback is due.
    pub(super) fn are_quiet(&self) -> bool {
        self.ready.is_empty()
    }

    /// Notes what the system says of a source. False when it is gone.
    pub(super) fn mark_ready(&mut self, id: SourceId, bits: u8) -> bool {
        let Some(entry) = self.entries.get_mut(id) else { return false };
        entry.bits |= bits;
        self.ready.push(id, &mut entry.queued);
        true
    }

    pub(super) fn remove(&mut self, id: SourceId) -> Option<Box<dyn ErasedSource>> {
        let entry = self.entries.remove(id)?;
        if entry.queued {
            self.ready.remove(id);
        }
        Some(entry.source)
    }
}

/// What a shutdown came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Connections that ended with all they were owed handed to the kernel.
    pub clean: u64,
    /// Connections that ended otherwise, those included that were aborted when the grace was over.
    pub cut: u64,
    /// Bytes accepted for sending that were lost with those.
    pub bytes_lost: u64,
}

/// Whether a shutdown is under way, and how it goes.
#[derive(Debug, Default)]
pub(crate) struct ShutdownState {
    pub(super) until: Option<Time>,
    pub(super) report: Report,
    /// What the last shutdown came to.
    pub(super) last: Option<Report>,
    /// How many shutdowns have ended.
    pub(super) done: u64,
    /// How many requests to stop have been obeyed.
    pub(super) stop_requests_seen: u8,
}

impl ShutdownState {
    /// When what is left is aborted.
    pub(super) fn deadline(&self) -> Time {
        self.until.unwrap_or(Time::NEVER)
    }

    pub(super) const fn stop_requests_seen(&self) -> u8 {
        self.stop_requests_seen
    }

    pub(crate) const fn is_under_way(&self) -> bool {
        self.until.is_some()
    }

    pub(super) const fn done(&self) -> u64 {
        self.done
    }

    pub(crate) const fn last(&self) -> Option<Report> {
        self.last
    }

    /// Counts an ended connection.
    pub(super) fn count(&mut self, closed: &Closed) {
        if self.until.is_none() {
            return;
        }
        if closed.unsent == 0 && closed.why != Reason::ShutdownDeadline {
            self.report.clean += 1;
        } else {
            self.report.cut += 1;
            self.report.bytes_lost += closed.unsent;
        }
    }
}
