//! The snapshot a worker reads: instances, services and peers in stable slots, and the indexes that find them.

use crate::moves::Moves;
use crate::permits::{Isolation, Permits};
use crate::route::{PeerRoute, PeerRoutes, Route, Routed, Routes};
use crate::session::TunnelFormat;
use crate::slots::{Index, InstanceSlot, PeerSlot, Rows, ServiceSlot, Slot};
use sluice_wire::{AddressPlan, Dual, Family, InstanceIp, Ip, NsIp, ServiceIp};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// How a ServiceIP chooses an instance (thesis 3.6.1).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Policy {
    RoundRobin,
}

/// What a semantic address means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    Service {
        service: ServiceSlot,
        policy: Policy,
    },
    Instance(InstanceSlot),
}

/// What the tables say about a semantic address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Known {
    Target(Target),
    /// The service exists, but no instance can be reached now; or nobody who can be asked knows what this is.
    Unavailable,
    /// The managers say that nothing has this address.
    Absent,
}

/// Where an instance runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Placement {
    /// On this node.
    Local,
    Peer(PeerSlot),
    /// Known by identity only.
    Nowhere,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InstanceState {
    Live,
    /// Delivery failed lately: takes no new flow while another instance lives; its flows stay.
    Suspect,
    /// Explicitly withdrawn: its flows end. The row stays until the slot is used again, with a higher epoch.
    Withdrawn,
}

/// Who may begin a conversation with an instance from this node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reach {
    Any,
    /// It may call us; we may only answer.
    ReplyOnly,
}

/// When something was last used by a packet, in whole seconds of the worker's clock; shared by all snapshots.
#[derive(Clone, Debug, Default)]
pub struct Used(Arc<AtomicU32>);

impl Used {
    /// Notes a use. Stores only when the second changed, so that a hot row's cache line stays shared.
    #[inline]
    pub fn touch(&self, now_s: u32) {
        if self.0.load(Ordering::Relaxed) != now_s {
            self.0.store(now_s, Ordering::Relaxed);
        }
    }

    /// The second of the last use; 0 before the first.
    #[must_use]
    pub fn last_s(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// When a node was last heard; shared by all snapshots. Workers look at one batch in some, so it is a lower bound.
#[derive(Clone, Debug, Default)]
pub struct Heard(Arc<AtomicU32>);

/// Nanoseconds of one step of [`Heard`], as a power of two: 67 ms, so that 32 bits last for nine years.
const HEARD_STEP_BITS: u32 = 26;

impl Heard {
    /// Notes that something came, at `now_ns` of the workers' clock. Stores only when the step changed.
    #[inline]
    pub fn note(&self, now_ns: u64) {
        #[expect(clippy::cast_possible_truncation, reason = "nine years")]
        let step = (now_ns >> HEARD_STEP_BITS) as u32;
        if self.0.load(Ordering::Relaxed) != step {
            self.0.store(step, Ordering::Relaxed);
        }
    }

    /// The begin of the step in which something came last, in nanoseconds of the workers' clock; 0 before the first.
    #[must_use]
    pub fn last_ns(&self) -> u64 {
        u64::from(self.0.load(Ordering::Relaxed)) << HEARD_STEP_BITS
    }
}

#[derive(Clone, Debug)]
pub struct Instance {
    /// Grows when the slot is withdrawn or used for another instance; a flow that remembers an older one is stale.
    pub epoch: u32,
    pub service: ServiceSlot,
    /// The instance number within its service.
    pub number: u32,
    pub instance_ip: Dual<InstanceIp>,
    pub ns_ip: Dual<NsIp>,
    pub placement: Placement,
    pub state: InstanceState,
    pub reach: Reach,
    /// By a packet, or because a flow to it lives.
    pub used: Used,
    /// By a packet only.
    pub busy: Used,
}

#[derive(Clone, Debug)]
pub struct Service {
    /// Grows when the slot is used for another service.
    pub epoch: u32,
    /// `app.appns.service.servicens`, for traces.
    pub name: Arc<str>,
    /// Services with equal numbers may call each other.
    pub tenant: u32,
    /// It runs here, and the managers have not said yet which rules concern it.
    pub awaits_rules: bool,
    pub service_ips: Vec<(Policy, Dual<ServiceIp>)>,
    /// The instances a new flow may choose from, in instance-number order: live or suspect, and reachable for calls.
    pub candidates: Arc<[InstanceSlot]>,
    /// The next round-robin position, shared by all workers and snapshots.
    pub cursor: Arc<AtomicU32>,
    pub used: Used,
}

#[derive(Clone, Debug)]
pub struct Peer {
    pub epoch: u32,
    /// The address that the engine knows the peer by, as the outer one of its packets both ways: that of its node, or, of an
    /// encrypted peer, the one that [stands for its session](crate::session_address).
    pub ip: Ip,
    /// The node's address, and its exposed tunnel port. Several nodes behind one public address differ by port (thesis
    /// fig. 4.7).
    pub node: Ip,
    pub port: u16,
    pub format: TunnelFormat,
    /// The longest inner packet the peer takes, in bytes.
    pub mtu: u16,
    pub heard: Heard,
}

impl Peer {
    /// Its row says where it is.
    #[inline]
    #[must_use]
    pub fn can_be_reached(&self) -> bool {
        self.port != 0 && self.node != Ip::UNSPECIFIED
    }
}

/// One published state of everything a worker needs to know. Immutable.
#[derive(Clone, Debug)]
pub struct Tables {
    /// Grows with every publish.
    pub generation: u64,
    pub plan: AddressPlan,
    /// This node's gateway addresses on the service side: the source of ICMP errors.
    pub gateway: Dual<Ip>,
    pub(crate) instances: Rows<Instance>,
    /// Made from `instances` row by row.
    pub(crate) routes_v4: Routes<u32>,
    pub(crate) routes_v6: Routes<[u64; 2]>,
    pub(crate) services: Rows<Service>,
    pub(crate) peers: Rows<Peer>,
    /// Made from `peers` row by row.
    pub(crate) peer_routes: PeerRoutes,
    pub(crate) semantic: Index<Ip, Known>,
    pub(crate) local: Index<NsIp, InstanceSlot>,
    pub(crate) outer: Index<Ip, Arc<[PeerSlot]>>,
    pub(crate) permits: Permits,
    pub(crate) moves: Arc<Moves>,
}

impl Tables {
    #[must_use]
    pub fn empty(plan: AddressPlan, gateway: Dual<Ip>) -> Self {
        Self {
            generation: 0,
            plan,
            gateway,
            instances: Rows::new(),
            routes_v4: Routes::new(),
            routes_v6: Routes::new(),
            services: Rows::new(),
            peers: Rows::new(),
            peer_routes: PeerRoutes::default(),
            semantic: Index::new(),
            local: Index::new(),
            outer: Index::new(),
            permits: Permits::default(),
            moves: Arc::default(),
        }
    }

    /// The row of a slot, whatever its state; `None` only for a slot of another installation.
    #[inline]
    #[must_use]
    pub fn instance(&self, slot: InstanceSlot) -> Option<&Instance> {
        self.instances.row(slot.index())
    }

    /// The row, if it is still the instance that `epoch` saw and has not been withdrawn.
    #[inline]
    #[must_use]
    pub fn instance_at(&self, slot: InstanceSlot, epoch: u32) -> Option<&Instance> {
        self.instance(slot)
            .filter(|row| row.epoch == epoch && row.state != InstanceState::Withdrawn)
    }

    /// Where the instance of a slot is in the family of `A`; `None` only for a slot of another installation.
    #[inline(always)]
    #[must_use]
    pub fn route<A: Routed>(&self, slot: InstanceSlot) -> Option<&Route<A>> {
        A::routes(self).route(slot)
    }

    #[inline]
    #[must_use]
    pub fn service(&self, slot: ServiceSlot) -> Option<&Service> {
        self.services.row(slot.index())
    }

    /// What becomes of conversations that are not allowed.
    #[must_use]
    pub const fn isolation(&self) -> Isolation {
        self.permits.isolation
    }

    /// Whether the rules allow instances of `caller` to begin a conversation with those of `callee`, whatever
    /// [`Tables::isolation`] makes of that.
    #[must_use]
    pub fn may_call(&self, caller: ServiceSlot, callee: ServiceSlot) -> bool {
        let tenant = |slot| self.service(slot).map(|row| row.tenant);
        match (tenant(caller), tenant(callee)) {
            (Some(one), Some(other)) => one == other || self.permits.allow(caller, callee),
            _ => false,
        }
    }

    /// Which of the two it is that the rules of are not known yet.
    #[must_use]
    pub fn awaits_rules(&self, caller: ServiceSlot, callee: ServiceSlot) -> Option<ServiceSlot> {
        let awaits = |slot: &ServiceSlot| self.service(*slot).is_some_and(|row| row.awaits_rules);
        [caller, callee].into_iter().find(awaits)
    }

    #[inline]
    #[must_use]
    pub fn peer(&self, slot: PeerSlot) -> Option<&Peer> {
        self.peers.row(slot.index())
    }

    /// Where the peer of a slot is; `None` only for a slot of another installation.
    #[inline(always)]
    #[must_use]
    pub fn peer_route(&self, slot: PeerSlot) -> Option<&PeerRoute> {
        self.peer_routes.route(slot)
    }

    /// What a semantic address means; `None` when control must be asked.
    #[must_use]
    pub fn semantic(&self, address: Ip) -> Option<Known> {
        self.semantic.value(&address).copied()
    }

    /// The live local instance that has this NsIP.
    #[must_use]
    pub fn local(&self, ns_ip: NsIp) -> Option<InstanceSlot> {
        self.local.value(&ns_ip).copied()
    }

    /// The peers known by the outer address `ip` ([`Peer::ip`]), whatever their port: plain admission ignores the outer
    /// source port, which NAT may have changed.
    #[must_use]
    pub fn peers_at(&self, ip: Ip) -> &[PeerSlot] {
        self.outer.value(&ip).map_or(&[], |slots| slots)
    }

    /// All instances with their slots, withdrawn ones included, for status and tests.
    pub fn instances(&self) -> impl Iterator<Item = (InstanceSlot, &Instance)> {
        self.instances
            .iter()
            .map(|(index, row)| (InstanceSlot::from_index(index), row))
    }

    pub fn services(&self) -> impl Iterator<Item = (ServiceSlot, &Service)> {
        self.services
            .iter()
            .map(|(index, row)| (ServiceSlot::from_index(index), row))
    }

    pub fn peers(&self) -> impl Iterator<Item = (PeerSlot, &Peer)> {
        self.peers
            .iter()
            .map(|(index, row)| (PeerSlot::from_index(index), row))
    }

    /// Semantic addresses with an answer, negative ones included.
    #[must_use]
    pub fn semantic_len(&self) -> usize {
        self.semantic.len()
    }

    /// This gateway's own address in `family`.
    #[must_use]
    pub const fn gateway(&self, family: Family) -> Option<Ip> {
        self.gateway.of(family)
    }
}
