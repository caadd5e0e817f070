//! Datagram sockets in the simulated system: as in the scripted one. No run uses any yet.
//!
//! Invariant: a socket counts as registered until it is closed, so that an event for it is not taken for a stale one.

use std::io;

use super::Sim;
use crate::config::address::Address;
use crate::config::datagram::{DatagramBind, DatagramOptions};
use crate::sys::datagram::{DatagramSys, LocalIp, ReceivedDatagram, SendStatus};

impl DatagramSys for Sim {
    type Datagram = usize;

    fn bind_datagram(&mut self, at: DatagramBind, options: &DatagramOptions) -> io::Result<usize> {
        self.script.bind_datagram(at, options)
    }

    fn datagram_addresses(&self, of: &usize) -> io::Result<(Address, Option<Address>)> {
        self.script.datagram_addresses(of)
    }

    fn add_datagram(&mut self, socket: &mut usize, token: usize) -> io::Result<()> {
        self.live.insert(token, None);
        self.script.add_datagram(socket, token)
    }

    fn receive(&mut self, socket: &mut usize, buf: &mut [u8]) -> io::Result<ReceivedDatagram> {
        self.calls += 1;
        self.script.receive(socket, buf)
    }

    fn send_datagram(
        &mut self,
        socket: &mut usize,
        to: Option<&Address>,
        via: Option<LocalIp>,
        data: &[u8],
    ) -> io::Result<SendStatus> {
        self.calls += 1;
        self.script.send_datagram(socket, to, via, data)
    }

    fn close_datagram(&mut self, socket: usize) {
        if let Some(token) = self.script.sockets[socket].token {
            self.live.remove(&token);
            self.retired.push(token);
        }
        self.script.close_datagram(socket);
    }
}
