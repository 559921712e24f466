//! Who may send and who may receive: holding, asking, forged sources, withdrawn instances, and what senders are told.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests, where a panic is the message"
)]

mod common;

use common::packet::{ACK, Content, error};
use common::*;
use sluice_engine::Settings;
use sluice_memory::Endpoint;
use sluice_tables::{Known, Placement, Question, Reach, Suspicion, Upcall};
use sluice_wire::{DropReason, Family, Ip};

fn is_v4(family: Family) -> bool {
    family == Family::V4
}

/// What an ICMP error says: type and code.
fn says(packet: &Packet) -> (u8, u8) {
    match packet.content {
        Content::Error { kind, code, .. } => (kind, code),
        _ => panic!("{packet:?} is no ICMP error"),
    }
}

fn host_unreachable(family: Family) -> (u8, u8) {
    if is_v4(family) { (3, 1) } else { (1, 3) }
}

/// Node 1 with a caller, knowing nothing of service 2.
fn alone() -> Gateway {
    let mut one = Gateway::new(1);
    let callers = one.service(1);
    one.place(callers, 1, 1);
    one.publish();
    one
}

fn learn_servers(one: &mut Gateway) {
    let servers = one.service(2);
    let slots: Vec<_> = (2..5).map(|n| one.place(servers, n, 2)).collect();
    one.writer.set_candidates(servers, &slots);
    one.publish();
}

#[test]
fn an_unknown_address_is_asked_for_once_and_its_packets_follow_the_answer() {
    both(|family| {
        let mut one = alone();
        let dialled = service_ip(family, 2);
        let packets: Vec<Packet> = (1..=3)
            .map(|port| udp((ns_ip(family, 1, 1), port), (dialled, 80)))
            .collect();
        for packet in &packets {
            assert_eq!(one.out(packet), []);
        }
        assert_eq!(one.told(), [Upcall::Ask(Question::Dialled(dialled))]);
        assert_eq!(one.account.held.value(), 3);
        one.publish();
        assert_eq!(one.release(), [], "an unrelated publish releases nothing");
        learn_servers(&mut one);
        let left = one.release();
        assert_eq!(left.len(), 3);
        for (sent, left) in packets.iter().zip(&left) {
            let Left::To(to, wire) = left else {
                panic!("{left:?}");
            };
            assert_eq!((*to, &wire.content), (node(2), &sent.content));
        }
        assert_eq!((one.account.held.value(), one.drops()), (0, vec![]));
    });
}

#[test]
fn an_unanswered_packet_is_dropped_by_name_and_its_caller_told() {
    both(|family| {
        let mut one = alone();
        let sent = udp((ns_ip(family, 1, 1), 5), (service_ip(family, 2), 80));
        one.out(&sent);
        assert!(one.engine.poll_timeout().is_some());
        assert_eq!(one.wait_ms(4_999), []);
        let told = delivered(&one.wait_ms(1));
        assert_eq!((told.src, told.dst), (gateway_ip(family, 1), sent.src));
        assert_eq!(says(&told), host_unreachable(family));
        assert_eq!(one.dropped(DropReason::Unanswered), 1);
        assert_eq!(one.engine.poll_timeout(), None);
    });
}

#[test]
fn only_so_many_packets_are_held() {
    both(|family| {
        let mut one = Gateway::with(
            1,
            &Settings {
                held_frames_max: 4,
                ..Settings::default()
            },
            &small(),
        );
        let callers = one.service(1);
        one.place(callers, 1, 1);
        one.publish();
        for port in 1..=6 {
            one.out(&udp(
                (ns_ip(family, 1, 1), port),
                (service_ip(family, 2), 80),
            ));
        }
        assert_eq!(
            (one.account.held.value(), one.dropped(DropReason::HoldFull)),
            (4, 2)
        );
    });
}

/// The reasons a local caller hears of at once, and what it hears.
#[test]
fn what_cannot_be_reached_is_refused() {
    both(|family| {
        let host = host_unreachable(family);
        let prohibited = if is_v4(family) { (3, 13) } else { (1, 1) };
        type Prepare = fn(&mut Gateway, Ip);
        let rows: [(&str, Prepare, DropReason, (u8, u8)); 5] = [
            (
                "absent",
                |one, dialled| one.writer.set_negative(dialled, Known::Absent),
                DropReason::Absent,
                host,
            ),
            (
                "unavailable",
                |one, dialled| one.writer.set_negative(dialled, Known::Unavailable),
                DropReason::Unavailable,
                host,
            ),
            (
                "no instance",
                |one, _| {
                    one.service(2);
                },
                DropReason::Unavailable,
                host,
            ),
            (
                "no address of the family",
                |one, dialled| {
                    let servers = one.service(2);
                    let slot = one.place_in(servers, 2, !dialled.is_v4());
                    one.writer.set_candidates(servers, &[slot]);
                },
                DropReason::NoAddress,
                host,
            ),
            (
                "reply only",
                |one, _| {
                    let servers = one.service(2);
                    let slot = one.place_with(servers, 2, 2, node(2), 2, Reach::ReplyOnly);
                    one.writer.set_candidates(servers, &[slot]);
                },
                DropReason::NotAllowed,
                prohibited,
            ),
        ];
        for (name, prepare, reason, expected) in rows {
            let mut one = alone();
            let dialled = service_ip(family, 2);
            prepare(&mut one, dialled);
            one.publish();
            let caller = ns_ip(family, 1, 1);
            for sent in [
                udp((caller, 5), (dialled, 80)),
                syn((caller, 5), (dialled, 80)),
                echo(caller, dialled, 5, true),
            ] {
                let told = delivered(&one.out(&sent));
                assert_eq!(
                    (told.src, told.dst),
                    (gateway_ip(family, 1), caller),
                    "{name}"
                );
                assert_eq!(says(&told), expected, "{name}");
            }
            assert_eq!(one.dropped(reason), 3, "{name}");
            assert_eq!((one.told(), one.shared.flows().live()), (vec![], 0));
        }
    });
}

/// By its InstanceIP, and after it moved to a node that has the other family only.
#[test]
fn an_instance_without_an_address_of_the_family_is_refused() {
    both(|family| {
        let mut one = alone();
        let servers = one.service(2);
        let (caller, server) = (ns_ip(family, 1, 1), instance_ip(family, 2));
        let sent = udp((caller, 5), (server, 80));
        let refused = |one: &mut Gateway| {
            let told = delivered(&one.out(&sent));
            assert_eq!((told.dst, says(&told)), (caller, host_unreachable(family)));
        };
        one.place_in(servers, 2, !is_v4(family));
        one.publish();
        refused(&mut one);
        assert_eq!(one.shared.flows().live(), 0);
        one.place(servers, 2, 2);
        one.publish();
        assert_eq!(one.out(&sent).len(), 1);
        one.place_in(servers, 2, !is_v4(family));
        one.publish();
        refused(&mut one);
        assert_eq!(one.dropped(DropReason::NoAddress), 2);
    });
}

#[test]
fn errors_to_one_caller_are_limited() {
    both(|family| {
        let mut one = alone();
        one.writer
            .set_negative(service_ip(family, 2), Known::Absent);
        one.publish();
        let packet = udp((ns_ip(family, 1, 1), 5), (service_ip(family, 2), 80)).build();
        let left = one.out_bytes(&vec![packet; 1000]);
        assert_eq!(left.len(), 100);
        assert_eq!(one.dropped(DropReason::Absent), 1000);
    });
}

#[test]
fn only_instances_send_and_only_to_service_addresses() {
    both(|family| {
        let (mut one, _) = two_sites();
        let foreign = if is_v4(family) {
            "192.0.2.7"
        } else {
            "2001:db8::7"
        };
        let foreign: Ip = foreign.parse().unwrap();
        assert_eq!(one.out(&udp((ns_ip(family, 1, 1), 5), (foreign, 80))), []);
        assert_eq!(
            one.out(&udp((ns_ip(family, 1, 1), 5), (ns_ip(family, 2, 2), 80))),
            []
        );
        assert_eq!(one.dropped(DropReason::DestinationNotSemantic), 2);
        for stranger in [foreign, ns_ip(family, 1, 9), ns_ip(family, 2, 2)] {
            assert_eq!(
                one.out(&udp((stranger, 5), (service_ip(family, 2), 80))),
                []
            );
        }
        assert_eq!(one.dropped(DropReason::SourceNotLocal), 3);
    });
}

/// The first packet from a node never heard of is normal.
#[test]
fn a_first_time_caller_is_held_resolved_and_delivered() {
    both(|family| {
        let mut two = Gateway::new(2);
        let servers = two.service(2);
        two.place(servers, 2, 2);
        two.publish();
        let wire = udp((instance_ip(family, 1), 4000), (ns_ip(family, 2, 2), 80));
        assert_eq!(two.inn(node(1), &wire), []);
        assert_eq!(two.inn(node(1), &wire), []);
        let question = Question::InnerSource {
            source: instance_ip(family, 1),
            outer: node(1).ip,
        };
        assert_eq!(two.told(), [Upcall::Ask(question)]);
        let callers = two.service(1);
        two.place(callers, 1, 1);
        two.publish();
        assert_eq!(
            two.release(),
            [Left::In(wire.clone()), Left::In(wire.clone())]
        );
        let (to, _) = tunnelled(&two.out(&udp((wire.dst, 80), (wire.src, 4000))));
        assert_eq!(to, node(1));
    });
}

#[test]
fn a_caller_that_the_managers_do_not_know_is_dropped_without_a_question() {
    both(|family| {
        let mut two = Gateway::new(2);
        let servers = two.service(2);
        two.place(servers, 2, 2);
        two.writer
            .set_negative(instance_ip(family, 1), Known::Absent);
        two.publish();
        assert_eq!(
            two.inn(
                node(1),
                &udp((instance_ip(family, 1), 1), (ns_ip(family, 2, 2), 80))
            ),
            []
        );
        assert_eq!((two.told(), two.dropped(DropReason::Absent)), (vec![], 1));
    });
}

/// One outer address cannot make us ask without end, nor keep another one from asking.
#[test]
fn questions_are_limited_per_outer_source() {
    both(|family| {
        let mut two = Gateway::new(2);
        let servers = two.service(2);
        two.place(servers, 2, 2);
        two.publish();
        for n in 10..110 {
            two.inn(
                node(1),
                &udp((instance_ip(family, n), 1), (ns_ip(family, 2, 2), 80)),
            );
        }
        assert_eq!(two.told().len(), 64);
        assert_eq!(two.dropped(DropReason::QuestionLimit), 36);
        two.inn(
            node(7),
            &udp((instance_ip(family, 200), 1), (ns_ip(family, 2, 2), 80)),
        );
        assert_eq!(two.told().len(), 1);
    });
}

#[test]
fn a_source_placed_on_another_node_is_forged_and_maybe_moved() {
    both(|family| {
        let (_, mut two) = two_sites();
        let wire = udp((instance_ip(family, 1), 4000), (ns_ip(family, 2, 2), 80));
        for _ in 0..5 {
            assert_eq!(two.inn(node(9), &wire), []);
        }
        assert_eq!(two.dropped(DropReason::SourceForged), 5);
        let told = two.told();
        assert_eq!(told.len(), 2, "limited");
        assert!(matches!(
            told[0],
            Upcall::Suspect {
                why: Suspicion::Elsewhere,
                ..
            }
        ));
        delivered(&two.inn(node(1), &wire));
        assert_eq!(two.inn(node(9), &wire), [], "nor into a flow that lives");
        let other_port = Endpoint { port: 9, ..node(1) };
        delivered(&two.inn(other_port, &wire));
    });
}

#[test]
fn a_local_source_from_the_tunnel_is_a_forger_or_a_loop() {
    both(|family| {
        let (mut one, _) = two_sites();
        let ours = instance_ip(family, 1);
        assert_eq!(
            one.inn(node(2), &udp((ours, 1), (ns_ip(family, 1, 1), 2))),
            []
        );
        assert_eq!(
            one.inn(node(2), &udp((ours, 1), (ns_ip(family, 2, 2), 2))),
            []
        );
        assert_eq!(one.drops(), [("source-forged", 1), ("loop-detected", 1)]);
    });
}

#[test]
fn what_is_no_instance_does_not_speak() {
    both(|family| {
        let (_, mut two) = two_sites();
        let to = (ns_ip(family, 2, 2), 80);
        for source in [ns_ip(family, 1, 1), service_ip(family, 1)] {
            assert_eq!(two.inn(node(1), &udp((source, 1), to)), []);
        }
        assert_eq!(two.dropped(DropReason::SourceForged), 2);
        assert_eq!(two.inn(node(9), &udp((ns_ip(family, 1, 1), 1), to)), []);
        assert_eq!(two.dropped(DropReason::PeerUnknown), 1);
        assert_eq!(two.told(), []);
    });
}

#[test]
fn garbage_on_the_tunnel_port_is_counted() {
    let (_, mut two) = two_sites();
    let rows: [(&[u8], DropReason); 6] = [
        (&[], DropReason::Empty),
        (&[1, 0, 0, 0], DropReason::NotIp),
        (&[0xff; 100], DropReason::NotIp),
        (&[0x45; 19], DropReason::Malformed),
        (&[0x60; 39], DropReason::Malformed),
        (&[0x45; 60], DropReason::Malformed),
    ];
    for (bytes, reason) in rows {
        let before = two.dropped(reason);
        assert_eq!(two.in_bytes(node(1), &[bytes.to_vec()]), []);
        assert_eq!(
            two.dropped(reason),
            before + 1,
            "{bytes:?}: {:?}",
            two.drops()
        );
    }
    let mut damaged = udp(
        (instance_ip(Family::V4, 1), 1),
        (ns_ip(Family::V4, 2, 2), 2),
    )
    .build();
    damaged[8] = 9;
    two.in_bytes(node(1), &[damaged]);
    assert_eq!(two.dropped(DropReason::BadChecksum), 1);
}

#[test]
fn a_spent_hop_limit_ends_the_way() {
    both(|family| {
        let (mut one, _) = two_sites();
        let mut bytes = udp((ns_ip(family, 1, 1), 5), (service_ip(family, 2), 80)).build();
        bytes[if is_v4(family) { 8 } else { 7 }] = 0;
        assert_eq!(one.out_bytes(&[bytes]), []);
        assert_eq!(one.dropped(DropReason::TtlExpired), 1);
    });
}

/// Node 2 lost instance 2; node 1 does not know yet. Node 2 says so, node 1 suspects the instance and tells the caller.
#[test]
fn an_instance_that_is_gone_is_reported_back_through_the_tunnel() {
    both(|family| {
        let (mut one, mut two) = two_sites();
        let caller = ns_ip(family, 1, 1);
        let sent = udp((caller, 4000), (service_ip(family, 2), 80));
        let (_, wire) = tunnelled(&one.out(&sent));
        let slot = two
            .writer
            .tables()
            .local(sluice_wire::NsIp::new(wire.dst))
            .unwrap();
        two.writer.withdraw_instance(slot);
        two.publish();
        let (to, told) = tunnelled(&two.inn(node(1), &wire));
        assert_eq!(to, node(1));
        assert_eq!((told.src, told.dst), (gateway_ip(family, 2), caller));
        assert_eq!(two.dropped(DropReason::DestinationNotLocal), 1);
        let host = host_unreachable(family);
        let bytes = error(told.src, told.dst, host, host, &wire.build());
        let seen = delivered(&one.in_bytes(node(2), std::slice::from_ref(&bytes)));
        assert_eq!((seen.src, seen.dst), (service_ip(family, 2), caller));
        let Content::Error { quote, .. } = &seen.content else {
            panic!("{seen:?}");
        };
        assert_eq!((quote.src, quote.dst), (caller, service_ip(family, 2)));
        let told = one.told();
        assert!(
            matches!(
                told[..],
                [Upcall::Suspect {
                    why: Suspicion::Unreachable,
                    ..
                }]
            ),
            "{told:?}"
        );
        assert_eq!(
            one.in_bytes(node(9), &[bytes]),
            [],
            "only from the instance's own node"
        );
    });
}

#[test]
fn a_suspect_takes_no_new_flow_while_another_lives_and_keeps_its_old() {
    both(|family| {
        let (mut one, _) = two_sites();
        let packet = |port| udp((ns_ip(family, 1, 1), port), (service_ip(family, 2), 80));
        let (_, first) = tunnelled(&one.out(&packet(1)));
        let find = |one: &Gateway, ns: Ip| {
            let tables = one.publisher.snapshot();
            tables
                .instances()
                .find(|(_, row)| row.ns_ip.of(family).map(sluice_wire::NsIp::ip) == Some(ns))
                .map(|(slot, _)| slot)
                .unwrap()
        };
        let suspect = find(&one, first.dst);
        one.writer.set_suspect(suspect, true);
        one.publish();
        for port in 2..20 {
            assert_ne!(tunnelled(&one.out(&packet(port))).1.dst, first.dst);
        }
        assert_eq!(tunnelled(&one.out(&packet(1))).1, first);
        for n in 2..5 {
            let slot = find(&one, ns_ip(family, 2, n));
            one.writer.set_suspect(slot, true);
        }
        one.publish();
        tunnelled(&one.out(&packet(50)));
    });
}

#[test]
fn a_withdrawn_instance_resets_connections_and_rebalances_the_rest() {
    both(|family| {
        let (mut one, _) = two_sites();
        let caller = ns_ip(family, 1, 1);
        let dialled = (service_ip(family, 2), 80);
        let (_, by_udp) = tunnelled(&one.out(&udp((caller, 1), dialled)));
        let mut port = 100;
        let mut open_to = |one: &mut Gateway, ns: Ip| loop {
            port += 1;
            let (_, wire) = tunnelled(&one.out(&syn((caller, port), dialled)));
            if wire.dst == ns {
                return port;
            }
        };
        let (lost, again) = (open_to(&mut one, by_udp.dst), open_to(&mut one, by_udp.dst));
        let tables = one.publisher.snapshot();
        let (slot, _) = tables
            .instances()
            .find(|(_, row)| row.ns_ip.of(family).map(sluice_wire::NsIp::ip) == Some(by_udp.dst))
            .unwrap();
        one.writer.withdraw_instance(slot);
        one.publish();
        let (_, moved) = tunnelled(&one.out(&udp((caller, 1), dialled)));
        assert_ne!(moved.dst, by_udp.dst);
        let reset = delivered(&one.out(&tcp((caller, lost), dialled, ACK)));
        assert!(matches!(reset.content, Content::Tcp { flags, .. } if flags & 4 != 0));
        assert_eq!(one.dropped(DropReason::InstanceWithdrawn), 1);
        let (_, moved) = tunnelled(&one.out(&syn((caller, again), dialled)));
        assert_ne!(moved.dst, by_udp.dst);
    });
}

/// Another worker has newer tables and began the flow by them: this one's packet waits for its next turn.
#[test]
fn a_packet_of_a_flow_from_newer_tables_is_held() {
    both(|family| {
        let mut one = alone();
        let servers = one.service(2);
        one.publish();
        let older = one.publisher.snapshot();
        let server = one.place(servers, 2, 2);
        one.writer.set_candidates(servers, &[server]);
        one.publish();
        let sent = udp((ns_ip(family, 1, 1), 5), (service_ip(family, 2), 80));
        tunnelled(&one.out(&sent));
        assert_eq!(one.out_by(&older, &sent).len(), 0);
        assert_eq!((one.account.held.value(), one.drops()), (1, vec![]));
        tunnelled(&one.release());
        assert_eq!((one.account.held.value(), one.drops()), (0, vec![]));
    });
}

/// Pruned from the candidates is not withdrawn.
#[test]
fn a_flow_keeps_an_instance_that_new_flows_may_not_choose() {
    both(|family| {
        let (mut one, _) = two_sites();
        let packet = |port| udp((ns_ip(family, 1, 1), port), (service_ip(family, 2), 80));
        let (_, first) = tunnelled(&one.out(&packet(1)));
        let servers = one.service(2);
        let tables = one.publisher.snapshot();
        let others: Vec<_> = tables
            .service(servers)
            .unwrap()
            .candidates
            .iter()
            .copied()
            .filter(|slot| {
                let row = tables.instance(*slot).unwrap();
                row.ns_ip.of(family).map(sluice_wire::NsIp::ip) != Some(first.dst)
            })
            .collect();
        one.writer.set_candidates(servers, &others);
        one.publish();
        assert_eq!(tunnelled(&one.out(&packet(1))).1, first);
        for port in 2..10 {
            assert_ne!(tunnelled(&one.out(&packet(port))).1.dst, first.dst);
        }
    });
}

/// Location is read from the slot: the flow follows its instance to another node and NsIP, and home to this one.
#[test]
fn a_flow_follows_its_instance() {
    both(|family| {
        let (mut one, _) = two_sites();
        let sent = syn((ns_ip(family, 1, 1), 1), (instance_ip(family, 2), 80));
        let more = ack((ns_ip(family, 1, 1), 1), (instance_ip(family, 2), 80));
        tunnelled(&one.out(&sent));
        let servers = one.service(2);
        one.place_at(servers, 2, 3, node(3), 9);
        one.publish();
        let (to, wire) = tunnelled(&one.out(&more));
        assert_eq!((to, wire.dst), (node(3), ns_ip(family, 3, 9)));
        let answer = ack((instance_ip(family, 2), 80), (ns_ip(family, 1, 1), 1));
        delivered(&one.inn(node(3), &answer));
        assert_eq!(
            one.inn(node(2), &answer),
            [],
            "the old node does not own it any more"
        );
        one.place_at(servers, 2, 1, node(1), 9);
        one.publish();
        assert_eq!(delivered(&one.out(&more)).dst, ns_ip(family, 1, 9));
    });
}

/// Two nodes behind one public address, told apart by the port they expose (thesis figure 4.7).
#[test]
fn two_nodes_behind_one_address_are_two_places() {
    both(|family| {
        let mut one = alone();
        let other_port = Endpoint {
            port: 50104,
            ..node(2)
        };
        let servers = one.service(2);
        one.place_at(servers, 2, 2, node(2), 2);
        one.place_at(servers, 3, 3, other_port, 3);
        one.publish();
        for (n, place) in [(2, node(2)), (3, other_port)] {
            let sent = udp((ns_ip(family, 1, 1), 1), (instance_ip(family, n), 80));
            assert_eq!(tunnelled(&one.out(&sent)).0, place);
            let answer = udp((instance_ip(family, n), 80), (ns_ip(family, 1, 1), 1));
            let nat = Endpoint {
                port: 33333,
                ..place
            };
            delivered(&one.inn(nat, &answer));
        }
    });
}

#[test]
fn an_instance_known_by_identity_only_is_asked_for() {
    both(|family| {
        let mut one = alone();
        let servers = one.service(2);
        let slot = one.place(servers, 2, 2);
        let row = one.writer.tables().instance(slot).unwrap().clone();
        one.writer
            .upsert_instance(sluice_tables::publish::InstanceUpdate {
                service: servers,
                number: 2,
                instance_ip: row.instance_ip,
                ns_ip: row.ns_ip,
                placement: Placement::Nowhere,
                reach: Reach::Any,
            });
        one.publish();
        let dialled = instance_ip(family, 2);
        assert_eq!(one.out(&udp((ns_ip(family, 1, 1), 1), (dialled, 80))), []);
        assert_eq!(one.told(), [Upcall::Ask(Question::Dialled(dialled))]);
        assert_eq!(one.release(), []);
        one.place(servers, 2, 2);
        one.publish();
        assert_eq!(tunnelled(&one.release()).0, node(2));
    });
}

/// It may call us; we may only answer.
#[test]
fn reply_only_allows_replies() {
    both(|family| {
        let mut two = Gateway::new(2);
        let callers = two.service(1);
        two.place_with(callers, 1, 1, node(1), 1, Reach::ReplyOnly);
        let servers = two.service(2);
        two.place(servers, 2, 2);
        two.publish();
        let wire = udp((instance_ip(family, 1), 4000), (ns_ip(family, 2, 2), 80));
        delivered(&two.inn(node(1), &wire));
        tunnelled(&two.out(&udp((wire.dst, 80), (wire.src, 4000))));
        let refused = delivered(&two.out(&udp((wire.dst, 81), (wire.src, 4000))));
        assert!(matches!(refused.content, Content::Error { .. }));
        assert_eq!(two.dropped(DropReason::NotAllowed), 1);
    });
}

/// After a restart of the receiver's gateway the caller's next segment takes the connection up again.
#[test]
fn a_connection_survives_a_restart_of_the_receivers_gateway() {
    both(|family| {
        let (_, mut two) = two_sites();
        let wire = ack((instance_ip(family, 1), 4000), (ns_ip(family, 2, 2), 80));
        delivered(&two.inn(node(1), &wire));
        tunnelled(&two.out(&ack((wire.dst, 80), (wire.src, 4000))));
        for flags in [4, 18] {
            let wire = tcp(
                (instance_ip(family, 1), 4001),
                (ns_ip(family, 2, 2), 80),
                flags,
            );
            assert_eq!(
                two.inn(node(1), &wire),
                [],
                "resets and answers to nothing end here"
            );
        }
        assert_eq!(two.dropped(DropReason::NoSuchConnection), 2);
    });
}

#[test]
fn flows_expire_and_their_last_use_is_noted_once_a_second() {
    both(|family| {
        let (mut one, _) = two_sites();
        let packet = udp((ns_ip(family, 1, 1), 1), (service_ip(family, 2), 80));
        let (_, first) = tunnelled(&one.out(&packet));
        let flow = |one: &Gateway| one.shared.flows().iter_from(0).next();
        assert_eq!(flow(&one).unwrap().state.last_s(), 1000);
        // Used again in another second: no longer a single shot.
        one.wait_ms(1000);
        tunnelled(&one.out(&packet));
        for _ in 0..298 {
            one.wait_ms(1000);
        }
        tunnelled(&one.out(&packet));
        assert_eq!(flow(&one).unwrap().state.last_s(), 1299);
        for _ in 0..300 {
            one.wait_ms(1000);
        }
        assert_eq!(tunnelled(&one.out(&packet)).1, first);
        for _ in 0..302 {
            one.wait_ms(1000);
        }
        assert_eq!(one.shared.flows().live(), 0);
        assert_ne!(tunnelled(&one.out(&packet)).1, first, "balanced anew");
    });
}

#[test]
fn uses_are_noted_where_control_looks() {
    both(|family| {
        let (mut one, _) = two_sites();
        let packet = udp((ns_ip(family, 1, 1), 1), (service_ip(family, 2), 80));
        one.out(&packet);
        one.wait_ms(5000);
        one.out(&packet);
        let tables = one.publisher.snapshot();
        let used: Vec<u32> = tables
            .services()
            .map(|(_, row)| row.used.last_s())
            .collect();
        assert_eq!(used, [0, 1005]);
        let used = tables
            .instances()
            .filter(|(_, row)| row.used.last_s() == 1005)
            .count();
        assert_eq!(used, 2, "caller and receiver");
    });
}

/// A SYN flood from one instance ends at its quota and cannot touch what is established.
#[test]
fn a_syn_flood_cannot_evict_established_flows() {
    both(|family| {
        let limits = sluice_engine::Limits {
            flows_max: 1024,
            embryonic_max: 128,
            embryonic_per_owner_max: 1024,
            seed: Some(1),
            ..small()
        };
        let mut one = Gateway::with(1, &Settings::default(), &limits);
        let callers = one.service(1);
        one.place(callers, 1, 1);
        learn_servers(&mut one);
        let caller = ns_ip(family, 1, 1);
        let dialled = (service_ip(family, 2), 80);
        for port in 1..=200 {
            let (_, wire) = tunnelled(&one.out(&udp((caller, port), dialled)));
            let server = (2..5).find(|&n| ns_ip(family, 2, n) == wire.dst).unwrap();
            delivered(&one.inn(
                node(2),
                &udp((instance_ip(family, server), 80), (caller, port)),
            ));
        }
        assert_eq!(one.shared.flows().embryonic(), 0);
        for port in 1000..5000 {
            tunnelled(&one.out(&syn((caller, port), dialled)));
        }
        let flows = one.shared.flows();
        assert!(flows.embryonic() <= 128, "{}", flows.embryonic());
        assert!(flows.evicted() > 3000);
        let established = flows
            .iter_from(0)
            .filter(|flow| flow.state.is_established());
        assert_eq!(established.count(), 200);
        assert!(flows.is_crowded());
        // Crowded: a SYN whose entry was evicted goes to the same instance again.
        for port in 6000..6010 {
            let (_, first) = tunnelled(&one.out(&syn((caller, port), dialled)));
            for other in 10_000..10_300 {
                one.out(&syn((caller, other), dialled));
            }
            assert_eq!(tunnelled(&one.out(&syn((caller, port), dialled))).1, first);
        }
    });
}

/// A flood of strangers through the tunnel, or of one unknown address, leaves places for everybody else.
#[test]
fn no_question_takes_all_places() {
    both(|family| {
        let (mut one, _) = two_sites();
        for port in 1..=200 {
            one.out(&udp(
                (ns_ip(family, 1, 1), port),
                (service_ip(family, 77), 80),
            ));
        }
        let held = one.account.held.value();
        assert!(
            (4..=64).contains(&held),
            "{held} packets of one question wait"
        );
        for n in 100..=140 {
            for port in 1..=8 {
                one.inn(
                    node(2),
                    &udp((instance_ip(family, n), port), (ns_ip(family, 1, 1), 80)),
                );
            }
        }
        let before = one.account.held.value();
        one.out(&udp((ns_ip(family, 1, 1), 9), (service_ip(family, 78), 80)));
        assert_eq!(one.account.held.value(), before + 1);
    });
}
