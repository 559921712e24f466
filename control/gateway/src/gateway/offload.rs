//! Which established flows the kernel forwards by itself: installed when a worker says one is worth it, taken out before
//! the tables it was made from change, and read back into the flow table every second.
//!
//! Three things take a flow out: a packet that begins or ends a connection (the program does that itself, before the worker
//! sees the packet), a changed row ([`Offloader::revoke`], before publishing), and silence of this process (the lease).

use super::pins::Pins;
use super::plane::now;
use super::redirect::Redirect;
use crate::node::devices::{Devices, Outlet};
use crate::node::ipsec::Policies;
use sluice_engine::flow::Offloading;
use sluice_engine::{Flow, Shared};
use sluice_link::af_xdp::{Hop, Neighbour, lane_port};
use sluice_link::offload::abi::{Grounds, INSTANCES_MAX, PEERS_MAX, Peer as PeerRow, Versioned};
use sluice_link::offload::{Counted, Entry, Offload, OffloadSettings};
use sluice_link::sys::ethtool;
use sluice_memory::{Account, Accounts};
use sluice_routes::Veth;
use sluice_tables::slots::Slot;
use sluice_tables::{
    Instance, InstanceSlot, InstanceState, PeerSlot, Placement, Publisher, Tables,
};
use sluice_wire::{DropReason, Dual, InstanceIp, Ip, NsIp};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long the programs go on without hearing from this process. It is renewed every second.
const LEASE: Duration = Duration::from_secs(5);

/// The offload, as the core, the routes and the traces share it.
#[derive(Clone, Debug)]
pub(crate) struct Offloader(Arc<Mutex<Held>>);

/// What it needs of the gateway.
#[derive(Debug)]
pub(crate) struct Setup {
    /// `None` when it is switched off, with the reason.
    pub(crate) wanted: Result<(), String>,
    pub(crate) flows_max: u32,
    pub(crate) tunnel_port: u16,
    pub(crate) workers: usize,
    pub(crate) pins: Pins,
    pub(crate) shared: Arc<Shared>,
    pub(crate) publisher: Publisher,
    pub(crate) accounts: Arc<Accounts>,
}

#[derive(Debug)]
struct Held {
    setup: Setup,
    running: Option<Running>,
    /// Why it does not run, in words.
    idle: String,
}

/// Bytes of IP and UDP header around a packet on an IPv4 underlay.
const OUTER_V4: u16 = 28;

/// The programs are attached to the uplink.
#[derive(Debug)]
struct Running {
    programs: Offload,
    uplink: String,
    /// With AF_XDP links: their programs are the offload's, too.
    redirect: Option<Redirect>,
    paused: bool,
    /// Flows that were refused for what may change: they may ask again after the next tick.
    refused: Vec<(u32, u16)>,
    /// Peers that nothing can be sent to past the worker, asked for since the last tick.
    out_of_reach: BTreeSet<PeerSlot>,
    /// Underlay devices that were tried: the name, and why its packets are left to the worker, if they are.
    underlays: BTreeMap<u32, (String, Option<String>)>,
    /// Peers whose device was looked for.
    met: BTreeSet<Ip>,
    flows: BTreeMap<(u32, u16), (Flow, Entry)>,
    /// Taken out in the last second. What was unwrapped for them just before still has to find its way.
    leaving: Vec<Entry>,
    /// Numbers of states, and the next one that was never used.
    free: Vec<u32>,
    fresh: u32,
    generation: u32,
    instances: BTreeMap<InstanceSlot, (u32, Option<Row>)>,
    /// Local instances that packets are delivered to without the bridge.
    veths: BTreeMap<Ip, Veth>,
    peers: BTreeMap<PeerSlot, Peer>,
    counted: Counted,
}

/// All that an entry takes from an instance's row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Row {
    epoch: u32,
    placement: Placement,
    instance_ip: Dual<InstanceIp>,
    ns_ip: Dual<NsIp>,
    veth: Option<Veth>,
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

/// Why a flow stays with the worker.
#[derive(Clone, Copy, Debug)]
struct Refused {
    reason: &'static str,
    /// It may ask again.
    for_now: bool,
}

const fn for_good(reason: &'static str) -> Refused {
    let for_now = false;
    Refused { reason, for_now }
}

const fn for_now(reason: &'static str) -> Refused {
    let for_now = true;
    Refused { reason, for_now }
}

/// When the table is full, flows without a packet for so many seconds make room.
const IDLE_S: u32 = 10;

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

impl Offloader {
    pub(crate) fn new(setup: Setup) -> Self {
        let idle = setup.wanted.clone().err().unwrap_or_default();
        Self(Arc::new(Mutex::new(Held {
            setup,
            running: None,
            idle,
        })))
    }

    /// Attaches to the uplink, once it is there. What stands in the way is logged: everything works without.
    pub(crate) fn start(&self, uplink: &str) {
        let mut held = self.held();
        if held.setup.wanted.is_err() || held.running.is_some() {
            return;
        }
        match Running::start(&held.setup, uplink) {
            Ok(mut running) => {
                if let Some(dir) = held.setup.pins.dir()
                    && let Err(error) = running.programs.survive(dir)
                {
                    tracing::warn!(%error, "the offload ends with this process");
                }
                tracing::info!(uplink, "established flows are offloaded to the kernel");
                held.idle.clear();
                held.running = Some(running);
            }
            Err(reason) => {
                tracing::warn!(
                    reason,
                    "no offload of established flows: workers carry them"
                );
                held.idle = reason;
            }
        }
    }

    /// Detaches what an earlier process left attached, and says where ours can be pinned.
    pub(crate) fn take_over(&self) -> Option<PathBuf> {
        let pins = &mut self.held().setup.pins;
        pins.prepare();
        pins.dir().map(Path::to_owned)
    }

    /// What the programs of AF_XDP links need for the offload; `None` when it is switched off.
    pub(crate) fn wanted(&self) -> Option<u32> {
        let held = self.held();
        let Setup {
            wanted, flows_max, ..
        } = &held.setup;
        wanted.is_ok().then_some(*flows_max)
    }

    /// The programs of AF_XDP links are attached, and take these flows.
    pub(crate) fn start_redirect(&self, uplink: &str, redirect: Redirect, programs: Offload) {
        let mut held = self.held();
        let running = Running::over(programs, uplink, Some(redirect));
        tracing::info!(
            how = running.text(),
            "established flows are offloaded to the kernel"
        );
        held.idle.clear();
        held.running = Some(running);
    }

    /// Tells the Ethernet addresses of local instances and the next hops towards nodes as they are known now. Flows that
    /// were made for others are taken out.
    pub(crate) fn set_ways(&self, neighbours: BTreeMap<Ip, Neighbour>, hops: BTreeMap<Ip, Hop>) {
        let mut held = self.held();
        let Held { setup, running, .. } = &mut *held;
        if let Some(running) = running
            && let Some(redirect) = &mut running.redirect
            && redirect.set_ways(neighbours, hops)
        {
            running.renew();
            running.follow_routes();
            running.follow_neighbours(setup);
        }
    }

    /// The kernel's routes or policies have changed.
    pub(crate) fn follow(&self) {
        if let Some(running) = &mut self.held().running {
            running.follow_routes();
        }
    }

    /// It cannot be here, for that reason.
    pub(crate) fn decline(&self, reason: &str) {
        let mut held = self.held();
        if held.setup.wanted.is_ok() {
            reason.clone_into(&mut held.idle);
        }
    }

    /// Takes the programs away. Flows go on with the workers.
    pub(crate) fn stop(&self) {
        let mut held = self.held();
        let Held { setup, running, .. } = &mut *held;
        if let Some(mut running) = running.take() {
            running.read_back(setup);
            for (flow, _) in running.flows.values() {
                setup.shared.flows().set_offloading(flow, Offloading::No);
            }
        }
    }

    /// A worker says that a flow is worth it.
    pub(crate) fn install(&self, index: u32, generation: u16) {
        let mut held = self.held();
        let Held { setup, running, .. } = &mut *held;
        let flows = setup.shared.flows();
        let (Some(running), Some(flow)) = (running, flows.at(index, generation)) else {
            return;
        };
        match running.install(&flow, setup) {
            Ok(()) => {
                // It may have ended while it was installed.
                let still = flows.at(index, generation);
                if !still.is_some_and(|flow| flow.state.is_established() && !flow.state.is_closed())
                    || !flows.set_offloading(&flow, Offloading::Done)
                {
                    running.take_out((index, generation));
                }
            }
            Err(Refused { reason, for_now }) => {
                tracing::debug!(?flow, reason, "a flow stays with the worker");
                if for_now {
                    running.refused.push((index, generation));
                }
            }
        }
    }

    /// Takes out the flows that `next`, or `veths`, say something new about. To be called before workers see it, and
    /// before a device is removed.
    pub(crate) fn revoke(&self, next: &Tables, veths: BTreeMap<Ip, Veth>) {
        if let Some(running) = &mut self.held().running {
            running.revoke(next, veths);
        }
    }

    /// While paused, workers see every packet.
    pub(crate) fn pause(&self, paused: bool) {
        if let Some(running) = &mut self.held().running {
            running.paused = paused;
            running.renew();
        }
    }

    /// To be called every second: renews the lease, follows the kernel's routes, and reads back what went by.
    pub(crate) fn tick(&self) {
        let mut held = self.held();
        let Held { setup, running, .. } = &mut *held;
        if let Some(running) = running {
            running.renew();
            running.follow_routes();
            running.meet_peers(&setup.publisher.snapshot());
            running.read_back(setup);
        }
    }

    /// Brings the account up to date.
    pub(crate) fn count(&self) {
        let mut held = self.held();
        let Held { setup, running, .. } = &mut *held;
        if let Some(running) = running {
            running.count(&setup.accounts.engine);
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.held().running.is_some()
    }

    /// The line of `sluice status`, and how many flows are offloaded.
    pub(crate) fn status(&self) -> (String, usize) {
        let held = self.held();
        let Some(running) = &held.running else {
            return (format!("off: {}", held.idle), 0);
        };
        let text = running.text();
        let text = match held.setup.pins.missing() {
            Some(reason) => format!("{text}, ends with the process: {reason}"),
            None => text,
        };
        (text, running.flows.len())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn start(setup: &Setup, uplink: &str) -> Result<Self, String> {
        let device = Devices::open()
            .and_then(|mut devices| devices.link(uplink))
            .map_err(|error| error.to_string())?
            .ok_or_else(|| format!("there is no device {uplink}"))?;
        let mut programs = Offload::load(&OffloadSettings {
            tunnel_port: setup.tunnel_port,
            uplink: (
                device.index,
                device
                    .mac
                    .ok_or_else(|| format!("{uplink} is no Ethernet device"))?,
            ),
            flows_max: setup.flows_max,
        })
        .map_err(|error| error.to_string())?;
        programs.set_longest_inbound(u16::try_from(device.mtu).unwrap_or(u16::MAX));
        programs
            .attach_uplink((uplink, device.index))
            .map_err(|error| error.to_string())?;
        Ok(Self::over(programs, uplink, None))
    }

    fn over(programs: Offload, uplink: &str, redirect: Option<Redirect>) -> Self {
        let mut running = Self {
            programs,
            uplink: uplink.to_owned(),
            redirect,
            paused: false,
            refused: Vec::new(),
            out_of_reach: BTreeSet::new(),
            underlays: BTreeMap::new(),
            met: BTreeSet::new(),
            flows: BTreeMap::new(),
            leaving: Vec::new(),
            free: Vec::new(),
            fresh: 0,
            generation: 0,
            instances: BTreeMap::new(),
            veths: BTreeMap::new(),
            peers: BTreeMap::new(),
            counted: Counted::default(),
        };
        running.renew();
        running
    }

    fn text(&self) -> String {
        if let Some(redirect) = &self.redirect {
            return redirect.text();
        }
        let mut text = format!("tc {}", self.uplink);
        for (name, reason) in self.underlays.values() {
            match reason {
                None => text.push_str(&format!(", XDP {name}")),
                Some(reason) => text.push_str(&format!(", not {name}: {reason}")),
            }
        }
        text
    }

    fn renew(&mut self) {
        if let Some(redirect) = &mut self.redirect {
            self.programs.set_redirects(redirect.look());
            self.programs
                .set_longest_inbound(redirect.longest_inbound());
        }
        let until = now() + LEASE;
        let until_ns = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        if let Err(error) = self.programs.set_lease(until_ns, self.paused) {
            tracing::warn!(%error, "the offload's lease");
        }
    }

    fn install(&mut self, flow: &Flow, setup: &Setup) -> Result<(), Refused> {
        let tables = setup.publisher.snapshot();
        let family = flow.forward.src.family();
        let local = tables
            .instance_at(flow.local.slot, flow.local.epoch)
            .filter(|row| row.placement == Placement::Local)
            .ok_or(for_now("its local instance is gone"))?;
        let remote = tables
            .instance_at(flow.remote.slot, flow.remote.epoch)
            .ok_or(for_now("its remote instance is gone"))?;
        let Placement::Peer(slot) = remote.placement else {
            return Err(for_good("its instances are on one node"));
        };
        let (Some(instance_ip), Some(ns_ip)) =
            (local.instance_ip.of(family), remote.ns_ip.of(family))
        else {
            return Err(for_now("an address is not known"));
        };
        let peer = self.peer(slot, &tables)?;
        // Only XDP writes it: the kernel finds out by itself.
        let mac = match &self.redirect {
            Some(redirect) => redirect
                .neighbour(flow.forward.src)
                .ok_or(for_now("its instance's Ethernet address is not known"))?,
            None => [0; 6],
        };
        let grounds = Grounds {
            local: self.instance(flow.local.slot, &tables)?,
            remote: self.instance(flow.remote.slot, &tables)?,
            peer,
            id: self.take_id(setup.flows_max)?,
            generation: self.next_generation(),
        };
        let sent = sluice_wire::FlowKey {
            src: instance_ip.ip(),
            dst: ns_ip.ip(),
            src_port: flow.wire_src_port,
            dst_port: flow.wire_dst_port,
            ..flow.forward
        };
        let lane = match &self.redirect {
            // Its worker's own is not known here; so flows spread over the receiver's queues all the same.
            Some(_) => lane_port(setup.tunnel_port, grounds.id as usize % setup.workers),
            None => setup.tunnel_port,
        };
        let entry = Entry::new(&flow.forward, &sent, &flow.reverse(), &grounds).by(lane, mac);
        let veth = self.veths.get(&flow.forward.src);
        let entry = match veth.filter(|_| self.redirect.is_none()) {
            Some(veth) => entry.through(veth.host_index, veth.mac),
            None => entry,
        };
        if let Err(error) = self.programs.insert(&entry) {
            tracing::debug!(%error, "installing a flow");
            self.retire(entry);
            return Err(for_good("the kernel refused it"));
        }
        self.flows
            .insert((flow.index, flow.state.generation()), (*flow, entry));
        Ok(())
    }

    fn take_out(&mut self, key: (u32, u16)) {
        if let Some((_, entry)) = self.flows.remove(&key) {
            self.retire(entry);
        }
    }

    fn retire(&mut self, entry: Entry) {
        if let Err(error) = self.programs.take_out(&entry) {
            tracing::warn!(%error, "taking a flow out of the offload");
        }
        self.leaving.push(entry);
    }

    /// Clears away what was taken out before the last call.
    fn clear(&mut self) {
        for entry in std::mem::take(&mut self.leaving) {
            if let Err(error) = self.programs.remove(&entry) {
                tracing::warn!(%error, "clearing a flow out of the offload");
            }
            self.free.push(entry.id);
        }
    }

    fn take_id(&mut self, flows_max: u32) -> Result<u32, Refused> {
        if let Some(id) = self.free.pop() {
            return Ok(id);
        }
        if self.fresh == flows_max {
            return Err(for_now("`fastpath.offload_flows_max` flows are offloaded"));
        }
        self.fresh += 1;
        Ok(self.fresh - 1)
    }

    const fn next_generation(&mut self) -> u32 {
        self.generation = match self.generation.wrapping_add(1) {
            0 => 1,
            next => next,
        };
        self.generation
    }

    /// The version under which what `tables` say of the instance is believed.
    fn instance(&mut self, slot: InstanceSlot, tables: &Tables) -> Result<Versioned, Refused> {
        if slot.index() >= INSTANCES_MAX {
            return Err(for_good("its instance's slot is too high"));
        }
        let row = tables
            .instance(slot)
            .and_then(|row| Row::of(row, &self.veths));
        let (version, known) = self.instances.entry(slot).or_insert((0, row));
        if *known != row {
            *version += 1;
            *known = row;
            let written = self.programs.set_instance_version(slot.index(), *version);
            written.map_err(|_| for_good("the kernel refused it"))?;
        }
        Ok(Versioned {
            slot: slot.index(),
            version: *version,
        })
    }

    /// The version under which what `tables` and the kernel's routes say of the peer is believed.
    fn peer(&mut self, slot: PeerSlot, tables: &Tables) -> Result<Versioned, Refused> {
        if slot.index() >= PEERS_MAX {
            return Err(for_good("its peer's slot is too high"));
        }
        let facts = PeerFacts::of(slot, tables).ok_or(for_now("its peer is gone"))?;
        let before = self.peers.get(&slot).copied();
        let known = before.and_then(|peer| peer.known);
        if let (Some(peer), Some((old, _))) = (before, known)
            && old == facts
        {
            return Ok(Versioned {
                slot: slot.index(),
                version: peer.version,
            });
        }
        if !facts.ip.is_v4() {
            return Err(for_good("its underlay is IPv6"));
        }
        let mut kernel = match self.redirect {
            None if !self.out_of_reach.contains(&slot) => Kernel::ask(),
            None | Some(_) => None,
        };
        let Some(exit) = self.exit(facts.ip, kernel.as_mut()) else {
            self.out_of_reach.insert(slot);
            return Err(for_now(
                "its peer's next hop is not known yet, or IPsec policies guard it",
            ));
        };
        let Exit { outlet, hop } = exit;
        if hop.is_none() {
            self.take_up(&outlet)?;
        }
        let version = before.map_or(0, |peer| peer.version) + 1;
        let row = PeerRow::new(
            (facts.ip, facts.port),
            outlet.source,
            outlet.device,
            hop.map_or(facts.mtu, |hop| {
                facts.mtu.min(hop.mtu.saturating_sub(OUTER_V4))
            }),
        )
        .by_hop(hop.map_or([0; 6], |hop| hop.mac))
        .with_version(version);
        self.programs
            .set_peer(slot.index(), row)
            .map_err(|_| for_good("the kernel refused it"))?;
        self.peers.insert(
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

    /// The way to the node at `ip` as it is now; none where IPsec policies apply.
    fn exit(&self, ip: Ip, kernel: Option<&mut Kernel>) -> Option<Exit> {
        if let Some(redirect) = &self.redirect {
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

    /// Attaches to the device towards a peer, once.
    fn take_up(&mut self, outlet: &Outlet) -> Result<(), Refused> {
        if !self.underlays.contains_key(&outlet.device) {
            let links = Devices::open().and_then(|mut devices| devices.links());
            let link = links
                .unwrap_or_default()
                .into_iter()
                .find(|link| link.index == outlet.device)
                .ok_or(for_now("the device towards its peer is gone"))?;
            let attached = match link.mac {
                Some(_) => finish_checksums(&link.name).and_then(|()| {
                    self.programs
                        .attach_underlay((&link.name, link.index))
                        .map_err(|error| error.to_string())
                }),
                None => Err("it is no Ethernet device".to_owned()),
            };
            match &attached {
                Ok(()) => tracing::info!(device = link.name, "offload on an underlay device"),
                Err(reason) => {
                    tracing::warn!(
                        device = link.name,
                        reason,
                        "no offload on an underlay device"
                    );
                }
            }
            self.underlays
                .insert(outlet.device, (link.name, attached.err()));
        }
        match self.underlays.get(&outlet.device) {
            Some((_, None)) => Ok(()),
            _ => Err(for_good("the device towards its peer cannot be taken up")),
        }
    }

    /// Attaches to the devices towards peers before there is traffic: a driver may lose frames meanwhile.
    fn meet_peers(&mut self, tables: &Tables) {
        if self.redirect.is_some() {
            return;
        }
        let facts = |slot| PeerFacts::of(slot, tables);
        let new: Vec<Ip> = tables
            .peers()
            .filter_map(|(slot, _)| facts(slot))
            .map(|facts| facts.ip)
            .filter(|ip| ip.is_v4() && !self.met.contains(ip))
            .collect();
        if new.is_empty() {
            return;
        }
        let Ok(mut devices) = Devices::open() else {
            return;
        };
        for ip in new {
            if let Ok(Some(outlet)) = devices.outlet(ip) {
                self.met.insert(ip);
                if let Err(Refused { reason, .. }) = self.take_up(&outlet) {
                    tracing::debug!(peer = %ip, reason, "no offload towards a peer");
                }
            }
        }
    }

    fn revoke(&mut self, next: &Tables, veths: BTreeMap<Ip, Veth>) {
        self.veths = veths;
        for (slot, (version, known)) in &mut self.instances {
            let row = next
                .instance(*slot)
                .and_then(|row| Row::of(row, &self.veths));
            if *known != row {
                *known = row;
                *version += 1;
                if let Err(error) = self.programs.set_instance_version(slot.index(), *version) {
                    tracing::error!(%error, "revoking offloaded flows");
                }
            }
        }
        let changed: Vec<PeerSlot> = self
            .peers
            .iter()
            .filter(|(slot, peer)| {
                peer.known
                    .is_some_and(|(facts, _)| PeerFacts::of(**slot, next) != Some(facts))
            })
            .map(|(slot, _)| *slot)
            .collect();
        changed.into_iter().for_each(|slot| self.disbelieve(slot));
    }

    /// A route that changed under a peer: its entries were made for the old one.
    fn follow_routes(&mut self) {
        if self.peers.values().all(|peer| peer.known.is_none()) {
            return;
        }
        // What cannot be asked is believed no longer.
        let mut kernel = match self.redirect {
            Some(_) => None,
            None => Kernel::ask(),
        };
        let changed: Vec<PeerSlot> = self
            .peers
            .iter()
            .filter(|(_, peer)| {
                peer.known.is_some_and(|(facts, known)| {
                    self.exit(facts.ip, kernel.as_mut()) != Some(known)
                })
            })
            .map(|(slot, _)| *slot)
            .collect();
        changed.into_iter().for_each(|slot| self.disbelieve(slot));
    }

    /// An instance that has another Ethernet address: its entries were made for the old one.
    fn follow_neighbours(&mut self, setup: &Setup) {
        let Some(redirect) = &self.redirect else {
            return;
        };
        let astray = |(flow, entry): &(Flow, Entry)| {
            redirect.neighbour(flow.forward.src) != Some(entry.mac())
        };
        let changed: Vec<(u32, u16)> = self
            .flows
            .iter()
            .filter(|(_, it)| astray(it))
            .map(|(&key, _)| key)
            .collect();
        for key in changed {
            if let Some((flow, _)) = self.flows.get(&key) {
                setup.shared.flows().set_offloading(flow, Offloading::No);
            }
            self.take_out(key);
        }
    }

    /// Takes out every flow to that peer.
    fn disbelieve(&mut self, slot: PeerSlot) {
        if let Some(peer) = self.peers.get_mut(&slot) {
            peer.known = None;
            peer.version += 1;
            peer.row = peer.row.with_version(peer.version);
            // Only the version differs: a packet in between meets the old one or the new one.
            if let Err(error) = self.programs.set_peer(slot.index(), peer.row) {
                tracing::error!(%error, "revoking offloaded flows");
            }
        }
    }

    /// Notes uses in the flow table, clears away what was taken out, and counts.
    fn read_back(&mut self, setup: &Setup) {
        let flows = setup.shared.flows();
        self.clear();
        self.out_of_reach.clear();
        for (index, generation) in self.refused.drain(..) {
            if let Some(flow) = flows.at(index, generation) {
                flows.set_offloading(&flow, Offloading::No);
            }
        }
        let is_full = self.free.is_empty() && self.fresh == setup.flows_max;
        let now_s = u32::try_from(now().as_secs()).unwrap_or(u32::MAX);
        let mut out = Vec::new();
        for (&(index, generation), (flow, entry)) in &self.flows {
            let state = self.programs.state(entry.id).unwrap_or_default();
            let last_s = u32::try_from(state.last_seen_ns / 1_000_000_000).unwrap_or(u32::MAX);
            flows.seen(flow, last_s);
            let stays = flows.at(index, generation).is_some_and(|flow| {
                let is_idle = flow.state.last_s().saturating_add(IDLE_S) < now_s;
                let makes_room = is_full && is_idle;
                !flow.state.is_closed() && !makes_room
            });
            if !stays || state.generation != entry.generation || self.is_stale(entry) {
                out.push((index, generation));
            }
        }
        for key in out {
            if let Some((flow, _)) = self.flows.get(&key) {
                // What made it stale may be over: its next packets may ask again.
                flows.set_offloading(flow, Offloading::No);
            }
            self.take_out(key);
        }
        self.count(&setup.accounts.engine);
    }

    fn is_stale(&self, entry: &Entry) -> bool {
        let grounds = entry.grounds();
        let instance = |pin: Versioned| {
            let current = self.instances.get(&InstanceSlot::from_index(pin.slot));
            current.is_none_or(|(version, _)| *version != pin.version)
        };
        let peer = self.peers.get(&PeerSlot::from_index(grounds.peer.slot));
        instance(grounds.local)
            || instance(grounds.remote)
            || peer.is_none_or(|peer| peer.version != grounds.peer.version)
    }

    fn count(&mut self, account: &Account) {
        let counted = match self.programs.counted() {
            Ok(counted) => counted,
            Err(error) => {
                tracing::warn!(%error, "the offload's counters");
                return;
            }
        };
        account.received.set(counted.received);
        account.received_bytes.set(counted.received_bytes);
        account.forwarded.set(counted.forwarded);
        account.forwarded_bytes.set(counted.forwarded_bytes);
        for _ in self.counted.dropped..counted.dropped {
            account.drop_frame(DropReason::FlowBusy);
        }
        self.counted = counted;
    }
}

impl Row {
    fn of(row: &Instance, veths: &BTreeMap<Ip, Veth>) -> Option<Self> {
        let is_local = row.placement == Placement::Local;
        (row.state != InstanceState::Withdrawn).then_some(Self {
            epoch: row.epoch,
            placement: row.placement,
            instance_ip: row.instance_ip,
            ns_ip: row.ns_ip,
            veth: row
                .ns_ip
                .iter()
                .filter(|_| is_local)
                .find_map(|ip| veths.get(&ip.ip()).copied()),
        })
    }
}

impl PeerFacts {
    fn of(slot: PeerSlot, tables: &Tables) -> Option<Self> {
        tables
            .peer(slot)
            .filter(|peer| tables.peers_at(peer.ip).contains(&slot))
            .map(|peer| Self {
                epoch: peer.epoch,
                ip: peer.ip,
                port: peer.port,
                mtu: peer.mtu,
            })
    }
}

/// Devices that hand a packet to another stack with its checksum unfinished, as a note beside the bytes. A worker at the
/// other end receives the bytes alone.
const UNFINISHED: [&str; 4] = ["veth", "virtio_net", "tun", "netkit"];

/// Has the kernel finish the checksums of what leaves over such a device. It stays so: others only get what they could
/// have computed themselves.
pub(super) fn finish_checksums(device: &str) -> Result<(), String> {
    match ethtool::driver(device) {
        Ok(driver) if UNFINISHED.contains(&driver.as_str()) => {
            ethtool::set_tx_checksum(device, false)
                .map_err(|error| format!("switching its tx checksums off: {error}"))
        }
        // A device that does not say is a real one or does nothing of the kind.
        Ok(_) | Err(_) => Ok(()),
    }
}
