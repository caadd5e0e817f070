//! Generational ids: a slot index plus a reuse counter, and the slab that issues them.
//!
//! A slot is reused after its value was removed; its generation is not. So an event or a command that arrives late
//! with a stale id finds nothing, instead of the next user of the slot.
//!
//! Invariant: two values that used one slot at different times have different generations, until the generation of
//! that slot wraps (after 4 294 967 296 uses; 4 096 on targets with 32-bit pointers). Ids of different kinds have
//! different tokens.

use std::fmt;
use std::marker::PhantomData;

use slab::Slab;

/// Defines the id types: all have the same fields and methods, but one cannot be used in place of another.
macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident $what:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            pub(crate) slot: u32,
            pub(crate) generation: u32,
        }

        impl $name {
            /// Returns the id as a number, for example for a tag or to pass it through another language.
            pub const fn to_bits(self) -> u64 {
                (self.generation as u64) << 32 | self.slot as u64
            }

            /// Returns the id from which [`to_bits`](Self::to_bits) made this number.
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
    /// Identifies one connection: its slot, and the slot's generation. Never reused: once the connection has ended, its
    /// id refers to nothing. Valid only for the reactor that issued it. Written as `#3.1`: slot 3, generation 1 (both
    /// count from 0).
    ConnId "";
    /// Identifies one listener. Never reused. Like a [`ConnId`], valid only for the reactor that issued it.
    ListenerId "listener ";
    /// Identifies one group of connections. Never reused. Like a [`ConnId`], valid only for the reactor that issued it.
    Group "group ";
    /// Identifies one timer, until it has fired for the last time, is cancelled, or its connection ends. Like a
    /// [`ConnId`], valid only for the reactor that issued it.
    TimerId "timer ";
    /// Identifies one attempt to connect, until it has finally failed, or the connection it established has ended. Like
    /// a [`ConnId`], valid only for the reactor that issued it.
    AttemptId "attempt ";
    /// Identifies one datagram socket. Never reused. Like a [`ConnId`], valid only for the reactor that issued it.
    DatagramId "datagram socket ";
    /// Identifies one registered source. Never reused. Like a [`ConnId`], valid only for the reactor that issued it.
    SourceId "source ";
}

/// The index of a handler among the registered ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HandlerIdx(pub(crate) u32);

impl HandlerIdx {
    /// Returns the index as a slot, for tables with one entry per handler.
    #[inline]
    pub(crate) const fn slot(self) -> usize {
        self.0 as usize
    }
}

/// Refers to a handler that was added to a reactor. Used to listen, connect and send commands to it.
#[derive(Debug)]
pub struct Key<H> {
    /// The number of the reactor that issued the key.
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

    /// Returns the handler's index in the reactor with this number, or `None` if another reactor issued the key.
    pub(crate) fn index_in(self, reactor: u32) -> Option<HandlerIdx> {
        (self.reactor == reactor).then_some(self.index)
    }
}

/// The object that a readiness token refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Connection(ConnId),
    Listener(ListenerId),
    Datagram(DatagramId),
    Source(SourceId),
}

// A token is the one `usize` that the system returns with an event. From the low bits up: the slot, two bits for the
// kind, and the generation in the rest. With 64 bits that is 30 + 2 + 32: a whole generation, and more slots than there
// are descriptors. With 32 bits it is 18 + 2 + 12: about 262 000 slots, and generations of 12 bits.
const SLOT_BITS: u32 = if usize::BITS >= 64 { 30 } else { 18 };
const KIND: usize = 0b11 << SLOT_BITS;
const GENERATION_SHIFT: u32 = SLOT_BITS + 2;

/// The number of slots that fit in a token. The slot with all bits set is left out, so that no token is `usize::MAX`,
/// which is the waker's.
pub(crate) const MAX_SLOTS: usize = (1 << SLOT_BITS) - 1;

/// The bits of a generation that fit in a token. Generations are masked when they are issued, so that an id and the one
/// unpacked from its token are equal.
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
        ((generation & GENERATION_MASK) as usize) << GENERATION_SHIFT | kind << SLOT_BITS | (slot as usize & MAX_SLOTS)
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

/// An id made of a slot and its generation.
pub(crate) trait SlotId: Copy + PartialEq + fmt::Debug {
    fn new(slot: u32, generation: u32) -> Self;
    fn slot(self) -> usize;
}

/// A value that stores its own id, so that the slab need not store it a second time.
pub(crate) trait HasId {
    type Id: SlotId;
    fn id(&self) -> Self::Id;
}

/// A slab with generational ids: the id of a removed value finds nothing, even after its slot was reused.
#[derive(Debug)]
pub(crate) struct GenSlab<T> {
    slots: Slab<T>,
    generations: Generations,
}

impl<T: HasId> GenSlab<T> {
    pub(crate) const fn new() -> Self {
        Self::with_generations(Generations::new())
    }

    /// Creates a slab that issues these generations, which may wrap early for tests.
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

    /// Stores the value that `make` builds for the new id. Returns `None` if no more slots fit in a [`Token`].
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(T::Id) -> T) -> Option<T::Id> {
        let entry = self.slots.vacant_entry();
        let slot = entry.key();
        if slot >= MAX_SLOTS {
            return None;
        }
        let id = T::Id::new(slot as u32, self.generations.next(slot));
        let value = make(id);
        debug_assert!(value.id() == id, "the value built for {id:?} has the id {:?}", value.id());
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

    /// Returns the value of an id that must exist: the caller has looked it up before, or it was just issued. A miss is
    /// a broken invariant and panics in builds with debug assertions.
    #[inline]
    #[track_caller]
    pub(crate) fn live(&self, id: T::Id) -> Option<&T> {
        let value = self.get(id);
        debug_assert!(value.is_some(), "stale id: {id:?}");
        value
    }

    /// Like [`live`](Self::live), mutably.
    #[inline]
    #[track_caller]
    pub(crate) fn live_mut(&mut self, id: T::Id) -> Option<&mut T> {
        let value = self.get_mut(id);
        debug_assert!(value.is_some(), "stale id: {id:?}");
        value
    }

    /// Returns the value that is in a slot now.
    #[inline]
    pub(crate) fn in_slot(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)
    }

    /// Returns the value that is in a slot now, mutably.
    #[inline]
    pub(crate) fn in_slot_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot as usize)
    }

    /// Returns the id of the value that is in a slot now.
    pub(crate) fn id_in_slot(&self, slot: u32) -> Option<T::Id> {
        self.in_slot(slot).map(T::id)
    }

    pub(crate) fn remove(&mut self, id: T::Id) -> Option<T> {
        // By id first: the slot may have another value by now.
        self.get(id)?;
        self.slots.try_remove(id.slot())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().map(|(_, value)| value)
    }

    /// Returns the ids of all values, in the order of their slots.
    pub(crate) fn ids(&self) -> impl Iterator<Item = T::Id> {
        self.iter().map(T::id)
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.slots.capacity()
    }
}

/// The next generation of each slot. Kept apart from the values, because it outlives them.
#[derive(Debug)]
pub(crate) struct Generations {
    next: Vec<u32>,
    mask: u32,
}

impl Generations {
    pub(crate) const fn new() -> Self {
        Self::masked(GENERATION_MASK)
    }

    /// Creates generations that wrap early, to test the wrap.
    pub(crate) const fn masked(mask: u32) -> Self {
        Self { next: Vec::new(), mask: mask & GENERATION_MASK }
    }

    /// Returns the generation for the new user of a slot. The first one is 0.
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

    /// Checks each id against a model: it finds its own value while that exists, and then nothing, until its slot has
    /// had as many other users as there are generations.
    #[test]
    fn a_dead_id_names_nothing_until_generations_go_round() {
        let masks = prop::sample::select(vec![1, 3, 7, GENERATION_MASK]);
        // `None` inserts; `Some` removes one of the values that exist.
        let ops = prop::collection::vec(prop::option::of(0..100usize), 0..60);
        hold(400, (masks, ops), |(mask, ops)| {
            let mut slab: GenSlab<Item> = GenSlab::with_generations(Generations::masked(mask));
            // Every id ever issued, how many users its slot had before it, and whether its value exists.
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
