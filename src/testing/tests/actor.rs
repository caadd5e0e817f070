//! A handler that does anything in any callback, and records what each connection must receive.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::Bytes;

use super::connect_model::RunOptions;
use super::link_model::LinkModel;
use super::timer_model::TimerModel;
use crate::buffer::pieces::Pieces;
use crate::closed::{Closed, Reason};
use crate::core::Sent;
use crate::group::SlowMember;
use crate::handler::Handler;
use crate::handler::context::Context;
use crate::handler::net::Net;
use crate::id::{ConnId, Group, Key};
use crate::sys::sim::Dice;

/// The maximum bytes that an actor sends in all, and per byte of the write budget of a turn. Chosen to bound the
/// length of a run.
const BREATH: usize = 200_000;
const TURNS: usize = 300;
/// The bytes that a timer counts for, and the number of repeated timers. Chosen: timers must not keep a run going.
const TICK: usize = 50;
const FEW_TIMERS: usize = 16;

/// The behavior of an actor: the percentage of callbacks in which it does each thing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ActorPlan {
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
    /// It sends back part of its input.
    pub(super) echo: usize,
    pub(super) timers: usize,
    pub(super) asks: usize,
    pub(super) links: usize,
    /// It switches to itself.
    pub(super) switch: usize,
    /// The length of the longest message.
    pub(super) longest: usize,
}

impl ActorPlan {
    /// Draws a behavior: about half of the actions are disabled. One actor in four is loud, so that slow members are
    /// soon closed, and one in four requests many connections.
    pub(super) fn draw(dice: &mut Dice) -> Self {
        let stay = if dice.one_in(2) { dice.between(50, 100) } else { 0 };
        let (loud, eager) = (dice.one_in(4), dice.one_in(4));
        let mut some = |most: usize| if dice.one_in(2) { dice.size(most) } else { 0 };
        Self {
            answer: 20 + some(80),
            broadcast: if loud { 90 } else { some(80) },
            whisper: some(60),
            groups: if loud { 40 } else { some(50) },
            close: some(10),
            abort: some(10),
            pause: some(20),
            half_close: some(5),
            panic: some(5),
            rest: some(30),
            stay,
            echo: some(50),
            timers: some(60),
            asks: if eager { 90 } else { some(90) },
            links: some(60),
            switch: some(20),
            longest: if loud { 20_000 } else { 1 + some(3_000) },
        }
    }
}

/// A message that an actor sent, as one receiver must see it.
#[derive(Clone, Debug)]
pub(super) struct Unsent {
    pub(super) text: Vec<u8>,
    /// Its group may have skipped this message.
    pub(super) may_miss: bool,
}

/// An actor's record of one connection.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) expected: Vec<Unsent>,
    /// The bytes of messages that were refused for lack of capacity.
    pub(super) refused: usize,
    /// Something was sent in pieces.
    pub(super) in_pieces: bool,
    pub(super) told_to_end: bool,
    pub(super) aborted: bool,
    half_closed: bool,
}

#[derive(Debug)]
pub(super) struct Actor {
    dice: Dice,
    plan: ActorPlan,
    groups: Vec<(Group, SlowMember)>,
    /// All connections so far: stale ids are used as well.
    ids: Vec<ConnId>,
    pub(super) ledgers: BTreeMap<ConnId, Ledger>,
    serial: u64,
    /// The bytes that it may still send: it must not answer its own answers forever, nor send more than can be written.
    breath: usize,
    /// The terminator of a message, if there is no framing.
    ending: &'static [u8],
    pub(super) timer_model: TimerModel,
    pub(super) connect_model: RunOptions,
    pub(super) link_model: LinkModel,
    pub(super) wrong: Vec<String>,
    /// Creates a new state for a connection that switches to it.
    new_state: fn() -> Box<dyn Any>,
}

impl Actor {
    pub(super) fn new(dice: Dice, plan: ActorPlan, framed: bool, new_state: fn() -> Box<dyn Any>) -> Self {
        Self {
            dice,
            plan,
            groups: Vec::new(),
            ids: Vec::new(),
            ledgers: BTreeMap::new(),
            serial: 0,
            breath: BREATH,
            ending: if framed { b"" } else { b"\n" },
            timer_model: TimerModel::default(),
            connect_model: RunOptions::default(),
            link_model: LinkModel::default(),
            wrong: Vec::new(),
            new_state,
        }
    }

    fn chance(&mut self, of_hundred: usize) -> bool {
        self.dice.below(100) < of_hundred
    }

    /// Returns a unique message.
    fn message(&mut self) -> Vec<u8> {
        self.serial += 1;
        let fill = self.dice.size(self.plan.longest);
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
            Sent::Queued => ledger.expected.push(Unsent { text, may_miss: false }),
            Sent::Full => ledger.refused = ledger.refused.max(text.len()),
            Sent::Closed if open && !ledger.half_closed && net.is_open(id) => {
                let broken = net.core().conns.get(id).is_some_and(|c| c.halves.write_failed);
                if !broken {
                    self.wrong.push(format!("{id} is open and takes nothing"));
                }
            }
            Sent::Closed | Sent::Unencodable | Sent::TooLong => {}
        }
    }

    /// Sends to a connection, by copy or by reference, or in pieces.
    fn whisper(&mut self, net: &mut Net<'_>, id: ConnId) {
        let (text, open, mut more) = (self.message(), net.is_open(id), Vec::new());
        let how = self.dice.below(8);
        let pieces = how == 2;
        let sent = match how {
            0 | 1 => net.send_bytes_to(id, text.clone().into()),
            2 if self.ending.is_empty() => net.send_all_to(id, text.clone()),
            2 => {
                more.extend((0..self.dice.below(8)).map(|_| self.message()));
                let all = [std::slice::from_ref(&text), more.as_slice()].concat().concat();
                let size = 1 + self.dice.size(all.len());
                let pieces: Vec<Bytes> = all.chunks(size).map(Bytes::copy_from_slice).collect();
                net.send_all_to(id, Pieces::new(pieces))
            }
            _ => net.send_to(id, &text),
        };
        self.ledger(id).in_pieces |= pieces;
        if sent.is_queued() {
            let more = more.into_iter().map(|text| Unsent { text, may_miss: false });
            self.sent(net, id, text, open, sent);
            return self.ledger(id).expected.extend(more);
        }
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

    fn broadcast(&mut self, net: &mut Net<'_>, me: Option<ConnId>) {
        if self.groups.is_empty() {
            return;
        }
        let (group, policy) = self.dice.pick(&self.groups);
        let text = self.message();
        let except = if self.dice.one_in(2) { me } else { None };
        let members: Vec<ConnId> = net.members(group).filter(|&m| Some(m) != except).collect();
        let reached = net.core_mut().broadcast(group, &text, me, except);
        if reached > members.len() {
            self.wrong.push(format!("reached {reached} of {}", members.len()));
        }
        let still: Vec<ConnId> = net.members(group).filter(|&m| Some(m) != except).collect();
        for id in members {
            let ledger = self.ledger(id);
            if reached > 0 && still.contains(&id) {
                ledger.expected.push(Unsent { text: text.clone(), may_miss: policy == SlowMember::Skip });
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

    fn record(&mut self, done: Result<(), String>) {
        self.wrong.extend(done.err());
    }

    fn draw_delay(&mut self) -> Duration {
        match self.dice.below(8) {
            0 => Duration::ZERO,
            1 => Duration::from_nanos(1),
            2 => Duration::from_millis(1),
            3 => Duration::from_nanos(self.dice.size(5_000_000_000) as u64),
            4 => Duration::from_secs(self.dice.size(10 * 86_400) as u64),
            5 => Duration::MAX,
            _ => Duration::from_millis(self.dice.size(200) as u64),
        }
    }

    /// Sets, moves or cancels a timer, of this connection or of the handler.
    fn change_timers(&mut self, net: &mut Net<'_>, me: Option<ConnId>) {
        let (n, after) = (self.dice.below(1 << 16), self.draw_delay());
        let done = match self.dice.below(8) {
            0 => self.timer_model.cancel(net, n),
            1 => self.timer_model.rearm(net, n, after),
            _ => self.set_timer(net, me.filter(|_| n.is_multiple_of(2)), after, n % 6 < 2),
        };
        self.record(done);
    }

    fn set_timer(
        &mut self,
        net: &mut Net<'_>,
        owner: Option<ConnId>,
        after: Duration,
        every: bool,
    ) -> Result<(), String> {
        // If more timers fired every millisecond than a turn permits, time would never advance.
        let every = every && self.timer_model.len() < FEW_TIMERS;
        let key = self.timer_model.next_key();
        let core = net.core_mut();
        let id = match (owner, every) {
            (Some(id), _) => {
                core.set_timer(crate::time::timers::Owner::Connection(id), key, after, every.then_some(after))
            }
            (None, false) => net.set_tick(after, key),
            (None, true) => net.set_tick_every(after, key),
        };
        self.timer_model.set(net.core(), key, owner, (after, every), id)
    }

    fn change_links(&mut self, net: &mut Net<'_>, me: Option<ConnId>) {
        let done = if self.dice.one_in(3) {
            let n = self.dice.below(1 << 16);
            self.link_model.unlink(net, n)
        } else {
            let (from, to) = (self.someone(me), self.someone(None));
            self.link_model.link(net, from, to)
        };
        self.record(done);
    }

    fn change_requests(&mut self, net: &mut Net<'_>) {
        let times = if self.dice.one_in(8) { self.dice.size(8) } else { 1 };
        for _ in 0..times {
            let done = match self.dice.below(6) {
                0 => {
                    let n = self.dice.below(8);
                    self.connect_model.cancel(net, n)
                }
                _ => self.connect_model.ask(net, &mut self.dice),
            };
            self.record(done);
        }
    }

    /// Switches to itself: the connection's timers end, and everything else goes on.
    fn switch(&mut self, cx: &mut Context<'_>) {
        let (id, open) = (cx.id(), cx.is_open(cx.id()));
        let core = cx.core_mut();
        let Some(c) = core.conns.get(id) else { return };
        let (handler, may) = (c.handler, open && !c.out.has_pieces());
        let key = Key::<Self>::new(core.number, handler);
        let done = core.switch(id, key, (self.new_state)());
        if done != may {
            self.wrong.push(format!("{id} went over: {done}, and is open: {open}, and may: {may}"));
        }
        if done {
            self.timer_model.forget(id);
        }
    }

    /// Echoes part of the input in place.
    fn echo(&mut self, cx: &mut Context<'_>, data: &[u8]) {
        let end = match self.ending {
            [] => self.dice.between(0, data.len()),
            [ending, ..] => data.iter().position(|b| b == ending).map_or(0, |at| at + 1),
        };
        let text = data.get(self.dice.below(end)..end).unwrap_or_default();
        // Messages that begin with a mark come from other threads.
        if text.is_empty() || text.starts_with(b"!") {
            return;
        }
        let (id, open) = (cx.id(), cx.is_open(cx.id()));
        self.breath = self.breath.saturating_sub(text.len());
        let sent = cx.send(text);
        self.sent(cx, id, text.to_vec(), open, sent);
    }

    /// Does a random action that needs no connection of its own.
    fn act_alone(&mut self, net: &mut Net<'_>) {
        // A timer must not keep it busy forever.
        self.breath = self.breath.saturating_sub(TICK);
        if self.breath == 0 {
            self.plan = ActorPlan { longest: 1, ..ActorPlan::default() };
        }
        let plan = self.plan;
        if self.chance(plan.whisper) {
            let id = self.someone(None);
            self.whisper(net, id);
        }
        if self.chance(plan.timers) {
            self.change_timers(net, None);
        }
        if self.chance(plan.asks) {
            self.change_requests(net);
        }
        if self.chance(plan.links) {
            self.change_links(net, None);
        }
        if self.chance(plan.close) {
            self.end_someone(net, None, false);
        }
        if self.chance(plan.panic) {
            std::panic::resume_unwind(Box::new("an actor panics alone"));
        }
    }

    /// Does random actions.
    fn act(&mut self, cx: &mut Context<'_>) {
        self.breath = self.breath.min(TURNS * cx.core().limits.write_per_turn);
        if self.breath == 0 {
            self.plan = ActorPlan { longest: 1, ..ActorPlan::default() };
        }
        let (me, plan) = (cx.id(), self.plan);
        if self.chance(plan.groups) {
            self.change_groups(cx, Some(me));
        }
        if self.chance(plan.answer) {
            self.whisper(cx, me);
        }
        if self.chance(plan.broadcast) {
            self.broadcast(cx, Some(me));
        }
        if self.chance(plan.whisper) {
            let id = self.someone(None);
            self.whisper(cx, id);
        }
        if self.chance(plan.pause) {
            let id = self.someone(Some(me));
            let _ = if self.dice.one_in(4) { cx.pause_id(id) } else { cx.resume_id(id) };
        }
        if self.chance(plan.timers) {
            self.change_timers(cx, Some(me));
        }
        if self.chance(plan.asks) {
            self.change_requests(cx);
        }
        if self.chance(plan.links) {
            self.change_links(cx, Some(me));
        }
        if self.chance(plan.half_close) {
            self.ledger(me).half_closed = true;
            cx.shutdown_write();
        }
        if self.chance(plan.close) {
            self.end_someone(cx, Some(me), false);
        }
        if self.chance(plan.abort) {
            self.end_someone(cx, Some(me), true);
        }
        if self.chance(plan.switch) {
            self.switch(cx);
        }
        if self.chance(plan.panic) {
            // Bypasses the panic hook, which would print it.
            std::panic::resume_unwind(Box::new("an actor panics"));
        }
    }
}

impl Handler for Actor {
    type State = ();

    fn on_open(&mut self, cx: &mut Context<'_>) {
        self.timer_model.begin();
        self.timer_model.forget(cx.id());
        self.link_model.forget(cx.id());
        let done = self.connect_model.opens(cx);
        self.record(done);
        self.ids.push(cx.id());
        // Where generations are few, the id may have been reused.
        self.ledgers.insert(cx.id(), Ledger::default());
        self.act(cx);
    }

    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
        self.timer_model.begin();
        if self.chance(self.plan.echo) {
            self.echo(cx, data);
        }
        if self.chance(self.plan.rest) {
            let n = self.dice.between(0, data.len());
            if self.dice.one_in(2) { cx.keep(n) } else { cx.defer(n) }
        }
        cx.count_message();
        self.act(cx);
    }

    fn on_end(&mut self, cx: &mut Context<'_>, _state: &mut ()) {
        self.timer_model.begin();
        self.act(cx);
        match self.dice.below(100) {
            n if n >= self.plan.stay => {
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
        self.timer_model.begin();
        self.act(cx);
    }

    fn on_note(&mut self, net: &mut Net<'_>, _note: Box<dyn Any + Send>) {
        self.timer_model.begin();
        if self.ids.is_empty() {
            return;
        }
        let id = self.someone(None);
        if self.breath > 0 && self.chance(self.plan.whisper) {
            self.whisper(net, id);
        }
        if self.breath > 0 && self.chance(self.plan.broadcast) {
            self.broadcast(net, None);
        }
        if self.chance(self.plan.groups) {
            self.change_groups(net, None);
        }
        if self.chance(self.plan.close) {
            self.end_someone(net, None, false);
        }
        if self.chance(self.plan.abort) {
            self.end_someone(net, None, true);
        }
        if self.chance(self.plan.panic) {
            std::panic::resume_unwind(Box::new("an actor panics over a note"));
        }
    }

    fn on_note_to(&mut self, cx: &mut Context<'_>, _state: &mut (), _note: Box<dyn Any + Send>) {
        self.timer_model.begin();
        self.act(cx);
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, _state: &mut (), key: u64) {
        self.timer_model.begin();
        let me = Some(cx.id());
        let done = self.timer_model.fires(cx, me, key);
        self.record(done);
        self.breath = self.breath.saturating_sub(TICK);
        self.act(cx);
    }

    fn on_tick(&mut self, net: &mut Net<'_>, key: u64) {
        self.timer_model.begin();
        let done = self.timer_model.fires(net, None, key);
        self.record(done);
        self.act_alone(net);
    }

    fn on_connect_failed(&mut self, net: &mut Net<'_>, tag: u64, error: &io::Error) {
        self.timer_model.begin();
        let done = self.connect_model.fails(net, tag, error);
        self.record(done);
        self.act_alone(net);
    }

    fn on_shutdown(&mut self, cx: &mut Context<'_>, _state: &mut ()) {
        self.timer_model.begin();
        self.act(cx);
        if !self.dice.one_in(4) {
            self.ledger(cx.id()).told_to_end = true;
            cx.close();
        }
    }

    fn on_close(&mut self, net: &mut Net<'_>, _state: (), closed: &Closed) {
        self.timer_model.begin();
        self.timer_model.forget(closed.who);
        self.link_model.forget(closed.who);
        self.connect_model.closes(net, closed);
        let ledger = self.ledger(closed.who);
        let ended = ledger.told_to_end;
        if matches!(closed.why, Reason::Handler | Reason::Shutdown) && !ended {
            self.wrong.push(format!("N4: no callback closed {}", closed.who));
        }
        let sent = net.send_to(closed.who, b"x");
        if sent != Sent::Closed && sent != Sent::Full {
            self.wrong.push(format!("{} takes output in on_close", closed.who));
        }
        if self.chance(self.plan.whisper) {
            let id = self.someone(None);
            self.whisper(net, id);
        }
        if self.chance(self.plan.close) {
            self.end_someone(net, None, false);
        }
        if self.chance(self.plan.panic) {
            std::panic::resume_unwind(Box::new("an actor panics at the end"));
        }
    }
}
