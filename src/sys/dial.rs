//! Creates connecting sockets, and checks whether they have connected.
//!
//! Does not poll, read or write. Invariant: the sockets are non-blocking, do not raise SIGPIPE, and have the options
//! that were configured.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::socket::{set_buffers, set_tcp_options};
use crate::config::connect::ConnectOptions;

/// Returns a TCP socket that has begun to connect.
pub(super) fn open_tcp(to: SocketAddr, options: &ConnectOptions) -> io::Result<std::net::TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    // Before connecting: later the buffer sizes would not take effect (tcp(7)).
    prepare(SockRef::from(&socket), options)?;
    set_tcp_options(SockRef::from(&socket), options.nodelay, options.keepalive)?;
    if let Some(local) = options.local {
        if local.is_ipv4() != to.is_ipv4() {
            let what = format!("the local address {local} is of the wrong family");
            return Err(io::Error::new(ErrorKind::InvalidInput, what));
        }
        // Otherwise a fixed local port could not be reused for a minute after its last connection (TIME_WAIT).
        if cfg!(unix) && local.port() != 0 {
            socket.set_reuse_address(true)?;
        }
        let cannot = |e: io::Error| io::Error::new(e.kind(), format!("cannot use the local address {local}: {e}"));
        socket.bind(&local.into()).map_err(cannot)?;
    }
    begin(&socket, &to.into())?;
    Ok(socket.into())
}

/// Returns a connected Unix socket: connecting succeeds or fails at once.
#[cfg(unix)]
pub(super) fn open_unix(
    path: &std::path::Path,
    options: &ConnectOptions,
) -> io::Result<std::os::unix::net::UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    prepare(SockRef::from(&socket), options)?;
    begin(&socket, &socket2::SockAddr::unix(path)?)?;
    Ok(socket.into())
}

/// Sets the options common to all sockets.
pub(super) fn prepare(socket: SockRef<'_>, options: &ConnectOptions) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    #[cfg(target_vendor = "apple")]
    socket.set_nosigpipe(true)?;
    set_buffers(&socket, options.receive_buffer, options.send_buffer)
}

/// Begins to connect. For TCP, EINPROGRESS (EWOULDBLOCK on Windows) means that it has begun; EINTR does not abort it
/// either (connect(2)).
fn begin(socket: &Socket, to: &socket2::SockAddr) -> io::Result<()> {
    let unix = to.domain() == Domain::UNIX;
    match socket.connect(to) {
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
        Err(error) if !unix && (error.kind() == ErrorKind::WouldBlock || is_in_progress(&error)) => Ok(()),
        other => other,
    }
}

/// Returns `true` for EINPROGRESS. `std` has no stable `ErrorKind` for it, so the system's number is compared: from
/// errno.h on Unix, `WSAEINPROGRESS` is 10036 on Windows.
fn is_in_progress(error: &io::Error) -> bool {
    let number = if cfg!(any(target_os = "linux", target_os = "android")) {
        115
    } else if cfg!(windows) {
        10036
    } else if cfg!(any(target_os = "illumos", target_os = "solaris")) {
        150
    } else {
        36
    };
    error.raw_os_error() == Some(number)
}

/// Returns the peer's address if a TCP socket has connected, `WouldBlock` while it has not, or the error of the
/// connection attempt (SO_ERROR).
pub(super) fn finish_tcp(socket: SockRef<'_>) -> io::Result<SocketAddr> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    // No error does not mean connected: only getpeername(2) tells a spurious event from success.
    let peer = match socket.peer_addr() {
        Ok(peer) => peer,
        Err(error) if error.kind() == ErrorKind::NotConnected || is_in_progress(&error) => {
            return Err(ErrorKind::WouldBlock.into());
        }
        Err(error) => return Err(error),
    };
    let peer = peer.as_socket().ok_or(ErrorKind::AddrNotAvailable)?;
    // TCP simultaneous open: a socket connecting to a local port that nothing listens on may get that very port as
    // its own, and connects to itself. It would echo everything back.
    if socket.local_addr()?.as_socket() == Some(peer) {
        let what = "nothing listens there: the socket connected to itself";
        return Err(io::Error::new(ErrorKind::ConnectionRefused, what));
    }
    Ok(peer)
}
