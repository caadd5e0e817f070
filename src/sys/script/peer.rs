//! One connection of the scripted system: the peer's end, and the kernel's part of our end.
//!
//! Holds the bytes of both directions and computes what a call on the socket returns. Queues no events.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read};

use crate::sys::{CloseHow, Ready};

/// A scripted result of one call, in place of the one that follows from the pipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The error with this number. After `EAGAIN` an edge is owed and will be delivered.
    Fail(i32),
    /// At most this many bytes (a write may accept 0).
    AtMost(usize),
}

/// The result of the next connecting socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DialPlan {
    /// The call itself fails with this error.
    Fail(i32),
    /// The socket stays pending until the test decides.
    Later,
}

// Error numbers of Linux (asm-generic/errno.h) on every host: the scripted system behaves like Linux.
pub(crate) const EAGAIN: i32 = 11;
pub(crate) const ECONNRESET: i32 = 104;
pub(super) const EMFILE: i32 = 24;
pub(crate) const EPIPE: i32 = 32;
pub(crate) const ENOTCONN: i32 = 107;
pub(crate) const ENOBUFS: i32 = 105;

/// The connection state of our socket.
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

/// What a peer has sent and the loop has not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Bytes(VecDeque<u8>),
    /// An urgent mark: a read stops short of it, though there is more data behind it.
    Urgent,
    Fin,
    Reset,
}

/// The peer's end of one connection, and the kernel's part of our end.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    pub(super) token: Option<usize>,
    pub(crate) accepted: bool,
    /// Whether the loop opened the connection; then its state is in `dial`.
    pub(crate) ours: bool,
    pub(crate) dial: DialState,
    pub(super) sent: VecDeque<Sent>,
    /// The bytes that the loop wrote.
    pub(crate) got: Vec<u8>,
    /// How many of them the peer has read.
    pub(crate) taken: usize,
    /// How many more bytes the kernel accepts.
    pub(super) window: usize,
    /// The socket's pending error (SO_ERROR); the first call that returns it clears it.
    pub(super) error: Option<i32>,
    pub(crate) dead: bool,
    /// The peer has closed its socket: data written to it is answered with RST.
    pub(super) deaf: bool,
    /// A reset or the like is on its way to the peer: it can send no more, and may have lost data that it has not read.
    pub(crate) cut_off: bool,
    /// How its input ends, after the data it got: with FIN or RST, whichever came first.
    pub(super) end: Option<End>,
    /// It is a Unix stream: reads report *drained* only by `WouldBlock`, urgent marks stand for passed descriptors,
    /// closing cannot force a reset, and the first write after the peer has closed fails.
    pub(crate) unix: bool,
    /// The position of its event in the queue, counted from the first event ever.
    pub(super) event: Option<usize>,
    /// The loop has sent FIN.
    pub(crate) got_fin: bool,
    /// How the loop closed it.
    pub(crate) closed: Option<CloseHow>,
    pub(crate) reads: VecDeque<Answer>,
    pub(crate) writes: VecDeque<Answer>,
    pub(crate) add: Option<i32>,
    pub(crate) shutdown: Option<i32>,
    /// Strict mode: whether new input triggers an edge, and whether new space does.
    pub(super) readable_armed: bool,
    pub(super) writable_armed: bool,
}

impl Peer {
    /// The number of bytes sent to the loop that it has not read.
    pub(crate) fn unread(&self) -> usize {
        let len = |s: &Sent| if let Sent::Bytes(b) = s { b.len() } else { 0 };
        self.sent.iter().map(len).sum()
    }

    /// Returns `true` if a read would return data, the end of input or an error.
    pub(crate) fn has_input(&self) -> bool {
        self.sent.iter().any(|s| *s != Sent::Urgent)
    }

    /// The bits of an event beside readability: a hint if more than bytes can be read, and an error if one is
    /// pending. A passed descriptor sets none.
    pub(super) fn hints(&self) -> u8 {
        let more = |s: &Sent| match s {
            Sent::Bytes(_) => false,
            Sent::Urgent => !self.unix,
            Sent::Fin | Sent::Reset => true,
        };
        let hint = if self.sent.iter().any(more) { Ready::HINT } else { 0 };
        hint | if self.error.is_some() { Ready::HINT | Ready::ERROR } else { 0 }
    }

    /// The whole current state, which each epoll event reports.
    pub(super) fn all_ready(&self) -> u8 {
        let readable = if self.sent.is_empty() { 0 } else { Ready::READABLE };
        let up = self.dial != DialState::Pending;
        let writable = if up && (self.window > 0 || self.dead) { Ready::WRITABLE } else { 0 };
        readable | writable | self.hints()
    }

    /// Adds an urgent mark. TCP has one urgent pointer: an earlier urgent byte that was not read up to becomes an
    /// ordinary byte (tcp(7)).
    pub(super) fn put_urgent(&mut self) {
        if let Some(at) = self.sent.iter().position(|s| *s == Sent::Urgent).filter(|_| !self.unix) {
            match at {
                0 => drop(self.sent.pop_front()),
                _ => self.sent[at] = Sent::Bytes(VecDeque::from([b'!'])),
            }
        }
        self.sent.push_back(Sent::Urgent);
    }

    /// Returns `true` if an error is pending.
    pub(crate) const fn has_error(&self) -> bool {
        self.error.is_some()
    }

    /// Returns `true` if there is an urgent byte that was not read up to. Another one would make it an ordinary byte.
    pub(crate) fn has_urgent(&self) -> bool {
        !self.unix && self.sent.contains(&Sent::Urgent)
    }

    pub(crate) fn has_finished(&self) -> bool {
        self.sent.back() == Some(&Sent::Fin)
    }

    /// Returns how the peer's input ends, after the data it got.
    pub(crate) const fn end(&self) -> Option<End> {
        self.end
    }

    /// Records that the loop has closed the stream: the peer sees FIN, or RST if input was left unread. After an
    /// earlier FIN, a TCP peer that only reads does not notice a RST; a Unix peer does.
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

    /// Drops all but the first `kept` bytes that the peer got, because a reset overtook them.
    pub(crate) fn lose(&mut self, kept: usize) {
        if kept < self.got.len() {
            self.got.truncate(kept);
            self.end = Some(End::Reset);
        }
    }

    /// How many more bytes the kernel accepts.
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
