//! Tests of commands from other threads: order, the limit for each turn, and errors to the caller.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::builtin::{Echo, Framed};
use crate::codec::LengthDelimited;
use crate::command_queue::HandleError;
use crate::config::limits::PanicPolicy;
use crate::group::SlowMember;
use crate::handler::handle::{Handle, Notes};
use crate::id::Group;
use crate::reactor::Reactor;
use crate::testing::log_tests::lines;

/// Records its notes, and echoes those for a connection. The note `x` closes the connection, `!` panics.
#[derive(Default)]
struct Noted(Vec<String>);

impl Noted {
    fn record(&mut self, to: &str, note: Box<dyn Any + Send>) -> String {
        let text = note.downcast::<&str>().map_or("not a &str".to_owned(), |text| (*text).to_owned());
        self.0.push(format!("{to}{text}"));
        assert_ne!(text, "!", "a note panics");
        text
    }
}

impl Handler for Noted {
    type State = ();

    fn on_open(&mut self, _cx: &mut Context<'_>) {}

    fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut (), _data: &[u8]) {}

    fn on_note(&mut self, _net: &mut Net<'_>, note: Box<dyn Any + Send>) {
        self.record("", note);
    }

    fn on_note_to(&mut self, cx: &mut Context<'_>, _state: &mut (), note: Box<dyn Any + Send>) {
        let to = format!("{} ", cx.id().slot);
        let text = self.record(&to, note);
        cx.send(&text);
        if text == "x" {
            cx.close();
        }
    }
}

fn noted(limits: Limits) -> (Rig, Key<Noted>, Notes<&'static str>) {
    let rig = rig(limits, Noted::default());
    let key = rig.inner.dispatcher.key(rig.handler);
    let notes = rig.inner.handle().notes(key).unwrap();
    (rig, key, notes)
}

impl Rig {
    fn notes(&mut self, key: Key<Noted>) -> Vec<String> {
        std::mem::take(&mut self.inner.dispatcher.get_mut(key).unwrap().0)
    }

    /// Creates a group of these connections.
    fn group_of(&mut self, peers: &[usize]) -> Group {
        let ids: Vec<ConnId> = peers.iter().map(|&p| self.id(p)).collect();
        let group = self.net().group_with(SlowMember::Cut).unwrap();
        assert!(ids.into_iter().all(|id| self.net().join_id(group, id)));
        group
    }
}

/// A closure that sends its number when it runs.
fn tell(handle: &Handle, n: u32) -> Receiver<u32> {
    let (say, hear) = channel();
    handle.run(move |_| say.send(n).unwrap()).unwrap();
    hear
}

#[test]
fn each_verb_does_what_it_does_in_a_callback() {
    let mut rig = puppet(echo);
    let handle = rig.inner.handle();
    let peers: Vec<usize> = (0..4).map(|_| rig.connect()).collect();
    let ids: Vec<ConnId> = peers.iter().map(|&p| rig.id(p)).collect();
    let group = rig.group_of(&peers[..2]);
    handle.send_to(ids[0], "one ").unwrap();
    handle.broadcast(group, &b"two "[..]).unwrap();
    handle.send_to(ids[0], vec![b'3']).unwrap();
    handle.close_id(ids[2]).unwrap();
    handle.abort_id(ids[3]).unwrap();
    let id = ids[1];
    handle.run(move |net| assert!(net.send_to(id, b"four").is_queued())).unwrap();
    assert!(!rig.turn().more || rig.phase(peers[2]) != Phase::Open);
    assert_eq!((rig.heard(peers[0]), rig.heard(peers[1])), ("one two 3".into(), "two four".into()));
    rig.settle();
    rig.fin(peers[2]);
    assert_eq!((rig.closed(&Reason::Handler), rig.stats().open), (2, 2));
    assert_eq!((rig.stats().commands, rig.stats().commands_for_nobody), (6, 0));
}

#[test]
fn a_message_is_framed_as_its_receiver_wants_it() {
    let mut rig = rig(limits(), Framed::new(LengthDelimited::u32_be(8).unwrap(), Echo));
    let a = rig.connect();
    let (id, group) = (rig.id(a), rig.group_of(&[a]));
    let handle = rig.inner.handle();
    handle.send_to(id, "ab").unwrap();
    handle.broadcast(group, "c").unwrap();
    handle.send_to(id, "much too long").unwrap();
    rig.settle();
    assert_eq!(rig.heard(a), "\\x00\\x00\\x00\\x02ab\\x00\\x00\\x00\\x01c");
    assert_eq!((rig.stats().unencodable, rig.stats().commands_for_nobody), (1, 0));
}

#[test]
fn what_is_for_someone_who_has_gone_reaches_nobody_and_is_counted() {
    let (mut rig, key, notes) = noted(limits());
    let a = rig.connect();
    let (id, group) = (rig.id(a), rig.group_of(&[a]));
    rig.reset(a);
    rig.net().drop_group(group);
    let stranger = rig.connect();
    assert_eq!(rig.id(stranger).slot, id.slot, "the slot has been used again");
    let handle = rig.inner.handle();
    handle.send_to(id, "secret").unwrap();
    handle.broadcast(group, "secret").unwrap();
    handle.close_id(id).unwrap();
    handle.abort_id(id).unwrap();
    notes.post_to(id, "secret").unwrap();
    rig.settle();
    assert_eq!((rig.heard(stranger).as_str(), rig.phase(stranger)), ("", Phase::Open));
    assert!(rig.notes(key).is_empty());
    assert_eq!((rig.stats().commands, rig.stats().commands_for_nobody), (5, 5));
}

#[test]
fn a_note_reaches_its_handler_and_no_other() {
    let (mut rig, key, notes) = noted(limits());
    let other = rig.inner.dispatcher.add(Noted::default(), true).unwrap();
    let other: Key<Noted> = rig.inner.dispatcher.key(other);
    let theirs = rig.inner.handle().notes::<&str>(other).unwrap();
    let numbers = rig.inner.handle().notes::<u64>(key).unwrap();
    let a = rig.connect();
    let id = rig.id(a);
    notes.post("hello").unwrap();
    theirs.post("there").unwrap();
    notes.clone().post_to(id, "conn").unwrap();
    theirs.post_to(id, "not theirs").unwrap();
    numbers.post(7).unwrap();
    rig.turn();
    assert_eq!(rig.heard(a), "conn", "its answer is written in the same turn");
    assert_eq!(rig.notes(key), ["hello", "0 conn", "not a &str"]);
    assert_eq!(rig.notes(other), ["there"]);
    assert_eq!(rig.stats().commands_for_nobody, 1);
    let reactor = Reactor::new().unwrap();
    assert!(reactor.notes::<&str>(key).is_none(), "the key of another reactor");
    assert!(reactor.handle().notes::<&str>(key).is_none());
}

#[test]
fn a_note_may_close_its_connection_and_the_next_finds_it_closed() {
    let (mut rig, key, notes) = noted(limits());
    let a = rig.connect();
    let id = rig.id(a);
    notes.post_to(id, "x").unwrap();
    notes.post_to(id, "too late").unwrap();
    rig.settle();
    assert_eq!((rig.heard(a).as_str(), rig.phase(a)), ("x", Phase::Lingering));
    rig.fin(a);
    assert_eq!((rig.notes(key), rig.stats().commands_for_nobody), (vec!["0 x".to_owned()], 1));
    assert_eq!(rig.closed(&Reason::Handler), 1);
}

#[test]
fn a_turn_runs_its_share_in_order_and_the_next_does_not_wait() {
    let mut rig = puppet_within(Limits { commands_per_turn: 3, ..limits() }, echo);
    let handle = rig.inner.handle();
    let told: Vec<_> = (0..7).map(|n| tell(&handle, n)).collect();
    for (done, more) in [(3, true), (6, true), (7, false)] {
        assert_eq!(rig.inner.next_deadline(), rig.inner.dispatcher.core.now, "an outer loop must not sleep");
        assert_eq!((rig.turn().more, rig.stats().commands), (more, done));
    }
    assert!(told.iter().enumerate().all(|(n, hear)| hear.try_recv() == Ok(n as u32)));
    let polls: Vec<Call> = rig.calls().into_iter().filter(|c| matches!(c, Call::Poll(_))).collect();
    assert_eq!(polls, vec![Call::Poll(Some(Duration::ZERO)); 3]);
    assert_eq!(rig.inner.next_deadline(), crate::time::Time::NEVER);
}

#[test]
fn a_command_that_comes_while_others_are_run_is_run_next() {
    let mut rig = puppet(echo);
    let handle = rig.inner.handle();
    let (again, (say, hear)) = (handle.clone(), channel());
    handle.run(move |_| again.run(move |_| say.send("second").unwrap()).unwrap()).unwrap();
    assert!(rig.turn().more);
    assert!(hear.try_recv().is_err());
    assert!(!rig.turn().more);
    assert_eq!(hear.try_recv(), Ok("second"));
}

#[test]
fn a_full_queue_gives_back_what_it_was_given_and_does_not_refuse_a_stop() {
    let (mut rig, key, notes) = noted(Limits { commands: 2, ..limits() });
    let a = rig.connect();
    let (id, group) = (rig.id(a), rig.group_of(&[a]));
    let handle = rig.inner.handle();
    notes.post("one").unwrap();
    notes.post("two").unwrap();
    assert_eq!(notes.post("three"), Err(HandleError::Full("three")));
    assert_eq!(notes.post_to(id, "four"), Err(HandleError::Full("four")));
    assert_eq!(handle.send_to(id, "five"), Err(HandleError::Full("five".into())));
    assert_eq!(handle.broadcast(group, "six"), Err(HandleError::Full("six".into())));
    assert_eq!(handle.close_id(id), Err(HandleError::Full(id)));
    assert_eq!(handle.abort_id(id), Err(HandleError::Full(id)));
    let closure = handle.run(|_| panic!("it was refused")).unwrap_err();
    let _ = closure.into_inner();
    handle.stop().unwrap();
    rig.settle();
    assert_eq!(rig.notes(key), ["one", "two"]);
    assert_eq!((rig.heard(a).as_str(), rig.stats().panics), ("", 0));
    rig.fin(a);
    assert_eq!(rig.closed(&Reason::Shutdown), 1);
    notes.post("after the shutdown").unwrap();
    rig.settle();
    assert_eq!(rig.notes(key), ["after the shutdown"]);
}

#[test]
fn when_the_loop_has_gone_everything_comes_back() {
    let (rig, _, notes) = noted(limits());
    let handle = rig.inner.handle();
    let (say, hear) = channel::<()>();
    handle.run(move |_| say.send(()).unwrap()).unwrap();
    drop(rig);
    assert!(hear.recv().is_err(), "what waited is dropped with the loop, and not run");
    assert_eq!(notes.post("late"), Err(HandleError::Gone("late")));
    assert_eq!(handle.close_id(ConnId::from_bits(0)), Err(HandleError::Gone(ConnId::from_bits(0))));
    assert!(matches!(handle.run(|_| ()), Err(HandleError::Gone(_))));
    handle.stop().unwrap();
}

#[test]
fn a_closure_or_a_note_that_panics_is_counted_and_the_rest_goes_on() {
    let (mut rig, key, notes) = noted(limits());
    let a = rig.connect();
    let id = rig.id(a);
    lines();
    let handle = rig.inner.handle();
    handle.run(|_| panic!("a closure's end")).unwrap();
    notes.post("!").unwrap();
    notes.post_to(id, "!").unwrap();
    notes.post("on it goes").unwrap();
    rig.settle();
    assert_eq!(rig.notes(key), ["!", "0 !", "on it goes"]);
    assert_eq!((rig.stats().panics, rig.closed(&Reason::HandlerPanic)), (3, 1));
    let said = lines();
    assert!(said.iter().any(|l| l.contains("a closure panicked: a closure's end")), "{said:?}");
}

#[test]
fn a_panic_goes_on_if_that_is_the_policy() {
    let mut rig = puppet(echo);
    rig.inner.dispatcher.set_panic_policy(PanicPolicy::Propagate);
    let handle = rig.inner.handle();
    handle.run(|_| panic!("on")).unwrap();
    let panic = catch_unwind(AssertUnwindSafe(|| rig.turn())).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"on"));
    drop(rig);
    assert!(handle.run(|_| ()).is_err());
}

#[test]
fn a_closure_that_takes_long_is_worth_a_line() {
    let mut rig = puppet(echo);
    lines();
    rig.inner.handle().run(|_| ()).unwrap();
    rig.sys().tick = 60_000_000;
    rig.turn();
    let said = lines();
    assert!(said.iter().any(|l| l.contains("a closure took")), "{said:?}");
    assert!(rig.stats().longest_call >= 60 * MS);
}

#[test]
fn many_broadcasts_in_one_turn_cut_nobody_who_reads() {
    let mut rig = puppet_within(tight_limits(), echo);
    let (a, b) = (rig.connect(), rig.connect());
    let group = rig.group_of(&[a, b]);
    let handle = rig.inner.handle();
    (0..40).for_each(|_| handle.broadcast(group, bytes(1000)).unwrap());
    rig.settle();
    assert_eq!((rig.heard(a).len(), rig.heard(b).len()), (40_000, 40_000));
    assert_eq!(rig.stats().open, 2);
}

#[test]
fn a_note_for_nobody_whose_drop_panics_is_counted_and_the_rest_goes_on() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new("as the test wants it"));
        }
    }
    let mut rig = rig(limits(), Noted::default());
    let key: Key<Noted> = rig.inner.dispatcher.key(rig.handler);
    let notes: Notes<Bomb> = rig.inner.handle().notes(key).unwrap();
    let peer = rig.connect();
    let id = rig.id(peer);
    rig.reset(peer);
    notes.post_to(id, Bomb).unwrap();
    rig.settle();
    assert_eq!((rig.stats().panics, rig.stats().commands_for_nobody), (1, 1));
}
