//! Makes sockets that connect, and tells whether they have.
//!
//! It knows options and errors. It does not know the poll, and does not read or write. Invariant: what it gives out
//! does not block, raises no signal, and has the options that were asked for.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::socket::{set_buffers, set_tcp_options};
use crate::config::connect::ConnectOptions;

/// A TCP socket that has begun to connect.
pub(super) fn open_tcp(to: SocketAddr, options: &ConnectOptions) -> io::Result<std::net::TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    prepare(SockRef::from(&socket), options)?;
    set_tcp_options(SockRef::from(&socket), options.nodelay, options.keepalive)?;
    if let Some(local) = options.local {
        if local.is_ipv4() != to.is_ipv4() {
            let what = format!("the local address {local} is of another kind");
            return Err(io::Error::new(ErrorKind::InvalidInput, what));
        }
        // Else a fixed port could not be used again for a minute after its last connection.
        if cfg!(unix) && local.port() != 0 {
            socket.set_reuse_address(true)?;
        }
        let cannot =
            |e: io::Error| io::Error::new(e.kind(), format!("cannot use the local address {local}: {e}"));
        socket.bind(&local.into()).map_err(cannot)?;
    }
    begin(&socket, &to.into())?;
    Ok(socket.into())
}

/// A Unix socket that has connected: that is at once, or not at all.
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

/// Sets what all sockets have.
pub(super) fn prepare(socket: SockRef<'_>, options: &ConnectOptions) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    #[cfg(target_vendor = "apple")]
    socket.set_nosigpipe(true)?;
    set_buffers(&socket, options.receive_buffer, options.send_buffer)
}

/// Begins to connect. TCP is only begun, which some systems call an error; a signal in the middle ends nothing either.
fn begin(socket: &Socket, to: &socket2::SockAddr) -> io::Result<()> {
    let unix = to.domain() == Domain::UNIX;
    match socket.connect(to) {
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
        Err(error) if !unix && (error.kind() == ErrorKind::WouldBlock || is_in_progress(&error)) => Ok(()),
        other => other,
    }
}

/// EINPROGRESS, by the system's number.
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

/// Whether a TCP socket has connected, and to whom.
pub(super) fn finish_tcp(socket: SockRef<'_>) -> io::Result<SocketAddr> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    let peer = match socket.peer_addr() {
        Ok(peer) => peer,
        Err(error) if error.kind() == ErrorKind::NotConnected || is_in_progress(&error) => {
            return Err(ErrorKind::WouldBlock.into());
        }
        Err(error) => return Err(error),
    };
    let peer = peer.as_socket().ok_or(ErrorKind::AddrNotAvailable)?;
    // On one machine a socket whose own port is the one it wants meets itself, and would echo for ever.
    if socket.local_addr()?.as_socket() == Some(peer) {
        let what = "nobody listens there; it connected to itself";
        return Err(io::Error::new(ErrorKind::ConnectionRefused, what));
    }
    Ok(peer)
}
