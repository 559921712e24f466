//! What control knows about jobs, written into the tables the workers read.
//!
//! A *job* is a service under its wire name. Rows come from the table query; where an instance runs on this node is
//! known better here, so local truth wins over any row.

use crate::isolation::Tenancy;
use doubt::Doubts;
use guests::Guests;
use moves::Moves;
use sluice_proto::ServiceName;
use sluice_proto::isolation::Isolation;
use sluice_proto::table_query::asker::{Event, Routes as JobRoutes};
use sluice_proto::table_query::{self, Key, Place, Row};
use sluice_tables::publish::InstanceUpdate;
use sluice_tables::{
    Instance, InstanceSlot, InstanceState, Known, PeerSlot, Placement, Policy, Reach, ServiceSlot,
    Tables, TunnelFormat, Writer,
};
use sluice_wire::{Dual, InstanceIp, Ip, NsIp, ServiceIp};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Duration;

/// Paths looked at per call of [`Routes::look_at_paths`]: about 10 us each.
const PATHS_PER_LOOK: usize = 64;

/// The pair of devices that joins an instance to the node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Veth {
    /// Interface index of the host's end.
    pub host_index: u32,
    /// MAC address of the instance's end.
    pub mac: [u8; 6],
    /// What the instance has inside in place of its NsIPs. The host's end translates: every packet must pass it.
    pub kept: Dual<Ip>,
}

impl Veth {
    fn translates(&self) -> bool {
        self.kept.iter().next().is_some()
    }
}

/// An instance that runs on this node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LocalInstance {
    pub job: ServiceName,
    pub number: u32,
    /// Which instance of this number, as the managers count them; 0 when they did not say.
    pub epoch: u64,
    pub instance_ip: Dual<InstanceIp>,
    pub ns_ip: Dual<NsIp>,
    /// `None`: a host on the LAN, which is where the kernel's neighbour table says.
    pub veth: Option<Veth>,
}

#[derive(Debug)]
struct Job {
    slot: ServiceSlot,
    /// Every instance that has a slot, listed in the last answer or not.
    instances: BTreeMap<u32, InstanceSlot>,
    /// The numbers that a new flow may choose, local ones apart.
    listed: BTreeSet<u32>,
}

/// The route state of the gateway.
#[derive(Debug)]
pub struct Routes {
    writer: Writer,
    jobs: BTreeMap<ServiceName, Job>,
    local: BTreeMap<(ServiceName, u32), LocalInstance>,
    tenancy: Tenancy,
    /// Where each instance is placed, and how many on each peer or came from it a moment ago.
    placed: BTreeMap<InstanceSlot, PeerSlot>,
    peers: BTreeMap<PeerSlot, usize>,
    doubts: Doubts,
    moves: Moves,
    /// The peer whose path was looked at last.
    looked_at: Option<PeerSlot>,
    own: Option<(Ip, u16)>,
    formats: Formats,
    /// Instances whose node is not spoken to, and where that is.
    unspoken: BTreeMap<(ServiceName, u32), (Ip, u16)>,
    guests: Guests,
    peer_mtu: PeerMtu,
}

/// The longest inner packet, in bytes, that reaches the peer with this address and port in this format.
pub type PeerMtu = fn(Ip, u16, TunnelFormat) -> u16;

impl Routes {
    #[must_use]
    pub fn new(writer: Writer, peer_mtu: PeerMtu) -> Self {
        Self {
            writer,
            jobs: BTreeMap::new(),
            local: BTreeMap::new(),
            tenancy: Tenancy::default(),
            placed: BTreeMap::new(),
            peers: BTreeMap::new(),
            doubts: Doubts::new(),
            moves: Moves::default(),
            looked_at: None,
            own: None,
            formats: Formats::Plain,
            unspoken: BTreeMap::new(),
            guests: Guests::new(),
            peer_mtu,
        }
    }

    /// This node's own tunnel address: a row that places an instance here without our knowing it is stale.
    pub const fn set_own(&mut self, own: (Ip, u16)) {
        self.own = Some(own);
    }

    /// What becomes of calls that no rule allows.
    pub const fn set_isolation(&mut self, isolation: Isolation) {
        self.writer.set_isolation(match isolation {
            Isolation::Enforce => sluice_tables::Isolation::Enforce,
            Isolation::Observe => sluice_tables::Isolation::Observe,
            Isolation::Off => sluice_tables::Isolation::Off,
        });
    }

    /// Whether anybody lost the permission to call since the last call of this: flows that it allowed have to end.
    pub const fn take_revoked(&mut self) -> bool {
        self.tenancy.take_revoked()
    }

    /// This node's gateway addresses, once its subnet is known.
    pub fn set_gateway(&mut self, gateway: Dual<Ip>) {
        self.writer.set_gateway(gateway);
    }

    #[must_use]
    pub const fn tables(&self) -> &Tables {
        self.writer.tables()
    }

    /// Makes all edits visible to the workers.
    pub fn publish(&mut self) {
        self.writer.publish();
    }

    /// The job an instance belongs to.
    #[must_use]
    pub fn job_of(&self, slot: InstanceSlot) -> Option<ServiceName> {
        let service = self.tables().instance(slot)?.service;
        ServiceName::parse(&self.tables().service(service)?.name).ok()
    }

    /// The jobs that packets used at or after `since_s` of the workers' clock, by service or by instance.
    pub fn used_since(&self, since_s: u32) -> impl Iterator<Item = &ServiceName> {
        self.jobs.iter().filter_map(move |(name, job)| {
            let tables = self.writer.tables();
            let service = tables
                .service(job.slot)
                .is_some_and(|row| row.used.last_s() >= since_s);
            let used = |slot: &InstanceSlot| {
                tables
                    .instance(*slot)
                    .is_some_and(|row| row.used.last_s() >= since_s)
            };
            (service || job.instances.values().any(used)).then_some(name)
        })
    }

    /// Replaces what is known of a job. An instance that is not listed any more takes no new flow, but keeps its row
    /// and its flows until [`Routes::withdraw`] or [`Routes::forget`].
    pub fn set_job(&mut self, known: &JobRoutes) {
        let name = &known.job;
        let service_ips: Vec<(Policy, Dual<ServiceIp>)> = known
            .service_ips
            .iter()
            .filter_map(|address| match address.policy {
                table_query::Policy::RoundRobin => Some((Policy::RoundRobin, address.ip)),
                // The engine has no such policy yet; the address stays unknown rather than balanced wrongly.
                table_query::Policy::Closest => None,
            })
            .collect();
        let slot = self.writer.upsert_service(&name.to_string(), &service_ips);
        self.tenancy.set(name, slot, &known.rules, &mut self.writer);
        let instances = self
            .jobs
            .remove(name)
            .map_or_else(BTreeMap::new, |old| old.instances);
        let mut job = Job {
            slot,
            instances,
            listed: known.instances.iter().map(|row| row.number).collect(),
        };
        for row in &known.instances {
            if self.local.contains_key(&(name.clone(), row.number)) {
                self.take_over(name, row);
                continue;
            }
            let before = job.instances.get(&row.number);
            let before = before.and_then(|slot| self.writer.tables().instance(*slot));
            if row.reply_only && before.is_some_and(|row| row.reach == Reach::Any) {
                self.tenancy.revoke();
            }
            let place = self.placement(name, row);
            if let Some(known) = job.instances.get(&row.number) {
                self.note_move(*known, row, place.0);
            }
            let written = self.write_instance(&mut job, remote(slot, row, place));
            self.note_answers(written, row);
        }
        self.jobs.insert(name.clone(), job);
        for row in &known.instances {
            self.send_on(name, row);
        }
        for local in self.locals_of(name) {
            self.write_local(&local);
        }
        self.write_candidates(name);
    }

    /// Writes what an event of the asker says. Gives the local instance that it withdraws, which stays until
    /// [`Routes::remove_local`].
    pub fn handle_event(&mut self, event: &Event) -> Option<(ServiceName, u32)> {
        match event {
            Event::Routes(known) | Event::Unavailable(known) => self.set_job(known),
            Event::Absent {
                key: Key::Address(ip),
            } => self.set_negative(*ip, Known::Absent),
            Event::Unresolved {
                key: Key::Address(ip),
            } => self.set_negative(*ip, Known::Unavailable),
            Event::Unknown {
                key: Key::Address(ip),
            } => self.clear_negative(*ip),
            Event::Withdrawn { job, number, epoch } => {
                // Without an epoch (legacy managers) nothing says that it is this one and not its predecessor.
                let local = self.local(job, *number);
                if *epoch != 0 && local.is_some_and(|local| local.epoch == *epoch) {
                    return Some((job.clone(), *number));
                }
                self.withdraw(job, *number);
            }
            Event::Forgotten { job } => self.forget(job),
            Event::Absent {
                key: Key::Name(_) | Key::Node(_),
            }
            | Event::Unresolved {
                key: Key::Name(_) | Key::Node(_),
            }
            | Event::Unknown {
                key: Key::Name(_) | Key::Node(_),
            }
            | Event::Unanswered { .. }
            | Event::Node(_) => {}
        }
        None
    }

    /// Withdraws one instance explicitly: its flows end. One that runs here stays: only [`Routes::remove_local`] ends it.
    pub fn withdraw(&mut self, name: &ServiceName, number: u32) {
        if self.local.contains_key(&(name.clone(), number)) {
            return;
        }
        self.forget_spoken(name, Some(number));
        if let Some(job) = self.jobs.get_mut(name) {
            job.listed.remove(&number);
            if let Some(slot) = job.instances.remove(&number) {
                self.withdraw_slot(slot);
            }
            self.write_candidates(name);
        }
    }

    /// Forgets a job that nobody here uses; its addresses are asked anew when dialled. Does nothing while a local
    /// instance belongs to it.
    pub fn forget(&mut self, name: &ServiceName) {
        if !self.locals_of(name).is_empty() {
            return;
        }
        let Some(job) = self.jobs.remove(name) else {
            return;
        };
        self.forget_spoken(name, None);
        for instance in job.instances.into_values() {
            self.withdraw_slot(instance);
        }
        self.tenancy.forget(name, &mut self.writer);
        self.writer.forget_service(job.slot);
    }

    /// An instance begins to run on this node.
    pub fn add_local(&mut self, local: LocalInstance) {
        let name = local.job.clone();
        self.local
            .insert((name.clone(), local.number), local.clone());
        if !self.jobs.contains_key(&name) {
            let slot = self.writer.upsert_service(&name.to_string(), &[]);
            self.tenancy.set(&name, slot, &[], &mut self.writer);
            self.jobs.insert(
                name.clone(),
                Job {
                    slot,
                    instances: BTreeMap::new(),
                    listed: BTreeSet::new(),
                },
            );
        }
        self.tenancy.set_local(&name, true, &mut self.writer);
        self.write_local(&local);
        self.write_candidates(&name);
    }

    /// Whether the rules of a service that runs here are on their way. Calls from and to it that nothing allows wait for them.
    pub fn set_awaits_rules(&mut self, name: &ServiceName, awaits: bool) {
        if let Some(job) = self.jobs.get(name) {
            self.writer.set_awaits_rules(job.slot, awaits);
        }
    }

    /// An instance of this node ended. Its row goes with it; if it runs elsewhere by now, the next answer says so.
    pub fn remove_local(&mut self, name: &ServiceName, number: u32) -> Option<LocalInstance> {
        let local = self.local.remove(&(name.clone(), number))?;
        self.note_end(&local);
        let others = !self.locals_of(name).is_empty();
        self.tenancy.set_local(name, others, &mut self.writer);
        self.withdraw(name, number);
        Some(local)
    }

    /// An instance of this node ends here. When the row, of the same instance, places it on another node, it keeps its
    /// slot and the flows of others to it; else this is [`Routes::remove_local`].
    pub fn move_local(&mut self, name: &ServiceName, row: &Row) -> Option<LocalInstance> {
        let key = (name.clone(), row.number);
        let same = self.local.get(&key).is_some_and(|local| {
            local.epoch == row.epoch && row.epoch != 0 && local.instance_ip == row.instance_ip
        });
        let place = self.placement(name, row);
        if !same || !matches!(place.0, Placement::Peer(_)) {
            return self.remove_local(name, row.number);
        }
        let local = self.local.remove(&key)?;
        self.note_end(&local);
        let others = !self.locals_of(name).is_empty();
        self.tenancy.set_local(name, others, &mut self.writer);
        if let Some(mut job) = self.jobs.remove(name) {
            job.listed.insert(row.number);
            let update = remote(job.slot, row, place);
            let written = self.write_instance(&mut job, update);
            self.note_answers(written, row);
            self.jobs.insert(name.clone(), job);
        }
        self.send_on(name, row);
        self.write_candidates(name);
        Some(local)
    }

    /// When [`Routes::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let due = [self.moves_due(), self.guests_due()];
        due.into_iter().flatten().min()
    }

    /// Ends what moves left behind, and nodes that are peers for a while only. Returns whether the tables changed.
    pub fn handle_timeout(&mut self, now: Duration) -> bool {
        self.end_moves(now) | self.end_guests(now)
    }

    #[must_use]
    pub fn local(&self, name: &ServiceName, number: u32) -> Option<&LocalInstance> {
        self.local.get(&(name.clone(), number))
    }

    pub fn locals(&self) -> impl Iterator<Item = &LocalInstance> {
        self.local.values()
    }

    /// The MAC addresses of local instances that have a device of ours.
    pub fn neighbours(&self) -> BTreeMap<Ip, [u8; 6]> {
        let devices = self.devices();
        devices.map(|(ip, veth)| (ip, veth.mac)).collect()
    }

    /// The devices of local instances whose packets may go straight into the namespace.
    pub fn veths(&self) -> BTreeMap<Ip, Veth> {
        let devices = self.devices();
        devices.filter(|(_, veth)| !veth.translates()).collect()
    }

    /// What local instances have inside in place of these NsIPs.
    pub fn kept(&self) -> BTreeMap<Ip, Ip> {
        let kept = |(ip, veth): (Ip, Veth)| Some((ip, veth.kept.of(ip.family())?));
        self.devices().filter_map(kept).collect()
    }

    fn devices(&self) -> impl Iterator<Item = (Ip, Veth)> {
        self.local
            .values()
            .filter_map(|local| Some((local, local.veth?)))
            .flat_map(|(local, veth)| local.ns_ip.iter().map(move |ip| (ip.ip(), veth)))
    }

    /// The addresses of the nodes that instances are placed on.
    pub fn nodes(&self) -> Vec<Ip> {
        let tables = self.writer.tables();
        let mut nodes: Vec<Ip> = self
            .peers
            .keys()
            .filter_map(|&slot| tables.peer(slot))
            .map(|peer| peer.node)
            .collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Notes that an address means nothing reachable.
    pub fn set_negative(&mut self, address: Ip, known: Known) {
        if !matches!(self.tables().semantic(address), Some(Known::Target(_))) {
            self.writer.set_negative(address, known);
        }
    }

    /// Ends a negative answer.
    pub fn clear_negative(&mut self, address: Ip) {
        if matches!(
            self.tables().semantic(address),
            Some(Known::Absent | Known::Unavailable)
        ) {
            self.writer.forget_semantic(address);
        }
    }

    /// Reads the path MTU of the next [`PATHS_PER_LOOK`] peers again, all of them in turn: routes change, and routers say
    /// what does not fit. True when a row changed.
    pub fn look_at_paths(&mut self) -> bool {
        let after = self.looked_at.map_or(Unbounded, Excluded);
        let due: Vec<PeerSlot> = self
            .peers
            .range((after, Unbounded))
            .map(|(slot, _)| *slot)
            .take(PATHS_PER_LOOK)
            .collect();
        // Past the last one it begins anew.
        self.looked_at = due.get(PATHS_PER_LOOK - 1).copied();
        let mut changed = false;
        for slot in due {
            let Some(peer) = self.tables().peer(slot) else {
                continue;
            };
            let (ip, port, format, before) = (peer.node, peer.port, peer.format, peer.mtu);
            let mtu = (self.peer_mtu)(ip, port, format);
            if mtu != before {
                tracing::info!(peer = %ip, port, before, mtu, "the path MTU of a peer changed");
                self.writer.upsert_peer(ip, port, format, mtu);
                changed = true;
            }
        }
        changed
    }

    fn locals_of(&self, name: &ServiceName) -> Vec<LocalInstance> {
        self.local
            .values()
            .filter(|local| local.job == *name)
            .cloned()
            .collect()
    }

    fn placement(&mut self, name: &ServiceName, row: &Row) -> (Placement, Dual<NsIp>) {
        let nowhere = (Placement::Nowhere, Dual::default());
        let elsewhere = row.place.as_ref();
        let elsewhere = elsewhere.filter(|place| self.own != Some((place.host, place.port)));
        let Some(&Place {
            ns_ip,
            host,
            port,
            key,
            ..
        }) = elsewhere
        else {
            self.forget_spoken(name, Some(row.number));
            return nowhere;
        };
        let format = self.format(key, host, port);
        self.note_spoken(name, row.number, (host, port), format.is_some());
        let Some(format) = format else {
            return nowhere;
        };
        let mtu = (self.peer_mtu)(host, port, format);
        let peer = self.writer.upsert_peer(host, port, format, mtu);
        (Placement::Peer(peer), ns_ip)
    }

    fn write_instance(&mut self, job: &mut Job, update: InstanceUpdate) -> InstanceSlot {
        let (number, placement) = (update.number, update.placement);
        let place = |row: &Instance| (row.placement, row.ns_ip);
        let before = job
            .instances
            .get(&number)
            .and_then(|slot| Some((*slot, place(self.tables().instance(*slot)?))));
        let now = (placement, update.ns_ip);
        let slot = self.writer.upsert_instance(update);
        // An instance that came back under another InstanceIP: the old row ends.
        if let Some(old) = job.instances.insert(number, slot)
            && old != slot
        {
            self.withdraw_slot(old);
        }
        self.place(slot, placement);
        if let Some((old, before)) = before
            && old == slot
            && before != now
        {
            // It is somewhere else: what failed before says nothing about it.
            self.doubts.instances.remove(&slot);
        }
        self.write_state(slot);
        slot
    }

    fn write_local(&mut self, local: &LocalInstance) {
        let Some(mut job) = self.jobs.remove(&local.job) else {
            return;
        };
        let update = InstanceUpdate {
            service: job.slot,
            number: local.number,
            instance_ip: local.instance_ip,
            ns_ip: local.ns_ip,
            placement: Placement::Local,
            reach: Reach::Any,
        };
        self.write_instance(&mut job, update);
        self.jobs.insert(local.job.clone(), job);
    }

    /// Keeps count of who is placed on which peer; a peer that nobody is placed on any more is forgotten.
    fn place(&mut self, instance: InstanceSlot, placement: Placement) {
        let here = if let Placement::Peer(peer) = placement {
            Some(peer)
        } else {
            None
        };
        let before = match here {
            Some(peer) => self.placed.insert(instance, peer),
            None => {
                self.forget_answers(instance);
                self.placed.remove(&instance)
            }
        };
        if let Some(peer) = here {
            *self.peers.entry(peer).or_default() += 1;
        }
        if let Some(peer) = before {
            self.release_peer(peer);
        }
    }

    fn release_peer(&mut self, peer: PeerSlot) {
        if let Some(count) = self.peers.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.peers.remove(&peer);
                self.doubts.lost.remove(&peer);
                self.writer.forget_peer(peer);
            }
        }
    }

    fn withdraw_slot(&mut self, slot: InstanceSlot) {
        self.place(slot, Placement::Nowhere);
        self.end_on(slot);
        self.doubts.instances.remove(&slot);
        self.writer.withdraw_instance(slot);
    }

    /// A new flow may choose every listed or local instance that has a location, in the order of their numbers. A suspect
    /// takes one only when nobody else is known, not even an instance that the managers left out of a long list.
    fn write_candidates(&mut self, name: &ServiceName) {
        let Some(job) = self.jobs.get(name) else {
            return;
        };
        let tables = self.writer.tables();
        let chosen = |among: &dyn Fn(u32, &Instance) -> bool| -> Vec<InstanceSlot> {
            let rows = job.instances.iter();
            rows.filter(|(number, slot)| {
                let row = tables.instance(**slot);
                row.is_some_and(|row| among(**number, row))
            })
            .map(|(_, slot)| *slot)
            .collect()
        };
        let is_listed = |number: u32, row: &Instance| match row.placement {
            Placement::Local => true,
            Placement::Peer(_) => job.listed.contains(&number),
            Placement::Nowhere => false,
        };
        let is_trusted = |row: &Instance| row.state != InstanceState::Suspect;
        let is_left_out =
            |row: &Instance| matches!(row.placement, Placement::Peer(_)) && row.reach == Reach::Any;
        let listed = chosen(&is_listed);
        let mut candidates = chosen(&|number, row| is_listed(number, row) && is_trusted(row));
        if candidates.is_empty() && !listed.is_empty() {
            candidates = chosen(&|_, row| is_left_out(row) && is_trusted(row));
        }
        if candidates.is_empty() {
            candidates = listed;
        }
        let slot = job.slot;
        self.writer.set_candidates(slot, &candidates);
    }
}

/// An instance as the managers told it.
fn remote(
    service: ServiceSlot,
    row: &Row,
    (placement, ns_ip): (Placement, Dual<NsIp>),
) -> InstanceUpdate {
    InstanceUpdate {
        service,
        number: row.number,
        instance_ip: row.instance_ip,
        ns_ip,
        placement,
        reach: if row.reply_only {
            Reach::ReplyOnly
        } else {
            Reach::Any
        },
    }
}

mod doubt;
mod formats;
mod guests;
mod moves;
mod unlisted;
pub use doubt::NodeInUse;
pub use formats::Formats;

#[cfg(test)]
mod tests;
