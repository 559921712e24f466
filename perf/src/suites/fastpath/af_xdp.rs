//! AF_XDP beside the kernel's DNAT and VXLAN, and beside its own links without the path: frames per second on one core.
//!
//! ```text
//! live frames ══ sluice0  gateway 1, af_xdp  eth0 ══ XDP sink (gateway 2)      translate, plain tunnel
//! live frames ══ in0      nft DNAT, VXLAN    eth0 ══ XDP sink                  the peer
//! live frames ══ in0      bare forwarder     eth0 ══ XDP sink                  our links alone
//! ```
//! Every ══ is a veth pair. All three stand there all the time; one carries frames at a time. What is measured has core 0: the
//! worker and the kernel thread that polls its service device. Generator and sink have core 1. Only the peer *inline* runs
//! where its frames are made, in the generator's softirqs on core 1, and its sink on core 0.

use super::super::Settings;
use super::forward::{self, Forward};
use crate::instrument::{Count, Counted, Generate, Generated, MacText, Poll, ask};
use crate::lab::scratch::Scratch;
use crate::lab::sites::{Attached, Cable, Layout, Microservice, Sites, Target, descriptor};
use crate::lab::wire::{offload, veth};
use crate::lab::{Host, LabError, NetNs, Process};
use crate::peers::vxlan_path;
use crate::report::{Goal, Report, Row};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

const CALLER: &str = "bench.sluice.caller.perf";
const SINK: &str = "bench.sluice.sink.perf";
const SINK_IP: [&str; 2] = ["10.30.91.1", "fdff:2000::91"];
/// Core of what is measured, and of generator and sink.
const MEASURED: usize = 0;
const BESIDE: usize = 1;
/// The generator is under way before counting begins, and still when it ends.
const AROUND: f64 = 0.3;
/// Frames per second that make flows: fewer than any of the contestants can carry.
const GENTLE: u32 = 150_000;
/// Flows made at a time: an instance may have begun so many that were not used twice yet.
const MADE_AT_ONCE: u32 = 1 << 17;
/// `[fastpath]` of gateway 1. The flow table holds a million flows and those that other rows made.
const GATEWAY: &str = "link = \"af_xdp\"\noffload = false\nflows_max = 4194304";

/// How long and how often.
struct Pace {
    rounds: usize,
    seconds: f64,
    shapes: &'static [Shape],
}

/// What is sent.
#[derive(Clone, Copy)]
struct Shape {
    /// Of the row.
    name: &'static str,
    bytes: u16,
    flows: u32,
}

const fn shape(name: &'static str, bytes: u16, flows: u32) -> Shape {
    Shape { name, bytes, flows }
}

/// The first one is all that a quick run measures.
const SHAPES: [Shape; 6] = [
    shape("af_xdp_64b", 64, 1),
    shape("af_xdp_64b_64k", 64, 1 << 16),
    shape("af_xdp_64b_1m", 64, 1 << 20),
    shape("af_xdp_1400b", 1400, 1),
    shape("af_xdp_1400b_64k", 1400, 1 << 16),
    shape("af_xdp_1400b_1m", 1400, 1 << 20),
];

/// One way from a generator to a sink.
struct Track {
    generator: Host,
    sink: Host,
    generate: Generate,
    count: Count,
}

/// `af_xdp_*` beside both peers, and `path_cost_percent`.
pub(super) fn run(settings: &Settings, report: &mut Report) -> Result<(), LabError> {
    let pace = if settings.quick {
        Pace {
            rounds: 5,
            seconds: 0.4,
            shapes: &SHAPES[..1],
        }
    } else {
        Pace {
            rounds: 7,
            seconds: 1.0,
            shapes: &SHAPES,
        }
    };
    let lab = Lab::new(settings)?;
    for shape in pace.shapes {
        (settings.say)(&format!(
            "AF_XDP beside the kernel: {} flows, {} bytes",
            shape.flows, shape.bytes
        ));
        for track in [&lab.ours, &lab.kernel] {
            lab.make_flows(track, shape)?;
        }
        let mut rounds = Rounds::default();
        for round in 0..pace.rounds {
            rounds.push(&lab.round(round, shape, &pace)?);
        }
        rounds.report(shape, report);
    }
    Ok(())
}

/// Frames per second of every contestant in one round.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    ours: f64,
    threaded: f64,
    inline: f64,
    bare: f64,
}

#[derive(Default)]
struct Rounds(Vec<Rates>);

impl Rounds {
    fn push(&mut self, rates: &Rates) {
        self.0.push(*rates);
    }

    fn report(&self, shape: &Shape, report: &mut Report) {
        let pairs = |peer: fn(&Rates) -> f64| -> Vec<(f64, f64)> {
            self.0
                .iter()
                .map(|rates| (rates.ours, peer(rates)))
                .collect()
        };
        let row = |peer, pairs: &[(f64, f64)], goal| {
            Row::beside(shape.name, "packets/s", peer, pairs).with_goal(Goal::RatioAtLeast(goal))
        };
        report.push(row(
            "vxlan_dnat_threaded",
            &pairs(|rates| rates.threaded),
            2.0,
        ));
        report.push(row("vxlan_dnat_inline", &pairs(|rates| rates.inline), 1.5));
        let bare = pairs(|rates| rates.bare);
        report.push(Row::beside(
            shape.name,
            "packets/s",
            "bare_forwarder",
            &bare,
        ));
        if shape.name == SHAPES[0].name {
            let costs: Vec<f64> = bare
                .iter()
                .map(|(ours, bare)| 100.0 * (1.0 - ours / bare))
                .collect();
            report.push(
                Row::median("path_cost_percent", "%", &costs).with_goal(Goal::ValueAtMost(25.0)),
            );
        }
    }
}

/// Everything, standing.
struct Lab {
    ours: Track,
    kernel: Track,
    bare: Track,
    /// Of the kernel's path.
    router: Host,
    sluice_perf: PathBuf,
    _forwarder: Process,
    _instances: [NetNs; 2],
    _sites: Sites,
}

impl Lab {
    fn new(settings: &Settings) -> Result<Self, LabError> {
        let sluice_perf = std::env::current_exe().map_err(LabError::file("this program"))?;
        let generator = NetNs::new("generator")?;
        let (sites, instances, ours) = gateways(settings, &sluice_perf)?;
        let (router, kernel) = kernel(&generator)?;
        let (bare, forwarder) = bare(&generator, &sluice_perf, &sites.scratch)?;
        Ok(Self {
            ours,
            kernel,
            bare,
            router: Host::Namespace(router),
            sluice_perf,
            _forwarder: forwarder,
            _instances: instances,
            _sites: sites,
        })
    }

    /// Sends so few frames of every flow that each arrives, for longer than a second: then the flow is established.
    fn make_flows(&self, track: &Track, shape: &Shape) -> Result<(), LabError> {
        let flows = shape.flows.min(MADE_AT_ONCE);
        let thrice = 3.0 * f64::from(flows) / f64::from(GENTLE);
        for first in (0..shape.flows).step_by(flows as usize) {
            let generate = Generate {
                bytes: shape.bytes,
                flows,
                first,
                seconds: thrice.max(1.7),
                rate: Some(GENTLE),
                core: Some(BESIDE),
                ..track.generate.clone()
            };
            let program = generate.program(&self.sluice_perf);
            ask::<Generated>(&track.generator, &program)?;
        }
        Ok(())
    }

    /// All contestants once; the first of a round changes from round to round.
    fn round(&self, round: usize, shape: &Shape, pace: &Pace) -> Result<Rates, LabError> {
        let mut rates = Rates::default();
        for step in 0..4 {
            match (round + step) % 4 {
                0 => rates.ours = self.rate(&self.ours, shape, pace, BESIDE)?,
                1 => {
                    self.poll_router(Some(MEASURED))?;
                    rates.threaded = self.rate(&self.kernel, shape, pace, BESIDE)?;
                }
                2 => {
                    self.poll_router(None)?;
                    rates.inline = self.rate(&self.kernel, shape, pace, MEASURED)?;
                }
                _ => rates.bare = self.rate(&self.bare, shape, pace, BESIDE)?,
            }
        }
        Ok(rates)
    }

    fn poll_router(&self, core: Option<usize>) -> Result<(), LabError> {
        let poll = Poll {
            interface: "in0".to_owned(),
            core,
        };
        self.router
            .succeed(&poll.program(&self.sluice_perf))
            .map(drop)
    }

    /// Frames per second that arrive at the sink, whose queues are polled on core `sink`.
    fn rate(
        &self,
        track: &Track,
        shape: &Shape,
        pace: &Pace,
        sink: usize,
    ) -> Result<f64, LabError> {
        let generate = Generate {
            bytes: shape.bytes,
            flows: shape.flows,
            seconds: pace.seconds + 3.0 * AROUND,
            core: Some(BESIDE),
            ..track.generate.clone()
        };
        let count = Count {
            after: AROUND,
            seconds: pace.seconds,
            core: Some(sink),
            ..track.count.clone()
        };
        let counted: Counted = std::thread::scope(|scope| {
            let program = generate.program(&self.sluice_perf);
            let generated = scope.spawn(move || ask::<Generated>(&track.generator, &program));
            let counted = ask(&track.sink, &count.program(&self.sluice_perf));
            let generated = generated
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            generated.and(counted)
        })?;
        if counted.expected == 0 || counted.other > 0 {
            return Err(LabError::Reply {
                what: format!("the sink of {}", track.sink.name()),
                text: format!("frames that are not those expected: {counted:?}"),
            });
        }
        Ok(counted.expected as f64 / counted.seconds)
    }
}

/// Two gateways; the first over AF_XDP, the second there to have the instance that is called.
fn gateways(
    settings: &Settings,
    sluice_perf: &Path,
) -> Result<(Sites, [NetNs; 2], Track), LabError> {
    let layout = Layout {
        clusters: 1,
        gateways: vec![0, 0],
        cable: Cable::Pair,
        fastpath: GATEWAY.to_owned(),
        log_level: "warn".to_owned(),
        ..Layout::two_sites()
    };
    let mut sites = Sites::built(&settings.sluice, Scratch::new("sluice-perf-xdp")?, &layout)?;
    // Its device belongs to the sink.
    sites.gateways[1]
        .role
        .configure(|text| text.replace("link = \"af_xdp\"", "link = \"tun\""))?;
    sites.start()?;
    let service = |name, rr_ip| Microservice {
        name,
        namespace: "perf",
        rr_ip,
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
    let poll = Poll {
        interface: "sluice0".to_owned(),
        core: Some(MEASURED),
    };
    near.succeed(&poll.program(sluice_perf))?;
    let track = Track {
        generate: stream(
            "sluice0p",
            near.device("sluice0")?.mac,
            v4(&caller)?,
            SINK_IP[0]
                .parse()
                .unwrap_or_else(|_| unreachable!("an address")),
        ),
        count: counting(forward::PORT, 42, v4(&called)?),
        generator: near,
        sink: far,
    };
    Ok((sites, instances, track))
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

const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 76, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 76, 2);

fn kernel(generator: &NetNs) -> Result<(NetNs, Track), LabError> {
    let (node, sink) = between(generator, "gen0", "router")?;
    // Without it veth hands every packet to the sender's softirq, and has no queue that a thread could poll.
    offload(&node, "in0", &["gro", "on"])?;
    let router = Host::Namespace(node.clone());
    vxlan_path::set_up(&router, "in0", NODE, OTHER)?;
    let track = Track {
        generate: stream(
            "gen0",
            router.device("in0")?.mac,
            vxlan_path::CALLER,
            vxlan_path::DIALLED,
        ),
        count: counting(vxlan_path::PORT, vxlan_path::INNER_AT, vxlan_path::BEHIND),
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
    };
    let log = scratch.path().join("forward.log");
    let mut forwarder = node.start(&forward.program(sluice_perf), &log)?;
    let poll = Poll {
        interface: "in0".to_owned(),
        core: Some(MEASURED),
    };
    crate::lab::clock::wait_for("the bare forwarder", Duration::from_secs(5), || {
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
            near.device("in0")?.mac,
            [10, 18, 0, 2].into(),
            dialled,
        ),
        count: counting(forward::PORT, 42, dialled),
        generator: Host::Namespace(generator.clone()),
        sink: far,
    };
    Ok((track, forwarder))
}

fn stream(interface: &str, to: [u8; 6], source: Ipv4Addr, destination: Ipv4Addr) -> Generate {
    Generate {
        interface: interface.to_owned(),
        source_mac: MacText([2, 0, 0, 0, 0, 1]),
        destination_mac: MacText(to),
        source,
        destination,
        bytes: 64,
        flows: 1,
        first: 0,
        seconds: 1.0,
        rate: None,
        core: None,
    }
}

fn counting(port: u16, inner_at: u8, inner_destination: Ipv4Addr) -> Count {
    Count {
        interface: "eth0".to_owned(),
        port,
        inner_at,
        inner_destination,
        after: 0.0,
        seconds: 1.0,
        core: None,
    }
}
