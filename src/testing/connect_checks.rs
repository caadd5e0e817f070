//! What must hold of attempts to connect, after every turn: against the world's account of sockets and lookups.
//!
//! Knows neither who asked nor why. Invariant: a socket that connects belongs to an attempt, and whoever it reaches is
//! a client like any other from then on.

use std::time::Duration;

use super::view::View;
use crate::connection::{Origin, Phase};
use crate::core::connect_jobs::ConnectStage;
use crate::handler::Handler;
use crate::reactor::audit::require;
use crate::reactor::turn::Turn;
use crate::sys::script::DialState;
use crate::sys::sim::Dial;
use crate::time::Time;

/// How many calls that connect were judged.
#[derive(Debug, Default)]
pub(super) struct Dials {
    judged: usize,
}

impl Dials {
    pub(super) fn check<H: Handler>(&mut self, view: &View<H>, turn: Turn) -> Result<(), String> {
        let (core, sim) = (&view.inner.dispatcher.core, &view.inner.sys);
        let (looking, known) = (sim.looking(), core.connect_jobs.active_lookups);
        // CallSite has just cancelled one is about to say so.
        let cancelled =
            core.connect_jobs.iter().filter(|a| matches!(a.stage, ConnectStage::Cancelled)).count();
        require((known..=known + cancelled).contains(&looking), || {
            format!("N6: {looking} lookups in the world, {known} in the loop")
        })?;
        let most = core.limits.lookups + cancelled;
        require(looking <= most, || format!("N9: {looking} lookups of {most}"))?;
        let (asked, most) = (core.connect_jobs.len(), core.limits.attempts);
        require(asked <= most, || format!("N9: {asked} attempts of {most}"))?;
        let failed = core.stats.connect_failed;
        let told = view.checked().map_or(failed, |w| w.failed);
        require(told == failed, || format!("N6: {failed} failures counted, {told} were told"))?;
        for dial in sim.dials.dials.get(self.judged..).unwrap_or_default() {
            check_stagger(dial, core.limits.connect_stagger)?;
        }
        self.judged = sim.dials.dials.len();
        for (peer, c) in view.connections() {
            let p = &sim.script.peers[peer];
            let unheard = c.phase == Phase::Connecting && p.dial != DialState::Pending;
            let quiet = !turn.more && sim.is_quiet();
            require(!(quiet && unheard), || format!("N7: peer {peer} is decided, and nobody asks"))?;
            let ours = matches!(c.origin(), Origin::Connected(_));
            require(ours == p.ours, || format!("N4: peer {peer} is ours: {}, not {ours}", p.ours))?;
            let (mark, attempt) = (sim.dial_of(peer).and_then(|d| d.mark), c.origin());
            let same = mark.is_none_or(|mark| attempt == Origin::Connected(mark));
            require(same, || format!("N3: {attempt:?} has reached {mark:?}"))?;
        }
        for a in core.connect_jobs.iter() {
            let idle = matches!(a.stage, ConnectStage::Trying) && a.trying.is_empty();
            let unix = a.left.iter().any(|to| to.tcp().is_none());
            let forgotten = idle && !unix && !core.connect_jobs.queue.iter().any(|id| id == a.id);
            require(!forgotten, || format!("N7: {} tries nothing, and nobody looks after it", a.id))?;
        }
        Ok(())
    }
}

/// N8: the next of several addresses is tried when the one before has failed, or has had its time.
fn check_stagger(dial: &Dial, stagger: Duration) -> Result<(), String> {
    let since = dial.beside.map(|at| Time(dial.at).since(Time(at)));
    require(dial.mark.is_none() || since.is_none_or(|since| since >= stagger), || {
        format!("N8: two sockets for {:?} within {since:?}, not {stagger:?}", dial.mark)
    })
}

/// Nothing that was begun is left.
pub(super) fn check_nothing_left<H: Handler>(view: &View<H>) -> Result<(), String> {
    let (core, sim) = (&view.inner.dispatcher.core, &view.inner.sys);
    let open = sim.script.open_streams();
    require(open == 0, || format!("N6: {open} streams open after the end"))?;
    let (asked, looking) = (core.connect_jobs.len(), sim.looking());
    require(asked == 0 && looking == 0, || {
        format!("N6: {asked} attempts and {looking} lookups after the end")
    })
}
