//! AF_XDP beside the kernel's DNAT and VXLAN, and beside its own links without the path: frames per second on one core.
//!
//! What is measured has core 0: the worker and the kernel thread that polls its service device. Core 1 is for generator
//! and sink. Only *inline* is otherwise: what is measured runs where its frames are made, in the generator's softirqs on
//! core 1, and the sink on core 0; the offload is measured both ways, and beside each peer as that runs. Between hosts each
//! has its cores for itself, and *inline* is by the interrupts of the device under test.

mod hosts;
mod namespaces;
pub(in crate::suites) mod encrypted;

use super::super::Settings;
use crate::instrument::{Count, Counted, Generate, Generated, MacText, ask};
use crate::lab::clock::{now, wait_for};
use crate::lab::{Host, LabError};
use crate::report::{Goal, Report, Row};
use crate::traffic::stream::Mac;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

/// Core of what is measured, and of generator and sink.
const MEASURED: usize = 0;
const BESIDE: usize = 1;
/// The generator is under way before counting begins, and still when it ends.
const AROUND: f64 = 0.3;
/// Frames per second that make flows: fewer than any of the contestants can carry.
const GENTLE: u32 = 150_000;
/// Flows made at a time: an instance may have begun so many that were not used twice yet.
const MADE_AT_ONCE: u32 = 1 << 17;

/// `[fastpath]` of the gateway that is measured, but for `offload`. The flow table has room for three million flows beside the
/// largest row's, the offload for all of them.
const GATEWAY: &str = "link = \"af_xdp\"\nflows_max = 4194304\noffload_flows_max = 1048576\n";
/// Control installs some thousand flows a second.
const OFFLOADED: Duration = Duration::from_secs(120);
/// When for so long none was added, the others stay with the worker.
const NO_MORE: Duration = Duration::from_secs(3);

/// Who carries the frames.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Contestant {
    /// A gateway over AF_XDP, whose worker carries every frame.
    Ours,
    /// The same, with established flows offloaded, in a thread on the core that the worker has.
    Offloaded,
    /// The same, in softirqs.
    OffloadedInline,
    /// The kernel, in a thread on the core that ours has.
    Threaded,
    /// The kernel, in softirqs.
    Inline,
    /// Our links without the path.
    Bare,
}

/// Who runs beside whom; the first is what the rows are about.
const BY_WORKER: [Contestant; 4] = [
    Contestant::Ours,
    Contestant::Threaded,
    Contestant::Inline,
    Contestant::Bare,
];
/// Each of ours before the peer that runs as it does.
const BY_OFFLOAD: [Contestant; 4] = [
    Contestant::Offloaded,
    Contestant::Threaded,
    Contestant::OffloadedInline,
    Contestant::Inline,
];

impl Contestant {
    /// Which of the contestants keeps the flows that this one needs.
    const fn keeper(self) -> Self {
        match self {
            Self::OffloadedInline => Self::Offloaded,
            Self::Inline => Self::Threaded,
            Self::Ours | Self::Offloaded | Self::Threaded | Self::Bare => self,
        }
    }

    const fn is_inline(self) -> bool {
        match self {
            Self::OffloadedInline | Self::Inline => true,
            Self::Ours | Self::Offloaded | Self::Threaded | Self::Bare => false,
        }
    }
}

/// Where they compete: namespaces of this machine, or hosts.
trait Ground {
    /// Makes ready for `contestant`; true when it knows no flow now.
    fn stage(&mut self, contestant: Contestant) -> Result<bool, LabError>;

    /// The ways of their frames.
    fn tracks(&self) -> &Tracks;

    /// The kernel has to follow so many flows.
    fn make_room(&mut self, flows: u32) -> Result<(), LabError>;

    /// What the gateway that is measured, which runs, says of itself.
    fn status(&self) -> Result<Value, LabError>;
}

/// One way from a generator to a sink.
#[derive(Debug)]
struct Track {
    generator: Host,
    sink: Host,
    generate: Generate,
    count: Count,
}

/// The ways of all contestants.
#[derive(Debug)]
struct Tracks {
    ours: Track,
    kernel: Track,
    bare: Track,
}

impl Tracks {
    const fn of(&self, contestant: Contestant) -> &Track {
        match contestant {
            Contestant::Ours | Contestant::Offloaded | Contestant::OffloadedInline => &self.ours,
            Contestant::Threaded | Contestant::Inline => &self.kernel,
            Contestant::Bare => &self.bare,
        }
    }
}

/// How long and how often.
struct Pace {
    rounds: usize,
    seconds: f64,
    shapes: &'static [Shape],
    offload_shapes: &'static [Shape],
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
    shape("af_xdp_1400b", 1400, 1),
    shape("af_xdp_64b_64k", 64, 1 << 16),
    shape("af_xdp_1400b_64k", 1400, 1 << 16),
    shape("af_xdp_64b_1m", 64, 1 << 20),
    shape("af_xdp_1400b_1m", 1400, 1 << 20),
];

/// Of many flows not all are offloaded: a worker asks through a bounded queue. Their part is a row of its own.
const OFFLOAD_SHAPES: [Shape; 6] = [
    shape("af_xdp_64b_offload", 64, 1),
    shape("af_xdp_1400b_offload", 1400, 1),
    shape("af_xdp_64b_64k_offload", 64, 1 << 16),
    shape("af_xdp_1400b_64k_offload", 1400, 1 << 16),
    shape("af_xdp_64b_1m_offload", 64, 1 << 20),
    shape("af_xdp_1400b_1m_offload", 1400, 1 << 20),
];

/// `af_xdp_*` beside both peers, and `path_cost_percent`.
pub(super) fn run(settings: &Settings, report: &mut Report) -> Result<(), LabError> {
    let pace = if settings.quick {
        Pace {
            rounds: 1,
            seconds: 0.4,
            shapes: &SHAPES[..1],
            offload_shapes: &OFFLOAD_SHAPES[..1],
        }
    } else {
        Pace {
            rounds: 7,
            seconds: 1.0,
            shapes: &SHAPES,
            offload_shapes: &OFFLOAD_SHAPES,
        }
    };
    let sluice_perf = super::super::sluice_perf()?;
    let ground: Box<dyn Ground> = match &settings.places {
        Some(places) => Box::new(hosts::Hosts::new(places, &settings.sluice, &sluice_perf)?),
        None => Box::new(namespaces::Namespaces::new(settings, &sluice_perf)?),
    };
    let mut bench = Bench {
        ground,
        sluice_perf,
        made: BTreeMap::new(),
        offloaded: Vec::new(),
    };
    let say = |how: &str, shape: &Shape| {
        let Shape { flows, bytes, .. } = shape;
        (settings.say)(&format!(
            "{how} beside the kernel: {flows} flows, {bytes} bytes"
        ));
    };
    for shape in pace.shapes {
        say("AF_XDP", shape);
        let rounds = bench.rounds(&BY_WORKER, shape, &pace)?;
        rows(&rounds, shape, [2.0, 1.5], report);
        cost(&rounds, shape, report);
    }
    for shape in pace.offload_shapes {
        say("AF_XDP with offload", shape);
        let rounds = bench.rounds(&BY_OFFLOAD, shape, &pace)?;
        offload_rows(&rounds, shape, report);
        if shape.flows > 1 {
            report.push(bench.part_offloaded(shape));
        }
    }
    Ok(())
}

/// Frames per second of every contestant in one round.
type Rates = Vec<f64>;

/// The first contestant's rates beside another's.
fn pairs(rounds: &[Rates], peer: usize) -> Vec<(f64, f64)> {
    rounds.iter().map(|rates| (rates[0], rates[peer])).collect()
}

fn rows(rounds: &[Rates], shape: &Shape, goals: [f64; 2], report: &mut Report) {
    let peers = ["vxlan_dnat_threaded", "vxlan_dnat_inline"];
    for (peer, (name, goal)) in (1..).zip(peers.into_iter().zip(goals)) {
        let row = Row::beside(shape.name, "packets/s", name, &pairs(rounds, peer));
        report.push(row.with_goal(Goal::RatioAtLeast(goal)));
    }
}

/// Each peer beside ours in the same place: a thread on core 0, or the softirqs of who sends.
fn offload_rows(rounds: &[Rates], shape: &Shape, report: &mut Report) {
    for (ours, peer) in [(0, "vxlan_dnat_threaded"), (2, "vxlan_dnat_inline")] {
        let pairs: Vec<(f64, f64)> = rounds
            .iter()
            .map(|rates| (rates[ours], rates[ours + 1]))
            .collect();
        let row = Row::beside(shape.name, "packets/s", peer, &pairs);
        report.push(row.with_goal(Goal::RatioAtLeast(6.0)));
    }
}

/// What the path costs of the rate of our links.
fn cost(rounds: &[Rates], shape: &Shape, report: &mut Report) {
    let bare = pairs(rounds, 3);
    report.push(Row::beside(
        shape.name,
        "packets/s",
        "bare_forwarder",
        &bare,
    ));
    if shape.name == SHAPES[0].name {
        let cost = |(ours, bare): &(f64, f64)| 100.0 * (1.0 - ours / bare);
        let costs: Vec<f64> = bare.iter().map(cost).collect();
        let row = Row::median("path_cost_percent", "%", &costs);
        report.push(row.with_goal(Goal::ValueAtMost(25.0)));
    }
}

struct Bench {
    ground: Box<dyn Ground>,
    sluice_perf: PathBuf,
    /// Flows that each contestant knows.
    made: BTreeMap<Contestant, u32>,
    /// Flows that were offloaded in each run of the last rounds.
    offloaded: Vec<f64>,
}

impl Bench {
    /// Runs of all contestants; the first of a round changes from round to round.
    fn rounds(
        &mut self,
        contestants: &[Contestant],
        shape: &Shape,
        pace: &Pace,
    ) -> Result<Vec<Rates>, LabError> {
        self.ground.make_room(shape.flows)?;
        self.offloaded.clear();
        let mut rounds = Vec::new();
        for round in 0..pace.rounds {
            let mut rates = vec![0.0; contestants.len()];
            for step in 0..contestants.len() {
                let index = (round + step) % contestants.len();
                let contestant = contestants[index];
                let keeper = contestant.keeper();
                if self.ground.stage(contestant)? {
                    self.made.remove(&keeper);
                }
                if self.made.get(&keeper) < Some(&shape.flows) {
                    self.make_flows(keeper, shape)?;
                    self.made.insert(keeper, shape.flows);
                }
                if keeper == Contestant::Offloaded {
                    let count = self.wait_for_offload(shape.flows)?;
                    self.offloaded.push(f64::from(count));
                }
                rates[index] = self.rate(contestant, shape, pace)?;
            }
            rounds.push(rates);
        }
        Ok(rounds)
    }

    /// Waits until the gateway has offloaded so many flows, or no more of them; how many it says there are.
    fn wait_for_offload(&self, flows: u32) -> Result<u32, LabError> {
        let mut most = (0, now());
        wait_for("flows to be offloaded", OFFLOADED, || {
            let status = self.ground.status().map_err(|error| error.to_string())?;
            let count = status["flows_offloaded"].as_u64().unwrap_or_default();
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            if count > most.0 {
                most = (count, now());
            }
            if count >= flows || (count > 0 && most.1.elapsed() >= NO_MORE) {
                return Ok(count);
            }
            Err(format!(
                "{count} of {flows}; the gateway says {}",
                status["offload"]
            ))
        })
    }

    /// Frames that the gateway's workers have carried.
    fn carried_by_workers(&self) -> Result<u64, LabError> {
        let status = self.ground.status()?;
        let workers = status["workers"].as_array().into_iter().flatten();
        let carried = workers
            .filter(|row| row["links"][0] != "XDP programs")
            .filter_map(|row| row["forwarded"].as_u64());
        Ok(carried.sum())
    }

    /// Of the flows, those that the kernel forwarded by itself.
    fn part_offloaded(&self, shape: &Shape) -> Row {
        let percent = |count: &f64| (100.0 * count / f64::from(shape.flows)).min(100.0);
        let percents: Vec<f64> = self.offloaded.iter().map(percent).collect();
        Row::median(&format!("{}_flows", shape.name), "% offloaded", &percents)
    }

    /// Sends so few frames of every flow that each arrives, for longer than a second: then the flow is established.
    fn make_flows(&self, contestant: Contestant, shape: &Shape) -> Result<(), LabError> {
        if contestant == Contestant::Bare {
            return Ok(());
        }
        let track = self.ground.tracks().of(contestant);
        let flows = shape.flows.min(MADE_AT_ONCE);
        let thrice = 3.0 * f64::from(flows) / f64::from(GENTLE);
        // In another second an established flow's next packet has its offload asked for.
        let least = if contestant == Contestant::Offloaded {
            4.0
        } else {
            1.7
        };
        for first in (0..shape.flows).step_by(flows as usize) {
            let generate = Generate {
                flows,
                first,
                seconds: thrice.max(least),
                rate: Some(GENTLE),
                core: Some(BESIDE),
                ..track.generate.clone()
            };
            let program = generate.program(&self.sluice_perf);
            ask::<Generated>(&track.generator, &program)?;
        }
        Ok(())
    }

    /// Frames per second that arrive at the sink.
    fn rate(&self, contestant: Contestant, shape: &Shape, pace: &Pace) -> Result<f64, LabError> {
        let track = self.ground.tracks().of(contestant);
        let sink = if contestant.is_inline() {
            MEASURED
        } else {
            BESIDE
        };
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
        let is_without_worker = contestant.keeper() == Contestant::Offloaded && shape.flows == 1;
        let carried = match is_without_worker {
            true => Some(self.carried_by_workers()?),
            false => None,
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
        // Gateways look after each other meanwhile, with a few datagrams a second.
        if counted.expected == 0 || counted.other > counted.expected / 100 {
            return Err(LabError::Reply {
                what: format!("{contestant:?}, as seen at {}", track.sink.name()),
                text: format!("frames that are not those expected: {counted:?}"),
            });
        }
        if let Some(before) = carried {
            let by_worker = self.carried_by_workers()? - before;
            if by_worker > counted.expected / 20 {
                return Err(LabError::Reply {
                    what: format!("{contestant:?}, whose flow the kernel should forward by itself"),
                    text: format!("{by_worker} frames went by a worker: {counted:?}"),
                });
            }
        }
        Ok(counted.expected as f64 / counted.seconds)
    }
}

/// `macs` are the frames' source and destination.
fn stream(interface: &str, macs: [Mac; 2], source: Ipv4Addr, destination: Ipv4Addr) -> Generate {
    let [source_mac, destination_mac] = macs.map(MacText);
    Generate {
        interface: interface.to_owned(),
        source_mac,
        destination_mac,
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

fn counting(interface: &str, port: u16, inner_at: u8, inner_destination: Ipv4Addr) -> Count {
    Count {
        interface: interface.to_owned(),
        port,
        inner_at,
        inner_destination,
        after: 0.0,
        seconds: 1.0,
        core: None,
    }
}
