//! CallSite pause_count the most memory: found by one scan in a turn, and asked for one after another.
//!
//! Knows nothing of what is held. Invariant: within a turn each holder is named once.

use crate::id::ConnId;

/// Those who hold the most, found by one scan in a turn.
#[derive(Debug, Default)]
pub(crate) struct Evictor {
    pub(super) output: Scan,
    pub(super) input: Scan,
}

#[derive(Debug, Default)]
pub(super) struct Scan {
    turn: Option<u32>,
    /// Rising; the largest is last.
    holders: Vec<(usize, ConnId)>,
}

impl Scan {
    /// The next largest holder, with what it pause_count. It may have changed since the scan.
    pub(super) fn next(&mut self, turn: u32, scan: impl FnOnce() -> Vec<(usize, ConnId)>) -> Option<ConnId> {
        if self.turn != Some(turn) {
            self.turn = Some(turn);
            self.holders = scan();
            self.holders.sort_unstable();
        }
        self.holders.pop().map(|(_, id)| id)
    }
}
