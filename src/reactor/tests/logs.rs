//! Tests that peers cannot flood the log.

use super::*;
use crate::testing::log_tests::lines;

#[test]
fn a_thousand_bad_clients_are_a_dozen_lines() {
    lines();
    let mut rig = puppet_within(Limits { input_kept: 64, ..limits() }, |cx, on| match on {
        On::Data(data) => cx.keep(data.len()),
        On::End => cx.close(),
        _ => {}
    });
    lines();
    for n in 0..1000 {
        let a = rig.sys().connect(0);
        rig.sys().send(a, &bytes(100));
        rig.sys().fin(a);
        rig.settle();
        if n % 500 == 0 {
            rig.pass(SECOND);
        }
    }
    let said = lines();
    assert!((10..=13).contains(&said.len()), "{said:#?}");
    assert!(said.iter().any(|l| l.contains("suppressed")), "{said:#?}");
}

#[test]
fn a_listener_at_its_limit_for_a_minute_is_a_line_or_two() {
    let mut rig = puppet_within(Limits { connections: Limit::At(2), ..limits() }, echo);
    lines();
    for _ in 0..10 {
        rig.sys().connect(0);
        rig.pass(6 * SECOND);
    }
    let said = lines();
    assert!((1..=2).contains(&said.len()), "{said:#?}");
}

#[test]
fn a_shortage_of_descriptors_for_a_minute_is_no_line_for_each_try() {
    let mut rig = puppet(echo);
    lines();
    rig.sys().accepts_fail(0, &[24; 600]);
    rig.pass(60 * SECOND);
    let said = lines();
    assert!(said.len() <= 10 + 60, "{}", said.len());
    assert!(rig.stats().accept_pauses >= 590);
}

#[test]
fn what_a_peer_gets_into_the_text_of_a_panic_forges_no_line() {
    let mut rig = puppet_within(Limits { read_buffer: 4096, ..limits() }, |_, on| {
        if let On::Data(data) = on {
            panic!("cannot handle {}", String::from_utf8_lossy(data));
        }
    });
    lines();
    for data in ["x\n[ERROR] all is lost\x1b[2J\u{202e}\r", &"long ".repeat(500)] {
        let a = rig.connect();
        rig.say(a, data);
    }
    let said = lines();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains(r"cannot handle x\n[ERROR] all is lost\u{1b}[2J\u{202e}\r"), "{said:?}");
    for line in said {
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}') && line.len() < 1000, "{line}");
    }
}
