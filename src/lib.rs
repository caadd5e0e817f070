//! A single-threaded, nonblocking event-loop server library on [mio](https://docs.rs/mio): a reactor with pluggable state machines.

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
mod outbox;
mod pool;
mod reactor;
mod stats;
mod sys;
mod throttle;
mod timer;

pub use closed::{Closed, Reason};
pub use endpoint::{Address, AddressError, Endpoint, Keepalive, Listen};
pub use engine::Key;
pub use group::SlowMember;
pub use handler::{Context, Handler, Net, Origin};
pub use handlers::{Broadcast, Echo, Framed, FramedState};
pub use id::{ConnId, Group, ListenerId};
pub use limits::{AtCapacity, Limit, Limits, LimitsError, PanicPolicy};
pub use reactor::{Listening, Reactor, Report, Stopper, Turn};
pub use stats::Stats;

pub use crate::core::Sent;
