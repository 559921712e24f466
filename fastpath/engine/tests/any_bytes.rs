//! Whatever arrives, nothing panics, nothing is lost, and the account balances; and what a trace tells.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "helpers of tests, where a panic is the message"
)]

mod common;

use common::packet::{error, fragments};
use common::*;
use sluice_engine::trace::Filter;
use sluice_wire::{Family, Protocol};

/// One packet, and how its bytes are damaged.
#[derive(Clone, Debug, bolero::TypeGenerator)]
struct Damaged {
    template: u8,
    outbound: bool,
    changes: Vec<(u8, u8)>,
    len: Option<u16>,
    raw: Option<Vec<u8>>,
    wait_ms: u16,
}

fn templates() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for family in FAMILIES {
        let outbound = ((ns_ip(family, 1, 1), 4000), (service_ip(family, 2), 80));
        let inbound = ((instance_ip(family, 2), 80), (ns_ip(family, 1, 1), 4000));
        for (src, dst) in [outbound, inbound] {
            let datagram = udp(src, dst).with_payload(vec![1; 60]);
            all.push(datagram.build());
            all.push(syn(src, dst).with_mss(1460).build());
            all.push(ack(src, dst).build());
            all.push(echo(src.0, dst.0, 4, true).build());
            all.extend(fragments(&datagram, 3, 32));
            let about = udp((dst.0, dst.1), (src.0, src.1)).build();
            all.push(error(src.0, dst.0, (3, 1), (1, 3), &about));
            all.push(error(gateway_ip(family, 2), dst.0, (3, 1), (1, 3), &about));
        }
    }
    all
}

#[test]
fn any_bytes_end_somewhere() {
    let templates = templates();
    bolero::check!()
        .with_type::<Vec<Damaged>>()
        .with_max_len(2048)
        .for_each(|packets| {
            let (mut one, _) = two_sites();
            for packet in packets {
                let mut bytes = match &packet.raw {
                    Some(raw) => raw.clone(),
                    None => templates[usize::from(packet.template) % templates.len()].clone(),
                };
                for &(at, value) in &packet.changes {
                    if let Some(byte) = bytes.get_mut(usize::from(at)) {
                        *byte = value;
                    }
                }
                if let Some(len) = packet.len {
                    bytes.truncate(usize::from(len));
                }
                one.carry(packet.outbound, &bytes);
                one.wait_quietly(u64::from(packet.wait_ms));
            }
            one.wait_quietly(10_000);
            assert_eq!(one.account.held.value(), 0);
            assert_eq!(one.pool.outstanding(), 0, "every buffer came back");
        });
}

/// The stages in the order in which the packet met them, with what each decided.
#[test]
fn a_traced_packet_tells_its_way() {
    let (mut one, mut two) = two_sites();
    let family = Family::V4;
    let filter = Filter {
        port: Some(4000),
        protocol: Some(Protocol::Udp),
        count: 1,
        ..Filter::default()
    };
    one.shared.tracer().start(filter);
    two.shared.tracer().start(filter);
    let said = |gateway: &Gateway| -> Vec<&'static str> {
        std::iter::from_fn(|| gateway.shared.tracer().pop())
            .map(|record| record.decision.stage())
            .collect()
    };
    one.out(&udp(
        (ns_ip(family, 1, 1), 3999),
        (service_ip(family, 2), 80),
    ));
    assert_eq!(said(&one), [""; 0], "not the one asked for");
    let (_, wire) = tunnelled(&one.out(&udp(
        (ns_ip(family, 1, 1), 4000),
        (service_ip(family, 2), 80),
    )));
    assert_eq!(said(&one), ["parse", "select", "encap"]);
    delivered(&two.inn(node(1), &wire));
    assert_eq!(said(&two), ["parse", "admit", "accept", "deliver"]);
    assert_eq!(one.shared.tracer().left(), 0);
}
