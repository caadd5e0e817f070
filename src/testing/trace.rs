//! The trace of a run, as lines of text, and as a hash that must be the same for two runs of one seed.
//!
//! Invariant: the hash depends on every call and its result.

use crate::sys::script::Call;
use crate::sys::sim::fold;

/// The trace as lines of text, if it is requested.
#[derive(Debug)]
pub(super) struct Trace {
    pub(super) lines: Option<Vec<String>>,
    pub(super) live: bool,
}

impl Trace {
    pub(super) fn record(&mut self, line: impl FnOnce() -> String) {
        if self.live {
            println!("{}", line());
        } else if let Some(lines) = &mut self.lines {
            lines.push(line());
        }
    }
}

/// Adds a call to the hash of a run.
pub(super) fn fold_call(hash: u64, call: &Call) -> u64 {
    let result = |r: &Result<usize, i32>| r.map_or_else(|e| !(e as u64), |n| n as u64);
    let parts = match call {
        Call::Poll(t) => [1, t.map_or(u64::MAX, |t| t.as_nanos() as u64), 0],
        Call::Accept(l, r) => [2, *l as u64, result(r)],
        Call::Add(p) => [3, *p as u64, 0],
        Call::Read(p, r) => [4, *p as u64, result(r)],
        Call::Write(p, r) => [5, *p as u64, result(r)],
        Call::ShutdownWrite(p) => [6, *p as u64, 0],
        Call::TakeError(p) => [7, *p as u64, 0],
        Call::Close(p, how) => [8, *p as u64, *how as u64],
        Call::CloseListener(l) => [9, *l as u64, 0],
        Call::Connect(r) => [10, result(r), 0],
        Call::FinishConnect(p, r) => [11, *p as u64, result(r)],
        Call::Lookup(n) => [12, *n, 0],
        Call::AddSource(token) => [13, *token as u64, 0],
        Call::RemoveSource => [14, 0, 0],
        Call::Receive(s, r) => [15, *s as u64, result(r)],
        Call::SendDatagram(s, r) => [16, *s as u64, result(r)],
        Call::CloseDatagram(s) => [17, *s as u64, 0],
    };
    parts.into_iter().fold(hash, fold)
}

/// Adds a text to the hash of a run.
pub(super) fn fold_text(hash: u64, text: &str) -> u64 {
    text.bytes().fold(hash, |hash, byte| fold(hash, u64::from(byte)))
}
