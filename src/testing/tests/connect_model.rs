//! A model of an actor's connection requests: how each may end, and which errors justify a failure.
//!
//! Each request has its own tag, which is also the mark of its addresses and identifies it in the records of the
//! simulated system. Invariant: each request ends once: as a connection, as a justified failure, or without a
//! callback if it was cancelled.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::timer_model::TURNS_TO_CATCH_UP;
use crate::closed::{Closed, Reason};
use crate::config::connect::{Backoff, Connect};
use crate::config::limits::Limit;
use crate::connection::{Origin, Phase};
use crate::core::Core;
use crate::core::connect_jobs::{ConnectJob, ConnectStage};
use crate::handler::Handler;
use crate::handler::context::Context;
use crate::handler::net::Net;
use crate::id::{AttemptId, ConnId};
use crate::reactor::audit::require;
use crate::sys::sim::{Dice, marked};
use crate::testing::oracle::Oracle;
use crate::testing::view::View;
use crate::time::Time;

/// The maximum number of requests of an actor. Chosen.
const MOST: u64 = 60;
/// The number of turns that a connect job may be late for other reasons than deferred timeouts. Chosen.
const FEW: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Waiting,
    Up(ConnId),
    Failed,
    Cancelled,
    /// It has led to its one connection, which has closed.
    Done,
}

#[derive(Debug)]
struct Request {
    id: AttemptId,
    at: Time,
    timeout: Duration,
    retry: Option<Backoff>,
    anew: bool,
    name: bool,
    unix: bool,
    local: bool,
    bad: bool,
    outcome: Outcome,
    /// The number of connections it led to.
    opened: u32,
    /// The turn in which it ended.
    over: u32,
    /// Its progress when that last changed, the time of that, and the number of turns that it has been late since.
    progress: Cell<(u32, u8)>,
    since: Cell<Time>,
    late: Cell<usize>,
}

#[derive(Debug, Default)]
pub(super) struct RunOptions {
    requests: BTreeMap<u64, Request>,
    /// The failures reported in this turn.
    failures: Vec<(u32, u64, ErrorKind)>,
    pub(super) opened: u64,
}

/// The parameters of a request.
struct Wish {
    to: Connect,
    timeout: Duration,
    retry: Option<Backoff>,
    anew: bool,
    /// Whether it uses a host name, is a Unix socket, has a local address, and is impossible.
    kind: [bool; 4],
}

fn draw_backoff(dice: &mut Dice) -> Backoff {
    let min = Duration::from_millis(dice.size(100) as u64);
    Backoff {
        min,
        max: min + Duration::from_millis(dice.size(2_000) as u64),
        factor: dice.pick(&[1.0, 1.5, 2.0, 10.0]),
        tries: Limit::At(dice.between(1, 5) as u32),
    }
}

fn draw_wish(dice: &mut Dice, tag: u64, core: &Core) -> Wish {
    let kind = dice.below(16);
    let (name, unix, bad) = (kind < 7, kind == 7 || kind == 8, kind == 9);
    let mut to = match kind {
        0..7 => Connect::new((format!("mark{tag}").as_str(), 7)),
        7 | 8 => Connect::new(format!("unix:/mark{tag}")),
        9 => Connect::new(dice.pick(&["nowhere", "host:99999", ":", "unix:"])),
        _ => Connect::new(marked(tag, 0, dice.one_in(2))),
    };
    let mut timeout = core.limits.connect_timeout.get();
    if dice.one_in(2) {
        timeout = Duration::from_millis(dice.size(5_000) as u64);
        to = to.timeout(timeout);
    }
    let local = name && dice.one_in(8);
    if local {
        to = to.local(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    }
    let (retry, anew) = (dice.one_in(2).then(|| draw_backoff(dice)), dice.one_in(2));
    to = match retry {
        Some(policy) if anew => to.reconnect(policy),
        Some(policy) => to.retry(policy),
        None => to,
    };
    Wish { to, timeout, retry, anew: anew && retry.is_some(), kind: [name, unix, local, bad] }
}

impl RunOptions {
    /// Makes a random request.
    pub(super) fn ask(&mut self, net: &mut Net<'_>, dice: &mut Dice) -> Result<(), String> {
        let tag = self.requests.len() as u64;
        if tag >= MOST {
            return Ok(());
        }
        let Wish { to, timeout, retry, anew, kind: [name, unix, local, bad] } = draw_wish(dice, tag, net.core());
        let (before, most, at) = (net.core().connect_jobs.len(), net.core().limits.attempts, net.core().now);
        let id = net.connect(to, tag);
        let allowed = before < most && !net.core().shutting_down;
        require(id.is_some() == allowed, || format!("asked for a connection: {id:?}, {before} of {most}"))?;
        let Some(id) = id else { return Ok(()) };
        let request = Request {
            id,
            at,
            timeout,
            retry,
            anew,
            name,
            unix,
            local,
            bad,
            outcome: Outcome::Waiting,
            opened: 0,
            over: 0,
            progress: Cell::default(),
            since: Cell::new(at),
            late: Cell::new(0),
        };
        self.requests.insert(tag, request);
        Ok(())
    }

    /// Cancels a request, or tries to.
    pub(super) fn cancel(&mut self, net: &mut Net<'_>, n: usize) -> Result<(), String> {
        let last = self.requests.len().saturating_sub(8);
        let Some(n) = n.checked_rem(self.requests.len() - last) else { return Ok(()) };
        let Some((tag, r)) = self.requests.iter_mut().nth(last + n) else { return Ok(()) };
        let turn = net.core().turn;
        let there = match r.outcome {
            Outcome::Waiting => Some(true),
            // It ends with its connection, which may be closing.
            Outcome::Up(id) => is_up(net.core(), r, id).then_some(true),
            Outcome::Done if r.anew && r.over == turn => None,
            Outcome::Failed | Outcome::Cancelled | Outcome::Done => Some(false),
        };
        let done = net.cancel_connect(r.id);
        require(there.is_none_or(|there| there == done), || {
            format!("request {tag} could be cancelled: {done}, and is {:?}", r.outcome)
        })?;
        if done {
            (r.outcome, r.over) = (Outcome::Cancelled, turn);
        }
        require(!net.cancel_connect(r.id), || format!("request {tag} was cancelled twice"))
    }

    /// Records a new connection, which may be the result of a request.
    pub(super) fn opens(&mut self, cx: &Context<'_>) -> Result<(), String> {
        let Origin::Connected(tag) = cx.origin() else { return Ok(()) };
        self.opened += 1;
        let turn = cx.core().turn;
        let Some(r) = self.requests.get_mut(&tag) else {
            return Err(format!("N4: no request has the tag {tag}"));
        };
        let may = match r.outcome {
            Outcome::Waiting => true,
            // The previous one may have ended by a panic in on_open.
            Outcome::Up(id) => r.anew && (id == cx.id() || !is_up(cx.core(), r, id)),
            Outcome::Failed | Outcome::Cancelled | Outcome::Done => false,
        };
        require(may, || format!("N4: request {tag} has led to a connection, and is {:?}", r.outcome))?;
        r.opened += 1;
        (r.outcome, r.over) = if r.anew { (Outcome::Up(cx.id()), 0) } else { (Outcome::Done, turn) };
        Ok(())
    }

    /// Records a failed request.
    pub(super) fn fails(&mut self, net: &Net<'_>, tag: u64, error: &io::Error) -> Result<(), String> {
        let turn = net.core().turn;
        let Some(r) = self.requests.get_mut(&tag) else {
            return Err(format!("N4: no request has the tag {tag}"));
        };
        let may = match r.outcome {
            Outcome::Waiting => true,
            Outcome::Up(id) => !is_up(net.core(), r, id),
            Outcome::Failed | Outcome::Cancelled | Outcome::Done => false,
        };
        require(may, || format!("N4: request {tag} has failed ({error}), and is {:?}", r.outcome))?;
        (r.outcome, r.over) = (Outcome::Failed, turn);
        self.failures.retain(|f| f.0 == turn);
        self.failures.push((turn, tag, error.kind()));
        Ok(())
    }

    /// Records a closed connection, which may be connected again.
    pub(super) fn closes(&mut self, net: &Net<'_>, closed: &Closed) {
        // Where generations are few, the id may be that of a connection whose on_open panicked.
        let attempt = net.core().conns.get(closed.who).and_then(|c| c.job());
        let up = |r: &&mut Request| r.outcome == Outcome::Up(closed.who) && Some(r.id) == attempt;
        let Some(r) = self.requests.values_mut().find(up) else { return };
        let wished = matches!(closed.why, Reason::Handler | Reason::Shutdown | Reason::ShutdownDeadline);
        let over = wished || net.core().shutting_down;
        r.outcome = if over { Outcome::Done } else { Outcome::Waiting };
        r.over = net.core().turn;
        r.since.set(net.core().now);
        r.late.set(0);
    }

    /// Checks at the end of a turn that each pending request has a connect job that makes progress, and that the
    /// reported failures are justified.
    pub(super) fn check<H: Handler>(&self, view: &View<H>, oracle: &Oracle) -> Result<(), String> {
        let core = &view.inner.dispatcher.core;
        for (tag, r) in &self.requests {
            let told = |what: &str| format!("{what}: request {tag}, {r:?}");
            let there = core.connect_jobs.get(r.id);
            match r.outcome {
                Outcome::Waiting => {
                    let Some(attempt) = there else { return Err(told("N7: the connect job was lost")) };
                    check_progress(core, r, attempt, view.inner.next_deadline()).map_err(|e| told(&e))?;
                }
                Outcome::Up(id) => {
                    let open = is_up(core, r, id);
                    let up = there.is_some_and(|a| matches!(a.stage, ConnectStage::Connected));
                    require(!open || up, || told("N7: the connection was not made"))?;
                }
                // Cancelled jobs are removed in their turn.
                Outcome::Cancelled => {
                    let gone = there.is_none_or(|a| matches!(a.stage, ConnectStage::Cancelled));
                    require(gone, || told("N4: cancelled, and still exists"))?;
                }
                Outcome::Failed | Outcome::Done => {
                    require(there.is_none(), || told("N6: ended, and still exists"))?;
                }
            }
        }
        let now = core.turn;
        self.failures.iter().filter(|f| f.0 == now).try_for_each(|&(_, tag, kind)| {
            let r = &self.requests[&tag];
            check_earned(view, oracle, tag, r, kind).map_err(|e| format!("{e}: request {tag}, {kind:?}, {r:?}"))
        })
    }
}

/// Returns `true` if a request's connection is open. Compares the job as well, because the id may have been reused.
fn is_up(core: &Core, r: &Request, id: ConnId) -> bool {
    core.conns.get(id).is_some_and(|c| c.phase == Phase::Open && c.job() == Some(r.id))
}

/// N10, N11: each stage of a connect job takes no longer than its time limit plus a few turns.
fn check_progress(core: &Core, r: &Request, attempt: &ConnectJob, wakes: Time) -> Result<(), String> {
    let (stage, most) = match attempt.stage {
        ConnectStage::New => (0, Duration::ZERO),
        ConnectStage::LookingUp => (1, r.timeout),
        // It may begin anew, if the answer to the lookup was looked at too late.
        ConnectStage::Trying => (2, r.timeout),
        ConnectStage::Backoff => (3, r.retry.map_or(Duration::ZERO, |p| p.max)),
        ConnectStage::Connected | ConnectStage::Cancelled => {
            return Err("N5: it is neither up nor cancelled".to_owned());
        }
    };
    let step = (attempt.failed + attempt.backoffs, stage);
    if r.progress.replace(step) != step {
        r.since.set(core.now);
        r.late.set(0);
    }
    let due = r.since.get().after(most);
    require(wakes <= due.max(core.now), || format!("N7: due at {due:?}, we wake at {wakes:?}"))?;
    if due <= core.seen_until {
        r.late.set(r.late.get() + 1);
    }
    let turns = TURNS_TO_CATCH_UP + FEW + 4 * core.limits.attempts.div_ceil(core.limits.timeouts_per_turn);
    require(r.late.get() <= turns, || format!("N10: late for {} turns", r.late.get()))
}

/// N4: the reported error is that of an attempt, and the job has made as many attempts as it may.
fn check_earned<H: Handler>(
    view: &View<H>,
    oracle: &Oracle,
    tag: u64,
    r: &Request,
    kind: ErrorKind,
) -> Result<(), String> {
    let (core, sim) = (&view.inner.dispatcher.core, &view.inner.sys);
    let known = sim.dials.told.contains(&(Some(tag), kind));
    let stopped = kind == ErrorKind::Interrupted && view.stopping.is_some();
    let too_many = r.name && sim.dials.most_lookups >= core.limits.lookups || oracle.is_full();
    let earned = match kind {
        _ if known || stopped => true,
        ErrorKind::TimedOut => core.now.since(r.at) >= r.timeout,
        ErrorKind::QuotaExceeded => too_many,
        ErrorKind::AddrNotAvailable => r.local,
        ErrorKind::InvalidInput => r.bad,
        _ => false,
    };
    require(earned, || "N4: not earned".to_owned())?;
    let lookups: Vec<Time> = sim.dials.lookups.iter().filter(|l| l.mark == Some(tag)).map(|l| Time(l.at)).collect();
    let tried = sim.dials.dials.iter().filter(|d| d.mark == Some(tag) && !d.shortage);
    let dials: Vec<Time> = tried.map(|d| Time(d.at)).collect();
    let tries = if r.name { &lookups } else { &dials };
    let most = r.retry.map_or(1, |p| match p.tries {
        Limit::At(n) => n,
        Limit::Unlimited => u32::MAX,
    });
    let simple = r.opened == 0 && !r.unix;
    let few = tries.len() <= most as usize;
    require(!simple || few, || format!("N8: {} tries of {most}", tries.len()))?;
    let least = r.retry.map_or(Duration::ZERO, |p| p.min);
    let waited = tries.windows(2).all(|w| w[1].since(w[0]) >= least);
    require(!simple || waited, || format!("N8: tried again too soon: {tries:?}"))
}
