//! Deadlines by key: set, cancel, and take what is due, in time order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// At most one deadline per key.
#[derive(Clone, Debug)]
pub(crate) struct Timers<K> {
    by_key: BTreeMap<K, Duration>,
    by_time: BTreeSet<(Duration, K)>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K> Timers<K> {
    pub(crate) const fn new() -> Self {
        Self {
            by_key: BTreeMap::new(),
            by_time: BTreeSet::new(),
        }
    }
}

impl<K: Clone + Ord> Timers<K> {
    /// Sets or moves the deadline of `key`.
    pub(crate) fn set(&mut self, key: K, at: Duration) {
        if let Some(old) = self.by_key.insert(key.clone(), at) {
            self.by_time.remove(&(old, key.clone()));
        }
        self.by_time.insert((at, key));
    }

    pub(crate) fn cancel(&mut self, key: &K) {
        if let Some(at) = self.by_key.remove(key) {
            self.by_time.remove(&(at, key.clone()));
        }
    }

    pub(crate) fn is_set(&self, key: &K) -> bool {
        self.by_key.contains_key(key)
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes one key whose deadline has come.
    pub(crate) fn pop_due(&mut self, now: Duration) -> Option<K> {
        if self.next()? > now {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_keys_come_in_time_order_and_a_moved_one_once() {
        let s = Duration::from_secs;
        let mut timers = Timers::default();
        timers.set('a', s(3));
        timers.set('b', s(1));
        timers.set('c', s(2));
        timers.set('a', s(1));
        timers.cancel(&'c');
        assert_eq!(timers.next(), Some(s(1)));
        assert_eq!(timers.pop_due(s(0)), None);
        assert_eq!(timers.pop_due(s(1)), Some('a'));
        assert_eq!(timers.pop_due(s(9)), Some('b'));
        assert_eq!(timers.pop_due(s(9)), None);
        assert_eq!(timers.next(), None);
    }
}
