//! What to connect to: an address, a name or a stream that is already connected, with options and a retry policy.
//!
//! These are values: nothing here opens a socket or resolves a name. Invariant: the options that
//! [`Connect::into_parts`] returns are in range for every system call that takes them.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::address::{Address, AddressError, Endpoint, Problem};
use crate::config::builder::{from_addresses, setters};
use crate::config::limits::Limit;
use crate::config::listen::{Keepalive, not_zero};
use crate::id::ConnId;

/// What to connect to, with options.
///
/// It converts from anything that names an address: a string (`"127.0.0.1:7000"`, `"[::1]:7000"`,
/// `"example.org:7000"`, `"unix:/path"`), a [`SocketAddr`] or an [`Endpoint`]. It also converts from a
/// [`TcpStream`](std::net::TcpStream) or a `UnixStream` that is already connected, which the reactor takes over.
///
/// Host names are looked up on separate threads: one for each name, at most 64, started on demand. So names whose
/// server is silent do not delay others. IP addresses and `localhost` (127.0.0.1, then `::1`) need no lookup. All
/// addresses of a name are tried, IPv6 and IPv4 alternating ("happy eyeballs", RFC 8305). The next address is tried
/// when one has failed or has taken longer than [`Limits::connect_stagger`](crate::Limits::connect_stagger). The first
/// connection that is established is used. Unlike RFC 8305, results of earlier connections are not remembered.
///
/// ```
/// use std::time::Duration;
/// use turnwheel::{Backoff, Connect};
///
/// let upstream = Connect::new("example.org:7000").timeout(Duration::from_secs(3)).retry(Backoff::default());
/// let from_here = Connect::new("127.0.0.1:7000").local("127.0.0.2:0".parse().unwrap());
/// # let _ = (upstream, from_here);
/// ```
#[derive(Debug)]
pub struct Connect {
    target: Result<Target, AddressError>,
    options: ConnectOptions,
}

/// The retry policy: how long to wait before each retry, and how many tries to make.
///
/// The wait before the n-th retry is random, between `min` and `min` x `factor`^n, and at most `max`. The random part
/// keeps a thousand clients that lost their server from reconnecting all at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The shortest wait, at least 1 ms. Default: 100 ms (chosen).
    pub min: Duration,
    /// The longest wait, at least `min`. Default: 30 s (chosen).
    pub max: Duration,
    /// The factor by which the longest possible wait grows with each retry, at least 1. Default: 2 (chosen).
    pub factor: f64,
    /// Consecutive failed tries, including the first, after which the job fails. A connection that is established
    /// resets the count. Default: 10 (chosen).
    pub tries: Limit<u32>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { min: Duration::from_millis(100), max: Duration::from_secs(30), factor: 2.0, tries: Limit::At(10) }
    }
}

impl Backoff {
    /// Returns the wait after `failed` consecutive failures; `random` selects a value from its range.
    pub(crate) fn wait(&self, failed: u32, random: u64) -> Duration {
        let (min, max) = (self.min.as_secs_f64(), self.max.as_secs_f64());
        let exponent = i32::try_from(failed.max(1)).unwrap_or(i32::MAX);
        let most = (min * self.factor.powi(exponent)).clamp(min, max);
        // 53 random bits fill the mantissa of an `f64`: a share from 0 up to, but not including, 1.
        let share = (random >> 11) as f64 / (1u64 << 53) as f64;
        Duration::try_from_secs_f64(min + (most - min) * share).map_or(self.max, |d| d.clamp(self.min, self.max))
    }

    /// Returns whether `failed` consecutive failures exhaust the policy.
    pub(crate) fn is_over(&self, failed: u32) -> bool {
        matches!(self.tries, Limit::At(most) if failed >= most)
    }

    fn check(&self) -> Result<(), Problem> {
        let refuse = |what: String| Err(Problem::Option("retry policy", what));
        if self.min < Duration::from_millis(1) {
            return refuse(format!("must have a min of at least 1ms, not {:?}", self.min));
        }
        if self.max < self.min {
            return refuse(format!("must have a max of at least its min: {:?} is less than {:?}", self.max, self.min));
        }
        if !self.factor.is_finite() || self.factor < 1.0 {
            return refuse(format!("must have a factor of at least 1, not {}", self.factor));
        }
        if self.tries == Limit::At(0) {
            return refuse("must allow at least 1 try".to_owned());
        }
        Ok(())
    }
}

impl Connect {
    /// Connects to `to` with the default options.
    pub fn new(to: impl Into<Self>) -> Self {
        to.into()
    }

    setters! {
        /// Sets the timeout of one try, including the lookup and all addresses. Default:
        /// [`Limits::connect_timeout`](crate::Limits::connect_timeout). Zero is rejected.
        timeout(timeout: impl Into<Limit<Duration>>) = Some(timeout.into());

        /// Sets the local address to connect from; with port 0 the system chooses a port. Default: chosen by the
        /// system.
        local(address: SocketAddr) = Some(address);

        /// Sets `TCP_NODELAY`: small writes are sent at once. Default: on, for the same reason as
        /// [`Listen::nodelay`](crate::Listen::nodelay).
        nodelay(on: bool) = on;

        /// Sets TCP keepalive; `None` switches it off. Default: [`Keepalive::default`].
        keepalive(keepalive: Option<Keepalive>) = keepalive;

        /// Sets the kernel's receive buffer, in bytes. Default: chosen by the system. Zero is rejected.
        receive_buffer(bytes: usize) = Some(bytes);

        /// Sets the kernel's send buffer, in bytes. Default: chosen by the system. Zero is rejected.
        send_buffer(bytes: usize) = Some(bytes);

        /// Retries when connecting fails. [`on_connect_failed`](crate::Handler::on_connect_failed) is called after the
        /// last try has failed. Default: one try.
        retry(policy: Backoff) = Some(policy);

        /// Names the accepted connection that this one is made for: it may take a place that was
        /// [reserved](crate::Listen::reserve_connects) for that. Default: the connection of the callback that requests
        /// it, or the one that *that* one was made for. A proxy needs this only where no connection is current, as in
        /// [`on_connect_failed`](crate::Handler::on_connect_failed).
        on_behalf_of(id: ConnId) = Some(id);
    }

    /// Retries when connecting fails, and reconnects, with the same tag, after the connection has ended. It does not
    /// reconnect if the handler closed or aborted the connection on its own initiative (rather than in response to the
    /// peer's FIN), or if the reactor is shutting down. Each connection gets its own `on_open` and `on_close`. A
    /// connection that lasted longer than the longest wait resets the waits to the shortest. Use [`tries:
    /// Limit::Unlimited`](Backoff::tries) to retry without end.
    pub fn reconnect(mut self, policy: Backoff) -> Self {
        self.options.retry = Some(policy);
        self.options.anew = true;
        self
    }

    /// Returns what to connect to and the options, after checking both.
    pub(crate) fn into_parts(self) -> Result<(Target, ConnectOptions), AddressError> {
        let target = self.target?;
        if let Target::Endpoint(endpoint) = &target {
            endpoint.validate()?;
        }
        let refused = |problem| AddressError { about: format!("cannot connect to {target}"), problem };
        self.options.check(&target).map_err(refused)?;
        Ok((target, self.options))
    }

    /// Returns `self` if it passes the checks of [`into_parts`](Self::into_parts).
    pub(crate) fn checked(self) -> Result<Self, AddressError> {
        let (target, options) = self.into_parts()?;
        Ok(Self { target: Ok(target), options })
    }

    fn of_endpoint(endpoint: Result<Endpoint, AddressError>) -> Self {
        Self::with(endpoint.map(Target::Endpoint))
    }

    fn of_address(address: SocketAddr) -> Self {
        Self::from(Address::Tcp(address))
    }

    fn with(target: Result<Target, AddressError>) -> Self {
        Self { target, options: ConnectOptions::default() }
    }
}

from_addresses!(Connect);

impl From<Address> for Connect {
    fn from(address: Address) -> Self {
        Self::with(Ok(Target::Address(address)))
    }
}

impl From<std::net::TcpStream> for Connect {
    /// Takes over a stream that is already connected.
    fn from(stream: std::net::TcpStream) -> Self {
        Self::with(Ok(Target::Existing(Existing::Tcp(stream))))
    }
}

#[cfg(unix)]
impl From<std::os::unix::net::UnixStream> for Connect {
    /// Takes over a stream that is already connected.
    fn from(stream: std::os::unix::net::UnixStream) -> Self {
        Self::with(Ok(Target::Existing(Existing::Unix(stream))))
    }
}

/// A stream that the caller has connected.
#[derive(Debug)]
pub(crate) enum Existing {
    Tcp(std::net::TcpStream),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixStream),
}

/// What a [`Connect`] names.
#[derive(Debug)]
pub(crate) enum Target {
    Endpoint(Endpoint),
    Address(Address),
    Existing(Existing),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(endpoint) => endpoint.fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::Existing(_) => f.write_str("the existing stream"),
        }
    }
}

/// The options of a connection. See the setters of [`Connect`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ConnectOptions {
    pub(crate) timeout: Option<Limit<Duration>>,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) nodelay: bool,
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) receive_buffer: Option<usize>,
    pub(crate) send_buffer: Option<usize>,
    pub(crate) retry: Option<Backoff>,
    pub(crate) on_behalf_of: Option<ConnId>,
    /// Reconnect after the connection has ended.
    pub(crate) anew: bool,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            timeout: None,
            local: None,
            nodelay: true,
            keepalive: Some(Keepalive::default()),
            receive_buffer: None,
            send_buffer: None,
            retry: None,
            on_behalf_of: None,
            anew: false,
        }
    }
}

impl ConnectOptions {
    fn check(&self, target: &Target) -> Result<(), Problem> {
        if self.timeout == Some(Limit::At(Duration::ZERO)) {
            return Err(Problem::Option("timeout", "must be longer than zero".to_owned()));
        }
        not_zero("receive buffer", self.receive_buffer)?;
        not_zero("send buffer", self.send_buffer)?;
        self.keepalive.iter().try_for_each(Keepalive::check)?;
        let fits = match target {
            Target::Endpoint(Endpoint::Unix(_)) | Target::Address(Address::Unix(_)) => self.local.is_none(),
            Target::Address(Address::Tcp(to)) => self.local.is_none_or(|local| local.is_ipv4() == to.is_ipv4()),
            Target::Endpoint(_) | Target::Existing(_) => true,
        };
        if !fits {
            let what = "must be of the same address family as the destination";
            return Err(Problem::Option("local address", what.to_owned()));
        }
        if let Target::Address(Address::Unix(None)) = target {
            return Err(Problem::Option("path", "is missing".to_owned()));
        }
        if self.retry.is_some() && matches!(target, Target::Existing(_)) {
            let what = "is not allowed: an existing stream can be taken over only once";
            return Err(Problem::Option("retry policy", what.to_owned()));
        }
        self.retry.map_or(Ok(()), |policy| policy.check())
    }
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
