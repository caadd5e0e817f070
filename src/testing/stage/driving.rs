//! Drives the loop: turns until it is idle, advances the clock, and detects a loop that never becomes idle.
//!
//! Invariant: time passes only while the loop is idle, and the clock stops at every deadline.

use std::time::Duration;

use super::{Done, Stage};
use crate::handler::Handler;
use crate::time::Time;

impl<H: Handler> Stage<H> {
    /// Turns until the loop would only wait, and lets clients close in response to what they see.
    pub(super) fn rest(&mut self) -> Done {
        loop {
            self.turn_to_rest()?;
            if !self.answer_ends() {
                return Ok(());
            }
        }
    }

    fn turn_to_rest(&mut self) -> Done {
        let sent = self.stats().bytes_out;
        let patience = PATIENCE + 4 * self.clients.len();
        let (mut mark, mut idle) = (self.mark(), 0);
        loop {
            self.inner.turn(None).map_err(|e| e.to_string())?;
            if self.answer_dials() {
                continue;
            }
            // Work that no event will announce shows up as a deadline in the past.
            if self.inner.next_deadline() > Time(self.inner.sys.clock) && self.inner.sys.is_quiet() {
                return self.check_rest();
            }
            idle = if mark.moves_to(self.mark()) { 0 } else { idle + 1 };
            if idle >= patience {
                let sent = self.stats().bytes_out - sent;
                return Err(format!(
                    "the handler does not come to rest: in {patience} turns it consumed no input ({sent} bytes \
                     were sent meanwhile); does it defer its input forever, or send again on every drain?"
                ));
            }
        }
    }

    /// The loop slows down a handler that defers its input for ever. In a test that is a fault.
    fn check_rest(&self) -> Done {
        match self.inner.dispatcher.core.conns.iter().any(|c| c.flow.resting) {
            false => Ok(()),
            true => {
                Err("the handler does not come to rest: it defers its input again and again and takes none of it; \
                         pause the connection to wait for something else"
                    .to_owned())
            }
        }
    }

    fn mark(&self) -> Mark {
        let core = &self.inner.dispatcher.core;
        let mut mark = Mark { bytes_in: core.stats.bytes_in, kept: 0, pending: 0 };
        for c in core.conns.iter() {
            mark.kept += c.buffered_len();
            mark.pending += core.pending(c);
        }
        mark
    }

    /// Advances from one deadline to the next until the time is over.
    pub(super) fn pass(&mut self, time: Duration) -> Done {
        self.rest()?;
        let end = u64::try_from(time.as_nanos()).ok().and_then(|n| self.inner.sys.clock.checked_add(n));
        let end = end.filter(|&end| Time(end) < Time::NEVER);
        let end = end.ok_or_else(|| format!("{time:?} exceeds the range of the clock"))?;
        while self.inner.sys.clock < end {
            self.inner.sys.clock = self.inner.next_deadline().0.min(end);
            self.rest()?;
        }
        Ok(())
    }

    pub(super) fn begin_shutdown(&mut self, grace: Duration) -> Done {
        self.rest()?;
        if std::mem::replace(&mut self.shut, true) {
            return Err("the shutdown has already begun".to_owned());
        }
        self.inner.begin_shutdown(grace);
        self.rest()
    }
}

/// A measure of the loop's progress. Without action of the clients it can advance only a bounded number of times.
struct Mark {
    bytes_in: u64,
    /// Bytes of deferred input. They can only become fewer unless more bytes are read.
    kept: usize,
    /// The least unsent output since the other values last changed.
    pending: usize,
}

impl Mark {
    /// Returns `true` if `next` is progress. Output that alternately grows and shrinks is not.
    fn moves_to(&mut self, next: Self) -> bool {
        let same = (next.bytes_in, next.kept) == (self.bytes_in, self.kept);
        let moves = !same || next.pending < self.pending;
        if moves {
            *self = next;
        }
        moves
    }
}

/// Turns without progress after which a handler counts as never idle. Chosen; four more per client are added, because
/// each may have to wait for its turn to be accepted, timed out and closed.
const PATIENCE: usize = 1_000;
