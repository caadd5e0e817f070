//! Other threads and a real reactor: every command arrives once or is returned, and a sleeping loop is woken.

use std::any::Any;
use std::io::Write;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use turnwheel::{Broadcast, ConnId, Context, Echo, Handle, HandleError, Handler, Limits, Net, Notes, Reactor, Reason};

use crate::support::{PATIENCE, connect, read_n, read_to_any_end, read_to_end, serve};

const THREADS: u32 = 8;

/// The number of the posting thread, and the number of its note.
type Count = (u32, u32);

/// Checks that each count is the next of its thread. Stops the reactor after the last.
struct Counter {
    next: [u32; THREADS as usize],
    each: u32,
    handle: Handle,
}

impl Counter {
    fn all(&self) -> u64 {
        self.next.iter().map(|&n| u64::from(n)).sum()
    }
}

impl Handler for Counter {
    type State = ();

    fn on_open(&mut self, _cx: &mut Context<'_>) {}

    fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut (), _data: &[u8]) {}

    fn on_note(&mut self, _net: &mut Net<'_>, note: Box<dyn Any + Send>) {
        let (thread, n) = *note.downcast::<Count>().unwrap();
        let next = &mut self.next[thread as usize];
        assert_eq!(n, *next, "of thread {thread}");
        *next += 1;
        if self.all() == u64::from(THREADS * self.each) {
            self.handle.stop().unwrap();
        }
    }
}

/// Posts one note, and retries until it is accepted. Returns how often it was refused.
fn post_until_taken(notes: &Notes<Count>, mut note: Count) -> u64 {
    let mut refused = 0;
    loop {
        match notes.post(note) {
            Ok(()) => return refused,
            Err(HandleError::Full(back)) => note = back,
            Err(HandleError::Gone(_)) => panic!("the reactor was dropped"),
        }
        refused += 1;
        thread::yield_now();
    }
}

/// Eight threads post, and every note arrives once and in the order of its thread. Returns how long it took, and how
/// often the queue was full.
fn post_from_all(each: u32, limits: Limits) -> (Duration, u64) {
    let mut reactor = Reactor::with_limits(limits).unwrap();
    reactor.set_panic_policy(turnwheel::PanicPolicy::Propagate);
    let handle = reactor.handle();
    let key = reactor.add(Counter { next: [0; THREADS as usize], each, handle }).unwrap();
    let notes = reactor.notes::<Count>(key).unwrap();
    let began = Instant::now();
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let notes = notes.clone();
            thread::spawn(move || (0..each).map(|n| post_until_taken(&notes, (thread, n))).sum::<u64>())
        })
        .collect();
    reactor.run().unwrap();
    let took = began.elapsed();
    let refused = threads.into_iter().map(|t| t.join().unwrap()).sum();
    assert_eq!(reactor.get(key).unwrap().next, [each; THREADS as usize]);
    assert_eq!(reactor.stats().commands, u64::from(THREADS * each));
    (took, refused)
}

#[test]
fn eight_threads_commands_arrive_once_each() {
    post_from_all(20_000, Limits::default());
}

#[test]
fn commands_arrive_once_each_over_a_queue_that_is_always_full() {
    let mut limits = Limits::default();
    (limits.commands, limits.commands_per_turn) = (3, 2);
    post_from_all(1_000, limits);
}

#[test]
#[ignore = "a benchmark: run by hand, in release mode"]
fn the_time_that_eight_million_commands_take_is_printed() {
    let each = 1_000_000;
    let (took, refused) = post_from_all(each, Limits::default());
    let all = f64::from(THREADS * each);
    println!("{all} commands in {took:?}: {:.0} a second; refused {refused} times", all / took.as_secs_f64());
}

/// Reports the latency of each note.
struct Late(Sender<Duration>);

impl Handler for Late {
    type State = ();

    fn on_open(&mut self, _cx: &mut Context<'_>) {}

    fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut (), _data: &[u8]) {}

    fn on_note(&mut self, _net: &mut Net<'_>, note: Box<dyn Any + Send>) {
        self.0.send(note.downcast::<Instant>().unwrap().elapsed()).unwrap();
    }
}

/// Posts notes to an idle loop, one at a time and each after a pause of `rest`. Returns their latencies.
fn wake_up(times: usize, rest: Duration) -> Vec<Duration> {
    let (told, late) = channel();
    let (ready, started) = channel();
    let server = serve(Limits::default(), move |reactor| {
        let key = reactor.add(Late(told))?;
        ready.send(reactor.notes::<Instant>(key).unwrap()).unwrap();
        Ok(vec![])
    });
    let notes = started.recv_timeout(PATIENCE).unwrap();
    let one = |_| {
        thread::sleep(rest);
        notes.post(Instant::now()).unwrap();
        late.recv_timeout(PATIENCE).expect("the loop was not woken")
    };
    let took = (0..times).map(one).collect();
    server.stop();
    took
}

#[test]
fn a_sleeping_loop_is_woken_every_time() {
    assert_eq!(wake_up(200, Duration::ZERO).len(), 200);
}

#[test]
#[ignore = "a benchmark: run by hand, in release mode"]
fn the_time_that_wake_ups_take_is_printed() {
    let mut took = wake_up(5_000, Duration::from_micros(500));
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100];
    println!("{} wake-ups: median {:?}, p99 {:?}, longest {:?}", took.len(), at(50), at(99), at(100));
}

/// Reports the id of each connection, and echoes.
struct Announce(Sender<ConnId>);

impl Handler for Announce {
    type State = ();

    fn on_open(&mut self, cx: &mut Context<'_>) {
        self.0.send(cx.id()).unwrap();
    }

    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
        cx.send(data);
    }

    fn on_note_to(&mut self, cx: &mut Context<'_>, _state: &mut (), note: Box<dyn Any + Send>) {
        let text: Box<String> = note.downcast().unwrap();
        cx.send(&*text);
    }
}

#[test]
fn connections_are_reached_from_another_thread() {
    let (told, open) = channel();
    let (ready, started) = channel();
    let server = serve(Limits::default(), move |reactor| {
        let key = reactor.add(Announce(told))?;
        ready.send((reactor.notes::<String>(key).unwrap(), reactor.net().group().unwrap())).unwrap();
        Ok(vec![reactor.listen_on("127.0.0.1:0", key)?])
    });
    let (notes, group) = started.recv_timeout(PATIENCE).unwrap();
    let handle = server.handle.clone();
    let mut clients: Vec<_> = (0..3).map(|_| connect(server.addr())).collect();
    let ids: Vec<ConnId> = (0..3).map(|_| open.recv_timeout(PATIENCE).unwrap()).collect();
    let members = ids.clone();
    handle.run(move |net| assert!(members.into_iter().all(|id| net.join_id(group, id)))).unwrap();
    handle.broadcast(group, "all ").unwrap();
    handle.send_to(ids[0], "one ").unwrap();
    notes.post_to(ids[0], "note".to_owned()).unwrap();
    assert_eq!(read_n(&mut clients[0], 12), b"all one note");
    assert_eq!(read_n(&mut clients[1], 4), b"all ");
    handle.close_id(ids[1]).unwrap();
    assert!(read_to_end(&mut clients[1]).is_empty());
    handle.abort_id(ids[2]).unwrap();
    let (data, end) = read_to_any_end(&mut clients[2]);
    assert!(data == b"all " && end.is_err(), "{data:?} {end:?}");
    clients.truncate(1);
    let stats = server.wait_for("two ends", |s| s.closed_total() == 2);
    assert_eq!((stats.closed(&Reason::Handler), stats.panics), (2, 0));
    assert_eq!((stats.commands, stats.commands_for_nobody), (6, 0));
}

#[test]
fn what_is_sent_to_an_id_that_has_gone_reaches_no_stranger() {
    let (told, open) = channel();
    let server = serve(Limits::default(), move |reactor| Ok(vec![reactor.listen("127.0.0.1:0", Announce(told))?]));
    let first = connect(server.addr());
    let gone = open.recv_timeout(PATIENCE).unwrap();
    drop(first);
    server.wait_for("its end", |s| s.closed_total() == 1);
    let mut stranger = connect(server.addr());
    let id = open.recv_timeout(PATIENCE).unwrap();
    assert_ne!(gone, id);
    server.handle.send_to(gone, "secret").unwrap();
    server.handle.close_id(gone).unwrap();
    server.handle.send_to(id, "for you").unwrap();
    assert_eq!(read_n(&mut stranger, 7), b"for you");
    stranger.write_all(b"echo").unwrap();
    assert_eq!(read_n(&mut stranger, 4), b"echo");
    assert_eq!(server.wait_for("the commands", |s| s.commands == 3).commands_for_nobody, 2);
}

#[test]
fn a_stop_passes_a_full_queue() {
    let mut limits = Limits::default();
    (limits.commands, limits.commands_per_turn) = (1, 1);
    let mut reactor = Reactor::with_limits(limits).unwrap();
    reactor.listen("127.0.0.1:0", Echo).unwrap();
    let handle = reactor.handle();
    handle.run(|_| ()).unwrap();
    let back = handle.close_id(ConnId::from_bits(7)).unwrap_err();
    assert_eq!(back, HandleError::Full(ConnId::from_bits(7)));
    assert!(back.to_string().contains("full"));
    handle.stop().unwrap();
    reactor.run().unwrap();
    handle.run(|_| ()).unwrap();
    assert!(!reactor.turn(Some(Duration::ZERO)).unwrap().more);
    assert_eq!(reactor.stats().commands, 2, "a reactor accepts commands after `run` has returned");
    drop(reactor);
    assert_eq!(handle.close_id(ConnId::from_bits(7)).unwrap_err(), HandleError::Gone(ConnId::from_bits(7)));
}

#[test]
fn a_reactor_that_is_dropped_while_threads_post_answers_each_of_them() {
    let mut reactor = Reactor::new().unwrap();
    let room = reactor.net().group().unwrap();
    reactor.listen("127.0.0.1:0", Broadcast::to_all().in_group(room)).unwrap();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let handle = reactor.handle();
            thread::spawn(move || {
                let mut taken: u64 = 0;
                loop {
                    match handle.broadcast(room, "news") {
                        Ok(()) => taken += 1,
                        Err(HandleError::Full(back)) => {
                            assert_eq!(&back[..], b"news");
                            thread::yield_now();
                        }
                        Err(HandleError::Gone(back)) => {
                            assert_eq!(&back[..], b"news");
                            return taken;
                        }
                    }
                }
            })
        })
        .collect();
    while reactor.stats().commands < 10_000 {
        reactor.turn(Some(Duration::from_millis(1))).unwrap();
    }
    let obeyed = reactor.stats().commands;
    drop(reactor);
    let taken: u64 = threads.into_iter().map(|t| t.join().unwrap()).sum();
    assert!(taken >= obeyed, "{obeyed} run of {taken} accepted");
}

#[test]
fn handles_go_to_other_threads_though_their_reactor_does_not() {
    fn goes<T: Clone + Send + Sync + std::fmt::Debug>() {}
    goes::<Handle>();
    goes::<Notes<std::cell::Cell<u8>>>();
}
