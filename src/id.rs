//! Generational ids: a slot index plus a reuse counter, and the slab that issues them.
//!
//! Invariant: two values that used one slot at different times have different generations, until the generation of
//! that slot wraps (after 4 294 967 296 uses); no two kinds of ids have the same token.

use std::fmt;
use std::marker::PhantomData;

use slab::Slab;

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

        impl SlotId for $name {
            fn new(slot: u32, generation: u32) -> Self {
                Self { slot, generation }
            }

            #[inline]
            fn slot(self) -> usize {
                self.slot as usize
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

/// An id that names a slot and its generation.
pub(crate) trait SlotId: Copy + PartialEq + fmt::Debug {
    fn new(slot: u32, generation: u32) -> Self;
    fn slot(self) -> usize;
}

/// A value that knows its own id, so that a slab need not store it twice.
pub(crate) trait HasId {
    type Id: SlotId;
    fn id(&self) -> Self::Id;
}

/// A slab whose ids name one value each: the id of a removed value finds nothing, even when its slot is used again.
#[derive(Debug)]
pub(crate) struct GenSlab<T> {
    slots: Slab<T>,
    generations: Generations,
}

impl<T: HasId> GenSlab<T> {
    pub(crate) const fn new() -> Self {
        Self::with_generations(Generations::new())
    }

    /// A slab whose generations wrap early, for tests.
    pub(crate) const fn with_generations(generations: Generations) -> Self {
        Self { slots: Slab::new(), generations }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Stores what `make` builds for its id. Returns `None` when no more slots fit in a [`Token`].
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(T::Id) -> T) -> Option<T::Id> {
        let entry = self.slots.vacant_entry();
        let slot = entry.key();
        if slot >= MAX_SLOTS {
            return None;
        }
        let id = T::Id::new(slot as u32, self.generations.next(slot));
        let value = make(id);
        debug_assert!(value.id() == id, "{id:?} was given to a value that calls itself {:?}", value.id());
        entry.insert(value);
        Some(id)
    }

    #[inline]
    pub(crate) fn get(&self, id: T::Id) -> Option<&T> {
        self.slots.get(id.slot()).filter(|value| value.id() == id)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: T::Id) -> Option<&mut T> {
        self.slots.get_mut(id.slot()).filter(|value| value.id() == id)
    }

    /// The value of an id that the caller knows to be there: looked up before, or just issued. A miss is a broken
    /// invariant, and loud in builds with debug assertions.
    #[inline]
    #[track_caller]
    pub(crate) fn live(&self, id: T::Id) -> Option<&T> {
        let value = self.get(id);
        debug_assert!(value.is_some(), "{id:?} is gone");
        value
    }

    /// [`live`](Self::live), to change it.
    #[inline]
    #[track_caller]
    pub(crate) fn live_mut(&mut self, id: T::Id) -> Option<&mut T> {
        let value = self.get_mut(id);
        debug_assert!(value.is_some(), "{id:?} is gone");
        value
    }

    /// Whatever is in a slot now.
    #[inline]
    pub(crate) fn in_slot(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)
    }

    /// Whatever is in a slot now, to change it.
    #[inline]
    pub(crate) fn in_slot_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot as usize)
    }

    /// The id of whatever is in a slot now.
    pub(crate) fn id_in_slot(&self, slot: u32) -> Option<T::Id> {
        self.in_slot(slot).map(T::id)
    }

    pub(crate) fn remove(&mut self, id: T::Id) -> Option<T> {
        self.get(id)?;
        self.slots.try_remove(id.slot())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().map(|(_, value)| value)
    }

    /// The ids of all values, by slot.
    pub(crate) fn ids(&self) -> impl Iterator<Item = T::Id> {
        self.iter().map(T::id)
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.slots.capacity()
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

    struct Item {
        id: ConnId,
        number: u64,
    }

    impl HasId for Item {
        type Id = ConnId;

        fn id(&self) -> ConnId {
            self.id
        }
    }

    #[test]
    fn a_dead_id_never_names_another() {
        let mut slab = GenSlab::with_generations(Generations::new());
        let a = slab.insert_with(|id| Item { id, number: 0 }).unwrap();
        assert!(slab.remove(a).is_some());
        let b = slab.insert_with(|id| Item { id, number: 0 }).unwrap();
        assert_eq!(a.slot, b.slot);
        assert!(slab.get(a).is_none() && slab.get_mut(a).is_none() && slab.remove(a).is_none());
        assert!(slab.get(b).is_some());
        assert_eq!(slab.len(), 1);
    }

    /// Each id against when it was given: it names its own connection while that lives, and then nothing, until its
    /// slot has had as many other users as there are generations.
    #[test]
    fn a_dead_id_names_nothing_until_generations_go_round() {
        let masks = prop::sample::select(vec![1, 3, 7, GENERATION_MASK]);
        // Insert, or remove one of those that live.
        let ops = prop::collection::vec(prop::option::of(0..100usize), 0..60);
        hold(400, (masks, ops), |(mask, ops)| {
            let mut slab: GenSlab<Item> = GenSlab::with_generations(Generations::masked(mask));
            // Every id ever given, the number of its slot's use, and whether it lives.
            let mut given: Vec<(ConnId, u64, bool)> = Vec::new();
            for op in ops {
                let live: Vec<usize> = (0..given.len()).filter(|&i| given[i].2).collect();
                match op.and_then(|n| live.get(n % live.len().max(1))) {
                    Some(&i) => {
                        assert_eq!(slab.remove(given[i].0).unwrap().number, i as u64);
                        given[i].2 = false;
                    }
                    None => {
                        let number = given.len() as u64;
                        let id = slab.insert_with(|id| Item { id, number }).unwrap();
                        let uses = given.iter().filter(|(other, ..)| other.slot == id.slot).count();
                        given.push((id, uses as u64, true));
                    }
                }
                let live = given.iter().filter(|(.., live)| *live).count();
                assert_eq!((slab.len(), slab.iter().count()), (live, live));
                for &(id, number, lives) in &given {
                    let now = given.iter().position(|(other, _, live)| *live && other.slot == id.slot);
                    assert_eq!(slab.id_in_slot(id.slot), now.map(|i| given[i].0));
                    let round = now.filter(|&i| (given[i].1 - number).is_multiple_of(u64::from(mask) + 1));
                    assert!(!lives || now.is_some_and(|i| given[i].1 == number));
                    let found = slab.get(id).map(|c| c.number as usize);
                    assert_eq!(found, round, "{id} of {given:?}");
                    assert_eq!(slab.get_mut(id).map(|c| c.number as usize), round);
                }
            }
        });
    }
}
