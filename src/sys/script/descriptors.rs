//! The limit of descriptors in the scripted system.

use std::io;

use super::Script;
use super::peer::{EMFILE, fail};

impl Script {
    /// Fails with `EMFILE` unless `n` more descriptors may be opened.
    pub(super) fn may_open(&self, n: usize) -> io::Result<()> {
        let open = self.open_streams() + self.held_descriptors;
        if self.most_open.is_some_and(|most| open + n > most) { fail(EMFILE) } else { Ok(()) }
    }

    pub(super) fn hold(&mut self, n: usize) -> io::Result<()> {
        self.may_open(n.saturating_sub(self.held_descriptors))?;
        self.held_descriptors = n;
        Ok(())
    }
}
