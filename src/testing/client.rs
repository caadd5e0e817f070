//! The clients of a simulated world: what each has to say, how it reads, and how it goes.
//!
//! Knows the world and not the loop. Invariant: a client says what it was given to say in order and once, and never
//! reads more than it got.

use std::fmt;

use crate::sys::script::End;
use crate::sys::sim::{Dice, Fault, Sim};

/// How a client left before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    Reset,
    /// It closed both directions at once.
    HungUp,
    /// The network between them failed.
    Network,
}

/// How far a client has come, for the trace.
#[derive(Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "it is read by being shown")]
pub(crate) struct Doing {
    peer: Option<usize>,
    said: usize,
    finished: bool,
    frozen: bool,
    gone: Option<Gone>,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) peer: Option<usize>,
    listener: usize,
    unix: bool,
    /// What it will say in all, and how much of it is said.
    pub(crate) says: Vec<u8>,
    pub(crate) said: usize,
    /// Bytes said at a time, read at a time, and held for it by the kernels either way.
    piece: usize,
    sip: usize,
    window: usize,
    unread: usize,
    /// It finishes as soon as all is said, and not only at the end.
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
    /// A client of some kind: fast or slow at either, with large or small buffers.
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

    /// How far it has come.
    pub(crate) const fn doing(&self) -> Doing {
        Doing {
            peer: self.peer,
            said: self.said,
            finished: self.finished,
            frozen: self.frozen,
            gone: self.gone,
        }
    }

    /// Whether it has not left, nor been told to.
    pub(crate) fn is_here(&self) -> bool {
        self.peer.is_some() && self.gone.is_none()
    }

    /// Whether its listener is there, as long as it matters.
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

    /// Does one thing or another.
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
        // A second urgent byte would make the first an ordinary one, of which the script knows nothing.
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

    /// Says up to `most` bytes more, as far as the kernels hold them.
    pub(crate) fn say(&mut self, sim: &mut Sim, most: usize) {
        let Some(peer) = self.peer.filter(|_| !self.finished) else { return };
        let space = self.unread.saturating_sub(sim.script.unread(peer));
        let n = most.min(space).min(self.says.len() - self.said);
        if n > 0 {
            sim.script.send(peer, &self.says[self.said..self.said + n]);
            self.said += n;
        }
    }

    /// Reads up to `most` bytes; at the end it closes its own side.
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

    /// What it has read.
    pub(crate) fn received<'a>(&self, sim: &'a Sim) -> &'a [u8] {
        self.peer.map_or(&[], |peer| {
            let p = &sim.script.peers[peer];
            &p.got[..p.taken]
        })
    }
}
