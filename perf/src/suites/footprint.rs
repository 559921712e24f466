//! What a gateway costs when little happens, and how long the first packet to an unknown service takes.
//!
//! ```text
//!   root ══ cluster a ══ gateways 1, 2        ══ the delay line: every manager is 1 ms away (a round trip)
//!        ══ cluster b ══ gateway 3
//! ```
//! Every trial of a first packet uses a client and a service that nobody has asked about before, so that the
//! receiver has to resolve the caller as well.

use super::{Settings, environment};
use crate::lab::clock::{now, pause, wait_for};
use crate::lab::scratch::Scratch;
use crate::lab::sites::{Attached, Cable, Layout, Sites, Target, ping_round_trip};
use crate::lab::{Host, LabError, NetNs, http};
use crate::report::{Goal, Report, Row};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

const MANAGERS_AWAY: Duration = Duration::from_millis(1);
/// Two round trips per hop of the hierarchy, and 1 ms.
const SAME_CLUSTER_MS: f64 = 2.0 + 1.0;
const OTHER_CLUSTER_MS: f64 = 2.0 * 2.0 + 1.0;
const FLOWS: u32 = 100_000;
const PORT: u16 = 7000;

/// Runs the suite.
///
/// # Errors
/// When the laboratory cannot be built, or something that must arrive does not.
pub fn run(settings: &Settings) -> Result<Report, LabError> {
    let (trials, idle_s) = if settings.quick { (5, 5) } else { (11, 20) };
    let mut report = Report::new("footprint", environment(&["ip"]));
    let layout = Layout {
        clusters: 2,
        gateways: vec![0, 0, 1],
        cable: Cable::Switch,
        managers_away: Some(MANAGERS_AWAY),
        log_level: "warn".to_owned(),
        ..Layout::two_sites()
    };
    let scratch = Scratch::new("sluice-perf-footprint")?;
    let sites = Sites::new(&settings.sluice, scratch, &layout)?;
    apply(&sites, trials)?;

    (settings.say)("an idle gateway");
    let pid = sites.gateways[0].role.pid().unwrap_or_default();
    pause(Duration::from_secs(1));
    report.push(
        Row::single("rss_idle_mib", resident_mib(pid)?, "MiB").with_goal(Goal::ValueAtMost(16.0)),
    );
    let before = cpu_ticks(pid)?;
    pause(Duration::from_secs(idle_s));
    #[expect(clippy::cast_precision_loss, reason = "a few seconds")]
    let percent = (cpu_ticks(pid)? - before) / idle_s as f64;
    report.push(
        Row::single("cpu_idle_percent", percent, "% of a core").with_goal(Goal::ValueBelow(1.0)),
    );

    (settings.say)("first packets");
    let away = ping_round_trip(sites.gateways[0].namespace(), sites.cluster_address(0))?;
    report.push(Row::single(
        "managers_round_trip_ms",
        away.as_secs_f64() * 1e3,
        "ms",
    ));
    let mut trial = 0;
    for (suffix, gateway, bound) in [
        ("", 2, OTHER_CLUSTER_MS),
        ("_same_cluster", 1, SAME_CLUSTER_MS),
    ] {
        let mut measure = |first: fn(&Pair) -> Result<f64, LabError>| {
            (0..trials)
                .map(|_| {
                    trial += 1;
                    first(&Pair::new(&sites, trial, gateway)?)
                })
                .collect::<Result<Vec<f64>, LabError>>()
        };
        for (name, runs) in [
            ("first_packet_ms", measure(Pair::first_packet_ms)?),
            ("tcp_connect_ms", measure(Pair::tcp_connect_ms)?),
        ] {
            report.push(
                Row::median(&format!("{name}{suffix}"), "ms", &runs)
                    .with_goal(Goal::ValueAtMost(bound)),
            );
        }
    }

    (settings.say)("100,000 flows");
    let flows = many_flows(&Pair::new(&sites, 0, 1)?, &sites)?;
    report.push(
        Row::single("rss_100k_flows_mib", resident_mib(pid)?, "MiB")
            .with_goal(Goal::ValueAtMost(40.0)),
    );
    report.push(Row::single("flows", flows, "flows").with_goal(Goal::ValueAtLeast(FLOWS.into())));
    Ok(report)
}

/// Services for every trial; number 0 is for the many flows.
fn apply(sites: &Sites, trials: u32) -> Result<(), LabError> {
    let names: Vec<(String, String)> = (0..=4 * trials)
        .map(|number| (format!("client{number}"), format!("server{number}")))
        .collect();
    sites.apply_measured(
        "sluice",
        names.iter().flat_map(|(client, server)| [client, server]),
    )
}

/// A client at the first gateway and a server at another one; neither was heard of before.
struct Pair {
    client: NetNs,
    server: NetNs,
    to: Ipv4Addr,
}

impl Pair {
    fn new(sites: &Sites, number: u32, gateway: usize) -> Result<Self, LabError> {
        let join = |role: &str, gateway| -> Result<(NetNs, Attached), LabError> {
            let namespace = NetNs::new(&format!("{role}{number}"))?;
            let service = format!("bench.sluice.{role}{number}.perf");
            let attached = sites.attach(gateway, &service, Target::Namespace(&namespace))?;
            Ok((namespace, attached))
        };
        let (server, attached) = join("server", gateway)?;
        let (client, _) = join("client", 0)?;
        let Some(IpAddr::V4(to)) = attached.instance_ip.first().copied() else {
            return Err(LabError::Reply {
                what: "the addresses of an instance".to_owned(),
                text: format!("{attached:?}"),
            });
        };
        // What attaching set in motion shall not be measured.
        pause(Duration::from_millis(100));
        Ok(Self { client, server, to })
    }

    fn sockets(&self) -> Result<(UdpSocket, UdpSocket), LabError> {
        let bind = |namespace: &NetNs, port| {
            let socket = namespace
                .run(move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))
                .map_err(LabError::socket("a UDP socket"))?;
            socket
                .set_read_timeout(Some(Duration::from_secs(3)))
                .map_err(LabError::socket("a time limit"))?;
            Ok(socket)
        };
        Ok((bind(&self.client, 0)?, bind(&self.server, PORT)?))
    }

    /// From sending a datagram to its arrival at the server.
    fn first_packet_ms(&self) -> Result<f64, LabError> {
        let (client, server) = self.sockets()?;
        let begin = now();
        client
            .send_to(b"first", (self.to, PORT))
            .map_err(LabError::socket("sending the first packet"))?;
        server
            .recv(&mut [0; 16])
            .map_err(LabError::socket("waiting for the first packet"))?;
        Ok(begin.elapsed().as_secs_f64() * 1e3)
    }

    /// The time that connect takes.
    fn tcp_connect_ms(&self) -> Result<f64, LabError> {
        let _listener = self
            .server
            .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))
            .map_err(LabError::socket("a listener"))?;
        let to = SocketAddr::from((self.to, PORT));
        self.client
            .run(move || {
                let begin = now();
                TcpStream::connect_timeout(&to, Duration::from_secs(3))
                    .map(|_| begin.elapsed().as_secs_f64() * 1e3)
            })
            .map_err(LabError::socket("the first connection"))
    }
}

/// Makes 100,000 flows that have seen an answer, and says how many the first gateway has.
fn many_flows(pair: &Pair, sites: &Sites) -> Result<f64, LabError> {
    const PORTS: u16 = 4;
    for port in PORT..PORT + PORTS {
        let echo = pair
            .server
            .run(move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))
            .map_err(LabError::socket("an echo socket"))?;
        std::thread::spawn(move || {
            let mut bytes = [0; 16];
            while let Ok((len, from)) = echo.recv_from(&mut bytes) {
                if len == 4 && echo.send_to(&bytes[..len], from).is_err() {
                    return;
                }
            }
        });
    }
    let to = pair.to;
    pair.client
        .run(move || -> std::io::Result<()> {
            for source in 0..FLOWS / u32::from(PORTS) + 500 {
                let source = u16::try_from(10_000 + source).unwrap_or(u16::MAX);
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, source))?;
                socket.set_read_timeout(Some(Duration::from_millis(200)))?;
                for port in PORT..PORT + PORTS {
                    socket.send_to(b"flow", (to, port))?;
                }
                for _ in 0..PORTS {
                    // A lost one leaves a flow too few; there are some to spare.
                    let _ = socket.recv(&mut [0; 16]);
                }
            }
            Ok(())
        })
        .map_err(LabError::socket("making flows"))?;
    let admin = &sites.gateways[0].role.admin;
    wait_for("100,000 flows", Duration::from_secs(3), || {
        let status = http::json(admin, "/v1/status").map_err(|error| error.to_string())?;
        match status["flows"].as_f64() {
            Some(flows) if flows >= FLOWS.into() => Ok(flows),
            other => Err(format!("{other:?} flows")),
        }
    })
}

/// Resident memory of a process of this machine.
fn resident_mib(pid: u32) -> Result<f64, LabError> {
    resident_mib_at(&Host::Here, pid)
}

/// Resident memory of a process at a host.
pub(super) fn resident_mib_at(host: &Host, pid: u32) -> Result<f64, LabError> {
    let path = format!("/proc/{pid}/status");
    let text = host.read(&path)?;
    text.lines()
        .find_map(|line| {
            let kib = line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?;
            Some(kib.trim().parse::<f64>().ok()? / 1024.0)
        })
        .ok_or(LabError::Reply { what: path, text })
}

/// User and system time of a process, in hundredths of a second: over a second, percent of a core.
pub(super) fn cpu_ticks(pid: u32) -> Result<f64, LabError> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).map_err(LabError::file(&path))?;
    let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<f64> = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse().ok())
        .collect();
    match fields[..] {
        [user, system] => Ok(user + system),
        _ => Err(LabError::Reply { what: path, text }),
    }
}
