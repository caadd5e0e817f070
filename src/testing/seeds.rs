//! Runs many seeds on all cores, detects runs that do not end, and reports the first seed that fails.
//!
//! Invariant: whatever happens in a run, even if a callback never returns, the test ends with a message that names
//! the seed.

// A callback that never returns can only be detected from another thread.
#![allow(clippy::disallowed_methods)]

use std::cell::Cell;
use std::ops::Range;
use std::panic;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Once};
use std::thread;
use std::time::Duration;

use super::run::{Outcome, RunOptions};
use crate::sys::sim::{Fault, Struck, fold, new_struck};

/// The interval at which workers are checked, and the number of consecutive checks that may find a worker at the same
/// seed. Chosen: a seed takes milliseconds, so 30 seconds without progress mean a hang even on a slow machine.
const LOOK: Duration = Duration::from_secs(10);
const LOOKS: u32 = 3;
/// One seed in this many runs twice, to compare. Chosen: it costs 2 % of the time.
const TWICE: u64 = 50;
/// The number of lines at the end of the trace to print for a seed that failed. Chosen to fit a screen or two.
const SHOWN: usize = 60;
/// From this number of turns, a failed run is too long to be repeated without each kind of fault. Chosen.
const LONG: usize = 20_000;
const IDLE: u64 = u64::MAX;

/// Runs one seed.
pub(crate) trait PlaySeed: Fn(u64, RunOptions) -> Outcome + Send + Sync + 'static {}
impl<F: Fn(u64, RunOptions) -> Outcome + Send + Sync + 'static> PlaySeed for F {}

/// The sums over many seeds.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) seeds: u64,
    pub(crate) turns: u64,
    pub(crate) struck: Struck,
    /// A hash over all seeds, independent of their order.
    pub(crate) hash: u64,
}

impl Summary {
    fn none() -> Self {
        Self { seeds: 0, turns: 0, struck: new_struck(), hash: 0 }
    }

    fn of(seed: u64, outcome: &Outcome) -> Self {
        let hash = fold(fold(0, seed), outcome.hash);
        Self { seeds: 1, turns: outcome.turns as u64, struck: outcome.struck, hash }
    }

    fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.turns += other.turns;
        self.hash = self.hash.wrapping_add(other.hash);
        for (sum, n) in self.struck.iter_mut().flatten().zip(other.struck.iter().flatten()) {
            *sum += n;
        }
    }
}

/// A message of a worker: it is done, or a seed failed.
enum Word {
    Done(Box<Summary>),
    Failed(u64),
}

/// Returns the seeds of the environment variables, or else `otherwise`; and whether it is a single seed.
///
/// # Panics
/// If `SIM_SEED` or `SIM_SEEDS` is not a valid seed or range.
pub(crate) fn seeds_from_env(otherwise: Range<u64>) -> (Range<u64>, bool) {
    let var = |name| std::env::var(name).ok();
    match parse(var("SIM_SEED").as_deref(), var("SIM_SEEDS").as_deref()) {
        Ok((Some(seeds), one)) => (seeds, one),
        Ok((None, _)) => (otherwise, false),
        Err(text) => panic!("{text}"),
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Parses the two variables: the range, if there is one, and whether it is a single seed.
fn parse(seed: Option<&str>, seeds: Option<&str>) -> Result<(Option<Range<u64>>, bool), String> {
    if let Some(text) = seed.map(str::trim) {
        let n = number(text).filter(|&n| n < IDLE);
        let n =
            n.ok_or_else(|| format!("SIM_SEED is {text:?}, which is not a seed: use a number such as 17 or 0x11"))?;
        return Ok((Some(n..n + 1), true));
    }
    let Some(text) = seeds.map(str::trim) else { return Ok((None, false)) };
    let range = text.split_once("..").and_then(|(a, b)| Some(number(a)?..number(b)?));
    let range = range.or_else(|| number(text).map(|n| 0..n)).filter(|r| !r.is_empty());
    let range = range.ok_or_else(|| {
        format!("SIM_SEEDS is {text:?}, which is not a range of seeds: use a count (20000) or a range (500..900)")
    })?;
    Ok((Some(range), false))
}

/// Runs all seeds of a range. A seed that fails is run again, to report more about it.
///
/// # Panics
/// If a seed fails or does not end; the message says how to reproduce it.
#[track_caller]
pub(crate) fn play_all(seeds: Range<u64>, alone: bool, play: impl PlaySeed) -> Summary {
    assert!(!seeds.is_empty(), "no seeds to play: {seeds:?}");
    let play = Arc::new(play);
    if alone { play_alone(seeds.start, &play, LOOK) } else { play_many(seeds, &play, LOOK) }
}

#[track_caller]
fn play_many(seeds: Range<u64>, play: &Arc<impl PlaySeed>, look: Duration) -> Summary {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let next = Arc::new(AtomicU64::new(seeds.start));
    let at: Vec<Arc<AtomicU64>> = (0..workers).map(|_| Arc::new(AtomicU64::new(IDLE))).collect();
    let (say, hear) = channel();
    for place in &at {
        let (play, next, place, say) = (Arc::clone(play), Arc::clone(&next), Arc::clone(place), say.clone());
        let end = seeds.end;
        thread::spawn(move || work(&*play, &next, end, &place, &say));
    }
    match watch(&hear, &at, look) {
        Ok(summary) => summary,
        Err(Trouble::Failed(seed)) => panic!("{}", tell(seed, &**play)),
        Err(Trouble::Stuck(seed)) => panic!("{}", stuck(seed, look)),
    }
}

/// Runs one seed, and prints the trace as it grows.
#[track_caller]
fn play_alone(seed: u64, play: &Arc<impl PlaySeed>, look: Duration) -> Summary {
    let options = RunOptions { live: true, ..RunOptions::default() };
    let (say, hear) = channel();
    let worker = Arc::clone(play);
    thread::spawn(move || drop(say.send(worker(seed, options))));
    match hear.recv_timeout(look * LOOKS) {
        Ok(outcome) => {
            let time = Duration::from_nanos(outcome.elapsed);
            println!("seed {seed}: {} turns, {time:?} of its time", outcome.turns);
            let same = outcome.error.is_none() && play(seed, RunOptions::default()).hash == outcome.hash;
            assert!(same, "{}", tell(seed, &**play));
            Summary::of(seed, &outcome)
        }
        Err(RecvTimeoutError::Disconnected) => panic!("seed {seed} ended without a result"),
        Err(RecvTimeoutError::Timeout) => panic!("{}", stuck(seed, look)),
    }
}

fn work(play: &impl PlaySeed, next: &AtomicU64, end: u64, place: &AtomicU64, say: &Sender<Word>) {
    let mut sum = Summary::none();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            break;
        }
        place.store(seed, Ordering::Relaxed);
        let outcome = play(seed, RunOptions::default());
        let twice = seed.is_multiple_of(TWICE);
        if outcome.error.is_some() || twice && play(seed, RunOptions::default()).hash != outcome.hash {
            // Stops all workers.
            next.store(end, Ordering::Relaxed);
            let _ = say.send(Word::Failed(seed));
            break;
        }
        sum.add(&Summary::of(seed, &outcome));
    }
    place.store(IDLE, Ordering::Relaxed);
    let _ = say.send(Word::Done(Box::new(sum)));
}

enum Trouble {
    Failed(u64),
    Stuck(u64),
}

/// Waits until all workers are done. Returns the lowest seed that failed, if any.
fn watch(hear: &Receiver<Word>, at: &[Arc<AtomicU64>], look: Duration) -> Result<Summary, Trouble> {
    let mut sum = Summary::none();
    let (mut done, mut failed) = (0, None::<u64>);
    let mut seen: Vec<(u64, u32)> = vec![(IDLE, 0); at.len()];
    while done < at.len() {
        match hear.recv_timeout(look) {
            Ok(Word::Done(part)) => {
                done += 1;
                sum.add(&part);
            }
            Ok(Word::Failed(seed)) => failed = Some(failed.map_or(seed, |other| other.min(seed))),
            Err(_) => {
                for (place, (seed, looks)) in at.iter().zip(&mut seen) {
                    let now = place.load(Ordering::Relaxed);
                    *looks = if now == *seed && now != IDLE { *looks + 1 } else { 0 };
                    *seed = now;
                }
                if let Some((seed, _)) = seen.iter().find(|(_, looks)| *looks >= LOOKS) {
                    return Err(failed.map_or(Trouble::Stuck(*seed), Trouble::Failed));
                }
            }
        }
    }
    failed.map_or(Ok(sum), |seed| Err(Trouble::Failed(seed)))
}

/// Returns the report on a seed that failed.
fn tell(seed: u64, play: &impl PlaySeed) -> String {
    hush(true);
    let text = tell_hushed(seed, play);
    hush(false);
    text
}

fn tell_hushed(seed: u64, play: &impl PlaySeed) -> String {
    let options = RunOptions { traced: true, ..RunOptions::default() };
    let traced = play(seed, options);
    let Some(error) = traced.error else { return differs(seed, &traced.trace, &play(seed, options).trace) };
    let fails_without =
        |&fault: &Fault| play(seed, RunOptions { without: Some(fault), ..RunOptions::default() }).error.is_some();
    let needed = Fault::ALL.iter().copied().filter(|f| traced.turns < LONG && !fails_without(f));
    let needed: Vec<Fault> = needed.collect();
    let takes = match needed.is_empty() {
        true => "The failure needs no single kind of fault.".to_owned(),
        false => format!("The failure needs each of these kinds of faults: {needed:?}"),
    };
    let from = traced.trace.len().saturating_sub(SHOWN);
    let trace = traced.trace[from..].join("\n");
    format!("seed {seed}: {error}\n{takes}\nEnd of the trace:\n{trace}\n{}", again(seed))
}

/// Returns the report on a seed whose two runs differ.
fn differs(seed: u64, one: &[String], other: &[String]) -> String {
    let parted = one.iter().zip(other).find(|(a, b)| a != b);
    let parted = parted.map_or("only in the bytes sent".to_owned(), |(a, b)| {
        format!("first where it was\n{a}\nand the second time\n{b}")
    });
    format!(
        "seed {seed}: N15: the run differs when repeated, {parted}\n\
         Does the handler use a HashMap, a clock or an address?\n{}",
        again(seed)
    )
}

thread_local! {
    static HUSHED: Cell<bool> = const { Cell::new(false) };
}

/// Suppresses the panic messages of this thread while a failed seed is run repeatedly.
fn hush(on: bool) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !HUSHED.get() {
                usual(info);
            }
        }));
    });
    HUSHED.set(on);
}

fn stuck(seed: u64, look: Duration) -> String {
    let time = look * LOOKS;
    format!("seed {seed}: a callback, or the check, has not returned for {time:?} (or is very slow)\n{}", again(seed))
}

/// Returns how to reproduce a seed.
fn again(seed: u64) -> String {
    let name = thread::current().name().unwrap_or("this test").to_owned();
    format!("To reproduce with all output, run {name} alone with SIM_SEED={seed} and -- --nocapture")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_asked_for_in_two_ways() {
        assert_eq!(parse(Some("17"), None), Ok((Some(17..18), true)));
        assert_eq!(parse(Some("0x11"), Some("no matter")), Ok((Some(17..18), true)));
        assert_eq!(parse(None, Some("20")), Ok((Some(0..20), false)));
        assert_eq!(parse(None, Some("5..9")), Ok((Some(5..9), false)));
        assert_eq!(parse(None, None), Ok((None, false)));
        for wrong in ["", "x", "-1", "1.5", "18446744073709551615"] {
            let text = parse(Some(wrong), None).unwrap_err();
            assert!(text.contains(&format!("{wrong:?}, which is not a seed")), "{text}");
        }
        for wrong in ["", "9..5", "5..5", "a..b", "0", ".."] {
            let text = parse(None, Some(wrong)).unwrap_err();
            assert!(text.contains("not a range of seeds"), "{text}");
        }
    }

    fn outcome(error: Option<&str>) -> Outcome {
        let error = error.map(str::to_owned);
        Outcome { error, struck: new_struck(), hash: 0, turns: 1, elapsed: 0, trace: Vec::new() }
    }

    /// Behaves like a run in which a callback never returns.
    fn never() -> Outcome {
        loop {
            thread::park();
        }
    }

    #[test]
    fn every_seed_is_played() {
        let summary = play_all(10..1010, false, |_, _| outcome(None));
        assert_eq!((summary.seeds, summary.turns), (1000, 1000));
    }

    #[test]
    #[should_panic(expected = "seed 77: bad luck")]
    fn the_lowest_seed_that_fails_is_told_of() {
        play_all(0..1000, false, |seed, _| outcome((seed == 77).then_some("bad luck")));
    }

    #[test]
    #[should_panic(expected = "The failure needs each of these kinds of faults: [EdgeLate]")]
    fn the_faults_that_it_takes_are_told() {
        play_all(5..6, false, |_, options| outcome((options.without != Some(Fault::EdgeLate)).then_some("late")));
    }

    #[test]
    #[should_panic(expected = "seed 3: a callback, or the check, has not returned for 150ms")]
    fn a_seed_that_does_not_end_is_told_of() {
        let play = |seed, _| if seed == 3 { never() } else { outcome(None) };
        play_many(0..10, &Arc::new(play), Duration::from_millis(50));
    }

    #[test]
    #[should_panic(expected = "seed 3: a callback, or the check, has not returned for 150ms")]
    fn a_seed_that_does_not_end_is_told_of_when_it_is_alone() {
        play_alone(3, &Arc::new(|_, _| never()), Duration::from_millis(50));
    }

    #[test]
    #[should_panic(expected = "seed 0: N15: the run differs when repeated")]
    fn what_differs_from_time_to_time_is_noticed() {
        let n = AtomicU64::new(0);
        play_all(0..10, false, move |_, _| Outcome { hash: n.fetch_add(1, Ordering::Relaxed), ..outcome(None) });
    }
}
