//! Names that cannot come to mean something else: a slot and how often it has been used before.
//!
//! Knows nothing of what is in the slots. Invariant: two things that were ever alive at different times in one slot
//! have different generations (until the generation has gone once round, after 4 294 967 296 uses of that very slot),
//! and no two kinds of things have the same token.

use std::fmt;
use std::marker::PhantomData;

/// Defines the ids.
macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident $what:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            pub(crate) slot: u32,
            pub(crate) generation: u32,
        }

        impl $name {
            /// The id as a number: to be a tag, say, or to go through another language.
            pub const fn to_bits(self) -> u64 {
                (self.generation as u64) << 32 | self.slot as u64
            }

            /// The id that [`to_bits`](Self::to_bits) gave.
            pub const fn from_bits(bits: u64) -> Self {
                Self { slot: bits as u32, generation: (bits >> 32) as u32 }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($what, "#{}.{}"), self.slot, self.generation)
            }
        }
    )*};
}

ids! {
    /// Names one connection for ever: the slot it is in, and the slot's generation. When the connection has ended, its
    /// id names nothing. It means something only to the reactor it came from.
    ConnId "";
    /// Names one listening socket for ever. Like a [`ConnId`], it means something only to the reactor it came from.
    ListenerId "listener ";
    /// Names one group of connections for ever. Like a [`ConnId`], it means something only to the reactor it came from.
    Group "group ";
    /// Names one timer until it has gone off for the last time, or was cancelled, or its connection has ended. Like a
    /// [`ConnId`], it means something only to the reactor it came from.
    TimerId "timer ";
    /// Names one attempt to connect, until it has failed for good, or the connection it led to has ended. Like a
    /// [`ConnId`], it means something only to the reactor it came from.
    AttemptId "attempt ";
    /// Names one datagram socket for ever. Like a [`ConnId`], it means something only to the reactor it came from.
    DatagramId "datagram socket ";
    /// Names one registered source for ever. Like a [`ConnId`], it means something only to the reactor it came from.
    SourceId "source ";
}

/// A handler's index among those that are registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HandlerIdx(pub(crate) u32);

impl HandlerIdx {
    /// The same as a slot.
    #[inline]
    pub(crate) const fn slot(self) -> usize {
        self.0 as usize
    }
}

/// A handler added to a reactor: what it can be reached by, and put behind listeners with.
#[derive(Debug)]
pub struct Key<H> {
    /// Whose key it is.
    reactor: u32,
    index: HandlerIdx,
    handler: PhantomData<fn() -> H>,
}

impl<H> Clone for Key<H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H> Copy for Key<H> {}

impl<H> Key<H> {
    pub(crate) const fn new(reactor: u32, index: HandlerIdx) -> Self {
        Self { reactor, index, handler: PhantomData }
    }

    /// Where its handler is in the reactor with this number; `None` if it is another's.
    pub(crate) fn index_in(self, reactor: u32) -> Option<HandlerIdx> {
        (self.reactor == reactor).then_some(self.index)
    }
}

/// What a readiness token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Connection(ConnId),
    Listener(ListenerId),
    Datagram(DatagramId),
    Source(SourceId),
}

// A token is a slot, two bits that tell what it is, and as many bits of generation as there is room for.
const SLOT_BITS: u32 = if usize::BITS >= 64 { 30 } else { 18 };
const KIND: usize = 0b11 << SLOT_BITS;
const GENERATION_SHIFT: u32 = SLOT_BITS + 2;

/// How many slots can be told apart.
pub(crate) const MAX_SLOTS: usize = (1 << SLOT_BITS) - 1;

/// The generations that fit in a token.
pub(crate) const GENERATION_MASK: u32 =
    if usize::BITS >= 64 { u32::MAX } else { (1 << (usize::BITS - GENERATION_SHIFT)) - 1 };

impl Token {
    pub(crate) const fn pack(self) -> usize {
        let (slot, generation, kind) = match self {
            Self::Connection(id) => (id.slot, id.generation, 0),
            Self::Listener(id) => (id.slot, id.generation, 1),
            Self::Datagram(id) => (id.slot, id.generation, 2),
            Self::Source(id) => (id.slot, id.generation, 3),
        };
        ((generation & GENERATION_MASK) as usize) << GENERATION_SHIFT
            | kind << SLOT_BITS
            | (slot as usize & MAX_SLOTS)
    }

    pub(crate) const fn unpack(token: usize) -> Self {
        let slot = (token & MAX_SLOTS) as u32;
        let generation = (token >> GENERATION_SHIFT) as u32;
        match (token & KIND) >> SLOT_BITS {
            0 => Self::Connection(ConnId { slot, generation }),
            1 => Self::Listener(ListenerId { slot, generation }),
            2 => Self::Datagram(DatagramId { slot, generation }),
            _ => Self::Source(SourceId { slot, generation }),
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
    use crate::testing::property_tests::hold;

    #[test]
    fn tokens_come_back_as_they_were() {
        let slots = MAX_SLOTS as u32;
        let slot = prop_oneof![0..slots, 0..4u32, slots - 4..slots];
        let generation = prop_oneof![0..=GENERATION_MASK, 0..4u32, GENERATION_MASK - 3..=GENERATION_MASK];
        hold(2_000, (slot, generation), |(slot, generation)| {
            let tokens = [
                Token::Connection(ConnId { slot, generation }),
                Token::Listener(ListenerId { slot, generation }),
                Token::Datagram(DatagramId { slot, generation }),
                Token::Source(SourceId { slot, generation }),
            ];
            for token in tokens {
                assert_eq!(Token::unpack(token.pack()), token);
                assert_ne!(token.pack(), usize::MAX, "the waker's token");
            }
            let id = ConnId { slot, generation };
            assert_eq!(ConnId::from_bits(id.to_bits()), id);
        });
    }

    #[test]
    fn generations_go_round_only_when_all_are_used() {
        let mut g = Generations::masked(3);
        assert_eq!((0..5).map(|_| g.next(2)).collect::<Vec<_>>(), [0, 1, 2, 3, 0]);
        assert_eq!(g.next(0), 0, "another slot has its own");
    }
}
