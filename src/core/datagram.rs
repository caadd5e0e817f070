//! Datagrams: what callbacks send, and the end of a socket.
//!
//! Sends nothing. Invariant: what waits at a socket never costs more than
//! [`Limits::datagram_queue`](crate::Limits::datagram_queue), and what is dropped is counted.

use super::Core;
use super::datagram_queue::cost;
use super::datagram_sockets::Stage;
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
const PARKED: usize = 256;

impl Core {
    /// Lets a datagram wait to be sent. `to`: `None` for the socket's peer.
    pub(crate) fn post(&mut self, id: DatagramId, to: Option<Address>, data: &[u8]) -> Posted {
        let Some(m) = self.mail.get_mut(id).filter(|m| m.is_open()) else { return Posted::Closed };
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
                    m.strained = true;
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
            Posted::Queued => self.mail.mark_dirty(id),
            _ => self.stats.datagrams_dropped += 1,
        }
        if full_of_others {
            self.mail.rest(id, self.now);
        }
        posted
    }

    /// Notes that the kernel takes no more. Much that waits then is a strain.
    pub(crate) fn post_blocked(&mut self, id: DatagramId) {
        let half = self.limits.datagram_queue / 2;
        if let Some(m) = self.mail.get_mut(id) {
            m.writable = false;
            m.strained |= m.cost() > half;
        }
    }

    /// Puts the first that waits aside until its receiver takes more, or drops it if too many are there already.
    pub(crate) fn park(&mut self, id: DatagramId) {
        let Some(m) = self.mail.get_mut(id) else { return };
        if let Some((to, data)) = m.out.first() {
            // Half of the queue is for those who take what they are sent.
            let fits = m.parked.len() < PARKED
                && m.parked.cost() + cost(to, data.len()) <= self.limits.datagram_queue / 2;
            if !fits || !m.parked.push(to.cloned(), data, &mut self.pool) {
                self.stats.datagrams_dropped += 1;
                m.strained = true;
            }
            m.out.pop();
        }
        self.mail.rest(id, self.now);
    }

    /// When the time has come: lets what was put aside, and those that rest, be tried again.
    pub(crate) fn wake_restless(&mut self) {
        if self.mail.alarm > self.now {
            return;
        }
        self.mail.alarm = Time::NEVER;
        for id in std::mem::take(&mut self.mail.restless) {
            let Some(m) = self.mail.get_mut(id) else { continue };
            (m.restless, m.resting) = (false, false);
            if !m.parked.is_empty() {
                let lost = m.parked.append(&mut m.out, &mut self.pool);
                std::mem::swap(&mut m.parked, &mut m.out);
                self.stats.datagrams_dropped += lost;
            }
            match m.stage {
                Stage::Closing if m.close_by <= self.now => self.close_datagram_now(id),
                Stage::Closing => self.mail.rest(id, self.now),
                Stage::Open | Stage::Closed => {}
            }
            self.mail.enqueue(id);
        }
    }

    /// What follows when all was sent that can be: an empty mailbox holds no memory, and ends if it is to.
    pub(crate) fn settle_mailbox(&mut self, id: DatagramId) {
        let Some(m) = self.mail.get_mut(id) else { return };
        m.out.rest(&mut self.pool);
        m.parked.rest(&mut self.pool);
        match m.stage {
            Stage::Closing if m.pending() == 0 => return self.close_datagram_now(id),
            Stage::Closing => self.mail.rest(id, self.now),
            Stage::Open | Stage::Closed => {}
        }
        self.mail.enqueue(id);
    }

    /// Closes a socket once what waits is sent. False when it is closing already.
    pub(crate) fn close_datagram(&mut self, id: DatagramId) -> bool {
        let close_by = self.now.after(self.limits.linger_total);
        let Some(m) = self.mail.get_mut(id).filter(|m| m.is_open()) else { return false };
        (m.stage, m.close_by) = (Stage::Closing, close_by);
        self.mail.mark_dirty(id);
        true
    }

    /// Closes a socket; what waits is dropped.
    pub(crate) fn close_datagram_now(&mut self, id: DatagramId) {
        let Some(m) = self.mail.get_mut(id).filter(|m| m.stage != Stage::Closed) else { return };
        m.stage = Stage::Closed;
        self.stats.datagrams_dropped += m.out.clear(&mut self.pool) + m.parked.clear(&mut self.pool);
        self.mail.closed.push(id);
    }
}
