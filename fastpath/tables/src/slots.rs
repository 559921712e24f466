//! Slots: small integers that name an instance, a service or a peer, stable across snapshots, and the
//! copy-on-write containers that make publishing cheap.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

macro_rules! slot_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(u32);

        impl Slot for $name {
            fn from_index(index: u32) -> Self {
                Self(index)
            }
            fn index(self) -> u32 {
                self.0
            }
        }
    };
}

/// A small integer that names one row of a table.
pub trait Slot: Copy {
    fn from_index(index: u32) -> Self;
    fn index(self) -> u32;
}

slot_type! {
    /// Names one instance, local or remote.
    InstanceSlot
}
slot_type! {
    /// Names one service.
    ServiceSlot
}
slot_type! {
    /// Names one other node.
    PeerSlot
}

/// Rows of one chunk: a change copies this many.
const CHUNK_ROWS: usize = 64;

/// Rows by slot; a clone shares all chunks, a change copies one.
#[derive(Clone, Debug)]
pub(crate) struct Rows<T> {
    chunks: Vec<Arc<Vec<T>>>,
    len: u32,
    free: Arc<Vec<u32>>,
}

impl<T: Clone> Rows<T> {
    pub(crate) fn new() -> Self {
        Self {
            chunks: Vec::new(),
            len: 0,
            free: Arc::new(Vec::new()),
        }
    }

    #[inline]
    pub(crate) fn row(&self, index: u32) -> Option<&T> {
        self.chunks
            .get(index as usize / CHUNK_ROWS)?
            .get(index as usize % CHUNK_ROWS)
    }

    pub(crate) fn row_mut(&mut self, index: u32) -> Option<&mut T> {
        let chunk = self.chunks.get_mut(index as usize / CHUNK_ROWS)?;
        Arc::make_mut(chunk).get_mut(index as usize % CHUNK_ROWS)
    }

    /// Stores `row` in a free slot, or a new one. `make` sees the row that was in the slot, so that it can go on
    /// counting its epoch.
    pub(crate) fn insert(&mut self, make: impl FnOnce(Option<&T>) -> T) -> u32 {
        if let Some(index) = Arc::make_mut(&mut self.free).pop() {
            if let Some(old) = self.row_mut(index) {
                *old = make(Some(old));
            }
            return index;
        }
        let index = self.len;
        if (index as usize).is_multiple_of(CHUNK_ROWS) {
            self.chunks.push(Arc::new(Vec::with_capacity(CHUNK_ROWS)));
        }
        let row = make(None);
        if let Some(chunk) = self.chunks.last_mut() {
            Arc::make_mut(chunk).push(row);
        }
        self.len += 1;
        index
    }

    pub(crate) fn free(&mut self, index: u32) {
        let free = Arc::make_mut(&mut self.free);
        if !free.contains(&index) {
            free.push(index);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..).zip(self.chunks.iter().flat_map(|chunk| chunk.iter()))
    }
}

const SHARDS: usize = 256;

/// A hash map in shards; a clone shares all of them, a change copies one.
#[derive(Clone, Debug)]
pub(crate) struct Index<K, V> {
    shards: Vec<Arc<HashMap<K, V, RandomState>>>,
    hasher: RandomState,
}

impl<K: Copy + Eq + Hash, V: Clone> Index<K, V> {
    pub(crate) fn new() -> Self {
        let hasher = RandomState::new();
        let shards = (0..SHARDS)
            .map(|_| Arc::new(HashMap::with_hasher(hasher.clone())))
            .collect();
        Self { shards, hasher }
    }

    fn shard(&self, key: &K) -> usize {
        (self.hasher.hash_one(key) >> 40) as usize % SHARDS
    }

    pub(crate) fn value(&self, key: &K) -> Option<&V> {
        self.shards[self.shard(key)].get(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        let shard = self.shard(&key);
        Arc::make_mut(&mut self.shards[shard]).insert(key, value);
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let shard = self.shard(key);
        if !self.shards[shard].contains_key(key) {
            return None;
        }
        Arc::make_mut(&mut self.shards[shard]).remove(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }
}
