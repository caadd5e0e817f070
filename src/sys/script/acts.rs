//! The actions of clients and of the network in the scripted system.
//!
//! Changes the pipes and queues the event that each change owes. Invariant: every change that a call on the socket
//! could observe triggers an edge.

use super::peer::{ECONNRESET, EPIPE, End, Peer, Sent};
use super::{Listener, Ready, Script};

impl Script {
    /// Connects a client to a listener; returns its index.
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
            // The loop has closed the stream: the data is answered with RST.
            p.cut_off = true;
            return;
        }
        match p.sent.back_mut() {
            Some(Sent::Bytes(b)) => b.extend(data),
            _ => p.sent.push_back(Sent::Bytes(data.iter().copied().collect())),
        }
        self.arrived(peer, Ready::READABLE);
    }

    /// Sends an urgent byte; on a Unix stream a passed descriptor, which no event reports.
    pub(crate) fn send_urgent(&mut self, peer: usize) {
        self.peers[peer].put_urgent();
        self.arrived(peer, Ready::READABLE);
    }

    pub(crate) fn fin(&mut self, peer: usize) {
        self.peers[peer].sent.push_back(Sent::Fin);
        self.arrived(peer, Ready::READABLE);
    }

    /// Resets the connection from the peer's side. Data sent before can still be read, then the error follows. After
    /// the peer's FIN only writes return the error (on a Unix stream reads as well), and after both FINs nothing
    /// does.
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

    /// Queues the event of a failed connection: readable, writable and a hint.
    fn broke(&mut self, peer: usize) {
        let writable = !self.strict || std::mem::take(&mut self.peers[peer].writable_armed);
        let writable = if writable { Ready::WRITABLE } else { 0 };
        self.arrived(peer, Ready::READABLE | Ready::HINT | writable);
    }

    /// Fails the connection in the network: unread data is lost, and the next call returns this error.
    pub(crate) fn network_fails(&mut self, peer: usize, error: i32) {
        let p = &mut self.peers[peer];
        let finished = p.has_finished();
        p.sent.clear();
        p.sent.push_back(if finished { Sent::Fin } else { Sent::Reset });
        (p.dead, p.error, p.cut_off, p.end) = (true, Some(error), true, Some(End::Reset));
        self.broke(peer);
    }

    /// Closes the peer's socket: FIN, or RST if it leaves data unread. What the loop writes afterwards is answered
    /// with RST; on a Unix stream the write fails.
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

    /// Reads up to `most` bytes at the peer, which opens the window by as many. Returns how many.
    pub(crate) fn take(&mut self, peer: usize, most: usize) -> usize {
        let p = &mut self.peers[peer];
        let n = most.min(p.got.len() - p.taken);
        p.taken += n;
        let window = p.window.saturating_add(n);
        self.set_window(peer, window);
        n
    }

    /// Sets how many more bytes the kernel accepts from the loop.
    pub(crate) fn set_window(&mut self, peer: usize, window: usize) {
        self.peers[peer].window = window;
        if window > 0 && std::mem::take(&mut self.peers[peer].writable_armed) {
            self.arrived(peer, Ready::WRITABLE);
        }
    }

    /// Makes the next accepts of a listener fail with these errors, and reports it readable.
    pub(crate) fn accepts_fail(&mut self, listener: usize, errors: &[i32]) {
        self.listeners[listener].answers.extend(errors);
        if let Some(token) = self.listeners[listener].token {
            self.inject(token, Ready::READABLE);
        }
    }

    /// Makes the next accept of a listener fail with this error, without an event.
    pub(crate) fn accept_fails(&mut self, listener: &Listener, error: i32) {
        self.listeners[listener.0].answers.push_back(error);
    }

    pub(crate) fn listener_token(&self, listener: &Listener) -> Option<usize> {
        self.listeners[listener.0].token
    }

    /// Returns `true` if the listener is open.
    pub(crate) fn is_listening(&self, listener: usize) -> bool {
        self.listeners.get(listener).is_some_and(|l| !l.closed)
    }

    /// The number of connections in the backlogs of all open listeners.
    pub(crate) fn all_waiting(&self) -> usize {
        self.listeners.iter().filter(|l| l.token.is_some()).map(|l| l.waiting.len()).sum()
    }

    pub(crate) fn waiting(&self, listener: usize) -> usize {
        self.listeners[listener].waiting.len()
    }
}
