//! The peers work: a comparison with something broken would flatter us.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use sluice_perf::lab::NetNs;
use sluice_perf::lab::clock::wait_for;
use sluice_perf::lab::scratch::Scratch;
use sluice_perf::lab::wire::{carried, mtu_frames, offload, veth};
use sluice_perf::peers::route::Route;
use sluice_perf::peers::vxlan::{Node, PORT, VxlanDnat};
use sluice_perf::peers::wireguard::{self, Implementation, WireGuard};
use sluice_perf::traffic::flood::Flood;
use sluice_perf::traffic::{datagrams, requests, tcp};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::Duration;

fn nodes() -> [NetNs; 2] {
    let nodes = [NetNs::new("node1").unwrap(), NetNs::new("node2").unwrap()];
    veth((&nodes[0], "eth0"), (&nodes[1], "eth0"), 1500).unwrap();
    for (node, own) in nodes.iter().zip(1..) {
        node.ip(&format!(
            "address add 192.168.77.{own}/24 dev eth0\naddress add fd77::{own}/64 dev eth0 nodad"
        ))
        .unwrap();
        mtu_frames(node, "eth0").unwrap();
        offload(node, "eth0", &["gro", "on"]).unwrap();
    }
    nodes
}

/// ```text
/// client ── node 1 ══ MTU-size frames ══ node 2 ── server
/// ```
#[test]
#[ignore = "needs root"]
fn traffic_goes_both_ways_and_frames_have_mtu_size() {
    let scratch = Scratch::new("sluice-peers-test").unwrap();
    let nodes = nodes();
    let address = |own: u8| IpAddr::from([192, 168, 77, own]);
    let node = |index: u8| Node {
        namespace: &nodes[usize::from(index) - 1],
        address: address(index),
    };
    let vxlan = VxlanDnat::new(node(1), node(2)).unwrap();
    let v6 = [1, 2].map(|own| IpAddr::from([0xfd77, 0, 0, 0, 0, 0, 0, own]));
    let route = Route::new(node(1), node(2), v6).unwrap();
    for (name, client, server, addresses) in [
        ("vxlan_dnat", &vxlan.client, &vxlan.server, vxlan.service),
        ("route", &route.client, &route.server, route.address),
    ] {
        let _iperf = tcp::server(server, &scratch.path().join(name)).unwrap();
        requests::answer(server, 7000).unwrap();
        let counter = datagrams::Counter::new(server, 7001).unwrap();
        for to in addresses {
            let before = carried(&(&nodes[1]).into(), "eth0").unwrap();
            let one = tcp::transfer(client, to, 1, 1.0).unwrap();
            let moved = carried(&(&nodes[1]).into(), "eth0").unwrap().since(&before);
            let mean = moved.received_bytes / moved.received_frames.max(1);
            assert!(
                (1000..=1514).contains(&mean),
                "{name}: frames of {mean} bytes"
            );
            let latency = requests::measure(
                client,
                SocketAddr::new(to, 7000),
                100,
                Duration::from_millis(1),
            )
            .unwrap();
            let received = counter.received();
            let to_counter = SocketAddr::new(to, 7001);
            let blast = datagrams::send(client, to_counter, Duration::from_millis(500)).unwrap();
            wait_for("a datagram", Duration::from_secs(5), || {
                let more = counter.received() - received;
                (more > 0)
                    .then_some(())
                    .ok_or_else(|| "none arrived".to_owned())
            })
            .unwrap();
            println!(
                "{name} {to}: {:.2} Gbit/s, {:.2} CPU s/GB, {latency:.0?}, {blast:.0?}",
                one.gbit_s,
                one.cpu_s_per_gb()
            );
        }
    }
}

/// A flood that did not arrive would cost the peer nothing: closed ports answer each SYN with an RST.
///
/// ```text
/// client 2 ── node 1 ══ node 2 ── server      by client 2, and by node 1 inside the tunnel
/// ```
#[test]
#[ignore = "needs root"]
fn a_flood_reaches_the_server_behind_the_peer() {
    const SYNS: u32 = 6400;
    let nodes = nodes();
    let node = |index: u8| Node {
        namespace: &nodes[usize::from(index) - 1],
        address: [192, 168, 77, index].into(),
    };
    let vxlan = VxlanDnat::new(node(1), node(2)).unwrap();
    let (client, source) = VxlanDnat::another_client(node(1)).unwrap();
    // Neighbours learn each other.
    requests::answer(&vxlan.server, 7000).unwrap();
    let to = SocketAddr::new(vxlan.service[0], 7000);
    requests::measure(&client, to, 10, Duration::ZERO).unwrap();
    let (IpAddr::V4(service), IpAddr::V4(server)) = (vxlan.service[0], vxlan.server_address) else {
        panic!("both are IPv4 by plan");
    };
    let tunnel = SocketAddrV4::new([192, 168, 77, 2].into(), PORT);
    let headers = VxlanDnat::headers(node(1), node(2)).unwrap();
    for mut flood in [
        Flood::by_host(&client, source, service).unwrap(),
        Flood::by_node(&nodes[0], tunnel, &headers, source, server).unwrap(),
    ] {
        let before = resets(&vxlan.server);
        let flooded = flood.run(0..SYNS, 10_000.0, Duration::MAX).unwrap();
        assert_eq!(flooded.sent, SYNS);
        wait_for("all SYNs to be answered", Duration::from_secs(5), || {
            let answered = resets(&vxlan.server) - before;
            // A machine that is busy otherwise may lose some.
            if answered > u64::from(SYNS) / 2 {
                return Ok(());
            }
            Err(format!("{answered} of {SYNS} were"))
        })
        .unwrap();
    }
}

/// RSTs that a namespace has sent.
fn resets(namespace: &NetNs) -> u64 {
    let text = namespace.read("/proc/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names
        .split_whitespace()
        .position(|name| name == "OutRsts")
        .unwrap();
    values.split_whitespace().nth(at).unwrap().parse().unwrap()
}

#[test]
#[ignore = "needs root"]
fn other_implementations_carry_streams_in_frames_of_mtu_size() {
    let scratch = Scratch::new("sluice-wireguard-test").unwrap();
    let nodes = nodes();
    wireguard::prepare([&nodes[0], &nodes[1]]).unwrap();
    let node = |index: u8| Node {
        namespace: &nodes[usize::from(index) - 1],
        address: IpAddr::from([192, 168, 77, index]),
    };
    // gotatun is built for the benches only.
    for which in [Implementation::Boringtun, Implementation::WireguardGo] {
        let tunnel = WireGuard::new(which, [node(1), node(2)], &scratch).unwrap();
        let _iperf = tcp::server(&nodes[1], &scratch.path().join(which.name())).unwrap();
        let before = carried(&(&nodes[1]).into(), "eth0").unwrap();
        let one = tcp::transfer(&nodes[0], tunnel.server, 1, 1.0).unwrap();
        let moved = carried(&(&nodes[1]).into(), "eth0").unwrap().since(&before);
        let mean = moved.received_bytes / moved.received_frames.max(1);
        assert!(
            (1000..=1514).contains(&mean),
            "{which:?}: frames of {mean} bytes"
        );
        // All of it went over the cable, sealed.
        let bytes = moved.received_bytes as f64;
        assert!(
            bytes > one.bytes,
            "{which:?}: {bytes} bytes on the cable of {}",
            one.bytes
        );
    }
}
