//! Tests of the stage's methods.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::builtin::Echo;
use crate::codec::{LengthDelimited, Lines};
use crate::config::limits::{AtCapacity, Limit};
use crate::connection::Origin;
use crate::handler::context::Context;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// A closure as a handler: called with data, and with `None` for a drain.
struct With<F>(F);

impl<F: FnMut(&mut Context<'_>, Option<&[u8]>) + 'static> Handler for With<F> {
    type State = ();

    fn on_open(&mut self, _cx: &mut Context<'_>) {}

    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
        (self.0)(cx, Some(data));
    }

    fn on_drain(&mut self, cx: &mut Context<'_>, _state: &mut ()) {
        (self.0)(cx, None);
    }
}

/// A stage for a closure, with a connected client `A`.
fn with(act: impl FnMut(&mut Context<'_>, Option<&[u8]>) + 'static) -> Stage<impl Handler> {
    let mut stage = Stage::new(With(act));
    stage.connect("A");
    stage
}

/// A stage for an echo with limits that a test can reach, and a connected client `A`.
fn tight() -> Stage<Echo> {
    let limits = Limits {
        read_buffer: 64,
        output_high: 4096,
        output_low: 1024,
        output_hard: Limit::At(8192),
        ..Limits::default()
    };
    let mut stage = Stage::with_limits(limits, Echo).unwrap();
    stage.connect("A");
    stage
}

/// Returns the message of the panic.
fn fails<H: Handler, T>(stage: &mut Stage<H>, act: impl FnOnce(&mut Stage<H>) -> T) -> String {
    let panic = catch_unwind(AssertUnwindSafe(|| act(stage))).map(drop).unwrap_err();
    *panic.downcast::<String>().unwrap()
}

#[test]
fn clients_send_and_hear() {
    let mut stage = Stage::new(Echo);
    stage.connect("A");
    stage.connect("B");
    stage.send("A", "one");
    stage.send("A", b"two");
    assert_eq!((stage.heard("A"), stage.heard("A"), stage.heard("B")), (b"onetwo".to_vec(), vec![], vec![]));
    assert!(stage.is_open("A") && stage.closed("A").is_none() && stage.told("A").is_none());
    stage.finish("A");
    stage.finish("A");
    assert_eq!(stage.closed("A"), Some(Reason::PeerClosed));
    let told = stage.told("A").unwrap();
    assert_eq!((told.bytes_in, told.bytes_out, told.unsent), (6, 6, 0));
    assert!(stage.saw_end("A") && !stage.saw_reset("A") && !stage.saw_end("B") && stage.is_open("B"));
    stage.reset("B");
    assert_eq!(stage.closed("B"), Some(Reason::PeerReset));
    assert_eq!(stage.stats().closed_total(), 2);
    assert!(format!("{stage:?}").contains("A (reading: true, finished: true, unheard: 0 B)"), "{stage:?}");
}

#[test]
fn a_client_that_is_not_there_is_named() {
    let mut stage = Stage::new(Echo);
    let said = [
        fails(&mut stage, |s| s.send("Z", "x")),
        fails(&mut stage, |s| s.heard("Z")),
        fails(&mut stage, |s| s.finish("Z")),
        fails(&mut stage, |s| s.closed("Z")),
        fails(&mut stage, |s| s.id("Z")),
        fails(&mut stage, |s| s.stop_reading("Z")),
    ];
    assert!(said.iter().all(|s| s == "there is no client Z: connect it first"), "{said:?}");
}

#[test]
fn who_has_closed_cannot_send() {
    let mut stage = tight();
    stage.stop_reading("A");
    stage.send("A", "waits");
    stage.finish("A");
    assert_eq!(fails(&mut stage, |s| s.send("A", "x")), "A cannot send: it has closed its end");
    stage.read_on("A");
    assert_eq!((stage.heard("A"), stage.closed("A")), (b"waits".to_vec(), Some(Reason::PeerClosed)));
    let said = fails(&mut stage, |s| s.send("A", "x"));
    assert_eq!(said, "A cannot send: its connection has ended: peer_closed");
}

#[test]
fn a_client_may_connect_anew_when_its_connection_has_ended() {
    let mut stage = tight();
    let first = stage.id("A");
    let said = fails(&mut stage, |s| s.connect("A"));
    assert_eq!(said, "A is connected already: its connection is open");
    stage.send("A", "x");
    stage.finish("A");
    assert!(fails(&mut stage, |s| s.connect("A")).contains("data that it received has not been consumed"));
    assert_eq!(stage.heard("A"), b"x");
    stage.connect("A");
    assert_ne!(stage.id("A"), first);
    stage.send("A", "y");
    assert_eq!((stage.heard("A"), stage.closed("A")), (b"y".to_vec(), None));
}

#[test]
fn verbs_between_turns_are_done_before_anyone_looks() {
    let mut stage = tight();
    let id = stage.id("A");
    stage.net().send_to(id, b"hello");
    assert_eq!(stage.heard("A"), b"hello");
    stage.net().send_to(id, b"bye");
    stage.play("A< bye");
    stage.net().close_id(id);
    assert_eq!(stage.closed("A"), Some(Reason::Handler));
    let _: &mut Echo = stage.handler_mut();
}

#[test]
fn who_is_one_too_many_waits_or_is_refused() {
    let mut limits = Limits { connections: Limit::At(1), ..Limits::default() };
    let mut stage = Stage::with_limits(limits.clone(), Echo).unwrap();
    stage.connect("A");
    stage.connect("B");
    stage.send("B", "x");
    assert!(!stage.is_open("B") && stage.closed("B").is_none() && stage.heard("B").is_empty());
    assert_eq!(fails(&mut stage, |s| s.id("B")), "B has no id: it waits to be accepted");
    stage.finish("A");
    assert_eq!((stage.is_open("B"), stage.heard("B")), (true, b"x".to_vec()));

    limits.at_capacity = AtCapacity::Refuse;
    let mut stage = Stage::with_limits(limits, Echo).unwrap();
    stage.connect("A");
    stage.connect("B");
    assert_eq!((stage.closed("B"), stage.told("B")), (Some(Reason::AtCapacity), None));
    stage.play("C closed at_capacity\nA open");
}

#[test]
fn limits_that_contradict_each_other_are_the_reactors_error() {
    let wrong = Limits { output_low: 300_000, ..Limits::default() };
    let ours = Stage::with_limits(wrong.clone(), Echo).unwrap_err();
    let theirs = crate::Reactor::with_limits(wrong).unwrap_err();
    assert_eq!((ours.kind(), ours.to_string()), (theirs.kind(), theirs.to_string()));
    assert!(ours.to_string().contains("output_low is 300000"), "{ours}");
    let large = LengthDelimited::u32_be(4 << 20).unwrap();
    let said = Stage::with_limits(Limits::default(), Framed::new(large.clone(), Echo)).unwrap_err().to_string();
    assert!(said.contains("4194308"), "{said}");
    let panic = catch_unwind(|| Stage::framed(large, Echo)).map(drop).unwrap_err();
    assert_eq!(*panic.downcast::<String>().unwrap(), said);
}

#[test]
fn messages_are_said_and_heard_in_the_clients_codec() {
    let mut stage = Stage::framed(Lines::lf(10).unwrap(), Echo);
    stage.connect("A");
    stage.say("A", "one");
    stage.say("A", "");
    stage.send("A", "tw");
    assert_eq!((stage.hear("A"), stage.hear("A")), (Some(b"one".to_vec()), Some(Vec::new())));
    assert_eq!(stage.hear("A"), None);
    stage.send("A", "o\nthree\n");
    assert_eq!((stage.hear("A"), stage.heard("A")), (Some(b"two".to_vec()), b"three\n".to_vec()));
    let said = fails(&mut stage, |s| s.say("A", "a line too long for it"));
    assert!(said.starts_with("A cannot encode the message: message of 22 bytes"), "{said}");
    stage.send("A", "a line too long for it");
    assert_eq!(stage.closed("A").unwrap().name(), "frame_too_long");
}

#[test]
fn without_a_codec_there_are_no_messages() {
    let mut stage = tight();
    assert_eq!(fails(&mut stage, |s| s.say("A", "x")), "clients have no codec: set one with `speak`");
    assert!(fails(&mut stage, |s| s.hear("A")).contains("no codec"));
    // Taking raw bytes resets the decoder.
    stage.speak(Lines::lf(10).unwrap());
    stage.send("A", "begun");
    assert_eq!((stage.hear("A"), stage.heard("A")), (None, b"begun".to_vec()));
    stage.send("A", "x\n");
    assert_eq!(stage.hear("A"), Some(b"x".to_vec()));
    // A codec set later is also for clients that are connected already.
    stage.speak(Lines::lf(10).unwrap());
    stage.say("A", "x");
    stage.send("A", "12345678901");
    assert_eq!(stage.hear("A"), Some(b"x".to_vec()));
    assert!(fails(&mut stage, |s| s.hear("A")).starts_with("A received an invalid message: message of"));
}

#[test]
fn timeouts_fire_at_their_moment() {
    let mut stage = tight();
    stage.advance(300 * SECOND);
    stage.send("A", "x");
    stage.advance(600 * SECOND - Duration::from_nanos(1));
    assert!(stage.is_open("A"));
    assert_eq!(stage.elapsed(), 900 * SECOND - Duration::from_nanos(1));
    stage.advance(Duration::from_nanos(1));
    assert_eq!(stage.closed("A"), Some(Reason::IdleTimeout));
    assert_eq!(stage.elapsed(), 900 * SECOND);
}

#[test]
fn timeouts_that_fall_due_together_all_fire() {
    let limits = Limits { timeouts_per_turn: 1, ..Limits::default() };
    let mut stage = Stage::with_limits(limits, Echo).unwrap();
    for name in ["A", "B", "C"] {
        stage.connect(name);
    }
    stage.advance(600 * SECOND);
    assert_eq!(stage.stats().closed(&Reason::IdleTimeout), 3);
    // A connection that is not idle and is checked first does not hide one that is.
    stage.connect("D");
    stage.connect("E");
    stage.advance(SECOND);
    stage.send("D", "x");
    stage.advance(599 * SECOND);
    assert!(stage.is_open("D") && stage.closed("E") == Some(Reason::IdleTimeout));
}

#[test]
fn what_follows_a_timeout_has_its_own_time() {
    let mut stage = tight();
    stage.stop_reading("A");
    stage.advance(602 * SECOND - MS);
    assert!(!stage.is_open("A") && stage.closed("A").is_none());
    let mut stage = tight();
    stage.stop_reading("A");
    stage.advance(602 * SECOND);
    assert_eq!(stage.closed("A"), Some(Reason::IdleTimeout));
}

#[test]
fn a_long_time_passes_deadline_by_deadline() {
    let mut stage = with(|cx, _| cx.pause());
    stage.send("A", "x");
    stage.advance(24 * 3600 * SECOND);
    assert!(stage.is_open("A"), "it is not read, so it is not idle");
    let to_the_end = Duration::from_nanos(u64::MAX - stage.inner.sys.clock);
    for time in [Duration::MAX, to_the_end] {
        let said = fails(&mut stage, |s| s.advance(time));
        assert!(said.ends_with("exceeds the range of the clock"), "{said}");
    }
}

#[test]
fn a_client_that_stops_reading_is_soon_not_read() {
    let mut stage = tight();
    let sent: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    stage.stop_reading("A");
    stage.send("A", &sent);
    let id = stage.id("A");
    let pending = stage.net().pending_of(id).unwrap();
    assert!((4096..8192).contains(&pending) && stage.stats().bytes_in < 8192, "{pending}");
    assert!(stage.heard("A").is_empty());
    stage.read_on("A");
    assert_eq!(stage.heard("A"), sent);
    stage.stop_reading("A");
    stage.send("A", &sent);
    stage.advance(30 * SECOND);
    assert_eq!((stage.closed("A"), stage.saw_reset("A")), (Some(Reason::WriteStall), true));
}

#[test]
fn clients_close_when_they_see_the_end() {
    let mut stage = with(|cx, _| cx.close());
    stage.send("A", "x");
    assert_eq!((stage.closed("A"), stage.elapsed()), (Some(Reason::Handler), Duration::ZERO));

    let mut stage = with(|cx, _| cx.close());
    stage.stop_reading("A");
    stage.send("A", "x");
    assert!(!stage.is_open("A") && stage.closed("A").is_none());
    stage.advance(2 * SECOND - MS);
    assert_eq!(stage.closed("A"), None);
    stage.advance(MS);
    assert_eq!(stage.closed("A"), Some(Reason::Handler));
}

#[test]
fn a_half_closed_connection_goes_on() {
    let mut stage = with(|cx, data| match data {
        Some(b"half") => cx.shutdown_write(),
        Some(b"abort") => cx.abort(),
        _ => {}
    });
    stage.send("A", "half");
    assert!(stage.saw_end("A") && stage.is_open("A"));
    stage.send("A", "abort");
    assert!(stage.saw_reset("A") && stage.closed("A") == Some(Reason::Handler));
}

#[test]
fn a_handler_that_never_rests_is_told_so() {
    let mut stage = with(|cx, data| cx.defer(data.map_or(0, <[u8]>::len)));
    let said = fails(&mut stage, |s| s.send("A", "x"));
    assert!(said.starts_with("the handler does not come to rest: it defers its input again and again"), "{said}");

    // The amount of unsent output is never the same twice.
    let mut size = 4096;
    let mut stage = with(move |cx, _| {
        size = if size == 4096 { 4000 } else { 4096 };
        while cx.wants_more() && cx.send(vec![b'x'; size]).is_queued() {}
    });
    let said = fails(&mut stage, |s| s.send("A", "x"));
    assert!(said.contains("or send again on every drain"), "{said}");
    assert!(!said.contains("(0 bytes"), "{said}");
}

#[test]
fn limits_that_make_everything_slow_are_no_unrest() {
    let limits = Limits {
        read_buffer: 8,
        write_per_turn: 1,
        timeouts_per_turn: 1,
        accepts_per_turn: 1,
        output_high: 6_000,
        output_low: 1,
        ..Limits::default()
    };
    let mut stage = Stage::with_limits(limits, Echo).unwrap();
    stage.connect("A");
    stage.stop_reading("A");
    stage.send("A", vec![b'x'; 9_000]);
    stage.read_on("A");
    assert_eq!(stage.heard("A").len(), 9_000);
    let names: Vec<String> = (0..200).map(|i| format!("B{i}")).collect();
    names.iter().for_each(|name| stage.connect(name));
    stage.advance(600 * SECOND);
    assert_eq!(stage.stats().closed(&Reason::IdleTimeout), 201);
}

#[test]
fn a_handler_that_is_slow_comes_to_rest() {
    let mut stage = with(|cx, data| {
        let Some([first, rest @ ..]) = data else { return };
        cx.send([*first]);
        cx.defer(rest.len());
    });
    let sent = vec![b'x'; 5_000];
    stage.send("A", &sent);
    assert_eq!(stage.heard("A"), sent);
    assert!(stage.stats().turns > 5_000);
}

#[test]
fn a_panic_of_the_handler_is_the_tests_unless_it_says_otherwise() {
    let fragile = || with(|_, data| assert_ne!(data, Some(&b"bad"[..]), "as it should"));
    let said = fails(&mut fragile(), |s| s.send("A", "bad"));
    assert!(said.contains("as it should"), "{said}");

    let mut stage = fragile();
    stage.set_panic_policy(PanicPolicy::CloseConnection);
    stage.connect("B");
    stage.send("A", "bad");
    assert_eq!((stage.closed("A"), stage.is_open("B")), (Some(Reason::HandlerPanic), true));
    assert_eq!((stage.stats().panics, stage.saw_reset("A")), (1, true));
}

#[test]
fn a_panic_in_the_first_callback_is_an_end_too() {
    struct Never;
    impl Handler for Never {
        type State = ();
        fn on_open(&mut self, _cx: &mut Context<'_>) {
            panic!("nobody comes in");
        }
        fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut (), _data: &[u8]) {}
    }
    let mut stage = Stage::new(Never);
    stage.set_panic_policy(PanicPolicy::CloseConnection);
    stage.connect("A");
    assert_eq!((stage.closed("A"), stage.told("A")), (Some(Reason::HandlerPanic), None));
}

#[test]
fn a_shutdown_ends_all_who_are_there() {
    let mut stage = tight();
    stage.connect("B");
    stage.stop_reading("B");
    stage.send("B", "lost");
    stage.shutdown(5 * SECOND);
    assert_eq!((stage.closed("A"), stage.closed("B")), (Some(Reason::Shutdown), None));
    assert_eq!(stage.last_shutdown(), None);
    assert!(fails(&mut stage, |s| s.connect("C")).contains("no longer listens"));
    assert!(fails(&mut stage, |s| s.shutdown(SECOND)).contains("already begun"));
    stage.advance(5 * SECOND - MS);
    assert_eq!(stage.closed("B"), None);
    stage.advance(MS);
    assert_eq!(stage.closed("B"), Some(Reason::ShutdownDeadline));
    let report = stage.last_shutdown().unwrap();
    assert_eq!((report.clean, report.cut, report.bytes_lost), (1, 1, 4));
    let _: &Echo = stage.handler();
}

#[test]
fn timers_go_off_as_time_passes() {
    struct Nagging;
    impl Handler for Nagging {
        type State = ();
        fn on_open(&mut self, cx: &mut Context<'_>) {
            cx.set_timer(Duration::from_secs(3), 1);
        }
        fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut (), _data: &[u8]) {}
        fn on_timer(&mut self, cx: &mut Context<'_>, _state: &mut (), _key: u64) {
            cx.send("say something");
        }
        fn on_tick(&mut self, net: &mut Net<'_>, _key: u64) {
            let all: Vec<_> = net.connections().collect();
            for id in all {
                net.close_id(id);
            }
        }
    }
    let mut stage = Stage::new(Nagging);
    stage.play("A connects");
    assert!(stage.net().set_tick(Duration::from_secs(10), 0).is_some());
    stage.play(
        "
        wait 2s
        A hears nothing
        wait 1s
        A< say something
        wait 7s
        A closed handler
    ",
    );
}

/// Connects each client to the address that it sends, and links the two.
struct Operator;

impl Handler for Operator {
    type State = ();
    fn on_open(&mut self, cx: &mut Context<'_>) {
        if let Origin::Connected(tag) = cx.origin() {
            let (caller, id) = (ConnId::from_bits(tag), cx.id());
            cx.link(caller, id);
            cx.send_to(caller, "connected ");
        }
    }
    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
        let tag = cx.id().to_bits();
        cx.connect(String::from_utf8_lossy(data).into_owned(), tag);
    }
    fn on_connect_failed(&mut self, net: &mut Net<'_>, tag: u64, error: &io::Error) {
        net.send_to(ConnId::from_bits(tag), error.to_string());
    }
}

#[test]
fn whom_a_handler_connects_to_is_a_client() {
    let mut stage = Stage::new(Operator);
    stage.host("S", "10.0.0.1:7000");
    stage.host("N", "example.org:80");
    stage.host("U", "unix:/run/it");
    stage.play(
        r"
        A> 10.0.0.1:7000
        A< connected\x20
        S open
        A> example.org:80
        A< connected\x20
        A> unix:/run/it
        A< connected\x20
        A> example.org:80
        A< connected\x20
        N2 open
        N closes
        N closed peer_closed
        A> 10.0.0.1:7001
        A< cannot connect to 10.0.0.1:7001: Connection refused (os error 111)
        B> nobody.invalid:1
        B< cannot connect to nobody.invalid:1: cannot resolve
        B< ...
        ",
    );
    let taken = fails(&mut stage, |s| s.host("X", "10.0.0.1:7000"));
    assert!(taken.contains("there is already a host at 10.0.0.1:7000"), "{taken}");
    assert!(fails(&mut stage, |s| s.host("X", "nonsense")).contains("the port is missing"));
}
