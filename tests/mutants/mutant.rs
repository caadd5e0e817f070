//! Which mutant runs. `tests/mutants.py` puts this file beside the sources that it has patched; no other build has it.

use std::sync::LazyLock;

static ACTIVE: LazyLock<String> = LazyLock::new(|| std::env::var("MUTANT").unwrap_or_default());

/// Whether the mutant of this name is to run: the one that the environment variable `MUTANT` names.
pub(crate) fn is(name: &str) -> bool {
    *ACTIVE == name
}
