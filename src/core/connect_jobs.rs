//! Attempts to connect: what is asked for, how far each one is, and what is to be tried next.
//!
//! Knows no sockets: the loop looks names up, opens sockets and says what came of it. Invariant: an attempt that needs
//! the loop is in `queue` or has a deadline; each ends as one open connection, as one failure that is told, or because
//! it was cancelled.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use crate::config::address::{Address, AddressError, Endpoint};
use crate::config::connect::{ConnectOptions, Existing, Target};
use crate::id::{AttemptId, ConnId, GenSlab, HandlerIdx, HasId};
use crate::time::Time;
use crate::time::deadlines::Deadlines;
use crate::work_list::WorkList;

/// How far an attempt is.
#[derive(Debug)]
pub(crate) enum ConnectStage {
    /// It is to begin, for the first time or once more.
    New,
    /// Its name is being looked up.
    LookingUp,
    /// Sockets are connecting, or addresses are left.
    Trying,
    /// It failed, or the connection it led to has ended; it begins again at its deadline.
    Backoff,
    /// It has led to a connection, and will begin again when that ends.
    Connected,
    Cancelled,
}

/// Where an attempt leads.
#[derive(Debug)]
pub(crate) enum Destination {
    Name(String, u16),
    Address(Address),
    /// A stream that is connected already; taken when it begins.
    Existing(Option<Existing>),
    /// What was asked for cannot be used.
    Invalid(AddressError),
}

#[derive(Debug)]
pub(crate) struct ConnectJob {
    pub(crate) id: AttemptId,
    pub(crate) handler: HandlerIdx,
    pub(crate) tag: u64,
    pub(crate) destination: Destination,
    pub(crate) options: ConnectOptions,
    pub(crate) stage: ConnectStage,
    /// Addresses that were not tried yet.
    pub(crate) left: VecDeque<Address>,
    /// Sockets that are connecting.
    pub(crate) trying: Vec<ConnId>,
    /// What went wrong with which address, in this try.
    pub(crate) errors: Vec<(String, io::Error)>,
    /// Tries in a row that failed; and waits since a connection that lasted.
    pub(crate) failed: u32,
    pub(crate) backoffs: u32,
    /// When this try is given up; and when the next address is tried, or the next try begins, or the connection began.
    pub(crate) until: Time,
    pub(crate) next: Time,
    /// The number of the lookup that it waits for.
    pub(crate) lookup: Option<u64>,
    queued: bool,
}

impl ConnectJob {
    /// What it leads to, for people.
    pub(crate) fn name(&self) -> String {
        match &self.destination {
            Destination::Name(host, port) => format!("{host}:{port}"),
            Destination::Address(address) => address.to_string(),
            Destination::Existing(_) => "the existing stream".to_owned(),
            Destination::Invalid(error) => error.about.clone(),
        }
    }

    /// What became of this try: all that went wrong, with the kind of the last.
    pub(crate) fn take_error(&mut self) -> io::Error {
        let name = self.name();
        let errors = std::mem::take(&mut self.errors);
        let Some(kind) = errors.last().map(|(_, e)| e.kind()) else {
            let what = format!("cannot connect to {name}: no address to try");
            return io::Error::new(io::ErrorKind::AddrNotAvailable, what);
        };
        let one = |(address, error): &(String, io::Error)| match *address == name || address.is_empty() {
            true => error.to_string(),
            false => format!("{address}: {error}"),
        };
        let all: Vec<String> = errors.iter().map(one).collect();
        io::Error::new(kind, format!("cannot connect to {name}: {}", all.join("; ")))
    }

    /// When the loop must look at it.
    fn deadline(&self) -> Time {
        match self.stage {
            ConnectStage::New | ConnectStage::Connected | ConnectStage::Cancelled => Time::NEVER,
            ConnectStage::LookingUp => self.until,
            ConnectStage::Trying if self.left.is_empty() => self.until,
            ConnectStage::Trying => self.until.min(self.next),
            ConnectStage::Backoff => self.next,
        }
    }
}

impl HasId for ConnectJob {
    type Id = AttemptId;

    fn id(&self) -> AttemptId {
        self.id
    }
}

/// All attempts.
#[derive(Debug)]
pub(crate) struct ConnectJobs {
    slots: GenSlab<ConnectJob>,
    deadlines: Deadlines,
    /// Those that the loop is to look at now.
    pub(crate) queue: WorkList<AttemptId>,
    /// Those that the loop has not yet counted among what leads to their handlers.
    pub(crate) unretained: Vec<AttemptId>,
    /// How many names are looked up.
    pub(crate) active_lookups: usize,
    /// CallSite waits for which lookup. Each has a number of its own: what is found late is not for the next try.
    lookups: BTreeMap<u64, AttemptId>,
    numbers: u64,
}

impl Default for ConnectJobs {
    fn default() -> Self {
        Self {
            slots: GenSlab::new(),
            deadlines: Deadlines::default(),
            queue: WorkList::new(),
            unretained: Vec::new(),
            active_lookups: 0,
            lookups: BTreeMap::new(),
            numbers: 0,
        }
    }
}

impl ConnectJobs {
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is nothing to look after: no attempt, and none that ended while it was to be looked at.
    pub(crate) fn is_idle(&self) -> bool {
        self.slots.is_empty() && self.queue.is_empty()
    }

    pub(crate) fn get(&self, id: AttemptId) -> Option<&ConnectJob> {
        self.slots.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: AttemptId) -> Option<&mut ConnectJob> {
        self.slots.get_mut(id)
    }

    /// See [`GenSlab::live`].
    #[track_caller]
    pub(crate) fn live(&self, id: AttemptId) -> Option<&ConnectJob> {
        self.slots.live(id)
    }

    /// See [`GenSlab::live_mut`].
    #[track_caller]
    pub(crate) fn live_mut(&mut self, id: AttemptId) -> Option<&mut ConnectJob> {
        self.slots.live_mut(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &ConnectJob> {
        self.slots.iter()
    }

    /// Has the loop look at an attempt, in its turn.
    pub(crate) fn enqueue(&mut self, id: AttemptId) {
        if let Some(job) = self.slots.get_mut(id) {
            self.queue.push(id, &mut job.queued);
        }
    }

    /// The next one that the loop is to look at.
    pub(crate) fn next_queued(&mut self) -> Option<AttemptId> {
        let id = self.queue.pop()?;
        if let Some(a) = self.get_mut(id) {
            a.queued = false;
        }
        Some(id)
    }

    /// Puts those whose time has come among those that are wanted, so many at most.
    pub(crate) fn enqueue_due(&mut self, now: Time, most: usize) {
        for _ in 0..most {
            let Some((_, slot)) = self.deadlines.next().filter(|(at, _)| *at <= now) else { return };
            self.deadlines.clear(slot);
            if let Some(id) = self.slots.id_in_slot(slot) {
                self.enqueue(id);
            }
        }
    }

    /// When the first one is to be looked at.
    pub(crate) fn next(&self) -> Time {
        self.deadlines.next().map_or(Time::NEVER, |(at, _)| at)
    }

    /// Settles when an attempt is looked at again, after it was changed.
    pub(crate) fn update_deadline(&mut self, id: AttemptId) {
        if let Some(at) = self.get(id).map(ConnectJob::deadline) {
            self.deadlines.set(id.slot, at);
        }
    }

    /// Changes how far an attempt is.
    pub(crate) fn set_stage(&mut self, id: AttemptId, stage: ConnectStage) {
        let Some(a) = self.get_mut(id) else { return };
        let before = matches!(std::mem::replace(&mut a.stage, stage), ConnectStage::LookingUp);
        let after = matches!(a.stage, ConnectStage::LookingUp);
        self.active_lookups = self.active_lookups + usize::from(after) - usize::from(before);
    }

    /// The number that the next lookup gets.
    pub(crate) const fn next_lookup(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// A name is being looked up for an attempt.
    pub(crate) fn look_up(&mut self, id: AttemptId, number: u64) {
        if let Some(job) = self.get_mut(id) {
            job.lookup = Some(number);
            self.lookups.insert(number, id);
            self.set_stage(id, ConnectStage::LookingUp);
        }
    }

    /// A lookup has been answered: whose it was, if anyone still waits for it.
    pub(crate) fn looked_up(&mut self, number: u64) -> Option<AttemptId> {
        let id = self.lookups.remove(&number)?;
        let job = self.get_mut(id)?;
        job.lookup = None;
        matches!(job.stage, ConnectStage::LookingUp).then_some(id)
    }

    /// Whether anything was asked that is not answered.
    pub(crate) fn awaits_lookups(&self) -> bool {
        !self.lookups.is_empty()
    }

    /// Waits no longer for a name; answers which lookup is to be cancelled.
    pub(crate) fn end_lookup(&mut self, id: AttemptId) -> Option<u64> {
        let number = self.get_mut(id)?.lookup.take()?;
        self.lookups.remove(&number);
        Some(number)
    }

    /// Forgets an attempt.
    pub(crate) fn remove(&mut self, id: AttemptId) -> Option<ConnectJob> {
        self.get(id)?;
        self.set_stage(id, ConnectStage::New);
        self.deadlines.clear(id.slot);
        self.slots.remove(id)
    }

    /// Adds a job and queues it. Returns `None` when no more ids can be issued.
    pub(super) fn insert(
        &mut self,
        handler: HandlerIdx,
        tag: u64,
        destination: Destination,
        options: ConnectOptions,
    ) -> Option<AttemptId> {
        let id = self.slots.insert_with(|id| ConnectJob {
            id,
            handler,
            tag,
            destination,
            options,
            stage: ConnectStage::New,
            left: VecDeque::new(),
            trying: Vec::new(),
            errors: Vec::new(),
            failed: 0,
            backoffs: 0,
            until: Time::NEVER,
            next: Time::NEVER,
            lookup: None,
            queued: false,
        })?;
        self.unretained.push(id);
        self.enqueue(id);
        Some(id)
    }
}

/// Where a target leads.
pub(super) fn destination_of(target: Target) -> Destination {
    match target {
        Target::Existing(existing) => Destination::Existing(Some(existing)),
        Target::Address(address) => Destination::Address(address),
        Target::Endpoint(Endpoint::Unix(path)) => Destination::Address(Address::Unix(Some(path))),
        Target::Endpoint(Endpoint::Tcp { host, port }) => match literal(&host, port) {
            Some(address) => Destination::Address(Address::Tcp(address)),
            None => Destination::Name(host, port),
        },
    }
}

/// The address that a host is, if it is no name.
fn literal(host: &str, port: u16) -> Option<SocketAddr> {
    let plain = host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port));
    plain.or_else(|| format!("[{host}]:{port}").parse::<SocketAddrV6>().ok().map(SocketAddr::V6))
}

/// The addresses of a name in the order of trying: the kinds in turn, beginning with the first one's, and each kind in
/// the order in which the resolver gave it (RFC 8305, section 4).
pub(crate) fn interleave_families(addresses: Vec<SocketAddr>) -> VecDeque<Address> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (a, b): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first);
    let (mut a, mut b) = (a.into_iter(), b.into_iter());
    let mut all = VecDeque::new();
    loop {
        let before = all.len();
        all.extend(a.next());
        all.extend(b.next());
        if all.len() == before {
            return all.into_iter().map(Address::Tcp).collect();
        }
    }
}
