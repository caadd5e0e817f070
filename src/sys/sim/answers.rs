//! Faked results of calls.
//!
//! Invariant: the script's pipes agree with every faked result.

use super::{Fault, MS, Sim};
use crate::sys::Ready;
use crate::sys::script::{Answer, EAGAIN, ENOBUFS, Listener};

impl Sim {
    /// Returns the error that the next accept is made to fail with, if any.
    pub(super) fn accept_answer(&mut self, listener: &Listener) -> Option<i32> {
        if self.script.clock < self.shortage {
            return Some(24); // EMFILE
        }
        let clock = self.script.clock;
        if let Some(dice) = self.strikes_all(Fault::AcceptShortage) {
            // EMFILE, ENFILE, ENOMEM, ENOBUFS: the shortages of accept(2).
            let (error, time) = (dice.pick(&[24, 23, 12, ENOBUFS]), dice.size(500 * MS) as u64);
            self.shortage = clock + time;
            return Some(error);
        }
        if self.strikes_all(Fault::AcceptDead).is_some() {
            return Some(22); // EINVAL: the listener is unusable.
        }
        if let Some(dice) = self.strikes_all(Fault::AcceptGone) {
            // Errors of one connection: ECONNABORTED, EPROTO, ENETDOWN, EPERM, EHOSTUNREACH, EIO.
            return Some(dice.pick(&[103, 71, 100, 1, 113, 5]));
        }
        if self.strikes_all(Fault::AcceptBlocked).is_some() {
            // After EAGAIN an edge is owed.
            let token = self.script.listener_token(listener)?;
            self.script.inject(token, Ready::READABLE);
            return Some(EAGAIN);
        }
        None
    }

    /// Fails a connection in the middle of a call, which returns the error.
    pub(super) fn break_at_call(&mut self, peer: usize, error: i32) -> Answer {
        self.script.network_fails(peer, error);
        self.script.forget_error(peer);
        Answer::Fail(error)
    }
}
