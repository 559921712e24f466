//! Keys that are believed to mean nothing, with their ages: when there are too many, the oldest is forgotten. Addresses,
//! names and nodes do not push each other out, so that invented ones harm no packet.

use super::Event;
use crate::table_query::Key;
use std::collections::BTreeMap;

/// Kinds of keys, each with bounds of its own.
pub(super) const KINDS: usize = 3;

/// An answer that names nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Absent {
    /// Nobody could say; otherwise it does not exist.
    pub(super) unresolved: bool,
    pub(super) strikes: u32,
    /// Only the strikes are remembered; the key is unknown.
    pub(super) expired: bool,
    age: u64,
}

impl Absent {
    pub(super) fn event(&self, key: Key) -> Event {
        if self.unresolved {
            Event::Unresolved { key }
        } else {
            Event::Absent { key }
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Absences {
    keys: BTreeMap<Key, Absent>,
    /// By age, for each kind of key.
    ages: [BTreeMap<u64, Key>; KINDS],
    last_age: u64,
}

impl Absences {
    pub(super) fn get(&self, key: &Key) -> Option<&Absent> {
        self.keys.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &Key) -> Option<&mut Absent> {
        self.keys.get_mut(key)
    }

    /// The key is the newest from now on. Gives the oldest of its kind when there are more than `max`.
    pub(super) fn renew(&mut self, key: &Key, max: usize) -> Option<(Key, Absent)> {
        let mut absent = self.remove(key).unwrap_or_default();
        self.last_age += 1;
        absent.age = self.last_age;
        let ages = &mut self.ages[kind(key)];
        ages.insert(absent.age, key.clone());
        self.keys.insert(key.clone(), absent);
        if ages.len() <= max {
            return None;
        }
        let (_, oldest) = ages.pop_first()?;
        self.keys.remove_entry(&oldest)
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Absent> {
        let absent = self.keys.remove(key)?;
        self.ages[kind(key)].remove(&absent.age);
        Some(absent)
    }

    /// All of them, in key order.
    pub(super) fn into_keys(self) -> impl Iterator<Item = (Key, Absent)> {
        self.keys.into_iter()
    }
}

/// Which of the bounds a key counts towards: that of addresses, which packets ask for, that of names, or that of nodes.
pub(super) const fn kind(key: &Key) -> usize {
    match key {
        Key::Address(_) => 0,
        Key::Name(_) => 1,
        Key::Node(_) => 2,
    }
}
