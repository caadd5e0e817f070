//! Tests of readiness that is late, doubled, missing, wrong or truncated, and of more work than a turn allows.

use super::*;
use crate::sys::Ready;
use crate::sys::script::{Answer, EAGAIN, ECONNRESET};

fn reads(calls: &[Call], peer: usize) -> Vec<Result<usize, i32>> {
    let of = |c: &Call| if let Call::Read(p, done) = c { (*p == peer).then_some(*done) } else { None };
    calls.iter().filter_map(of).collect()
}

#[test]
fn without_a_second_edge_everything_is_read_all_the_same() {
    let mut rig = puppet(echo);
    rig.sys().strict = true;
    let a = rig.connect();
    let all = bytes(1000);
    for part in all.chunks(37) {
        rig.sys().send(a, part);
    }
    rig.settle();
    assert_eq!(rig.heard(a).as_bytes(), all);
    rig.say(a, "more");
    assert_eq!(rig.heard(a), "more", "after WouldBlock there is an edge again");
}

#[test]
fn a_turn_that_ends_in_the_middle_of_input_goes_on_without_an_event() {
    let mut rig = puppet(echo);
    let a = rig.connect();
    rig.sys().send(a, &bytes(64 * 5));
    for left in (0..5).rev() {
        let turn = rig.turn();
        assert_eq!(rig.sys().unread(a), 64 * left);
        assert!(turn.more || left == 0);
    }
}

#[test]
fn the_end_that_comes_with_the_last_data_is_seen_whatever_their_size() {
    for strict in [false, true] {
        for n in (0..130).chain([191, 192, 193]) {
            let mut rig = puppet(echo);
            rig.sys().strict = strict;
            let a = rig.connect();
            rig.sys().send(a, &bytes(n));
            rig.fin(a);
            assert_eq!(rig.heard(a).len(), n);
            assert_eq!(rig.log().last().unwrap(), "0 closed peer_closed", "{n} bytes");
            assert_eq!(rig.sys().open_streams(), 0);
        }
    }
}

#[test]
fn a_short_read_is_not_the_end_of_what_lies_behind_an_urgent_byte() {
    let mut rig = puppet(echo);
    let a = rig.connect();
    rig.sys().send(a, b"abc");
    rig.sys().send_urgent(a);
    rig.say(a, "def");
    assert_eq!(rig.heard(a), "abcdef");
    assert_eq!(rig.sys().unread(a), 0);
}

#[test]
fn without_a_hint_a_short_read_saves_the_second_call() {
    let mut rig = puppet(echo);
    let a = rig.connect();
    rig.calls();
    rig.say(a, "hello");
    assert_eq!(reads(&rig.calls(), a), [Ok(5)]);
}

#[test]
fn an_untrue_event_costs_one_call_and_changes_nothing() {
    let mut rig = puppet(echo);
    let (a, b) = (rig.connect(), rig.connect());
    let token = rig.sys().token(a);
    rig.log();
    for bits in 1..=15 {
        rig.calls();
        rig.sys().inject(token, bits);
        rig.settle();
        let calls = rig.calls();
        assert!(calls.iter().filter(|c| !matches!(c, Call::Poll(_))).count() <= 1, "{bits}: {calls:?}");
    }
    let never = crate::id::Token::Connection(ConnId { slot: 900, generation: 3 }).pack();
    let nowhere = crate::id::Token::Listener(ListenerId { slot: 9, generation: 0 }).pack();
    rig.sys().inject(never, 15);
    rig.sys().inject(nowhere, 15);
    rig.settle();
    assert_eq!((rig.log(), rig.stats().stale_events), (vec![], 2));
    rig.say(b, "fine");
    rig.say(a, "fine");
    assert_eq!((rig.heard(a), rig.heard(b)), ("fine".into(), "fine".into()));
}

#[test]
fn doubled_and_late_events_deliver_nothing_twice() {
    let mut rig = puppet(echo);
    let a = rig.connect();
    let token = rig.sys().token(a);
    rig.sys().held = true;
    rig.sys().send(a, b"once");
    for _ in 0..3 {
        rig.turn();
    }
    assert_eq!(rig.heard(a), "");
    rig.sys().held = false;
    for bits in [1, 3, 1, 7] {
        rig.sys().inject(token, bits);
    }
    rig.settle();
    assert_eq!(rig.heard(a), "once");
}

#[test]
fn a_hint_that_nothing_confirms_is_given_up_after_so_many_turns() {
    let mut rig = puppet(echo);
    let a = rig.connect();
    let token = rig.sys().token(a);
    rig.calls();
    for turn in 0..1000 {
        rig.sys().inject(token, Ready::HINT);
        rig.turn();
        if rig.sys().open_streams() == 0 {
            assert!((60..70).contains(&turn), "{turn}");
            break;
        }
    }
    assert_eq!(rig.closed(&Reason::Livelock), 1);
}

#[test]
fn a_hint_with_data_now_and_then_is_no_livelock() {
    let mut rig = puppet(echo);
    let a = rig.connect();
    let token = rig.sys().token(a);
    for turn in 0..1000 {
        if turn % 50 == 0 {
            rig.sys().send(a, b"x");
        }
        rig.sys().inject(token, Ready::HINT);
        rig.turn();
    }
    assert_eq!(rig.stats().open, 1);
}

#[test]
fn a_hangup_alone_closes_nothing_and_a_reset_is_noticed_in_the_same_turn() {
    let mut rig = puppet(echo);
    let a = rig.connect();
    let token = rig.sys().token(a);
    rig.sys().inject(token, Ready::HINT);
    rig.sys().inject(token, Ready::ERROR);
    rig.settle();
    assert_eq!(rig.phase(a), Phase::Open);
    rig.sys().reset(a);
    rig.turn();
    assert_eq!(rig.closed(&Reason::PeerReset), 1);
    assert_eq!(rig.sys().open_streams(), 0);
}

#[test]
fn a_reset_of_a_paused_connection_is_noticed_by_asking() {
    let mut rig = puppet(|cx, on| {
        if on == On::Open {
            cx.pause();
        }
    });
    let a = rig.connect();
    rig.calls();
    rig.say(a, "unread");
    let token = rig.sys().token(a);
    for _ in 0..200 {
        rig.sys().inject(token, Ready::HINT | Ready::ERROR);
        rig.turn();
    }
    assert_eq!(rig.phase(a), Phase::Open, "an error hint that is not true");
    rig.sys().reset(a);
    rig.turn();
    rig.turn();
    assert_eq!(rig.closed(&Reason::PeerReset), 1);
    assert_eq!(reads(&rig.calls(), a), []);
}

#[test]
fn write_interest_is_never_lost_wherever_a_write_stops() {
    for stop in 0..=100 {
        let mut rig = puppet(|cx, on| {
            if let On::Data(_) = on {
                cx.send(bytes(100));
            }
        });
        let a = rig.connect();
        rig.sys().set_window(a, stop);
        rig.say(a, "go");
        assert_eq!(rig.sys().peers[a].got.len(), stop);
        rig.open_window(a, 1000);
        assert_eq!(rig.heard(a).as_bytes(), bytes(100), "stopped after {stop}");
    }
}

#[test]
fn a_stream_is_registered_once_for_its_life() {
    let mut rig = puppet(echo);
    let a = rig.connect();
    rig.sys().set_window(a, 10);
    rig.say(a, bytes(300));
    rig.open_window(a, 1000);
    rig.fin(a);
    assert_eq!(rig.calls().iter().filter(|c| matches!(c, Call::Add(_))).count(), 1);
}

#[test]
fn would_block_though_data_is_there_only_delays() {
    for strict in [false, true] {
        let mut rig = puppet(echo);
        rig.sys().strict = strict;
        let a = rig.connect();
        rig.sys().peers[a].reads.extend([Answer::Fail(EAGAIN), Answer::AtMost(2), Answer::Fail(EAGAIN)]);
        rig.sys().peers[a].writes.extend([Answer::AtMost(1), Answer::Fail(EAGAIN)]);
        rig.say(a, "patience");
        assert_eq!(rig.heard(a), "patience");
    }
}

#[test]
fn a_greedy_connection_gets_one_buffer_a_turn_and_the_others_their_turn() {
    let mut rig = puppet(echo);
    let hog = rig.connect();
    let others: Vec<usize> = (0..10).map(|_| rig.connect()).collect();
    rig.sys().send(hog, &bytes(10_000));
    rig.calls();
    for round in 0..20 {
        rig.all_send(&others, b"ping");
        let before = rig.sys().unread(hog);
        rig.turn();
        for &p in &others {
            assert_eq!(rig.heard(p), "ping", "round {round}");
        }
        assert_eq!(before - rig.sys().unread(hog), 64);
    }
}

#[test]
fn no_more_is_written_to_one_connection_in_a_turn_than_its_budget() {
    let limits = Limits { write_per_turn: 1000, ..limits() };
    let mut rig = puppet_within(limits, |cx, on| {
        if let On::Data(_) = on {
            cx.send(bytes(3500));
        }
    });
    let a = rig.connect();
    rig.sys().send(a, b"go");
    for want in [1000, 2000, 3000, 3500] {
        rig.turn();
        assert_eq!(rig.sys().peers[a].got.len(), want);
    }
}

#[test]
fn the_loop_polls_between_two_rounds_of_ready_work() {
    let mut rig = puppet(echo);
    let all: Vec<usize> = (0..256).map(|_| rig.connect()).collect();
    rig.all_send(&all, &bytes(64 * 4));
    rig.calls();
    rig.settle();
    for turn in rig.calls().split(|c| matches!(c, Call::Poll(_))) {
        let reads = turn.iter().filter(|c| matches!(c, Call::Read(..))).count();
        assert!(reads <= 256, "{reads}");
    }
}

#[test]
fn any_number_of_event_slots_is_enough() {
    let mut rig = puppet(echo);
    rig.sys().capacity = 1;
    let all: Vec<usize> = (0..20).map(|_| rig.sys().connect(0)).collect();
    rig.settle();
    rig.all_send(&all, &bytes(200));
    rig.settle();
    for &p in &all {
        assert_eq!(rig.heard(p).as_bytes(), bytes(200));
    }
    for &p in &all {
        rig.sys().fin(p);
    }
    rig.settle();
    assert_eq!(rig.sys().open_streams(), 0);
}

#[test]
fn an_error_of_a_read_ends_that_connection_with_its_reason() {
    for (number, why) in [
        (ECONNRESET, Reason::PeerReset),
        (110, Reason::Io(std::io::ErrorKind::TimedOut)),
        (113, Reason::Io(std::io::ErrorKind::HostUnreachable)),
    ] {
        let mut rig = puppet(echo);
        let (a, b) = (rig.connect(), rig.connect());
        rig.sys().peers[a].reads.push_back(Answer::Fail(number));
        rig.say(a, "lost");
        assert_eq!((rig.closed(&why), rig.stats().open), (1, 1));
        rig.say(b, "unmoved");
        assert_eq!(rig.heard(b), "unmoved");
    }
}
