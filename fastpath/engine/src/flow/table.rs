//! The flow table: shared by all workers, lock-free to read, written when a flow begins, changes state or ends.
//!
//! All of it lives in plain words without pointers (`layout.rs`), so that it can outlive the process.
//!
//! A reader finds an entry through the index and trusts it when its key matches and its generation is the same after
//! reading as before. It trusts an absence when no bucket was being written meanwhile. A writer holds the first buckets of both
//! keys, so that forward and reverse key appear together and only if both are absent.

use super::entry::{Entry, Flow, Offloading, State, Timeouts, family_of};
use super::index::{Bucket, Hash, HashKeys, Held};
use super::layout::{COLLAPSED, EMBRYONIC, EVICTED, LIVE, Layout, Lines, SWEEP, USED};
use super::limits::{Limits, SharedError, seed_of};
use super::quota::{Charge, Quotas};
use sluice_memory::Words;
use sluice_wire::FlowKey;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};

/// How often a reader that meets a writer looks again before it gives up.
const READ_TRIES: usize = 8;
/// Slots up to which a key's first bucket is taken without looking at the second: of the flows of a table that is half full,
/// nine in ten are found there.
const FIRST_CHOICE_SLOTS: usize = 7;
/// Flows from which on nearly every page of the index is resident anyway, so that large pages cost no memory.
const COLLAPSE_FLOWS: u32 = 4096;
/// Words of the index put into a large page at a time: 2 MiB.
const COLLAPSE_WORDS: usize = 1 << 18;

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
    pub(super) words: Words,
    pub(super) keys: HashKeys,
    pub(super) layout: Layout,
    quotas: Quotas,
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
        let layout = Layout::new(limits)?;
        let flows_max = layout.flows_max;
        let or = |value: u32, default: u32| if value == 0 { default } else { value };
        let quotas = Quotas::new(
            or(limits.embryonic_per_owner_max, layout.embryonic_max / 4).max(1),
            or(limits.flows_per_owner_max, flows_max - flows_max / 8).max(1),
        );
        Ok(Self {
            words: layout.map()?,
            keys: HashKeys::new(seed_of(limits)),
            quotas: quotas.at(layout.quotas_at),
            layout,
        })
    }

    pub(super) fn lines(&self) -> Lines<'_> {
        self.layout.lines(&self.words)
    }

    /// A torn index slot may name any entry; what is outside is nobody's.
    #[inline(always)]
    pub(super) fn entry(&self, index: u32) -> Option<Entry<'_>> {
        self.layout.entry(&self.words, index)
    }

    fn hash(&self, sought: &Sought) -> Hash {
        self.keys.hash(&sought.words, sought.outbound)
    }

    /// The two buckets of a key.
    fn buckets(&self, hash: Hash) -> impl Iterator<Item = Bucket<'_>> {
        let lines = self.lines();
        let numbers = hash.buckets(lines.buckets.len());
        numbers
            .into_iter()
            .filter_map(move |number| lines.bucket(number))
    }

    /// The flow of a key.
    ///
    /// # Errors
    /// When a writer was met at every try.
    #[inline(never)]
    pub(crate) fn find(&self, sought: &Sought) -> Result<Option<Flow>, Busy> {
        let hash = self.hash(sought);
        'bucket: for bucket in self.buckets(hash) {
            for _ in 0..READ_TRIES {
                let sequence = bucket.sequence();
                if let Some(flow) = self.find_in(bucket, hash, sought) {
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
        let [forward, reverse] = [&forward_key, &reverse_key].map(|key| self.hash(key));
        // Below that neither key takes a slot in its second bucket.
        let is_roomless = |first: Bucket<'_>| first.len() >= FIRST_CHOICE_SLOTS;
        let Some(held) = self.hold([forward, reverse], is_roomless) else {
            return Inserted::Busy;
        };
        if self.find_held(forward, &forward_key).is_some() {
            return Inserted::ForwardTaken;
        }
        if self.find_held(reverse, &reverse_key).is_some() {
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
        if !self.add_slot(forward, index) {
            self.retire(index, entry, created.state);
            return Inserted::Full;
        }
        if !self.add_slot(reverse, index) {
            held.clear(index);
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
        self.change(flow, |state| state.with_offloading(offloading))
    }

    /// Notes that the flow's packets take the straight way from now on.
    pub(crate) fn end_relay(&self, flow: &Flow) {
        self.change(flow, |state| state.with_relayed(false));
    }

    /// Changes the flow's state; false when the flow ended meanwhile.
    fn change(&self, flow: &Flow, to: impl Fn(State) -> State) -> bool {
        let Some(entry) = self.entry(flow.index) else {
            return false;
        };
        let mut state = State::read(entry.state());
        while state.is_live() && state.generation() == flow.state.generation() {
            match state.swap(entry.state(), to(state)) {
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
        let [forward, reverse] = keys_of(flow).map(|key| self.hash(&key));
        let buckets = self.lines().buckets.len();
        let slots = if forward.first(buckets) == reverse.first(buckets) {
            2
        } else {
            1
        };
        let is_elsewhere = |first: Bucket<'_>| !first.has(flow.index, slots);
        let Some(held) = self.hold([forward, reverse], is_elsewhere) else {
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
        held.clear(flow.index);
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
        let (done, index) = (self.count(COLLAPSED), self.layout.index());
        let half = index.len() / 2;
        let end = if self.used() < self.layout.flows_max / 4 {
            // Hardly any second choice was taken.
            index.start + half
        } else {
            index.end
        };
        let Ok(at) = usize::try_from(done.load(Relaxed)) else {
            return;
        };
        let at = index.start + at;
        if self.used() >= COLLAPSE_FLOWS && at < end {
            done.fetch_add(COLLAPSE_WORDS as u64, Relaxed);
            // One large page more than the piece, because pieces start anywhere inside a page; but none that reaches into
            // what is not resident.
            self.words.collapse(at..end.min(at + 2 * COLLAPSE_WORDS));
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
        self.embryonic() >= u64::from(self.layout.embryonic_max) / 2
    }

    #[must_use]
    pub const fn flows_max(&self) -> u32 {
        self.layout.flows_max
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

    fn find_in(&self, bucket: Bucket<'_>, hash: Hash, sought: &Sought) -> Option<Flow> {
        let mut slots = bucket.slots_tagged(hash.tag());
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

    /// As [`Table::find`], by a writer that holds the key's first bucket.
    fn find_held(&self, hash: Hash, sought: &Sought) -> Option<Flow> {
        self.buckets(hash)
            .find_map(|bucket| self.find_in(bucket, hash, sought))
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

    fn hold(&self, keys: [Hash; 2], needs_second: impl Fn(Bucket<'_>) -> bool) -> Option<Held<'_>> {
        Held::new(keys, self.lines().buckets, needs_second)
    }

    /// Puts the entry into one of the key's two buckets; into the second only when that is held.
    fn add_slot(&self, hash: Hash, index: u32) -> bool {
        // The first choice while it is not nearly full, so that lookups of a table with room meet one cache line, and the
        // second half of the index is not resident.
        let emptier = self
            .buckets(hash)
            .min_by_key(|bucket| bucket.len().max(FIRST_CHOICE_SLOTS));
        let Some((bucket, slot)) = emptier.and_then(|bucket| Some((bucket, bucket.empty()?)))
        else {
            return false;
        };
        bucket.set(slot, hash.tag(), index);
        true
    }

    /// Undoes the publishing of an entry that found no slot.
    fn retire(&self, index: u32, entry: Entry<'_>, state: State) {
        state.dead().publish(entry.state());
        self.give_entry(index, entry);
    }

    pub(super) fn count(&self, word: usize) -> &AtomicU64 {
        &self.words[word]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Pin;
    use sluice_tables::InstanceSlot;
    use sluice_tables::slots::Slot;
    use sluice_wire::{InstanceIp, Ip, Protocol};

    fn flow(number: u16) -> Flow {
        let pin = Pin {
            slot: InstanceSlot::from_index(1),
            epoch: 1,
        };
        Flow {
            forward: FlowKey {
                src: Ip::v4([10, 18, 0, 2]),
                dst: Ip::v4([10, 30, 0, 1]),
                src_port: number,
                dst_port: 80,
                protocol: Protocol::Udp.key(),
            },
            remote_ip: InstanceIp::new(Ip::v4([10, 30, 0, 2])),
            wire_src_port: number,
            wire_dst_port: 80,
            local: pin,
            remote: pin,
            service: None,
            peer: None,
            created_s: 1,
            state: State::new(Protocol::Udp, false, 1),
            index: 0,
        }
    }

    /// Memory of the index is resident where it was written.
    #[test]
    fn few_flows_leave_the_second_half_of_the_index_untouched_and_many_use_it() {
        let table = Table::new(&Limits {
            flows_max: 4096,
            embryonic_max: 4096,
            embryonic_per_owner_max: 4096,
            flows_per_owner_max: 4096,
            seed: Some(7),
            ..Limits::default()
        })
        .unwrap();
        let written = || {
            let buckets = table.lines().buckets;
            let (_, second) = buckets.split_at(buckets.len() / 2);
            second
                .iter()
                .filter(|line| Bucket(line).sequence() != 0)
                .count()
        };
        let insert_one = |number: u16| {
            let inserted = table.insert(&flow(number), number.into());
            let Inserted::Created(flow) = inserted else {
                panic!("flow {number}: {inserted:?}");
            };
            // Answered, so that no other takes its place.
            table.update(&flow, false, 0, 1);
            flow
        };
        let insert =
            |numbers: std::ops::Range<u16>| -> Vec<Flow> { numbers.map(insert_one).collect() };
        let few = insert(0..300);
        assert!(few.iter().all(|flow| table.remove(flow)));
        assert_eq!(written(), 0);
        let many = insert(0..4000);
        assert!(written() > 400);
        for flow in &many {
            let found = table.find_forward(&flow.forward).unwrap();
            assert_eq!(found.map(|found| found.index), Some(flow.index));
        }
        assert!(many.iter().all(|flow| table.remove(flow)));
        assert!(
            table
                .lines()
                .buckets
                .iter()
                .all(|line| Bucket(line).len() == 0)
        );
    }
}
