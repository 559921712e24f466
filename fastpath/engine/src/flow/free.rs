//! The entries that no flow uses: those freed, in a list, and those never used.

use super::entry::Entry;
use super::layout::{FREE, USED};
use super::table::Table;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::fence;

impl Table {
    /// Takes the entry freed last, or one never used. The head is `tag << 32 | index + 1`; the tag makes a head that came
    /// back in between look different.
    pub(super) fn take_entry(&self) -> Option<u32> {
        let head = self.count(FREE);
        let mut word = head.load(Acquire);
        while let Some(index) = free_index(word) {
            let next = self.entry(index)?.link().load(Relaxed);
            let new = ((word >> 32).wrapping_add(1) << 32) | next & 0xffff_ffff;
            match head.compare_exchange_weak(word, new, Acquire, Acquire) {
                Ok(_) => return Some(index),
                Err(changed) => word = changed,
            }
        }
        let max = u64::from(self.layout.flows_max);
        #[expect(clippy::cast_possible_truncation, reason = "below `flows_max`")]
        let index = self
            .count(USED)
            .fetch_update(Relaxed, Relaxed, |used| (used < max).then_some(used + 1))
            .ok()? as u32;
        Some(index)
    }

    pub(super) fn give_entry(&self, index: u32, entry: Entry<'_>) {
        let head = self.count(FREE);
        let mut word = head.load(Relaxed);
        // Whoever still reads the flow sees its state change before the link takes a word's place.
        fence(Release);
        loop {
            entry.link().store(word & 0xffff_ffff, Relaxed);
            let new = ((word >> 32).wrapping_add(1) << 32) | (u64::from(index) + 1);
            match head.compare_exchange_weak(word, new, Release, Relaxed) {
                Ok(_) => return,
                Err(changed) => word = changed,
            }
        }
    }
}

/// The entry a free-list head names.
#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
const fn free_index(head: u64) -> Option<u32> {
    (head as u32).checked_sub(1)
}
