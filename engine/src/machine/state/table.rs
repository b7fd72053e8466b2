//! Tables that never stop the shard to grow: entries lie in chunks of fixed size, and the index over them is many small
//! hash tables, each of which grows alone. (One hash table of a million entries stands still for about 0.1 s when it
//! doubles, one of ten million for 0.75 s; that was the whole tail latency of a prototype.)

use std::hash::{BuildHasher, Hash};

use hashbrown::HashTable;

/// Entries per chunk of a [`Slab`].
const CHUNK: usize = 4096;

/// Small hash tables under one index. At ten million entries each has about 2,400 of 8 bytes.
const TABLES: usize = 4096;

const _: () = assert!(TABLES.is_power_of_two() && CHUNK.is_power_of_two());

/// A list that never moves more than a chunk to grow.
#[derive(Debug, Clone)]
pub struct Chunked<T> {
    /// All full but the last, none empty.
    chunks: Vec<Vec<T>>,
}

impl<T> Default for Chunked<T> {
    fn default() -> Self {
        Self { chunks: Vec::new() }
    }
}

impl<T> Chunked<T> {
    pub fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub fn get(&self, index: u32) -> Option<&T> {
        let (chunk, index) = split(index);
        self.chunks.get(chunk)?.get(index)
    }

    /// Adds an entry and gives its index.
    ///
    /// # Panics
    /// At 2^32 entries, as a [`Slab`] does.
    pub fn push(&mut self, entry: T) -> u32 {
        let index = u32::try_from(self.len()).expect("fewer than 2^32 entries");
        match self.chunks.last_mut().filter(|last| last.len() < CHUNK) {
            Some(last) => last.push(entry),
            None => self.chunks.push(vec![entry]),
        }
        index
    }

    /// Takes an entry out; the last one gets its index.
    pub fn swap_remove(&mut self, index: u32) {
        let Some(last) = self.chunks.last_mut().and_then(Vec::pop) else { return };
        self.chunks.pop_if(|last| last.is_empty());
        let (chunk, index) = split(index);
        if let Some(entry) = self.chunks.get_mut(chunk).and_then(|chunk| chunk.get_mut(index)) {
            *entry = last;
        }
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.chunks.iter().flatten()
    }
}

/// How much a table makes room for when it is made. Both can grow without bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// For a shard: growth never stops it.
    Shard,
    /// For a few entries: it costs next to nothing to make. For tests and simulations, which make thousands.
    #[cfg(any(test, feature = "testing"))]
    Few,
}

/// Numbered slots for entries. A slot that becomes free is used again.
#[derive(Debug, Clone)]
pub struct Slab<T> {
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
    len: usize,
    room: Room,
}

impl<T> Slab<T> {
    pub fn new(room: Room) -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), len: 0, room }
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// One above the highest slot that was ever used.
    pub fn slots(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    /// Puts an entry into a free slot.
    ///
    /// # Panics
    /// At 2^32 entries, which is beyond the memory of the machines that this runs on.
    pub fn insert(&mut self, entry: T) -> u32 {
        self.len += 1;
        if let Some(slot) = self.free.pop() {
            let (chunk, index) = split(slot);
            self.chunks[chunk][index] = Some(entry);
            return slot;
        }
        if self.chunks.last().is_none_or(|last| last.len() == CHUNK) {
            self.chunks.push(match self.room {
                Room::Shard => Vec::with_capacity(CHUNK),
                #[cfg(any(test, feature = "testing"))]
                Room::Few => Vec::new(),
            });
        }
        let slot = u32::try_from(self.slots()).expect("fewer than 2^32 entries");
        let (chunk, _) = split(slot);
        self.chunks[chunk].push(Some(entry));
        slot
    }

    pub fn get(&self, slot: u32) -> Option<&T> {
        let (chunk, index) = split(slot);
        self.chunks.get(chunk)?.get(index)?.as_ref()
    }

    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        let (chunk, index) = split(slot);
        self.chunks.get_mut(chunk)?.get_mut(index)?.as_mut()
    }

    pub fn remove(&mut self, slot: u32) -> Option<T> {
        let (chunk, index) = split(slot);
        let entry = self.chunks.get_mut(chunk)?.get_mut(index)?.take()?;
        self.free.push(slot);
        self.len -= 1;
        Some(entry)
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten().flatten()
    }

    /// The entries with their slots.
    pub fn slots_and_entries(&self) -> impl Iterator<Item = (u32, &T)> {
        let entries = self.chunks.iter().flatten().zip(0_u32..);
        entries.filter_map(|(entry, slot)| Some((slot, entry.as_ref()?)))
    }
}

/// The chunk of a slot and the index in it.
fn split(slot: u32) -> (usize, usize) {
    let slot = slot as usize;
    (slot / CHUNK, slot % CHUNK)
}

/// An entry that knows its own key.
pub trait Keyed {
    /// What it is found by.
    type Key: Hash + Eq + ?Sized;

    /// Its key; never changes while it lies in a table.
    fn key(&self) -> &Self::Key;
}

/// A [`Slab`] whose entries can be found by their key.
#[derive(Debug, Clone)]
pub struct Table<T> {
    slab: Slab<T>,
    /// (32 bits of the key's hash, slot): enough to grow without looking at the entries. Their number is a power of
    /// two.
    index: Vec<HashTable<(u32, u32)>>,
    hasher: foldhash::fast::RandomState,
}

impl<T: Keyed> Table<T> {
    pub fn new(room: Room) -> Self {
        let tables = if room == Room::Shard { TABLES } else { 1 };
        let index = (0..tables).map(|_| HashTable::new()).collect();
        Self { slab: Slab::new(room), index, hasher: foldhash::fast::RandomState::default() }
    }

    /// The slot of the entry with this key.
    pub fn find(&self, key: &T::Key) -> Option<u32> {
        let (table, hash) = self.hash(key);
        let is_it =
            |&(h, slot): &(u32, u32)| h == hash && self.slab.get(slot).is_some_and(|e| e.key() == key);
        self.index[table].find(spread(hash), is_it).map(|&(_, slot)| slot)
    }

    /// The entry with this key.
    pub fn by_key(&self, key: &T::Key) -> Option<&T> {
        self.find(key).and_then(|slot| self.slab.get(slot))
    }

    /// Adds an entry whose key is not there yet (the caller has looked).
    pub fn insert(&mut self, entry: T) -> u32 {
        let (table, hash) = self.hash(entry.key());
        let slot = self.slab.insert(entry);
        self.index[table].insert_unique(spread(hash), (hash, slot), |&(h, _)| spread(h));
        slot
    }

    /// Takes an entry out.
    pub fn remove(&mut self, slot: u32) -> Option<T> {
        let entry = self.slab.remove(slot)?;
        let (table, hash) = self.hash(entry.key());
        if let Ok(found) = self.index[table].find_entry(spread(hash), |&(_, p)| p == slot) {
            found.remove();
        }
        Some(entry)
    }

    pub fn get(&self, slot: u32) -> Option<&T> {
        self.slab.get(slot)
    }

    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slab.get_mut(slot)
    }

    pub fn len(&self) -> usize {
        self.slab.len()
    }

    pub fn slots(&self) -> usize {
        self.slab.slots()
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slab.iter()
    }

    /// The entries with their slots.
    pub fn slots_and_entries(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slab.slots_and_entries()
    }

    /// The small table for a key, and 32 other bits of its hash.
    fn hash(&self, key: &T::Key) -> (usize, u32) {
        let hash = self.hasher.hash_one(key);
        #[expect(clippy::cast_possible_truncation, reason = "the halves of a hash")]
        let (high, low) = ((hash >> 32) as u32, hash as u32);
        (high as usize & (self.index.len() - 1), low)
    }
}

/// 32 bits of hash spread over the 64 that the small tables look at (Fibonacci hashing).
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    struct Entry(u16, u32);

    impl Keyed for Entry {
        type Key = u16;
        fn key(&self) -> &u16 {
            &self.0
        }
    }

    #[test]
    fn a_chunked_list_is_a_list() {
        let mut list = Chunked::default();
        let mut model = Vec::new();
        for entry in 0..2 * CHUNK + 3 {
            assert_eq!(list.push(entry) as usize, model.len());
            model.push(entry);
        }
        for step in 0..model.len() {
            // From the front, from the end, and from between.
            let index = [0, model.len() - 1, model.len() / 2][step % 3];
            list.swap_remove(u32::try_from(index).unwrap());
            model.swap_remove(index);
            assert_eq!((list.len(), list.is_empty()), (model.len(), model.is_empty()));
            assert_eq!(list.get(u32::try_from(index).unwrap()), model.get(index));
            if step % 512 == 0 {
                assert!(list.iter().eq(&model) && list.iter().rev().eq(model.iter().rev()));
            }
        }
    }

    proptest! {
        #[test]
        fn a_table_is_a_map(few: bool, steps in prop::collection::vec((any::<bool>(), 0_u16..300, any::<u32>()), 0..2000)) {
            let mut table = Table::<Entry>::new(if few { Room::Few } else { Room::Shard });
            let mut model = HashMap::new();
            for (put, key, value) in steps {
                match (put, table.find(&key)) {
                    (true, None) => {
                        table.insert(Entry(key, value));
                        model.insert(key, value);
                    }
                    (false, Some(slot)) => {
                        prop_assert_eq!(table.remove(slot).map(|e| e.1), model.remove(&key));
                    }
                    _ => {}
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.by_key(&key).map(|e| e.1), model.get(&key).copied());
            }
            prop_assert_eq!(table.iter().count(), model.len());
            let by_place = |(slot, entry): (u32, &Entry)| table.get(slot).is_some_and(|e| e.0 == entry.0);
            prop_assert!(table.slots_and_entries().all(by_place));
        }
    }
}
