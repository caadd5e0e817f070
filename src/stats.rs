//! The reactor's counters.
//!
//! Invariant: `accepted + connected + refused == open + closed_total()`.

use std::fmt;
use std::time::Duration;

use crate::closed::{NAMES, REASONS, Reason};

/// A snapshot of the reactor's counters since its start. Times are on the monotonic clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections accepted and passed to a handler.
    pub accepted: u64,
    /// Outbound connections established, and existing streams taken over.
    pub connected: u64,
    /// Connections open now, including those that linger.
    pub open: u64,
    /// Connections refused because [`Limits::connections`](crate::Limits::connections) was reached or because they
    /// could not be registered. They are counted under their reasons as well.
    pub refused: u64,
    /// Sockets connecting now.
    pub connecting: u64,
    /// Connect jobs that failed for good.
    pub connect_failed: u64,
    /// Retries of connect jobs: after a failed connect, or to reconnect after a connection ended.
    pub connect_retries: u64,
    /// Closed connections by reason: see [`closed`](Stats::closed) and [`reasons`](Stats::reasons).
    pub(crate) closed: [u64; REASONS],
    /// Bytes read, including those discarded while a connection closes.
    pub bytes_in: u64,
    /// Bytes handed to the kernel.
    pub bytes_out: u64,
    /// Bytes queued for sending that were not handed to the kernel before the connection ended.
    pub bytes_unsent: u64,
    /// Complete messages decoded by framed handlers, plus those that other handlers
    /// [count](crate::Context::count_message).
    pub messages_in: u64,
    /// Messages queued for sending, by sends and broadcasts; a broadcast counts once per receiver.
    pub messages_out: u64,
    /// Over-long messages discarded by a framing configured to do so.
    pub discarded: u64,
    /// Broadcast messages not sent to a slow member, in groups whose policy is
    /// [`SlowMember::Skip`](crate::SlowMember::Skip).
    pub skipped: u64,
    /// Messages not sent to a receiver because its framing cannot carry them.
    pub unencodable: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Readiness events received from the system.
    pub events: u64,
    /// Events for a connection or socket that had been removed.
    pub stale_events: u64,
    /// Times that accepting was paused because descriptors or memory had run out.
    pub accept_pauses: u64,
    /// Errors from `accept(2)`, including those that concern only one pending connection.
    pub accept_errors: u64,
    /// Panics in callbacks, in codecs while encoding, and in closures from other threads.
    pub panics: u64,
    /// Commands from other threads that were run.
    pub commands: u64,
    /// Commands among these whose target did not exist: the connection was not open or had another handler, or the
    /// group had been dropped.
    pub commands_for_nobody: u64,
    /// The longest turn, without the wait for events.
    pub longest_turn: Duration,
    /// The longest interval between the clock readings before and after a callback.
    pub longest_call: Duration,
    /// Memory that holds unsent output, in bytes of capacity; shared blocks count once.
    pub output_held: u64,
    /// Memory that holds buffered input, in bytes of capacity.
    pub input_held: u64,
    /// Memory in empty buffers cached for reuse, in bytes of capacity.
    pub pooled: u64,
    /// Datagrams received, including those discarded as too long.
    pub datagrams_in: u64,
    /// Datagrams handed to the kernel.
    pub datagrams_out: u64,
    /// Datagrams that were not sent: the queue was full, the system refused them, they were longer than any datagram
    /// can be, their receiver cannot be reached from the socket, or the socket was closed first.
    pub datagrams_dropped: u64,
    /// Datagrams received and discarded because they were longer than the maximum of their socket.
    pub datagrams_truncated: u64,
    /// Datagrams received and discarded because their source was the socket itself, which is forged. For a socket bound
    /// to the unspecified address, a source is known as its own if it is a loopback address, or, on Linux and Apple
    /// systems, one that was asked in the last minute.
    pub datagrams_own: u64,
    /// Datagrams received and discarded because their source exceeded
    /// [`Datagrams::source_rate`](crate::Datagrams::source_rate).
    pub datagrams_over_rate: u64,
    /// Errors that the system reported for datagram sockets.
    pub datagram_errors: u64,
}

impl Stats {
    /// Returns how many connections ended for this reason. The details inside the reason are ignored.
    pub const fn closed(&self, why: &Reason) -> u64 {
        self.closed[why.index()]
    }

    /// Returns how many connections have ended or were refused.
    pub fn closed_total(&self) -> u64 {
        self.closed.iter().sum()
    }

    /// Returns the name of each reason and how many connections ended for it.
    pub fn reasons(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NAMES.into_iter().zip(self.closed)
    }
}

impl fmt::Display for Stats {
    /// Writes one line for an operator. Rare counters appear only if they are not zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "open {} accepted {} refused {} in {} B out {} B unsent {} B messages {}/{} turns {} events {} \
             longest turn {:?} call {:?} buffers out {} B in {} B pooled {} B",
            self.open,
            self.accepted,
            self.refused,
            self.bytes_in,
            self.bytes_out,
            self.bytes_unsent,
            self.messages_in,
            self.messages_out,
            self.turns,
            self.events,
            self.longest_turn,
            self.longest_call,
            self.output_held,
            self.input_held,
            self.pooled,
        )?;
        let rare = [
            ("connected", self.connected),
            ("connecting", self.connecting),
            ("connect_failed", self.connect_failed),
            ("connect_retries", self.connect_retries),
            ("skipped", self.skipped),
            ("unencodable", self.unencodable),
            ("discarded", self.discarded),
            ("stale_events", self.stale_events),
            ("accept_pauses", self.accept_pauses),
            ("accept_errors", self.accept_errors),
            ("panics", self.panics),
            ("datagrams_in", self.datagrams_in),
            ("datagrams_out", self.datagrams_out),
            ("datagrams_dropped", self.datagrams_dropped),
            ("datagrams_truncated", self.datagrams_truncated),
            ("datagrams_own", self.datagrams_own),
            ("datagrams_over_rate", self.datagrams_over_rate),
            ("datagram_errors", self.datagram_errors),
            ("commands", self.commands),
            ("commands_for_nobody", self.commands_for_nobody),
        ];
        for (name, n) in rare.into_iter().filter(|&(_, n)| n > 0) {
            write!(f, " {name} {n}")?;
        }
        f.write_str(" closed:")?;
        if self.closed_total() == 0 {
            return f.write_str(" none");
        }
        for (name, n) in self.reasons().filter(|&(_, n)| n > 0) {
            write!(f, " {name} {n}")?;
        }
        Ok(())
    }
}
