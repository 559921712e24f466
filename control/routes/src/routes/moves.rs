//! How long an instance that moved is still found where it was: its old node sends on what comes for it, its new node
//! takes that, and others take its last answers from there. The managers' rows name the nodes it was on, and so all agree.

use super::{LocalInstance, Routes};
use sluice_proto::ServiceName;
use sluice_proto::message::FormerPlace;
use sluice_proto::table_query::{Row, SENT_ON_MAX};
use sluice_tables::{InstanceSlot, PeerSlot, Placement, SENT_ON_S_MAX};
use sluice_wire::{Dual, InstanceIp, Ip, NsIp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const _: () = assert!(
    SENT_ON_MAX.as_secs() == SENT_ON_S_MAX as u64,
    "managers tell a node what it needs for as long as it may send on"
);
/// For so long the new node takes what former nodes send on. Longer, because it does not know when the old place ends:
/// the new one runs before.
pub(super) const TAKEN_FOR: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(super) struct Moves {
    left: Vec<Left>,
    came: Vec<Came>,
    /// Instances that went from one other node to another.
    on: BTreeMap<InstanceSlot, On>,
    /// Local instances that came before this gateway started.
    settled: BTreeSet<(ServiceName, u32)>,
}

/// An instance that ended here, and may have moved.
#[derive(Debug)]
struct Left {
    job: ServiceName,
    number: u32,
    epoch: u64,
    instance_ip: Dual<InstanceIp>,
    ns_ip: Dual<NsIp>,
    /// Set when the clock is looked at next.
    until: Option<Duration>,
}

/// A local instance that ran elsewhere before.
#[derive(Debug)]
struct Came {
    job: ServiceName,
    number: u32,
    former: Vec<(Ip, u16)>,
    slot: InstanceSlot,
    /// None when the time is over.
    peers: Vec<PeerSlot>,
    until: Option<Duration>,
}

/// An instance that runs elsewhere, and ran elsewhere before.
#[derive(Debug)]
struct On {
    /// Where this node believed it.
    peers: Vec<PeerSlot>,
    until: Option<Duration>,
}

impl Routes {
    /// For how many seconds nodes send on what comes for an instance that moved away: this one by its own tables, and others
    /// as far as its workers expect answers from there. See [`Writer::set_sent_on_s`](sluice_tables::Writer::set_sent_on_s).
    pub fn set_sent_on_s(&mut self, seconds: u32) {
        self.writer.set_sent_on_s(seconds);
    }

    pub(super) fn moves_due(&self) -> Option<Duration> {
        let left = self.moves.left.iter().map(|left| left.until);
        let came = self.moves.came.iter().filter(|came| !came.peers.is_empty());
        let on = self.moves.on.values().map(|on| on.until);
        left.chain(came.map(|came| came.until))
            .chain(on)
            .map(Option::unwrap_or_default)
            .min()
    }

    /// Ends what moves left behind. Returns whether the tables changed.
    pub(super) fn end_moves(&mut self, now: Duration) -> bool {
        let mut moves = std::mem::take(&mut self.moves);
        let mut changed = false;
        let sent_on_for = Duration::from_secs(self.tables().sent_on_s().into());
        moves.left.retain_mut(|left| {
            let stays = now < *left.until.get_or_insert(now + sent_on_for);
            if !stays {
                self.writer.end_left(left.ns_ip);
                changed = true;
            }
            stays
        });
        for came in &mut moves.came {
            if now >= *came.until.get_or_insert(now + TAKEN_FOR) {
                changed |= !came.peers.is_empty();
                self.end_came(came);
            }
        }
        self.moves = moves;
        let due = |on: &mut On| now >= *on.until.get_or_insert(now + sent_on_for);
        let ended = self
            .moves
            .on
            .iter_mut()
            .filter_map(|(slot, on)| due(on).then_some(*slot));
        for slot in ended.collect::<Vec<_>>() {
            self.end_on(slot);
            changed = true;
        }
        changed
    }

    /// This local instance ran here before the gateway started, nobody knows for how long: nothing is taken from the nodes
    /// that it was on, whose addresses may be others' by now.
    pub fn settle(&mut self, job: &ServiceName, number: u32) {
        self.moves.settled.insert((job.clone(), number));
    }

    /// A local instance ends, and may have moved.
    pub(super) fn note_end(&mut self, local: &LocalInstance) {
        let key = (local.job.clone(), local.number);
        self.moves.settled.remove(&key);
        let is = |came: &Came| came.job == local.job && came.number == local.number;
        if let Some(at) = self.moves.came.iter().position(is) {
            let mut came = self.moves.came.swap_remove(at);
            self.end_came(&mut came);
        }
        if local.epoch != 0 {
            self.moves.left.push(Left {
                job: local.job.clone(),
                number: local.number,
                epoch: local.epoch,
                instance_ip: local.instance_ip,
                ns_ip: local.ns_ip,
                until: None,
            });
        }
    }

    /// What still comes here for an instance that ended here is sent on, if the row says that it moved and that it was here.
    pub(super) fn send_on(&mut self, job: &ServiceName, row: &Row) {
        let was_here = |former: &FormerPlace| self.own == Some(former.address());
        if self.moves.left.is_empty() || !row.former.iter().any(was_here) {
            return;
        }
        let slot = self
            .jobs
            .get(job)
            .and_then(|job| job.instances.get(&row.number));
        let Some(&slot) = slot.filter(|slot| {
            let row = self.tables().instance(**slot);
            row.is_some_and(|row| matches!(row.placement, Placement::Peer(_)))
        }) else {
            return;
        };
        let left = self.moves.left.iter().filter(|left| {
            left.job == *job
                && left.number == row.number
                && left.epoch == row.epoch
                && left.instance_ip == row.instance_ip
        });
        for left in left {
            self.writer.set_left(left.ns_ip, slot);
        }
    }

    /// What still comes for a local instance where it was before is taken from there.
    pub(super) fn take_over(&mut self, job: &ServiceName, row: &Row) {
        let key = (job.clone(), row.number);
        if self.moves.settled.contains(&key) {
            return;
        }
        let slot = self
            .local
            .get(&key)
            .filter(|it| it.instance_ip == row.instance_ip && !row.former.is_empty())
            .and_then(|it| it.ns_ip.iter().find_map(|ip| self.tables().local(ip)));
        let Some(slot) = slot else { return };
        self.end_on(slot);
        let is = |came: &Came| came.job == *job && came.number == row.number;
        let known = self.moves.came.iter().position(is);
        let places: Vec<(Ip, u16)> = row.former.iter().map(|former| former.address()).collect();
        let until = match known.map(|at| self.moves.came.swap_remove(at)) {
            Some(came) if came.former == places => {
                self.moves.came.push(came);
                return;
            }
            Some(mut came) => {
                self.end_came(&mut came);
                // Another last place is another move, whose time begins now.
                let same_move = came.former.last() == places.last();
                came.until.filter(|_| same_move)
            }
            None => None,
        };
        let own = self.own;
        let elsewhere = row.former.iter().filter(|it| own != Some(it.address()));
        let peers: Vec<PeerSlot> = elsewhere
            .filter_map(|former| {
                let (ip, port) = former.address();
                let format = self.former_format(former.public_key, ip, port)?;
                let mtu = (self.peer_mtu)(ip, port, format);
                let peer = self.writer.upsert_peer(ip, port, format, mtu);
                *self.peers.entry(peer).or_default() += 1;
                Some(peer)
            })
            .collect();
        self.writer.set_came(slot, peers.clone());
        self.moves.came.push(Came {
            job: job.clone(),
            number: row.number,
            former: places,
            slot,
            peers,
            until,
        });
    }

    /// The row says that an instance elsewhere went on to another node: its answers that are on their way from where it was
    /// are taken for a moment. Not from an address that its node has given up. To be called before the row is written.
    pub(super) fn note_move(&mut self, slot: InstanceSlot, row: &Row, to: Placement) {
        let (Some(known), Placement::Peer(to)) = (self.tables().instance(slot), to) else {
            return;
        };
        let Placement::Peer(from) = known.placement else {
            return;
        };
        let is_former = |ip: Ip, port: u16| row.former.iter().any(|it| it.address() == (ip, port));
        let peer = self.tables().peer(from);
        if from == to
            || known.instance_ip != row.instance_ip
            || !peer.is_some_and(|peer| is_former(peer.node, peer.port))
        {
            return;
        }
        let known = self.moves.on.remove(&slot);
        let mut peers = known.map_or_else(Vec::new, |on| on.peers);
        if !peers.contains(&from) {
            *self.peers.entry(from).or_default() += 1;
            peers.push(from);
        }
        self.writer.set_came(slot, peers.clone());
        self.moves.on.insert(slot, On { peers, until: None });
    }

    /// Nothing of the instance is taken any more from where it was.
    pub(super) fn end_on(&mut self, slot: InstanceSlot) {
        if let Some(on) = self.moves.on.remove(&slot) {
            self.writer.set_came(slot, Vec::new());
            for peer in on.peers {
                self.release_peer(peer);
            }
        }
    }

    fn end_came(&mut self, came: &mut Came) {
        if came.peers.is_empty() {
            return;
        }
        self.writer.set_came(came.slot, Vec::new());
        for peer in came.peers.drain(..) {
            self.release_peer(peer);
        }
    }
}
