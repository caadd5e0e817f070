//! The outgoing half of a codec, without its type: what a sender needs to know of a receiver's framing.
//!
//! Knows nothing of decoding. Invariant: encoding either appends a whole framed message or leaves the buffer as it was.

use std::fmt;
use std::rc::Rc;

use super::{Codec, EncodeError};

/// How messages to a connection are framed on their way out. Made from a codec, or [`raw`](Framing::raw).
#[derive(Clone, Default)]
pub struct Framing(Option<Rc<dyn Encode>>);

impl Framing {
    /// No framing: bytes go out as they are given.
    pub const fn raw() -> Self {
        Self(None)
    }

    /// The framing of `codec`.
    pub fn of<C: Codec>(codec: Rc<C>) -> Self {
        Self(Some(codec))
    }

    /// Whether bytes go out as they are given.
    #[inline]
    pub const fn is_raw(&self) -> bool {
        self.0.is_none()
    }

    /// The longest message and the most bytes added to one; `None` for raw.
    pub(crate) fn bounds(&self) -> Option<(usize, usize)> {
        self.0.as_ref().map(|c| (c.longest(), c.overhead()))
    }

    /// About how many bytes `len` bytes become.
    #[inline]
    pub(crate) fn room(&self, len: usize) -> usize {
        self.0.as_ref().map_or(len, |c| len.saturating_add(c.overhead()))
    }

    /// Appends `message` to `out` in this framing.
    pub(crate) fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let Some(codec) = &self.0 else {
            out.extend_from_slice(message);
            return Ok(());
        };
        let before = out.len();
        let done = codec.encode(message, out);
        if done.is_err() {
            out.truncate(before);
        }
        done
    }
}

impl fmt::Debug for Framing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_raw() { "Framing(raw)" } else { "Framing(codec)" })
    }
}

/// The part of [`Codec`] that needs no connection's state.
trait Encode {
    fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError>;
    fn longest(&self) -> usize;
    fn overhead(&self) -> usize;
}

impl<C: Codec> Encode for C {
    fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        Codec::encode(self, message, out)
    }

    fn longest(&self) -> usize {
        self.max_message()
    }

    fn overhead(&self) -> usize {
        self.max_overhead()
    }
}
