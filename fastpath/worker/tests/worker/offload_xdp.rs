//! Golden frames of the AF_XDP programs: an established flow's frame leaves them as the engine and the AF_XDP links would
//! have made it, byte for byte, Ethernet header and all.

use crate::offload::{
    CALLER_MAC, CASES, FAR_MAC, FOREVER_NS, Layer4, Node, PEER_MTU, UNDERLAYS, UPLINK_MAC,
    WIRE_MAC, entry, ethernet, outer, peer, sent, tunnelled, wrapped,
};
use crate::site::TUNNEL_PORT;
use sluice_link::af_xdp::Hop;
use sluice_link::af_xdp::headers::wrap;
use sluice_link::bpf::{ProgramSettings, Programs, Side, Verdict};
use sluice_link::offload::abi::{Peer, Redirects};
use sluice_link::offload::{Counted, Offload, OffloadSettings};
use sluice_memory::{Frame, Pool};
use sluice_wire::{Dual, Family};

/// The flows' outer source port.
const LANE: u16 = 50_777;
const ALL: Redirects = Redirects {
    out: true,
    inn: true,
    joined: true,
};

struct Bench {
    programs: Programs,
    offload: Offload,
    underlay: Family,
}

impl Bench {
    /// The loopback device stands for both: nothing is sent.
    fn new(underlay: Family) -> Self {
        let mut programs = Programs::load(&ProgramSettings {
            service_mac: UPLINK_MAC,
            service_ranges: Dual::both(
                "10.30.0.0/16".parse().unwrap(),
                "fdff::/16".parse().unwrap(),
            ),
            underlay_mac: WIRE_MAC,
            tunnel_port: TUNNEL_PORT,
            blocked: Vec::new(),
            source_limit: None,
            offload: Some(OffloadSettings {
                tunnel_port: TUNNEL_PORT,
                uplink: (1, UPLINK_MAC),
                flows_max: 16,
            }),
        })
        .unwrap();
        let here = outer(underlay, 1);
        programs.set_own_addresses(&[here]).unwrap();
        let mut offload = programs.redirect(1, 1).unwrap();
        let to = peer(underlay);
        let row = Peer::new((to.ip, to.port), here, 1, PEER_MTU).by_hop(FAR_MAC);
        offload.set_peer(0, row.with_version(1)).unwrap();
        let mut bench = Self {
            programs,
            offload,
            underlay,
        };
        bench.restore();
        bench
    }

    /// Everything is believed again, and may be redirected.
    fn restore(&mut self) {
        self.offload.set_redirects(ALL);
        self.offload.set_lease(FOREVER_NS, false).unwrap();
        for slot in [0, 1] {
            self.offload.set_instance_version(slot, 5).unwrap();
        }
        for (id, (family, layer_4)) in (0..).zip(CASES) {
            let entry = entry(id, 9, family, layer_4).by(LANE, CALLER_MAC);
            self.offload.insert(&entry).unwrap();
        }
    }

    /// From that node to us.
    fn wrap(&self, from: u8, inner: &[u8]) -> Vec<u8> {
        let [here, from] = [1, from].map(|node| outer(self.underlay, node));
        wrapped(from, here, TUNNEL_PORT, inner)
    }

    /// What becomes of a frame that is redirected, counted as one.
    fn redirected(&mut self, what: &str, side: Side, frame: &[u8], length: usize) -> Vec<u8> {
        let before = self.offload.counted().unwrap();
        let (verdict, after) = self.programs.test_run(side, frame).unwrap();
        assert_eq!(verdict, Verdict::Redirect, "{what}");
        let now = self.offload.counted().unwrap();
        let length = length as u64;
        assert_eq!(
            now,
            Counted {
                received: before.received + 1,
                received_bytes: before.received_bytes + length,
                forwarded: before.forwarded + 1,
                forwarded_bytes: before.forwarded_bytes + length,
                dropped: before.dropped,
            },
            "{what}"
        );
        after
    }

    /// Fails unless the frame goes to the worker, or to the kernel that stands for it here, as it is.
    fn leaves(&mut self, what: &str, side: Side, frame: &[u8]) {
        let before = self.offload.counted().unwrap();
        let after = self.programs.test_run(side, frame).unwrap();
        assert_eq!(after, (Verdict::Pass, frame.to_vec()), "{what}");
        assert_eq!(self.offload.counted().unwrap(), before, "{what}");
    }
}

/// What the links put around a packet.
fn wrapped_by_the_link(pool: &mut Pool, underlay: Family, packet: &[u8]) -> Vec<u8> {
    let hop = Hop {
        mac: FAR_MAC,
        source: outer(underlay, 1),
        mtu: 1500,
    };
    let mut frame = Frame::new(pool.take().unwrap());
    frame.fill(packet);
    wrap(&mut frame, &hop, LANE, peer(underlay), WIRE_MAC).unwrap();
    let bytes = frame.bytes().to_vec();
    pool.release(frame.into_buffer());
    bytes
}

fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(60), 0xee);
    frame
}

#[test]
#[ignore = "needs root"]
fn frames_of_instances_leave_as_engine_and_link_would_send_them() {
    UNDERLAYS.into_iter().for_each(frames_leave);
}

fn frames_leave(underlay: Family) {
    let (mut bench, mut node) = (Bench::new(underlay), Node::new(underlay));
    let mut pool = Pool::new(1, 2000).unwrap();
    for (family, layer_4) in CASES {
        // The flow begins in user space.
        node.carry(&sent(family, layer_4, "S", 0), None);
        for len in [0, 1, 10, 700, 1340] {
            let what = format!("{family:?} {layer_4:?} {len}");
            let packet = sent(family, layer_4, "P", len);
            let frame = padded(ethernet(UPLINK_MAC, CALLER_MAC, &packet));
            let after = bench.redirected(&what, Side::Service, &frame, packet.len());
            let expected = wrapped_by_the_link(&mut pool, underlay, &node.carry(&packet, None));
            assert_eq!(after, expected, "{what}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn tunnelled_datagrams_are_delivered_as_engine_and_link_would_deliver_them() {
    UNDERLAYS.into_iter().for_each(datagrams_are_delivered);
}

fn datagrams_are_delivered(underlay: Family) {
    let (mut bench, mut node) = (Bench::new(underlay), Node::new(underlay));
    for (family, layer_4) in CASES {
        node.carry(&sent(family, layer_4, "S", 0), None);
        for len in [0, 1, 10, 700, 1340] {
            let what = format!("{family:?} {layer_4:?} {len}");
            let packet = tunnelled(family, layer_4, "P", len);
            let frame = padded(bench.wrap(2, &packet));
            // TCP is for GRO, and only where nobody joins it is it redirected.
            bench.offload.set_redirects(Redirects {
                joined: layer_4 == Layer4::Udp,
                ..ALL
            });
            bench.offload.set_lease(FOREVER_NS, false).unwrap();
            let after = bench.redirected(&what, Side::Underlay, &frame, packet.len());
            let delivered = node.carry(&packet, Some(peer(underlay)));
            assert_eq!(
                after,
                ethernet(CALLER_MAC, UPLINK_MAC, &delivered),
                "{what}"
            );
        }
    }
}

/// What TUN mode leaves to the worker is left here, too: the checks are the same code. What is XDP's own: the two devices
/// that may not take frames, and padding.
#[test]
#[ignore = "needs root"]
fn what_may_not_be_redirected_is_left_as_it_is() {
    UNDERLAYS.into_iter().for_each(what_may_not_is_left);
}

fn what_may_not_is_left(underlay: Family) {
    let mut bench = Bench::new(underlay);
    for (family, layer_4) in CASES {
        let good = sent(family, layer_4, "P", 100);
        let l3 = if family == Family::V4 { 20 } else { 40 };
        let out = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut packet = good.clone();
            change(&mut packet);
            ethernet(UPLINK_MAC, CALLER_MAC, &packet)
        };
        let inner = tunnelled(family, layer_4, "P", 100);
        let inn = |from: u8, change: &dyn Fn(&mut Vec<u8>)| {
            let mut packet = inner.clone();
            change(&mut packet);
            wrapped(
                outer(underlay, from),
                outer(underlay, 1),
                TUNNEL_PORT,
                &packet,
            )
        };
        let far = 2;
        let hop_limit = if l3 == 20 { 8 } else { 7 };
        for (what, side, frame) in [
            ("another port", Side::Service, out(&|p| p[l3 + 3] ^= 1)),
            (
                "from another Ethernet address",
                Side::Service,
                ethernet(UPLINK_MAC, FAR_MAC, &good),
            ),
            ("cut short", Side::Service, out(&|p| p.truncate(l3 + 30))),
            ("its last hop", Side::Service, out(&|p| p[hop_limit] = 1)),
            (
                "another flow",
                Side::Underlay,
                inn(far, &|p| p[l3 + 3] ^= 1),
            ),
            ("another node", Side::Underlay, inn(3, &|_| ())),
            (
                "in its last hop",
                Side::Underlay,
                inn(far, &|p| p[hop_limit] = 1),
            ),
        ] {
            bench.leaves(&format!("{family:?} {layer_4:?}: {what}"), side, &frame);
        }
        let big = sent(family, layer_4, "P", usize::from(PEER_MTU) - l3);
        let big = ethernet(UPLINK_MAC, CALLER_MAC, &big);
        bench.leaves("too big for the peer", Side::Service, &big);
        let frames = [
            (Side::Service, out(&|_| ())),
            (Side::Underlay, inn(far, &|_| ())),
        ];
        let longest = u16::try_from(inner.len()).unwrap();
        for (fits, longest) in [(false, longest - 1), (true, longest)] {
            bench.offload.set_longest_inbound(longest);
            bench.offload.set_lease(FOREVER_NS, false).unwrap();
            let (side, frame) = &frames[1];
            if fits {
                bench.offload.set_redirects(Redirects {
                    joined: false,
                    ..ALL
                });
                bench.offload.set_lease(FOREVER_NS, false).unwrap();
                bench.redirected("it fits", *side, frame, inner.len());
            } else {
                bench.leaves("too big for the service side", *side, frame);
            }
        }
        bench.restore();
        type Change = fn(&mut Offload);
        let changes: [(&str, Change); 4] = [
            ("no device takes it", |offload| {
                offload.set_redirects(Redirects::default());
                offload.set_lease(FOREVER_NS, false).unwrap();
            }),
            ("the lease ran out", |offload| {
                offload.set_lease(1, false).unwrap()
            }),
            ("a trace runs", |offload| {
                offload.set_lease(FOREVER_NS, true).unwrap();
            }),
            ("an instance changed", |offload| {
                offload.set_instance_version(1, 6).unwrap();
            }),
        ];
        for (what, change) in changes {
            change(&mut bench.offload);
            for (side, frame) in &frames {
                bench.leaves(what, *side, frame);
            }
            bench.restore();
        }
    }
    for flags in ["S", "F", "R"] {
        let changing = ethernet(
            UPLINK_MAC,
            CALLER_MAC,
            &sent(Family::V4, Layer4::Tcp, flags, 0),
        );
        bench.leaves(flags, Side::Service, &changing);
        let after = ethernet(
            UPLINK_MAC,
            CALLER_MAC,
            &sent(Family::V4, Layer4::Tcp, "P", 9),
        );
        bench.leaves("after it", Side::Service, &after);
        bench.restore();
    }
}

/// Where TCP is joined, XDP only takes the tunnel's headers off and leaves a note of 8 bytes.
#[test]
#[ignore = "needs root"]
fn tcp_is_unwrapped_for_gro() {
    UNDERLAYS.into_iter().for_each(tcp_is_unwrapped);
}

fn tcp_is_unwrapped(underlay: Family) {
    let mut bench = Bench::new(underlay);
    for family in [Family::V4, Family::V6] {
        let inner = tunnelled(family, Layer4::Tcp, "P", 900);
        let frame = bench.wrap(2, &inner);
        let (verdict, after) = bench.programs.test_run(Side::Underlay, &frame).unwrap();
        assert_eq!(verdict, Verdict::Pass);
        assert_eq!(after[8..], ethernet(WIRE_MAC, FAR_MAC, &inner));
    }
}
