//! The ring of embryonic flows: a new one in a full ring takes the place of another embryonic one.

use super::entry::Flow;
use super::layout::EVICTED;
use super::table::Table;
use std::sync::atomic::Ordering::Relaxed;

/// Places of the ring that a new flow tries before it evicts.
const TRIES: u64 = 8;

impl Table {
    /// Notes a new flow in the embryonic ring. When all places tried are taken, the flow in one of them ends.
    pub(super) fn enter_embryonic(&self, flow: &Flow, random: u64) {
        let value = 1 << 63 | u64::from(flow.state.generation()) << 32 | u64::from(flow.index);
        let place = |try_: u64| {
            let spread = random.wrapping_add(try_.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let at = ((spread >> 32) * u64::from(self.layout.embryonic_max)) >> 32;
            &self.words[self.layout.embryonic_at + at as usize]
        };
        let occupant = |word: u64| {
            #[expect(clippy::cast_possible_truncation, reason = "the fields of the word")]
            let (index, generation) = (word as u32, (word >> 32) as u16);
            (word != 0)
                .then(|| self.at(index, generation))
                .flatten()
                .filter(|flow| !flow.state.is_established())
        };
        for try_ in 0..TRIES {
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
}
