//! Two workers, each in a network namespace, with real TUN devices and UDP sockets.
//!
//! ```text
//!   sluice-wA                                            sluice-wB
//!   caller 10.18.1.2 -- TUN -- worker -- veth .1 ==== .2 veth -- worker -- TUN -- callee 10.18.2.2
//! ```

use crate::encrypted::{encrypted, tunnels_at};
use crate::site::{Site, TUNNEL_PORT, assert_balanced, drops, ns_ip, service_ip};
use sluice_engine::Now;
use sluice_link::choose::{self, LinksSettings};
use sluice_link::sys::monotonic_ns;
use sluice_link::{FaultLink, Faults, Link, TunLink, UdpLink};
use sluice_memory::Endpoint;
use sluice_tables::TunnelFormat;
use sluice_wire::{DropReason, Family, Ip};
use sluice_worker::{Ended, Handle, Ready, Settings, Tunnel, spawn};
use std::hash::{DefaultHasher, Hasher};
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Runs `ip` and fails with what it says.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {said}");
}

/// Two joined namespaces, removed at the end.
pub(crate) struct Lab {
    pub(crate) names: [String; 2],
}

impl Lab {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let lab = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |node| format!("sluice-w{}-{lab}-{node}", std::process::id());
        let names = [name(1), name(2)];
        let [a, b] = &names;
        ip(&format!("netns add {a}"));
        ip(&format!("netns add {b}"));
        ip(&format!(
            "link add wire netns {a} type veth peer name wire netns {b}"
        ));
        for (node, name) in (1..).zip(&names) {
            ip(&format!("-n {name} link set lo up"));
            ip(&format!("-n {name} addr add 192.0.2.{node}/24 dev wire"));
            ip(&format!(
                "-n {name} addr add 2001:db8::{node}/64 dev wire nodad"
            ));
            ip(&format!("-n {name} link set wire up"));
        }
        Self { names }
    }

    /// Calls `inside` on a thread in namespace `node` and returns what it returns.
    pub(crate) fn inside<T: Send + 'static>(
        &self,
        node: u8,
        inside: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let name = self.names[usize::from(node) - 1].clone();
        std::thread::spawn(move || {
            let file = std::fs::File::open(format!("/run/netns/{name}")).unwrap();
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&file),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .unwrap();
            inside()
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

pub(crate) type Node = Handle<TunLink, FaultLink<UdpLink>>;

#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) tun_offload: bool,
    pub(crate) udp_gso: bool,
    pub(crate) one_packet_per_syscall: bool,
    /// The family of the outer packets.
    pub(crate) underlay: Family,
    pub(crate) faults: Faults,
    pub(crate) encrypted: bool,
    /// Of packets to the other node.
    pub(crate) mtu: u16,
}

pub(crate) const FULL: Case = Case {
    tun_offload: true,
    udp_gso: true,
    one_packet_per_syscall: false,
    underlay: Family::V4,
    faults: Faults {
        lose_ppm: 0,
        duplicate_ppm: 0,
        corrupt_ppm: 0,
        delay_ppm: 0,
        delay_calls: 0,
    },
    encrypted: false,
    mtu: 1420,
};

const BAD_WIRE: Faults = Faults {
    lose_ppm: 10_000,
    duplicate_ppm: 5_000,
    corrupt_ppm: 5_000,
    delay_ppm: 5_000,
    delay_calls: 3,
};

/// Starts the worker of `node`.
pub(crate) fn start(lab: &Lab, node: u8, case: Case) -> Node {
    start_with(lab, node, case, move |now| tunnels_at(node, 1, now)).0
}

/// Where a node is.
pub(crate) fn address(underlay: Family, node: u8) -> Endpoint {
    Endpoint {
        ip: match underlay {
            Family::V4 => format!("192.0.2.{node}"),
            Family::V6 => format!("2001:db8::{node}"),
        }
        .parse()
        .unwrap(),
        port: TUNNEL_PORT,
    }
}

/// The same, with this tunnel if the case is an encrypted one, and with control's half.
pub(crate) fn start_with(
    lab: &Lab,
    node: u8,
    case: Case,
    tunnels: impl FnOnce(Duration) -> Vec<Tunnel> + Send + 'static,
) -> (Node, Site) {
    let peer = address(case.underlay, 3 - node);
    let (handle, site) = lab
        .inside(node, move || {
            let mut links = choose::open(&LinksSettings {
                tun: "services".to_owned(),
                persistent: false,
                address: None,
                tunnel_port: TUNNEL_PORT,
                workers: 1,
                tun_offload: case.tun_offload,
                udp_gso: case.udp_gso,
                one_packet_per_syscall: case.one_packet_per_syscall,
            })
            .unwrap();
            let (tun, udp) = links.pairs.remove(0);
            let mut site = Site::new(node);
            site.mtu = case.mtu;
            let format = if case.encrypted {
                encrypted(3 - node)
            } else {
                TunnelFormat::Plain
            };
            site.learn_of(node, peer, format);
            let mut worker = site.worker(tun, FaultLink::new(udp, case.faults, u64::from(node)));
            if case.encrypted {
                let now = Duration::from_nanos(monotonic_ns());
                worker = worker.with_tunnel(tunnels(now).remove(0));
            }
            let settings = Settings::default();
            let handle = spawn(format!("worker-{node}"), worker, settings).unwrap();
            (handle, site)
        })
        .join()
        .unwrap();
    let name = &lab.names[usize::from(node) - 1];
    for family in [Family::V4, Family::V6] {
        let (bits, ranges) = match family {
            Family::V4 => ("32", ["10.30.0.0/16", "10.18.0.0/16"]),
            // A tentative address could not be the source of routes yet.
            Family::V6 => ("128 nodad", ["fdff::/16", "fc00::/16"]),
        };
        ip(&format!(
            "-n {name} addr add {}/{bits} dev services",
            ns_ip(family, node)
        ));
        ip(&format!("-n {name} link set services mtu 1420 up"));
        for range in ranges {
            ip(&format!(
                "-n {name} route add {range} dev services src {}",
                ns_ip(family, node)
            ));
        }
    }
    (handle, site)
}

/// Stops the worker, lets it finish what it has, and checks its account.
pub(crate) fn finish(node: Node) -> (u64, u64) {
    node.stop();
    let Ended { mut worker, result } = node.join().unwrap();
    result.unwrap();
    worker.underlay.set(Faults::default());
    let mut later = 1_000_000;
    loop {
        later += 10;
        let turn = worker.turn(Ready::BOTH, Now::from_s(later)).unwrap();
        if turn.received == 0 && !worker.underlay.pending() {
            break;
        }
    }
    let accounts = &worker.accounts;
    assert_balanced(accounts);
    assert_eq!(accounts.engine.held.value(), 0, "{:?}", drops(accounts));
    assert_eq!(worker.pool.outstanding(), 0);
    (
        accounts.total(|account| account.received.value()),
        accounts.total(|account| account.forwarded_bytes.value()),
    )
}

pub(crate) const TRANSFER: usize = 20_000_000;

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Sends bytes from node 1 to the service and compares hashes at both ends.
pub(crate) fn transfer(lab: &Lab, family: Family, len: usize) {
    let from = stream(
        lab,
        (1, ns_ip(family, 1)),
        service_ip(family),
        (2, ns_ip(family, 2)),
        len,
    );
    assert_eq!(
        from,
        crate::site::instance_ip(family, 1),
        "the callee sees the caller's InstanceIP"
    );
}

/// Sends bytes from a node's address to what it dials, which is to lead to another node's address, and compares hashes at both
/// ends. Returns whom the callee saw.
pub(crate) fn stream(
    lab: &Lab,
    (from_node, from): (u8, Ip),
    dialled: Ip,
    (to_node, to): (u8, Ip),
    len: usize,
) -> Ip {
    let callee = SocketAddr::new(IpAddr::from(to), 8080);
    let (listening, is_listening) = std::sync::mpsc::channel();
    let receiver = lab.inside(to_node, move || {
        let listener = TcpListener::bind(callee).unwrap();
        listening.send(()).unwrap();
        let (mut stream, from) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        stream.write_all(&hash(&bytes).to_be_bytes()).unwrap();
        (from, bytes.len())
    });
    is_listening.recv().unwrap();
    let sender = lab.inside(from_node, move || {
        let mut stream = connect(from, dialled);
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let mut state = 1_u64;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .take(len)
        .collect();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut theirs = [0; 8];
        stream.read_exact(&mut theirs).unwrap();
        assert_eq!(u64::from_be_bytes(theirs), hash(&bytes));
    });
    sender.join().unwrap();
    let (from, received) = receiver.join().unwrap();
    assert_eq!(received, len);
    Ip::from(from.ip())
}

/// Connects from one of this namespace's addresses.
fn connect(from: Ip, to: Ip) -> TcpStream {
    let (from, to) = (IpAddr::from(from), IpAddr::from(to));
    let socket = rustix::net::socket(
        if to.is_ipv4() {
            rustix::net::AddressFamily::INET
        } else {
            rustix::net::AddressFamily::INET6
        },
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    rustix::net::sockopt::set_socket_timeout(
        &socket,
        rustix::net::sockopt::Timeout::Send,
        Some(Duration::from_secs(20)),
    )
    .unwrap();
    rustix::net::bind(&socket, &SocketAddr::new(from, 0)).unwrap();
    rustix::net::connect(&socket, &SocketAddr::new(to, 8080)).unwrap();
    TcpStream::from(socket)
}

fn run(case: Case, len: usize) -> [(u64, u64); 2] {
    let lab = Lab::new();
    let nodes = [start(&lab, 1, case), start(&lab, 2, case)];
    for family in [Family::V4, Family::V6] {
        transfer(&lab, family, len);
    }
    nodes.map(finish)
}

#[test]
#[ignore = "needs root"]
fn a_stream_crosses_whole_over_either_underlay_with_super_frames() {
    for underlay in [Family::V4, Family::V6] {
        let [(received, bytes), _] = run(Case { underlay, ..FULL }, TRANSFER);
        assert!(
            received < bytes / 4000,
            "{received} frames for {bytes} bytes are no super-frames"
        );
    }
}

#[test]
#[ignore = "needs root"]
fn an_encrypted_stream_crosses_whole_over_either_underlay_with_super_frames() {
    for underlay in [Family::V4, Family::V6] {
        let case = Case {
            underlay,
            encrypted: true,
            ..FULL
        };
        let [(received, bytes), _] = run(case, TRANSFER);
        assert!(
            received < bytes / 4000,
            "{received} frames for {bytes} bytes are no super-frames"
        );
    }
}

#[test]
#[ignore = "needs root"]
fn a_stream_crosses_whole_over_a_bad_wire() {
    let faults = BAD_WIRE;
    for encrypted in [false, true] {
        let case = Case {
            faults,
            encrypted,
            ..FULL
        };
        run(case, TRANSFER / 4);
    }
}

#[test]
#[ignore = "needs root"]
fn a_stream_crosses_whole_with_each_switch_off() {
    each_switch_off(false);
}

#[test]
#[ignore = "needs root"]
fn an_encrypted_stream_crosses_whole_with_each_switch_off() {
    each_switch_off(true);
}

fn each_switch_off(encrypted: bool) {
    for (tun_offload, udp_gso, one_packet_per_syscall) in [
        (false, true, false),
        (true, false, false),
        (false, false, false),
        (true, true, true),
    ] {
        let case = Case {
            tun_offload,
            udp_gso,
            one_packet_per_syscall,
            encrypted,
            ..FULL
        };
        run(case, TRANSFER / 4);
    }
}

#[test]
#[ignore = "needs root"]
fn datagrams_of_every_size_cross_whole() {
    let lab = Lab::new();
    let nodes = [start(&lab, 1, FULL), start(&lab, 2, FULL)];
    for family in [Family::V4, Family::V6] {
        let callee = SocketAddr::new(IpAddr::from(ns_ip(family, 2)), 5353);
        let (listening, is_listening) = std::sync::mpsc::channel();
        let echo = lab.inside(2, move || {
            let socket = UdpSocket::bind(callee).unwrap();
            listening.send(()).unwrap();
            let mut buffer = vec![0; 65_535];
            loop {
                let (len, from) = socket.recv_from(&mut buffer).unwrap();
                socket.send_to(&buffer[..len], from).unwrap();
                if len == 1 {
                    return;
                }
            }
        });
        is_listening.recv().unwrap();
        lab.inside(1, move || {
            let any = SocketAddr::new(IpAddr::from(ns_ip(family, 1)), 0);
            let socket = UdpSocket::bind(any).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            let service = SocketAddr::new(IpAddr::from(service_ip(family)), 5353);
            socket.connect(service).unwrap();
            for len in [1392, 64, 1393, 9000, 60_000, 1] {
                let sent: Vec<u8> = (0..=255).cycle().take(len).collect();
                socket.send(&sent).unwrap();
                let mut came = vec![0; 65_535];
                let received = socket.recv(&mut came).unwrap();
                assert!(came[..received] == sent, "{family:?} {len}");
            }
        })
        .join()
        .unwrap();
        echo.join().unwrap();
    }
    for node in nodes {
        finish(node);
    }
}

#[test]
#[ignore = "needs root"]
fn a_device_that_is_removed_ends_its_worker_with_a_reason() {
    let lab = Lab::new();
    let node = start(&lab, 1, FULL);
    ip(&format!("-n {} link del services", lab.names[0]));
    let Ended { result, .. } = node.join().unwrap();
    let reason = result.unwrap_err().to_string();
    assert!(reason.contains("link services is down"), "{reason}");
}

#[test]
#[ignore = "needs root"]
fn a_persistent_device_is_adopted_and_one_in_use_is_refused() {
    let lab = Lab::new();
    let open = |persistent| {
        lab.inside(1, move || {
            sluice_link::tun::open(&sluice_link::TunSettings {
                name: "services".to_owned(),
                workers: 2,
                offload: true,
                one_packet_per_syscall: false,
                persistent,
            })
        })
        .join()
        .unwrap()
    };
    let first = open(true).unwrap();
    ip(&format!(
        "-n {} addr add 10.18.1.1/32 dev services",
        lab.names[0]
    ));
    ip(&format!("-n {} link set services up", lab.names[0]));
    let refused = open(true).unwrap_err();
    assert!(refused.to_string().contains("in use"), "{refused}");
    drop(first);
    let second = open(false).unwrap();
    let output = Command::new("ip")
        .args(["-n", &lab.names[0], "addr", "show", "dev", "services"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("10.18.1.1/32"), "{said}");
    drop(second);
    let gone = Command::new("ip")
        .args(["-n", &lab.names[0], "link", "show", "services"])
        .output()
        .unwrap();
    assert!(!gone.status.success(), "not persistent any more");
}

#[test]
#[ignore = "needs root"]
fn damaged_packets_never_reach_an_application() {
    let faults = Faults {
        corrupt_ppm: 50_000,
        ..Faults::default()
    };
    let lab = Lab::new();
    let nodes = [
        start(&lab, 1, Case { faults, ..FULL }),
        start(&lab, 2, FULL),
    ];
    transfer(&lab, Family::V4, TRANSFER / 10);
    let [_, receiver] = &nodes;
    let accounts = receiver.accounts();
    let damaged = accounts.total(|account| account.dropped(DropReason::BadChecksum));
    assert!(damaged > 0, "{:?}", drops(accounts));
    for node in nodes {
        finish(node);
    }
}

#[test]
#[ignore = "needs root"]
fn a_run_that_the_device_refuses_is_sent_as_datagrams_and_those_too_big_are_dropped_by_name() {
    let lab = Lab::new();
    let nodes = [start(&lab, 1, FULL), start(&lab, 2, FULL)];
    // The tunnel's packets of 1420 bytes no longer fit.
    ip(&format!("-n {} link set wire mtu 1400", lab.names[0]));
    let service = SocketAddr::new(IpAddr::from(service_ip(Family::V4)), 8080);
    let callee = SocketAddr::new(IpAddr::from(ns_ip(Family::V4, 2)), 8080);
    let listener = lab
        .inside(2, move || TcpListener::bind(callee).unwrap())
        .join()
        .unwrap();
    let mut stream = lab
        .inside(1, move || {
            TcpStream::connect_timeout(&service, Duration::from_secs(20)).unwrap()
        })
        .join()
        .unwrap();
    stream.write_all(&[7; 50_000]).unwrap();
    let [sender, _] = &nodes;
    let (health, account) = (sender.underlay_health(), &sender.accounts().underlay);
    while health.gso_refused.value() == 0 || account.dropped(DropReason::TooBig) == 0 {
        assert!(!sender.is_finished());
        std::thread::yield_now();
    }
    drop((stream, listener));
    for node in nodes {
        finish(node);
    }
}
