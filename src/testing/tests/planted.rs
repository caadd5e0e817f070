//! Who looks for mistakes is tested by mistakes: each one that the loop can be made to make must be found.

use super::cast::simulate;
use crate::sys::Planted;
use crate::testing::run::Asked;

/// Seeds within which each must be found.
const SEEDS: u64 = 2_000;

/// Finds a planted mistake; answers with which seed, and what was said.
fn find(bug: Planted) -> Option<(u64, String)> {
    let asked = Asked { bug: Some(bug), ..Asked::default() };
    (0..SEEDS).find_map(|seed| Some((seed, simulate(seed, asked).error?)))
}

#[test]
fn every_planted_mistake_is_found() {
    let mut missed = Vec::new();
    for &bug in Planted::ALL {
        match find(bug) {
            Some((seed, text)) => {
                println!("{bug:?}: seed {seed}: {}", text.chars().take(70).collect::<String>());
            }
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found within {SEEDS} seeds: {missed:?}");
}
