//! Tests of links: a connection that is linked to a slow receiver is not read.

use super::*;

/// A relay between the first two connections, linked both ways.
fn relay() -> Rig {
    let mut ends: Vec<ConnId> = Vec::new();
    puppet_within(tight_limits(), move |cx, on| {
        let id = cx.id();
        let other = ends.iter().find(|other| **other != id).copied();
        match on {
            On::Open => {
                ends.push(id);
                if let Some(other) = other {
                    assert!(cx.link(id, other) && cx.link(other, id) && cx.link(other, id));
                }
            }
            On::Data(data) => drop(cx.send_to(other.unwrap(), data)),
            On::End => cx.close(),
            _ => {}
        }
    })
}

#[test]
fn who_feeds_a_slow_receiver_is_read_no_further_than_it_may_hold() {
    let mut rig = relay();
    let (a, b) = (rig.connect(), rig.connect());
    rig.open_window(b, 100);
    rig.say(a, bytes(50_000));
    let waits = rig.net().pending_of(ConnId { slot: 1, generation: 0 }).unwrap();
    assert!((4096..=4096 + 64).contains(&waits), "{waits}");
    assert_eq!(rig.sys().unread(a), 50_000 - 100 - waits);
    rig.open_window(b, 10_000);
    rig.open_window(b, usize::MAX);
    assert_eq!(rig.sys().unread(a), 0);
    assert!(rig.heard(b).into_bytes() == bytes(50_000));
}

#[test]
fn what_is_read_at_once_fits_what_may_wait() {
    let limits = Limits { read_buffer: 16_384, ..tight_limits() };
    let mut ends: Vec<ConnId> = Vec::new();
    let mut rig = puppet_within(limits, move |cx, on| match on {
        On::Open => ends.push(cx.id()),
        On::Data(data) if cx.id() == ends[0] => {
            assert!(cx.link(ends[0], ends[1]));
            cx.send_to(ends[1], data);
        }
        _ => {}
    });
    let (a, b) = (rig.connect(), rig.connect());
    rig.open_window(b, 0);
    rig.say(a, "x");
    rig.say(a, bytes(16_000));
    let waits = rig.net().pending_of(ConnId { slot: 1, generation: 0 }).unwrap();
    assert!(waits <= 4096 + 2048, "{waits}: more than high water and the least that is read");
}

#[test]
fn a_link_is_undone_when_the_receiver_closes() {
    for how in ["reset", "close", "abort"] {
        let mut rig = relay();
        let (a, b) = (rig.connect(), rig.connect());
        rig.open_window(b, 0);
        rig.say(a, bytes(20_000));
        assert!(rig.sys().unread(a) > 10_000);
        let id = rig.id(b);
        match how {
            "reset" => rig.sys().reset(b),
            "close" => assert!(rig.net().close_id(id)),
            _ => assert!(rig.net().abort_id(id)),
        }
        rig.settle();
        let left = rig.sys().unread(a);
        assert_eq!(left, 0, "{how}: what comes now is read, and goes nowhere");
    }
}

#[test]
fn a_link_is_undone_when_the_sender_closes() {
    let mut rig = relay();
    let (a, b) = (rig.connect(), rig.connect());
    rig.open_window(b, 0);
    rig.say(a, bytes(20_000));
    rig.reset(a);
    rig.open_window(b, usize::MAX);
    let (first, second) = (ConnId { slot: 0, generation: 0 }, rig.id(b));
    assert!(!rig.net().link(first, second) && !rig.net().unlink(first, second));
    rig.say(b, "still read");
}

#[test]
fn a_link_to_one_that_is_high_holds_at_once_and_unlinking_lets_go() {
    let mut rig = puppet_within(tight_limits(), |_, _| {});
    let (a, b) = (rig.connect(), rig.connect());
    rig.open_window(b, 0);
    let (ida, idb) = (rig.id(a), rig.id(b));
    rig.net().send_to(idb, bytes(5000));
    rig.settle();
    assert!(rig.net().link(ida, idb));
    rig.say(a, "hello");
    assert_eq!(rig.sys().unread(a), 5);
    assert!(rig.net().unlink(ida, idb) && !rig.net().unlink(ida, idb));
    rig.settle();
    assert_eq!(rig.sys().unread(a), 0);
}

#[test]
fn no_more_links_than_allowed() {
    let limits = Limits { links_per_connection: 2, ..limits() };
    let mut rig = puppet_within(limits, |_, _| {});
    let peers: Vec<usize> = (0..5).map(|_| rig.connect()).collect();
    let ids: Vec<ConnId> = peers.iter().map(|p| rig.id(*p)).collect();
    assert!(rig.net().link(ids[0], ids[1]) && rig.net().link(ids[0], ids[2]));
    assert!(!rig.net().link(ids[0], ids[3]), "it is linked to two already");
    assert!(rig.net().link(ids[3], ids[1]));
    assert!(!rig.net().link(ids[4], ids[1]), "two are linked to it already");
    rig.reset(peers[3]);
    assert!(rig.net().link(ids[4], ids[1]));
}

#[test]
fn neither_idle_nor_message_timeout_runs_while_a_link_holds() {
    let limits = Limits { idle_timeout: Limit::At(SECOND), write_stall: Limit::Unlimited, ..tight_limits() };
    let mut rig = puppet_within(limits, |_, _| {});
    let (a, b) = (rig.connect(), rig.connect());
    rig.open_window(b, 0);
    let (ida, idb) = (rig.id(a), rig.id(b));
    rig.net().send_to(idb, bytes(5000));
    assert!(rig.net().link(ida, idb));
    rig.settle();
    rig.pass(10 * SECOND);
    assert_eq!(rig.phase(a), Phase::Open);
}

#[test]
fn an_answer_behind_a_link_is_delivered_before_its_senders_reset_is_passed_on() {
    let mut ends: Vec<ConnId> = Vec::new();
    let act = move |cx: &mut Context<'_>, on: On<'_>| match on {
        On::Open => {
            ends.push(cx.id());
            if let [client, upstream] = ends[..] {
                assert!(cx.link(upstream, client));
            }
        }
        On::Data(data) => drop(cx.send_to(ends[0], data)),
        _ => {}
    };
    let client = ConnId { slot: 0, generation: 0 };
    let last = move |net: &mut Net<'_>, _: &Closed| {
        net.close_with_reset_id(client);
    };
    let mut rig = puppet_to_the_last(tight_limits(), act, last);
    let (a, b) = (rig.connect(), rig.connect());
    rig.open_window(a, 100);
    rig.sys().send(b, &bytes(20_000));
    rig.reset(b);
    assert!(rig.sys().unread(b) > 10_000, "the client is slow");
    rig.pass(20 * SECOND);
    rig.open_window(a, usize::MAX);
    assert!(rig.heard(a).into_bytes() == bytes(20_000));
    rig.pass(2 * SECOND);
    assert_eq!(rig.sys().peers[a].closed, Some(crate::sys::CloseHow::Reset));
}

#[test]
fn a_connection_cannot_be_linked_to_itself() {
    let mut rig = puppet(echo);
    let a = rig.connect();
    let id = rig.id(a);
    assert!(!rig.net().link(id, id));
}
