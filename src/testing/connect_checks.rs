//! Checks of connect jobs after every turn, against the simulated system's account of sockets and lookups.
//!
//! Invariant: a connecting socket belongs to a connect job, and its peer is a client like any other once it is
//! connected.

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

/// How many calls of `connect` have been checked.
#[derive(Debug, Default)]
pub(super) struct Dials {
    checked_count: usize,
}

impl Dials {
    pub(super) fn check<H: Handler>(&mut self, view: &View<H>, turn: Turn) -> Result<(), String> {
        let (core, sim) = (&view.inner.dispatcher.core, &view.inner.sys);
        let (looking, known) = (sim.looking(), core.connect_jobs.active_lookups);
        // The lookup of a job that was just cancelled is cancelled in its turn.
        let cancelled = core.connect_jobs.iter().filter(|a| matches!(a.stage, ConnectStage::Cancelled)).count();
        require((known..=known + cancelled).contains(&looking), || {
            format!("N6: {looking} lookups in the system, {known} in the loop")
        })?;
        let most = core.limits.lookups + cancelled;
        require(looking <= most, || format!("N9: {looking} lookups of {most}"))?;
        let (asked, most) = (core.connect_jobs.len(), core.limits.attempts);
        require(asked <= most, || format!("N9: {asked} connect jobs of {most}"))?;
        let failed = core.stats.connect_failed;
        let told = view.checked().map_or(failed, |w| w.failed);
        require(told == failed, || format!("N6: {failed} connect failures counted, {told} reported"))?;
        for dial in sim.dials.dials.get(self.checked_count..).unwrap_or_default() {
            check_stagger(dial, core.limits.connect_stagger)?;
        }
        self.checked_count = sim.dials.dials.len();
        for (peer, c) in view.connections() {
            let p = &sim.script.peers[peer];
            let unheard = c.phase == Phase::Connecting && p.dial != DialState::Pending;
            let quiet = !turn.more && sim.is_quiet();
            require(!(quiet && unheard), || {
                format!("N7: peer {peer} has connected or failed, and the loop does not check")
            })?;
            let ours = matches!(c.origin(), Origin::Connected(_));
            require(ours == p.ours, || format!("N4: peer {peer} is ours: {}, not {ours}", p.ours))?;
            let (mark, attempt) = (sim.dial_of(peer).and_then(|d| d.mark), c.origin());
            let same = mark.is_none_or(|mark| attempt == Origin::Connected(mark));
            require(same, || format!("N3: {attempt:?} connected to {mark:?}"))?;
        }
        for a in core.connect_jobs.iter() {
            let idle = matches!(a.stage, ConnectStage::Trying) && a.trying.is_empty();
            let unix = a.left.iter().any(|to| to.tcp().is_none());
            let forgotten = idle && !unix && !core.connect_jobs.queue.iter().any(|id| id == a.id);
            require(!forgotten, || format!("N7: {} tries nothing, and is not queued", a.id))?;
        }
        Ok(())
    }
}

/// N8: the next of several addresses is tried when the previous attempt has failed or the stagger delay has passed
/// (happy eyeballs).
fn check_stagger(dial: &Dial, stagger: Duration) -> Result<(), String> {
    let since = dial.beside.map(|at| Time(dial.at).since(Time(at)));
    require(dial.mark.is_none() || since.is_none_or(|since| since >= stagger), || {
        format!("N8: two sockets for {:?} within {since:?}, not {stagger:?}", dial.mark)
    })
}

/// N6: nothing is left open at the end.
pub(super) fn check_nothing_left<H: Handler>(view: &View<H>) -> Result<(), String> {
    let (core, sim) = (&view.inner.dispatcher.core, &view.inner.sys);
    let open = sim.script.open_streams();
    require(open == 0, || format!("N6: {open} streams open after the end"))?;
    let (asked, looking) = (core.connect_jobs.len(), sim.looking());
    require(asked == 0 && looking == 0, || format!("N6: {asked} connect jobs and {looking} lookups after the end"))
}
