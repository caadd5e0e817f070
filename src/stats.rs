//! What the reactor has done so far, as plain counters.
//!
//! Knows nothing of how the things counted come about. Invariant: `accepted + connected + refused == open +
//! closed_total()`.

use std::fmt;
use std::time::Duration;

use crate::closed::{NAMES, REASONS, Reason};

/// A snapshot of the reactor's counters, from its start. Times are on the monotonic clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections accepted and given to a handler.
    pub accepted: u64,
    /// Connections that were asked for and came about.
    pub connected: u64,
    /// Connections there are now, lingering ones included.
    pub open: u64,
    /// Connections refused because there were as many as allowed, or because they could not be registered. They are
    /// counted under their reasons too.
    pub refused: u64,
    /// Sockets that are connecting now.
    pub connecting: u64,
    /// Attempts to connect that failed for good.
    pub connect_failed: u64,
    /// Times that connecting failed, or a connection ended, and was begun again.
    pub connect_retries: u64,
    /// Ended connections by reason: see [`closed`](Stats::closed) and [`reasons`](Stats::reasons).
    pub(crate) closed: [u64; REASONS],
    /// Bytes read, on connections of any state.
    pub bytes_in: u64,
    /// Bytes handed to the kernel.
    pub bytes_out: u64,
    /// Bytes accepted for sending that could not be handed to the kernel before the connection ended.
    pub bytes_unsent: u64,
    /// Whole messages decoded by framed handlers (and counted by handlers that frame for themselves).
    pub messages_in: u64,
    /// Sends and broadcast deliveries accepted.
    pub messages_out: u64,
    /// Over-long messages thrown away by a framing that was told to.
    pub discarded: u64,
    /// Broadcast messages that a slow member did not get, in groups whose policy is to skip.
    pub skipped: u64,
    /// Messages that did not reach a receiver because its framing cannot carry them.
    pub unencodable: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Readiness events taken from the system.
    pub events: u64,
    /// Events for what was no longer there.
    pub stale_events: u64,
    /// Times that accepting paused because descriptors or memory ran out.
    pub accept_pauses: u64,
    /// Errors of accepting, those included that concern one waiting connection only.
    pub accept_errors: u64,
    /// Callbacks, and closures from other threads, that panicked.
    pub panics: u64,
    /// Commands of other threads that were obeyed.
    pub commands: u64,
    /// Of these, the ones for a connection that was not open, a group that had been dropped, or a connection of another
    /// handler.
    pub commands_for_nobody: u64,
    /// The longest turn, not counting the wait.
    pub longest_turn: Duration,
    /// The longest time from one look at the clock to the next around a callback.
    pub longest_call: Duration,
    /// Memory that holds waiting output, in bytes of capacity; shared blocks count once.
    pub output_held: u64,
    /// Memory that holds unfinished input, in bytes of capacity.
    pub input_held: u64,
    /// Memory in empty buffers kept for reuse, in bytes of capacity.
    pub pooled: u64,
    /// Datagrams received, those thrown away as too long included.
    pub datagrams_in: u64,
    /// Datagrams handed to the kernel.
    pub datagrams_out: u64,
    /// Datagrams that were to be sent and were not: too much waited, the system refused them, they are longer than any
    /// can be or their receiver has no address there, or their socket was closed before.
    pub datagrams_dropped: u64,
    /// Datagrams received that were longer than their socket's maximum, and thrown away.
    pub datagrams_truncated: u64,
    /// Errors that the system told of datagram sockets.
    pub datagram_errors: u64,
}

impl Stats {
    /// How many connections ended for this reason, whatever the details in it.
    pub const fn closed(&self, why: &Reason) -> u64 {
        self.closed[why.index()]
    }

    /// How many connections have ended, or were refused.
    pub fn closed_total(&self) -> u64 {
        self.closed.iter().sum()
    }

    /// Each reason's name and how many connections ended for it.
    pub fn reasons(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NAMES.into_iter().zip(self.closed)
    }
}

impl fmt::Display for Stats {
    /// One line: what an operator wants to see go by.
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
