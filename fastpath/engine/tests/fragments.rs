//! Datagrams in fragments, packets that do not fit, and super-frames.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests, where a panic is the message"
)]

mod common;

use common::packet::{Content, fragments, reassembled};
use common::*;
use sluice_engine::{Limits, Settings};
use sluice_memory::{Frame, Gso, GsoKind};
use sluice_wire::{DropReason, Family, Ip};

fn long(src: (Ip, u16), dst: (Ip, u16), len: usize) -> Packet {
    let bytes = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
    udp(src, dst).with_payload(bytes)
}

fn packets(left: Vec<Left>) -> Vec<Packet> {
    left.into_iter()
        .map(|left| match left {
            Left::To(_, packet) | Left::In(packet) => packet,
        })
        .collect()
}

/// The bytes of what left, to be carried to the other gateway: re-cut from the datagram it stands for.
fn carried(left: Vec<Left>, id: u16) -> (Packet, Vec<Vec<u8>>) {
    let whole = reassembled(&packets(left));
    let cut = fragments(&whole, id, 1400);
    (whole, cut)
}

#[test]
fn a_60_kb_datagram_goes_there_and_back() {
    both(|family| {
        for rewritten in [false, true] {
            let (mut one, mut two) = two_sites();
            let caller = ns_ip(family, 1, 1);
            if rewritten {
                for n in 2..5 {
                    one.out(&udp((caller, 4000), (instance_ip(family, n), 80)));
                }
            }
            let sent = long((caller, 4000), (service_ip(family, 2), 80), 60_000);
            let (wire, pieces) = carried(one.out_bytes(&fragments(&sent, 7, 1400)), 7);
            let Content::Udp {
                src_port, dst_port, ..
            } = wire.content
            else {
                panic!("{wire:?}");
            };
            assert_eq!((src_port != 4000, dst_port), (rewritten, 80));
            let (received, _) = carried(two.in_bytes(node(1), &pieces), 7);
            assert_eq!(received, wire);
            let answer = long((wire.dst, 80), (wire.src, src_port), 60_000);
            let (_, pieces) = carried(two.out_bytes(&fragments(&answer, 8, 1400)), 8);
            let (seen, _) = carried(one.in_bytes(node(2), &pieces), 8);
            assert_eq!(
                seen,
                long((service_ip(family, 2), 80), (caller, 4000), 60_000)
            );
            assert_eq!((one.drops(), two.drops()), (vec![], vec![]));
            assert_eq!((one.account.held.value(), two.account.held.value()), (0, 0));
        }
    });
}

#[test]
fn later_fragments_may_come_first() {
    both(|family| {
        let (mut one, _) = two_sites();
        let sent = long(
            (ns_ip(family, 1, 1), 4000),
            (service_ip(family, 2), 80),
            5000,
        );
        let mut pieces = fragments(&sent, 7, 1400);
        pieces.reverse();
        let (first, later) = pieces.split_last().unwrap();
        assert_eq!(one.out_bytes(later), []);
        assert_eq!(one.account.held.value(), 3);
        let (wire, _) = carried(one.out_bytes(std::slice::from_ref(first)), 7);
        assert_eq!(wire.content, sent.content);
        assert_eq!(one.account.held.value(), 0);
    });
}

/// The first fragment may come to another worker.
#[test]
fn bindings_are_shared_between_workers() {
    both(|family| {
        let (mut one, _) = two_sites();
        let mut other = Gateway::sharing(1, &Settings::default(), one.shared.clone());
        let callers = other.service(1);
        other.place(callers, 1, 1);
        let servers = other.service(2);
        for n in 2..5 {
            other.place(servers, n, 2);
        }
        other.publish();
        let sent = long(
            (ns_ip(family, 1, 1), 4000),
            (service_ip(family, 2), 80),
            3000,
        );
        let pieces = fragments(&sent, 7, 1400);
        assert_eq!(other.out_bytes(&pieces[1..2]), []);
        let mut left = one.out_bytes(&pieces[..1]);
        assert!(other.engine.poll_timeout().is_some());
        left.extend(other.wait_ms(2));
        left.extend(other.out_bytes(&pieces[2..]));
        assert_eq!(reassembled(&packets(left)).content, sent.content);
    });
}

#[test]
fn a_fragment_without_its_first_is_dropped_after_a_moment() {
    both(|family| {
        let (mut one, _) = two_sites();
        let sent = long(
            (ns_ip(family, 1, 1), 4000),
            (service_ip(family, 2), 80),
            3000,
        );
        one.out_bytes(&fragments(&sent, 7, 1400)[1..]);
        assert_eq!(one.wait_ms(999), []);
        assert_eq!(one.account.held.value(), 2);
        assert_eq!(one.wait_ms(1), []);
        assert_eq!(one.dropped(DropReason::FragmentUnmatched), 2);
        let many: Vec<Vec<u8>> = (0..200)
            .map(|id| fragments(&sent, id, 1400)[1].clone())
            .collect();
        one.out_bytes(&many);
        assert_eq!(one.dropped(DropReason::FragmentTableFull), 72);
    });
}

#[test]
fn bindings_make_room_for_new_datagrams_but_not_at_once() {
    both(|family| {
        let limits = Limits {
            fragments_max: 8,
            ..small()
        };
        let mut one = Gateway::with(1, &Settings::default(), &limits);
        let callers = one.service(1);
        one.place(callers, 1, 1);
        let servers = one.service(2);
        one.place(servers, 2, 2);
        one.publish();
        let sent = long(
            (ns_ip(family, 1, 1), 4000),
            (instance_ip(family, 2), 80),
            3000,
        );
        for id in 0..8 {
            assert_eq!(one.out_bytes(&fragments(&sent, id, 1400)).len(), 3);
        }
        one.out_bytes(&fragments(&sent, 8, 1400)[..1]);
        assert_eq!(one.dropped(DropReason::FragmentTableFull), 1);
        one.wait_ms(100);
        assert_eq!(one.out_bytes(&fragments(&sent, 9, 1400)).len(), 3);
    });
}

/// What the service sent is what the error quotes, with the size that fits.
#[test]
fn a_packet_too_big_for_the_peer_is_refused_with_its_size() {
    both(|family| {
        let (mut one, _) = two_sites();
        let sent = long(
            (ns_ip(family, 1, 1), 4000),
            (service_ip(family, 2), 80),
            1450,
        );
        let told = delivered(&one.out(&sent));
        let Content::Error {
            kind,
            code,
            mtu,
            quote,
        } = told.content
        else {
            panic!("{told:?}");
        };
        assert_eq!(
            (kind, code, mtu),
            if family == Family::V4 {
                (3, 4, 1450)
            } else {
                (2, 0, 1450)
            }
        );
        assert_eq!((quote.src, quote.dst), (sent.src, sent.dst));
        assert_eq!(one.dropped(DropReason::TooBig), 1);
        let header_len = if family == Family::V4 { 28 } else { 48 };
        let fits = long(
            (ns_ip(family, 1, 1), 4000),
            (service_ip(family, 2), 80),
            1450 - header_len,
        );
        tunnelled(&one.out(&fits));
    });
}

/// IPv4 that may be fragmented is.
#[test]
fn a_packet_that_may_be_fragmented_is_cut() {
    let family = Family::V4;
    let (mut one, _) = two_sites();
    let sent = long(
        (ns_ip(family, 1, 1), 4000),
        (service_ip(family, 2), 80),
        4000,
    );
    let mut bytes = sent.build();
    bytes[6] = 0;
    let parsed = sluice_wire::parse(&bytes).unwrap();
    sluice_wire::checksum::complete_ipv4_header(&mut bytes, &parsed);
    let left = one.out_bytes(&[bytes]);
    assert_eq!((left.len(), one.account.split.value()), (3, 2));
    let wire = reassembled(&packets(left));
    assert_eq!(wire.content, sent.content);
    // A fragment that is itself too big for the peer, at an offset.
    let pieces = fragments(&sent, 7, 2000);
    let left = one.out_bytes(&pieces);
    assert_eq!(left.len(), 5);
    assert_eq!(reassembled(&packets(left)).content, sent.content);
}

/// One lookup, one translation; the segments fit although the whole does not.
#[test]
fn a_super_frame_stays_whole() {
    both(|family| {
        let (mut one, _) = two_sites();
        let (src, dst) = ((ns_ip(family, 1, 1), 4000), (service_ip(family, 2), 80));
        one.out(&syn(src, dst));
        let header_len = if family == Family::V4 { 40 } else { 60 };
        let bytes = ack(src, dst).with_payload(vec![7; 60_000]).build();
        let kind = if family == Family::V4 {
            GsoKind::Tcp4
        } else {
            GsoKind::Tcp6
        };
        let set = |segment_size: u16| {
            move |frame: &mut Frame| {
                frame.gso = Some(Gso {
                    kind,
                    segment_size,
                    header_len,
                });
            }
        };
        let frames = one.out_as(&bytes, set(1380));
        assert_eq!((frames.len(), frames[0].len()), (1, bytes.len()));
        assert_eq!(frames[0].gso.unwrap().segment_size, 1380);
        assert_eq!(frames[0].outer, Some(node(2)));
        Packet::read(frames[0].bytes());
        one.give_back(frames);
        let mut one_more = one;
        let frames = one_more.out_as_any(&bytes, set(1448));
        assert_eq!(frames, 1, "the caller is told");
        assert_eq!(one_more.dropped(DropReason::TooBig), 1);
    });
}

/// The binding of a datagram outlives its flow: what still comes of it must end, and the worker must go on.
#[test]
fn fragments_of_a_withdrawn_instance_end() {
    both(|family| {
        let mut one = Gateway::new(1);
        let callers = one.service(1);
        one.place(callers, 1, 1);
        let called = one.service(2);
        let slot = one.place(called, 2, 2);
        one.writer.set_candidates(called, &[slot]);
        one.publish();
        let sent = long(
            (ns_ip(family, 1, 1), 4000),
            (service_ip(family, 2), 80),
            5000,
        );
        let pieces = fragments(&sent, 7, 1400);
        let (first, later) = pieces.split_first().unwrap();
        assert_eq!(one.out_bytes(std::slice::from_ref(first)).len(), 1);
        one.writer.withdraw_instance(slot);
        one.publish();
        assert_eq!(one.out_bytes(later), []);
        assert_eq!(one.wait_ms(2000), []);
        assert_eq!(one.account.held.value(), 0);
        let drops =
            one.dropped(DropReason::InstanceWithdrawn) + one.dropped(DropReason::FragmentUnmatched);
        assert_eq!(drops, later.len() as u64);
    });
}
