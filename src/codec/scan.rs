//! The per-connection state of the built-in codecs, and decimal digits for their headers.
//!
//! Each codec documents the exact meaning of the two fields.
//!
//! Invariant: the bytes before `from` need not be inspected again, so the work is linear in the input even if it
//! arrives one byte at a time. Any change to what is at the front of the data resets it.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use super::Decoded;

/// The per-connection state of this crate's codecs: how far they have searched, and whether they are discarding an
/// over-long message. Start with `Scan::default()`; there is nothing to set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// How many bytes at the front need not be inspected again: those already searched or, once a header has announced
    /// a length, those that must arrive before the message is complete.
    pub(super) from: usize,
    /// Whether the bytes at the front belong to a message that is being discarded.
    pub(super) discarding: bool,
}

impl Scan {
    /// Returns the message from `start` to `end`, if `len` bytes have arrived at least up to there.
    #[inline]
    pub(super) const fn message(&mut self, len: usize, start: usize, end: usize) -> Decoded {
        if len < end {
            self.from = end;
            return Decoded::Incomplete;
        }
        self.from = 0;
        Decoded::Message { start, end, consumed: end }
    }
}

/// The decimal digits of a number, on the stack. 20 bytes hold every `u64`.
pub(super) struct Digits {
    buf: [u8; 20],
    start: usize,
}

impl Digits {
    #[expect(clippy::arithmetic_side_effects, reason = "a remainder of 10 is a digit")]
    pub(super) fn of(mut number: usize) -> Self {
        let mut digits = Self { buf: [b'0'; 20], start: 20 };
        for (i, digit) in digits.buf.iter_mut().enumerate().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
            digits.start = i;
            if number == 0 {
                break;
            }
        }
        digits
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.buf.get(self.start..).unwrap_or_default()
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_what_to_string_says() {
        for n in [0, 1, 9, 10, 99, 100, 12_345, usize::MAX - 1, usize::MAX] {
            assert_eq!(Digits::of(n).as_bytes(), n.to_string().as_bytes());
        }
    }

    #[test]
    fn a_connection_carries_little() {
        assert!(size_of::<Scan>() <= 16);
    }
}
