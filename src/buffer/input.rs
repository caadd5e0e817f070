//! Buffered input of one connection: an unfinished message, or bytes that the handler deferred to the next turn.
//!
//! Bytes are consumed by moving a cursor. The rest is moved to the front only when more than half of the buffer is
//! consumed, so the moves cost amortized O(1) per byte. Invariant: `start <= bytes.len()`.

use crate::buffer::pool::{Pool, SMALL, Use};

/// Buffered input. It exists only while there is some, so that an idle connection holds no buffer.
#[derive(Debug)]
pub(crate) struct InputBuffer {
    bytes: Vec<u8>,
    /// Where the bytes that were not consumed begin.
    start: usize,
}

impl InputBuffer {
    /// Buffers a copy of `data`. Returns `None` if there is no memory.
    pub(crate) fn new(data: &[u8], pool: &mut Pool) -> Option<Self> {
        let mut bytes = pool.take(data.len(), Use::Input)?;
        bytes.extend_from_slice(data);
        Some(Self { bytes, start: 0 })
    }

    pub(crate) fn data(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Appends `data`. Returns `false` if there is no memory.
    pub(crate) fn append(&mut self, data: &[u8], pool: &mut Pool) -> bool {
        if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        let capacity = pool.grow(&mut self.bytes, data.len(), Use::Input);
        if capacity {
            self.bytes.extend_from_slice(data);
        }
        capacity
    }

    /// Drops all but the last `n` bytes.
    pub(crate) fn keep_last(&mut self, n: usize) {
        self.start = self.bytes.len() - n.min(self.len());
    }

    /// Moves a small rest out of a large buffer. The limit on buffered input counts capacity: a few bytes of a next
    /// message must not keep the buffer of a large one.
    pub(crate) fn shrink(&mut self, pool: &mut Pool) {
        if self.bytes.capacity() <= SMALL || self.len() > self.bytes.capacity() / 4 {
            return;
        }
        if let Some(small) = Self::new(self.data(), pool) {
            std::mem::replace(self, small).recycle(pool);
        }
    }

    /// Returns the capacity that it holds, in bytes.
    pub(crate) fn retained_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// Returns its buffer to the pool.
    pub(crate) fn recycle(self, pool: &mut Pool) {
        pool.recycle(self.bytes, Use::Input);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_order_of_taking_and_adding_keeps_the_bytes_in_order() {
        let mut pool = Pool::new(0);
        let mut kept = InputBuffer::new(b"", &mut pool).unwrap();
        let mut model = Vec::new();
        let mut next = 0u8;
        for i in 0..2_000usize {
            let more: Vec<u8> = (0..i % 17)
                .map(|_| {
                    next = next.wrapping_add(1);
                    next
                })
                .collect();
            assert!(kept.append(&more, &mut pool));
            model.extend_from_slice(&more);
            assert_eq!(kept.data(), model);
            let n = model.len() - (i * 7 % 23).min(model.len());
            kept.keep_last(n);
            model.drain(..model.len() - n);
            assert_eq!(kept.data(), model);
        }
        kept.recycle(&mut pool);
        assert_eq!(pool.input(), 0);
    }
}
