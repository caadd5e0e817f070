//! Tests of `send_all`, and of messages that are longer than the limit.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use super::*;
use crate::buffer::pieces::Pieces;
use crate::builtin::Framed;
use crate::codec::Lines;
use crate::core::Sent;
use crate::group::SlowMember;

/// Counts how many pieces were fetched, and that its source was dropped.
#[derive(Clone, Default)]
struct Fetched(Rc<Cell<usize>>, Rc<Cell<bool>>);

impl Drop for Fetched {
    fn drop(&mut self) {
        self.1.set(true);
    }
}

/// Returns `n` numbered lines.
fn lines_of(n: usize, fetched: &Fetched) -> Pieces {
    let fetched = Fetched(Rc::clone(&fetched.0), Rc::clone(&fetched.1));
    Pieces::new((0..n).map(move |i| {
        fetched.0.set(fetched.0.get() + 1);
        format!("line {i}\n")
    }))
}

fn all_lines(n: usize) -> String {
    (0..n).map(|i| format!("line {i}\\n")).collect()
}

#[test]
fn a_long_answer_is_fetched_as_the_peer_reads_and_what_follows_comes_behind_it() {
    let fetched = Fetched::default();
    let source = fetched.clone();
    let limits = Limits { read_buffer: 2048, ..tight_limits() };
    let mut rig = puppet_within(limits, move |cx, on| {
        if let On::Data(b"go") = on {
            assert_eq!(cx.send_all(lines_of(10_000, &source)), Sent::Queued);
            assert_eq!(cx.send("and "), Sent::Queued);
            assert_eq!(cx.send_all("then "), Sent::Queued);
            assert_eq!(cx.send(""), Sent::Queued);
            cx.send_all(vec![b'.'; 3000]);
        }
    });
    let a = rig.connect();
    rig.sys().set_window(a, 0);
    rig.say(a, "go");
    let mut heard = String::new();
    while fetched.0.get() < 10_000 {
        assert!(!fetched.1.get() && fetched.0.get() * 6 <= heard.len() + 4096, "fetched before it is read");
        assert!(rig.stats().output_held <= 16 * 1024, "{}", rig.stats().output_held);
        assert_eq!(rig.sys().unread(a), 0);
        rig.open_window(a, 1000);
        heard.push_str(&rig.heard(a));
    }
    assert_eq!(rig.log(), ["0 open", "0 go"], "no on_drain in between");
    rig.sys().send(a, b"later");
    while rig.sys().unread(a) > 0 {
        rig.open_window(a, 1000);
        heard.push_str(&rig.heard(a));
    }
    assert_eq!(rig.log(), ["0 drain", "0 later"]);
    rig.open_window(a, 100_000);
    heard.push_str(&rig.heard(a));
    assert_eq!(heard, all_lines(10_000) + "and then " + &".".repeat(3000));
    assert!(fetched.1.get(), "dropped at its end");
    assert_eq!(rig.stats().output_held, 0);
}

#[test]
fn a_member_of_a_group_gets_no_more_in_a_turn_than_others() {
    let mut rig = puppet_within(Limits { write_per_turn: 10_000, ..limits() }, |cx, on| {
        if let On::Data(_) = on {
            let group = cx.group().unwrap();
            assert!(cx.join(group));
            cx.send_all(vec![b'x'; 1_000_000]);
        }
    });
    let a = rig.connect();
    rig.sys().send(a, b"go");
    for turn in 1..20 {
        rig.turn();
        assert!(rig.sys().peers[a].got.len() <= turn * 10_000 + 65_536, "turn {turn}");
    }
    rig.settle();
    assert_eq!(rig.heard(a).len(), 1_000_000);
}

#[test]
fn too_many_answers_that_wait_end_the_connection() {
    let mut rig = puppet(|cx, on| {
        if let On::Data(_) = on {
            // The first one is fetched at once.
            (0..65).for_each(|_| assert_eq!(cx.send_all(vec![0; 100_000]), Sent::Queued));
            assert_eq!(cx.send_all("one more"), Sent::Full);
        }
    });
    let a = rig.connect();
    rig.sys().set_window(a, 0);
    rig.say(a, "go");
    assert_eq!((rig.closed(&Reason::OutputLimit), rig.stats().open), (1, 0));
}

#[test]
fn a_close_and_a_half_close_wait_for_all_pieces() {
    let closes: [fn(&mut Context<'_>); 2] = [|cx| cx.close(), |cx| cx.shutdown_write()];
    for close in closes {
        let fetched = Fetched::default();
        let source = fetched.clone();
        let mut rig = puppet_within(tight_limits(), move |cx, on| {
            if let On::Data(b"go") = on {
                cx.send_all(lines_of(30_000, &source));
                close(cx);
            }
        });
        let a = rig.connect();
        rig.sys().set_window(a, 0);
        rig.say(a, "go");
        for _ in 0..40 {
            rig.open_window(a, 10_000);
        }
        assert_eq!(rig.heard(a), all_lines(30_000));
        assert!(rig.sys().peers[a].got_fin && fetched.1.get());
    }
}

#[test]
fn a_source_that_fails_resets_its_connection_and_no_other() {
    let mut rig = puppet(|cx, on| match on {
        On::Data(b"fail") => {
            let pieces = [Ok("half".into()), Err(io::Error::new(io::ErrorKind::NotFound, "gone\n"))];
            assert_eq!(cx.send_all(Pieces::fallible(pieces)), Sent::Closed);
        }
        On::Data(b"panic") => {
            let pieces = std::iter::from_fn(|| -> Option<String> { panic!("no more") });
            assert_eq!(cx.send_all(Pieces::new(pieces)), Sent::Closed);
        }
        On::Data(b"empty") => {
            assert_eq!(cx.send_all(Pieces::new(std::iter::repeat(""))), Sent::Closed);
        }
        On::Data(_) => {
            struct Bomb;
            impl Drop for Bomb {
                fn drop(&mut self) {
                    panic!("in the drop");
                }
            }
            let bomb = Bomb;
            let pieces = std::iter::repeat_n("x", 3).inspect(move |_| _ = &bomb);
            assert_eq!(cx.send_all(Pieces::new(pieces)), Sent::Queued);
        }
        _ => {}
    });
    let all: Vec<usize> = (0..4).map(|_| rig.connect()).collect();
    for (peer, say) in all.iter().zip(["fail", "panic", "empty", "drop"]) {
        rig.say(*peer, say);
    }
    assert_eq!(rig.closed(&Reason::PiecesFailed(io::ErrorKind::Other)), 2);
    assert_eq!((rig.closed(&Reason::HandlerPanic), rig.stats().panics), (1, 1));
    assert_eq!((rig.stats().open, rig.heard(all[3])), (1, "xxx".to_owned()));
    for peer in &all[..3] {
        assert_eq!(rig.sys().peers[*peer].closed, Some(crate::sys::CloseHow::Reset));
        assert_eq!(rig.heard(*peer), "", "half of it is not sent");
    }
}

#[test]
fn pieces_are_messages_where_there_is_a_framing() {
    let limits = Limits { read_buffer: 16, ..limits() };
    let puppet = |cx: &mut Context<'_>, on: On<'_>| {
        if let On::Data(_) = on {
            let pieces = ["one", "two\n", "", "eleven chars", "three"];
            assert_eq!(cx.send_all(Pieces::new(pieces)), Sent::Queued);
            assert_eq!(cx.send_all("a\nb"), Sent::Unencodable);
            assert_eq!(cx.send_all("end"), Sent::Queued);
        }
    };
    let puppet = Puppet { act: puppet, last: |_: &mut Net<'_>, _: &Closed| {}, log: Vec::new() };
    let mut rig = rig(limits, Framed::new(Lines::lf(10).unwrap(), puppet));
    let a = rig.connect();
    rig.say(a, "go\n");
    assert_eq!((rig.heard(a).as_str(), rig.stats().unencodable), ("one\\n\\nthree\\nend\\n", 3));
}

#[test]
fn a_message_longer_than_the_limit_is_dropped_and_harms_nobody() {
    crate::testing::log_tests::lines();
    let group = Rc::new(Cell::new(None));
    let mut rig = puppet_within(tight_limits(), move |cx, on| match on {
        On::Open => {
            group.set(group.get().or_else(|| cx.group_with(SlowMember::Cut)));
            assert!(group.get().is_some_and(|g| cx.join(g)));
        }
        On::Data(_) => {
            assert_eq!(cx.send(bytes(8193)), Sent::TooLong);
            assert_eq!(cx.send_bytes(bytes(8193).into()), Sent::TooLong);
            assert_eq!(group.get().map(|g| cx.broadcast(g, bytes(8193))), Some(0));
            assert_eq!(cx.send(bytes(8192)), Sent::Queued);
        }
        _ => {}
    });
    let (a, _b) = (rig.connect(), rig.connect());
    rig.say(a, "go");
    assert_eq!(
        (rig.stats().open, rig.stats().unencodable, rig.heard(a).len()),
        (2, 3, bytes(8192).escape_ascii().to_string().len())
    );
    let said = crate::testing::log_tests::lines();
    assert!(
        said.iter().any(|line| line.contains("a message of 8193 bytes is dropped: output_hard is 8192")),
        "{said:?}"
    );
}
