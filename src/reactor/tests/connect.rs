//! Tests of outbound connections: names, addresses, timeouts, failures and retries.

use std::net::SocketAddr;

use super::*;
use crate::config::connect::{Backoff, Connect};
use crate::connection::Origin;
use crate::id::AttemptId;
use crate::sys::script::DialPlan;

const ECONNREFUSED: i32 = 111;
const EAGAIN: i32 = 11;
const ENETUNREACH: i32 = 101;

/// A rig whose handler sends the origin of its connections, and echoes.
fn dialler() -> Rig {
    dialler_within(limits())
}

fn dialler_within(limits: Limits) -> Rig {
    puppet_within(limits, |cx, on| {
        if matches!(on, On::Open)
            && let Origin::Connected(tag) = cx.origin()
        {
            cx.send(format!("tag {tag}"));
        }
        echo(cx, on);
    })
}

impl Rig {
    fn dial(&mut self, to: impl Into<Connect>, tag: u64) -> AttemptId {
        let handler = self.handler;
        self.inner.dispatcher.core.connect(handler, to.into(), tag, None).unwrap()
    }

    /// Returns the addresses of the sockets that were opened since the last call.
    fn dials(&mut self) -> Vec<String> {
        std::mem::take(&mut self.sys().dials_made).iter().map(|(to, _)| to.to_string()).collect()
    }

    fn later(&mut self, n: usize) {
        self.sys().dials.extend((0..n).map(|_| DialPlan::Later));
    }

    fn nothing_left(&self) {
        let core = &self.inner.dispatcher.core;
        assert_eq!((core.connect_jobs.len(), core.connect_jobs.next()), (0, crate::time::Time::NEVER));
        assert_eq!(core.connect_jobs.active_lookups, 0);
    }
}

#[test]
fn a_connection_that_was_asked_for_is_like_any_other() {
    let mut rig = dialler();
    rig.dial("127.0.0.1:7", 42);
    rig.settle();
    assert_eq!(rig.dials(), ["127.0.0.1:7"]);
    assert_eq!(rig.heard(0), "tag 42");
    rig.say(0, "hello");
    assert_eq!(rig.heard(0), "hello");
    rig.fin(0);
    assert_eq!(rig.log(), ["0 open", "0 hello", "0 end", "0 closed peer_closed"]);
    let stats = rig.stats();
    assert_eq!((stats.connected, stats.accepted, stats.open), (1, 0, 0));
    rig.nothing_left();
}

#[test]
fn what_takes_its_time_is_told_when_it_is_there() {
    let mut rig = dialler();
    rig.later(1);
    rig.dial("127.0.0.1:7", 1);
    rig.settle();
    assert!(rig.log().is_empty());
    let stats = rig.stats();
    assert_eq!((stats.open, stats.connecting), (0, 1));
    let token = rig.sys().token(0);
    rig.sys().inject(token, crate::sys::Ready::WRITABLE);
    rig.settle();
    assert!(rig.log().is_empty(), "an event says no more than: ask");
    rig.pass(9 * SECOND);
    rig.sys().dial_succeeds(0);
    rig.settle();
    assert_eq!(rig.log(), ["0 open"]);
    rig.pass(20 * SECOND);
    assert!(rig.log().is_empty(), "the time to connect is over for it");
    rig.nothing_left();
}

#[test]
fn each_failure_says_what_was_tried_and_what_was_wrong() {
    let mut rig = dialler();
    rig.later(1);
    rig.dial("127.0.0.1:7", 1);
    rig.settle();
    rig.sys().dial_fails(0, ECONNREFUSED);
    rig.settle();
    let refused = "1 failed, ConnectionRefused: cannot connect to 127.0.0.1:7: Connection refused (os error 111)";
    assert_eq!(rig.log(), [refused]);
    rig.sys().dials.push_back(DialPlan::Fail(ENETUNREACH));
    rig.dial("[2001:db8::1]:7", 2);
    rig.settle();
    let unreachable = "2 failed, NetworkUnreachable: cannot connect to [2001:db8::1]:7: \
                       Network is unreachable (os error 101)";
    assert_eq!(rig.log(), [unreachable]);
    rig.later(1);
    rig.dial("127.0.0.1:8", 3);
    rig.pass(10 * SECOND - MS);
    assert!(rig.log().is_empty());
    rig.pass(MS);
    assert_eq!(rig.log(), ["3 failed, TimedOut: cannot connect to 127.0.0.1:8: no answer within 10s"]);
    rig.dial("nonsense", 4);
    rig.settle();
    let log = rig.log();
    assert!(log[0].starts_with("4 failed, InvalidInput: \"nonsense\" is not a valid address: the port"), "{log:?}");
    assert_eq!(rig.stats().connect_failed, 4);
    assert_eq!(rig.sys().open_streams(), 0);
    rig.nothing_left();
}

#[test]
fn the_addresses_of_a_name_are_tried_in_turn_with_a_stagger() {
    let mut rig = dialler();
    rig.later(4);
    rig.dial("example.org:80", 5);
    rig.settle();
    assert_eq!(rig.sys().lookups[0].1, "example.org");
    let found: Vec<SocketAddr> =
        ["[::1]:80", "[::2]:80", "1.1.1.1:80", "2.2.2.2:80"].map(|a| a.parse().unwrap()).to_vec();
    rig.sys().resolves(0, Ok(found));
    rig.settle();
    assert_eq!(rig.dials(), ["[::1]:80"]);
    rig.pass(249 * MS);
    assert!(rig.dials().is_empty());
    rig.pass(MS);
    assert_eq!(rig.dials(), ["1.1.1.1:80"], "the kinds take turns");
    // If one fails, the next begins at once.
    rig.pass(10 * MS);
    rig.sys().dial_fails(1, ECONNREFUSED);
    rig.settle();
    assert_eq!(rig.dials(), ["[::2]:80"]);
    rig.pass(249 * MS);
    assert!(rig.dials().is_empty());
    rig.pass(MS);
    assert_eq!(rig.dials(), ["2.2.2.2:80"]);
    // One fails in the same turn in which another connects.
    rig.sys().dial_fails(0, ECONNREFUSED);
    rig.sys().dial_succeeds(3);
    rig.settle();
    assert_eq!(rig.heard(3), "tag 5");
    assert!(rig.sys().peers[2].closed.is_some(), "the other one is given up");
    assert_eq!(rig.sys().open_streams(), 1);
    rig.nothing_left();
}

#[test]
fn when_all_addresses_fail_each_is_told() {
    let mut rig = dialler();
    rig.dial("both:80", 1);
    rig.settle();
    rig.sys().dials.extend([DialPlan::Fail(ECONNREFUSED), DialPlan::Fail(ENETUNREACH)]);
    rig.sys().resolves(0, Ok(vec!["[::1]:80".parse().unwrap(), "1.1.1.1:80".parse().unwrap()]));
    rig.settle();
    let told = "1 failed, NetworkUnreachable: cannot connect to both:80: [::1]:80: Connection refused (os error \
                111); 1.1.1.1:80: Network is unreachable (os error 101)";
    assert_eq!(rig.log(), [told]);
    rig.nothing_left();
}

#[test]
fn a_name_that_is_unknown_and_a_resolver_that_hangs_are_told_apart() {
    let mut rig = dialler();
    rig.dial("nowhere:80", 1);
    rig.dial("hangs:80", 2);
    rig.settle();
    rig.sys().resolves(0, Err(2));
    rig.settle();
    let log = rig.log();
    assert!(log[0].starts_with("1 failed, NotFound: cannot connect to nowhere:80: "), "{log:?}");
    rig.pass(10 * SECOND);
    let log = rig.log();
    assert_eq!(log, ["2 failed, TimedOut: cannot connect to hangs:80: name not resolved within 10s"]);
    rig.nothing_left();
    // A lookup result that comes too late is ignored.
    rig.dial("other:80", 3);
    rig.settle();
    rig.sys().resolves(1, Ok(vec!["1.1.1.1:80".parse().unwrap()]));
    rig.settle();
    assert!(rig.dials().is_empty() && rig.log().is_empty());
}

#[test]
fn lookups_attempts_and_connections_have_their_limits() {
    let limits = Limits { lookups: 2, attempts: 4, connections: Limit::At(3), ..limits() };
    let mut rig = dialler_within(limits);
    for tag in 0..4 {
        rig.dial("name:80", tag);
    }
    let handler = rig.handler;
    assert!(rig.inner.dispatcher.core.connect(handler, Connect::new("name:80"), 9, None).is_none());
    rig.settle();
    let log = rig.log();
    let told = "cannot connect to name:80: limit of 2 concurrent lookups reached";
    assert_eq!(log, [format!("2 failed, QuotaExceeded: {told}"), format!("3 failed, QuotaExceeded: {told}")]);
    rig.connect();
    rig.connect();
    rig.later(1);
    rig.dial("127.0.0.1:7", 5);
    rig.dial("127.0.0.1:8", 6);
    rig.settle();
    let log = rig.log();
    let told = "6 failed, QuotaExceeded: cannot connect to 127.0.0.1:8: limit of 3 connections reached";
    assert_eq!(log[2], told);
}

#[test]
fn this_machine_is_known_by_name_though_no_name_can_be_looked_up() {
    let limits = Limits { lookups: 1, ..limits() };
    let mut rig = dialler_within(limits);
    rig.dial("silent:80", 1);
    rig.settle();
    for (tag, host) in ["localhost", "LOCALHOST.", "app.localhost"].into_iter().enumerate() {
        rig.sys().dials.push_back(DialPlan::Fail(ECONNREFUSED));
        rig.dial(format!("{host}:7"), 10 + tag as u64);
        rig.settle();
        assert_eq!(rig.dials(), ["127.0.0.1:7", "[::1]:7"]);
        assert_eq!(rig.heard(tag), format!("tag {}", 10 + tag));
    }
    assert_eq!(rig.sys().lookups.len(), 1);
    let local = Connect::new("localhost:7").local("[::1]:0".parse().unwrap());
    rig.dial(local, 20);
    rig.settle();
    assert_eq!(rig.dials(), ["[::1]:7"]);
    rig.dial("localhost.example:7", 30);
    rig.settle();
    assert!(rig.log().iter().any(|line| line.contains("limit of 1 concurrent lookups")));
}

#[test]
fn a_failed_try_is_repeated_after_longer_and_longer_waits() {
    let mut rig = dialler();
    let policy = Backoff { min: 100 * MS, max: SECOND, factor: 2.0, tries: Limit::At(4) };
    rig.sys().dials.extend([DialPlan::Fail(ECONNREFUSED); 4]);
    rig.dial(Connect::new("127.0.0.1:7").retry(policy), 1);
    rig.settle();
    let mut times = Vec::new();
    for _ in 0..4_000 {
        let n = rig.dials().len();
        assert!(n <= 1);
        if n == 1 {
            times.push(rig.sys().clock / 1_000_000);
        }
        rig.pass(MS);
    }
    let waits: Vec<u64> = times.windows(2).map(|t| t[1] - t[0]).collect();
    assert_eq!(waits.len(), 3);
    for (wait, most) in waits.iter().zip([200, 400, 800]) {
        assert!((100..=most + 1).contains(wait), "{waits:?}");
    }
    let log = rig.log();
    assert!(log[..3].iter().all(|l| l.starts_with("1 retried: cannot connect")), "{log:?}");
    assert!(log.len() == 4 && log[3].starts_with("1 failed"), "told once: {log:?}");
    assert_eq!(rig.stats().connect_retries, 3);
    rig.nothing_left();
}

#[test]
fn a_connection_that_is_lost_is_made_again_but_not_one_that_was_closed() {
    let mut rig = dialler();
    let policy = Backoff { min: 100 * MS, max: 200 * MS, factor: 2.0, tries: Limit::Unlimited };
    let attempt = rig.dial(Connect::new("127.0.0.1:7").reconnect(policy), 1);
    rig.settle();
    for round in 0..3 {
        rig.reset(round);
        rig.pass(300 * MS);
        assert_eq!(rig.dials().len(), if round == 0 { 2 } else { 1 });
        assert_eq!(rig.heard(round + 1), "tag 1");
    }
    let log = rig.log();
    assert_eq!(log[..3], ["0 open", "0 closed peer_reset", "0 open"], "{log:?}");
    let id = rig.id(3);
    assert!(rig.net().close_id(id));
    rig.settle();
    rig.fin(3);
    rig.pass(10 * SECOND);
    assert!(rig.dials().is_empty());
    assert!(!rig.net().cancel_connect(attempt));
    rig.nothing_left();
}

#[test]
fn what_is_cancelled_is_never_heard_of_again() {
    let mut rig = dialler();
    rig.later(2);
    let policy = Backoff::default();
    let (looking, trying) = (rig.dial("name:80", 1), rig.dial("127.0.0.1:7", 2));
    let up = rig.dial(Connect::new("127.0.0.1:8").reconnect(policy), 3);
    rig.settle();
    rig.sys().dial_succeeds(1);
    rig.settle();
    let fresh = rig.dial("127.0.0.1:9", 4);
    for attempt in [looking, trying, up, fresh] {
        assert!(rig.net().cancel_connect(attempt) && !rig.net().cancel_connect(attempt));
    }
    rig.settle();
    rig.sys().resolves(0, Ok(vec!["1.1.1.1:80".parse().unwrap()]));
    rig.settle();
    assert_eq!(rig.sys().open_streams(), 1, "the one that is up");
    rig.reset(1);
    rig.pass(60 * SECOND);
    assert_eq!(rig.log(), ["1 open", "1 closed peer_reset"]);
    rig.nothing_left();
}

#[test]
fn a_full_unix_listener_is_tried_again_as_long_as_there_is_time() {
    let mut rig = dialler();
    rig.sys().dials.extend([DialPlan::Fail(EAGAIN); 3]);
    rig.dial("unix:/tmp/x", 1);
    rig.pass(750 * MS);
    assert_eq!(rig.dials(), ["unix:/tmp/x"; 4]);
    assert_eq!(rig.log(), ["0 open"]);
    rig.sys().dials.extend([DialPlan::Fail(EAGAIN); 100]);
    rig.dial("unix:/tmp/y", 2);
    rig.pass(10 * SECOND);
    assert_eq!(rig.log(), ["2 failed, TimedOut: cannot connect to unix:/tmp/y: no answer within 10s"]);
    rig.nothing_left();
}

#[test]
fn a_socket_that_cannot_be_watched_fails_its_attempt_only() {
    let mut rig = dialler();
    rig.dial("127.0.0.1:7", 1);
    rig.sys().next_add = Some(28);
    rig.settle();
    let log = rig.log();
    assert!(log[0].contains("cannot connect to 127.0.0.1:7: No space left"), "{log:?}");
    rig.dial("127.0.0.1:7", 2);
    rig.settle();
    assert_eq!(rig.log(), ["0 open"]);
}

#[test]
fn a_shutdown_ends_what_has_not_come_about() {
    let mut rig = dialler();
    rig.later(1);
    let policy = Backoff::default();
    rig.dial("127.0.0.1:7", 1);
    rig.dial("name:80", 2);
    rig.settle();
    rig.sys().dials.push_back(DialPlan::Fail(ECONNREFUSED));
    rig.dial(Connect::new("127.0.0.1:8").retry(policy), 3);
    rig.dial(Connect::new("127.0.0.1:9").reconnect(policy), 4);
    rig.settle();
    rig.log();
    rig.inner.begin_shutdown(SECOND);
    rig.settle();
    rig.fin(1);
    let mut log = rig.log();
    log.sort();
    let told =
        |tag: u64, to: &str| format!("{tag} failed, Interrupted: cannot connect to {to}: the reactor is shutting down");
    assert!(log.contains(&told(1, "127.0.0.1:7")), "{log:?}");
    assert!(log.contains(&told(2, "name:80")) && log.contains(&told(3, "127.0.0.1:8")), "{log:?}");
    assert!(!rig.inner.shutdown.is_under_way());
    rig.nothing_left();
}

#[test]
fn a_handler_lives_as_long_as_something_may_come_of_its_attempt() {
    struct Caller;
    impl Handler for Caller {
        type State = ();
        fn on_open(&mut self, cx: &mut Context<'_>) {
            cx.send("hello");
        }
        fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut (), _data: &[u8]) {}
        fn on_close(&mut self, net: &mut Net<'_>, _state: (), _closed: &Closed) {
            net.connect("127.0.0.1:7", 1);
        }
    }
    let mut rig = puppet(|_, _| {});
    let handler = rig.inner.dispatcher.add(Caller, false).unwrap();
    let listener = rig.listen(handler);
    let peer = rig.sys().connect(1);
    rig.settle();
    rig.inner.close_listener(listener);
    rig.later(1);
    rig.reset(peer);
    rig.sys().dial_succeeds(1);
    rig.settle();
    assert_eq!(rig.heard(1), "hello");
}

#[test]
fn an_address_that_fails_at_once_makes_space_for_the_next_though_another_is_tried() {
    let mut rig = dialler();
    rig.sys().dials.extend([DialPlan::Later, DialPlan::Fail(ENETUNREACH), DialPlan::Later]);
    rig.dial("example.org:80", 5);
    rig.settle();
    let found = ["[::1]:80", "1.1.1.1:80", "[::2]:80"].map(|a| a.parse().unwrap()).to_vec();
    rig.sys().resolves(0, Ok(found));
    rig.settle();
    assert_eq!(rig.dials(), ["[::1]:80"]);
    rig.pass(250 * MS);
    assert_eq!(rig.dials(), ["1.1.1.1:80", "[::2]:80"]);
}

#[test]
fn who_has_connected_while_we_were_away_is_not_too_late() {
    let mut rig = dialler();
    rig.later(2);
    rig.dial("127.0.0.1:7", 1);
    rig.dial("127.0.0.1:8", 2);
    rig.settle();
    rig.sys().capacity = 1;
    rig.sys().dial_succeeds(0);
    rig.sys().dial_succeeds(1);
    rig.sys().clock += 60_000_000_000;
    rig.settle();
    assert_eq!(rig.log(), ["0 open", "1 open"]);
}

#[test]
fn the_waits_of_a_connection_that_lasted_begin_anew() {
    let mut rig = dialler();
    let policy = Backoff { min: 100 * MS, max: 10 * SECOND, factor: 10.0, tries: Limit::Unlimited };
    rig.dial(Connect::new("127.0.0.1:7").reconnect(policy), 1);
    rig.settle();
    for round in 0..8 {
        assert_eq!(rig.dials().len(), 1, "a first wait is no longer than the factor says");
        rig.pass(10 * SECOND);
        rig.reset(round);
        rig.pass(SECOND);
    }
}
