//! The encrypted tunnel beside other implementations of its format and beside our own plain mode, on the same wire in one run.
//!
//! ```text
//! client ── gateway 1 ══ veth, MTU-size frames ══ gateway 2 ── server      Sluice, encrypted and plain, by ServiceIP
//!  client in the same namespace ══ the same veth ══ server in the same namespace      boringtun, wireguard-go, gotatun
//! ```
//! Only one contestant runs at a time: others' devices come and go, and the gateways are stopped meanwhile. Who is the first of a
//! round changes from round to round. The others' client and server are in the nodes' own namespaces, where their devices
//! are: that spares them the bridge to an instance that ours pass.

mod memory;
mod frames;
mod delayed;

use super::pair::Pair;
use super::{Settings, environment, sluice_perf};
use crate::instrument::ends::{Request, Serve, Transfer};
use crate::lab::scratch::Scratch;
use crate::lab::sites::{Cable, PLAIN, Sites};
use crate::lab::{Conversation, Host, LabError};
use crate::peers::vxlan::Node;
use crate::peers::wireguard::{self, Implementation, WireGuard};
use crate::report::{Goal, Report, Row};
use crate::traffic::tcp::Received;
use std::net::IpAddr;
use std::path::PathBuf;

/// Between an answer and the next request, microseconds: long enough for every core to fall asleep.
const GAP_US: u64 = 1000;
/// Rows of the two gateways on one cable.
const ON_CABLE: [&str; 4] = ["tcp_1", "tcp_4", "cpu_s_per_gb", "latency_p50"];

/// What [`Settings::only`] may name: a row, or `goodput` for all of that name.
///
/// # Errors
/// Names the rows.
pub fn row(text: &str) -> Result<String, String> {
    let cells = delayed::CELLS.map(delayed::Cell::row);
    let others = ["aead_share", "af_xdp_64b", "goodput"];
    let mut rows = ON_CABLE.iter().chain(&others).map(|&row| row.to_owned());
    if rows.any(|row| row == text) || cells.iter().any(|row| row == text) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "`{text}` is no row of this suite; they are {}, {}, and {}",
        ON_CABLE.join(", "),
        others.join(", "),
        cells.join(", ")
    ))
}

/// Who carries the traffic.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Contestant {
    /// Two gateways with the configuration they have by default.
    Ours,
    /// The same, told not to encrypt; workers carry every packet, as they do when it is encrypted.
    Plain,
    /// The same, as by default: programs in the kernel forward established flows.
    PlainOffloaded,
    Other(Implementation),
}

impl Contestant {
    const ALL: [Self; 6] = [
        Self::Ours,
        Self::Plain,
        Self::PlainOffloaded,
        Self::Other(Implementation::Boringtun),
        Self::Other(Implementation::WireguardGo),
        Self::Other(Implementation::Gotatun),
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Ours => "encrypted",
            Self::Plain => "plain",
            Self::PlainOffloaded => "plain_offloaded",
            Self::Other(which) => which.name(),
        }
    }

    const fn is_ours(self) -> bool {
        match self {
            Self::Ours | Self::Plain | Self::PlainOffloaded => true,
            Self::Other(_) => false,
        }
    }

    /// Lines of the gateways' `[tunnel]` and `[fastpath]`; without others than ours, where they stand aside.
    const fn lines(self) -> [&'static str; 2] {
        match self {
            Self::Ours => ["", "link = \"tun\""],
            Self::Plain => [PLAIN, "link = \"tun\"\noffload = false"],
            Self::PlainOffloaded => [PLAIN, "link = \"tun\""],
            Self::Other(_) => [PLAIN, "link = \"tun\"\noffload = false"],
        }
    }
}

/// Runs the suite.
///
/// # Errors
/// When the laboratory cannot be built, a program is missing, or a run fails.
pub fn run(settings: &Settings) -> Result<Report, LabError> {
    let programs = ["iperf3", "wireguard-go", "boringtun-cli", "gotatun"];
    let mut report = Report::new("tunnel", environment(&programs));
    let wanted = |row: &str| settings.only.as_deref().is_none_or(|only| only == row);
    if ON_CABLE.into_iter().any(wanted) {
        on_cable(settings, &mut report)?;
    }
    if wanted("aead_share") {
        memory::aead_share(settings, &mut report)?;
    }
    if wanted("af_xdp_64b") {
        frames::run(settings, &mut report)?;
    }
    delayed::run(settings, &mut report)?;
    Ok(report)
}

/// How long and how often.
struct Pace {
    rounds: usize,
    seconds: f64,
    requests: usize,
}

/// One contestant's figures of one round; NaN for a row that is not wanted.
#[derive(Clone, Copy)]
struct Figures {
    tcp_1: f64,
    tcp_4: f64,
    cpu_s_per_gb: f64,
    p50_us: f64,
}

impl Figures {
    const NONE: Self = Self {
        tcp_1: f64::NAN,
        tcp_4: f64::NAN,
        cpu_s_per_gb: f64::NAN,
        p50_us: f64::NAN,
    };
}

fn on_cable(settings: &Settings, report: &mut Report) -> Result<(), LabError> {
    let pace = if settings.quick {
        Pace {
            rounds: 1,
            seconds: 1.0,
            requests: 200,
        }
    } else {
        Pace {
            rounds: 5,
            seconds: 3.0,
            requests: 1500,
        }
    };
    let mut stage = Stage::new(settings, Cable::Pair)?;
    let mut rounds = Vec::new();
    for round in 0..pace.rounds {
        (settings.say)(&format!("tunnels, round {} of {}", round + 1, pace.rounds));
        let mut figures = [Figures::NONE; Contestant::ALL.len()];
        for step in 0..figures.len() {
            let index = (round + step) % figures.len();
            let contestant = Contestant::ALL[index];
            let is_latency = settings.only.as_deref() == Some("latency_p50");
            if is_latency && !contestant.is_ours() {
                continue;
            }
            let line = stage.enter(contestant)?;
            figures[index] = measure(settings, &line, contestant, &pace)?;
        }
        rounds.push(figures);
    }
    rows(settings, &rounds, report);
    Ok(())
}

fn measure(
    settings: &Settings,
    line: &Line,
    contestant: Contestant,
    pace: &Pace,
) -> Result<Figures, LabError> {
    let wanted = |row: &str| settings.only.as_deref().is_none_or(|only| only == row);
    let mut figures = Figures::NONE;
    if wanted("tcp_1") || wanted("cpu_s_per_gb") {
        let transfer = Received::beside_cpu_time(&[Host::Here], || line.receive(1, pace.seconds))?;
        figures.tcp_1 = transfer.gbit_s;
        figures.cpu_s_per_gb = transfer.cpu_s_per_gb();
    }
    if wanted("tcp_4") {
        figures.tcp_4 = line.receive(4, pace.seconds)?.gbit_s;
    }
    if contestant.is_ours() && wanted("latency_p50") {
        let request = Request {
            to: line.server,
            count: pace.requests,
            gap_us: GAP_US,
        };
        figures.p50_us = request.at(&line.client, &line.sluice_perf)?.p50_us;
    }
    Ok(figures)
}

/// A name of rows, one beside each peer.
struct Kind {
    name: &'static str,
    of: fn(&Figures) -> f64,
    unit: &'static str,
    /// For the contestants but the first.
    goals: [Option<Goal>; Contestant::ALL.len() - 1],
}

/// Pushes a row for each figure and each peer that has a goal, and for plain mode with its offload.
fn rows(settings: &Settings, rounds: &[[Figures; Contestant::ALL.len()]], report: &mut Report) {
    let pairs = |of: fn(&Figures) -> f64, peer: usize| -> Vec<(f64, f64)> {
        let pair = |round: &[Figures; Contestant::ALL.len()]| (of(&round[0]), of(&round[peer]));
        rounds.iter().map(pair).collect()
    };
    let throughput = [0.7, 0.7, 6.0, 6.0, 5.0].map(|bound| Some(Goal::RatioAtLeast(bound)));
    let latency = Some(Goal::RatioAtMost(1.15));
    let kinds = [
        Kind {
            name: "tcp_1",
            of: |figures| figures.tcp_1,
            unit: "Gbit/s",
            goals: throughput,
        },
        Kind {
            name: "tcp_4",
            of: |figures| figures.tcp_4,
            unit: "Gbit/s",
            goals: throughput,
        },
        Kind {
            name: "cpu_s_per_gb",
            of: |figures| figures.cpu_s_per_gb,
            unit: "s/GB",
            goals: [None, None, Some(Goal::RatioAtMost(0.2)), None, None],
        },
        Kind {
            name: "latency_p50",
            of: |figures| figures.p50_us,
            unit: "us",
            goals: [latency, latency, None, None, None],
        },
    ];
    for Kind {
        name,
        of,
        unit,
        goals,
    } in kinds
    {
        if settings.only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        for (peer, goal) in (1..).zip(goals) {
            let contestant = Contestant::ALL[peer];
            if name == "latency_p50" && !contestant.is_ours() {
                continue;
            }
            let row = Row::beside(name, unit, contestant.name(), &pairs(of, peer));
            report.push(match goal {
                Some(goal) => row.with_goal(goal),
                None => row,
            });
        }
    }
}

/// The two nodes, and what may run there.
struct Stage {
    pair: Pair,
    sluice_perf: PathBuf,
    scratch: Scratch,
    /// Where others' clients and servers are: the nodes' own namespaces.
    ends: [Host; 2],
    /// What serves, at our instance and at the second node.
    _servers: [Conversation; 2],
    other: Option<WireGuard>,
    others_run: bool,
}

/// Where a contestant's client is, and what it dials.
struct Line {
    client: Host,
    server: IpAddr,
    sluice_perf: PathBuf,
}

impl Line {
    fn receive(&self, streams: u8, seconds: f64) -> Result<Received, LabError> {
        let transfer = Transfer {
            to: self.server,
            streams,
            seconds,
        };
        transfer.at(&self.client, &self.sluice_perf)
    }
}

impl Stage {
    fn new(settings: &Settings, cable: Cable) -> Result<Self, LabError> {
        let sluice_perf = sluice_perf()?;
        let pair = Pair::joined(settings, cable, &["client"], &["server"])?;
        let ends = [0, 1].map(|node: usize| Host::from(pair.sites.gateways[node].namespace()));
        wireguard::prepare([0, 1].map(|node: usize| pair.sites.gateways[node].namespace()))?;
        let server = Host::from(&pair.servers[0].namespace);
        let serve = |host: &Host| Serve { name: 'a' }.start(host, &sluice_perf);
        Ok(Self {
            _servers: [serve(&server)?, serve(&ends[1])?],
            pair,
            sluice_perf,
            scratch: Scratch::new("sluice-perf-tunnel")?,
            ends,
            other: None,
            others_run: false,
        })
    }

    /// Makes everybody else leave, and the contestant ready.
    fn enter(&mut self, contestant: Contestant) -> Result<Line, LabError> {
        self.other = None;
        let sites = &mut self.pair.sites;
        let is_other = !contestant.is_ours();
        if !(is_other && self.others_run) {
            let [tunnel, fastpath] = contestant.lines();
            sites.configure_tunnels(tunnel)?;
            sites.restart_gateways(fastpath)?;
        }
        let (client, server) = if let Contestant::Other(which) = contestant {
            // They were started once more: without the offload nothing of it stays on the cable.
            for gateway in &mut sites.gateways {
                gateway.role.stop();
            }
            let other = WireGuard::new(which, nodes(sites), &self.scratch)?;
            let server = other.server;
            self.other = Some(other);
            (self.ends[0].clone(), server)
        } else {
            (
                Host::from(&self.pair.clients[0].namespace),
                self.pair.service,
            )
        };
        self.others_run = is_other;
        let line = Line {
            client,
            server,
            sluice_perf: self.sluice_perf.clone(),
        };
        // The first packet asks the managers, and shakes hands.
        line.first()?;
        Ok(line)
    }
}

impl Line {
    /// A few requests, so that names, flows and sessions are there.
    fn first(&self) -> Result<(), LabError> {
        let request = Request {
            to: self.server,
            count: 3,
            gap_us: GAP_US,
        };
        request.at(&self.client, &self.sluice_perf).map(drop)
    }
}

fn nodes(sites: &Sites) -> [Node<'_>; 2] {
    [0, 1].map(|gateway: usize| Node {
        namespace: sites.gateways[gateway].namespace(),
        address: sites.gateways[gateway].address[0],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_row_is_named_beside_those_there_are() {
        for text in ["tcp_4", "aead_share", "goodput", "goodput_250ms_10"] {
            assert_eq!(row(text), Ok(text.to_owned()));
        }
        for text in ["tcp", "goodput_20ms_1", ""] {
            let error = row(text).unwrap_err();
            assert!(
                error.contains(&format!("`{text}`")) && error.contains("goodput_10ms_1"),
                "{error}"
            );
        }
    }
}
