//! Tests of ids and events that outlive their connection, in slots that are reused.

use super::*;
use crate::core::Sent;
use crate::id::Token;

/// Generations that wrap after four uses of a slot.
fn narrow(act: impl FnMut(&mut Context<'_>, On<'_>) + 'static) -> Rig {
    let puppet = Puppet { act, last: |_: &mut Net<'_>, _: &Closed| {}, log: Vec::new() };
    Rig::new(limits(), Generations::masked(3), puppet, |key| {
        Box::new(move |inner| inner.dispatcher.get_mut(key).map(|p| std::mem::take(&mut p.log)).unwrap_or_default())
    })
}

#[test]
fn an_event_for_an_earlier_user_of_the_slot_reaches_nobody() {
    let mut rig = narrow(echo);
    let mut tokens = Vec::new();
    for round in 0..40 {
        let peer = rig.connect();
        tokens.push(rig.sys().token(peer));
        rig.log();
        rig.calls();
        let old: Vec<usize> = tokens.iter().rev().skip(1).take(3).copied().collect();
        for &token in &old {
            for bits in [1, 2, 4, 8, 15] {
                rig.sys().inject(token, bits);
            }
        }
        let before = rig.stats().stale_events;
        rig.settle();
        assert_eq!(rig.stats().stale_events - before, 5 * old.len() as u64);
        assert!(rig.calls().iter().all(|c| matches!(c, Call::Poll(_))), "round {round}");
        rig.fin(peer);
    }
}

#[test]
fn an_event_that_comes_after_its_close_in_the_same_batch_is_dropped() {
    let mut rig = puppet(echo);
    let a = rig.connect();
    let token = rig.sys().token(a);
    rig.sys().send(a, b"last");
    rig.sys().fin(a);
    rig.settle();
    let b = rig.connect();
    assert_eq!(rig.id(b).slot, 0);
    rig.sys().inject(token, 15);
    rig.settle();
    rig.say(b, "mine");
    assert_eq!((rig.heard(a), rig.heard(b)), ("last".into(), "mine".into()));
}

#[test]
fn an_id_that_is_kept_after_the_close_names_nobody() {
    let mut rig = puppet(echo);
    let a = rig.connect();
    let old = rig.id(a);
    rig.fin(a);
    let b = rig.connect();
    assert_eq!((rig.id(b).slot, rig.id(b) == old), (old.slot, false));
    let group = rig.net().group().unwrap();
    let mut net = rig.net();
    assert_eq!(net.send_to(old, b"for a"), Sent::Closed);
    assert_eq!(net.send_bytes_to(old, vec![0; 9000].into()), Sent::Closed);
    assert!(!net.close_id(old) && !net.abort_id(old) && !net.is_open(old));
    assert!(!net.pause_id(old) && !net.resume_id(old));
    assert!(!net.join_id(group, old) && !net.leave_id(group, old));
    assert!(net.peer_of(old).is_none() && net.pending_of(old).is_none());
    assert_eq!(net.broadcast(group, b"nobody"), 0);
    rig.settle();
    assert_eq!(rig.heard(b), "");
    rig.say(b, "alive");
    assert_eq!(rig.heard(b), "alive");
}

#[test]
fn in_on_close_the_id_still_names_its_own_connection_and_takes_nothing() {
    let mut rig = puppet_to_the_last(limits(), echo, |net, closed| {
        assert!(net.peer_of(closed.who).is_some());
        assert!(!net.is_open(closed.who) && !net.close_id(closed.who) && !net.abort_id(closed.who));
        assert_eq!(net.send_to(closed.who, b"too late"), Sent::Closed);
    });
    let a = rig.connect();
    rig.fin(a);
    assert_eq!(rig.log(), ["0 open", "0 end", "0 closed peer_closed"]);
    assert_eq!(rig.stats().panics, 0);
}

#[test]
fn however_often_it_is_closed_a_connection_closes_once() {
    let thrice = |cx: &mut Context<'_>, on: On<'_>| {
        if !matches!(on, On::Open) {
            cx.send(b"x");
            cx.close();
            cx.abort();
            cx.close();
            cx.abort();
        }
    };
    let mut rig = puppet(thrice);
    let (a, b, c) = (rig.connect(), rig.connect(), rig.connect());
    let tokens = [a, b, c].map(|p| rig.sys().token(p));
    rig.sys().send(a, b"go");
    rig.sys().reset(b);
    rig.sys().fin(c);
    for token in tokens {
        rig.sys().inject(token, 15);
    }
    rig.sys().clock += 3_600_000_000_000;
    rig.settle();
    let log = rig.log();
    for slot in 0..3 {
        let closes = log.iter().filter(|l| l.starts_with(&format!("{slot} closed"))).count();
        assert_eq!(closes, 1, "{log:?}");
    }
    assert_eq!(rig.sys().open_streams(), 0);
}

#[test]
fn a_listener_that_is_closed_hears_no_more_events() {
    let mut rig = puppet(echo);
    let (old, handler) = (rig.listener, rig.handler);
    assert!(rig.inner.close_listener(old));
    assert!(!rig.inner.close_listener(old));
    let new = rig.listen(handler);
    assert_eq!((new.slot, new == old), (old.slot, false));
    rig.settle();
    rig.sys().inject(Token::Listener(old).pack(), 1);
    rig.calls();
    rig.settle();
    assert_eq!(rig.stats().stale_events, 1);
    assert!(!rig.calls().iter().any(|c| matches!(c, Call::Accept(..))));
}

#[test]
fn nothing_of_one_connection_reaches_another_in_a_long_churn() {
    let mut rig = narrow(echo);
    let mut held: Vec<(usize, ConnId)> = Vec::new();
    for n in 0..300usize {
        let peer = rig.connect();
        let id = rig.id(peer);
        rig.sys().set_window(peer, n % 7);
        rig.say(peer, format!("<{peer}>"));
        held.push((peer, id));
        if n % 3 == 0 {
            let (gone, _) = held.swap_remove(n % held.len());
            if n % 2 == 0 { rig.fin(gone) } else { rig.reset(gone) }
        }
    }
    for (peer, _) in held {
        rig.open_window(peer, 100);
        assert_eq!(rig.heard(peer), format!("<{peer}>"));
    }
}
