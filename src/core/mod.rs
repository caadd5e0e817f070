//! The core: every connection's dues, the groups, and the lists of who has work. What callbacks act on.
//!
//! Callbacks only touch this memory; nothing here reads, writes, waits, or calls a handler. What follows from a verb
//! (a flush, a close, an `on_close`) is written down here and done by the loop after the callback has returned.
//!
//! Invariant: a connection with work that no event will announce is in `ready` or `dirty`; a dead one is in `doomed`
//! until it is told; `delivery` says what the callback that is running (if one is) has been given.

mod broadcast;
mod close;
pub(crate) mod connect;
mod datagram;
mod datagram_queue;
mod holding;
mod linking;
mod send;
mod switch;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use self::connect::Attempts;
use crate::buffer::input::Kept;
use crate::buffer::pool::Pool;
use crate::codec::Framing;
use crate::config::limits::{LEAST_READ, Limits};
use crate::connection::{Connection, Phase, Table};
use crate::group::Groups;
use crate::id::{ConnId, Generations};
use crate::stats::Stats;
use crate::time::Time;
use crate::time::deadlines::Deadlines;
use crate::time::timers::{TimerList, Timers};

pub(crate) use broadcast::owed;
pub use datagram::Posted;
pub(crate) use datagram::{Mailbox, Stage};
pub use send::Sent;
pub(crate) use switch::Switch;

/// Numbers reactors, so that a key of one does not open another.
static REACTORS: AtomicU32 = AtomicU32::new(0);

/// What the running callback was given, and what it said about it.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    pub(crate) conn: Option<ConnId>,
    /// Addresses of the bytes being delivered, to recognise a send of the very same bytes.
    pub(crate) window: Range<usize>,
    /// The part of the window that was sent back: it is written from where it lies, in front of the outbox.
    pub(crate) borrowed: Range<usize>,
    /// Bytes at the end that the handler did not use: unfinished, or put off.
    pub(crate) rest: usize,
    pub(crate) deferred: bool,
    /// Messages counted so far.
    pub(crate) messages: usize,
    /// It sent something to its own connection.
    pub(crate) answered: bool,
}

/// Everything that handlers can reach.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) conns: Table,
    pub(crate) groups: Groups,
    /// Each handler's outgoing framing.
    pub(crate) framings: Vec<Framing>,
    pub(crate) limits: Limits,
    pub(crate) stats: Stats,
    pub(crate) pool: Pool,
    pub(crate) deadlines: Deadlines,
    pub(crate) timers: Timers,
    /// Each handler's own timers.
    pub(crate) ticks: Vec<TimerList>,
    pub(crate) attempts: Attempts,
    /// Sockets that were connecting and are to be closed.
    pub(crate) dropped: Vec<ConnId>,
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
    pub(crate) ready: VecDeque<ConnId>,
    /// Connections that others have sent to in this turn.
    pub(crate) dirty: Vec<ConnId>,
    /// Connections whose fate is known and not yet told.
    pub(crate) doomed: Vec<ConnId>,
    /// Connections not read because all output together is large.
    pub(crate) starved: Vec<ConnId>,
    /// Connections in the phase `Lingering`, oldest first (and some that have left it).
    pub(crate) lingering: VecDeque<ConnId>,
    /// Bytes in the groups' logs, counting each message once.
    pub(crate) logged: usize,
    /// How often a callback has asked for a shutdown, since the loop last looked.
    pub(crate) stop_wanted: u8,
    /// The reactor is being shut down.
    pub(crate) stopping: bool,
    /// Tells reactors apart.
    pub(crate) number: u32,
    /// Datagram sockets.
    pub(crate) mail: datagram::Mailboxes,
    shed: send::Shed,
}

impl Core {
    pub(crate) fn new(limits: Limits, generations: Generations) -> Self {
        Self {
            conns: Table::new(generations),
            groups: Groups::new(),
            framings: Vec::new(),
            pool: Pool::new(limits.pooled),
            limits,
            stats: Stats::default(),
            deadlines: Deadlines::default(),
            timers: Timers::default(),
            ticks: Vec::new(),
            attempts: Attempts::default(),
            dropped: Vec::new(),
            delivery: Delivery::default(),
            switch: None,
            now: Time(0),
            longest_turn: 0,
            longest_call: 0,
            turn: 0,
            ready: VecDeque::new(),
            dirty: Vec::new(),
            doomed: Vec::new(),
            starved: Vec::new(),
            lingering: VecDeque::new(),
            logged: 0,
            stop_wanted: 0,
            stopping: false,
            number: REACTORS.fetch_add(1, Ordering::Relaxed),
            mail: datagram::Mailboxes::new(),
            shed: send::Shed::default(),
        }
    }

    /// The counters, and what is counted by other means.
    pub(crate) fn snapshot(&self) -> Stats {
        Stats {
            open: (self.conns.len() - self.dialling()) as u64,
            connecting: self.dialling() as u64,
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
        if let Some(c) = self.conns.get_mut(id)
            && !c.queued
        {
            c.queued = true;
            self.ready.push_back(id);
        }
    }

    /// Puts a connection into the queue if it has work that can be done now; or into the list of the starved.
    #[inline]
    pub(crate) fn enqueue_if_work(&mut self, id: ConnId) {
        let Some(c) = self.conns.get(id).filter(|c| !c.queued && !c.is_quiet()) else { return };
        if self.has_work(c) {
            return self.enqueue(id);
        }
        if c.has_input() && c.phase == Phase::Open && !c.held_up() && !c.starved {
            if let Some(c) = self.conns.get_mut(id) {
                c.starved = true;
                if !std::mem::replace(&mut c.listed, true) {
                    self.starved.push(id);
                }
            }
            self.sync_clock(id);
        }
    }

    /// Whether so much output waits in all that those who add to it are not read.
    #[inline]
    pub(crate) fn tight(&self) -> bool {
        self.pool.output() > self.limits.output_total.get() / 2
    }

    /// Whether input of this connection may be used now.
    #[inline]
    pub(crate) fn may_read(&self, c: &Connection) -> bool {
        c.phase == Phase::Open && !c.held_up() && !(c.out.pending() > 0 && self.tight())
    }

    /// The most to read at once: one buffer, but no more than an echo of it may wait; little while memory is tight.
    #[inline]
    pub(crate) fn read_budget(&self, id: ConnId) -> usize {
        let Some(c) = self.conns.get(id) else { return LEAST_READ };
        let mut room = self.limits.output_high.saturating_sub(c.out.pending());
        if let Some(rare) = c.rare() {
            room = room.min(self.room_behind(&rare.feeds));
        }
        let room = room.max(LEAST_READ);
        if self.tight() { self.limits.read_buffer.min(LEAST_READ) } else { self.limits.read_buffer.min(room) }
    }

    /// Whether a visit would get something done.
    #[inline]
    pub(crate) fn has_work(&self, c: &Connection) -> bool {
        match c.phase {
            Phase::Connecting => c.readable || c.writable || c.suspect,
            Phase::Open => {
                c.can_write()
                    || c.suspect
                    || c.drain_due
                    || c.fin_wanted && !c.fin_sent && !c.broken && c.out.pending() == 0
                    || c.has_input() && self.may_read(c)
            }
            Phase::Flushing => c.can_write() || c.suspect || c.out.pending() == 0,
            Phase::Lingering => c.readable,
            Phase::Dead => false,
        }
    }

    /// Begins what a callback for `id` with `data` may do.
    #[inline]
    pub(crate) fn begin_delivery(&mut self, id: ConnId, data: &[u8]) {
        let start = data.as_ptr().addr();
        self.delivery = Delivery { conn: Some(id), window: start..start + data.len(), ..Delivery::default() };
    }

    /// The part of what was delivered that is to be written in front of `id`'s outbox, and forgets it.
    #[inline]
    pub(crate) fn take_borrowed(&mut self, id: ConnId) -> Range<usize> {
        if self.delivery.conn == Some(id) { std::mem::take(&mut self.delivery.borrowed) } else { 0..0 }
    }

    /// Bytes that wait for `id`, with those borrowed from the delivery that is under way.
    #[inline]
    pub(crate) fn pending(&self, c: &Connection) -> usize {
        let borrowed = if self.delivery.conn == Some(c.id) { self.delivery.borrowed.len() } else { 0 };
        c.out.pending() + borrowed
    }

    /// Whether the handler should go on with what it was given. See
    /// [`Context::wants_more`](crate::Context::wants_more).
    #[inline]
    pub(crate) fn wants_more(&self, id: ConnId) -> bool {
        self.delivery.messages < self.limits.messages_per_turn
            && self.switch.is_none()
            && self.conns.get(id).is_some_and(|c| {
                c.phase == Phase::Open && !c.held_up() && !(self.tight() && self.pending(c) > 0)
            })
    }

    /// Stores what the callback left of `data`, which came from the shared buffer. `continues`: it began with input
    /// kept before because its message was unfinished.
    pub(crate) fn keep_copy(&mut self, id: ConnId, data: &[u8], continues: bool) {
        let rest = self.delivery.rest.min(data.len());
        if rest == 0 || !self.may_keep(id, rest) {
            return;
        }
        match Kept::new(&data[data.len() - rest..], &mut self.pool) {
            Some(kept) => self.keep(id, Box::new(kept), continues && rest == data.len()),
            None => self.kill_for_memory(id),
        }
    }

    /// Puts back what the callback left of `kept`, whose bytes were delivered.
    pub(crate) fn keep_rest(&mut self, id: ConnId, mut kept: Box<Kept>, continues: bool) {
        let rest = self.delivery.rest.min(kept.len());
        if rest == 0 || !self.may_keep(id, rest) {
            kept.give(&mut self.pool);
            return;
        }
        let same = continues && rest == kept.len();
        kept.keep_last(rest);
        kept.shrink(&mut self.pool);
        self.keep(id, kept, same);
    }

    /// Lets a connection's input wait. The clock of its message begins now, unless it is the `same` as before.
    fn keep(&mut self, id: ConnId, kept: Box<Kept>, same: bool) {
        let (now, deferred) = (self.now, self.delivery.deferred);
        let Some(c) = self.conns.get_mut(id) else { return };
        c.kept = Some(kept);
        c.deferred = deferred;
        if !deferred {
            if !same {
                c.message = now;
                c.clock_stopped = false;
            }
            self.deadlines.bring_forward(id.slot, now.after(self.limits.message_timeout.get()));
            self.sync_clock(id);
        }
        if self.pool.input() > self.limits.input_total.get() {
            self.shed_input(id);
        }
    }

    /// Whether `id` is open and may keep `rest` bytes; if they are too many, this ends it.
    fn may_keep(&mut self, id: ConnId, rest: usize) -> bool {
        let max = self.limits.input_kept;
        if self.conns.get(id).is_none_or(|c| c.phase != Phase::Open) {
            return false;
        }
        if rest > max && !self.delivery.deferred {
            let (len, max) = (rest as u64, max as u64);
            self.begin_close(id, crate::closed::Reason::FrameTooLong { len, max });
            return false;
        }
        true
    }

    /// Stops the clock of an unfinished message while we do not read, and lets it go on when we do again.
    pub(crate) fn sync_clock(&mut self, id: ConnId) {
        let now = self.now;
        let Some(c) = self.conns.get_mut(id) else { return };
        let stop = c.held_up() || c.starved;
        if stop == c.clock_stopped {
            return;
        }
        c.clock_stopped = stop;
        c.message = Time(now.0.saturating_sub(c.message.0));
        if stop {
            return;
        }
        // Nothing could come in while we did not read: that was not idleness of the peer's.
        c.active = now;
        if c.kept.is_some() {
            let at = c.message.after(self.limits.message_timeout.get());
            self.deadlines.bring_forward(id.slot, at);
        }
    }

    /// Pauses or resumes the reading of a connection, as its handler wishes.
    pub(crate) fn set_paused(&mut self, id: ConnId, paused: bool) -> bool {
        let Some(c) = self.conns.get_mut(id) else { return false };
        if c.phase != Phase::Open {
            return false;
        }
        c.paused = paused;
        self.sync_clock(id);
        self.enqueue_if_work(id);
        true
    }

    /// Whether the groups' logs hold so much that they must be written before the next callback.
    #[inline]
    pub(crate) fn logs_full(&self) -> bool {
        self.logged >= self.limits.output_high
    }

    /// Notes that a connection is read again.
    #[inline]
    pub(crate) fn feed(&mut self, id: ConnId) {
        if let Some(c) = self.conns.get_mut(id)
            && std::mem::take(&mut c.starved)
        {
            self.sync_clock(id);
        }
    }

    /// Lets those be read again that were not because all output together was large.
    pub(crate) fn feed_starved(&mut self) {
        if self.starved.is_empty() || self.tight() {
            return;
        }
        for id in std::mem::take(&mut self.starved) {
            if let Some(c) = self.conns.get_mut(id) {
                c.listed = false;
            }
            self.feed(id);
            self.enqueue_if_work(id);
        }
    }
}
