//! The unsent output of one connection: a queue of bytes, written from the front as the kernel accepts them.
//!
//! Small messages are copied one after another into one buffer, so that a pipelined batch leaves in one write. Large
//! and shared ones are queued by reference. Does no I/O and enforces no limits.
//!
//! Invariant: `pending` is the number of bytes in the segments and the tail that are not written; an empty outbox owns
//! no heap memory. [`Pieces`] wait in their place for the bytes before them to be written: what is behind them is
//! written only when they have ended.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;

use crate::buffer::pieces::Pieces;
use crate::buffer::pool::{LARGE, Pool, SMALL, Use};

/// The most slices passed to one `writev`. Chosen: well below `IOV_MAX`, which is 1 024 on Linux (POSIX guarantees only
/// 16), and small enough for the stack.
pub(crate) const SLICES: usize = 64;

/// Bytes of at least this length are queued by reference if they are shared. Chosen: one page; below that, a copy costs
/// less than a reference count and a slice of its own.
const WORTH_SHARING: usize = 4 * 1024;

#[derive(Debug)]
enum Segment {
    /// A buffer of this outbox: a tail that was closed.
    Owned(Vec<u8>),
    /// The caller's bytes, by reference.
    Bytes(Bytes),
    /// A part of a block that is shared with other connections.
    Block(Rc<Vec<u8>>, Range<usize>),
    /// Bytes that are still to be fetched.
    Pieces(Box<Pieces>),
}

impl Segment {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned(v) => v,
            Self::Bytes(b) => b,
            Self::Block(block, range) => block.get(range.clone()).unwrap_or_default(),
            Self::Pieces(_) => &[],
        }
    }

    const fn is_pieces(&self) -> bool {
        matches!(self, Self::Pieces(_))
    }

    fn recycle(self, pool: &mut Pool) {
        match self {
            Self::Owned(v) => pool.recycle(v, Use::Output),
            Self::Bytes(b) => pool.uncharge(Use::Output, b.len()),
            Self::Block(block, _) => pool.recycle_shared(block),
            Self::Pieces(pieces) => drop(pieces),
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    /// The segments in front of the tail. None is empty, except pieces.
    segments: VecDeque<Segment>,
    /// How many of them are pieces.
    pieces: usize,
    /// The buffer at the end, to which small messages are appended.
    tail: Vec<u8>,
    /// The cursor: how many bytes of the first segment (or of the tail, if there is no segment) are written.
    written: usize,
}

impl Queue {
    /// Turns the tail into a segment, so that another segment can be queued behind it.
    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.segments.push_back(Segment::Owned(std::mem::take(&mut self.tail)));
        }
    }
}

/// The unsent output of one connection. 16 bytes while it is empty: most connections have nothing unsent.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Option<Box<Queue>>,
    pending: usize,
}

/// There was no memory to queue the bytes. None of them was queued.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoMemory;

impl Outbox {
    /// Returns the number of unsent bytes.
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

    /// Queues the bytes that `write` appends to the buffer it is called with; `capacity` is their expected number.
    /// If `write` fails, nothing is queued.
    #[inline]
    pub(crate) fn push_with<E: From<NoMemory>>(
        &mut self,
        capacity: usize,
        pool: &mut Pool,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let tail = self.tail(capacity, pool)?;
        let (length, capacity) = (tail.len(), tail.capacity());
        let done = write(tail);
        if done.is_err() {
            tail.truncate(length);
        }
        // A codec may write more than it announced: charge what the buffer has grown by.
        if tail.capacity() != capacity {
            pool.charge(Use::Output, tail.capacity() - capacity);
        }
        self.pending += tail.len().saturating_sub(length);
        // An encoder may write nothing, and an empty outbox owns no memory.
        if self.pending == 0 {
            self.clear(pool);
        }
        done
    }

    /// Queues the caller's bytes by reference, or copies them if they are too few to be worth it.
    pub(crate) fn push_bytes(&mut self, data: Bytes, pool: &mut Pool) -> Result<(), NoMemory> {
        if data.len() < WORTH_SHARING {
            return self.push(&data, pool);
        }
        pool.charge(Use::Output, data.len());
        self.pending += data.len();
        self.push_segment(Segment::Bytes(data));
        Ok(())
    }

    /// Queues a part of a shared block by reference, or copies it if it is small or less than a quarter of the block: a
    /// slow peer must not keep a whole block alive for a few bytes.
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

    /// Queues pieces. Nothing of them is written before it is fetched.
    pub(crate) fn push_pieces(&mut self, pieces: Pieces) {
        self.push_segment(Segment::Pieces(Box::new(pieces)));
        self.queue.get_or_insert_default().pieces += 1;
    }

    /// Returns how many sources of pieces wait.
    pub(crate) fn pieces(&self) -> usize {
        self.queue.as_ref().map_or(0, |q| q.pieces)
    }

    /// Returns whether some bytes are still to be fetched.
    #[inline]
    pub(crate) fn has_pieces(&self) -> bool {
        self.queue.as_ref().is_some_and(|q| q.pieces > 0)
    }

    /// Returns the pieces at the front. No byte is unsent in front of them, so they are to be fetched.
    #[inline]
    pub(crate) fn front_pieces(&mut self) -> Option<&mut Pieces> {
        match self.queue.as_mut().filter(|q| q.pieces > 0)?.segments.front_mut()? {
            Segment::Pieces(pieces) => Some(pieces),
            _ => None,
        }
    }

    /// Queues what was fetched in front of the pieces that it came from. Those are dropped unless there is `more`.
    pub(crate) fn push_fetched(&mut self, bytes: Vec<u8>, more: bool, pool: &mut Pool) {
        let Some(queue) = &mut self.queue else { return pool.recycle(bytes, Use::Output) };
        debug_assert!(queue.written == 0 && queue.segments.front().is_some_and(Segment::is_pieces));
        if !more && queue.segments.pop_front().is_some() {
            queue.pieces -= 1;
        }
        self.pending += bytes.len();
        match bytes.is_empty() {
            true => pool.recycle(bytes, Use::Output),
            false => queue.segments.push_front(Segment::Owned(bytes)),
        }
        if self.pending == 0 && queue.pieces == 0 {
            self.clear(pool);
        }
    }

    /// Queues bytes in front of all others: the rest of a write that did not come from the outbox. Nothing that is
    /// queued may be partly written.
    pub(crate) fn push_front(&mut self, data: &[u8], pool: &mut Pool) -> Result<(), NoMemory> {
        if self.pending == 0 {
            return self.push(data, pool);
        }
        debug_assert!(self.queue.as_ref().is_none_or(|q| q.written == 0), "the front is partly written");
        let mut front = pool.take(data.len(), Use::Output).ok_or(NoMemory)?;
        front.extend_from_slice(data);
        self.pending += data.len();
        self.queue.get_or_insert_default().segments.push_front(Segment::Owned(front));
        Ok(())
    }

    /// Returns the bytes to write, if they are contiguous (possibly empty). This is the usual case, and needs no array
    /// of slices.
    #[inline]
    pub(crate) fn single<'a>(&'a self, prefix: &'a [u8], suffix: &'a [u8]) -> Option<&'a [u8]> {
        match &self.queue {
            None if suffix.is_empty() => Some(prefix),
            None if prefix.is_empty() => Some(suffix),
            Some(queue) if prefix.is_empty() && suffix.is_empty() && queue.segments.is_empty() => {
                queue.tail.get(queue.written..)
            }
            _ => None,
        }
    }

    /// Fills `slices` with `prefix`, the queued bytes and `suffix`, up to [`SLICES`] slices and `budget` bytes. Returns
    /// the number of slices that were filled.
    #[inline]
    pub(crate) fn gather<'a>(
        &'a self,
        prefix: &'a [u8],
        suffix: &'a [u8],
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
        add(prefix);
        if let Some(queue) = &self.queue {
            let mut skip = queue.written;
            for segment in &queue.segments {
                if segment.is_pieces() {
                    return n;
                }
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
        add(suffix);
        n
    }

    /// Removes the first `n` unsent bytes, which were written. `n` is at most [`Outbox::pending`].
    pub(crate) fn advance(&mut self, mut n: usize, pool: &mut Pool) {
        debug_assert!(n <= self.pending);
        self.pending -= n.min(self.pending);
        if self.pending == 0 && !self.has_pieces() {
            self.clear(pool);
            return;
        }
        let Some(queue) = &mut self.queue else { return };
        while let Some(first) = queue.segments.front().filter(|first| !first.is_pieces()) {
            let left = first.bytes().len() - queue.written;
            if n < left {
                break;
            }
            n -= left;
            queue.written = 0;
            if let Some(done) = queue.segments.pop_front() {
                done.recycle(pool);
            }
        }
        queue.written += n;
    }

    /// Drops all unsent bytes. Returns how many there were.
    pub(crate) fn clear(&mut self, pool: &mut Pool) -> usize {
        if let Some(queue) = self.queue.take() {
            pool.recycle(queue.tail, Use::Output);
            for segment in queue.segments {
                segment.recycle(pool);
            }
        }
        std::mem::take(&mut self.pending)
    }

    /// Moves a small rest out of a large buffer, so that a slow peer holds about as much memory as it has unsent bytes.
    /// Otherwise many peers that stop reading near the end of a burst would hold 64 KiB each for a few bytes.
    pub(crate) fn shrink(&mut self, pool: &mut Pool) {
        let Some(queue) = &mut self.queue else { return };
        if !queue.segments.is_empty() || self.pending > SMALL || queue.tail.capacity() < LARGE / 2 {
            return;
        }
        let Some(mut small) = pool.take(SMALL, Use::Output) else { return };
        small.extend_from_slice(queue.tail.get(queue.written..).unwrap_or_default());
        queue.written = 0;
        pool.recycle(std::mem::replace(&mut queue.tail, small), Use::Output);
    }

    /// Returns the memory it holds, in bytes. Shared blocks count with the part that this outbox refers to.
    pub(crate) fn weight(&self) -> usize {
        self.sum(|s| match s {
            Segment::Owned(v) => v.capacity(),
            other => other.bytes().len(),
        })
    }

    /// Returns the memory that it holds alone, in bytes: shared blocks are left out.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn retained_bytes(&self) -> usize {
        self.sum(|s| match s {
            Segment::Owned(v) => v.capacity(),
            Segment::Bytes(b) => b.len(),
            Segment::Block(..) | Segment::Pieces(_) => 0,
        })
    }

    /// Returns the capacity of the tail, plus `of` each segment.
    fn sum(&self, of: impl Fn(&Segment) -> usize) -> usize {
        self.queue.as_ref().map_or(0, |q| q.tail.capacity() + q.segments.iter().map(of).sum::<usize>())
    }

    /// Appends a segment. Its bytes are already counted in `pending`.
    fn push_segment(&mut self, segment: Segment) {
        let queue = self.queue.get_or_insert_default();
        queue.close_tail();
        queue.segments.push_back(segment);
    }

    /// Returns the tail, with capacity for `more` bytes.
    #[inline]
    fn tail(&mut self, more: usize, pool: &mut Pool) -> Result<&mut Vec<u8>, NoMemory> {
        let fits = self.queue.as_ref().is_some_and(|q| q.tail.capacity() - q.tail.len() >= more);
        if !fits {
            self.make_tail(more, pool)?;
        }
        self.queue.as_mut().map(|q| &mut q.tail).ok_or(NoMemory)
    }

    /// Makes capacity for `more` bytes in the tail: grows it, up to [`LARGE`], or closes it and starts another one.
    fn make_tail(&mut self, more: usize, pool: &mut Pool) -> Result<(), NoMemory> {
        if let Some(queue) = &mut self.queue {
            let length = queue.tail.len();
            if length > 0 && length + more <= LARGE && pool.grow(&mut queue.tail, more, Use::Output) {
                return Ok(());
            }
        }
        // One buffer has been filled, so the next one is likely to be filled as well: take a large one at once.
        let filled = self.queue.as_ref().is_some_and(|q| !q.tail.is_empty());
        let capacity = if filled { more.max(LARGE) } else { more };
        let fresh = pool.take(capacity, Use::Output).ok_or(NoMemory)?;
        let queue = self.queue.get_or_insert_default();
        queue.close_tail();
        pool.recycle(std::mem::replace(&mut queue.tail, fresh), Use::Output);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::property_tests::hold;

    fn written(outbox: &Outbox, prefix: &[u8], suffix: &[u8]) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let n = outbox.gather(prefix, suffix, usize::MAX, &mut slices);
        slices[..n].iter().flat_map(|s| s.to_vec()).collect()
    }

    #[derive(Clone, Debug)]
    enum Op {
        Push(usize),
        Bytes(usize),
        /// A part of a shared block, for both outboxes.
        Block(usize, usize),
        With(usize, bool),
        Front(usize),
        Advance(usize),
        /// All but this many bytes are written.
        Leave(usize),
        Shrink,
        Clear,
    }

    fn ops() -> impl Strategy<Value = Vec<(bool, Op)>> {
        let small = || prop_oneof![0..200usize, 2_040..2_060usize, 4_090..4_100usize];
        let size = move || prop_oneof![12 => small(), 1 => Just(40_000)];
        let op = prop_oneof![
            3 => size().prop_map(Op::Push),
            2 => size().prop_map(Op::Bytes),
            2 => (size(), 0..3_000usize).prop_map(|(size, from)| Op::Block(size, from)),
            2 => (size(), any::<bool>()).prop_map(|(size, fails)| Op::With(size, fails)),
            1 => size().prop_map(Op::Front),
            4 => (0..5_000usize).prop_map(Op::Advance),
            2 => (0..3_000usize).prop_map(Op::Leave),
            2 => Just(Op::Shrink),
            1 => Just(Op::Clear),
        ];
        prop::collection::vec((any::<bool>(), op), 0..40)
    }

    /// Two outboxes on one pool, and two plain queues of bytes.
    #[derive(Default)]
    struct Pair {
        real: [Outbox; 2],
        model: [VecDeque<u8>; 2],
        next: u8,
    }

    impl Pair {
        fn fresh(&mut self, size: usize) -> Vec<u8> {
            let bytes = (0..size).map(|i| self.next.wrapping_add((i % 251) as u8)).collect();
            self.next = self.next.wrapping_add((size % 251) as u8);
            bytes
        }

        fn apply(&mut self, which: usize, op: Op, pool: &mut Pool) {
            match op {
                Op::Push(size) => {
                    let data = self.fresh(size);
                    self.real[which].push(&data, pool).unwrap();
                    self.model[which].extend(data);
                }
                Op::Bytes(size) => {
                    let data = self.fresh(size);
                    self.model[which].extend(&data);
                    self.real[which].push_bytes(data.into(), pool).unwrap();
                }
                Op::Block(size, from) => {
                    let block = Rc::new(self.fresh(size));
                    pool.charge(Use::Output, block.capacity());
                    for (range, i) in [(0..size, which), (from.min(size)..size, 1 - which)] {
                        self.real[i].push_block(&block, range.clone(), pool).unwrap();
                        self.model[i].extend(&block[range]);
                    }
                    pool.recycle_shared(block);
                }
                Op::With(size, fails) => {
                    let data = self.fresh(size);
                    let done = self.real[which].push_with(size / 2, pool, |tail| {
                        tail.extend_from_slice(&data);
                        if fails { Err(NoMemory) } else { Ok(()) }
                    });
                    assert_eq!(done, if fails { Err(NoMemory) } else { Ok(()) });
                    self.model[which].extend(data.iter().filter(|_| !fails));
                }
                Op::Front(size) => {
                    // `push_front` requires that the first segment is not partly written.
                    if self.real[which].queue.as_ref().is_none_or(|q| q.written == 0) {
                        let data = self.fresh(size.max(1));
                        self.real[which].push_front(&data, pool).unwrap();
                        data.iter().rev().for_each(|byte| self.model[which].push_front(*byte));
                    }
                }
                Op::Advance(n) => self.advance(which, n.min(self.model[which].len()), pool),
                Op::Leave(n) => self.advance(which, self.model[which].len().saturating_sub(n), pool),
                Op::Shrink => self.real[which].shrink(pool),
                Op::Clear => {
                    assert_eq!(self.real[which].clear(pool), self.model[which].len());
                    self.model[which].clear();
                }
            }
        }

        fn advance(&mut self, which: usize, n: usize, pool: &mut Pool) {
            self.real[which].advance(n, pool);
            self.model[which].drain(..n);
        }

        /// Checks that the slices hold the prefix, the unsent bytes and the suffix, up to the budget.
        fn check(&mut self, prefix: &[u8], suffix: &[u8], budget: usize) {
            for (real, model) in self.real.iter().zip(&mut self.model) {
                assert_eq!(real.pending(), model.len());
                assert_eq!(real.queue.is_some(), !model.is_empty(), "an empty outbox owns nothing");
                let all = [prefix, model.make_contiguous(), suffix].concat();
                if let Some(single) = real.single(prefix, suffix) {
                    assert!(single == all);
                }
                let mut slices = [IoSlice::new(&[]); SLICES];
                let n = real.gather(prefix, suffix, budget, &mut slices);
                let shown: Vec<u8> = slices[..n].iter().flat_map(|s| s.to_vec()).collect();
                assert!(slices[..n].iter().all(|s| !s.is_empty()));
                assert!(all.starts_with(&shown) && (n == SLICES || shown.len() == all.len().min(budget)));
            }
        }
    }

    #[test]
    fn any_pushes_and_partial_writes_agree_with_a_plain_queue_of_bytes() {
        let shown = (0..3usize, 0..3usize, prop_oneof![0..300usize, Just(5_000), Just(usize::MAX)]);
        hold(250, (ops(), shown), |(ops, (prefix, suffix, budget))| {
            let mut pool = Pool::new(1 << 20);
            let mut pair = Pair::default();
            for (second, op) in ops {
                pair.apply(usize::from(second), op, &mut pool);
                pair.check(&b"prefix"[..prefix], &b"suffix"[..suffix], budget);
                assert!(pool.output() >= pair.real.iter().map(Outbox::retained_bytes).sum());
            }
            for (real, model) in pair.real.iter_mut().zip(&pair.model) {
                assert_eq!(real.clear(&mut pool), model.len());
            }
            assert_eq!(pool.output(), 0, "every buffer came back");
        });
    }

    /// Tries up to four slices of up to eight bytes, and every number of bytes written from them.
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
                assert_eq!(pool.output(), outbox.retained_bytes());
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
        assert_eq!(outbox.gather(b"prefix", b"suffix", usize::MAX, &mut slices), 3);
        assert_eq!(outbox.gather(b"prefix", b"suffix", 11, &mut slices), 2);
        assert_eq!(&*slices[1], b"hello");
        assert_eq!(outbox.gather(b"prefix", b"suffix", 0, &mut slices), 0);
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
