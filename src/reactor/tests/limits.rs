//! Tests of limits: any set of them is refused with its name, or works. And of input that announces more than it
//! brings.

use proptest::prelude::*;

use super::*;
use crate::builtin::{Echo, Framed};
use crate::codec::AnyCodec;
use crate::codec::oracle_tests::ask_oracle;
use crate::codec::shape_tests::{shapes, traffic};
use crate::config::limits::LimitsError;
use crate::testing::property_tests::hold;

/// Sets the limit number `place` (of 24) to `n`, in bytes, items or milliseconds.
fn set(limits: &mut Limits, place: usize, n: usize) {
    let time = Duration::from_millis(n as u64);
    let (limit, timeout) = match n {
        usize::MAX => (Limit::Unlimited, Limit::Unlimited),
        n => (Limit::At(n), Limit::At(time)),
    };
    match place {
        0 => limits.connections = limit,
        1 => limits.read_buffer = n,
        2 => limits.output_high = n,
        3 => limits.output_low = n,
        4 => limits.output_hard = limit,
        5 => limits.output_total = limit,
        6 => limits.input_kept = n,
        7 => limits.input_total = limit,
        8 => limits.idle_timeout = timeout,
        9 => limits.message_timeout = timeout,
        10 => limits.write_stall = timeout,
        11 => limits.linger_quiet = time,
        12 => limits.linger_total = time,
        13 => limits.linger_input = n,
        14 => limits.shutdown_grace = time,
        15 => limits.accepts_per_turn = n,
        16 => limits.write_per_turn = n,
        17 => limits.messages_per_turn = n,
        18 => limits.timeouts_per_turn = n,
        19 => limits.events_per_turn = n,
        20 => limits.accept_pause = time,
        21 => limits.groups = n,
        22 => limits.groups_per_connection = n,
        _ => limits.pooled = n,
    }
}

fn any_limits() -> impl Strategy<Value = Limits> {
    let edges = vec![0, 1, 2, 3, 17, 2_048, 2_049, 70_000, 1 << 20, 64 << 20, (64 << 20) + 1, usize::MAX];
    let change = (0..24usize, prop::sample::select(edges));
    let small = prop::bool::weighted(0.5);
    (small, prop::collection::vec(change, 0..6)).prop_map(|(small, changes)| {
        let mut limits = Limits::default();
        if small {
            // So small that it often contradicts other limits.
            for (place, n) in [(1, 1), (2, 2), (3, 1), (4, 3), (5, 3), (6, 1), (7, 1), (13, 1)] {
                set(&mut limits, place, n);
            }
        }
        changes.into_iter().for_each(|(place, n)| set(&mut limits, place, n));
        limits
    })
}

/// The rules for limits, written without the library.
fn at_fault(l: &Limits) -> Vec<&'static str> {
    let number = |limit| match limit {
        Limit::At(n) => n,
        Limit::Unlimited => usize::MAX,
    };
    let time = |limit| match limit {
        Limit::At(time) => time,
        Limit::Unlimited => Duration::MAX,
    };
    let (hard, total) = (number(l.output_hard), number(l.output_total));
    let most = 64 << 20;
    [
        (number(l.connections) == 0, "connections"),
        (l.read_buffer == 0 || l.read_buffer > most, "read_buffer"),
        (l.output_high == 0, "output_high"),
        (l.output_low >= l.output_high, "output_low"),
        (hard == 0 || hard < l.output_high.saturating_add(l.read_buffer.min(2048)), "output_hard"),
        (total == 0 || hard < usize::MAX && total < hard, "output_total"),
        (l.input_kept == 0, "input_kept"),
        (number(l.input_total) < l.input_kept.saturating_mul(2).saturating_add(4096), "input_total"),
        (time(l.idle_timeout).is_zero(), "idle_timeout"),
        (time(l.message_timeout).is_zero(), "message_timeout"),
        (time(l.write_stall).is_zero(), "write_stall"),
        (l.linger_quiet.is_zero(), "linger_quiet"),
        (l.linger_total.is_zero() || l.linger_total < l.linger_quiet, "linger_total"),
        (l.linger_input == 0, "linger_input"),
        (l.accepts_per_turn == 0, "accepts_per_turn"),
        (l.write_per_turn == 0, "write_per_turn"),
        (l.messages_per_turn == 0, "messages_per_turn"),
        (l.timeouts_per_turn == 0, "timeouts_per_turn"),
        (l.events_per_turn == 0 || l.events_per_turn > most, "events_per_turn"),
        (l.accept_pause.is_zero(), "accept_pause"),
        (l.groups == 0, "groups"),
        (l.groups_per_connection == 0, "groups_per_connection"),
    ]
    .iter()
    .filter_map(|(wrong, name)| wrong.then_some(*name))
    .collect()
}

fn name_of(error: &LimitsError) -> &'static str {
    match error {
        LimitsError::Zero(name) | LimitsError::ZeroLimit(name) => name,
        LimitsError::TooLarge { name, .. } | LimitsError::Contradiction { name, .. } => name,
    }
}

#[test]
fn any_limits_are_refused_by_name_or_good_enough_to_serve_with() {
    hold(1_500, (any_limits(), 1..400usize, 1..50usize), |(limits, len, window)| {
        let faults = at_fault(&limits);
        if let Err(error) = limits.check() {
            let named = name_of(&error).split(' ').next().unwrap();
            assert!(faults.contains(&named) && error.to_string().contains(named), "{error}: {faults:?}");
            return;
        }
        assert!(faults.is_empty(), "{faults:?}");
        // Unsent output is counted in whole buffers: if the total has no space for one, nothing may be queued.
        let may_wait = limits.output_total.get() >= limits.output_hard.get().min(len) + 128 * 1024;
        if !may_wait && limits.write_per_turn < len {
            return;
        }
        let mut rig = rig(limits, Echo);
        let a = rig.connect();
        if may_wait {
            rig.sys().set_window(a, 0);
        }
        let data = bytes(len);
        rig.say(a, &data);
        while may_wait && rig.inner.sys.peers[a].got.len() < len {
            rig.open_window(a, window);
            assert_eq!(rig.inner.sys.peers[a].closed, None, "cut");
        }
        assert_eq!(rig.inner.sys.peers[a].got, data);
        rig.fin(a);
        assert_eq!((rig.sys().open_streams(), rig.closed(&Reason::PeerClosed)), (0, 1));
    });
}

/// Records each message.
#[derive(Default)]
struct Ear(Vec<String>);

impl Handler for Ear {
    type State = ();

    fn on_open(&mut self, _cx: &mut Context<'_>) {}

    fn on_data(&mut self, _cx: &mut Context<'_>, _state: &mut (), data: &[u8]) {
        self.0.push(data.escape_ascii().to_string());
    }
}

fn listener(codec: AnyCodec) -> Rig {
    let limits = Limits {
        input_kept: usize::MAX,
        input_total: Limit::Unlimited,
        output_hard: Limit::Unlimited,
        output_total: Limit::Unlimited,
        ..limits()
    };
    Rig::new(limits, Generations::new(), Framed::new(codec, Ear::default()), |key| {
        Box::new(move |inner| {
            let framed = inner.dispatcher.get_mut(key).unwrap();
            std::mem::take(&mut framed.handler_mut().0)
        })
    })
}

/// However a peer's bytes arrive and whatever length they announce: the messages of the oracle, memory only for what
/// has arrived, and a close at the first error.
#[test]
fn any_bytes_are_the_oracles_messages_and_cost_no_more_memory_than_they_are() {
    let pieces = prop::collection::vec(1..100usize, 1..20);
    hold(300, (shapes(), traffic(), pieces), |(shape, traffic, pieces)| {
        let wire = traffic.spoken(&shape);
        let mut rig = listener(shape.codec());
        let a = rig.connect();
        let (mut at, mut sizes) = (0, pieces.iter().cycle());
        while at < wire.len() {
            let end = wire.len().min(at + sizes.next().unwrap());
            rig.say(a, &wire[at..end]);
            at = end;
            assert!(rig.stats().input_held as usize <= 2 * at + 64 * 1024, "{}", rig.stats());
        }
        let expected = ask_oracle(&wire, |rest| shape.oracle(rest));
        let messages: Vec<String> = expected.messages.iter().map(|m| m.escape_ascii().to_string()).collect();
        assert_eq!(rig.log(), messages);
        assert_eq!(rig.stats().discarded as usize, expected.skipped.len());
        assert_eq!(rig.sys().peers[a].got_fin, expected.error.is_some());
        if expected.error.is_some() {
            rig.say(a, &wire);
            assert_eq!(rig.log(), [""; 0], "after an error");
            rig.fin(a);
            let [long, bad] = [Reason::FrameTooLong { len: 0, max: 0 }, Reason::BadFrame("")];
            assert_eq!(rig.closed(&long) + rig.closed(&bad), 1);
        }
    });
}

/// Limits with 4 MiB for all output.
fn little_for_all() -> Limits {
    Limits { output_total: Limit::At(4 << 20), ..limits() }
}

#[test]
fn a_few_bytes_for_each_of_many_healthy_connections_cut_nobody() {
    let mut rig = puppet_within(little_for_all(), echo);
    let all: Vec<usize> = (0..5_000).map(|_| rig.sys().connect(0)).collect();
    rig.settle();
    for key in 0..3 {
        rig.net_of_handler().set_tick(MS, key);
        rig.pass(2 * MS);
    }
    assert_eq!((rig.stats().open, rig.closed(&Reason::TotalOutputLimit)), (5_000, 0));
    assert!(all.iter().all(|&peer| rig.heard(peer) == "tickticktick"));
}

#[test]
fn for_want_of_memory_who_takes_nothing_goes_before_who_would_take_it() {
    let mut rig = puppet_within(little_for_all(), echo);
    let all: Vec<usize> = (0..10).map(|_| rig.connect()).collect();
    let (stuck, healthy) = all.split_at(2);
    for &peer in stuck {
        rig.sys().set_window(peer, 0);
        let id = rig.id(peer);
        rig.net().send_to(id, bytes(300_000));
    }
    rig.settle();
    // Between turns, more than fits.
    for &peer in healthy {
        let id = rig.id(peer);
        rig.net().send_to(id, bytes(480_000));
    }
    rig.settle();
    assert_eq!((rig.stats().open, rig.closed(&Reason::TotalOutputLimit)), (9, 1));
    assert!(healthy.iter().all(|&peer| rig.heard(peer).len() == 480_000));
}

#[test]
fn what_callbacks_send_to_others_is_written_before_it_is_counted_against_anybody() {
    let mut rig = puppet_within(little_for_all(), |cx, on| {
        if let On::Data(_) = on {
            let reader = cx.connections().find(|reader| reader.slot + 30 == cx.id().slot).expect("one of the first");
            cx.send_to(reader, bytes(200_000));
        }
    });
    let all: Vec<usize> = (0..60).map(|_| rig.connect()).collect();
    let (readers, speakers) = all.split_at(30);
    rig.all_send(speakers, b"x");
    rig.settle();
    assert_eq!((rig.stats().open, rig.closed(&Reason::TotalOutputLimit)), (60, 0));
    assert!(readers.iter().all(|&peer| rig.heard(peer).len() == 200_000));
}
