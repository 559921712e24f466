//! Packets that came through the tunnel and do not fit the links of local instances.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests, where a panic is the message"
)]

mod common;

use common::packet::{Content, reassembled};
use common::*;
use sluice_wire::{DropReason, Family, Ip, icmp_error};

/// Of the second site's service side.
const MTU: u16 = 1300;

fn datagram(family: Family, len: usize) -> Packet {
    let (src, dst): ((Ip, u16), (Ip, u16)) =
        ((ns_ip(family, 1, 1), 4000), (service_ip(family, 2), 80));
    let header_len = if is_v4(family) { 28 } else { 48 };
    udp(src, dst).with_payload(vec![7; len - header_len])
}

/// RFC 1191 section 4, RFC 4443 section 3.2: through the tunnel to the caller, about the packet it sent. The first packet of a
/// flow and one of an established flow are judged alike, and what fits goes on.
#[test]
fn what_must_not_be_cut_is_answered_with_the_size_that_fits() {
    both(|family| {
        let (mut one, mut two) = two_sites();
        two.shared.set_service_mtu(MTU);
        for (refused, fits) in [(1, 1300), (2, 1299)] {
            let sent = datagram(family, 1301);
            let (_, wire) = tunnelled(&one.out(&sent));
            let (to, error) = tunnelled(&two.inn(node(1), &wire));
            assert_eq!(to, node(1));
            assert_eq!(two.dropped(DropReason::TooBig), refused);
            assert_eq!((error.src, error.dst), (gateway_ip(family, 2), sent.src));
            let mut bytes = [0; 1280];
            let len =
                icmp_error::too_big(&wire.build(), error.src, error.dst, MTU, &mut bytes).unwrap();
            assert_eq!(Packet::read(&bytes[..len]), error);
            let told = delivered(&one.in_bytes(node(2), &[bytes[..len].to_vec()]));
            assert_eq!(told.dst, sent.src);
            let Content::Error {
                kind,
                code,
                mtu,
                quote,
            } = told.content
            else {
                panic!("{told:?}");
            };
            let expected = if is_v4(family) { (3, 4) } else { (2, 0) };
            assert_eq!(((kind, code), mtu), (expected, MTU.into()));
            assert_eq!((quote.src, quote.dst), (sent.src, sent.dst));
            let (_, wire) = tunnelled(&one.out(&datagram(family, fits)));
            assert_eq!(delivered(&two.inn(node(1), &wire)).build().len(), fits);
            // From here on the flow has seen both ways.
            let (reply_from, reply_to) = ((wire.dst, 80), (wire.src, 4000));
            let (_, reply) = tunnelled(&two.out(&udp(reply_from, reply_to)));
            delivered(&one.inn(node(2), &reply));
        }
    });
}

/// The errors to one address are few, however many packets do not fit; all of those are counted.
#[test]
fn answers_to_one_caller_are_few() {
    let (mut one, mut two) = two_sites();
    two.shared.set_service_mtu(MTU);
    let (_, wire) = tunnelled(&one.out(&datagram(Family::V4, 1301)));
    let answers = (0..1000)
        .map(|_| two.inn(node(1), &wire).len())
        .sum::<usize>();
    assert!((1..=100).contains(&answers), "{answers} answers");
    assert_eq!(two.dropped(DropReason::TooBig), 1000);
}

/// RFC 791 section 3.2, as on the way into the tunnel.
#[test]
fn what_may_be_cut_is_delivered_in_pieces() {
    let (mut one, mut two) = two_sites();
    two.shared.set_service_mtu(MTU);
    let sent = datagram(Family::V4, 1428);
    let (_, wire) = tunnelled(&one.out_bytes(&[without_df(sent.build())]));
    let left = two.in_bytes(node(1), &[without_df(wire.build())]);
    let pieces: Vec<Packet> = left
        .into_iter()
        .map(|left| match left {
            Left::In(piece) => piece,
            other => panic!("{other:?} is not delivered"),
        })
        .collect();
    assert_eq!((pieces.len(), two.account.split.value()), (2, 1));
    let whole = reassembled(&pieces);
    assert_eq!(whole.content, sent.content);
    assert_eq!(whole.src, instance_ip(Family::V4, 1));
    assert_eq!(two.drops(), []);
}

/// An IPv4 packet that may be cut.
fn without_df(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[6] = 0;
    let parsed = sluice_wire::parse(&bytes).unwrap();
    sluice_wire::checksum::complete_ipv4_header(&mut bytes, &parsed);
    bytes
}
