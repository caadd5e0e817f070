//! The seam: the one trait through which every outside effect goes.
//!
//! The loop is generic over [`Sys`] by static dispatch. [`mio`] is the real world; a scripted world stands
//! in for it in tests. Nothing above this floor names a socket type, reads a clock or makes a system call, and nothing
//! here knows what a connection is for. A stream is opaque to the loop, so an encrypted one can take its place.
//!
//! Invariant: readiness is a hint. Whatever [`Sys::poll`] reports may be late, merged, doubled, reordered, stale or
//! untrue; only the result of a call on the socket itself tells what is so. What a world owes in return is that a due
//! edge is never lost: after a call answered `WouldBlock` (or said *drained*), readiness is reported again.

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

/// What [`Sys::poll`] says about one token.
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
    /// The peer's end is closed, or urgent data waits: a short read no longer means that nothing is left.
    pub(crate) const HINT: u8 = 4;
    /// The socket has an error to tell ([`Sys::take_error`], or the next read or write).
    pub(crate) const ERROR: u8 = 8;
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// Bytes read; 0 is the end of input.
    pub(crate) len: usize,
    /// Nothing more can be read until the next readiness, unless a hint was reported for this stream.
    pub(crate) drained: bool,
}

/// How to close a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseHow {
    /// Plain close: the kernel sends FIN after what it still holds (or RST where unread input is left).
    Graceful,
    /// Throw away what the kernel still holds and send RST.
    Reset,
}

/// Ends the wait of another thread's [`Sys::poll`]. Wakes coalesce; none is lost.
pub(crate) trait Wake: Send + Sync + fmt::Debug {
    fn wake(&self) -> io::Result<()>;
}

/// Everything the loop may ask of the outside world.
pub(crate) trait Sys: DatagramSys {
    type Listener;
    type Stream;

    /// The monotonic clock. It may stand still; the loop clamps it should it step back.
    fn now(&mut self) -> Time;

    /// Waits until something is ready, a wake-up, or the timeout (whole milliseconds, so that no system has to round
    /// it), and appends to `ready`. At most `capacity` entries, as given when the world was made; answers whether that
    /// is why there are no more of them. A signal is no error: it returns early with nothing.
    fn poll(&mut self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> io::Result<bool>;

    /// What wakes [`Sys::poll`] from another thread.
    fn waker(&self) -> Arc<dyn Wake>;

    /// The process's limit of open descriptors, and how many of them are taken, where that can be learnt.
    fn descriptor_limit(&mut self) -> Option<(usize, usize)>;

    /// Every address of a host name (blocking).
    fn resolve(&mut self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;

    /// Opens a listening socket, or takes over one that is already bound.
    fn listen(&mut self, at: ListenTarget, options: &ListenOptions) -> io::Result<Self::Listener>;

    /// Where a listener really listens.
    fn local_addr(&self, listener: &Self::Listener) -> io::Result<Address>;

    /// Registers a listener. Once, for its life.
    fn add_listener(&mut self, listener: &mut Self::Listener, token: usize) -> io::Result<()>;

    /// Deregisters and closes a listener, and removes the file of a Unix socket that is ours.
    fn close_listener(&mut self, listener: Self::Listener);

    /// Takes one waiting connection. `Interrupted` is retried inside.
    fn accept(&mut self, listener: &mut Self::Listener) -> io::Result<(Self::Stream, Address)>;

    /// Begins to connect. The stream is registered next; when it is reported ready, [`Sys::finish_connect`] tells.
    /// `WouldBlock`: a Unix listener's queue is full, and nothing was begun.
    fn connect(&mut self, to: &Address, options: &ConnectOptions) -> io::Result<Self::Stream>;

    /// Whether a stream has connected, and to whom. `WouldBlock`: not yet.
    fn finish_connect(&mut self, stream: &mut Self::Stream) -> io::Result<Address>;

    /// Takes over a stream that is connected already.
    fn take_over(
        &mut self,
        existing: Existing,
        options: &ConnectOptions,
    ) -> io::Result<(Self::Stream, Address)>;

    /// Begins to look a host name up, off the loop. What is found is given a number by the caller, told by
    /// [`Sys::next_lookup`], and wakes [`Sys::poll`].
    fn begin_lookup(&mut self, number: u64, host: &str, port: u16) -> io::Result<()>;

    /// What was found out next, under its number. It may be one that was cancelled.
    fn next_lookup(&mut self) -> Option<(u64, io::Result<Vec<SocketAddr>>)>;

    /// Nobody waits for that any more.
    fn cancel_lookup(&mut self, number: u64);

    /// A number that nobody can foretell, and no more than that.
    fn random(&mut self) -> u64;

    /// Registers a stream for reading and writing. Once, for its life.
    fn add_stream(&mut self, stream: &mut Self::Stream, token: usize) -> io::Result<()>;

    /// Reads into `buf` (never empty). `Interrupted` is retried inside.
    fn read(&mut self, stream: &mut Self::Stream, buf: &mut [u8]) -> io::Result<Received>;

    /// Writes from `bufs` (1 to 64 slices, none empty) and says how many bytes were taken. Raises no signal.
    /// `Interrupted` is retried inside.
    fn write(&mut self, stream: &mut Self::Stream, bufs: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Sends FIN after all that was written.
    fn shutdown_write(&mut self, stream: &mut Self::Stream) -> io::Result<()>;

    /// The error the socket holds, if any. The kernel forgets it with this call.
    fn take_error(&mut self, stream: &mut Self::Stream) -> io::Result<Option<io::Error>>;

    /// Deregisters, where it was registered, and closes.
    fn close(&mut self, stream: Self::Stream, how: CloseHow);

    /// Registers a source of the user's. Once, for its life.
    fn add_source(
        &mut self,
        source: &mut dyn ::mio::event::Source,
        token: usize,
        interest: ::mio::Interest,
    ) -> io::Result<()>;

    /// Deregisters a source of the user's.
    fn remove_source(&mut self, source: &mut dyn ::mio::event::Source);
}
