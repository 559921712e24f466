//! What a flood of port pairs leaves of everybody else's traffic, beside kernel DNAT and VXLAN under the same flood.
//!
//! ```text
//! client ──┬─ gateway 1 ══ veth ══ gateway 2 ─┬─ a     by an instance: the flooder sends SYNs to the ServiceIP
//! flooder ─┘                                  └─ b     by a peer: its node sends them, tunnelled, to a's NsIP
//! ```
//! Each SYN has another pair of ports, and each contestant is offered as many per second. Meanwhile the client sends bulk
//! TCP over a connection that was there before; goodput is what the servers read of it. Connections held by client and
//! flooder are asked before and after which instance they are with.

use super::super::Settings;
use super::super::footprint::resident_mib;
use super::super::nodes::{Nodes as _, vxlan_node};
use super::super::pair::{Member, Pair, v4};
use crate::lab::clock::now;
use crate::lab::sites::Gateway;
use crate::lab::{LabError, NetNs, account};
use crate::peers::vxlan::{self, VxlanDnat};
use crate::report::{Goal, Report, Row};
use crate::traffic::flood::Flood;
use crate::traffic::held::{Bulk, Held, Instance};
use std::net::{IpAddr, SocketAddrV4};
use std::time::Duration;

const PEER: &str = "vxlan_dnat";
/// What the gateway must say of the SYNs it does not carry.
const REASON: &str = "flow-quota";
const FULL: Pace = Pace {
    rounds: 3,
    pairs: 5_000_000,
    limit: Duration::MAX,
};
const QUICK: Pace = Pace {
    rounds: 1,
    pairs: 50_000,
    limit: Duration::from_secs(2),
};
/// SYNs offered per second: what the kernel's DNAT and VXLAN can take in with nearly a whole core. More would be lost where
/// it is made, and there with the CPU time of everybody else.
const RATE: f64 = 50_000.0;
/// SYNs sent at a time until the quota is full: more than the 32,768 that one instance or peer may have begun and not
/// established. Only then is anything measured.
const WARM_UP: u32 = 40_960;
/// On a machine that is busy otherwise, most of the first ones are lost.
const WARM_UPS_MAX: u32 = 16;
/// Connections held by the client, and as many by the flooder.
const HELD: usize = 64;
const TUNNEL_PORT: u16 = 50103;

/// How long and how often.
struct Pace {
    rounds: usize,
    pairs: u32,
    /// A machine that is busy otherwise may not get that far.
    limit: Duration,
}

/// Who floods.
#[derive(Clone, Copy)]
enum Source {
    Instance,
    Peer,
}

/// A contestant.
struct Track {
    client: NetNs,
    flooder: NetNs,
    service: IpAddr,
    servers: Vec<Instance>,
    by_instance: Flood,
    by_peer: Flood,
}

/// What a contestant made of a flood.
struct Outcome {
    /// Read by the servers meanwhile, Mbit/s.
    goodput: f64,
    /// SYNs sent per second.
    rate: f64,
    /// Of the SYNs, those that the flooded gateway refused for the quota.
    refused_percent: f64,
    /// Held connections that broke, or were moved to another instance.
    lost: usize,
    /// What the gateways' resident memory grew by.
    grown_mib: f64,
}

/// `syn_flood_*`, for a flood by an instance and for one by a peer.
pub(super) fn run(settings: &Settings, report: &mut Report) -> Result<(), LabError> {
    let pace = if settings.quick { &QUICK } else { &FULL };
    let mut pair = Pair::new(settings, &["client", "flooder"], &["a", "b"])?;
    let mut ours = ours(&pair)?;
    let mut kernel = kernel(&pair)?;
    for source in [Source::Instance, Source::Peer] {
        let mut rows = Rows::default();
        for round in 0..pace.rounds {
            (settings.say)(&format!("{source}, round {} of {}", round + 1, pace.rounds));
            if round % 2 == 0 {
                let own = own_round(&mut pair, &mut ours, source, pace)?;
                rows.push(&own, &peer_round(&mut pair, &mut kernel, source, pace)?);
            } else {
                let other = peer_round(&mut pair, &mut kernel, source, pace)?;
                rows.push(&own_round(&mut pair, &mut ours, source, pace)?, &other);
            }
        }
        rows.report(source, report);
    }
    Ok(())
}

fn own_round(
    pair: &mut Pair,
    ours: &mut Track,
    source: Source,
    pace: &Pace,
) -> Result<Outcome, LabError> {
    pair.sites.restart_with("af_xdp", "")?;
    let gateways = &pair.sites.gateways;
    let flooded = match source {
        Source::Instance => &gateways[0],
        Source::Peer => &gateways[1],
    };
    let watched = Watched {
        all: gateways,
        flooded,
    };
    let outcome = ours.measure(source, pace, Some(&watched))?;
    let account = account::quiescent(&flooded.role.admin)?;
    if !account.balanced() {
        return Err(LabError::Reply {
            what: "the account of frames after the flood".to_owned(),
            text: format!("{account:?}"),
        });
    }
    Ok(outcome)
}

fn peer_round(
    pair: &mut Pair,
    kernel: &mut Track,
    source: Source,
    pace: &Pace,
) -> Result<Outcome, LabError> {
    // The gateways carry nothing, and no XDP program of theirs makes the kernel copy the peer's frames.
    pair.sites.restart_with("tun", "offload = false")?;
    kernel.measure(source, pace, None)
}

/// Our gateways under a flood.
struct Watched<'a> {
    all: &'a [Gateway],
    flooded: &'a Gateway,
}

impl Watched<'_> {
    fn resident_mib(&self) -> Result<f64, LabError> {
        self.all
            .iter()
            .map(|gateway| resident_mib(gateway.role.pid().unwrap_or_default()))
            .sum()
    }

    /// SYNs that the flooded one refused, by the quota's name.
    fn refused(&self) -> Result<u64, LabError> {
        account::read(&self.flooded.role.admin).map(|account| account.dropped(REASON))
    }
}

impl Track {
    fn measure(
        &mut self,
        source: Source,
        pace: &Pace,
        watched: Option<&Watched<'_>>,
    ) -> Result<Outcome, LabError> {
        let resident_mib = || watched.map_or(Ok(0.0), Watched::resident_mib);
        let refused = || watched.map_or(Ok(0), Watched::refused);
        let mut held = [
            Held::open(&self.client, self.service, HELD)?,
            Held::open(&self.flooder, self.service, HELD)?,
        ];
        let bulk = Bulk::start(&self.client, self.service)?;
        let flood = match source {
            Source::Instance => &mut self.by_instance,
            Source::Peer => &mut self.by_peer,
        };
        for part in 0..WARM_UPS_MAX {
            let begin = pace.pairs + part * WARM_UP;
            flood.run(begin..begin + WARM_UP, RATE, pace.limit)?;
            if watched.is_none() || refused()? > 0 {
                break;
            }
        }
        let received = |servers: &[Instance]| servers.iter().map(Instance::received).sum::<u64>();
        let (before_mib, refused_before) = (resident_mib()?, refused()?);
        let (before, begin) = (received(&self.servers), now());
        let flooded = flood.run(0..pace.pairs, RATE, pace.limit)?;
        let bytes = received(&self.servers) - before;
        let goodput = bytes as f64 * 8e-6 / begin.elapsed().as_secs_f64();
        let refused = (refused()? - refused_before) as f64 / f64::from(flooded.sent);
        let grown_mib = resident_mib()? - before_mib;
        drop(bulk);
        let lost = held.iter_mut().map(Held::lost).sum();
        Ok(Outcome {
            goodput,
            rate: flooded.rate,
            refused_percent: refused * 100.0,
            lost,
            grown_mib,
        })
    }
}

fn ours(pair: &Pair) -> Result<Track, LabError> {
    let [client, flooder] = [&pair.clients[0], &pair.clients[1]];
    let service = v4(pair.service)?;
    let second = v4(pair.sites.gateways[1].address[0])?;
    let server = v4(pair.servers[0].attached.ns_address[0])?;
    let named = |(member, name): (&Member, u8)| Instance::new(&member.namespace, name);
    Ok(Track {
        client: client.namespace.clone(),
        flooder: flooder.namespace.clone(),
        service: pair.service,
        servers: pair
            .servers
            .iter()
            .zip(b'a'..)
            .map(named)
            .collect::<Result<_, _>>()?,
        by_instance: Flood::by_host(
            &flooder.namespace,
            v4(flooder.attached.ns_address[0])?,
            service,
        )?,
        by_peer: Flood::by_node(
            pair.sites.gateways[0].namespace(),
            SocketAddrV4::new(second, TUNNEL_PORT),
            &[],
            v4(flooder.attached.instance_ip[0])?,
            server,
        )?,
    })
}

fn kernel(pair: &Pair) -> Result<Track, LabError> {
    let [first, second] = [0, 1].map(|gateway| vxlan_node(&pair.sites, gateway));
    let vxlan = VxlanDnat::new(first, second)?;
    let (flooder, source) = VxlanDnat::another_client(first)?;
    let server = v4(vxlan.server_address)?;
    let headers = VxlanDnat::headers(first, second)?;
    Ok(Track {
        servers: vec![Instance::new(&vxlan.server, b'a')?],
        service: vxlan.service[0],
        by_instance: Flood::by_host(&flooder, source, v4(vxlan.service[0])?)?,
        by_peer: Flood::by_node(
            first.namespace,
            SocketAddrV4::new(v4(second.address)?, vxlan::PORT),
            &headers,
            source,
            server,
        )?,
        client: vxlan.client,
        flooder,
    })
}

/// Figures of one source, one entry a round.
#[derive(Default)]
struct Rows {
    goodput: Vec<(f64, f64)>,
    rate: Vec<(f64, f64)>,
    lost: usize,
    grown_mib: Vec<f64>,
    refused_percent: Vec<f64>,
}

impl Rows {
    fn push(&mut self, own: &Outcome, other: &Outcome) {
        self.goodput.push((own.goodput, other.goodput));
        self.rate.push((own.rate, other.rate));
        self.lost += own.lost;
        self.grown_mib.push(own.grown_mib);
        self.refused_percent.push(own.refused_percent);
    }

    fn report(&self, source: Source, report: &mut Report) {
        let name = |what| format!("syn_flood{}_{what}", source.suffix());
        let lost = Row::single(&name("lost"), self.lost as f64, "connections");
        for row in [
            Row::beside(&name("goodput"), "Mbit/s", PEER, &self.goodput)
                .with_goal(Goal::RatioAtLeast(1.5)),
            Row::beside(&name("rate"), "SYNs/s", PEER, &self.rate),
            lost.with_goal(Goal::ValueIs(0.0)),
            Row::median(&name("memory_growth"), "MiB", &self.grown_mib)
                .with_goal(Goal::ValueAtMost(1.0)),
            Row::median(&name("refused_by_quota"), "%", &self.refused_percent)
                .with_goal(Goal::ValueAtLeast(50.0)),
        ] {
            report.push(row);
        }
    }
}

impl Source {
    const fn suffix(self) -> &'static str {
        match self {
            Self::Instance => "",
            Self::Peer => "_by_peer",
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Instance => "flood by an instance",
            Self::Peer => "flood by a peer",
        })
    }
}
