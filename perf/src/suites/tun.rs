//! The TUN data path beside the kernel's own: throughput, CPU, small packets and latency, in alternating runs.
//!
//! ```text
//! client ── gateway 1 ══ veth, MTU-size frames ══ gateway 2 ── server         Sluice, by ServiceIP
//! client ── the same namespace ══ the same veth ══ the same namespace ── server   nft DNAT + VXLAN
//! ```
//! Both contestants' devices exist all the time; only one carries traffic at a time, and the first of a round
//! changes from round to round. While the peer is measured the gateways run without the offload: its XDP program makes
//! the kernel copy every frame that a veth receives, whomever it is for.

use super::ends::Ends;
use super::ground::Ground;
use super::nodes::Nodes;
use super::{Settings, environment, sluice_perf};
use crate::lab::LabError;
use crate::report::{Goal, Report, Row};
use crate::traffic::requests::Latency;
use crate::traffic::tcp;
use std::time::Duration;

const PEER: &str = "vxlan_dnat";
/// Ourselves, all packets carried by workers.
const WORKER: &str = "without_offload";
/// Between an answer and the next request: long enough for every core to fall asleep.
const GAP: Duration = Duration::from_millis(1);
/// Longer than [`GAP`], so that a worker spins from one request to the next.
const SPIN: &str = "offload = true\nspin_us = 3000";
const WITH_OFFLOAD: &str = "offload = true";
const WITHOUT_OFFLOAD: &str = "offload = false";
const ONE_PACKET: &str = "offload = true\none_packet_per_syscall = true";

/// How long and how often.
struct Pace {
    rounds: usize,
    seconds: f64,
    requests: usize,
}

/// Pairs of (ours, the peer's), one of each round.
#[derive(Default)]
struct Rounds {
    tcp_1: Vec<(f64, f64)>,
    tcp_4: Vec<(f64, f64)>,
    cpu: Vec<(f64, f64)>,
    udp: Vec<(f64, f64)>,
    p50: Vec<(f64, f64)>,
    p99: Vec<(f64, f64)>,
    one_packet: Vec<(f64, f64)>,
    /// With the offload and without, both ours.
    tcp_1_offload: Vec<(f64, f64)>,
    cpu_offload: Vec<(f64, f64)>,
    p50_offload: Vec<(f64, f64)>,
    p50_spin: Vec<(f64, f64)>,
    frame_bytes: Vec<f64>,
}

/// Runs the suite.
///
/// # Errors
/// When the laboratory cannot be built, or a run fails.
pub fn run(settings: &Settings) -> Result<Report, LabError> {
    let pace = if settings.quick {
        Pace {
            rounds: 3,
            seconds: 1.0,
            requests: 300,
        }
    } else {
        Pace {
            rounds: 5,
            seconds: 3.0,
            requests: 1500,
        }
    };
    let mut report = Report::new("tun", environment(&["iperf3", "ip", "nft", "ethtool"]));
    let Ground {
        mut ours,
        mut nodes,
    } = Ground::new(settings, "tun")?;
    let kernel = nodes.kernel()?;
    let sluice_perf = sluice_perf()?;
    let mut peer = Ends::new(
        kernel.client.clone(),
        &kernel.server,
        kernel.service.into(),
        &sluice_perf,
    )?;
    let restart = |nodes: &mut dyn Nodes, lines| nodes.restart_with("tun", lines);
    let nodes = &mut *nodes;
    let mut rounds = Rounds::default();
    restart(nodes, WITH_OFFLOAD)?;
    for round in 0..pace.rounds {
        (settings.say)(&format!("round {} of {}", round + 1, pace.rounds));
        let (own, other) = if round % 2 == 0 {
            let own = measure(&mut ours, nodes, &pace)?;
            restart(nodes, WITHOUT_OFFLOAD)?;
            (own, measure(&mut peer, nodes, &pace)?)
        } else {
            restart(nodes, WITHOUT_OFFLOAD)?;
            let other = measure(&mut peer, nodes, &pace)?;
            restart(nodes, WITH_OFFLOAD)?;
            let own = measure(&mut ours, nodes, &pace)?;
            restart(nodes, WITHOUT_OFFLOAD)?;
            (own, other)
        };
        let transfer = ours.transfer(1, pace.seconds, nodes.machines())?;
        let worker = (transfer, latency(&ours, &pace)?.p50_us);
        rounds.push(&own, &other, &worker);
        restart(nodes, ONE_PACKET)?;
        let slow = ours.receive(1, pace.seconds)?;
        rounds.one_packet.push((own.tcp_1.gbit_s, slow.gbit_s));
        restart(nodes, SPIN)?;
        rounds
            .p50_spin
            .push((latency(&ours, &pace)?.p50_us, rounds.p50[round].1));
        restart(nodes, WITH_OFFLOAD)?;
    }
    rows(&mut report, &rounds);
    Ok(report)
}

/// One contestant's figures of one round.
struct Figures {
    tcp_1: tcp::Transfer,
    tcp_4: f64,
    udp: f64,
    latency: Latency,
    /// The mean frame on the cable.
    frame_bytes: f64,
}

fn measure(ends: &mut Ends, nodes: &dyn Nodes, pace: &Pace) -> Result<Figures, LabError> {
    let before = nodes.carried()?;
    let tcp_1 = ends.transfer(1, pace.seconds, nodes.machines())?;
    let moved = nodes.carried()?.since(&before);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    let frame_bytes = moved.received_bytes as f64 / moved.received_frames.max(1) as f64;
    Ok(Figures {
        tcp_1,
        tcp_4: ends.receive(4, pace.seconds)?.gbit_s,
        udp: ends.blast(pace.seconds)?,
        latency: latency(ends, pace)?,
        frame_bytes,
    })
}

fn latency(ends: &Ends, pace: &Pace) -> Result<Latency, LabError> {
    ends.latency(pace.requests, GAP)
}

impl Rounds {
    /// `worker` is a transfer and a latency of ours without the offload.
    fn push(&mut self, own: &Figures, other: &Figures, worker: &(tcp::Transfer, f64)) {
        let cpu = |figures: &Figures| figures.tcp_1.cpu_s_per_gb();
        self.tcp_1.push((own.tcp_1.gbit_s, other.tcp_1.gbit_s));
        self.cpu.push((cpu(own), cpu(other)));
        self.tcp_4.push((own.tcp_4, other.tcp_4));
        self.udp.push((own.udp, other.udp));
        self.p50.push((own.latency.p50_us, other.latency.p50_us));
        self.p99.push((own.latency.p99_us, other.latency.p99_us));
        self.tcp_1_offload.push((own.tcp_1.gbit_s, worker.0.gbit_s));
        self.cpu_offload.push((cpu(own), worker.0.cpu_s_per_gb()));
        self.p50_offload.push((own.latency.p50_us, worker.1));
        self.frame_bytes
            .extend([own.frame_bytes, other.frame_bytes]);
    }
}

fn rows(report: &mut Report, rounds: &Rounds) {
    let row = |name, unit, peer, pairs: &[(f64, f64)], goal| {
        Row::beside(name, unit, peer, pairs).with_goal(goal)
    };
    for row in [
        row(
            "tcp_1",
            "Gbit/s",
            PEER,
            &rounds.tcp_1,
            Goal::RatioAtLeast(1.0),
        ),
        row(
            "tcp_4",
            "Gbit/s",
            PEER,
            &rounds.tcp_4,
            Goal::RatioAtLeast(1.0),
        ),
        row(
            "cpu_s_per_gb",
            "s/GB",
            PEER,
            &rounds.cpu,
            Goal::RatioAtMost(1.3),
        ),
        row(
            "udp_64b",
            "packets/s",
            PEER,
            &rounds.udp,
            Goal::RatioAtLeast(1.3),
        ),
        row(
            "latency_p50",
            "us",
            PEER,
            &rounds.p50,
            Goal::RatioAtMost(1.4),
        ),
        row(
            "latency_p99",
            "us",
            PEER,
            &rounds.p99,
            Goal::RatioAtMost(1.5),
        ),
        row(
            "latency_p50_spinning",
            "us",
            PEER,
            &rounds.p50_spin,
            Goal::RatioAtMost(1.0),
        ),
        Row::beside("tcp_1", "Gbit/s", WORKER, &rounds.tcp_1_offload),
        Row::beside("cpu_s_per_gb", "s/GB", WORKER, &rounds.cpu_offload),
        Row::beside("latency_p50", "us", WORKER, &rounds.p50_offload),
        row(
            "tcp_1",
            "Gbit/s",
            "one_packet_per_syscall",
            &rounds.one_packet,
            Goal::RatioAtLeast(4.0),
        ),
        // Proof that the cable carried what a wire carries: no frame is longer than 1514 bytes.
        Row::median("wire_frame_bytes", "bytes", &rounds.frame_bytes)
            .with_goal(Goal::ValueAtMost(1514.0)),
    ] {
        report.push(row);
    }
}
