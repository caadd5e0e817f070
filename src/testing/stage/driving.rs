//! Drives the loop: turns until it rests, lets time pass, and notices when there is no rest to come.
//!
//! Knows nothing of what clients say. Invariant: time passes only while the loop is at rest, and stops at every
//! deadline.

use std::time::Duration;

use super::{Done, Stage};
use crate::handler::Handler;
use crate::time::Time;

impl<H: Handler> Stage<H> {
    /// Turns until there is nothing to do but wait, and lets clients answer what they see.
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
            // Work that no event will announce is due at once, as a deadline.
            if self.inner.next_deadline() > Time(self.inner.sys.clock) && self.inner.sys.is_quiet() {
                return Ok(());
            }
            idle = if mark.moves_to(self.mark()) { 0 } else { idle + 1 };
            if idle >= patience {
                let sent = self.stats().bytes_out - sent;
                return Err(format!(
                    "the handler does not come to rest: in {patience} turns it used no input ({sent} bytes were \
                     sent meanwhile); does it put off its data for ever, or send again each time it is drained?"
                ));
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

    /// Goes from one deadline to the next until the time is over.
    pub(super) fn pass(&mut self, time: Duration) -> Done {
        self.rest()?;
        let end = u64::try_from(time.as_nanos()).ok().and_then(|n| self.inner.sys.clock.checked_add(n));
        let end = end.filter(|&end| Time(end) < Time::NEVER);
        let end = end.ok_or_else(|| format!("{time:?} is more than the clock can count"))?;
        while self.inner.sys.clock < end {
            self.inner.sys.clock = self.inner.next_deadline().0.min(end);
            self.rest()?;
        }
        Ok(())
    }

    pub(super) fn begin_shutdown(&mut self, grace: Duration) -> Done {
        self.rest()?;
        if std::mem::replace(&mut self.shut, true) {
            return Err("the reactor was told to stop before".to_owned());
        }
        self.inner.begin_shutdown(grace);
        self.rest()
    }
}

/// How far the loop has come. Without the clients' doing it gets further only so often.
struct Mark {
    bytes_in: u64,
    /// Bytes put off. Without bytes read they can only become fewer.
    kept: usize,
    /// The least output that waited since the others last changed.
    pending: usize,
}

impl Mark {
    /// Whether this is progress: anything but output that comes and goes.
    fn moves_to(&mut self, next: Self) -> bool {
        let same = (next.bytes_in, next.kept) == (self.bytes_in, self.kept);
        let moves = !same || next.pending < self.pending;
        if moves {
            *self = next;
        }
        moves
    }
}

/// Turns without progress after which a handler is said not to come to rest; and a few more for each client, which may
/// have to wait its turn to be accepted, timed out and ended.
const PATIENCE: usize = 1_000;
