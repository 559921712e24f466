//! The contestants in namespaces of this machine. All stand there all the time; one carries frames at a time.
//!
//! ```text
//! live frames ══ sluice0  gateway 1, af_xdp  eth0 ══ eth0 gateway 2      translate, plain tunnel
//! live frames ══ in0      nft DNAT, VXLAN    eth0 ══ eth0                the peer
//! live frames ══ in0      bare forwarder     eth0 ══ eth0                our links alone
//! ```
//! Every ══ is a veth pair, and an XDP sink is at the right end.

use super::super::super::Settings;
use super::super::forward::{self, Forward};
use super::{Contestant, GATEWAY, Ground, MEASURED, Track, Tracks, counting, stream};
use crate::instrument::{MacText, Poll};
use crate::lab::clock::wait_for;
use crate::lab::scratch::Scratch;
use crate::lab::sites::{Attached, Cable, Layout, Microservice, Sites, Target, descriptor};
use crate::lab::wire::{offload, veth};
use crate::lab::{Host, LabError, NetNs, Process};
use crate::peers::vxlan_path;
use crate::traffic::stream::Mac;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

const CALLER: &str = "bench.sluice.caller.perf";
const SINK: &str = "bench.sluice.sink.perf";
const SINK_IP: [&str; 2] = ["10.30.91.1", "fdff:2000::91"];
/// Whom frames for the peers are from.
const GENERATOR_MAC: Mac = [2, 0, 0, 0, 0, 1];
const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 76, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 76, 2);

/// Everything, standing.
pub(super) struct Namespaces {
    tracks: Tracks,
    router: NetNs,
    sluice_perf: PathBuf,
    conntrack: Option<vxlan_path::Room>,
    _forwarder: Process,
    _instances: [NetNs; 2],
    sites: Sites,
    offload: bool,
}

impl Namespaces {
    pub(super) fn new(settings: &Settings, sluice_perf: &Path) -> Result<Self, LabError> {
        let generator = NetNs::new("generator")?;
        let (sites, instances, ours) = gateways(settings, sluice_perf)?;
        let (router, kernel) = kernel(&generator)?;
        let (bare, forwarder) = bare(&generator, sluice_perf, &sites.scratch)?;
        Ok(Self {
            tracks: Tracks { ours, kernel, bare },
            router,
            sluice_perf: sluice_perf.to_owned(),
            conntrack: None,
            _forwarder: forwarder,
            _instances: instances,
            sites,
            offload: false,
        })
    }

    /// Gateway 1 anew, with the offload or without; false when it runs so already.
    fn restart(&mut self, offload: bool) -> Result<bool, LabError> {
        if self.offload == offload {
            return Ok(false);
        }
        self.offload = offload;
        let role = &mut self.sites.gateways[0].role;
        role.configure(|text| {
            let (from, to) = (!offload, offload);
            text.replace(&format!("offload = {from}"), &format!("offload = {to}"))
        })?;
        role.stop();
        role.start()?;
        role.ready()?;
        self.poll_uplink(Some(MEASURED))?;
        Ok(true)
    }

    fn poll_uplink(&self, core: Option<usize>) -> Result<(), LabError> {
        poll_uplink(&self.tracks.ours.generator, &self.sluice_perf, core)
    }

    fn poll_router(&self, core: Option<usize>) -> Result<(), LabError> {
        let poll = Poll {
            interface: "in0".to_owned(),
            core,
        };
        let program = poll.program(&self.sluice_perf);
        self.router.succeed(&program).map(drop)
    }
}

impl Ground for Namespaces {
    fn stage(&mut self, contestant: Contestant) -> Result<bool, LabError> {
        match contestant {
            Contestant::Ours => return self.restart(false),
            Contestant::Offloaded | Contestant::OffloadedInline => {
                let is_new = self.restart(true)?;
                let threaded = contestant == Contestant::Offloaded;
                self.poll_uplink(threaded.then_some(MEASURED))?;
                return Ok(is_new);
            }
            Contestant::Threaded => self.poll_router(Some(MEASURED))?,
            Contestant::Inline => self.poll_router(None)?,
            Contestant::Bare => {}
        }
        Ok(false)
    }

    fn tracks(&self) -> &Tracks {
        &self.tracks
    }

    fn make_room(&mut self, flows: u32) -> Result<(), LabError> {
        self.conntrack = Some(vxlan_path::Room::at_least(2 * flows)?);
        // As long as ours keeps them; nobody answers here.
        self.router
            .sysctl("net/netfilter/nf_conntrack_udp_timeout", "300")
    }

    fn status(&self) -> Result<Value, LabError> {
        self.sites.gateways[0].role.ask("/v1/status")
    }
}

/// Two gateways; the first over AF_XDP, the second there to have the instance that is called.
pub(super) fn gateways(
    settings: &Settings,
    sluice_perf: &Path,
) -> Result<(Sites, [NetNs; 2], Track), LabError> {
    let layout = Layout {
        fastpath: format!("{GATEWAY}offload = false"),
        ..Layout::measured(2, Cable::Pair)
    };
    let mut sites = Sites::built(&settings.sluice, Scratch::new("sluice-perf-xdp")?, &layout)?;
    // Its device belongs to the sink.
    sites.gateways[1]
        .role
        .configure(|text| text.replace("link = \"af_xdp\"", "link = \"tun\""))?;
    sites.start()?;
    let service = |name, rr_ip| Microservice {
        rr_ip,
        ..Microservice::measured(name)
    };
    sites.apply(&descriptor(
        "bench",
        "sluice",
        &[service("sink", Some(SINK_IP)), service("caller", None)],
    ))?;
    let instances = [NetNs::new("caller")?, NetNs::new("called")?];
    let caller = sites.attach(0, CALLER, Target::Namespace(&instances[0]))?;
    let called = sites.attach(1, SINK, Target::Namespace(&instances[1]))?;
    let [near, far] =
        [0, 1].map(|index| Host::Namespace(sites.gateways[index].namespace().clone()));
    poll_uplink(&near, sluice_perf, Some(MEASURED))?;
    // Frames in its name from another address are not offloaded.
    let caller_mac = Host::Namespace(instances[0].clone())
        .device("eth-sluice")?
        .mac;
    let track = Track {
        generate: stream(
            "sluice0p",
            [caller_mac, near.device("sluice0")?.mac],
            v4(&caller)?,
            SINK_IP[0]
                .parse()
                .unwrap_or_else(|_| unreachable!("an address")),
        ),
        count: counting("eth0", forward::PORT, 42, v4(&called)?),
        generator: near,
        sink: far,
    };
    Ok((sites, instances, track))
}

/// The thread that polls the uplink is another one whenever the gateway's program comes.
pub(super) fn poll_uplink(
    node: &Host,
    sluice_perf: &Path,
    core: Option<usize>,
) -> Result<(), LabError> {
    let poll = Poll {
        interface: "sluice0".to_owned(),
        core,
    };
    node.succeed(&poll.program(sluice_perf)).map(drop)
}

/// Where the node has the instance.
fn v4(attached: &Attached) -> Result<Ipv4Addr, LabError> {
    let of_v4 = |address: &IpAddr| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    };
    attached
        .ns_address
        .iter()
        .find_map(of_v4)
        .ok_or_else(|| LabError::Reply {
            what: "the answer of sluice attach".to_owned(),
            text: format!("{attached:?}"),
        })
}

/// A generator's veth pair to `in0` of the node, whose `eth0` is joined to a sink.
fn between(generator: &NetNs, device: &str, name: &str) -> Result<(NetNs, NetNs), LabError> {
    let (node, sink) = (NetNs::new(name)?, NetNs::new(&format!("{name}-sink"))?);
    veth((generator, device), (&node, "in0"), 1500)?;
    veth((&node, "eth0"), (&sink, "eth0"), 1500)?;
    for (namespace, own) in [(&node, 1), (&sink, 2)] {
        namespace.ip(&format!("address add 192.168.76.{own}/24 dev eth0"))?;
    }
    Ok((node, sink))
}

fn kernel(generator: &NetNs) -> Result<(NetNs, Track), LabError> {
    let (node, sink) = between(generator, "gen0", "router")?;
    // Without it veth hands every packet to the sender's softirq, and has no queue that a thread could poll.
    offload(&node, "in0", &["gro", "on"])?;
    let router = Host::Namespace(node.clone());
    vxlan_path::set_up(&router, "in0", NODE, OTHER)?;
    let track = Track {
        generate: stream(
            "gen0",
            [GENERATOR_MAC, router.device("in0")?.mac],
            vxlan_path::CALLER,
            vxlan_path::DIALLED,
        ),
        count: counting(
            "eth0",
            vxlan_path::PORT,
            vxlan_path::INNER_AT,
            vxlan_path::BEHIND,
        ),
        generator: Host::Namespace(generator.clone()),
        sink: Host::Namespace(sink),
    };
    Ok((node, track))
}

fn bare(
    generator: &NetNs,
    sluice_perf: &Path,
    scratch: &Scratch,
) -> Result<(Track, Process), LabError> {
    let (node, sink) = between(generator, "gen1", "bare")?;
    let (near, far) = (Host::Namespace(node.clone()), Host::Namespace(sink));
    let forward = Forward {
        service: "in0".to_owned(),
        underlay: "eth0".to_owned(),
        source: NODE,
        to: OTHER,
        next_hop: MacText(far.device("eth0")?.mac),
        core: MEASURED,
        seconds: None,
    };
    let log = scratch.path().join("forward.log");
    let mut forwarder = node.start(&forward.program(sluice_perf), &log)?;
    let poll = Poll {
        interface: "in0".to_owned(),
        core: Some(MEASURED),
    };
    wait_for("the bare forwarder", Duration::from_secs(5), || {
        near.succeed(&poll.program(sluice_perf))
            .map_err(|error| error.to_string())
    })?;
    forwarder.alive()?;
    let dialled = SINK_IP[0]
        .parse()
        .unwrap_or_else(|_| unreachable!("an address"));
    let track = Track {
        generate: stream(
            "gen1",
            [GENERATOR_MAC, near.device("in0")?.mac],
            [10, 18, 0, 2].into(),
            dialled,
        ),
        count: counting("eth0", forward::PORT, 42, dialled),
        generator: Host::Namespace(generator.clone()),
        sink: far,
    };
    Ok((track, forwarder))
}
