//! A test kit for handlers and codecs: the real event loop, without sockets and without real time (feature `testing`).
//!
//! - [`Stage`] runs one handler step by step, from a transcript or by method calls. The test controls the clock.
//! - [`prove_cuts`] and [`prove_round_trip`] check that a codec decodes the same messages however its input is split,
//!   and that it decodes what it encodes.
//! - [`Simulation`] runs a handler under seeded random faults: short reads, resets, late events, clock jumps and
//!   more. Then the faults stop, and everything must be delivered.
//!
//! The event loop is the one that a [`Reactor`](crate::Reactor) runs; only the operating system below it is simulated.
//!
//! ```toml
//! [dev-dependencies]
//! turnwheel = { path = "../turnwheel", features = ["testing"] } # as in [dependencies], with this feature
//! ```
//!
//! Invariant: nothing in this module is compiled without the feature (or `cfg(test)`).

mod checked_handler;
mod client;
mod close_checks;
mod connect_checks;
mod cuts;
mod limits_gen;
#[cfg(test)]
pub(crate) mod log_tests;
mod oracle;
mod posted_event;
#[cfg(test)]
pub(crate) mod property_tests;
mod run;
mod seeds;
mod seen;
mod simulation;
mod stage;
#[cfg_attr(not(test), allow(dead_code))]
mod threads;
mod timer_checks;
mod trace;
mod transcript;
mod view;

#[cfg(test)]
mod tests;

pub use crate::sys::sim::Dice;
pub use cuts::{Decoding, decode_cut, prove_cuts, prove_round_trip};
pub use simulation::{Scene, Simulation, Witness};
pub use stage::Stage;
