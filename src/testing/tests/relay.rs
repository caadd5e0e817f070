//! A relay: connects each client to another peer, and forwards the data between the two.
//!
//! Invariant: both directions are linked, so that backpressure limits unsent data; bytes arrive in order and once.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use crate::closed::{Closed, Reason};
use crate::config::connect::Connect;
use crate::config::limits::{LEAST_READ, Limits};
use crate::connection::{Origin, Phase};
use crate::core::Sent;
use crate::handler::Handler;
use crate::handler::context::Context;
use crate::handler::net::Net;
use crate::id::{AttemptId, ConnId};
use crate::reactor::audit::require;
use crate::sys::script::{End, peer_at};
use crate::sys::sim::{Dice, marked};
use crate::testing::checked_handler::Record;
use crate::testing::oracle::Oracle;
use crate::testing::run::Play;
use crate::testing::view::View;

#[derive(Debug)]
pub(super) struct Relay {
    dice: Dice,
    /// The clients that wait for a connection, by the tag of the connect job.
    waiting: BTreeMap<u64, (ConnId, AttemptId)>,
    others: BTreeMap<ConnId, ConnId>,
    /// Pairs of connected peers, by their indexes; and whether data of either could not be forwarded.
    pairs: Vec<([usize; 2], [bool; 2])>,
    tags: u64,
}

impl Relay {
    pub(super) fn new(dice: Dice) -> Self {
        let (waiting, others) = (BTreeMap::new(), BTreeMap::new());
        Self { dice, waiting, others, pairs: Vec::new(), tags: 0 }
    }

    /// Requests a connection for a client.
    fn call(&mut self, cx: &mut Context<'_>) {
        let tag = self.tags;
        self.tags += 1;
        let to = match self.dice.one_in(2) {
            true => Connect::new(format!("mark{tag}:7")),
            false => Connect::new(marked(tag, 0, false)),
        };
        let to = to.timeout(Duration::from_millis(self.dice.size(20_000) as u64));
        match cx.connect(to, tag) {
            Some(attempt) => {
                cx.pause();
                self.waiting.insert(tag, (cx.id(), attempt));
            }
            None => cx.close(),
        }
    }

    fn pair(&mut self, cx: &mut Context<'_>, tag: u64) {
        let (up, down) = (cx.id(), self.waiting.remove(&tag).map(|(id, _)| id));
        let Some(down) = down.filter(|&id| cx.is_open(id)) else { return cx.close() };
        cx.link(up, down);
        cx.link(down, up);
        cx.resume_id(down);
        self.others.extend([(up, down), (down, up)]);
        let peer = |id| cx.peer_of(id).and_then(|a| peer_at(&a)).unwrap_or(usize::MAX);
        self.pairs.push(([peer(down), peer(up)], [false; 2]));
    }

    fn refused(&mut self, from: Option<usize>) {
        for (pair, refused) in &mut self.pairs {
            if let Some(side) = pair.iter().position(|&p| Some(p) == from) {
                refused[side] = true;
            }
        }
    }
}

impl Handler for Relay {
    type State = ();

    fn on_open(&mut self, cx: &mut Context<'_>) {
        match cx.origin() {
            Origin::Accepted(_) => self.call(cx),
            Origin::Connected(tag) => self.pair(cx, tag),
        }
    }

    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
        let sent = self.others.get(&cx.id()).map(|&other| cx.send_to(other, data));
        if sent != Some(Sent::Queued) {
            self.refused(peer_at(&cx.peer()));
        }
    }

    fn on_end(&mut self, cx: &mut Context<'_>, _state: &mut ()) {
        match self.others.get(&cx.id()) {
            Some(&other) => drop(cx.close_id(other)),
            None => cx.close(),
        }
    }

    fn on_connect_failed(&mut self, net: &mut Net<'_>, tag: u64, _error: &io::Error) {
        if let Some((id, _)) = self.waiting.remove(&tag) {
            net.close_id(id);
        }
    }

    fn on_close(&mut self, net: &mut Net<'_>, _state: (), closed: &Closed) {
        if let Some(other) = self.others.remove(&closed.who) {
            self.others.remove(&other);
            match closed.why {
                Reason::PeerReset | Reason::Io(_) => net.close_with_reset_id(other),
                _ => net.close_id(other),
            };
        }
        let asked = self.waiting.iter().find(|(_, (id, _))| *id == closed.who).map(|(tag, _)| *tag);
        if let Some((_, attempt)) = asked.and_then(|tag| self.waiting.remove(&tag)) {
            net.cancel_connect(attempt);
        }
    }
}

pub(super) struct Relaying;

impl Play for Relaying {
    type H = Relay;

    fn handler(&self, dice: &mut Dice) -> Relay {
        Relay::new(Dice::new(dice.roll()))
    }

    fn reserve(&self, limits: &Limits) -> usize {
        usize::from(limits.check_reserve(1).is_ok())
    }

    fn says(&self, dice: &mut Dice, most: usize) -> Vec<u8> {
        dice.bytes(most)
    }

    fn check(&self, view: &View<Relay>, _oracle: &Oracle, over: bool) -> Result<(), String> {
        let core = &view.inner.dispatcher.core;
        let Some(checked) = view.checked() else { return Ok(()) };
        let most = core.limits.output_high + LEAST_READ;
        for id in checked.inner.others.keys() {
            let open = core.conns.get(*id).filter(|c| c.phase == Phase::Open);
            let waits = open.map_or(0, |c| c.out.pending());
            require(waits < most, || format!("N9: {waits} B wait for {id}, which is only fed"))?;
        }
        for ([down, up], [lost_down, lost_up]) in checked.inner.pairs.iter().filter(|_| over) {
            check_direction(view, *down, *up, *lost_down)?;
            check_direction(view, *up, *down, *lost_up)?;
        }
        Ok(())
    }
}

/// N1: each peer gets what the other one sent: all of it if its input was read to the end and nothing was lost.
fn check_direction(view: &View<Relay>, from: usize, to: usize, lost: bool) -> Result<(), String> {
    let client = |peer| view.clients.iter().find(|c| c.peer == Some(peer));
    let (Some(speaker), Some(hearer), Some(checked)) = (client(from), client(to), view.checked()) else {
        return Ok(());
    };
    let (said, heard) = (&speaker.says[..speaker.said], hearer.received(&view.inner.sys));
    require(said.starts_with(heard), || format!("N1: {to} has not heard what {from} said"))?;
    let sent_all = |r: &Record| r.closed.as_ref().is_some_and(|c| c.unsent == 0);
    let ended = checked.record(from).is_some_and(|r| r.ended);
    let whole = hearer.is_here() && view.inner.sys.script.peers[to].end() == Some(End::Fin);
    // If the network fails after its FIN, its data may be lost without an error.
    let whole = whole && speaker.is_here() && ended && !lost && checked.record(to).is_some_and(sent_all);
    require(!whole || said == heard, || format!("N1: {to} heard {} of {} B of {from}", heard.len(), said.len()))
}
