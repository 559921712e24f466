//! Calls across namespaces: refused at both gateways, allowed by pairs in one direction, observed, switched off.

mod common;

use common::packet::Content;
use common::{
    Gateway, Packet, ack, both, delivered, gateway_ip, instance_ip, node, ns_ip, other_service_ip,
    service_ip, syn, tunnelled, two_sites, udp,
};
use sluice_engine::Flow;
use sluice_tables::{Isolation, Question, ServiceSlot, Upcall};
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

/// The rules of the caller's service, then those of the called one, are on their way.
#[test]
fn a_call_that_no_rule_allows_yet_waits_for_the_rules() {
    both(|family| {
        for newcomer in [0, 1] {
            let (mut one, _) = two_sites();
            let slots = apart(&mut one, &[]);
            let awaits = slots[newcomer];
            let caller = ns_ip(family, 1, 1);
            for (port, dialled) in [
                (4000, service_ip(family, 2)),
                (4001, other_service_ip(family, 2)),
                (4002, instance_ip(family, 3)),
            ] {
                one.writer.set_awaits_rules(awaits, true);
                one.publish();
                let call = udp((caller, port), (dialled, 80));
                assert_eq!(one.out(&call), []);
                assert_eq!(one.told(), [Upcall::Ask(Question::Rules(awaits))]);
                // Other news change nothing.
                assert_eq!(one.release(), []);
                one.writer.set_awaits_rules(awaits, false);
                one.writer.set_permits([(slots[0], slots[1])]);
                one.publish();
                tunnelled(&one.release());
                // The next one waits again, and no rule comes.
                one.writer.set_awaits_rules(awaits, true);
                one.writer.set_permits([]);
                one.publish();
                let call = udp((caller, port + 100), (dialled, 80));
                assert_eq!(one.out(&call), []);
                one.writer.set_awaits_rules(awaits, false);
                one.publish();
                assert!(is_prohibited(family, &delivered(&one.release())));
                one.now = one.now.plus_ms(1_000);
                one.told();
            }
            assert_eq!(one.drops(), [("not-allowed", 3)]);
        }
    });
}

#[test]
fn a_call_from_elsewhere_waits_for_the_rules_of_the_called_service() {
    both(|family| {
        let (mut one, mut two) = two_sites();
        apart(&mut one, &[(1, 2)]);
        let slots = apart(&mut two, &[]);
        let dialled = (service_ip(family, 2), 80);
        for (port, permits) in [(4000, vec![(slots[0], slots[1])]), (4001, vec![])] {
            two.writer.set_awaits_rules(slots[1], true);
            two.writer.set_permits([]);
            two.publish();
            let (_, call) = tunnelled(&one.out(&udp((ns_ip(family, 1, 1), port), dialled)));
            assert_eq!(two.inn(node(1), &call), []);
            assert_eq!(two.told(), [Upcall::Ask(Question::Rules(slots[1]))]);
            assert_eq!(two.account.held.value(), 1);
            let is_allowed = !permits.is_empty();
            two.writer.set_awaits_rules(slots[1], false);
            two.writer.set_permits(permits);
            two.publish();
            let left = two.release();
            if is_allowed {
                assert_eq!(delivered(&left), call);
            } else {
                assert!(is_prohibited(family, &tunnelled(&left).1));
            }
            two.now = two.now.plus_ms(1_000);
        }
        assert_eq!(two.drops(), [("not-allowed", 1)]);
    });
}

/// What may be without them does not: the same tenant, and where rules are not enforced.
#[test]
fn only_what_would_be_refused_waits_for_rules() {
    both(|family| {
        let dialled = (service_ip(family, 2), 80);
        let call = udp((ns_ip(family, 1, 1), 4000), dialled);
        for isolation in [Isolation::Enforce, Isolation::Observe, Isolation::Off] {
            let (mut one, _) = two_sites();
            let slots = if isolation == Isolation::Enforce {
                [1, 2].map(|n| one.service(n))
            } else {
                apart(&mut one, &[])
            };
            for slot in slots {
                one.writer.set_awaits_rules(slot, true);
            }
            one.writer.set_isolation(isolation);
            one.publish();
            tunnelled(&one.out(&call));
        }
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
