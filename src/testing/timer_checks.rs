//! Checks of timers and links after every turn, for any handler.
//!
//! Invariant: every number that can be recounted is recounted.

use crate::connection::{Connection, Phase};
use crate::core::Core;
use crate::reactor::audit::require;

/// N5, N6, N9: each timer has one owner, and only open connections have timers.
pub(super) fn check_timers(core: &Core) -> Result<(), String> {
    let of = |c: &Connection| c.cold().map_or(0, |r| r.timers.len as usize);
    let owned: usize = core.conns.iter().map(of).sum();
    let ticks: usize = core.handler_timers.iter().map(|list| list.len as usize).sum();
    let all = core.timers.len();
    require(owned + ticks == all, || format!("N6: {all} timers, {owned} of connections, {ticks} of handlers"))?;
    let most = core.limits.timers;
    require(all <= most, || format!("N9: {all} timers of {most}"))?;
    for c in core.conns.iter() {
        let (n, most) = (of(c), core.limits.timers_per_connection);
        require(n <= most, || format!("N9: {} has {n} timers of {most}", c.id))?;
        require(n == 0 || c.phase == Phase::Open, || format!("N5: {} is closing and has {n} timers", c.id))?;
    }
    Ok(())
}

/// N9: links are recorded at both ends, both ends are open, and a connection that links to one above its high-water
/// mark is read blocked.
pub(super) fn check_links(core: &Core) -> Result<(), String> {
    for c in core.conns.iter() {
        let Some(cold) = c.cold() else { continue };
        let told = |what: &str| format!("N9: {}: {what}: {:?} and {:?}", c.id, cold.links_to, cold.links_from);
        let linked = !cold.links_to.is_empty() || !cold.links_from.is_empty();
        require(!linked || c.phase == Phase::Open, || told("linked while closing"))?;
        let most = core.limits.links_per_connection;
        let few = cold.links_to.len() <= most && cold.links_from.len() <= most;
        require(few, || told("too many links"))?;
        let other = |id| core.conns.get(id).filter(|o| o.phase == Phase::Open);
        let rare_of = |id| other(id).and_then(|o| o.cold());
        let mutual = cold.links_to.iter().all(|&to| rare_of(to).is_some_and(|r| r.links_from.contains(&c.id)))
            && cold.links_from.iter().all(|&from| rare_of(from).is_some_and(|r| r.links_to.contains(&c.id)));
        require(mutual, || told("a link recorded at one end only"))?;
        let high = cold.links_to.iter().filter(|&&to| other(to).is_some_and(|o| o.flow.above_high_water)).count();
        require(usize::from(c.flow.pause_count) >= high, || {
            told("links to one above its high-water mark, and is not read blocked")
        })?;
    }
    Ok(())
}
