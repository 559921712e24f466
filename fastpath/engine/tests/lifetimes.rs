//! A flow and its instances: gone, suspect, withdrawn, moved, idle, or pushed aside by a flood.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests, where a panic is the message"
)]

mod common;

use common::packet::{ACK, error};
use common::*;
use sluice_engine::Settings;
use sluice_memory::Endpoint;
use sluice_tables::{Suspicion, Upcall};
use sluice_wire::{DropReason, Ip};

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
