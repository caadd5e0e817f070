//! Sending bytes that are fetched as the peer reads: `send_all`.
//!
//! Invariant: at rest, an outbox with pieces has unsent bytes in front of them. So nothing that is sent later is
//! written before they have ended, and the connection is flushed, closed and timed out like any other.

use super::Core;
use super::send::{Sent, framing_of};
use crate::buffer::pieces::{FetchError, Pieces, Refused};
use crate::buffer::pool::{LARGE, SMALL, Use};
use crate::closed::Reason;
use crate::codec::NotEncoded;
use crate::id::ConnId;
use crate::time::log_limit::suppressed;

impl From<NotEncoded> for Refused {
    fn from(why: NotEncoded) -> Self {
        match why {
            NotEncoded::Refused => Self::Unencodable,
            NotEncoded::Panicked(panic) => Self::Panicked(panic),
        }
    }
}

/// The most calls of `send_all` that may wait on one connection. Chosen: a program that answers one request after the
/// other has one or two, and each may hold any number of bytes.
const MAX_WAITING: usize = 64;
/// The most characters of an error's text that are logged. Chosen.
const MAX_TEXT: usize = 500;

impl Core {
    /// Sends pieces, in the receiver's framing.
    pub(crate) fn send_all(&mut self, id: ConnId, mut pieces: Pieces) -> Sent {
        if let Err(refused) = self.may_send(id, 0) {
            return refused;
        }
        let Self { conns, framings, .. } = self;
        let Some(c) = conns.live(id) else { return Sent::Closed };
        if c.out.pieces() >= MAX_WAITING {
            self.terminate(id, Reason::OutputLimit);
            return Sent::Full;
        }
        if let Some(framing) = framing_of(framings, c)
            && let Err(refused) = pieces.encode_whole(&|piece, out| Ok(framing.encode(piece, out)?))
        {
            return self.after_queueing(id, Err(refused.into()));
        }
        self.start_write_stall(id);
        if let Some(c) = self.conns.live_mut(id) {
            c.out.push_pieces(pieces);
        }
        self.fetch_pieces(id);
        let Some(c) = self.conns.get(id).filter(|c| c.takes_output()) else { return Sent::Closed };
        // Whatever the marks: input is not read, and `on_drain` is not called, before all pieces are fetched.
        if c.out.has_pieces() && !c.flow.above_high_water {
            self.set_high(id);
        }
        self.count_sent(id);
        Sent::Queued
    }

    /// Fetches bytes from the pieces at the front of an outbox, until it has some or the pieces have ended. Called
    /// whenever what was in front of them is written.
    pub(crate) fn fetch_pieces(&mut self, id: ConnId) {
        while self.conns.live_mut(id).is_some_and(|c| c.out.front_pieces().is_some()) {
            // At most one read buffer beyond `output_hard`: as much as an echo may add.
            let most = if self.memory_pressure() { SMALL } else { LARGE }.min(self.limits.read_buffer);
            let Self { conns, framings, pool, stats, .. } = self;
            let Some(c) = conns.live_mut(id) else { return };
            let framing = framing_of(framings, c);
            let encode = |piece: &[u8], out: &mut Vec<u8>| framing.map_or(Ok(()), |f| Ok(f.encode(piece, out)?));
            let Some(mut bytes) = pool.take(most, Use::Output) else { return self.terminate_out_of_memory(id) };
            let Some(pieces) = c.out.front_pieces() else { return };
            match pieces.fetch(most, &mut bytes, framing.is_some().then_some(&encode)) {
                Ok((more, refused)) => {
                    stats.unencodable += refused;
                    c.out.push_fetched(bytes, more, pool);
                }
                Err(error) => {
                    pool.recycle(bytes, Use::Output);
                    return self.end_pieces(id, error);
                }
            }
        }
    }

    /// Closes a connection whose pieces have failed: what is missing must not look like the end.
    #[cold]
    fn end_pieces(&mut self, id: ConnId, error: FetchError) {
        match error {
            FetchError::Failed(error) => {
                if let Some(n) = self.pieces_log.allow(self.now) {
                    let text: String = error.to_string().chars().take(MAX_TEXT).flat_map(char::escape_debug).collect();
                    log::error!("{id}: what was to be sent could not be read: {text}{}", suppressed(n));
                }
                self.terminate(id, Reason::PiecesFailed(error.kind()));
            }
            FetchError::Panicked(panic) => {
                self.codec_panics.extend(self.conns.get(id).map(|c| (c.handler, panic)));
                self.terminate(id, Reason::HandlerPanic);
            }
        }
    }
}
