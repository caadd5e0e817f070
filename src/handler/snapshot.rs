//! What one connection is doing, as plain facts for whoever operates the program.
//!
//! Knows nothing of sockets and handlers' states. Invariant: a snapshot holds no reference: it may be kept, and says
//! how things were.

use std::fmt;
use std::time::Duration;

use crate::config::address::Address;
use crate::connection::{Connection, Origin, Phase};
use crate::core::Core;
use crate::id::ConnId;

/// How far a connection's life has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionPhase {
    /// It was asked for, and is not there yet.
    Connecting,
    /// The handler has it.
    Open,
    /// It is being closed; what was accepted for sending is still being written.
    Flushing,
    /// All is written and our FIN is sent; input is thrown away until the peer's.
    Lingering,
    /// Its fate is known: [`on_close`](crate::Handler::on_close) is being called or to come.
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

/// One connection at one moment. Times are on the monotonic clock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Which connection.
    pub id: ConnId,
    /// The peer's address.
    pub peer: Address,
    /// Where the connection came from.
    pub origin: Origin,
    /// How far its life has gone.
    pub phase: ConnectionPhase,
    /// Since it was accepted, or asked for.
    pub age: Duration,
    /// Since a byte last moved either way, or we went on reading after not having done so.
    pub idle: Duration,
    /// For how long output has waited of which the peer took nothing; zero when none waits.
    pub stalled: Duration,
    /// Bytes read from the peer.
    pub bytes_in: u64,
    /// Bytes handed to the kernel.
    pub bytes_out: u64,
    /// Bytes that wait to be written, not counting this turn's broadcasts.
    pub pending: usize,
    /// Bytes of input kept: an unfinished message, or what the handler has put off.
    pub kept: usize,
    /// Whether input is used. False while the handler pauses it, while output is too much, while a slow member of a
    /// group holds it up, and once the connection is closing.
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
            // While lingering `stalled` means something else, but then nothing waits.
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
    /// One line. What is as usual is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, peer, phase, bytes_in, bytes_out, .. } = self;
        let seconds = |d: Duration| d.as_secs_f64();
        write!(f, "{id} {peer} {phase}, age {:.1} s, idle {:.1} s, ", seconds(self.age), seconds(self.idle))?;
        write!(f, "{bytes_in} B in, {bytes_out} B out")?;
        if self.pending > 0 {
            write!(f, ", {} B wait for {:.1} s", self.pending, seconds(self.stalled))?;
        }
        if self.kept > 0 {
            write!(f, ", {} B kept", self.kept)?;
        }
        if self.phase == ConnectionPhase::Open && !self.reading {
            f.write_str(", not read")?;
        }
        Ok(())
    }
}
