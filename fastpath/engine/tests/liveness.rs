//! How other gateways find out that this one lives, and how it notices them.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "helpers of tests, where a panic is the message"
)]

mod common;

use common::*;
use sluice_memory::Endpoint;
use sluice_tables::Upcall;
use sluice_wire::{DropReason, Family};

fn probe(family: Family, to: u8) -> Packet {
    echo(gateway_ip(family, 9), gateway_ip(family, to), 7, true)
}

/// The prober's socket is not the tunnel's.
fn prober() -> Endpoint {
    Endpoint {
        port: 40_000,
        ..node(9)
    }
}

#[test]
fn a_gateway_answers_another_ones_echo_where_it_came_from() {
    both(|family| {
        let mut one = Gateway::new(1);
        one.publish();
        let left = one.inn(prober(), &probe(family, 1));
        let reply = echo(gateway_ip(family, 1), gateway_ip(family, 9), 7, false);
        assert_eq!(left, [Left::To(prober(), reply)]);
        assert_eq!(one.drops(), vec![]);
        assert!(one.told().is_empty(), "nobody is asked who that was");
    });
}

#[test]
fn echo_for_others_or_by_others_is_not_the_gateways() {
    both(|family| {
        let mut one = Gateway::new(1);
        one.publish();
        assert_eq!(one.inn(prober(), &probe(family, 2)), []);
        let foreign = echo(instance_ip(family, 3), gateway_ip(family, 1), 7, true);
        assert_eq!(one.inn(prober(), &foreign), []);
    });
}

#[test]
fn a_flood_of_echo_is_limited_per_address() {
    let mut one = Gateway::new(1);
    one.publish();
    let answered = (0..300)
        .filter(|_| !one.inn(prober(), &probe(Family::V4, 1)).is_empty())
        .count();
    assert!(answered < 150, "{answered} of 300 at once");
    assert_eq!(one.dropped(DropReason::SourceLimit), 300 - answered as u64);
}

/// Batches are sampled, so several are sent; of two nodes at one address only the one that spoke is heard.
#[test]
fn the_node_that_sends_is_heard() {
    let (_, mut two) = two_sites();
    let one = node(1);
    let other = two.writer.upsert_peer(
        one.ip,
        one.port + 1,
        sluice_tables::TunnelFormat::Plain,
        1450,
    );
    two.publish();
    let tables = two.publisher.snapshot();
    let slot = tables.peers_at(one.ip)[0];
    let heard = |slot| tables.peer(slot).unwrap().heard.last_ns();
    assert_eq!((heard(slot), heard(other)), (0, 0));
    for port in 0..16 {
        let packet = udp(
            (instance_ip(Family::V4, 1), 1000 + port),
            (ns_ip(Family::V4, 2, 2), 80),
        );
        two.inn(one, &packet);
    }
    let now_ns = two.now.ns;
    assert!(heard(slot) > now_ns - 100_000_000 && heard(slot) <= now_ns);
    assert_eq!(heard(other), 0);
}

/// Its flows stay with a suspect; when it speaks, control hears of it, once a second.
#[test]
fn a_suspect_that_speaks_is_told_to_control() {
    both(|family| {
        let (_, mut two) = two_sites();
        let tables = two.publisher.snapshot();
        let slot = tables
            .instances()
            .find(|(_, row)| {
                row.instance_ip.of(family).map(|ip| ip.ip()) == Some(instance_ip(family, 1))
            })
            .unwrap()
            .0;
        let packet = |port| udp((instance_ip(family, 1), port), (ns_ip(family, 2, 2), 80));
        delivered(&two.inn(node(1), &packet(1)));
        assert_eq!(two.told(), [], "nothing is new about who is trusted");
        two.writer.set_suspect(slot, true);
        two.publish();
        for port in 2..20 {
            delivered(&two.inn(node(1), &packet(port)));
        }
        let told = two.told();
        assert!(told.contains(&Upcall::Heard { instance: slot }), "{told:?}");
        assert!(told.len() <= 2, "{told:?}");
    });
}
