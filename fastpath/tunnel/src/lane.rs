//! What the peers of one lane have in common: who we are, the names of sessions, what is to be sent and told.

use crate::address::Address;
use crate::entropy::Entropy;
use crate::key::{Identity, PublicKey};
use crate::key_log::KeyLog;
use crate::noise::Timestamp;
use crate::noise::message::INITIATION_LEN;
use sluice_tables::PeerSlot;
use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::time::Duration;

/// A datagram to be sent: a handshake message or a keepalive.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Transmit {
    pub to: Address,
    bytes: [u8; INITIATION_LEN],
    len: usize,
}

impl Transmit {
    /// # Panics
    /// If the datagram is longer than an initiation, the longest of them.
    pub(crate) fn new(to: Address, datagram: &[u8]) -> Self {
        let mut bytes = [0; INITIATION_LEN];
        bytes[..datagram.len()].copy_from_slice(datagram);
        Self {
            to,
            bytes,
            len: datagram.len(),
        }
    }

    #[must_use]
    pub fn datagram(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What happened to a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// It has a new session, so that packets held for it can go.
    Established { peer: PeerSlot },
    /// Its sessions are others than before: whoever keeps them by index reads them anew.
    SessionsChanged { peer: PeerSlot },
    /// Authentic packets come from another address now, and ours go there.
    Roamed { peer: PeerSlot, address: Address },
    /// It did not answer initiations for [`crate::timers::REKEY_ATTEMPT_TIME`]: packets held for it are to be dropped.
    Unreachable { peer: PeerSlot },
    /// Somebody who has this key's private half wants a session, and is no peer. Its initiation is kept for a few seconds: it is
    /// answered if the key is made a peer's before they are over.
    Unknown { key: PublicKey, from: Address },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) identity: Identity,
    pub(crate) entropy: Entropy,
    pub(crate) key_log: KeyLog,
    /// Whose sessions and handshakes our receiver indices name.
    indices: HashMap<u32, PeerSlot>,
    pub(crate) transmits: VecDeque<Transmit>,
    pub(crate) events: VecDeque<Event>,
    /// The time since 1970, and `now` when it was read.
    wall_clock: (Duration, Duration),
}

impl Lane {
    pub(crate) fn new(identity: Identity, entropy: Entropy, unix: Duration, now: Duration) -> Self {
        Self {
            identity,
            entropy,
            key_log: KeyLog::default(),
            indices: HashMap::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            wall_clock: (unix, now),
        }
    }

    pub(crate) const fn set_wall_clock(&mut self, unix: Duration, now: Duration) {
        self.wall_clock = (unix, now);
    }

    pub(crate) fn timestamp(&self, now: Duration) -> Timestamp {
        let (unix, then) = self.wall_clock;
        Timestamp::at(unix + now.saturating_sub(then))
    }

    /// A name for a session of the peer: random, so that it tells nothing, and of no other session.
    pub(crate) fn draw_index(&mut self, peer: PeerSlot) -> u32 {
        loop {
            let index = self.entropy.index();
            if let Entry::Vacant(free) = self.indices.entry(index) {
                free.insert(peer);
                return index;
            }
        }
    }

    pub(crate) fn free_index(&mut self, index: u32) {
        self.indices.remove(&index);
    }

    pub(crate) fn peer_of(&self, index: u32) -> Option<PeerSlot> {
        self.indices.get(&index).copied()
    }

    #[cfg(test)]
    pub(crate) fn indices(&self) -> usize {
        self.indices.len()
    }

    pub(crate) fn transmit(&mut self, to: Address, datagram: &[u8]) {
        self.transmits.push_back(Transmit::new(to, datagram));
    }

    pub(crate) fn tell(&mut self, event: Event) {
        self.events.push_back(event);
    }
}
