//! Tests of handlers that do everything at once, and of handlers that panic.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use super::*;
use crate::config::limits::PanicPolicy;
use crate::id::Group;
use crate::sys::CloseHow;

/// Pseudorandom numbers with a fixed seed.
struct Dice(u64);

impl Dice {
    const fn roll(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Does random things to random connections in every callback. Counts opens and closes, and checks that callbacks do
/// not nest.
struct Chaos {
    dice: Dice,
    groups: Vec<Group>,
    ids: Vec<ConnId>,
    open: Rc<Cell<i64>>,
    inside: Rc<Cell<bool>>,
}

impl Chaos {
    fn rage(&mut self, net: &mut Net<'_>) {
        assert!(!self.inside.replace(true), "a callback inside a callback");
        for _ in 0..self.dice.roll(4) {
            let who = self.ids.get(self.dice.roll(self.ids.len().max(1) as u64) as usize).copied();
            let which = self.groups.get(self.dice.roll(self.groups.len().max(1) as u64) as usize).copied();
            let (Some(id), Some(group)) = (who, which) else {
                self.groups.extend(net.group());
                continue;
            };
            let n = self.dice.roll(300) as usize;
            match self.dice.roll(16) {
                0..3 => drop(net.send_to(id, bytes(n))),
                3 => drop(net.send_bytes_to(id, bytes(n * 20).into())),
                4..7 => drop(net.broadcast(group, bytes(n))),
                7..10 => drop(net.join_id(group, id)),
                10 => drop(net.leave_id(group, id)),
                11 => drop(net.close_id(id)),
                12 if n < 60 => drop(net.abort_id(id)),
                13 => drop(net.pause_id(id)),
                14 => drop(net.resume_id(id)),
                15 if n < 30 => drop(net.drop_group(group)),
                _ if self.groups.len() < 8 => {
                    let policy = [crate::SlowMember::Cut, crate::SlowMember::Skip, crate::SlowMember::PauseSenders];
                    self.groups.extend(net.group_with(policy[n % 3]));
                }
                _ => {}
            }
        }
        self.inside.set(false);
    }
}

impl Handler for Chaos {
    type State = u32;

    fn on_open(&mut self, cx: &mut Context<'_>) -> u32 {
        self.open.set(self.open.get() + 1);
        self.ids.push(cx.id());
        self.rage(cx);
        7
    }

    fn on_data(&mut self, cx: &mut Context<'_>, state: &mut u32, data: &[u8]) {
        assert_eq!(*state, 7);
        assert!(cx.is_open(cx.id()));
        self.rage(cx);
        match self.dice.roll(6) {
            0 => cx.keep(data.len() / 2),
            1 => cx.defer(data.len() / 2),
            2 => drop(cx.send(&data[data.len() / 3..])),
            3 => cx.shutdown_write(),
            _ => {}
        }
    }

    fn on_end(&mut self, cx: &mut Context<'_>, _state: &mut u32) {
        self.rage(cx);
        cx.close();
    }

    fn on_drain(&mut self, cx: &mut Context<'_>, _state: &mut u32) {
        self.rage(cx);
    }

    fn on_shutdown(&mut self, cx: &mut Context<'_>, _state: &mut u32) {
        self.rage(cx);
    }

    fn on_close(&mut self, net: &mut Net<'_>, state: u32, closed: &Closed) {
        assert_eq!(state, 7);
        self.open.set(self.open.get() - 1);
        self.ids.retain(|&id| id != closed.who || net.stats().turns.is_multiple_of(2));
        self.rage(net);
    }
}

#[test]
fn a_handler_may_do_anything_in_any_callback() {
    for seed in 0..150 {
        let open = Rc::new(Cell::new(0));
        let chaos = Chaos {
            dice: Dice(seed),
            groups: Vec::new(),
            ids: Vec::new(),
            open: Rc::clone(&open),
            inside: Rc::default(),
        };
        let mut rig = rig(Limits { connections: Limit::At(12), messages_per_turn: 3, ..tight_limits() }, chaos);
        rig.inner.dispatcher.set_panic_policy(PanicPolicy::Propagate);
        rig.sys().strict = seed % 2 == 0;
        let mut dice = Dice(seed ^ 0xabcd);
        let mut peers = Vec::new();
        for _ in 0..60 {
            let some = |dice: &mut Dice, peers: &[usize]| peers[dice.roll(peers.len() as u64) as usize];
            if peers.is_empty() || dice.roll(4) == 0 {
                peers.push(rig.sys().connect(0));
            }
            let p = some(&mut dice, &peers);
            match dice.roll(8) {
                0 => rig.sys().fin(p),
                1 => rig.sys().reset(p),
                2 => rig.sys().set_window(p, 0),
                3 => rig.sys().set_window(p, 1 << 30),
                _ => rig.sys().send(p, &bytes(1 + dice.roll(200) as usize)),
            }
            rig.turn();
            let stats = rig.stats();
            assert_eq!(open.get(), stats.open as i64, "seed {seed}: {stats}");
        }
        rig.inner.update_clock();
        rig.inner.begin_shutdown(SECOND);
        rig.pass(20 * SECOND);
        assert_eq!((open.get(), rig.stats().open, rig.sys().open_streams()), (0, 0, 0), "seed {seed}");
        assert_eq!((rig.stats().output_held, rig.stats().input_held), (0, 0), "seed {seed}");
    }
}

#[test]
fn a_cascade_of_closes_is_worked_off_with_polls_between() {
    let window: Rc<Cell<Option<Group>>> = Rc::default();
    let (here, there) = (Rc::clone(&window), window);
    let act = move |cx: &mut Context<'_>, on: On<'_>| {
        let group = here.get().unwrap_or_else(|| cx.group().unwrap());
        here.set(Some(group));
        if on == On::Open {
            cx.join(group);
        }
    };
    let mut rig = puppet_to_the_last(limits(), act, move |net, _| {
        let next = net.members(there.get().unwrap()).next();
        next.map(|id| net.abort_id(id));
    });
    let all: Vec<usize> = (0..500).map(|_| rig.connect()).collect();
    rig.calls();
    rig.reset(all[0]);
    let calls = rig.calls();
    assert_eq!(rig.stats().open, 0);
    assert!(calls.iter().filter(|c| matches!(c, Call::Poll(_))).count() >= 500);
    assert!(calls.len() < 5 * 500, "{}", calls.len());
}

/// Panics in the given callback.
struct Bomb {
    at: &'static str,
}

struct Splinter(bool);

impl Drop for Splinter {
    fn drop(&mut self) {
        assert!(!self.0, "in drop");
    }
}

impl Bomb {
    fn tick(&self, at: &str) {
        assert_ne!(self.at, at, "as told");
    }
}

impl Handler for Bomb {
    type State = Splinter;

    fn on_open(&mut self, cx: &mut Context<'_>) -> Splinter {
        let first = cx.id().slot == 0;
        if first {
            self.tick("open");
        }
        Splinter(first && self.at == "drop")
    }

    fn on_data(&mut self, cx: &mut Context<'_>, _state: &mut Splinter, data: &[u8]) {
        cx.send(data);
        if cx.id().slot == 0 && data == b"boom" {
            self.tick("data");
        }
    }

    fn on_end(&mut self, cx: &mut Context<'_>, _state: &mut Splinter) {
        self.tick("end");
        cx.close();
    }

    fn on_drain(&mut self, _cx: &mut Context<'_>, _state: &mut Splinter) {
        self.tick("drain");
    }

    fn on_shutdown(&mut self, cx: &mut Context<'_>, _state: &mut Splinter) {
        if cx.id().slot == 0 {
            self.tick("shutdown");
        }
        cx.close();
    }

    fn on_close(&mut self, _net: &mut Net<'_>, _state: Splinter, closed: &Closed) {
        if closed.who.slot == 0 {
            self.tick("close");
        }
    }
}

/// Triggers the callback that panics, on the first connection.
fn provoke(rig: &mut Rig, at: &str, a: usize) {
    match at {
        "open" => {}
        "data" => rig.say(a, "boom"),
        "drain" => {
            rig.sys().set_window(a, 0);
            rig.say(a, bytes(5000));
            rig.open_window(a, 100_000);
        }
        "shutdown" => {
            rig.inner.begin_shutdown(SECOND);
            rig.settle();
        }
        _ => rig.fin(a),
    }
}

const CALLBACKS: [&str; 7] = ["open", "data", "end", "drain", "shutdown", "close", "drop"];

#[test]
fn a_callback_that_panics_loses_its_connection_and_no_other() {
    for at in CALLBACKS {
        let mut rig = rig(tight_limits(), Bomb { at });
        let (a, b) = (rig.sys().connect(0), rig.sys().connect(0));
        rig.settle();
        provoke(&mut rig, at, a);
        assert_eq!(rig.stats().panics, 1, "{at}");
        let after = at == "close" || at == "drop";
        let how = if after { CloseHow::Graceful } else { CloseHow::Reset };
        assert_eq!(rig.sys().peers[a].closed, Some(how), "{at}");
        assert_eq!(rig.closed(&Reason::HandlerPanic), u64::from(!after), "{at}");
        if at == "shutdown" {
            rig.fin(b);
            assert_eq!(rig.sys().open_streams(), 0);
            continue;
        }
        rig.say(b, "alive");
        assert_eq!(rig.heard(b), "alive", "{at}");
        assert_eq!(rig.sys().open_streams(), 1);
    }
}

#[test]
fn ten_thousand_panics_leak_nothing() {
    let mut rig = rig(tight_limits(), Bomb { at: "data" });
    for _ in 0..10_000 {
        let a = rig.connect();
        rig.say(a, "boom");
        // The script keeps what it has seen, and looks at all of it in each turn.
        rig.sys().peers.clear();
        rig.calls();
    }
    assert_eq!((rig.stats().panics, rig.stats().open), (10_000, 0));
    assert_eq!((rig.stats().output_held, rig.stats().input_held), (0, 0));
    assert_eq!(rig.inner.dispatcher.core.conns.iter().count(), 0);
}

#[test]
fn with_the_other_policy_a_panic_goes_on_to_whoever_turns_the_loop() {
    for at in CALLBACKS {
        let mut rig = rig(tight_limits(), Bomb { at });
        rig.inner.dispatcher.set_panic_policy(PanicPolicy::Propagate);
        let a = rig.sys().connect(0);
        let told = catch_unwind(AssertUnwindSafe(|| {
            rig.settle();
            provoke(&mut rig, at, a);
        }));
        assert!(told.is_err(), "{at}");
        assert_eq!(rig.stats().panics, 0);
    }
}

#[test]
fn a_connection_is_among_the_open_ones_from_its_first_callback_on() {
    let mut rig = puppet(|cx, on| {
        if let On::Open | On::Data(_) = on {
            let n = cx.connections().count();
            cx.send(n.to_string());
        }
    });
    let (a, b) = (rig.connect(), rig.connect());
    rig.say(a, "?");
    assert_eq!((rig.heard(a), rig.heard(b)), ("12".to_owned(), "2".to_owned()));
}

#[test]
fn a_reactor_is_dropped_whole_though_everything_in_it_panics_when_dropped() {
    use std::rc::Rc;

    /// Panics when dropped. The count shows how many there are.
    struct Fragile(#[allow(dead_code, reason = "counted")] Rc<()>);
    impl Drop for Fragile {
        fn drop(&mut self) {
            panic!("in drop, as the test wants it");
        }
    }
    struct Owner(Fragile);
    impl Handler for Owner {
        type State = Fragile;
        fn on_open(&mut self, _cx: &mut Context<'_>) -> Fragile {
            Fragile(Rc::clone(&self.0.0))
        }
        fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut Fragile, _data: &[u8]) {}
    }
    let count = Rc::new(());
    let mut rig = rig(limits(), Owner(Fragile(Rc::clone(&count))));
    for _ in 0..3 {
        rig.connect();
    }
    let other = rig.inner.dispatcher.add(Owner(Fragile(Rc::clone(&count))), true).unwrap();
    rig.listen(other);
    let gone = std::sync::Arc::new(());
    struct Shared(#[allow(dead_code, reason = "counted")] std::sync::Arc<()>);
    impl Drop for Shared {
        fn drop(&mut self) {
            panic!("in drop, as the test wants it");
        }
    }
    for _ in 0..2 {
        let shared = Shared(std::sync::Arc::clone(&gone));
        rig.inner.handle().run(move |_| drop(shared)).unwrap();
    }
    assert_eq!((Rc::strong_count(&count), std::sync::Arc::strong_count(&gone)), (1 + 3 + 2, 3));
    drop(rig);
    assert_eq!((Rc::strong_count(&count), std::sync::Arc::strong_count(&gone)), (1, 1));
}
