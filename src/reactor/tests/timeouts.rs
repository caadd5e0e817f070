//! Tests of timeouts, and of clocks that stand still, go back or jump.

use super::super::event_loop::FRONT;
use super::*;
use crate::builtin::{Echo, Framed};
use crate::codec::Lines;

fn lines() -> Rig {
    rig(limits(), Framed::new(Lines::lf(60).unwrap(), Echo))
}

#[test]
fn silence_ends_a_connection_when_its_time_is_up_and_not_before() {
    let mut rig = puppet(echo);
    let a = rig.connect();
    rig.pass(300 * SECOND);
    rig.say(a, "x");
    rig.pass(600 * SECOND - MS);
    assert_eq!(rig.phase(a), Phase::Open);
    rig.pass(2 * MS);
    assert_eq!(rig.phase(a), Phase::Lingering);
    rig.pass(2 * SECOND);
    assert_eq!((rig.closed(&Reason::IdleTimeout), rig.sys().open_streams()), (1, 0));
}

#[test]
fn a_message_that_comes_byte_by_byte_has_one_clock_from_first_to_last() {
    let mut rig = lines();
    let (slow, good) = (rig.connect(), rig.connect());
    for second in 0..29 {
        rig.say(slow, "x");
        if second % 5 == 0 {
            rig.say(good, "whole\n");
        }
        rig.pass(SECOND);
    }
    assert_eq!(rig.phase(slow), Phase::Open);
    rig.pass(SECOND - MS);
    assert_eq!(rig.phase(slow), Phase::Open, "29.999 s");
    rig.pass(2 * MS);
    assert_ne!(rig.phase(slow), Phase::Open, "30.001 s");
    assert_eq!(rig.phase(good), Phase::Open);
    rig.pass(2 * SECOND);
    assert_eq!(rig.closed(&Reason::MessageTimeout), 1);
}

#[test]
fn a_message_too_long_for_the_read_buffer_has_one_clock_as_well() {
    // As long as what is copied in front of new input, and longer: then new input is appended instead.
    for begun in [1, FRONT, FRONT + 1, 3 * FRONT] {
        let mut rig = rig(Limits { read_buffer: 4 * FRONT, ..limits() }, Framed::new(Lines::lf(20_000).unwrap(), Echo));
        let slow = rig.connect();
        rig.say(slow, bytes(begun));
        for _ in 0..29 {
            rig.pass(SECOND);
            rig.say(slow, "x");
        }
        assert_eq!(rig.phase(slow), Phase::Open, "{begun}: 29 s");
        rig.pass(SECOND + 2 * MS);
        assert_ne!(rig.phase(slow), Phase::Open, "{begun}: 30.002 s");
        rig.pass(3 * SECOND);
        assert_eq!(rig.closed(&Reason::MessageTimeout), 1);
    }
}

#[test]
fn each_message_has_a_clock_of_its_own() {
    let mut rig = lines();
    let a = rig.connect();
    rig.say(a, "a");
    for _ in 0..10 {
        rig.pass(20 * SECOND);
        rig.say(a, "b\nc");
    }
    assert_eq!(rig.phase(a), Phase::Open);
}

#[test]
fn the_clock_of_a_message_stops_while_its_handler_pauses() {
    let mut rig = lines();
    let a = rig.connect();
    rig.say(a, "begun");
    rig.pass(10 * SECOND);
    let id = rig.id(a);
    rig.net().pause_id(id);
    rig.pass(1000 * SECOND);
    assert_eq!(rig.phase(a), Phase::Open);
    rig.net().resume_id(id);
    rig.pass(20 * SECOND - MS);
    assert_eq!(rig.phase(a), Phase::Open, "10 s before the pause and 19.999 s after it");
    rig.pass(2 * MS);
    assert_ne!(rig.phase(a), Phase::Open);
}

#[test]
fn the_clock_of_a_message_stops_while_too_much_output_waits() {
    let limits = Limits { write_stall: Limit::Unlimited, ..tight_limits() };
    let mut rig = rig(limits, Framed::new(Lines::lf(60).unwrap(), Echo));
    let a = rig.connect();
    rig.sys().set_window(a, 0);
    rig.say(a, "begun");
    let id = rig.id(a);
    for _ in 0..70 {
        rig.net().send_to(id, bytes(60));
    }
    rig.settle();
    rig.pass(100 * SECOND);
    rig.say(a, " and");
    assert_eq!(rig.sys().unread(a), 4, "not read");
    rig.open_window(a, 10_000);
    rig.pass(29 * SECOND);
    assert_eq!(rig.phase(a), Phase::Open);
    rig.say(a, " ended\n");
    assert!(rig.heard(a).ends_with("begun and ended\\n"));
}

#[test]
fn the_clock_of_a_message_stops_while_all_output_together_is_too_much() {
    let limits = Limits {
        output_total: Limit::At(40 * 1024),
        output_hard: Limit::At(30 * 1024),
        output_high: 29 * 1024,
        output_low: 1024,
        write_stall: Limit::Unlimited,
        ..limits()
    };
    let mut rig = rig(limits, Framed::new(Lines::lf(60).unwrap(), Echo));
    let (a, hog) = (rig.connect(), rig.connect());
    for p in [a, hog] {
        rig.sys().set_window(p, 0);
    }
    rig.say(a, "answered\nbegun");
    let hog_id = rig.id(hog);
    for _ in 0..350 {
        rig.net().send_to(hog_id, bytes(60));
    }
    rig.settle();
    rig.sys().send(a, b" and");
    rig.settle();
    assert_eq!(rig.sys().unread(a), 4, "throttled");
    rig.pass(100 * SECOND);
    rig.open_window(hog, 100_000);
    assert_eq!(rig.sys().unread(a), 0, "read again");
    rig.pass(29 * SECOND);
    assert_eq!(rig.phase(a), Phase::Open, "hardly a moment of it was the peer's");
    rig.say(a, " ended\n");
    rig.open_window(a, 1000);
    assert_eq!(rig.heard(a), "answered\\nbegun and ended\\n");
}

#[test]
fn a_peer_that_takes_nothing_is_cut_after_the_write_stall() {
    let mut rig = puppet(echo);
    let (stuck, slow) = (rig.connect(), rig.connect());
    for p in [stuck, slow] {
        rig.sys().set_window(p, 5);
        rig.say(p, "hello, hello");
    }
    for _ in 0..3 {
        rig.pass(9_999 * MS);
        rig.open_window(slow, 1);
    }
    assert_eq!(rig.stats().open, 2);
    rig.pass(4 * MS);
    assert_eq!((rig.closed(&Reason::WriteStall), rig.stats().open), (1, 1));
    assert_eq!(rig.stats().bytes_unsent, 7);
    rig.open_window(slow, 100);
    assert_eq!(rig.heard(slow), "hello, hello");
}

#[test]
fn the_write_stall_counts_from_when_something_waits_and_not_from_the_last_write() {
    let mut rig = puppet(echo);
    let a = rig.connect();
    rig.say(a, "x");
    rig.sys().set_window(a, 0);
    rig.pass(100 * SECOND);
    let id = rig.id(a);
    rig.net().send_to(id, b"y");
    rig.pass(29 * SECOND);
    assert_eq!(rig.stats().open, 1);
    rig.pass(2 * SECOND);
    assert_eq!(rig.closed(&Reason::WriteStall), 1);
}

#[test]
fn a_clock_that_steps_back_harms_nobody() {
    let mut rig = puppet(echo);
    let a = rig.connect();
    let start = rig.sys().clock;
    rig.pass(500 * SECOND);
    rig.sys().clock = 0;
    rig.say(a, "x");
    rig.sys().clock = start + 550 * 1_000_000_000;
    rig.settle();
    assert_eq!(rig.heard(a), "x");
    rig.pass(500 * SECOND);
    assert_eq!(rig.phase(a), Phase::Open, "the byte counts from the latest time that was seen");
    rig.pass(60 * SECOND);
    assert_eq!(rig.stats().open, 0);
}

#[test]
fn while_the_clock_stands_still_nothing_is_due_and_nothing_spins() {
    let mut rig = puppet(echo);
    let a = rig.connect();
    for _ in 0..1000 {
        rig.calls();
        rig.turn();
        assert!(!rig.calls().contains(&Call::Poll(Some(Duration::ZERO))));
    }
    rig.say(a, "x");
    assert_eq!((rig.heard(a), rig.phase(a)), ("x".into(), Phase::Open));
}

#[test]
fn after_a_jump_of_days_nobody_is_cut_who_had_data_waiting() {
    let mut rig = puppet_within(Limits { events_per_turn: 8, ..limits() }, echo);
    rig.sys().capacity = 8;
    let all: Vec<usize> = (0..50).map(|_| rig.connect()).collect();
    let (speak, silent) = all.split_at(30);
    rig.pass(SECOND);
    rig.all_send(speak, &bytes(300));
    rig.sys().clock += 10 * 86_400 * 1_000_000_000;
    rig.settle();
    for &p in speak {
        assert_eq!((rig.phase(p), rig.heard(p).len()), (Phase::Open, 300));
    }
    for &p in silent {
        assert_eq!(rig.phase(p), Phase::Lingering, "the others are");
    }
}

#[test]
fn after_a_jump_a_message_whose_end_was_waiting_is_delivered() {
    let mut rig = lines();
    let a = rig.connect();
    rig.say(a, "begun ");
    rig.sys().send(a, b"and ended\n");
    rig.sys().clock += 86_400 * 1_000_000_000;
    rig.settle();
    assert_eq!((rig.heard(a), rig.phase(a)), ("begun and ended\\n".into(), Phase::Open));
}

#[test]
fn after_a_jump_no_turn_checks_more_than_its_share() {
    let limits = Limits { timeouts_per_turn: 10, ..limits() };
    let mut rig = puppet_within(limits, echo);
    for _ in 0..100 {
        rig.connect();
    }
    rig.sys().clock += 86_400 * 1_000_000_000;
    let open = |rig: &Rig| rig.inner.dispatcher.core.conns.iter().filter(|c| c.phase == Phase::Open).count();
    let mut before = open(&rig);
    for _ in 0..11 {
        rig.turn();
        assert!(before - open(&rig) <= 10);
        before = open(&rig);
    }
    assert_eq!(before, 0);
}

#[test]
fn deadlines_too_far_to_count_are_never_due() {
    for far in [Limit::At(Duration::MAX), Limit::At(Duration::from_secs(u64::MAX / 2)), Limit::Unlimited] {
        let limits = Limits { idle_timeout: far, message_timeout: far, write_stall: far, ..limits() };
        let mut rig = puppet_within(limits, |cx, on| {
            if let On::Data(data) = on {
                cx.send(b"x");
                cx.keep(data.len());
            }
        });
        let a = rig.connect();
        rig.sys().set_window(a, 0);
        rig.say(a, "y");
        rig.calls();
        rig.pass(400 * 86_400 * SECOND);
        assert_eq!(rig.phase(a), Phase::Open);
        assert!(rig.calls().len() < 10);
    }
}

#[test]
fn a_deadline_costs_no_more_than_two_polls() {
    let limits = Limits { idle_timeout: Limit::At(Duration::from_micros(10_300)), ..limits() };
    let mut rig = puppet_within(limits, echo);
    let a = rig.connect();
    rig.calls();
    rig.sys().sleeps = true;
    for _ in 0..2 {
        rig.turn_for(None);
    }
    assert_ne!(rig.phase(a), Phase::Open);
    let polls: Vec<Call> = rig.calls().into_iter().filter(|c| matches!(c, Call::Poll(_))).collect();
    assert_eq!(polls[0], Call::Poll(Some(11 * MS)));
}

#[test]
fn an_outer_loop_is_told_when_to_come_back() {
    let mut rig = puppet(echo);
    assert_eq!(rig.inner.next_deadline(), crate::time::Time::NEVER);
    let a = rig.connect();
    let now = rig.inner.dispatcher.core.now;
    assert_eq!(rig.inner.next_deadline().since(now), 600 * SECOND);
    rig.sys().send(a, &bytes(200));
    assert!(rig.turn().more);
    assert_eq!(rig.inner.next_deadline(), rig.inner.dispatcher.core.now);
    rig.calls();
    rig.turn();
    assert_eq!(rig.calls()[0], Call::Poll(Some(Duration::ZERO)));
}

#[test]
fn callbacks_that_take_long_do_not_age_their_peers() {
    let mut rig = puppet(echo);
    let (a, b) = (rig.connect(), rig.connect());
    rig.sys().tick = 100_000_000_000;
    for _ in 0..20 {
        rig.sys().send(a, b"x");
        rig.sys().send(b, b"y");
        rig.turn();
    }
    rig.sys().tick = 0;
    rig.settle();
    assert_eq!((rig.phase(a), rig.phase(b)), (Phase::Open, Phase::Open));
}

#[test]
fn a_peer_that_takes_nothing_does_not_hold_up_a_close() {
    let mut rig = answers_and_closes();
    let stuck = rig.connect();
    rig.sys().set_window(stuck, 5);
    rig.say(stuck, "hello, hello");
    rig.pass(29 * SECOND);
    assert_eq!(rig.phase(stuck), Phase::Flushing);
    rig.pass(2 * SECOND);
    assert_eq!((rig.closed(&Reason::WriteStall), rig.stats().open), (1, 0));
    assert_eq!(rig.stats().bytes_unsent, 7);
}
