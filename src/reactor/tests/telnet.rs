//! Tests of a chat of people at telnet clients.

use super::*;
use crate::builtin::{Broadcast, Echo, Telnet};

fn chat(limits: Limits) -> Rig {
    rig(limits, Telnet::new(20, Broadcast::to_others()).unwrap())
}

#[test]
fn the_others_get_the_line_and_nothing_of_the_protocol() {
    let mut rig = chat(limits());
    let (ann, bob) = (rig.connect(), rig.connect());
    rig.say(ann, b"\xff\xfd\x03hel\xff\xfb\x18lo \x1b[2Jbob\r\0");
    assert_eq!(rig.heard(ann), "\\xff\\xfc\\x03\\xff\\xfe\\x18");
    assert_eq!(rig.heard(bob), "hello ?[2Jbob\\r\\n");
    // Ctrl-C: a client shows nothing until its timing mark is answered.
    rig.say(bob, b"\xff\xf4\xff\xfd\x06");
    assert_eq!((rig.heard(bob).as_str(), rig.heard(ann).as_str()), ("\\xff\\xfb\\x06", ""));
    assert_eq!((rig.stats().messages_in, rig.stats().input_held), (1, 0));
}

#[test]
fn who_types_slowly_is_not_cut_in_the_middle_of_a_line() {
    let mut rig = chat(Limits { message_timeout: Limit::At(SECOND), ..limits() });
    let (ann, bob) = (rig.connect(), rig.connect());
    for letter in "hello\r\n".bytes() {
        rig.say(ann, [letter]);
        rig.pass(SECOND * 2);
    }
    assert_eq!(rig.heard(bob), "hello\\r\\n");
    assert_eq!((rig.stats().open, rig.closed(&Reason::MessageTimeout)), (2, 0));
}

#[test]
fn a_line_too_long_is_discarded_and_counted_and_a_last_one_is_delivered() {
    let mut rig = chat(limits());
    let (ann, bob) = (rig.connect(), rig.connect());
    rig.say(ann, "far too long to be said in here\r\nshort\r\nlast");
    rig.fin(ann);
    assert_eq!(rig.heard(bob), "short\\r\\nlast\\r\\n");
    assert_eq!((rig.stats().discarded, rig.closed(&Reason::PeerClosed)), (1, 1));
}

#[test]
fn a_flood_of_lines_is_taken_in_portions_and_in_order() {
    let mut rig = super::rig(limits(), Telnet::new(20, Echo).unwrap());
    let a = rig.connect();
    let lines: String = (0..2000).map(|n| format!("{n}\r\n")).collect();
    rig.sys().send(a, lines.as_bytes());
    rig.fin(a);
    assert_eq!(rig.sys().peers[a].got, lines.as_bytes());
    assert_eq!((rig.stats().messages_in, rig.stats().input_held), (2000, 0));
}
