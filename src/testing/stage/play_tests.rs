//! Tests of transcripts: what passes, and the messages for what does not.

use super::*;
use crate::builtin::{Broadcast, Echo, Framed};
use crate::codec::{LengthDelimited, Lines};
use crate::config::limits::{AtCapacity, Limit, Limits};

/// Returns the error of a transcript, with an echo handler.
fn refused(transcript: &str) -> String {
    Stage::new(Echo).perform(transcript).unwrap_err()
}

#[test]
fn an_echo_answers_everyone() {
    Stage::new(Echo).play(
        "
        # Two clients, who do not hear each other.
        A> hello
        A< hello
        B> hi\\n
        B< hi\\n
        wait 10s
        A closes
        A closed peer_closed
        A sees end
        B open
        B hears nothing
        ",
    );
}

#[test]
fn a_space_tells_the_others() {
    let mut stage = Stage::new(Broadcast::to_others());
    stage.play(
        "
        A connects
        B connects
        C connects
        A> hello
        B< hello
        C< hello
        A hears nothing
        B resets
        B closed peer_reset
        C> bye
        A< bye
        ",
    );
    assert_eq!(stage.handler().group().map(|window| stage.net().members(window).len()), Some(2));
}

#[test]
fn what_is_heard_may_be_asked_for_in_parts() {
    Stage::new(Echo).play("A> hello\nA> you\nA< hel\nA< loy\nA< ou");
    Stage::new(Echo).play("A> hello\nA< he\nA< ...\nA< ...\nA hears nothing");
}

#[test]
fn messages_are_written_without_their_framing() {
    let mut stage = Stage::framed(LengthDelimited::u32_be(100).unwrap(), Echo);
    stage.play("A> hello\nA>\nA< hello\nA<\nA> one\nA> two\nA< one\nA< ...");
    let said = stage.perform("A> hello\nA< help").unwrap_err();
    assert!(said.contains("they differ at byte 3") && said.contains("received \"hello\""), "{said}");
    stage.send("A", b"\0\0\0\x05hel");
    let said = stage.perform("A< hello").unwrap_err();
    assert!(said.contains("no complete message, only these bytes: nothing (its"), "{said}");
    // Without a client codec: raw bytes with the header.
    let mut stage = Stage::new(Framed::new(LengthDelimited::u32_be(100).unwrap(), Echo));
    stage.play("A> \\0\\0\\0\\x05hel\nA hears nothing\nA> lo\nA< \\0\\0\\0\\x05hello");
    stage.play("B> \\0\\0\\0\\x65\nB closed frame_too_long");
}

#[test]
fn time_and_slow_clients_are_steps() {
    let minute = std::time::Duration::from_secs(60);
    let limits = Limits { idle_timeout: Limit::At(minute), ..Limits::default() };
    let mut stage = Stage::with_limits(limits, Framed::new(Lines::lf(100).unwrap(), Echo)).unwrap();
    stage.play(
        "
        A> unfinished
        B connects
        wait 29999ms
        A open
        wait 1ms
        A closed message_timeout
        wait 30s
        B closed idle_timeout
        C stops reading
        C> hello\\n
        C hears nothing
        C closes
        C reads on
        C< hello\\n
        C closed peer_closed
        ",
    );
}

#[test]
fn a_shutdown_is_a_step() {
    let play = |text| Stage::new(Echo).play(text);
    play("A connects\nshutdown\nA closed shutdown");
    play("A stops reading\nA> x\nshutdown\nwait 9999ms\nwait 1ms\nA closed shutdown_deadline");
    play("A stops reading\nA> x\nshutdown 2s\nwait 2s\nA closed shutdown_deadline\nA sees reset");
    let said = refused("A stops reading\nA> x\nshutdown\nwait 9999ms\nA closed");
    assert!(said.contains("line 5") && said.contains("is closing, and has not ended yet"), "{said}");
    assert!(refused("shutdown\nA> x").contains("no longer listens"));
    assert!(refused("shutdown\nshutdown").contains("already begun"));
}

#[test]
fn who_is_refused_can_be_seen() {
    let limits = Limits { connections: Limit::At(1), at_capacity: AtCapacity::Refuse, ..Limits::default() };
    Stage::with_limits(limits.clone(), Echo).unwrap().play("A connects\nB closed at_capacity\nA open");
    let waits = Limits { at_capacity: AtCapacity::Pause, ..limits };
    let said = Stage::with_limits(waits, Echo).unwrap().perform("A connects\nB open").unwrap_err();
    assert!(said.ends_with("`B open`: it waits to be accepted"), "{said}");
}

#[test]
fn a_client_may_come_again() {
    Stage::new(Echo).play("A> x\nA< x\nA closes\nA connects\nA> y\nA< y\nA open");
    assert!(refused("A connects\nA connects").contains("A is connected already"));
    assert!(refused("A> x\nA closes\nA connects").contains("data that it received has not been consumed"));
}

#[test]
fn what_differs_is_shown_with_its_line_and_place() {
    let said = refused("\nA> hello\n  A< help\n");
    let wanted = "line 3 of the transcript: `A< help`: they differ at byte 3 (its connection is open)\n    \
                  expected \"help\" (4 bytes)\n    received \"hello\" (5 bytes)";
    assert_eq!(said, wanted);
    let said = refused("A< hello");
    assert!(said.contains("expected \"hello\" (5 bytes)\n    received nothing"), "{said}");
    let said = refused("A> hi\nA< hi!");
    assert!(said.contains("at byte 2") && said.contains("received \"hi\""), "{said}");
    let long = "x".repeat(1000);
    let said = refused(&format!("A> {long}1{long}\nA< {long}2"));
    assert!(said.contains("at byte 1000") && said.contains("(160 of 2001 bytes, from byte 920)"), "{said}");
    assert!(said.contains("x1x") && said.contains("x2\" ..."), "{said}");
}

#[test]
fn what_no_line_mentions_is_shown_at_the_end() {
    let said = refused("A> one\nB> two\\n\nA< o");
    let wanted = "end of the transcript, but no line mentions:\n    A received \"ne\" (2 bytes)\n    \
                  B received \"two\\n\" (4 bytes)";
    assert_eq!(said, wanted);
    let mut stage = Stage::new(Echo);
    stage.connect("A");
    stage.send("A", "before");
    assert!(stage.perform("").unwrap_err().contains("A received \"before\""));
    stage.play("A< before");
}

#[test]
fn what_is_not_so_is_refused() {
    for (text, said) in [
        ("A> x\nA hears nothing", "it has received \"x\" (1 bytes)"),
        ("A closed", "its connection is open"),
        ("A closes\nA open", "its connection has ended: peer_closed"),
        ("A closes\nA closed handler", "its connection has ended: peer_closed"),
        ("A closes\nA> x", "A cannot send: its connection has ended: peer_closed"),
        ("A sees end", "it does not; its connection is open"),
        ("A closes\nA sees reset", "it does not; its connection has ended: peer_closed"),
        ("A>", "no bytes given; use `hears nothing` to expect none"),
        ("A<", "no bytes given; use `hears nothing` to expect none"),
        ("wait 5124096h", "exceeds the range of the clock"),
    ] {
        let got = refused(text);
        let line = text.lines().count();
        assert!(got.starts_with(&format!("line {line} of the transcript: ")), "{got}");
        assert!(got.ends_with(said), "{text:?} was answered with {got}");
    }
}

#[test]
fn nothing_is_played_of_a_transcript_with_a_bad_line() {
    let mut stage = Stage::new(Echo);
    let said = stage.perform("A> x\nA shouts").unwrap_err();
    assert!(said.starts_with("line 2 of the transcript: `A shouts`: no such step"), "{said}");
    assert_eq!(stage.stats().accepted, 0);
}
