//! Tests of output: in order, exactly once, and within the limits.

use super::*;
use crate::Sent;
use crate::builtin::{Echo, Framed};
use crate::codec::{LengthDelimited, Lines};
use crate::sys::script::Answer;

#[test]
fn short_writes_lose_and_repeat_nothing() {
    for step in 1..30 {
        let mut rig = puppet(|cx, on| {
            if let On::Data(data) = on {
                cx.send(data);
                cx.send_bytes(bytes(5000).into());
                cx.send(b"<end>");
            }
        });
        let a = rig.connect();
        rig.sys().peers[a].writes.extend((0..200).map(|i| Answer::AtMost(1 + i * step % 97)));
        rig.say(a, "begin");
        rig.say(a, "again");
        let once = |word: &str| [word.as_bytes(), &bytes(5000), b"<end>"].concat();
        assert_eq!(rig.heard(a).as_bytes(), [once("begin"), once("again")].concat());
    }
}

#[test]
fn a_part_of_the_input_that_is_sent_back_is_written_before_what_was_sent_after_it() {
    for window in 0..=40 {
        let mut rig = puppet(|cx, on| {
            if let On::Data(data) = on {
                cx.send(&data[2..5]);
                cx.send(&data[5..8]);
                cx.send(&data[0..2]);
                cx.send(b"<more>");
                cx.send(data);
                cx.close();
                assert_eq!(cx.send(data), Sent::Closed);
            }
        });
        let a = rig.connect();
        rig.sys().set_window(a, window);
        rig.say(a, "0123456789");
        let want = "23456701<more>0123456789";
        assert_eq!(rig.sys().peers[a].got.len(), window.min(want.len()));
        rig.open_window(a, 100);
        assert_eq!(rig.heard(a), want, "after {window}");
        assert!(rig.sys().peers[a].got_fin);
    }
}

#[test]
fn an_echo_holds_no_memory_and_costs_one_write() {
    let mut rig = puppet(echo);
    let a = rig.connect();
    rig.calls();
    rig.say(a, "ping");
    let writes: Vec<Call> = rig.calls().into_iter().filter(|c| matches!(c, Call::Write(..))).collect();
    assert_eq!(writes, [Call::Write(a, Ok(4))]);
    assert_eq!((rig.stats().output_held, rig.stats().pooled), (0, 0));
}

#[test]
fn an_aborted_echo_counts_what_it_had_sent_back() {
    let mut rig = puppet(|cx, on| {
        if let On::Data(data) = on {
            cx.send(data);
            cx.send(data);
            cx.abort();
        }
    });
    let a = rig.connect();
    rig.say(a, "12345");
    assert_eq!((rig.heard(a), rig.stats().bytes_unsent), (String::new(), 10));
}

#[test]
fn what_others_send_in_a_turn_is_one_write() {
    let mut target = None;
    let mut rig = puppet(move |cx, on| match on {
        On::Open => drop(target.get_or_insert(cx.id())),
        On::Data(data) => drop(target.map(|id| cx.send_to(id, data))),
        _ => {}
    });
    let a = rig.connect();
    let others: Vec<usize> = (0..5).map(|_| rig.connect()).collect();
    for (i, &p) in others.iter().enumerate() {
        rig.sys().send(p, format!("{i};").as_bytes());
    }
    rig.calls();
    rig.settle();
    assert_eq!(rig.heard(a), "0;1;2;3;4;");
    assert_eq!(rig.calls().iter().filter(|c| matches!(c, Call::Write(..))).count(), 1);
}

#[test]
fn a_peer_that_sends_and_does_not_read_is_soon_not_read_and_loses_nothing() {
    let mut rig = puppet_within(tight_limits(), echo);
    let (a, good) = (rig.connect(), rig.connect());
    rig.sys().set_window(a, 0);
    rig.say(a, bytes(50_000));
    let taken = 50_000 - rig.sys().unread(a);
    assert!((4096..4096 + 64).contains(&taken), "{taken}");
    assert!(rig.stats().output_held < 16 * 1024);
    rig.say(good, "quick");
    assert_eq!(rig.heard(good), "quick");
    let mut all = String::new();
    for _ in 0..50_000 / 1500 + 1 {
        rig.open_window(a, 1500);
        let heard = rig.heard(a);
        all.push_str(&heard);
    }
    assert_eq!(all.as_bytes(), bytes(50_000));
}

#[test]
fn reading_resumes_at_the_low_mark_and_not_before() {
    let mut rig = puppet_within(tight_limits(), echo);
    let a = rig.connect();
    rig.sys().set_window(a, 0);
    rig.say(a, bytes(4096 + 64));
    assert_eq!(rig.sys().unread(a), 64);
    rig.open_window(a, 3071);
    assert_eq!(rig.sys().unread(a), 64, "1025 wait");
    rig.open_window(a, 1);
    assert_eq!(rig.sys().unread(a), 0, "1024 wait");
}

#[test]
fn beyond_the_hard_limit_a_send_is_refused_whole_and_the_connection_is_cut() {
    let mut rig = puppet_within(tight_limits(), |cx, on| {
        if let On::Data(_) = on {
            assert_eq!(cx.send(bytes(8000)), Sent::Queued);
            assert_eq!(cx.send(bytes(193)), Sent::Full);
            assert_eq!(cx.send(b"x"), Sent::Full);
        }
    });
    let a = rig.connect();
    rig.say(a, "go");
    assert_eq!((rig.heard(a), rig.closed(&Reason::OutputLimit), rig.stats().bytes_unsent), ("".into(), 1, 8000));
}

#[test]
fn a_framed_send_beyond_the_hard_limit_counts_its_framing() {
    let limits = Limits { output_low: 10, output_high: 8192 - 64, output_hard: Limit::At(8192), ..limits() };
    let mut rig = rig(limits, Framed::new(LengthDelimited::u32_be(60).unwrap(), Echo));
    let a = rig.connect();
    let id = rig.id(a);
    for _ in 0..128 {
        assert_eq!(rig.net().send_to(id, bytes(60)), Sent::Queued);
    }
    assert_eq!(rig.net().send_to(id, b""), Sent::Full);
    rig.settle();
    assert_eq!(rig.closed(&Reason::OutputLimit), 1);
}

#[test]
fn what_a_framing_cannot_carry_is_counted_and_nothing_else_happens() {
    let mut rig = rig(limits(), Framed::new(Lines::lf(60).unwrap(), Echo));
    let a = rig.connect();
    let id = rig.id(a);
    assert_eq!(rig.net().send_to(id, b"two\nlines"), Sent::Unencodable);
    assert_eq!(rig.net().send_to(id, b"one"), Sent::Queued);
    rig.settle();
    assert_eq!((rig.heard(a), rig.stats().unencodable), ("one\\n".into(), 1));
}

/// A total limit that three connections with 8 KiB each reach.
fn scarce() -> Limits {
    Limits { output_total: Limit::At(24 * 1024), ..tight_limits() }
}

#[test]
fn beyond_the_total_whoever_holds_the_most_is_cut() {
    let mut rig = puppet_within(scarce(), |_, _| {});
    let peers: Vec<usize> = (0..8).map(|_| rig.connect()).collect();
    for &p in &peers {
        rig.sys().set_window(p, 0);
    }
    let send = |rig: &mut Rig, i: usize, n| {
        let id = rig.id(peers[i]);
        let sent = rig.net().send_bytes_to(id, bytes(n).into());
        rig.settle();
        sent
    };
    for (i, n) in [(0, 5000), (1, 8000), (2, 6000), (3, 4500)] {
        assert_eq!(send(&mut rig, i, n), Sent::Queued);
    }
    assert_eq!(send(&mut rig, 4, 5000), Sent::Queued);
    assert_eq!(rig.closed(&Reason::TotalOutputLimit), 1);
    assert!(rig.sys().peers[peers[1]].closed.is_some(), "the largest");
    assert!(rig.stats().output_held <= 24 * 1024);
    assert_eq!((rig.stats().open, rig.stats().bytes_unsent), (7, 8000));
}

#[test]
fn within_one_turn_too_no_more_waits_than_the_total() {
    let mut rig = puppet_within(scarce(), |cx, on| {
        if let On::Data(_) = on {
            let all: Vec<ConnId> = cx.connections().filter(|&id| id != cx.id()).collect();
            for id in all {
                cx.send_bytes_to(id, bytes(5000).into());
                let held = cx.stats().output_held;
                assert!(held <= 24 * 1024, "{held} B held");
            }
        }
    });
    let peers: Vec<usize> = (0..40).map(|_| rig.connect()).collect();
    for &p in &peers {
        rig.sys().set_window(p, 0);
    }
    rig.say(peers[0], "go");
    assert_eq!(rig.stats().panics, 0);
}

#[test]
fn while_the_total_is_tight_those_with_output_waiting_are_not_read_and_the_others_are() {
    let mut rig = puppet_within(scarce(), echo);
    let (slow, hog, good) = (rig.connect(), rig.connect(), rig.connect());
    rig.sys().set_window(slow, 0);
    rig.sys().set_window(hog, 0);
    rig.say(slow, "waits");
    let id = rig.id(hog);
    for _ in 0..2 {
        rig.net().send_bytes_to(id, bytes(4000).into());
    }
    rig.net().send_bytes_to(id, bytes(100).into());
    let id = rig.id(slow);
    rig.net().send_bytes_to(id, bytes(4096).into());
    rig.settle();
    assert!(rig.stats().output_held > 12 * 1024, "{}", rig.stats().output_held);
    rig.say(good, "read and answered");
    assert_eq!(rig.heard(good), "read and answered");
    rig.open_window(slow, 3080);
    rig.say(slow, "put off");
    assert_eq!(rig.sys().unread(slow), 7);
    rig.open_window(hog, 100_000);
    assert_eq!(rig.sys().unread(slow), 0, "read again when there is space");
}

#[test]
fn on_drain_comes_once_when_the_low_mark_is_reached() {
    let mut rig = puppet_within(tight_limits(), |cx, on| {
        if let On::Data(_) = on {
            cx.send(bytes(5000));
        }
    });
    let a = rig.connect();
    rig.sys().set_window(a, 0);
    rig.say(a, "go");
    for _ in 0..39 {
        rig.open_window(a, 100);
    }
    assert_eq!(rig.log(), ["0 open", "0 go"]);
    rig.open_window(a, 100);
    rig.open_window(a, 100);
    assert_eq!(rig.log(), ["0 drain"]);
}

#[test]
fn a_handler_that_fills_the_output_at_every_drain_hears_its_peer_as_well() {
    let mut rig = puppet_within(tight_limits(), |cx, on| {
        if matches!(on, On::Data(b"go") | On::Drain) {
            cx.send(bytes(5000));
        }
    });
    let a = rig.connect();
    rig.sys().set_window(a, 0);
    rig.say(a, "go");
    rig.open_window(a, 5000);
    assert_eq!(rig.log(), ["0 open", "0 go", "0 drain"]);
    rig.sys().send(a, b"stop");
    rig.open_window(a, 5000);
    rig.open_window(a, 5000);
    assert_eq!(rig.log(), ["0 drain", "0 stop", "0 drain"]);
}

#[test]
fn on_drain_comes_at_most_once_in_a_turn_even_if_it_fills_up_again() {
    let mut rig = puppet_within(tight_limits(), |cx, on| match on {
        On::Data(_) | On::Drain => drop(cx.send(bytes(5000))),
        _ => {}
    });
    let a = rig.connect();
    rig.sys().send(a, b"go");
    for _ in 0..50 {
        rig.turn();
        let drains = rig.log().iter().filter(|l| l.ends_with("drain")).count();
        assert!(drains <= 1, "{drains}");
    }
}

#[test]
fn nothing_is_lost_to_the_books() {
    let mut rig = puppet_within(tight_limits(), echo);
    let mut sent = 0;
    for n in 0..60usize {
        let p = rig.connect();
        rig.sys().set_window(p, n * 3);
        sent += n * 7;
        rig.sys().send(p, &bytes(n * 7));
        match n % 4 {
            0 => rig.fin(p),
            1 => {
                rig.settle();
                rig.reset(p);
            }
            2 => {
                rig.settle();
                let id = rig.id(p);
                rig.net().abort_id(id);
            }
            _ => {}
        }
        rig.settle();
    }
    rig.pass(40 * SECOND);
    let got: usize = rig.sys().peers.iter().map(|p| p.got.len()).sum();
    let stats = rig.stats();
    assert_eq!(stats.bytes_in, sent as u64);
    assert_eq!(stats.bytes_out, got as u64);
    let held: usize = rig.inner.dispatcher.core.conns.iter().map(|c| c.out.pending()).sum();
    assert_eq!(stats.bytes_in, stats.bytes_out + stats.bytes_unsent + held as u64);
    assert_eq!(stats.accepted, stats.open + stats.closed_total());
}

#[test]
fn each_message_that_is_taken_is_counted_once() {
    let mut first = None;
    let mut rig = puppet(move |cx, on| match on {
        On::Open => drop(first.get_or_insert(cx.id())),
        On::Data(data) => {
            let other = first.filter(|id| *id != cx.id());
            cx.send(data);
            for n in 0..5 {
                cx.send([n]);
            }
            cx.send_bytes(bytes(5000).into());
            other.map(|id| cx.send_to(id, b"to another"));
        }
        _ => {}
    });
    let (a, b) = (rig.connect(), rig.connect());
    rig.say(a, "x");
    assert_eq!(rig.stats().messages_out, 7);
    rig.sys().set_window(b, 0);
    rig.say(b, "y");
    assert_eq!(rig.stats().messages_out, 15, "whether or not it is written");
    assert_eq!(rig.heard(a).matches("to another").count(), 1);
}
