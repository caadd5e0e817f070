//! Every bound the reactor keeps, in one plain struct, with the relations between them checked in one place.
//!
//! Knows nothing of connections. Invariant: what passes [`Limits::check`] can be obeyed: no limit makes another one
//! impossible to keep.

use std::time::Duration;

pub use self::super::limits_error::LimitsError;
use crate::codec::Codec;

/// A bound that may be switched off, but only by saying so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit<T> {
    /// Bounded by this much. Zero is refused.
    At(T),
    /// No bound.
    Unlimited,
}

impl<T> From<T> for Limit<T> {
    fn from(value: T) -> Self {
        Self::At(value)
    }
}

impl Limit<usize> {
    /// The bound as a number; the largest there is when unlimited.
    pub(crate) fn get(self) -> usize {
        match self {
            Self::At(n) => n,
            Self::Unlimited => usize::MAX,
        }
    }
}

impl Limit<Duration> {
    /// The bound as a duration; for ever when unlimited.
    pub(crate) fn get(self) -> Duration {
        match self {
            Self::At(d) => d,
            Self::Unlimited => Duration::MAX,
        }
    }
}

/// What happens to new connections when there are as many as allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtCapacity {
    /// They wait in the kernel's queue until others have ended (a sixty-fourth of the limit at a time).
    #[default]
    Pause,
    /// They are accepted and closed at once, and counted.
    Refuse,
}

/// What happens when a handler's callback panics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PanicPolicy {
    /// The connection the callback was for is aborted; everything else goes on. (A program built with
    /// `panic = "abort"` ends all the same.)
    #[default]
    CloseConnection,
    /// The panic goes on through the reactor to whoever runs it. The reactor must not be turned again.
    Propagate,
}

/// The bounds of one reactor, with defaults fit for a server on the internet.
///
/// Sizes are bytes. Zero is never "no limit" but an error: say [`Limit::Unlimited`] where that is possible.
///
/// ```
/// use std::time::Duration;
/// use turnwheel::{Limit, Limits, Reactor};
///
/// let mut limits = Limits::default();
/// limits.connections = Limit::At(500);
/// limits.idle_timeout = Limit::At(Duration::from_secs(60));
/// let reactor = Reactor::with_limits(limits)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Open connections, lingering ones included. It is lowered to what the process may open, less 64. Default 10 000.
    pub connections: Limit<usize>,
    /// What happens to more connections than that. Default [`AtCapacity::Pause`].
    pub at_capacity: AtCapacity,
    /// The read buffer that all connections share, and the most that one of them may read in a turn. Default 256 KiB:
    /// echoing a stream of 64 KiB blocks took a quarter less CPU time with it than with 64 KiB.
    pub read_buffer: usize,
    /// Stop reading a peer once this much output waits for it. Default 256 KiB.
    pub output_high: usize,
    /// Read it again once no more than this waits. Default 64 KiB.
    pub output_low: usize,
    /// Cut a connection whose waiting output would pass this. Default 2 MiB.
    pub output_hard: Limit<usize>,
    /// All waiting output together, counted in whole buffers of 2 KiB and more; shared blocks count once. One that is
    /// not some 100 KiB above [`output_hard`](Limits::output_hard) cuts before that does. Default 256 MiB.
    pub output_total: Limit<usize>,
    /// Input kept for one connection because its message is not whole yet. Default 1 MiB + 64 KiB.
    pub input_kept: usize,
    /// All kept input together, counted in whole buffers. Default 256 MiB.
    pub input_total: Limit<usize>,
    /// No byte either way for this long, while we read, ends a connection. Default 10 minutes.
    pub idle_timeout: Limit<Duration>,
    /// From a message's first byte to its last, not counting the time in which we did not read; what has arrived by
    /// then is read first. Default 30 s.
    pub message_timeout: Limit<Duration>,
    /// Output waits and the peer takes none of it. Default 30 s.
    pub write_stall: Limit<Duration>,
    /// After our FIN: how long without a byte from a peer that has not closed its end. Default 2 s.
    pub linger_quiet: Duration,
    /// After our FIN: how long at most. Default 10 s.
    pub linger_total: Duration,
    /// After our FIN: how much input to read and throw away. Default 256 KiB.
    pub linger_input: usize,
    /// How long a shutdown asked for by a [`Handle`](crate::Handle) waits for connections to finish. Default 10 s.
    pub shutdown_grace: Duration,
    /// Connections accepted from one listener in a turn. Default 16.
    pub accepts_per_turn: usize,
    /// Bytes written to one connection in a turn. Default 256 KiB.
    pub write_per_turn: usize,
    /// Messages of one connection in a turn. Default 256.
    pub messages_per_turn: usize,
    /// Deadlines handled in a turn. Default 1 024.
    pub timeouts_per_turn: usize,
    /// Readiness events taken from the system at once. Default 1 024.
    pub events_per_turn: usize,
    /// How long accepting rests when descriptors or memory have run out, unless a connection ends first.
    /// Default 100 ms.
    pub accept_pause: Duration,
    /// Groups. Default 65 536.
    pub groups: usize,
    /// Groups that one connection may be in. Default 256.
    pub groups_per_connection: usize,
    /// Empty buffers kept for reuse. Default 16 MiB.
    pub pooled: usize,
    /// Timers that handlers set, in all. Default 1 048 576.
    pub timers: usize,
    /// Timers of one connection. Default 1 024.
    pub timers_per_connection: usize,
    /// From asking for a connection until it is there, with the lookup of its name, for all its addresses together;
    /// a [`Connect`](crate::Connect) may say otherwise. Default 10 s.
    pub connect_timeout: Limit<Duration>,
    /// How long one address of several may keep the next one waiting: see [`Connect`](crate::Connect). Default 250 ms,
    /// the Connection Attempt Delay that RFC 8305 recommends.
    pub connect_stagger: Duration,
    /// Connections asked for that are not there yet, or are to be made again. Default 10 000.
    pub attempts: usize,
    /// Names being looked up, or waiting for that. Default 256.
    pub lookups: usize,
    /// Connections that one may be [linked](crate::Net::link) to, and that may be linked to it. Default 256.
    pub links_per_connection: usize,
    /// Registered sources ([`Reactor::register`](crate::Reactor::register)). Default 1 024.
    pub sources: usize,
    /// A callback that takes longer than this is logged as a warning, with the handler's name and the connection, for
    /// all others wait meanwhile. Default 50 ms.
    pub slow_callback: Limit<Duration>,
    /// Datagrams that wait for the kernel at one socket, with 64 bytes counted for each beside its own. Default
    /// 256 KiB.
    pub datagram_queue: usize,
    /// Datagrams received from one socket in a turn; also at most so many that [`read_buffer`](Limits::read_buffer) is
    /// reached. Default 256.
    pub datagrams_per_turn: usize,
    /// Commands of other threads that may wait. Default 65 536.
    pub commands: usize,
    /// Commands obeyed in a turn. Default 1 024.
    pub commands_per_turn: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: Limit::At(10_000),
            at_capacity: AtCapacity::Pause,
            read_buffer: 256 * KIB,
            output_high: 256 * KIB,
            output_low: 64 * KIB,
            output_hard: Limit::At(2 * MIB),
            output_total: Limit::At(256 * MIB),
            input_kept: MIB + 64 * KIB,
            input_total: Limit::At(256 * MIB),
            idle_timeout: Limit::At(Duration::from_secs(600)),
            message_timeout: Limit::At(Duration::from_secs(30)),
            write_stall: Limit::At(Duration::from_secs(30)),
            linger_quiet: Duration::from_secs(2),
            linger_total: Duration::from_secs(10),
            linger_input: 256 * KIB,
            shutdown_grace: Duration::from_secs(10),
            accepts_per_turn: 16,
            write_per_turn: 256 * KIB,
            messages_per_turn: 256,
            timeouts_per_turn: 1024,
            events_per_turn: 1024,
            accept_pause: Duration::from_millis(100),
            groups: 65_536,
            groups_per_connection: 256,
            pooled: 16 * MIB,
            timers: 1024 * 1024,
            timers_per_connection: 1024,
            connect_timeout: Limit::At(Duration::from_secs(10)),
            connect_stagger: Duration::from_millis(250),
            attempts: 10_000,
            lookups: 256,
            links_per_connection: 256,
            sources: 1024,
            slow_callback: Limit::At(Duration::from_millis(50)),
            datagram_queue: 256 * KIB,
            datagrams_per_turn: 256,
            commands: 65_536,
            commands_per_turn: 1024,
        }
    }
}

impl Limits {
    /// Checks each limit and each relation between two of them.
    ///
    /// # Errors
    /// Names what is wrong, with both numbers where two contradict each other. The reactor asks this itself when it is
    /// made; what a handler's framing needs is checked when it is added.
    pub fn check(&self) -> Result<(), LimitsError> {
        self.check_zero()?;
        let refuse = |name, value, relation, other, number| {
            Err(LimitsError::Contradiction {
                name,
                value: value as u64,
                relation,
                other,
                number: number as u64,
            })
        };
        if self.output_low >= self.output_high {
            return refuse("output_low", self.output_low, "below", "output_high", self.output_high);
        }
        let least = self.output_high.saturating_add(self.read_buffer.min(LEAST_READ));
        if self.output_hard.get() < least {
            let other = "output_high + the least that is read at once (read_buffer, or 2 KiB)";
            return refuse("output_hard", self.output_hard.get(), "at least", other, least);
        }
        if self.output_total.get() < self.output_hard.get() && self.output_hard != Limit::Unlimited {
            let hard = self.output_hard.get();
            return refuse("output_total", self.output_total.get(), "at least", "output_hard", hard);
        }
        let least = room_to_keep(self.input_kept);
        if self.input_total.get() < least {
            let other = "2 x input_kept + 4 KiB (buffers grow by doubling)";
            return refuse("input_total", self.input_total.get(), "at least", other, least);
        }
        if self.linger_total < self.linger_quiet {
            return Err(LimitsError::Contradiction {
                name: "linger_total (ms)",
                value: self.linger_total.as_millis() as u64,
                relation: "at least",
                other: "linger_quiet (ms)",
                number: self.linger_quiet.as_millis() as u64,
            });
        }
        Ok(())
    }

    /// Raises what must be raised for messages of `codec` to pass both ways: input kept and output waiting, of each
    /// connection and in all. Nothing is lowered.
    ///
    /// ```
    /// use turnwheel::Limits;
    /// use turnwheel::codec::LengthDelimited;
    ///
    /// let codec = LengthDelimited::u32_be(64 * 1024 * 1024).unwrap();
    /// let mut limits = Limits::default();
    /// limits.fit(&codec);
    /// assert!(limits.input_kept > 64 * 1024 * 1024);
    /// limits.check().unwrap();
    /// ```
    pub fn fit<C: Codec>(&mut self, codec: &C) {
        let whole = codec.max_message().saturating_add(codec.max_overhead());
        let raise = |limit: &mut Limit<usize>, least: usize| {
            if limit.get() < least {
                *limit = Limit::At(least);
            }
        };
        self.input_kept = self.input_kept.max(whole);
        raise(&mut self.output_hard, self.output_high.saturating_add(whole));
        raise(&mut self.input_total, room_to_keep(self.input_kept));
        if let Limit::At(hard) = self.output_hard {
            raise(&mut self.output_total, hard);
        }
    }

    /// Whether messages of up to `max` bytes with up to `overhead` bytes of framing can pass both ways.
    pub(crate) fn check_framing(&self, max: usize, overhead: usize) -> Result<(), LimitsError> {
        let whole = max.saturating_add(overhead);
        if self.input_kept < whole {
            return Err(LimitsError::Contradiction {
                name: "input_kept",
                value: self.input_kept as u64,
                relation: "at least",
                other: "the framing's header + maximum",
                number: whole as u64,
            });
        }
        let least = self.output_high.saturating_add(whole);
        if self.output_hard.get() < least {
            return Err(LimitsError::Contradiction {
                name: "output_hard",
                value: self.output_hard.get() as u64,
                relation: "at least",
                other: "output_high + the framing's encoded maximum",
                number: least as u64,
            });
        }
        Ok(())
    }

    fn check_zero(&self) -> Result<(), LimitsError> {
        let may_be_unlimited = [
            ("connections", self.connections),
            ("output_hard", self.output_hard),
            ("output_total", self.output_total),
            ("input_total", self.input_total),
        ];
        for (name, limit) in may_be_unlimited {
            if limit == Limit::At(0) {
                return Err(LimitsError::ZeroLimit(name));
            }
        }
        let timeouts = [
            ("idle_timeout", self.idle_timeout),
            ("message_timeout", self.message_timeout),
            ("write_stall", self.write_stall),
            ("connect_timeout", self.connect_timeout),
            ("slow_callback", self.slow_callback),
        ];
        for (name, limit) in timeouts {
            if limit == Limit::At(Duration::ZERO) {
                return Err(LimitsError::ZeroLimit(name));
            }
        }
        let sizes = [
            ("read_buffer", self.read_buffer),
            ("output_high", self.output_high),
            ("input_kept", self.input_kept),
            ("linger_input", self.linger_input),
            ("accepts_per_turn", self.accepts_per_turn),
            ("write_per_turn", self.write_per_turn),
            ("messages_per_turn", self.messages_per_turn),
            ("timeouts_per_turn", self.timeouts_per_turn),
            ("events_per_turn", self.events_per_turn),
            ("groups", self.groups),
            ("groups_per_connection", self.groups_per_connection),
            ("timers", self.timers),
            ("timers_per_connection", self.timers_per_connection),
            ("attempts", self.attempts),
            ("lookups", self.lookups),
            ("links_per_connection", self.links_per_connection),
            ("sources", self.sources),
            ("datagram_queue", self.datagram_queue),
            ("datagrams_per_turn", self.datagrams_per_turn),
            ("commands", self.commands),
            ("commands_per_turn", self.commands_per_turn),
        ];
        for (name, n) in sizes {
            if n == 0 {
                return Err(LimitsError::Zero(name));
            }
        }
        let durations = [
            ("linger_quiet", self.linger_quiet),
            ("linger_total", self.linger_total),
            ("accept_pause", self.accept_pause),
            ("connect_stagger", self.connect_stagger),
        ];
        for (name, n) in [("read_buffer", self.read_buffer), ("events_per_turn", self.events_per_turn)] {
            if n > MOST_AT_ONCE {
                return Err(LimitsError::TooLarge { name, value: n as u64, max: MOST_AT_ONCE as u64 });
            }
        }
        match durations.iter().find(|(_, d)| d.is_zero()) {
            Some((name, _)) => Err(LimitsError::Zero(name)),
            None => Ok(()),
        }
    }
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// As much as this is read at once however much output waits, as long as it is less than the high-water mark.
pub(crate) const LEAST_READ: usize = 2 * KIB;
/// What the buffer of so much input may take while it grows: twice as much, and one of the least size besides.
const fn room_to_keep(kept: usize) -> usize {
    kept.saturating_mul(2).saturating_add(4 * KIB)
}

/// For what is allocated when the reactor is made.
const MOST_AT_ONCE: usize = 64 * MIB;

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Limits)) -> String {
        let mut limits = Limits::default();
        change(&mut limits);
        limits.check().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_agree_with_each_other() {
        Limits::default().check().unwrap();
        Limits::default().check_framing(MIB, 64).unwrap();
    }

    #[test]
    fn contradictions_name_both_numbers() {
        let said = refused(|l| l.output_low = 300_000);
        assert!(said.contains("300000") && said.contains("262144"), "{said}");
        let said = refused(|l| l.output_hard = Limit::At(263_000));
        assert!(said.contains("263000") && said.contains("264192"), "{said}");
        let said = refused(|l| l.output_total = Limit::At(1));
        assert!(said.contains("output_total is 1") && said.contains("2097152"), "{said}");
        let said = refused(|l| l.input_total = Limit::At(5));
        assert!(said.contains("input_total is 5") && said.contains("2232320"), "{said}");
        let said = refused(|l| l.linger_total = Duration::from_secs(1));
        assert!(said.contains("1000") && said.contains("2000"), "{said}");
        let said = Limits::default().check_framing(4 * MIB, 4).unwrap_err().to_string();
        assert!(said.contains("4194308") && said.contains("1114112"), "{said}");
        let roomy = Limits { input_kept: 8 * MIB, ..Limits::default() };
        let said = roomy.check_framing(4 * MIB, 4).unwrap_err().to_string();
        assert!(said.contains("output_hard is 2097152") && said.contains("4456452"), "{said}");
    }

    #[test]
    fn zero_is_never_unlimited() {
        assert!(refused(|l| l.connections = Limit::At(0)).contains("Limit::Unlimited"));
        assert!(refused(|l| l.idle_timeout = Limit::At(Duration::ZERO)).contains("idle_timeout"));
        assert!(refused(|l| l.read_buffer = 0).contains("read_buffer"));
        assert!(refused(|l| l.commands = 0).contains("limit commands is zero"));
        assert!(refused(|l| l.commands_per_turn = 0).contains("commands_per_turn"));
        assert!(refused(|l| l.events_per_turn = usize::MAX).contains("at most 67108864"));
        assert!(refused(|l| l.linger_quiet = Duration::ZERO).contains("linger_quiet"));
        let unlimited = Limits {
            connections: Limit::Unlimited,
            output_hard: Limit::Unlimited,
            output_total: Limit::Unlimited,
            input_total: Limit::Unlimited,
            idle_timeout: Limit::Unlimited,
            message_timeout: Limit::Unlimited,
            write_stall: Limit::Unlimited,
            ..Limits::default()
        };
        unlimited.check().unwrap();
    }
}
