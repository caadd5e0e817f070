//! Tests of the timers that handlers set.

use super::*;

/// Sets timers as its input requests: `12:7` is a timer with key 7 in 12 ms.
fn set(cx: &mut Context<'_>, data: &[u8]) {
    for word in std::str::from_utf8(data).unwrap().split_whitespace() {
        let (after, key) = word.split_once(':').unwrap();
        let after = Duration::from_millis(after.parse().unwrap());
        assert!(cx.set_timer(after, key.parse().unwrap()).is_some());
    }
}

fn setter() -> Rig {
    puppet(|cx, on| match on {
        On::Data(data) => set(cx, data),
        On::Timer(key) => drop(cx.send(format!("<{key}>"))),
        On::End => cx.close(),
        _ => {}
    })
}

#[test]
fn timers_go_off_in_their_order_late_and_never_early() {
    let mut rig = setter();
    let peer = rig.connect();
    rig.say(peer, "20:1 10:2 20:3 0:4 10:5");
    assert_eq!(rig.heard(peer), "<4>", "nothing, but for the one that was due at once");
    rig.pass(9 * MS);
    assert_eq!(rig.heard(peer), "");
    rig.pass(MS);
    assert_eq!(rig.heard(peer), "<2><5>");
    rig.pass(9 * MS);
    assert_eq!(rig.heard(peer), "");
    rig.pass(MS);
    assert_eq!(rig.heard(peer), "<1><3>");
}

#[test]
fn the_time_counts_from_the_end_of_the_callback() {
    let mut rig = setter();
    let peer = rig.connect();
    // Each reading of the clock takes 3 ms, so the callback does too.
    rig.sys().tick = 3_000_000;
    let before = rig.sys().clock;
    rig.sys().send(peer, b"10:1");
    rig.turn();
    let after = rig.sys().clock;
    assert!(after >= before + 6_000_000);
    rig.sys().tick = 0;
    rig.sys().clock = after + 9_999_999;
    rig.turn();
    assert_eq!(rig.heard(peer), "");
    rig.sys().clock = after + 10_000_000;
    rig.turn();
    rig.turn();
    assert_eq!(rig.heard(peer), "<1>");
}

#[test]
fn timers_end_with_their_connection() {
    let mut rig = setter();
    let (a, b) = (rig.connect(), rig.connect());
    rig.say(a, "5:1 6:2 700:3");
    rig.say(b, "5:4");
    assert_eq!(rig.inner.dispatcher.core.timers.len(), 4);
    rig.fin(a);
    rig.reset(b);
    assert_eq!(rig.inner.dispatcher.core.timers.len(), 0);
    rig.log();
    rig.pass(SECOND);
    assert!(rig.log().is_empty());
}

#[test]
fn a_timer_is_cancelled_and_set_anew_and_a_stale_id_is_nobodys() {
    let mut rig = puppet(|_, _| {});
    let peer = rig.connect();
    let id = rig.id(peer);
    let core = &mut rig.inner.dispatcher.core;
    let owner = crate::time::timers::Owner::Connection(id);
    let timer = core.set_timer(owner, 1, 5 * MS, None).unwrap();
    let other = core.set_timer(owner, 2, 5 * MS, None).unwrap();
    assert!(rig.net().rearm_timer(timer, 20 * MS));
    assert!(rig.net().cancel_timer(other) && !rig.net().cancel_timer(other));
    assert!(!rig.net().rearm_timer(other, MS));
    rig.pass(19 * MS);
    assert_eq!(rig.log(), ["0 open"]);
    rig.pass(MS);
    assert_eq!(rig.log(), ["0 timer 1"]);
    assert!(!rig.net().cancel_timer(timer), "it has gone off");
}

#[test]
fn no_more_timers_than_allowed() {
    let limits = Limits { timers: 5, timers_per_connection: 3, ..limits() };
    let mut rig = puppet_within(limits, |cx, on| {
        if let On::Data(data) = on {
            let set: Vec<bool> = data.iter().map(|_| cx.set_timer(MS, 0).is_some()).collect();
            cx.send(format!("{}", set.iter().filter(|s| **s).count()));
        }
    });
    let (a, b) = (rig.connect(), rig.connect());
    rig.say(a, "1234");
    rig.say(b, "1234");
    assert_eq!((rig.heard(a), rig.heard(b)), ("3".to_owned(), "2".to_owned()));
    assert!(rig.net_of_handler().set_tick(MS, 1).is_none());
    rig.pass(MS);
    assert!(rig.net_of_handler().set_tick(MS, 1).is_some());
    assert!(rig.net().set_tick(MS, 1).is_none(), "nobody's");
}

#[test]
fn a_handlers_own_timer_goes_off_again_and_again() {
    let mut rig = puppet(|_, _| {});
    let peer = rig.connect();
    rig.log();
    let timer = rig.net_of_handler().set_tick_every(SECOND, 7).unwrap();
    rig.pass(3 * SECOND + SECOND / 2);
    assert_eq!(rig.log(), ["tick 7"; 3]);
    assert_eq!(rig.heard(peer), "tickticktick");
    assert!(rig.net().cancel_timer(timer));
    rig.pass(3 * SECOND);
    assert!(rig.log().is_empty());
}

#[test]
fn a_timer_that_sets_itself_anew_at_once_does_not_hold_up_a_turn() {
    let mut rig = puppet(|cx, on| {
        if let On::Open | On::Timer(_) = on {
            cx.set_timer(Duration::ZERO, 0);
        }
    });
    let peer = rig.sys().connect(0);
    for _ in 0..10 {
        rig.turn();
    }
    let log = rig.log();
    assert!(log.len() <= 11, "{log:?}");
    assert!(log.len() >= 9, "{log:?}");
    rig.reset(peer);
}

#[test]
fn a_handler_that_is_gone_is_not_ticked() {
    struct Ticker;
    impl Handler for Ticker {
        type State = ();
        fn on_open(&mut self, cx: &mut Context<'_>) {
            cx.set_tick_every(MS, 1);
        }
        fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut (), _data: &[u8]) {}
    }
    let mut rig = puppet(|_, _| {});
    let handler = rig.inner.dispatcher.add(Ticker, false).unwrap();
    let listener = rig.listen(handler);
    let peer = rig.sys().connect(1);
    rig.settle();
    assert_eq!(rig.inner.dispatcher.core.timers.len(), 1);
    rig.inner.close_listener(listener);
    rig.reset(peer);
    assert_eq!(rig.inner.dispatcher.core.timers.len(), 0);
}

#[test]
fn no_more_go_off_in_a_turn_than_its_share() {
    let limits = Limits { timeouts_per_turn: 10, ..limits() };
    let mut rig = puppet_within(limits, |cx, on| {
        if matches!(on, On::Open) {
            for key in 0..25 {
                cx.set_timer(MS, key);
            }
        }
    });
    rig.connect();
    rig.log();
    rig.sys().clock += 2_000_000;
    for most in [0, 10, 10, 5, 0] {
        rig.turn();
        assert_eq!(rig.log().len(), most);
    }
}

#[test]
fn a_panic_in_on_timer_ends_that_connection_and_one_in_on_tick_none() {
    struct Touchy;
    impl Handler for Touchy {
        type State = ();
        fn on_open(&mut self, cx: &mut Context<'_>) {
            cx.set_timer(MS, 0);
        }
        fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut (), _data: &[u8]) {}
        fn on_timer(&mut self, _cx: &mut Context<'_>, _state: &mut (), _key: u64) {
            panic!("as the test wants it");
        }
        fn on_tick(&mut self, _net: &mut Net<'_>, _key: u64) {
            panic!("as the test wants it");
        }
    }
    let mut rig = rig(limits(), Touchy);
    rig.connect();
    rig.net_of_handler().set_tick(5 * MS, 0);
    rig.pass(2 * MS);
    assert_eq!((rig.closed(&Reason::HandlerPanic), rig.stats().panics), (1, 1));
    rig.pass(3 * MS);
    let other = rig.connect();
    assert_eq!((rig.closed(&Reason::HandlerPanic), rig.stats().panics), (1, 2));
    assert!(rig.sys().peers[other].closed.is_none());
}

#[test]
fn waiting_ends_when_a_timer_is_due() {
    let mut rig = setter();
    let peer = rig.connect();
    rig.say(peer, "1500:1");
    rig.calls();
    rig.sys().sleeps = true;
    rig.turn_for(None);
    assert_eq!(rig.calls().first(), Some(&Call::Poll(Some(Duration::from_millis(1500)))));
    rig.turn_for(None);
    assert_eq!(rig.heard(peer), "<1>");
}
