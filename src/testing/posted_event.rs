//! A note that another thread of the simulated world sends, and that says when it arrives.
//!
//! Knows neither who sends it nor who receives it. Invariant: an errand that arrives is written down once, behind those
//! that arrived before.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// CallSite arrived, in that order: a thread and its serial number.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrivals(Arc<Mutex<VecDeque<(usize, u64)>>>);

impl Arrivals {
    fn record(&self, from: usize, serial: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back((from, serial));
    }

    /// Those since this was last asked.
    pub(super) fn take(&self) -> VecDeque<(usize, u64)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A note that says when it arrives.
#[derive(Debug)]
pub(crate) struct PostedEvent {
    pub(super) from: usize,
    pub(super) serial: u64,
    pub(super) arrivals: Arrivals,
}

impl PostedEvent {
    pub(crate) fn arrive(&self) {
        self.arrivals.record(self.from, self.serial);
    }
}
