//! Names that cannot come to mean something else: a slot and how often it has been used before.
//!
//! Knows nothing of what is in the slots. Invariant: two things that were ever alive at different times in one slot
//! have different generations (until the generation has gone once round, after 4 294 967 296 uses of that very slot),
//! and no connection has the token of a listener.

use std::fmt;

/// Names one connection for ever: the slot it is in, and the slot's generation. When the connection has ended, its id
/// names nothing. It means something only to the reactor it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}.{}", self.slot, self.generation)
    }
}

/// Names one listening socket for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl fmt::Display for ListenerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listener #{}.{}", self.slot, self.generation)
    }
}

/// Names one group of connections for ever. Like a [`ConnId`], it means something only to the reactor it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group #{}.{}", self.slot, self.generation)
    }
}

/// What a readiness token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Connection(ConnId),
    Listener(ListenerId),
}

// A token is a slot, one bit that tells listeners from connections, and as many bits of generation as there is room
// for.
const SLOT_BITS: u32 = if usize::BITS >= 64 { 31 } else { 19 };
const LISTENER: usize = 1 << SLOT_BITS;
const GENERATION_SHIFT: u32 = SLOT_BITS + 1;

/// How many slots can be told apart.
pub(crate) const MAX_SLOTS: usize = (1 << SLOT_BITS) - 1;

/// The generations that fit in a token.
pub(crate) const GENERATION_MASK: u32 =
    if usize::BITS >= 64 { u32::MAX } else { (1 << (usize::BITS - GENERATION_SHIFT)) - 1 };

impl Token {
    pub(crate) const fn pack(self) -> usize {
        let (slot, generation, kind) = match self {
            Self::Connection(id) => (id.slot, id.generation, 0),
            Self::Listener(id) => (id.slot, id.generation, LISTENER),
        };
        ((generation & GENERATION_MASK) as usize) << GENERATION_SHIFT | kind | (slot as usize & MAX_SLOTS)
    }

    pub(crate) const fn unpack(token: usize) -> Self {
        let slot = (token & MAX_SLOTS) as u32;
        let generation = (token >> GENERATION_SHIFT) as u32;
        if token & LISTENER == 0 {
            Self::Connection(ConnId { slot, generation })
        } else {
            Self::Listener(ListenerId { slot, generation })
        }
    }
}

/// The generation that each slot's next user gets.
#[derive(Debug)]
pub(crate) struct Generations {
    next: Vec<u32>,
    mask: u32,
}

impl Generations {
    pub(crate) const fn new() -> Self {
        Self::masked(GENERATION_MASK)
    }

    /// Generations that wrap early, to test what a wrap does.
    pub(crate) const fn masked(mask: u32) -> Self {
        Self { next: Vec::new(), mask: mask & GENERATION_MASK }
    }

    pub(crate) fn next(&mut self, slot: usize) -> u32 {
        if slot >= self.next.len() {
            self.next.resize(slot + 1, 0);
        }
        let generation = self.next[slot];
        self.next[slot] = generation.wrapping_add(1) & self.mask;
        generation
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::property_tests::hold;

    #[test]
    fn tokens_come_back_as_they_were() {
        let slots = MAX_SLOTS as u32;
        let slot = prop_oneof![0..slots, 0..4u32, slots - 4..slots];
        let generation = prop_oneof![0..=GENERATION_MASK, 0..4u32, GENERATION_MASK - 3..=GENERATION_MASK];
        hold(2_000, (slot, generation), |(slot, generation)| {
            let connection = Token::Connection(ConnId { slot, generation });
            let listener = Token::Listener(ListenerId { slot, generation });
            assert_eq!(Token::unpack(connection.pack()), connection);
            assert_eq!(Token::unpack(listener.pack()), listener);
            for token in [connection.pack(), listener.pack()] {
                assert_ne!(token, usize::MAX, "the waker's token");
            }
        });
    }

    #[test]
    fn generations_go_round_only_when_all_are_used() {
        let mut g = Generations::masked(3);
        assert_eq!((0..5).map(|_| g.next(2)).collect::<Vec<_>>(), [0, 1, 2, 3, 0]);
        assert_eq!(g.next(0), 0, "another slot has its own");
    }
}
