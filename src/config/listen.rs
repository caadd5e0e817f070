//! What to listen on: an address or a socket that is already bound, with options.
//!
//! These are values: nothing here opens a socket. A listening socket passed in by the caller is not changed.
//!
//! Invariant: the options that [`Listen::into_parts`] returns are in range for every system call that takes them.

use std::fmt;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::PathBuf;
use std::time::Duration;

use crate::config::address::{AddressError, Endpoint, Problem};
use crate::config::builder::{BindTo, from_addresses, setters};

/// TCP keepalive: the kernel probes a silent peer, so that one that has vanished is detected. With the default values
/// this takes two minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// `TCP_KEEPIDLE`: silence before the first probe, in whole seconds (1 to 32 767). Default: 60 s (chosen).
    pub idle: Duration,
    /// `TCP_KEEPINTVL`: interval between unanswered probes, in whole seconds (1 to 32 767). Default: 20 s (chosen).
    pub interval: Duration,
    /// `TCP_KEEPCNT`: unanswered probes after which the connection is reset (1 to 127). Default: 3 (chosen).
    pub tries: u32,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { idle: Duration::from_secs(60), interval: Duration::from_secs(20), tries: 3 }
    }
}

/// What to listen on, with options.
///
/// It converts from anything that names an address: a string, a [`SocketAddr`], an [`Endpoint`], or a listening socket
/// that is already bound (passed in by a supervisor, for example). An invalid string is reported when the value is
/// used.
///
/// ```
/// use turnwheel::Listen;
///
/// let wide = Listen::new("[::]:7000").v6_only(true).backlog(1024);
/// let local = Listen::new("unix:/run/app.sock").unix_mode(0o660);
/// # let _ = (wide, local);
/// ```
///
/// The file of a Unix socket is created with its mode before any peer can connect. It replaces a stale socket file of
/// a server of the same user that no longer runs, and nothing else. It is removed when the listener is closed.
///
/// For a socket that is already bound only the options of its connections apply: [`nodelay`](Self::nodelay) and
/// [`keepalive`](Self::keepalive) for TCP, the buffer sizes for Unix sockets; and
/// [`reserve_connects`](Self::reserve_connects), which is the reactor's. If it has a socket file, the file is left
/// alone.
#[derive(Debug)]
pub struct Listen {
    to: Result<BindTo<ListenTarget>, AddressError>,
    options: ListenOptions,
}

impl Listen {
    /// Listens on `at` with the default options.
    pub fn new(at: impl Into<Self>) -> Self {
        at.into()
    }

    setters! {
        /// Sets the length of the accept queue (the backlog). Default: 4096, the default of Linux for `somaxconn`. The
        /// system may allow less (`somaxconn`), which is logged as a warning. Zero is rejected.
        backlog(connections: u32) = connections;

        /// Sets `SO_REUSEPORT`: several processes may listen on the same TCP port and share its connections. Default:
        /// off. On systems without it, listening fails with `Unsupported`.
        reuse_port(on: bool) = on;

        /// Sets `IPV6_V6ONLY`: an IPv6 listener rejects IPv4 peers. Default: off, so that `[::]:7000` serves both.
        v6_only(on: bool) = on;

        /// Sets `TCP_NODELAY`: small writes are sent at once. Default: on, because Nagle's algorithm and delayed ACKs
        /// together can hold back a small write for 40 ms.
        nodelay(on: bool) = on;

        /// Sets TCP keepalive; `None` switches it off. Default: [`Keepalive::default`].
        keepalive(keepalive: Option<Keepalive>) = keepalive;

        /// Sets the kernel's receive buffer of each connection, in bytes. Default: chosen by the system. Zero is
        /// rejected.
        receive_buffer(bytes: usize) = Some(bytes);

        /// Sets the kernel's send buffer of each connection, in bytes. Default: chosen by the system. Zero is
        /// rejected.
        send_buffer(bytes: usize) = Some(bytes);

        /// Sets the permissions of a Unix socket's file; connecting requires write permission. Default: `0o600`, the
        /// owner only.
        unix_mode(mode: u32) = mode;

        /// Reserves places among [`Limits::connections`](crate::Limits::connections) for the connections that the
        /// handler makes for each one it accepts. A proxy, which makes one for each client, reserves 1. Default: 0.
        ///
        /// The listener then accepts only whom the handler can serve: while `1 + connects` places are free, and as many
        /// [connect jobs](crate::Limits::attempts) and [lookups](crate::Limits::lookups); at
        /// [`AtCapacity::Pause`](crate::AtCapacity::Pause) the others wait in the backlog. So `worker_connections` of
        /// nginx counts, where a proxied client takes two. Descriptors are reserved likewise: if they run out, the
        /// listener accepts nobody for whom `connects` more are not left.
        ///
        /// An accepted connection keeps its reserve while it is open. What is requested in its callbacks takes a place
        /// from there, and returns it when it ends; elsewhere, [`Connect::on_behalf_of`](crate::Connect::on_behalf_of)
        /// names it. A listener that reserves more than the limits allow at all is rejected. During a shutdown nobody
        /// can connect any more, and such a listener accepts nobody.
        reserve_connects(connects: usize) = connects;
    }

    /// Returns what to open or take over and the options, after checking both.
    pub(crate) fn into_parts(self) -> Result<(BindTo<ListenTarget>, ListenOptions), AddressError> {
        let to = self.to?;
        to.check()?;
        self.options.check().map_err(|problem| AddressError { about: format!("options for {to}"), problem })?;
        Ok((to, self.options))
    }

    fn of_endpoint(endpoint: Result<Endpoint, AddressError>) -> Self {
        Self::with(endpoint.map(BindTo::Endpoint))
    }

    fn of_address(address: SocketAddr) -> Self {
        Self::with(Ok(BindTo::Socket(ListenTarget::Tcp(address))))
    }

    fn with(to: Result<BindTo<ListenTarget>, AddressError>) -> Self {
        Self { to, options: ListenOptions::default() }
    }
}

from_addresses!(Listen);

impl From<std::net::TcpListener> for Listen {
    fn from(listener: std::net::TcpListener) -> Self {
        Self::with(Ok(BindTo::Socket(ListenTarget::TcpListener(listener))))
    }
}

#[cfg(unix)]
impl From<std::os::unix::net::UnixListener> for Listen {
    fn from(listener: std::os::unix::net::UnixListener) -> Self {
        Self::with(Ok(BindTo::Socket(ListenTarget::UnixListener(listener))))
    }
}

/// One socket to open or to take over.
#[derive(Debug)]
pub(crate) enum ListenTarget {
    Tcp(SocketAddr),
    #[cfg(unix)]
    Unix(PathBuf),
    TcpListener(std::net::TcpListener),
    #[cfg(unix)]
    UnixListener(std::os::unix::net::UnixListener),
}

impl fmt::Display for ListenTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            #[cfg(unix)]
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::TcpListener(_) => f.write_str("the given TCP listener"),
            #[cfg(unix)]
            Self::UnixListener(_) => f.write_str("the given Unix listener"),
        }
    }
}

/// The options of a listener. See the setters of [`Listen`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenOptions {
    pub(crate) backlog: u32,
    pub(crate) reuse_port: bool,
    pub(crate) v6_only: bool,
    pub(crate) nodelay: bool,
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) receive_buffer: Option<usize>,
    pub(crate) send_buffer: Option<usize>,
    pub(crate) unix_mode: u32,
    pub(crate) reserve_connects: usize,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            backlog: 4096,
            reuse_port: false,
            v6_only: false,
            nodelay: true,
            keepalive: Some(Keepalive::default()),
            receive_buffer: None,
            send_buffer: None,
            unix_mode: 0o600,
            reserve_connects: 0,
        }
    }
}

impl ListenOptions {
    fn check(&self) -> Result<(), Problem> {
        not_zero("backlog", Some(self.backlog as usize))?;
        not_zero("receive buffer", self.receive_buffer)?;
        not_zero("send buffer", self.send_buffer)?;
        if self.unix_mode > 0o777 {
            return Err(Problem::Option("mode", format!("must be 0 to 0o777, not {:#o}", self.unix_mode)));
        }
        self.keepalive.map_or(Ok(()), |keepalive| keepalive.check())
    }
}

/// Rejects zero for an option that must be at least 1.
pub(crate) fn not_zero(name: &'static str, n: Option<usize>) -> Result<(), Problem> {
    match n {
        Some(0) => Err(Problem::Option(name, "must be at least 1".to_owned())),
        _ => Ok(()),
    }
}

impl Keepalive {
    /// Checks that every system accepts these values. The maxima are those of the Linux kernel (`MAX_TCP_KEEPIDLE`,
    /// `MAX_TCP_KEEPINTVL`, `MAX_TCP_KEEPCNT`).
    pub(crate) fn check(&self) -> Result<(), Problem> {
        let Self { idle, interval, tries } = *self;
        for (name, time) in [("keepalive's idle time", idle), ("keepalive's interval", interval)] {
            if !(1..=32_767).contains(&time.as_secs()) || time.subsec_nanos() != 0 {
                return Err(Problem::Option(name, format!("must be 1 to 32767 whole seconds, not {time:?}")));
            }
        }
        if !(1..=127).contains(&tries) {
            return Err(Problem::Option("keepalive's number of tries", format!("must be 1 to 127, not {tries}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn a_host_and_a_port_need_not_be_written_as_one() {
        let endpoint = |listen: Listen| listen.into_parts().unwrap().0.to_string();
        assert_eq!(endpoint(("127.0.0.1", 7000).into()), "127.0.0.1:7000");
        assert_eq!(endpoint(("::1", 7000).into()), "[::1]:7000");
        let ip = std::net::IpAddr::from([127, 0, 0, 1]);
        assert_eq!(endpoint((ip, 7).into()), "127.0.0.1:7");
    }

    #[test]
    fn a_bad_address_is_told_when_it_is_used() {
        let error = Listen::new("localhost").backlog(5).into_parts().unwrap_err();
        assert!(error.to_string().starts_with("\"localhost\" is not a valid address: the port is missing;"));
        let by_hand = Listen::from(tcp("a b", 1)).into_parts().unwrap_err();
        assert!(by_hand.to_string().contains("' ' cannot be part"), "{by_hand}");
        assert!(Listen::from(tcp("1:2", 1)).into_parts().is_err());
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        let secs = Duration::from_secs;
        let refused = [
            (Listen::new("[::1]:7000").backlog(0), "options for [::1]:7000: the backlog must be at least 1"),
            (Listen::new("h:1").receive_buffer(0), "the receive buffer must be at least 1"),
            (Listen::new("h:1").send_buffer(0), "the send buffer must be at least 1"),
            (Listen::new("h:1").unix_mode(0o1777), "the mode must be 0 to 0o777, not 0o1777"),
            (
                Listen::new("h:1").keepalive(Some(Keepalive { idle: secs(0), ..Keepalive::default() })),
                "the keepalive's idle time must be 1 to 32767 whole seconds, not 0ns",
            ),
            (
                Listen::new("h:1").keepalive(Some(Keepalive { interval: secs(40_000), ..Keepalive::default() })),
                "the keepalive's interval must be",
            ),
            (
                Listen::new("h:1").keepalive(Some(Keepalive { tries: 0, ..Keepalive::default() })),
                "number of tries must be",
            ),
        ];
        for (listen, says) in refused {
            let error = listen.into_parts().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn options_are_kept_and_have_defaults() {
        let (_, plain) = Listen::new("h:1").into_parts().unwrap();
        // The documented ones.
        let defaults = ListenOptions {
            backlog: 4096,
            reuse_port: false,
            v6_only: false,
            nodelay: true,
            keepalive: Some(Keepalive::default()),
            receive_buffer: None,
            send_buffer: None,
            unix_mode: 0o600,
            reserve_connects: 0,
        };
        assert_eq!(plain, defaults);
        let (to, options) = Listen::new("h:1".to_owned())
            .backlog(7)
            .reuse_port(true)
            .v6_only(true)
            .nodelay(false)
            .keepalive(None)
            .receive_buffer(1)
            .send_buffer(2)
            .unix_mode(0o660)
            .reserve_connects(1)
            .into_parts()
            .unwrap();
        let expected = Endpoint::Tcp { host: "h".into(), port: 1 };
        assert!(matches!(to, BindTo::Endpoint(endpoint) if endpoint == expected));
        let wanted = ListenOptions {
            backlog: 7,
            reuse_port: true,
            v6_only: true,
            nodelay: false,
            keepalive: None,
            receive_buffer: Some(1),
            send_buffer: Some(2),
            unix_mode: 0o660,
            reserve_connects: 1,
        };
        assert_eq!(options, wanted);
    }
}
