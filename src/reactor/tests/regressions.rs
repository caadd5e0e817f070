//! Faults that were found once, each with the scene it was found in.
//!
//! Small limits throughout, so that a few connections reach them.

use super::*;
use crate::codec::Lines;
use crate::group::SlowMember;
use crate::handlers::{Echo, Framed};

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

/// Fifty members may not have their hard limit each.
fn crowd_limits() -> Limits {
    Limits {
        output_total: Limit::At(64 * 1024),
        output_hard: Limit::At(30 * 1024),
        output_high: 28 * 1024,
        output_low: 1024,
        ..limits()
    }
}

#[test]
fn who_was_not_read_for_want_of_room_is_not_judged_by_a_stopped_clock() {
    let mut rig = rig(hog_limits(), Framed::new(Lines::lf(60).unwrap(), Echo));
    let (a, hog) = (rig.connect(), rig.connect());
    for p in [a, hog] {
        rig.sys().set_room(p, 0);
    }
    rig.pass(100 * SECOND);
    rig.say(a, "answered\nbegun");
    let hog_id = rig.id(hog);
    for _ in 0..350 {
        rig.net().send_to(hog_id, bytes(60));
    }
    rig.settle();
    rig.say(a, " and");
    assert_eq!(rig.sys().unread(a), 4, "starved");
    rig.room(a, 10_000); // its output drains, the hog's does not
    assert_eq!(rig.sys().unread(a), 0, "read again");
    rig.say(a, " ended\n");
    rig.pass(750 * MS);
    // One short message after another, each whole within a second.
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
            let site = rig.site;
            rig.listen(site);
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
    rig.sys().set_room(a, 0);
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
    rig.sys().set_room(b, 0);
    rig.net().send_to(idb, b"x");
    rig.settle();
    let g = rig.net().group_with(SlowMember::Skip).unwrap();
    rig.net().join_id(g, ida);
    rig.net().broadcast(g, bytes(9000));
    rig.settle();
    assert_eq!(rig.stats().open, 2, "a stranger is cut for a message that has no room anyway");
}

#[test]
fn a_second_read_after_a_hint_keeps_to_what_may_wait() {
    let limits = Limits { read_buffer: 4096, output_hard: Limit::At(4096 + 2048), ..tight_limits() };
    let mut rig = puppet_within(limits, echo);
    let a = rig.connect();
    rig.sys().set_room(a, 0);
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
    rig.sys().set_room(a, 0);
    rig.say(a, bytes(4000));
    assert_eq!(rig.stats().panics, 0);
}

#[test]
fn copies_out_of_two_groups_logs_keep_to_the_total() {
    let mut rig = puppet_within(crowd_limits(), |_, _| {});
    let (g, h) = (rig.net().group().unwrap(), rig.net().group().unwrap());
    for _ in 0..50 {
        let a = rig.connect();
        rig.sys().set_room(a, 0);
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
    // Every member leaves less than a quarter of the block unwritten: copies.
    let mut rig = puppet_within(crowd_limits(), |_, _| {});
    let g = rig.net().group().unwrap();
    for _ in 0..50 {
        let a = rig.connect();
        rig.sys().set_room(a, 17_000);
        let id = rig.id(a);
        rig.net().join_id(g, id);
    }
    rig.net().broadcast(g, bytes(20_000));
    rig.settle();
    let held = rig.stats().output_held;
    assert!(held <= 64 * 1024, "{held} B held of 65536");
}

/// A codec that finds messages and takes none of their bytes.
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
