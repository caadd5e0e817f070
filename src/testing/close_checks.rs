//! Checks at the end of a connection that its close reason is correct, and that no data was lost without one.
//!
//! Invariant: a reason is accepted only if the facts of the simulated system, or what callbacks did, confirm it.

use std::time::Duration;

use super::checked_handler::Record;
use super::seen::Seen;
use super::view::View;
use crate::closed::{Closed, Reason};
use crate::handler::Handler;
use crate::reactor::audit::require;
use crate::sys::CloseHow;
use crate::sys::sim::Facts;
use crate::time::Time;

/// The number of hints without progress after which the loop may close a connection: one less than the 64 spurious
/// wakeups that `reactor::read` permits, because one hint may have come with the last bytes.
const LIVELOCK: u32 = 63;

/// N4: the close reason is correct.
pub(super) fn require_earned<H: Handler>(
    view: &View<H>,
    record: &Record,
    why: &Reason,
    seen: &Seen,
) -> Result<(), String> {
    use std::io::ErrorKind as K;
    let (core, sim) = (&view.inner.dispatcher.core, &view.inner.sys);
    let (facts, limits) = (&sim.facts[record.peer], &core.limits);
    let ago = |at: u64| core.now.since(Time(at));
    let reset = |kind: &K| matches!(kind, K::ConnectionReset | K::BrokenPipe | K::ConnectionAborted);
    let told = facts.told_readable && sim.script.unread(record.peer) > 0;
    // Whatever could be known when a timeout expired comes before it. (Unless events did not fit: the loop counts them
    // to know when it has seen all, and the simulated ones come more than once.)
    let looked = |since: u64, limit: Duration| {
        ago(since) >= limit && !told && (sim.truncated || !sim.owes(record.peer, Time(since).after(limit)))
    };
    let earned = match why {
        Reason::PeerClosed => facts.ended,
        Reason::PeerReset => facts.errors.iter().any(reset),
        Reason::Io(kind) => facts.errors.contains(kind),
        Reason::FrameTooLong { len, .. } => record.closed_itself || *len > limits.input_kept as u64,
        Reason::BadFrame(_) | Reason::TruncatedFrame { .. } => record.closed_itself,
        Reason::WriteStall => ago(facts.wrote.max(seen.idle_out)) >= limits.write_stall.get(),
        Reason::IdleTimeout => {
            // Output that was unsent then may have been written since.
            looked(seen.moved.max(facts.heard).max(seen.held_at), limits.idle_timeout.get())
        }
        Reason::MessageTimeout => record.unfinished.is_some_and(|t| looked(t.0, limits.message_timeout.get())),
        Reason::HandlerPanic => record.panicked,
        Reason::Shutdown => view.stopping.is_some(),
        Reason::ShutdownDeadline => view.stopping.is_some_and(|(at, grace)| ago(at) >= grace),
        Reason::AtCapacity | Reason::RegisterFailed => false,
        Reason::Livelock => facts.hints >= LIVELOCK,
        // Reasons that depend on the handler and its output are for the user's check.
        _ => true,
    };
    require(earned, || {
        format!("N4: {why} is not justified: {facts:?}, unfinished since {:?}, {}", record.unfinished, core.now.0)
    })
}

/// N4, N6: the report to on_close is correct.
pub(super) fn check_closed<H: Handler>(view: &View<H>, record: &Record, closed: &Closed) -> Result<(), String> {
    let facts = &view.inner.sys.facts[record.peer];
    let same = closed.bytes_in == facts.read && closed.bytes_out == facts.written;
    require(same, || format!("N6: {} B read, {} B written", facts.read, facts.written))?;
    let in_order = match &closed.why {
        Reason::Handler => !record.aborted && record.closed_itself,
        why => {
            matches!(why, Reason::PeerClosed | Reason::Shutdown | Reason::IdleTimeout | Reason::MessageTimeout)
        }
    };
    let own = matches!(closed.why, Reason::Handler | Reason::Shutdown) && !record.aborted;
    require(!own || !record.ended, || "N4: the peer had finished before".to_owned())?;
    let reset = view.inner.sys.script.peers[record.peer].closed == Some(CloseHow::Reset);
    let cut = record.aborted || record.panicked || closed.unsent > 0;
    require(!in_order || cut || !reset, || "N4: a clean close sent RST".to_owned())?;
    require(!in_order || closed.unsent == 0, || "N4: a clean close lost bytes".to_owned())
}

/// Returns `true` if a connection has lingered long enough for its peer's FIN.
pub(super) fn may_stop_lingering<H: Handler>(view: &View<H>, facts: &Facts, full: bool) -> bool {
    let (core, limits) = (&view.inner.dispatcher.core, &view.inner.dispatcher.core.limits);
    if view.stopping.is_some_and(|(at, grace)| core.now.since(Time(at)) >= grace) {
        return true;
    }
    let Some(fin) = facts.fin else { return false };
    let waited = Duration::from_nanos(core.now.0 - fin);
    waited >= limits.linger_quiet.min(limits.linger_total) || facts.discarded >= limits.linger_input as u64 || full
}
