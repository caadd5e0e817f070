//! The test kit as users see it: handlers on a stage with transcripts and with methods, and in simulations.

use std::sync::mpsc;
use std::time::Duration;
use std::{panic, thread};

use turnwheel::codec::{LengthDelimited, Lines};
use turnwheel::testing::{Simulation, Stage};
use turnwheel::{Broadcast, Closed, Context, Echo, Framed, Handler, Limit, Limits, Net, PanicPolicy, Reason};

/// Sends a greeting, counts lines, sends the count at `count`, and closes at `quit`.
#[derive(Default)]
struct Counter {
    gone: Vec<&'static str>,
}

impl Handler for Counter {
    type State = u32;

    fn on_open(&mut self, cx: &mut Context<'_>) -> u32 {
        cx.send("welcome");
        0
    }

    fn on_data(&mut self, cx: &mut Context<'_>, lines: &mut u32, line: &[u8]) {
        match line {
            b"count" => drop(cx.send(lines.to_string())),
            b"quit" => cx.close(),
            _ => *lines += 1,
        }
        assert!(line != b"boom", "a line that a test forbids");
    }

    fn on_close(&mut self, _net: &mut Net<'_>, _lines: u32, closed: &Closed) {
        self.gone.push(closed.why.name());
    }
}

#[test]
fn a_protocol_is_tested_in_ten_lines() {
    let mut stage = Stage::framed(Lines::lf(80).unwrap(), Counter::default());
    stage.play(
        "
        A< welcome
        A> one
        A> two
        A> count
        A< 2
        A> quit
        A closed handler
        ",
    );
    assert_eq!(stage.handler().handler().gone, ["handler"]);
}

#[test]
fn what_is_said_in_a_room_reaches_those_who_are_still_there() {
    let mut stage = Stage::framed(Lines::lf(80).unwrap(), Broadcast::to_all());
    stage.play(
        "
        A connects
        B connects
        C connects
        B> good morning
        A< good morning
        B< good morning
        C< good morning
        A closes
        A closed peer_closed
        C> he has gone
        B< he has gone
        C< he has gone
        ",
    );
    let room = stage.handler().handler().group().unwrap();
    assert_eq!(stage.net().members(room).count(), 2);
}

#[test]
fn raw_bytes_are_played_where_the_framing_is_the_subject() {
    let codec = LengthDelimited::u16_be(16).unwrap();
    let mut stage = Stage::new(Framed::new(codec, Echo));
    stage.play(
        r"
        A> \0\x05hel
        A hears nothing
        A> lo
        A< \0\x05hello
        A> \0\x11
        A closed frame_too_long
        B> \0
        B closes
        B closed truncated_frame
        ",
    );
}

#[test]
fn timeouts_come_when_a_transcript_waits() {
    let mut limits = Limits::default();
    limits.idle_timeout = Limit::At(Duration::from_secs(60));
    let mut stage = Stage::with_limits(limits, Echo).unwrap();
    stage.play(
        "
        A connects
        wait 59s
        B connects
        A open
        wait 1s
        A closed idle_timeout
        B open
        wait 1min
        B closed idle_timeout
        ",
    );
    assert_eq!(stage.elapsed(), Duration::from_secs(120));
}

#[test]
fn a_client_that_stops_reading_gets_the_rest_later_or_stalls() {
    let mut stage = Stage::new(Echo);
    stage.connect("A");
    stage.stop_reading("A");
    let sent = vec![7; 8 << 20];
    stage.send("A", &sent);
    let id = stage.id("A");
    let waiting = stage.net().pending_of(id).unwrap();
    assert!(waiting < 1 << 20, "{waiting}");
    stage.read_on("A");
    assert_eq!(stage.heard("A"), sent);
    stage.play("A stops reading\nA> x\nwait 30s\nA closed write_stall\nA sees reset");
}

#[test]
#[should_panic(expected = "a line that a test forbids")]
fn an_assertion_in_a_handler_fails_the_test() {
    Stage::framed(Lines::lf(80).unwrap(), Counter::default()).play("A< welcome\nA> boom");
}

#[test]
fn a_panic_ends_one_connection_where_the_policy_says_so() {
    let mut stage = Stage::framed(Lines::lf(80).unwrap(), Counter::default());
    stage.set_panic_policy(PanicPolicy::CloseConnection);
    stage.play("A< ...\nB< ...\nA> boom\nA closed handler_panic\nB open");
    assert_eq!(stage.stats().panics, 1);
    assert_eq!(stage.handler().handler().gone, ["handler_panic"]);
}

#[test]
fn a_shutdown_ends_all_and_cuts_whoever_does_not_read() {
    let mut stage = Stage::framed(Lines::lf(80).unwrap(), Counter::default());
    stage.play(
        "
        A< welcome
        B stops reading
        B> count
        shutdown 5s
        A closed shutdown
        wait 5s
        B closed shutdown_deadline
        B< ...
        ",
    );
    let report = stage.last_shutdown().unwrap();
    assert_eq!((report.clean, report.cut, report.bytes_lost), (1, 1, 2));
    assert_eq!(stage.closed("B"), Some(Reason::ShutdownDeadline));
}

#[test]
#[should_panic(expected = "line 3 of the transcript: `A< 3`: they differ at byte 0")]
fn a_wrong_expectation_fails_with_its_line() {
    Stage::framed(Lines::lf(80).unwrap(), Counter::default()).play("A< welcome\nA> count\nA< 3");
}

#[test]
#[should_panic(expected = "no line mentions:\n    A received \"welcome\\n\"")]
fn what_is_not_mentioned_fails() {
    Stage::framed(Lines::lf(80).unwrap(), Counter::default()).play("A connects");
}

#[test]
#[should_panic(expected = "line 2 of the transcript: `A whispers`: no such step")]
fn a_line_that_is_no_step_fails() {
    Stage::new(Echo).play("A connects\nA whispers");
}

#[test]
#[should_panic(expected = "the handler does not come to rest")]
fn a_handler_that_never_rests_fails() {
    struct Putter;
    impl Handler for Putter {
        type State = ();
        fn on_open(&mut self, _cx: &mut Context<'_>) {}
        fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
            cx.defer(data.len());
        }
    }
    Stage::new(Putter).play("A> x");
}

#[test]
fn failures_are_placed_where_the_test_called() {
    let (tell, told) = mpsc::channel();
    // The hook is the whole process's: what other threads panic about goes the usual way.
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| match thread::current().name() {
        Some("misplaced") => drop(tell.send(info.location().map(|at| at.file().to_owned()))),
        _ => usual(info),
    }));
    let wrong: [fn(); 4] = [
        || Stage::new(Echo).play("A closed"),
        || Stage::new(Echo).send("A", "x"),
        || Stage::new(Echo).finish("A"),
        || drop(Stage::framed(LengthDelimited::u32_be(64 << 20).unwrap(), Echo)),
    ];
    for wrong in wrong {
        thread::Builder::new().name("misplaced".into()).spawn(wrong).unwrap().join().unwrap_err();
        assert_eq!(told.recv().unwrap().unwrap(), file!());
    }
}

#[test]
fn a_handler_is_tried_in_a_simulated_world() {
    Simulation::new(|| Echo)
        .check(|scene| {
            for client in scene.clients() {
                assert!(client.said().starts_with(client.received()));
                if client.is_served() {
                    assert_eq!(client.said(), client.received());
                }
            }
        })
        .run(0..300);
}

/// Echoes, but drops every input of 7 bytes.
struct Careless;

impl Handler for Careless {
    type State = ();
    fn on_open(&mut self, _cx: &mut Context<'_>) {}
    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
        if data.len() != 7 {
            cx.send(data);
        }
    }
}

#[test]
#[should_panic(expected = "the check failed: a byte is missing")]
fn a_handler_that_loses_bytes_is_found_out() {
    Simulation::new(|| Careless)
        .check(|scene| {
            for client in scene.clients().filter(|c| scene.is_over() && c.is_served()) {
                assert!(client.said() == client.received(), "a byte is missing");
            }
        })
        .run(0..2_000);
}

/// Defers its input in every callback, so that the loop never comes to rest.
struct Restless;

impl Handler for Restless {
    type State = ();
    fn on_open(&mut self, _cx: &mut Context<'_>) {}
    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
        cx.defer(data.len());
    }
}

#[test]
#[should_panic(expected = "liveness: still busy at the turn limit")]
fn a_handler_that_never_rests_is_found_out_in_bounded_time() {
    Simulation::new(|| Restless).run(0..3);
}

#[test]
#[should_panic(expected = "output_low is 9, but must be below output_high, which is 9")]
fn limits_that_contradict_each_other_are_told() {
    let wrong = |limits: &mut Limits| (limits.output_low, limits.output_high) = (9, 9);
    Simulation::new(|| Echo).limits(wrong).run(0..10);
}

/// Echoes, but panics at an input of 7 bytes.
struct Nervous;

impl Handler for Nervous {
    type State = ();
    fn on_open(&mut self, _cx: &mut Context<'_>) {}
    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
        if data.len() == 7 {
            panic::resume_unwind(Box::new("seven"));
        }
        cx.send(data);
    }
}

#[test]
#[should_panic(expected = "the handler panicked: seven")]
fn a_handler_that_panics_is_found_out() {
    Simulation::new(|| Nervous).run(0..2_000);
}

#[test]
fn a_handler_may_panic_if_that_is_expected() {
    Simulation::new(|| Nervous).panics_are_expected().run(0..200);
}
