//! The clients on a stage: what they do, what they have received, and what has become of their connections.
//!
//! Knows nothing of transcripts. Invariant: what a client received is given out once, in order, and is never lost.

use super::parties::{Client, Fate};
use super::{Done, Stage};
use crate::closed::Reason;
use crate::connection::Phase;
use crate::handler::Handler;
use crate::sys::script::{End, Script};
use crate::testing::checked_handler::Record;

impl<H: Handler> Stage<H> {
    /// The client of this name.
    pub(super) fn find(&self, name: &str) -> Done<usize> {
        let found = self.clients.iter().position(|c| c.name == name);
        found.ok_or_else(|| format!("there is no client {name}: connect it first"))
    }

    /// The client of this name, when all that was set going is done.
    pub(super) fn at_rest(&mut self, name: &str) -> Done<usize> {
        let i = self.find(name)?;
        self.rest()?;
        Ok(i)
    }

    /// Connects a client, for the first time or once more.
    pub(super) fn bring(&mut self, name: &str) -> Done<usize> {
        self.rest()?;
        let known = self.find(name).ok();
        if let Some(i) = known {
            let fate = self.fate(i);
            if !matches!(fate, Fate::Ended(_)) {
                return Err(format!("{name} is connected already: {fate}"));
            }
            if !self.unheard(i).is_empty() {
                return Err(format!("{name} cannot connect anew: nobody has asked for what it received"));
            }
        }
        if self.shut {
            return Err(format!(
                "{name} cannot connect: the reactor was told to stop, and listens no longer"
            ));
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
        let (client, fate) = (&self.clients[i], self.fate(i));
        if matches!(fate, Fate::Ended(_)) {
            return Err(format!("{} cannot send: {fate}", client.name));
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
        let wire = codec.encode(message).map_err(|e| format!("{name} cannot say that: {e}"))?;
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

    /// Lets those close that see that the reactor has closed. True if any did.
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

    /// What a client has received and nobody has asked for.
    pub(super) fn unheard(&mut self, i: usize) -> &mut Vec<u8> {
        let client = &mut self.clients[i];
        client.unheard.append(&mut self.inner.sys.peers[client.peer].got);
        &mut client.unheard
    }

    /// All of that, taken. A message that was cut short by it is forgotten.
    pub(super) fn take_heard(&mut self, i: usize) -> Vec<u8> {
        self.clients[i].ear = self.codec.as_ref().map(|codec| codec.ear());
        std::mem::take(self.unheard(i))
    }

    /// The next whole message, taken.
    pub(super) fn next_message(&mut self, i: usize) -> Done<Option<Vec<u8>>> {
        self.unheard(i);
        let client = &mut self.clients[i];
        let ear = client.ear.as_mut().ok_or(NO_CODEC)?;
        ear.hear(&mut client.unheard).map_err(|e| format!("{} received no message: {e}", client.name))
    }

    /// What the handler saw of a client.
    pub(super) fn seen(&self, i: usize) -> Option<&Record> {
        self.inner.dispatcher.get(self.key)?.record(self.clients[i].peer)
    }

    pub(super) fn fate(&self, i: usize) -> Fate {
        let gone = self.inner.sys.peers[self.clients[i].peer].closed.is_some();
        match self.seen(i) {
            // No callback for it, and it is gone: it was refused.
            None if gone => Fate::Ended(Reason::AtCapacity),
            None => Fate::Waiting,
            Some(seen) => match &seen.closed {
                Some(closed) => Fate::Ended(closed.why.clone()),
                // The first callback, and not the last: the first one panicked.
                None if gone => Fate::Ended(Reason::HandlerPanic),
                None if self.phase(i) == Some(Phase::Open) => Fate::Open,
                None => Fate::Closing,
            },
        }
    }

    /// A reset is seen even behind our end, where it is no news to who only reads.
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
        let ended = matches!(self.fate(i), Fate::Ended(_));
        let client = &mut self.clients[i];
        client.finished = true;
        if !ended {
            act(&mut self.inner.sys, client.peer);
        }
        self.rest()
    }
}

const NO_CODEC: &str = "clients have no codec: give them one with `speak`";
