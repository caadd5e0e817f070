//! A queue of datagrams: their bytes in one buffer, and the destination and length of each.
//!
//! Enforces no limits. Invariant: `cost` is the sum of the [`cost`] of each datagram; an empty queue holds no memory
//! after [`DatagramQueue::free_if_empty`].

use std::collections::VecDeque;

use crate::buffer::pool::{Pool, SMALL, Use};
use crate::config::address::Address;
use crate::sys::datagram::LocalIp;

/// What a queued datagram costs in addition to its bytes. Chosen: enough for its entry, and it limits the number of
/// empty datagrams as well.
const OVERHEAD: usize = 64;
/// Sent bytes are removed from the front of the buffer when there are at least this many, and as many as unsent ones.
/// Chosen: one page. Moving the rest then costs amortized O(1) per byte, and short queues are not moved at all.
const COMPACT: usize = 4 * 1024;

/// One queued datagram.
#[derive(Debug)]
struct Queued {
    /// `None` for the peer of a connected socket.
    to: Option<Address>,
    /// The address to send from, if it is not for the system to choose.
    via: Option<LocalIp>,
    len: usize,
}

/// The first datagram of a queue.
pub(crate) struct Datagram<'a> {
    pub(crate) to: Option<&'a Address>,
    pub(crate) via: Option<LocalIp>,
    pub(crate) data: &'a [u8],
}

/// Returns what a datagram counts against [`Limits::datagram_queue`](crate::Limits::datagram_queue), in bytes.
pub(super) fn cost(to: Option<&Address>, len: usize) -> usize {
    let path = match to {
        Some(Address::Unix(Some(path))) => path.as_os_str().len(),
        _ => 0,
    };
    len + OVERHEAD + path
}

/// Datagrams in the order of sending.
#[derive(Debug, Default)]
pub(crate) struct DatagramQueue {
    bytes: Vec<u8>,
    /// Where in `bytes` the first datagram begins.
    start: usize,
    entries: VecDeque<Queued>,
    cost: usize,
}

impl DatagramQueue {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) const fn cost(&self) -> usize {
        self.cost
    }

    /// Returns the capacity that is charged to the pool, in bytes.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) const fn retained_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// Returns by how much the buffer would grow if `len` bytes were appended, in bytes.
    pub(super) fn growth(&self, len: usize) -> usize {
        let capacity = self.bytes.capacity();
        if self.bytes.len() + len <= capacity { 0 } else { capacity.max(len).max(SMALL) }
    }

    /// Appends a datagram. Returns `false` if there is no memory.
    pub(super) fn push(&mut self, to: Option<Address>, via: Option<LocalIp>, data: &[u8], pool: &mut Pool) -> bool {
        if self.entries.try_reserve(1).is_err() {
            return false;
        }
        if self.bytes.capacity() == 0 {
            let Some(bytes) = pool.take(data.len(), Use::Output) else { return false };
            self.bytes = bytes;
        } else if !pool.grow(&mut self.bytes, data.len(), Use::Output) {
            return false;
        }
        self.bytes.extend_from_slice(data);
        self.cost += cost(to.as_ref(), data.len());
        self.entries.push_back(Queued { to, via, len: data.len() });
        true
    }

    /// Returns the first datagram.
    pub(crate) fn first(&self) -> Option<Datagram<'_>> {
        let Queued { to, via, len } = self.entries.front()?;
        let data = self.bytes.get(self.start..self.start + len).unwrap_or_default();
        Some(Datagram { to: to.as_ref(), via: *via, data })
    }

    /// Removes the first datagram.
    pub(crate) fn pop(&mut self) {
        let Some(Queued { to, len, .. }) = self.entries.pop_front() else { return };
        self.cost = self.cost.saturating_sub(cost(to.as_ref(), len));
        self.start += len;
        if self.entries.is_empty() {
            self.bytes.clear();
            self.start = 0;
        } else if self.start >= COMPACT && self.start >= self.bytes.len() - self.start {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    /// Returns whether any datagram is for this address.
    pub(crate) fn has_any_for(&self, to: &Address) -> bool {
        self.entries.iter().any(|entry| entry.to.as_ref() == Some(to))
    }

    /// Appends all datagrams of another queue. Returns how many were dropped for lack of memory.
    pub(super) fn append(&mut self, other: &mut Self, pool: &mut Pool) -> u64 {
        let mut lost = 0;
        while let Some(Datagram { to, via, data }) = other.first() {
            lost += u64::from(!self.push(to.cloned(), via, data, pool));
            other.pop();
        }
        other.free_if_empty(pool);
        lost
    }

    /// Frees the memory, if the queue is empty.
    pub(super) fn free_if_empty(&mut self, pool: &mut Pool) {
        if self.is_empty() && self.bytes.capacity() + self.entries.capacity() > 0 {
            pool.recycle(std::mem::take(&mut self.bytes), Use::Output);
            *self = Self::default();
        }
    }

    /// Removes all datagrams. Returns how many there were.
    pub(super) fn clear(&mut self, pool: &mut Pool) -> u64 {
        let lost = self.len() as u64;
        self.entries.clear();
        self.free_if_empty(pool);
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(queue: &DatagramQueue) -> Option<(Option<&Address>, &[u8])> {
        queue.first().map(|first| (first.to, first.data))
    }

    fn to(port: u16) -> Option<Address> {
        Some(Address::Tcp(([127, 0, 0, 1], port).into()))
    }

    #[test]
    fn what_is_pushed_comes_back_in_order_and_leaves_no_memory_behind() {
        let mut pool = Pool::new(1 << 20);
        let mut queue = DatagramQueue::default();
        let mut expected = VecDeque::new();
        for n in 0..5_000_usize {
            let data = vec![n as u8; n * 37 % 300];
            assert!(queue.push(to(n as u16), None, &data, &mut pool));
            expected.push_back((to(n as u16), data));
            if n % 3 > 0 {
                let (address, data) = expected.pop_front().unwrap();
                assert_eq!(first(&queue), Some((address.as_ref(), &data[..])));
                queue.pop();
            }
            let cost: usize = expected.iter().map(|(_, data)| data.len() + OVERHEAD).sum();
            assert_eq!((queue.len(), queue.cost()), (expected.len(), cost));
        }
        let waiting: usize = expected.iter().map(|(_, data)| data.len()).sum();
        assert!(queue.bytes.len() <= 2 * waiting + COMPACT + 300, "what was sent is cut off");
        while queue.first().is_some() {
            queue.pop();
        }
        assert_eq!((queue.cost(), queue.len()), (0, 0));
        queue.free_if_empty(&mut pool);
        assert_eq!((queue.retained_bytes(), queue.entries.capacity(), pool.output()), (0, 0, 0));
    }

    #[test]
    fn one_row_is_put_behind_another() {
        let mut pool = Pool::new(0);
        let (mut a, mut b) = (DatagramQueue::default(), DatagramQueue::default());
        a.push(to(1), None, b"first", &mut pool);
        b.push(to(2), None, b"", &mut pool);
        b.push(to(3), None, b"third", &mut pool);
        assert!(b.has_any_for(&to(2).unwrap()) && !a.has_any_for(&to(2).unwrap()));
        assert_eq!(a.append(&mut b, &mut pool), 0);
        for (port, data) in [(1, &b"first"[..]), (2, b""), (3, b"third")] {
            assert_eq!(first(&a), Some((to(port).as_ref(), data)));
            a.pop();
        }
        assert_eq!((a.len(), b.len()), (0, 0));
        a.push(to(4), None, b"x", &mut pool);
        assert_eq!((a.clear(&mut pool), pool.output()), (1, 0));
    }
}
