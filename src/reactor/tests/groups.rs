//! Tests of groups against a model (plain lists): each member's stream, byte for byte, at any speed of the peer.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::builtin::{Echo, Framed};
use crate::codec::LengthDelimited;
use crate::core::Sent;
use crate::id::Group;
use crate::sys::script::{Answer, EAGAIN};
use crate::testing::property_tests::hold;

/// One step. The first number selects a connection or group.
#[derive(Clone, Debug)]
enum Op {
    Connect {
        framed: bool,
    },
    Join(usize, usize),
    Leave(usize, usize),
    Send(usize, usize),
    Broadcast(usize, usize),
    /// A connection sends a message: its handler sends it to the others in the first group, and back to it.
    Say(usize, usize),
    Regroup(usize),
    Close(usize),
    Abort(usize),
    Reset(usize),
    /// The kernel takes so many more bytes, in pieces of this size.
    GroupState(usize, usize),
    Stutter(usize, usize),
    Turn,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let conn = || 0..100usize;
    let len = || prop_oneof![0..60usize, 0..60usize, 4_000..5_000usize];
    let window = prop_oneof![0..100usize, Just(1_000_000)];
    let op = prop_oneof![
        2 => any::<bool>().prop_map(|framed| Op::Connect { framed }),
        6 => (conn(), 0..2usize).prop_map(|(c, g)| Op::Join(c, g)),
        2 => (conn(), 0..2usize).prop_map(|(c, g)| Op::Leave(c, g)),
        3 => (conn(), len()).prop_map(|(c, n)| Op::Send(c, n)),
        6 => (0..2usize, len()).prop_map(|(g, n)| Op::Broadcast(g, n)),
        2 => (conn(), 1..60usize).prop_map(|(c, n)| Op::Say(c, n)),
        1 => (0..2usize).prop_map(Op::Regroup),
        1 => conn().prop_map(Op::Close),
        1 => conn().prop_map(Op::Abort),
        1 => conn().prop_map(Op::Reset),
        4 => (conn(), window).prop_map(|(c, n)| Op::GroupState(c, n)),
        2 => (conn(), 0..9usize).prop_map(|(c, n)| Op::Stutter(c, n)),
        4 => Just(Op::Turn),
    ];
    prop::collection::vec(op, 0..50)
}

/// One connection in the model.
struct Member {
    peer: usize,
    id: ConnId,
    framed: bool,
    groups: BTreeSet<usize>,
    /// All that it must receive, unless it is closed.
    expected: Vec<u8>,
    open: bool,
    cut: bool,
}

/// The longest message of the framed handler.
const LONGEST: usize = 50;

impl Member {
    /// Appends a message to its list. Returns `false` if its framing cannot carry the message.
    fn expect(&mut self, message: &[u8]) -> bool {
        if self.framed && message.len() > LONGEST {
            return false;
        }
        if self.framed {
            self.expected.push(message.len() as u8);
        }
        self.expected.extend(message);
        true
    }
}

struct World {
    rig: Rig,
    groups: [Group; 2],
    /// The first group, set for the handler.
    first: Rc<Cell<Group>>,
    all: Vec<Member>,
    next: u8,
}

impl World {
    fn new() -> Self {
        let nowhere = Group { slot: u32::MAX, generation: 0 };
        let first = Rc::new(Cell::new(nowhere));
        let here = Rc::clone(&first);
        let mut rig = puppet(move |cx, on| {
            if let On::Data(data) = on {
                cx.broadcast_others(here.get(), data);
                cx.send(data);
            }
        });
        let groups = [rig.net().group().unwrap(), rig.net().group().unwrap()];
        first.set(groups[0]);
        let codec = LengthDelimited::builder(LONGEST).length_field_length(1).build().unwrap();
        let framed = rig.inner.dispatcher.add(Framed::new(codec, Echo), true).unwrap();
        rig.listen(framed);
        rig.settle();
        Self { rig, groups, first, all: Vec::new(), next: 0 }
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        self.next = self.next.wrapping_add(1);
        (0..len).map(|i| self.next.wrapping_add(i as u8)).collect()
    }

    fn apply(&mut self, op: Op) {
        // A step from outside a turn may cause one turn that does nothing.
        self.rig.idle_turns = 0;
        match op {
            Op::Connect { framed } => self.connect(framed),
            Op::Broadcast(g, len) => {
                let message = self.bytes(len);
                let reached = self.rig.net().broadcast(self.groups[g], &message);
                let members = self.all.iter_mut().filter(|m| m.groups.contains(&g));
                assert_eq!(reached, members.map(|m| usize::from(m.expect(&message))).sum());
            }
            Op::Regroup(g) => {
                assert!(self.rig.net().drop_group(self.groups[g]));
                self.groups[g] = self.rig.net().group().unwrap();
                self.first.set(self.groups[0]);
                self.all.iter_mut().for_each(|m| m.groups.retain(|&other| other != g));
            }
            Op::Turn => drop(self.rig.turn()),
            Op::Join(n, _)
            | Op::Leave(n, _)
            | Op::Send(n, _)
            | Op::Say(n, _)
            | Op::Close(n)
            | Op::Abort(n)
            | Op::Reset(n)
            | Op::GroupState(n, _)
            | Op::Stutter(n, _) => {
                if !self.all.is_empty() {
                    self.apply_to(n % self.all.len(), op);
                }
            }
        }
    }

    fn apply_to(&mut self, i: usize, op: Op) {
        let Member { id, peer, open, .. } = self.all[i];
        match op {
            Op::Join(_, g) => {
                assert_eq!(self.rig.net().join_id(self.groups[g], id), open);
                if open {
                    self.all[i].groups.insert(g);
                }
            }
            Op::Leave(_, g) => {
                assert_eq!(self.rig.net().leave_id(self.groups[g], id), self.all[i].groups.remove(&g));
            }
            Op::Send(_, len) => {
                let data = self.bytes(len);
                let sent = self.rig.net().send_to(id, &data);
                let expected = match open {
                    true if self.all[i].expect(&data) => Sent::Queued,
                    true => Sent::Unencodable,
                    false => Sent::Closed,
                };
                assert_eq!(sent, expected);
            }
            Op::Say(_, len) => self.say(i, len),
            Op::Close(_) => {
                assert_eq!(self.rig.net().close_id(id), open);
                self.ends(i);
            }
            Op::Abort(_) => {
                self.rig.net().abort_id(id);
                self.ends(i);
                self.all[i].cut = true;
            }
            Op::Reset(_) => {
                self.rig.reset(peer);
                self.ends(i);
                self.all[i].cut = true;
            }
            Op::GroupState(_, window) => self.rig.sys().set_window(peer, window),
            Op::Stutter(_, 0) => self.rig.sys().peers[peer].writes.push_back(Answer::Fail(EAGAIN)),
            Op::Stutter(_, n) => self.rig.sys().peers[peer].writes.push_back(Answer::AtMost(n)),
            _ => unreachable!("these are of no connection"),
        }
    }

    fn connect(&mut self, framed: bool) {
        let peer = self.rig.sys().connect(usize::from(framed));
        self.rig.settle();
        let id = self.rig.id(peer);
        let (groups, expected) = (BTreeSet::new(), Vec::new());
        self.all.push(Member { peer, id, framed, groups, expected, open: true, cut: false });
    }

    /// The others in the first group receive it, and so does the sender.
    fn say(&mut self, i: usize, len: usize) {
        let Member { peer, framed, open, .. } = self.all[i];
        if !open || framed {
            return;
        }
        let data = self.bytes(len);
        // What arrived earlier is handled first.
        self.rig.settle();
        self.rig.say(peer, &data);
        self.all[i].expect(&data);
        for (_, other) in self.all.iter_mut().enumerate().filter(|(j, m)| *j != i && m.groups.contains(&0)) {
            other.expect(&data);
        }
    }

    fn ends(&mut self, i: usize) {
        self.all[i].open = false;
        self.all[i].groups.clear();
    }

    fn check(&mut self) {
        for g in 0..2 {
            let members: BTreeSet<ConnId> = self.rig.net().members(self.groups[g]).collect();
            let expected = self.all.iter().filter(|m| m.groups.contains(&g)).map(|m| m.id);
            assert_eq!(members, expected.collect());
        }
        for member in &self.all {
            let got = &self.rig.inner.sys.peers[member.peer].got;
            assert!(member.expected.starts_with(got), "{got:?}, not {:?}", member.expected);
        }
    }
}

#[test]
fn each_member_gets_exactly_what_was_sent_to_it_and_to_its_groups() {
    hold(600, ops(), |ops| {
        let mut world = World::new();
        let connect = [false, true, false].map(|framed| Op::Connect { framed });
        for op in connect.into_iter().chain(ops) {
            world.apply(op);
            world.check();
        }
        for i in 0..world.all.len() {
            let peer = world.all[i].peer;
            world.rig.open_window(peer, usize::MAX);
        }
        world.check();
        let mut unsent = 0;
        for member in &world.all {
            let got = &world.rig.inner.sys.peers[member.peer].got;
            let missing = member.expected.len() - got.len();
            assert!(member.cut || missing == 0, "{missing} bytes never came");
            unsent += missing as u64;
        }
        let stats = world.rig.stats();
        assert_eq!((stats.bytes_unsent, stats.skipped, stats.panics), (unsent, 0, 0));
    });
}

#[test]
fn there_are_no_more_groups_and_memberships_than_allowed() {
    let mut rig = puppet_within(Limits { groups: 3, groups_per_connection: 2, ..limits() }, echo);
    let peer = rig.connect();
    let id = rig.id(peer);
    let mut net = rig.net();
    let groups: Vec<Group> = std::iter::from_fn(|| net.group()).take(9).collect();
    assert_eq!(groups.len(), 3);
    assert_eq!(groups.iter().filter(|g| net.join_id(**g, id)).count(), 2);
    assert!(net.leave_id(groups[0], id) && net.join_id(groups[2], id) && !net.join_id(groups[0], id));
    assert!(net.drop_group(groups[1]) && net.join_id(groups[0], id), "what has ended makes space");
    assert!(net.group().is_some() && net.group().is_none());
}
