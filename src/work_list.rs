//! A queue of ids that have work, without duplicates.
//!
//! The flag that makes a duplicate check O(1) is stored in the item that the id refers to. Invariant: an id is in the
//! list exactly while the flag of its item is set. The list sets the flag; the code that takes an id out clears it.

use std::collections::VecDeque;

/// Ids with work, first in, first out.
#[derive(Debug)]
pub(crate) struct WorkList<Id> {
    ids: VecDeque<Id>,
}

impl<Id: Copy + PartialEq> WorkList<Id> {
    pub(crate) const fn new() -> Self {
        Self { ids: VecDeque::new() }
    }

    /// Appends `id`, unless `listed`, the flag of its item, shows that it is in the list already.
    #[inline]
    pub(crate) fn push(&mut self, id: Id, listed: &mut bool) {
        if !std::mem::replace(listed, true) {
            self.ids.push_back(id);
        }
    }

    /// Takes the first id out. The caller clears the flag of its item.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Id> {
        self.ids.pop_front()
    }

    /// Takes all ids out. The caller clears the flags of their items.
    pub(crate) fn take(&mut self) -> VecDeque<Id> {
        std::mem::take(&mut self.ids)
    }

    /// Returns the id at a position, for a loop during which the list may grow.
    pub(crate) fn get(&self, position: usize) -> Option<Id> {
        self.ids.get(position).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Id> {
        self.ids.iter().copied()
    }

    pub(crate) fn clear(&mut self) {
        self.ids.clear();
    }

    /// Removes the ids whose items were removed, all but those that `live` names. Takes time proportional to the length
    /// of the list.
    pub(crate) fn retain(&mut self, live: impl Fn(Id) -> bool) {
        self.ids.retain(|&id| live(id));
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_listed_once_until_it_is_taken() {
        let mut list = WorkList::new();
        let mut flags = [false; 3];
        for id in [2, 0, 2, 1, 0] {
            list.push(id, &mut flags[id]);
        }
        assert_eq!((list.len(), list.pop(), flags), (3, Some(2), [true; 3]));
        flags[2] = false;
        list.push(2, &mut flags[2]);
        list.retain(|id| id != 0);
        assert_eq!(list.take(), [1, 2]);
        assert!(list.is_empty());
    }
}
