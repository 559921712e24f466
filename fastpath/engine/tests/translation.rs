//! A packet's addresses on its way there and back: ServiceIP, InstanceIP, the same node, itself, and collisions.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests, where a panic is the message"
)]

mod common;

use common::packet::{ACK, Content, RST, SYN, error};
use common::*;
use sluice_engine::{Limits, Settings};
use sluice_memory::Checksum;
use sluice_wire::{DropReason, Family, Ip};
use std::collections::BTreeMap;

/// The ports of a UDP or TCP packet, or an echo's identifier twice.
fn ports(packet: &Packet) -> (u16, u16) {
    match packet.content {
        Content::Udp {
            src_port, dst_port, ..
        }
        | Content::Tcp {
            src_port, dst_port, ..
        } => (src_port, dst_port),
        Content::Echo { id, .. } => (id, id),
        _ => panic!("{packet:?} has no ports"),
    }
}

/// The packet that answers `packet`.
fn reply_to(packet: &Packet) -> Packet {
    let (src, dst) = ((packet.dst, ports(packet).1), (packet.src, ports(packet).0));
    match &packet.content {
        Content::Udp { .. } => udp(src, dst),
        Content::Tcp { flags, .. } if *flags == SYN => tcp(src, dst, SYN | ACK),
        Content::Tcp { .. } => ack(src, dst),
        Content::Echo { id, .. } => echo(packet.dst, packet.src, *id, false),
        _ => panic!("{packet:?} has no reply"),
    }
}

/// Thesis figures 3.9 and 3.10, for each protocol, family, and kind of address dialled.
#[test]
fn what_was_dialled_is_what_answers() {
    both(|family| {
        for dialled in [service_ip(family, 2), instance_ip(family, 2)] {
            let caller = ns_ip(family, 1, 1);
            for sent in [
                udp((caller, 4000), (dialled, 80)),
                syn((caller, 4000), (dialled, 80)),
                echo(caller, dialled, 77, true),
            ] {
                let (mut one, mut two) = two_sites();
                let (to, wire) = tunnelled(&one.out(&sent));
                assert_eq!(to, node(2));
                assert_eq!(
                    wire,
                    Packet {
                        src: instance_ip(family, 1),
                        dst: ns_ip(family, 2, 2),
                        ..sent.clone()
                    }
                );
                let received = delivered(&two.inn(node(1), &wire));
                assert_eq!(received, wire, "delivered unchanged");
                let (to, wire) = tunnelled(&two.out(&reply_to(&received)));
                assert_eq!(to, node(1));
                assert_eq!((wire.src, wire.dst), (instance_ip(family, 2), caller));
                let answer = delivered(&one.inn(node(2), &wire));
                assert_eq!(answer, reply_to(&sent));
                assert_eq!((one.drops(), two.drops()), (vec![], vec![]));
            }
        }
    });
}

#[test]
fn new_flows_are_spread_exactly_evenly_and_keep_their_instance() {
    both(|family| {
        let (mut one, _) = two_sites();
        let caller = ns_ip(family, 1, 1);
        let mut shares: BTreeMap<Ip, u32> = BTreeMap::new();
        for port in 1000..1300 {
            let packet = udp((caller, port), (service_ip(family, 2), 80));
            let (_, first) = tunnelled(&one.out(&packet));
            let (_, again) = tunnelled(&one.out(&packet));
            assert_eq!(first, again);
            *shares.entry(first.dst).or_default() += 1;
        }
        assert_eq!(shares.into_values().collect::<Vec<_>>(), [100, 100, 100]);
    });
}

/// A burst of one new flow in one batch is one flow.
#[test]
fn packets_of_a_new_flow_in_one_batch_go_to_one_instance() {
    both(|family| {
        let (mut one, _) = two_sites();
        let packet = udp((ns_ip(family, 1, 1), 5), (service_ip(family, 2), 80)).build();
        let left = one.out_bytes(&vec![packet; 64]);
        assert_eq!(left.len(), 64);
        assert!(left.iter().all(|each| *each == left[0]));
        assert_eq!(one.shared.flows().live(), 1);
    });
}

/// One unconnected socket dials both ServiceIPs of a service and an InstanceIP from one port: on the wire all three would be
/// the same, so they go to different instances, or under another source port; each answer comes back as dialled.
#[test]
fn one_socket_may_reach_one_instance_under_many_addresses() {
    both(|family| {
        let caller = ns_ip(family, 1, 1);
        let dialled = [
            service_ip(family, 2),
            other_service_ip(family, 2),
            instance_ip(family, 2),
            instance_ip(family, 3),
            instance_ip(family, 4),
        ];
        for make in [udp, syn] {
            let (mut one, mut two) = two_sites();
            let mut on_wire = Vec::new();
            for address in dialled {
                let sent = make((caller, 4000), (address, 80));
                let (_, wire) = tunnelled(&one.out(&sent));
                let received = delivered(&two.inn(node(1), &wire));
                on_wire.push((received.src, ports(&received), received.dst));
                let (_, wire) = tunnelled(&two.out(&reply_to(&received)));
                assert_eq!(delivered(&one.inn(node(2), &wire)), reply_to(&sent));
            }
            let distinct: std::collections::BTreeSet<_> = on_wire.iter().collect();
            assert_eq!(distinct.len(), dialled.len(), "{on_wire:?}");
            // Two services' worth of flows found a free instance each; three dialled InstanceIPs meet two of those.
            assert_eq!(one.engine.counters().ports_rewritten.value(), 2);
        }
    });
}

/// With one instance only, the second address from the same port gets another source port.
#[test]
fn the_source_port_is_rewritten_when_no_other_instance_is_left() {
    both(|family| {
        let caller = ns_ip(family, 1, 1);
        let (mut one, mut two) = two_sites();
        let direct = udp((caller, 4000), (instance_ip(family, 2), 80));
        tunnelled(&one.out(&direct));
        for packet in [
            udp((caller, 4000), (instance_ip(family, 3), 80)),
            udp((caller, 4000), (instance_ip(family, 4), 80)),
        ] {
            tunnelled(&one.out(&packet));
        }
        let sent = udp((caller, 4000), (service_ip(family, 2), 80));
        let (_, wire) = tunnelled(&one.out(&sent));
        assert_ne!(ports(&wire).0, 4000);
        assert_eq!(ports(&wire).1, 80);
        let received = delivered(&two.inn(node(1), &wire));
        let (_, wire) = tunnelled(&two.out(&reply_to(&received)));
        assert_eq!(delivered(&one.inn(node(2), &wire)), reply_to(&sent));
    });
}

/// Echoes have one number for both ports.
#[test]
fn an_echo_identifier_is_rewritten_and_restored() {
    both(|family| {
        let caller = ns_ip(family, 1, 1);
        let (mut one, mut two) = two_sites();
        for n in 2..5 {
            tunnelled(&one.out(&echo(caller, instance_ip(family, n), 9, true)));
        }
        let sent = echo(caller, service_ip(family, 2), 9, true);
        let (_, wire) = tunnelled(&one.out(&sent));
        assert_ne!(ports(&wire).0, 9);
        let received = delivered(&two.inn(node(1), &wire));
        let (_, wire) = tunnelled(&two.out(&reply_to(&received)));
        assert_eq!(delivered(&one.inn(node(2), &wire)), reply_to(&sent));
    });
}

/// A gateway with caller 1 and server 2 beside each other.
fn one_site(family: Family) -> (Gateway, Ip, Ip) {
    let mut one = Gateway::new(1);
    let callers = one.service(1);
    let caller = one.place(callers, 1, 1);
    one.writer.set_candidates(callers, &[caller]);
    let servers = one.service(2);
    let server = one.place(servers, 2, 1);
    one.writer.set_candidates(servers, &[server]);
    one.publish();
    (one, ns_ip(family, 1, 1), ns_ip(family, 1, 2))
}

#[test]
fn instances_beside_each_other_talk() {
    both(|family| {
        for dialled in [service_ip(family, 2), instance_ip(family, 2)] {
            let (mut one, caller, server) = one_site(family);
            for sent in [
                udp((caller, 4000), (dialled, 80)),
                syn((caller, 4000), (dialled, 80)),
                echo(caller, dialled, 3, true),
            ] {
                let received = delivered(&one.out(&sent));
                assert_eq!(
                    (received.src, received.dst),
                    (instance_ip(family, 1), server)
                );
                let answer = delivered(&one.out(&reply_to(&received)));
                assert_eq!(answer, reply_to(&sent));
            }
            assert_eq!(one.drops(), []);
        }
    });
}

/// An instance that chooses itself, or dials its own InstanceIP, also from the very port it dials.
#[test]
fn an_instance_may_talk_to_itself() {
    both(|family| {
        for dialled in [service_ip(family, 1), instance_ip(family, 1)] {
            for src_port in [4000, 80] {
                for make in [udp, syn] {
                    let (mut one, caller, _) = one_site(family);
                    let sent = make((caller, src_port), (dialled, 80));
                    let received = delivered(&one.out(&sent));
                    assert_eq!(
                        (received.src, received.dst),
                        (instance_ip(family, 1), caller)
                    );
                    assert_eq!(ports(&received).1, 80);
                    assert_ne!(ports(&received).0, 80, "told apart from the listening port");
                    let answer = delivered(&one.out(&reply_to(&received)));
                    assert_eq!(answer, reply_to(&sent));
                    let more = match sent.content {
                        Content::Tcp { .. } => ack((caller, src_port), (dialled, 80)),
                        _ => sent.clone(),
                    };
                    assert_eq!(ports(&delivered(&one.out(&more))), ports(&received));
                }
            }
            let (mut one, caller, _) = one_site(family);
            let ping = echo(caller, dialled, 5, true);
            let received = delivered(&one.out(&ping));
            assert_eq!(delivered(&one.out(&reply_to(&received))), reply_to(&ping));
        }
    });
}

/// B dials A's port p from q while A dials B's port q from p, through different ServiceIPs: both conversations live.
#[test]
fn two_instances_may_dial_each_other_from_the_ports_they_serve() {
    both(|family| {
        let (mut one, caller, server) = one_site(family);
        let a_to_b = udp((caller, 70), (service_ip(family, 2), 80));
        let b_to_a = udp((server, 80), (service_ip(family, 1), 70));
        let at_b = delivered(&one.out(&a_to_b));
        let at_a = delivered(&one.out(&b_to_a));
        assert_eq!(delivered(&one.out(&reply_to(&at_b))), reply_to(&a_to_b));
        assert_eq!(delivered(&one.out(&reply_to(&at_a))), reply_to(&b_to_a));
    });
}

#[test]
fn tcp_and_udp_never_share_an_entry() {
    both(|family| {
        let (mut one, _) = two_sites();
        let (src, dst) = ((ns_ip(family, 1, 1), 4000), (service_ip(family, 2), 53));
        let (_, by_udp) = tunnelled(&one.out(&udp(src, dst)));
        let (_, by_tcp) = tunnelled(&one.out(&syn(src, dst)));
        assert_eq!(one.shared.flows().live(), 2);
        assert_ne!(by_udp.dst, by_tcp.dst, "round robin went on");
    });
}

#[test]
fn port_65535_is_a_port() {
    both(|family| {
        let (mut one, mut two) = two_sites();
        let sent = udp((ns_ip(family, 1, 1), 65535), (service_ip(family, 2), 65535));
        let (_, wire) = tunnelled(&one.out(&sent));
        let received = delivered(&two.inn(node(1), &wire));
        let (_, wire) = tunnelled(&two.out(&reply_to(&received)));
        assert_eq!(delivered(&one.inn(node(2), &wire)), reply_to(&sent));
    });
}

/// A service that is not listening says so; the caller sees its own packet quoted, from the address it dialled.
#[test]
fn icmp_errors_are_translated_outside_and_in_the_quote() {
    both(|family| {
        for dialled in [service_ip(family, 2), instance_ip(family, 2)] {
            for source_port_taken in [false, true] {
                let (mut one, mut two) = two_sites();
                let caller = ns_ip(family, 1, 1);
                if source_port_taken {
                    for n in 2..5 {
                        for address in [instance_ip(family, n), service_ip(family, 2)] {
                            one.out(&udp((caller, 4000), (address, 80)));
                        }
                    }
                    if dialled != service_ip(family, 2) {
                        continue;
                    }
                }
                let sent = udp((caller, 4000), (dialled, 80));
                let (_, wire) = tunnelled(&one.out(&sent));
                let received = delivered(&two.inn(node(1), &wire));
                let refused = error(
                    received.dst,
                    received.src,
                    (3, 3),
                    (1, 4),
                    &received.build(),
                );
                let (to, wire_error) = tunnelled(&two.out_bytes(&[refused]));
                assert_eq!(to, node(1));
                assert_eq!(
                    (wire_error.src, wire_error.dst),
                    (instance_of(received.dst, family), caller)
                );
                let Content::Error { quote, .. } = &wire_error.content else {
                    panic!("{wire_error:?}");
                };
                assert_eq!(
                    (quote.src, quote.dst),
                    (instance_ip(family, 1), received.dst)
                );
                let wire_bytes = error(
                    wire_error.src,
                    wire_error.dst,
                    (3, 3),
                    (1, 4),
                    &wire.build(),
                );
                let seen = delivered(&one.in_bytes(node(2), &[wire_bytes]));
                assert_eq!((seen.src, seen.dst), (dialled, caller));
                let Content::Error {
                    quote, kind, code, ..
                } = seen.content
                else {
                    panic!("{seen:?}");
                };
                assert_eq!(
                    (kind, code),
                    if family == Family::V4 { (3, 3) } else { (1, 4) }
                );
                assert_eq!((quote.src, quote.dst), (caller, dialled));
                assert_eq!((quote.src_port, quote.dst_port), (4000, 80));
                assert_eq!(
                    one.told(),
                    [],
                    "a closed port is no reason to suspect the instance"
                );
            }
        }
    });
}

/// The InstanceIP of the instance with that NsIP on node 2.
fn instance_of(ns: Ip, family: Family) -> Ip {
    (2..5)
        .find(|&n| ns_ip(family, 2, n) == ns)
        .map(|n| instance_ip(family, n))
        .unwrap()
}

#[test]
fn an_icmp_error_about_nothing_we_know_is_dropped() {
    both(|family| {
        let (mut one, mut two) = two_sites();
        let about = udp((instance_ip(family, 1), 1), (ns_ip(family, 2, 2), 2)).build();
        let outbound = error(
            ns_ip(family, 2, 2),
            instance_ip(family, 1),
            (3, 3),
            (1, 4),
            &about,
        );
        assert_eq!(two.out_bytes(&[outbound]), []);
        let inbound = error(
            instance_ip(family, 2),
            ns_ip(family, 1, 1),
            (3, 3),
            (1, 4),
            &about,
        );
        assert_eq!(one.in_bytes(node(2), &[inbound]), []);
        for gateway in [&one, &two] {
            assert_eq!(gateway.dropped(DropReason::IcmpUnmatched), 1);
        }
    });
}

/// Full-size segments must fit the tunnel, whichever side speaks first and whether the peer clamps or not.
#[test]
fn the_mss_is_clamped_on_syn_and_syn_ack() {
    both(|family| {
        let (mut one, mut two) = two_sites();
        let fits = if family == Family::V4 { 1380 } else { 1360 };
        let sent = syn((ns_ip(family, 1, 1), 9), (service_ip(family, 2), 80));
        let (_, wire) = tunnelled(&one.out(&sent.clone().with_mss(8960)));
        assert_eq!(
            wire,
            Packet {
                src: wire.src,
                dst: wire.dst,
                ..sent.clone().with_mss(fits)
            }
        );
        let received = delivered(&two.inn(node(1), &wire.clone().with_mss(1410)));
        assert_eq!(received, wire);
        let (_, wire) = tunnelled(&two.out(&reply_to(&received).with_mss(500)));
        assert_eq!(
            delivered(&one.inn(node(2), &wire)),
            reply_to(&sent).with_mss(500)
        );
    });
}

/// On a partial checksum only the addresses count; completed later, it must be right.
#[test]
fn partial_checksums_stay_completable() {
    both(|family| {
        let (mut one, _) = two_sites();
        for n in 2..5 {
            one.out(&udp(
                (ns_ip(family, 1, 1), 4000),
                (instance_ip(family, n), 80),
            ));
        }
        let sent = udp((ns_ip(family, 1, 1), 4000), (service_ip(family, 2), 80));
        let mut bytes = sent.build();
        let parsed = sluice_wire::parse(&bytes).unwrap();
        sluice_wire::checksum::partial_l4(&mut bytes, &parsed);
        let start = parsed.l3_len;
        let partial = Checksum::Partial { start, offset: 6 };
        let mut frames = one.out_as(&bytes, |frame| frame.checksum = partial);
        let frame = &mut frames[0];
        assert_eq!(frame.checksum, partial);
        let parsed = sluice_wire::parse(frame.bytes()).unwrap();
        sluice_wire::checksum::complete_l4(frame.bytes_mut(), &parsed);
        let completed = frame.bytes().to_vec();
        let mut again = completed.clone();
        sluice_wire::checksum::partial_l4(&mut again, &parsed);
        // The field the engine left must have been the pseudo-header sum of the new addresses.
        assert_ne!(
            ports(&Packet::read(&completed)).0,
            4000,
            "the port was rewritten too"
        );
        one.give_back(frames);
    });
}

/// A connection's packets after its entry is gone: reset, never sent to another instance.
#[test]
fn a_segment_of_an_unknown_connection_is_reset() {
    both(|family| {
        let (mut one, _) = two_sites();
        let caller = ns_ip(family, 1, 1);
        for dialled in [service_ip(family, 2), instance_ip(family, 2)] {
            let reset = delivered(&one.out(&ack((caller, 4000), (dialled, 80))));
            assert_eq!(
                (reset.src, reset.dst, ports(&reset)),
                (dialled, caller, (80, 4000))
            );
            let Content::Tcp { flags, .. } = reset.content else {
                panic!("{reset:?}");
            };
            assert_ne!(flags & RST, 0);
            assert_eq!(one.out(&tcp((caller, 4000), (dialled, 80), RST)), []);
        }
        assert_eq!(one.dropped(DropReason::NoSuchConnection), 4);
        assert_eq!(one.account.originated.value(), 2);
    });
}

/// One port may be used for connection after connection.
#[test]
fn a_closed_connection_gives_its_ports_to_the_next() {
    both(|family| {
        let (mut one, _) = two_sites();
        let (src, dst) = ((ns_ip(family, 1, 1), 4000), (service_ip(family, 2), 80));
        let mut chosen = Vec::new();
        for _ in 0..3 {
            let (_, wire) = tunnelled(&one.out(&syn(src, dst)));
            chosen.push(wire.dst);
            tunnelled(&one.out(&tcp(src, dst, RST)));
        }
        chosen.sort_unstable();
        chosen.dedup();
        assert_eq!(chosen.len(), 3, "each connection was balanced anew");
        assert_eq!(one.shared.flows().live(), 1);
    });
}

#[test]
fn a_full_table_refuses_new_flows_and_keeps_the_old() {
    both(|family| {
        let limits = Limits {
            flows_max: 64,
            embryonic_max: 64,
            embryonic_per_owner_max: 64,
            flows_per_owner_max: 64,
            ..small()
        };
        let mut one = Gateway::with(1, &Settings::default(), &limits);
        let callers = one.service(1);
        one.place(callers, 1, 1);
        let servers = one.service(2);
        let server = one.place(servers, 2, 2);
        one.writer.set_candidates(servers, &[server]);
        one.publish();
        let packet = |port| udp((ns_ip(family, 1, 1), port), (service_ip(family, 2), 80));
        let reply = |port| udp((instance_ip(family, 2), 80), (ns_ip(family, 1, 1), port));
        for port in 1..=64 {
            tunnelled(&one.out(&packet(port)));
            delivered(&one.inn(node(2), &reply(port)));
        }
        assert_eq!(one.out(&packet(65)), []);
        assert_eq!(one.dropped(DropReason::FlowQuota), 1);
        tunnelled(&one.out(&packet(1)));
    });
}
