//! The flow table: shared by all workers, lock-free to read, written when a flow begins, changes state or ends.
//!
//! All of it lives in plain words without pointers, so that it can outlive the process:
//! header | index buckets | second lines of entries | first lines | embryonic ring | quotas. Entries are taken densely, so
//! that memory no flow has used stays untouched, and the second lines are touched by flows of IPv6 only.
//!
//! A reader finds an entry through the index and trusts it when its key matches and its generation is the same after
//! reading as before. It trusts an absence when no bucket was being written meanwhile. A writer holds the buckets of both
//! keys, so that forward and reverse key appear together and only if both are absent.

use super::entry::{Entry, Flow, Offloading, State, Timeouts, family_of};
use super::index::{BUCKET_SLOTS, Bucket, HashKeys, Held, Place};
use super::quota::{Charge, Quotas};
use sluice_memory::Words;
use sluice_wire::{Family, FlowKey};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};
use thiserror::Error;

/// How often a reader that meets a writer looks again before it gives up.
const READ_TRIES: usize = 8;
/// Slots of the index in use when the table is full, in percent. With [`FIRST_CHOICE_SLOTS`], 2 M keys found no bucket with both
/// choices full in twelve simulated runs at 72 and less; at 76 a few did.
const INDEX_LOAD_PERCENT: u64 = 70;
/// Slots up to which a key's first bucket is taken without looking at the second.
const FIRST_CHOICE_SLOTS: usize = 4;
/// Flows from which on nearly every page of the index is resident anyway, so that large pages cost no memory.
const COLLAPSE_FLOWS: u32 = 4096;
/// Words of the index put into a large page at a time: 2 MiB.
const COLLAPSE_WORDS: usize = 1 << 18;
/// Places of the embryonic ring a new flow tries before it evicts.
const EMBRYONIC_TRIES: u64 = 8;
/// The most flows a table can have: entries are numbered by 32 bits, and 256 M of them are 32 GiB.
pub const FLOWS_MAX: u32 = 1 << 28;

// Header words, each on a cache line of its own.
const FREE: usize = 0;
const USED: usize = 8;
const LIVE: usize = 16;
const EMBRYONIC: usize = 24;
const SWEEP: usize = 32;
const EVICTED: usize = 40;
const COLLAPSED: usize = 48;
const HEADER_LINES: usize = 8;

/// Words of a cache line.
const LINE_WORDS: usize = 8;

/// Sizes of what all workers share.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Flows at once, embryonic ones included; 1..=[`FLOWS_MAX`].
    pub flows_max: u32,
    /// Embryonic flows at once; 0 means an eighth of `flows_max`.
    pub embryonic_max: u32,
    /// Embryonic flows one instance may have begun at once, and one peer; 0 means a quarter of `embryonic_max`.
    pub embryonic_per_owner_max: u32,
    /// Flows one instance may have begun at once, and one peer; 0 means seven eighths of `flows_max`.
    pub flows_per_owner_max: u32,
    /// Fragmented datagrams on their way at once.
    pub fragments_max: u32,
    /// Seed of the keyed hashes; `None` takes one from the operating system.
    pub seed: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows_max: 1 << 20,
            embryonic_max: 0,
            embryonic_per_owner_max: 0,
            flows_per_owner_max: 0,
            fragments_max: 4096,
            seed: None,
        }
    }
}

#[derive(Debug, Error)]
pub enum SharedError {
    #[error("`flows_max` of {0} is out of range 1..={FLOWS_MAX}")]
    FlowsMax(u32),
    #[error("`fragments_max` of {0} is out of range 1..=1048576")]
    FragmentsMax(u32),
    #[error("mapping {words} words for {what} failed: {source}; lower its limit or free memory")]
    Map {
        what: &'static str,
        words: usize,
        source: std::io::Error,
    },
}

/// What [`Table::insert`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Inserted {
    Created(Flow),
    /// The forward key is there already.
    ForwardTaken,
    /// Another flow uses the reverse key.
    ReverseTaken,
    /// No entry or index slot is left.
    Full,
    /// Whoever began it has too many flows.
    Quota,
    /// Another writer held a bucket for too long.
    Busy,
}

/// A lookup that met a writer at every try.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Busy;

#[derive(Debug)]
pub struct Table {
    words: Words,
    keys: HashKeys,
    buckets: u32,
    flows_max: u32,
    embryonic_max: u32,
    /// In lines.
    second_lines_at: usize,
    /// In lines.
    first_lines_at: usize,
    /// In words.
    embryonic_at: usize,
    quotas: Quotas,
}

/// A key's place in the index, computed once per packet, and the entry that is most likely its.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    place: Place,
    /// Its number; `u32::MAX` when there is none.
    entry: u32,
}

/// A key and the direction in which packets have it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sought {
    words: [u64; 5],
    outbound: bool,
}

impl Sought {
    #[inline]
    pub(crate) const fn new(key: &FlowKey, outbound: bool) -> Self {
        Self {
            words: key.words(),
            outbound,
        }
    }
}

impl Table {
    /// # Errors
    /// When a limit is out of range or memory cannot be mapped.
    pub fn new(limits: &Limits) -> Result<Self, SharedError> {
        let flows_max = limits.flows_max;
        if !(1..=FLOWS_MAX).contains(&flows_max) {
            return Err(SharedError::FlowsMax(flows_max));
        }
        let or = |value: u32, default: u32| if value == 0 { default } else { value };
        let embryonic_max = or(limits.embryonic_max, flows_max / 8).clamp(1, flows_max);
        let quotas = Quotas::new(
            or(limits.embryonic_per_owner_max, embryonic_max / 4).max(1),
            or(limits.flows_per_owner_max, flows_max - flows_max / 8).max(1),
        );
        let slots = u64::from(flows_max) * 2 * 100 / INDEX_LOAD_PERCENT;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most 2^28 flows, so at most 2^27 buckets"
        )]
        let buckets = (slots / BUCKET_SLOTS as u64 + 4) as u32;
        let second_lines_at = HEADER_LINES + buckets as usize;
        let first_lines_at = second_lines_at + flows_max as usize;
        let embryonic_at = (first_lines_at + flows_max as usize) * LINE_WORDS;
        let quotas_at = embryonic_at + embryonic_max as usize;
        let len = quotas_at + Quotas::WORDS;
        let words = Words::anonymous(len).map_err(|source| SharedError::Map {
            what: "the flow table",
            words: len,
            source,
        })?;
        // Entries are used densely, so large pages waste at most one of each kind of line.
        words.advise_large_pages(second_lines_at * LINE_WORDS..first_lines_at * LINE_WORDS);
        words.advise_large_pages(first_lines_at * LINE_WORDS..embryonic_at);
        Ok(Self {
            words,
            keys: HashKeys::new(seed_of(limits)),
            buckets,
            flows_max,
            embryonic_max,
            second_lines_at,
            first_lines_at,
            embryonic_at,
            quotas: quotas.at(quotas_at),
        })
    }

    #[inline]
    fn probe(&self, sought: &Sought) -> Probe {
        self.place(&sought.words, sought.outbound)
    }

    /// Where a key (its words) is to be looked for. The first pass of a batched lookup.
    #[inline(always)]
    pub(crate) fn place(&self, words: &[u64; 5], outbound: bool) -> Probe {
        Probe {
            place: self.keys.place(words, outbound, self.buckets),
            entry: u32::MAX,
        }
    }

    /// First pass of a batched lookup: asks for the index line, and for the second choice's too when `loaded`.
    #[inline]
    pub(crate) fn prefetch_index(&self, probe: &Probe, loaded: bool) {
        let [first, second] = probe.place.buckets;
        self.words.prefetch(Self::bucket_at(first));
        if loaded {
            self.words.prefetch(Self::bucket_at(second));
        }
    }

    /// So many flows live that a good part of the keys is in its second bucket. To be asked once per batch.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.live() > u64::from(self.flows_max) / 2
    }

    /// Second pass: asks for the lines of the entry the key most likely has; IPv4 needs the first only.
    #[inline(always)]
    pub(crate) fn prefetch_entry(&self, probe: &mut Probe, family: Family) {
        for number in probe.place.buckets {
            let Some(bucket) = self.bucket(number) else {
                return;
            };
            if let Some(entry) = bucket.likely_entry(probe.place.tag) {
                probe.entry = entry;
                self.words.prefetch(self.first_line_at(entry));
                if family == Family::V6 {
                    self.words.prefetch(self.second_line_at(entry));
                }
                return;
            }
        }
    }

    /// The flow of a key.
    ///
    /// # Errors
    /// When a writer was met at every try.
    #[inline(never)]
    pub(crate) fn find(&self, sought: &Sought) -> Result<Option<Flow>, Busy> {
        let probe = &self.probe(sought);
        'bucket: for number in probe.place.buckets {
            let Some(bucket) = self.bucket(number) else {
                return Ok(None);
            };
            for _ in 0..READ_TRIES {
                let sequence = bucket.sequence();
                if let Some(flow) = self.find_in(bucket, probe, sought) {
                    return Ok(Some(flow));
                }
                if bucket.unchanged_since(sequence) {
                    continue 'bucket;
                }
                std::hint::spin_loop();
            }
            return Err(Busy);
        }
        Ok(None)
    }

    /// The flow whose outbound packets have this key.
    ///
    /// # Errors
    /// When a writer was met at every try.
    pub fn find_forward(&self, key: &FlowKey) -> Result<Option<Flow>, Busy> {
        self.find(&Sought::new(key, true))
    }

    /// The flow whose inbound packets have this key.
    ///
    /// # Errors
    /// When a writer was met at every try.
    pub fn find_reverse(&self, key: &FlowKey) -> Result<Option<Flow>, Busy> {
        self.find(&Sought::new(key, false))
    }

    /// The flow in entry `index`, if it is still the one of that generation.
    #[must_use]
    pub fn at(&self, index: u32, generation: u16) -> Option<Flow> {
        self.read(index, |_| true)
            .filter(|flow| flow.state.generation() == generation)
    }

    /// Adds a flow; `flow.index` is ignored and its generation is the entry's. `random` chooses its place among the
    /// embryonic ones.
    pub fn insert(&self, flow: &Flow, random: u64) -> Inserted {
        let charge = Charge::of(flow);
        if !self.quotas.charge(&self.words, charge) {
            return Inserted::Quota;
        }
        let inserted = self.insert_charged(flow);
        if let Inserted::Created(created) = inserted {
            self.count(LIVE).fetch_add(1, Relaxed);
            self.count(EMBRYONIC).fetch_add(1, Relaxed);
            self.enter_embryonic(&created, random);
        } else {
            self.quotas.release(&self.words, charge, true);
        }
        inserted
    }

    fn insert_charged(&self, flow: &Flow) -> Inserted {
        let [forward_key, reverse_key] = keys_of(flow);
        let [forward, reverse] = [&forward_key, &reverse_key].map(|key| self.probe(key));
        let Some(_held) = self.hold([forward.place, reverse.place]) else {
            return Inserted::Busy;
        };
        if self.find_held(&forward, &forward_key).is_some() {
            return Inserted::ForwardTaken;
        }
        if self.find_held(&reverse, &reverse_key).is_some() {
            return Inserted::ReverseTaken;
        }
        let Some(index) = self.take_entry() else {
            return Inserted::Full;
        };
        let Some(entry) = self.entry(index) else {
            return Inserted::Full;
        };
        let generation = State::read(entry.state()).generation();
        let created = Flow {
            index,
            state: flow.state.with_generation(generation),
            ..*flow
        };
        // Whoever still reads the entry's last flow sees its state change before its words.
        fence(Release);
        created.store(entry);
        created.state.publish(entry.state());
        if !self.add_slot(&forward, index) {
            self.retire(index, entry, created.state);
            return Inserted::Full;
        }
        if !self.add_slot(&reverse, index) {
            self.clear_slots(&forward, index);
            self.retire(index, entry, created.state);
            return Inserted::Full;
        }
        Inserted::Created(created)
    }

    /// Notes a packet of the flow; does nothing when the flow ended meanwhile.
    pub fn update(&self, flow: &Flow, outbound: bool, tcp_flags: u8, now_s: u32) {
        let Some(entry) = self.entry(flow.index) else {
            return;
        };
        let mut state = flow.state;
        // Another worker's packet of the same flow may come between; what this one says must not be lost.
        while state.is_live() && state.generation() == flow.state.generation() {
            let after = state.after(outbound, tcp_flags, now_s);
            match state.swap(entry.state(), after) {
                Ok(()) => {
                    if after.is_established() && !state.is_established() {
                        self.count(EMBRYONIC).fetch_sub(1, Relaxed);
                        self.quotas.establish(&self.words, Charge::of(flow));
                    }
                    return;
                }
                Err(changed) => state = changed,
            }
        }
    }

    /// Notes how far the flow's offload has come. Returns whether the flow is still there.
    pub fn set_offloading(&self, flow: &Flow, offloading: Offloading) -> bool {
        let Some(entry) = self.entry(flow.index) else {
            return false;
        };
        let mut state = State::read(entry.state());
        while state.is_live() && state.generation() == flow.state.generation() {
            match state.swap(entry.state(), state.with_offloading(offloading)) {
                Ok(()) => return true,
                Err(changed) => state = changed,
            }
        }
        false
    }

    /// Notes that packets of an offloaded flow went by, the last of them in second `last_s`.
    pub fn seen(&self, flow: &Flow, last_s: u32) {
        let Some(entry) = self.entry(flow.index) else {
            return;
        };
        let mut state = State::read(entry.state());
        while state.is_live()
            && state.generation() == flow.state.generation()
            && state.last_s() < last_s
        {
            match state.swap(entry.state(), state.seen(last_s)) {
                Ok(()) => return,
                Err(changed) => state = changed,
            }
        }
    }

    /// Ends the flow. Returns false when it is gone already, or a writer held a bucket for too long.
    pub fn remove(&self, flow: &Flow) -> bool {
        let Some(entry) = self.entry(flow.index) else {
            return false;
        };
        let [forward, reverse] = keys_of(flow).map(|key| self.probe(&key));
        let Some(held) = self.hold([forward.place, reverse.place]) else {
            return false;
        };
        let mut state = State::read(entry.state());
        loop {
            if !state.is_live() || state.generation() != flow.state.generation() {
                return false;
            }
            match state.swap(entry.state(), state.dead()) {
                Ok(()) => break,
                Err(changed) => state = changed,
            }
        }
        self.clear_slots(&forward, flow.index);
        self.clear_slots(&reverse, flow.index);
        drop(held);
        self.give_entry(flow.index, entry);
        self.count(LIVE).fetch_sub(1, Relaxed);
        if !state.is_established() {
            self.count(EMBRYONIC).fetch_sub(1, Relaxed);
        }
        self.quotas
            .release(&self.words, Charge::of(flow), !state.is_established());
        true
    }

    /// Looks at the next `entries` entries and ends the idle flows among them, and those for which `lives` says no: it is
    /// asked about all others, so that what a silent flow uses stays known. Workers share the position.
    pub fn sweep(
        &self,
        entries: u32,
        timeouts: &Timeouts,
        now_s: u32,
        mut lives: impl FnMut(&Flow) -> bool,
    ) -> u32 {
        let used = self.used();
        let mut ended = 0;
        if used == 0 {
            return 0;
        }
        let start = self.count(SWEEP).fetch_add(u64::from(entries), Relaxed);
        for offset in 0..u64::from(entries.min(used)) {
            #[expect(clippy::cast_possible_truncation, reason = "below `used`")]
            let index = (start.wrapping_add(offset) % u64::from(used)) as u32;
            let Some(entry) = self.entry(index) else {
                continue;
            };
            let state = State::read(entry.state());
            if !state.is_live() {
                continue;
            }
            let Some(flow) = self.at(index, state.generation()) else {
                continue;
            };
            let ends = state.is_expired(timeouts, now_s) || !lives(&flow);
            if ends && self.remove(&flow) {
                ended += 1;
            }
        }
        ended
    }

    /// Puts one more piece of the index into large pages, once so many flows have been there that they cost no memory.
    /// Lookups jump about in the index; with small pages they wait for page tables more than for anything else.
    pub(crate) fn collapse_index(&self) {
        let done = self.count(COLLAPSED);
        let Ok(at) = usize::try_from(done.load(Relaxed)) else {
            return;
        };
        if self.used() >= COLLAPSE_FLOWS && at < self.second_lines_at * LINE_WORDS {
            done.fetch_add(COLLAPSE_WORDS as u64, Relaxed);
            // One large page more than the piece, because pieces start anywhere inside a page.
            self.words.collapse(at..at + 2 * COLLAPSE_WORDS);
        }
    }

    /// Entries that were ever used: what a full sweep looks at.
    #[must_use]
    pub fn used(&self) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "at most `flows_max`")]
        let used = self.count(USED).load(Relaxed) as u32;
        used
    }

    #[must_use]
    pub fn live(&self) -> u64 {
        self.count(LIVE).load(Relaxed)
    }

    #[must_use]
    pub fn embryonic(&self) -> u64 {
        self.count(EMBRYONIC).load(Relaxed)
    }

    /// Embryonic flows that made room for newer ones.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.count(EVICTED).load(Relaxed)
    }

    /// So many flows are embryonic that some will be evicted: choices must be repeatable from here on.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.embryonic() >= u64::from(self.embryonic_max) / 2
    }

    #[must_use]
    pub const fn flows_max(&self) -> u32 {
        self.flows_max
    }

    /// Live flows that began towards, or from, that peer. Peers whose slots share a counter count together.
    #[must_use]
    pub fn live_of_peer(&self, peer: sluice_tables::PeerSlot) -> u32 {
        self.quotas.live_of_peer(&self.words, peer)
    }

    /// The live flows from entry `start` on, for status: each as it was when read.
    pub fn iter_from(&self, start: u32) -> impl Iterator<Item = Flow> {
        (start..self.used()).filter_map(|index| self.read(index, |_| true))
    }

    /// Notes a new flow in the embryonic ring. When all places tried are taken, the flow in one of them ends.
    fn enter_embryonic(&self, flow: &Flow, random: u64) {
        let value = 1 << 63 | u64::from(flow.state.generation()) << 32 | u64::from(flow.index);
        let place = |try_: u64| {
            let spread = random.wrapping_add(try_.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let at = ((spread >> 32) * u64::from(self.embryonic_max)) >> 32;
            &self.words[self.embryonic_at + at as usize]
        };
        let occupant = |word: u64| {
            #[expect(clippy::cast_possible_truncation, reason = "the fields of the word")]
            let (index, generation) = (word as u32, (word >> 32) as u16);
            (word != 0)
                .then(|| self.at(index, generation))
                .flatten()
                .filter(|flow| !flow.state.is_established())
        };
        for try_ in 0..EMBRYONIC_TRIES {
            let place = place(try_);
            let word = place.load(Relaxed);
            if occupant(word).is_none()
                && place
                    .compare_exchange(word, value, Relaxed, Relaxed)
                    .is_ok()
            {
                return;
            }
        }
        if let Some(victim) = occupant(place(0).swap(value, Relaxed))
            && self.remove(&victim)
        {
            self.count(EVICTED).fetch_add(1, Relaxed);
        }
    }

    fn find_in(&self, bucket: Bucket<'_>, probe: &Probe, sought: &Sought) -> Option<Flow> {
        let mut slots = bucket.slots_tagged(probe.place.tag);
        while slots != 0 {
            let index = bucket.entry(slots.trailing_zeros() as usize);
            let found = self.read(index, |entry| matches(entry, sought));
            if found.is_some() {
                return found;
            }
            slots &= slots - 1;
        }
        None
    }

    /// As [`Table::find`], by a writer that holds the buckets.
    fn find_held(&self, probe: &Probe, sought: &Sought) -> Option<Flow> {
        probe
            .place
            .buckets
            .iter()
            .find_map(|&number| self.find_in(self.bucket(number)?, probe, sought))
    }

    /// Reads a live entry that matches; `None` when it does not or changed meanwhile.
    fn read(&self, index: u32, matches: impl Fn(Entry<'_>) -> bool) -> Option<Flow> {
        let entry = self.entry(index)?;
        let state = State::read(entry.state());
        if !state.is_live() || !matches(entry) {
            return None;
        }
        let flow = Flow::load(entry, index, state);
        fence(Acquire);
        let after = State::read(entry.state());
        (after.is_live() && after.generation() == state.generation()).then_some(flow)
    }

    fn hold(&self, places: [Place; 2]) -> Option<Held<'_>> {
        // `bucket` has every number below `buckets`, and places are made of those.
        Held::new(places, |number| self.bucket(number))
    }

    /// Puts the entry into one of the key's two buckets.
    fn add_slot(&self, probe: &Probe, index: u32) -> bool {
        // The first choice while it is not nearly full, so that lookups of a table with room meet one cache line.
        let emptier = probe
            .place
            .buckets
            .into_iter()
            .filter_map(|number| self.bucket(number))
            .min_by_key(|bucket| bucket.len().max(FIRST_CHOICE_SLOTS));
        let Some((bucket, slot)) = emptier.and_then(|bucket| Some((bucket, bucket.empty()?)))
        else {
            return false;
        };
        bucket.set(slot, probe.place.tag, index);
        true
    }

    fn clear_slots(&self, probe: &Probe, index: u32) {
        for number in probe.place.buckets {
            if let Some(bucket) = self.bucket(number) {
                bucket.clear(index);
            }
        }
    }

    /// Undoes the publishing of an entry that found no slot.
    fn retire(&self, index: u32, entry: Entry<'_>, state: State) {
        state.dead().publish(entry.state());
        self.give_entry(index, entry);
    }

    /// Takes the entry freed last, or one never used. The head is `tag << 32 | index + 1`; the tag makes a head that came
    /// back in between look different.
    fn take_entry(&self) -> Option<u32> {
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
        let max = u64::from(self.flows_max);
        #[expect(clippy::cast_possible_truncation, reason = "below `flows_max`")]
        let index = self
            .count(USED)
            .fetch_update(Relaxed, Relaxed, |used| (used < max).then_some(used + 1))
            .ok()? as u32;
        Some(index)
    }

    fn give_entry(&self, index: u32, entry: Entry<'_>) {
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

    fn count(&self, word: usize) -> &AtomicU64 {
        &self.words[word]
    }

    #[inline]
    const fn bucket_at(number: u32) -> usize {
        HEADER_LINES + number as usize
    }

    #[inline]
    fn bucket(&self, number: u32) -> Option<Bucket<'_>> {
        self.words.lines().get(Self::bucket_at(number)).map(Bucket)
    }

    #[inline]
    const fn first_line_at(&self, index: u32) -> usize {
        self.first_lines_at + index as usize
    }

    #[inline]
    const fn second_line_at(&self, index: u32) -> usize {
        self.second_lines_at + index as usize
    }

    /// A torn index slot may name any entry; what is outside is nobody's.
    fn entry(&self, index: u32) -> Option<Entry<'_>> {
        if index >= self.flows_max {
            return None;
        }
        self.likely_entry(index)
    }

    /// The entry that [`Table::prefetch_entry`] asked for.
    #[inline(always)]
    pub(super) fn entry_of(&self, probe: &Probe) -> Option<Entry<'_>> {
        self.likely_entry(probe.entry)
    }

    #[inline(always)]
    fn likely_entry(&self, index: u32) -> Option<Entry<'_>> {
        let lines = self.words.lines();
        Some(Entry {
            first: lines.get(self.first_line_at(index))?,
            second: (lines, self.second_line_at(index)),
        })
    }
}

#[inline(always)]
fn matches(entry: Entry<'_>, sought: &Sought) -> bool {
    let family = family_of(sought.words[4]);
    if sought.outbound {
        entry.matches_forward(&sought.words, family)
    } else {
        entry.matches_reverse(&sought.words, family)
    }
}

/// Forward and reverse key.
fn keys_of(flow: &Flow) -> [Sought; 2] {
    [
        Sought::new(&flow.forward, true),
        Sought::new(&flow.reverse(), false),
    ]
}

/// The entry a free-list head names.
#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
const fn free_index(head: u64) -> Option<u32> {
    (head as u32).checked_sub(1)
}

pub(crate) fn seed_of(limits: &Limits) -> u64 {
    limits
        .seed
        .unwrap_or_else(|| RandomState::new().hash_one(0_u8))
}
