//! A user's handler in the seeded world.
//!
//! Knows nothing of how a run goes. Invariant: a seed that fails fails again, and its panic says how to play it.

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

/// A handler in a simulated world in which everything goes wrong that can: clients that are slow, silent, rude or gone,
/// reads and writes cut short, errors at every call, events late, doubled and untrue, a clock that jumps, limits of
/// every size, and a shutdown at any moment. Then nothing goes wrong any more, and what is owed must be delivered.
///
/// The whole reactor is real, from accepting to closing; only the system below it is played, and every choice follows
/// from a seed. After each turn the promises of the reactor are checked, and your own check is called. A seed that
/// fails is told with how to play it again.
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
/// # The environment
/// `SIM_SEED=17` plays that one seed, and prints every call that the reactor made; `SIM_SEEDS=20000` plays so many
/// instead of those given to [`run`](Simulation::run), and `SIM_SEEDS=500..900` those. Anything else there is refused.
///
/// # How a run goes
/// Up to 32 clients come and say what they have to say, while things go wrong, for up to 300 turns; in one run of eight
/// a shutdown comes amid. Then nothing goes wrong any more: those who were frozen reset, the others say the rest, read
/// everything, and finish. When nothing moves any more, what was written for those who stayed must have arrived, and
/// the check is called with [`Scene::is_over`]. Connections may be open then: those that the handler keeps, or has
/// paused. Clients may have been refused, or still wait where as many are open as allowed. At last everyone resets,
/// and the reactor is shut down.
///
/// # What it does not show
/// What the kernel does beyond what is simulated, other systems' event queues, speed, and whatever a handler does
/// outside its callbacks. A handler that reads a clock, or goes through a `HashMap`, may not do the same twice: one
/// seed in fifty is played twice to notice.
pub struct Simulation<H: Handler> {
    setup: Setup<H>,
}

impl<H: Handler> fmt::Debug for Simulation<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation").finish_non_exhaustive()
    }
}

/// What a user gave.
struct Setup<H: Handler> {
    make: Make<H>,
    says: Option<Says>,
    adjust: Option<Adjust>,
    check: Option<Check<H>>,
    panics: bool,
}

impl<H: Handler> Simulation<H> {
    /// A simulation of a handler, which is made anew for each seed.
    pub fn new(make: impl Fn() -> H + Send + Sync + 'static) -> Self {
        Self { setup: Setup { make: Box::new(make), says: None, adjust: None, check: None, panics: false } }
    }

    /// Everything that one client will ever say: about as many bytes as the second argument, which the limits that were
    /// drawn can deal with in a run. By default they are random.
    #[must_use]
    pub fn says(mut self, says: impl Fn(&mut Dice, usize) -> Vec<u8> + Send + Sync + 'static) -> Self {
        self.setup.says = Some(Box::new(says));
        self
    }

    /// Changes the limits that were drawn: where a handler needs some of them, or a codec ([`Limits::fit`]).
    #[must_use]
    pub fn limits(mut self, adjust: impl Fn(&mut Limits) + Send + Sync + 'static) -> Self {
        self.setup.adjust = Some(Box::new(adjust));
        self
    }

    /// Called after each turn, and once more when all is over. It panics if something is wrong, as `assert!` does.
    #[must_use]
    pub fn check(mut self, check: impl Fn(&Scene<'_, H>) + Send + Sync + 'static) -> Self {
        self.setup.check = Some(Box::new(check));
        self
    }

    /// Lets the handler panic, which ends one connection and no more. Otherwise a panic fails the seed.
    #[must_use]
    pub const fn panics_are_expected(mut self) -> Self {
        self.setup.panics = true;
        self
    }

    /// Plays each seed of a range, on all cores.
    ///
    /// # Panics
    /// When a promise of the reactor is broken, the handler or the check panics, something that is owed is not
    /// delivered within a bounded number of turns, a run differs when it is repeated, or a callback does not return for
    /// half a minute; and when the limits contradict each other, there are no seeds, or the environment asks for what
    /// is no seed.
    #[track_caller]
    pub fn run(self, seeds: Range<u64>) {
        let setup = Arc::new(self.setup);
        let (seeds, alone) = seeds_from_env(seeds);
        let summary = play_all(seeds, alone, move |seed, options| {
            play(seed, |_| SetupPlay(Arc::clone(&setup)), options)
        });
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

/// What a [`Simulation`]'s check looks at.
pub struct Scene<'a, H: Handler> {
    view: &'a View<H>,
    over: bool,
}

impl<H: Handler> fmt::Debug for Scene<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scene")
            .field("turns", &self.view.turns)
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

impl<H: Handler> Scene<'_, H> {
    /// The handler.
    ///
    /// # Panics
    /// Never, as long as the reactor keeps what it was given.
    pub fn handler(&self) -> &H {
        match self.view.checked() {
            Some(checked) => &checked.inner,
            None => panic!("the reactor has lost its handler"),
        }
    }

    /// The clients, those who have not come yet included.
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

    /// Whether this is the last look: nothing has gone wrong for a while, and whatever can be delivered has been.
    pub const fn is_over(&self) -> bool {
        self.over
    }

    /// The reactor's counters.
    pub fn stats(&self) -> Stats {
        self.view.inner.dispatcher.core.snapshot()
    }

    /// The limits that were drawn.
    pub const fn limits(&self) -> &Limits {
        &self.view.inner.dispatcher.core.limits
    }
}

/// One client of a simulated world, as it saw its connection.
#[derive(Debug)]
pub struct Witness<'a> {
    client: &'a Client,
    received: &'a [u8],
    end: Option<End>,
    id: Option<ConnId>,
    closed: Option<&'a Closed>,
}

impl<'a> Witness<'a> {
    /// What it has sent so far.
    pub fn said(&self) -> &'a [u8] {
        &self.client.says[..self.client.said]
    }

    /// What it has received and read.
    pub const fn received(&self) -> &'a [u8] {
        self.received
    }

    /// Its connection's id; `None` before it was accepted.
    pub const fn id(&self) -> Option<ConnId> {
        self.id
    }

    /// What `on_close` was told of its connection; `None` before that.
    pub const fn closed(&self) -> Option<&'a Closed> {
        self.closed
    }

    /// Whether its connection ended in good order, so that no byte either way may be missing: it finished sending and
    /// stayed to the end, all of it was read, and all that was sent to it arrived.
    pub fn is_served(&self) -> bool {
        let in_order = |c: &Closed| c.why == Reason::PeerClosed && c.unsent == 0;
        let stayed = self.client.is_here() && self.end == Some(End::Fin);
        stayed && self.closed.is_some_and(|c| in_order(c) && c.bytes_out == self.received.len() as u64)
    }
}
