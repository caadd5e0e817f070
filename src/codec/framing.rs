//! The encoding half of a codec, type-erased: what a sender needs of a receiver's framing.
//!
//! Invariant: encoding either appends one whole framed message or leaves the buffer unchanged.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use super::{Codec, EncodeError};

/// How messages sent to a connection are framed. Created from a codec, or [`raw`](Framing::raw).
#[derive(Clone, Default)]
pub struct Framing {
    codec: Option<Rc<dyn Encode>>,
    longest: usize,
    overhead: usize,
}

impl Framing {
    /// No framing: bytes are sent unchanged.
    pub const fn raw() -> Self {
        Self { codec: None, longest: 0, overhead: 0 }
    }

    /// The framing of `codec`.
    pub fn of<C: Codec>(codec: Rc<C>) -> Self {
        Self { longest: codec.max_message(), overhead: codec.max_overhead(), codec: Some(codec) }
    }

    /// A framing without a codec, of messages of at most `longest` bytes with at most `overhead` bytes added.
    pub(crate) fn with(encoder: Rc<dyn Encode>, longest: usize, overhead: usize) -> Self {
        Self { codec: Some(encoder), longest, overhead }
    }

    /// Returns whether bytes are sent unchanged.
    #[inline]
    pub const fn is_raw(&self) -> bool {
        self.codec.is_none()
    }

    /// Returns the maximum length of a message and the maximum overhead; `None` for raw.
    pub(crate) fn bounds(&self) -> Option<(usize, usize)> {
        self.codec.as_ref().map(|_| (self.longest, self.overhead))
    }

    /// Returns the maximum encoded length of `len` bytes. Used to reserve capacity.
    #[inline]
    pub(crate) const fn encoded_len(&self, len: usize) -> usize {
        len.saturating_add(self.overhead)
    }

    /// Appends `message` to `out` in this framing. Catches the panic of a user's codec: it would otherwise end whoever
    /// sends, and not the connection that has the codec.
    pub(crate) fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), NotEncoded> {
        let Some(codec) = &self.codec else {
            out.extend_from_slice(message);
            return Ok(());
        };
        let mut undo = Undo { length: out.len(), out };
        match catch_unwind(AssertUnwindSafe(|| codec.encode(message, undo.out))) {
            Ok(Ok(())) => undo.length = undo.out.len(),
            Ok(Err(_)) => return Err(NotEncoded::Refused),
            Err(panic) => return Err(NotEncoded::Panicked(panic)),
        }
        Ok(())
    }
}

/// The payload of a panic.
pub(crate) type Panic = Box<dyn Any + Send>;

/// Why a message was not encoded.
pub(crate) enum NotEncoded {
    /// The framing cannot carry it.
    Refused,
    /// The codec panicked.
    Panicked(Panic),
}

impl fmt::Debug for Framing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_raw() { "Framing(raw)" } else { "Framing(codec)" })
    }
}

/// Truncates the buffer to `length` when dropped, so that it is restored even if the codec panics.
struct Undo<'a> {
    out: &'a mut Vec<u8>,
    length: usize,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        self.out.truncate(self.length);
    }
}

/// The part of [`Codec`] that needs no per-connection state, so that it can be a trait object.
pub(crate) trait Encode {
    fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError>;
}

impl<C: Codec> Encode for C {
    fn encode(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        Codec::encode(self, message, out)
    }
}
