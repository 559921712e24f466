//! What a flood of port pairs leaves of everybody else's traffic, beside kernel DNAT and VXLAN under the same flood.
//!
//! ```text
//! client ──┬─ gateway 1 ══ veth ══ gateway 2 ─┬─ a     by an instance: the flooder sends SYNs to the ServiceIP
//! flooder ─┘                                  └─ b     by a peer: its node sends them, tunnelled, to a's NsIP
//! ```
//! Each SYN has another pair of ports, and each contestant is offered as many per second. Meanwhile the client sends bulk
//! TCP over a connection that was there before; goodput is what the servers read of it. Connections held by client and
//! flooder are asked before and after which instance they are with.

use super::super::nodes::{HostNodes, Nodes};
use super::super::pair::{Member, Pair, v4};
use super::super::places::{A_FLOODER, Places};
use super::super::{Settings, sluice_perf};
use crate::instrument::ends::{Serve, Served};
use crate::instrument::load::{Bulk, Flood, Hold, Part};
use crate::lab::clock::now;
use crate::lab::{Conversation, Host, LabError, account};
use crate::peers::vxlan;
use crate::report::{Goal, Report, Row};
use crate::traffic::flood::Flooded;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
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
    client: Host,
    flooder: Host,
    service: IpAddr,
    servers: Vec<Conversation>,
    by_instance: Conversation,
    by_peer: Conversation,
    sluice_perf: PathBuf,
}

/// Where a contestant's packets come from and go to.
struct Ways<'a> {
    client: Host,
    flooder: Host,
    /// Of the flooder, as its own node sees it, and as the other one does.
    source: Ipv4Addr,
    source_inside: Ipv4Addr,
    service: Ipv4Addr,
    /// The real address of a server.
    server: Ipv4Addr,
    servers: &'a [Host],
    /// The first node, the second node's end of the tunnel, and what precedes a packet there.
    node: Host,
    tunnel: SocketAddrV4,
    headers: &'a [u8],
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
    let sluice_perf = sluice_perf()?;
    let (mut nodes, mut ours): (Box<dyn Nodes>, _) = match &settings.places {
        None => {
            let pair = Pair::new(settings, &["client", "flooder"], &["a", "b"])?;
            let ours = in_namespaces(&pair, &sluice_perf)?;
            (Box::new(pair.sites), ours)
        }
        Some(places) => {
            let mut nodes = HostNodes::new(places, &settings.sluice)?;
            let ours = between_hosts(places, &mut nodes, &sluice_perf)?;
            (Box::new(nodes), ours)
        }
    };
    let nodes = &mut *nodes;
    let path = nodes.kernel()?;
    let [(node, _), (_, address)] = nodes.hosts();
    let mut kernel = Track::new(
        &Ways {
            client: path.client.clone(),
            flooder: path.other_client.clone(),
            source: path.other_address,
            source_inside: path.other_address,
            service: path.service,
            server: path.server_address,
            servers: std::slice::from_ref(&path.server),
            node,
            tunnel: SocketAddrV4::new(address, vxlan::PORT),
            headers: &path.headers,
        },
        &sluice_perf,
    )?;
    for source in [Source::Instance, Source::Peer] {
        let mut rows = Rows::default();
        for round in 0..pace.rounds {
            (settings.say)(&format!("{source}, round {} of {}", round + 1, pace.rounds));
            if round % 2 == 0 {
                let own = own_round(nodes, &mut ours, source, pace)?;
                rows.push(&own, &peer_round(nodes, &mut kernel, source, pace)?);
            } else {
                let other = peer_round(nodes, &mut kernel, source, pace)?;
                rows.push(&own_round(nodes, &mut ours, source, pace)?, &other);
            }
        }
        rows.report(source, report);
    }
    Ok(())
}

fn own_round(
    nodes: &mut dyn Nodes,
    ours: &mut Track,
    source: Source,
    pace: &Pace,
) -> Result<Outcome, LabError> {
    nodes.restart_with("af_xdp", "offload = true")?;
    let flooded = match source {
        Source::Instance => 0,
        Source::Peer => 1,
    };
    let outcome = ours.measure(source, pace, Some(&Watched { nodes, flooded }))?;
    let account = account::at_rest(|| nodes.account(flooded))?;
    if !account.balanced() {
        return Err(LabError::Reply {
            what: "the account of frames after the flood".to_owned(),
            text: format!("{account:?}"),
        });
    }
    Ok(outcome)
}

fn peer_round(
    nodes: &mut dyn Nodes,
    kernel: &mut Track,
    source: Source,
    pace: &Pace,
) -> Result<Outcome, LabError> {
    // The gateways carry nothing, and no XDP program of theirs makes the kernel copy the peer's frames.
    nodes.restart_with("tun", "offload = false")?;
    kernel.measure(source, pace, None)
}

/// Our gateways under a flood.
struct Watched<'a> {
    nodes: &'a dyn Nodes,
    flooded: usize,
}

impl Watched<'_> {
    fn resident_mib(&self) -> Result<f64, LabError> {
        self.nodes.resident_mib()
    }

    /// SYNs that the flooded one refused, by the quota's name.
    fn refused(&self) -> Result<u64, LabError> {
        let account = self.nodes.account(self.flooded)?;
        Ok(account.dropped(REASON))
    }
}

impl Track {
    fn new(ways: &Ways<'_>, sluice_perf: &Path) -> Result<Self, LabError> {
        let headers = ways.headers.iter().map(|octet| format!("{octet:02x}"));
        let by_instance = Flood {
            source: ways.source,
            destination: ways.service,
            tunnel: None,
            headers: String::new(),
        };
        let by_peer = Flood {
            source: ways.source_inside,
            destination: ways.server,
            tunnel: Some(ways.tunnel),
            headers: headers.collect(),
        };
        let servers = ways.servers.iter().zip('a'..);
        Ok(Self {
            servers: servers
                .map(|(host, name)| Serve { name }.start(host, sluice_perf))
                .collect::<Result<_, _>>()?,
            by_instance: by_instance.start(&ways.flooder, sluice_perf)?,
            by_peer: by_peer.start(&ways.node, sluice_perf)?,
            client: ways.client.clone(),
            flooder: ways.flooder.clone(),
            service: ways.service.into(),
            sluice_perf: sluice_perf.to_owned(),
        })
    }

    /// Bytes that all servers have read so far.
    fn received(&mut self) -> Result<u64, LabError> {
        let of = |server: &mut Conversation| server.ask::<Served>(&()).map(|served| served.bytes);
        self.servers.iter_mut().map(of).sum()
    }

    fn flood(&mut self, source: Source, part: &Part) -> Result<Flooded, LabError> {
        match source {
            Source::Instance => self.by_instance.ask(part),
            Source::Peer => self.by_peer.ask(part),
        }
    }

    fn measure(
        &mut self,
        source: Source,
        pace: &Pace,
        watched: Option<&Watched<'_>>,
    ) -> Result<Outcome, LabError> {
        let resident_mib = || watched.map_or(Ok(0.0), Watched::resident_mib);
        let refused = || watched.map_or(Ok(0), Watched::refused);
        let hold = Hold {
            to: self.service,
            count: HELD,
        };
        let mut held = [
            hold.start(&self.client, &self.sluice_perf)?,
            hold.start(&self.flooder, &self.sluice_perf)?,
        ];
        let bulk = Bulk { to: self.service }.start(&self.client, &self.sluice_perf)?;
        let part = |first, pairs| Part {
            first,
            pairs,
            rate: RATE,
            limit: pace.limit,
        };
        for number in 0..WARM_UPS_MAX {
            self.flood(source, &part(pace.pairs + number * WARM_UP, WARM_UP))?;
            if watched.is_none() || refused()? > 0 {
                break;
            }
        }
        let (before_mib, refused_before) = (resident_mib()?, refused()?);
        let (before, begin) = (self.received()?, now());
        let flooded = self.flood(source, &part(0, pace.pairs))?;
        let bytes = self.received()? - before;
        let goodput = bytes as f64 * 8e-6 / begin.elapsed().as_secs_f64();
        let refused = (refused()? - refused_before) as f64 / f64::from(flooded.sent);
        let grown_mib = resident_mib()? - before_mib;
        drop(bulk);
        let lost = held.iter_mut().map(|held| held.ask::<usize>(&()));
        let lost = lost.sum::<Result<usize, LabError>>()?;
        Ok(Outcome {
            goodput,
            rate: flooded.rate,
            refused_percent: refused * 100.0,
            lost,
            grown_mib,
        })
    }
}

/// The second node's end of our tunnel.
fn tunnel(nodes: &dyn Nodes) -> Result<SocketAddrV4, LabError> {
    let [_, (_, address)] = nodes.hosts();
    let port = nodes.status(1)?["tunnel_port"].as_u64();
    let port = port.and_then(|port| u16::try_from(port).ok());
    Ok(SocketAddrV4::new(address, port.unwrap_or_default()))
}

fn in_namespaces(pair: &Pair, sluice_perf: &Path) -> Result<Track, LabError> {
    let [client, flooder] = [&pair.clients[0], &pair.clients[1]];
    let host = |member: &Member| Host::from(&member.namespace);
    let servers: Vec<Host> = pair.servers.iter().map(host).collect();
    let ways = Ways {
        client: host(client),
        flooder: host(flooder),
        source: v4(flooder.attached.ns_address[0])?,
        source_inside: v4(flooder.attached.instance_ip[0])?,
        service: v4(pair.service)?,
        server: v4(pair.servers[0].attached.ns_address[0])?,
        servers: &servers,
        node: pair.sites.gateways[0].namespace().into(),
        tunnel: tunnel(&pair.sites)?,
        headers: &[],
    };
    Track::new(&ways, sluice_perf)
}

fn between_hosts(
    places: &Places,
    nodes: &mut HostNodes,
    sluice_perf: &Path,
) -> Result<Track, LabError> {
    let Some(place) = &places.flooder else {
        return Err(LabError::Request(format!(
            "flood needs --flooder: {A_FLOODER}"
        )));
    };
    let flooder = place.host(&places.shell);
    let source = flooder.address(&place.interfaces[0])?;
    nodes.restart_with("af_xdp", "offload = true")?;
    let instances = nodes.ask(0, "instances")?;
    let ours = |row: &&serde_json::Value| row["ns_ip"] == source.to_string();
    let row = instances.as_array().into_iter().flatten().find(ours);
    let source_inside = row
        .and_then(|row| row["instance_ip"].as_str()?.parse().ok())
        .ok_or_else(|| LabError::Reply {
            what: format!(
                "the instances of the gateway, of which --flooder {place} ({source}) is one,"
            ),
            text: instances.to_string(),
        })?;
    let call = places.gateway.call;
    let [(node, _), _] = nodes.hosts();
    let ways = Ways {
        client: places.generator.host(&places.shell),
        flooder,
        source,
        source_inside,
        service: call.dialled,
        server: call.called,
        servers: &[places.sink.host(&places.shell)],
        node,
        tunnel: tunnel(nodes)?,
        headers: &[],
    };
    Track::new(&ways, sluice_perf)
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
