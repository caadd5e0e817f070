//! Datagram sockets in the scripted system: what arrives on them, and what the kernel accepts.
//!
//! Invariant: an edge that is owed is never lost; after [`SendStatus::PeerFull`] none is owed.

use std::collections::VecDeque;
use std::io;

use super::datagram_socket::{Came, ScriptSocket};
use super::peer::{EAGAIN, fail};
use super::{Call, Ready, Script, outcome};
use crate::config::address::Address;
use crate::config::datagram::{DatagramBind, DatagramOptions};
use crate::sys::datagram::{DatagramSys, LocalIp, ReceivedDatagram, SendStatus};

impl Script {
    /// Delivers a datagram or an error to a socket.
    pub(crate) fn comes(&mut self, socket: usize, came: Came) {
        let socket = &mut self.sockets[socket];
        socket.inbox.push_back(came);
        let first = std::mem::take(&mut socket.readable_armed);
        if let Some(token) = socket.token.filter(|_| first || !self.strict) {
            self.inject(token, Ready::READABLE);
        }
    }

    /// Delivers a datagram from a port of this host.
    pub(crate) fn datagram(&mut self, socket: usize, port: u16, data: impl AsRef<[u8]>) {
        let from = Address::Tcp(([127, 0, 0, 1], port).into());
        self.comes(socket, Came::From(from, None, data.as_ref().to_vec()));
    }

    /// Sets how many more datagrams the kernel accepts from a socket.
    pub(crate) fn set_datagram_space(&mut self, socket: usize, window: usize) {
        let socket = &mut self.sockets[socket];
        socket.window = window;
        let due = window > 0 && std::mem::take(&mut socket.writable_armed);
        if let Some(token) = socket.token.filter(|_| due) {
            self.inject(token, Ready::WRITABLE);
        }
    }
}

impl DatagramSys for Script {
    /// A socket, by its index.
    type Datagram = usize;

    fn bind_datagram(&mut self, at: DatagramBind, options: &DatagramOptions) -> io::Result<usize> {
        let local = match at {
            DatagramBind::Udp(address) => Address::Tcp(address),
            #[cfg(unix)]
            DatagramBind::Unix(path) => Address::Unix(Some(path)),
            _ => Address::Unix(None),
        };
        self.sockets.push(ScriptSocket {
            local,
            peer: options.peer.clone(),
            token: None,
            inbox: VecDeque::new(),
            sent: Vec::new(),
            window: usize::MAX,
            answers: VecDeque::new(),
            stuck: Vec::new(),
            readable_armed: true,
            writable_armed: true,
            closed: false,
        });
        Ok(self.sockets.len() - 1)
    }

    fn datagram_addresses(&self, of: &usize) -> io::Result<(Address, Option<Address>)> {
        let socket = &self.sockets[*of];
        Ok((socket.local.clone(), socket.peer.clone()))
    }

    fn add_datagram(&mut self, socket: &mut usize, token: usize) -> io::Result<()> {
        self.sockets[*socket].token = Some(token);
        self.inject(token, Ready::WRITABLE);
        Ok(())
    }

    fn receive(&mut self, socket: &mut usize, buf: &mut [u8]) -> io::Result<ReceivedDatagram> {
        let end = &mut self.sockets[*socket];
        let came = end.inbox.pop_front();
        let to_many = matches!(came, Some(Came::ToMany(..)));
        let done = match came {
            Some(Came::From(from, to, data) | Came::ToMany(from, to, data)) => {
                let len = data.len().min(buf.len());
                buf[..len].copy_from_slice(&data[..len]);
                Ok(ReceivedDatagram { len, from, to, to_many })
            }
            Some(Came::Fail(number)) => fail(number),
            None => fail(EAGAIN),
        };
        end.readable_armed |= end.inbox.is_empty() && done.is_err();
        let came = match &done {
            Ok(received) => Ok(received.len),
            Err(e) => Err(e.raw_os_error().unwrap_or(0)),
        };
        self.record(Call::Receive(*socket, came));
        done
    }

    fn send_datagram(
        &mut self,
        socket: &mut usize,
        to: Option<&Address>,
        via: Option<LocalIp>,
        data: &[u8],
    ) -> io::Result<SendStatus> {
        let end = &mut self.sockets[*socket];
        let done = match end.answers.pop_front() {
            Some(number) if number != 0 => fail(number),
            _ if to.is_some_and(|to| end.stuck.contains(to)) => {
                self.record(Call::SendDatagram(*socket, Err(0)));
                return Ok(SendStatus::PeerFull);
            }
            _ if end.window == 0 => fail(EAGAIN),
            _ => {
                end.window -= 1;
                end.sent.push((to.cloned(), via, data.to_vec()));
                Ok(data.len())
            }
        };
        end.writable_armed |= outcome(&done) == Err(EAGAIN);
        self.record(Call::SendDatagram(*socket, outcome(&done)));
        done.map(|_| SendStatus::Sent)
    }

    fn close_datagram(&mut self, socket: usize) {
        let end = &mut self.sockets[socket];
        assert!(!std::mem::replace(&mut end.closed, true), "closed twice");
        end.token = None;
        self.record(Call::CloseDatagram(socket));
    }
}
