//! Tests of a loop that is late: no timeout expires before what waits was looked at.
//!
//! Each scene is played for each way of being late, and for delays between, at and above all thresholds.

use super::*;
use crate::builtin::{Echo, Framed};
use crate::codec::Lines;
use crate::sys::CloseHow;
use crate::sys::script::DialPlan;

/// The timeouts in these scenes.
const TIMEOUT: Duration = SECOND;
/// In nanoseconds: the timeout exactly, and more.
const DELAYS: [u64; 6] =
    [1_000_000_000, 1_001_000_000, 3_000_000_000, 4_999_000_000, 6_000_000_000, 86_400_000_000_000];

/// What happens while the loop is away.
type Meanwhile<'a> = &'a mut dyn FnMut(&mut Rig);

/// Lets the loop be late by so many nanoseconds.
type Way = fn(&mut Rig, u64, Meanwhile<'_>);

const WAYS: [(&str, Way); 6] = [
    ("the wait is interrupted", |rig, delay, meanwhile| {
        meanwhile(rig);
        rig.sys().late_wait = (delay, Some(true));
        rig.turn();
    }),
    ("the wait ends late, just before the events", |rig, delay, meanwhile| {
        meanwhile(rig);
        rig.sys().late_wait = (delay, Some(false));
        rig.turn();
    }),
    ("the wait ends late, with the events", |rig, delay, meanwhile| {
        meanwhile(rig);
        rig.sys().late_wait = (delay, None);
        rig.turn();
    }),
    ("the time passes outside the wait", |rig, delay, meanwhile| {
        rig.sys().clock += delay;
        meanwhile(rig);
        rig.turn();
    }),
    ("a callback takes long", |rig, delay, meanwhile| {
        rig.inner.handle().run(|_| {}).unwrap();
        rig.sys().tick = delay;
        rig.turn();
        rig.sys().tick = 0;
        meanwhile(rig);
    }),
    ("the process is stopped again and again", |rig, delay, meanwhile| {
        meanwhile(rig);
        for _ in 0..3 {
            rig.sys().late_wait = (delay, Some(true));
            // Without the check that the loop does not spin.
            rig.inner.turn(None).unwrap();
        }
    }),
];

/// Plays a scene for all ways of being late. It gets a function that lets the loop be late.
fn however_late(scene: impl Fn(&dyn Fn(&mut Rig, Meanwhile<'_>), &str)) {
    for (name, way) in WAYS {
        for delay in DELAYS {
            scene(&|rig, meanwhile| way(rig, delay, meanwhile), &format!("{name}: {delay} ns"));
        }
    }
}

fn short() -> Limits {
    let timeout = Limit::At(TIMEOUT);
    Limits {
        idle_timeout: timeout,
        message_timeout: timeout,
        write_stall: timeout,
        connect_timeout: timeout,
        linger_quiet: TIMEOUT,
        linger_total: 2 * TIMEOUT,
        ..limits()
    }
}

#[test]
fn who_has_spoken_is_not_idle() {
    however_late(|late, how| {
        let mut rig = puppet_within(short(), echo);
        let (speaker, silent) = (rig.connect(), rig.connect());
        late(&mut rig, &mut |rig| rig.sys().send(speaker, b"here"));
        rig.settle();
        assert_eq!((rig.phase(speaker), rig.heard(speaker).as_str()), (Phase::Open, "here"), "{how}");
        assert_ne!(rig.phase(silent), Phase::Open, "{how}");
    });
}

#[test]
fn a_message_whose_end_has_arrived_is_not_unfinished() {
    however_late(|late, how| {
        let limits = Limits { idle_timeout: Limit::Unlimited, ..short() };
        let mut rig = rig(limits, Framed::new(Lines::lf(600).unwrap(), Echo));
        let (ends, stays) = (rig.connect(), rig.connect());
        rig.say(ends, "begun ");
        rig.say(stays, "begun ");
        // Longer than what is read in one turn.
        let end = [bytes(500), b"\n".to_vec()].concat();
        late(&mut rig, &mut |rig| rig.sys().send(ends, &end));
        rig.settle();
        assert_eq!((rig.phase(ends), rig.heard(ends).len()), (Phase::Open, 6 + 500 + 2), "{how}");
        assert_ne!(rig.phase(stays), Phase::Open, "{how}");
    });
}

#[test]
fn who_has_made_space_has_not_stalled() {
    however_late(|late, how| {
        let mut rig = puppet_within(short(), echo);
        let (reader, stuck) = (rig.connect(), rig.connect());
        for peer in [reader, stuck] {
            rig.sys().set_window(peer, 5);
            rig.say(peer, "hello, hello");
        }
        late(&mut rig, &mut |rig| rig.sys().set_window(reader, 100));
        rig.settle();
        assert_eq!((rig.phase(reader), rig.heard(reader).as_str()), (Phase::Open, "hello, hello"), "{how}");
        assert_eq!(rig.closed(&Reason::WriteStall), 1, "{how}");
    });
}

#[test]
fn a_close_that_can_go_on_is_not_cut() {
    however_late(|late, how| {
        let mut rig = answers_and_closes_within(short());
        let reader = rig.connect();
        rig.sys().set_window(reader, 5);
        rig.say(reader, "hello, hello");
        late(&mut rig, &mut |rig| rig.sys().set_window(reader, 100));
        rig.settle();
        assert_eq!((rig.phase(reader), rig.heard(reader).as_str()), (Phase::Lingering, "hello, hello"), "{how}");
    });
}

#[test]
fn the_end_that_a_lingering_connection_waits_for_is_read() {
    however_late(|late, how| {
        let mut rig = answers_and_closes_within(short());
        let peer = rig.connect();
        rig.say(peer, "x");
        rig.calls();
        late(&mut rig, &mut |rig| {
            rig.sys().send(peer, &bytes(1000));
            rig.sys().fin(peer);
        });
        rig.settle();
        let calls = rig.calls();
        let read = calls.iter().position(|c| *c == Call::Read(peer, Ok(0)));
        let closed = calls.iter().position(|c| *c == Call::Close(peer, CloseHow::Graceful));
        assert!(read.is_some() && read < closed, "{how}: {calls:?}");
    });
}

#[test]
fn a_connection_that_was_answered_has_not_timed_out() {
    however_late(|late, how| {
        let mut rig = puppet_within(Limits { idle_timeout: Limit::Unlimited, ..short() }, echo);
        rig.sys().dials.extend([DialPlan::Later]);
        let handler = rig.handler;
        rig.inner.dispatcher.core.connect(handler, "127.0.0.1:7".into(), 1, None).unwrap();
        rig.settle();
        let peer = rig.sys().dials_made[0].1.unwrap();
        rig.log();
        late(&mut rig, &mut |rig| rig.sys().dial_succeeds(peer));
        rig.settle();
        assert_eq!((rig.stats().connected, rig.stats().connect_failed), (1, 0), "{how}: {:?}", rig.log());
    });
}

#[test]
fn a_name_that_was_found_has_not_timed_out() {
    however_late(|late, how| {
        let mut rig = puppet_within(Limits { idle_timeout: Limit::Unlimited, ..short() }, echo);
        let handler = rig.handler;
        rig.inner.dispatcher.core.connect(handler, "name:7".into(), 1, None).unwrap();
        rig.settle();
        let number = rig.sys().lookups[0].0;
        late(&mut rig, &mut |rig| rig.sys().looked_up(number, Ok(vec![([127, 0, 0, 1], 7).into()])));
        rig.settle();
        assert_eq!((rig.stats().connected, rig.stats().connect_failed), (1, 0), "{how}: {:?}", rig.log());
    });
}

#[test]
fn a_timer_of_a_connection_comes_after_the_input_that_cancels_it() {
    however_late(|late, how| {
        let limits = Limits { idle_timeout: Limit::Unlimited, ..short() };
        let mut spoke = Vec::new();
        let mut rig = puppet_within(limits, move |cx, on| match on {
            On::Open => assert!(cx.set_timer(TIMEOUT, 1).is_some()),
            On::Data(data) if data.ends_with(b"!") => spoke.push(cx.id()),
            On::Timer(_) if !spoke.contains(&cx.id()) => cx.close(),
            _ => {}
        });
        let (speaker, silent) = (rig.connect(), rig.connect());
        // Longer than what is read in one turn.
        let word = [bytes(1000), b"!".to_vec()].concat();
        late(&mut rig, &mut |rig| rig.sys().send(speaker, &word));
        rig.settle();
        assert_eq!(rig.phase(speaker), Phase::Open, "{how}");
        assert_ne!(rig.phase(silent), Phase::Open, "{how}");
    });
}

#[test]
fn a_timer_of_a_handler_comes_after_the_input_that_arrived_before() {
    however_late(|late, how| {
        let mut rig = puppet_within(Limits { idle_timeout: Limit::Unlimited, ..short() }, echo);
        let speaker = rig.connect();
        rig.net_of_handler().set_tick(TIMEOUT, 1);
        rig.turn();
        rig.log();
        late(&mut rig, &mut |rig| rig.sys().send(speaker, b"x"));
        rig.settle();
        let log = rig.log();
        let of = |what: &str| log.iter().position(|line| line == what);
        assert!(of("0 x").is_some() && of("0 x") < of("tick 1"), "{how}: {log:?}");
    });
}

#[test]
fn the_grace_of_a_shutdown_does_not_end_before_what_can_be_written() {
    however_late(|late, how| {
        let mut rig = puppet_within(short(), echo);
        let (reader, stuck) = (rig.connect(), rig.connect());
        for peer in [reader, stuck] {
            rig.sys().set_window(peer, 5);
            rig.say(peer, "hello, hello");
        }
        rig.inner.begin_shutdown(TIMEOUT);
        late(&mut rig, &mut |rig| rig.sys().set_window(reader, 100));
        rig.settle();
        assert_eq!(rig.heard(reader), "hello, hello", "{how}");
        assert_eq!(rig.inner.shutdown.last().map(|r| (r.clean, r.cut)), Some((1, 1)), "{how}");
    });
}

#[test]
fn a_callback_that_takes_long_after_it_has_sent_does_not_use_up_the_stall_timeout() {
    let mut rig = puppet_within(Limits { idle_timeout: Limit::Unlimited, ..short() }, |cx, on| {
        if let On::Data(_) = on {
            let all: Vec<ConnId> = cx.connections().collect();
            for id in all {
                cx.send_to(id, "hello, hello");
            }
        }
    });
    let (speaker, reader) = (rig.connect(), rig.connect());
    for peer in [speaker, reader] {
        rig.sys().set_window(peer, 0);
    }
    rig.sys().send(speaker, b"x");
    // The clock is read before and after the callback, and after the writes.
    rig.sys().tick = 600_000_000;
    rig.turn();
    rig.sys().tick = 0;
    rig.turn();
    rig.turn();
    for peer in [speaker, reader] {
        assert_eq!(rig.phase(peer), Phase::Open);
        rig.open_window(peer, 100);
        assert_eq!(rig.heard(peer), "hello, hello");
    }
}

#[test]
fn a_flood_of_events_that_never_fit_holds_back_no_timeout_for_ever() {
    let mut rig = puppet_within(Limits { events_per_turn: 4, ..short() }, echo);
    rig.sys().capacity = 4;
    let all: Vec<usize> = (0..12).map(|_| rig.connect()).collect();
    let (loud, silent) = all.split_at(8);
    for turn in 0..40 {
        rig.all_send(loud, b"x");
        rig.sys().clock += 100_000_000;
        assert!(rig.turn().more, "{turn}: all fit");
    }
    assert_eq!(rig.closed(&Reason::IdleTimeout), silent.len() as u64);
    for &peer in loud {
        assert_eq!(rig.phase(peer), Phase::Open);
    }
}
