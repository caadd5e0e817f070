//! One connection of the scripted world: the peer's end, and the kernel's part of ours.
//!
//! Knows neither events nor the loop: bytes in, bytes out, and what a call on the socket answers.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use crate::sys::CloseHow;

/// A scripted answer of one call, instead of what would follow from the pipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The error with this number. For `EAGAIN` a later edge is owed, and comes.
    Fail(i32),
    /// At most this many bytes (a write may take 0).
    AtMost(usize),
}

pub(crate) const EAGAIN: i32 = 11;
pub(crate) const ECONNRESET: i32 = 104;
pub(crate) const EPIPE: i32 = 32;

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
    pub(super) accepted: bool,
    pub(super) sent: VecDeque<Sent>,
    /// What the loop wrote and the test has not taken.
    pub(crate) got: Vec<u8>,
    /// How many more bytes the kernel takes.
    pub(super) room: usize,
    /// The socket's pending error; the first call that sees it takes it away.
    pub(super) error: Option<i32>,
    pub(super) dead: bool,
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
    pub(super) fn read(&mut self, buf: &mut [u8], most: usize) -> io::Result<usize> {
        let mut n = 0;
        loop {
            match self.sent.front_mut() {
                Some(Sent::Bytes(b)) => {
                    let part = b.len().min(most.min(buf.len()) - n);
                    buf[n..].iter_mut().zip(b.drain(..part)).for_each(|(to, byte)| *to = byte);
                    n += part;
                    if !b.is_empty() {
                        return Ok(n);
                    }
                    self.sent.pop_front();
                }
                _ if n > 0 => return Ok(n),
                Some(Sent::Urgent) => {
                    self.sent.pop_front();
                }
                Some(Sent::Fin) => return Ok(0),
                Some(Sent::Reset) => return self.error.take().map_or(Ok(0), fail),
                None => return fail(EAGAIN),
            }
        }
    }

    pub(super) fn write(&mut self, bufs: &[IoSlice<'_>], most: usize) -> io::Result<usize> {
        if self.dead {
            return fail(self.error.take().unwrap_or(EPIPE));
        }
        if self.room == 0 {
            return fail(EAGAIN);
        }
        let most = most.min(self.room);
        let mut left = most;
        for b in bufs {
            let part = &b[..left.min(b.len())];
            self.got.extend_from_slice(part);
            left -= part.len();
        }
        self.room -= most - left;
        Ok(most - left)
    }
}

pub(super) fn fail<T>(number: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(number))
}
