//! The public simulator: runs a user's handler against a seeded, simulated system.
//!
//! The run itself is in [`run`](super::run). Invariant: a seed that fails once fails every time, and the panic
//! message says how to reproduce it.

use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::client::Client;
use super::oracle::Oracle;
use super::run::{Play, play};
use super::seeds::{play_all, seeds_from_env};
use super::view::View;
use crate::closed::{Closed, Reason};
use crate::config::limits::Limits;
use crate::dispatch::text_of;
use crate::handler::Handler;
use crate::id::ConnId;
use crate::stats::Stats;
use crate::sys::script::End;
use crate::sys::sim::Dice;

type Make<H> = Box<dyn Fn() -> H + Send + Sync>;
type Says = Box<dyn Fn(&mut Dice, usize) -> Vec<u8> + Send + Sync>;
type Adjust = Box<dyn Fn(&mut Limits) + Send + Sync>;
type Check<H> = Box<dyn Fn(&Scene<'_, H>) + Send + Sync>;

/// Runs a handler on a simulated system with random faults. Clients are slow, silent, rude or vanish; reads and
/// writes are cut short; any call may fail; events come late, twice, or are spurious; the clock jumps; limits have
/// every size; and a shutdown may begin at any moment. Then the faults stop, and everything that was sent must be
/// delivered.
///
/// The whole reactor is real, from accept to close; only the system below it is simulated, and every random choice
/// follows from a seed. After each turn the reactor's guarantees are checked, and your own check is called. The panic
/// of a failed seed says how to reproduce it.
///
/// ```
/// use turnwheel::Echo;
/// use turnwheel::testing::Simulation;
///
/// Simulation::new(|| Echo)
///     .check(|scene| {
///         for client in scene.clients() {
///             assert!(client.said().starts_with(client.received()));
///             if client.is_served() {
///                 assert_eq!(client.said(), client.received());
///             }
///         }
///     })
///     .run(0..200);
/// ```
///
/// # Environment variables
/// `SIM_SEED=17` runs that one seed and prints every call that the reactor makes. `SIM_SEEDS=20000` runs seeds 0 to
/// 19999 instead of those given to [`run`](Simulation::run), and `SIM_SEEDS=500..900` runs that range. Any other
/// value is an error.
///
/// # Phases of a run
/// 1. Up to 32 clients connect and send their data while faults occur, for at most 300 turns. In one run of eight a
///    shutdown begins in the middle.
/// 2. The faults stop. Frozen clients reset; the others send the rest, read everything, and finish. Once nothing
///    moves any more, all output for the clients that stayed must have arrived, and the check is called with
///    [`Scene::is_over`]. Connections may still be open then, if the handler keeps or has paused them. Clients may
///    have been refused, or may still wait to be accepted if the limit of open connections is reached.
/// 3. All clients reset, and the reactor shuts down.
///
/// # Limits of the simulation
/// It does not cover kernel behavior that is not simulated, the event queues of other operating systems, performance,
/// or what a handler does outside its callbacks. A handler that reads a clock or iterates over a `HashMap` may behave
/// differently when a seed is repeated. To detect that, one seed in fifty runs twice.
pub struct Simulation<H: Handler> {
    setup: Setup<H>,
}

impl<H: Handler> fmt::Debug for Simulation<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation").finish_non_exhaustive()
    }
}

/// What the user configured.
struct Setup<H: Handler> {
    make: Make<H>,
    says: Option<Says>,
    adjust: Option<Adjust>,
    check: Option<Check<H>>,
    panics: bool,
}

impl<H: Handler> Simulation<H> {
    /// Creates a simulation. `make` creates a new handler for each seed.
    pub fn new(make: impl Fn() -> H + Send + Sync + 'static) -> Self {
        Self { setup: Setup { make: Box::new(make), says: None, adjust: None, check: None, panics: false } }
    }

    /// Sets what one client sends in all. `says` gets the number of bytes to return, about: as many as a run can
    /// process under the limits that were drawn. By default a client sends random bytes.
    #[must_use]
    pub fn says(mut self, says: impl Fn(&mut Dice, usize) -> Vec<u8> + Send + Sync + 'static) -> Self {
        self.setup.says = Some(Box::new(says));
        self
    }

    /// Adjusts the limits that were drawn, for a handler or codec that needs some of them ([`Limits::fit`]).
    #[must_use]
    pub fn limits(mut self, adjust: impl Fn(&mut Limits) + Send + Sync + 'static) -> Self {
        self.setup.adjust = Some(Box::new(adjust));
        self
    }

    /// Sets a check that is called after each turn, and once more at the end. It panics if something is wrong, as
    /// `assert!` does.
    #[must_use]
    pub fn check(mut self, check: impl Fn(&Scene<'_, H>) + Send + Sync + 'static) -> Self {
        self.setup.check = Some(Box::new(check));
        self
    }

    /// Allows the handler to panic; a panic then closes only the connection concerned. Otherwise a panic fails the
    /// seed.
    #[must_use]
    pub const fn panics_are_expected(mut self) -> Self {
        self.setup.panics = true;
        self
    }

    /// Runs each seed of a range, on all cores.
    ///
    /// # Panics
    /// If a seed fails, because
    /// - a guarantee of the reactor is broken;
    /// - the handler or the check panics;
    /// - data is not delivered within a bounded number of turns;
    /// - a seed gives a different run when it is repeated;
    /// - a callback does not return within 30 seconds.
    ///
    /// Also panics if the limits contradict each other, the range is empty, or an environment variable is not a valid
    /// seed or range.
    #[track_caller]
    pub fn run(self, seeds: Range<u64>) {
        let setup = Arc::new(self.setup);
        let (seeds, alone) = seeds_from_env(seeds);
        let summary =
            play_all(seeds, alone, move |seed, options| play(seed, |_| SetupPlay(Arc::clone(&setup)), options));
        println!("{} seeds, {} turns", summary.seeds, summary.turns);
    }
}

struct SetupPlay<H: Handler>(Arc<Setup<H>>);

impl<H: Handler> Play for SetupPlay<H> {
    type H = H;

    fn handler(&self, _dice: &mut Dice) -> H {
        (self.0.make)()
    }

    fn limits(&self, limits: &mut Limits) {
        if let Some(adjust) = &self.0.adjust {
            adjust(limits);
        }
    }

    fn may_panic(&self) -> bool {
        self.0.panics
    }

    fn says(&self, dice: &mut Dice, most: usize) -> Vec<u8> {
        match &self.0.says {
            Some(says) => says(dice, most),
            None => dice.bytes(most),
        }
    }

    fn check(&self, view: &View<H>, _oracle: &Oracle, over: bool) -> Result<(), String> {
        let Some(check) = &self.0.check else { return Ok(()) };
        catch_unwind(AssertUnwindSafe(|| check(&Scene { view, over })))
            .map_err(|panic| format!("the check failed: {}", text_of(&*panic)))
    }
}

/// The state of a run, as seen by the check of a [`Simulation`].
pub struct Scene<'a, H: Handler> {
    view: &'a View<H>,
    over: bool,
}

impl<H: Handler> fmt::Debug for Scene<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scene").field("turns", &self.view.turns).field("over", &self.over).finish_non_exhaustive()
    }
}

impl<H: Handler> Scene<'_, H> {
    /// The handler.
    ///
    /// # Panics
    /// Only if the reactor lost its handler, which would be a bug.
    pub fn handler(&self) -> &H {
        match self.view.checked() {
            Some(checked) => &checked.inner,
            None => panic!("the reactor has lost its handler"),
        }
    }

    /// Iterates over the clients, including those that have not connected yet.
    pub fn clients(&self) -> impl Iterator<Item = Witness<'_>> {
        self.view.clients.iter().map(|client| {
            let record = client.peer.and_then(|peer| self.view.checked()?.record(peer));
            Witness {
                client,
                received: client.received(&self.view.inner.sys),
                end: client.peer.and_then(|p| self.view.inner.sys.script.peers[p].end()),
                id: record.map(|r| r.id),
                closed: record.and_then(|r| r.closed.as_ref()),
            }
        })
    }

    /// Returns `true` in the last call of the check: the faults have stopped, and everything that can be delivered
    /// has been.
    pub const fn is_over(&self) -> bool {
        self.over
    }

    /// Returns the reactor's counters.
    pub fn stats(&self) -> Stats {
        self.view.inner.dispatcher.core.snapshot()
    }

    /// Returns the limits that were drawn.
    pub const fn limits(&self) -> &Limits {
        &self.view.inner.dispatcher.core.limits
    }
}

/// One simulated client, and what it saw of its connection.
#[derive(Debug)]
pub struct Witness<'a> {
    client: &'a Client,
    received: &'a [u8],
    end: Option<End>,
    id: Option<ConnId>,
    closed: Option<&'a Closed>,
}

impl<'a> Witness<'a> {
    /// Returns what it has sent so far.
    pub fn said(&self) -> &'a [u8] {
        &self.client.says[..self.client.said]
    }

    /// Returns what it has received and read.
    pub const fn received(&self) -> &'a [u8] {
        self.received
    }

    /// Returns the id of its connection; `None` before it was accepted.
    pub const fn id(&self) -> Option<ConnId> {
        self.id
    }

    /// Returns what `on_close` received for its connection; `None` before that.
    pub const fn closed(&self) -> Option<&'a Closed> {
        self.closed
    }

    /// Returns `true` if its connection ended cleanly, so that no byte may be missing in either direction: it
    /// finished sending and stayed to the end, the reactor read everything, and everything that the reactor sent
    /// arrived.
    pub fn is_served(&self) -> bool {
        let in_order = |c: &Closed| c.why == Reason::PeerClosed && c.unsent == 0;
        let stayed = self.client.is_here() && self.end == Some(End::Fin);
        stayed && self.closed.is_some_and(|c| in_order(c) && c.bytes_out == self.received.len() as u64)
    }
}
