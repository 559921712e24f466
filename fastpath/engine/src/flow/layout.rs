//! Where everything is in the words of a flow table:
//! header | quotas | embryonic ring | index buckets | second lines of entries | first lines. Entries are taken densely, so
//! that memory no flow has used stays untouched, and the second lines are touched by flows of IPv6 only. First lines are
//! last, so that one look at the bounds is enough for what every packet reads.

use super::entry::Entry;
use super::index::{BUCKET_SLOTS, Bucket};
use super::limits::{FLOWS_MAX, Limits, SharedError};
use super::quota::Quotas;
use sluice_memory::{Line, Words};
use std::ops::Range;

// Header words, each on a cache line of its own.
pub(super) const FREE: usize = 0;
pub(super) const USED: usize = 8;
pub(super) const LIVE: usize = 16;
pub(super) const EMBRYONIC: usize = 24;
pub(super) const SWEEP: usize = 32;
pub(super) const EVICTED: usize = 40;
pub(super) const COLLAPSED: usize = 48;
const HEADER_LINES: usize = 8;

/// Words of a cache line.
const LINE_WORDS: usize = 8;
/// Slots of the index in use when the table is full, in percent. With the choice of [`Table::insert`], 2 M keys found no bucket
/// with both choices full in twelve simulated runs; at 74 one or two did.
///
/// [`Table::insert`]: super::Table::insert
const INDEX_LOAD_PERCENT: u64 = 70;

#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) flows_max: u32,
    pub(super) embryonic_max: u32,
    /// In words.
    pub(super) quotas_at: usize,
    /// In words.
    pub(super) embryonic_at: usize,
    /// In lines.
    buckets_at: usize,
    /// In lines.
    second_lines_at: usize,
    /// In lines.
    first_lines_at: usize,
}

/// The lines of a table that are found by number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines<'a> {
    pub(super) buckets: &'a [Line],
    pub(super) second: &'a [Line],
    pub(super) first: &'a [Line],
}

impl Layout {
    /// # Errors
    /// When the number of flows is out of range.
    pub(super) fn new(limits: &Limits) -> Result<Self, SharedError> {
        let flows_max = limits.flows_max;
        if !(1..=FLOWS_MAX).contains(&flows_max) {
            return Err(SharedError::FlowsMax(flows_max));
        }
        let embryonic_max = match limits.embryonic_max {
            0 => flows_max / 8,
            max => max,
        }
        .clamp(1, flows_max);
        let slots = u64::from(flows_max) * 2 * 100 / INDEX_LOAD_PERCENT;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most 2^28 flows, so at most 2^27 buckets"
        )]
        let buckets = (slots / BUCKET_SLOTS as u64 + 4) as usize;
        let quotas_at = HEADER_LINES * LINE_WORDS;
        let embryonic_at = quotas_at + Quotas::WORDS;
        let buckets_at = (embryonic_at + embryonic_max as usize).div_ceil(LINE_WORDS);
        let second_lines_at = buckets_at + buckets;
        Ok(Self {
            flows_max,
            embryonic_max,
            quotas_at,
            embryonic_at,
            buckets_at,
            second_lines_at,
            first_lines_at: second_lines_at + flows_max as usize,
        })
    }

    /// Maps the words.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn map(&self) -> Result<Words, SharedError> {
        let len = (self.first_lines_at + self.flows_max as usize) * LINE_WORDS;
        let words = Words::anonymous(len).map_err(|source| SharedError::Map {
            what: "the flow table",
            words: len,
            source,
        })?;
        // Entries are used densely, so large pages waste at most one of each kind of line.
        let first_lines_at = self.first_lines_at * LINE_WORDS;
        words.advise_large_pages(self.second_lines_at * LINE_WORDS..first_lines_at);
        words.advise_large_pages(first_lines_at..len);
        Ok(words)
    }

    /// The words of the index.
    pub(super) const fn index(&self) -> Range<usize> {
        self.buckets_at * LINE_WORDS..self.second_lines_at * LINE_WORDS
    }

    #[inline(always)]
    pub(super) fn lines<'a>(&self, words: &'a Words) -> Lines<'a> {
        let lines = words.lines();
        Lines {
            buckets: &lines[self.buckets_at..self.second_lines_at],
            second: &lines[self.second_lines_at..self.first_lines_at],
            first: &lines[self.first_lines_at..],
        }
    }

    /// The entry of that number; `None` also for one that a torn index slot named.
    #[inline(always)]
    pub(super) fn entry<'a>(&self, words: &'a Words, index: u32) -> Option<Entry<'a>> {
        let lines = words.lines();
        Some(Entry {
            first: lines.get(self.first_lines_at + index as usize)?,
            second: (lines, self.second_lines_at + index as usize),
        })
    }
}

impl<'a> Lines<'a> {
    #[inline(always)]
    pub(super) fn bucket(self, number: usize) -> Option<Bucket<'a>> {
        self.buckets.get(number).map(Bucket)
    }
}
