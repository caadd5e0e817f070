//! Other threads in a simulated run: between any two calls of [`Sys`](crate::sys::Sys) they send commands.
//!
//! Invariant: accepted commands arrive once and in the order of their sender, except notes to connections that have
//! closed, which are counted; refused commands never arrive.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};

use super::checked_handler::Record;
use super::posted_event::{Arrivals, PostedEvent};
use super::view::View;
use crate::command_queue::HandleError;
use crate::handler::Handler;
use crate::handler::handle::{Handle, Notes};
use crate::id::ConnId;
use crate::reactor::audit::require;
use crate::sys::sim::{Dice, OtherThreads};

/// The maximum number of commands in a run, and the number of threads. Chosen: enough to overflow the queue, and few
/// enough to end.
const BREATH: usize = 10_000;
const THREADS: usize = 3;

/// What other threads may do in a play.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThreadPlan {
    /// The terminator of the messages that they send, to any connection. `None`: they send only to closed connections.
    pub(crate) ending: Option<&'static [u8]>,
    /// They close and abort connections.
    pub(crate) ends: bool,
}

/// An accepted command that has not arrived.
#[derive(Debug)]
struct Accepted {
    serial: u64,
    /// Its target is a connection, which may have closed.
    may_miss: bool,
}

/// The other threads.
#[derive(Debug)]
pub(crate) struct Threads {
    dice: Dice,
    thread_plan: ThreadPlan,
    handle: Handle,
    notes: Notes<PostedEvent>,
    capacity: usize,
    /// The probability to act at a call, in thousandths.
    eager: usize,
    breath: usize,
    serial: u64,
    /// All connections so far, and those of them that are closed and whose ids are never reused.
    ids: Vec<ConnId>,
    gone: Vec<ConnId>,
    /// Ids are never reused.
    unique: bool,
    arrivals: Arrivals,
    accepted: [VecDeque<Accepted>; THREADS],
    commands: u64,
    missed: u64,
    /// The number of commands run at the previous check.
    ran: u64,
    /// The connections that they aborted since the previous check.
    aborted: Vec<ConnId>,
    /// The messages sent, by connection.
    texts: BTreeMap<ConnId, Vec<Vec<u8>>>,
    wrong: Option<String>,
}

impl Threads {
    pub(super) fn new(
        mut dice: Dice,
        thread_plan: ThreadPlan,
        handle: Handle,
        notes: Notes<PostedEvent>,
        capacity: usize,
        unique: bool,
    ) -> Self {
        let eager = if dice.one_in(3) { 0 } else { dice.size(200) };
        Self {
            dice,
            thread_plan,
            handle,
            notes,
            capacity,
            eager,
            breath: BREATH,
            serial: 0,
            ids: Vec::new(),
            gone: Vec::new(),
            unique,
            arrivals: Arrivals::default(),
            accepted: Default::default(),
            commands: 0,
            missed: 0,
            ran: 0,
            aborted: Vec::new(),
            texts: BTreeMap::new(),
            wrong: None,
        }
    }

    /// Returns the messages sent to a connection.
    pub(crate) fn texts_for(&self, id: ConnId) -> &[Vec<u8>] {
        self.texts.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Sends a random command.
    fn send_any(&mut self) {
        let n = self.ids.len();
        let id = (n > 0).then(|| self.ids[self.dice.between(n.saturating_sub(8), n - 1)]);
        match (self.dice.below(8), id) {
            (0 | 1, Some(id)) => self.send_text(id),
            (2, Some(id)) if self.thread_plan.ends => {
                let done = if self.dice.one_in(2) {
                    self.handle.close_id(id)
                } else {
                    self.aborted.push(id);
                    self.handle.abort_id(id)
                };
                self.note_outcome(done);
            }
            (3 | 4, Some(id)) => {
                self.send_errand(|notes, _, posted_event| notes.post_to(id, posted_event), true);
            }
            (5, _) => self.send_errand(
                |_, handle, posted_event| {
                    let run = handle.run(move |_| posted_event.arrive());
                    run.map_err(|_| HandleError::Full(()))
                },
                false,
            ),
            _ => self.send_errand(|notes, _, posted_event| notes.post(posted_event), false),
        }
    }

    /// Sends a command that records its arrival.
    fn send_errand<E>(
        &mut self,
        send: impl FnOnce(&Notes<PostedEvent>, &Handle, PostedEvent) -> Result<(), HandleError<E>>,
        may_miss: bool,
    ) {
        let from = self.dice.below(THREADS);
        self.serial += 1;
        let serial = self.serial;
        let posted_event = PostedEvent { from, serial, arrivals: self.arrivals.clone() };
        let done = send(&self.notes, &self.handle, posted_event);
        if done.is_ok() {
            self.accepted[from].push_back(Accepted { serial, may_miss });
        }
        self.note_outcome(done);
    }

    /// Sends a message, and records it for its connection.
    fn send_text(&mut self, id: ConnId) {
        let to = match self.thread_plan.ending {
            Some(_) => Some(id),
            None => (!self.gone.is_empty()).then(|| self.dice.pick(&self.gone)),
        };
        let Some(to) = to else { return };
        self.serial += 1;
        let mut text = format!("!{:x}", self.serial).into_bytes();
        text.extend(self.thread_plan.ending.unwrap_or_default());
        let done = self.handle.send_to(to, text.clone());
        if done.is_ok() {
            self.texts.entry(to).or_default().push(text);
        }
        self.note_outcome(done);
    }

    fn note_outcome<T>(&mut self, done: Result<(), HandleError<T>>) {
        match done {
            Ok(()) => self.commands += 1,
            Err(HandleError::Full(_)) if self.handle.queued() >= self.capacity => {}
            Err(e) => self.wrong = Some(format!("{e}, with {} of {}", self.handle.queued(), self.capacity)),
        }
    }

    /// Updates the lists of connections.
    fn meet(&mut self, records: &[Record]) {
        self.ids = records.iter().map(|r| r.id).collect();
        let gone = records.iter().filter(|r| self.unique && r.closed.is_some());
        self.gone = gone.map(|r| r.id).collect();
    }

    /// Checks that everything that arrived was accepted, and that nothing before it was lost.
    fn check_arrivals(&mut self) -> Result<(), String> {
        for (from, serial) in self.arrivals.take() {
            loop {
                let next = self.accepted[from].pop_front();
                let next = next.ok_or_else(|| format!("I1: {serial} of thread {from} arrived unsent"))?;
                if next.serial == serial {
                    break;
                }
                self.miss(from, &next)?;
            }
        }
        Ok(())
    }

    fn miss(&mut self, from: usize, lost: &Accepted) -> Result<(), String> {
        self.missed += 1;
        require(lost.may_miss, || format!("I1: {} of thread {from} was lost", lost.serial))
    }

    /// Checks at the end that nothing is queued. What has not arrived is lost.
    fn check_over(&mut self) -> Result<(), String> {
        let waits = self.handle.queued();
        require(waits == 0, || format!("I1: {waits} commands still queued"))?;
        for from in 0..THREADS {
            while let Some(lost) = self.accepted[from].pop_front() {
                self.miss(from, &lost)?;
            }
        }
        Ok(())
    }
}

impl OtherThreads for Threads {
    fn act(&mut self) {
        if self.eager == 0 || self.breath == 0 || self.dice.below(1000) >= self.eager {
            return;
        }
        let flood = self.dice.one_in(20);
        let n = if flood { self.dice.size(self.capacity + 8) } else { self.dice.size(3) };
        let n = n.min(self.breath);
        self.breath -= n;
        (0..n).for_each(|_| self.send_any());
    }

    fn wait(&self) -> bool {
        self.handle.queued() > 0
    }

    fn rest(&mut self) {
        self.eager = 0;
    }
}

impl<H: Handler> View<H> {
    /// Returns the other threads, if there are any.
    pub(crate) fn threads(&self) -> Option<&Threads> {
        let threads: &dyn Any = &**self.inner.sys.threads.as_ref()?;
        threads.downcast_ref()
    }

    /// Checks that the commands of other threads ran as guaranteed, and updates their lists of connections. At the
    /// end (`over`) nothing may be queued.
    pub(super) fn check_threads(&mut self, over: bool) -> Result<(), String> {
        let overslept = self.inner.sys.overslept;
        require(!overslept, || "N7: commands are queued, and nothing will wake the loop".to_owned())?;
        let Some(threads) = &mut self.inner.sys.threads else { return Ok(()) };
        let threads: &mut dyn Any = &mut **threads;
        let Some(threads) = threads.downcast_mut::<Threads>() else { return Ok(()) };
        let stats = &self.inner.dispatcher.core.stats;
        let (ran, share) = (stats.commands, self.inner.dispatcher.core.limits.commands_per_turn as u64);
        let now = ran - threads.ran;
        threads.ran = ran;
        require(now <= share, || format!("N10: {now} commands in a turn, not {share}"))?;
        let (waits, accepted) = (threads.handle.queued() as u64, threads.commands);
        require(waits <= threads.capacity as u64, || format!("I3: {waits} of {} queued", threads.capacity))?;
        require(ran + waits == accepted, || format!("I1: {accepted} commands accepted, {ran} run, {waits} queued"))?;
        threads.check_arrivals()?;
        if over {
            threads.check_over()?;
        }
        let (missed, nobody) = (threads.missed, stats.commands_for_nobody);
        require(missed <= nobody, || format!("I1: {missed} notes without a target, {nobody} counted"))?;
        if let Some(wrong) = &threads.wrong {
            return Err(format!("I3: {wrong}"));
        }
        // Where ids come round, the one that is aborted at last may be another one.
        let aborted = if threads.unique { std::mem::take(&mut threads.aborted) } else { threads.aborted.clone() };
        let Some(checked) = self.inner.dispatcher.get_mut(self.key) else { return Ok(()) };
        threads.meet(&checked.records);
        for id in aborted {
            if let Some(record) = checked.records.iter_mut().rfind(|r| r.id == id) {
                record.aborted = true;
            }
        }
        Ok(())
    }
}
