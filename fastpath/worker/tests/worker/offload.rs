//! Golden packets: what the engine makes of a packet, the offload's programs make of it too, byte for byte.
//!
//! The kernel runs the programs once for each packet (BPF_PROG_TEST_RUN), in a namespace with this node's devices:
//!
//! ```text
//!   uplink 52:1:... ── node 1 ── wire 192.0.2.1, 2001:db8::1 ==== 192.0.2.2, 2001:db8::2
//! ```

use crate::namespaces::{Lab, ip};
use crate::site::{Site, TUNNEL_PORT, instance_ip, ns_ip, service_ip};
use etherparse::{Ethernet2Header, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use sluice_engine::{Engine, Limits, Now, Output, Settings, Shared};
use sluice_link::bpf::Verdict;
use sluice_link::offload::abi::{Grounds, Peer, Versioned};
use sluice_link::offload::{Entry, Offload, OffloadSettings};
use sluice_memory::{Account, Batch, Endpoint, Frame, Pool};
use sluice_tables::Tables;
use sluice_wire::{Family, FlowKey, Ip};
use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;

pub(crate) const UPLINK_MAC: [u8; 6] = [0x52, 1, 10, 18, 1, 1];
pub(crate) const WIRE_MAC: [u8; 6] = [0x52, 9, 0, 0, 0, 1];
pub(crate) const FAR_MAC: [u8; 6] = [0x52, 9, 0, 0, 0, 2];
pub(crate) const CALLER_MAC: [u8; 6] = [0x52, 3, 10, 18, 1, 2];
const CALLER_PORT: u16 = 4000;
const PORT: u16 = 80;
pub(crate) const PEER_MTU: u16 = 1420;
pub(crate) const FOREVER_NS: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Layer4 {
    Tcp,
    Udp,
}

pub(crate) const CASES: [(Family, Layer4); 4] = [
    (Family::V4, Layer4::Tcp),
    (Family::V4, Layer4::Udp),
    (Family::V6, Layer4::Tcp),
    (Family::V6, Layer4::Udp),
];

/// An IP packet with checksums, `len` bytes of payload, made by somebody else's code.
fn packet(from: (Ip, u16), to: (Ip, u16), layer_4: Layer4, flags: &str, len: usize) -> Vec<u8> {
    let builder = match (from.0.into(), to.0.into()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 63),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 63),
        mixed => panic!("{mixed:?}"),
    };
    #[expect(clippy::cast_possible_truncation, reason = "any bytes will do")]
    let payload: Vec<u8> = (0..len).map(|at| (at * 7) as u8).collect();
    let mut bytes = Vec::new();
    match layer_4 {
        Layer4::Udp => builder.udp(from.1, to.1).write(&mut bytes, &payload),
        Layer4::Tcp => {
            let mut builder = builder.tcp(from.1, to.1, 1_000_000, 5000);
            if flags != "S" {
                builder = builder.ack(77);
            }
            for flag in flags.chars() {
                builder = match flag {
                    'S' => builder.syn(),
                    'F' => builder.fin(),
                    'R' => builder.rst(),
                    'P' => builder.psh(),
                    other => panic!("{other}"),
                };
            }
            builder.write(&mut bytes, &payload)
        }
    }
    .unwrap();
    bytes
}

pub(crate) fn ethernet(to: [u8; 6], from: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let header = Ethernet2Header {
        destination: to,
        source: from,
        ether_type: if packet[0] >> 4 == 4 {
            etherparse::EtherType::IPV4
        } else {
            etherparse::EtherType::IPV6
        },
    };
    [&header.to_bytes()[..], packet].concat()
}

/// What comes from the caller on node 1.
pub(crate) fn sent(family: Family, layer_4: Layer4, flags: &str, len: usize) -> Vec<u8> {
    packet(
        (ns_ip(family, 1), CALLER_PORT),
        (service_ip(family), PORT),
        layer_4,
        flags,
        len,
    )
}

/// What comes from the instance on node 2, as it is in the tunnel.
pub(crate) fn tunnelled(family: Family, layer_4: Layer4, flags: &str, len: usize) -> Vec<u8> {
    packet(
        (instance_ip(family, 2), PORT),
        (ns_ip(family, 1), CALLER_PORT),
        layer_4,
        flags,
        len,
    )
}

/// A frame of the underlay.
pub(crate) fn wrapped(from: Ip, to: Ip, port: u16, inner: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ethernet2(FAR_MAC, WIRE_MAC);
    let builder = match from.family() {
        Family::V4 => builder.ipv4(from.octets_v4(), to.octets_v4(), 64),
        Family::V6 => builder.ipv6(from.octets_v6(), to.octets_v6(), 64),
    };
    builder.udp(40_000, port).write(&mut bytes, inner).unwrap();
    bytes
}

/// Node 1 in user space.
pub(crate) struct Node {
    engine: Engine,
    tables: Arc<Tables>,
    pool: Pool,
    account: Account,
    output: Output,
}

/// The nodes' addresses on the wire.
pub(crate) fn outer(underlay: Family, node: u8) -> Ip {
    match underlay {
        Family::V4 => Ip::v4([192, 0, 2, node]),
        Family::V6 => format!("2001:db8::{node:x}").parse().unwrap(),
    }
}

pub(crate) const UNDERLAYS: [Family; 2] = [Family::V4, Family::V6];

pub(crate) fn peer(underlay: Family) -> Endpoint {
    Endpoint {
        ip: outer(underlay, 2),
        port: TUNNEL_PORT,
    }
}

impl Node {
    pub(crate) fn new(underlay: Family) -> Self {
        let mut site = Site::new(1);
        site.learn(1, peer(underlay));
        let limits = Limits {
            flows_max: 1024,
            ..Limits::default()
        };
        let shared = Shared::new(&limits).unwrap();
        Self {
            engine: Engine::new(shared, Arc::clone(&site.upcalls), &Settings::default(), 7),
            tables: site.writer.publisher().snapshot(),
            pool: Pool::new(64, 65_535).unwrap(),
            account: Account::default(),
            output: Output::default(),
        }
    }

    /// What the engine makes of a packet of the caller, or with `from` of one out of the tunnel.
    pub(crate) fn carry(&mut self, packet: &[u8], from: Option<Endpoint>) -> Vec<u8> {
        let mut frame = Frame::new(self.pool.take().unwrap());
        frame.fill(packet);
        frame.outer = from;
        let mut batch = Batch::new();
        batch.push(frame);
        let now = Now::from_s(1000);
        let (engine, tables) = (&mut self.engine, &self.tables);
        let (pool, account, output) = (&mut self.pool, &self.account, &mut self.output);
        let frames = if from.is_some() {
            engine.inbound(&mut batch, tables, now, pool, account, output);
            &mut output.to_service
        } else {
            engine.outbound(&mut batch, tables, now, pool, account, output);
            &mut output.to_underlay
        };
        let frame = frames.pop().expect("the engine forwards it");
        let bytes = frame.bytes().to_vec();
        self.pool.release(frame.into_buffer());
        bytes
    }
}

/// The programs with one flow of each case in them.
struct Bench {
    offload: Offload,
    uplink: u32,
    wire: u32,
    underlay: Family,
}

impl Bench {
    /// In the namespace of this thread, where [`devices`] made the devices.
    fn new(underlay: Family) -> Self {
        let index = |device: &str| -> u32 {
            // sysfs shows the namespace it was mounted in, which is another one.
            let output = Command::new("ip")
                .args(["-o", "link", "show", device])
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            text.split(':').next().unwrap_or_default().parse().unwrap()
        };
        let (uplink, wire) = (index("uplink"), index("wire"));
        let mut offload = Offload::load(&OffloadSettings {
            tunnel_port: TUNNEL_PORT,
            uplink: (uplink, UPLINK_MAC),
            flows_max: 16,
        })
        .unwrap();
        offload.set_longest_inbound(u16::MAX);
        let mut bench = Self {
            offload,
            uplink,
            wire,
            underlay,
        };
        bench.set_peer(outer(underlay, 2));
        bench.restore();
        bench
    }

    /// The flows' peer is at that address.
    fn set_peer(&mut self, ip: Ip) {
        let here = outer(self.underlay, 1);
        let peer = Peer::new((ip, TUNNEL_PORT), here, self.wire, PEER_MTU);
        self.offload.set_peer(0, peer.with_version(1)).unwrap();
    }

    /// From the flows' peer to us.
    fn wrap(&self, inner: &[u8]) -> Vec<u8> {
        let [here, far] = [1, 2].map(|node| outer(self.underlay, node));
        wrapped(far, here, TUNNEL_PORT, inner)
    }

    /// Everything is believed again.
    fn restore(&mut self) {
        self.offload.set_lease(FOREVER_NS, false).unwrap();
        for slot in [0, 1] {
            self.offload.set_instance_version(slot, 5).unwrap();
        }
        for (id, (family, layer_4)) in (0..).zip(CASES) {
            self.offload.insert(&entry(id, 9, family, layer_4)).unwrap();
        }
    }

    fn outbound(&mut self, packet: &[u8]) -> (Verdict, Vec<u8>) {
        let frame = ethernet(UPLINK_MAC, CALLER_MAC, packet);
        self.offload.test_outbound(&frame, self.uplink).unwrap()
    }

    /// Fails unless the packet is left to the worker as it is.
    fn leaves(&mut self, what: &str, packet: &[u8]) {
        let frame = ethernet(UPLINK_MAC, CALLER_MAC, packet);
        assert_eq!(self.outbound(packet), (Verdict::Pass, frame), "{what}");
    }

    /// The same for a frame of the underlay.
    fn leaves_wrapped(&mut self, what: &str, frame: &[u8]) {
        let after = self.offload.test_decap(frame).unwrap();
        assert_eq!(after, (Verdict::Pass, frame.to_vec()), "{what}");
    }
}

pub(crate) fn entry(id: u32, generation: u32, family: Family, layer_4: Layer4) -> Entry {
    let protocol = match layer_4 {
        Layer4::Tcp => 6,
        Layer4::Udp => 17,
    };
    let key = |src, src_port, dst, dst_port| FlowKey {
        src,
        dst,
        src_port,
        dst_port,
        protocol,
    };
    let pin = |slot| Versioned { slot, version: 5 };
    Entry::new(
        &key(ns_ip(family, 1), CALLER_PORT, service_ip(family), PORT),
        &key(instance_ip(family, 1), CALLER_PORT, ns_ip(family, 2), PORT),
        &key(instance_ip(family, 2), PORT, ns_ip(family, 1), CALLER_PORT),
        &Grounds {
            id,
            generation,
            local: pin(0),
            remote: pin(1),
            peer: Versioned {
                slot: 0,
                version: 1,
            },
        },
    )
    .by(TUNNEL_PORT, CALLER_MAC)
}

/// Runs `test` on a thread in node 1's namespace, over either underlay.
fn on_node(mut test: impl FnMut(&mut Bench) + Send + 'static) {
    let lab = Lab::new();
    let [node, _] = &lab.names;
    for command in [
        format!("-n {node} link set wire address 52:09:00:00:00:01"),
        format!("-n {node} neigh add 192.0.2.2 lladdr 52:09:00:00:00:02 dev wire nud permanent"),
        format!("-n {node} neigh add 2001:db8::2 lladdr 52:09:00:00:00:02 dev wire nud permanent"),
        format!("-n {node} route add 198.51.100.0/24 via 192.0.2.2"),
        format!("-n {node} route add 2001:db8:7::/64 via 2001:db8::2"),
        format!("-n {node} link add uplink address 52:01:0a:12:01:01 type veth peer name port"),
        format!("-n {node} link set uplink up"),
        format!("-n {node} link set port up"),
    ] {
        ip(&command);
    }
    let result = lab
        .inside(1, move || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
            for underlay in UNDERLAYS {
                test(&mut Bench::new(underlay));
            }
        })
        .join();
    drop(lab);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

#[test]
#[ignore = "needs root"]
fn outbound_packets_become_what_the_engine_makes_of_them() {
    on_node(|bench| {
        let mut node = Node::new(bench.underlay);
        // On the wire, and behind a router.
        let far_away = match bench.underlay {
            Family::V4 => Ip::v4([198, 51, 100, 2]),
            Family::V6 => "2001:db8:7::2".parse().unwrap(),
        };
        for to in [outer(bench.underlay, 2), far_away] {
            bench.set_peer(to);
            for (family, layer_4) in CASES {
                // The flow begins in user space.
                node.carry(&sent(family, layer_4, "S", 0), None);
                for len in [0, 1, 700, 1340] {
                    let what = format!("{to} {family:?} {layer_4:?} {len}");
                    let packet = sent(family, layer_4, "P", len);
                    let (verdict, frame) = bench.outbound(&packet);
                    assert_eq!(verdict, Verdict::Redirect, "{what}");
                    let inner = node.carry(&packet, None);
                    assert_wrapped(&what, &frame, to, &inner);
                }
            }
        }
    });
}

/// Fails unless `frame` is what this node sends to `to` with `inner` in it, as somebody else's code reads it.
fn assert_wrapped(what: &str, frame: &[u8], to: Ip, inner: &[u8]) {
    let outside = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(etherparse::LinkSlice::Ethernet2(link)) = &outside.link else {
        panic!("{what}: {outside:?}");
    };
    assert_eq!(
        (link.destination(), link.source()),
        (FAR_MAC, WIRE_MAC),
        "{what}"
    );
    let Some(TransportSlice::Udp(udp)) = &outside.transport else {
        panic!("{what}: {outside:?}");
    };
    assert_eq!(
        (udp.source_port(), udp.destination_port()),
        (TUNNEL_PORT, TUNNEL_PORT)
    );
    assert_eq!(usize::from(udp.length()), inner.len() + 8);
    assert_eq!(udp.payload(), inner, "{what}");
    let here = outer(to.family(), 1);
    match &outside.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(
                (Ip::v4(header.source), Ip::v4(header.destination)),
                (here, to)
            );
            assert!(header.dont_fragment);
            assert_eq!(udp.checksum(), 0, "{what}");
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header().to_header();
            assert_eq!(
                (Ip::v6(header.source), Ip::v6(header.destination)),
                (here, to)
            );
            let checksum = udp.to_header().calc_checksum_ipv6(&header, inner).unwrap();
            assert_eq!(udp.checksum(), checksum, "{what}");
        }
        other => panic!("{what}: {other:?}"),
    }
}

/// The IPv4 packet's addresses and payload in an IPv6 packet.
fn in_mapped_addresses(v4: &[u8]) -> Vec<u8> {
    let (header, payload) = v4.split_at(20);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([header[9], 64]);
    for address in [&header[12..16], &header[16..20]] {
        packet.extend([0; 10]);
        packet.extend([0xff; 2]);
        packet.extend(address);
    }
    packet.extend(payload);
    packet
}

#[test]
#[ignore = "needs root"]
fn what_is_no_established_flows_is_left_to_the_worker() {
    on_node(|bench| {
        for (family, layer_4) in CASES {
            let good = sent(family, layer_4, "P", 100);
            let l3 = if family == Family::V4 { 20 } else { 40 };
            let changed = |change: &dyn Fn(&mut Vec<u8>)| {
                let mut packet = good.clone();
                change(&mut packet);
                packet
            };
            for (what, packet) in [
                ("another source port", changed(&|p| p[l3] ^= 1)),
                ("another port", changed(&|p| p[l3 + 3] ^= 1)),
                ("another source", changed(&|p| p[l3 - 1] ^= 1)),
                ("a byte more than it says", changed(&|p| p.push(0))),
                (
                    "a byte less than it says",
                    changed(&|p| p.truncate(p.len() - 1)),
                ),
                ("cut in layer 4", changed(&|p| p.truncate(l3 + 6))),
                (
                    "its last hop",
                    changed(&|p| p[if l3 == 20 { 8 } else { 7 }] = 1),
                ),
                (
                    "too big for the peer",
                    sent(family, layer_4, "P", usize::from(PEER_MTU) - l3),
                ),
                (
                    "another protocol",
                    changed(&|p| p[if l3 == 20 { 9 } else { 6 }] = 132),
                ),
            ] {
                bench.leaves(&format!("{family:?} {layer_4:?}: {what}"), &packet);
            }
            if family == Family::V4 {
                bench.leaves("a fragment", &changed(&|p| p[6] |= 0x20));
                bench.leaves("a later fragment", &changed(&|p| p[7] = 9));
                bench.leaves("options", &changed(&|p| p[0] = 0x46));
                let as_v6 = in_mapped_addresses(&good);
                bench.leaves("addresses of the other family", &as_v6);
            }
            assert_eq!(bench.outbound(&good).0, Verdict::Redirect);
            if (family, layer_4) == (Family::V4, Layer4::Udp) {
                // Nothing to make the outer checksum of.
                let without = changed(&|p| p[26..28].fill(0));
                match bench.underlay {
                    Family::V4 => assert_eq!(bench.outbound(&without).0, Verdict::Redirect),
                    Family::V6 => bench.leaves("no checksum", &without),
                }
            }
        }
    });
}

#[test]
#[ignore = "needs root"]
fn an_entry_is_believed_only_while_everything_it_rests_on_stands() {
    on_node(|bench| {
        let (out, inn) = (
            sent(Family::V4, Layer4::Tcp, "P", 10),
            tunnelled(Family::V4, Layer4::Tcp, "P", 10),
        );
        let inn = bench.wrap(&inn);
        type Change = fn(&mut Bench);
        bench.offload.set_longest_inbound(49);
        bench.offload.set_lease(FOREVER_NS, false).unwrap();
        bench.leaves_wrapped("too big for the service side", &inn);
        bench.offload.set_longest_inbound(50);
        bench.restore();
        let changes: [(&str, Change); 7] = [
            ("the lease ran out", |bench| {
                bench.offload.set_lease(1, false).unwrap();
            }),
            ("a trace runs", |bench| {
                bench.offload.set_lease(FOREVER_NS, true).unwrap();
            }),
            ("the local instance changed", |bench| {
                bench.offload.set_instance_version(0, 6).unwrap();
            }),
            ("the remote instance changed", |bench| {
                bench.offload.set_instance_version(1, 6).unwrap();
            }),
            ("the flow was taken out", |bench| {
                bench
                    .offload
                    .take_out(&entry(0, 9, Family::V4, Layer4::Tcp))
                    .unwrap();
            }),
            ("it was cleared away", |bench| {
                bench
                    .offload
                    .remove(&entry(0, 9, Family::V4, Layer4::Tcp))
                    .unwrap();
            }),
            ("a packet took it out", |bench| {
                let fin = sent(Family::V4, Layer4::Tcp, "F", 0);
                bench.leaves("FIN", &fin);
            }),
        ];
        for (what, change) in changes {
            assert_eq!(bench.outbound(&out).0, Verdict::Redirect, "before {what}");
            change(bench);
            bench.leaves(what, &out);
            bench.leaves_wrapped(what, &inn);
            bench.restore();
        }
        for flags in ["S", "F", "R"] {
            let changing = tunnelled(Family::V4, Layer4::Tcp, flags, 0);
            let frame = bench.wrap(&changing);
            bench.leaves_wrapped(flags, &frame);
            bench.leaves("after it", &out);
            bench.restore();
        }
    });
}

/// A connection may begin on the ports of one that is not yet cleared away.
#[test]
#[ignore = "needs root"]
fn a_flow_outlives_its_predecessor() {
    on_node(|bench| {
        let out = sent(Family::V4, Layer4::Tcp, "P", 10);
        let [before, after] = [(0, 9), (4, 10)]
            .map(|(id, generation)| entry(id, generation, Family::V4, Layer4::Tcp));
        bench.offload.take_out(&before).unwrap();
        bench.offload.insert(&after).unwrap();
        bench.offload.remove(&before).unwrap();
        assert_eq!(bench.outbound(&out).0, Verdict::Redirect);
        bench.offload.remove(&after).unwrap();
        bench.leaves("none is left", &out);
    });
}

#[test]
#[ignore = "needs root"]
fn only_the_peers_tunnelled_packets_are_unwrapped() {
    on_node(|bench| {
        let [here, far, other_node, not_us] = [1, 2, 3, 9].map(|node| outer(bench.underlay, node));
        for (family, layer_4) in CASES {
            let inner = tunnelled(family, layer_4, "P", 900);
            let what = format!("{family:?} {layer_4:?}");
            let unwraps = |bench: &mut Bench| {
                let (verdict, frame) = bench
                    .offload
                    .test_decap(&wrapped(far, here, TUNNEL_PORT, &inner))
                    .unwrap();
                assert_eq!(verdict, Verdict::Pass, "{what}");
                // The note, then the frame as if it had come without a tunnel.
                assert_eq!(frame[8..], ethernet(WIRE_MAC, FAR_MAC, &inner), "{what}");
            };
            unwraps(bench);

            let mut other = inner.clone();
            let l3 = if family == Family::V4 { 20 } else { 40 };
            other[l3 + 3] ^= 1;
            for (why, frame) in [
                (
                    "another node",
                    wrapped(other_node, here, TUNNEL_PORT, &inner),
                ),
                ("not to us", wrapped(far, not_us, TUNNEL_PORT, &inner)),
                ("another port", wrapped(far, here, TUNNEL_PORT + 1, &inner)),
                ("another flow", wrapped(far, here, TUNNEL_PORT, &other)),
                (
                    "a byte too few",
                    wrapped(far, here, TUNNEL_PORT, &inner[..inner.len() - 1]),
                ),
                ("no packet", wrapped(far, here, TUNNEL_PORT, &[0x45])),
            ] {
                bench.leaves_wrapped(&format!("{what}: {why}"), &frame);
            }
            if layer_4 == Layer4::Tcp {
                let end = tunnelled(family, layer_4, "R", 0);
                let forged = wrapped(other_node, here, TUNNEL_PORT, &end);
                bench.leaves_wrapped(&format!("{what}: another node's end of it"), &forged);
            }
            unwraps(bench);
        }
    });
}
