//! Datagram sockets: receives and delivers datagrams, and sends queued ones.
//!
//! Invariant: `readable` and `writable` are cleared only when the kernel returns `WouldBlock`; the work of one socket
//! in a turn is bounded; an error of a socket closes at most that socket.

use std::io::{self, ErrorKind};

use super::event_loop::{EventLoop, exposure};
use super::tables::BoundSocket;
use crate::config::address::Address;
use crate::config::datagram::DatagramOptions;
use crate::core::datagram_queue::Datagram;
use crate::core::datagram_sockets::{DatagramPhase, DatagramSocket};
use crate::dispatch::CallSite;
use crate::dispatch::datagram::{DatagramCallback, DatagramEvent};
use crate::id::{DatagramId, HandlerIdx, Token};
use crate::sys::Sys;
use crate::sys::datagram::{ReceivedDatagram, SendStatus};
use crate::sys::errno::{AcceptError, classify_accept};
use crate::time::log_limit::suppressed;

/// Errors of receiving in a row before a socket backs off. Chosen: connected UDP sockets may return one `ECONNREFUSED`
/// for each datagram sent, so a burst of errors is normal; a socket that only fails must not spin.
const ERRORS_IN_A_ROW: u32 = 64;

impl<S: Sys> EventLoop<S> {
    /// Registers a socket for a handler. Closes it on failure.
    pub(crate) fn add_datagram_socket(
        &mut self,
        mut socket: S::Datagram,
        handler: HandlerIdx,
        callback: DatagramCallback,
        options: &DatagramOptions,
    ) -> io::Result<(DatagramId, Address)> {
        let (local, peer) = self.sys.datagram_addresses(&socket)?;
        // The kernel discards what does not come from the peer.
        let exposure = if peer.is_none() { exposure(&local) } else { "" };
        let datagrams = &mut self.dispatcher.core.datagrams;
        let id = datagrams.slots.insert_with(|id| DatagramSocket::new(id, handler, local.clone(), peer, options));
        let added = match id {
            Some(id) => self.sys.add_datagram(&mut socket, Token::Datagram(id).pack()).map(|()| id),
            None => Err(io::Error::new(ErrorKind::OutOfMemory, "no more datagram sockets can be opened")),
        };
        let id = match added {
            Ok(id) => id,
            Err(e) => {
                id.map(|id| datagrams.slots.remove(id));
                self.sys.close_datagram(socket);
                return Err(io::Error::new(e.kind(), format!("cannot bind {local}: {e}")));
            }
        };
        datagrams.enqueue(id);
        self.bound_sockets.insert(id, BoundSocket { socket, callback });
        if self.datagram_buffer.len() <= options.max_size {
            self.datagram_buffer.resize(options.max_size + 1, 0);
        }
        self.dispatcher.retain(handler);
        log::info!("receiving datagrams on {local}{exposure}");
        Ok((id, local))
    }

    /// Processes the sockets that have work now. Those that still have work afterwards are queued for the next turn.
    pub(super) fn process_datagrams(&mut self) {
        self.dispatcher.core.run_due_retries();
        for _ in 0..self.dispatcher.core.datagrams.ready.len() {
            let Some(id) = self.dispatcher.core.datagrams.next_ready() else { return };
            self.send_queued(id);
            self.notify_if_drained(id);
            self.receive(id);
            self.dispatcher.core.finish_sending(id);
        }
    }

    /// Sends what callbacks of others queued for a socket, and calls `on_close` for closed sockets.
    pub(super) fn flush_datagrams(&mut self) {
        if !self.dispatcher.core.datagrams.have_work() {
            return;
        }
        for id in self.dispatcher.core.datagrams.take_dirty() {
            self.send_queued(id);
            self.dispatcher.core.finish_sending(id);
        }
        // After the sends: `finish_sending` closes sockets that have sent everything.
        for id in std::mem::take(&mut self.dispatcher.core.datagrams.closed) {
            self.call_datagram(id, DatagramEvent::Closed);
            self.remove_datagram_socket(id);
        }
    }

    /// Receives from one socket, up to `datagrams_per_turn` datagrams and about `read_buffer` bytes.
    fn receive(&mut self, id: DatagramId) {
        let mut buffer = std::mem::take(&mut self.datagram_buffer);
        let limits = &self.dispatcher.core.limits;
        let (mut left, mut spare) = (limits.datagrams_per_turn, limits.read_buffer);
        while left > 0 && spare > 0 {
            let Some(len) = self.receive_one(id, &mut buffer) else { break };
            // Answers leave one by one, or those to a burst of requests could fill the queue.
            self.send_queued(id);
            left -= 1;
            spare = spare.saturating_sub(len);
        }
        self.datagram_buffer = buffer;
    }

    /// Receives one datagram, or an error, and calls the handler. Returns the length, or `None` if there is nothing to
    /// receive now.
    fn receive_one(&mut self, id: DatagramId, buffer: &mut [u8]) -> Option<usize> {
        let core = &mut self.dispatcher.core;
        let m = core.datagrams.slots.get_mut(id).filter(|m| m.may_receive())?;
        // The slice is one byte longer than `max`: the kernel may truncate a longer datagram silently, and a length
        // above `max` is the only sign of it.
        let (max, open) = (m.max, self.bound_sockets.get_mut(id)?);
        match self.sys.receive(&mut open.socket, buffer.get_mut(..=max)?) {
            Ok(received) => {
                m.errors = 0;
                core.stats.datagrams_in += 1;
                if self.discards(id, &received) {
                    return Some(received.len);
                }
                let ReceivedDatagram { len, from, .. } = received;
                let event = if len > max {
                    self.dispatcher.core.stats.datagrams_truncated += 1;
                    DatagramEvent::Truncated(&from, max)
                } else {
                    DatagramEvent::Datagram(&from, &buffer[..len])
                };
                self.call_datagram(id, event);
                if let Some(m) = self.dispatcher.core.datagrams.slots.live_mut(id) {
                    m.asked = None;
                }
                Some(len)
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                m.readable = false;
                None
            }
            Err(e) => {
                self.receive_failed(id, &e);
                // It counts as one of `datagrams_per_turn`, which bounds errors as well.
                Some(0)
            }
        }
    }

    /// Returns whether a datagram is not for the handler: its source is forged, or sends too much. Notes which address
    /// was asked otherwise.
    fn discards(&mut self, id: DatagramId, received: &ReceivedDatagram) -> bool {
        let core = &mut self.dispatcher.core;
        let Some(m) = core.datagrams.slots.live_mut(id) else { return true };
        if m.is_own(received, core.now) {
            core.stats.datagrams_own += 1;
            if let Some(n) = self.log_limits.own_datagrams.allow(core.now) {
                log::warn!("{id}: a datagram with the socket's own address as its source{}", suppressed(n));
            }
            return true;
        }
        if m.rate.as_mut().is_some_and(|rate| !rate.allow(&received.from, core.now)) {
            core.stats.datagrams_over_rate += 1;
            return true;
        }
        m.asked = received.to.map(|to| (received.from.clone(), to));
        false
    }

    /// Reports an error of a receive. The socket stays open: an error of a datagram socket (an ICMP reply such as
    /// `ECONNREFUSED`, say) concerns one datagram. Backs off after `ERRORS_IN_A_ROW`, so that a persistent error does
    /// not spin.
    fn receive_failed(&mut self, id: DatagramId, error: &io::Error) {
        let core = &mut self.dispatcher.core;
        let Some(m) = core.datagrams.slots.live_mut(id) else { return };
        m.errors += 1;
        if m.errors >= ERRORS_IN_A_ROW {
            (m.errors, m.recv_backoff) = (0, true);
            core.datagrams.schedule_retry(id, core.now);
        }
        self.report_error(id, error);
        if classify_accept(error) == AcceptError::Broken {
            log::error!("{id} failed, closing it: {error}");
            self.dispatcher.core.close_datagram_now(id);
        }
    }

    /// Sends queued datagrams and reports errors, also of the datagrams that those callbacks send. Stops after
    /// `datagrams_per_turn` errors.
    fn send_queued(&mut self, id: DatagramId) {
        for _ in 0..self.dispatcher.core.limits.datagrams_per_turn {
            let Some(error) = self.send_until_blocked(id) else { return };
            self.report_error(id, &error);
        }
    }

    /// Calls `on_drain` if the queue was congested and is empty now, at most once in a turn.
    fn notify_if_drained(&mut self, id: DatagramId) {
        if self.dispatcher.core.datagrams.take_drained(id) {
            self.call_datagram(id, DatagramEvent::Drained);
            self.send_queued(id);
        }
    }

    /// Sends until the queue is empty, the kernel takes no more, or a datagram fails. Returns its error.
    fn send_until_blocked(&mut self, id: DatagramId) -> Option<io::Error> {
        let open = self.bound_sockets.get_mut(id)?;
        let core = &mut self.dispatcher.core;
        loop {
            let m = core.datagrams.slots.get_mut(id).filter(|m| m.writable && m.phase != DatagramPhase::Closed)?;
            let Datagram { to, via, data } = m.out.first()?;
            // A datagram must not overtake earlier ones to the same receiver that wait for retry.
            let sent = if to.is_some_and(|to| m.retry_queue.has_any_for(to)) {
                Ok(SendStatus::PeerFull)
            } else {
                self.sys.send_datagram(&mut open.socket, to, via, data)
            };
            let error = match sent {
                Ok(SendStatus::Sent) => {
                    m.retrying_first = false;
                    m.out.pop();
                    core.stats.datagrams_out += 1;
                    continue;
                }
                Ok(SendStatus::PeerFull) => {
                    core.move_to_retry_queue(id);
                    continue;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    core.send_blocked(id);
                    return None;
                }
                Err(e) => e,
            };
            // On a connected socket the error may be the ICMP reply to an earlier datagram, and this one was not sent:
            // try it once more.
            m.retrying_first = m.peer.is_some() && is_belated(&error) && !m.retrying_first;
            if !m.retrying_first {
                m.out.pop();
                core.stats.datagrams_dropped += 1;
            }
            return Some(error);
        }
    }

    /// Counts and logs an error, and calls `on_error`.
    fn report_error(&mut self, id: DatagramId, error: &io::Error) {
        self.dispatcher.core.stats.datagram_errors += 1;
        log::debug!("{id}: {error}");
        self.call_datagram(id, DatagramEvent::Error(error));
    }

    /// Calls a callback and measures it.
    fn call_datagram(&mut self, id: DatagramId, event: DatagramEvent<'_>) {
        let Some(callback) = self.bound_sockets.get_mut(id).map(|open| open.callback) else { return };
        self.dispatcher.call_datagram(id, callback, event);
        self.after_handler_callback(CallSite::Datagrams(id));
    }

    /// Closes a socket and frees its slot.
    pub(super) fn remove_datagram_socket(&mut self, id: DatagramId) {
        let Some(m) = self.dispatcher.core.datagrams.slots.remove(id) else { return };
        if let Some(open) = self.bound_sockets.take(id) {
            self.sys.close_datagram(open.socket);
        }
        self.dispatcher.release(m.handler);
        log::info!("no longer receiving datagrams on {}", m.local);
    }

    /// Calls `on_shutdown` for every datagram socket.
    pub(super) fn notify_datagrams_of_shutdown(&mut self) {
        let all: Vec<DatagramId> = self.dispatcher.core.datagrams.slots.iter().map(|m| m.id).collect();
        for id in all {
            self.call_datagram(id, DatagramEvent::Shutdown);
            self.send_queued(id);
            self.dispatcher.core.finish_sending(id);
        }
    }

    /// Closes every datagram socket; queued datagrams are dropped.
    pub(super) fn abort_datagrams(&mut self) {
        let all: Vec<DatagramId> = self.dispatcher.core.datagrams.slots.iter().map(|m| m.id).collect();
        for id in all {
            self.dispatcher.core.close_datagram_now(id);
        }
    }
}

/// Whether an error may be the network's reply (ICMP) to an earlier datagram.
fn is_belated(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::HostUnreachable)
}
