//! What to connect to, and how: an address, a name or a stream that is there already, with options and a policy for
//! trying again.
//!
//! Nothing here opens a socket or resolves a name: these are values. Invariant: what [`Connect::into_parts`] lets pass,
//! every system call can be asked for.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::address::{Address, AddressError, Endpoint, Problem};
use crate::config::builder::{from_addresses, setters};
use crate::config::limits::Limit;
use crate::config::listen::{Keepalive, not_zero};

/// What to connect to, and how.
///
/// Anything that names an address becomes one: a string (`"127.0.0.1:7000"`, `"[::1]:7000"`, `"example.org:7000"`,
/// `"unix:/path"`), a [`SocketAddr`], an [`Endpoint`]; and so does a [`TcpStream`](std::net::TcpStream) or a
/// `UnixStream` that is connected already, which the reactor takes over.
///
/// A host name is looked up by threads of their own (four at most, started when there is something to look up). All its
/// addresses are tried, IPv6 and IPv4 in turn, the next one whenever one has failed or has taken longer than
/// [`Limits::connect_stagger`](crate::Limits::connect_stagger); the first to connect is taken (RFC 8305, without its
/// memory of what worked before).
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

/// When to try again, and how often.
///
/// Before the n-th further try lies a wait of between `min` and `min` x `factor`^n, at random, but no more than `max`:
/// so that a thousand clients that lost their server do not come back all at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The shortest wait, at least 1 ms. Default: 100 ms.
    pub min: Duration,
    /// The longest wait, at least `min`. Default: 30 s.
    pub max: Duration,
    /// How much longer each wait may be than the one before, at least 1. Default: 2.
    pub factor: f64,
    /// Tries in a row that may fail, the first one included, before the attempt is given up; a connection that comes
    /// about ends the row. Default: 10.
    pub tries: Limit<u32>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            min: Duration::from_millis(100),
            max: Duration::from_secs(30),
            factor: 2.0,
            tries: Limit::At(10),
        }
    }
}

impl Backoff {
    /// The wait after so many tries in a row that failed, by a random number.
    pub(crate) fn wait(&self, failed: u32, random: u64) -> Duration {
        let (min, max) = (self.min.as_secs_f64(), self.max.as_secs_f64());
        let exponent = i32::try_from(failed.max(1)).unwrap_or(i32::MAX);
        let most = (min * self.factor.powi(exponent)).clamp(min, max);
        let share = (random >> 11) as f64 / (1u64 << 53) as f64;
        Duration::try_from_secs_f64(min + (most - min) * share)
            .map_or(self.max, |d| d.clamp(self.min, self.max))
    }

    /// Whether so many failures in a row are too many.
    pub(crate) fn is_over(&self, failed: u32) -> bool {
        matches!(self.tries, Limit::At(most) if failed >= most)
    }

    fn check(&self) -> Result<(), Problem> {
        let refuse = |what: String| Err(Problem::Option("policy for trying again", what));
        if self.min < Duration::from_millis(1) {
            return refuse(format!("must wait at least 1ms, not {:?} (min)", self.min));
        }
        if self.max < self.min {
            return refuse(format!(
                "must have a max of at least its min: {:?} is less than {:?}",
                self.max, self.min
            ));
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
        /// How long one try may take, with the lookup and for all addresses together. Default:
        /// [`Limits::connect_timeout`](crate::Limits::connect_timeout). Zero is refused.
        timeout(timeout: impl Into<Limit<Duration>>) = Some(timeout.into());

        /// Connects from this address of ours; port 0 lets the system choose. Default: what the system chooses.
        local(address: SocketAddr) = Some(address);

        /// Whether small writes are sent at once (`TCP_NODELAY`). Default: yes.
        nodelay(on: bool) = on;

        /// How the kernel probes a silent TCP peer; `None`: not at all. Default: [`Keepalive::default`].
        keepalive(keepalive: Option<Keepalive>) = keepalive;

        /// The kernel's receive buffer, in bytes. Default: what the system chooses. Zero is refused.
        receive_buffer(bytes: usize) = Some(bytes);

        /// The kernel's send buffer, in bytes. Default: what the system chooses. Zero is refused.
        send_buffer(bytes: usize) = Some(bytes);

        /// Tries again when connecting fails. [`on_connect_failed`](crate::Handler::on_connect_failed) is called when
        /// the last try has failed. Default: one try.
        retry(policy: Backoff) = Some(policy);
    }

    /// Tries again when connecting fails, and connects anew, with the same tag, when the connection has ended: unless
    /// the handler closed or aborted it by itself (and not in answer to the peer's end), or the reactor shuts down.
    /// Each connection has its `on_open` and its `on_close`. The waits begin with the shortest again after a connection
    /// that lasted longer than the longest of them. To go on for ever, say [`tries: Limit::Unlimited`](Backoff::tries).
    pub fn reconnect(mut self, policy: Backoff) -> Self {
        self.options.retry = Some(policy);
        self.options.anew = true;
        self
    }

    /// What to connect to and how, once both have been checked.
    pub(crate) fn into_parts(self) -> Result<(Target, ConnectOptions), AddressError> {
        let target = self.target?;
        let about = || target.to_string();
        if let Target::Endpoint(endpoint) = &target {
            endpoint.check().map_err(|problem| AddressError { about: about(), problem })?;
        }
        let problem = match self.options.check(&target) {
            Ok(()) => return Ok((target, self.options)),
            Err(problem) => problem,
        };
        Err(AddressError { about: format!("cannot connect to {target}"), problem })
    }

    /// The same, if it can be used.
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
    /// Takes over a stream that is connected already.
    fn from(stream: std::net::TcpStream) -> Self {
        Self::with(Ok(Target::Existing(Existing::Tcp(stream))))
    }
}

#[cfg(unix)]
impl From<std::os::unix::net::UnixStream> for Connect {
    /// Takes over a stream that is connected already.
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

/// How to connect. See [`Connect`] for what each means.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ConnectOptions {
    pub(crate) timeout: Option<Limit<Duration>>,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) nodelay: bool,
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) receive_buffer: Option<usize>,
    pub(crate) send_buffer: Option<usize>,
    pub(crate) retry: Option<Backoff>,
    /// Connect anew after the end of a connection.
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
        if let Some(keepalive) = &self.keepalive {
            keepalive.check()?;
        }
        let fits = match target {
            Target::Endpoint(Endpoint::Unix(_)) | Target::Address(Address::Unix(_)) => self.local.is_none(),
            Target::Address(Address::Tcp(to)) => {
                self.local.is_none_or(|local| local.is_ipv4() == to.is_ipv4())
            }
            Target::Endpoint(_) | Target::Existing(_) => true,
        };
        if !fits {
            return Err(Problem::Option("local address", "must be of the same kind".to_owned()));
        }
        if let Target::Address(Address::Unix(None)) = target {
            return Err(Problem::Option("path", "is missing".to_owned()));
        }
        if self.retry.is_some() && matches!(target, Target::Existing(_)) {
            let what = "cannot be obeyed: what is existing can be taken over once";
            return Err(Problem::Option("policy for trying again", what.to_owned()));
        }
        self.retry.map_or(Ok(()), |policy| policy.check())
    }
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
