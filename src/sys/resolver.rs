//! Looks up host names on threads of its own, because the system's resolver blocks.
//!
//! Invariant: there are at most [`THREADS`] threads, none before the first lookup, and none long after the last. Each
//! lookup is answered exactly once, unless it is cancelled before a thread takes it.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Wake;

/// The number of lookups at a time. Chosen: as many as the threads of libuv's default pool, which does the same job.
const THREADS: usize = 4;
/// How long an idle thread waits before it exits. Chosen: threads survive a burst of retries, and idle servers have
/// none.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The result of a lookup.
pub(super) type Found = io::Result<Vec<SocketAddr>>;

/// A function that resolves a name. It may block for long.
pub(super) type Resolve = fn(&str, u16) -> Found;

struct Job {
    number: u64,
    host: String,
    port: u16,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    found: VecDeque<(u64, Found)>,
    threads: usize,
    /// The number of threads that wait for a job.
    idle: usize,
    /// The resolver was dropped; the threads exit.
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    job_ready: Condvar,
    waker: Arc<dyn Wake>,
    resolve: Resolve,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body of a thread: takes jobs, waits for more, and exits after [`IDLE_TIMEOUT`] without one.
    fn run_worker(&self) {
        let mut queue = self.queue();
        while !queue.closed {
            if let Some(job) = queue.waiting.pop_front() {
                // getaddrinfo(3) may block for many seconds.
                drop(queue);
                let found = (self.resolve)(&job.host, job.port);
                queue = self.queue();
                queue.found.push_back((job.number, found));
                // If waking fails, the loop finds the result on its next turn.
                if let Err(error) = self.waker.wake() {
                    log::debug!("cannot wake the loop for the addresses of {:?}: {error}", job.host);
                }
                continue;
            }
            queue.idle += 1;
            let (reacquired, result) =
                self.job_ready.wait_timeout(queue, IDLE_TIMEOUT).unwrap_or_else(PoisonError::into_inner);
            queue = reacquired;
            queue.idle -= 1;
            // A job may have come between the timeout and the lock.
            if result.timed_out() && queue.waiting.is_empty() {
                break;
            }
        }
        queue.threads -= 1;
    }
}

/// A queue of lookups with its threads.
pub(super) struct Resolver {
    shared: Arc<Shared>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = self.shared.queue();
        f.debug_struct("Resolver").field("waiting", &queue.waiting.len()).field("threads", &queue.threads).finish()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.closed = true;
        queue.waiting.clear();
        self.shared.job_ready.notify_all();
    }
}

impl Resolver {
    /// Creates a resolver that calls `waker` after each lookup.
    pub(super) fn new(waker: Arc<dyn Wake>, resolve: Resolve) -> Self {
        Self { shared: Arc::new(Shared { queue: Mutex::default(), job_ready: Condvar::new(), waker, resolve }) }
    }

    /// Queues a lookup, and starts a thread if all are busy and the limit permits. Returns an error if there is no
    /// thread and none can be started.
    pub(super) fn begin(&self, number: u64, host: &str, port: u16) -> io::Result<()> {
        let mut queue = self.shared.queue();
        queue.waiting.push_back(Job { number, host: host.to_owned(), port });
        // A notified thread counts as idle until it has the lock: so compare the idle ones with all waiting jobs.
        if queue.idle < queue.waiting.len() && queue.threads < THREADS {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("turnwheel-resolver".to_owned());
            match thread.spawn(move || shared.run_worker()) {
                // Still under the lock: the thread cannot have ended yet.
                Ok(_) => queue.threads += 1,
                Err(error) if queue.threads == 0 => {
                    queue.waiting.pop_back();
                    let what = format!("cannot start a thread to resolve {host:?}: {error}");
                    return Err(io::Error::new(error.kind(), what));
                }
                // An existing thread will take the job.
                Err(error) => log::debug!("cannot start another resolver thread: {error}"),
            }
        }
        self.shared.job_ready.notify_one();
        Ok(())
    }

    /// Returns the next finished lookup with its number.
    pub(super) fn next(&self) -> Option<(u64, Found)> {
        self.shared.queue().found.pop_front()
    }

    /// Drops a lookup that no thread has taken yet, or that is already answered. A lookup in progress is still
    /// answered.
    pub(super) fn cancel(&self, number: u64) {
        let mut queue = self.shared.queue();
        queue.waiting.retain(|job| job.number != number);
        queue.found.retain(|(other, _)| *other != number);
    }
}

/// Resolves a name with the system's resolver, without duplicates. Blocks.
pub(super) fn resolve_with_system(host: &str, port: u16) -> Found {
    let cannot = |kind, why: String| io::Error::new(kind, format!("cannot resolve {host:?}: {why}"));
    let found = (host, port).to_socket_addrs().map_err(|error| cannot(error.kind(), error.to_string()))?;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    match addresses.is_empty() {
        true => Err(cannot(ErrorKind::NotFound, "no addresses found".to_owned())),
        false => Ok(addresses),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Forwards wake-ups to a channel.
    #[derive(Debug)]
    struct Bell(Mutex<Sender<()>>);

    impl Wake for Bell {
        fn wake(&self) -> io::Result<()> {
            self.0.lock().unwrap().send(()).map_err(io::Error::other)
        }
    }

    fn resolver(resolve: Resolve) -> (Resolver, Receiver<()>) {
        let (sender, bell) = channel();
        (Resolver::new(Arc::new(Bell(Mutex::new(sender))), resolve), bell)
    }

    /// Resolves a number to itself as a port; numbers from 1000 up are not found.
    fn echo(host: &str, _port: u16) -> Found {
        match host.parse() {
            Ok(n @ ..1000) => Ok(vec![SocketAddr::from(([127, 0, 0, 1], n))]),
            _ => Err(ErrorKind::NotFound.into()),
        }
    }

    fn hang(_host: &str, _port: u16) -> Found {
        loop {
            std::thread::park();
        }
    }

    #[test]
    fn each_name_is_answered_once_and_wakes() {
        let (resolver, bell) = resolver(echo);
        let mut wanted: Vec<u64> = (0..200).collect();
        for number in &wanted {
            resolver.begin(*number, &format!("{}", number * 10), 1).unwrap();
        }
        while !wanted.is_empty() {
            bell.recv().unwrap();
            while let Some((number, found)) = resolver.next() {
                let place = wanted.iter().position(|&n| n == number).expect("answered once");
                wanted.swap_remove(place);
                assert_eq!(found.is_ok(), number < 100);
            }
        }
        assert!(resolver.shared.queue().threads <= THREADS);
    }

    #[test]
    fn a_resolver_that_hangs_holds_no_more_than_its_threads() {
        let (resolver, _bell) = resolver(hang);
        for number in 0..20 {
            resolver.begin(number, "x", 1).unwrap();
        }
        while resolver.shared.queue().waiting.len() > 20 - THREADS {
            std::thread::yield_now();
        }
        assert_eq!(resolver.shared.queue().threads, THREADS);
        (0..20).for_each(|number| resolver.cancel(number));
        assert!(resolver.next().is_none() && resolver.shared.queue().waiting.is_empty());
    }

    #[test]
    fn nobody_is_asked_before_there_is_something_to_ask() {
        let (resolver, _bell) = resolver(echo);
        assert_eq!(resolver.shared.queue().threads, 0);
    }
}
