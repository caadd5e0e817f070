//! Connecting sockets and lookups in the simulated system: the result of each, and when it is known.
//!
//! An address may carry a mark, by which the checks of a run find the connect job that it belongs to. Invariant: once
//! all faults have ended, each socket connects or fails, and each lookup is answered, within a millisecond.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use super::dials::{Dial, Dials, Lookup, mark_of, mark_of_name};
use super::{Dice, Facts, Fault, MS, Sim, State, fold};
use crate::config::address::Address;
use crate::sys::errno::is_out_of_places;
use crate::sys::script::{DialPlan, DialState, EAGAIN, Stream};
use crate::sys::{Ready, Sys};

const ECONNREFUSED: i32 = 111;
/// The number of sockets that a run may connect; later ones are refused. Chosen to bound the length of a run.
const MOST_DIALS: usize = 200;

impl Sim {
    /// Takes the peers that the loop has connected to since the last call.
    pub(crate) fn take_born(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.dials.born)
    }

    /// Returns `true` if a socket is connecting or a lookup is unanswered.
    pub(crate) fn is_dialling(&self) -> bool {
        !self.dials.pending.is_empty() || self.dials.lookups.iter().any(Lookup::is_open)
    }

    /// The number of lookups that are neither answered nor cancelled.
    pub(crate) fn looking(&self) -> usize {
        self.dials.lookups.iter().filter(|l| l.is_open() && !l.cancelled).count()
    }

    /// The connect attempt that created this peer, if the loop connected to it.
    pub(crate) fn dial_of(&self, peer: usize) -> Option<&Dial> {
        self.dials.dials.iter().rfind(|d| d.peer == Some(peer))
    }

    /// Refuses all connections from now on.
    pub(crate) fn refuse_dials(&mut self) {
        self.dials.closed = true;
    }

    /// Lets everything that is pending finish within a millisecond.
    pub(super) fn heal_dials(&mut self) {
        let soon = self.script.clock.saturating_add(MS as u64);
        self.dials.pending.iter_mut().for_each(|p| p.0 = p.0.min(soon));
        self.dials.lookups.iter_mut().for_each(|l| l.due = l.due.min(soon));
    }

    /// The time of the next result, in nanoseconds.
    pub(super) fn next_dial(&self) -> u64 {
        let pending = self.dials.pending.iter().map(|p| p.0);
        let lookups = self.dials.lookups.iter().filter(|l| l.is_open()).map(|l| l.due);
        pending.chain(lookups).min().unwrap_or(u64::MAX)
    }

    /// Applies the results whose time has come. Returns `true` if a lookup is among them, which wakes the loop.
    pub(super) fn settle_dials(&mut self) -> bool {
        let clock = self.script.clock;
        let (due, later) = std::mem::take(&mut self.dials.pending).into_iter().partition(|p| p.0 <= clock);
        self.dials.pending = later;
        for (_, peer, error) in due {
            match error {
                _ if self.script.peers[peer].closed.is_some() => {}
                Some(error) => self.script.dial_fails(peer, error),
                None => {
                    self.script.dial_succeeds(peer);
                    self.dials.born.push(peer);
                }
            }
        }
        let before = self.dials.found.len();
        let Dials { lookups, found, .. } = &mut self.dials;
        for lookup in lookups.iter_mut().filter(|l| l.is_open() && l.due <= clock) {
            lookup.answered = true;
            found.push_back((lookup.number, lookup.answer()));
        }
        self.dials.found.len() > before
    }

    pub(super) fn dial(&mut self, to: &Address) -> io::Result<Stream> {
        let (mark, unix, at) = (mark_of(to), matches!(to, Address::Unix(_)), self.seen);
        let script = &self.script;
        let connecting = |d: &&Dial| {
            d.mark == mark
                && d.peer
                    .is_some_and(|p| script.peers[p].closed.is_none() && script.peers[p].dial == DialState::Pending)
        };
        let mut same = self.dials.dials.iter().filter(|d| d.mark == mark);
        // A failed attempt lets the next one begin at once.
        let failed = mark.and_then(|mark| self.dials.trouble.get(&mark).copied());
        let last = same.next_back().filter(connecting).map(|d| d.at);
        let beside = last.filter(|&at| failed.is_none_or(|failed| failed < at));
        let full = self.dials.closed || self.dials.dials.len() >= MOST_DIALS;
        let at_once = if full {
            Some(ECONNREFUSED)
        } else {
            let kinds: &[i32] = if unix { &[ECONNREFUSED, EAGAIN, 2, 24] } else { &[ECONNREFUSED, 101, 24, 99] };
            self.strikes_all(Fault::DialRefused).map(|dice| dice.pick(kinds))
        };
        if let Some(error) = at_once {
            self.script.dials.push_back(DialPlan::Fail(error));
        } else {
            self.begin_dial(unix);
        }
        let done = self.script.dial(to);
        let peer = done.as_ref().ok().map(Stream::peer);
        if let Some(peer) = peer {
            let window = self.dice.size(65_536);
            self.script.peers[peer].unix = unix;
            self.script.set_window(peer, window);
            if self.script.peers[peer].dial == DialState::Up {
                self.dials.born.push(peer);
            }
        }
        let shortage = done.as_ref().is_err_and(is_out_of_places);
        self.dials.dials.push(Dial { mark, peer, at, shortage, beside });
        self.record_trouble(mark, &done);
        done
    }

    /// Draws the result of the next connecting socket.
    fn begin_dial(&mut self, unix: bool) {
        let peer = self.facts.len();
        self.facts.push(Facts { state: State::Connecting, ..Facts::default() });
        if unix || self.dice.one_in(2) {
            return;
        }
        let late = |dice: &mut Dice, most: usize| dice.size(most) as u64;
        let mut after = late(&mut self.dice, 20 * MS);
        if let Some(dice) = self.strikes(Fault::DialSlow, peer) {
            after = late(dice, 60_000 * MS);
        }
        if self.strikes(Fault::DialSilent, peer).is_some() {
            after = u64::MAX;
        }
        let error = self.strikes(Fault::DialFails, peer).map(|dice| dice.pick(&[ECONNREFUSED, 113, 110, 101]));
        self.script.dials.push_back(DialPlan::Later);
        self.dials.pending.push((self.script.clock.saturating_add(after), peer, error));
    }

    /// May report a spurious event for a socket that was just registered.
    pub(super) fn mislead(&mut self, peer: usize, token: usize) {
        if self.script.peers[peer].dial == DialState::Pending
            && let Some(dice) = self.strikes(Fault::DialSpurious, peer)
        {
            let bits = dice.pick(&[Ready::WRITABLE, Ready::WRITABLE | Ready::HINT, Ready::READABLE, 15]);
            self.script.inject(token, bits);
        }
    }

    pub(super) fn dial_done(&mut self, stream: &mut Stream) -> io::Result<Address> {
        let done = self.script.finish_connect(stream);
        let peer = stream.peer();
        let now = self.seen;
        let f = &mut self.facts[peer];
        (f.told_error, f.told_readable) = (false, f.told_readable && done.is_ok());
        if done.is_ok() {
            (f.moved, f.heard, f.wrote) = (now, now, now);
        }
        let mark = self.dial_of(peer).and_then(|d| d.mark);
        self.record_trouble(mark, &done);
        done
    }

    /// Records an error that the loop gets.
    pub(super) fn record_trouble<T>(&mut self, mark: Option<u64>, done: &io::Result<T>) {
        if let Err(error) = done
            && error.kind() != ErrorKind::WouldBlock
        {
            self.dials.told.push((mark, error.kind()));
            self.dials.trouble.extend(mark.map(|mark| (mark, self.seen)));
        }
    }

    pub(super) fn look_up(&mut self, number: u64, host: &str, port: u16) -> io::Result<()> {
        let mark = mark_of_name(host);
        if self.strikes_all(Fault::LookupRefused).is_some() {
            let done = Err(io::Error::new(ErrorKind::OutOfMemory, "no thread"));
            self.record_trouble(mark, &done);
            return done;
        }
        self.script.begin_lookup(number, host, port)?;
        let mut after = self.dice.size(50 * MS) as u64;
        if let Some(dice) = self.strikes_all(Fault::LookupSlow) {
            after = dice.size(60_000 * MS) as u64;
        }
        if self.strikes_all(Fault::LookupSilent).is_some() {
            after = u64::MAX;
        }
        let fails = self.strikes_all(Fault::LookupFails).is_some();
        let addresses = self.strikes_all(Fault::LookupMany).map_or(1, |dice| dice.between(2, 8));
        let (at, due) = (self.seen, self.script.clock.saturating_add(after));
        let (answered, cancelled) = (false, false);
        self.dials.lookups.push(Lookup { number, mark, at, due, answered, cancelled, fails, addresses });
        self.dials.most_lookups = self.dials.most_lookups.max(self.looking());
        Ok(())
    }

    pub(super) fn take_lookup(&mut self) -> Option<(u64, io::Result<Vec<SocketAddr>>)> {
        let (number, answer) = self.dials.found.pop_front()?;
        let mark = self.dials.lookups.iter().rfind(|l| l.number == number).and_then(|l| l.mark);
        self.record_trouble(mark, &answer);
        self.content = fold(self.content, answer.as_ref().map_or(0, |a| a.len() as u64));
        Some((number, answer))
    }

    /// Cancels a lookup. If one is just being answered, the answer may still be delivered.
    pub(super) fn end_lookup(&mut self, number: u64) {
        let waits = |l: &Lookup| l.number == number && l.is_open() && !l.cancelled;
        if let Some(i) = self.dials.lookups.iter().position(waits) {
            let late = self.strikes_all(Fault::LookupLate).is_some();
            let soon = self.script.clock.saturating_add(self.dice.size(20 * MS) as u64);
            let lookup = &mut self.dials.lookups[i];
            lookup.cancelled = true;
            (lookup.answered, lookup.due) = (!late, lookup.due.min(soon));
        }
        self.dials.found.retain(|(other, _)| *other != number);
    }
}
