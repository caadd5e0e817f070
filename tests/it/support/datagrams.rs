//! Shared by the datagram tests: a reactor with one echoing socket, driven by the test.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, Sender};

use turnwheel::{Address, DatagramContext, DatagramHandler, DatagramId, Datagrams, Limits, Net, Reactor};

use super::turn_until;

/// A callback of the handler, with its arguments.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Datagram(Address, Vec<u8>),
    Truncated(Address, usize),
    Error(ErrorKind, Option<i32>),
    Closed,
}

/// Sends every datagram back, and reports all callbacks.
pub(crate) struct Echo(pub(crate) Sender<Told>);

impl DatagramHandler for Echo {
    fn on_datagram(&mut self, cx: &mut DatagramContext<'_>, from: &Address, data: &[u8]) {
        assert_ne!(data, b"boom");
        cx.send_to(from, data);
        if data == b"close" {
            cx.close();
        }
        self.0.send(Told::Datagram(from.clone(), data.to_vec())).unwrap();
    }

    fn on_truncated(&mut self, _cx: &mut DatagramContext<'_>, from: &Address, max: usize) {
        self.0.send(Told::Truncated(from.clone(), max)).unwrap();
    }

    fn on_error(&mut self, _cx: &mut DatagramContext<'_>, error: &io::Error) {
        self.0.send(Told::Error(error.kind(), error.raw_os_error())).unwrap();
    }

    fn on_close(&mut self, _net: &mut Net<'_>, _id: DatagramId) {
        self.0.send(Told::Closed).unwrap();
    }
}

/// A reactor with one socket, driven by the test.
pub(crate) struct World {
    pub(crate) reactor: Reactor,
    pub(crate) id: DatagramId,
    pub(crate) at: Address,
    pub(crate) told: Receiver<Told>,
}

impl World {
    pub(crate) fn new(at: impl Into<Datagrams>) -> Self {
        Self::within(Limits::default(), at)
    }

    pub(crate) fn within(limits: Limits, at: impl Into<Datagrams>) -> Self {
        let mut reactor = Reactor::with_limits(limits).unwrap();
        let (sender, told) = mpsc::channel();
        let bound = reactor.bind(at, Echo(sender)).unwrap();
        let (id, at) = bound.sockets()[0].clone();
        Self { reactor, id, at, told }
    }

    pub(crate) fn ip(&self) -> SocketAddr {
        self.at.tcp().unwrap()
    }

    pub(crate) fn port(&self) -> u16 {
        self.ip().port()
    }

    /// Runs turns until a callback is called, and returns it.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Told {
        let mut next = None;
        turn_until(&mut self.reactor, "a callback", |_| {
            next = self.told.try_recv().ok();
            next.is_some()
        });
        next.unwrap()
    }
}
