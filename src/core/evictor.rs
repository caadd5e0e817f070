//! Finds the connections that hold the most memory, to evict them when a total limit is exceeded.
//!
//! The largest holder is evicted first: it is the most likely slow consumer, and closing it frees the most memory with
//! the fewest connections. All connections are scanned once per turn, not once per eviction: at the limit every send
//! may need to evict, and a scan for each would cost O(connections) each time.
//!
//! Invariant: within a turn each holder is returned at most once.

use crate::id::ConnId;

/// The largest holders of output and of buffered input.
#[derive(Debug, Default)]
pub(crate) struct Evictor {
    pub(super) output: Scan,
    pub(super) input: Scan,
}

/// A connection that holds memory: whether its peer takes nothing, and how many bytes. One that the peer would take as
/// soon as it is written is evicted last.
pub(super) type Holder = (bool, usize, ConnId);

/// The result of one turn's scan.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The turn of the scan.
    turn: Option<u32>,
    /// Whether it is blocked, the bytes held, and by which connection, in ascending order: the largest is last.
    holders: Vec<Holder>,
}

impl Scan {
    /// Returns the next largest holder, or `None` if all of this turn's scan were returned. What it holds may have
    /// changed since the scan.
    pub(super) fn next(&mut self, turn: u32, scan: impl FnOnce() -> Vec<Holder>) -> Option<ConnId> {
        if self.turn != Some(turn) {
            self.turn = Some(turn);
            self.holders = scan();
            self.holders.sort_unstable();
        }
        self.holders.pop().map(|(.., id)| id)
    }
}
