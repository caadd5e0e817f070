//! Tests of input: what is buffered, what is deferred, and when it is delivered again.

use std::cell::Cell;
use std::rc::Rc;

use super::*;
use crate::builtin::{Echo, Framed};
use crate::codec::{AnyCodec, LengthDelimited, Lines};

#[test]
fn what_was_kept_comes_back_in_front_of_the_next_bytes() {
    let mut rig = puppet(|cx, on| {
        if let On::Data(data) = on {
            cx.keep(if data.ends_with(b".") { 0 } else { data.len().min(3) });
        }
    });
    let a = rig.connect();
    for part in ["abcde", "fg", "h", "."] {
        rig.say(a, part);
    }
    assert_eq!(rig.log(), ["0 open", "0 abcde", "0 cdefg", "0 efgh", "0 fgh."]);
    assert_eq!(rig.stats().input_held, 0);
    assert!(!rig.turn().more, "kept bytes are no work");
}

#[test]
fn what_was_put_off_comes_back_next_turn_without_new_bytes_and_before_the_end() {
    let mut rig = puppet(|cx, on| match on {
        On::Data(data) => cx.defer(data.len() - 1),
        On::End => cx.close(),
        _ => {}
    });
    let a = rig.connect();
    rig.sys().send(a, b"abc");
    rig.sys().fin(a);
    rig.log();
    for line in ["0 abc", "0 bc", "0 c"] {
        let turn = rig.turn();
        assert_eq!(rig.log()[0], line);
        assert!(turn.more || line == "0 c");
    }
    rig.settle();
    assert_eq!(rig.log().last().unwrap(), "0 closed peer_closed");
}

#[test]
fn those_put_off_that_are_not_enough_are_followed_by_new_bytes_in_the_same_turn() {
    let mut deliveries = 0;
    let limits = Limits { read_buffer: 2, ..limits() };
    let mut rig = puppet_within(limits, move |cx, on| {
        if let On::Data(data) = on {
            deliveries += 1;
            if deliveries == 1 {
                cx.defer(data.len());
            } else {
                cx.keep(data.len());
            }
        }
    });
    let a = rig.connect();
    rig.sys().send(a, b"abcdef");
    rig.turn();
    assert_eq!(rig.log(), ["0 open", "0 ab"]);
    rig.turn();
    assert_eq!(rig.log(), ["0 ab", "0 abcd"]);
}

/// Defers everything until it is told to take it.
fn stubborn() -> (Rig, Rc<Cell<bool>>) {
    let takes = Rc::new(Cell::new(false));
    let told = Rc::clone(&takes);
    let rig = puppet(move |cx, on| {
        if let On::Data(data) = on {
            cx.defer(if told.get() { 0 } else { data.len() });
        }
    });
    (rig, takes)
}

#[test]
fn a_handler_that_defers_for_ever_is_slowed_and_warned_of_and_others_are_served() {
    crate::testing::log_tests::lines();
    let (mut rig, takes) = stubborn();
    let a = rig.connect();
    rig.log();
    rig.say(a, "abc");
    let early = rig.log().len();
    assert!((16..=20).contains(&early), "{early} calls until it rests");
    rig.pass(10 * SECOND);
    let late = rig.log().len();
    assert!((90..=130).contains(&late), "{late} calls in 10 s, at least every 100 ms");
    let turns = rig.stats().turns;
    rig.pass(10 * SECOND);
    assert!(rig.stats().turns - turns <= 400 && rig.log().len() >= 90, "{} turns", rig.stats().turns - turns);
    let said: Vec<String> = crate::testing::log_tests::lines();
    let said: Vec<&String> = said.iter().filter(|line| line.contains("takes nothing")).collect();
    assert!(said.len() == 1 && said[0].contains("Puppet"), "{said:?}");
    // It takes what it gets in the end, and is as fast as before.
    takes.set(true);
    rig.pass(SECOND);
    assert_eq!(rig.log(), ["0 abc"]);
    takes.set(false);
    rig.say(a, "def");
    assert!(rig.log().len() >= 16);
    assert_eq!(rig.stats().open, 1);
}

#[test]
fn a_resume_and_a_close_end_the_rest() {
    let (mut rig, takes) = stubborn();
    let (a, b) = (rig.connect(), rig.connect());
    rig.all_send(&[a, b], b"abc");
    rig.settle();
    rig.log();
    takes.set(true);
    let id = rig.id(a);
    assert!(rig.net().resume_id(id));
    rig.turn();
    assert_eq!(rig.log(), ["0 abc"]);
    let id = rig.id(b);
    rig.net().close_id(id);
    rig.fin(b);
    assert_eq!(rig.stats().open, 1);
}

#[test]
fn each_handler_that_defers_for_ever_is_named_once_however_many_connections_it_has() {
    struct Other;
    impl crate::Handler for Other {
        type State = ();
        fn on_open(&mut self, _cx: &mut Context<'_>) {}
        fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
            cx.defer(data.len());
        }
    }
    crate::testing::log_tests::lines();
    let (mut rig, _) = stubborn();
    let other = rig.inner.dispatcher.add(Other, true).unwrap();
    rig.listen(other);
    for listener in [[0; 12], [1; 12]].concat() {
        let peer = rig.sys().connect(listener);
        rig.say(peer, "abc");
    }
    let said = crate::testing::log_tests::lines();
    assert!(said.len() == 2 && said[0].contains("Puppet") && said[1].contains("Other"), "{said:?}");
}

#[test]
fn a_reset_is_noticed_though_the_handler_defers_its_input_for_ever() {
    // By an event while it rests, by an event before that, and by a failed write.
    for (rests, answers) in [(true, false), (false, false), (false, true)] {
        let mut rig = puppet(move |cx, on| {
            if let On::Data(data) = on {
                cx.defer(data.len());
                if answers {
                    cx.send("no");
                }
            }
        });
        let a = rig.connect();
        rig.sys().send(a, b"abc");
        if rests {
            rig.settle();
        } else {
            rig.turn();
        }
        rig.reset(a);
        let told = (rests, answers);
        assert_eq!((rig.stats().open, rig.closed(&Reason::PeerReset)), (0, 1), "{told:?}");
    }
}

#[test]
fn no_new_bytes_are_read_before_those_put_off_are_used() {
    let mut rig = puppet(|cx, on| {
        if let On::Data(data) = on {
            cx.defer(data.len().saturating_sub(2));
        }
    });
    let a = rig.connect();
    rig.sys().send(a, b"abcd");
    rig.turn();
    rig.say(a, "ef");
    assert_eq!(rig.log(), ["0 open", "0 abcd", "0 cd", "0 ef"]);
}

#[test]
fn what_was_put_off_in_a_pause_comes_back_on_resume() {
    let mut rig = puppet(|cx, on| {
        if let On::Data(data) = on
            && data == b"stop now"
        {
            cx.pause();
            cx.defer(4);
        }
    });
    let a = rig.connect();
    rig.say(a, "stop now");
    rig.say(a, " then");
    rig.fin(a);
    rig.pass(100 * SECOND);
    assert_eq!(rig.log(), ["0 open", "0 stop now"]);
    let id = rig.id(a);
    rig.net().resume_id(id);
    rig.settle();
    assert_eq!(rig.log(), ["0  now", "0  then", "0 end"]);
}

#[test]
fn of_keep_and_defer_the_last_word_counts_and_more_than_all_is_all() {
    let mut rig = puppet(|cx, on| {
        if let On::Data(data) = on {
            cx.defer(2);
            cx.keep(if data.len() < 4 { 999 } else { 0 });
        }
    });
    let a = rig.connect();
    rig.say(a, "abc");
    rig.say(a, "d");
    assert_eq!(rig.log(), ["0 open", "0 abc", "0 abcd"]);
    assert_eq!(rig.stats().input_held, 0);
}

#[test]
fn more_kept_than_the_limit_ends_the_connection() {
    let limits = Limits { input_kept: 100, ..limits() };
    let mut rig = puppet_within(limits, |cx, on| match on {
        On::Data(data) => cx.keep(data.len()),
        On::End => cx.close(),
        _ => {}
    });
    let a = rig.connect();
    rig.say(a, bytes(60));
    rig.say(a, bytes(40));
    assert_eq!(rig.phase(a), Phase::Open);
    rig.say(a, "x");
    rig.fin(a);
    assert_eq!(rig.closed(&Reason::FrameTooLong { len: 101, max: 100 }), 1);
    assert_eq!(rig.stats().input_held, 0);
}

#[test]
fn kept_bytes_beyond_the_space_in_front_of_the_buffer_stay_in_order() {
    let mut rig = puppet(|cx, on| {
        if let On::Data(data) = on
            && data.last() != Some(&b'!')
        {
            cx.keep(data.len());
        } else if let On::Data(data) = on {
            cx.send(data);
        }
    });
    let a = rig.connect();
    let all = [bytes(20_000), b"!".to_vec()].concat();
    rig.say(a, &all);
    assert_eq!(rig.heard(a).as_bytes(), all);
    assert_eq!(rig.stats().input_held, 0);
}

#[test]
fn a_flood_of_empty_messages_is_taken_in_portions() {
    let limits = Limits { read_buffer: 8192, ..limits() };
    let mut rig = rig(limits, Framed::new(LengthDelimited::u32_be(64).unwrap(), Echo));
    let (flood, other) = (rig.connect(), rig.connect());
    rig.sys().send(flood, &[0; 4 * 2000]);
    for turn in 1..=7 {
        rig.sys().send(other, &[0, 0, 0, 1, b'x']);
        rig.turn();
        assert_eq!(rig.stats().messages_in, 257 * turn);
        assert_eq!(rig.heard(other), "\\x00\\x00\\x00\\x01x");
    }
    rig.settle();
    assert_eq!(rig.sys().peers[flood].got.len(), 8000);
}

#[test]
fn the_end_inside_a_message_is_an_error_and_delivers_none() {
    for cut in 1..9 {
        let mut rig = rig(limits(), Framed::new(LengthDelimited::u32_be(64).unwrap(), Echo));
        let a = rig.connect();
        rig.sys().send(a, &[0, 0, 0, 5, b'h', b'e', b'l', b'l', b'o'][..cut]);
        rig.fin(a);
        assert_eq!(rig.closed(&Reason::TruncatedFrame { have: cut as u64 }), 1);
        assert_eq!((rig.heard(a), rig.stats().messages_in), (String::new(), 0));
    }
}

#[test]
fn a_refused_length_is_quoted_as_the_peer_said_it_with_its_place() {
    for (spec, input, said) in [
        (
            "len:u32be,max=9",
            &b"\0\0\0\x02hiGET /"[..],
            "message of 1195725856 bytes, at most 9 allowed; announced as \"GET \" at byte 6",
        ),
        ("len:u16be,max=9,offset=1,inclusive", b"x\0\x05hix\xff\xff", "; announced as \"\\xff\\xff\" at byte 6"),
        (
            "dec:5,max=9",
            b"    2hi 9999hello",
            "message of 9999 bytes, at most 9 allowed; announced as \" 9999\" at byte 7",
        ),
        ("dec:5", b"    2hi-9999", "decimal header has a sign; announced as \"-9999\" at byte 7"),
        ("netstring,max=9", b"2:hi,123456:", "announced as \"123456\" at byte 5"),
        ("varint,max=9", b"\x02hi\xff\xff\x01", "announced as \"\\xff\\xff\\x01\" at byte 3"),
        ("lines,max=4", b"hi\ntoo long", "message of 5 bytes, at most 4 allowed; it begins at byte 3"),
        (
            "len:u32be",
            b"\0\0\0\x02hi\0\0\x01\0half",
            "inside a message, after 8 bytes of it; announced as \"\\x00\\x00\\x01\\x00\" at byte 6",
        ),
        ("len:u32be", b"\0\0\0\x02hi\0\0\x01", "inside a message, after 3 bytes of it; it begins at byte 6"),
    ] {
        let codec: AnyCodec = spec.parse().unwrap();
        let ends = Rc::new(Cell::new(Vec::new()));
        let mut rig = rig(limits(), Framed::new(codec, Ends(Rc::clone(&ends))));
        let a = rig.connect();
        rig.say(a, input);
        rig.fin(a);
        let closed = ends.take().pop().unwrap();
        assert!(closed.contains(said), "{spec}: {closed}");
    }
}

/// Remembers the reports on its connections as text.
struct Ends(Rc<Cell<Vec<String>>>);

impl Handler for Ends {
    type State = ();
    fn on_open(&mut self, _cx: &mut Context<'_>) {}
    fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut (), _data: &[u8]) {}
    fn on_close(&mut self, _net: &mut Net<'_>, _state: (), closed: &Closed) {
        let mut ends = self.0.take();
        ends.push(closed.to_string());
        self.0.set(ends);
    }
}

#[test]
fn the_last_line_needs_no_newline_at_the_end_wherever_it_is_cut() {
    for (text, heard, messages) in [
        ("one\nlast", "one\\nlast\\n", 2),
        ("last\r", "last\\n", 1),
        ("one\r\n", "one\\n", 1),
        ("one\ntoolong!", "one\\n", 1),
    ] {
        for cut in 1..=text.len() {
            let mut rig = rig(limits(), Framed::new(Lines::lf(5).unwrap().discard_too_long(), Echo));
            let a = rig.connect();
            rig.say(a, &text[..cut]);
            rig.sys().send(a, &text.as_bytes()[cut..]);
            rig.fin(a);
            assert_eq!(rig.heard(a), heard, "{text:?} cut at {cut}");
            let stats = rig.stats();
            assert_eq!((stats.messages_in, stats.discarded), (messages, u64::from(text.ends_with('!'))), "{text:?}");
            assert_eq!((rig.closed(&Reason::PeerClosed), stats.input_held), (1, 0));
        }
    }
}

/// Pauses at each line, and answers it on a tick.
struct Slow {
    waits: Option<ConnId>,
}

impl Handler for Slow {
    type State = ();
    fn on_open(&mut self, _cx: &mut Context<'_>) {}
    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), _data: &[u8]) {
        cx.pause();
        self.waits = Some(cx.id());
        cx.set_tick(SECOND, 0);
    }
    fn on_tick(&mut self, net: &mut Net<'_>, _key: u64) {
        if let Some(id) = self.waits.take() {
            net.send_to(id, "done");
            net.resume_id(id);
        }
    }
}

#[test]
fn the_end_behind_a_last_line_waits_for_a_handler_that_has_paused() {
    let mut rig = rig(limits(), Framed::new(Lines::lf(5).unwrap(), Slow { waits: None }));
    let a = rig.connect();
    rig.sys().send(a, b"last");
    rig.fin(a);
    assert_eq!((rig.heard(a).as_str(), rig.closed(&Reason::PeerClosed)), ("", 0));
    rig.pass(SECOND * 2);
    rig.settle();
    assert_eq!((rig.heard(a).as_str(), rig.closed(&Reason::PeerClosed)), ("done\\n", 1));
}

#[test]
fn every_way_of_cutting_a_message_gives_the_same() {
    let text = b"one\ntwo\n\nthree\n";
    for cuts in 0..1u32 << 7 {
        let mut rig = rig(limits(), Framed::new(Lines::lf(60).unwrap(), Echo));
        let a = rig.connect();
        let mut from = 0;
        for at in 0..7 {
            if cuts & 1 << at != 0 {
                rig.say(a, &text[from..at * 2 + 1]);
                from = at * 2 + 1;
            }
        }
        rig.say(a, &text[from..]);
        assert_eq!(rig.heard(a), "one\\ntwo\\n\\nthree\\n");
        assert_eq!(rig.stats().messages_in, 4);
    }
}

#[test]
fn a_message_too_long_ends_the_connection_after_what_came_before() {
    let mut rig = rig(limits(), Framed::new(Lines::lf(10).unwrap(), Echo));
    let a = rig.connect();
    rig.say(a, "fine\nfar too long to be a line\nnever\n");
    assert_eq!(rig.heard(a), "fine\\n");
    assert!(rig.sys().peers[a].got_fin);
    rig.fin(a);
    assert_eq!(rig.closed(&Reason::FrameTooLong { len: 0, max: 0 }), 1);
}

#[test]
fn input_together_beyond_its_total_cuts_whoever_keeps_the_most() {
    let limits = Limits { input_kept: 8192, input_total: Limit::At(32 * 1024), ..limits() };
    let mut rig = puppet_within(limits, |cx, on| {
        if let On::Data(data) = on {
            cx.keep(data.len());
        }
    });
    let peers: Vec<usize> = (0..12).map(|_| rig.connect()).collect();
    for (i, &p) in peers.iter().enumerate() {
        rig.say(p, bytes(2000 + 150 * i));
    }
    rig.say(peers[3], bytes(5000));
    let stats = rig.stats();
    assert!(stats.closed(&Reason::TotalInputLimit) > 0);
    assert!(stats.input_held <= 32 * 1024, "{}", stats.input_held);
    assert!(rig.sys().peers[peers[0]].closed.is_none(), "the smallest stays");
}

#[test]
fn a_pause_in_a_callback_stops_reading_and_resume_goes_on() {
    let mut rig = puppet(|cx, on| {
        if let On::Data(data) = on {
            cx.send(data);
            cx.pause();
        }
    });
    let a = rig.connect();
    rig.say(a, bytes(100));
    assert_eq!(rig.sys().unread(a), 36);
    rig.pass(2000 * SECOND);
    assert_eq!(rig.phase(a), Phase::Open, "that it is silent is not its fault");
    let id = rig.id(a);
    rig.net().resume_id(id);
    rig.settle();
    assert_eq!(rig.heard(a).as_bytes(), bytes(100));
}
