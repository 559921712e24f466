//! Who may send, and who may receive: forged sources, loops, garbage, and first-time callers.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests, where a panic is the message"
)]

mod common;

use common::*;
use sluice_memory::Endpoint;
use sluice_tables::{Reach, Suspicion, Upcall};
use sluice_wire::{DropReason, Family, Ip};

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
