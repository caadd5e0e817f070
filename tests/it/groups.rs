//! Groups over real sockets: each message arrives once and in order, in the framing of each member. Slow members.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use turnwheel::{Broadcast, Framed, Limit, Limits, Listen, Reactor, Reason, SlowMember};

use crate::support::{
    PATIENCE, Server, codec, connect, connect_narrow, is_timeout, patterns, read_n, read_to_end, serve, turn_until,
    wire,
};

const U32: &str = "len:u32be";

/// A listener with a small send buffer, which fills soon.
const NARROW: usize = 32 * 1024;

/// Reads one message with a 4-byte length prefix. Returns `None` at the end of the stream, clean or not.
fn read_message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut header = [0; 4];
    match stream.read_exact(&mut header) {
        Err(e) if is_timeout(&e) => panic!("timed out waiting for a message"),
        Err(_) => return None,
        Ok(()) => {}
    }
    let mut message = vec![0; u32::from_be_bytes(header) as usize];
    match stream.read_exact(&mut message) {
        Err(e) if is_timeout(&e) => panic!("timed out in the middle of a message"),
        done => done.ok().map(|()| message),
    }
}

fn serve_room(send_buffer: usize, room: fn() -> Broadcast) -> Server {
    serve(Limits::default(), move |reactor| {
        let at = Listen::new("127.0.0.1:0").send_buffer(send_buffer);
        Ok(vec![reactor.listen(at, Framed::new(codec(U32), room()))?])
    })
}

#[test]
fn one_room_has_members_with_different_framings_and_nobody_can_forge_lines() {
    let server = serve(Limits::default(), |reactor| {
        let room = reactor.net().group().unwrap();
        let lines = Framed::new(codec("lines"), Broadcast::to_all().in_group(room));
        let binary = Framed::new(codec(U32), Broadcast::to_all().in_group(room));
        Ok(vec![reactor.listen("127.0.0.1:0", lines)?, reactor.listen("127.0.0.1:0", binary)?])
    });
    let mut people: Vec<TcpStream> = (0..3).map(|_| connect(server.addr_of(0))).collect();
    let mut programs: Vec<TcpStream> = (0..2).map(|_| connect(server.addr_of(1))).collect();
    server.wait_for("all members", |s| s.accepted == 5);

    people[0].write_all(b"hello from a person\n").unwrap();
    for program in &mut programs {
        assert_eq!(read_message(program).unwrap(), b"hello from a person");
    }
    programs[0].write_all(&wire(U32, &[b"first".as_slice(), b"two\nlines", b"last"])).unwrap();
    for person in &mut people {
        let expected = b"hello from a person\nfirst\nlast\n";
        assert_eq!(read_n(person, expected.len()), expected);
    }
    for program in &mut programs {
        for expected in [b"first".as_slice(), b"two\nlines", b"last"] {
            assert_eq!(read_message(program).unwrap(), expected);
        }
    }
    let stats = server.wait_for("the count", |s| s.messages_in == 4);
    assert_eq!((stats.unencodable, stats.messages_out), (3, 17));
    assert_eq!((stats.open, stats.closed_total()), (5, 0), "no member is closed for what another sent");
}

#[test]
fn twenty_members_that_send_much_in_one_turn_cut_nobody() {
    let mut limits = Limits::default();
    // The messages of one turn together exceed the output limit of one member.
    limits.output_hard = Limit::At(1 << 20);
    let mut reactor = Reactor::with_limits(limits).unwrap();
    let room = Framed::new(codec("len:u32be,max=64KiB"), Broadcast::to_others());
    let at = reactor.listen("127.0.0.1:0", room).unwrap().local_addr().unwrap();
    let mut members: Vec<TcpStream> = (0..20).map(|_| connect(at)).collect();
    turn_until(&mut reactor, "all members", |r| r.stats().accepted == 20);
    const SIZE: usize = 64 * 1024 - 4;
    let messages = patterns(20, SIZE);
    for (message, member) in messages.iter().zip(&mut members) {
        member.write_all(&wire(U32, &[message])).unwrap();
    }
    turn_until(&mut reactor, "all messages", |r| r.stats().messages_in == 20);
    let readers: Vec<_> = members
        .into_iter()
        .enumerate()
        .map(|(own, mut member)| {
            let messages = messages.clone();
            thread::spawn(move || {
                let mut seen = [false; 20];
                for _ in 0..19 {
                    let message = read_message(&mut member).expect("the member was closed");
                    let from = messages.iter().position(|m| *m == message).expect("an incomplete message");
                    assert!(from != own && !seen[from], "{from} to {own}, for the second time or to itself");
                    seen[from] = true;
                }
                member.shutdown(Shutdown::Write).unwrap();
                assert!(read_to_end(&mut member).is_empty());
            })
        })
        .collect();
    turn_until(&mut reactor, "all ends", |r| r.stats().open == 0 || readers.iter().all(|r| r.is_finished()));
    readers.into_iter().for_each(|r| r.join().unwrap());
    assert_eq!(reactor.stats().closed(&Reason::OutputLimit), 0);
    assert_eq!(reactor.stats().messages_out, 20 * 19);
}

/// One member sends messages, each after the last has reached all good members. Returns the good members and a slow
/// one.
fn paced(server: &Server, messages: &[Vec<u8>]) -> (Vec<TcpStream>, TcpStream) {
    let mut good: Vec<TcpStream> = (0..4).map(|_| connect(server.addr())).collect();
    let slow = connect_narrow(server.addr(), 32 * 1024);
    server.wait_for("all members", |s| s.accepted == 5);
    for message in messages {
        good[0].write_all(&wire(U32, &[message])).unwrap();
        for member in &mut good[1..] {
            assert!(read_message(member).expect("a good member was closed") == *message);
        }
    }
    (good, slow)
}

#[test]
fn a_slow_member_is_cut_and_the_others_miss_nothing() {
    let server = serve_room(NARROW, Broadcast::to_others);
    let messages = patterns(100, 60_000);
    let (good, mut slow) = paced(&server, &messages);
    let stats = server.wait_for("the cut", |s| s.closed(&Reason::OutputLimit) == 1);
    assert_eq!((stats.open, stats.skipped), (4, 0));
    // The slow member received complete messages without a gap until it was closed.
    let mut got = 0;
    while let Some(message) = read_message(&mut slow) {
        assert!(message == messages[got]);
        got += 1;
    }
    assert!(got < 100);
    drop(good);
}

#[test]
fn a_slow_member_misses_messages_where_that_is_wanted_and_they_are_counted() {
    let server = serve_room(NARROW, || Broadcast::to_others().slow_member(SlowMember::Skip));
    let messages = patterns(100, 60_000);
    let (mut good, mut slow) = paced(&server, &messages);
    let stats = server.wait_for("the count", |s| s.messages_in == 100);
    assert!(stats.skipped > 0 && stats.closed_total() == 0, "{stats}");
    let mut next = 0;
    for _ in 0..100 - stats.skipped {
        let message = read_message(&mut slow).expect("the member was closed");
        next = 1 + (next..100).find(|n| messages[*n] == message).expect("incomplete, or out of order");
    }
    // The member reads again, and misses no further message.
    good[0].write_all(&wire(U32, &[b"the end"])).unwrap();
    assert_eq!(read_message(&mut slow).unwrap(), b"the end");
}

#[test]
fn a_slow_member_holds_up_the_senders_where_that_is_wanted_and_nobody_misses_anything() {
    let server = serve_room(1 << 20, || Broadcast::to_others().slow_member(SlowMember::PauseSenders));
    let messages = patterns(400, 60_000);
    let mut slow = connect(server.addr());
    let mut fast = connect(server.addr());
    let mut sender = connect(server.addr());
    server.wait_for("all members", |s| s.accepted == 3);
    let all = |stream: &mut TcpStream, messages: &[Vec<u8>]| {
        for (n, message) in messages.iter().enumerate() {
            assert!(read_message(stream).expect("the member was closed") == *message, "message {n}");
        }
    };
    let expected = messages.clone();
    let fast_reader = thread::spawn(move || all(&mut fast, &expected));
    // Send until backpressure blocks the sender: 24 MB do not fit into the buffers.
    let sent = wire(U32, &messages);
    sender.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut at = 0;
    let held_up = loop {
        match sender.write(&sent[at..]) {
            Ok(n) => at += n,
            Err(e) => break is_timeout(&e),
        }
        assert!(at < sent.len(), "the sender was never blocked");
    };
    assert!(held_up);
    assert!(server.stats().output_held < 8 << 20, "{}", server.stats());
    sender.set_write_timeout(Some(PATIENCE)).unwrap();
    let slow_reader = thread::spawn(move || all(&mut slow, &messages));
    sender.write_all(&sent[at..]).unwrap();
    fast_reader.join().unwrap();
    slow_reader.join().unwrap();
    let stats = server.wait_for("the count", |s| s.messages_in == 400);
    assert_eq!((stats.skipped, stats.closed(&Reason::OutputLimit)), (0, 0));
}

#[test]
fn thirty_members_get_each_of_two_hundred_messages_of_everyone_once_and_in_one_order() {
    let server = serve_room(NARROW, Broadcast::to_all);
    let members: Vec<TcpStream> = (0..30).map(|_| connect(server.addr())).collect();
    server.wait_for("all members", |s| s.accepted == 30);
    let threads: Vec<_> = members
        .into_iter()
        .enumerate()
        .map(|(who, mut member)| {
            let mut out = member.try_clone().unwrap();
            let writer = thread::spawn(move || {
                for n in 0..200u32 {
                    let message = [(who as u32).to_be_bytes(), n.to_be_bytes()].concat();
                    out.write_all(&wire(U32, &[message])).unwrap();
                }
            });
            let reader = thread::spawn(move || {
                let mut next = [0u32; 30];
                let mut all = Vec::new();
                for _ in 0..30 * 200 {
                    let message = read_message(&mut member).expect("the member was closed");
                    let number = |at: usize| u32::from_be_bytes(message[at..at + 4].try_into().unwrap());
                    let (from, n) = (number(0) as usize, number(4));
                    assert_eq!(n, next[from], "to {who}, from {from}");
                    next[from] += 1;
                    all.push((from, n));
                }
                (member, all)
            });
            (writer, reader)
        })
        .collect();
    let mut heard = Vec::new();
    let mut members = Vec::new();
    for (writer, reader) in threads {
        writer.join().unwrap();
        let (member, all) = reader.join().unwrap();
        members.push(member);
        heard.push(all);
    }
    assert!(heard.iter().all(|all| *all == heard[0]), "two members saw different orders");
    let stats = server.wait_for("the count", |s| s.messages_in == 6000);
    assert_eq!((stats.messages_out, stats.open), (180_000, 30));
}

#[test]
fn members_come_and_go_amid_messages_and_each_gets_what_was_sent_while_it_was_there() {
    let server = serve_room(NARROW, Broadcast::to_others);
    let mut sender = connect(server.addr());
    let mut members: Vec<(TcpStream, u64)> = Vec::new();
    for n in 0..150u64 {
        if n % 3 == 0 {
            // All earlier messages have been broadcast, so the new member does not receive them.
            server.wait_for("the messages", |s| s.messages_in == n);
            members.push((connect(server.addr()), n));
            let accepted = n / 3 + 2;
            server.wait_for("the member", |s| s.accepted == accepted);
        }
        sender.write_all(&wire(U32, &[n.to_be_bytes()])).unwrap();
        if n % 5 == 4 {
            let (mut member, since) = members.remove(n as usize % members.len());
            for expected in since..=n {
                assert_eq!(read_message(&mut member).expect("the member was closed"), expected.to_be_bytes());
            }
        }
    }
    for (mut member, since) in members {
        for expected in since..150 {
            assert_eq!(read_message(&mut member).expect("the member was closed"), expected.to_be_bytes());
        }
        member.shutdown(Shutdown::Write).unwrap();
        assert!(read_to_end(&mut member).is_empty(), "an unexpected message");
    }
}
