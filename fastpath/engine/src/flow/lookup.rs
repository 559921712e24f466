//! A batch is looked up in passes, so that its lookups wait for memory together: first each key's line of the index is asked
//! for, then the entry that this line names, and only then the entries are compared ([`Hit`](super::Hit)).

use super::index::{Hash, HashKeys};
use super::layout::Lines;
use super::table::Table;
use sluice_memory::prefetch;
use sluice_wire::Family;

/// A key's place in the index, and the entry that is most likely its.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    hash: Hash,
    /// Its number; `u32::MAX` when there is none.
    pub(super) entry: u32,
}

/// What the lookups of a batch need of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lookups<'a> {
    keys: &'a HashKeys,
    lines: Lines<'a>,
    /// So many flows live that a good part of the keys is in its second bucket.
    is_loaded: bool,
}

impl Table {
    #[inline(always)]
    pub(crate) fn lookups(&self) -> Lookups<'_> {
        Lookups {
            keys: &self.keys,
            lines: self.lines(),
            is_loaded: self.live() > u64::from(self.flows_max()) / 2,
        }
    }
}

impl Lookups<'_> {
    /// First pass: asks for the index line of a key (its words), and for the second choice's too when it is likely there.
    #[inline(always)]
    pub(crate) fn prefetch_index(&self, words: &[u64; 5], outbound: bool) -> Probe {
        let (hash, buckets) = (self.keys.hash(words, outbound), self.lines.buckets);
        prefetch(buckets, hash.first(buckets.len()));
        if self.is_loaded {
            prefetch(buckets, hash.second(buckets.len()));
        }
        Probe {
            hash,
            entry: u32::MAX,
        }
    }

    /// Second pass: asks for the lines of the entry the key most likely has; IPv4 needs the first only.
    #[inline(always)]
    pub(crate) fn prefetch_entry(&self, probe: &mut Probe, family: Family) {
        let (hash, buckets) = (probe.hash, self.lines.buckets.len());
        let likely = |number: usize| self.lines.bucket(number)?.likely_entry(hash.tag());
        let found = likely(hash.first(buckets)).or_else(|| likely(hash.second(buckets)));
        let Some(entry) = found else {
            return;
        };
        probe.entry = entry;
        prefetch(self.lines.first, entry as usize);
        if family == Family::V6 {
            prefetch(self.lines.second, entry as usize);
        }
    }
}
