//! What the tables do not know is held and asked for; what cannot be reached is refused, and its caller told.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests, where a panic is the message"
)]

mod common;

use common::*;
use sluice_engine::Settings;
use sluice_tables::{Known, Placement, Question, Reach, Upcall};
use sluice_wire::{DropReason, Ip};

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
