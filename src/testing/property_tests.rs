//! The runner of property tests: a property must hold for many random values, and the smallest counterexample is shown.
//!
//! `PROPTEST_CASES=2560` tries ten times as many values of each property; `PROPTEST_RNG_SEED=7` tries others. Nothing
//! is written to disk. Invariant: without these variables, every run tries the same values.

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};

/// Checks that `property` does not panic for any of `cases` values.
pub(crate) fn hold<S: Strategy>(cases: u32, values: S, property: impl Fn(S::Value)) {
    let default = Config::default();
    let many = u64::from(cases) * u64::from(default.cases) / 256;
    let config = Config {
        cases: u32::try_from(many.max(1)).unwrap(),
        rng_seed: match default.rng_seed {
            RngSeed::Random => RngSeed::Fixed(1),
            fixed @ RngSeed::Fixed(_) => fixed,
        },
        failure_persistence: None,
        max_shrink_iters: 5_000,
        ..default
    };
    let checked = TestRunner::new(config).run(&values, |value| {
        property(value);
        Ok(())
    });
    match checked {
        Ok(()) => {}
        Err(TestError::Fail(why, value)) => panic!("{why}\nminimal failing input: {value:?}"),
        Err(TestError::Abort(why)) => panic!("no values to try: {why}"),
    }
}

#[test]
#[should_panic(expected = "minimal failing input: 1000")]
fn the_smallest_value_that_breaks_a_property_is_shown() {
    hold(256, 0..1_000_000u32, |n| assert!(n < 1000));
}
