//! The tunnels in use, at most k of them: the least recently used one goes first, idle ones close by themselves.
//!
//! A plain tunnel has no state of its own, so closing it only ends its row here; for encrypted formats it will
//! end the session.

use sluice_tables::PeerSlot;
use sluice_tables::slots::Slot;

/// One active tunnel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tunnel {
    pub peer: PeerSlot,
    /// The peer row's epoch: a slot used for another peer is another tunnel.
    pub epoch: u32,
    pub opened_s: u32,
    pub last_used_s: u32,
}

/// A use that was noted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Noted {
    peer: PeerSlot,
    epoch: u32,
    now_s: u32,
}

/// One worker's active tunnels. Live flows are counted by the flow table, which all workers share; whoever
/// asks for room passes that count in.
#[derive(Debug)]
pub struct Tunnels {
    /// By peer slot, so that a packet finds its tunnel without a search.
    by_slot: Vec<Option<Tunnel>>,
    /// What was noted last, of a tunnel that is still active: noting it again changes nothing.
    noted: Option<Noted>,
    active: usize,
    active_max: usize,
    idle_s: u32,
    evicted: u64,
}

impl Tunnels {
    /// At most `active_max` (at least 1) tunnels, each closed after `idle_s` seconds without a packet or live flow.
    #[must_use]
    pub fn new(active_max: usize, idle_s: u32) -> Self {
        Self {
            by_slot: Vec::new(),
            noted: None,
            active: 0,
            active_max: active_max.max(1),
            idle_s,
            evicted: 0,
        }
    }

    /// Notes a packet to or from the peer, and opens its tunnel if there is none. `flows` tells a peer's live flows; it is
    /// asked only when another tunnel must go.
    #[inline(always)]
    pub fn touch(
        &mut self,
        peer: PeerSlot,
        epoch: u32,
        now_s: u32,
        flows: impl Fn(PeerSlot) -> u32,
    ) {
        if self.noted != Some(Noted { peer, epoch, now_s }) {
            self.note(peer, epoch, now_s, flows);
        }
    }

    #[inline(never)]
    fn note(&mut self, peer: PeerSlot, epoch: u32, now_s: u32, flows: impl Fn(PeerSlot) -> u32) {
        match self.by_slot.get_mut(peer.index() as usize) {
            Some(Some(tunnel)) if tunnel.epoch == epoch => tunnel.last_used_s = now_s,
            _ => self.open(peer, epoch, now_s, flows),
        }
        self.noted = Some(Noted { peer, epoch, now_s });
    }

    /// Closes tunnels that were idle too long and carry no live flow. Returns how many.
    pub fn handle_timeout(&mut self, now_s: u32, flows: impl Fn(PeerSlot) -> u32) -> usize {
        let before = self.active;
        self.noted = None;
        for row in &mut self.by_slot {
            if let Some(tunnel) = row
                && now_s.saturating_sub(tunnel.last_used_s) >= self.idle_s
                && flows(tunnel.peer) == 0
            {
                *row = None;
                self.active -= 1;
            }
        }
        before - self.active
    }

    /// The second in which [`Tunnels::handle_timeout`] may have something to close; `None` while no tunnel is active.
    /// Changes with every call that takes `&mut self`.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u32> {
        if self.active == 0 {
            return None;
        }
        let oldest = self.iter().map(|tunnel| tunnel.last_used_s).min()?;
        Some(oldest.saturating_add(self.idle_s))
    }

    #[must_use]
    pub const fn len(&self) -> usize {
        self.active
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.active == 0
    }

    /// Tunnels closed to make room.
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }

    pub fn iter(&self) -> impl Iterator<Item = &Tunnel> {
        self.by_slot.iter().flatten()
    }

    #[cold]
    fn open(&mut self, peer: PeerSlot, epoch: u32, now_s: u32, flows: impl Fn(PeerSlot) -> u32) {
        let at = peer.index() as usize;
        if at >= self.by_slot.len() {
            // Only a peer never seen before gets here, which control announces first.
            self.by_slot.resize(at + 1, None);
        }
        let known = self.by_slot.get(at).is_some_and(Option::is_some);
        if !known && self.active >= self.active_max {
            self.evict(flows);
        }
        if let Some(row) = self.by_slot.get_mut(at) {
            *row = Some(Tunnel {
                peer,
                epoch,
                opened_s: now_s,
                last_used_s: now_s,
            });
            self.active += usize::from(!known);
        }
    }

    /// Closes the least recently used tunnel without live flows, or, when all have some, the least recently used.
    fn evict(&mut self, flows: impl Fn(PeerSlot) -> u32) {
        let victim = self
            .iter()
            .min_by_key(|tunnel| (flows(tunnel.peer) > 0, tunnel.last_used_s))
            .map(|tunnel| tunnel.peer.index() as usize);
        if let Some(row) = victim.and_then(|at| self.by_slot.get_mut(at)) {
            *row = None;
            self.active -= 1;
            self.evicted += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(tunnels: &Tunnels) -> Vec<u32> {
        tunnels.iter().map(|tunnel| tunnel.peer.index()).collect()
    }

    #[test]
    fn the_least_recently_used_tunnel_goes_first_but_not_with_live_flows() {
        let slot = PeerSlot::from_index;
        let mut tunnels = Tunnels::new(3, 300);
        for (now_s, peer) in [1, 2, 3].into_iter().enumerate() {
            tunnels.touch(slot(peer), 0, u32::try_from(now_s).unwrap(), |_| 0);
        }
        let only_one_has_flows = |peer: PeerSlot| u32::from(peer.index() == 1);
        tunnels.touch(slot(4), 0, 10, only_one_has_flows);
        assert_eq!(peers(&tunnels), [1, 3, 4]);
        tunnels.touch(slot(5), 0, 11, |_| 1);
        assert_eq!(
            peers(&tunnels),
            [3, 4, 5],
            "all have flows: the oldest goes"
        );
        assert_eq!((tunnels.len(), tunnels.evicted()), (3, 2));
    }

    #[test]
    fn idle_tunnels_close_unless_a_flow_lives() {
        let slot = PeerSlot::from_index;
        let mut tunnels = Tunnels::new(8, 300);
        tunnels.touch(slot(1), 0, 0, |_| 0);
        tunnels.touch(slot(2), 0, 0, |_| 0);
        tunnels.touch(slot(3), 0, 100, |_| 0);
        assert_eq!(tunnels.poll_timeout(), Some(300));
        assert_eq!(tunnels.handle_timeout(299, |_| 0), 0);
        assert_eq!(
            tunnels.handle_timeout(300, |peer| u32::from(peer.index() == 2)),
            1
        );
        assert_eq!(peers(&tunnels), [2, 3]);
        assert_eq!(tunnels.handle_timeout(400, |_| 0), 2);
        assert_eq!(tunnels.poll_timeout(), None);
        assert!(tunnels.is_empty());
    }

    #[test]
    fn a_slot_used_for_another_peer_is_another_tunnel() {
        let mut tunnels = Tunnels::new(8, 300);
        tunnels.touch(PeerSlot::from_index(1), 0, 5, |_| 0);
        tunnels.touch(PeerSlot::from_index(1), 1, 9, |_| 0);
        let tunnel = tunnels.iter().next().unwrap();
        assert_eq!((tunnels.len(), tunnel.epoch, tunnel.opened_s), (1, 1, 9));
    }
}
