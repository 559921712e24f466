//! Door 1, down: control edits a [`Writer`] and publishes; workers read through a [`Reader`].

use crate::permits::Isolation;
use crate::session::{TunnelFormat, session_address};
use crate::slots::{InstanceSlot, PeerSlot, ServiceSlot, Slot};
use crate::snapshot::{
    Heard, Instance, InstanceState, Known, Peer, Placement, Policy, Reach, Service, Tables, Target,
    Used,
};
use arc_swap::ArcSwap;
use sluice_wire::{AddressPlan, Dual, InstanceIp, Ip, NsIp, ServiceIp};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// The published snapshot. Cheap to clone; each worker makes one [`Reader`] from it.
#[derive(Clone, Debug)]
pub struct Publisher(Arc<ArcSwap<Tables>>);

impl Publisher {
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader(arc_swap::Cache::new(Arc::clone(&self.0)))
    }

    /// The snapshot as it is now, for status and tests.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Tables> {
        self.0.load_full()
    }
}

/// A worker's view: one relaxed check per load while nothing was published.
pub struct Reader(arc_swap::Cache<Arc<ArcSwap<Tables>>, Arc<Tables>>);

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl Reader {
    /// The newest snapshot. The one it replaces is never freed here: the [`Writer`] keeps it until no worker does.
    #[inline]
    pub fn load(&mut self) -> &Arc<Tables> {
        self.0.load()
    }
}

/// What control says about an instance. Its identity is its addresses; its slot is looked up or made.
#[derive(Clone, Debug)]
pub struct InstanceUpdate {
    pub service: ServiceSlot,
    pub number: u32,
    pub instance_ip: Dual<InstanceIp>,
    pub ns_ip: Dual<NsIp>,
    pub placement: Placement,
    pub reach: Reach,
}

/// The editable state; owned by control.
#[derive(Debug)]
pub struct Writer {
    tables: Tables,
    published: Publisher,
    retired: Vec<Arc<Tables>>,
    /// The peers by node address and port.
    nodes: BTreeMap<(Ip, u16), PeerSlot>,
    /// Encrypted ones by their key.
    keys: BTreeMap<[u8; 32], PeerSlot>,
}

impl Writer {
    #[must_use]
    pub fn new(plan: AddressPlan, gateway: Dual<Ip>) -> Self {
        let tables = Tables::empty(plan, gateway);
        let published = Publisher(Arc::new(ArcSwap::from_pointee(tables.clone())));
        Self {
            tables,
            published,
            retired: Vec::new(),
            nodes: BTreeMap::new(),
            keys: BTreeMap::new(),
        }
    }

    #[must_use]
    pub fn publisher(&self) -> Publisher {
        self.published.clone()
    }

    /// For the parts of the state that have their own files.
    pub(crate) const fn tables_mut(&mut self) -> &mut Tables {
        &mut self.tables
    }

    /// The state as edited so far, published or not.
    #[must_use]
    pub const fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Makes the edits visible to workers, and frees the snapshots no worker holds any more.
    pub fn publish(&mut self) {
        self.tables.generation += 1;
        let old = self.published.0.swap(Arc::new(self.tables.clone()));
        self.retired.push(old);
        self.retired.retain(|tables| Arc::strong_count(tables) > 1);
    }

    pub fn set_gateway(&mut self, gateway: Dual<Ip>) {
        self.tables.gateway = gateway;
    }

    /// Adds or updates the service of that name, and points its ServiceIPs at it.
    pub fn upsert_service(
        &mut self,
        name: &str,
        service_ips: &[(Policy, Dual<ServiceIp>)],
    ) -> ServiceSlot {
        let known = self
            .tables
            .services()
            .find(|(_, row)| &*row.name == name)
            .map(|(slot, _)| slot);
        let slot = known.unwrap_or_else(|| {
            ServiceSlot::from_index(self.tables.services.insert(|old| Service {
                epoch: old.map_or(0, |old| old.epoch + 1),
                name: name.into(),
                tenant: 0,
                awaits_rules: false,
                service_ips: Vec::new(),
                candidates: Arc::new([]),
                cursor: Arc::new(AtomicU32::new(0)),
                used: Used::default(),
            }))
        });
        if let Some(row) = self.tables.services.row_mut(slot.index()) {
            for ip in row.service_ips.iter().flat_map(|(_, ips)| ips.iter()) {
                self.tables.semantic.remove(&ip.ip());
            }
            row.service_ips = service_ips.to_vec();
        }
        for (policy, ips) in service_ips {
            for ip in ips.iter() {
                let target = Target::Service {
                    service: slot,
                    policy: *policy,
                };
                self.tables.semantic.insert(ip.ip(), Known::Target(target));
            }
        }
        slot
    }

    /// Sets which services a service may talk to without a rule: those with an equal number, 0 at first.
    pub fn set_tenant(&mut self, slot: ServiceSlot, tenant: u32) {
        if let Some(row) = self.tables.services.row_mut(slot.index())
            && row.tenant != tenant
        {
            row.tenant = tenant;
        }
    }

    /// Until the managers have said which rules concern a service of this node, what no rule allows waits.
    pub fn set_awaits_rules(&mut self, slot: ServiceSlot, awaits: bool) {
        if let Some(row) = self.tables.services.row_mut(slot.index())
            && row.awaits_rules != awaits
        {
            row.awaits_rules = awaits;
        }
    }

    /// What becomes of conversations that are not allowed.
    pub const fn set_isolation(&mut self, isolation: Isolation) {
        self.tables.permits.isolation = isolation;
    }

    /// Replaces the pairs of caller and callee, of different tenants, that a rule allows.
    pub fn set_permits(&mut self, pairs: impl IntoIterator<Item = (ServiceSlot, ServiceSlot)>) {
        self.tables.permits.set_pairs(pairs);
    }

    /// Forgets a service that has no instance row left; its addresses become unknown again (asked anew when used).
    pub fn forget_service(&mut self, slot: ServiceSlot) {
        let Some(row) = self.tables.services.row_mut(slot.index()) else {
            return;
        };
        row.name = "".into();
        row.awaits_rules = false;
        row.candidates = Arc::new([]);
        for ip in std::mem::take(&mut row.service_ips)
            .iter()
            .flat_map(|(_, ips)| ips.iter())
        {
            self.tables.semantic.remove(&ip.ip());
        }
        self.tables.services.free(slot.index());
    }

    /// Adds or updates an instance, found by its InstanceIP. A changed location keeps the slot and the epoch, so
    /// that flows follow a migration; an instance that had been withdrawn comes back with a new epoch.
    pub fn upsert_instance(&mut self, update: InstanceUpdate) -> InstanceSlot {
        let known = update
            .instance_ip
            .iter()
            .find_map(|ip| match self.tables.semantic(ip.ip()) {
                Some(Known::Target(Target::Instance(slot))) => Some(slot),
                _ => None,
            });
        let row = |epoch: u32, (used, busy): (Used, Used)| Instance {
            epoch,
            service: update.service,
            number: update.number,
            instance_ip: update.instance_ip,
            ns_ip: update.ns_ip,
            placement: update.placement,
            state: InstanceState::Live,
            reach: update.reach,
            used,
            busy,
        };
        let slot = match known {
            Some(slot) => {
                self.drop_local(slot);
                if let Some(old) = self.tables.instances.row_mut(slot.index()) {
                    *old = row(old.epoch, (old.used.clone(), old.busy.clone()));
                }
                slot
            }
            None => InstanceSlot::from_index(
                self.tables
                    .instances
                    .insert(|old| row(old.map_or(1, |old| old.epoch + 1), Default::default())),
            ),
        };
        self.set_route(slot);
        for ip in update.instance_ip.iter() {
            self.tables
                .semantic
                .insert(ip.ip(), Known::Target(Target::Instance(slot)));
        }
        if update.placement == Placement::Local {
            for ip in update.ns_ip.iter() {
                self.tables.local.insert(ip, slot);
            }
        }
        slot
    }

    /// Marks an instance suspect, or live again.
    pub fn set_suspect(&mut self, slot: InstanceSlot, suspect: bool) {
        if let Some(row) = self.tables.instances.row_mut(slot.index())
            && row.state != InstanceState::Withdrawn
        {
            row.state = if suspect {
                InstanceState::Suspect
            } else {
                InstanceState::Live
            };
        }
        self.set_route(slot);
    }

    /// Withdraws an instance explicitly: its epoch grows, so every flow that uses it is stale at its next packet, and
    /// its InstanceIP is unknown again. Returns whether it was there.
    pub fn withdraw_instance(&mut self, slot: InstanceSlot) -> bool {
        self.drop_local(slot);
        let Some(row) = self.tables.instances.row_mut(slot.index()) else {
            return false;
        };
        if row.state == InstanceState::Withdrawn {
            return false;
        }
        row.state = InstanceState::Withdrawn;
        row.epoch += 1;
        let ips = row.instance_ip;
        self.set_route(slot);
        self.forget_moves(slot);
        for ip in ips.iter() {
            self.tables.semantic.remove(&ip.ip());
        }
        self.tables.instances.free(slot.index());
        true
    }

    /// Sets which instances a new flow to the service may choose, in the order given.
    pub fn set_candidates(&mut self, service: ServiceSlot, candidates: &[InstanceSlot]) {
        if let Some(row) = self.tables.services.row_mut(service.index())
            && *row.candidates != *candidates
        {
            row.candidates = candidates.into();
        }
    }

    /// Caches a negative answer for an address that means nothing reachable; [`Writer::forget_semantic`] ends it.
    pub fn set_negative(&mut self, address: Ip, known: Known) {
        self.tables.semantic.insert(address, known);
    }

    /// Makes a semantic address unknown, so that its next use asks control.
    pub fn forget_semantic(&mut self, address: Ip) {
        self.tables.semantic.remove(&address);
    }

    /// Adds or updates the peer whose node is reachable at `ip`:`port`. The node of an encrypted one is known by its key, and else
    /// by its address: whichever of the two changes, it keeps the slot.
    pub fn upsert_peer(&mut self, ip: Ip, port: u16, format: TunnelFormat, mtu: u16) -> PeerSlot {
        let by_key = format.key().and_then(|key| self.keys.get(&key));
        let known = by_key.or_else(|| self.nodes.get(&(ip, port))).copied();
        let slot = known.unwrap_or_else(|| {
            PeerSlot::from_index(self.tables.peers.insert(|old| Peer {
                epoch: old.map_or(0, |old| old.epoch + 1),
                ip: Ip::UNSPECIFIED,
                node: ip,
                port,
                format,
                mtu,
                heard: Heard::default(),
            }))
        });
        if let Some(before) = known {
            self.drop_names(before);
        }
        self.nodes.insert((ip, port), slot);
        if let Some(key) = format.key() {
            self.keys.insert(key, slot);
        }
        if let Some(row) = self.tables.peers.row_mut(slot.index()) {
            let before = known.map(|_| row.ip);
            row.ip = match format {
                TunnelFormat::Plain => ip,
                TunnelFormat::WireGuard { .. } => session_address(slot, row.epoch),
            };
            (row.node, row.port) = (ip, port);
            row.format = format;
            row.mtu = mtu;
            self.tables.peer_routes.set(slot, row);
            let now = row.ip;
            if before != Some(now) {
                if let Some(before) = before {
                    self.drop_outer(before, slot);
                }
                let here = self.tables.peers_at(now).iter().copied();
                let here = here.chain([slot]).collect();
                self.tables.outer.insert(now, here);
            }
        }
        slot
    }

    /// The peer whose node is reachable at `ip`:`port`.
    #[must_use]
    pub fn peer_at(&self, ip: Ip, port: u16) -> Option<PeerSlot> {
        self.nodes.get(&(ip, port)).copied()
    }

    /// Forgets a peer on which no instance is placed any more.
    pub fn forget_peer(&mut self, slot: PeerSlot) {
        let Some(row) = self.tables.peer(slot) else {
            return;
        };
        let ip = row.ip;
        self.drop_names(slot);
        self.drop_outer(ip, slot);
        self.tables.peers.free(slot.index());
    }

    /// The peer is found by its address and its key no longer.
    fn drop_names(&mut self, slot: PeerSlot) {
        let Some(row) = self.tables.peer(slot) else {
            return;
        };
        let node = (row.node, row.port);
        if self.nodes.get(&node) == Some(&slot) {
            self.nodes.remove(&node);
        }
        if let Some(key) = row.format.key()
            && self.keys.get(&key) == Some(&slot)
        {
            self.keys.remove(&key);
        }
    }

    /// The peer is known by that outer address no longer.
    fn drop_outer(&mut self, ip: Ip, slot: PeerSlot) {
        let here = self.tables.peers_at(ip).iter().copied();
        let rest: Arc<[PeerSlot]> = here.filter(|&other| other != slot).collect();
        if rest.is_empty() {
            self.tables.outer.remove(&ip);
        } else {
            self.tables.outer.insert(ip, rest);
        }
    }

    /// After every change of an instance's row.
    fn set_route(&mut self, slot: InstanceSlot) {
        if let Some(row) = self.tables.instances.row(slot.index()) {
            self.tables.routes_v4.set(slot, row);
            self.tables.routes_v6.set(slot, row);
        }
    }

    fn drop_local(&mut self, slot: InstanceSlot) {
        let Some(row) = self.tables.instance(slot) else {
            return;
        };
        for ip in row.ns_ip.iter().collect::<Vec<_>>() {
            if self.tables.local(ip) == Some(slot) {
                self.tables.local.remove(&ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(
        writer: &mut Writer,
        service: ServiceSlot,
        last: u8,
        placement: Placement,
    ) -> InstanceSlot {
        writer.upsert_instance(InstanceUpdate {
            service,
            number: u32::from(last),
            instance_ip: Dual {
                v4: Some(InstanceIp::new(Ip::v4([10, 30, 0, last]))),
                v6: None,
            },
            ns_ip: Dual {
                v4: Some(NsIp::new(Ip::v4([10, 18, 0, last]))),
                v6: None,
            },
            placement,
            reach: Reach::Any,
        })
    }

    /// A reader sees either the old or the new state, never the edits in between.
    #[test]
    fn edits_show_only_when_published() {
        let mut writer = Writer::new(AddressPlan::oakestra(), Dual::default());
        let mut reader = writer.publisher().reader();
        let rr = ServiceIp::new(Ip::v4([10, 30, 1, 0]));
        let service = writer.upsert_service(
            "a.b.c.d",
            &[(
                Policy::RoundRobin,
                Dual {
                    v4: Some(rr),
                    v6: None,
                },
            )],
        );
        let slot = instance(&mut writer, service, 2, Placement::Local);
        assert_eq!(reader.load().semantic(rr.ip()), None);
        writer.publish();
        assert!(matches!(
            reader.load().semantic(rr.ip()),
            Some(Known::Target(Target::Service { .. }))
        ));
        assert_eq!(
            reader.load().local(NsIp::new(Ip::v4([10, 18, 0, 2]))),
            Some(slot)
        );
    }

    #[test]
    fn a_withdrawn_instance_is_stale_for_those_who_remember_it() {
        let mut writer = Writer::new(AddressPlan::oakestra(), Dual::default());
        let service = writer.upsert_service("a.b.c.d", &[]);
        let slot = instance(&mut writer, service, 2, Placement::Local);
        let epoch = writer.tables().instance(slot).unwrap().epoch;
        assert!(writer.tables().instance_at(slot, epoch).is_some());
        assert!(writer.withdraw_instance(slot));
        assert!(!writer.withdraw_instance(slot));
        assert!(writer.tables().instance_at(slot, epoch).is_none());
        assert_eq!(
            writer.tables().local(NsIp::new(Ip::v4([10, 18, 0, 2]))),
            None
        );
        assert_eq!(writer.tables().semantic(Ip::v4([10, 30, 0, 2])), None);
        let again = instance(&mut writer, service, 3, Placement::Local);
        assert_eq!(again, slot, "the slot is used again");
        assert!(
            writer.tables().instance_at(slot, epoch).is_none(),
            "with another epoch"
        );
    }

    #[test]
    fn a_migration_keeps_slot_and_epoch() {
        let mut writer = Writer::new(AddressPlan::oakestra(), Dual::default());
        let service = writer.upsert_service("a.b.c.d", &[]);
        let slot = instance(&mut writer, service, 2, Placement::Local);
        let epoch = writer.tables().instance(slot).unwrap().epoch;
        let peer = writer.upsert_peer(Ip::v4([192, 0, 2, 1]), 50103, TunnelFormat::Plain, 1450);
        assert_eq!(
            instance(&mut writer, service, 2, Placement::Peer(peer)),
            slot
        );
        assert!(writer.tables().instance_at(slot, epoch).is_some());
        assert_eq!(
            writer.tables().local(NsIp::new(Ip::v4([10, 18, 0, 2]))),
            None
        );
    }

    #[test]
    fn routes_say_what_rows_say() {
        let mut writer = Writer::new(AddressPlan::oakestra(), Dual::default());
        let service = writer.upsert_service("a.b.c.d", &[]);
        let peer = writer.upsert_peer(Ip::v4([192, 0, 2, 1]), 50103, TunnelFormat::Plain, 1450);
        let check = |writer: &Writer, slot, expected| {
            let row = writer.tables().instance(slot).unwrap();
            let route = writer.tables().route::<u32>(slot).unwrap();
            assert_eq!((route.epoch, route.placement()), expected);
            if route.placement() != Placement::Nowhere {
                let ip = |ip: u32| Some(Ip::v4(ip.to_be_bytes()));
                assert_eq!(
                    ip(route.instance_ip),
                    row.instance_ip.v4.map(InstanceIp::ip)
                );
                assert_eq!(ip(route.ns_ip), row.ns_ip.v4.map(NsIp::ip));
            }
            let other = writer.tables().route::<[u64; 2]>(slot).unwrap();
            assert_eq!(
                other.placement(),
                Placement::Nowhere,
                "it has no such address"
            );
        };
        // More than one chunk of them.
        for last in 0..=200 {
            let slot = instance(&mut writer, service, last, Placement::Local);
            check(&writer, slot, (1, Placement::Local));
            writer.publish();
            assert_eq!(
                instance(&mut writer, service, last, Placement::Peer(peer)),
                slot
            );
            check(&writer, slot, (1, Placement::Peer(peer)));
            writer.set_suspect(slot, true);
            check(&writer, slot, (1, Placement::Peer(peer)));
        }
        let slot = instance(&mut writer, service, 150, Placement::Local);
        let before = writer.publisher().snapshot();
        writer.withdraw_instance(slot);
        check(&writer, slot, (0, Placement::Nowhere));
        assert_eq!(instance(&mut writer, service, 250, Placement::Local), slot);
        check(&writer, slot, (3, Placement::Local));
        let old = before.route::<u32>(slot).unwrap();
        assert_eq!(
            old.placement(),
            Placement::Peer(peer),
            "a snapshot never changes"
        );
        assert_eq!(
            writer.tables().route::<u32>(InstanceSlot::from_index(1000)),
            None
        );
    }

    #[test]
    fn two_nodes_behind_one_address_are_two_peers() {
        let mut writer = Writer::new(AddressPlan::oakestra(), Dual::default());
        let ip = Ip::v4([192, 0, 2, 1]);
        let one = writer.upsert_peer(ip, 50103, TunnelFormat::Plain, 1450);
        let two = writer.upsert_peer(ip, 50104, TunnelFormat::Plain, 1450);
        assert_ne!(one, two);
        assert_eq!(writer.tables().peers_at(ip), [one, two]);
        writer.forget_peer(one);
        assert_eq!(writer.tables().peers_at(ip), [two]);
    }

    #[test]
    fn an_encrypted_peer_is_known_by_its_session_and_keeps_its_slot() {
        let mut writer = Writer::new(AddressPlan::oakestra(), Dual::default());
        let node = Ip::v4([192, 0, 2, 1]);
        let encrypted = TunnelFormat::WireGuard { key: [7; 32] };
        let slot = writer.upsert_peer(node, 50103, TunnelFormat::Plain, 1450);
        assert_eq!(writer.tables().peers_at(node), [slot]);
        assert_eq!(writer.upsert_peer(node, 50103, encrypted, 1420), slot);
        let session = session_address(slot, 0);
        let row = writer.tables().peer(slot).unwrap();
        assert_eq!((row.ip, row.node), (session, node));
        assert_eq!(writer.tables().peers_at(node), []);
        assert_eq!(writer.tables().peers_at(session), [slot]);
        let route = writer.tables().peer_route(slot).unwrap();
        assert_eq!((route.ip, route.port, route.mtu), (session, 50103, 1420));
        // The slot used for another peer: what was opened with the old one's session is not from the new one.
        writer.forget_peer(slot);
        assert_eq!(writer.tables().peers_at(session), []);
        let other = Ip::v4([192, 0, 2, 9]);
        assert_eq!(writer.upsert_peer(other, 50103, encrypted, 1420), slot);
        assert_eq!(writer.tables().peers_at(session), []);
        assert_eq!(writer.tables().peers_at(session_address(slot, 1)), [slot]);
        assert_eq!(
            writer.upsert_peer(other, 50103, TunnelFormat::Plain, 1450),
            slot
        );
        assert_eq!(writer.tables().peers_at(other), [slot]);
    }

    #[test]
    fn a_node_with_a_key_keeps_its_slot_wherever_it_goes_and_whatever_its_next_key_is() {
        let mut writer = Writer::new(AddressPlan::oakestra(), Dual::default());
        let [here, there] = [1, 2].map(|last| Ip::v4([192, 0, 2, last]));
        let with = |key| TunnelFormat::WireGuard { key: [key; 32] };
        let slot = writer.upsert_peer(here, 50103, with(1), 1420);
        assert_eq!(writer.upsert_peer(there, 50104, with(1), 1400), slot);
        let row = writer.tables().peer(slot).unwrap();
        assert_eq!((row.node, row.port, row.mtu), (there, 50104, 1400));
        assert_eq!(writer.peer_at(here, 50103), None);
        assert_eq!(writer.peer_at(there, 50104), Some(slot));
        assert_eq!(writer.tables().peer_route(slot).unwrap().port, 50104);
        assert_eq!(writer.upsert_peer(there, 50104, with(2), 1400), slot);
        // The former key is another node's by now, which comes to the former address.
        let other = writer.upsert_peer(here, 50103, with(1), 1420);
        assert_ne!(other, slot);
        // And then to the address of the first, whose next row says where that is.
        assert_eq!(writer.upsert_peer(there, 50104, with(1), 1420), other);
        assert_eq!(writer.peer_at(there, 50104), Some(other));
        assert_eq!(writer.upsert_peer(here, 50103, with(2), 1420), slot);
        writer.forget_peer(slot);
        assert_eq!(writer.peer_at(there, 50104), Some(other));
        assert_eq!(writer.peer_at(here, 50103), None);
    }

    #[test]
    fn a_peer_s_route_is_its_row_and_nothing_fits_one_that_cannot_be_reached() {
        let mut writer = Writer::new(AddressPlan::oakestra(), Dual::default());
        let ip = Ip::v4([192, 0, 2, 1]);
        let route = |writer: &Writer, slot| {
            let route = *writer.tables().peer_route(slot).unwrap();
            (route.ip, route.port, route.mtu, route.epoch)
        };
        let one = writer.upsert_peer(ip, 50103, TunnelFormat::Plain, 1450);
        let nowhere = writer.upsert_peer(Ip::UNSPECIFIED, 50103, TunnelFormat::Plain, 1450);
        let silent = writer.upsert_peer(ip, 0, TunnelFormat::Plain, 1450);
        assert_eq!(route(&writer, one), (ip, 50103, 1450, 0));
        assert_eq!(route(&writer, nowhere).2, 0);
        assert_eq!(route(&writer, silent).2, 0);
        assert_eq!(
            writer.upsert_peer(ip, 50103, TunnelFormat::Plain, 1300),
            one
        );
        assert_eq!(route(&writer, one), (ip, 50103, 1300, 0));
        // The slot used for another peer.
        writer.forget_peer(one);
        let other = Ip::v4([192, 0, 2, 9]);
        assert_eq!(
            writer.upsert_peer(other, 50104, TunnelFormat::Plain, 1400),
            one
        );
        assert_eq!(route(&writer, one), (other, 50104, 1400, 1));
    }
}
