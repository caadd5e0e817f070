//! A single-threaded, nonblocking event-loop server library: a reactor on [`mio`]'s `Poll` with a slab of connection
//! states, and echo, broadcast and framed messages as pluggable state machines.
//!
//! It is for those who want an event loop and not an async runtime: handlers are plain values with callbacks, there is
//! no thread but the one that turns the reactor, nothing is shared behind a lock or a `RefCell`, and every buffer,
//! queue and loop has a limit that is on by default.
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
//! # Where to begin
//! - [`Handler`] is what you write, [`Context`] what its callbacks act on. A handler owns what its connections share;
//!   its [`State`](Handler::State) is what it remembers about one of them.
//! - [`Reactor`] listens, turns and stops. [`Listen`] has the options of a listening socket, [`Limits`] every bound.
//! - [`Framed`] with a codec of [`codec`] makes a handler of messages out of a handler of bytes.
//! - [`Broadcast`] is a room; [`Net::group`] and [`Net::broadcast`] are what it is made of.
//! - A reactor can sit inside another loop: see [`Reactor`]. [`Reactor::register`] watches anything else that the
//!   system can watch; [`Net::snapshots`] says what the connections are doing.
//! - [`DatagramHandler`] is the same for UDP and Unix datagrams; [`Reactor::bind`] and [`Datagrams`] open the sockets.
//! - [`Handle`] is what other threads have of a reactor: they send, post [notes](Notes), run closures, and stop it.
//! - [`Closed`] and [`Reason`] say why a connection ended, [`Stats`] counts everything.
//! - The module `testing` (feature `testing`) tests handlers and codecs of yours: with no socket, and in the worst of
//!   worlds.
//!
//! Everything else is in [`architecture`].

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

/// The README's examples must compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use crate::core::{Posted, Sent};
pub use builtin::{Broadcast, Echo, Framed, FramedState};
pub use closed::{Closed, Reason};
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

/// Shared bytes, as [`Net::send_bytes_to`] and [`Handle::send_to`] take them.
pub use bytes::Bytes;

/// The library that waits for events, in the version whose sources [`Reactor::register`] takes.
pub use mio;
