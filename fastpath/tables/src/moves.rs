//! Instances that moved a moment ago: those that left this node and are still called here, and those that came and are
//! still called where they were. Control ends what it says here; there is no clock in it.

use crate::publish::Writer;
use crate::slots::{InstanceSlot, PeerSlot};
use crate::snapshot::Tables;
use sluice_wire::{Dual, Ip, NsIp};
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Clone, Debug, Default)]
pub(crate) struct Moves {
    /// By the NsIP that it had here.
    left: HashMap<NsIp, InstanceSlot>,
    /// The nodes that it came from.
    came: HashMap<InstanceSlot, Vec<PeerSlot>>,
}

impl Tables {
    /// Whether any instance left or came a moment ago.
    #[inline]
    #[must_use]
    pub fn knows_moves(&self) -> bool {
        !self.moves.left.is_empty() || !self.moves.came.is_empty()
    }

    /// The instance that had this NsIP here until a moment ago, and that nobody has here now.
    #[must_use]
    pub fn left(&self, ns_ip: NsIp) -> Option<InstanceSlot> {
        let slot = self.moves.left.get(&ns_ip).copied()?;
        self.local(ns_ip).is_none().then_some(slot)
    }

    /// Whether the instance was here until a moment ago.
    #[must_use]
    pub fn has_left(&self, slot: InstanceSlot) -> bool {
        self.moves.left.values().any(|left| *left == slot)
    }

    /// The node at that address from which the instance came here a moment ago.
    #[must_use]
    pub fn came_from(&self, slot: InstanceSlot, outer: Ip) -> Option<PeerSlot> {
        let at = |peer: &PeerSlot| self.peer(*peer).is_some_and(|peer| peer.ip == outer);
        self.moves.came.get(&slot)?.iter().copied().find(at)
    }

    /// Whether the instance came here from that node a moment ago.
    #[must_use]
    pub fn came_by(&self, slot: InstanceSlot, peer: PeerSlot) -> bool {
        let came = self.moves.came.get(&slot);
        came.is_some_and(|peers| peers.contains(&peer))
    }
}

impl Writer {
    /// The instance is elsewhere now; what still comes for the NsIPs that it had here is sent on, until
    /// [`Writer::end_left`].
    pub fn set_left(&mut self, ns_ip: Dual<NsIp>, slot: InstanceSlot) {
        let moves = Arc::make_mut(&mut self.tables_mut().moves);
        moves.left.extend(ns_ip.iter().map(|ip| (ip, slot)));
    }

    /// Nothing is sent on any more that comes for these NsIPs.
    pub fn end_left(&mut self, ns_ip: Dual<NsIp>) {
        let moves = Arc::make_mut(&mut self.tables_mut().moves);
        for ip in ns_ip.iter() {
            moves.left.remove(&ip);
        }
    }

    /// The instance came here from `peers`, which may send on what still comes for it there; none ends that.
    pub fn set_came(&mut self, slot: InstanceSlot, peers: Vec<PeerSlot>) {
        let moves = Arc::make_mut(&mut self.tables_mut().moves);
        if peers.is_empty() {
            moves.came.remove(&slot);
        } else {
            moves.came.insert(slot, peers);
        }
    }

    /// The slot may be used for another instance.
    pub(crate) fn forget_moves(&mut self, slot: InstanceSlot) {
        let tables = self.tables_mut();
        if tables.has_left(slot) || tables.moves.came.contains_key(&slot) {
            let moves = Arc::make_mut(&mut tables.moves);
            moves.left.retain(|_, left| *left != slot);
            moves.came.remove(&slot);
        }
    }
}
