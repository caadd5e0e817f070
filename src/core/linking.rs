//! Links: a connection that is not read while another one, which it feeds, has much output waiting.
//!
//! Knows nothing of reading and writing. Invariant: of two linked connections each knows the other, and both are open;
//! while the one that is fed is high, the link is counted among the feeder's `holds`.

use super::Core;
use crate::connection::Phase;
use crate::id::ConnId;

impl Core {
    /// Stops reading `from` while much waits for `to`, until either ends. False when one of them is ending, or has as
    /// many links as allowed.
    pub(crate) fn link(&mut self, from: ConnId, to: ConnId) -> bool {
        let most = self.limits.links_per_connection;
        let open = |id| self.conns.get(id).filter(|c| c.phase == Phase::Open);
        let (Some(feeder), Some(fed)) = (open(from), open(to)) else { return false };
        if from == to || feeder.rare().is_some_and(|r| r.feeds.contains(&to)) {
            // One that feeds itself is held up by its own output without any link.
            return true;
        }
        let full = |links: Option<usize>| links.is_some_and(|n| n >= most);
        if full(feeder.rare().map(|r| r.feeds.len())) || full(fed.rare().map(|r| r.fed_by.len())) {
            return false;
        }
        let high = fed.high;
        if let Some(c) = self.conns.get_mut(from) {
            c.rare_mut().feeds.push(to);
        }
        if let Some(c) = self.conns.get_mut(to) {
            c.rare_mut().fed_by.push(from);
        }
        if high {
            self.hold_up(from);
        }
        true
    }

    /// Undoes a link. False when there is none.
    pub(crate) fn unlink_pair(&mut self, from: ConnId, to: ConnId) -> bool {
        let linked = |id: ConnId| self.conns.get(id).and_then(|c| c.rare());
        if !linked(from).is_some_and(|r| r.feeds.contains(&to)) {
            return false;
        }
        let high = self.conns.get(to).is_some_and(|c| c.high);
        if let Some(c) = self.conns.get_mut(from) {
            c.rare_mut().feeds.retain(|&id| id != to);
        }
        if let Some(c) = self.conns.get_mut(to) {
            c.rare_mut().fed_by.retain(|&id| id != from);
        }
        if high {
            self.release(vec![from]);
        }
        true
    }

    /// Undoes all links of a connection that ends, or whose output has ended.
    pub(crate) fn end_links(&mut self, id: ConnId) {
        let Some(rare) = self.conns.get(id).and_then(|c| c.rare()) else { return };
        if rare.feeds.is_empty() && rare.fed_by.is_empty() {
            return;
        }
        for to in rare.feeds.clone() {
            self.unlink_pair(id, to);
        }
        let fed_by = self.conns.get(id).and_then(|c| c.rare()).map(|r| r.fed_by.clone());
        for from in fed_by.unwrap_or_default() {
            self.unlink_pair(from, id);
        }
    }

    /// What waits for a connection has passed the high-water mark, or fallen to the low one: who feeds it is held up,
    /// or read again.
    pub(super) fn tell_feeders(&mut self, id: ConnId, high: bool) {
        let Some(rare) = self.conns.get(id).and_then(|c| c.rare()).filter(|r| !r.fed_by.is_empty()) else {
            return;
        };
        let feeders = rare.fed_by.clone();
        if !high {
            return self.release(feeders);
        }
        for from in feeders {
            self.hold_up(from);
        }
    }

    /// Counts one more reason not to read a connection.
    pub(super) fn hold_up(&mut self, id: ConnId) {
        if let Some(c) = self.conns.get_mut(id) {
            c.holds = c.holds.saturating_add(1);
        }
        self.sync_clock(id);
    }

    /// How much may be read of a connection so that none that it feeds gets more than may wait.
    #[inline]
    pub(super) fn room_behind(&self, feeds: &[ConnId]) -> usize {
        let room = |id: &ConnId| {
            let pending = self.conns.get(*id).map_or(0, |c| self.pending(c));
            self.limits.output_high.saturating_sub(pending)
        };
        feeds.iter().map(room).min().unwrap_or(usize::MAX)
    }
}
