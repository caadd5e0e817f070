//! The integration tests: one module for each subject, all in one binary, which is linked once.

// Tests may panic, look at the clock and start threads; the library may not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod accepting;
mod bad_input;
mod closing;
mod connecting;
mod datagrams;
mod diagnostics;
#[cfg(unix)]
mod embedding;
mod framing;
mod groups;
mod handle;
mod handlers;
mod identity;
mod listening;
mod output;
mod python;
mod reading;
#[cfg(unix)]
mod sources;
mod stats;
mod stopping;
mod support;
#[cfg(feature = "testing")]
mod testing;
mod tidy;
#[cfg(unix)]
mod unix;
#[cfg(unix)]
mod unix_datagrams;
