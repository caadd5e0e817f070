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

mod alarms;
mod client;
mod cuts;
mod dials;
mod knobs;
mod oracle;
#[cfg_attr(not(test), allow(dead_code))]
mod others;
mod run;
mod seeds;
mod simulation;
mod stage;
mod trace;
mod transcript;
mod verdict;
mod watched;

#[cfg(test)]
mod tests;

pub use crate::sys::sim::Dice;
pub use cuts::{Decoding, decode_cut, prove_cuts, prove_round_trip};
pub use simulation::{Scene, Simulation, Witness};
pub use stage::Stage;
