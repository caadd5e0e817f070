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
//! - [`Closed`] and [`Reason`] say why a connection ended, [`Stats`] counts everything.
//! - The module `testing` (feature `testing`) tests handlers and codecs of yours: with no socket, and in the worst of
//!   worlds.
//!
//! Everything else is in [`architecture`].

#![forbid(unsafe_code)]

mod closed;
pub mod codec;
mod connection;
mod core;
mod endpoint;
mod engine;
mod group;
mod handler;
mod handlers;
mod id;
mod input;
mod limits;
mod listen;
#[cfg(test)]
mod log_tests;
mod outbox;
mod pool;
#[cfg(test)]
mod property_tests;
mod reactor;
mod stats;
mod sys;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod throttle;
mod timer;

pub mod architecture;

/// The README's examples must compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use crate::core::Sent;
pub use closed::{Closed, Reason};
pub use endpoint::{Address, AddressError, Endpoint};
pub use engine::Key;
pub use group::SlowMember;
pub use handler::{Context, Handler, Net, Origin};
pub use handlers::{Broadcast, Echo, Framed, FramedState};
pub use id::{ConnId, Group, ListenerId};
pub use limits::{AtCapacity, Limit, Limits, LimitsError, PanicPolicy};
pub use listen::{Keepalive, Listen};
pub use reactor::{Listening, Reactor, Report, Stopper, Turn};
pub use stats::Stats;
