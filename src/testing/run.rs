//! One simulated run: a loop with a handler, first with faults, then without.
//!
//! Decides what clients do and when; the checks are in [`oracle`](super::oracle). Invariant: a run depends on its
//! seed alone, and ends after a bounded number of turns.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::checked_handler::CheckedHandler;
use super::client::{Client, Gone};
use super::connect_checks::check_nothing_left;
use super::limits_gen::{draw_limits, draw_volume};
use super::oracle::Oracle;
use super::threads::{ThreadPlan, Threads};
use super::trace::{Trace, fold_call, fold_text};
use super::view::View;
use crate::config::limits::Limits;
use crate::config::listen::{ListenOptions, ListenTarget};
use crate::dispatch::text_of;
use crate::handler::Handler;
use crate::id::Generations;
use crate::reactor::audit::require;
use crate::reactor::event_loop::EventLoop;
use crate::reactor::turn::Turn;
use crate::sys::Sys;
use crate::sys::sim::{Dice, Fault, MS, Mark, Odds, Sim, Struck, fold, new_struck};

/// Once the faults have ended: the turns within which some byte must be delivered, and within which all must be, in
/// addition to those for each byte that waits already. Chosen; with the smallest budgets, a byte at a time is written.
const PATIENCE: usize = 30_000;
const LONG_PATIENCE: usize = 200_000;
const TURNS_FOR_A_BYTE: usize = 4;
/// The maximum number of turns with faults. Chosen: long enough for timeouts and shutdowns, short enough for
/// thousands of seeds.
const STEPS: usize = 300;

/// The options of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RunOptions {
    /// A kind of fault to disable.
    pub(crate) without: Option<Fault>,
    /// Whether edges are strict, in place of the seed's choice.
    pub(crate) strict: Option<bool>,
    /// Record every call in the trace.
    pub(crate) traced: bool,
    /// Print the trace as it grows.
    pub(crate) live: bool,
}

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) error: Option<String>,
    pub(crate) struck: Struck,
    /// A hash of every call and its result, every byte written, and the final counters.
    pub(crate) hash: u64,
    pub(crate) turns: usize,
    /// Simulated time in nanoseconds.
    pub(crate) elapsed: u64,
    pub(crate) trace: Vec<String>,
}

/// The user's part of a run. Created for each seed.
pub(crate) trait Play {
    type H: Handler;
    fn handler(&self, dice: &mut Dice) -> Self::H;
    /// Returns the cell in which the handler finds the time of the first reading of the clock since it last took that.
    fn mark(&self, handler: &Self::H) -> Mark {
        let _ = handler;
        Mark::default()
    }
    /// Adjusts the limits that were drawn.
    fn limits(&self, limits: &mut Limits) {
        let _ = limits;
    }
    /// Returns how many places the listeners reserve for each connection.
    fn reserve(&self, limits: &Limits) -> usize {
        let _ = limits;
        0
    }
    /// Returns `true` if the handler may panic.
    fn may_panic(&self) -> bool {
        false
    }
    /// Returns what other threads may do, or `None` if there are none.
    fn thread_plan(&self) -> Option<ThreadPlan> {
        None
    }
    /// Returns the data that a client sends, about `most` bytes.
    fn says(&self, dice: &mut Dice, most: usize) -> Vec<u8>;
    /// The user's check, called after each turn; with `over` at the end of the run.
    fn check(&self, view: &View<Self::H>, oracle: &Oracle, over: bool) -> Result<(), String>;
}

/// A run in progress: its state, its oracle, and its trace.
struct Run<H: Handler> {
    view: View<H>,
    oracle: Oracle,
    listeners: usize,
    hash: u64,
    trace: Trace,
    /// The maximum number of bytes that one client sends.
    volume: usize,
}

/// Runs a seed to its end.
pub(crate) fn play<P: Play>(seed: u64, plan: impl FnOnce(&mut Dice) -> P, options: RunOptions) -> Outcome {
    let mut dice = Dice::new(seed);
    let plan = plan(&mut dice);
    let begun = catch_unwind(AssertUnwindSafe(|| Run::begin(dice, &plan, options)));
    let begun = begun.unwrap_or_else(|panic| {
        Err(format!(
            "the closure that creates the handler, or the one for the clients' data, panicked: {}",
            text_of(&*panic)
        ))
    });
    let mut run = match begun {
        Ok(run) => run,
        Err(error) => {
            let struck = new_struck();
            return Outcome { error: Some(error), struck, hash: 0, turns: 0, elapsed: 0, trace: Vec::new() };
        }
    };
    let done = run.play(&plan);
    run.hash = fold_text(run.hash, &run.view.inner.dispatcher.core.snapshot().to_string());
    let trace = run.trace.lines.take().unwrap_or_default();
    let error = done.err().map(|e| format!("{e}\n{}", run.table()));
    Outcome {
        error,
        struck: run.view.inner.sys.odds.struck,
        hash: run.hash,
        turns: run.view.turns,
        elapsed: run.view.inner.sys.seen,
        trace,
    }
}

impl<H: Handler> Run<H> {
    fn begin<P: Play<H = H>>(mut dice: Dice, plan: &P, options: RunOptions) -> Result<Self, String> {
        let mut odds = Odds::draw(&mut dice);
        options.without.into_iter().for_each(|f| odds.switch_off(f));
        let handler = plan.handler(&mut dice);
        let mut limits = draw_limits(&mut dice);
        plan.limits(&mut limits);
        let (listeners, clients) = (dice.between(1, 3), dice.size(32));
        let volume = draw_volume(&mut dice, &limits, clients);
        let least = volume / 200;
        let clients: Vec<Client> = (0..clients)
            .map(|_| {
                let most = dice.between(volume / 8, volume);
                let says = plan.says(&mut dice, most);
                Client::draw(&mut dice, says, listeners, least)
            })
            .collect();
        let mask = dice.pick(&[3, 7, u32::MAX]);
        let mut sim = Sim::new(Dice::new(dice.roll()), odds);
        sim.script.capacity = limits.events_per_turn;
        sim.script.strict = options.strict.unwrap_or(sim.script.strict);
        let reserve = plan.reserve(&limits);
        let mut inner = EventLoop::new(sim, limits, Generations::masked(mask)).map_err(|e| e.to_string())?;
        inner.sys.mark = plan.mark(&handler);
        let mut checked = CheckedHandler::new(handler);
        checked.may_not_panic = !plan.may_panic();
        let handler = inner.dispatcher.add(checked, true);
        let handler = handler.map_err(|e| format!("{e}; use .limits(|limits| limits.fit(&codec))"))?;
        let key = inner.dispatcher.key(handler);
        if let Some(thread_plan) = plan.thread_plan() {
            let (dice, handle) = (Dice::new(dice.roll()), inner.handle());
            let notes = handle.notes(key).ok_or("the key is another reactor's")?;
            let capacity = inner.dispatcher.core.limits.commands;
            let threads = Threads::new(dice, thread_plan, handle, notes, capacity, mask == u32::MAX);
            inner.sys.threads = Some(Box::new(threads));
        }
        for _ in 0..listeners {
            let at = ListenTarget::Tcp(([127, 0, 0, 1], 0).into());
            let socket = inner.sys.listen(at, &ListenOptions::default()).map_err(|e| e.to_string())?;
            inner.add_listener(socket, handler, reserve).map_err(|e| e.to_string())?;
        }
        let trace = Trace { lines: options.traced.then(Vec::new), live: options.live };
        let view = View { inner, key, clients, stopping: None, turns: 0 };
        let mut run = Self { view, oracle: Oracle::new(reserve), listeners, hash: 0, trace, volume };
        run.describe();
        Ok(run)
    }

    /// Records what was drawn.
    fn describe(&mut self) {
        let (sim, limits) = (&self.view.inner.sys, &self.view.inner.dispatcher.core.limits);
        self.trace.record(|| format!("{limits:?}"));
        let strict = sim.script.strict;
        self.trace.record(|| format!("{} listeners, strict: {strict}, {:?}", self.listeners, sim.odds));
        for (i, client) in self.view.clients.iter().enumerate() {
            self.trace.record(|| format!("client {i}: {client}"));
        }
    }

    fn play<P: Play<H = H>>(&mut self, plan: &P) -> Result<(), String> {
        self.rough_time(plan)?;
        self.view.inner.sys.heal();
        for client in &mut self.view.clients {
            if client.frozen {
                client.leave(&mut self.view.inner.sys, Gone::Reset);
            }
        }
        self.until_quiet(plan, false)?;
        self.until_quiet(plan, true)?;
        self.view.check_threads(true)?;
        self.check_delivered()?;
        plan.check(&self.view, &self.oracle, true)?;
        self.view.inner.sys.refuse_dials();
        self.adopt(plan);
        for client in &mut self.view.clients {
            client.leave(&mut self.view.inner.sys, Gone::Reset);
        }
        self.until_quiet(plan, true)?;
        self.stop(plan)
    }

    /// The phase with faults: clients act at random, and the loop turns.
    fn rough_time<P: Play<H = H>>(&mut self, plan: &P) -> Result<(), String> {
        let dice = &mut self.view.inner.sys.dice;
        let steps = dice.between(10, STEPS);
        let stop_at = if dice.one_in(8) { dice.below(steps) } else { steps };
        for step in 0..steps {
            if step == stop_at {
                let grace = Duration::from_millis(self.view.inner.sys.dice.size(5_000) as u64);
                self.begin_shutdown(grace);
                plan.check(&self.view, &self.oracle, false)?;
            }
            self.close_a_listener();
            self.adopt(plan);
            for i in 0..self.view.clients.len() {
                if self.view.inner.sys.dice.one_in(2) {
                    self.act(i);
                }
            }
            let dice = &mut self.view.inner.sys.dice;
            let most = if dice.one_in(8) { 20_000 * MS } else { 20 * MS };
            let wait = Duration::from_nanos(dice.size(most) as u64);
            self.turn(plan, wait)?;
        }
        Ok(())
    }

    fn act(&mut self, i: usize) {
        let client = &mut self.view.clients[i];
        let before = client.doing();
        if !client.finds_listener(&self.view.inner.sys) {
            // Refused, or lost in the backlog of a listener that was closed.
            client.gone = Some(Gone::Network);
            return;
        }
        client.act(&mut self.view.inner.sys);
        let after = client.doing();
        if before != after {
            self.trace.record(|| format!("client {i}: {after:?}"));
        }
    }

    /// Turns the peers that the loop has connected to into clients with data to send.
    fn adopt<P: Play<H = H>>(&mut self, plan: &P) {
        for peer in self.view.inner.sys.take_born() {
            let dice = &mut self.view.inner.sys.dice;
            let most = dice.between(0, self.volume / 8);
            let says = plan.says(dice, most);
            let mut client = Client::draw(dice, says, 1, self.volume / 200);
            client.peer = Some(peer);
            let n = self.view.clients.len();
            self.trace.record(|| format!("client {n}, which was connected to: {client}"));
            self.view.clients.push(client);
        }
    }

    /// Closes a listener, rarely.
    fn close_a_listener(&mut self) {
        if self.listeners > 1 && self.view.inner.sys.dice.one_in(500) {
            let open = self.view.inner.listeners();
            if let Some(&id) = open.first() {
                self.trace.record(|| format!("{id} is closed"));
                self.view.inner.close_listener(id);
            }
        }
    }

    fn begin_shutdown(&mut self, grace: Duration) {
        self.trace.record(|| format!("shutdown, {grace:?} of grace"));
        self.view.inner.update_clock();
        self.view.stopping = Some((self.view.inner.dispatcher.core.now.0, grace));
        self.view.inner.begin_shutdown(grace);
    }

    /// Turns until nothing is left to do. With `end`, clients that have sent everything finish.
    fn until_quiet<P: Play<H = H>>(&mut self, plan: &P, end: bool) -> Result<(), String> {
        let (mut before, mut still) = (0, 0);
        for _ in 0..LONG_PATIENCE + TURNS_FOR_A_BYTE * self.unsent() {
            let (got, _) = self.delivered();
            still = if got > before { 0 } else { still + 1 };
            before = got;
            if still >= PATIENCE {
                break;
            }
            self.adopt(plan);
            let mut busy = self.view.inner.sys.is_dialling();
            for i in 0..self.view.clients.len() {
                busy |= self.help(i, end);
            }
            let calls = self.view.inner.sys.calls;
            let turn = self.turn(plan, Duration::from_millis(1))?;
            busy |= turn.more || !self.view.inner.sys.is_quiet() || calls != self.view.inner.sys.calls;
            busy |= end && self.oracle.waits_to_be_accepted;
            // The loop slows down a handler that defers its input for ever. It is not at rest.
            busy |= self.view.connections().any(|(_, c)| c.flow.resting);
            if !busy {
                return Ok(());
            }
        }
        let (x, y) = self.delivered();
        Err(format!(
            "liveness: still busy at the turn limit, with {x} of {y} bytes delivered; does the handler defer its \
             input forever, or send again on every drain, or do clients send too much?"
        ))
    }

    /// Lets a client send and read as much as it can. Returns `false` if that was nothing.
    fn help(&mut self, client: usize, end: bool) -> bool {
        let (client, sim) = (&mut self.view.clients[client], &mut self.view.inner.sys);
        if client.gone.is_some() {
            return false;
        }
        if !client.finds_listener(sim) {
            client.gone = Some(Gone::Network);
            return true;
        }
        let Some(peer) = client.peer else {
            client.connect(sim);
            return true;
        };
        let p = &sim.script.peers[peer];
        if p.dead {
            client.gone = Some(Gone::Network);
            return true;
        }
        let before = (client.said, p.taken, client.finished);
        client.read(sim, usize::MAX);
        client.say(sim, usize::MAX);
        if end && client.said == client.says.len() {
            client.finish(sim);
        }
        before != (client.said, sim.script.peers[peer].taken, client.finished)
    }

    /// The number of bytes that the clients still present have received, and the number written for them.
    fn delivered(&self) -> (u64, u64) {
        let sim = &self.view.inner.sys;
        let fine = self.view.clients.iter().filter(|c| c.is_here());
        fine.fold((0, 0), |(x, y), c| {
            let written = c.peer.map_or(0, |p| sim.facts[p].written);
            (x + c.received(sim).len() as u64, y + written)
        })
    }

    /// Returns the number of bytes that were accepted for sending and wait.
    fn unsent(&self) -> usize {
        self.view.connections().map(|(_, c)| c.out.pending()).sum()
    }

    /// Checks that the output for the clients that stayed to the end has arrived.
    fn check_delivered(&self) -> Result<(), String> {
        let sim = &self.view.inner.sys;
        let here = self.view.clients.iter().filter(|c| c.is_here());
        for (client, peer) in here.filter_map(|c| Some((c, c.peer?))) {
            let (got, written) = (client.received(sim).len() as u64, sim.facts[peer].written);
            let cut = sim.script.peers[peer].cut_off;
            require(cut || got == written, || format!("liveness: client {peer} got only {got} of {written} bytes"))?;
        }
        Ok(())
    }

    /// Shuts down, unless a shutdown is under way; nothing may be left open.
    fn stop<P: Play<H = H>>(&mut self, plan: &P) -> Result<(), String> {
        // After a completed shutdown, the handler may have opened connections again.
        if !self.view.inner.shutdown.is_under_way() {
            self.begin_shutdown(Duration::from_millis(100));
            plan.check(&self.view, &self.oracle, false)?;
        }
        for _ in 0..PATIENCE {
            if !self.view.inner.shutdown.is_under_way() {
                return check_nothing_left(&self.view);
            }
            self.turn(plan, Duration::from_secs(1))?;
        }
        Err("N13: the shutdown does not end".to_owned())
    }

    /// Runs one turn and all checks.
    fn turn<P: Play<H = H>>(&mut self, plan: &P, wait: Duration) -> Result<Turn, String> {
        self.view.turns += 1;
        for facts in &mut self.view.inner.sys.facts {
            facts.read_this_turn = 0;
        }
        let turn = self.view.inner.turn(Some(wait)).map_err(|e| e.to_string())?;
        let calls = std::mem::take(&mut self.view.inner.sys.script.trace);
        for call in &calls {
            self.hash = fold_call(self.hash, call);
        }
        let (turns, now) = (self.view.turns, self.view.inner.dispatcher.core.now.0);
        self.trace.record(|| format!("turn {turns} at {now} ns: {turn:?}"));
        for call in &calls {
            self.trace.record(|| format!("  {call:?}"));
        }
        self.hash = fold(self.hash, self.view.inner.sys.content);
        self.view.check_threads(false)?;
        let sound = self.oracle.check(&self.view, turn, &calls);
        self.view.record_states();
        sound?;
        plan.check(&self.view, &self.oracle, false)?;
        Ok(turn)
    }

    /// Formats a table of all connections.
    fn table(&self) -> String {
        let mut lines = vec![format!(
            "{:>5} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8}  phase",
            "peer", "id", "said", "read", "written", "taken", "pending"
        )];
        for (i, client) in self.view.clients.iter().enumerate() {
            let Some(peer) = client.peer else { continue };
            let (p, f) = (&self.view.inner.sys.script.peers[peer], &self.view.inner.sys.facts[peer]);
            let c = self.view.connections().find(|(p, _)| *p == peer).map(|(_, c)| c);
            let closed = self.oracle.closed_of(peer).map_or(String::new(), |c| c.to_string());
            let phase = c.map_or(closed, |c| format!("{:?}", c.phase));
            let id = c.map_or("-".to_owned(), |c| c.id.to_string());
            let pending = c.map_or(0, |c| c.out.pending());
            let gone = client.gone.map_or(String::new(), |g| format!(", client gone: {g:?}"));
            lines.push(format!(
                "{peer:>5} {id:>9} {:>8} {:>8} {:>8} {:>8} {pending:>8}  {phase}{gone} (client {i})",
                client.said, f.read, f.written, p.taken
            ));
        }
        lines.join("\n")
    }
}
