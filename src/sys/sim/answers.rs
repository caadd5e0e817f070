//! What calls are made to answer instead of what is so.
//!
//! Knows nothing of the loop. Invariant: the script's pipes agree with what is answered.

use super::{Fault, MS, Sim};
use crate::sys::Ready;
use crate::sys::script::{Answer, EAGAIN, ENOBUFS, Listener};

impl Sim {
    /// What an accept is made to answer, if not what is so.
    pub(super) fn accept_answer(&mut self, listener: &Listener) -> Option<i32> {
        if self.script.clock < self.shortage {
            return Some(24);
        }
        let clock = self.script.clock;
        if let Some(dice) = self.strikes_all(Fault::AcceptShortage) {
            let (error, time) = (dice.pick(&[24, 23, 12, ENOBUFS]), dice.size(500 * MS) as u64);
            self.shortage = clock + time;
            return Some(error);
        }
        if self.strikes_all(Fault::AcceptDead).is_some() {
            return Some(22);
        }
        if let Some(dice) = self.strikes_all(Fault::AcceptGone) {
            return Some(dice.pick(&[103, 71, 100, 1, 113, 5]));
        }
        if self.strikes_all(Fault::AcceptBlocked).is_some() {
            // A later edge is owed.
            let token = self.script.listener_token(listener)?;
            self.script.inject(token, Ready::READABLE);
            return Some(EAGAIN);
        }
        None
    }

    /// Breaks a connection in the middle of a call.
    pub(super) fn break_at_call(&mut self, peer: usize, error: i32) -> Answer {
        self.script.network_fails(peer, error);
        self.script.forget_error(peer);
        Answer::Fail(error)
    }
}
