//! Property test of the core: runs anything that callbacks and the loop may do, in any order, and checks that every
//! byte is accounted for.
//!
//! The test takes the place of the loop: it writes unsent output as far as a simulated kernel accepts it, flushes the
//! logs, checks deadlines and reaps closed connections. The stream of each connection is compared with the list of all
//! bytes that were accepted for it.

use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::buffer::outbox::{Outbox, SLICES};
use crate::closed::Reason;
use crate::codec::{Codec, LengthDelimited};
use crate::config::address::Address;
use crate::config::limits::Limit;
use crate::group::SlowMember;
use crate::id::{Group, ListenerId};
use crate::testing::property_tests::hold;

/// One step. The first number of most selects the connection, the second of some the group.
#[derive(Clone, Debug)]
enum Op {
    Open {
        framed: bool,
    },
    Send(usize, usize),
    SendBytes(usize, usize),
    Broadcast {
        group: usize,
        len: usize,
        sender: usize,
        others: bool,
    },
    Join(usize, usize),
    Leave(usize, usize),
    Regroup(usize),
    Deliver(usize, Callback),
    Pause(usize, bool),
    Close(usize),
    ShutdownWrite(usize),
    PeerFin(usize),
    Kill(usize),
    WriteFails(usize),
    /// The kernel accepts this many more bytes of a connection's output.
    GroupState(usize, usize),
    /// The end of a turn. The kernel accepts this many bytes of each connection's output.
    Turn(usize),
    Tick(u64),
}

/// The input and the actions of a callback.
#[derive(Clone, Debug)]
struct Callback {
    len: usize,
    /// Parts of its input that it sends back, each followed by other bytes.
    echoes: Vec<(usize, usize, usize)>,
    last: Last,
    /// How many bytes it does not use.
    rest: usize,
    /// Whether it defers these.
    defer: bool,
    /// How many bytes of its output the kernel accepts.
    taken: usize,
}

#[derive(Clone, Copy, Debug)]
enum Last {
    Nothing,
    Pause,
    ShutdownWrite,
    Close,
    Abort,
}

fn callbacks() -> impl Strategy<Value = Callback> {
    use Last::*;
    let echoes = prop::collection::vec((0..40usize, len(), prop_oneof![2 => Just(0), 1 => len()]), 0..4);
    let last = prop::sample::select(vec![Nothing, Nothing, Nothing, Pause, ShutdownWrite, Close, Abort]);
    (len(), echoes, last, 0..60usize, any::<bool>(), taken())
        .prop_map(|(len, echoes, last, rest, defer, taken)| Callback { len, echoes, last, rest, defer, taken })
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 0..40usize, 3 => 40..300usize, 1 => 4_000..5_000usize]
}

fn taken() -> impl Strategy<Value = usize> {
    prop_oneof![0..30usize, Just(10_000)]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let conn = || 0..100usize;
    prop::collection::vec(
        prop_oneof![
            1 => any::<bool>().prop_map(|framed| Op::Open { framed }),
            5 => (conn(), len()).prop_map(|(c, n)| Op::Send(c, n)),
            1 => (conn(), len()).prop_map(|(c, n)| Op::SendBytes(c, n)),
            5 => (0..2usize, len(), conn(), any::<bool>())
                .prop_map(|(group, len, sender, others)| Op::Broadcast { group, len, sender, others }),
            4 => (conn(), 0..2usize).prop_map(|(c, g)| Op::Join(c, g)),
            1 => (conn(), 0..2usize).prop_map(|(c, g)| Op::Leave(c, g)),
            1 => (0..2usize).prop_map(Op::Regroup),
            4 => (conn(), callbacks()).prop_map(|(c, callback)| Op::Deliver(c, callback)),
            2 => (conn(), any::<bool>()).prop_map(|(c, on)| Op::Pause(c, on)),
            1 => conn().prop_map(Op::Close),
            1 => conn().prop_map(Op::ShutdownWrite),
            1 => conn().prop_map(Op::PeerFin),
            1 => conn().prop_map(Op::Kill),
            1 => conn().prop_map(Op::WriteFails),
            3 => (conn(), taken()).prop_map(|(c, n)| Op::GroupState(c, n)),
            4 => taken().prop_map(Op::Turn),
            2 => (0..4_000_000_000u64).prop_map(Op::Tick),
        ],
        0..80,
    )
}

/// The model of one connection.
struct Model {
    id: ConnId,
    framed: bool,
    /// All bytes that were accepted for it, encoded and in order.
    produced: Vec<u8>,
    /// All bytes that the kernel accepted.
    output: Vec<u8>,
    phase: Phase,
    groups: Vec<Group>,
}

impl Model {
    /// Returns the encoded message, or `None` if it cannot be encoded.
    fn frame(&self, message: &[u8]) -> Option<Vec<u8>> {
        match self.framed {
            false => Some(message.to_vec()),
            true if message.len() <= LONGEST => Some([&[message.len() as u8], message].concat()),
            true => None,
        }
    }
}

/// The longest message of the framed handler.
const LONGEST: usize = 50;

struct World {
    core: Core,
    groups: [Group; 2],
    policies: [SlowMember; 2],
    all: Vec<Model>,
    next: u8,
}

impl World {
    fn new(hard: usize, total: usize, policies: [SlowMember; 2]) -> Self {
        let seconds = |n| Limit::At(Duration::from_secs(n));
        let limits = Limits {
            read_buffer: 64,
            output_high: 256,
            output_low: 64,
            output_hard: Limit::At(hard),
            output_total: Limit::At(total),
            input_kept: 50,
            input_total: Limit::At(5_000),
            idle_timeout: seconds(10),
            message_timeout: seconds(3),
            write_stall: seconds(5),
            linger_total: Duration::from_secs(4),
            ..Limits::default()
        };
        limits.check().unwrap();
        let mut core = Core::new(limits, Generations::masked(3));
        let codec = LengthDelimited::builder(LONGEST).length_field_length(1).build().unwrap();
        assert_eq!(codec.max_message(), LONGEST);
        core.framings = vec![Framing::raw(), Framing::of(Rc::new(codec))];
        let groups = policies.map(|policy| core.create_group(policy).unwrap());
        Self { core, groups, policies, all: Vec::new(), next: 0 }
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len)
            .map(|_| {
                self.next = self.next.wrapping_add(1);
                self.next
            })
            .collect()
    }

    /// Returns one of the existing connections.
    fn pick(&self, n: usize) -> Option<usize> {
        (!self.all.is_empty()).then(|| n % self.all.len())
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Open { framed } => self.open(framed),
            Op::Broadcast { group, len, sender, others } => self.broadcast(group, len, sender, others),
            Op::Regroup(g) => {
                assert!(self.core.drop_group(self.groups[g]));
                let new = self.core.create_group(self.policies[g]).unwrap();
                let old = std::mem::replace(&mut self.groups[g], new);
                self.all.iter_mut().for_each(|m| m.groups.retain(|&group| group != old));
                assert!(!self.core.drop_group(old) && self.core.broadcast(old, b"nobody", None, None) == 0);
            }
            Op::Turn(taken) => self.turn(taken),
            Op::Tick(nanos) => {
                self.core.set_now(Time(self.core.now.0 + nanos));
                self.core.seen_until = self.core.now;
            }
            Op::Send(n, ..)
            | Op::SendBytes(n, ..)
            | Op::Join(n, _)
            | Op::Leave(n, _)
            | Op::Deliver(n, _)
            | Op::Pause(n, _)
            | Op::Close(n)
            | Op::ShutdownWrite(n)
            | Op::PeerFin(n)
            | Op::Kill(n)
            | Op::WriteFails(n)
            | Op::GroupState(n, _) => {
                if let Some(i) = self.pick(n) {
                    self.apply_to(i, op);
                }
            }
        }
    }

    fn apply_to(&mut self, i: usize, op: Op) {
        let id = self.all[i].id;
        match op {
            Op::Send(_, len) => {
                let data = self.bytes(len);
                self.send(i, &data);
            }
            Op::SendBytes(_, len) => {
                let data = self.bytes(len);
                let sent = self.core.send_bytes(id, data.clone().into());
                self.note_sent(i, &data, sent);
            }
            Op::Join(_, g) => {
                let open = self.core.conns.get(id).is_some_and(Connection::takes_output);
                let group = self.groups[g];
                assert_eq!(self.core.join(group, id), open);
                if open && !self.all[i].groups.contains(&group) {
                    self.all[i].groups.push(group);
                }
            }
            Op::Leave(_, g) => {
                let group = self.groups[g];
                let was = self.all[i].groups.contains(&group);
                let left = self.core.leave(group, id);
                // Taking what the group has for it may terminate it, for lack of space.
                let alive = self.core.conns.get(id).is_some_and(|c| c.phase == Phase::Open);
                assert!(left == was || !left && !alive);
                self.all[i].groups.retain(|&g| g != group);
            }
            Op::Deliver(_, callback) => self.deliver(i, callback),
            Op::Pause(_, on) => {
                self.core.set_paused(id, on);
            }
            Op::Close(_) => {
                let reason = self.core.close_reason(id);
                let open = self.core.conns.get(id).is_some_and(|c| c.phase == Phase::Open);
                assert!(!self.core.begin_close(id, reason) || open, "closed twice");
                self.progress(id);
            }
            Op::ShutdownWrite(_) => {
                self.core.shutdown_write(id);
                self.progress(id);
            }
            Op::PeerFin(_) => {
                if let Some(c) = self.core.conns.get_mut(id) {
                    (c.halves.peer_fin, c.halves.eof_delivered) = (true, true);
                }
                self.progress(id);
            }
            Op::Kill(_) => self.core.terminate(id, Reason::Handler),
            Op::WriteFails(_) => self.core.write_failed(id, Reason::PeerReset),
            Op::GroupState(_, taken) => {
                if let Some(c) = self.core.conns.get_mut(id) {
                    c.readiness.writable = true;
                }
                self.flush(i, taken);
                self.progress(id);
                self.core.enqueue_if_work(id);
            }
            _ => unreachable!("these are of no connection"),
        }
    }

    fn open(&mut self, framed: bool) {
        let listener = ListenerId { slot: 0, generation: 0 };
        let now = self.core.now;
        let new = |id| {
            let handler = HandlerIdx(framed.into());
            let mut new = Connection::new(id, handler, listener, Address::Unix(None), now);
            new.has_state = true;
            new
        };
        let id = self.core.conns.insert_with(new).unwrap();
        let (produced, output) = (Vec::new(), Vec::new());
        self.all.push(Model { id, framed, produced, output, phase: Phase::Open, groups: Vec::new() });
    }

    fn send(&mut self, i: usize, data: &[u8]) {
        let sent = self.core.send(self.all[i].id, data);
        self.note_sent(i, data, sent);
    }

    fn note_sent(&mut self, i: usize, data: &[u8], sent: Sent) {
        let model = &mut self.all[i];
        let frame = model.frame(data);
        match sent {
            Sent::Queued => model.produced.extend(frame.expect("the framing cannot carry it")),
            Sent::Unencodable => assert_eq!(frame, None),
            Sent::TooLong => assert!(frame.is_none_or(|f| f.len() > self.core.limits.output_hard.get())),
            Sent::Full | Sent::Closed => {
                let takes = self.core.conns.get(model.id).is_some_and(Connection::takes_output);
                assert!(!takes, "{sent:?}, and yet it takes more");
            }
        }
    }

    fn broadcast(&mut self, g: usize, len: usize, sender: usize, others: bool) {
        let message = self.bytes(len);
        let group = self.groups[g];
        let sender = self.pick(sender).map(|i| self.all[i].id);
        let except = sender.filter(|_| others);
        let reached = self.core.broadcast(group, &message, sender, except);
        if message.len() > self.core.limits.output_hard.get() {
            return assert_eq!(reached, 0);
        }
        // Connections that were evicted to make space for it do not get it.
        let alive = |id| self.core.conns.get(id).is_some_and(|c| c.phase == Phase::Open);
        let mut count = 0;
        for model in &mut self.all {
            if model.groups.contains(&group) && alive(model.id) && Some(model.id) != except {
                let frame = model.frame(&message);
                count += usize::from(frame.is_some());
                model.produced.extend(frame.unwrap_or_default());
            }
        }
        assert_eq!(reached, count);
    }

    /// Delivers the buffered input and more to a callback that does this.
    fn deliver(&mut self, i: usize, callback: Callback) {
        let id = self.all[i].id;
        let Callback { len, echoes, last, rest, defer, taken } = callback;
        if !self.core.conns.get(id).is_some_and(|c| self.core.may_read(c)) {
            return;
        }
        self.core.unthrottle(id);
        let (mut whole, continues) = self.take_kept(id);
        whole.extend(self.bytes(len));
        self.core.begin_delivery(id, &whole);
        for (from, len, other) in echoes {
            let from = from.min(whole.len());
            let to = (from + len).min(whole.len());
            self.send(i, &whole[from..to]);
            let other = self.bytes(other);
            self.send(i, &other);
        }
        self.core.delivery.unused = rest;
        self.core.delivery.deferred = defer && rest > 0;
        match last {
            Last::Nothing => {}
            Last::Pause => drop(self.core.set_paused(id, true)),
            Last::ShutdownWrite => drop(self.core.shutdown_write(id)),
            Last::Close => drop(self.core.begin_close(id, Reason::Handler)),
            Last::Abort => self.core.terminate(id, Reason::Handler),
        }
        let echoed = self.core.take_echoed(id);
        self.core.delivery.conn = None;
        let (led, _) = self.write(i, &whole[echoed.clone()], &[], taken);
        self.core.requeue_front(id, &whole[echoed][led..]);
        self.core.after_write(id);
        self.progress(id);
        self.core.buffer_copy(id, &whole, continues);
        self.core.enqueue_if_work(id);
        if let Some(kept) = self.core.conns.get(id).and_then(|c| c.input.as_ref()) {
            assert_eq!(kept.data(), &whole[whole.len() - rest.min(whole.len())..]);
        }
    }

    /// Takes the buffered input. Returns it, and whether it is the beginning of a message.
    fn take_kept(&mut self, id: ConnId) -> (Vec<u8>, bool) {
        let Some(c) = self.core.conns.get_mut(id) else { return (Vec::new(), false) };
        let deferred = std::mem::take(&mut c.deferred);
        let Some(kept) = c.input.take() else { return (Vec::new(), false) };
        let bytes = kept.data().to_vec();
        kept.recycle(&mut self.core.pool);
        (bytes, !deferred)
    }

    /// Writes as the loop does; the kernel accepts up to `taken` bytes. Returns how much of `prefix` and of `suffix`
    /// was written.
    fn write(&mut self, i: usize, prefix: &[u8], suffix: &[u8], taken: usize) -> (usize, usize) {
        let Self { core, all, .. } = self;
        let Some(c) = core.conns.get_mut(all[i].id).filter(|c| c.can_be_written()) else { return (0, 0) };
        let mut wire = Vec::new();
        wire.extend(prefix);
        wire.extend(waiting(&c.out));
        wire.extend(suffix);
        let n = taken.min(wire.len());
        c.readiness.writable = n == wire.len();
        if n > 0 {
            (c.last_activity, c.write_blocked_since) = (core.now, core.now);
        }
        let of_prefix = n.min(prefix.len());
        let of_queue = (n - of_prefix).min(c.out.pending());
        c.out.advance(of_queue, &mut core.pool);
        all[i].output.extend(&wire[..n]);
        if !c.readiness.writable {
            c.out.shrink(&mut core.pool);
        }
        (of_prefix, n - of_prefix - of_queue)
    }

    fn flush(&mut self, i: usize, taken: usize) {
        self.write(i, &[], &[], taken);
        self.core.after_write(self.all[i].id);
    }

    /// Advances a close or a half-close as far as it can go.
    fn progress(&mut self, id: ConnId) {
        let Some(c) = self.core.conns.get_mut(id).filter(|c| c.out.pending() == 0) else { return };
        match c.phase {
            Phase::Open if c.halves.fin_wanted => {
                c.halves.fin_sent = true;
                if c.halves.eof_delivered {
                    self.core.finish(id, Reason::PeerClosed);
                }
            }
            Phase::Flushing if c.halves.peer_fin || c.halves.write_failed => {
                self.core.finish(id, Reason::PeerClosed);
            }
            Phase::Flushing => self.core.linger(id),
            _ => {}
        }
    }

    /// Runs one turn: deadlines, broadcasts, dirty and ready connections, reaping.
    fn turn(&mut self, taken: usize) {
        self.core.turn += 1;
        while let Some((at, slot)) = self.core.deadlines.next().filter(|(at, _)| *at <= self.core.now) {
            let id = self.core.conns.id_in_slot(slot).expect("a deadline of nobody");
            self.core.check_deadline(id);
            assert!(self.core.deadlines.get(slot) > at, "checked, and as due as before");
        }
        self.flush_groups(taken);
        let dirty = self.core.dirty.take();
        let ready = self.core.ready.take();
        for id in dirty.into_iter().chain(ready) {
            if let Some(c) = self.core.conns.get_mut(id) {
                (c.queues.dirty, c.queues.ready, c.flow.drain_due) = (false, false, false);
                if std::mem::take(&mut c.deferred) {
                    // The handler uses all of it this time.
                    self.core.discard_input(id);
                }
                let i = self.all.iter().position(|m| m.id == id).unwrap();
                self.flush(i, taken);
                self.progress(id);
                self.core.enqueue_if_work(id);
            }
        }
        self.core.resume_throttled();
        self.reap();
    }

    fn flush_groups(&mut self, taken: usize) {
        self.core.logged = 0;
        for id in self.all.iter().map(|m| m.id).collect::<Vec<_>>() {
            if self.core.count_unsent_groups(id) > 1 {
                self.core.take_from_logs(id);
            }
        }
        for group in self.core.groups.with_unsent.iter().collect::<Vec<_>>() {
            let Some(state) = self.core.groups.states.get_mut(group) else { continue };
            let blocks: Vec<Rc<Vec<u8>>> = state.logs.iter_mut().map(|l| Rc::new(l.take_block())).collect();
            for place in (0..state.members.len() as u32).rev() {
                self.flush_member(group, place, &blocks, taken);
            }
            let state = self.core.groups.states.get_mut(group).unwrap();
            state.has_unsent = false;
            state.senders.clear();
            state.logs.iter_mut().for_each(crate::group::Log::clear);
            blocks.into_iter().for_each(|block| self.core.pool.recycle_shared(block));
        }
        self.core.groups.with_unsent.clear();
    }

    fn flush_member(&mut self, group: Group, place: u32, blocks: &[Rc<Vec<u8>>], taken: usize) {
        let number = self.core.groups.next_number();
        let state = self.core.groups.states.get_mut(group).unwrap();
        let Some(owed) = unsent_range(state, place) else { return };
        let Some(member) = state.members.get_mut(place as usize) else { return };
        member.from = number;
        let id = member.conn;
        let i = self.all.iter().position(|m| m.id == id).unwrap();
        let (_, written) = self.write(i, &[], &blocks[owed.log][owed.range.clone()], taken);
        let start = owed.range.start + written;
        if start < owed.range.end {
            self.core.queue_remainder(group, place, id, &owed, &blocks[owed.log], start);
        }
        self.core.after_write(id);
        self.core.enqueue_if_work(id);
    }

    /// Removes the closed connections, each once, and checks that every byte is accounted for.
    fn reap(&mut self) {
        for id in std::mem::take(&mut self.core.close_notify) {
            let c = self.core.conns.remove(id).expect("told twice");
            let i = self.all.iter().position(|m| m.id == id).unwrap();
            let model = self.all.swap_remove(i);
            assert_eq!((c.phase, c.reason().is_some()), (Phase::Closed, true));
            assert_eq!(model.output.len() + c.unsent() as usize, model.produced.len(), "output + lost = produced");
        }
    }

    fn check(&mut self) {
        for i in 0..self.all.len() {
            self.check_connection(i);
        }
        let core = &self.core;
        for state in self.groups.iter().filter_map(|group| core.groups.states.get(*group)) {
            let slow = state.members.iter().filter(|m| m.slow).count();
            assert_eq!(state.slow as usize, slow);
            assert!(slow > 0 || state.waiting.is_empty(), "nobody is slow, and some wait");
        }
        assert_eq!(core.conns.len(), self.all.len());
        assert!(core.pool.input() <= core.limits.input_total.get());
        let kept: usize = core.conns.iter().filter_map(|c| c.input.as_ref()).map(|k| k.retained_bytes()).sum();
        assert_eq!(core.pool.input(), kept);
        let held: usize = core.conns.iter().map(|c| c.out.retained_bytes()).sum();
        assert!(core.pool.output() >= held);
        if core.conns.iter().all(|c| c.out.pending() == 0) && core.groups.with_unsent.is_empty() {
            assert_eq!(core.pool.output(), 0, "every buffer came back");
        }
    }

    fn check_connection(&mut self, i: usize) {
        let (core, model) = (&self.core, &mut self.all[i]);
        let c = core.conns.get(model.id).unwrap();
        assert!(c.phase >= model.phase, "{:?} after {:?}", c.phase, model.phase);
        model.phase = c.phase;
        if !c.takes_output() {
            model.groups.clear();
        }
        let mut groups: Vec<Group> = c.groups.iter().map(|m| m.group).collect();
        groups.sort_unstable();
        model.groups.sort_unstable();
        assert_eq!(groups, model.groups);
        for m in &c.groups {
            assert_eq!(core.groups.states.get(m.group).unwrap().members[m.place as usize].conn, c.id);
        }
        let pause_count =
            self.groups.iter().filter(|g| core.groups.states.get(**g).unwrap().waiting.contains(&c.id)).count();
        assert_eq!(usize::from(c.flow.pause_count), pause_count);
        assert_eq!(core.close_notify.iter().filter(|id| **id == c.id).count(), usize::from(c.phase == Phase::Closed));
        assert!(c.phase != Phase::Closed || c.out.pending() == 0 && c.input.is_none());
        assert!(c.phase == Phase::Open || c.reason().is_some());
        assert!(c.out.pending() <= core.limits.output_hard.get());
        // Throttled connections are resumed at the end of the turn, once memory pressure has passed.
        assert!(
            !core.has_work(c) || c.queues.ready || c.queues.dirty || c.queues.throttled,
            "work that nobody will do: {c:?}"
        );
        let pending = c.out.pending() + core.unsent_in_logs(c.id);
        let sum = model.output.len() + pending + c.unsent() as usize;
        assert_eq!(sum, model.produced.len(), "output + pending + lost = produced");
        assert!(model.produced.starts_with(&model.output));
        assert!(c.unsent() > 0 || model.produced[model.output.len()..].starts_with(&waiting(&c.out)));
    }
}

/// Returns the bytes in an outbox.
fn waiting(out: &Outbox) -> Vec<u8> {
    let mut slices = [std::io::IoSlice::new(&[]); SLICES];
    let n = out.gather(&[], &[], usize::MAX, &mut slices);
    slices[..n].iter().flat_map(|s| s.to_vec()).collect()
}

#[test]
fn whatever_is_done_every_byte_is_accounted_for_and_no_phase_goes_back() {
    let policy = || prop_oneof![Just(SlowMember::Cut), Just(SlowMember::PauseSenders)];
    let hard = prop_oneof![Just(400usize), Just(5_500)];
    let total = prop_oneof![Just(6_000usize), Just(200_000)];
    hold(1_000, (ops(), hard, total, policy(), policy()), |(ops, hard, total, one, two)| {
        let mut world = World::new(hard, total, [one, two]);
        for op in [Op::Open { framed: false }, Op::Open { framed: true }].into_iter().chain(ops) {
            world.apply(op);
            world.check();
        }
        world.turn(usize::MAX);
        world.check();
        for id in world.all.iter().map(|m| m.id).collect::<Vec<_>>() {
            world.core.terminate(id, Reason::Shutdown);
        }
        world.reap();
        world.check();
        assert_eq!((world.core.pool.output(), world.core.pool.input(), world.core.conns.len()), (0, 0, 0));
        assert_eq!(world.core.deadlines.next(), None);
    });
}
