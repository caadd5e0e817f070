//! Simulations of the crate's own handlers, and tests of the simulator itself.
//!
//! `SIM_SEEDS=20000` sets the number of seeds that [`seeds_of_all_kinds`] runs; `SIM_SEED=17` selects a single one.

mod actor;
mod connect_model;
mod link_model;
mod logs;
mod relay;
mod scale;
mod scenarios;
mod timer_model;

use scenarios::simulate;

use super::run::RunOptions;
use super::seeds::{Summary, play_all, seeds_from_env};
use crate::sys::sim::{Fault, State};

/// The default number of seeds. Chosen: an unoptimized build runs them in a few seconds.
const SEEDS: u64 = 3_000;
/// From this number of seeds, every possible fault must have occurred. Chosen: rare combinations need that many.
const ENOUGH: u64 = 20_000;

#[test]
fn seeds_of_all_kinds() {
    let (seeds, alone) = seeds_from_env(0..SEEDS);
    let summary = play_all(seeds, alone, simulate);
    println!("{} seeds, {} turns", summary.seeds, summary.turns);
    print_struck(&summary);
    let empty = empty_cells(&summary);
    assert!(summary.seeds < ENOUGH || empty.is_empty(), "never happened: {empty:?}");
}

/// Prints a hash over everything that the reactor does in a range of seeds, with strict and with epoll's edges. A
/// change that is not meant to change behavior must leave both unchanged:
///
/// `SIM_SEEDS=20000 cargo test --profile sim --lib hash_of_all_seeds -- --ignored --nocapture`
#[test]
#[ignore = "it prints a hash, to be compared with another one"]
fn hash_of_all_seeds() {
    let (seeds, _) = seeds_from_env(0..SEEDS);
    for strict in [false, true] {
        let play = move |seed, options| simulate(seed, RunOptions { strict: Some(strict), ..options });
        let summary = play_all(seeds.clone(), false, play);
        println!("seeds {seeds:?}, strict {strict}: {:#018x}, {} turns", summary.hash, summary.turns);
    }
}

/// Seeds that have found a bug of the reactor. A seed gives a different run whenever the random draws change; the
/// scenes themselves are in `reactor/tests/regressions.rs`.
const FOUND: [(u64, &str); 4] = [
    (8_950, "the time to catch up after an absence was given again and again"),
    (339, "a peer was closed as idle, or its message as unfinished, though it had unread input"),
    (53_610, "who was left out of a broadcast was cut for it"),
    (47_195, "a close that had not been tried was taken for a stalled write"),
];

#[test]
fn seeds_that_have_found_something() {
    for (seed, what) in FOUND {
        assert_eq!(simulate(seed, RunOptions::default()).error, None, "seed {seed} found that {what}");
    }
}

/// Prints the table of fault kinds by connection state: how often each occurred.
fn print_struck(summary: &Summary) {
    let head: String = State::ALL.iter().map(|s| format!("{:>11}", format!("{s:?}"))).collect();
    println!("{:<16}{head}", "");
    for &fault in Fault::ALL {
        let cell = |s: &State| match (summary.struck[fault as usize][*s as usize], is_possible(fault, *s)) {
            (0, false) => format!("{:>11}", "-"),
            (n, _) => format!("{n:>11}"),
        };
        let row: String = State::ALL.iter().map(cell).collect();
        println!("{:<16}{row}", format!("{fault:?}"));
    }
}

fn empty_cells(summary: &Summary) -> Vec<(Fault, State)> {
    let cells = Fault::ALL.iter().flat_map(|&f| State::ALL.map(|s| (f, s)));
    cells.filter(|&(f, s)| is_possible(f, s) && summary.struck[f as usize][s as usize] == 0).collect()
}

/// Returns `true` if a fault can occur in a state at all.
fn is_possible(fault: Fault, state: State) -> bool {
    use Fault as F;
    use State as S;
    match fault {
        F::ReadShort | F::ReadBlocked | F::ReadBroken => matches!(state, S::Open | S::Lingering),
        F::WriteShort | F::WriteBlocked | F::WriteNoBuffers | F::WriteBroken => {
            matches!(state, S::Open | S::Paused | S::ReadClosed | S::Flushing)
        }
        F::ShutdownFails => matches!(state, S::Open | S::ReadClosed | S::Flushing),
        F::EdgeLate | F::EdgeDouble | F::EdgeSplit | F::EdgeNoise => state != S::None,
        F::PeerReset | F::PeerHangUp | F::Network | F::PeerFreezes => state != S::None,
        F::PeerUrgent => !matches!(state, S::None | S::ReadClosed),
        F::AddFails => matches!(state, S::None | S::Connecting),
        F::DialFails | F::DialSlow | F::DialSilent | F::DialSpurious => state == S::Connecting,
        _ => state == S::None,
    }
}
