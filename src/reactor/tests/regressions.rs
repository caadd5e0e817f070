//! Regression tests: one for each fault that was found.
//!
//! The limits are small, so that a few connections reach them.

use super::*;
use crate::builtin::{Echo, Framed};
use crate::codec::Lines;
use crate::config::connect::{Backoff, Connect};
use crate::group::SlowMember;
use crate::sys::Ready;
use crate::sys::script::DialPlan;

fn hog_limits() -> Limits {
    Limits {
        output_total: Limit::At(40 * 1024),
        output_hard: Limit::At(30 * 1024),
        output_high: 29 * 1024,
        output_low: 1024,
        write_stall: Limit::Unlimited,
        ..limits()
    }
}

/// Limits whose total is less than fifty members' hard limits.
fn crowd_limits() -> Limits {
    Limits {
        output_total: Limit::At(64 * 1024),
        output_hard: Limit::At(30 * 1024),
        output_high: 28 * 1024,
        output_low: 1024,
        ..limits()
    }
}

/// A client with an incomplete message, and another with so much unsent output that the first is not read.
fn beside_a_hog(limits: Limits) -> (Rig, usize, ConnId) {
    let mut rig = rig(limits, Framed::new(Lines::lf(60).unwrap(), Echo));
    let (a, hog) = (rig.connect(), rig.connect());
    for p in [a, hog] {
        rig.sys().set_window(p, 0);
    }
    rig.pass(100 * SECOND);
    rig.say(a, "answered\nbegun");
    let hog_id = rig.id(hog);
    for _ in 0..350 {
        rig.net().send_to(hog_id, bytes(60));
    }
    rig.settle();
    (rig, a, hog_id)
}

#[test]
fn who_was_not_read_for_want_of_space_is_not_checked_by_a_stopped_clock() {
    let (mut rig, a, _) = beside_a_hog(hog_limits());
    rig.say(a, " and");
    assert_eq!(rig.sys().unread(a), 4, "throttled");
    rig.open_window(a, 10_000); // its output drains, the hog's does not
    assert_eq!(rig.sys().unread(a), 0, "read again");
    rig.say(a, " ended\n");
    rig.pass(750 * MS);
    // One short message after another, each complete within a second.
    for i in 0..60 {
        rig.say(a, "x");
        rig.pass(SECOND / 2);
        assert_eq!(
            rig.phase(a),
            Phase::Open,
            "after {i} s, message is 0.5 s old: {:?}",
            rig.stats().closed(&Reason::MessageTimeout)
        );
        rig.say(a, "y\n");
        rig.pass(SECOND / 2);
    }
}

fn hang_up(cx: &mut Context<'_>, on: On<'_>) {
    if let On::Data(b"bye") = on {
        cx.close();
    }
}

#[test]
fn with_two_listeners_a_place_that_was_made_goes_to_who_has_come() {
    for two in [false, true] {
        let mut rig = puppet_within(Limits { connections: Limit::At(128), ..limits() }, hang_up);
        if two {
            let handler = rig.handler;
            rig.listen(handler);
            rig.settle();
        }
        let peers: Vec<usize> = (0..128).map(|_| rig.sys().connect(0)).collect();
        rig.settle();
        rig.say(peers[0], "bye");
        assert_eq!(rig.stats().open, 128);
        let w = rig.sys().connect(0);
        rig.settle();
        eprintln!(
            "two {two}: open {} accepted {} waiting {}",
            rig.stats().open,
            rig.stats().accepted,
            rig.sys().waiting(0)
        );
        assert_eq!(rig.stats().accepted, 129, "two {two}: dropped for nobody");
        let _ = w;
    }
}

#[test]
fn what_logs_leave_for_a_blocked_member_has_a_stall_deadline() {
    let mut rig = puppet_within(Limits { idle_timeout: Limit::Unlimited, ..tight_limits() }, |_, _| {});
    let (a, b) = (rig.connect(), rig.connect());
    let (ida, _idb) = (rig.id(a), rig.id(b));
    let g = rig.net().group_with(SlowMember::Skip).unwrap();
    rig.net().join_id(g, ida);
    rig.sys().set_window(a, 0);
    rig.net().broadcast(g, bytes(5000)); // kernel takes nothing, more than high: skipped
    rig.settle();
    assert_eq!(rig.stats().skipped, 1);
    rig.net().broadcast(g, b"hello");
    rig.net().send_to(ida, b"x");
    rig.settle();
    assert_eq!(rig.net().pending_of(ida), Some(6));
    rig.pass(100 * SECOND);
    assert_eq!(rig.closed(&Reason::WriteStall), 1);
}

#[test]
fn a_broadcast_that_can_never_fit_costs_strangers_nothing() {
    let limits = Limits { output_total: Limit::At(8192), ..tight_limits() };
    let mut rig = puppet_within(limits, |_, _| {});
    let (a, b) = (rig.connect(), rig.connect());
    let (ida, idb) = (rig.id(a), rig.id(b));
    rig.sys().set_window(b, 0);
    rig.net().send_to(idb, b"x");
    rig.settle();
    let g = rig.net().group_with(SlowMember::Skip).unwrap();
    rig.net().join_id(g, ida);
    rig.net().broadcast(g, bytes(9000));
    rig.settle();
    assert_eq!(rig.stats().open, 2, "a stranger is cut for a message that has no space anyway");
}

#[test]
fn a_second_read_after_a_hint_keeps_to_what_may_wait() {
    let limits = Limits { read_buffer: 4096, output_hard: Limit::At(4096 + 2048), ..tight_limits() };
    let mut rig = puppet_within(limits, echo);
    let a = rig.connect();
    rig.sys().set_window(a, 0);
    rig.sys().send(a, &bytes(4000));
    rig.sys().send_urgent(a);
    rig.sys().send(a, &bytes(4000));
    rig.settle();
    assert_eq!(rig.closed(&Reason::OutputLimit), 0);
}

#[test]
fn the_hard_limit_counts_what_is_written_from_where_it_lies() {
    let limits = Limits { read_buffer: 4096, ..tight_limits() };
    let mut rig = puppet_within(limits, |cx, on| {
        if let On::Data(d) = on {
            cx.send(d);
            let mut n = d.len();
            while cx.send([b'x'; 100]).is_queued() {
                n += 100;
            }
            assert!(n <= 8192, "{n} of 8192");
        }
    });
    let a = rig.connect();
    rig.sys().set_window(a, 0);
    rig.say(a, bytes(4000));
    assert_eq!(rig.stats().panics, 0);
}

#[test]
fn copies_out_of_two_groups_logs_keep_to_the_total() {
    let mut rig = puppet_within(crowd_limits(), |_, _| {});
    let (g, h) = (rig.net().group().unwrap(), rig.net().group().unwrap());
    for _ in 0..50 {
        let a = rig.connect();
        rig.sys().set_window(a, 0);
        let id = rig.id(a);
        rig.net().join_id(g, id);
        rig.net().join_id(h, id);
    }
    rig.net().broadcast(g, bytes(10_000));
    rig.net().broadcast(h, bytes(10_000));
    rig.settle();
    let held = rig.stats().output_held;
    assert!(held <= 64 * 1024, "{held} B held of 65536");
}

#[test]
fn short_rests_of_a_broadcast_keep_to_the_total() {
    // Every member leaves less than a quarter of the block unwritten, so it is copied.
    let mut rig = puppet_within(crowd_limits(), |_, _| {});
    let g = rig.net().group().unwrap();
    for _ in 0..50 {
        let a = rig.connect();
        rig.sys().set_window(a, 17_000);
        let id = rig.id(a);
        rig.net().join_id(g, id);
    }
    rig.net().broadcast(g, bytes(20_000));
    rig.settle();
    let held = rig.stats().output_held;
    assert!(held <= 64 * 1024, "{held} B held of 65536");
}

/// A codec that finds messages and consumes none of their bytes.
struct Stuck;

impl crate::codec::Codec for Stuck {
    type State = ();

    fn decode(&self, _: &mut (), data: &[u8]) -> Result<crate::codec::Decoded, crate::codec::FrameError> {
        Ok(crate::codec::Decoded::Message { start: 0, end: data.len(), consumed: 0 })
    }

    fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), crate::codec::EncodeError> {
        out.extend_from_slice(message);
        Ok(())
    }

    fn max_message(&self) -> usize {
        100
    }

    fn max_overhead(&self) -> usize {
        0
    }
}

#[test]
fn a_codec_that_consumes_nothing_ends_its_connection() {
    let mut rig = rig(limits(), Framed::new(Stuck, Echo));
    let a = rig.connect();
    rig.say(a, "once");
    assert_eq!(rig.heard(a), "");
    assert_ne!(rig.phase(a), Phase::Open);
}

#[test]
fn after_our_fin_no_more_is_read_than_the_limit() {
    let limits = Limits { linger_input: 1000, ..limits() };
    let mut rig = puppet_within(limits, hang_up);
    let a = rig.connect();
    rig.say(a, "bye");
    rig.say(a, bytes(5000));
    rig.settle();
    assert_eq!(rig.stats().bytes_in, 3 + 1000);
    assert_eq!(rig.stats().open, 0);
}

#[test]
fn the_turn_that_ends_a_shutdown_says_so() {
    let mut rig = rig(limits(), Echo);
    assert!(!rig.turn().stopped);
    rig.inner.begin_shutdown(Duration::from_secs(1));
    let stopped = (0..20).filter(|_| rig.turn().stopped).count();
    assert_eq!(stopped, 1);
}

#[test]
fn what_a_group_owes_to_a_member_that_is_cut_while_it_is_flushed_is_counted() {
    let limits = Limits {
        output_high: 256,
        output_low: 64,
        output_hard: Limit::At(400),
        output_total: Limit::At(6_000),
        ..limits()
    };
    let mut rig = puppet_within(limits, echo);
    let (a, b) = (rig.connect(), rig.connect());
    let (id_a, id_b) = (rig.id(a), rig.id(b));
    rig.sys().set_window(a, 0);
    rig.sys().set_window(b, 0);
    let group = rig.net().group().unwrap();
    // Flushed last to first: `a` first, whose remainder takes all output over the total and closes `b`.
    assert!(rig.net().join_id(group, id_b) && rig.net().join_id(group, id_a));
    rig.net().send_to(id_b, b"1");
    rig.settle();
    rig.net().broadcast(group, b"12345678");
    rig.settle();
    assert_eq!(rig.closed(&crate::closed::Reason::TotalOutputLimit), 1);
    assert_eq!(rig.stats().bytes_unsent, 9);
}

#[test]
fn who_is_left_out_of_a_broadcast_is_not_cut_for_it() {
    let limits = Limits {
        output_high: 256,
        output_low: 64,
        output_hard: Limit::At(400),
        output_total: Limit::At(600),
        ..limits()
    };
    let group = std::rc::Rc::new(std::cell::Cell::new(None));
    let own = std::rc::Rc::clone(&group);
    let mut rig = puppet_within(limits, move |cx, on| match on {
        On::Open => {
            own.set(own.get().or_else(|| cx.group()));
            assert!(own.get().is_some_and(|g| cx.join(g)));
        }
        // The second one does not fit behind the first.
        On::Data(_) => [1, 0].into_iter().for_each(|reached| {
            assert_eq!(cx.broadcast_others(own.get().unwrap(), bytes(250)), reached);
        }),
        _ => {}
    });
    let (a, b) = (rig.connect(), rig.connect());
    rig.say(a, "go");
    assert_eq!(rig.phase(a), Phase::Open);
    assert_eq!(rig.stats().open, 1, "the other one missed it, and is cut");
    assert_eq!(rig.sys().peers[b].closed, Some(crate::sys::CloseHow::Reset));
}

#[test]
fn after_a_jump_the_time_to_catch_up_is_given_once() {
    let limits = Limits { timeouts_per_turn: 1, events_per_turn: 1, ..limits() };
    let mut rig = puppet_within(limits, echo);
    rig.sys().capacity = 1;
    let all: Vec<usize> = (0..10).map(|_| rig.connect()).collect();
    let token = rig.sys().token(all[0]);
    rig.sys().clock += 86_400 * 1_000_000_000;
    let mut turns = 0;
    while rig.inner.dispatcher.core.conns.iter().any(|c| c.phase == Phase::Open) {
        // There is always other work.
        rig.sys().inject(token, crate::sys::Ready::READABLE);
        rig.turn();
        turns += 1;
        assert!(turns < 64 + 64, "{turns} turns");
    }
}

#[test]
fn who_has_input_waiting_is_not_idle_though_we_were_slow() {
    let limits = Limits { idle_timeout: Limit::At(SECOND), read_buffer: 4, ..limits() };
    let mut rig = puppet_within(limits, |_, _| {});
    let a = rig.connect();
    rig.sys().send(a, b"0123456789");
    // Each reading of the clock, one of them after the callback, advances it by more than the idle timeout.
    rig.sys().tick = 1_200_000_000;
    for _ in 0..3 {
        rig.turn();
    }
    assert_eq!(rig.log(), ["0 open", "0 0123", "0 4567", "0 89"]);
}

#[test]
fn a_message_whose_end_waits_is_not_unfinished_though_we_were_slow() {
    let limits = Limits { message_timeout: Limit::At(SECOND), ..limits() };
    let mut rig = rig(limits, Framed::new(Lines::lf(600).unwrap(), Echo));
    let a = rig.connect();
    rig.say(a, "begun");
    rig.sys().send(a, &bytes(100));
    rig.sys().send(a, b"ended\n");
    // Longer than the message timeout, and not so long that timeouts are deferred.
    rig.sys().clock += 3_000_000_000;
    rig.settle();
    assert_eq!(rig.sys().peers[a].got.len(), 111);
    assert_eq!(rig.phase(a), Phase::Open);
}

#[test]
fn a_close_that_has_not_been_tried_is_no_stalled_write() {
    let limits = Limits { write_stall: Limit::At(MS), ..limits() };
    let mut rig = puppet_within(limits, |cx, on| {
        if let On::Data(_) = on {
            let other = cx.connections().find(|&c| c != cx.id()).unwrap();
            assert!(cx.close_id(other));
        }
    });
    let (a, b) = (rig.connect(), rig.connect());
    rig.sys().send(a, b"go");
    // The callback takes so long that the deadline of the close passes in the same turn.
    rig.sys().tick = 50_000_000;
    rig.turn();
    rig.sys().tick = 0;
    rig.settle();
    assert_eq!(rig.phase(b), Phase::Lingering);
    assert!(rig.sys().peers[b].got_fin);
}

#[test]
fn the_clock_of_a_message_is_not_checked_while_it_stands() {
    // While memory pressure blocks reading, the clock of an incomplete message is paused. Memory may be free again
    // before the connection is resumed: a deadline checked in between must leave it all the time that was left.
    let limits = Limits { message_timeout: Limit::At(30 * SECOND), ..hog_limits() };
    let (mut rig, a, hog_id) = beside_a_hog(limits);
    rig.say(a, " more");
    let id = rig.id(a);
    assert!(rig.inner.dispatcher.core.conns.get(id).unwrap().message_clock.is_paused());
    rig.net().abort_id(hog_id);
    rig.inner.dispatcher.core.check_deadline(id);
    assert_eq!(rig.phase(a), Phase::Open);
}

#[test]
fn handlers_that_panic_do_not_flood_the_log() {
    crate::testing::log_tests::lines();
    let mut rig = puppet(|_, on| {
        if let On::Data(_) = on {
            std::panic::resume_unwind(Box::new("no luck"));
        }
    });
    crate::testing::log_tests::lines();
    for _ in 0..200 {
        let a = rig.connect();
        rig.say(a, "x");
    }
    let said = crate::testing::log_tests::lines();
    assert!((10..=13).contains(&said.len()), "{said:#?}");
}

#[test]
fn a_message_within_all_limits_is_kept_however_it_comes() {
    let codec = crate::codec::LengthDelimited::u32_be(90_000).unwrap();
    let mut limits = Limits { input_kept: 1, input_total: Limit::At(1), ..limits() };
    limits.fit(&codec);
    limits.check().unwrap();
    let mut rig = rig(limits, Framed::new(codec, Echo));
    let a = rig.connect();
    let message = [&90_000u32.to_be_bytes()[..], &bytes(90_000)].concat();
    rig.say(a, &message[..70_000]);
    rig.say(a, &message[70_000..]);
    assert_eq!(rig.stats().reasons().find(|(_, n)| *n > 0), None);
    assert_eq!(rig.sys().peers[a].got, message);
}

#[test]
fn a_reset_behind_the_end_of_input_is_noticed() {
    let mut rig = puppet(|_, _| {});
    let a = rig.connect();
    rig.fin(a);
    assert_eq!(rig.phase(a), Phase::Open);
    rig.reset(a);
    assert_eq!((rig.closed(&Reason::PeerReset), rig.sys().open_streams()), (1, 0));
}

#[test]
fn a_close_whose_last_answer_cannot_be_written_is_no_good_end() {
    let mut rig = answers_and_closes();
    let a = rig.connect();
    let fails = [crate::sys::script::Answer::AtMost(2), crate::sys::script::Answer::Fail(32)];
    rig.sys().peers[a].writes.extend(fails);
    rig.say(a, "hello");
    rig.settle();
    assert_eq!((rig.closed(&Reason::PeerReset), rig.stats().bytes_unsent), (1, 3));
}

#[test]
fn an_attempt_that_ends_while_it_is_to_be_looked_after_leaves_nothing_to_do() {
    let mut rig = puppet(|_, _| {});
    let handler = rig.handler;
    rig.sys().dials.extend([DialPlan::Later; 2]);
    rig.inner.dispatcher.core.connect(handler, "both:7".into(), 1, None).unwrap();
    rig.settle();
    rig.sys().resolves(0, Ok(vec!["127.0.0.1:7".parse().unwrap(), "[::1]:7".parse().unwrap()]));
    rig.pass(300 * MS);
    // One fails, and before that is processed the other one connects.
    rig.sys().dial_fails(0, 111);
    rig.sys().dial_succeeds(1);
    rig.turn();
    assert_eq!(rig.log(), ["1 open"]);
    rig.turn();
    assert!(!rig.turn().more, "{:?}", rig.inner.dispatcher.core.connect_jobs);
}

#[test]
fn a_lookup_that_is_answered_late_is_not_for_the_next_try() {
    let mut rig = puppet(|_, _| {});
    let handler = rig.handler;
    let policy = Backoff { min: MS, max: MS, factor: 1.0, tries: Limit::At(2) };
    let to = Connect::new("name:80").timeout(SECOND).retry(policy);
    rig.inner.dispatcher.core.connect(handler, to, 1, None).unwrap();
    rig.pass(2 * MS + SECOND);
    assert_eq!(rig.sys().lookups.len(), 2);
    // The system has begun to answer the first lookup before it was cancelled.
    rig.log();
    rig.sys().resolves(0, Err(2));
    rig.settle();
    assert!(rig.log().is_empty());
    rig.sys().resolves(1, Ok(vec!["127.0.0.1:80".parse().unwrap()]));
    rig.settle();
    assert_eq!(rig.log(), ["0 open"]);
}

#[test]
fn a_reset_behind_input_is_noticed_though_the_handler_pauses_at_the_input() {
    for apart in [true, false] {
        let mut rig = puppet(|cx, on| {
            if let On::Data(_) = on {
                cx.pause();
            }
        });
        let a = rig.connect();
        rig.sys().send(a, b"x");
        if apart {
            rig.settle();
        }
        rig.sys().reset(a);
        // The one event that a system reports for both.
        let (token, all) = (rig.sys().token(a), Ready::READABLE | Ready::WRITABLE | Ready::HINT | Ready::ERROR);
        rig.sys().inject(token, all);
        rig.settle();
        assert_eq!((rig.stats().open, rig.closed(&Reason::PeerReset)), (0, 1), "apart: {apart}");
    }
}

#[test]
fn the_list_of_those_that_wait_for_memory_does_not_grow_with_those_that_have_gone() {
    let (mut rig, _, _) = beside_a_hog(hog_limits());
    for _ in 0..200 {
        let b = rig.connect();
        rig.sys().set_window(b, 0);
        rig.say(b, "answered\nbegun");
        rig.say(b, "more");
        rig.reset(b);
    }
    assert_eq!(rig.stats().open, 2);
    assert!(rig.inner.dispatcher.core.throttled.len() <= 2 * 3 + 64);
}
