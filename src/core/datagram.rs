//! Queueing datagrams, retrying them, and closing datagram sockets.
//!
//! Does not send; the loop does. Invariant: the datagrams queued at a socket never cost more than
//! [`Limits::datagram_queue`](crate::Limits::datagram_queue), and dropped ones are counted.

use super::Core;
use super::datagram_queue::{Datagram, cost};
use super::datagram_sockets::DatagramPhase;
use crate::config::address::Address;
use crate::id::DatagramId;
use crate::time::Time;

/// The result of sending a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Posted {
    /// It will be sent as soon as the kernel accepts it. Delivery is not guaranteed.
    Queued,
    /// The queue is full ([`Limits::datagram_queue`](crate::Limits::datagram_queue), or
    /// [`Limits::output_total`](crate::Limits::output_total)): it is dropped and counted.
    /// [`on_drain`](crate::DatagramHandler::on_drain) is called when the queue is empty.
    Dropped,
    /// It is longer than any datagram can be, or than an empty queue could hold: it is dropped and counted.
    TooLong,
    /// This socket cannot send to the address: its address family is different, or it is a Unix socket without a name;
    /// or the socket is connected to another address; or no address was given and the socket is not connected. It is
    /// dropped and counted.
    Unreachable,
    /// The socket is closed or closing.
    Closed,
}

impl Posted {
    /// Returns whether the datagram was queued for sending.
    pub fn is_queued(self) -> bool {
        self == Self::Queued
    }
}

/// The most datagrams in a socket's retry queue. Chosen: every send to a named address searches the queue, to keep the
/// datagrams to one receiver in order.
const MAX_RETRY_QUEUE: usize = 256;

impl Core {
    /// Queues a datagram. `to` is `None` for the peer of a connected socket. An answer leaves from the address that was
    /// asked.
    pub(crate) fn enqueue_datagram(&mut self, id: DatagramId, to: Option<Address>, data: &[u8]) -> Posted {
        let Some(m) = self.datagrams.slots.get_mut(id).filter(|m| m.is_open()) else { return Posted::Closed };
        let most = self.limits.datagram_queue;
        let posted = match m.route(to) {
            None => Posted::Unreachable,
            Some(to) => {
                let via = m.asked.as_ref().filter(|(from, _)| to.as_ref() == Some(from)).map(|(_, via)| *via);
                let cost = cost(to.as_ref(), data.len());
                let full = m.cost().saturating_add(cost) > most
                    || self.pool.output().saturating_add(m.out.growth(data.len())) > self.limits.output_total.get();
                // Before `full`: it never fits, so `on_drain` must not invite the sender to try again.
                if data.len() > m.longest(to.as_ref()) || cost > most {
                    Posted::TooLong
                } else if full || !m.out.push(to, via, data, &mut self.pool) {
                    m.congested = true;
                    Posted::Dropped
                } else {
                    Posted::Queued
                }
            }
        };
        // Dropped, though this socket has nothing queued: other output has used up the total. No send of this socket
        // will end that, so `on_drain` is called after a while instead.
        let full_of_others = posted == Posted::Dropped && m.pending() == 0;
        let waits = !m.writable;
        match posted {
            // The event for writability will queue it.
            Posted::Queued if waits => {}
            Posted::Queued => self.datagrams.mark_dirty(id),
            _ => self.stats.datagrams_dropped += 1,
        }
        if full_of_others {
            self.datagrams.schedule_retry(id, self.now);
        }
        posted
    }

    /// Records that the kernel accepts no more (`EAGAIN`). If the queue is more than half full then, the socket is
    /// congested: `on_drain` is called when it is empty.
    pub(crate) fn send_blocked(&mut self, id: DatagramId) {
        let half = self.limits.datagram_queue / 2;
        if let Some(m) = self.datagrams.slots.live_mut(id) {
            m.writable = false;
            m.congested |= m.cost() > half;
        }
    }

    /// Moves the first queued datagram, whose receiver is full, to the retry queue, or drops it if that is full. So one
    /// slow receiver does not block the others.
    pub(crate) fn move_to_retry_queue(&mut self, id: DatagramId) {
        let Some(m) = self.datagrams.slots.live_mut(id) else { return };
        if let Some(Datagram { to, via, data }) = m.out.first() {
            // The other half of the limit is reserved for receivers that are not full.
            let fits = m.retry_queue.len() < MAX_RETRY_QUEUE
                && m.retry_queue.cost() + cost(to, data.len()) <= self.limits.datagram_queue / 2;
            if !fits || !m.retry_queue.push(to.cloned(), via, data, &mut self.pool) {
                self.stats.datagrams_dropped += 1;
                m.congested = true;
            }
            m.out.pop();
        }
        self.datagrams.schedule_retry(id, self.now);
    }

    /// Once `retry_at` has come: retries the datagrams in retry queues, resumes sockets that backed off after receive
    /// errors, and closes those whose time to send the rest is over.
    pub(crate) fn run_due_retries(&mut self) {
        if self.datagrams.retry_at > self.now {
            return;
        }
        self.datagrams.retry_at = Time::NEVER;
        for id in self.datagrams.retries.take() {
            // It may have sent everything, and be closed, since it asked for the retry.
            let Some(m) = self.datagrams.slots.get_mut(id) else { continue };
            // First: `schedule_retry`, below and in `finish_sending`, does nothing while one is pending.
            (m.retry_pending, m.recv_backoff) = (false, false);
            if !m.retry_queue.is_empty() {
                // Retried datagrams are older than the queued ones, so they go in front of them.
                let lost = m.retry_queue.append(&mut m.out, &mut self.pool);
                std::mem::swap(&mut m.retry_queue, &mut m.out);
                self.stats.datagrams_dropped += lost;
            }
            match m.phase {
                DatagramPhase::Closing if m.close_by <= self.seen_until => self.close_datagram_now(id),
                DatagramPhase::Closing => self.datagrams.schedule_retry(id, self.now),
                DatagramPhase::Open | DatagramPhase::Closed => {}
            }
            self.datagrams.enqueue(id);
        }
    }

    /// Called after everything was sent that the kernel accepts: frees the memory of empty queues, and closes a closing
    /// socket that has nothing queued.
    pub(crate) fn finish_sending(&mut self, id: DatagramId) {
        // It may have been closed while it was in a work list.
        let Some(m) = self.datagrams.slots.get_mut(id) else { return };
        m.out.free_if_empty(&mut self.pool);
        m.retry_queue.free_if_empty(&mut self.pool);
        match m.phase {
            DatagramPhase::Closing if m.pending() == 0 => return self.close_datagram_now(id),
            DatagramPhase::Closing => self.datagrams.schedule_retry(id, self.now),
            DatagramPhase::Open | DatagramPhase::Closed => {}
        }
        self.datagrams.enqueue(id);
    }

    /// Closes a socket after the queued datagrams are sent, at the latest after
    /// [`Limits::linger_total`](crate::Limits::linger_total). Returns `false` if it does not exist or is closing
    /// already.
    pub(crate) fn close_datagram(&mut self, id: DatagramId) -> bool {
        let close_by = self.now.after(self.limits.linger_total);
        let Some(m) = self.datagrams.slots.get_mut(id).filter(|m| m.is_open()) else { return false };
        (m.phase, m.close_by) = (DatagramPhase::Closing, close_by);
        self.datagrams.mark_dirty(id);
        true
    }

    /// Closes a socket at once. Queued datagrams are dropped and counted.
    pub(crate) fn close_datagram_now(&mut self, id: DatagramId) {
        let Some(m) = self.datagrams.slots.get_mut(id).filter(|m| m.phase != DatagramPhase::Closed) else { return };
        m.phase = DatagramPhase::Closed;
        self.stats.datagrams_dropped += m.out.clear(&mut self.pool) + m.retry_queue.clear(&mut self.pool);
        self.datagrams.closed.push(id);
    }
}
