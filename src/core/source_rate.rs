//! A limit on the rate of datagrams from each source address.
//!
//! Invariant: the memory is the same however many sources there are. Sources that share a counter share its limit.

use std::hash::{BuildHasher, RandomState};

use crate::config::address::Address;
use crate::time::Time;

/// The number of counters. Chosen: 16 KiB, and of a few hundred sources at a time few share one.
const COUNTERS: usize = 1024;
const SECOND: u64 = 1_000_000_000;

/// The datagrams of each source in the current second.
#[derive(Debug)]
pub(crate) struct SourceRate {
    most: u32,
    /// Seeded at random, so that nobody can choose an address that shares the counter of somebody else.
    hasher: RandomState,
    /// The second, and the datagrams in it.
    counters: Box<[(u64, u32)]>,
}

impl SourceRate {
    pub(super) fn new(most: u32) -> Self {
        Self { most, hasher: RandomState::new(), counters: vec![(0, 0); COUNTERS].into() }
    }

    /// Counts a datagram. Returns whether it is within the limit.
    pub(crate) fn allow(&mut self, from: &Address, now: Time) -> bool {
        let second = now.0 / SECOND;
        let at = self.hasher.hash_one(from) as usize % COUNTERS;
        let Some((counted, n)) = self.counters.get_mut(at) else { return true };
        if *counted != second {
            (*counted, *n) = (second, 0);
        }
        *n = n.saturating_add(1);
        *n <= self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_has_its_own_limit_and_a_new_one_each_second() {
        let mut rate = SourceRate::new(3);
        let source = |port: u16| Address::Tcp(([192, 0, 2, 1], port).into());
        let mut allowed = |port, now| (0..10).filter(|_| rate.allow(&source(port), Time(now))).count();
        assert_eq!((allowed(1, 0), allowed(1, SECOND - 1), allowed(1, SECOND), allowed(1, 5 * SECOND)), (3, 0, 3, 3));
        let others: usize = (2..100).map(|port| allowed(port, 5 * SECOND)).sum();
        assert!(others > 3 * 80, "{others}: few share a counter");
    }
}
