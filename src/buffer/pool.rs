//! A cache of empty buffers, up to a limit, and the count of the memory that is in use.
//!
//! A buffer is taken, may grow, and is recycled. A connection without unsent output and buffered input holds no buffer,
//! so buffers change hands with every burst: the cache saves an allocation, and growing from small, each time.
//! Invariant: `output` and `input` are the capacities of the buffers taken and not recycled (shared blocks counted
//! once), and `idle <= limit`.

use std::rc::Rc;

/// The capacity of a new buffer. Chosen: enough for a few ordinary messages, and small enough for one per slow peer.
pub(crate) const SMALL: usize = 2 * 1024;
/// The capacity of a new buffer while many are in use. Chosen: a short message, and no more than what the allocator and
/// the outbox take besides.
const LEAST: usize = 64;
/// The largest buffer that is cached, and up to which small messages are coalesced. Chosen: long enough for an
/// efficient write; larger ones are rare, and caching them would hold memory that is seldom needed.
pub(crate) const LARGE: usize = 64 * 1024;

/// Bytes of empty buffers that stay cached while no buffer is in use, and in use from which on new buffers are small.
/// Chosen: 16 large buffers, enough to start a new burst without allocating.
const AT_REST: usize = 1024 * 1024;

/// What a buffer is used for. Output and input have separate limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Output,
    Input,
}

/// The buffers of one reactor.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Cached buffers below half of [`LARGE`].
    small: Vec<Vec<u8>>,
    /// Cached buffers from half of [`LARGE`] on.
    large: Vec<Vec<u8>>,
    /// Bytes of capacity in `small` and `large`.
    idle: usize,
    /// The most that `idle` may be.
    limit: usize,
    /// Bytes charged for output.
    output: usize,
    /// Bytes charged for input.
    input: usize,
}

impl Pool {
    pub(crate) const fn new(limit: usize) -> Self {
        Self { small: Vec::new(), large: Vec::new(), idle: 0, limit, output: 0, input: 0 }
    }

    /// Returns an empty buffer with at least this capacity, or `None` if there is no memory.
    ///
    /// Buffers of a usual size are reused. But a callback may send a few bytes to every connection: while many buffers
    /// are in use, further ones are as small as what they hold, or a small broadcast would exhaust the limit of all.
    pub(crate) fn take(&mut self, capacity: usize, purpose: Use) -> Option<Vec<u8>> {
        let many = *self.account(purpose) >= AT_REST;
        let least = if many { LEAST } else { SMALL };
        let kept = if many && capacity < SMALL {
            None
        } else if capacity <= SMALL {
            self.small.pop()
        } else if capacity <= LARGE {
            self.large.pop()
        } else {
            None
        };
        let mut buffer = kept.unwrap_or_default();
        self.idle -= buffer.capacity();
        if buffer.capacity() < capacity {
            buffer.try_reserve_exact(capacity.max(least)).ok()?;
        }
        self.charge(purpose, buffer.capacity());
        Some(buffer)
    }

    /// Takes a buffer back, and caches or frees it.
    pub(crate) fn recycle(&mut self, buffer: Vec<u8>, purpose: Use) {
        let capacity = buffer.capacity();
        if capacity == 0 {
            return;
        }
        self.uncharge(purpose, capacity);
        self.cache(buffer);
        if self.output == 0 && self.input == 0 {
            self.trim();
        }
    }

    /// Caches a buffer, or frees it if its size is unusual or the cache is full.
    fn cache(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        if !(SMALL..=LARGE).contains(&capacity) || self.idle + capacity > self.limit {
            return;
        }
        buffer.clear();
        self.idle += capacity;
        if capacity < LARGE / 2 {
            self.small.push(buffer);
        } else {
            self.large.push(buffer);
        }
    }

    /// Frees most of the cache. Called when no buffer is in use, after a burst, so that the allocator can return the
    /// memory to the system.
    fn trim(&mut self) {
        while self.idle > AT_REST {
            let Some(buffer) = self.large.pop().or_else(|| self.small.pop()) else { return };
            self.idle -= buffer.capacity();
        }
    }

    /// Grows `buffer` so that `more` bytes can be appended, and charges the growth. Returns `false` if there is no
    /// memory.
    pub(crate) fn grow(&mut self, buffer: &mut Vec<u8>, more: usize, purpose: Use) -> bool {
        let before = buffer.capacity();
        let done = buffer.try_reserve(more).is_ok();
        self.charge(purpose, buffer.capacity() - before);
        done
    }

    /// Drops one reference to a shared block. The last one recycles it.
    pub(crate) fn recycle_shared(&mut self, block: Rc<Vec<u8>>) {
        if let Ok(buffer) = Rc::try_unwrap(block) {
            self.recycle(buffer, Use::Output);
        }
    }

    /// Counts `bytes` as in use.
    pub(crate) fn charge(&mut self, purpose: Use, bytes: usize) {
        *self.account(purpose) += bytes;
    }

    /// Counts `bytes` as no longer in use.
    pub(crate) fn uncharge(&mut self, purpose: Use, bytes: usize) {
        let account = self.account(purpose);
        debug_assert!(*account >= bytes, "{bytes} B of {purpose:?} returned, but {account} B charged");
        *account = account.saturating_sub(bytes);
    }

    /// Returns the bytes charged for output.
    pub(crate) const fn output(&self) -> usize {
        self.output
    }

    /// Returns the bytes charged for input.
    pub(crate) const fn input(&self) -> usize {
        self.input
    }

    /// Returns the bytes of capacity in cached buffers.
    pub(crate) const fn idle(&self) -> usize {
        self.idle
    }

    const fn account(&mut self, purpose: Use) -> &mut usize {
        match purpose {
            Use::Output => &mut self.output,
            Use::Input => &mut self.input,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_and_given_back_is_counted() {
        let mut pool = Pool::new(100_000);
        let mut a = pool.take(10, Use::Output).unwrap();
        assert_eq!((pool.output(), pool.idle()), (a.capacity(), 0));
        assert!(pool.grow(&mut a, 60_000, Use::Output));
        assert_eq!(pool.output(), a.capacity());
        let b = pool.take(1_000_000, Use::Input).unwrap();
        assert_eq!(pool.input(), b.capacity());
        let a_capacity = a.capacity();
        pool.recycle(a, Use::Output);
        pool.recycle(b, Use::Input);
        assert_eq!((pool.output(), pool.input()), (0, 0));
        assert_eq!(pool.idle(), a_capacity, "the huge one was freed");
        let again = pool.take(50_000, Use::Input).unwrap();
        assert_eq!((again.len(), again.capacity()), (0, a_capacity));
        assert_eq!((pool.input(), pool.idle()), (a_capacity, 0));
    }

    #[test]
    fn after_a_burst_most_is_freed() {
        let mut pool = Pool::new(usize::MAX);
        let taken: Vec<_> = (0..100).map(|_| pool.take(LARGE, Use::Output).unwrap()).collect();
        let other = pool.take(1, Use::Input).unwrap();
        for b in taken {
            pool.recycle(b, Use::Output);
        }
        assert_eq!(pool.idle(), 100 * LARGE, "something is still in use");
        pool.recycle(other, Use::Input);
        assert!(pool.idle() <= AT_REST);
        // The counter agrees with the buffers that are there.
        let held: usize = pool.small.iter().chain(&pool.large).map(Vec::capacity).sum();
        assert_eq!((held, pool.output(), pool.input()), (pool.idle(), 0, 0));
        const { assert!(AT_REST < 100 * LARGE / 2, "most of the burst") };
    }

    #[test]
    fn no_more_is_kept_than_the_limit() {
        let mut pool = Pool::new(3 * SMALL);
        let taken: Vec<_> = (0..5).map(|_| pool.take(1, Use::Output).unwrap()).collect();
        for b in taken {
            pool.recycle(b, Use::Output);
        }
        assert_eq!(pool.idle(), 3 * SMALL);
    }
}
