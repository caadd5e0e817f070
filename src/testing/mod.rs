//! A test kit for handlers and codecs: the whole reactor, with no socket and no real time. (Feature `testing`.)
//!
//! - [`Stage`] plays a handler by a transcript, or by its methods, with the clock in the test's hand.
//! - [`prove_cuts`] and [`prove_round_trip`] prove that a codec does not care how its input is cut, and decodes what it
//!   encodes.
//! - [`Simulation`] puts a handler into a seeded world in which everything goes wrong that can, and then must come
//!   right.
//!
//! What runs is the same loop that a [`Reactor`](crate::Reactor) has; only the system below it is played.
//!
//! ```toml
//! [dev-dependencies]
//! turnwheel = { version = "0.1", features = ["testing"] }
//! ```
//!
//! Knows the loop and the worlds below it. Invariant: nothing here is in a build without the feature.

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
