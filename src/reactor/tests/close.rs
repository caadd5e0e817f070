//! Tests of closing, and of what must arrive before it.

use super::*;
use crate::sys::CloseHow;
use crate::sys::script::{Answer, EAGAIN, ECONNRESET, EPIPE};

#[test]
fn what_was_sent_before_the_peers_fin_is_answered_in_full() {
    for n in [1, 63, 64, 65, 1000, 100_000] {
        let mut rig = puppet(echo);
        let a = rig.connect();
        rig.sys().set_window(a, 0);
        rig.sys().send(a, &bytes(n));
        rig.fin(a);
        let mut all = String::new();
        for _ in 0..=n / 5_000 {
            rig.open_window(a, 5_000);
            let heard = rig.heard(a);
            all.push_str(&heard);
        }
        assert_eq!(all.as_bytes(), bytes(n));
        assert_eq!(rig.sys().peers[a].closed, Some(CloseHow::Graceful));
    }
}

#[test]
fn a_close_with_input_waiting_sends_fin_and_reads_it_away_before_the_descriptor_goes() {
    let mut rig = puppet(|cx, on| {
        if let On::Data(_) = on {
            cx.send(bytes(1000));
            cx.close();
        }
    });
    let a = rig.connect();
    rig.say(a, bytes(500));
    assert_eq!(rig.heard(a).as_bytes(), bytes(1000));
    assert!(rig.sys().peers[a].got_fin);
    assert_eq!((rig.phase(a), rig.sys().unread(a)), (Phase::Lingering, 0));
    for _ in 0..3 {
        rig.pass(1500 * MS);
        rig.say(a, "and on");
    }
    assert_eq!(rig.phase(a), Phase::Lingering);
    rig.fin(a);
    assert_eq!(rig.sys().peers[a].closed, Some(CloseHow::Graceful));
    assert_eq!(rig.closed(&Reason::Handler), 1);
    assert_eq!(rig.log(), ["0 open", "0 64 B", "0 closed handler"]);
}

#[test]
fn a_peer_that_never_finishes_is_waited_for_no_longer_than_the_linger_limits() {
    let close = |cx: &mut Context<'_>, on: On<'_>| {
        if let On::Data(_) = on {
            cx.close();
        }
    };
    let mut rig = puppet(close);
    let (quiet, steady, flood) = (rig.connect(), rig.connect(), rig.connect());
    for p in [quiet, steady, flood] {
        rig.say(p, "go");
    }
    rig.say(flood, bytes(300 * 1024));
    assert!(rig.sys().peers[flood].closed.is_some(), "over 256 KiB thrown away");
    for _ in 0..3 {
        rig.pass(600 * MS);
        rig.say(steady, "x");
    }
    assert!(rig.sys().peers[quiet].closed.is_none(), "1.8 s quiet");
    rig.pass(201 * MS);
    assert!(rig.sys().peers[quiet].closed.is_some(), "2 s quiet");
    for _ in 0..7 {
        assert!(rig.sys().peers[steady].closed.is_none());
        rig.pass(SECOND);
        rig.say(steady, "x");
    }
    rig.pass(SECOND);
    assert!(rig.sys().peers[steady].closed.is_some(), "10 s in all");
    assert_eq!(rig.sys().open_streams(), 0);
}

#[test]
fn a_failed_write_still_lets_what_the_peer_sent_before_be_read() {
    let seen = std::rc::Rc::new(std::cell::Cell::new(0));
    let unsent = std::rc::Rc::clone(&seen);
    let act = |cx: &mut Context<'_>, on: On<'_>| {
        if let On::Data(b"go") = on {
            cx.send(bytes(100));
        }
    };
    let mut rig = puppet_to_the_last(limits(), act, move |_, closed| unsent.set(closed.unsent));
    let a = rig.connect();
    rig.sys().set_window(a, 30);
    rig.say(a, "go");
    rig.sys().send(a, &bytes(100));
    rig.reset(a);
    let log = rig.log();
    assert_eq!(log[..3], ["0 open", "0 go", "0 64 B"]);
    assert_eq!(rig.stats().bytes_in, 102);
    assert_eq!(log.last().unwrap(), "0 closed peer_reset");
    assert_eq!(seen.get(), 70);
}

#[test]
fn each_error_of_a_write_has_its_reason() {
    for (number, why) in [
        (EPIPE, Reason::PeerReset),
        (ECONNRESET, Reason::PeerReset),
        (110, Reason::Io(std::io::ErrorKind::TimedOut)),
        (113, Reason::Io(std::io::ErrorKind::HostUnreachable)),
    ] {
        let mut rig = puppet(echo);
        let a = rig.connect();
        rig.sys().peers[a].writes.push_back(Answer::Fail(number));
        rig.say(a, "hello");
        rig.fin(a);
        assert_eq!((rig.closed(&why), rig.stats().bytes_unsent), (1, 5), "errno {number}");
    }
}

#[test]
fn a_write_for_which_the_system_has_no_buffers_waits_for_space() {
    let mut rig = puppet(echo);
    let a = rig.connect();
    rig.sys().peers[a].writes.push_back(Answer::Fail(105));
    rig.say(a, "hello");
    rig.fin(a);
    assert_eq!(rig.heard(a), "hello");
    assert_eq!(rig.closed(&Reason::PeerClosed), 1);
}

#[test]
fn a_write_that_takes_nothing_is_an_error_and_no_loop() {
    let mut rig = puppet(echo);
    let a = rig.connect();
    rig.sys().peers[a].writes.push_back(Answer::AtMost(0));
    rig.say(a, "hello");
    rig.fin(a);
    assert_eq!(rig.closed(&Reason::Io(std::io::ErrorKind::WriteZero)), 1);
}

#[test]
fn send_and_close_in_one_callback_delivers_whatever_the_kernel_takes_at_a_time() {
    for step in [1, 7, 999, 4096] {
        let mut rig = puppet(|cx, on| {
            if on == On::Open {
                cx.send(bytes(5000));
                cx.close();
            }
        });
        let a = rig.sys().connect(0);
        rig.sys().set_window(a, 0);
        rig.settle();
        let mut all = String::new();
        for _ in 0..5000usize.div_ceil(step) {
            assert!(!rig.sys().peers[a].got_fin);
            rig.open_window(a, step);
            let heard = rig.heard(a);
            all.push_str(&heard);
        }
        assert_eq!(all.as_bytes(), bytes(5000));
        assert!(rig.sys().peers[a].got_fin);
    }
}

#[test]
fn an_abort_resets_and_counts_what_was_lost() {
    let mut rig = puppet(|cx, on| match on {
        On::Open => drop(cx.send(bytes(100))),
        _ => cx.abort(),
    });
    let a = rig.sys().connect(0);
    rig.sys().set_window(a, 40);
    rig.say(a, "go");
    assert_eq!(rig.sys().peers[a].closed, Some(CloseHow::Reset));
    assert_eq!((rig.stats().bytes_unsent, rig.stats().bytes_out), (60, 40));
}

#[test]
fn a_half_close_by_the_peer_leaves_our_half() {
    let mut rig = puppet(|cx, on| match on {
        On::End => drop(cx.send(b"you have finished; ")),
        On::Drain => cx.close(),
        _ => {}
    });
    let a = rig.connect();
    rig.fin(a);
    assert_eq!((rig.heard(a), rig.phase(a)), ("you have finished; ".into(), Phase::Open));
    let id = rig.id(a);
    rig.net().send_to(id, b"and so have I");
    rig.net().close_id(id);
    rig.settle();
    assert_eq!(rig.heard(a), "and so have I");
    assert_eq!((rig.closed(&Reason::PeerClosed), rig.sys().open_streams()), (1, 0));
    assert_eq!(rig.log(), ["0 open", "0 end", "0 closed peer_closed"]);
}

#[test]
fn a_half_close_by_us_leaves_the_peers_half() {
    let mut rig = puppet(|cx, on| match on {
        On::Open => {
            cx.send(bytes(100));
            cx.shutdown_write();
            assert_eq!(cx.send(b"no"), crate::Sent::Closed);
        }
        On::End => {}
        _ => {}
    });
    let a = rig.sys().connect(0);
    rig.sys().set_window(a, 60);
    rig.settle();
    assert!(!rig.sys().peers[a].got_fin, "not before all is written");
    rig.open_window(a, 60);
    assert!(rig.sys().peers[a].got_fin);
    rig.say(a, "still listening?");
    rig.pass(20 * SECOND);
    rig.say(a, "yes");
    rig.fin(a);
    assert_eq!(rig.log(), ["0 open", "0 still listening?", "0 yes", "0 end", "0 closed peer_closed"]);
    assert_eq!(rig.sys().open_streams(), 0);
}

#[test]
fn a_fin_that_cannot_be_sent_is_a_reset_peer() {
    for close in [false, true] {
        let mut rig = puppet(move |cx, on| {
            if let On::Data(_) = on {
                if close { cx.close() } else { cx.shutdown_write() }
            }
        });
        let a = rig.connect();
        rig.sys().peers[a].shutdown = Some(107);
        rig.say(a, "go");
        rig.fin(a);
        assert_eq!(rig.stats().open, 0);
        let log = rig.log();
        assert_eq!(log.last().unwrap(), if close { "0 closed handler" } else { "0 closed peer_reset" }, "{log:?}");
    }
}

#[test]
fn a_close_is_told_when_its_fate_is_known_and_before_the_descriptor_goes() {
    let mut rig = puppet(|cx, on| {
        if let On::Data(_) = on {
            cx.send(b"bye");
            cx.close();
        }
    });
    let a = rig.connect();
    rig.sys().peers[a].writes.push_back(Answer::Fail(EAGAIN));
    rig.sys().set_window(a, 0);
    rig.say(a, "go");
    assert_eq!(rig.log(), ["0 open", "0 go"]);
    rig.open_window(a, 10);
    assert_eq!(rig.log(), Vec::<String>::new(), "lingering");
    rig.fin(a);
    assert_eq!(rig.log(), ["0 closed handler"]);
}

/// Sends back what comes, and closes with a reset.
fn answers_and_resets() -> Rig {
    puppet(|cx, on| {
        if let On::Data(data) = on {
            cx.send(data);
            cx.close_with_reset();
        }
    })
}

#[test]
fn before_a_reset_that_was_asked_for_everything_is_delivered() {
    for fin in [false, true] {
        let mut rig = answers_and_resets();
        let a = rig.connect();
        rig.sys().set_window(a, 10);
        rig.sys().send(a, &bytes(64));
        if fin {
            rig.sys().fin(a);
        }
        rig.settle();
        rig.pass(20 * SECOND);
        assert_eq!((rig.phase(a), rig.heard(a).len()), (Phase::Flushing, 10));
        rig.open_window(a, 1000);
        assert_eq!(rig.heard(a).len(), 54);
        // The last bytes are on their way to the peer, and a FIN of the peer says nothing about them.
        rig.fin(a);
        rig.pass(1999 * MS);
        assert_eq!((rig.phase(a), rig.sys().peers[a].closed), (Phase::Lingering, None));
        rig.pass(MS);
        assert_eq!(rig.sys().peers[a].closed, Some(CloseHow::Reset));
        assert!(!rig.sys().peers[a].got_fin, "it must not look like a whole");
        assert_eq!((rig.closed(&Reason::Handler), rig.stats().bytes_unsent), (1, 0));
    }
}

#[test]
fn a_reset_that_was_asked_for_comes_at_once_where_nothing_can_be_lost() {
    let mut rig = puppet(echo);
    let long_ago = rig.connect();
    rig.say(long_ago, "hello");
    rig.pass(2 * SECOND);
    let told_nothing = rig.connect();
    for peer in [told_nothing, long_ago] {
        let id = rig.id(peer);
        assert!(rig.net().close_with_reset_id(id));
        assert!(!rig.net().close_with_reset_id(id));
        rig.settle();
        assert_eq!(rig.sys().peers[peer].closed, Some(CloseHow::Reset));
    }
}

#[test]
fn a_peer_that_is_gone_before_its_reset_is_waited_for_no_longer() {
    let mut rig = answers_and_resets();
    let a = rig.connect();
    rig.say(a, "hello");
    assert_eq!(rig.phase(a), Phase::Lingering);
    rig.reset(a);
    assert_eq!(rig.closed(&Reason::Handler), 1);
}

#[test]
fn a_close_that_waits_for_its_peer_is_no_work() {
    let mut rig = puppet(echo);
    let a = rig.connect();
    rig.sys().set_window(a, 2);
    rig.say(a, "abc");
    let id = rig.id(a);
    assert!(rig.net().shutdown_write_id(id));
    assert!(!rig.turn().more);
    assert!(rig.net().close_id(id));
    assert!(!rig.turn().more);
    rig.open_window(a, 5);
    assert_eq!((rig.heard(a), rig.phase(a)), ("abc".to_owned(), Phase::Lingering));
}
