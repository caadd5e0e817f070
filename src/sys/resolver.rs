//! Looks up host names on threads of its own, because the system's resolver blocks.
//!
//! Invariant: there are at most [`THREADS`] threads, none before the first lookup, and none long after the last. A name
//! is looked up by one thread at a time, whoever asks for it. Each request is answered exactly once, unless it is
//! cancelled before.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::socket::interface_index;
use super::{Found, Wake};
use crate::config::address::{literal, scoped_literal};

/// The number of names that are looked up at a time. Chosen: a name whose server is silent holds its thread until
/// getaddrinfo(3) returns, for half a minute or longer, also after it was given up. So there must be far more threads
/// than such names. (libuv's four are known to be too few; tokio allows 512 blocking threads.)
const THREADS: usize = 64;
/// How long an idle thread waits before it exits. Chosen: threads survive a burst of retries, and idle servers have
/// none.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a caller that waits for a name checks whether it was told to stop. Chosen: nobody notices the delay.
const CHECK_EVERY: Duration = Duration::from_millis(20);

/// A function that resolves a name to addresses with port 0. It may block for long.
pub(crate) type Resolve = fn(&str) -> Found;

/// Somebody who waits for the addresses of a name.
struct Request {
    port: u16,
    by: Requester,
}

enum Requester {
    /// The event loop, under its number.
    Loop(u64),
    /// A caller of [`Resolver::wait_for`], who may have given up.
    Caller(Sender<Found>),
}

#[derive(Default)]
struct Queue {
    /// Names that no thread has taken yet.
    waiting: VecDeque<String>,
    /// Who waits for each name, waiting or being looked up. If all were cancelled, a name that is being looked up stays
    /// here without any: whoever asks for it next gets that answer, and needs no other thread.
    requests: BTreeMap<String, Vec<Request>>,
    found: VecDeque<(u64, Found)>,
    threads: usize,
    /// The number of threads that wait for a name, or are about to take their first one.
    idle: usize,
    /// The resolver was dropped; the threads exit.
    closed: bool,
}

impl Queue {
    /// Answers a request. Returns whether the loop is to be woken.
    fn answer(&mut self, request: Request, found: &Found) -> bool {
        let found = match found {
            Ok(addresses) => Ok(addresses.iter().map(|&a| with_port(a, request.port)).collect()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        match request.by {
            Requester::Loop(number) => self.found.push_back((number, found)),
            Requester::Caller(sender) => drop(sender.send(found)),
        }
        !self.found.is_empty()
    }
}

struct Shared {
    queue: Mutex<Queue>,
    name_ready: Condvar,
    waker: Arc<dyn Wake>,
    resolve: Resolve,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body of a thread: takes names, waits for more, and exits after [`IDLE_TIMEOUT`] without one.
    fn run_worker(&self) {
        let mut queue = self.queue();
        // It was counted as idle when it was started.
        queue.idle -= 1;
        while !queue.closed {
            if let Some(host) = queue.waiting.pop_front() {
                // getaddrinfo(3) may block for many seconds.
                drop(queue);
                let found = (self.resolve)(&host);
                queue = self.queue();
                let requests = queue.requests.remove(&host).unwrap_or_default();
                let mut wake = false;
                for request in requests {
                    wake |= queue.answer(request, &found);
                }
                if wake {
                    self.wake();
                }
                continue;
            }
            queue.idle += 1;
            let (reacquired, result) =
                self.name_ready.wait_timeout(queue, IDLE_TIMEOUT).unwrap_or_else(PoisonError::into_inner);
            queue = reacquired;
            queue.idle -= 1;
            // A name may have come between the timeout and the lock.
            if result.timed_out() && queue.waiting.is_empty() {
                break;
            }
        }
        queue.threads -= 1;
    }

    /// Wakes the loop. If that fails, it finds the result on its next turn.
    fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            log::debug!("cannot wake the loop for a finished lookup: {error}");
        }
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
        self.shared.name_ready.notify_all();
    }
}

impl Resolver {
    /// Creates a resolver that calls `waker` after each lookup for the loop.
    pub(super) fn new(waker: Arc<dyn Wake>, resolve: Resolve) -> Self {
        Self { shared: Arc::new(Shared { queue: Mutex::default(), name_ready: Condvar::new(), waker, resolve }) }
    }

    /// Begins a lookup for the loop. Returns an error if there is no thread and none can be started.
    pub(super) fn begin(&self, number: u64, host: &str, port: u16) -> io::Result<()> {
        self.request(host, Request { port, by: Requester::Loop(number) })
    }

    /// Looks up a name and waits for the answer: at most for `within`, and until `stopped` returns `true`.
    pub(super) fn wait_for(&self, host: &str, port: u16, within: Duration, stopped: &dyn Fn() -> bool) -> Found {
        let (sender, answer) = channel();
        self.request(host, Request { port, by: Requester::Caller(sender) })?;
        let mut waited = Duration::ZERO;
        loop {
            match answer.recv_timeout(CHECK_EVERY.min(within)) {
                Ok(found) => return found,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(cannot(host, ErrorKind::Other, &"the lookup was cancelled"));
                }
                Err(RecvTimeoutError::Timeout) if stopped() => {
                    return Err(cannot(host, ErrorKind::Interrupted, &"the reactor was stopped meanwhile"));
                }
                Err(RecvTimeoutError::Timeout) => waited += CHECK_EVERY.min(within),
            }
            if waited >= within {
                return Err(cannot(host, ErrorKind::TimedOut, &format_args!("no answer within {within:?}")));
            }
        }
    }

    /// Queues a request, and starts a thread if its name needs one, all are busy and the limit permits.
    fn request(&self, host: &str, request: Request) -> io::Result<()> {
        let mut queue = self.shared.queue();
        if let Some(found) = without_lookup(host) {
            if queue.answer(request, &found) {
                self.shared.wake();
            }
            return Ok(());
        }
        if let Some(requests) = queue.requests.get_mut(host) {
            requests.push(request);
            return Ok(());
        }
        queue.requests.insert(host.to_owned(), vec![request]);
        queue.waiting.push_back(host.to_owned());
        // A notified thread counts as idle until it has the lock: so compare the idle ones with all waiting names.
        if queue.idle < queue.waiting.len() && queue.threads < THREADS {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("turnwheel-resolver".to_owned());
            match thread.spawn(move || shared.run_worker()) {
                // Still under the lock: the thread cannot have ended yet. It counts as idle until it takes a name, or
                // the next request would start another one for the same name.
                Ok(_) => {
                    queue.threads += 1;
                    queue.idle += 1;
                }
                Err(error) if queue.threads == 0 => {
                    queue.waiting.pop_back();
                    queue.requests.remove(host);
                    let what = format!("cannot start a thread to resolve {host:?}: {error}");
                    return Err(io::Error::new(error.kind(), what));
                }
                // An existing thread will take the name.
                Err(error) => log::debug!("cannot start another resolver thread: {error}"),
            }
        }
        self.shared.name_ready.notify_one();
        Ok(())
    }

    /// Returns the next finished lookup with its number.
    pub(super) fn next(&self) -> Option<(u64, Found)> {
        self.shared.queue().found.pop_front()
    }

    /// Cancels a request of the loop. A name that nobody waits for any more and no thread has taken yet is not looked
    /// up.
    pub(super) fn cancel(&self, number: u64) {
        let mut queue = self.shared.queue();
        let Queue { waiting, requests, found, .. } = &mut *queue;
        found.retain(|(other, _)| *other != number);
        for requests in requests.values_mut() {
            requests.retain(|request| !matches!(request.by, Requester::Loop(other) if other == number));
        }
        waiting.retain(|host| {
            let wanted = requests.get(host).is_some_and(|requests| !requests.is_empty());
            if !wanted {
                requests.remove(host);
            }
            wanted
        });
    }
}

/// Resolves a name with the system's resolver, without duplicates. Blocks.
pub(super) fn resolve_with_system(host: &str) -> Found {
    let found = (host, 0).to_socket_addrs().map_err(|error| cannot(host, error.kind(), &error))?;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    match addresses.is_empty() {
        true => Err(cannot(host, ErrorKind::NotFound, &"no addresses found")),
        false => Ok(addresses),
    }
}

/// Returns the address if `host` is one: no server is asked for it, so it waits for no thread.
fn without_lookup(host: &str) -> Option<Found> {
    if let Some(address) = literal(host, 0) {
        return Some(Ok(vec![address]));
    }
    let (ip, zone) = scoped_literal(host)?;
    Some(match interface_index(zone) {
        Ok(index) => Ok(vec![SocketAddrV6::new(ip, 0, 0, index).into()]),
        Err(error) => Err(cannot(host, error.kind(), &format_args!("no interface is named {zone:?} here ({error})"))),
    })
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

fn cannot(host: &str, kind: ErrorKind, why: &dyn fmt::Display) -> io::Error {
    io::Error::new(kind, format!("cannot resolve {host:?}: {why}"))
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

    /// Resolves `nN` to `127.0.0.N`. Names with N from 100 up are not found.
    fn echo(host: &str) -> Found {
        match host.trim_start_matches('n').parse() {
            Ok(n @ ..100) => Ok(vec![SocketAddr::from(([127, 0, 0, n], 0))]),
            _ => Err(ErrorKind::NotFound.into()),
        }
    }

    /// Like [`echo`], but a name that begins with `silent` is never answered.
    fn hang(host: &str) -> Found {
        while host.starts_with("silent") {
            std::thread::park();
        }
        echo(host)
    }

    fn threads(resolver: &Resolver) -> usize {
        resolver.shared.queue().threads
    }

    #[test]
    fn each_request_is_answered_once_and_wakes() {
        let (resolver, bell) = resolver(echo);
        let mut wanted: Vec<u64> = (0..200).collect();
        for number in &wanted {
            resolver.begin(*number, &format!("n{number}"), 7).unwrap();
        }
        while !wanted.is_empty() {
            bell.recv().unwrap();
            while let Some((number, found)) = resolver.next() {
                let place = wanted.iter().position(|&n| n == number).expect("answered once");
                wanted.swap_remove(place);
                assert_eq!(found.ok(), (number < 100).then(|| vec![([127, 0, 0, number as u8], 7).into()]));
            }
        }
        assert!(threads(&resolver) <= THREADS);
    }

    #[test]
    fn a_resolver_that_hangs_holds_no_more_than_its_threads() {
        let (resolver, _bell) = resolver(hang);
        let count = THREADS as u64 + 16;
        for number in 0..count {
            resolver.begin(number, &format!("silent{number}"), 1).unwrap();
        }
        while resolver.shared.queue().waiting.len() > 16 {
            std::thread::yield_now();
        }
        assert_eq!(threads(&resolver), THREADS);
        (0..count).for_each(|number| resolver.cancel(number));
        assert!(resolver.next().is_none() && resolver.shared.queue().waiting.is_empty());
        assert_eq!(resolver.shared.queue().requests.len(), THREADS);
        // An address needs no thread.
        resolver.begin(count, "127.0.0.9", 5).unwrap();
        assert_eq!(resolver.next().unwrap().1.unwrap(), [([127, 0, 0, 9], 5).into()]);
    }

    #[test]
    fn silent_names_that_are_asked_for_again_and_again_leave_others_their_threads() {
        let (resolver, bell) = resolver(hang);
        for number in 0..400 {
            resolver.begin(number, &format!("silent{}", number % 4), 1).unwrap();
            resolver.cancel(number);
            resolver.begin(1_000 + number, &format!("silent{}", number % 4), 1).unwrap();
        }
        resolver.begin(5_000, "n5", 1).unwrap();
        bell.recv_timeout(Duration::from_secs(20)).expect("one that is answered");
        assert_eq!(resolver.next().unwrap().0, 5_000);
        assert!(threads(&resolver) <= 5, "one thread for each name");
    }

    #[test]
    fn all_who_ask_for_a_name_get_the_same_answer_with_their_ports() {
        let (resolver, bell) = resolver(hang);
        // Nothing is taken while this is held.
        let mut queue = resolver.shared.queue();
        queue.threads = THREADS;
        drop(queue);
        (0..4).for_each(|number| resolver.begin(number, "n8", 70 + number as u16).unwrap());
        resolver.cancel(2);
        let mut queue = resolver.shared.queue();
        assert_eq!((queue.waiting.len(), queue.requests["n8"].len()), (1, 3));
        queue.idle += 1;
        drop(queue);
        let shared = Arc::clone(&resolver.shared);
        std::thread::Builder::new().spawn(move || shared.run_worker()).unwrap();
        bell.recv().unwrap();
        let mut found: Vec<_> =
            std::iter::from_fn(|| resolver.next()).map(|(n, f)| (n, f.unwrap()[0].port())).collect();
        found.sort_unstable();
        assert_eq!(found, [(0, 70), (1, 71), (3, 73)]);
    }

    #[test]
    fn a_caller_waits_no_longer_than_it_wants_and_stops_when_it_is_told_to() {
        let (resolver, _bell) = resolver(hang);
        let wait = |host: &str, within, stopped: &dyn Fn() -> bool| resolver.wait_for(host, 7, within, stopped);
        assert_eq!(wait("n3", Duration::from_secs(20), &|| false).unwrap(), [([127, 0, 0, 3], 7).into()]);
        let error = wait("silent", Duration::from_millis(5), &|| false).unwrap_err();
        let text = "cannot resolve \"silent\": no answer within 5ms";
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::TimedOut, text));
        let error = wait("silent", Duration::from_secs(3600), &|| true).unwrap_err();
        let text = "cannot resolve \"silent\": the reactor was stopped meanwhile";
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Interrupted, text));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_address_of_a_link_has_the_index_of_its_interface() {
        let index: u32 = std::fs::read_to_string("/sys/class/net/lo/ifindex").unwrap().trim().parse().unwrap();
        let (resolver, _bell) = resolver(hang);
        let wait = |host: &str| resolver.wait_for(host, 7, Duration::from_secs(20), &|| false);
        assert_eq!(wait("fe80::1%lo").unwrap(), [format!("[fe80::1%{index}]:7").parse().unwrap()]);
        assert_eq!(wait("fe80::1%77").unwrap(), ["[fe80::1%77]:7".parse().unwrap()]);
        let error = wait("fe80::1%nowhere").unwrap_err().to_string();
        let text = "cannot resolve \"fe80::1%nowhere\": no interface is named \"nowhere\" here (";
        assert!(error.starts_with(text), "{error}");
        assert_eq!(threads(&resolver), 0);
    }

    #[test]
    fn nobody_is_asked_before_there_is_something_to_ask() {
        let (resolver, _bell) = resolver(echo);
        assert_eq!(resolver.shared.queue().threads, 0);
    }
}
