//! How many flows each instance and each peer has begun, so that one of them cannot take the whole table.

use super::entry::Flow;
use sluice_memory::Words;
use sluice_tables::PeerSlot;
use sluice_tables::slots::Slot;
use std::sync::atomic::Ordering::Relaxed;

/// Counters per kind of owner. Owners whose slots are equal modulo this share one, and its limits.
const OWNERS: u32 = 4096;

/// One more flow in the upper half, one more embryonic flow in the lower.
const FLOW: u64 = 1 << 32;

/// Whose counters a flow is in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Charge {
    /// Who began it: its quota. `None` for the passive half of a same-node flow, whose other half is charged.
    beginner: Option<u32>,
    /// The peer it runs to when a local instance began it: only counted.
    peer: Option<u32>,
}

impl Charge {
    pub(crate) fn of(flow: &Flow) -> Self {
        let peer = flow.peer.map(|peer| OWNERS + peer.index() % OWNERS);
        if flow.state.is_passive() {
            Self {
                beginner: peer,
                peer: None,
            }
        } else {
            Self {
                beginner: Some(flow.local.slot.index() % OWNERS),
                peer,
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Quotas {
    at: usize,
    embryonic_max: u32,
    flows_max: u32,
}

impl Quotas {
    pub(crate) const WORDS: usize = 2 * OWNERS as usize;

    pub(crate) const fn new(embryonic_max: u32, flows_max: u32) -> Self {
        Self {
            at: 0,
            embryonic_max,
            flows_max,
        }
    }

    pub(crate) const fn at(self, at: usize) -> Self {
        Self { at, ..self }
    }

    /// Counts a new embryonic flow; false, and nothing counted, when its beginner has too many.
    pub(crate) fn charge(&self, words: &Words, charge: Charge) -> bool {
        if let Some(owner) = charge.beginner {
            let word = &words[self.at + owner as usize];
            let before = word.fetch_add(FLOW + 1, Relaxed);
            if before & 0xffff_ffff >= u64::from(self.embryonic_max)
                || before >> 32 >= u64::from(self.flows_max)
            {
                word.fetch_sub(FLOW + 1, Relaxed);
                return false;
            }
        }
        if let Some(peer) = charge.peer {
            words[self.at + peer as usize].fetch_add(FLOW, Relaxed);
        }
        true
    }

    /// A flow is no longer embryonic.
    pub(crate) fn establish(&self, words: &Words, charge: Charge) {
        if let Some(owner) = charge.beginner {
            words[self.at + owner as usize].fetch_sub(1, Relaxed);
        }
    }

    /// A flow ended.
    pub(crate) fn release(&self, words: &Words, charge: Charge, embryonic: bool) {
        if let Some(owner) = charge.beginner {
            words[self.at + owner as usize].fetch_sub(FLOW + u64::from(embryonic), Relaxed);
        }
        if let Some(peer) = charge.peer {
            words[self.at + peer as usize].fetch_sub(FLOW, Relaxed);
        }
    }

    pub(crate) fn live_of_peer(&self, words: &Words, peer: PeerSlot) -> u32 {
        let owner = OWNERS + peer.index() % OWNERS;
        (words[self.at + owner as usize].load(Relaxed) >> 32) as u32
    }
}
