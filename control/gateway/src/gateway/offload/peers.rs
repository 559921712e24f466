//! What entries take from the rows of peers and from the kernel's ways to them: under which version it is believed.

use super::redirect::Redirect;
use super::underlays::Underlays;
use super::{Refused, for_good, for_now};
use crate::node::devices::{Devices, Outlet};
use crate::node::ipsec::Policies;
use sluice_link::af_xdp::Hop;
use sluice_link::af_xdp::headers::outer_len;
use sluice_link::offload::Offload;
use sluice_link::offload::abi::{PEERS_MAX, Peer as PeerRow, Versioned};
use sluice_tables::slots::Slot;
use sluice_tables::{PeerSlot, Tables, TunnelFormat};
use sluice_wire::Ip;
use std::collections::{BTreeMap, BTreeSet};

/// The peers of offloaded flows, and of those before.
#[derive(Debug, Default)]
pub(super) struct Peers {
    rows: BTreeMap<PeerSlot, Peer>,
    /// Peers that nothing can be sent to past the worker, asked for since the last tick.
    out_of_reach: BTreeSet<PeerSlot>,
    underlays: Underlays,
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    version: u32,
    /// All that an entry takes from the peer's row, and the kernel's way to it. `None` when it is to be looked up anew.
    known: Option<(PeerFacts, Exit)>,
    row: PeerRow,
}

/// The kernel's way to a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Exit {
    outlet: Outlet,
    /// Where we write Ethernet headers ourselves.
    hop: Option<Hop>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct PeerFacts {
    epoch: u32,
    ip: Ip,
    port: u16,
    mtu: u16,
}

/// The kernel's routes and IPsec policies, asked once for many peers.
struct Kernel {
    devices: Devices,
    policies: Policies,
}

impl Kernel {
    fn ask() -> Option<Self> {
        Some(Self {
            devices: Devices::open().ok()?,
            policies: Policies::read().ok()?,
        })
    }
}

impl Peers {
    /// The version under which what `tables` and the kernel's routes say of the peer is believed.
    pub(super) fn version(
        &mut self,
        slot: PeerSlot,
        tables: &Tables,
        redirect: Option<&Redirect>,
        programs: &mut Offload,
    ) -> Result<Versioned, Refused> {
        if slot.index() >= PEERS_MAX {
            return Err(for_good("its peer's slot is too high"));
        }
        let facts = PeerFacts::of(slot, tables).ok_or(for_now("its peer is gone"))?;
        let before = self.rows.get(&slot).copied();
        let known = before.and_then(|peer| peer.known);
        if let (Some(peer), Some((old, _))) = (before, known)
            && old == facts
        {
            return Ok(Versioned {
                slot: slot.index(),
                version: peer.version,
            });
        }
        let mut kernel = match redirect {
            None if !self.out_of_reach.contains(&slot) => Kernel::ask(),
            None | Some(_) => None,
        };
        let Some(exit) = exit(facts.ip, redirect, kernel.as_mut()) else {
            self.out_of_reach.insert(slot);
            return Err(for_now(
                "its peer's next hop is not known yet, or IPsec policies guard it",
            ));
        };
        let Exit { outlet, hop } = exit;
        if hop.is_none() {
            self.underlays.take_up(&outlet, programs)?;
        }
        let version = before.map_or(0, |peer| peer.version) + 1;
        let around = u16::try_from(outer_len(facts.ip.family())).unwrap_or(u16::MAX);
        let row = PeerRow::new(
            (facts.ip, facts.port),
            outlet.source,
            outlet.device,
            hop.map_or(facts.mtu, |hop| {
                facts.mtu.min(hop.mtu.saturating_sub(around))
            }),
        )
        .by_hop(hop.map_or([0; 6], |hop| hop.mac))
        .with_version(version);
        programs
            .set_peer(slot.index(), row)
            .map_err(|_| for_good("the kernel refused it"))?;
        self.rows.insert(
            slot,
            Peer {
                version,
                known: Some((facts, exit)),
                row,
            },
        );
        Ok(Versioned {
            slot: slot.index(),
            version,
        })
    }

    /// Has entries not believed any more of whose peers `next` says something new.
    pub(super) fn revoke(&mut self, next: &Tables, programs: &mut Offload) {
        self.disbelieve(programs, |slot, facts, _| {
            PeerFacts::of(slot, next) != Some(facts)
        });
    }

    /// A route that changed under a peer: its entries were made for the old one.
    pub(super) fn follow_routes(&mut self, redirect: Option<&Redirect>, programs: &mut Offload) {
        if self.rows.values().all(|peer| peer.known.is_none()) {
            return;
        }
        // What cannot be asked is believed no longer.
        let mut kernel = match redirect {
            Some(_) => None,
            None => Kernel::ask(),
        };
        self.disbelieve(programs, |_, facts, known| {
            exit(facts.ip, redirect, kernel.as_mut()) != Some(known)
        });
    }

    /// Takes out every flow to a peer of which `is_over` says that what is known of it holds no longer.
    fn disbelieve(
        &mut self,
        programs: &mut Offload,
        mut is_over: impl FnMut(PeerSlot, PeerFacts, Exit) -> bool,
    ) {
        for (&slot, peer) in &mut self.rows {
            if !peer
                .known
                .is_some_and(|(facts, exit)| is_over(slot, facts, exit))
            {
                continue;
            }
            peer.known = None;
            peer.version += 1;
            peer.row = peer.row.with_version(peer.version);
            // Only the version differs: a packet in between meets the old one or the new one.
            if let Err(error) = programs.set_peer(slot.index(), peer.row) {
                tracing::error!(%error, "revoking offloaded flows");
            }
        }
    }

    /// Attaches to the devices towards the peers of `tables`, where that is not the links' business.
    pub(super) fn meet(&mut self, tables: &Tables, programs: &mut Offload) {
        let facts = tables
            .peers()
            .filter_map(|(slot, _)| PeerFacts::of(slot, tables));
        self.underlays.meet(facts.map(|facts| facts.ip), programs);
    }

    /// Peers that were out of reach may be asked for again.
    pub(super) fn tick(&mut self) {
        self.out_of_reach.clear();
    }

    /// Whether something new was said since.
    pub(super) fn is_stale(&self, pin: Versioned) -> bool {
        let peer = self.rows.get(&PeerSlot::from_index(pin.slot));
        peer.is_none_or(|peer| peer.version != pin.version)
    }

    /// For `sluice status`: the devices towards peers.
    pub(super) fn text(&self) -> String {
        self.underlays.text()
    }
}

/// The way to the node at `ip` as it is now; none where IPsec policies apply.
fn exit(ip: Ip, redirect: Option<&Redirect>, kernel: Option<&mut Kernel>) -> Option<Exit> {
    if let Some(redirect) = redirect {
        let (outlet, hop) = redirect.hop(ip)?;
        let hop = Some(hop);
        return Some(Exit { outlet, hop });
    }
    let Kernel { devices, policies } = kernel?;
    let outlet = devices.outlet(ip).ok().flatten()?;
    // Only the worker's socket obeys them.
    let is_guarded =
        policies.cover_sent(outlet.source, ip) || policies.cover_received(outlet.source);
    (!is_guarded).then_some(Exit { outlet, hop: None })
}

impl PeerFacts {
    fn of(slot: PeerSlot, tables: &Tables) -> Option<Self> {
        tables
            .peer(slot)
            .filter(|peer| tables.peers_at(peer.ip).contains(&slot))
            // The kernel's programs seal nothing.
            .filter(|peer| peer.format == TunnelFormat::Plain)
            .map(|peer| Self {
                epoch: peer.epoch,
                ip: peer.ip,
                port: peer.port,
                mtu: peer.mtu,
            })
    }
}
