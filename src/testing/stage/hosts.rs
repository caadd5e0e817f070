//! The hosts that a handler can connect to, and the failures of all other connection attempts.
//!
//! Once connected, they are clients like the others. Invariant: every connecting socket and every lookup has its
//! result before the stage is idle.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use super::parties::{Client, Host};
use super::{Done, Stage};
use crate::config::address::Endpoint;
use crate::handler::Handler;

/// `ECONNREFUSED` of Linux: the error of a connection attempt where nothing listens.
const ECONNREFUSED: i32 = 111;
/// 192.0.2.0/24, reserved for documentation (RFC 5737): the addresses that host names resolve to.
const STANDING_IN: [u8; 3] = [192, 0, 2];

impl<H: Handler> Stage<H> {
    pub(super) fn add_host(&mut self, name: &str, address: &str) -> Done {
        let endpoint = address.parse::<Endpoint>().map_err(|e| e.to_string())?;
        let port = if let Endpoint::Tcp { port, .. } = endpoint { port } else { 0 };
        if self.hosts.iter().any(|h| h.address == address) {
            return Err(format!("there is already a host at {address}"));
        }
        let [a, b, c] = STANDING_IN;
        let found = SocketAddr::from(([a, b, c, (self.hosts.len() % 256) as u8], port));
        self.hosts.push(Host { name: name.to_owned(), address: address.to_owned(), found, times: 0 });
        Ok(())
    }

    /// Decides all lookups and connection attempts of the handler. Returns `false` if there were none.
    pub(super) fn answer_dials(&mut self) -> bool {
        let lookups = std::mem::take(&mut self.inner.sys.lookups);
        let dials_made = std::mem::take(&mut self.inner.sys.dials_made);
        let any = !lookups.is_empty() || !dials_made.is_empty();
        for (number, host, port) in lookups {
            let wanted = format!("{host}:{port}");
            let found = self.hosts.iter().find(|h| h.address == wanted).map(|h| vec![h.found]);
            let unknown = || io::Error::new(ErrorKind::NotFound, format!("cannot resolve {host:?}: unknown host"));
            self.inner.sys.looked_up(number, found.ok_or_else(unknown));
        }
        for (address, peer) in dials_made.into_iter().filter_map(|(address, peer)| Some((address.to_string(), peer?))) {
            match self.hosts.iter_mut().find(|h| h.is_at(&address)) {
                None => self.inner.sys.dial_fails(peer, ECONNREFUSED),
                Some(host) => {
                    host.times += 1;
                    let name = if host.times == 1 { host.name.clone() } else { format!("{}{}", host.name, host.times) };
                    self.inner.sys.dial_succeeds(peer);
                    let ear = self.codec.as_ref().map(|codec| codec.ear());
                    self.clients.push(Client::new(name, peer, ear));
                }
            }
        }
        any
    }
}
