//! Connect jobs: the destination of each requested connection, its stage, and the addresses to try next.
//!
//! Holds no sockets: the loop looks names up, opens sockets and reports the results here. Invariant: a job that needs
//! the loop is in `queue` or has a deadline; each job ends with one open connection, with one reported failure, or by
//! being cancelled.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::config::address::{Address, AddressError, Endpoint, literal};
use crate::config::connect::{ConnectOptions, Existing, Target};
use crate::config::limits::Limits;
use crate::id::{AttemptId, ConnId, GenSlab, HandlerIdx, HasId};
use crate::time::Time;
use crate::time::deadlines::Deadlines;
use crate::work_list::WorkList;

/// The stage of a connect job.
#[derive(Debug)]
pub(crate) enum ConnectStage {
    /// It has not begun.
    New,
    /// Its name is being looked up.
    LookingUp,
    /// Sockets are connecting, or addresses are left to try.
    Trying,
    /// A try failed, or its connection has ended. The next try begins at its deadline.
    Backoff,
    /// It has established a connection, and will reconnect when that ends.
    Connected,
    /// The loop is to remove it.
    Cancelled,
}

/// The destination of a connect job.
#[derive(Debug)]
pub(crate) enum Destination {
    Name(String, u16),
    Address(Address),
    /// A stream that the caller handed over. Taken when the job begins.
    Existing(Option<Existing>),
    /// The requested destination is invalid.
    Invalid(AddressError),
}

/// One connect job. The user refers to it by its `AttemptId`.
#[derive(Debug)]
pub(crate) struct ConnectJob {
    pub(crate) id: AttemptId,
    pub(crate) handler: HandlerIdx,
    pub(crate) tag: u64,
    pub(crate) destination: Destination,
    pub(crate) options: ConnectOptions,
    /// The accepted connection that it takes a reserved place from.
    pub(crate) requester: Option<ConnId>,
    pub(crate) stage: ConnectStage,
    /// Addresses that were not tried yet.
    pub(crate) left: VecDeque<Address>,
    /// Sockets that are connecting. More than one if an address did not answer within the stagger (happy eyeballs).
    pub(crate) trying: Vec<ConnId>,
    /// The errors of this try, each with its address.
    pub(crate) errors: Vec<(String, io::Error)>,
    /// The number of tries that failed in a row.
    pub(crate) failed: u32,
    /// The number of backoffs since a connection lasted.
    pub(crate) backoffs: u32,
    /// When this try times out.
    pub(crate) until: Time,
    /// When the next address is tried (`Trying`), when the next try begins (`Backoff`), or when the connection was
    /// established (`Connected`).
    pub(crate) next: Time,
    /// The number of the lookup that it waits for.
    pub(crate) lookup: Option<u64>,
    /// It is in `ConnectJobs::queue`.
    queued: bool,
}

impl ConnectJob {
    /// Returns the time that one try may take.
    pub(crate) fn timeout(&self, limits: &Limits) -> Duration {
        self.options.timeout.unwrap_or(limits.connect_timeout).get()
    }

    /// Sets the addresses to try: those of its name.
    pub(crate) fn set_addresses(&mut self, mut addresses: Vec<SocketAddr>) {
        // A socket bound to an address of one family cannot connect to the other family.
        let local = self.options.local;
        addresses.retain(|a| local.is_none_or(|local| local.is_ipv4() == a.is_ipv4()));
        self.left = interleave_families(addresses);
    }

    /// Returns the name of its destination, for error texts and logs.
    pub(crate) fn name(&self) -> String {
        match &self.destination {
            Destination::Name(host, port) => format!("{host}:{port}"),
            Destination::Address(address) => address.to_string(),
            Destination::Existing(_) => "the existing stream".to_owned(),
            Destination::Invalid(error) => error.about.clone(),
        }
    }

    /// Returns the error of this try: the texts of all errors, with the kind of the last one.
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

    /// Returns when the loop must process it, if nothing else happens before.
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

/// All connect jobs.
#[derive(Debug)]
pub(crate) struct ConnectJobs {
    slots: GenSlab<ConnectJob>,
    deadlines: Deadlines,
    /// Jobs for the loop to process.
    pub(crate) queue: WorkList<AttemptId>,
    /// New jobs for which the loop has not retained the handler yet.
    pub(crate) unretained: Vec<AttemptId>,
    /// The number of jobs in stage `LookingUp`.
    pub(crate) active_lookups: usize,
    /// The job that each lookup is for. Every lookup has its own number, so that a late answer is not taken for the
    /// answer to the next try.
    lookups: BTreeMap<u64, AttemptId>,
    /// The number of the last lookup.
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

    /// Returns whether the loop has nothing to do here: there is no job, and no id of an ended one in the queue.
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

    /// Queues a job for the loop.
    pub(crate) fn enqueue(&mut self, id: AttemptId) {
        if let Some(job) = self.slots.get_mut(id) {
            self.queue.push(id, &mut job.queued);
        }
    }

    /// Takes the next job out of the queue.
    pub(crate) fn next_queued(&mut self) -> Option<AttemptId> {
        let id = self.queue.pop()?;
        if let Some(a) = self.get_mut(id) {
            a.queued = false;
        }
        Some(id)
    }

    /// Queues the jobs whose deadline has expired, at most `most` of them.
    pub(crate) fn enqueue_due(&mut self, now: Time, most: usize) {
        for _ in 0..most {
            let Some((_, slot)) = self.deadlines.next().filter(|(at, _)| *at <= now) else { return };
            self.deadlines.clear(slot);
            if let Some(id) = self.slots.id_in_slot(slot) {
                self.enqueue(id);
            }
        }
    }

    /// Returns the earliest deadline.
    pub(crate) fn next(&self) -> Time {
        self.deadlines.next().map_or(Time::NEVER, |(at, _)| at)
    }

    /// Updates the deadline of a job after the job was changed.
    pub(crate) fn update_deadline(&mut self, id: AttemptId) {
        if let Some(at) = self.get(id).map(ConnectJob::deadline) {
            self.deadlines.set(id.slot, at);
        }
    }

    /// Sets the stage of a job, and counts the active lookups.
    pub(crate) fn set_stage(&mut self, id: AttemptId, stage: ConnectStage) {
        let Some(a) = self.get_mut(id) else { return };
        let before = matches!(std::mem::replace(&mut a.stage, stage), ConnectStage::LookingUp);
        let after = matches!(a.stage, ConnectStage::LookingUp);
        self.active_lookups = self.active_lookups + usize::from(after) - usize::from(before);
    }

    /// Returns the number for a new lookup.
    pub(crate) const fn next_lookup(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Records that lookup `number` was started for a job.
    pub(crate) fn look_up(&mut self, id: AttemptId, number: u64) {
        if let Some(job) = self.get_mut(id) {
            job.lookup = Some(number);
            self.lookups.insert(number, id);
            self.set_stage(id, ConnectStage::LookingUp);
        }
    }

    /// Records that a lookup was answered. Returns its job, if that still waits for it.
    pub(crate) fn looked_up(&mut self, number: u64) -> Option<AttemptId> {
        let id = self.lookups.remove(&number)?;
        let job = self.get_mut(id)?;
        job.lookup = None;
        matches!(job.stage, ConnectStage::LookingUp).then_some(id)
    }

    /// Returns whether any lookup is unanswered.
    pub(crate) fn awaits_lookups(&self) -> bool {
        !self.lookups.is_empty()
    }

    /// Stops waiting for a lookup. Returns the number of the lookup to cancel.
    pub(crate) fn end_lookup(&mut self, id: AttemptId) -> Option<u64> {
        let number = self.get_mut(id)?.lookup.take()?;
        self.lookups.remove(&number);
        Some(number)
    }

    /// Removes a job.
    pub(crate) fn remove(&mut self, id: AttemptId) -> Option<ConnectJob> {
        self.get(id)?;
        // So that it does not stay counted in `active_lookups`.
        self.set_stage(id, ConnectStage::New);
        self.deadlines.clear(id.slot);
        self.slots.remove(id)
    }

    /// Adds a job and queues it. Returns `None` if no more ids can be issued.
    pub(super) fn insert(
        &mut self,
        handler: HandlerIdx,
        tag: u64,
        destination: Destination,
        options: ConnectOptions,
        requester: Option<ConnId>,
    ) -> Option<AttemptId> {
        let id = self.slots.insert_with(|id| ConnectJob {
            id,
            handler,
            tag,
            destination,
            options,
            requester,
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

/// Returns the destination for a target. A host that is an IP address needs no lookup.
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

/// Returns the addresses of a name that means this machine (`localhost`, and names below it). No server is asked for
/// them (RFC 6761, section 6.3), so they need no lookup, which other names could delay.
pub(crate) fn localhost(host: &str, port: u16) -> Option<Vec<SocketAddr>> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next()?;
    let this: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    last.eq_ignore_ascii_case("localhost").then(|| this.map(|ip| SocketAddr::new(ip, port)).to_vec())
}

/// Returns the addresses of a name in the order of trying (happy eyeballs, RFC 8305 section 4): the address families
/// alternate, beginning with the family of the first address, and each family keeps the resolver's order. The resolver
/// sorts by preference, but if one family has no route, all of its addresses would time out before the other family is
/// tried.
fn interleave_families(addresses: Vec<SocketAddr>) -> VecDeque<Address> {
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
