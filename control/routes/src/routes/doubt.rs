//! Which instances are suspect: delivery to them failed, or their node is lost. They take no new flow while another
//! instance of their service is there; their flows stay.

use super::Routes;
use sluice_proto::ServiceName;
use sluice_proto::liveness::NodeAddress;
use sluice_proto::table_query::Row;
use sluice_tables::{Instance, InstanceSlot, InstanceState, PeerSlot, Placement, ServiceSlot};
use sluice_wire::{Dual, Family, Ip, NsIp, Subnet};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What is in doubt.
#[derive(Debug)]
pub(super) struct Doubts {
    pub(super) instances: BTreeSet<InstanceSlot>,
    pub(super) lost: BTreeSet<PeerSlot>,
    /// Instances beside which a gateway answers probes, as it says.
    pub(super) probed_beside: BTreeSet<InstanceSlot>,
    /// Jobs of which other instances are suspect than the last time somebody asked.
    changed: BTreeSet<ServiceName>,
}

impl Doubts {
    pub(super) const fn new() -> Self {
        Self {
            instances: BTreeSet::new(),
            lost: BTreeSet::new(),
            probed_beside: BTreeSet::new(),
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
    /// The gateway says that it answers probes there, and this node has an address of a family to ask from.
    pub answers_probes: bool,
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

    /// Whether others that probe beside this NsIP of ours, as [`Routes::nodes_in_use`] does, find this gateway. Not where
    /// instances are hosts of a LAN, in its subnets.
    #[must_use]
    pub fn is_probed_beside(&self, ns_ip: &Dual<NsIp>) -> bool {
        let own = self.tables().gateway;
        let mut all = ns_ip.iter().map(NsIp::ip);
        all.all(|ip| {
            own.of(ip.family()).is_some() && self.gateway_beside(ip) == own.of(ip.family())
        })
    }

    /// Notes what the managers say of the gateway beside an instance.
    pub(super) fn note_answers(&mut self, slot: InstanceSlot, row: &Row) {
        if row.place.as_ref().is_some_and(|place| place.answers_probes) {
            self.doubts.probed_beside.insert(slot);
        } else {
            self.doubts.probed_beside.remove(&slot);
        }
    }

    pub(super) fn forget_answers(&mut self, slot: InstanceSlot) {
        self.doubts.probed_beside.remove(&slot);
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
            placed.filter_map(|(slot, peer)| Some((*slot, tables.instance(*slot)?, *peer)))
        };
        // Of what runs here, others' calls say nothing.
        let is_called_here = |row: &&Instance| {
            let service = tables.service(row.service);
            row.placement == Placement::Local
                && service.is_some_and(|service| service.used.last_s() >= since_s)
        };
        let here = tables.instances().map(|(_, row)| row);
        let busy: BTreeSet<ServiceSlot> = rows()
            .map(|(_, row, _)| row)
            .chain(here.filter(is_called_here))
            .filter(|row| row.busy.last_s() >= since_s)
            .map(|row| row.service)
            .collect();
        let mut nodes: BTreeMap<PeerSlot, (bool, Dual<Ip>)> = BTreeMap::new();
        for (slot, row, peer) in rows().filter(|(_, row, _)| busy.contains(&row.service)) {
            let says = self.doubts.probed_beside.contains(&slot);
            let (is_said, gateway) = nodes.entry(peer).or_default();
            if says && !*is_said {
                // Where it says that it answers, and not where else it might.
                (*is_said, *gateway) = (true, Dual::default());
            }
            if says == *is_said {
                let of = |family| self.gateway_beside(row.ns_ip.of(family)?.ip());
                gateway.v4 = gateway.v4.or_else(|| of(Family::V4));
                gateway.v6 = gateway.v6.or_else(|| of(Family::V6));
            }
        }
        let own = tables.gateway;
        let can_ask = |gateway: &Dual<Ip>| {
            let mut families = [Family::V4, Family::V6].into_iter();
            families.any(|family| gateway.of(family).is_some() && own.of(family).is_some())
        };
        nodes
            .into_iter()
            .filter_map(|(slot, (is_said, gateway))| {
                let peer = tables.peer(slot)?;
                Some(NodeInUse {
                    address: (peer.node, peer.port),
                    gateway,
                    answers_probes: is_said && can_ask(&gateway),
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
