//! The TUN data path beside the kernel's own: throughput, CPU, small packets and latency, in alternating runs.
//!
//! ```text
//! client ── gateway 1 ══ veth, MTU-size frames ══ gateway 2 ── server         Sluice, by ServiceIP
//! client ── the same namespace ══ the same veth ══ the same namespace ── server   nft DNAT + VXLAN
//! ```
//! Both contestants' devices exist all the time; only one carries traffic at a time, and the first of a round
//! changes from round to round. While the peer is measured the gateways run without the offload: its XDP program makes
//! the kernel copy every frame that a veth receives, whomever it is for.

use super::{Settings, environment};
use crate::lab::scratch::Scratch;
use crate::lab::sites::{Cable, Layout, Microservice, Sites, Target, descriptor};
use crate::lab::wire::carried;
use crate::lab::{LabError, NetNs, Process};
use crate::peers::vxlan::{Node, VxlanDnat};
use crate::report::{Goal, Report, Row};
use crate::traffic::requests::Latency;
use crate::traffic::{datagrams, requests, tcp};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const PEER: &str = "vxlan_dnat";
/// Ourselves, all packets carried by workers.
const WORKER: &str = "without_offload";
const CLIENT: &str = "bench.sluice.client.perf";
const SINK: &str = "bench.sluice.sink.perf";
const SINK_IP: [&str; 2] = ["10.30.90.1", "fdff:2000::90"];
const REQUESTS_PORT: u16 = 7000;
const DATAGRAMS_PORT: u16 = 7001;
/// Between an answer and the next request: long enough for every core to fall asleep.
const GAP: Duration = Duration::from_millis(1);
/// Longer than [`GAP`], so that a worker spins from one request to the next.
const SPIN: &str = "spin_us = 3000";
const WITHOUT_OFFLOAD: &str = "offload = false";
const ONE_PACKET: &str = "one_packet_per_syscall = true";

/// How long and how often.
struct Pace {
    rounds: usize,
    seconds: f64,
    requests: usize,
}

/// Where a contestant's traffic begins and ends.
struct Track {
    client: NetNs,
    service: IpAddr,
    counter: datagrams::Counter,
    _iperf: Process,
}

impl Track {
    fn new(
        client: NetNs,
        server: &NetNs,
        service: IpAddr,
        scratch: &Scratch,
    ) -> Result<Self, LabError> {
        requests::answer(server, REQUESTS_PORT)?;
        Ok(Self {
            client,
            service,
            counter: datagrams::Counter::new(server, DATAGRAMS_PORT)?,
            _iperf: tcp::server(
                server,
                &scratch.path().join(format!("iperf3-{}.log", server.name())),
            )?,
        })
    }

    fn transfer(&self, streams: u8, pace: &Pace) -> Result<tcp::Transfer, LabError> {
        tcp::transfer(&self.client, self.service, streams, pace.seconds)
    }

    fn blast(&self, pace: &Pace) -> Result<f64, LabError> {
        let to = SocketAddr::new(self.service, DATAGRAMS_PORT);
        let duration = Duration::from_secs_f64(pace.seconds);
        datagrams::blast(&self.client, to, &self.counter, duration).map(|blast| blast.received_s)
    }

    fn latency(&self, pace: &Pace) -> Result<Latency, LabError> {
        let to = SocketAddr::new(self.service, REQUESTS_PORT);
        requests::measure(&self.client, to, pace.requests, GAP)
    }
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
    let scratch = Scratch::new("sluice-perf-tun")?;
    let layout = Layout::measured(2, Cable::Pair);
    let mut sites = Sites::new(&settings.sluice, scratch, &layout)?;
    let [ours, peer] = tracks(&sites)?;
    let mut rounds = Rounds::default();
    for round in 0..pace.rounds {
        (settings.say)(&format!("round {} of {}", round + 1, pace.rounds));
        let (own, other) = if round % 2 == 0 {
            let own = measure(&ours, &sites, &pace)?;
            sites.restart_gateways(WITHOUT_OFFLOAD)?;
            (own, measure(&peer, &sites, &pace)?)
        } else {
            sites.restart_gateways(WITHOUT_OFFLOAD)?;
            let other = measure(&peer, &sites, &pace)?;
            sites.restart_gateways("")?;
            let own = measure(&ours, &sites, &pace)?;
            sites.restart_gateways(WITHOUT_OFFLOAD)?;
            (own, other)
        };
        let worker = (ours.transfer(1, &pace)?, ours.latency(&pace)?.p50_us);
        rounds.push(&own, &other, &worker);
        sites.restart_gateways(ONE_PACKET)?;
        let slow = ours.transfer(1, &pace)?;
        rounds.one_packet.push((own.tcp_1.gbit_s, slow.gbit_s));
        sites.restart_gateways(SPIN)?;
        rounds
            .p50_spin
            .push((ours.latency(&pace)?.p50_us, rounds.p50[round].1));
        sites.restart_gateways("")?;
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

fn measure(track: &Track, sites: &Sites, pace: &Pace) -> Result<Figures, LabError> {
    let wire = || carried(sites.gateways[1].namespace(), "eth0");
    let before = wire()?;
    let tcp_1 = track.transfer(1, pace)?;
    let moved = wire()?.since(&before);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    let frame_bytes = moved.received_bytes as f64 / moved.received_frames.max(1) as f64;
    Ok(Figures {
        tcp_1,
        tcp_4: track.transfer(4, pace)?.gbit_s,
        udp: track.blast(pace)?,
        latency: track.latency(pace)?,
        frame_bytes,
    })
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

/// Both contestants between the same two namespaces.
fn tracks(sites: &Sites) -> Result<[Track; 2], LabError> {
    let service = |name, rr_ip| Microservice {
        rr_ip,
        ..Microservice::measured(name)
    };
    sites.apply(&descriptor(
        "bench",
        "sluice",
        &[service("sink", Some(SINK_IP)), service("client", None)],
    ))?;
    let (client, server) = (NetNs::new("client")?, NetNs::new("server")?);
    sites.attach(0, CLIENT, Target::Namespace(&client))?;
    sites.attach(1, SINK, Target::Namespace(&server))?;
    let service = SINK_IP[0]
        .parse()
        .unwrap_or_else(|_| unreachable!("the address above is well-formed"));
    let node = |index: usize| Node {
        namespace: sites.gateways[index].namespace(),
        address: sites.gateways[index].address[0],
    };
    let vxlan = VxlanDnat::new(node(0), node(1))?;
    Ok([
        Track::new(client, &server, service, &sites.scratch)?,
        Track::new(
            vxlan.client,
            &vxlan.server,
            vxlan.service[0],
            &sites.scratch,
        )?,
    ])
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
