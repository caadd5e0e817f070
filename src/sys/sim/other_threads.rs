//! What the simulated system asks of the other threads in a run.

use std::any::Any;
use std::fmt;

/// Other threads in the simulation. They act between any two calls of the loop.
pub(crate) trait OtherThreads: Any + fmt::Debug {
    fn act(&mut self);
    /// Returns `true` if they wait for the loop to do something.
    fn wait(&self) -> bool;
    /// Stops them for the rest of the run.
    fn rest(&mut self);
}
