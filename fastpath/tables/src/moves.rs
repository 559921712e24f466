//! Instances that moved a moment ago: those that left this node and are still called here, and the nodes where others were
//! until then, from which something of them may still come. Control ends what it says here; there is no clock in it.

use crate::publish::Writer;
use crate::slots::{InstanceSlot, PeerSlot};
use crate::snapshot::Tables;
use sluice_wire::{Dual, Ip, NsIp};
use std::collections::HashMap;
use std::sync::Arc;

/// For so many seconds the old node sends on after the instance ended there, unless told otherwise. Callers' nodes are told
/// of the move in far less; one that cannot be told asks anew when this is over.
pub const SENT_ON_S: u32 = 30;
/// The most that [`Writer::set_sent_on_s`] is to be told: the old NsIP rests for longer before it is another's.
pub const SENT_ON_S_MAX: u32 = 120;

#[derive(Clone, Debug)]
pub(crate) struct Moves {
    sent_on_s: u32,
    /// By the NsIP that it had here.
    left: HashMap<NsIp, InstanceSlot>,
    /// Those of them, and by how many NsIPs: asked for by strangers' packets, so it is no search.
    gone: HashMap<InstanceSlot, usize>,
    /// The nodes that it came from, to this one or to another.
    came: HashMap<InstanceSlot, Vec<PeerSlot>>,
}

impl Default for Moves {
    fn default() -> Self {
        Self {
            sent_on_s: SENT_ON_S,
            left: HashMap::new(),
            gone: HashMap::new(),
            came: HashMap::new(),
        }
    }
}

impl Moves {
    fn insert_left(&mut self, ns_ip: NsIp, slot: InstanceSlot) {
        *self.gone.entry(slot).or_default() += 1;
        let former = self.left.insert(ns_ip, slot);
        self.uncount(former);
    }

    fn remove_left(&mut self, ns_ip: NsIp) {
        let former = self.left.remove(&ns_ip);
        self.uncount(former);
    }

    fn uncount(&mut self, former: Option<InstanceSlot>) {
        if let Some(slot) = former
            && let Some(count) = self.gone.get_mut(&slot)
        {
            *count -= 1;
            if *count == 0 {
                self.gone.remove(&slot);
            }
        }
    }
}

impl Tables {
    /// Whether any instance left or came a moment ago.
    #[inline]
    #[must_use]
    pub fn knows_moves(&self) -> bool {
        !self.moves.left.is_empty() || !self.moves.came.is_empty()
    }

    /// For so many seconds an old node sends on, this one as well as the others.
    #[inline]
    #[must_use]
    pub fn sent_on_s(&self) -> u32 {
        self.moves.sent_on_s
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
        self.moves.gone.contains_key(&slot)
    }

    /// The node at that address from which the instance came a moment ago to where it is.
    #[must_use]
    pub fn came_from(&self, slot: InstanceSlot, outer: Ip) -> Option<PeerSlot> {
        let at = |peer: &PeerSlot| self.peer(*peer).is_some_and(|peer| peer.ip == outer);
        self.moves.came.get(&slot)?.iter().copied().find(at)
    }

    /// Whether the instance came from that node a moment ago to where it is.
    #[must_use]
    pub fn came_by(&self, slot: InstanceSlot, peer: PeerSlot) -> bool {
        let came = self.moves.came.get(&slot);
        came.is_some_and(|peers| peers.contains(&peer))
    }
}

impl Writer {
    /// For how many seconds an old node sends on, at most [`SENT_ON_S_MAX`]; 0: not at all. Control ends by it what this node
    /// sends on, and workers by it that they answer by a node that has stopped. So it is to be the same on all nodes.
    pub fn set_sent_on_s(&mut self, seconds: u32) {
        Arc::make_mut(&mut self.tables_mut().moves).sent_on_s = seconds;
    }

    /// The instance is elsewhere now; what still comes for the NsIPs that it had here is sent on, until
    /// [`Writer::end_left`].
    pub fn set_left(&mut self, ns_ip: Dual<NsIp>, slot: InstanceSlot) {
        let moves = Arc::make_mut(&mut self.tables_mut().moves);
        for ip in ns_ip.iter() {
            moves.insert_left(ip, slot);
        }
    }

    /// Nothing is sent on any more that comes for these NsIPs.
    pub fn end_left(&mut self, ns_ip: Dual<NsIp>) {
        let moves = Arc::make_mut(&mut self.tables_mut().moves);
        for ip in ns_ip.iter() {
            moves.remove_left(ip);
        }
    }

    /// The instance came from `peers`: to this node, and they may send on what still comes for it there; or to another, and
    /// its last answers may still come from them. None ends that.
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
            moves.gone.remove(&slot);
            moves.came.remove(&slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::Slot;
    use sluice_wire::AddressPlan;

    /// However NsIPs come and go: an instance has left while one of its NsIPs here is still called.
    #[test]
    fn who_has_left_is_who_is_still_called_here() {
        let mut writer = Writer::new(AddressPlan::oakestra(), Dual::default());
        let [one, other] = [1, 2].map(InstanceSlot::from_index);
        let v4 = NsIp::new(Ip::v4([10, 18, 0, 2]));
        let v6 = NsIp::new("fc00::2".parse().unwrap());
        let only = |v4, v6| Dual { v4, v6 };
        let left = |writer: &Writer| [one, other].map(|slot| writer.tables().has_left(slot));
        assert_eq!(left(&writer), [false, false]);
        writer.set_left(Dual::both(v4, v6), one);
        writer.set_left(Dual::both(v4, v6), one);
        assert_eq!(left(&writer), [true, false]);
        // The NsIP was given again, to one that has left by now, too.
        writer.set_left(only(Some(v4), None), other);
        assert_eq!(left(&writer), [true, true]);
        writer.end_left(only(Some(v4), None));
        writer.end_left(only(Some(v4), None));
        assert_eq!(left(&writer), [true, false]);
        writer.end_left(Dual::both(v4, v6));
        assert_eq!(left(&writer), [false, false]);
        assert!(!writer.tables().knows_moves());
        writer.set_left(Dual::both(v4, v6), one);
        writer.forget_moves(one);
        assert_eq!(left(&writer), [false, false]);
        writer.set_left(Dual::both(v4, v6), one);
        writer.end_left(Dual::both(v4, v6));
        assert_eq!(left(&writer), [false, false]);
    }
}
