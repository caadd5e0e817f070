//! What we owe one peer: an ordered queue of bytes, written from the front as the kernel takes them.
//!
//! Small messages are copied behind each other into one buffer; large and shared ones are queued by reference. It does
//! no I/O and knows no limits. Invariant: `pending` is the sum of what lies in the segments behind the cursor; an empty
//! outbox owns no heap memory.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;

use crate::pool::{LARGE, Pool, SMALL, Use};

/// The most slices handed to one write: far under every system's `IOV_MAX` (1 024 on Linux, 16 is what POSIX promises).
pub(crate) const SLICES: usize = 64;

/// Segments of this size and more are queued by reference where they are shared.
const WORTH_SHARING: usize = 4 * 1024;

#[derive(Debug)]
enum Segment {
    /// Bytes of our own, open at the end.
    Owned(Vec<u8>),
    /// The caller's bytes.
    Bytes(Bytes),
    /// A part of a block that other connections send as well.
    Block(Rc<Vec<u8>>, Range<usize>),
}

impl Segment {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned(v) => v,
            Self::Bytes(b) => b,
            Self::Block(block, range) => block.get(range.clone()).unwrap_or_default(),
        }
    }

    fn give(self, pool: &mut Pool) {
        match self {
            Self::Owned(v) => pool.give(v, Use::Output),
            Self::Bytes(b) => pool.release(Use::Output, b.len()),
            Self::Block(block, _) => pool.give_shared(block),
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    /// Complete segments, in front of the tail. None is empty.
    segments: VecDeque<Segment>,
    /// Bytes of our own, open at the end.
    tail: Vec<u8>,
    /// Bytes of the first segment (or of the tail, if there is none) that are written.
    written: usize,
}

impl Queue {
    /// Makes a segment of the tail, so that something else can come behind it.
    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.segments.push_back(Segment::Owned(std::mem::take(&mut self.tail)));
        }
    }
}

/// One connection's outgoing bytes.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Option<Box<Queue>>,
    pending: usize,
}

/// There was no memory to queue the bytes; nothing of them was queued.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoMemory;

impl Outbox {
    /// Bytes waiting.
    #[inline]
    pub(crate) const fn pending(&self) -> usize {
        self.pending
    }

    /// Queues a copy of `data`.
    #[inline]
    pub(crate) fn push(&mut self, data: &[u8], pool: &mut Pool) -> Result<(), NoMemory> {
        if data.is_empty() {
            return Ok(());
        }
        self.tail(data.len(), pool)?.extend_from_slice(data);
        self.pending += data.len();
        Ok(())
    }

    /// Queues what `write` appends to the buffer it is given; `room` is about how much that will be. On an error
    /// nothing is queued.
    #[inline]
    pub(crate) fn push_with<E: From<NoMemory>>(
        &mut self,
        room: usize,
        pool: &mut Pool,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let tail = self.tail(room, pool)?;
        let (length, capacity) = (tail.len(), tail.capacity());
        let done = write(tail);
        if done.is_err() {
            tail.truncate(length);
        }
        // A codec may write more than it said; what the buffer grew by is counted all the same.
        if tail.capacity() != capacity {
            pool.charge(Use::Output, tail.capacity() - capacity);
        }
        let added = tail.len().saturating_sub(length);
        self.pending += added;
        if self.pending == 0 {
            self.clear(pool);
        }
        done.map(|()| added)
    }

    /// Queues the caller's bytes by reference, or a copy where that is cheaper.
    pub(crate) fn push_bytes(&mut self, data: Bytes, pool: &mut Pool) -> Result<(), NoMemory> {
        if data.len() < WORTH_SHARING {
            return self.push(&data, pool);
        }
        pool.charge(Use::Output, data.len());
        self.pending += data.len();
        self.push_segment(Segment::Bytes(data));
        Ok(())
    }

    /// Queues a part of a shared block by reference; a copy if it is small, or less than a quarter of the block.
    pub(crate) fn push_block(
        &mut self,
        block: &Rc<Vec<u8>>,
        range: Range<usize>,
        pool: &mut Pool,
    ) -> Result<(), NoMemory> {
        let part = block.get(range.clone()).unwrap_or_default();
        if part.len() < WORTH_SHARING || part.len() < block.capacity() / 4 {
            return self.push(part, pool);
        }
        self.pending += part.len();
        self.push_segment(Segment::Block(Rc::clone(block), range));
        Ok(())
    }

    /// Queues bytes in front of all others (the rest of what was being written from elsewhere).
    pub(crate) fn push_front(&mut self, data: &[u8], pool: &mut Pool) -> Result<(), NoMemory> {
        if self.pending == 0 {
            return self.push(data, pool);
        }
        debug_assert!(self.queue.as_ref().is_none_or(|q| q.written == 0), "nothing behind it was written");
        let mut front = pool.take(data.len(), Use::Output).ok_or(NoMemory)?;
        front.extend_from_slice(data);
        self.pending += data.len();
        self.queue.get_or_insert_default().segments.push_front(Segment::Owned(front));
        Ok(())
    }

    /// What there is to write, if it lies in one piece (it may be empty).
    #[inline]
    pub(crate) fn single<'a>(&'a self, lead: &'a [u8], trail: &'a [u8]) -> Option<&'a [u8]> {
        match &self.queue {
            None if trail.is_empty() => Some(lead),
            None if lead.is_empty() => Some(trail),
            Some(queue) if lead.is_empty() && trail.is_empty() && queue.segments.is_empty() => {
                queue.tail.get(queue.written..)
            }
            _ => None,
        }
    }

    /// Fills `slices` with `lead`, what is queued, and `trail`, as far as there is room and up to `budget` bytes;
    /// says how many are filled.
    #[inline]
    pub(crate) fn gather<'a>(
        &'a self,
        lead: &'a [u8],
        trail: &'a [u8],
        mut budget: usize,
        slices: &mut [IoSlice<'a>; SLICES],
    ) -> usize {
        let mut n = 0;
        let mut add = |bytes: &'a [u8]| {
            let bytes = bytes.get(..budget).unwrap_or(bytes);
            if !bytes.is_empty() && n < SLICES {
                slices[n] = IoSlice::new(bytes);
                n += 1;
                budget -= bytes.len();
            }
            n < SLICES && budget > 0
        };
        add(lead);
        if let Some(queue) = &self.queue {
            let mut skip = queue.written;
            for segment in &queue.segments {
                let bytes = segment.bytes().get(skip..).unwrap_or_default();
                skip = 0;
                if !add(bytes) {
                    return n;
                }
            }
            if !add(queue.tail.get(skip..).unwrap_or_default()) {
                return n;
            }
        }
        add(trail);
        n
    }

    /// Forgets the first `n` waiting bytes: they are written. `n` is at most [`Outbox::pending`].
    pub(crate) fn advance(&mut self, mut n: usize, pool: &mut Pool) {
        debug_assert!(n <= self.pending);
        self.pending -= n.min(self.pending);
        if self.pending == 0 {
            self.clear(pool);
            return;
        }
        let Some(queue) = &mut self.queue else { return };
        while let Some(first) = queue.segments.front() {
            let left = first.bytes().len() - queue.written;
            if n < left {
                break;
            }
            n -= left;
            queue.written = 0;
            if let Some(done) = queue.segments.pop_front() {
                done.give(pool);
            }
        }
        queue.written += n;
    }

    /// Throws away all that waits, and says how much it was.
    pub(crate) fn clear(&mut self, pool: &mut Pool) -> usize {
        if let Some(queue) = self.queue.take() {
            pool.give(queue.tail, Use::Output);
            for segment in queue.segments {
                segment.give(pool);
            }
        }
        std::mem::take(&mut self.pending)
    }

    /// Moves a small rest out of a large buffer, so that a slow peer holds about as much memory as it is owed.
    pub(crate) fn shrink(&mut self, pool: &mut Pool) {
        let Some(queue) = &mut self.queue else { return };
        if !queue.segments.is_empty() || self.pending > SMALL || queue.tail.capacity() < LARGE / 2 {
            return;
        }
        let Some(mut small) = pool.take(SMALL, Use::Output) else { return };
        small.extend_from_slice(queue.tail.get(queue.written..).unwrap_or_default());
        queue.written = 0;
        pool.give(std::mem::replace(&mut queue.tail, small), Use::Output);
    }

    /// Bytes of memory held; of shared blocks, the part that is ours.
    pub(crate) fn weight(&self) -> usize {
        self.sum(|s| match s {
            Segment::Owned(v) => v.capacity(),
            other => other.bytes().len(),
        })
    }

    /// Bytes of memory held by this connection alone: shared blocks are left out.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.sum(|s| match s {
            Segment::Owned(v) => v.capacity(),
            Segment::Bytes(b) => b.len(),
            Segment::Block(..) => 0,
        })
    }

    fn sum(&self, of: impl Fn(&Segment) -> usize) -> usize {
        self.queue.as_ref().map_or(0, |q| q.tail.capacity() + q.segments.iter().map(of).sum::<usize>())
    }

    fn push_segment(&mut self, segment: Segment) {
        let queue = self.queue.get_or_insert_default();
        queue.close_tail();
        queue.segments.push_back(segment);
    }

    /// The open buffer at the end, with room for `more` bytes.
    #[inline]
    fn tail(&mut self, more: usize, pool: &mut Pool) -> Result<&mut Vec<u8>, NoMemory> {
        let fits = self.queue.as_ref().is_some_and(|q| q.tail.capacity() - q.tail.len() >= more);
        if !fits {
            self.make_tail(more, pool)?;
        }
        self.queue.as_mut().map(|q| &mut q.tail).ok_or(NoMemory)
    }

    /// Makes the open buffer have room: it grows, or another one takes its place.
    fn make_tail(&mut self, more: usize, pool: &mut Pool) -> Result<(), NoMemory> {
        if let Some(queue) = &mut self.queue {
            let length = queue.tail.len();
            if length > 0 && length + more <= LARGE && pool.grow(&mut queue.tail, more, Use::Output) {
                return Ok(());
            }
        }
        // Where one buffer has been filled, another is likely to be filled as well.
        let filled = self.queue.as_ref().is_some_and(|q| !q.tail.is_empty());
        let room = if filled { more.max(LARGE) } else { more };
        let fresh = pool.take(room, Use::Output).ok_or(NoMemory)?;
        let queue = self.queue.get_or_insert_default();
        queue.close_tail();
        pool.give(std::mem::replace(&mut queue.tail, fresh), Use::Output);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(outbox: &Outbox, lead: &[u8], trail: &[u8]) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let n = outbox.gather(lead, trail, usize::MAX, &mut slices);
        slices[..n].iter().flat_map(|s| s.to_vec()).collect()
    }

    /// Random pushes of every kind and partial writes, against a plain queue of bytes.
    #[test]
    fn agrees_with_a_plain_queue_of_bytes() {
        let mut seed = 42u64;
        let mut random = move |n: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % n
        };
        let mut pool = Pool::new(1 << 20);
        let mut outbox = Outbox::default();
        let mut model: VecDeque<u8> = VecDeque::new();
        let mut next = 0u8;
        for round in 0..30_000 {
            let size = [0, 1, 3, 100, 5_000, 70_000][random(if round % 50 == 0 { 6 } else { 4 })];
            let data: Vec<u8> = (0..size)
                .map(|_| {
                    next = next.wrapping_add(1);
                    next
                })
                .collect();
            match random(7) {
                0 => outbox.push(&data, &mut pool).unwrap(),
                1 => outbox.push_bytes(Bytes::from(data.clone()), &mut pool).unwrap(),
                2 => {
                    let block = Rc::new(data.clone());
                    let other = Rc::clone(&block);
                    pool.charge(Use::Output, block.capacity());
                    outbox.push_block(&block, 0..size, &mut pool).unwrap();
                    pool.give_shared(block);
                    pool.give_shared(other);
                }
                3 => {
                    let failed: Result<usize, NoMemory> = outbox.push_with(size, &mut pool, |b| {
                        b.extend_from_slice(&data);
                        Err(NoMemory)
                    });
                    assert_eq!(failed, Err(NoMemory));
                }
                4 => {
                    let n: Result<usize, NoMemory> = outbox.push_with(0, &mut pool, |b| {
                        b.extend_from_slice(&data);
                        Ok(())
                    });
                    assert_eq!(n, Ok(size));
                }
                _ => {
                    let front: Vec<u8> = model.iter().copied().take(100_000).collect();
                    let shown = written(&outbox, b"", b"");
                    assert_eq!(shown[..shown.len().min(100_000)], front[..shown.len().min(100_000)]);
                    let n = random(shown.len().max(1) + 1).min(model.len());
                    outbox.advance(n, &mut pool);
                    model.drain(..n);
                    if random(3) == 0 {
                        outbox.shrink(&mut pool);
                    }
                    assert_eq!(outbox.pending(), model.len());
                    continue;
                }
            }
            // The third kind queued nothing; all others queued `data`.
            if outbox.pending() != model.len() {
                model.extend(&data);
            }
            assert_eq!(outbox.pending(), model.len());
        }
        let rest = outbox.clear(&mut pool);
        assert_eq!(rest, model.len());
        assert_eq!(pool.output(), 0, "every buffer came back");
        assert_eq!(outbox.held(), 0);
    }

    /// Up to four slices of up to eight bytes, and every number of bytes taken from them.
    #[test]
    fn a_partial_write_advances_by_exactly_what_was_taken() {
        for sizes in 0..9usize.pow(4) {
            let sizes = [sizes % 9, sizes / 9 % 9, sizes / 81 % 9, sizes / 729];
            let total: usize = sizes.iter().sum();
            for taken in 0..=total {
                let mut pool = Pool::new(0);
                let mut outbox = Outbox::default();
                let mut all = Vec::new();
                for (i, &size) in sizes.iter().enumerate() {
                    let part = vec![b'a' + i as u8; size];
                    all.extend_from_slice(&part);
                    if size > 0 {
                        pool.charge(Use::Output, size);
                        outbox.pending += size;
                        outbox.push_segment(Segment::Bytes(part.into()));
                    }
                }
                outbox.advance(taken, &mut pool);
                assert_eq!(written(&outbox, b"", b""), all[taken..]);
                assert_eq!(pool.output(), outbox.held());
            }
        }
    }

    #[test]
    fn small_messages_share_a_slice_and_no_write_has_more_than_its_slices() {
        let mut pool = Pool::new(0);
        let mut outbox = Outbox::default();
        for _ in 0..100 {
            outbox.push(b"hello", &mut pool).unwrap();
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        assert_eq!(outbox.gather(b"lead", b"trail", usize::MAX, &mut slices), 3);
        assert_eq!(outbox.gather(b"lead", b"trail", 9, &mut slices), 2);
        assert_eq!(&*slices[1], b"hello");
        assert_eq!(outbox.gather(b"lead", b"trail", 0, &mut slices), 0);
        for _ in 0..200 {
            outbox.push_bytes(Bytes::from(vec![0; WORTH_SHARING]), &mut pool).unwrap();
        }
        assert_eq!(outbox.gather(b"", b"", usize::MAX, &mut [IoSlice::new(&[]); SLICES]), SLICES);
        outbox.clear(&mut pool);
    }

    #[test]
    fn an_empty_outbox_owns_nothing() {
        assert!(size_of::<Outbox>() <= 16);
        let mut pool = Pool::new(0);
        let mut outbox = Outbox::default();
        outbox.push(b"x", &mut pool).unwrap();
        outbox.advance(1, &mut pool);
        assert!(outbox.queue.is_none());
        assert_eq!(pool.output(), 0);
    }

    #[test]
    fn what_goes_in_front_is_written_first() {
        let mut pool = Pool::new(0);
        let mut outbox = Outbox::default();
        outbox.push(b"second", &mut pool).unwrap();
        outbox.push_front(b"first ", &mut pool).unwrap();
        assert_eq!(written(&outbox, b"", b""), b"first second");
    }
}
