//! Tests of shutdown: who is still served, who is notified, and when it ends.

use super::*;
use crate::reactor::Report;
use crate::sys::CloseHow;

fn stop(rig: &mut Rig) {
    rig.inner.handle().stop().unwrap();
    rig.settle();
}

#[test]
fn a_shutdown_takes_who_waits_closes_the_listeners_and_tells_everyone() {
    let mut rig = puppet(|cx, on| {
        if on == On::Shutdown {
            cx.send(b"closing");
            cx.close();
        }
    });
    let a = rig.connect();
    let b = rig.sys().connect(0);
    stop(&mut rig);
    assert_eq!(rig.log(), ["0 open", "1 open", "0 shutdown", "1 shutdown"]);
    assert_eq!((rig.heard(a), rig.heard(b)), ("closing".into(), "closing".into()));
    let calls = rig.calls();
    let closed = calls.iter().position(|c| *c == Call::CloseListener(0)).unwrap();
    let last = calls.iter().rposition(|c| matches!(c, Call::Accept(..))).unwrap();
    assert!(last < closed, "{calls:?}");
    assert!(rig.inner.shutdown.is_under_way());
    rig.fin(a);
    rig.fin(b);
    assert!(!rig.inner.shutdown.is_under_way());
    assert_eq!(rig.inner.shutdown.last(), Some(Report { clean: 2, ..Report::default() }));
    assert_eq!((rig.closed(&Reason::Shutdown), rig.sys().open_streams()), (2, 0));
}

#[test]
fn a_client_whose_event_has_not_been_seen_yet_is_taken_all_the_same() {
    let mut rig = puppet(echo);
    let a = rig.sys().connect(0);
    // A shutdown that is requested between two turns begins like this.
    rig.inner.update_clock();
    rig.inner.begin_shutdown(SECOND);
    rig.settle();
    assert_eq!(rig.log(), ["0 open", "0 shutdown"]);
    assert!(rig.sys().peers[a].got_fin);
}

#[test]
fn at_the_end_of_the_grace_whoever_is_left_is_aborted_and_counted() {
    let limits = Limits { shutdown_grace: 3 * SECOND, ..limits() };
    let mut rig = puppet_within(limits, |cx, on| match on {
        On::Open => drop(cx.send(bytes(100))),
        On::Data(_) => cx.close(),
        _ => {}
    });
    let (stubborn, full, lingering) = (rig.connect(), rig.sys().connect(0), rig.connect());
    rig.sys().set_window(full, 0);
    rig.sys().peers[full].got.clear();
    rig.settle();
    rig.pass(2 * SECOND);
    stop(&mut rig);
    rig.pass(2500 * MS);
    rig.say(lingering, "go");
    assert_eq!(rig.stats().open, 3);
    rig.pass(499 * MS);
    assert_eq!(rig.stats().open, 3, "not before its time");
    rig.pass(2 * MS);
    assert_eq!((rig.stats().open, rig.sys().open_streams()), (0, 0));
    assert_eq!(rig.sys().peers[stubborn].closed, Some(CloseHow::Reset));
    assert_eq!(rig.sys().peers[lingering].closed, Some(CloseHow::Graceful));
    assert_eq!(rig.closed(&Reason::ShutdownDeadline), 2);
    let report = rig.inner.shutdown.last().unwrap();
    assert_eq!((report.clean, report.cut), (1, 2));
}

#[test]
fn bytes_lost_at_the_end_of_the_grace_are_reported() {
    let mut rig = puppet(echo);
    let a = rig.connect();
    rig.sys().set_window(a, 10);
    rig.say(a, bytes(64));
    stop(&mut rig);
    rig.pass(11 * SECOND);
    let report = rig.inner.shutdown.last().unwrap();
    assert_eq!(report, Report { clean: 0, cut: 1, bytes_lost: 54 });
    assert_eq!(rig.stats().bytes_unsent, 54);
}

#[test]
fn asked_a_second_time_the_grace_is_over() {
    let mut rig = puppet(|_, _| {});
    rig.connect();
    stop(&mut rig);
    assert_eq!(rig.stats().open, 1);
    stop(&mut rig);
    assert_eq!((rig.stats().open, rig.closed(&Reason::ShutdownDeadline)), (0, 1));
    assert!(!rig.inner.shutdown.is_under_way());
}

#[test]
fn after_a_shutdown_another_one_can_be_asked_for() {
    let mut rig = puppet(echo);
    stop(&mut rig);
    assert!(!rig.inner.shutdown.is_under_way());
    let handler = rig.handler;
    rig.listen(handler);
    let a = rig.sys().connect(1);
    rig.settle();
    rig.say(a, "again");
    assert_eq!(rig.heard(a), "again");
    stop(&mut rig);
    rig.fin(a);
    assert_eq!(rig.inner.shutdown.last().map(|r| r.clean), Some(1));
}

#[test]
fn a_stop_wakes_the_poll_that_would_sleep() {
    let mut rig = puppet(echo);
    rig.connect();
    rig.inner.handle().stop().unwrap();
    rig.sys().sleeps = true;
    let before = rig.sys().clock;
    rig.turn_for(None);
    assert!(rig.inner.shutdown.is_under_way());
    assert_eq!(rig.sys().clock, before);
}

#[test]
fn a_shutdown_around_busy_clients_leaves_nobody_half_answered() {
    for moment in 0..20 {
        let mut rig = puppet(|cx, on| match on {
            On::Data(data) => {
                cx.send([data, data].concat());
            }
            On::End | On::Shutdown => cx.close(),
            _ => {}
        });
        let peers: Vec<usize> = (0..60).map(|_| rig.sys().connect(0)).collect();
        for &p in &peers {
            rig.sys().send(p, b"ask");
            rig.sys().set_window(p, 4);
        }
        for _ in 0..moment {
            rig.turn();
        }
        rig.inner.handle().stop().unwrap();
        for &p in &peers {
            rig.sys().set_window(p, 100);
            rig.sys().fin(p);
        }
        rig.settle();
        assert!(!rig.inner.shutdown.is_under_way());
        for &p in &peers {
            let heard = rig.heard(p);
            assert!(heard.is_empty() || heard == "askask", "{moment}: {heard}");
        }
        assert_eq!(rig.sys().open_streams(), 0);
    }
}

#[test]
fn a_callback_may_stop_the_reactor_and_end_the_grace() {
    let mut rig = puppet(|cx, on| {
        if let On::Data(b"stop") | On::Shutdown = on {
            cx.stop();
        }
    });
    let (a, b) = (rig.connect(), rig.connect());
    rig.say(a, "stop");
    assert!(!rig.inner.shutdown.is_under_way(), "on_shutdown asked again, which ended the grace");
    assert_eq!(rig.closed(&Reason::ShutdownDeadline), 2);
    assert!(rig.sys().peers[b].closed.is_some());
}

#[test]
fn a_panic_at_the_shutdown_is_no_clean_end() {
    let mut rig = puppet(|_, on| assert_ne!(on, On::Shutdown, "as the test wants it"));
    rig.connect();
    rig.inner.begin_shutdown(SECOND);
    rig.settle();
    assert_eq!(rig.inner.shutdown.last().map(|r| (r.clean, r.cut)), Some((0, 1)));
}
