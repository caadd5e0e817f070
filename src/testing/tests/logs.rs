//! N14: the log is rate-limited, whatever clients and the system do.

use std::collections::BTreeMap;

use super::scenarios::simulate;
use crate::testing::log_tests::lines;
use crate::testing::run::RunOptions;

const SEEDS: u64 = 500;
/// The permitted lines of one kind at once (the burst of `time::log_limit`), and one more for the second that has
/// begun.
const BURST: u64 = 10 + 1;

/// Returns the kind of a line: its words, without numbers and parentheses.
fn kind(line: &str) -> String {
    let words = line.split(" (").next().unwrap_or_default();
    words.chars().filter(|c| !c.is_ascii_digit()).take(60).collect()
}

#[test]
fn the_log_is_not_flooded() {
    let mut most = 0;
    for seed in 0..SEEDS {
        lines();
        let outcome = simulate(seed, RunOptions::default());
        assert_eq!(outcome.error, None);
        let mut kinds = BTreeMap::<String, u64>::new();
        for line in lines() {
            *kinds.entry(kind(&line)).or_default() += 1;
        }
        let allowed = BURST + outcome.elapsed / 1_000_000_000;
        let worst = kinds.into_iter().max_by_key(|(_, n)| *n);
        if let Some((kind, n)) = worst {
            most = most.max(n);
            assert!(n <= allowed, "N14: seed {seed}: {n} lines in {} ns: {kind}", outcome.elapsed);
        }
    }
    assert!(most >= 10, "nothing to hold back in {SEEDS} seeds: at most {most} lines of a kind");
}
