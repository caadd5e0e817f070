//! What the oracle remembers about one peer from turn to turn.
//!
//! Plain data. Invariant: it is as of the end of the turn before, until the oracle has checked this one.

use crate::closed::{Closed, Reason};
use crate::connection::Phase;

/// What is remembered about a peer from turn to turn.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) phase: Option<Phase>,
    pub(super) since: u64,
    pub(super) read: u64,
    /// When a byte had moved, after the turn before.
    pub(super) moved: u64,
    /// How much waited, and how much was written till then, where it was too much to go on reading.
    pub(super) high: Option<(usize, u64)>,
    /// Turns in a row in which it could have been read and was not.
    pub(super) waited: u32,
    /// When a turn last ended after which nothing waited; and one after which it was held up.
    pub(super) idle_out: u64,
    pub(super) held_at: u64,
    pub(super) drains: u64,
    /// It has fallen to the low-water mark: how often it had been told of that, and for how many turns it was not.
    pub(super) fell: Option<(u64, u32)>,
    /// How much of its input was compared.
    pub(super) compared: usize,
    /// Why it ends, once that is decided and was found to be earned.
    pub(super) why: Option<Reason>,
    pub(super) closed: Option<Closed>,
}
