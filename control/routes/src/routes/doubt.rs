//! Which instances are suspect: delivery to them failed, or their node is lost. They take no new flow while another
//! instance of their service is there; their flows stay.

use super::Routes;
use sluice_proto::ServiceName;
use sluice_proto::liveness::NodeAddress;
use sluice_tables::{Instance, InstanceSlot, InstanceState, PeerSlot, Placement, ServiceSlot};
use sluice_wire::{Dual, Family, Ip, Subnet};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What is in doubt.
#[derive(Debug)]
pub(super) struct Doubts {
    pub(super) instances: BTreeSet<InstanceSlot>,
    pub(super) lost: BTreeSet<PeerSlot>,
    /// Jobs of which other instances are suspect than the last time somebody asked.
    changed: BTreeSet<ServiceName>,
}

impl Doubts {
    pub(super) const fn new() -> Self {
        Self {
            instances: BTreeSet::new(),
            lost: BTreeSet::new(),
            changed: BTreeSet::new(),
        }
    }
}

/// A node that packets go to, or may go to at any moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NodeInUse {
    pub address: NodeAddress,
    /// Its gateway's own address, as our plan numbers nodes' subnets.
    pub gateway: Dual<Ip>,
}

impl Routes {
    /// Delivery to an instance failed, if it is still the one meant: others take new flows. Returns its job.
    pub fn suspect(&mut self, slot: InstanceSlot, epoch: u32) -> Option<ServiceName> {
        self.tables().instance_at(slot, epoch)?;
        self.doubts.instances.insert(slot);
        self.write_doubt(slot)
    }

    /// Believes an instance again, as far as its node is there.
    pub fn trust(&mut self, slot: InstanceSlot) {
        self.doubts.instances.remove(&slot);
        self.write_doubt(slot);
    }

    /// A node is lost, or found again. Returns the jobs that have instances there; none when that was known.
    pub fn set_lost(&mut self, (ip, port): NodeAddress, lost: bool) -> BTreeSet<ServiceName> {
        let Some(peer) = self.peer_at((ip, port)) else {
            return BTreeSet::new();
        };
        let is_new = if lost {
            self.doubts.lost.insert(peer)
        } else {
            self.doubts.lost.remove(&peer)
        };
        if !is_new {
            return BTreeSet::new();
        }
        let here: Vec<InstanceSlot> = self
            .placed
            .iter()
            .filter(|(_, at)| **at == peer)
            .map(|(slot, _)| *slot)
            .collect();
        here.into_iter()
            .filter_map(|slot| self.write_doubt(slot))
            .collect()
    }

    /// Whether any instance is placed on the node.
    #[must_use]
    pub fn is_node(&self, node: NodeAddress) -> bool {
        self.peer_at(node).is_some()
    }

    /// When the workers last noticed anything from a node, by their clock.
    #[must_use]
    pub fn heard(&self, node: NodeAddress) -> Option<Duration> {
        let peer = self.tables().peer(self.peer_at(node)?)?;
        Some(Duration::from_nanos(peer.heard.last_ns())).filter(|at| !at.is_zero())
    }

    /// The nodes of all services with an instance that packets from here used at or after `since_s` of the workers' clock, be it
    /// one on this node: the next flow may go to any of them.
    #[must_use]
    pub fn nodes_in_use(&self, since_s: u32) -> Vec<NodeInUse> {
        let tables = self.tables();
        let rows = || {
            let placed = self.placed.iter();
            placed.filter_map(|(slot, peer)| Some((tables.instance(*slot)?, *peer)))
        };
        // Of what runs here, others' calls say nothing.
        let is_called_here = |row: &&Instance| {
            let service = tables.service(row.service);
            row.placement == Placement::Local
                && service.is_some_and(|service| service.used.last_s() >= since_s)
        };
        let here = tables.instances().map(|(_, row)| row);
        let busy: BTreeSet<ServiceSlot> = rows()
            .map(|(row, _)| row)
            .chain(here.filter(is_called_here))
            .filter(|row| row.busy.last_s() >= since_s)
            .map(|row| row.service)
            .collect();
        let mut nodes: BTreeMap<PeerSlot, Dual<Ip>> = BTreeMap::new();
        for (row, peer) in rows() {
            let is_used = busy.contains(&row.service);
            if is_used {
                let gateway = nodes.entry(peer).or_default();
                let of = |family| self.gateway_beside(row.ns_ip.of(family)?.ip());
                gateway.v4 = gateway.v4.or_else(|| of(Family::V4));
                gateway.v6 = gateway.v6.or_else(|| of(Family::V6));
            }
        }
        nodes
            .into_iter()
            .filter_map(|(slot, gateway)| {
                let peer = tables.peer(slot)?;
                Some(NodeInUse {
                    address: (peer.node, peer.port),
                    gateway,
                })
            })
            .collect()
    }

    /// Writes what an instance's state is by now. Returns its job.
    pub(super) fn write_doubt(&mut self, slot: InstanceSlot) -> Option<ServiceName> {
        self.write_state(slot);
        let job = self.job_of(slot)?;
        self.write_candidates(&job);
        Some(job)
    }

    pub(super) fn write_state(&mut self, slot: InstanceSlot) {
        let on_lost = self
            .placed
            .get(&slot)
            .is_some_and(|peer| self.doubts.lost.contains(peer));
        let suspect = on_lost || self.doubts.instances.contains(&slot);
        if self.is_suspect(slot) != suspect
            && let Some(job) = self.job_of(slot)
        {
            self.doubts.changed.insert(job);
        }
        self.writer.set_suspect(slot, suspect);
    }

    fn is_suspect(&self, slot: InstanceSlot) -> bool {
        let row = self.tables().instance(slot);
        row.is_some_and(|row| row.state == InstanceState::Suspect)
    }

    /// The numbers of the job's suspect instances, listed or not.
    #[must_use]
    pub fn suspects_of(&self, job: &ServiceName) -> BTreeSet<u32> {
        let instances = self
            .jobs
            .get(job)
            .into_iter()
            .flat_map(|job| &job.instances);
        let suspect = instances.filter(|(_, slot)| self.is_suspect(**slot));
        suspect.map(|(number, _)| *number).collect()
    }

    /// The jobs of which other instances are suspect than at the last call of this, with those that are.
    pub fn take_doubted(&mut self) -> Vec<(ServiceName, BTreeSet<u32>)> {
        let changed = std::mem::take(&mut self.doubts.changed).into_iter();
        changed
            .map(|job| {
                let suspects = self.suspects_of(&job);
                (job, suspects)
            })
            .collect()
    }

    fn peer_at(&self, (ip, port): NodeAddress) -> Option<PeerSlot> {
        self.writer.peer_at(ip, port)
    }

    /// The first address of the node's subnet that has this one.
    fn gateway_beside(&self, ns_ip: Ip) -> Option<Ip> {
        let plan = &self.tables().plan;
        let (length, bits) = match ns_ip.family() {
            Family::V4 => (plan.node_length_v4, 32_u8),
            Family::V6 => (plan.node_length_v6, 128),
        };
        let host_bits = u32::from(bits.saturating_sub(length));
        let network = Ip::from_bits(ns_ip.to_bits() >> host_bits << host_bits);
        Subnet::new(network, length).ok()?.nth(1)
    }
}
