//! Datagrams: what callbacks send, and the end of a socket.
//!
//! Sends nothing. Invariant: what waits at a socket never costs more than
//! [`Limits::datagram_queue`](crate::Limits::datagram_queue), and what is dropped is counted.

use super::Core;
use super::datagram_queue::cost;
use super::datagram_sockets::DatagramPhase;
use crate::config::address::Address;
use crate::id::DatagramId;
use crate::time::Time;

/// What became of a datagram that was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Posted {
    /// It is sent, as soon as the kernel takes it. Whether it arrives nobody knows.
    Queued,
    /// Too much waits already ([`Limits::datagram_queue`](crate::Limits::datagram_queue)): it is dropped, and counted.
    /// [`on_drain`](crate::DatagramHandler::on_drain) will tell when nothing waits any more.
    Dropped,
    /// Longer than any datagram can be: it is dropped, and counted.
    TooLong,
    /// Nothing can be sent there from this socket: the address is of another kind, or a Unix socket without a name; or
    /// the socket has a peer and this is another address, or has none and no address was given. It is dropped, and
    /// counted.
    Unreachable,
    /// The socket is closed, or being closed.
    Closed,
}

impl Posted {
    /// Whether it is sent.
    pub fn is_queued(self) -> bool {
        self == Self::Queued
    }
}

/// Datagrams at most that wait for receivers of which the system will not say when they take more.
const MAX_RETRY_QUEUE: usize = 256;

impl Core {
    /// Lets a datagram wait to be sent. `to`: `None` for the socket's peer.
    pub(crate) fn enqueue_datagram(&mut self, id: DatagramId, to: Option<Address>, data: &[u8]) -> Posted {
        let Some(m) = self.datagrams.get_mut(id).filter(|m| m.is_open()) else { return Posted::Closed };
        let most = self.limits.datagram_queue;
        let posted = match m.route(to) {
            None => Posted::Unreachable,
            Some(to) => {
                let cost = cost(to.as_ref(), data.len());
                let full = m.cost().saturating_add(cost) > most
                    || self.pool.output().saturating_add(m.out.growth(data.len()))
                        > self.limits.output_total.get();
                if data.len() > m.longest(to.as_ref()) || cost > most {
                    Posted::TooLong
                } else if full || !m.out.push(to, data, &mut self.pool) {
                    m.congested = true;
                    Posted::Dropped
                } else {
                    Posted::Queued
                }
            }
        };
        let full_of_others = posted == Posted::Dropped && m.pending() == 0;
        let waits = !m.writable;
        match posted {
            Posted::Queued if waits => {}
            Posted::Queued => self.datagrams.mark_dirty(id),
            _ => self.stats.datagrams_dropped += 1,
        }
        if full_of_others {
            self.datagrams.schedule_retry(id, self.now);
        }
        posted
    }

    /// Notes that the kernel takes no more. Much that waits then is a strain.
    pub(crate) fn send_blocked(&mut self, id: DatagramId) {
        let half = self.limits.datagram_queue / 2;
        if let Some(m) = self.datagrams.live_mut(id) {
            m.writable = false;
            m.congested |= m.cost() > half;
        }
    }

    /// Puts the first that waits aside until its receiver takes more, or drops it if too many are there already.
    pub(crate) fn move_to_retry_queue(&mut self, id: DatagramId) {
        let Some(m) = self.datagrams.live_mut(id) else { return };
        if let Some((to, data)) = m.out.first() {
            // Half of the queue is for those who take what they are sent.
            let fits = m.retry_queue.len() < MAX_RETRY_QUEUE
                && m.retry_queue.cost() + cost(to, data.len()) <= self.limits.datagram_queue / 2;
            if !fits || !m.retry_queue.push(to.cloned(), data, &mut self.pool) {
                self.stats.datagrams_dropped += 1;
                m.congested = true;
            }
            m.out.pop();
        }
        self.datagrams.schedule_retry(id, self.now);
    }

    /// When the time has come: lets what was put aside, and those that rest, be tried again.
    pub(crate) fn run_due_retries(&mut self) {
        if self.datagrams.retry_at > self.now {
            return;
        }
        self.datagrams.retry_at = Time::NEVER;
        for id in self.datagrams.retries.take() {
            let Some(m) = self.datagrams.live_mut(id) else { continue };
            (m.retry_pending, m.recv_backoff) = (false, false);
            if !m.retry_queue.is_empty() {
                let lost = m.retry_queue.append(&mut m.out, &mut self.pool);
                std::mem::swap(&mut m.retry_queue, &mut m.out);
                self.stats.datagrams_dropped += lost;
            }
            match m.phase {
                DatagramPhase::Closing if m.close_by <= self.now => self.close_datagram_now(id),
                DatagramPhase::Closing => self.datagrams.schedule_retry(id, self.now),
                DatagramPhase::Open | DatagramPhase::Closed => {}
            }
            self.datagrams.enqueue(id);
        }
    }

    /// What follows when all was sent that can be: an empty socket pause_count no memory, and ends if it is to.
    pub(crate) fn finish_sending(&mut self, id: DatagramId) {
        let Some(m) = self.datagrams.live_mut(id) else { return };
        m.out.free_if_empty(&mut self.pool);
        m.retry_queue.free_if_empty(&mut self.pool);
        match m.phase {
            DatagramPhase::Closing if m.pending() == 0 => return self.close_datagram_now(id),
            DatagramPhase::Closing => self.datagrams.schedule_retry(id, self.now),
            DatagramPhase::Open | DatagramPhase::Closed => {}
        }
        self.datagrams.enqueue(id);
    }

    /// Closes a socket once what waits is sent. False when it is closing already.
    pub(crate) fn close_datagram(&mut self, id: DatagramId) -> bool {
        let close_by = self.now.after(self.limits.linger_total);
        let Some(m) = self.datagrams.get_mut(id).filter(|m| m.is_open()) else { return false };
        (m.phase, m.close_by) = (DatagramPhase::Closing, close_by);
        self.datagrams.mark_dirty(id);
        true
    }

    /// Closes a socket; what waits is dropped.
    pub(crate) fn close_datagram_now(&mut self, id: DatagramId) {
        let Some(m) = self.datagrams.get_mut(id).filter(|m| m.phase != DatagramPhase::Closed) else { return };
        m.phase = DatagramPhase::Closed;
        self.stats.datagrams_dropped += m.out.clear(&mut self.pool) + m.retry_queue.clear(&mut self.pool);
        self.datagrams.closed.push(id);
    }
}
