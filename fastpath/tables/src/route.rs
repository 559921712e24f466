//! Where each instance is, in one cache line per family, and each peer: what every packet asks. The rows say everything else.

use crate::slots::{InstanceSlot, PeerSlot, Slot};
use crate::snapshot::{Instance, InstanceState, Peer, Placement};
use sluice_wire::{Family, InstanceIp, Ip, NsIp};
use std::sync::Arc;

/// Where an instance is in one family. [`Placement::Nowhere`] also when it was withdrawn or has no address in the
/// family: its row says which.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(align(64))]
pub struct Route {
    /// As in its row.
    pub epoch: u32,
    pub placement: Placement,
    pub instance_ip: Ip,
    pub ns_ip: Ip,
}

impl Route {
    const NONE: Self = Self {
        epoch: 0,
        placement: Placement::Nowhere,
        instance_ip: Ip::UNSPECIFIED,
        ns_ip: Ip::UNSPECIFIED,
    };

    fn of(row: &Instance, family: Family) -> Self {
        match (row.instance_ip.of(family), row.ns_ip.of(family)) {
            (Some(instance_ip), Some(ns_ip)) if row.state != InstanceState::Withdrawn => Self {
                epoch: row.epoch,
                placement: row.placement,
                instance_ip: InstanceIp::ip(instance_ip),
                ns_ip: NsIp::ip(ns_ip),
            },
            _ => Self::NONE,
        }
    }
}

/// Slots of one chunk: a change copies 8 KiB.
const CHUNK: usize = 64;

type Chunk = [[Route; 2]; CHUNK];

/// The routes of all instances by slot; a clone shares all chunks, a change copies one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes(Vec<Arc<Chunk>>);

impl Routes {
    #[inline(always)]
    pub(crate) fn route(&self, slot: InstanceSlot, family: Family) -> Option<&Route> {
        let index = slot.index() as usize;
        let chunk = self.0.get(index / CHUNK)?;
        Some(&chunk[index % CHUNK][family as usize])
    }

    /// Takes over what the row of the slot says now.
    pub(crate) fn set(&mut self, slot: InstanceSlot, row: &Instance) {
        let index = slot.index() as usize;
        while self.0.len() <= index / CHUNK {
            self.0.push(Arc::new([[Route::NONE; 2]; CHUNK]));
        }
        let chunk = Arc::make_mut(&mut self.0[index / CHUNK]);
        chunk[index % CHUNK] = [Family::V4, Family::V6].map(|family| Route::of(row, family));
    }
}

/// Where a peer is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PeerRoute {
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
        let can_be_reached = row.port != 0 && row.ip != Ip::UNSPECIFIED;
        let route = PeerRoute {
            ip: row.ip,
            port: row.port,
            mtu: if can_be_reached { row.mtu } else { 0 },
            epoch: row.epoch,
        };
        let (routes, at) = (Arc::make_mut(&mut self.0), slot.index() as usize);
        if routes.len() <= at {
            routes.resize(at + 1, route);
        }
        routes[at] = route;
    }
}
