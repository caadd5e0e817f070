//! What codecs remember about one connection between two looks at its bytes, and the digits they share.
//!
//! It knows no framing; each codec gives the two fields their exact meaning.
//!
//! Invariant: `from` is a promise that the bytes before it need no second look, so work stays linear in the input
//! even when it arrives one byte at a time. Any change of what is at the front of the data resets it.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

/// What the codecs of this crate remember about one connection: how far they have looked, and whether they are
/// throwing away a message that is too long. Start a connection with `Scan::default()`; there is nothing to set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// How many bytes at the front need no second look: those already searched or, once a header has announced a
    /// length, those that must have arrived before another look is of use.
    pub(super) from: usize,
    /// Whether the bytes at the front belong to a message that is being thrown away.
    pub(super) discarding: bool,
}

/// The decimal digits of a number, on the stack.
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
