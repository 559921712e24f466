//! Two nodes and what talks on them.
//!
//! ```text
//!  root, cluster a ── management
//!  instances ── gateway 1 ── wire ── gateway 2 ── instances
//! ```

use sluice_perf::lab::account::{self, Accounts};
use sluice_perf::lab::clock::wait_for;
use sluice_perf::lab::scratch::Scratch;
use sluice_perf::lab::sites::{Attached, Layout, Microservice, PLAIN, Sites, Target, descriptor};
use sluice_perf::lab::{self, NetNs, Program, tools};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

pub(crate) const ECHO: &str = "test.sluice.echo.prod";
pub(crate) const CALLER: &str = "test.sluice.caller.prod";
/// The ServiceIPs of [`ECHO`].
pub(crate) const ECHO_IP: [&str; 2] = ["10.30.70.1", "fdff:2000::70"];
/// Where every instance of [`ECHO`] answers, TCP and UDP.
pub(crate) const PORT: u16 = 7000;
const LIMIT: Duration = Duration::from_secs(5);

/// The processes and what is attached to them.
pub(crate) struct World {
    pub(crate) sites: Sites,
}

/// Something attached to a gateway.
#[derive(Clone)]
pub(crate) struct Instance {
    pub(crate) namespace: NetNs,
    pub(crate) attached: Attached,
}

impl Instance {
    pub(crate) fn ip(&self, family: usize) -> IpAddr {
        self.attached.instance_ip[family]
    }

    pub(crate) fn ns_ip(&self, family: usize) -> IpAddr {
        self.attached.ns_address[family]
    }
}

/// One answer of an echo instance: who answered, and which peer it saw.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Answer {
    pub(crate) name: String,
    pub(crate) peer: IpAddr,
    /// From where it came, as the caller sees it.
    pub(crate) from: SocketAddr,
}

pub(crate) fn sluice() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_sluice"))
}

/// One site with two gateways.
pub(crate) fn one_site() -> Layout {
    Layout {
        clusters: 1,
        gateways: vec![0, 0],
        ..Layout::two_sites()
    }
}

/// One site with two gateways that speak in plain, so that their flows can be offloaded.
pub(crate) fn one_plain_site() -> Layout {
    Layout {
        tunnel: PLAIN.to_owned(),
        ..one_site()
    }
}

pub(crate) fn services() -> String {
    let service = |name, rr_ip| Microservice {
        name,
        namespace: "prod",
        rr_ip,
    };
    descriptor(
        "test",
        "sluice",
        &[service("echo", Some(ECHO_IP)), service("caller", None)],
    )
}

impl World {
    /// `name` is the test's: its scratch directory.
    pub(crate) fn new(name: &str) -> Self {
        Self::laid(name, &one_site())
    }

    pub(crate) fn laid(name: &str, layout: &Layout) -> Self {
        let mut world = Self::built(name, layout);
        world.start();
        world
    }

    /// Nothing is started yet.
    pub(crate) fn built(name: &str, layout: &Layout) -> Self {
        let scratch = Scratch::new(&format!("sluice-{name}")).unwrap();
        Self {
            sites: Sites::built(sluice(), scratch, layout)
                .unwrap_or_else(|error| panic!("{error}")),
        }
    }

    pub(crate) fn start(&mut self) {
        self.sites.start().unwrap_or_else(|error| panic!("{error}"));
        self.sites
            .apply(&services())
            .unwrap_or_else(|error| panic!("{error}"));
    }

    /// Applies services of an application, called `s0` for number 0 and so on, each with [`many_address`] and one of IPv6.
    pub(crate) fn apply_many(
        &self,
        application: &str,
        net: u8,
        numbers: impl IntoIterator<Item = usize>,
    ) -> Vec<String> {
        let services: Vec<(String, [String; 2])> = numbers
            .into_iter()
            .map(|number| {
                let v4 = many_address(net, number).to_string();
                let v6 = format!("fdff:2000::{net}:{:x}", number + 1);
                (format!("s{number}"), [v4, v6])
            })
            .collect();
        let described: Vec<Microservice<'_>> = services
            .iter()
            .map(|(name, [v4, v6])| Microservice {
                name,
                namespace: "prod",
                rr_ip: Some([v4, v6]),
            })
            .collect();
        self.sites
            .apply(&descriptor(application, "sluice", &described))
            .unwrap_or_else(|error| panic!("{error}"));
        services.into_iter().map(|(name, _)| name).collect()
    }

    pub(crate) fn attach(&self, gateway: usize, service: &str, name: &str) -> Instance {
        let namespace = NetNs::new(name).unwrap();
        let attached = self
            .sites
            .attach(gateway, service, Target::Namespace(&namespace))
            .unwrap_or_else(|error| {
                panic!("{error}\n{}", self.sites.gateways[gateway].role.said())
            });
        Instance {
            namespace,
            attached,
        }
    }

    pub(crate) fn caller(&self, gateway: usize) -> Instance {
        self.attach(gateway, CALLER, &format!("caller{gateway}"))
    }

    /// An instance that answers with `name`.
    pub(crate) fn echo(&self, gateway: usize, name: &str) -> Instance {
        let instance = self.attach(gateway, ECHO, name);
        serve(&instance.namespace, name);
        instance
    }

    pub(crate) fn accounts(&self, gateway: usize) -> Accounts {
        account::quiescent(&self.sites.gateways[gateway].role.admin)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Waits until a gateway has dropped something for that reason.
    pub(crate) fn wait_for_drop(&self, gateway: usize, reason: &str) {
        let admin = &self.sites.gateways[gateway].role.admin;
        wait_for(&format!("a drop: {reason}"), LIMIT, || {
            let accounts = account::read(admin).map_err(|error| error.to_string())?;
            if accounts.dropped(reason) > 0 {
                Ok(())
            } else {
                Err(format!("{accounts:?}"))
            }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }

    /// What the root orchestrator and the cluster orchestrator do when they schedule an instance to the first cluster.
    pub(crate) fn schedule(&self, service: &str, number: u32) {
        let services = self.sites.root.ask("/v1/services").unwrap();
        let id = find_id(&services, service);
        let id = id.unwrap_or_else(|| panic!("no id of {service} in {services}"));
        let token = std::fs::read_to_string(self.sites.scratch.path().join("token")).unwrap();
        for (url, body) in [
            (
                "http://192.168.78.1:10099/api/net/instance/deploy",
                serde_json::json!({"_id": id, "instance_number": number, "cluster_id": "cluster-a"}),
            ),
            (
                "http://192.168.78.2:10110/api/net/deployment",
                serde_json::json!({"job_name": service}),
            ),
        ] {
            let program = Program::new(tools::find("curl").unwrap())
                .args(["-sS", "--fail-with-body", "-d"])
                .arg(body.to_string())
                .args(["-H", "Content-Type: application/json", "-H"])
                .arg(format!("Authorization: Bearer {}", token.trim()))
                .arg(url);
            let namespace = &self.sites.clusters[0].namespace;
            namespace
                .succeed(&program)
                .unwrap_or_else(|error| panic!("{error}"));
        }
    }

    /// Every process still runs, none panicked, and every gateway accounts for every frame.
    pub(crate) fn check(mut self) {
        for gateway in &mut self.sites.gateways {
            gateway
                .role
                .alive()
                .unwrap_or_else(|error| panic!("{error}"));
            let said = gateway.role.said();
            assert!(!said.contains("panicked at"), "{said}");
            let accounts = account::quiescent(&gateway.role.admin).unwrap();
            assert!(
                accounts.balanced(),
                "{}: {accounts:?}\n{said}",
                gateway.namespace().name()
            );
        }
        for manager in self.sites.clusters.iter_mut().chain([&mut self.sites.root]) {
            manager.alive().unwrap_or_else(|error| panic!("{error}"));
            let said = manager.said();
            assert!(!said.contains("panicked at"), "{said}");
        }
    }
}

/// The root's id of a service, wherever its listing has it.
fn find_id(services: &serde_json::Value, name: &str) -> Option<String> {
    let rows = services
        .as_array()
        .or_else(|| services["services"].as_array())?;
    let row = rows.iter().find(|row| {
        row.as_object()
            .is_some_and(|row| row.values().any(|value| value == name))
    })?;
    ["_id", "id"]
        .iter()
        .find_map(|key| row.get(key)?.as_str().map(str::to_owned))
}

/// The IPv4 ServiceIP of one of many services, counted from 0.
pub(crate) fn many_address(net: u8, number: usize) -> IpAddr {
    let last = u8::try_from(number + 1).unwrap();
    [10, 30, net, last].into()
}

pub(crate) fn service_ip(family: usize) -> IpAddr {
    ECHO_IP[family].parse().unwrap()
}

/// Cuts a namespace off from what is behind these devices, until [`join`].
pub(crate) fn cut(namespace: &NetNs, devices: &[&str]) {
    let devices = devices.join("\", \"");
    let script = format!(
        "add table inet cut\n\
         add chain inet cut in {{ type filter hook input priority -400; }}\n\
         add chain inet cut out {{ type filter hook output priority -400; }}\n\
         add rule inet cut in iifname {{ \"{devices}\" }} drop\n\
         add rule inet cut out oifname {{ \"{devices}\" }} drop"
    );
    namespace.nft(&script).unwrap();
}

pub(crate) fn join(namespace: &NetNs) {
    namespace.nft("delete table inet cut").unwrap();
}

/// Answers on TCP and UDP port [`PORT`] with `name` and the peer's address, until the process ends.
pub(crate) fn serve(namespace: &NetNs, name: &str) {
    serve_at(namespace, name, Ipv6Addr::UNSPECIFIED.into());
}

/// The same at one address.
pub(crate) fn serve_at(namespace: &NetNs, name: &str, address: IpAddr) {
    let (tcp, udp) = namespace.run(move || {
        (
            TcpListener::bind((address, PORT)).unwrap(),
            UdpSocket::bind((address, PORT)).unwrap(),
        )
    });
    let answer = |name: &str, peer: SocketAddr| format!("{name} {}", peer.ip().to_canonical());
    let said = name.to_owned();
    std::thread::spawn(move || {
        while let Ok((stream, peer)) = tcp.accept() {
            let text = answer(&said, peer);
            std::thread::spawn(move || converse(stream, &text));
        }
    });
    let said = name.to_owned();
    std::thread::spawn(move || {
        let mut bytes = vec![0; 65_536];
        while let Ok((len, peer)) = udp.recv_from(&mut bytes) {
            // A short question is answered with the name, a long one with itself.
            let text = answer(&said, peer);
            let reply = if len > 100 {
                &bytes[..len]
            } else {
                text.as_bytes()
            };
            let _ = udp.send_to(reply, peer);
        }
    });
}

/// Every line is answered with `text`.
fn converse(mut stream: TcpStream, text: &str) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() {
        if byte == *b"\n" && stream.write_all(format!("{text}\n").as_bytes()).is_err() {
            return;
        }
    }
}

fn answer(text: &str, from: SocketAddr) -> io::Result<Answer> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("answer {text:?}"));
    let (name, peer) = text.trim().split_once(' ').ok_or_else(wrong)?;
    Ok(Answer {
        name: name.to_owned(),
        peer: peer.parse().map_err(|_| wrong())?,
        from: SocketAddr::new(from.ip().to_canonical(), from.port()),
    })
}

/// One question over a new TCP connection.
pub(crate) fn tcp(from: &NetNs, to: IpAddr) -> io::Result<Answer> {
    let mut stream = connect(from, to)?;
    again(&mut stream)
}

/// As [`tcp`], by a caller who tries again soon instead of waiting for TCP's first repetition after a second.
pub(crate) fn tcp_impatient(from: &NetNs, to: IpAddr) -> io::Result<Answer> {
    again(&mut connect_within(from, to, Duration::from_millis(100))?)
}

pub(crate) fn connect(from: &NetNs, to: IpAddr) -> io::Result<TcpStream> {
    connect_within(from, to, LIMIT)
}

fn connect_within(from: &NetNs, to: IpAddr, limit: Duration) -> io::Result<TcpStream> {
    let to = SocketAddr::new(to, PORT);
    let stream = from.run(move || TcpStream::connect_timeout(&to, limit))?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// Another question over the same connection.
pub(crate) fn again(stream: &mut TcpStream) -> io::Result<Answer> {
    stream.write_all(b"\n")?;
    let mut text = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte)?;
        text.extend(byte);
    }
    answer(&String::from_utf8_lossy(&text), stream.peer_addr()?)
}

/// A UDP socket that is bound, but not connected.
pub(crate) fn udp_socket(from: &NetNs, family: usize, port: u16) -> UdpSocket {
    let any: IpAddr = if family == 0 {
        [0; 4].into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = from.run(move || UdpSocket::bind((any, port))).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

/// One question over UDP.
pub(crate) fn udp(socket: &UdpSocket, to: IpAddr) -> io::Result<Answer> {
    socket.send_to(b"?", (to, PORT))?;
    let mut bytes = [0; 200];
    let (len, from) = socket.recv_from(&mut bytes)?;
    answer(&String::from_utf8_lossy(&bytes[..len]), from)
}

/// One request of real ping with so many bytes, which must not be cut; returns what it printed.
pub(crate) fn ping_whole(from: &NetNs, to: IpAddr, bytes: &str) -> String {
    ping(from, to, &["-c", "1", "-M", "do", "-s", bytes])
}

/// Five requests of real ping; returns what it printed.
pub(crate) fn ping(from: &NetNs, to: IpAddr, arguments: &[&str]) -> String {
    let program = lab::ping::ping(5)
        .unwrap()
        .args(arguments)
        .arg(to.to_string());
    let output = from.output(&program).unwrap();
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
