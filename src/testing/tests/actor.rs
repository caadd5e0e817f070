//! A handler that misbehaves, and knows what must come of it: it does anything in any callback, and writes down what it
//! has sent to whom.

use std::collections::BTreeMap;

use crate::closed::{Closed, Reason};
use crate::core::Sent;
use crate::group::SlowMember;
use crate::handler::{Context, Handler, Net};
use crate::id::{ConnId, Group};
use crate::sys::sim::Dice;

/// Bytes that an actor sends at most, in all, and for each byte that may be written in a turn.
const BREATH: usize = 200_000;
const TURNS: usize = 300;

/// How an actor behaves: in how many of a hundred callbacks it does each thing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Temper {
    pub(super) answer: usize,
    pub(super) broadcast: usize,
    pub(super) whisper: usize,
    pub(super) groups: usize,
    pub(super) close: usize,
    pub(super) abort: usize,
    pub(super) pause: usize,
    pub(super) half_close: usize,
    pub(super) panic: usize,
    pub(super) rest: usize,
    /// It does not close when its peer has finished.
    pub(super) stay: usize,
    /// The longest message.
    pub(super) longest: usize,
}

impl Temper {
    /// Half of everything is left out.
    pub(super) fn draw(dice: &mut Dice) -> Self {
        let stay = if dice.one_in(2) { dice.between(50, 100) } else { 0 };
        let mut some = |most: usize| if dice.one_in(2) { dice.size(most) } else { 0 };
        Self {
            answer: 20 + some(80),
            broadcast: some(80),
            whisper: some(60),
            groups: some(50),
            close: some(10),
            abort: some(10),
            pause: some(20),
            half_close: some(5),
            panic: some(5),
            rest: some(30),
            stay,
            longest: 1 + some(3_000),
        }
    }
}

/// A message that an actor sent, as one receiver must see it.
#[derive(Clone, Debug)]
pub(super) struct Owed {
    pub(super) text: Vec<u8>,
    /// Its group may have let it miss this one.
    pub(super) may_miss: bool,
}

/// What an actor knows of one connection.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) owed: Vec<Owed>,
    /// Bytes of messages that were refused for want of room.
    pub(super) refused: usize,
    pub(super) told_to_end: bool,
    pub(super) aborted: bool,
    half_closed: bool,
}

#[derive(Debug)]
pub(super) struct Actor {
    dice: Dice,
    temper: Temper,
    groups: Vec<(Group, SlowMember)>,
    /// Everyone who was ever there: their ids are tried for ever.
    ids: Vec<ConnId>,
    pub(super) ledgers: BTreeMap<ConnId, Ledger>,
    serial: u64,
    /// Bytes that it will still send: it must not answer its own answers for ever, nor send more than can be written.
    breath: usize,
    /// What ends a message where nothing frames it.
    ending: &'static [u8],
    pub(super) wrong: Vec<String>,
}

impl Actor {
    pub(super) fn new(dice: Dice, temper: Temper, framed: bool) -> Self {
        Self {
            dice,
            temper,
            groups: Vec::new(),
            ids: Vec::new(),
            ledgers: BTreeMap::new(),
            serial: 0,
            breath: BREATH,
            ending: if framed { b"" } else { b"\n" },
            wrong: Vec::new(),
        }
    }

    fn chance(&mut self, of_hundred: usize) -> bool {
        self.dice.below(100) < of_hundred
    }

    /// A message like no other.
    fn message(&mut self) -> Vec<u8> {
        self.serial += 1;
        let fill = self.dice.size(self.temper.longest);
        let mut text = format!("{:x}.", self.serial).into_bytes();
        text.extend((0..fill).map(|_| b'a' + self.dice.below(26) as u8));
        text.extend(self.ending);
        self.breath = self.breath.saturating_sub(text.len());
        text
    }

    fn someone(&mut self, me: Option<ConnId>) -> ConnId {
        let n = self.ids.len();
        let last = n.saturating_sub(8);
        match me.filter(|_| self.dice.one_in(3)) {
            Some(me) => me,
            None if self.dice.one_in(4) => self.ids[self.dice.below(n)],
            None => self.ids[self.dice.between(last, n - 1)],
        }
    }

    fn ledger(&mut self, id: ConnId) -> &mut Ledger {
        self.ledgers.entry(id).or_default()
    }

    fn sent(&mut self, net: &Net<'_>, id: ConnId, text: Vec<u8>, open: bool, sent: Sent) {
        let ledger = self.ledger(id);
        match sent {
            Sent::Queued => ledger.owed.push(Owed { text, may_miss: false }),
            Sent::Full => ledger.refused = ledger.refused.max(text.len()),
            Sent::Closed if open && !ledger.half_closed && net.is_open(id) => {
                let broken = net.core().conns.get(id).is_some_and(|c| c.broken);
                if !broken {
                    self.wrong.push(format!("{id} is open and takes nothing"));
                }
            }
            Sent::Closed | Sent::Unencodable => {}
        }
    }

    /// Sends to someone: copied, or by reference.
    fn whisper(&mut self, net: &mut Net<'_>, id: ConnId) {
        let (text, open) = (self.message(), net.is_open(id));
        let sent = match self.dice.one_in(4) {
            true => net.send_bytes_to(id, text.clone().into()),
            false => net.send_to(id, &text),
        };
        self.sent(net, id, text, open, sent);
    }

    fn change_groups(&mut self, net: &mut Net<'_>, me: Option<ConnId>) {
        if self.groups.is_empty() || self.dice.one_in(16) {
            let policy = self.dice.pick(&[SlowMember::Cut, SlowMember::Skip, SlowMember::PauseSenders]);
            self.groups.extend(net.group_with(policy).map(|g| (g, policy)));
        }
        if self.groups.is_empty() {
            return;
        }
        let at = self.dice.below(self.groups.len());
        let (group, _) = self.groups[at];
        let who = self.someone(me);
        match self.dice.below(16) {
            0 => {
                self.groups.swap_remove(at);
                net.drop_group(group);
            }
            1..4 => drop(net.leave_id(group, who)),
            _ => {
                let open = net.is_open(who);
                if net.join_id(group, who) && !open {
                    self.wrong.push(format!("{who} joined, and is not open"));
                }
            }
        }
    }

    fn broadcast(&mut self, cx: &mut Context<'_>) {
        if self.groups.is_empty() {
            return;
        }
        let (group, policy) = self.dice.pick(&self.groups);
        let text = self.message();
        let others = self.dice.one_in(2);
        let me = cx.id();
        let members: Vec<ConnId> = cx.members(group).filter(|&m| !(others && m == me)).collect();
        let reached = if others { cx.broadcast_others(group, &text) } else { cx.broadcast(group, &text) };
        if reached > members.len() {
            self.wrong.push(format!("reached {reached} of {}", members.len()));
        }
        let still: Vec<ConnId> = cx.members(group).filter(|&m| !(others && m == me)).collect();
        for id in members {
            let ledger = self.ledger(id);
            if reached > 0 && still.contains(&id) {
                ledger.owed.push(Owed { text: text.clone(), may_miss: policy == SlowMember::Skip });
            } else {
                ledger.refused = ledger.refused.max(text.len());
            }
        }
    }

    fn end_someone(&mut self, net: &mut Net<'_>, me: Option<ConnId>, abort: bool) {
        let id = self.someone(me);
        let ledger = self.ledger(id);
        ledger.told_to_end = true;
        ledger.aborted |= abort;
        let _ = if abort { net.abort_id(id) } else { net.close_id(id) };
    }

    /// Does anything.
    fn act(&mut self, cx: &mut Context<'_>) {
        self.breath = self.breath.min(TURNS * cx.core().limits.write_per_turn);
        if self.breath == 0 {
            self.temper = Temper { longest: 1, ..Temper::default() };
        }
        let (me, temper) = (cx.id(), self.temper);
        if self.chance(temper.groups) {
            self.change_groups(cx, Some(me));
        }
        if self.chance(temper.answer) {
            self.whisper(cx, me);
        }
        if self.chance(temper.broadcast) {
            self.broadcast(cx);
        }
        if self.chance(temper.whisper) {
            let id = self.someone(None);
            self.whisper(cx, id);
        }
        if self.chance(temper.pause) {
            let id = self.someone(Some(me));
            let _ = if self.dice.one_in(4) { cx.pause_id(id) } else { cx.resume_id(id) };
        }
        if self.chance(temper.half_close) {
            self.ledger(me).half_closed = true;
            cx.shutdown_write();
        }
        if self.chance(temper.close) {
            self.end_someone(cx, Some(me), false);
        }
        if self.chance(temper.abort) {
            self.end_someone(cx, Some(me), true);
        }
        if self.chance(temper.panic) {
            // Without the hook, which would print it.
            std::panic::resume_unwind(Box::new("an actor panics"));
        }
    }
}

impl Handler for Actor {
    type State = ();

    fn on_open(&mut self, cx: &mut Context<'_>) {
        self.ids.push(cx.id());
        // Where generations are few, the id may have come round.
        self.ledgers.insert(cx.id(), Ledger::default());
        self.act(cx);
    }

    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
        if self.chance(self.temper.rest) {
            let n = self.dice.between(0, data.len());
            if self.dice.one_in(2) { cx.keep(n) } else { cx.defer(n) }
        }
        cx.count_message();
        self.act(cx);
    }

    fn on_end(&mut self, cx: &mut Context<'_>, _state: &mut ()) {
        self.act(cx);
        match self.dice.below(100) {
            n if n >= self.temper.stay => {
                self.ledger(cx.id()).told_to_end = true;
                cx.close();
            }
            n if n % 2 == 0 => {
                self.ledger(cx.id()).half_closed = true;
                cx.shutdown_write();
            }
            _ => {}
        }
    }

    fn on_drain(&mut self, cx: &mut Context<'_>, _state: &mut ()) {
        self.act(cx);
    }

    fn on_shutdown(&mut self, cx: &mut Context<'_>, _state: &mut ()) {
        self.act(cx);
        if !self.dice.one_in(4) {
            self.ledger(cx.id()).told_to_end = true;
            cx.close();
        }
    }

    fn on_close(&mut self, net: &mut Net<'_>, _state: (), closed: &Closed) {
        let ledger = self.ledger(closed.who);
        let ended = ledger.told_to_end;
        if matches!(closed.why, Reason::Handler | Reason::Shutdown) && !ended {
            self.wrong.push(format!("N4: nobody ended {}", closed.who));
        }
        let sent = net.send_to(closed.who, b"x");
        if sent != Sent::Closed && sent != Sent::Full {
            self.wrong.push(format!("{} takes output in on_close", closed.who));
        }
        if self.chance(self.temper.whisper) {
            let id = self.someone(None);
            self.whisper(net, id);
        }
        if self.chance(self.temper.close) {
            self.end_someone(net, None, false);
        }
        if self.chance(self.temper.panic) {
            std::panic::resume_unwind(Box::new("an actor panics at the end"));
        }
    }
}
