//! A logger for tests: records lines of level `warn` and above, for threads that ask for them.
//!
//! Invariant: nothing is recorded for a thread that has not called [`lines`].

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

/// Returns the lines that this thread has logged since the last call.
pub(crate) fn lines() -> Vec<String> {
    let _ = log::set_logger(&Keeper);
    log::set_max_level(LevelFilter::Warn);
    LINES.replace(Some(Vec::new())).unwrap_or_default()
}
