//! The scripted system as a system under test, and its clients.

use std::io::{self, ErrorKind};

use super::{Heard, World};
use crate::config::address::Address;
use crate::sys::script::{DialPlan, End, Listener, Script};

const ENOENT: i32 = 2;
const ECONNREFUSED: i32 = 111;
/// The buffer space between us and a client that does not read.
const WINDOW: usize = 4096;

pub(super) struct Scripted {
    script: Script,
    unix: bool,
}

impl Scripted {
    pub(super) fn new(unix: bool, strict: bool) -> Self {
        let mut script = Script::new();
        script.strict = strict;
        Self { script, unix }
    }
}

impl World for Scripted {
    type S = Script;

    fn sys(&mut self) -> &mut Script {
        &mut self.script
    }

    fn is_real(&self) -> bool {
        false
    }

    fn is_strict(&self) -> bool {
        self.script.strict
    }

    fn is_unix(&self) -> bool {
        self.unix
    }

    fn set_listener(&mut self, _: &Listener) {}

    fn connect(&mut self) -> io::Result<()> {
        if !self.script.is_listening(0) {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        let peer = self.script.connect(0);
        self.script.peers[peer].unix = self.unix;
        self.script.set_window(peer, WINDOW);
        Ok(())
    }

    fn target(&mut self, anybody: bool) -> Address {
        if !anybody {
            self.script.dials.push_back(if self.unix { DialPlan::Fail(ENOENT) } else { DialPlan::Later });
        }
        Address::Unix(None)
    }

    fn refuse(&mut self) {
        let peer = self.script.peers.len() - 1;
        self.script.dial_fails(peer, ECONNREFUSED);
    }

    fn meet(&mut self) {
        let peer = self.script.peers.len() - 1;
        self.script.peers[peer].unix = self.unix;
        self.script.set_window(peer, WINDOW);
    }

    fn send(&mut self, client: usize, bytes: &[u8]) -> bool {
        let could = !self.script.peers[client].cut_off;
        self.script.send(client, bytes);
        // A Unix client learns at once that we have closed; a TCP client learns by sending.
        could && !(self.unix && self.script.peers[client].cut_off)
    }

    fn send_urgent(&mut self, client: usize) {
        self.script.send_urgent(client);
    }

    fn finish(&mut self, client: usize) {
        self.script.fin(client);
    }

    fn hang_up(&mut self, client: usize) {
        self.script.hang_up(client);
    }

    fn reset(&mut self, client: usize) {
        self.script.reset(client);
    }

    fn hear(&mut self, client: usize, most: usize) -> Heard {
        let from = self.script.peers[client].taken;
        let n = self.script.take(client, most);
        let p = &self.script.peers[client];
        match (n, p.end()) {
            (1.., _) => Heard::Bytes(p.got[from..from + n].to_vec()),
            (_, None) => Heard::Nothing,
            (_, Some(End::Fin)) => Heard::End,
            (_, Some(End::Reset)) => Heard::Reset,
        }
    }

    fn could_hear(&mut self, client: usize, most: usize) -> usize {
        let p = &self.script.peers[client];
        most.min(p.got.len() - p.taken)
    }
}
