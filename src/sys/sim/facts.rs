//! The plain facts of one connection, by which a run is judged.
//!
//! Knows nothing of the loop's own account of them. Invariant: only what a call of the seam answered, or an event said,
//! is in here.

use std::cell::Cell;
use std::io::ErrorKind;
use std::rc::Rc;

use super::fault::State;
use crate::time::Time;

/// What the first look at the clock found since this was last taken.
pub(crate) type Mark = Rc<Cell<Option<Time>>>;

/// What the loop was told about one connection, and did with it.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// What it was doing when the turn began; set by whoever can see the loop.
    pub(crate) state: State,
    pub(crate) token: Option<usize>,
    /// Bytes that were read, and bytes that were taken from the loop.
    pub(crate) read: u64,
    pub(crate) written: u64,
    pub(crate) read_this_turn: usize,
    /// When a byte last went either way, and when one was last read, or written (or the connection began).
    pub(crate) moved: u64,
    pub(crate) heard: u64,
    pub(crate) wrote: u64,
    /// A read answered with the end of input.
    pub(crate) ended: bool,
    pub(crate) errors: Vec<ErrorKind>,
    /// When FIN was sent, and how much was read since.
    pub(crate) fin: Option<u64>,
    pub(crate) discarded: u64,
    /// Hints since something was last read.
    pub(crate) hints: u32,
    /// It was said to be readable, and no read has shown since that it is not.
    pub(crate) told_readable: bool,
    /// It was said that an error waits, and nothing that would tell it was called since.
    pub(crate) told_error: bool,
    pub(crate) add_failed: bool,
    /// When it was closed.
    pub(crate) closed: Option<u64>,
}
