//! What the oracle remembers about one peer from turn to turn.
//!
//! Plain data. Invariant: it is the state after the previous turn, until the oracle has checked the current one.

use crate::closed::{Closed, Reason};
use crate::connection::Phase;

/// What the oracle remembers about one peer.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) phase: Option<Phase>,
    pub(super) since: u64,
    pub(super) read: u64,
    /// When a byte was last transferred, as of the previous turn.
    pub(super) moved: u64,
    /// The unsent bytes and the bytes written so far, if it was above its high-water mark.
    pub(super) high: Option<(usize, u64)>,
    /// Consecutive turns in which it could have been read and was not.
    pub(super) waited: u32,
    /// When a turn last ended without unsent output; and when one last ended with reading paused.
    pub(super) idle_out: u64,
    pub(super) held_at: u64,
    /// When the loop last knew of input that it had not read.
    pub(super) unread_at: u64,
    /// When it last could have written and had not tried.
    pub(super) untried_at: u64,
    pub(super) drains: u64,
    /// It has drained to the low-water mark: the number of on_drain calls before, and the turns since without one.
    pub(super) fell: Option<(u64, u32)>,
    /// How much of its input has been compared.
    pub(super) compared: usize,
    /// Its close reason, once it is set and was checked.
    pub(super) why: Option<Reason>,
    pub(super) closed: Option<Closed>,
}
