//! The command queue: a bounded queue from any thread to the reactor's thread, with one wakeup for many items.
//!
//! Invariant: while an item is queued, the flag is set, or the push that will set it has not returned, or the loop has
//! cleared it and not taken the items yet. The push that changes the flag from clear to set wakes the loop, so the loop
//! may sleep while the flag is clear.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, PoisonError};

#[cfg(all(test, turnwheel_loom))]
use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};
#[cfg(not(all(test, turnwheel_loom)))]
use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};

use crate::sys::Wake;

/// Capacity in items that an empty queue keeps; a larger one is freed. Chosen: four turns' worth of commands at the
/// default of `commands_per_turn`, so that steady traffic does not reallocate and a burst does not hold memory.
const RETAINED: usize = 4096;

/// Why a value was not queued for the reactor's thread. Contains the value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum HandleError<T> {
    /// [`Limits::commands`](crate::Limits::commands) are queued already. The reactor is busy: try again later.
    Full(T),
    /// The reactor has been dropped.
    Gone(T),
}

impl<T> HandleError<T> {
    /// Returns the value.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(value) | Self::Gone(value) => value,
        }
    }

    /// Converts the contained value.
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> HandleError<U> {
        match self {
            Self::Full(value) => HandleError::Full(change(value)),
            Self::Gone(value) => HandleError::Gone(change(value)),
        }
    }
}

impl<T> fmt::Debug for HandleError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full(..)",
            Self::Gone(_) => "Gone(..)",
        })
    }
}

impl<T> fmt::Display for HandleError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the reactor's command queue is full",
            Self::Gone(_) => "the reactor has been dropped",
        })
    }
}

impl<T> std::error::Error for HandleError<T> {}

struct Queue<T> {
    items: VecDeque<T>,
    closed: bool,
}

/// The queue, shared by the reactor and its handles.
pub(crate) struct CommandQueue<T> {
    queue: Mutex<Queue<T>>,
    /// An item was queued, and the loop has not taken the queue since. Every change is a swap: a read-modify-write
    /// always sees the latest value, so of two pushes exactly one finds it clear.
    flag: AtomicBool,
    capacity: usize,
    waker: Arc<dyn Wake>,
}

impl<T> CommandQueue<T> {
    pub(crate) fn new(capacity: usize, waker: Arc<dyn Wake>) -> Self {
        let queue = Mutex::new(Queue { items: VecDeque::new(), closed: false });
        Self { queue, flag: AtomicBool::new(false), capacity, waker }
    }

    /// Queues `wrap(value)`, and wakes the loop unless it has been woken already. On error, returns the value
    /// unwrapped.
    pub(crate) fn push<V>(&self, value: V, wrap: impl FnOnce(V) -> T) -> Result<(), HandleError<V>> {
        let mut queue = self.lock();
        if queue.closed {
            return Err(HandleError::Gone(value));
        }
        if queue.items.len() >= self.capacity {
            return Err(HandleError::Full(value));
        }
        queue.items.push_back(wrap(value));
        // Before the wake: the loop takes the lock as soon as it runs.
        drop(queue);
        // The flag is set after the item is queued: when the loop sees the flag, it finds the item.
        if !self.flag.swap(true, Ordering::AcqRel)
            && let Err(error) = self.wake()
        {
            log::error!("cannot wake the reactor, which runs queued commands only when it next wakes up: {error}");
        }
        Ok(())
    }

    /// Wakes the loop, whether or not anything is queued.
    pub(crate) fn wake(&self) -> io::Result<()> {
        self.waker.wake()
    }

    /// Whether items may be queued.
    #[inline]
    pub(crate) fn is_flagged(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    /// Clears the flag, so that the next push wakes the loop again. Call it **before** [`CommandQueue::take`]: in the
    /// other order, an item queued between the two would wait for the next push.
    pub(crate) fn clear_flag(&self) {
        self.flag.swap(false, Ordering::AcqRel);
    }

    /// Moves up to `most` items to the end of `into`, oldest first. If some are left, sets the flag again without a
    /// wakeup: the loop checks the flag before it sleeps.
    pub(crate) fn take(&self, most: usize, into: &mut Vec<T>) {
        let mut queue = self.lock();
        let n = queue.items.len().min(most);
        // Moved out, so that commands run without the lock, and may push.
        into.extend(queue.items.drain(..n));
        if !queue.items.is_empty() {
            self.flag.swap(true, Ordering::AcqRel);
        } else if queue.items.capacity() > RETAINED {
            queue.items = VecDeque::new();
        }
    }

    /// Closes the queue: every later push fails. Returns the queued items.
    pub(crate) fn close(&self) -> VecDeque<T> {
        let mut queue = self.lock();
        queue.closed = true;
        std::mem::take(&mut queue.items)
    }

    /// How many items are queued.
    pub(crate) fn len(&self) -> usize {
        self.lock().items.len()
    }

    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        // A poisoned lock is harmless: no panic can leave the queue half changed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for CommandQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandQueue")
            .field("queued", &self.len())
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(turnwheel_loom))]
mod tests {
    use super::*;
    use crate::sys::script::Bell;

    fn queue(capacity: usize) -> (CommandQueue<u32>, Arc<Bell>) {
        let bell = Arc::new(Bell::default());
        (CommandQueue::new(capacity, Arc::clone(&bell) as _), bell)
    }

    fn take(queue: &CommandQueue<u32>, most: usize) -> Vec<u32> {
        let mut taken = Vec::new();
        queue.clear_flag();
        queue.take(most, &mut taken);
        taken
    }

    #[test]
    fn many_items_are_one_wake_up_until_the_loop_has_looked() {
        let (queue, bell) = queue(10);
        let rung = || bell.times_rung();
        assert!(!queue.is_flagged());
        (0..3).for_each(|n| queue.push(n, |n| n).unwrap());
        assert_eq!((rung(), queue.is_flagged(), queue.len()), (1, true, 3));
        assert_eq!(take(&queue, 10), [0, 1, 2]);
        assert_eq!((rung(), queue.is_flagged(), queue.len()), (1, false, 0));
        queue.push(3, |n| n).unwrap();
        assert_eq!(rung(), 2);
    }

    #[test]
    fn what_is_left_over_flags_the_loop_and_wakes_nobody() {
        let (queue, bell) = queue(10);
        (0..5).for_each(|n| queue.push(n, |n| n).unwrap());
        assert_eq!(take(&queue, 2), [0, 1]);
        assert!(queue.is_flagged());
        queue.push(5, |n| n).unwrap();
        assert_eq!(bell.times_rung(), 1);
        assert_eq!(take(&queue, 4), [2, 3, 4, 5]);
        assert!(!queue.is_flagged());
    }

    #[test]
    fn what_is_refused_comes_back_unwrapped() {
        let (queue, bell) = queue(2);
        let wrapped = |_: &str| -> u32 { panic!("wrapped") };
        queue.push(1, |n| n).unwrap();
        queue.push(2, |n| n).unwrap();
        assert_eq!(queue.push("a", wrapped), Err(HandleError::Full("a")));
        assert_eq!(take(&queue, 1), [1]);
        queue.push(3, |n| n).unwrap();
        assert_eq!(queue.close(), [2, 3]);
        assert_eq!(queue.push("b", wrapped), Err(HandleError::Gone("b")));
        assert_eq!(bell.times_rung(), 1, "what is refused wakes nobody");
        assert!(take(&queue, 9).is_empty());
    }

    #[test]
    fn a_queue_that_was_long_gives_its_memory_back() {
        let (queue, _) = queue(100_000);
        (0..50_000).for_each(|n| queue.push(n, |n| n).unwrap());
        assert_eq!(take(&queue, 40_000).len(), 40_000);
        assert!(queue.lock().items.capacity() >= 10_000);
        assert_eq!(take(&queue, 40_000).len(), 10_000);
        assert!(queue.lock().items.capacity() <= RETAINED);
    }

    #[test]
    fn the_error_says_what_to_do_about_it() {
        let full = HandleError::Full(7);
        assert!(full.to_string().contains("full"), "{full}");
        assert_eq!((full.map(|n| n + 1), full.into_inner()), (HandleError::Full(8), 7));
        assert!(HandleError::Gone(()).to_string().contains("dropped"));
    }
}

/// Loom models: all interleavings of the threads, up to three preemptions.
#[cfg(test)]
#[cfg(turnwheel_loom)]
mod model {
    use loom::sync::{Arc as Shared, Condvar};
    use loom::thread;

    use super::*;

    /// What the loop sleeps on. A wakeup is stored until the sleeper has seen it.
    #[derive(Debug)]
    struct Bell {
        rung: Mutex<bool>,
        heard: Condvar,
    }

    impl Bell {
        fn new() -> Arc<Self> {
            Arc::new(Self { rung: Mutex::new(false), heard: Condvar::new() })
        }

        fn sleep(&self) {
            let mut rung = self.rung.lock().unwrap();
            while !*rung {
                rung = self.heard.wait(rung).unwrap();
            }
            *rung = false;
        }
    }

    impl Wake for Bell {
        fn wake(&self) -> io::Result<()> {
            *self.rung.lock().unwrap() = true;
            self.heard.notify_one();
            Ok(())
        }
    }

    fn model(check: impl Fn() + Send + Sync + 'static) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(check);
    }

    fn producers(queue: &Shared<CommandQueue<u32>>) -> Vec<thread::JoinHandle<Vec<u32>>> {
        let produce = |first: u32| {
            let queue = Shared::clone(queue);
            thread::spawn(move || {
                let refused = (first..first + 2).filter_map(|n| queue.push(n, |n| n).err());
                refused.map(HandleError::into_inner).collect()
            })
        };
        vec![produce(10), produce(20)]
    }

    /// The loop, with the same steps as `reactor/commands.rs`: it sleeps while the flag is clear. Loom reports a sleep
    /// that no wakeup ends as a deadlock.
    fn consume(queue: &CommandQueue<u32>, bell: &Bell, share: usize, taken: &mut Vec<u32>) {
        while taken.len() < 4 {
            if !queue.is_flagged() {
                bell.sleep();
            }
            if queue.is_flagged() {
                queue.clear_flag();
                queue.take(share, taken);
            }
        }
    }

    fn every_item_arrives_once_and_in_order(share: usize) {
        model(move || {
            let bell = Bell::new();
            let queue = Shared::new(CommandQueue::new(4, Arc::clone(&bell) as _));
            let threads = producers(&queue);
            let mut taken = Vec::new();
            consume(&queue, &bell, share, &mut taken);
            for thread in threads {
                assert!(thread.join().unwrap().is_empty(), "refused though there was space");
            }
            for first in [10, 20] {
                let of = |n: &&u32| (first..first + 2).contains(*n);
                assert_eq!(taken.iter().filter(of).copied().collect::<Vec<_>>(), [first, first + 1]);
            }
            assert_eq!((taken.len(), queue.len()), (4, 0));
        });
    }

    #[test]
    fn no_wake_up_is_lost() {
        every_item_arrives_once_and_in_order(4);
    }

    #[test]
    fn no_wake_up_is_lost_where_the_share_of_a_turn_is_small() {
        every_item_arrives_once_and_in_order(1);
    }

    #[test]
    fn closing_gives_every_item_to_one_side_or_the_other() {
        model(|| {
            let queue = Shared::new(CommandQueue::new(4, Bell::new()));
            let threads = producers(&queue);
            let mut all: Vec<u32> = Vec::new();
            queue.take(4, &mut all);
            all.extend(queue.close());
            for thread in threads {
                all.extend(thread.join().unwrap());
            }
            all.sort_unstable();
            assert_eq!(all, [10, 11, 20, 21]);
            assert!(queue.push(1, |n| n).is_err());
        });
    }
}
