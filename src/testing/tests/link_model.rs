//! A model of an actor's links.
//!
//! Invariant: a link exists from when it is made until it is removed or one of its ends begins to close.

use std::collections::BTreeSet;

use crate::core::Core;
use crate::handler::net::Net;
use crate::id::ConnId;
use crate::reactor::audit::require;

#[derive(Debug, Default)]
pub(super) struct LinkModel {
    pairs: BTreeSet<(ConnId, ConnId)>,
}

impl LinkModel {
    /// Removes the links of a connection that has closed, or whose id was reused.
    pub(super) fn forget(&mut self, id: ConnId) {
        self.pairs.retain(|&(from, to)| from != id && to != id);
    }

    fn live<'a>(&'a self, net: &'a Net<'_>) -> impl Iterator<Item = (ConnId, ConnId)> + 'a {
        self.pairs.iter().copied().filter(|&(from, to)| net.is_open(from) && net.is_open(to))
    }

    pub(super) fn link(&mut self, net: &mut Net<'_>, from: ConnId, to: ConnId) -> Result<(), String> {
        let most = net.core().limits.links_per_connection;
        let open = net.is_open(from) && net.is_open(to);
        let window = self.live(net).filter(|p| p.0 == from).count() < most
            && self.live(net).filter(|p| p.1 == to).count() < most;
        let may = open && from != to && (self.pairs.contains(&(from, to)) || window);
        let done = net.link(from, to);
        require(done == may, || format!("linked {from} to {to}: {done}"))?;
        if done {
            self.pairs.insert((from, to));
        }
        Ok(())
    }

    pub(super) fn unlink(&mut self, net: &mut Net<'_>, n: usize) -> Result<(), String> {
        let Some(n) = n.checked_rem(self.pairs.len()) else { return Ok(()) };
        let Some(&(from, to)) = self.pairs.iter().nth(n) else { return Ok(()) };
        let there = net.is_open(from) && net.is_open(to);
        let done = net.unlink(from, to);
        require(done == there, || format!("unlinked {from} and {to}: {done}"))?;
        self.pairs.remove(&(from, to));
        require(!net.unlink(from, to), || format!("unlinked {from} and {to} twice"))
    }

    /// Checks at the end of a turn that exactly these links exist.
    pub(super) fn check(&self, core: &Core) -> Result<(), String> {
        let links_to = |c: &crate::connection::Connection| c.cold().map_or(Vec::new(), |r| r.links_to.clone());
        let there = core.conns.iter().flat_map(|c| links_to(c).into_iter().map(|to| (c.id, to)));
        let there: BTreeSet<_> = there.collect();
        let open = |id| core.conns.get(id).is_some_and(|c| c.phase == crate::connection::Phase::Open);
        let made = self.pairs.iter().copied().filter(|&(from, to)| open(from) && open(to));
        let made: BTreeSet<_> = made.collect();
        require(there == made, || format!("N9: links {there:?}, and {made:?} were made"))
    }
}
