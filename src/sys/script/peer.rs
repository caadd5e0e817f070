//! One connection of the scripted world: the peer's end, and the kernel's part of ours.
//!
//! Knows neither events nor the loop: bytes in, bytes out, and what a call on the socket answers.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read};

use crate::sys::{CloseHow, Ready};

/// A scripted answer of one call, instead of what would follow from the pipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The error with this number. For `EAGAIN` a later edge is owed, and comes.
    Fail(i32),
    /// At most this many bytes (a write may take 0).
    AtMost(usize),
}

/// What becomes of the next socket that connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DialPlan {
    /// The call itself fails.
    Fail(i32),
    /// Nothing, until the test says so.
    Later,
}

pub(crate) const EAGAIN: i32 = 11;
pub(crate) const ECONNRESET: i32 = 104;
pub(crate) const EPIPE: i32 = 32;
pub(crate) const ENOTCONN: i32 = 107;
pub(crate) const ENOBUFS: i32 = 105;

/// How far a socket of ours has connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum DialState {
    /// It was accepted, or has connected.
    #[default]
    Up,
    Pending,
    Failed(i32),
}

/// How a peer sees the end of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Fin,
    Reset,
}

/// What a peer has put into the pipe and the loop has not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Bytes(VecDeque<u8>),
    /// A read stops short of it, though there is more behind it.
    Urgent,
    Fin,
    Reset,
}

/// The far end of one connection, and the kernel's part of the near one.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    pub(super) token: Option<usize>,
    pub(crate) accepted: bool,
    /// We asked for the connection; and how far that is.
    pub(crate) ours: bool,
    pub(crate) dial: DialState,
    pub(super) sent: VecDeque<Sent>,
    /// What the loop wrote.
    pub(crate) got: Vec<u8>,
    /// How much of it a peer that reads has taken.
    pub(crate) taken: usize,
    /// How many more bytes the kernel takes.
    pub(super) window: usize,
    /// The socket's pending error; the first call that sees it takes it away.
    pub(super) error: Option<i32>,
    pub(crate) dead: bool,
    /// It has closed both directions: what is written to it is answered with a reset.
    pub(super) deaf: bool,
    /// A reset is on its way to it, or the like: it can send no more, and may have lost what it has not taken.
    pub(crate) cut_off: bool,
    /// What its reads end with, once it has taken all that it got: of FIN and reset, what came first.
    pub(super) end: Option<End>,
    /// As a Unix stream: *drained* is said with `WouldBlock` only, urgent marks stand for passed descriptors, and there
    /// is neither a reset by us nor a first write that is taken after a hang-up.
    pub(crate) unix: bool,
    /// Where its event is in the queue, counted from the beginning of time.
    pub(super) event: Option<usize>,
    /// The loop sent FIN.
    pub(crate) got_fin: bool,
    /// How the loop closed it.
    pub(crate) closed: Option<CloseHow>,
    pub(crate) reads: VecDeque<Answer>,
    pub(crate) writes: VecDeque<Answer>,
    pub(crate) add: Option<i32>,
    pub(crate) shutdown: Option<i32>,
    /// Strict mode: whether an arrival gives an edge, and whether room gives one.
    pub(super) readable_armed: bool,
    pub(super) writable_armed: bool,
}

impl Peer {
    /// Bytes sent to the loop that it has not read.
    pub(crate) fn unread(&self) -> usize {
        let len = |s: &Sent| if let Sent::Bytes(b) = s { b.len() } else { 0 };
        self.sent.iter().map(len).sum()
    }

    /// Whether a read would tell something: bytes, or the end of them.
    pub(crate) fn has_input(&self) -> bool {
        self.sent.iter().any(|s| *s != Sent::Urgent)
    }

    /// What an event says beside readability: that there is more than bytes to read, and that an error waits. Of a
    /// passed descriptor nothing is told.
    pub(super) fn hints(&self) -> u8 {
        let more = |s: &Sent| match s {
            Sent::Bytes(_) => false,
            Sent::Urgent => !self.unix,
            Sent::Fin | Sent::Reset => true,
        };
        let hint = if self.sent.iter().any(more) { Ready::HINT } else { 0 };
        hint | if self.error.is_some() { Ready::HINT | Ready::ERROR } else { 0 }
    }

    /// All that is so, which each event of epoll tells.
    pub(super) fn all_ready(&self) -> u8 {
        let readable = if self.sent.is_empty() { 0 } else { Ready::READABLE };
        let up = self.dial != DialState::Pending;
        let writable = if up && (self.window > 0 || self.dead) { Ready::WRITABLE } else { 0 };
        readable | writable | self.hints()
    }

    /// TCP knows one urgent byte. An earlier one that was not read up to becomes an ordinary byte.
    pub(super) fn put_urgent(&mut self) {
        if let Some(at) = self.sent.iter().position(|s| *s == Sent::Urgent).filter(|_| !self.unix) {
            match at {
                0 => drop(self.sent.pop_front()),
                _ => self.sent[at] = Sent::Bytes(VecDeque::from([b'!'])),
            }
        }
        self.sent.push_back(Sent::Urgent);
    }

    /// Whether an error waits for a call that sees it.
    pub(crate) const fn has_error(&self) -> bool {
        self.error.is_some()
    }

    /// Whether an urgent byte was not read up to, which another one would make an ordinary byte.
    pub(crate) fn has_urgent(&self) -> bool {
        !self.unix && self.sent.contains(&Sent::Urgent)
    }

    pub(crate) fn has_finished(&self) -> bool {
        self.sent.back() == Some(&Sent::Fin)
    }

    /// How the peer sees the end, once it has taken all that it got.
    pub(crate) const fn end(&self) -> Option<End> {
        self.end
    }

    /// We have closed it: FIN, or a reset where input is unread. Behind an earlier FIN a reset is no news to a reader,
    /// but for a Unix stream.
    pub(super) fn was_closed(&mut self, how: CloseHow) {
        let unread = self.unread() > 0 || self.has_urgent();
        let reset = unread || (how == CloseHow::Reset && !self.unix);
        self.cut_off |= reset;
        if reset && self.unix {
            self.end = Some(End::Reset);
        }
        self.ends_with(if reset { End::Reset } else { End::Fin });
    }

    pub(super) fn ends_with(&mut self, end: End) {
        self.end.get_or_insert(end);
    }

    /// A reset overtakes all but the first `kept` bytes of what the peer got.
    pub(crate) fn lose(&mut self, kept: usize) {
        if kept < self.got.len() {
            self.got.truncate(kept);
            self.end = Some(End::Reset);
        }
    }

    /// How many more bytes the kernel takes.
    pub(crate) const fn window(&self) -> usize {
        self.window
    }

    pub(super) fn read(&mut self, buf: &mut [u8], most: usize) -> io::Result<usize> {
        let mut n = 0;
        loop {
            match self.sent.front_mut() {
                Some(Sent::Bytes(b)) => {
                    let mut part = b.len().min(most.min(buf.len()) - n);
                    while part > 0 {
                        let done = b.read(&mut buf[n..n + part])?;
                        n += done;
                        part -= done;
                    }
                    if !b.is_empty() {
                        return Ok(n);
                    }
                    self.sent.pop_front();
                }
                _ if n > 0 => return Ok(n),
                Some(Sent::Urgent) => {
                    self.sent.pop_front();
                }
                Some(Sent::Fin) if !self.unix => return Ok(0),
                Some(Sent::Fin | Sent::Reset) => return self.error.take().map_or(Ok(0), fail),
                None => return fail(EAGAIN),
            }
        }
    }

    pub(super) fn write(&mut self, bufs: &[IoSlice<'_>], most: usize) -> io::Result<usize> {
        if self.dead {
            return fail(self.error.take().unwrap_or(EPIPE));
        }
        if self.window == 0 {
            return fail(EAGAIN);
        }
        let most = most.min(self.window);
        let mut left = most;
        for b in bufs {
            let part = &b[..left.min(b.len())];
            self.got.extend_from_slice(part);
            left -= part.len();
        }
        self.window -= most - left;
        Ok(most - left)
    }
}

pub(super) fn fail<T>(number: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(number))
}
