//! A single-threaded, non-blocking event-loop server library: a reactor on [`mio`]'s `Poll`, a slab of connection
//! states, and echo, broadcast and framed messages as pluggable state machines.
//!
//! Use it if you want an event loop rather than an async runtime. Handlers are plain values with callbacks. One thread
//! runs everything; nothing is shared behind a lock or a `RefCell`. Every buffer, queue and loop has a limit, which is
//! on by default.
//!
//! ```no_run
//! use turnwheel::{Context, Handler, Reactor};
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     type State = ();
//!     fn on_open(&mut self, _cx: &mut Context<'_>) {}
//!     fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
//!         cx.send(data);
//!     }
//! }
//!
//! fn main() -> std::io::Result<()> {
//!     let mut reactor = Reactor::new()?;
//!     reactor.listen("127.0.0.1:7000", Echo)?;
//!     reactor.run()
//! }
//! ```
//!
//! # Where to start
//! - [`Handler`] is the trait you implement; its callbacks act through a [`Context`]. The handler owns what its
//!   connections share. [`State`](Handler::State) is what it stores per connection.
//! - [`Reactor`] listens, runs turns and shuts down. [`Listen`] holds the options of a listener, [`Limits`] all
//!   limits.
//! - [`Framed`] with a codec from [`codec`] turns a byte handler into a message handler.
//! - [`Broadcast`] relays to all other connections. It is built on [`Net::group`] and [`Net::broadcast`].
//! - A reactor can be embedded in another event loop: see [`Reactor`]. [`Reactor::register`] adds any other event
//!   source. [`Net::snapshots`] returns the state of every connection.
//! - [`DatagramHandler`] handles UDP and Unix datagrams. [`Reactor::bind`] and [`Datagrams`] open the sockets.
//! - [`Handle`] controls a reactor from other threads: it sends, posts [notes](Notes), runs closures and stops the
//!   reactor.
//! - [`Closed`] and [`Reason`] report why a connection ended. [`Stats`] holds all counters.
//! - The module `testing` (feature `testing`) tests your handlers and codecs without sockets, against a simulated
//!   system that injects faults.
//!
//! See [`architecture`] for how it works inside.

#![forbid(unsafe_code)]

mod buffer;
mod builtin;
mod closed;
pub mod codec;
mod command_queue;
mod config;
mod connection;
mod core;
mod dispatch;
mod group;
mod handler;
mod id;
mod reactor;
mod stats;
mod sys;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod time;
mod work_list;

pub mod architecture;

/// Compiles the examples of the README as doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use crate::core::{Posted, Sent};
pub use buffer::pieces::Pieces;
pub use builtin::{Broadcast, Echo, Framed, FramedState, Telnet, TelnetState};
pub use closed::{BadInput, Closed, Reason};
pub use command_queue::HandleError;
pub use config::address::{Address, AddressError, Endpoint};
pub use config::connect::{Backoff, Connect};
pub use config::datagram::{Datagrams, Interface};
pub use config::limits::{AtCapacity, Limit, Limits, LimitsError, PanicPolicy};
pub use config::listen::{Keepalive, Listen};
pub use connection::Origin;
pub use group::SlowMember;
pub use handler::Handler;
pub use handler::context::Context;
pub use handler::datagram::{DatagramContext, DatagramHandler};
pub use handler::handle::{Handle, Notes};
pub use handler::net::Net;
pub use handler::snapshot::{ConnectionPhase, Snapshot};
pub use id::{AttemptId, ConnId, DatagramId, Group, Key, ListenerId, SourceId, TimerId};
pub use reactor::{Bound, Listening, Reactor, Readiness, Report, SourceKey, Turn, Watch};
pub use stats::Stats;

/// Reference-counted bytes, taken by [`Net::send_bytes_to`] and [`Handle::send_to`].
pub use bytes::Bytes;

/// The I/O library underneath, in the version whose event sources [`Reactor::register`] takes.
pub use mio;
