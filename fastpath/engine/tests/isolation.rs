//! Calls across namespaces: refused at both gateways, allowed by pairs in one direction, observed, switched off.

mod common;

use common::packet::Content;
use common::{
    Gateway, Packet, ack, both, delivered, gateway_ip, instance_ip, node, ns_ip, other_service_ip,
    service_ip, syn, tunnelled, two_sites, udp,
};
use sluice_engine::Flow;
use sluice_tables::{Isolation, ServiceSlot, Upcall};
use sluice_wire::{DropReason, Family};

/// The services of callers and of servers, as tenants of their own, in a gateway of [`two_sites`].
fn apart(gateway: &mut Gateway, permits: &[(u8, u8)]) -> [ServiceSlot; 2] {
    let slots = [1, 2].map(|n| gateway.service(n));
    gateway.writer.set_tenant(slots[1], 1);
    let slot = |n: u8| slots[usize::from(n - 1)];
    let pairs: Vec<_> = permits
        .iter()
        .map(|(caller, callee)| (slot(*caller), slot(*callee)))
        .collect();
    gateway.writer.set_permits(pairs);
    gateway.publish();
    slots
}

fn is_prohibited(family: Family, packet: &Packet) -> bool {
    let Content::Error { kind, code, .. } = packet.content else {
        return false;
    };
    match family {
        Family::V4 => (kind, code) == (3, 13),
        Family::V6 => (kind, code) == (1, 1),
    }
}

#[test]
fn the_callers_gateway_refuses_and_says_so() {
    both(|family| {
        let (mut one, _) = two_sites();
        apart(&mut one, &[(2, 1)]);
        let caller = (ns_ip(family, 1, 1), 4000);
        for dialled in [
            service_ip(family, 2),
            other_service_ip(family, 2),
            instance_ip(family, 3),
        ] {
            let told = delivered(&one.out(&syn(caller, (dialled, 80))));
            assert!(is_prohibited(family, &told), "{told:?}");
            assert_eq!((told.src, told.dst), (gateway_ip(family, 1), caller.0));
        }
        assert_eq!(one.dropped(DropReason::NotAllowed), 3);
        assert_eq!(one.shared.flows().live(), 0);
        assert_eq!(one.told(), [], "a refusal is no news");
    });
}

#[test]
fn a_permit_is_one_direction_and_replies_pass() {
    both(|family| {
        let (mut one, mut two) = two_sites();
        apart(&mut one, &[(1, 2)]);
        apart(&mut two, &[(1, 2)]);
        let caller = (ns_ip(family, 1, 1), 4000);
        let (_, call) = tunnelled(&one.out(&udp(caller, (service_ip(family, 2), 80))));
        let received = delivered(&two.inn(node(1), &call));
        let answer = udp((received.dst, 80), (received.src, 4000));
        let (_, answer) = tunnelled(&two.out(&answer));
        assert_eq!(
            delivered(&one.inn(node(2), &answer)).src,
            service_ip(family, 2)
        );
        // The one that answers may not call by itself.
        let call = udp((received.dst, 81), (received.src, 4000));
        assert!(is_prohibited(family, &delivered(&two.out(&call))));
        assert_eq!(two.dropped(DropReason::NotAllowed), 1);
    });
}

/// The caller's gateway has other tables, or does not enforce: the receiver's refuses, and the caller hears of it. That
/// casts no suspicion on the instance.
#[test]
fn the_receivers_gateway_refuses_too() {
    both(|family| {
        let (mut one, mut two) = two_sites();
        apart(&mut two, &[(2, 1)]);
        let caller = (ns_ip(family, 1, 1), 4000);
        let dialled = (service_ip(family, 2), 80);
        let (_, call) = tunnelled(&one.out(&syn(caller, dialled)));
        let left = two.carry_all(Some(node(1)), &[call.build()], |_| {});
        let [(Some(to), error)] = left.as_slice() else {
            panic!("{left:?}")
        };
        assert_eq!(*to, node(1));
        assert_eq!(two.dropped(DropReason::NotAllowed), 1);
        assert_eq!(two.shared.flows().live(), 0);
        let told = delivered(&one.in_bytes(node(2), std::slice::from_ref(error)));
        assert!(is_prohibited(family, &told), "{told:?}");
        let Content::Error { quote, .. } = &told.content else {
            panic!("{told:?}")
        };
        assert_eq!((quote.dst, quote.dst_port), dialled);
        assert_eq!(one.told(), []);
    });
}

/// Asked when a flow begins: one that lives goes on until control ends it.
#[test]
fn a_flow_is_judged_once() {
    both(|family| {
        let (mut one, _) = two_sites();
        apart(&mut one, &[(1, 2)]);
        let call = udp((ns_ip(family, 1, 1), 4000), (service_ip(family, 2), 80));
        tunnelled(&one.out(&call));
        apart(&mut one, &[]);
        tunnelled(&one.out(&call));
        let mut ended = Vec::new();
        let tables = one.publisher.snapshot();
        let count = one
            .shared
            .end_forbidden(&tables, |flow| ended.push(flow.forward));
        assert_eq!((count, ended.len()), (1, 1));
        assert!(is_prohibited(family, &delivered(&one.out(&call))));
    });
}

/// Only flows of the pair end, on both sides; TCP is reset at its next segment, whoever sends it.
#[test]
fn a_revoked_permit_ends_the_flows_of_the_pair() {
    both(|family| {
        let (mut one, mut two) = two_sites();
        let callers = apart(&mut one, &[(1, 2)])[0];
        apart(&mut two, &[(1, 2)]);
        // Another service on the caller's node, of the servers' tenant.
        let friends = one.service(3);
        one.place(friends, 9, 1);
        one.writer.set_tenant(friends, 1);
        one.publish();
        let dialled = (instance_ip(family, 2), 80);
        let (caller, friend) = ((ns_ip(family, 1, 1), 4000), (ns_ip(family, 1, 9), 4000));
        let (_, call) = tunnelled(&one.out(&syn(caller, dialled)));
        let received = delivered(&two.inn(node(1), &call));
        tunnelled(&one.out(&udp(friend, dialled)));
        for gateway in [&mut one, &mut two] {
            gateway.writer.set_permits([]);
            gateway.publish();
            let tables = gateway.publisher.snapshot();
            let own = |flow: &Flow| {
                let caller = if flow.state.is_passive() {
                    flow.remote
                } else {
                    flow.local
                };
                assert_eq!(tables.instance(caller.slot).unwrap().service, callers);
            };
            assert_eq!(gateway.shared.end_forbidden(&tables, own), 1);
            assert_eq!(gateway.shared.end_forbidden(&tables, own), 0);
        }
        let reset = delivered(&one.out(&ack(caller, dialled)));
        assert!(matches!(reset.content, Content::Tcp { flags, .. } if flags & 4 != 0));
        let reply = ack((received.dst, 80), (received.src, 4000));
        let reset = delivered(&two.out(&reply));
        assert!(matches!(reset.content, Content::Tcp { flags, .. } if flags & 4 != 0));
        tunnelled(&one.out(&udp(friend, dialled)));
    });
}

#[test]
fn observing_counts_tells_and_lets_pass() {
    both(|family| {
        let (mut one, mut two) = two_sites();
        for gateway in [&mut one, &mut two] {
            apart(gateway, &[]);
            gateway.writer.set_isolation(Isolation::Observe);
            gateway.publish();
        }
        for port in 4000..4003 {
            let caller = (ns_ip(family, 1, 1), port);
            let dialled = (instance_ip(family, 2), 80);
            let (_, call) = tunnelled(&one.out(&udp(caller, dialled)));
            delivered(&two.inn(node(1), &call));
        }
        for gateway in [&one, &two] {
            let told = gateway.told();
            let [Upcall::NotAllowed { caller, callee }] = told.as_slice() else {
                panic!("each pair once a second: {told:?}")
            };
            let tables = gateway.publisher.snapshot();
            let number = |slot| tables.instance(slot).unwrap().number;
            assert_eq!((number(*caller), number(*callee)), (1, 2));
            assert_eq!(gateway.engine.counters().observed.value(), 3);
            assert_eq!(gateway.dropped(DropReason::NotAllowed), 0);
        }
    });
}

#[test]
fn switched_off_nobody_is_told() {
    both(|family| {
        let (mut one, _) = two_sites();
        apart(&mut one, &[]);
        one.writer.set_isolation(Isolation::Off);
        one.publish();
        let caller = (ns_ip(family, 1, 1), 4000);
        tunnelled(&one.out(&udp(caller, (service_ip(family, 2), 80))));
        assert_eq!(one.told(), []);
        assert_eq!(one.engine.counters().observed.value(), 0);
    });
}
