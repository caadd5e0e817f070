//! Addresses in text form: `127.0.0.1:7000`, `[::1]:7000`, `localhost:7000`, `unix:/run/app.sock`.
//!
//! These are values: nothing here opens a socket, resolves a name or touches a file.
//!
//! Invariant: [`Display`](fmt::Display) writes an endpoint so that [`FromStr`] parses it back to an equal one.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// An address in text form: a host and a port, or the path of a Unix socket.
///
/// ```
/// use turnwheel::Endpoint;
///
/// let here: Endpoint = "[::1]:7000".parse()?;
/// assert_eq!(here, Endpoint::Tcp { host: "::1".into(), port: 7000 });
/// assert_eq!(here.to_string(), "[::1]:7000");
///
/// let error = "::1:7000".parse::<Endpoint>().unwrap_err();
/// assert!(error.to_string().contains("brackets"));
/// # Ok::<(), turnwheel::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// `host:port`. The host is a name, an IPv4 address, or an IPv6 address (stored without brackets). An address of a
    /// link has a zone, the index or on Unix the name of an interface: `[fe80::1%eth0]:7000`. With port 0 the system
    /// chooses a port.
    Tcp {
        /// A host name or an IP address.
        host: String,
        /// The port.
        port: u16,
    },
    /// `unix:path`. The path is absolute, or relative to the working directory when it is used.
    Unix(PathBuf),
}

impl Endpoint {
    /// The longest path of a Unix socket in bytes: the size of `sun_path` (108 on Linux, 104 on macOS and the BSDs)
    /// less the terminating zero byte.
    const UNIX_PATH_MAX: usize = if cfg!(any(target_os = "linux", target_os = "android")) { 107 } else { 103 };

    /// Checks an endpoint, whether it was parsed or built by hand.
    pub(crate) fn check(&self) -> Result<(), Problem> {
        match self {
            Self::Tcp { host, .. } if host.contains(':') => check_ipv6(host),
            Self::Tcp { host, .. } => check_host(host),
            Self::Unix(path) => check_path(path),
        }
    }

    /// As [`check`](Self::check), with an error that names the endpoint.
    pub(crate) fn validate(&self) -> Result<(), AddressError> {
        self.check().map_err(|problem| AddressError { about: self.to_string(), problem })
    }
}

impl FromStr for Endpoint {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let parsed = match text.strip_prefix("unix:") {
            Some(path) => Ok(Self::Unix(PathBuf::from(path))),
            None => split_port(text).map(|(host, port)| Self::Tcp { host: host.to_owned(), port }),
        };
        parsed
            .and_then(|endpoint| endpoint.check().map(|()| endpoint))
            .map_err(|problem| AddressError { about: text.to_owned(), problem })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Splits `host:port` and removes the brackets of an IPv6 address.
fn split_port(text: &str) -> Result<(&str, u16), Problem> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or(Problem::NotIpv6)?;
        if host.is_empty() {
            return Err(Problem::EmptyHost);
        }
        check_ipv6(host)?;
        (host, after.strip_prefix(':').ok_or(Problem::NoPort)?)
    } else {
        if let Some(c) = text.chars().find(|&c| !is_host_char(c) && c != ':') {
            return Err(Problem::HostChar(c));
        }
        match text.split_once(':') {
            None if text.is_empty() => return Err(Problem::EmptyHost),
            None if text.bytes().all(|b| b.is_ascii_digit()) => return Err(Problem::PortAlone),
            None => return Err(Problem::NoPort),
            Some((_, port)) if port.contains(':') => return Err(Problem::BareIpv6),
            Some(parts) => parts,
        }
    };
    if port.is_empty() {
        return Err(Problem::NoPort);
    }
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Problem::PortNotANumber);
    }
    port.parse().map(|port| (host, port)).map_err(|_| Problem::PortTooLarge)
}

/// Checks an IPv6 address, which may have a zone.
fn check_ipv6(host: &str) -> Result<(), Problem> {
    let valid = host.contains(':') && literal(host, 0).is_some() || scoped_literal(host).is_some();
    valid.then_some(()).ok_or(Problem::NotIpv6)
}

/// Returns the address if `host` is an IP address and not a name.
pub(crate) fn literal(host: &str, port: u16) -> Option<SocketAddr> {
    // `SocketAddrV6` also parses a numeric zone, as in `fe80::1%2`; `Ipv6Addr` does not.
    let plain = host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port));
    plain.or_else(|| format!("[{host}]:{port}").parse::<SocketAddrV6>().ok().map(SocketAddr::V6))
}

/// Splits an IPv6 address from the name of an interface, as in `fe80::1%eth0` (RFC 4007, section 11).
pub(crate) fn scoped_literal(host: &str) -> Option<(Ipv6Addr, &str)> {
    let (ip, zone) = host.split_once('%')?;
    let valid = !zone.is_empty() && zone.chars().all(|c| c.is_ascii_alphanumeric() || "-._~".contains(c));
    Some((ip.parse().ok().filter(|_| valid)?, zone))
}

/// Returns whether `c` may be part of a host name. Letters of any script are allowed; the resolver decides which names
/// are valid.
fn is_host_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '.' | '_')
}

/// Checks a host name. A name whose last label is a number can only be an IPv4 address, and resolvers disagree about
/// unusual forms such as `127.1`, so only the dotted-quad form is accepted.
fn check_host(host: &str) -> Result<(), Problem> {
    if host.is_empty() {
        return Err(Problem::EmptyHost);
    }
    if let Some(c) = host.chars().find(|&c| !is_host_char(c)) {
        return Err(Problem::HostChar(c));
    }
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or("");
    if last.bytes().all(|b| b.is_ascii_digit()) && host.parse::<Ipv4Addr>().is_err() {
        return Err(Problem::NotIpv4);
    }
    Ok(())
}

fn check_path(path: &Path) -> Result<(), Problem> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if !cfg!(unix) {
        Err(Problem::NoUnixHere)
    } else if bytes.is_empty() {
        Err(Problem::EmptyPath)
    } else if bytes[0] == b'@' {
        Err(Problem::AbstractPath)
    } else if bytes.contains(&0) {
        Err(Problem::NulInPath)
    } else if bytes.len() > Endpoint::UNIX_PATH_MAX {
        Err(Problem::PathTooLong(bytes.len()))
    } else {
        Ok(())
    }
}

/// An invalid address, or an invalid option given with one. The text names the error and what is accepted.
#[derive(Clone, PartialEq, Eq)]
pub struct AddressError {
    pub(crate) about: String,
    pub(crate) problem: Problem,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Problem::Option(..) = &self.problem {
            return write!(f, "{}: {}", self.about, self.problem);
        }
        write!(f, "{:?} is not a valid address: {}; ", self.about, self.problem)?;
        f.write_str("accepted: 127.0.0.1:7000, [::1]:7000, localhost:7000")?;
        f.write_str(if cfg!(unix) { " and unix:/path" } else { "" })
    }
}

/// Writes the same text as `Display`: `main` prints an error that it returns with `Debug`.
impl fmt::Debug for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for AddressError {}

impl From<AddressError> for io::Error {
    fn from(error: AddressError) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    EmptyHost,
    HostChar(char),
    NotIpv4,
    NotIpv6,
    BareIpv6,
    NoPort,
    PortAlone,
    PortNotANumber,
    PortTooLarge,
    EmptyPath,
    AbstractPath,
    NulInPath,
    PathTooLong(usize),
    NoUnixHere,
    /// The name of an option, and what it must be.
    Option(&'static str, String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyHost => f.write_str("the host is empty (use 0.0.0.0 or [::] for all interfaces)"),
            Self::HostChar(c) => write!(f, "{c:?} cannot be part of a host name"),
            Self::NotIpv4 => f.write_str("the host looks like an IPv4 address but is not a valid one"),
            Self::NotIpv6 => f.write_str("brackets must enclose a valid IPv6 address, as in [::1]:7000"),
            Self::BareIpv6 => f.write_str("more than one colon; put an IPv6 address in brackets, as in [::1]:7000"),
            Self::NoPort => f.write_str("the port is missing"),
            Self::PortAlone => f.write_str("the host before the port is missing"),
            Self::PortNotANumber => f.write_str("the port is not a number"),
            Self::PortTooLarge => f.write_str("the port is out of range (0 to 65535)"),
            Self::EmptyPath => f.write_str("the path of the Unix socket is empty"),
            Self::AbstractPath => f.write_str(
                "abstract Unix sockets are not supported (write a file name that begins with @ as unix:./@name)",
            ),
            Self::NulInPath => f.write_str("the path contains a zero byte"),
            Self::PathTooLong(n) => {
                let max = Endpoint::UNIX_PATH_MAX;
                write!(f, "the path of the Unix socket has {n} bytes; at most {max} are allowed")
            }
            Self::NoUnixHere => f.write_str("Unix sockets are not available on this system"),
            Self::Option(name, what) => write!(f, "the {name} {what}"),
        }
    }
}

/// The address of a socket: a listener, a datagram socket or a peer.
///
/// ```
/// use turnwheel::Address;
///
/// let peer = Address::Tcp("127.0.0.1:7000".parse()?);
/// assert_eq!(peer.to_string(), "127.0.0.1:7000");
/// assert_eq!(Address::Unix(None).to_string(), "unix:(unnamed)");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// The path of a Unix socket; `None` if it is not bound to one, as is usual for clients.
    Unix(Option<PathBuf>),
}

impl Address {
    /// Returns the IP address and port; `None` for a Unix socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Returns whether a socket that is bound to this address may be reached from other machines.
    pub(crate) fn is_exposed(&self) -> bool {
        self.tcp().is_some_and(|address| !address.ip().to_canonical().is_loopback())
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<&Self> for Address {
    fn from(address: &Self) -> Self {
        address.clone()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(None) => f.write_str("unix:(unnamed)"),
            Self::Unix(Some(path)) => {
                // The peer chooses its own path. Control characters are escaped so that it cannot forge log lines.
                f.write_str("unix:")?;
                path.to_string_lossy().chars().try_for_each(|c| match c.is_control() {
                    true => write!(f, "{}", c.escape_default()),
                    false => write!(f, "{c}"),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn every_form_is_read_and_written_back() {
        let forms = [
            ("127.0.0.1:7000", tcp("127.0.0.1", 7000)),
            ("0.0.0.0:0", tcp("0.0.0.0", 0)),
            ("[::1]:7000", tcp("::1", 7000)),
            ("[::]:65535", tcp("::", 65535)),
            ("[fe80::1%2]:80", tcp("fe80::1%2", 80)),
            ("[fe80::1%eth0.100]:80", tcp("fe80::1%eth0.100", 80)),
            ("localhost:7000", tcp("localhost", 7000)),
            ("my_host-1.example.org.:7000", tcp("my_host-1.example.org.", 7000)),
            ("bücher.example:80", tcp("bücher.example", 80)),
            ("1host:80", tcp("1host", 80)),
            #[cfg(unix)]
            ("unix:80", Endpoint::Unix("80".into())),
            #[cfg(unix)]
            ("unix:/run/app.sock", Endpoint::Unix("/run/app.sock".into())),
            #[cfg(unix)]
            ("unix:relative", Endpoint::Unix("relative".into())),
            #[cfg(unix)]
            ("unix:./@name: [x]", Endpoint::Unix("./@name: [x]".into())),
        ];
        for (text, endpoint) in forms {
            assert_eq!(text.parse(), Ok(endpoint.clone()), "{text}");
            assert_eq!(endpoint.to_string(), text);
        }
        assert_eq!("localhost:0007".parse(), Ok(tcp("localhost", 7)));
    }

    #[test]
    fn every_error_says_what_is_wrong_and_what_is_accepted() {
        let long = format!("unix:/{}", "x".repeat(Endpoint::UNIX_PATH_MAX));
        let errors = [
            ("", "the host is empty"),
            (":7000", "the host is empty"),
            ("[]:7000", "the host is empty"),
            ("localhost", "the port is missing"),
            ("localhost:", "the port is missing"),
            ("7000", "the host before the port is missing"),
            ("7000a", "the port is missing"),
            ("[::1]", "the port is missing"),
            ("[::1]:", "the port is missing"),
            ("[::1]7000", "the port is missing"),
            ("localhost:http", "the port is not a number"),
            ("localhost:-1", "the port is not a number"),
            ("[::1]:+80", "the port is not a number"),
            ("localhost:65536", "the port is out of range"),
            ("localhost:99999999999999999999", "the port is out of range"),
            ("::1:7000", "put an IPv6 address in brackets"),
            ("::1", "put an IPv6 address in brackets"),
            ("a:b:80", "put an IPv6 address in brackets"),
            ("[localhost]:80", "brackets must enclose a valid IPv6 address"),
            ("[127.0.0.1]:80", "brackets must enclose a valid IPv6 address"),
            ("[fe80::1%]:80", "brackets must enclose a valid IPv6 address"),
            ("[fe80::1%a b]:80", "brackets must enclose a valid IPv6 address"),
            ("[fe80%eth0]:80", "brackets must enclose a valid IPv6 address"),
            ("[::1", "brackets must enclose a valid IPv6 address"),
            ("[::1]]:80", "the port is missing"),
            ("300.0.0.1:80", "looks like an IPv4 address but is not a valid one"),
            ("127.1:80", "looks like an IPv4 address but is not a valid one"),
            ("80:80", "looks like an IPv4 address but is not a valid one"),
            ("http://localhost:80", "'/' cannot be part"),
            (" localhost:80", "' ' cannot be part"),
            ("local\nhost:80", "'\\n' cannot be part"),
            ("user@host:80", "'@' cannot be part"),
            #[cfg(unix)]
            ("unix:", "the path of the Unix socket is empty"),
            #[cfg(unix)]
            ("unix:@name", "abstract Unix sockets are not supported"),
            #[cfg(unix)]
            ("unix:/a\0b", "a zero byte"),
            #[cfg(unix)]
            (long.as_str(), "bytes; at most"),
            #[cfg(not(unix))]
            ("unix:/run/app.sock", "not available on this system"),
        ];
        for (text, says) in errors {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {error}");
            assert!(error.contains("accepted: 127.0.0.1:7000, [::1]:7000, localhost:7000"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_longest_path_is_accepted() {
        let longest = format!("unix:{}", "x".repeat(Endpoint::UNIX_PATH_MAX));
        assert!(longest.parse::<Endpoint>().is_ok());
    }

    #[test]
    fn all_but_loopback_and_unix_sockets_are_exposed() {
        let exposed = |address: &str| Address::Tcp(address.parse().unwrap()).is_exposed();
        for address in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[2001:db8::1]:1", "[::ffff:0.0.0.0]:1"] {
            assert!(exposed(address), "{address}");
        }
        for address in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(!exposed(address), "{address}");
        }
        assert!(!Address::Unix(None).is_exposed());
    }

    #[test]
    fn addresses_are_shown_as_they_are_written() {
        let shown = |address: &str| Address::Tcp(address.parse().unwrap()).to_string();
        assert_eq!(shown("127.0.0.1:7000"), "127.0.0.1:7000");
        assert_eq!(shown("[::1]:7000"), "[::1]:7000");
        assert_eq!(Address::Unix(None).to_string(), "unix:(unnamed)");
        assert_eq!(Address::Unix(Some("/run/app.sock".into())).to_string(), "unix:/run/app.sock");
        assert_eq!(Address::Unix(Some("/a\nb\u{1b}[2J".into())).to_string(), "unix:/a\\nb\\u{1b}[2J");
        assert_eq!(Address::Unix(None).tcp(), None);
    }
}
