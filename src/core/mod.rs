//! The core: every connection's dues, the groups, and the lists of who has work. What callbacks act on.
//!
//! Callbacks only touch this memory; nothing here reads, writes, waits, or calls a handler. What follows from a verb
//! (a flush, a close, an `on_close`) is written down here and done by the loop after the callback has returned.
//!
//! Invariant: a connection with work that no event will announce is in `ready` or `dirty`; a dead one is in
//! `close_notify` until it is told; `delivery` says what the callback that is running (if one is) has been given.

mod broadcast;
mod close;
mod connect;
pub(crate) mod connect_jobs;
mod datagram;
mod datagram_queue;
pub(crate) mod datagram_sockets;
mod evictor;
mod flow;
mod receive;
mod send;
mod switch;
#[cfg(test)]
mod tests;
mod timers;

use std::any::Any;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use self::connect_jobs::ConnectJobs;
use self::datagram_sockets::DatagramSockets;
use self::evictor::Evictor;
use crate::buffer::pool::Pool;
use crate::codec::Framing;
use crate::config::limits::Limits;
use crate::connection::{Connection, Connections, Phase};
use crate::group::Groups;
use crate::id::{ConnId, Generations, HandlerIdx};
use crate::stats::Stats;
use crate::time::Time;
use crate::time::deadlines::Deadlines;
use crate::time::timers::{TimerList, Timers};
use crate::work_list::WorkList;

pub(crate) use broadcast::unsent_range;
pub use datagram::Posted;
pub use send::Sent;

/// Numbers reactors, so that a key of one does not open another.
static REACTORS: AtomicU32 = AtomicU32::new(0);

/// What the running callback was given, and what it said about it.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    pub(crate) conn: Option<ConnId>,
    /// Addresses of the bytes being delivered, to recognise a send of the very same bytes.
    pub(crate) input_range: Range<usize>,
    /// The part of the window that was sent back: it is written from where it lies, in front of the outbox.
    pub(crate) echo_range: Range<usize>,
    /// Bytes at the end that the handler did not use: unfinished, or put off.
    pub(crate) unused: usize,
    pub(crate) deferred: bool,
    /// Messages counted so far.
    pub(crate) messages: usize,
    /// It sent something to its own connection.
    pub(crate) sent_to_self: bool,
}

/// A wish to hand the connection of the running callback over.
#[derive(Debug)]
pub(crate) struct Switch {
    /// The place of the handler that takes over.
    pub(crate) handler: HandlerIdx,
    pub(crate) state: Box<dyn Any>,
}

/// Everything that handlers can reach.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) conns: Connections,
    pub(crate) groups: Groups,
    /// Each handler's outgoing framing.
    pub(crate) framings: Vec<Framing>,
    pub(crate) limits: Limits,
    pub(crate) stats: Stats,
    pub(crate) pool: Pool,
    pub(crate) deadlines: Deadlines,
    pub(crate) timers: Timers,
    /// Each handler's own timers.
    pub(crate) handler_timers: Vec<TimerList>,
    pub(crate) connect_jobs: ConnectJobs,
    /// Sockets that were connecting and are to be closed.
    pub(crate) cancelled_dials: Vec<ConnId>,
    pub(crate) delivery: Delivery,
    /// The callback that is running hands its connection over.
    pub(crate) switch: Option<Switch>,
    pub(crate) now: Time,
    /// Nanoseconds; see [`Stats`].
    pub(crate) longest_turn: u64,
    pub(crate) longest_call: u64,
    /// Counts turns; wraps.
    pub(crate) turn: u32,
    /// Connections with work, first come first served.
    pub(crate) ready: WorkList<ConnId>,
    /// Connections that others have sent to in this turn.
    pub(crate) dirty: WorkList<ConnId>,
    /// Connections whose fate is known and not yet told.
    pub(crate) close_notify: Vec<ConnId>,
    /// Connections not read because all output together is large.
    pub(crate) throttled: WorkList<ConnId>,
    /// Connections in the phase `Lingering`, oldest first (and some that have left it).
    pub(crate) lingering: VecDeque<ConnId>,
    /// Bytes in the groups' logs, counting each message once.
    pub(crate) logged: usize,
    /// How often a callback has asked for a shutdown, since the loop last looked.
    pub(crate) stop_requests: u8,
    /// The reactor is being shut down.
    pub(crate) shutting_down: bool,
    /// Tells reactors apart.
    pub(crate) number: u32,
    /// Datagram sockets.
    pub(crate) datagrams: DatagramSockets,
    evictor: Evictor,
}

impl Core {
    pub(crate) fn new(limits: Limits, generations: Generations) -> Self {
        Self {
            conns: Connections::with_generations(generations),
            groups: Groups::new(),
            framings: Vec::new(),
            pool: Pool::new(limits.pooled),
            limits,
            stats: Stats::default(),
            deadlines: Deadlines::default(),
            timers: Timers::default(),
            handler_timers: Vec::new(),
            connect_jobs: ConnectJobs::default(),
            cancelled_dials: Vec::new(),
            delivery: Delivery::default(),
            switch: None,
            now: Time(0),
            longest_turn: 0,
            longest_call: 0,
            turn: 0,
            ready: WorkList::new(),
            dirty: WorkList::new(),
            close_notify: Vec::new(),
            throttled: WorkList::new(),
            lingering: VecDeque::new(),
            logged: 0,
            stop_requests: 0,
            shutting_down: false,
            number: REACTORS.fetch_add(1, Ordering::Relaxed),
            datagrams: DatagramSockets::new(),
            evictor: Evictor::default(),
        }
    }

    /// The counters, and what is counted by other means.
    pub(crate) fn snapshot(&self) -> Stats {
        Stats {
            open: (self.conns.len() - self.count_dials()) as u64,
            connecting: self.count_dials() as u64,
            output_held: self.pool.output() as u64,
            input_held: self.pool.input() as u64,
            pooled: self.pool.idle() as u64,
            longest_turn: Duration::from_nanos(self.longest_turn),
            longest_call: Duration::from_nanos(self.longest_call),
            ..self.stats.clone()
        }
    }

    /// Moves the clock on. It never goes back, whatever the system says.
    #[inline]
    pub(crate) fn set_now(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    /// Puts a connection into the queue of those with work, unless it is there.
    #[inline]
    pub(crate) fn enqueue(&mut self, id: ConnId) {
        if let Some(c) = self.conns.live_mut(id) {
            self.ready.push(id, &mut c.queues.ready);
        }
    }

    /// Puts a connection into the queue if it has work that can be done now; or into the list of the throttled.
    #[inline]
    pub(crate) fn enqueue_if_work(&mut self, id: ConnId) {
        let Some(c) = self.conns.get(id).filter(|c| !c.queues.ready && !c.is_quiet()) else { return };
        if self.has_work(c) {
            return self.enqueue(id);
        }
        if c.has_input() && c.phase == Phase::Open && !c.is_read_blocked() && !c.flow.throttled {
            if let Some(c) = self.conns.live_mut(id) {
                c.flow.throttled = true;
                self.throttled.push(id, &mut c.queues.throttled);
            }
            self.sync_clock(id);
        }
    }

    /// Whether a visit would get something done.
    #[inline]
    pub(crate) fn has_work(&self, c: &Connection) -> bool {
        match c.phase {
            Phase::Connecting => c.readiness.readable || c.readiness.writable || c.readiness.error_pending,
            Phase::Open => {
                c.can_write()
                    || c.readiness.error_pending
                    || c.flow.drain_due
                    || c.halves.fin_wanted
                        && !c.halves.fin_sent
                        && !c.halves.write_failed
                        && c.out.pending() == 0
                    || c.has_input() && self.may_read(c)
            }
            Phase::Flushing => c.can_write() || c.readiness.error_pending || c.out.pending() == 0,
            Phase::Lingering => c.readiness.readable,
            Phase::Closed => false,
        }
    }

    /// The part of what was delivered that is to be written in front of `id`'s outbox, and forgets it.
    #[inline]
    pub(crate) fn take_echo_range(&mut self, id: ConnId) -> Range<usize> {
        if self.delivery.conn == Some(id) { std::mem::take(&mut self.delivery.echo_range) } else { 0..0 }
    }

    /// Bytes that wait for `id`, with those borrowed from the delivery that is under way.
    #[inline]
    pub(crate) fn pending(&self, c: &Connection) -> usize {
        let echo_range = if self.delivery.conn == Some(c.id) { self.delivery.echo_range.len() } else { 0 };
        c.out.pending() + echo_range
    }

    /// Whether the groups' logs hold so much that they must be written before the next callback.
    #[inline]
    pub(crate) fn logs_full(&self) -> bool {
        self.logged >= self.limits.output_high
    }
}
