//! The clients of a simulated run: what each sends, how it reads, and how it leaves.
//!
//! Invariant: a client sends its data once and in order, and never reads more than it got.

use std::fmt;

use crate::sys::script::End;
use crate::sys::sim::{Dice, Fault, Sim};

/// How a client left before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    Reset,
    /// It closed its socket.
    HungUp,
    /// The network failed.
    Network,
}

/// The progress of a client, for the trace.
#[derive(Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "it is read by being shown")]
pub(crate) struct Doing {
    peer: Option<usize>,
    said: usize,
    finished: bool,
    frozen: bool,
    gone: Option<Gone>,
}

/// One simulated client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) peer: Option<usize>,
    listener: usize,
    unix: bool,
    /// All the data that it will send, and how much of it has been sent.
    pub(crate) says: Vec<u8>,
    pub(crate) said: usize,
    /// The bytes that it sends and reads at a time, and the sizes of the kernel's buffers in either direction.
    piece: usize,
    sip: usize,
    window: usize,
    unread: usize,
    /// It finishes (FIN) as soon as everything is sent, not only at the end of the run.
    finishes: bool,
    pub(crate) finished: bool,
    pub(crate) frozen: bool,
    pub(crate) gone: Option<Gone>,
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listener, unix, piece, sip, window, unread, finishes, .. } = self;
        let kind = if *unix { "Unix" } else { "TCP" };
        write!(f, "{kind}, at listener {listener}, says {} B, {piece} B at a time, ", self.says.len())?;
        write!(f, "reads {sip} B at a time, buffers {window} and {unread} B, finishes early: {finishes}")
    }
}

impl Client {
    /// Draws a client: fast or slow in either direction, with large or small buffers.
    pub(crate) fn draw(dice: &mut Dice, says: Vec<u8>, listeners: usize, least: usize) -> Self {
        let mut size = |max: usize| dice.size(max).max(least.min(max));
        let (piece, sip, window, unread) = (size(4096), size(4096), size(65_536), size(65_536));
        Self {
            peer: None,
            listener: dice.below(listeners),
            unix: dice.one_in(4),
            says,
            said: 0,
            piece,
            sip,
            window,
            unread,
            finishes: dice.one_in(2),
            finished: false,
            frozen: false,
            gone: None,
        }
    }

    /// Returns its progress.
    pub(crate) const fn doing(&self) -> Doing {
        Doing { peer: self.peer, said: self.said, finished: self.finished, frozen: self.frozen, gone: self.gone }
    }

    /// Returns `true` if it has connected and has not left.
    pub(crate) fn is_here(&self) -> bool {
        self.peer.is_some() && self.gone.is_none()
    }

    /// Returns `true` if it has been accepted, or its listener is still open.
    pub(crate) fn finds_listener(&self, sim: &Sim) -> bool {
        self.peer.is_some_and(|p| sim.script.peers[p].accepted) || sim.script.is_listening(self.listener)
    }

    pub(crate) fn connect(&mut self, sim: &mut Sim) {
        let peer = sim.connect(self.listener, self.window, self.unix);
        self.peer = Some(peer);
        if sim.strikes(Fault::PeerEarly, peer).is_some() {
            self.leave(sim, Gone::Reset);
        }
    }

    /// Acts at random.
    pub(crate) fn act(&mut self, sim: &mut Sim) {
        let Some(peer) = self.peer else {
            if sim.dice.one_in(8) {
                self.connect(sim);
            }
            return;
        };
        if self.gone.is_some() || self.frozen {
            return;
        }
        // A second urgent byte would make the first an ordinary one, which is not part of the client's data.
        let may_urge = !self.finished && !sim.script.peers[peer].has_urgent();
        if sim.script.peers[peer].dead {
            self.gone = Some(Gone::Network);
        } else if sim.strikes(Fault::PeerReset, peer).is_some() {
            self.leave(sim, Gone::Reset);
        } else if sim.strikes(Fault::PeerHangUp, peer).is_some() {
            self.leave(sim, Gone::HungUp);
        } else if sim.strikes(Fault::Network, peer).is_some() {
            sim.network_fails(peer);
            self.gone = Some(Gone::Network);
        } else if sim.strikes(Fault::PeerFreezes, peer).is_some() {
            self.frozen = true;
        } else if may_urge && sim.strikes(Fault::PeerUrgent, peer).is_some() {
            sim.script.send_urgent(peer);
        } else if sim.dice.one_in(2) {
            let sip = sim.dice.between(1, self.sip);
            self.read(sim, sip);
        } else {
            let piece = sim.dice.between(1, self.piece);
            self.say(sim, piece);
            if self.said == self.says.len() && self.finishes {
                self.finish(sim);
            }
        }
    }

    /// Sends up to `most` more bytes, as far as the kernel's buffers have space.
    pub(crate) fn say(&mut self, sim: &mut Sim, most: usize) {
        let Some(peer) = self.peer.filter(|_| !self.finished) else { return };
        let space = self.unread.saturating_sub(sim.script.unread(peer));
        let n = most.min(space).min(self.says.len() - self.said);
        if n > 0 {
            sim.script.send(peer, &self.says[self.said..self.said + n]);
            self.said += n;
        }
    }

    /// Reads up to `most` bytes. At the end of input it closes its own side.
    pub(crate) fn read(&mut self, sim: &mut Sim, most: usize) {
        let Some(peer) = self.peer else { return };
        sim.script.take(peer, most);
        let p = &sim.script.peers[peer];
        if p.taken < p.got.len() {
            return;
        }
        match p.end() {
            Some(End::Fin) => self.finish(sim),
            Some(End::Reset) => self.gone = Some(Gone::Network),
            None => {}
        }
    }

    /// Sends FIN.
    pub(crate) fn finish(&mut self, sim: &mut Sim) {
        if let Some(peer) = self.peer.filter(|_| !self.finished && self.gone.is_none()) {
            self.finished = true;
            sim.script.fin(peer);
        }
    }

    pub(crate) fn leave(&mut self, sim: &mut Sim, how: Gone) {
        let Some(peer) = self.peer.filter(|_| self.gone.is_none()) else { return };
        self.gone = Some(how);
        match how {
            Gone::HungUp => {
                self.finished = true;
                sim.script.hang_up(peer);
            }
            Gone::Reset | Gone::Network => sim.script.reset(peer),
        }
    }

    /// Returns the data that it has read.
    pub(crate) fn received<'a>(&self, sim: &'a Sim) -> &'a [u8] {
        self.peer.map_or(&[], |peer| {
            let p = &sim.script.peers[peer];
            &p.got[..p.taken]
        })
    }
}
