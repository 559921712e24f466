//! Where each instance is, in few bytes per family, and each peer: what every packet asks. The rows say everything else.

use crate::slots::{InstanceSlot, PeerSlot, Slot};
use crate::snapshot::{Instance, InstanceState, Peer, Placement, Tables};
use sluice_wire::{Address, InstanceIp, Ip, NsIp};
use std::sync::Arc;

/// An address of a family that has routes: both have.
pub trait Routed: Address {
    /// The family's part of the tables.
    fn routes(tables: &Tables) -> &Routes<Self>;
}

impl Routed for u32 {
    #[inline(always)]
    fn routes(tables: &Tables) -> &Routes<Self> {
        &tables.routes_v4
    }
}

impl Routed for [u64; 2] {
    #[inline(always)]
    fn routes(tables: &Tables) -> &Routes<Self> {
        &tables.routes_v6
    }
}

/// Where an instance is in one family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Route<A> {
    /// As in its row.
    pub epoch: u32,
    place: Place,
    pub instance_ip: A,
    pub ns_ip: A,
}

/// A [`Placement`] in four bytes: the slot of a peer, or one of the two numbers that no slot has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Place(u32);

impl Place {
    const LOCAL: Self = Self(u32::MAX);
    const NOWHERE: Self = Self(u32::MAX - 1);

    fn of(placement: Placement) -> Self {
        match placement {
            Placement::Local => Self::LOCAL,
            Placement::Nowhere => Self::NOWHERE,
            Placement::Peer(slot) => Self(slot.index()),
        }
    }
}

impl<A: Address> Route<A> {
    fn none() -> Self {
        Self {
            epoch: 0,
            place: Place::NOWHERE,
            instance_ip: A::of(Ip::UNSPECIFIED),
            ns_ip: A::of(Ip::UNSPECIFIED),
        }
    }

    fn of(row: &Instance) -> Self {
        let addresses = (row.instance_ip.of(A::FAMILY), row.ns_ip.of(A::FAMILY));
        match addresses {
            (Some(instance_ip), Some(ns_ip)) if row.state != InstanceState::Withdrawn => Self {
                epoch: row.epoch,
                place: Place::of(row.placement),
                instance_ip: A::of(InstanceIp::ip(instance_ip)),
                ns_ip: A::of(NsIp::ip(ns_ip)),
            },
            _ => Self::none(),
        }
    }

    /// Where it runs. [`Placement::Nowhere`] also when it was withdrawn or has no address in the family: its row says
    /// which.
    #[inline(always)]
    #[must_use]
    pub fn placement(&self) -> Placement {
        match self.place {
            Place::LOCAL => Placement::Local,
            Place::NOWHERE => Placement::Nowhere,
            Place(slot) => Placement::Peer(PeerSlot::from_index(slot)),
        }
    }
}

/// The routes of all instances in one family by slot. One run of memory, so that a packet finds its two ends in a few
/// instructions. A clone shares it; the first change after a publish copies it, 16 bytes of IPv4 and 40 of IPv6 per slot.
#[derive(Clone, Debug)]
pub struct Routes<A>(Arc<[Route<A>]>);

impl<A: Address> Routes<A> {
    pub(crate) fn new() -> Self {
        Self(Arc::new([]))
    }

    #[inline(always)]
    pub(crate) fn route(&self, slot: InstanceSlot) -> Option<&Route<A>> {
        self.0.get(slot.index() as usize)
    }

    /// Takes over what the row of the slot says now.
    pub(crate) fn set(&mut self, slot: InstanceSlot, row: &Instance) {
        let (at, route) = (slot.index() as usize, Route::of(row));
        if self.0.get(at) == Some(&route) {
            return;
        }
        if self.0.len() <= at {
            // Room for as many again, so that many rows one after the other are not copied each time.
            let more = (at + 1).next_power_of_two() - self.0.len();
            let none = std::iter::repeat_n(Route::none(), more);
            self.0 = self.0.iter().copied().chain(none).collect();
        }
        Arc::make_mut(&mut self.0)[at] = route;
    }
}

/// Where a peer is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PeerRoute {
    /// As in its row: the outer address that the engine knows it by.
    pub ip: Ip,
    pub port: u16,
    /// As in its row, but 0 when the peer has no address or no port: nothing fits then.
    pub mtu: u16,
    /// As in its row.
    pub epoch: u32,
}

/// The routes of all peers by slot; a clone shares them, a change copies them: peers are few.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerRoutes(Arc<Vec<PeerRoute>>);

impl PeerRoutes {
    #[inline(always)]
    pub(crate) fn route(&self, slot: PeerSlot) -> Option<&PeerRoute> {
        self.0.get(slot.index() as usize)
    }

    /// Takes over what the row of the slot says now.
    pub(crate) fn set(&mut self, slot: PeerSlot, row: &Peer) {
        let route = PeerRoute {
            ip: row.ip,
            port: row.port,
            mtu: if row.can_be_reached() { row.mtu } else { 0 },
            epoch: row.epoch,
        };
        let (routes, at) = (Arc::make_mut(&mut self.0), slot.index() as usize);
        if routes.len() <= at {
            routes.resize(at + 1, route);
        }
        routes[at] = route;
    }
}
