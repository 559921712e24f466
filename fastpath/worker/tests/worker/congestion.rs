//! Congestion marks and service classes across the encrypted tunnel (RFC 6040, RFC 2983).

use crate::encrypted::{FAMILIES, Lane, Pair, node, tunnels, udp};
use crate::site::{ns_ip, service_ip};
use sluice_link::mem::Packet;
use sluice_memory::{Checksum, Gso, GsoKind};
use sluice_wire::{DropReason, Family, checksum, parse, traffic_class};
use sluice_worker::Dscp;

const ECT_0: u8 = 0b10;
const ECT_1: u8 = 0b01;
const CE: u8 = 0b11;
/// Expedited forwarding (RFC 3246).
const EF: u8 = 46 << 2;

/// What the caller on node 1 asks, in this class.
fn question(family: Family, class: u8, len: usize) -> Vec<u8> {
    let (from, to) = ((ns_ip(family, 1), 4000), (service_ip(family), 53));
    in_class(udp(from, to, &vec![7; len]), class)
}

/// A packet of class 0 in another.
pub(crate) fn in_class(mut bytes: Vec<u8>, class: u8) -> Vec<u8> {
    match parse(&bytes).unwrap().family {
        Family::V4 => {
            bytes[1] = class;
            let parsed = parse(&bytes).unwrap();
            checksum::complete_ipv4_header(&mut bytes, &parsed);
        }
        Family::V6 => {
            bytes[0] |= class >> 4;
            bytes[1] |= class << 4;
        }
    }
    assert_eq!(traffic_class::of(&bytes), class);
    bytes
}

/// What node 1 sends for a packet of the caller's.
fn sealed(pair: &mut Pair, packet: impl Into<Packet>) -> Vec<Packet> {
    assert!(pair.ends[0].service.push(packet));
    pair.ends[0].turn(pair.now);
    pair.ends[0].sent()
}

/// What node 2 delivers of a datagram that comes in this class.
fn opened(pair: &mut Pair, datagram: Packet, class: u8) -> Vec<Packet> {
    pair.ends[1].underlay.push(Packet {
        outer: Some(pair.at[0]),
        class,
        ..datagram
    });
    pair.ends[1].turn(pair.now);
    pair.ends[1].delivered()
}

#[test]
fn congestion_between_nodes_reaches_the_callee_and_what_cannot_say_so_is_lost() {
    for family in FAMILIES {
        let mut pair = Pair::new();
        pair.check_ask_and_answer(family);
        let mut lost = 0;
        for (inner, outer, delivered) in [
            (0, 0, Some(0)),
            (ECT_0, ECT_0, Some(ECT_0)),
            (ECT_1, ECT_1, Some(ECT_1)),
            (CE, CE, Some(CE)),
            // Routers between the nodes changed it.
            (ECT_0, CE, Some(CE)),
            (ECT_1, CE, Some(CE)),
            (0, CE, None),
            (ECT_0, ECT_1, Some(ECT_1)),
            // And lost it.
            (ECT_0, 0, Some(ECT_0)),
            (CE, 0, Some(CE)),
        ] {
            let sent = sealed(&mut pair, question(family, EF | inner, 100));
            let [datagram] = <[Packet; 1]>::try_from(sent).unwrap();
            assert_eq!(datagram.class, inner, "the DSCP is not shown");
            // Whatever DSCP the network gave it.
            let came = opened(&mut pair, datagram, 8 << 2 | outer);
            match delivered {
                None => {
                    assert!(came.is_empty());
                    lost += 1;
                }
                Some(ecn) => {
                    let bytes = &came[0].bytes;
                    assert_eq!(traffic_class::of(bytes), EF | ecn, "{inner} in {outer}");
                    let parsed = parse(bytes).unwrap();
                    assert!(checksum::verify_ipv4_header(bytes, &parsed));
                    assert_eq!(came[0].class, 0);
                }
            }
            assert_eq!(pair.ends[1].dropped(DropReason::Congested), lost);
        }
        pair.assert_at_rest();
    }
}

#[test]
fn a_super_frame_is_sent_in_the_class_of_its_packets() {
    let mut pair = Pair::new();
    pair.check_ask_and_answer(Family::V4);
    let mut bytes = question(Family::V4, ECT_0, 5_000);
    let parsed = parse(&bytes).unwrap();
    checksum::partial_l4(&mut bytes, &parsed);
    let sent = sealed(
        &mut pair,
        Packet {
            bytes,
            checksum: Checksum::Partial {
                start: 20,
                offset: 6,
            },
            gso: Some(Gso {
                kind: GsoKind::Udp,
                segment_size: 1000,
                header_len: 28,
            }),
            ..Packet::default()
        },
    );
    assert_eq!(sent.len(), 5);
    for datagram in sent {
        assert_eq!(datagram.class, ECT_0);
        let came = opened(&mut pair, datagram, CE);
        assert_eq!(traffic_class::of(&came[0].bytes), CE);
    }
    pair.assert_at_rest();
}

#[test]
fn the_dscp_is_that_of_the_configuration_or_of_the_packet() {
    let family = Family::V6;
    for (dscp, handshake, packet) in [
        (Dscp::Fixed(10), 10 << 2, 10 << 2 | ECT_0),
        (Dscp::Inner, 0, EF | ECT_0),
    ] {
        let mut pair = Pair::new();
        let tunnel = tunnels(1, 1).remove(0).with_dscp(dscp);
        pair.ends[0] = Lane::new(&pair.sites[0], Some(tunnel));
        let first = sealed(&mut pair, question(family, EF | ECT_0, 10));
        let [initiation] = <[Packet; 1]>::try_from(first).unwrap();
        assert_eq!((initiation.bytes[0], initiation.class), (1, handshake));
        pair.ends[1].come(initiation.bytes, node(1), pair.now);
        pair.settle();
        assert_eq!(pair.ends[1].delivered().len(), 1);
        let sent = sealed(&mut pair, question(family, EF | ECT_0, 10));
        assert_eq!(sent[0].class, packet);
    }
}
