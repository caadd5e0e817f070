//! The clients of a stage: their actions, what they have received, and the state of their connections.
//!
//! Invariant: received bytes are handed out once, in order, and are never lost.

use super::parties::{Client, ClientState};
use super::{Done, Stage};
use crate::closed::Reason;
use crate::connection::Phase;
use crate::handler::Handler;
use crate::sys::script::{End, Script};
use crate::testing::checked_handler::Record;

impl<H: Handler> Stage<H> {
    /// Returns the index of the client of this name.
    pub(super) fn find(&self, name: &str) -> Done<usize> {
        let found = self.clients.iter().position(|c| c.name == name);
        found.ok_or_else(|| format!("there is no client {name}: connect it first"))
    }

    /// Returns the index of the client of this name, once the loop is idle.
    pub(super) fn at_rest(&mut self, name: &str) -> Done<usize> {
        let i = self.find(name)?;
        self.rest()?;
        Ok(i)
    }

    /// Connects a client, for the first time or again.
    pub(super) fn bring(&mut self, name: &str) -> Done<usize> {
        self.rest()?;
        let known = self.find(name).ok();
        if let Some(i) = known {
            let state = self.state(i);
            if !matches!(state, ClientState::Ended(_)) {
                return Err(format!("{name} is connected already: {state}"));
            }
            if !self.unheard(i).is_empty() {
                return Err(format!("{name} cannot connect again: data that it received has not been consumed"));
            }
        }
        if self.shut {
            return Err(format!("{name} cannot connect: the reactor is shutting down and no longer listens"));
        }
        let ear = self.codec.as_ref().map(|codec| codec.ear());
        let client = Client::new(name.to_owned(), self.inner.sys.connect(0), ear);
        let i = known.unwrap_or(self.clients.len());
        match self.clients.get_mut(i) {
            Some(place) => *place = client,
            None => self.clients.push(client),
        }
        self.rest()?;
        Ok(i)
    }

    pub(super) fn send_from(&mut self, i: usize, bytes: &[u8]) -> Done {
        self.rest()?;
        let (client, state) = (&self.clients[i], self.state(i));
        if matches!(state, ClientState::Ended(_)) {
            return Err(format!("{} cannot send: {state}", client.name));
        }
        if client.finished {
            return Err(format!("{} cannot send: it has closed its end", client.name));
        }
        self.inner.sys.send(client.peer, bytes);
        self.rest()
    }

    pub(super) fn say_from(&mut self, i: usize, message: &[u8]) -> Done {
        let Some(codec) = &self.codec else { return Err(NO_CODEC.to_owned()) };
        let name = &self.clients[i].name;
        let wire = codec.encode(message).map_err(|e| format!("{name} cannot encode the message: {e}"))?;
        self.send_from(i, &wire)
    }

    pub(super) fn finish_from(&mut self, i: usize) -> Done {
        if self.clients[i].finished {
            return self.rest();
        }
        self.end_from(i, Script::fin)
    }

    pub(super) fn reset_from(&mut self, i: usize) -> Done {
        self.end_from(i, Script::reset)
    }

    pub(super) fn set_reading(&mut self, i: usize, reading: bool) -> Done {
        self.rest()?;
        let client = &mut self.clients[i];
        client.reading = reading;
        self.inner.sys.set_window(client.peer, if reading { usize::MAX } else { 0 });
        self.rest()
    }

    /// Closes the clients that see that the reactor has closed. Returns `true` if there were any.
    pub(super) fn answer_ends(&mut self) -> bool {
        let mut any = false;
        for i in 0..self.clients.len() {
            let client = &self.clients[i];
            if client.reading && !client.finished && self.phase(i) == Some(Phase::Lingering) {
                self.clients[i].finished = true;
                self.inner.sys.fin(self.clients[i].peer);
                any = true;
            }
        }
        any
    }

    /// The bytes that a client has received and that have not been consumed.
    pub(super) fn unheard(&mut self, i: usize) -> &mut Vec<u8> {
        let client = &mut self.clients[i];
        client.unheard.append(&mut self.inner.sys.peers[client.peer].got);
        &mut client.unheard
    }

    /// Takes all of them. Resets the decoder: a message that is cut short by this is dropped.
    pub(super) fn take_heard(&mut self, i: usize) -> Vec<u8> {
        self.clients[i].ear = self.codec.as_ref().map(|codec| codec.ear());
        std::mem::take(self.unheard(i))
    }

    /// Takes the next complete message.
    pub(super) fn next_message(&mut self, i: usize) -> Done<Option<Vec<u8>>> {
        self.unheard(i);
        let client = &mut self.clients[i];
        let ear = client.ear.as_mut().ok_or(NO_CODEC)?;
        ear.hear(&mut client.unheard).map_err(|e| format!("{} received an invalid message: {e}", client.name))
    }

    /// The record of the callbacks for a client.
    pub(super) fn seen(&self, i: usize) -> Option<&Record> {
        self.inner.dispatcher.get(self.key)?.record(self.clients[i].peer)
    }

    pub(super) fn state(&self, i: usize) -> ClientState {
        let gone = self.inner.sys.peers[self.clients[i].peer].closed.is_some();
        match self.seen(i) {
            // Closed without any callback: it was refused.
            None if gone => ClientState::Ended(Reason::AtCapacity),
            None => ClientState::Waiting,
            Some(seen) => match &seen.closed {
                Some(closed) => ClientState::Ended(closed.why.clone()),
                // `on_open` was called and `on_close` was not: `on_open` panicked.
                None if gone => ClientState::Ended(Reason::HandlerPanic),
                None if self.phase(i) == Some(Phase::Open) => ClientState::Open,
                None => ClientState::Closing,
            },
        }
    }

    /// Also reports a reset after our FIN, which a peer that only reads would not notice.
    pub(super) fn sees(&self, i: usize) -> Option<End> {
        let p = &self.inner.sys.peers[self.clients[i].peer];
        if p.cut_off { Some(End::Reset) } else { p.end() }
    }

    fn phase(&self, i: usize) -> Option<Phase> {
        let id = self.seen(i)?.id;
        self.inner.dispatcher.core.conns.get(id).map(|c| c.phase)
    }

    fn end_from(&mut self, i: usize, act: impl FnOnce(&mut Script, usize)) -> Done {
        self.rest()?;
        let ended = matches!(self.state(i), ClientState::Ended(_));
        let client = &mut self.clients[i];
        client.finished = true;
        if !ended {
            act(&mut self.inner.sys, client.peer);
        }
        self.rest()
    }
}

const NO_CODEC: &str = "clients have no codec: set one with `speak`";
