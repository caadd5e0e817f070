//! The addresses of this host at which a datagram socket was asked: they tell whether it talks to itself.
//!
//! Invariant: at most `MOST` addresses are kept, and none is used after `KEPT`.

use std::net::IpAddr;
use std::time::Duration;

use crate::time::Time;

/// Chosen: what a socket sends to itself arrives next, and only two addresses take part.
const MOST: usize = 16;
/// Chosen: longer than a delivery within the host takes. An address that has moved to another host is heard again.
const KEPT: Duration = Duration::from_secs(60);

/// The addresses at which a socket was asked lately, by senders that have its own port.
#[derive(Debug, Default)]
pub(super) struct OwnAddresses {
    asked: [Option<(IpAddr, Time)>; MOST],
    next: usize,
}

impl OwnAddresses {
    /// Returns whether `from` is an address of this host, as far as is known. If not, notes that `asked` is one: the
    /// answer, should it come back to this socket, comes from there.
    pub(super) fn has(&mut self, from: IpAddr, asked: IpAddr, now: Time) -> bool {
        let own = |&(ip, at): &(IpAddr, Time)| ip == from && now.since(at) < KEPT;
        if from == asked || self.asked.iter().flatten().any(own) {
            return true;
        }
        if let Some((_, at)) = self.asked.iter_mut().flatten().find(|(ip, _)| *ip == asked) {
            *at = now;
        } else if let Some(oldest) = self.asked.get_mut(self.next) {
            *oldest = Some((asked, now));
            self.next = (self.next + 1) % MOST;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_own_once_it_was_asked_for_a_minute() {
        let ip = |n: u8| IpAddr::from([192, 0, 2, n]);
        let mut own = OwnAddresses::default();
        assert!(own.has(ip(1), ip(1), Time(0)));
        assert!(!own.has(ip(2), ip(1), Time(0)), "the first of an exchange between two addresses");
        assert!(own.has(ip(1), ip(2), Time(0)), "the answer");
        let later = Time::default().after(KEPT);
        assert!(!own.has(ip(1), ip(2), later), "the address may have moved");
        assert!(own.has(ip(2), ip(3), later));
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let ip = |n: u8| IpAddr::from([192, 0, 2, n]);
        let mut own = OwnAddresses::default();
        for n in 0..=MOST as u8 {
            assert!(!own.has(ip(200), ip(n), Time(0)));
        }
        assert!(!own.has(ip(0), ip(MOST as u8), Time(0)));
        assert!(own.has(ip(1), ip(201), Time(0)));
    }
}
