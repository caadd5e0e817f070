//! A logger for tests: the lines of `warn` and above, of those threads that ask for them.
//!
//! Invariant: nothing is kept for a thread that has not asked.

use std::cell::Cell;

use log::{Level, LevelFilter, Log, Metadata, Record};

thread_local! {
    static LINES: Cell<Option<Vec<String>>> = const { Cell::new(None) };
}

struct Keeper;

impl Log for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if let Some(mut lines) = LINES.take() {
            if self.enabled(record.metadata()) {
                lines.push(record.args().to_string());
            }
            LINES.set(Some(lines));
        }
    }

    fn flush(&self) {}
}

/// The lines that this thread has logged since it last asked.
pub(crate) fn lines() -> Vec<String> {
    let _ = log::set_logger(&Keeper);
    log::set_max_level(LevelFilter::Warn);
    LINES.replace(Some(Vec::new())).unwrap_or_default()
}
