//! The state of one connection, as plain values for monitoring.
//!
//! Invariant: a snapshot holds no reference. It may be stored and does not change.

use std::fmt;
use std::time::Duration;

use crate::config::address::Address;
use crate::connection::{Connection, Origin, Phase};
use crate::core::Core;
use crate::id::ConnId;

/// The phase of a connection's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionPhase {
    /// Requested, but not established yet.
    Connecting,
    /// Open: its handler receives its input.
    Open,
    /// Closing: queued output is still being written.
    Flushing,
    /// Everything is written and our FIN is sent; input is discarded until the peer's FIN.
    Lingering,
    /// Ended: [`on_close`](crate::Handler::on_close) is running or will be called.
    Ended,
}

impl fmt::Display for ConnectionPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::Open => "open",
            Self::Flushing => "flushing",
            Self::Lingering => "lingering",
            Self::Ended => "ended",
        })
    }
}

impl From<Phase> for ConnectionPhase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Connecting => Self::Connecting,
            Phase::Open => Self::Open,
            Phase::Flushing => Self::Flushing,
            Phase::Lingering => Self::Lingering,
            Phase::Closed => Self::Ended,
        }
    }
}

/// The state of one connection at one moment. Times are on the monotonic clock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The id of the connection.
    pub id: ConnId,
    /// The peer's address.
    pub peer: Address,
    /// Where the connection came from.
    pub origin: Origin,
    /// The phase of its life.
    pub phase: ConnectionPhase,
    /// Time since it was accepted or established; while it connects, since that began.
    pub age: Duration,
    /// Time since a byte was last read or written, or since reading was last resumed.
    pub idle: Duration,
    /// How long there has been unsent output of which the peer took nothing; zero if there is none.
    pub stalled: Duration,
    /// Bytes read from the peer.
    pub bytes_in: u64,
    /// Bytes handed to the kernel.
    pub bytes_out: u64,
    /// Bytes of unsent output, without the broadcasts of this turn.
    pub pending: usize,
    /// Bytes of buffered input: an unfinished message, or what the handler has deferred.
    pub kept: usize,
    /// Whether the connection is being read. False while its handler pauses it, while it or a
    /// [linked](crate::Net::link) connection has too much unsent output, while a slow member of a group blocks its
    /// senders, while memory is short and it has unsent output, and once it is closing.
    pub reading: bool,
}

impl Snapshot {
    pub(crate) fn new(core: &Core, c: &Connection) -> Self {
        let pending = core.pending(c);
        Self {
            id: c.id,
            peer: c.peer.address(),
            origin: c.origin(),
            phase: c.phase.into(),
            age: core.now.since(c.created_at),
            idle: core.now.since(c.last_activity),
            // `write_blocked_since` is not cleared when everything is written, and means nothing then.
            stalled: if pending > 0 { core.now.since(c.write_blocked_since) } else { Duration::ZERO },
            bytes_in: c.bytes_in,
            bytes_out: c.bytes_out,
            pending,
            kept: c.buffered_len(),
            reading: core.may_read(c),
        }
    }
}

impl fmt::Display for Snapshot {
    /// Writes one line. Fields with their usual value are left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, peer, phase, bytes_in, bytes_out, .. } = self;
        let seconds = |d: Duration| d.as_secs_f64();
        write!(f, "{id} {peer} {phase}, age {:.1} s, idle {:.1} s, ", seconds(self.age), seconds(self.idle))?;
        write!(f, "{bytes_in} B in, {bytes_out} B out")?;
        if self.pending > 0 {
            write!(f, ", {} B unsent for {:.1} s", self.pending, seconds(self.stalled))?;
        }
        if self.kept > 0 {
            write!(f, ", {} B buffered", self.kept)?;
        }
        if self.phase == ConnectionPhase::Open && !self.reading {
            f.write_str(", not reading")?;
        }
        Ok(())
    }
}
