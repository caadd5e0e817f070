//! The system interface: the trait [`Sys`], the seam through which every outside effect goes.
//!
//! The event loop is generic over [`Sys`], by static dispatch. [`mio`] is the real implementation; [`script`] and
//! [`sim`] replace it in tests. Modules above this one do not name a socket type, read a clock or make a system call.
//! A stream is an opaque type to the loop, so an encrypted stream could take its place.
//!
//! Invariant: readiness is a hint. Whatever [`Sys::poll`] reports may be late, merged, duplicated, reordered, stale
//! or spurious; only the result of a call on the socket itself is reliable. In return an implementation never loses
//! an edge: after a call that returned `WouldBlock` (or a read that reported *drained*), readiness is reported again.

pub(crate) mod datagram;
mod datagram_socket;
mod dial;
pub(crate) mod errno;
pub(crate) mod mio;
mod resolver;
#[cfg(any(test, feature = "testing"))]
#[cfg_attr(not(test), allow(dead_code, clippy::unwrap_used))]
pub(crate) mod script;
#[cfg(any(test, feature = "testing"))]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) mod sim;
mod socket;
#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
#[cfg(unix)]
mod unix_socket;

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use self::datagram::DatagramSys;
use crate::config::address::Address;
use crate::config::connect::{ConnectOptions, Existing};
use crate::config::listen::{ListenOptions, ListenTarget};
use crate::time::Time;

/// The result of looking up a name: at least one address.
pub(crate) type Found = io::Result<Vec<SocketAddr>>;

/// The readiness that [`Sys::poll`] reports for one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    /// The token given at registration.
    pub(crate) token: usize,
    /// An OR of the constants below.
    pub(crate) bits: u8,
}

impl Ready {
    pub(crate) const READABLE: u8 = 1;
    pub(crate) const WRITABLE: u8 = 2;
    /// The peer has closed its end (EPOLLRDHUP, EPOLLHUP), or urgent data is pending (EPOLLPRI): a short read no
    /// longer means that the socket is drained.
    pub(crate) const HINT: u8 = 4;
    /// The socket has a pending error (SO_ERROR), for [`Sys::take_error`] or the next read or write.
    pub(crate) const ERROR: u8 = 8;
}

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// The number of bytes read; 0 is the end of input.
    pub(crate) len: usize,
    /// Nothing more can be read until the next readiness event, unless a hint was reported for this stream.
    pub(crate) drained: bool,
}

/// How to close a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseHow {
    /// Plain close: the kernel sends the data it still holds and then FIN (or RST if there is unread input).
    Graceful,
    /// Discard the data that the kernel still holds, and send RST.
    Reset,
}

/// Wakes a [`Sys::poll`] of another thread. Wake-ups coalesce; none is lost.
pub(crate) trait Wake: Send + Sync + fmt::Debug {
    fn wake(&self) -> io::Result<()>;
}

/// All operations of the event loop on the operating system.
pub(crate) trait Sys: DatagramSys {
    type Listener;
    type Stream;

    /// Reads the monotonic clock. It may stand still; should it step back, the loop clamps it.
    fn now(&mut self) -> Time;

    /// Waits for readiness, a wake-up or the timeout, and appends the readiness to `ready`. The timeout is in whole
    /// milliseconds, so that no system has to round it. Appends at most the number of events set at construction.
    /// Returns `true` if more events may be pending: that limit was reached, or a signal ended the wait before it
    /// looked. Otherwise all that was ready when the wait began is in `ready`.
    fn poll(&mut self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> io::Result<bool>;

    /// Returns a handle that wakes [`Sys::poll`] from another thread.
    fn waker(&self) -> Arc<dyn Wake>;

    /// Returns the process's limit of open descriptors and the number in use, or `None` if the system does not report
    /// them.
    fn descriptor_limit(&mut self) -> Option<(usize, usize)>;

    /// Holds `n` descriptors, from the next call on: opens or closes as many as it takes. While they are held, nothing
    /// else can take them; when fewer are held, as many sockets can be opened instead. Fails if not so many can be had.
    /// Holding fewer than before never fails.
    fn hold_descriptors(&mut self, n: usize) -> io::Result<()>;

    /// Resolves a host name to all of its addresses. Blocks until there is an answer, at most for `within`
    /// (`TimedOut`), and no longer than until `stopped` returns `true` (`Interrupted`).
    fn resolve(&mut self, host: &str, port: u16, within: Duration, stopped: &dyn Fn() -> bool) -> Found;

    /// Opens a listening socket, or takes over an existing one.
    fn listen(&mut self, at: ListenTarget, options: &ListenOptions) -> io::Result<Self::Listener>;

    /// Returns the address that a listener is bound to, with the port that the kernel chose.
    fn local_addr(&self, listener: &Self::Listener) -> io::Result<Address>;

    /// Registers a listener. Called once per listener.
    fn add_listener(&mut self, listener: &mut Self::Listener, token: usize) -> io::Result<()>;

    /// Deregisters and closes a listener, and removes the file of a Unix socket if this process created it.
    fn close_listener(&mut self, listener: Self::Listener);

    /// Accepts one pending connection. Retries on `Interrupted`.
    fn accept(&mut self, listener: &mut Self::Listener) -> io::Result<(Self::Stream, Address)>;

    /// Begins to connect. The caller registers the stream next; when it is reported ready, [`Sys::finish_connect`]
    /// returns the result. Returns `WouldBlock` if the backlog of a Unix listener is full; then nothing was begun.
    fn connect(&mut self, to: &Address, options: &ConnectOptions) -> io::Result<Self::Stream>;

    /// Returns the peer's address if the stream has connected, `WouldBlock` while it has not, or the error of the
    /// connection attempt.
    fn finish_connect(&mut self, stream: &mut Self::Stream) -> io::Result<Address>;

    /// Takes over a stream that is already connected.
    fn take_over(&mut self, existing: Existing, options: &ConnectOptions) -> io::Result<(Self::Stream, Address)>;

    /// Begins to look up a host name, off the event loop. The result is returned by [`Sys::next_lookup`] under the
    /// caller's `number`, and wakes [`Sys::poll`].
    fn begin_lookup(&mut self, number: u64, host: &str, port: u16) -> io::Result<()>;

    /// Returns the next finished lookup with its number. It may be one that was cancelled.
    fn next_lookup(&mut self) -> Option<(u64, io::Result<Vec<SocketAddr>>)>;

    /// Cancels a lookup: its result is no longer needed.
    fn cancel_lookup(&mut self, number: u64);

    /// Returns an unpredictable number; not cryptographically secure.
    fn random(&mut self) -> u64;

    /// Registers a stream for reading and writing. Called once per stream.
    fn add_stream(&mut self, stream: &mut Self::Stream, token: usize) -> io::Result<()>;

    /// Reads into `buf`, which is never empty. Retries on `Interrupted`.
    fn read(&mut self, stream: &mut Self::Stream, buf: &mut [u8]) -> io::Result<Received>;

    /// Writes from `bufs` (1 to 64 slices, none empty) and returns the number of bytes written. Does not raise
    /// SIGPIPE. Retries on `Interrupted`.
    fn write(&mut self, stream: &mut Self::Stream, bufs: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Sends FIN after all data written so far.
    fn shutdown_write(&mut self, stream: &mut Self::Stream) -> io::Result<()>;

    /// Returns the socket's pending error (SO_ERROR), if any. The kernel clears it with this call.
    fn take_error(&mut self, stream: &mut Self::Stream) -> io::Result<Option<io::Error>>;

    /// Closes a stream, after deregistering it if it was registered.
    fn close(&mut self, stream: Self::Stream, how: CloseHow);

    /// Registers an event source of the user. Called once per source.
    fn add_source(
        &mut self,
        source: &mut dyn ::mio::event::Source,
        token: usize,
        interest: ::mio::Interest,
    ) -> io::Result<()>;

    /// Deregisters an event source of the user.
    fn remove_source(&mut self, source: &mut dyn ::mio::event::Source);
}
