//! Tests of switching a connection to another handler.

use std::rc::Rc;

use super::*;
use crate::builtin::{Framed, FramedState};
use crate::codec::{LengthDelimited, Lines};
use crate::config::limits::PanicPolicy;

/// A line "upgrade N" switches to length-prefixed messages, with the state N.
struct Plain {
    to: Option<Key<Framed<LengthDelimited, Counting>>>,
    dropped: Rc<()>,
}

impl Handler for Plain {
    type State = Rc<()>;

    fn on_open(&mut self, cx: &mut Context<'_>) -> Rc<()> {
        cx.set_timer(SECOND, 0);
        Rc::clone(&self.dropped)
    }

    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut Rc<()>, line: &[u8]) {
        cx.send(line);
        if let Some(n) = line.strip_prefix(b"upgrade ") {
            let n = std::str::from_utf8(n).unwrap().parse().unwrap();
            assert!(cx.switch(self.to.unwrap(), FramedState::new(n)));
            cx.send("as before");
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, _state: &mut Rc<()>, _key: u64) {
        cx.send("still here");
    }

    fn on_close(&mut self, _net: &mut Net<'_>, _state: Rc<()>, _closed: &Closed) {
        panic!("nobody closes before it goes over");
    }
}

/// Numbers the messages, and records the last number on close.
#[derive(Default)]
struct Counting {
    last: Vec<u64>,
}

impl Handler for Counting {
    type State = u64;

    fn on_open(&mut self, _cx: &mut Context<'_>) -> u64 {
        panic!("nobody begins here");
    }

    fn on_data(&mut self, cx: &mut Context<'_>, state: &mut u64, message: &[u8]) {
        *state += 1;
        cx.send(format!("{state} {}", message.escape_ascii()));
    }

    fn on_close(&mut self, _net: &mut Net<'_>, state: u64, _closed: &Closed) {
        self.last.push(state);
    }
}

struct Scene {
    rig: Rig,
    counting: Key<Framed<LengthDelimited, Counting>>,
    states: Rc<()>,
}

fn scene() -> Scene {
    let states = Rc::new(());
    let plain = Plain { to: None, dropped: Rc::clone(&states) };
    let mut rig = rig(limits(), Framed::new(Lines::lf(100).unwrap(), plain));
    rig.inner.dispatcher.set_panic_policy(PanicPolicy::Propagate);
    let counting = Framed::new(LengthDelimited::u16_be(100).unwrap(), Counting::default());
    let handler = rig.inner.dispatcher.add(counting, true).unwrap();
    let counting = rig.inner.dispatcher.key(handler);
    let key: Key<Framed<Lines, Plain>> = rig.inner.dispatcher.key(rig.handler);
    rig.inner.dispatcher.get_mut(key).unwrap().handler_mut().to = Some(counting);
    Scene { rig, counting, states }
}

const SAID: &[u8] = b"a\nupgrade 7\n\0\x01x\0\x02yz\0\0";
const HEARD: &str = "a\\nupgrade 7\\nas before\\n\\x00\\x038 x\\x00\\x049 yz\\x00\\x0310 ";

#[test]
fn what_comes_behind_the_upgrade_is_for_the_new_handler_however_it_is_cut() {
    for cuts in 0..1u32 << (SAID.len() - 1) {
        // Every way to cut it into up to three pieces, and some others.
        if cuts.count_ones() > 2 && cuts % 61 != 0 {
            continue;
        }
        let Scene { mut rig, counting, states } = scene();
        let peer = rig.connect();
        let mut piece = Vec::new();
        for (i, byte) in SAID.iter().enumerate() {
            piece.push(*byte);
            if i + 1 == SAID.len() || cuts & 1 << i != 0 {
                rig.say(peer, std::mem::take(&mut piece));
            }
        }
        assert_eq!(rig.heard(peer), HEARD, "cuts {cuts:b}");
        assert_eq!(Rc::strong_count(&states), 2, "the old state is dropped");
        rig.pass(2 * SECOND);
        assert_eq!(rig.heard(peer), "", "the old timer has ended");
        rig.fin(peer);
        assert_eq!(rig.inner.dispatcher.get(counting).unwrap().handler().last, [10]);
    }
}

#[test]
fn groups_go_on_in_the_new_framing() {
    let Scene { mut rig, .. } = scene();
    let (a, b) = (rig.connect(), rig.connect());
    let (ida, idb) = (rig.id(a), rig.id(b));
    let group = rig.net().group().unwrap();
    assert!(rig.net().join_id(group, ida) && rig.net().join_id(group, idb));
    rig.net().broadcast(group, "one");
    // The upgrade is read before the broadcast is written.
    rig.sys().send(a, b"upgrade 0\n");
    rig.settle();
    rig.net().broadcast(group, "two");
    rig.settle();
    assert_eq!(rig.heard(a), "one\\nupgrade 0\\nas before\\n\\x00\\x03two");
    assert_eq!(rig.heard(b), "one\\ntwo\\n");
    assert_eq!(rig.net().members(group).len(), 2);
    assert!(rig.net().leave_id(group, idb));
    rig.net().broadcast(group, "three");
    rig.settle();
    assert_eq!(rig.heard(a), "\\x00\\x05three");
}

#[test]
fn a_handler_that_nobody_uses_any_more_is_dropped() {
    struct Once {
        to: Key<crate::builtin::Echo>,
        alive: Rc<()>,
    }
    impl Handler for Once {
        type State = Rc<()>;
        fn on_open(&mut self, cx: &mut Context<'_>) -> Rc<()> {
            assert!(cx.switch(self.to, ()), "before there is a state");
            Rc::clone(&self.alive)
        }
        fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut Rc<()>, _data: &[u8]) {
            panic!("it has gone over");
        }
    }
    let mut rig = puppet(|_, _| {});
    let echo = rig.inner.dispatcher.add(crate::builtin::Echo, true).unwrap();
    let (to, alive) = (rig.inner.dispatcher.key(echo), Rc::new(()));
    let handler = rig.inner.dispatcher.add(Once { to, alive: Rc::clone(&alive) }, false).unwrap();
    let listener = rig.listen(handler);
    let peer = rig.sys().connect(1);
    rig.settle();
    assert_eq!(Rc::strong_count(&alive), 2);
    rig.inner.close_listener(listener);
    assert_eq!(Rc::strong_count(&alive), 1, "its connection is another's");
    rig.say(peer, "hello");
    assert_eq!(rig.heard(peer), "hello");
}

#[test]
fn a_wish_that_cannot_be_is_refused_and_one_of_a_panic_forgotten() {
    let mut other = rig(limits(), crate::builtin::Echo);
    let foreign: Key<crate::builtin::Echo> = other.inner.dispatcher.key(other.handler);
    let mut rig = puppet(move |cx, on| match on {
        On::Data(b"foreign") => assert!(!cx.switch(foreign, ())),
        On::Data(b"close") => {
            cx.close();
            assert!(!cx.switch(foreign, ()));
        }
        On::Data(_) => {
            let here = Key::<crate::builtin::Echo>::new(cx.core().number, crate::id::HandlerIdx(1));
            assert!(cx.switch(here, ()));
            panic!("as the test wants it");
        }
        _ => {}
    });
    rig.inner.dispatcher.add(crate::builtin::Echo, true).unwrap();
    let (a, b, c) = (rig.connect(), rig.connect(), rig.connect());
    rig.say(a, "foreign");
    rig.say(b, "close");
    rig.say(c, "panic");
    let log = rig.log();
    assert!(log.contains(&"2 closed handler_panic".to_owned()), "{log:?}");
    assert_eq!(rig.stats().panics, 1);
    other.settle();
}

/// Switches to an echo when its timer fires or its peer half-closes.
struct Leaver {
    to: Key<crate::builtin::Echo>,
}

impl Handler for Leaver {
    type State = ();
    fn on_open(&mut self, cx: &mut Context<'_>) {
        cx.set_timer(SECOND, 0);
    }
    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
        cx.keep(data.len());
    }
    fn on_timer(&mut self, cx: &mut Context<'_>, _state: &mut (), _key: u64) {
        assert!(cx.switch(self.to, ()));
    }
    fn on_end(&mut self, cx: &mut Context<'_>, _state: &mut ()) {
        assert!(cx.switch(self.to, ()));
    }
}

fn leaver() -> Rig {
    let mut rig = puppet(|_, _| {});
    let echo = rig.inner.dispatcher.add(crate::builtin::Echo, true).unwrap();
    let to = rig.inner.dispatcher.key(echo);
    let handler = rig.inner.dispatcher.add(Leaver { to }, true).unwrap();
    rig.listen(handler);
    rig
}

#[test]
fn what_was_kept_before_is_for_the_new_handler_at_once() {
    let mut rig = leaver();
    let peer = rig.sys().connect(1);
    rig.settle();
    rig.say(peer, "begun");
    rig.pass(2 * SECOND);
    assert_eq!(rig.heard(peer), "begun");
}

#[test]
fn who_takes_over_at_the_end_is_told_of_it_too() {
    let mut rig = leaver();
    let peer = rig.sys().connect(1);
    rig.settle();
    rig.say(peer, "begun");
    rig.fin(peer);
    assert_eq!(rig.heard(peer), "begun");
    assert_eq!(rig.stats().open, 0, "it closes at the end");
}
