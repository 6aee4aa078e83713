//! Slots with generations.
//!
//! [`GenSlab`] mints the keys of what it stores; [`IdTable`] follows keys that somebody else mints
//! (the host's connections, the gateway's points). In both, a stale key is a miss, never another
//! tenant.

use core::fmt;
use core::marker::PhantomData;

use slab::Slab;

/// An id made of a slot and a generation; see [`crate::id`].
pub trait Key: Copy + Ord + fmt::Debug {
    /// Puts a key together.
    fn from_parts(slot: u32, generation: u32) -> Self;
    /// The index.
    fn slot(self) -> u32;
    /// How many tenants the slot had before.
    fn generation(self) -> u32;
}

/// A slab whose keys go stale when their entry is removed.
#[derive(Debug, Clone)]
pub struct GenSlab<K, T> {
    entries: Slab<T>,
    /// Invariant: as long as `entries` ever was; the generation of the present or next tenant of
    /// each slot.
    generations: Vec<u32>,
    key: PhantomData<K>,
}

impl<K: Key, T> GenSlab<K, T> {
    /// Empty.
    pub fn new() -> Self {
        Self {
            entries: Slab::new(),
            generations: Vec::new(),
            key: PhantomData,
        }
    }

    /// Stores `value` and mints its key.
    pub fn insert(&mut self, value: T) -> K {
        let slot = self.entries.insert(value);
        if slot == self.generations.len() {
            self.generations.push(0);
        }
        self.key_at(slot)
    }

    /// The key that the next [`GenSlab::insert`] will mint: for values that must know their own.
    pub fn vacant_key(&self) -> K {
        let slot = self.entries.vacant_key();
        let generation = self.generations.get(slot).copied().unwrap_or(0);
        K::from_parts(slot_u32(slot), generation)
    }

    /// Takes an entry out; its key, and every copy of it, is stale from here on.
    pub fn remove(&mut self, key: K) -> Option<T> {
        if !self.contains(key) {
            return None;
        }
        let slot = key.slot() as usize;
        // Wrapping is sound in practice: 2³² tenants of one slot while a key is held.
        self.generations[slot] = self.generations[slot].wrapping_add(1);
        Some(self.entries.remove(slot))
    }

    /// The entry, unless the key is stale.
    pub fn get(&self, key: K) -> Option<&T> {
        if self.contains(key) {
            self.entries.get(key.slot() as usize)
        } else {
            None
        }
    }

    /// The entry, unless the key is stale.
    pub fn get_mut(&mut self, key: K) -> Option<&mut T> {
        if self.contains(key) {
            self.entries.get_mut(key.slot() as usize)
        } else {
            None
        }
    }

    /// Whether the key still names an entry.
    pub fn contains(&self, key: K) -> bool {
        let slot = key.slot() as usize;
        self.entries.contains(slot) && self.generations.get(slot) == Some(&key.generation())
    }

    /// The key of a slot's present tenant: for those who can carry only the slot, as a poll's token
    /// does.
    pub fn key_at_slot(&self, slot: u32) -> Option<K> {
        let slot = slot as usize;
        self.entries.contains(slot).then(|| self.key_at(slot))
    }

    /// Entries in order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = (K, &T)> {
        self.entries
            .iter()
            .map(|(slot, value)| (self.key_at(slot), value))
    }

    /// Entries in order of their slots.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (K, &mut T)> {
        let generations = &self.generations;
        self.entries
            .iter_mut()
            .map(|(slot, value)| (K::from_parts(slot_u32(slot), generations[slot]), value))
    }

    /// Keys in order of their slots, detached from the slab so that entries may be removed on the
    /// way.
    pub fn keys(&self) -> Vec<K> {
        self.iter().map(|(key, _)| key).collect()
    }

    /// Entries held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn key_at(&self, slot: usize) -> K {
        K::from_parts(slot_u32(slot), self.generations[slot])
    }
}

impl<K: Key, T> Default for GenSlab<K, T> {
    fn default() -> Self {
        Self::new()
    }
}

/// A table beside a [`GenSlab`]: it stores values under keys that were minted elsewhere.
///
/// Slots are dense, so this is a vector; a key of a later generation evicts nothing by itself, the
/// owner removes first.
#[derive(Debug, Clone)]
pub struct IdTable<K, T> {
    slots: Vec<Option<(u32, T)>>,
    len: usize,
    key: PhantomData<K>,
}

impl<K: Key, T> IdTable<K, T> {
    /// Empty.
    pub fn new() -> Self {
        Self {
            slots: Vec::new(),
            len: 0,
            key: PhantomData,
        }
    }

    /// Stores `value` under `key` and gives back what lay in that slot, whatever its generation.
    pub fn insert(&mut self, key: K, value: T) -> Option<T> {
        let slot = key.slot() as usize;
        if slot >= self.slots.len() {
            self.slots.resize_with(slot + 1, || None);
        }
        let before = self.slots[slot].replace((key.generation(), value));
        self.len += usize::from(before.is_none());
        before.map(|(_, value)| value)
    }

    /// Takes the value out, unless the key is stale.
    pub fn remove(&mut self, key: K) -> Option<T> {
        let entry = self.slots.get_mut(key.slot() as usize)?;
        if entry
            .as_ref()
            .is_none_or(|(generation, _)| *generation != key.generation())
        {
            return None;
        }
        self.len -= 1;
        entry.take().map(|(_, value)| value)
    }

    /// The value, unless the key is stale.
    pub fn get(&self, key: K) -> Option<&T> {
        match self.slots.get(key.slot() as usize)? {
            Some((generation, value)) if *generation == key.generation() => Some(value),
            _ => None,
        }
    }

    /// The value, unless the key is stale.
    pub fn get_mut(&mut self, key: K) -> Option<&mut T> {
        match self.slots.get_mut(key.slot() as usize)? {
            Some((generation, value)) if *generation == key.generation() => Some(value),
            _ => None,
        }
    }

    /// Whether the key still names a value.
    pub fn contains(&self, key: K) -> bool {
        self.get(key).is_some()
    }

    /// The key of a slot's present tenant; see [`GenSlab::key_at_slot`].
    pub fn key_at_slot(&self, slot: u32) -> Option<K> {
        let (generation, _) = self.slots.get(slot as usize)?.as_ref()?;
        Some(K::from_parts(slot, *generation))
    }

    /// Values in order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = (K, &T)> {
        self.slots.iter().enumerate().filter_map(|(slot, entry)| {
            entry
                .as_ref()
                .map(|(generation, value)| (K::from_parts(slot_u32(slot), *generation), value))
        })
    }

    /// Values in order of their slots.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (K, &mut T)> {
        self.slots
            .iter_mut()
            .enumerate()
            .filter_map(|(slot, entry)| {
                entry
                    .as_mut()
                    .map(|(generation, value)| (K::from_parts(slot_u32(slot), *generation), value))
            })
    }

    /// Keys in order of their slots, detached from the table.
    pub fn keys(&self) -> Vec<K> {
        self.iter().map(|(key, _)| key).collect()
    }

    /// Values held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<K: Key, T> Default for IdTable<K, T> {
    fn default() -> Self {
        Self::new()
    }
}

fn slot_u32(slot: usize) -> u32 {
    u32::try_from(slot).expect("every table is limited to far fewer than 2³² slots")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::id::SessionId;

    #[test]
    fn a_stale_key_misses_the_next_tenant() {
        let mut slab = GenSlab::<SessionId, &str>::new();
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_eq!(first.slot(), second.slot());
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"second"));
        assert_eq!(slab.key_at_slot(second.slot()), Some(second));
        assert_eq!(slab.key_at_slot(1), None);
        let mut table = IdTable::new();
        table.insert(second, ());
        assert_eq!(table.key_at_slot(second.slot()), Some(second));
        assert_eq!(table.key_at_slot(7), None);
    }

    proptest! {
        #[test]
        fn behaves_like_a_map_with_keys_that_never_return(
            steps in proptest::collection::vec((any::<bool>(), any::<u8>()), 0..200)
        ) {
            let mut slab = GenSlab::<SessionId, u8>::new();
            let mut table = IdTable::<SessionId, u8>::new();
            let mut model = BTreeMap::new();
            let mut minted = Vec::new();
            for (insert, value) in steps {
                if insert || minted.is_empty() {
                    let announced = slab.vacant_key();
                    let key = slab.insert(value);
                    prop_assert_eq!(announced, key);
                    prop_assert!(!minted.contains(&key), "a key came back");
                    prop_assert_eq!(table.insert(key, value), None);
                    minted.push(key);
                    model.insert(key, value);
                } else {
                    let key = minted[usize::from(value) % minted.len()];
                    let expected = model.remove(&key);
                    prop_assert_eq!(slab.remove(key), expected);
                    prop_assert_eq!(table.remove(key), expected);
                }
                for key in &minted {
                    prop_assert_eq!(slab.get(*key), model.get(key));
                    prop_assert_eq!(table.get(*key), model.get(key));
                }
                prop_assert_eq!(slab.len(), model.len());
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.keys(), slab.keys());
            }
        }
    }
}
