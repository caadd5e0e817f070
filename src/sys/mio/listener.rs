//! Listeners on mio, and the options of the streams that they accept.
//!
//! Does not register or accept. Invariant: a listener does not block, and its streams have the options of its
//! [`Listen`].
//!
//! [`Listen`]: crate::Listen

use std::io;

use socket2::SockRef;

use crate::config::listen::ListenOptions;
use crate::sys::socket;
#[cfg(unix)]
use crate::sys::unix_socket;

/// A listening socket, with the options of the streams that it accepts.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Declared first, so that it is dropped before the socket: see [`unix_socket::OwnFile`].
    #[cfg(unix)]
    pub(super) file: Option<unix_socket::OwnFile>,
    pub(super) socket: Listening,
    options: ListenOptions,
}

#[derive(Debug)]
pub(super) enum Listening {
    Tcp(::mio::net::TcpListener),
    #[cfg(unix)]
    Unix(::mio::net::UnixListener),
}

impl Listener {
    pub(super) fn tcp(listener: std::net::TcpListener, options: &ListenOptions) -> Self {
        Self {
            #[cfg(unix)]
            file: None,
            socket: Listening::Tcp(::mio::net::TcpListener::from_std(listener)),
            options: options.clone(),
        }
    }

    #[cfg(unix)]
    pub(super) fn unix(
        listener: std::os::unix::net::UnixListener,
        file: Option<unix_socket::OwnFile>,
        options: &ListenOptions,
    ) -> Self {
        let socket = Listening::Unix(::mio::net::UnixListener::from_std(listener));
        Self { file, socket, options: options.clone() }
    }

    /// Takes over a TCP listener that is already bound.
    pub(super) fn adopt_tcp(listener: std::net::TcpListener, options: &ListenOptions) -> io::Result<Self> {
        socket::require_listening(SockRef::from(&listener))?;
        listener.set_nonblocking(true)?;
        if socket::INHERITS {
            socket::set_tcp_options(SockRef::from(&listener), options.nodelay, options.keepalive)?;
        }
        Ok(Self::tcp(listener, options))
    }

    /// Sets the options that an accepted TCP stream does not inherit from its listener. A failure (the peer may have
    /// closed already) is only logged, because the stream works without them.
    pub(super) fn tune_tcp(&self, stream: &::mio::net::TcpStream) {
        #[cfg(target_vendor = "apple")]
        if let Err(error) = SockRef::from(stream).set_nosigpipe(true) {
            log::debug!("cannot set SO_NOSIGPIPE: {error}");
        }
        if socket::INHERITS {
            return;
        }
        let ListenOptions { nodelay, keepalive, .. } = self.options;
        if let Err(error) = socket::set_tcp_options(SockRef::from(stream), nodelay, keepalive) {
            log::debug!("cannot set the socket options of a connection: {error}");
        }
    }

    #[cfg(unix)]
    pub(super) fn tune_unix(&self, stream: SockRef<'_>) {
        #[cfg(target_vendor = "apple")]
        if let Err(error) = stream.set_nosigpipe(true) {
            log::debug!("cannot set SO_NOSIGPIPE: {error}");
        }
        let ListenOptions { receive_buffer, send_buffer, .. } = self.options;
        if let Err(error) = socket::set_buffers(&stream, receive_buffer, send_buffer) {
            log::debug!("cannot set the buffer sizes of a connection: {error}");
        }
    }
}
