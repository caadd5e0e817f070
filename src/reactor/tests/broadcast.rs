//! Tests of groups: who receives what, in which order, and what happens to slow consumers.

use super::*;
use crate::builtin::{Broadcast, Framed};
use crate::codec::{LengthDelimited, Lines};
use crate::group::SlowMember;
use crate::id::Group;
use crate::sys::script::{Answer, EPIPE};

/// All connections join one group; `say` handles each message.
fn group_within(
    limits: Limits,
    policy: SlowMember,
    mut say: impl FnMut(&mut Context<'_>, Group, &[u8]) + 'static,
) -> Rig {
    let mut group = None;
    puppet_within(limits, move |cx, on| {
        let group = *group.get_or_insert_with(|| cx.group_with(policy).unwrap());
        match on {
            On::Open => drop(cx.join(group)),
            On::Data(data) => say(cx, group, data),
            On::End | On::Shutdown => cx.close(),
            On::Drain | On::Timer(_) => {}
        }
    })
}

fn group(say: impl FnMut(&mut Context<'_>, Group, &[u8]) + 'static) -> Rig {
    group_within(limits(), SlowMember::Cut, say)
}

fn peers<const N: usize>(rig: &mut Rig) -> [usize; N] {
    std::array::from_fn(|_| rig.connect())
}

fn heard<const N: usize>(rig: &mut Rig, peers: [usize; N]) -> [String; N] {
    peers.map(|p| rig.heard(p))
}

#[test]
fn what_is_sent_to_one_and_to_all_arrives_in_the_order_of_sending() {
    let mut rig = group(|cx, group, _| {
        cx.send(b"1");
        cx.broadcast(group, b"2");
        cx.send(b"3");
        cx.broadcast_others(group, b"!");
        cx.broadcast(group, b"4");
        let all: Vec<ConnId> = cx.members(group).collect();
        for id in all {
            cx.send_to(id, b"5");
        }
        cx.broadcast(group, b"6");
    });
    let all: [usize; 3] = peers(&mut rig);
    rig.say(all[1], "go");
    assert_eq!(heard(&mut rig, all), ["2!456", "123456", "2!456"]);
}

#[test]
fn a_message_that_is_sent_back_and_a_broadcast_keep_their_order() {
    for window in 0..12 {
        let mut rig = super::broadcast::group(|cx, group, data| {
            cx.send(data);
            cx.broadcast(group, b"<all>");
            cx.send(data);
        });
        let a = rig.connect();
        rig.sys().set_window(a, window);
        rig.say(a, "echo");
        rig.open_window(a, 100);
        assert_eq!(rig.heard(a), "echo<all>echo", "{window}");
    }
}

#[test]
fn many_messages_to_many_members_are_one_write_each() {
    let mut rig = group(|cx, group, data| {
        cx.broadcast(group, data);
    });
    let all: [usize; 5] = peers(&mut rig);
    for &p in &all {
        rig.sys().send(p, format!("{p}").as_bytes());
    }
    rig.calls();
    rig.settle();
    assert_eq!(heard(&mut rig, all), ["01234"; 5]);
    assert_eq!(rig.calls().iter().filter(|c| matches!(c, Call::Write(..))).count(), 5);
}

#[test]
fn one_group_speaks_to_each_member_in_its_own_framing() {
    let mut rig = rig(limits(), Broadcast::to_others());
    let group = rig.net().group().unwrap();
    let programs = Framed::new(LengthDelimited::u32_be(60).unwrap(), Broadcast::to_all().in_group(group));
    let people = Framed::new(Lines::lf(60).unwrap(), Broadcast::to_others().in_group(group));
    let programs = rig.inner.dispatcher.add(programs, true).unwrap();
    let people = rig.inner.dispatcher.add(people, true).unwrap();
    rig.listen(programs);
    rig.listen(people);
    rig.settle();
    let all = [rig.sys().connect(1), rig.sys().connect(2), rig.sys().connect(2)];
    rig.settle();
    rig.say(all[1], "hi\n");
    assert_eq!(heard(&mut rig, all), ["\\x00\\x00\\x00\\x02hi", "", "hi\\n"]);
    rig.say(all[0], [0, 0, 0, 3, b'a', b'\n', b'b']);
    assert_eq!(heard(&mut rig, all), ["\\x00\\x00\\x00\\x03a\\nb", "", ""], "a line cannot be forged");
    assert_eq!(rig.stats().unencodable, 2);
}

#[test]
fn who_joins_or_leaves_in_mid_turn_gets_what_was_sent_while_a_member() {
    let mut rig = group(|cx, group, data| {
        cx.broadcast(group, b"1");
        match data {
            b"leave" => {
                cx.leave(group);
                cx.broadcast(group, b"2");
                cx.join(group);
            }
            b"close" => {
                cx.close();
                cx.broadcast(group, b"2");
            }
            _ => {
                cx.abort();
                cx.broadcast(group, b"2");
            }
        }
        cx.broadcast(group, b"3");
    });
    let all: [usize; 4] = peers(&mut rig);
    rig.say(all[0], "leave");
    assert_eq!(heard(&mut rig, all), ["13", "123", "123", "123"]);
    rig.say(all[1], "close");
    assert_eq!(heard(&mut rig, all), ["123", "1", "123", "123"]);
    rig.say(all[2], "abort");
    assert_eq!(heard(&mut rig, all), ["123", "", "", "123"]);
    assert_eq!(rig.stats().bytes_unsent, 1);
}

#[test]
fn a_group_that_is_dropped_in_mid_turn_has_delivered_what_was_sent_before() {
    let mut rig = group(|cx, group, _| {
        cx.broadcast(group, b"before");
        assert!(cx.drop_group(group));
        assert_eq!(cx.broadcast(group, b"after"), 0);
        assert!(!cx.drop_group(group) && !cx.join(group) && cx.members(group).len() == 0);
        let other = cx.group().unwrap();
        assert_ne!(other, group);
        assert_eq!(cx.broadcast(group, b"nor now"), 0);
    });
    let all: [usize; 3] = peers(&mut rig);
    rig.say(all[1], "go");
    assert_eq!(heard(&mut rig, all), ["before"; 3]);
    assert_eq!(rig.stats().panics, 0);
}

#[test]
fn a_member_of_several_groups_gets_their_messages_in_the_order_of_sending() {
    let mut groups = None;
    let mut rig = puppet(move |cx, on| {
        let [x, y] = *groups.get_or_insert_with(|| [cx.group().unwrap(), cx.group().unwrap()]);
        match on {
            On::Open => assert!(cx.join(x) && (cx.id().slot == 2 || cx.join(y))),
            On::Data(_) => {
                for (group, word) in [(x, "a"), (y, "b"), (x, "c"), (y, "d"), (y, "e"), (x, "f")] {
                    cx.broadcast(group, word.as_bytes());
                }
            }
            _ => {}
        }
    });
    let all: [usize; 3] = peers(&mut rig);
    rig.sys().set_window(all[0], 2);
    rig.say(all[0], "go");
    rig.open_window(all[0], 100);
    assert_eq!(heard(&mut rig, all), ["abcdef", "abcdef", "acf"]);
}

#[test]
fn a_slow_member_is_cut_and_counted_and_costs_the_others_nothing() {
    let mut rig = group_within(tight_limits(), SlowMember::Cut, |cx, group, data| {
        cx.broadcast(group, [data, &bytes(60)].concat());
    });
    let [slow, sender, good] = peers(&mut rig);
    rig.sys().set_window(slow, 0);
    for n in 0..200 {
        rig.say(sender, format!("{n:04}"));
    }
    assert_eq!((rig.closed(&Reason::OutputLimit), rig.stats().open), (1, 2));
    assert_eq!((rig.heard(slow), rig.stats().bytes_unsent), ("".into(), 129 * 64));
    assert_eq!((rig.heard(sender).len(), rig.heard(good).len()), (200 * 64, 200 * 64));
}

#[test]
fn a_member_that_is_skipped_misses_whole_messages_and_each_is_counted() {
    let mut rig = group_within(tight_limits(), SlowMember::Skip, |cx, group, data| {
        cx.broadcast(group, [data, &bytes(60)].concat());
    });
    let [slow, sender] = peers(&mut rig);
    rig.sys().set_window(slow, 10);
    for n in 0..100 {
        rig.say(sender, format!("{n:04}"));
    }
    let skipped = rig.stats().skipped as usize;
    assert_eq!(100 - skipped, (4096 + 10) / 64);
    rig.open_window(slow, 100_000);
    rig.say(sender, "0100");
    let got = rig.heard(slow);
    let numbers: Vec<&str> = got.as_bytes().chunks(64).map(|m| std::str::from_utf8(&m[..4]).unwrap()).collect();
    let mut want: Vec<String> = (0..100 - skipped).map(|n| format!("{n:04}")).collect();
    want.push("0100".into());
    assert_eq!(numbers, want);
    assert_eq!(rig.stats().open, 2);
}

#[test]
fn a_slow_member_pauses_the_senders_until_it_has_caught_up() {
    let mut rig = group_within(tight_limits(), SlowMember::PauseSenders, |cx, group, data| {
        cx.broadcast(group, [data, &bytes(500)].concat());
    });
    let [slow, sender, other] = peers(&mut rig);
    rig.sys().set_window(slow, 0);
    for n in 0..50 {
        rig.say(sender, format!("{n:04}"));
    }
    assert!(rig.sys().unread(sender) > 100, "held up");
    assert_eq!((rig.stats().open, rig.stats().skipped), (3, 0));
    rig.open_window(slow, 100);
    assert!(rig.sys().unread(sender) > 100, "still more than the low mark");
    rig.open_window(slow, 1_000_000);
    assert_eq!(rig.sys().unread(sender), 0);
    let all = [slow, sender, other].map(|p| rig.heard(p));
    assert!(all[0] == all[1] && all[1] == all[2] && all[0].starts_with("0000abc"));
}

#[test]
fn a_slow_member_that_goes_lets_the_senders_go_on() {
    for how in 0..3 {
        let mut rig = group_within(tight_limits(), SlowMember::PauseSenders, |cx, group, data| {
            cx.broadcast(group, [data, &bytes(500)].concat());
        });
        let [slow, sender] = peers(&mut rig);
        rig.sys().set_window(slow, 0);
        for n in 0..50 {
            rig.say(sender, format!("{n:04}"));
        }
        assert!(rig.sys().unread(sender) > 100);
        let group = rig.inner.dispatcher.core.conns.get(rig.id(slow)).unwrap().groups[0].group;
        let id = rig.id(slow);
        match how {
            0 => rig.reset(slow),
            1 => drop(rig.net().leave_id(group, id)),
            _ => drop(rig.net().drop_group(group)),
        }
        rig.settle();
        assert_eq!(rig.sys().unread(sender), 0, "{how}");
    }
}

#[test]
fn a_large_message_is_held_once_for_all_who_cannot_take_it() {
    let mut rig = group_within(Limits::default(), SlowMember::Cut, |cx, group, _| {
        cx.broadcast(group, bytes(64 * 1024));
    });
    let all: Vec<usize> = (0..100).map(|_| rig.connect()).collect();
    for &p in &all {
        rig.sys().set_window(p, 0);
    }
    rig.say(all[0], "go");
    let held = rig.stats().output_held;
    assert!(held < 200 * 1024, "{held}");
    for &p in &all {
        rig.open_window(p, 64 * 1024);
        assert_eq!(rig.sys().peers[p].got, bytes(64 * 1024));
    }
    assert_eq!(rig.stats().output_held, 0);
}

#[test]
fn what_the_kernel_takes_at_once_counts_against_nobody_however_much_it_is() {
    let mut rig = group_within(tight_limits(), SlowMember::Cut, |cx, group, _| {
        cx.broadcast(group, bytes(1000));
    });
    let all: [usize; 40] = peers(&mut rig);
    rig.all_send(&all, b"go");
    rig.settle();
    assert_eq!(rig.stats().open, 40);
    for &p in &all {
        assert_eq!(rig.heard(p).len(), 40_000);
    }
}

#[test]
fn nor_does_it_count_beyond_what_is_written_to_one_connection_in_a_turn() {
    let limits = Limits { write_per_turn: 8192, ..tight_limits() };
    let mut rig = group_within(limits, SlowMember::Cut, |cx, group, _| {
        cx.broadcast(group, bytes(1000));
    });
    let all: [usize; 40] = peers(&mut rig);
    rig.all_send(&all, b"go");
    rig.settle();
    assert_eq!((rig.stats().open, rig.closed(&Reason::OutputLimit)), (40, 0));
}

#[test]
fn nor_does_it_for_a_member_of_two_groups() {
    let mut groups = None;
    let mut rig = puppet_within(tight_limits(), move |cx, on| {
        let [x, y] = *groups.get_or_insert_with(|| [cx.group().unwrap(), cx.group().unwrap()]);
        match on {
            On::Open => assert!(cx.join(x) && cx.join(y)),
            On::Data(_) => {
                cx.broadcast(x, bytes(1000));
                cx.broadcast(y, bytes(1000));
            }
            _ => {}
        }
    });
    let all: [usize; 20] = peers(&mut rig);
    rig.all_send(&all, b"go");
    rig.settle();
    assert_eq!((rig.stats().open, rig.closed(&Reason::OutputLimit)), (20, 0));
}

#[test]
fn nor_does_it_when_many_leave_at_once_and_each_is_announced() {
    let window: std::rc::Rc<std::cell::Cell<Option<Group>>> = std::rc::Rc::default();
    let (here, there) = (std::rc::Rc::clone(&window), window);
    let act = move |cx: &mut Context<'_>, on: On<'_>| {
        let group = here.get().unwrap_or_else(|| cx.group().unwrap());
        here.set(Some(group));
        match on {
            On::Open => drop(cx.join(group)),
            On::End => cx.close(),
            _ => {}
        }
    };
    let mut rig = puppet_to_the_last(tight_limits(), act, move |net, _| {
        net.broadcast(there.get().unwrap(), bytes(1000));
    });
    let all: Vec<usize> = (0..30).map(|_| rig.connect()).collect();
    for &p in &all[1..] {
        rig.sys().fin(p);
    }
    rig.settle();
    assert_eq!((rig.stats().open, rig.closed(&Reason::OutputLimit)), (1, 0));
    assert_eq!(rig.heard(all[0]).len(), 29_000);
}

#[test]
fn a_member_whose_write_fails_does_not_confuse_who_takes_its_place() {
    for taken in 0..9 {
        let mut rig = rig(limits(), Broadcast::to_others());
        let group = rig.net().group().unwrap();
        let framed = Framed::new(LengthDelimited::u32_be(60).unwrap(), Broadcast::to_all().in_group(group));
        let framed = rig.inner.dispatcher.add(framed, true).unwrap();
        let raw = rig.inner.dispatcher.add(Broadcast::to_all().in_group(group), true).unwrap();
        rig.listen(framed);
        rig.listen(raw);
        rig.settle();
        let (breaks, good) = (rig.sys().connect(1), rig.sys().connect(2));
        rig.settle();
        if taken > 0 {
            rig.sys().peers[breaks].writes.push_back(Answer::AtMost(taken));
        }
        rig.sys().peers[breaks].writes.push_back(Answer::Fail(EPIPE));
        rig.net().broadcast(group, b"hello");
        rig.settle();
        rig.fin(breaks);
        assert_eq!(rig.heard(good), "hello");
        assert_eq!(rig.stats().bytes_unsent, 9 - taken as u64);
    }
}

#[test]
fn senders_wait_for_the_last_of_several_slow_members() {
    let mut rig = group_within(tight_limits(), SlowMember::PauseSenders, |cx, group, data| {
        cx.broadcast(group, [data, &bytes(500)].concat());
    });
    let [slow, slower, sender] = peers(&mut rig);
    rig.sys().set_window(slow, 0);
    rig.sys().set_window(slower, 0);
    for n in 0..50 {
        rig.say(sender, format!("{n:04}"));
    }
    let unread = rig.sys().unread(sender);
    assert!(unread > 100, "held up");
    rig.open_window(slow, 1_000_000);
    assert_eq!(rig.sys().unread(sender), unread, "one of two has caught up");
    rig.open_window(slower, 1_000_000);
    assert_eq!(rig.sys().unread(sender), 0);
    assert_eq!(rig.heard(slow), rig.heard(slower));
}
