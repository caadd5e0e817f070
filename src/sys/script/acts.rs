//! What clients and the network do in the scripted world.
//!
//! Knows the pipes and which event each change is due, and not what the loop makes of either. Invariant: whatever is
//! done here that a call on the socket would tell gives an edge.

use super::peer::{ECONNRESET, EPIPE, End, Peer, Sent};
use super::{Ready, Script};

impl Script {
    /// A client connects to a listener.
    pub(crate) fn connect(&mut self, listener: usize) -> usize {
        let peer = Peer { window: usize::MAX, readable_armed: true, ..Peer::default() };
        self.peers.push(peer);
        let backlog = &mut self.listeners[listener];
        backlog.waiting.push_back(self.peers.len() - 1);
        let armed = std::mem::take(&mut backlog.armed);
        if let Some(token) = backlog.token.filter(|_| armed || !self.strict) {
            self.inject(token, Ready::READABLE);
        }
        self.peers.len() - 1
    }

    pub(crate) fn send(&mut self, peer: usize, data: &[u8]) {
        let p = &mut self.peers[peer];
        if p.closed.is_some() {
            // Nobody is there to read it.
            p.cut_off = true;
            return;
        }
        match p.sent.back_mut() {
            Some(Sent::Bytes(b)) => b.extend(data),
            _ => p.sent.push_back(Sent::Bytes(data.iter().copied().collect())),
        }
        self.arrived(peer, Ready::READABLE);
    }

    /// An urgent byte, or on a Unix stream a passed descriptor, of which nothing is told.
    pub(crate) fn send_urgent(&mut self, peer: usize) {
        self.peers[peer].put_urgent();
        self.arrived(peer, Ready::READABLE);
    }

    pub(crate) fn fin(&mut self, peer: usize) {
        self.peers[peer].sent.push_back(Sent::Fin);
        self.arrived(peer, Ready::READABLE);
    }

    /// The peer breaks the connection off. What it sent before can still be read, then the error; behind a FIN only
    /// writes tell (on a Unix stream reads, too), and behind both FINs nothing does.
    pub(crate) fn reset(&mut self, peer: usize) {
        let p = &mut self.peers[peer];
        if p.got_fin && p.has_finished() && !p.unix {
            return;
        }
        p.dead = true;
        p.error = Some(if p.has_finished() && !p.unix { EPIPE } else { ECONNRESET });
        if !p.has_finished() {
            p.sent.push_back(Sent::Reset);
        }
        self.broke(peer);
    }

    /// Everything is ready on a connection that broke.
    fn broke(&mut self, peer: usize) {
        let writable = !self.strict || std::mem::take(&mut self.peers[peer].writable_armed);
        let writable = if writable { Ready::WRITABLE } else { 0 };
        self.arrived(peer, Ready::READABLE | Ready::HINT | writable);
    }

    /// The network gives up: what was not read is lost, and the next call is told this error.
    pub(crate) fn network_fails(&mut self, peer: usize, error: i32) {
        let p = &mut self.peers[peer];
        let finished = p.has_finished();
        p.sent.clear();
        p.sent.push_back(if finished { Sent::Fin } else { Sent::Reset });
        (p.dead, p.error, p.cut_off, p.end) = (true, Some(error), true, Some(End::Reset));
        self.broke(peer);
    }

    /// The peer closes both directions: FIN, or a reset if it leaves something unread. What is written to it later is
    /// answered with a reset; on a Unix stream nothing can be.
    pub(crate) fn hang_up(&mut self, peer: usize) {
        let p = &mut self.peers[peer];
        if p.taken < p.got.len() {
            return self.reset(peer);
        }
        if p.unix {
            p.dead = true;
            p.sent.push_back(Sent::Fin);
            return self.broke(peer);
        }
        p.deaf = true;
        if !p.has_finished() {
            self.fin(peer);
        }
    }

    /// The peer takes up to `most` bytes of what it got, which makes window for as many. Answers how many.
    pub(crate) fn take(&mut self, peer: usize, most: usize) -> usize {
        let p = &mut self.peers[peer];
        let n = most.min(p.got.len() - p.taken);
        p.taken += n;
        let window = p.window.saturating_add(n);
        self.set_window(peer, window);
        n
    }

    /// Lets the kernel take this many more bytes, and no more.
    pub(crate) fn set_window(&mut self, peer: usize, window: usize) {
        self.peers[peer].window = window;
        if window > 0 && std::mem::take(&mut self.peers[peer].writable_armed) {
            self.arrived(peer, Ready::WRITABLE);
        }
    }
}
