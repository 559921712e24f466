//! The offload while it runs: its flows, from being installed to being cleared away.

use super::instances::Instances;
use super::peers::Peers;
use super::redirect::Redirect;
use super::{Refused, Setup, for_good, for_now};
use crate::gateway::plane::now;
use crate::node::devices::Devices;
use sluice_engine::Flow;
use sluice_engine::flow::Offloading;
use sluice_link::af_xdp::lane_port;
use sluice_link::offload::abi::Grounds;
use sluice_link::offload::{Counted, Entry, Offload, OffloadSettings};
use sluice_memory::Account;
use sluice_routes::Veth;
use sluice_tables::{Placement, Tables};
use sluice_wire::{DropReason, Ip};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long the programs go on without hearing from this process. It is renewed every second.
const LEASE: Duration = Duration::from_secs(5);

/// When the table is full, flows without a packet for so many seconds make room.
const IDLE_S: u32 = 10;

/// The programs are attached to the uplink.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) programs: Offload,
    uplink: String,
    /// With AF_XDP links: their programs are the offload's, too.
    pub(super) redirect: Option<Redirect>,
    pub(super) paused: bool,
    /// Flows that were refused for what may change: they may ask again after the next tick.
    pub(super) refused: Vec<(u32, u16)>,
    pub(super) flows: BTreeMap<(u32, u16), (Flow, Entry)>,
    /// Taken out in the last second. What was unwrapped for them just before still has to find its way.
    leaving: Vec<Entry>,
    /// Numbers of states, and the next one that was never used.
    free: Vec<u32>,
    fresh: u32,
    generation: u32,
    instances: Instances,
    peers: Peers,
    counted: Counted,
}

impl Running {
    pub(super) fn beside_tun(setup: &Setup, uplink: &str) -> Result<Self, String> {
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

    pub(super) fn over(programs: Offload, uplink: &str, redirect: Option<Redirect>) -> Self {
        let mut running = Self {
            programs,
            uplink: uplink.to_owned(),
            redirect,
            paused: false,
            refused: Vec::new(),
            flows: BTreeMap::new(),
            leaving: Vec::new(),
            free: Vec::new(),
            fresh: 0,
            generation: 0,
            instances: Instances::default(),
            peers: Peers::default(),
            counted: Counted::default(),
        };
        running.renew();
        running
    }

    pub(super) fn text(&self) -> String {
        if let Some(redirect) = &self.redirect {
            return redirect.text();
        }
        format!("tc {}{}", self.uplink, self.peers.text())
    }

    pub(super) fn renew(&mut self) {
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

    pub(super) fn install(&mut self, flow: &Flow, setup: &Setup) -> Result<(), Refused> {
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
        let redirect = self.redirect.as_ref();
        let programs = &mut self.programs;
        let peer = self.peers.version(slot, &tables, redirect, programs)?;
        // Only XDP writes it: the kernel finds out by itself.
        let mac = match redirect {
            Some(redirect) => redirect
                .neighbour(flow.forward.src)
                .ok_or(for_now("its instance's Ethernet address is not known"))?,
            None => [0; 6],
        };
        let grounds = Grounds {
            local: self.instances.version(flow.local.slot, &tables, programs)?,
            remote: self
                .instances
                .version(flow.remote.slot, &tables, programs)?,
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
        let veth = self.instances.veth(flow.forward.src);
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

    pub(super) fn take_out(&mut self, key: (u32, u16)) {
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

    pub(super) fn revoke(&mut self, next: &Tables, veths: BTreeMap<Ip, Veth>) {
        self.instances.revoke(next, veths, &mut self.programs);
        self.peers.revoke(next, &mut self.programs);
    }

    pub(super) fn follow_routes(&mut self) {
        let redirect = self.redirect.as_ref();
        self.peers.follow_routes(redirect, &mut self.programs);
    }

    pub(super) fn meet_peers(&mut self, tables: &Tables) {
        if self.redirect.is_none() {
            self.peers.meet(tables, &mut self.programs);
        }
    }

    /// An instance that has another Ethernet address: its entries were made for the old one.
    pub(super) fn follow_neighbours(&mut self, setup: &Setup) {
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

    /// Notes uses in the flow table, clears away what was taken out, and counts.
    pub(super) fn read_back(&mut self, setup: &Setup) {
        let flows = setup.shared.flows();
        self.clear();
        self.peers.tick();
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
        self.instances.is_stale(grounds.local)
            || self.instances.is_stale(grounds.remote)
            || self.peers.is_stale(grounds.peer)
    }

    pub(super) fn count(&mut self, account: &Account) {
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
