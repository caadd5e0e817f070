//! The core: the memory that callbacks act on. Connections, groups, timers, connect jobs, and the lists of work.
//!
//! Does no I/O and calls no handler. What a callback requests (a flush, a close, an `on_close`) is recorded here, and
//! the loop does it after the callback has returned. This is why callbacks never nest.
//!
//! Invariant: a connection with work that no event will announce is in `ready` or `dirty` (events are edge-triggered: a
//! connection that is in no list and gets no event would hang); a closed one is in `close_notify` until its `on_close`
//! is called; `delivery` describes the running callback, if there is one.

mod broadcast;
mod close;
mod connect;
pub(crate) mod connect_jobs;
mod datagram;
pub(crate) mod datagram_queue;
pub(crate) mod datagram_sockets;
mod echo;
mod evictor;
mod flow;
mod own_addresses;
mod places;
mod receive;
mod send;
mod send_all;
pub(crate) mod source_rate;
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
use self::echo::EchoInPlace;
use self::evictor::Evictor;
use crate::buffer::pool::Pool;
use crate::codec::{Framing, Panic};
use crate::config::limits::Limits;
use crate::connection::{Connection, Connections, Phase};
use crate::group::Groups;
use crate::id::{ConnId, Generations, HandlerIdx};
use crate::stats::Stats;
use crate::time::Time;
use crate::time::deadlines::Deadlines;
use crate::time::log_limit::RateLimiter;
use crate::time::timers::{TimerList, Timers};
use crate::work_list::WorkList;

pub(crate) use broadcast::unsent_range;
pub use datagram::Posted;
pub use send::Sent;

/// The number of the next reactor. It is part of each `Key`, so that a key is rejected by other reactors.
static REACTORS: AtomicU32 = AtomicU32::new(0);

/// The input that the running callback was called with, and what the callback did with it.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    /// The connection of the running callback.
    pub(crate) conn: Option<ConnId>,
    /// What the callback sent back of its input: written from the read buffer, in front of the outbox.
    pub(crate) echo: EchoInPlace,
    /// Bytes at the end that the handler did not use: an unfinished message, or deferred.
    pub(crate) unused: usize,
    /// The unused bytes are deferred: deliver them again without waiting for more.
    pub(crate) deferred: bool,
    /// The number of messages delivered so far.
    pub(crate) messages: usize,
    /// The callback sent something to its own connection.
    pub(crate) sent_to_self: bool,
}

/// A request to switch the connection of the running callback to another handler.
#[derive(Debug)]
pub(crate) struct Switch {
    /// The new handler.
    pub(crate) handler: HandlerIdx,
    /// The connection's state for the new handler.
    pub(crate) state: Box<dyn Any>,
}

/// Everything that handlers can reach.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) conns: Connections,
    /// Places reserved for connections that will be made: the unused reserves of all open connections.
    pub(crate) reserved: usize,
    pub(crate) groups: Groups,
    /// The framing in which each handler's connections send.
    pub(crate) framings: Vec<Framing>,
    pub(crate) limits: Limits,
    pub(crate) stats: Stats,
    pub(crate) pool: Pool,
    pub(crate) deadlines: Deadlines,
    pub(crate) timers: Timers,
    /// The handler timers of each handler.
    pub(crate) handler_timers: Vec<TimerList>,
    pub(crate) connect_jobs: ConnectJobs,
    /// Connecting sockets whose connect job was cancelled or needs them no longer. The loop closes them.
    pub(crate) cancelled_dials: Vec<ConnId>,
    pub(crate) delivery: Delivery,
    /// Panics of codecs while encoding, each with its handler. Their connections are terminated; the dispatcher reports
    /// the panics.
    pub(crate) codec_panics: Vec<(HandlerIdx, Panic)>,
    /// Limits the warnings of messages that are longer than the limit.
    too_long_log: RateLimiter,
    /// Limits the errors of sources of pieces.
    pieces_log: RateLimiter,
    /// Set if the running callback switches its connection to another handler.
    pub(crate) switch: Option<Switch>,
    /// The time at which the loop last read the clock.
    pub(crate) now: Time,
    /// Everything that had happened by this time was reported by the system, and what it made ready was read or written
    /// since. Deadlines up to this time may expire, and no others: otherwise a peer would be closed for silence though
    /// its bytes wait in the kernel, when the loop is late (a callback blocked, or the process was stopped).
    pub(crate) seen_until: Time,
    /// In nanoseconds, for [`Stats`].
    pub(crate) longest_turn: u64,
    /// In nanoseconds, for [`Stats`].
    pub(crate) longest_call: u64,
    /// The number of the turn. Wraps.
    pub(crate) turn: u32,
    /// Connections with work, first in, first out, so that no connection starves the others.
    pub(crate) ready: WorkList<ConnId>,
    /// Connections that were sent to outside their own callbacks. Flushed at the end of the turn, so that several
    /// messages leave in one write.
    pub(crate) dirty: WorkList<ConnId>,
    /// Closed connections for which `on_close` was not called yet.
    pub(crate) close_notify: Vec<ConnId>,
    /// Connections that are not read because of memory pressure.
    pub(crate) throttled: WorkList<ConnId>,
    /// Connections in phase `Lingering`, oldest first. May contain stale ids.
    pub(crate) lingering: VecDeque<ConnId>,
    /// Bytes in the groups' logs. A message that is in several logs counts once.
    pub(crate) logged: usize,
    /// The number of shutdown requests from callbacks that the loop has not processed yet.
    pub(crate) stop_requests: u8,
    /// The reactor is shutting down.
    pub(crate) shutting_down: bool,
    /// The number of this reactor.
    pub(crate) number: u32,
    pub(crate) datagrams: DatagramSockets,
    evictor: Evictor,
}

impl Core {
    pub(crate) fn new(limits: Limits, generations: Generations) -> Self {
        Self {
            conns: Connections::with_generations(generations),
            reserved: 0,
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
            codec_panics: Vec::new(),
            too_long_log: RateLimiter::default(),
            pieces_log: RateLimiter::default(),
            switch: None,
            now: Time(0),
            seen_until: Time(0),
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

    /// Returns the counters, completed with the values that are computed on demand.
    pub(crate) fn snapshot(&self) -> Stats {
        let connecting = self.count_dials();
        Stats {
            open: (self.conns.len() - connecting) as u64,
            connecting: connecting as u64,
            output_held: self.pool.output() as u64,
            input_held: self.pool.input() as u64,
            pooled: self.pool.idle() as u64,
            longest_turn: Duration::from_nanos(self.longest_turn),
            longest_call: Duration::from_nanos(self.longest_call),
            ..self.stats.clone()
        }
    }

    /// Advances the clock. It never goes back, even if the system's does.
    #[inline]
    pub(crate) fn set_now(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    /// Appends a connection to `ready`, unless it is in the list.
    #[inline]
    pub(crate) fn enqueue(&mut self, id: ConnId) {
        if let Some(c) = self.conns.live_mut(id) {
            self.ready.push(id, &mut c.queues.ready);
        }
    }

    /// Queues a connection in `ready` if it has work that can be done now, or in `throttled` if only memory pressure
    /// keeps it from being read.
    #[inline]
    pub(crate) fn enqueue_if_work(&mut self, id: ConnId) {
        let Some(c) = self.conns.get(id).filter(|c| !c.queues.ready && !c.is_quiet()) else { return };
        if self.has_work(c) {
            return self.enqueue(id);
        }
        // No event will announce the end of memory pressure, so the connection must be in a list until then.
        if c.has_input() && c.phase == Phase::Open && !c.is_read_blocked() && !c.flow.throttled {
            if let Some(c) = self.conns.live_mut(id) {
                c.flow.throttled = true;
                self.throttled.push(id, &mut c.queues.throttled);
            }
            if self.is_mostly_stale(self.throttled.len()) {
                let conns = &self.conns;
                self.throttled.retain(|id| conns.get(id).is_some());
            }
            self.sync_clock(id);
        }
    }

    /// Returns whether most ids of a list of this length name connections that are gone, because closing does not
    /// remove them. Cleaning up only then makes the cost per connection constant.
    fn is_mostly_stale(&self, ids: usize) -> bool {
        ids > 2 * self.conns.len() + 64
    }

    /// Returns whether processing this connection now would make progress.
    #[inline]
    pub(crate) fn has_work(&self, c: &Connection) -> bool {
        match c.phase {
            Phase::Connecting => c.readiness.readable || c.readiness.writable || c.readiness.error_pending,
            Phase::Open => {
                c.can_write()
                    || c.readiness.error_pending
                    || c.flow.drain_due
                    || c.halves.fin_wanted && !c.halves.fin_sent && !c.halves.write_failed && c.out.pending() == 0
                    || c.has_input() && self.may_read(c)
            }
            Phase::Flushing => c.can_write() || c.readiness.error_pending || c.out.pending() == 0,
            Phase::Lingering => c.readiness.readable,
            Phase::Closed => false,
        }
    }

    /// Takes the range of the delivered bytes that is to be written in front of `id`'s outbox.
    #[inline]
    pub(crate) fn take_echoed(&mut self, id: ConnId) -> Range<usize> {
        if self.delivery.conn == Some(id) { self.delivery.echo.take() } else { 0..0 }
    }

    /// Returns the number of unsent bytes of a connection, including those that its running callback echoes in place.
    #[inline]
    pub(crate) fn pending(&self, c: &Connection) -> usize {
        let echoed = if self.delivery.conn == Some(c.id) { self.delivery.echo.len() } else { 0 };
        c.out.pending() + echoed
    }

    /// Returns whether the groups' logs hold so much that they must be written before the next callback. This bounds
    /// their memory within a turn.
    #[inline]
    pub(crate) fn logs_full(&self) -> bool {
        self.logged >= self.limits.output_high
    }
}
