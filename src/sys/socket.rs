//! Creates and configures listening sockets, and sets the options of accepted streams.
//!
//! Does not poll, accept, read or write. Unix sockets are in `unix_socket`.
//!
//! Invariant: a listener does not block, and its error messages name the address and the operation.

use std::fmt::Display;
use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::config::listen::{Keepalive, ListenOptions};

/// On Linux, accepted TCP sockets inherit the options of their listener (TCP_NODELAY, keepalive), which saves system
/// calls per connection.
pub(super) const INHERITS: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// Opens a TCP listener.
pub(super) fn open_tcp(address: SocketAddr, options: &ListenOptions) -> io::Result<TcpListener> {
    warn_of_backlog(options.backlog);
    tcp(address, options).map_err(|error| cannot_listen(&address, &error))
}

fn tcp(address: SocketAddr, options: &ListenOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // So that a restart can bind while old connections are in TIME_WAIT. Not on Windows, where the option would let
    // another process take over the port.
    if cfg!(unix) {
        socket.set_reuse_address(true)?;
    }
    if options.reuse_port {
        reuse_port(&socket)?;
    }
    set_v6_only(&socket, address, options.v6_only)?;
    // Before listening: the receive buffer limits the window scale, which is negotiated in the handshake (tcp(7)).
    set_buffers(&SockRef::from(&socket), options.receive_buffer, options.send_buffer)?;
    set_tcp_options(SockRef::from(&socket), options.nodelay, options.keepalive)?;
    socket.bind(&address.into())?;
    socket.listen(backlog(options))?;
    Ok(socket.into())
}

/// Sets whether a socket for an IPv6 address excludes IPv4. Some systems (OpenBSD) have no dual-stack sockets and
/// refuse to clear `IPV6_V6ONLY`: then the socket takes IPv6 only.
pub(super) fn set_v6_only(socket: &Socket, address: SocketAddr, only: bool) -> io::Result<()> {
    if !address.is_ipv6() {
        return Ok(());
    }
    match socket.set_only_v6(only) {
        Err(error) if !only => {
            log::debug!("{address}: cannot clear IPV6_V6ONLY; IPv6 only: {error}");
            Ok(())
        }
        done => done,
    }
}

#[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))))]
pub(super) fn reuse_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

#[cfg(not(all(unix, not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin")))))]
pub(super) fn reuse_port(_: &Socket) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no SO_REUSEPORT"))
}

pub(super) fn backlog(options: &ListenOptions) -> i32 {
    i32::try_from(options.backlog).unwrap_or(i32::MAX)
}

/// Warns if the kernel will silently truncate the backlog to somaxconn (listen(2)). A client that finds the backlog
/// full waits a second for its next SYN.
pub(super) fn warn_of_backlog(backlog: u32) {
    if !cfg!(any(target_os = "linux", target_os = "android")) {
        return;
    }
    let Ok(text) = std::fs::read_to_string("/proc/sys/net/core/somaxconn") else { return };
    if let Ok(most) = text.trim().parse::<u32>()
        && backlog > most
    {
        log::warn!("the backlog of {backlog} is limited to {most} by net.core.somaxconn");
    }
}

/// Refuses an adopted socket that is not listening, where the system can tell (SO_ACCEPTCONN). Otherwise only the
/// first accept would fail.
pub(super) fn require_listening(socket: SockRef<'_>) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    if !socket.is_listener()? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket is not listening"));
    }
    let _ = socket;
    Ok(())
}

/// Sets the sizes of the kernel's buffers that are given.
pub(super) fn set_buffers(socket: &SockRef<'_>, receive: Option<usize>, send: Option<usize>) -> io::Result<()> {
    if let Some(bytes) = receive {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(bytes) = send {
        socket.set_send_buffer_size(bytes)?;
    }
    Ok(())
}

/// Sets the TCP options of a stream, or of a listener whose streams inherit them.
pub(super) fn set_tcp_options(socket: SockRef<'_>, nodelay: bool, keepalive: Option<Keepalive>) -> io::Result<()> {
    if nodelay {
        socket.set_tcp_nodelay(true)?;
    }
    match keepalive {
        Some(keepalive) => socket.set_tcp_keepalive(&tcp_keepalive(keepalive)),
        None => Ok(()),
    }
}

/// Only the idle time is portable; interval and retries are set where the system supports them.
fn tcp_keepalive(keepalive: Keepalive) -> TcpKeepalive {
    let probes = TcpKeepalive::new().with_time(keepalive.idle);
    #[cfg(any(
        target_os = "android",
        target_os = "dragonfly",
        target_os = "freebsd",
        target_os = "illumos",
        target_os = "linux",
        target_os = "macos",
        target_os = "ios",
        target_os = "netbsd",
        windows,
    ))]
    let probes = probes.with_interval(keepalive.interval).with_retries(keepalive.tries);
    probes
}

/// Returns an error of the same kind with a message of one line: "cannot listen on ADDRESS: reason".
pub(super) fn cannot_listen(at: &dyn Display, error: &io::Error) -> io::Error {
    cannot("listen on", at, error)
}

/// Like [`cannot_listen`], for any operation `what` at `at`.
pub(super) fn cannot(what: &str, at: &dyn Display, error: &io::Error) -> io::Error {
    let mut why = error.to_string();
    if error.raw_os_error().is_some()
        && let Some(first) = why.get_mut(..1)
    {
        first.make_ascii_lowercase();
    }
    io::Error::new(error.kind(), format!("cannot {what} {at}: {why}"))
}

/// Returns the index of a network interface, for the scope of an IPv6 address.
#[cfg(unix)]
pub(super) fn interface_index(name: &str) -> io::Result<u32> {
    nix::net::if_::if_nametoindex(name).map_err(io::Error::from)
}

#[cfg(not(unix))]
pub(super) fn interface_index(_name: &str) -> io::Result<u32> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system knows interfaces by their indices only"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_told_in_one_line() {
        let options = ListenOptions::default();
        let first = open_tcp("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let at = first.local_addr().unwrap();
        let error = open_tcp(at, &options).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let text = error.to_string();
        assert!(text.starts_with(&format!("cannot listen on {at}: ")), "{text}");
        if cfg!(target_os = "linux") {
            assert!(text.ends_with(": address already in use (os error 98)"), "{text}");
        }
    }

    #[test]
    fn an_address_that_is_not_ours_is_refused() {
        let error = open_tcp("192.0.2.1:0".parse().unwrap(), &ListenOptions::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        assert!(error.to_string().starts_with("cannot listen on 192.0.2.1:0: "), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_port_is_shared_only_where_both_say_so() {
        let shared = ListenOptions { reuse_port: true, ..ListenOptions::default() };
        let first = open_tcp("127.0.0.1:0".parse().unwrap(), &shared).unwrap();
        let at = first.local_addr().unwrap();
        assert!(open_tcp(at, &shared).is_ok());
        assert!(open_tcp(at, &ListenOptions::default()).is_err());
    }

    #[test]
    fn an_ipv6_wildcard_serves_ipv4_unless_told_not_to() {
        for v6_only in [false, true] {
            let options = ListenOptions { v6_only, ..ListenOptions::default() };
            let listener = match open_tcp("[::]:0".parse().unwrap(), &options) {
                Ok(listener) => listener,
                Err(error) => return println!("skipped: no IPv6 here: {error}"),
            };
            let at = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
            assert_eq!(std::net::TcpStream::connect(at).is_err(), v6_only);
        }
    }

    #[test]
    fn buffers_are_set_before_the_handshake() {
        let options =
            ListenOptions { receive_buffer: Some(20_000), send_buffer: Some(30_000), ..ListenOptions::default() };
        let listener = open_tcp("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        // Linux doubles the value it is given (socket(7)).
        assert!((20_000..=40_000).contains(&SockRef::from(&stream).recv_buffer_size().unwrap()));
        assert!((30_000..=60_000).contains(&SockRef::from(&stream).send_buffer_size().unwrap()));
    }

    /// With a backlog of 128, the 130th client would wait for its next SYN. 500 connections fit in the usual limit of
    /// 1,024 descriptors.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_backlog_holds_a_burst() {
        let listener = open_tcp("127.0.0.1:0".parse().unwrap(), &ListenOptions::default()).unwrap();
        let at = listener.local_addr().unwrap();
        let patience = std::time::Duration::from_millis(900);
        let clients: Vec<_> = (0..500).map(|_| std::net::TcpStream::connect_timeout(&at, patience).unwrap()).collect();
        assert_eq!((0..500).filter(|_| listener.accept().is_ok()).count(), clients.len());
    }
}
