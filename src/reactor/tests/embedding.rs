//! Tests of driving a reactor from an outer loop (how long a turn sleeps, when the next is due), and of sources. The
//! script only registers sources: the test reports when they are ready.

use std::cell::Cell;
use std::io::ErrorKind;
use std::rc::Rc;

use super::*;
use crate::config::limits::PanicPolicy;
use crate::handler::snapshot::ConnectionPhase;
use crate::id::Token;
use crate::reactor::{Readiness, Watch};
use crate::sys::Ready;
use crate::testing::log_tests::lines;

/// The timeout of the last wait.
fn slept(rig: &mut Rig) -> Option<Duration> {
    let calls = rig.calls();
    let mut waits = calls.iter().rev().filter_map(|c| if let Call::Poll(t) = c { Some(*t) } else { None });
    waits.next().unwrap()
}

#[test]
fn a_turn_sleeps_no_longer_than_it_is_asked_to() {
    let mut rig = puppet(echo);
    let micros = Duration::from_micros;
    for (asked, sleeps) in [
        (Duration::ZERO, Duration::ZERO),
        (Duration::from_nanos(1), Duration::ZERO),
        (micros(999), Duration::ZERO),
        (micros(1000), MS),
        (micros(1999), MS),
        (micros(10_300), 10 * MS),
        (Duration::MAX, Duration::from_secs(u64::MAX) + 999 * MS),
    ] {
        rig.inner.turn(Some(asked)).unwrap();
        assert_eq!(slept(&mut rig), Some(sleeps), "{asked:?}");
    }
    rig.turn_for(None);
    assert_eq!(slept(&mut rig), None);
}

#[test]
fn a_turn_that_is_asked_to_sleep_longer_wakes_for_a_deadline_and_looks_once_more_before_it_expires() {
    let limits = Limits { idle_timeout: Limit::At(Duration::from_micros(2_300)), ..limits() };
    let mut rig = puppet_within(limits, echo);
    let a = rig.connect();
    rig.calls();
    rig.sys().sleeps = true;
    rig.turn_for(Some(SECOND));
    assert_eq!((slept(&mut rig), rig.phase(a)), (Some(3 * MS), Phase::Open));
    rig.turn_for(Some(SECOND));
    assert_eq!((slept(&mut rig), rig.phase(a)), (Some(Duration::ZERO), Phase::Flushing), "nothing had arrived");
}

#[test]
fn a_turn_that_brought_as_many_events_as_fit_asks_for_another() {
    let mut rig = puppet(echo);
    let peers: Vec<usize> = (0..6).map(|_| rig.connect()).collect();
    rig.sys().capacity = 3;
    rig.all_send(&peers, b"x");
    for (events, more) in [(3, true), (3, true), (0, false)] {
        let turn = rig.turn_for(Some(Duration::ZERO));
        assert_eq!((turn.events, turn.more), (events, more));
        let due = rig.inner.next_deadline().since(rig.inner.dispatcher.core.now);
        assert_eq!(due.is_zero(), more, "{due:?}");
    }
}

/// A source that does nothing.
struct Nothing(Rc<Cell<usize>>);

impl Drop for Nothing {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

impl mio::event::Source for Nothing {
    fn register(&mut self, _: &mio::Registry, _: mio::Token, _: mio::Interest) -> std::io::Result<()> {
        unreachable!("the script does not ask")
    }

    fn reregister(&mut self, _: &mio::Registry, _: mio::Token, _: mio::Interest) -> std::io::Result<()> {
        unreachable!("the script does not ask")
    }

    fn deregister(&mut self, _: &mio::Registry) -> std::io::Result<()> {
        unreachable!("the script does not ask")
    }
}

/// How often the sources of a test were called and dropped.
#[derive(Clone, Default)]
struct Counts {
    called: Rc<Cell<usize>>,
    dropped: Rc<Cell<usize>>,
}

impl Counts {
    fn get(&self) -> (usize, usize) {
        (self.called.get(), self.dropped.get())
    }
}

/// Registers a source with a callback that is counted. Returns its token.
fn source(
    rig: &mut Rig,
    counts: &Counts,
    mut callback: impl FnMut(&mut Net<'_>, Readiness) -> Watch + 'static,
) -> std::io::Result<usize> {
    let called = Rc::clone(&counts.called);
    let nothing = Nothing(Rc::clone(&counts.dropped));
    let id = rig.inner.watch(nothing, mio::Interest::READABLE, move |net, _, readiness| {
        called.set(called.get() + 1);
        callback(net, readiness)
    })?;
    Ok(Token::Source(id).pack())
}

#[test]
fn a_source_is_called_once_for_what_was_said_of_it_in_a_turn() {
    let (mut rig, counts) = (puppet(echo), Counts::default());
    let told = Rc::new(Cell::new([false; 3]));
    let tell = Rc::clone(&told);
    let token = source(&mut rig, &counts, move |_, readiness| {
        tell.set([readiness.is_readable(), readiness.is_writable(), readiness.is_error()]);
        Watch::Wait
    })
    .unwrap();
    rig.turn();
    assert_eq!(counts.get(), (0, 0));
    rig.sys().inject(token, Ready::READABLE);
    rig.sys().inject(token, Ready::WRITABLE);
    assert!(!rig.turn().more);
    assert_eq!((counts.get(), told.get()), ((1, 0), [true, true, false]));
    // The readiness from before was used up.
    rig.sys().inject(token, Ready::ERROR);
    rig.settle();
    assert_eq!((counts.get(), told.get()), ((2, 0), [false, false, true]));
    assert_eq!(rig.stats().stale_events, 0);
}

#[test]
fn a_source_with_work_left_is_called_each_turn_and_no_turn_sleeps() {
    let (mut rig, counts) = (puppet(echo), Counts::default());
    let left = Cell::new(3);
    let token = source(&mut rig, &counts, move |_, readiness| {
        assert!(readiness.is_readable());
        left.set(left.get() - 1);
        if left.get() > 0 { Watch::Again } else { Watch::Wait }
    })
    .unwrap();
    rig.sys().inject(token, Ready::READABLE);
    for more in [true, true, false] {
        rig.calls();
        assert_eq!(rig.turn().more, more);
    }
    assert_eq!((counts.get(), slept(&mut rig)), ((3, 0), Some(Duration::ZERO)));
}

#[test]
fn sources_act_on_connections_in_the_same_turn() {
    let (mut rig, counts) = (puppet(echo), Counts::default());
    let a = rig.connect();
    let id = rig.id(a);
    let token = source(&mut rig, &counts, move |net, _| {
        net.send_to(id, b"from a source");
        Watch::Wait
    })
    .unwrap();
    rig.sys().inject(token, Ready::READABLE);
    rig.turn();
    assert_eq!(rig.heard(a), "from a source");
}

#[test]
fn sources_that_speak_to_a_space_at_length_cut_nobody() {
    let (mut rig, counts) = (puppet_within(tight_limits(), echo), Counts::default());
    let a = rig.connect();
    let id = rig.id(a);
    let window = rig.net().group().unwrap();
    rig.net().join_id(window, id);
    let tokens: Vec<usize> = (0..4)
        .map(|_| {
            let speak = move |net: &mut Net<'_>, _| {
                net.broadcast(window, bytes(4096));
                Watch::Wait
            };
            source(&mut rig, &counts, speak).unwrap()
        })
        .collect();
    for token in tokens {
        rig.sys().inject(token, Ready::READABLE);
    }
    rig.turn();
    assert_eq!((rig.heard(a).len(), rig.stats().open), (4 * 4096, 1));
}

#[test]
fn a_source_that_is_done_is_dropped_and_its_later_events_are_stale() {
    let (mut rig, counts) = (puppet(echo), Counts::default());
    let token = source(&mut rig, &counts, |_, _| Watch::Done).unwrap();
    rig.calls();
    rig.sys().inject(token, Ready::READABLE);
    rig.turn();
    assert_eq!(counts.get(), (1, 1));
    assert!(rig.calls().contains(&Call::RemoveSource));
    // The source that has its slot now is not removed.
    source(&mut rig, &counts, |_, _| Watch::Wait).unwrap();
    rig.sys().inject(token, Ready::READABLE);
    rig.settle();
    assert_eq!((counts.get(), rig.stats().stale_events), ((1, 1), 1));
}

#[test]
fn a_source_that_is_taken_out_while_its_callback_is_due_is_not_called() {
    let (mut rig, counts) = (puppet(echo), Counts::default());
    let token = source(&mut rig, &counts, |_, _| Watch::Again).unwrap();
    rig.sys().inject(token, Ready::READABLE);
    assert!(rig.turn().more);
    let Token::Source(id) = Token::unpack(token) else { panic!() };
    drop(rig.inner.sources.remove(id, &mut rig.inner.sys));
    assert_eq!(rig.inner.next_deadline(), crate::time::Time::NEVER);
    assert!(rig.inner.sources.remove(id, &mut rig.inner.sys).is_none());
    assert!(!rig.turn().more);
    assert_eq!(counts.get(), (1, 1));
}

#[test]
fn a_source_whose_callback_panics_goes_alone() {
    let (mut rig, counts) = (puppet(echo), Counts::default());
    let a = rig.connect();
    let bad = source(&mut rig, &counts, |_, _| panic!("on purpose")).unwrap();
    let good = source(&mut rig, &counts, |_, _| Watch::Wait).unwrap();
    lines();
    rig.sys().inject(bad, Ready::READABLE);
    rig.sys().inject(good, Ready::READABLE);
    rig.settle();
    assert_eq!((counts.get(), rig.stats().panics, rig.stats().open), ((2, 1), 1, 1));
    assert_eq!(lines(), ["the callback of source #0.0 panicked: on purpose"]);
    rig.say(a, "still here");
    assert_eq!(rig.heard(a), "still here");
}

#[test]
fn a_source_whose_drop_panics_is_gone_all_the_same() {
    struct Last;
    impl Drop for Last {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }
    let (mut rig, counts) = (puppet(echo), Counts::default());
    let last = Last;
    let token = source(&mut rig, &counts, move |_, _| {
        let _ = &last;
        Watch::Done
    })
    .unwrap();
    lines();
    rig.sys().inject(token, Ready::READABLE);
    rig.settle();
    assert_eq!((counts.get(), rig.stats().panics), ((1, 1), 1));
    assert_eq!(lines(), ["the drop of a handler, source or note panicked: on purpose"]);
}

#[test]
#[should_panic(expected = "on purpose")]
fn a_panic_of_a_source_goes_on_if_it_is_to() {
    let (mut rig, counts) = (puppet(echo), Counts::default());
    rig.inner.dispatcher.set_panic_policy(PanicPolicy::Propagate);
    let bad = source(&mut rig, &counts, |_, _| panic!("on purpose")).unwrap();
    rig.sys().inject(bad, Ready::READABLE);
    rig.turn();
}

#[test]
fn a_source_that_cannot_be_registered_changes_nothing_and_says_why() {
    let limits = Limits { sources: 2, ..limits() };
    let (mut rig, counts) = (puppet_within(limits, echo), Counts::default());
    rig.sys().source_fails = Some(17);
    let error = source(&mut rig, &counts, |_, _| Watch::Wait).unwrap_err();
    assert_eq!(error.to_string(), "cannot register the source: File exists (os error 17)");
    assert_eq!((error.kind(), counts.get()), (ErrorKind::AlreadyExists, (0, 1)));
    for _ in 0..2 {
        source(&mut rig, &counts, |_, _| Watch::Wait).unwrap();
    }
    let error = source(&mut rig, &counts, |_, _| Watch::Wait).unwrap_err();
    let said = "cannot register the source: limit of 2 sources reached (Limits::sources)";
    assert_eq!((error.to_string().as_str(), error.kind()), (said, ErrorKind::QuotaExceeded));
    rig.settle();
    assert_eq!(counts.get(), (0, 2));
}

#[test]
fn sources_do_not_hold_up_a_shutdown() {
    let (mut rig, counts) = (puppet(echo), Counts::default());
    let token = source(&mut rig, &counts, |_, _| Watch::Wait).unwrap();
    rig.inner.begin_shutdown(SECOND);
    assert!(rig.turn().stopped);
    rig.sys().inject(token, Ready::READABLE);
    rig.turn();
    assert_eq!(counts.get(), (1, 0));
}

#[test]
fn a_callback_that_takes_long_is_named_with_its_connection() {
    let limits = Limits { slow_callback: Limit::At(20 * MS), ..limits() };
    let (mut rig, counts) = (rig(limits, crate::builtin::Echo), Counts::default());
    let a = rig.connect();
    let token = source(&mut rig, &counts, |_, _| Watch::Wait).unwrap();
    lines();
    rig.sys().tick = 20_000_000;
    rig.say(a, "not longer than allowed");
    assert_eq!(lines(), [""; 0]);
    rig.sys().tick = 20_000_001;
    rig.sys().send(a, b"x");
    rig.turn();
    assert_eq!(
        lines(),
        ["#0.0: a callback of turnwheel::builtin::echo::Echo took 20.000001ms and blocked the event loop"]
    );
    rig.sys().inject(token, Ready::READABLE);
    rig.turn();
    assert_eq!(lines(), ["the callback of source #0.0 took 20.000001ms and blocked the event loop"]);
    assert_eq!(rig.inner.dispatcher.name_of(rig.handler), "turnwheel::builtin::echo::Echo");
}

#[test]
fn no_callback_is_slow_where_nothing_is_said_to_be() {
    let mut rig = rig(Limits { slow_callback: Limit::Unlimited, ..limits() }, crate::builtin::Echo);
    let a = rig.connect();
    lines();
    rig.sys().tick = 100_000_000_000;
    rig.sys().send(a, b"x");
    rig.turn();
    assert_eq!(lines(), [""; 0]);
}

#[test]
fn a_snapshot_tells_what_a_connection_is_doing() {
    let mut rig = puppet_within(tight_limits(), |cx, on| match on {
        On::Data(data) if data.ends_with(b"?") => cx.keep(3),
        On::Data(data) => drop(cx.send(data)),
        _ => {}
    });
    let a = rig.connect();
    let id = rig.id(a);
    rig.pass(10 * SECOND);
    rig.say(a, "abc and what?");
    rig.pass(5 * SECOND);
    let s = rig.net().snapshot(id).unwrap();
    assert_eq!((s.id, s.peer.to_string()), (id, "127.0.0.1:40000".into()));
    assert_eq!(s.origin, crate::connection::Origin::Accepted(rig.listener));
    assert_eq!((s.phase, s.age, s.idle, s.stalled), (ConnectionPhase::Open, 15 * SECOND, 5 * SECOND, Duration::ZERO));
    assert_eq!((s.bytes_in, s.bytes_out, s.pending, s.kept, s.reading), (13, 0, 0, 3, true));
    let line = "#0.0 127.0.0.1:40000 open, age 15.0 s, idle 5.0 s, 13 B in, 0 B out, 3 B buffered";
    assert_eq!(s.to_string(), line);

    rig.sys().set_window(a, 1000);
    rig.net().send_to(id, bytes(6000));
    rig.settle();
    rig.pass(2 * SECOND);
    let s = rig.net().snapshot(id).unwrap();
    assert_eq!((s.stalled, s.bytes_out, s.pending, s.reading), (2 * SECOND, 1000, 5000, false));
    let line = "#0.0 127.0.0.1:40000 open, age 17.0 s, idle 2.0 s, 13 B in, 1000 B out, \
                5000 B unsent for 2.0 s, 3 B buffered, not reading";
    assert_eq!(s.to_string(), line);
}

#[test]
fn snapshots_follow_a_connection_to_its_end() {
    let mut rig = puppet_to_the_last(limits(), echo, |net, closed| {
        let s = net.snapshot(closed.who).unwrap();
        assert_eq!((s.phase, s.age), (ConnectionPhase::Ended, 6 * SECOND));
    });
    let (a, b) = (rig.connect(), rig.connect());
    let id = rig.id(a);
    rig.sys().set_window(a, 1);
    rig.say(a, "xyz");
    rig.pass(3 * SECOND);
    rig.net().close_id(id);
    rig.settle();
    let s = rig.net().snapshot(id).unwrap();
    assert_eq!((s.phase, s.pending, s.stalled), (ConnectionPhase::Flushing, 2, Duration::ZERO));
    rig.pass(SECOND);
    rig.open_window(a, 10);
    rig.pass(SECOND);
    // A lingering connection needs nothing more from us.
    let s = rig.net().snapshot(id).unwrap();
    assert_eq!((s.phase, s.pending, s.stalled), (ConnectionPhase::Lingering, 0, Duration::ZERO));
    assert_eq!((s.age, s.idle, s.reading), (5 * SECOND, SECOND, false));
    assert_eq!(rig.net().snapshots().count(), 2);
    rig.pass(SECOND);
    assert_eq!(rig.net().snapshot(id), None);
    let left: Vec<ConnId> = rig.net().snapshots().map(|s| s.id).collect();
    assert_eq!(left, [rig.id(b)]);
}
