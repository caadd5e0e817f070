//! All limits of a reactor in one struct, checked for consistency in one place.
//!
//! Invariant: the limits that pass [`Limits::check`] can all be kept at the same time.

use std::time::Duration;

pub use self::super::limits_error::LimitsError;
use crate::codec::Codec;

/// A limit, or explicitly none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit<T> {
    /// Limited to this value. Zero is rejected.
    At(T),
    /// No limit.
    Unlimited,
}

impl<T> From<T> for Limit<T> {
    fn from(value: T) -> Self {
        Self::At(value)
    }
}

impl Limit<usize> {
    /// Returns the limit as a number; `usize::MAX` if unlimited.
    pub(crate) fn get(self) -> usize {
        match self {
            Self::At(n) => n,
            Self::Unlimited => usize::MAX,
        }
    }
}

impl Limit<Duration> {
    /// Returns the limit as a duration; `Duration::MAX` if unlimited.
    pub(crate) fn get(self) -> Duration {
        match self {
            Self::At(d) => d,
            Self::Unlimited => Duration::MAX,
        }
    }
}

/// What happens to new connections when [`Limits::connections`] is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtCapacity {
    /// They wait in the kernel's accept queue until a sixty-fourth of the limit (at least one connection) is free
    /// again.
    #[default]
    Pause,
    /// They are accepted, closed at once and counted.
    Refuse,
}

/// What happens when a callback panics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PanicPolicy {
    /// Terminates the connection whose callback panicked; everything else goes on. A program built with
    /// `panic = "abort"` still aborts.
    #[default]
    CloseConnection,
    /// Resumes the panic through the reactor into its caller. The reactor must not be turned again.
    Propagate,
}

/// The limits of one reactor. The defaults suit a server on the internet.
///
/// Sizes are in bytes. Zero never means "no limit": it is an error. Use [`Limit::Unlimited`] where a limit can be
/// switched off.
///
/// Input that arrived before a timeout expired is read before it closes a connection, however late the loop is.
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
    /// Open connections, including those that linger, those that are being made, and those that a listener
    /// [reserves](crate::Listen::reserve_connects) places for. Lowered to the number of descriptors the process may
    /// still open, less 64 for everything else. Default 10 000, the `maxclients` of Redis.
    pub connections: Limit<usize>,
    /// What happens to connections beyond that. Default [`AtCapacity::Pause`], as in HAProxy.
    pub at_capacity: AtCapacity,
    /// Size of the read buffer that all connections share, and the most that one of them may read in a turn. Default
    /// 256 KiB: echoing a stream of 64 KiB blocks took a quarter less CPU time with it than with 64 KiB.
    pub read_buffer: usize,
    /// High-water mark: stop reading a peer once it has this much unsent output. Default 256 KiB (chosen; as much as
    /// [`read_buffer`](Limits::read_buffer)).
    pub output_high: usize,
    /// Low-water mark: read it again once it has no more than this. Default 64 KiB (chosen; the distance to
    /// [`output_high`](Limits::output_high) keeps a connection from stopping and resuming with every write).
    pub output_low: usize,
    /// Hard limit: terminate a connection whose unsent output would exceed this. Default 2 MiB (chosen; a message of
    /// 1 MiB fits on top of [`output_high`](Limits::output_high)).
    pub output_hard: Limit<usize>,
    /// Unsent output of all connections together, counted in whole buffers (of 2 KiB or more, until 1 MiB is in use;
    /// further ones are as small as what they hold); shared blocks count once. When it is reached, connections are
    /// terminated: first those whose peers take nothing, and of these the ones that hold the most. Keep this
    /// at least 100 KiB above [`output_hard`](Limits::output_hard), or a connection is terminated for the total before
    /// it reaches its own limit. Default 256 MiB (chosen).
    pub output_total: Limit<usize>,
    /// Input buffered for one connection because its message is not complete. Default 1 MiB + 64 KiB (chosen): a
    /// message of 1 MiB, which is the default `max_payload` of NATS, and its header.
    pub input_kept: usize,
    /// Buffered input of all connections together, counted in whole buffers. Default 256 MiB (chosen, as for
    /// [`output_total`](Limits::output_total)).
    pub input_total: Limit<usize>,
    /// Closes a connection on which no byte was read or written for this long, while it is being read. Default 10
    /// minutes, the `proxy_timeout` of nginx's stream module.
    pub idle_timeout: Limit<Duration>,
    /// Time from the first byte of a message to its last, without the time in which the connection was not read.
    /// Default 30 s, as in hyper (for the headers of a request).
    pub message_timeout: Limit<Duration>,
    /// Terminates a connection that has unsent output of which the peer takes nothing for this long. Default 30 s
    /// (chosen, between the 10 s of NATS and the 60 s of nginx).
    pub write_stall: Limit<Duration>,
    /// After our FIN: how long to wait without input for the peer's FIN. Default 2 s (chosen; nginx waits 5 s).
    pub linger_quiet: Duration,
    /// After our FIN: how long to wait for the peer's FIN at most. Default 10 s (chosen; nginx waits 30 s).
    pub linger_total: Duration,
    /// After our FIN: how much input to read and discard. Default 256 KiB (chosen; as much as
    /// [`read_buffer`](Limits::read_buffer)).
    pub linger_input: usize,
    /// Grace period of a shutdown requested through a [`Handle`](crate::Handle) or [`Net::stop`](crate::Net::stop):
    /// connections still open afterwards are terminated. Default 10 s (chosen).
    pub shutdown_grace: Duration,
    /// Connections accepted per listener and turn. Default 16 (chosen, so that a flood of connections does not delay
    /// the open ones).
    pub accepts_per_turn: usize,
    /// Bytes written per connection and turn. Default 256 KiB (chosen; as much as
    /// [`output_high`](Limits::output_high)).
    pub write_per_turn: usize,
    /// Messages delivered per connection and turn. Default 256 (chosen, so that a peer that pipelines small messages
    /// does not delay the others).
    pub messages_per_turn: usize,
    /// Deadlines handled per turn, and timers fired per turn. Default 1 024 of each (chosen; bounds a turn in which
    /// many expire at once).
    pub timeouts_per_turn: usize,
    /// Readiness events fetched from the system at once. Default 1 024, as in tokio.
    pub events_per_turn: usize,
    /// How long accepting pauses when descriptors or memory have run out. It resumes earlier if a connection closes.
    /// Default 100 ms, as in HAProxy.
    pub accept_pause: Duration,
    /// Groups. Default 65 536 (chosen; bounds memory).
    pub groups: usize,
    /// Groups that one connection may be a member of. Default 256 (chosen; closing a connection takes time
    /// proportional to it).
    pub groups_per_connection: usize,
    /// Empty buffers cached for reuse, in bytes. Default 16 MiB (chosen).
    pub pooled: usize,
    /// Timers set by handlers, in total. Default 1 048 576 (chosen; bounds memory).
    pub timers: usize,
    /// Timers of one connection. Default 1 024 (chosen).
    pub timers_per_connection: usize,
    /// Time to establish a connection, from the request on, including the lookup of its name and all its addresses. A
    /// [`Connect`](crate::Connect) may override it. Default 10 s (chosen).
    pub connect_timeout: Limit<Duration>,
    /// How long to wait for one address before trying the next one as well: see [`Connect`](crate::Connect). Default
    /// 250 ms, the Connection Attempt Delay that RFC 8305 recommends.
    pub connect_stagger: Duration,
    /// Connect jobs: connections that are requested but not established, or that will be reconnected. Default 10 000
    /// (chosen; as many as [`connections`](Limits::connections)).
    pub attempts: usize,
    /// Names being looked up or queued for lookup. Default 256 (chosen; the lookups run on at most 64 threads).
    pub lookups: usize,
    /// Connections that one may be [linked](crate::Net::link) to, and connections that may be linked to it. Default
    /// 256 (chosen).
    pub links_per_connection: usize,
    /// Registered sources ([`Reactor::register`](crate::Reactor::register)). Default 1 024 (chosen).
    pub sources: usize,
    /// Logs a warning, with the handler's name and the connection, if a callback takes longer than this, because all
    /// other connections wait for it. Default 50 ms (chosen).
    pub slow_callback: Limit<Duration>,
    /// Datagrams queued at one socket until the kernel takes them, in bytes; each counts 64 bytes in addition to its
    /// own. Default 256 KiB (chosen, as for [`output_high`](Limits::output_high)).
    pub datagram_queue: usize,
    /// Datagrams received per socket and turn. Receiving also stops once they add up to
    /// [`read_buffer`](Limits::read_buffer) bytes. Default 256 (chosen, as for
    /// [`messages_per_turn`](Limits::messages_per_turn)).
    pub datagrams_per_turn: usize,
    /// Commands from other threads that may be queued. Default 65 536 (chosen; a full queue returns an error to the
    /// sender).
    pub commands: usize,
    /// Commands run per turn. Default 1 024 (chosen, so that a flood of commands does not delay I/O).
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
    /// Checks every limit, and every relation between two limits.
    ///
    /// # Errors
    /// Returns an error if a limit is zero or too large, or if two limits contradict each other; that error names
    /// both values. A new reactor calls this itself. Whether a handler's framing fits is checked when the handler is
    /// added.
    pub fn check(&self) -> Result<(), LimitsError> {
        self.check_zero()?;
        if self.output_low >= self.output_high {
            let (value, number) = (self.output_low as u64, self.output_high as u64);
            let (name, other) = ("output_low", "output_high");
            return Err(LimitsError::Contradiction { name, value, relation: "below", other, number });
        }
        // Just below the high-water mark so much is still read, and an echo of it must fit.
        let least = self.output_high.saturating_add(self.read_buffer.min(LEAST_READ));
        let other = "output_high + the least that is read at once (read_buffer, or 2 KiB)";
        at_least("output_hard", self.output_hard.get(), other, least)?;
        if let Limit::At(hard) = self.output_hard {
            at_least("output_total", self.output_total.get(), "output_hard", hard)?;
        }
        let other = "2 x input_kept + 4 KiB (buffers grow by doubling)";
        at_least("input_total", self.input_total.get(), other, space_to_keep(self.input_kept))?;
        if self.linger_total < self.linger_quiet {
            let [value, number] = [self.linger_total, self.linger_quiet].map(|time| time.as_millis() as u64);
            let (name, other) = ("linger_total (ms)", "linger_quiet (ms)");
            return Err(LimitsError::Contradiction { name, value, relation: "at least", other, number });
        }
        Ok(())
    }

    /// Raises the limits so that messages of `codec` fit in both directions: buffered input and unsent output, per
    /// connection and in total. Never lowers one.
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
        raise(&mut self.input_total, space_to_keep(self.input_kept));
        if let Limit::At(hard) = self.output_hard {
            raise(&mut self.output_total, hard);
        }
    }

    /// Checks that messages of up to `max` bytes with up to `overhead` bytes of framing fit in both directions.
    pub(crate) fn check_framing(&self, max: usize, overhead: usize) -> Result<(), LimitsError> {
        let whole = max.saturating_add(overhead);
        at_least("input_kept", self.input_kept, "the framing's header + maximum (Limits::fit raises it)", whole)?;
        let least = self.output_high.saturating_add(whole);
        let other = "output_high + the framing's encoded maximum (Limits::fit raises it)";
        at_least("output_hard", self.output_hard.get(), other, least)
    }

    /// Checks that a connection can be accepted if places for `connects` others are reserved with it.
    pub(crate) fn check_reserve(&self, connects: usize) -> Result<(), LimitsError> {
        let reserved = "the connects that the listener reserves";
        let places = "1 + the connects that the listener reserves for each connection";
        at_least("connections", self.connections.get(), places, connects.saturating_add(1))?;
        at_least("attempts", self.attempts, reserved, connects)?;
        at_least("lookups", self.lookups, reserved, connects)
    }

    fn check_zero(&self) -> Result<(), LimitsError> {
        let may_be_unlimited = [
            ("connections", self.connections),
            ("output_hard", self.output_hard),
            ("output_total", self.output_total),
            ("input_total", self.input_total),
        ];
        none_is(Limit::At(0), &may_be_unlimited, LimitsError::ZeroLimit)?;
        let timeouts = [
            ("idle_timeout", self.idle_timeout),
            ("message_timeout", self.message_timeout),
            ("write_stall", self.write_stall),
            ("connect_timeout", self.connect_timeout),
            ("slow_callback", self.slow_callback),
        ];
        none_is(Limit::At(Duration::ZERO), &timeouts, LimitsError::ZeroLimit)?;
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
        none_is(0, &sizes, LimitsError::Zero)?;
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
        none_is(Duration::ZERO, &durations, LimitsError::Zero)
    }
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// One read may take this much whenever a connection is read at all, even if less space is left below the high-water
/// mark or memory is short, so that it makes progress. As much as the smallest buffer of the pool.
pub(crate) const LEAST_READ: usize = 2 * KIB;

/// Fails with `error` if one of these limits is `zero`.
fn none_is<T: PartialEq>(
    zero: T,
    limits: &[(&'static str, T)],
    error: fn(&'static str) -> LimitsError,
) -> Result<(), LimitsError> {
    limits.iter().find(|(_, limit)| *limit == zero).map_or(Ok(()), |(name, _)| Err(error(name)))
}

/// Fails unless the limit `name` is at least `least`, which `other` describes.
fn at_least(name: &'static str, value: usize, other: &'static str, least: usize) -> Result<(), LimitsError> {
    if value >= least {
        return Ok(());
    }
    Err(LimitsError::Contradiction { name, value: value as u64, relation: "at least", other, number: least as u64 })
}

/// Memory that the buffer for `kept` bytes of input may use while it grows: twice as much, because buffers grow by
/// doubling, plus two of the smallest buffers (2 KiB each).
const fn space_to_keep(kept: usize) -> usize {
    kept.saturating_mul(2).saturating_add(4 * KIB)
}

/// The maximum for limits whose memory is allocated when the reactor is created (chosen).
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
        assert!(said.contains("4194308") && said.contains("1114112") && said.contains("Limits::fit"), "{said}");
        let roomy = Limits { input_kept: 8 * MIB, ..Limits::default() };
        let said = roomy.check_framing(4 * MIB, 4).unwrap_err().to_string();
        assert!(said.contains("output_hard is 2097152") && said.contains("4456452"), "{said}");
        assert!(said.contains("Limits::fit"), "{said}");
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
