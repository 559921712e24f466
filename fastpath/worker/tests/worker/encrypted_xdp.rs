//! A worker whose underlay is AF_XDP and one whose underlay is a UDP socket, encrypted, over a veth pair.
//!
//! ```text
//!   memory -- worker -- AF_XDP wire .1 ==== .2 wire UDP -- worker -- memory
//! ```

use crate::congestion::in_class;
use crate::encrypted::{encrypted, tunnels_at, udp};
use crate::namespaces::{Lab, ip};
use crate::site::{Site, TUNNEL_PORT, assert_balanced, drops, instance_ip, ns_ip, service_ip};
use sluice_link::af_xdp::{self, Device, Hop, Mac, QueueSettings, XdpControl, XdpSettings};
use sluice_link::mem::{Far, Memory};
use sluice_link::sys::monotonic_ns;
use sluice_link::udp::{self, UdpSettings};
use sluice_link::{Link, MemLink, Merge};
use sluice_memory::{Endpoint, FRAME_LEN_MAX, Pages, Pool};
use sluice_wire::{Dual, Family, Ip, parse, traffic_class};
use sluice_worker::{Ended, Handle, Settings, spawn};
use std::time::Duration;

/// Of the wire's ends, and of the device towards services, which nothing uses here.
const MACS: [Mac; 3] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 3]];

fn text(mac: Mac) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

fn address(underlay: Family, node: u8) -> Ip {
    match underlay {
        Family::V4 => Ip::v4([192, 0, 2, node]),
        Family::V6 => format!("2001:db8::{node}").parse().unwrap(),
    }
}

/// A device of the calling thread's namespace.
fn device(name: &str, mac: Mac) -> Device {
    let output = std::process::Command::new("ip")
        .args(["-o", "link", "show", "dev", name])
        .output()
        .unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    Device {
        name: name.to_owned(),
        index: shown.split(':').next().unwrap().trim().parse().unwrap(),
        mac,
        mtu: 1500,
    }
}

/// The worker of `node`, with the far end of its services.
fn start<U: Link + Send + 'static>(
    node: u8,
    underlay: Family,
    link: U,
    pool: Pool,
) -> (Handle<MemLink, U>, Far) {
    let (service, far) = MemLink::new("service", 256, Memory::Own).unwrap();
    let mut site = Site::new(node);
    let peer = Endpoint {
        ip: address(underlay, 3 - node),
        port: TUNNEL_PORT,
    };
    site.learn_of(node, peer, encrypted(3 - node));
    let now = Duration::from_nanos(monotonic_ns());
    let tunnel = tunnels_at(node, 1, now).remove(0);
    let worker = site.worker_of(service, link, pool).with_tunnel(tunnel);
    let handle = spawn(format!("worker-{node}"), worker, Settings::default()).unwrap();
    (handle, far)
}

/// The links of node 1 over AF_XDP.
fn open_xdp(underlay: Family) -> (af_xdp::Pair, XdpControl) {
    let settings = XdpSettings {
        service: device("uplink", MACS[2]),
        underlay: device("wire", MACS[0]),
        service_ranges: Dual::both(
            "10.30.0.0/16".parse().unwrap(),
            "fdff::/16".parse().unwrap(),
        ),
        tunnel_port: TUNNEL_PORT,
        workers: 1,
        queue: QueueSettings {
            ring_entries: 256,
            ..QueueSettings::default()
        },
        guard_sources: false,
        native: true,
        pages: Pages::Small,
        blocked: Vec::new(),
        source_limit: None,
        offload: None,
    };
    let mut links = af_xdp::open(&settings).unwrap();
    let [here, there] = [1, 2].map(|node| address(underlay, node));
    links.control.programs.set_own_addresses(&[here]).unwrap();
    let hop = Hop {
        mac: MACS[1],
        source: here,
        mtu: 1500,
    };
    links
        .control
        .hops
        .publish([(there, hop)].into_iter().collect());
    (links.pairs.remove(0), links.control)
}

fn wait_for(far: &Far) -> Vec<u8> {
    let deadline = monotonic_ns() + 10_000_000_000;
    loop {
        if let Some(packet) = far.pop() {
            return packet.bytes;
        }
        assert!(monotonic_ns() < deadline, "a packet comes");
        std::thread::yield_now();
    }
}

fn finish<U: Link + Send + 'static>(handle: Handle<MemLink, U>) {
    handle.stop();
    let Ended { worker, result } = handle.join().unwrap();
    result.unwrap();
    assert_balanced(&worker.accounts);
    assert_eq!(drops(&worker.accounts), []);
}

/// From now on the wire, at the namespace's end of it, marks each datagram of the tunnel as having met congestion, both ways.
fn mark_congestion(namespace: &str) {
    let chain = |hook: &str| {
        format!(
            "chain {hook} {{ type filter hook {hook} priority 0; udp dport {TUNNEL_PORT} ip ecn set ce; \
             udp dport {TUNNEL_PORT} ip6 ecn set ce; }}"
        )
    };
    let rules = format!(
        "table inet wire {{ {}; {}; }}",
        chain("prerouting"),
        chain("postrouting")
    );
    let output = std::process::Command::new("ip")
        .args(["netns", "exec", namespace, "nft", &rules])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
#[ignore = "needs root"]
fn packets_cross_encrypted_between_af_xdp_and_a_socket() {
    for underlay in [Family::V4, Family::V6] {
        let lab = Lab::new();
        let [one, two] = &lab.names;
        ip(&format!("-n {one} link set wire address {}", text(MACS[0])));
        ip(&format!("-n {two} link set wire address {}", text(MACS[1])));
        let uplink = text(MACS[2]);
        ip(&format!(
            "-n {one} link add uplink address {uplink} type veth peer name services"
        ));
        ip(&format!("-n {one} link set uplink up"));
        let (here, control, asking) = lab
            .inside(1, move || {
                let (pair, control) = open_xdp(underlay);
                let (handle, far) = start(1, underlay, pair.underlay, pair.pool);
                (handle, control, far)
            })
            .join()
            .unwrap();
        let (there, answering) = lab
            .inside(2, move || {
                let settings = UdpSettings {
                    address: None,
                    port: TUNNEL_PORT,
                    workers: 1,
                    gso: true,
                    merge: Merge::default(),
                    one_packet_per_syscall: false,
                };
                let link = udp::open(&settings).unwrap().remove(0);
                start(2, underlay, link, Pool::new(256, FRAME_LEN_MAX).unwrap())
            })
            .join()
            .unwrap();
        for family in [Family::V4, Family::V6] {
            for len in [0, 1, 15, 16, 700, 1300] {
                let payload: Vec<u8> = (0..=255).cycle().take(len).collect();
                let ports = |from, to| ((from, 4000), (to, 53));
                let (from, to) = ports(ns_ip(family, 1), service_ip(family));
                assert!(asking.push(udp(from, to, &payload)));
                let asked = wait_for(&answering);
                let parsed = parse(&asked).unwrap();
                assert_eq!(
                    (parsed.src, parsed.dst),
                    (instance_ip(family, 1), ns_ip(family, 2))
                );
                assert_eq!(asked[parsed.header_len()..], payload);
                let (to, from) = ports(instance_ip(family, 1), ns_ip(family, 2));
                assert!(answering.push(udp(from, to, &payload)));
                let answered = wait_for(&asking);
                let parsed = parse(&answered).unwrap();
                assert_eq!(
                    (parsed.src, parsed.dst),
                    (service_ip(family), ns_ip(family, 1))
                );
                assert_eq!(answered[parsed.header_len()..], payload);
            }
        }
        mark_congestion(two);
        for family in [Family::V4, Family::V6] {
            let ect_0 = 0b10;
            let ask = udp((ns_ip(family, 1), 4000), (service_ip(family), 53), b"ask");
            assert!(asking.push(in_class(ask, ect_0)));
            let answer = udp(
                (ns_ip(family, 2), 53),
                (instance_ip(family, 1), 4000),
                b"answer",
            );
            assert_eq!(traffic_class::of(&wait_for(&answering)), 0b11);
            assert!(answering.push(in_class(answer, ect_0)));
            assert_eq!(traffic_class::of(&wait_for(&asking)), 0b11);
        }
        finish(here);
        finish(there);
        drop(control);
    }
}
