//! Tests of accepting: what can go wrong between a client's connect and its first callback.

use super::*;
use crate::config::limits::AtCapacity;
use crate::sys::CloseHow;

const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;
const EINVAL: i32 = 22;

fn accepts(calls: &[Call]) -> usize {
    calls.iter().filter(|c| matches!(c, Call::Accept(..))).count()
}

#[test]
fn a_shortage_of_descriptors_rests_accepting_and_does_not_spin() {
    for number in [EMFILE, 23, 105, 12] {
        let mut rig = puppet(echo);
        let alive = rig.connect();
        rig.calls();
        rig.sys().accepts_fail(0, &[number; 8]);
        let waiter = rig.sys().connect(0);
        rig.pass(700 * MS);
        let calls = rig.calls();
        assert_eq!(accepts(&calls), 8, "one try each 100 ms: {calls:?}");
        assert!(calls.iter().filter(|c| matches!(c, Call::Poll(_))).count() <= 2 * 8 + 4, "{calls:?}");
        assert_eq!(rig.stats().accept_pauses, 8);
        rig.say(alive, "still here");
        assert_eq!(rig.heard(alive), "still here");
        rig.pass(101 * MS);
        rig.say(waiter, "at last");
        assert_eq!(rig.heard(waiter), "at last");
    }
}

#[test]
fn a_rest_from_accepting_ends_as_soon_as_a_connection_does() {
    let mut rig = puppet(echo);
    let alive = rig.connect();
    rig.sys().accepts_fail(0, &[EMFILE]);
    rig.settle();
    rig.sys().connect(0);
    rig.settle();
    assert_eq!(rig.stats().accepted, 1);
    rig.fin(alive);
    assert_eq!(rig.stats().accepted, 2, "and no time has passed");
}

#[test]
fn an_error_of_one_waiting_connection_concerns_no_other() {
    for number in [103, 104, 71, 92, 112, 64, 95, 100, 101, 113, 110, 1] {
        for before in 0..5 {
            let mut rig = puppet(echo);
            for _ in 0..before {
                rig.sys().connect(0);
            }
            rig.settle();
            rig.sys().accepts_fail(0, &[number, number]);
            for _ in 0..3 {
                rig.sys().connect(0);
            }
            rig.settle();
            assert_eq!(rig.stats().accepted, before + 3, "errno {number} after {before}");
            assert_eq!((rig.stats().accept_errors, rig.stats().accept_pauses), (2, 0));
        }
    }
}

#[test]
fn an_unknown_error_is_tried_again_and_rests_only_if_it_goes_on() {
    let mut rig = puppet(echo);
    rig.sys().accepts_fail(0, &[5, 5, 5]);
    rig.sys().connect(0);
    rig.settle();
    assert_eq!((rig.stats().accepted, rig.stats().accept_pauses), (1, 0));
    rig.sys().accepts_fail(0, &[5; 25]);
    rig.sys().connect(0);
    rig.settle();
    assert_eq!((rig.stats().accepted, rig.stats().accept_pauses), (1, 1));
    rig.pass(250 * MS);
    assert_eq!((rig.stats().accepted, rig.stats().accept_pauses), (2, 2));
}

#[test]
fn one_event_is_enough_for_a_whole_queue_and_no_turn_takes_more_than_its_share() {
    for cap in [1, 4, 64] {
        let mut rig = puppet_within(Limits { accepts_per_turn: cap, ..limits() }, echo);
        rig.sys().strict = true;
        for _ in 0..200 {
            rig.sys().connect(0);
        }
        let mut before = 0;
        for _ in 0..=200 / cap {
            rig.turn();
            let now = rig.stats().accepted;
            assert!(now - before <= cap as u64);
            before = now;
        }
        assert_eq!(rig.stats().accepted, 200);
    }
}

#[test]
fn at_the_limit_clients_wait_until_a_sixty_fourth_of_it_is_free() {
    let mut rig = puppet_within(Limits { connections: Limit::At(128), ..limits() }, echo);
    let peers: Vec<usize> = (0..140).map(|_| rig.sys().connect(0)).collect();
    rig.settle();
    assert_eq!((rig.stats().open, rig.sys().waiting(0)), (128, 12));
    rig.fin(peers[0]);
    assert_eq!(rig.sys().waiting(0), 12, "one of 128 is not enough");
    rig.fin(peers[1]);
    assert_eq!((rig.stats().open, rig.sys().waiting(0)), (128, 10));
    for &p in &peers[2..30] {
        rig.fin(p);
    }
    assert_eq!((rig.stats().accepted, rig.sys().waiting(0)), (140, 0), "all are served in the end");
    assert_eq!(rig.stats().refused, 0);
}

#[test]
fn at_the_limit_refusing_is_accepting_and_closing_and_is_counted() {
    let limits = Limits { connections: Limit::At(8), at_capacity: AtCapacity::Refuse, ..limits() };
    let mut rig = puppet_within(limits, echo);
    let peers: Vec<usize> = (0..50).map(|_| rig.sys().connect(0)).collect();
    rig.settle();
    assert_eq!((rig.stats().open, rig.stats().accepted, rig.stats().refused), (8, 8, 42));
    assert_eq!(rig.closed(&Reason::AtCapacity), 42);
    assert_eq!(rig.sys().open_streams(), 8);
    assert_eq!(rig.sys().peers[peers[49]].closed, Some(CloseHow::Graceful));
    rig.fin(peers[0]);
    let late = rig.connect();
    rig.say(late, "space");
    assert_eq!(rig.heard(late), "space");
}

fn hang_up(cx: &mut Context<'_>, on: On<'_>) {
    if let On::Data(_) = on {
        cx.close();
    }
}

#[test]
fn at_the_limit_whoever_lingers_longest_makes_space() {
    let mut rig = puppet_within(Limits { connections: Limit::At(4), ..limits() }, hang_up);
    let [a, b, c] = [(); 3].map(|()| rig.connect());
    for peer in [a, b, c] {
        rig.say(peer, "bye");
        assert_eq!(rig.phase(peer), Phase::Lingering);
    }
    rig.connect();
    rig.connect();
    assert_eq!(rig.stats().accepted, 5);
    assert_eq!(rig.sys().peers[a].closed, Some(CloseHow::Graceful));
    assert_eq!((rig.phase(c), rig.stats().refused), (Phase::Lingering, 0));
}

#[test]
fn at_the_limit_nobody_who_lingers_is_dropped_for_nobody() {
    let mut rig = puppet_within(Limits { connections: Limit::At(2), ..limits() }, hang_up);
    let (a, _b) = (rig.connect(), rig.connect());
    rig.say(a, "bye");
    assert_eq!(rig.phase(a), Phase::Lingering);
}

#[test]
fn what_cannot_be_registered_is_closed_and_nothing_leaks() {
    let mut rig = puppet(echo);
    let alive = rig.connect();
    for n in 0..200 {
        let peer = rig.sys().connect(0);
        rig.sys().peers[peer].add = Some(ENOSPC);
        rig.settle();
        assert_eq!(rig.sys().peers[peer].closed, Some(CloseHow::Graceful));
        assert_eq!(rig.stats().accept_pauses, n + 1);
        rig.pass(101 * MS);
    }
    assert_eq!((rig.sys().open_streams(), rig.closed(&Reason::RegisterFailed)), (1, 200));
    rig.say(alive, "ok");
    assert_eq!(rig.heard(alive), "ok");
    assert_eq!(rig.log()[..2], ["0 open", "0 ok"], "and no handler heard of it");
}

#[test]
fn a_listener_that_dies_is_removed_and_the_others_go_on() {
    for number in [EINVAL, 9, 88] {
        let mut rig = puppet(echo);
        let alive = rig.connect();
        rig.listen(rig.handler);
        rig.sys().accepts_fail(0, &[number]);
        rig.settle();
        assert_eq!(rig.inner.listeners().len(), 1);
        assert!(rig.calls().contains(&Call::CloseListener(0)));
        let other = rig.sys().connect(1);
        rig.settle();
        rig.say(other, "two");
        rig.say(alive, "one");
        assert_eq!((rig.heard(alive), rig.heard(other)), ("one".into(), "two".into()));
        assert_eq!(rig.sys().open_streams(), 2);
    }
}

#[test]
fn the_limit_of_connections_is_lowered_to_what_the_process_may_open() {
    let limit = |taken| {
        let mut world = Script::new();
        world.descriptors = Some((1000, taken));
        let inner = EventLoop::new(world, limits(), Generations::new()).unwrap();
        inner.dispatcher.core.limits.connections
    };
    assert_eq!(limit(36), Limit::At(900));
    assert_eq!(limit(1000), Limit::At(1));
}
