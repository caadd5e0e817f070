//! The facts of one connection, against which a run is checked.
//!
//! Invariant: contains only what a call of [`Sys`](crate::sys::Sys) returned or an event reported, never the loop's
//! own account of it.

use std::cell::Cell;
use std::io::ErrorKind;
use std::rc::Rc;

use super::fault::State;
use crate::time::Time;

/// The first time read from the clock since this was last taken.
pub(crate) type Mark = Rc<Cell<Option<Time>>>;

/// What the loop learned about one connection, and did with it.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// What the connection was doing when the turn began; set by the test kit, which can see the loop.
    pub(crate) state: State,
    pub(crate) token: Option<usize>,
    /// Bytes read by the loop, and bytes accepted from it.
    pub(crate) read: u64,
    pub(crate) written: u64,
    pub(crate) read_this_turn: usize,
    /// When a byte was last transferred in either direction; when one was last read; and when one was last written
    /// (or the connection began).
    pub(crate) moved: u64,
    pub(crate) heard: u64,
    pub(crate) wrote: u64,
    /// A read has returned the end of input.
    pub(crate) ended: bool,
    pub(crate) errors: Vec<ErrorKind>,
    /// When the loop sent FIN, and how many bytes it has read since.
    pub(crate) fin: Option<u64>,
    pub(crate) discarded: u64,
    /// The number of hints since data was last read.
    pub(crate) hints: u32,
    /// An event has reported it readable, and no read has drained it or reached the end since.
    pub(crate) told_readable: bool,
    /// An event has reported an error, and no call that would return it was made since.
    pub(crate) told_error: bool,
    pub(crate) add_failed: bool,
    /// When the loop closed it.
    pub(crate) closed: Option<u64>,
}
