//! Empty buffers, kept for reuse up to a limit, and the count of the memory that is in use.
//!
//! Knows nothing of what is written into the buffers. A buffer is taken, grows, and is given back; a connection that
//! holds no byte holds no buffer. Invariant: `output` and `input` are the capacities of all buffers taken and not given
//! back (with shared blocks counted once), and `idle <= limit`.

use std::rc::Rc;

/// Capacity of a fresh buffer: what an ordinary message or a few need.
pub(crate) const SMALL: usize = 2 * 1024;
/// Buffers that grew beyond this are freed, not kept; nothing is coalesced beyond it either.
pub(crate) const LARGE: usize = 64 * 1024;

/// Empty buffers kept while nothing is in use.
const AT_REST: usize = 1024 * 1024;

/// What a buffer is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Output,
    Input,
}

/// The reactor's buffers.
#[derive(Debug)]
pub(crate) struct Pool {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
    /// Bytes of capacity in `small` and `large`.
    idle: usize,
    limit: usize,
    output: usize,
    input: usize,
}

impl Pool {
    pub(crate) const fn new(limit: usize) -> Self {
        Self { small: Vec::new(), large: Vec::new(), idle: 0, limit, output: 0, input: 0 }
    }

    /// An empty buffer with room for at least `room` bytes, or `None` when there is no memory for it.
    pub(crate) fn take(&mut self, capacity: usize, purpose: Use) -> Option<Vec<u8>> {
        let kept = if capacity <= SMALL {
            self.small.pop()
        } else if capacity <= LARGE {
            self.large.pop()
        } else {
            None
        };
        let mut buffer = kept.unwrap_or_default();
        self.idle -= buffer.capacity();
        if buffer.capacity() < capacity {
            buffer.try_reserve_exact(capacity.max(SMALL)).ok()?;
        }
        self.charge(purpose, buffer.capacity());
        Some(buffer)
    }

    /// Takes a buffer back.
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

    /// After a burst, when nothing is in use: frees most of what was put by, so that the allocator can give it back.
    fn trim(&mut self) {
        while self.idle > AT_REST {
            let Some(buffer) = self.large.pop().or_else(|| self.small.pop()) else { return };
            self.idle -= buffer.capacity();
        }
    }

    /// Makes room for `more` bytes behind what `buffer` holds, and counts what it grew by. False: no memory.
    pub(crate) fn grow(&mut self, buffer: &mut Vec<u8>, more: usize, purpose: Use) -> bool {
        let before = buffer.capacity();
        let done = buffer.try_reserve(more).is_ok();
        self.charge(purpose, buffer.capacity() - before);
        done
    }

    /// Lets go of one reference to a shared block; the last one gives it back.
    pub(crate) fn recycle_shared(&mut self, block: Rc<Vec<u8>>) {
        if let Ok(buffer) = Rc::try_unwrap(block) {
            self.recycle(buffer, Use::Output);
        }
    }

    pub(crate) fn charge(&mut self, purpose: Use, bytes: usize) {
        *self.account(purpose) += bytes;
    }

    pub(crate) fn uncharge(&mut self, purpose: Use, bytes: usize) {
        let account = self.account(purpose);
        debug_assert!(*account >= bytes, "{bytes} B of {purpose:?} given back, only {account} B were taken");
        *account = account.saturating_sub(bytes);
    }

    /// Bytes of output held.
    pub(crate) const fn output(&self) -> usize {
        self.output
    }

    /// Bytes of input held.
    pub(crate) const fn input(&self) -> usize {
        self.input
    }

    /// Bytes in empty buffers.
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
