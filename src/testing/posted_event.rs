//! A note sent by a simulated thread, which records its own arrival.
//!
//! Invariant: an arrival is recorded once, after those that arrived before.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// The arrivals in order: the sending thread and the serial number.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrivals(Arc<Mutex<VecDeque<(usize, u64)>>>);

impl Arrivals {
    fn record(&self, from: usize, serial: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back((from, serial));
    }

    /// Takes the arrivals since the last call.
    pub(super) fn take(&self) -> VecDeque<(usize, u64)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A note that records its arrival.
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
