//! The compact index of the flow table: cache-line buckets of ten slots, two choices per key. First choices are in the first
//! half of the buckets, second ones in the other, which stays untouched while there are few flows.
//!
//! A bucket is 8 words: ten 32-bit entry numbers (words 0 to 4), ten 16-bit tags (words 5, 6 and the upper half of
//! word 7) and a 32-bit sequence (the lower half of word 7) that is odd while somebody writes. Tag 0 is an empty slot.
//! Nothing ever moves from slot to slot.

use arrayvec::ArrayVec;
use sluice_memory::{Line, equal_lanes};
use sluice_wire::FlowKey;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::fence;

pub(crate) const BUCKET_SLOTS: usize = 10;
/// A writer holds a bucket for some hundred nanoseconds; this many looks take some ten microseconds.
const LOCK_TRIES: usize = 2_000;

/// The hash of a key, which says where in the index it may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Hash(u64);

impl Hash {
    /// The number of its first bucket of so many: in the first half of them.
    #[inline(always)]
    pub(crate) const fn first(self, buckets: usize) -> usize {
        range(self.0 & 0xffff_ffff, buckets / 2)
    }

    /// The number of its second bucket: in the second half.
    #[inline(always)]
    pub(crate) const fn second(self, buckets: usize) -> usize {
        let first = buckets / 2;
        first + range(self.0 >> 32, buckets - first)
    }

    pub(crate) const fn buckets(self, buckets: usize) -> [usize; 2] {
        [self.first(buckets), self.second(buckets)]
    }

    /// A number below `len`.
    pub(crate) const fn below(self, len: usize) -> usize {
        range(self.0 >> 32, len)
    }

    /// Never 0. The low bits of both halves: either bucket was chosen by the high bits of one.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "16 bits of the hash")]
    pub(crate) const fn tag(self) -> u16 {
        (self.0 ^ self.0 >> 32) as u16 | 1 << 15
    }
}

/// Maps 32 bits to 0..`buckets`, of which there are fewer than 2^32.
#[inline(always)]
const fn range(bits: u64, buckets: usize) -> usize {
    ((bits * buckets as u64) >> 32) as usize
}

/// Keys of the hash. Random per table, so that nobody outside can aim at a bucket.
#[derive(Clone, Debug)]
pub(crate) struct HashKeys([u64; 8]);

impl HashKeys {
    pub(crate) fn new(seed: u64) -> Self {
        let mut state = seed;
        // splitmix64
        Self(std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ mixed >> 31
        }))
    }

    /// A keyed multiply-mix over a flow key's words, as in wyhash. IPv4 addresses are one word, IPv6 addresses are mixed
    /// into one; then two rounds, because after one alone ports in a row would crowd. The operands are hidden by the keys.
    /// Not a MAC; a caller that sees neither hashes nor timing of single buckets cannot aim.
    #[inline(always)]
    pub(crate) fn hash(&self, key: &[u64; 5], outbound: bool) -> Hash {
        let [a, b, c, d, rest] = *key;
        let k = &self.0;
        let addresses = if rest & FlowKey::V4 != 0 {
            a
        } else {
            fold(a ^ k[0], b ^ k[1]) ^ fold(c ^ k[2], d ^ k[3]).rotate_left(23)
        };
        let mixed = fold(addresses ^ k[4], rest ^ k[5]);
        Hash(fold(mixed ^ k[6], k[7] ^ u64::from(outbound) << 48))
    }
}

#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the two halves of the product"
)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

/// One bucket, by its words.
#[derive(Clone, Copy)]
pub(crate) struct Bucket<'a>(pub(crate) &'a Line);

impl Bucket<'_> {
    /// The sequence; odd while somebody writes.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    pub(crate) fn sequence(self) -> u32 {
        self.0[7].load(Acquire) as u32
    }

    /// Whether nothing was written since `sequence` was read.
    #[inline]
    pub(crate) fn unchanged_since(self, sequence: u32) -> bool {
        fence(Acquire);
        sequence.is_multiple_of(2) && self.sequence() == sequence
    }

    /// The slots whose tag is `tag`, as bits.
    #[inline(always)]
    pub(crate) fn slots_tagged(self, tag: u16) -> u32 {
        let last = self.tags(7);
        let [ninth, tenth] = [32, 48].map(|at| (last >> at) & 0xffff == u64::from(tag));
        self.first_slots_tagged(tag) | u32::from(ninth) << 8 | u32::from(tenth) << 9
    }

    /// The first entry whose tag is `tag`.
    #[inline(always)]
    pub(crate) fn likely_entry(self, tag: u16) -> Option<u32> {
        let slots = self.first_slots_tagged(tag);
        if slots != 0 {
            return Some(self.entry(slots.trailing_zeros() as usize));
        }
        let slots = self.slots_tagged(tag);
        (slots != 0).then(|| self.entry(slots.trailing_zeros() as usize))
    }

    /// As [`Bucket::slots_tagged`], of the first eight slots, whose tags are one vector.
    #[inline(always)]
    fn first_slots_tagged(self, tag: u16) -> u32 {
        equal_lanes([self.tags(5), self.tags(6)], tag)
    }

    #[inline(always)]
    fn tags(self, word: usize) -> u64 {
        self.0[word].load(Relaxed)
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "one half of the word")]
    pub(crate) fn entry(self, slot: usize) -> u32 {
        (self.0[slot / 2].load(Relaxed) >> (slot % 2 * 32)) as u32
    }

    /// An empty slot.
    pub(crate) fn empty(self) -> Option<usize> {
        let slot = self.slots_tagged(0).trailing_zeros() as usize;
        (slot < BUCKET_SLOTS).then_some(slot)
    }

    /// Slots in use.
    pub(crate) fn len(self) -> usize {
        (0..BUCKET_SLOTS)
            .filter(|&slot| self.tag(slot) != 0)
            .count()
    }

    #[expect(clippy::cast_possible_truncation, reason = "16 bits of the word")]
    fn tag(self, slot: usize) -> u16 {
        let (word, shift) = tag_at(slot);
        (self.0[word].load(Relaxed) >> shift) as u16
    }

    /// Fills or, with tag 0, empties a slot. The caller holds the bucket.
    pub(crate) fn set(self, slot: usize, tag: u16, entry: u32) {
        let store = |word: usize, shift: usize, mask: u64, value: u64| {
            let old = self.0[word].load(Relaxed);
            self.0[word].store(old & !(mask << shift) | value << shift, Relaxed);
        };
        store(slot / 2, slot % 2 * 32, 0xffff_ffff, u64::from(entry));
        let (word, shift) = tag_at(slot);
        store(word, shift, 0xffff, u64::from(tag));
    }

    /// Whether so many slots are those of `entry`.
    pub(crate) fn has(self, entry: u32, slots: usize) -> bool {
        let is_its = |&slot: &usize| self.tag(slot) != 0 && self.entry(slot) == entry;
        (0..BUCKET_SLOTS).filter(is_its).count() == slots
    }

    /// Empties the slots of `entry`. The caller holds the bucket.
    fn clear(self, entry: u32) {
        for slot in 0..BUCKET_SLOTS {
            if self.tag(slot) != 0 && self.entry(slot) == entry {
                self.set(slot, 0, 0);
            }
        }
    }

    fn lock(self) -> bool {
        for _ in 0..LOCK_TRIES {
            let word = self.0[7].load(Relaxed);
            if word.is_multiple_of(2)
                && self.0[7]
                    .compare_exchange(word, next(word), Acquire, Relaxed)
                    .is_ok()
            {
                // The odd sequence is visible before anything written under it.
                fence(Release);
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }

    fn unlock(self) {
        self.0[7].store(next(self.0[7].load(Relaxed)), Release);
    }
}

const fn tag_at(slot: usize) -> (usize, usize) {
    match slot {
        0..=3 => (5, slot * 16),
        4..=7 => (6, slot % 4 * 16),
        _ => (7, 32 + slot % 4 * 16),
    }
}

/// The word with the next sequence; the tags in its upper half stay.
#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
const fn next(word: u64) -> u64 {
    word & !0xffff_ffff | (word as u32).wrapping_add(1) as u64
}

/// Buckets held for writing, in ascending order so that two writers never wait for each other in a circle.
///
/// The first bucket of a key is where its writers meet: who holds it knows that nobody else enters or removes the key.
/// A second bucket is held only when something is written there, so that those nobody needs stay untouched.
pub(crate) struct Held<'a>(ArrayVec<Bucket<'a>, 4>);

impl<'a> Held<'a> {
    /// Holds the first buckets of two keys, and then the second ones when `needs_second` says so of one of them; `None` when
    /// another writer keeps one for too long.
    pub(crate) fn new(
        keys: [Hash; 2],
        buckets: &'a [Line],
        needs_second: impl Fn(Bucket<'a>) -> bool,
    ) -> Option<Self> {
        let mut held = Self(ArrayVec::new());
        held.add(keys.map(|key| key.first(buckets.len())), buckets)?;
        if held.0.iter().any(|bucket| needs_second(*bucket)) {
            held.add(keys.map(|key| key.second(buckets.len())), buckets)?;
        }
        Some(held)
    }

    /// Empties the slots of `entry`. What is not held stays: another writer's half-emptied slot there reads as one of
    /// entry 0.
    pub(crate) fn clear(&self, entry: u32) {
        self.0.iter().for_each(|bucket| bucket.clear(entry));
    }

    fn add(&mut self, [one, two]: [usize; 2], buckets: &'a [Line]) -> Option<()> {
        let other = (one != two).then_some(one.max(two));
        for number in [one.min(two)].into_iter().chain(other) {
            let bucket = Bucket(buckets.get(number)?);
            if !bucket.lock() {
                return None;
            }
            self.0.push(bucket);
        }
        Some(())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|bucket| bucket.unlock());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    fn words() -> Line {
        std::array::from_fn(|_| AtomicU64::new(0))
    }

    #[test]
    fn a_bucket_keeps_ten_slots() {
        let words = words();
        let bucket = Bucket(&words);
        for entry in 0..10 {
            let slot = bucket.empty().unwrap();
            bucket.set(slot, 0x8000 + entry, 1000 + u32::from(entry));
        }
        assert_eq!((bucket.empty(), bucket.len()), (None, 10));
        for entry in 0..10 {
            assert_eq!(bucket.slots_tagged(0x8000 + entry), 1 << entry);
            assert_eq!(
                bucket.likely_entry(0x8000 + entry),
                Some(1000 + u32::from(entry))
            );
            assert_eq!(bucket.entry(usize::from(entry)), 1000 + u32::from(entry));
        }
        bucket.clear(1009);
        assert_eq!(bucket.empty(), Some(9));
        assert_eq!(bucket.sequence(), 0);
    }

    #[test]
    fn a_held_bucket_reads_as_being_written_and_keeps_its_tags() {
        let words = [words(), words()];
        let [first, second] = [Bucket(&words[0]), Bucket(&words[1])];
        first.set(9, 0xffff, 7);
        let before = first.sequence();
        let held = Held::new([Hash(1), Hash(2)], &words, |_| false).unwrap();
        assert!(!first.unchanged_since(before));
        assert!(!first.unchanged_since(before + 1));
        assert!(second.unchanged_since(0));
        drop(held);
        assert!(first.unchanged_since(before + 2));
        assert_eq!(first.slots_tagged(0xffff), 1 << 9);
        assert!(first.has(7, 1) && first.has(8, 0));
        let held = Held::new([Hash(1), Hash(2)], &words, |_| true).unwrap();
        assert!(!second.unchanged_since(0));
        drop(held);
        assert!(second.unchanged_since(2));
    }

    #[test]
    fn only_held_buckets_are_cleared() {
        let words = [words(), words()];
        let buckets = [Bucket(&words[0]), Bucket(&words[1])];
        buckets.iter().for_each(|bucket| bucket.set(3, 0x8001, 0));
        let held = Held::new([Hash(1), Hash(2)], &words, |_| false).unwrap();
        held.clear(0);
        drop(held);
        assert_eq!(buckets.map(Bucket::len), [0, 1]);
        let held = Held::new([Hash(1), Hash(2)], &words, |_| true).unwrap();
        held.clear(0);
        drop(held);
        assert_eq!(buckets.map(Bucket::len), [0, 0]);
    }

    /// Callers count through ports and addresses; no bucket is met much more often than by chance, which is 3.5 keys to
    /// a bucket here.
    #[test]
    fn keys_in_a_row_are_spread() {
        const BUCKETS: usize = 9362;
        let words = |src: u64, dst: u64, rest: u64| [src << 32 | dst, 0, 0, 0, rest];
        let rest = |ports: u64| FlowKey::V4 | 17 << 32 | ports;
        for seed in 0..32 {
            let keys = HashKeys::new(seed);
            for pattern in 0..4 {
                let mut met = vec![0_u8; BUCKETS];
                for n in 0..16_384 {
                    let key = match pattern {
                        0 => words(0x0a12_0002, 0x0a1e_0100, rest(n << 16 | 80)),
                        1 => words(0x0a12_0002 + n, 0x0a1e_0100, rest(4000 << 16)),
                        2 => words(0x0a12_0002, 0x0a1e_0100 + n * 256, rest(n)),
                        _ => [0xfdff << 48, 2, 0xfdff << 48, 1, 17 << 32 | n << 16 | 80],
                    };
                    let buckets = keys.hash(&key, true).buckets(BUCKETS);
                    for bucket in buckets {
                        met[bucket] += 1;
                    }
                }
                let most = met.iter().max();
                assert!(most < Some(&20), "seed {seed}, pattern {pattern}: {most:?}");
            }
        }
    }
}
