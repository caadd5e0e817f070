//! Connecting sockets and lookups in the scripted system.
//!
//! Invariant: a connecting socket becomes ready when its result is decided, and not before.

use std::io;
use std::net::SocketAddr;

use super::peer::{DialPlan, DialState, EAGAIN, Peer, Sent, fail};
use super::{Call, Ready, Script, Stream, Wake, address_of, outcome};
use crate::config::address::Address;

impl Script {
    /// Lets a pending connection succeed.
    pub(crate) fn dial_succeeds(&mut self, peer: usize) {
        if self.peers[peer].dial == DialState::Pending {
            self.peers[peer].dial = DialState::Up;
            self.arrived(peer, Ready::WRITABLE);
        }
    }

    /// Lets a pending connection fail.
    pub(crate) fn dial_fails(&mut self, peer: usize, error: i32) {
        if self.peers[peer].dial == DialState::Pending {
            let p = &mut self.peers[peer];
            p.dial = DialState::Failed(error);
            p.dead = true;
            p.error = Some(error);
            p.sent.push_back(Sent::Reset);
            self.arrived(peer, Ready::READABLE | Ready::WRITABLE | Ready::HINT | Ready::ERROR);
        }
    }

    pub(crate) fn dial(&mut self, to: &Address) -> io::Result<Stream> {
        let plan = self.dials.pop_front().or(self.dials_wait.then_some(DialPlan::Later));
        let peer = self.peers.len();
        let done = match plan {
            Some(DialPlan::Fail(number)) => fail(number),
            Some(DialPlan::Later) | None => self.may_open(1).map(|()| peer),
        };
        self.record(Call::Connect(outcome(&done)));
        self.dials_made.push((to.clone(), outcome(&done).ok()));
        done?;
        let dial = if plan.is_some() { DialState::Pending } else { DialState::Up };
        let new =
            Peer { window: usize::MAX, accepted: true, readable_armed: true, ours: true, dial, ..Peer::default() };
        self.peers.push(new);
        Ok(Stream(peer))
    }

    pub(super) fn dial_done(&mut self, peer: usize) -> io::Result<Address> {
        let done = match self.peers[peer].dial {
            DialState::Up => Ok(0),
            DialState::Pending => fail(EAGAIN),
            DialState::Failed(number) => {
                self.peers[peer].error = None;
                fail(number)
            }
        };
        self.peers[peer].writable_armed |= outcome(&done) == Err(EAGAIN);
        self.record(Call::FinishConnect(peer, outcome(&done)));
        done.map(|_| address_of(peer))
    }

    /// Answers the `n`-th lookup that was begun.
    pub(crate) fn resolves(&mut self, n: usize, found: Result<Vec<SocketAddr>, i32>) {
        let number = self.lookups[n].0;
        self.looked_up(number, found.map_err(io::Error::from_raw_os_error));
    }

    /// Answers the lookup with this number.
    pub(crate) fn looked_up(&mut self, number: u64, found: io::Result<Vec<SocketAddr>>) {
        self.found.push_back((number, found));
        // A finished lookup wakes the loop. The bell of the script cannot fail.
        let _ = self.bell.wake();
    }
}
