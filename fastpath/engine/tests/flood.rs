//! Five million pairs of ports by one instance, and by one peer: everybody's established flows stay where they are.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests, where a panic is the message"
)]

mod common;

use common::packet::ACK;
use common::*;
use sluice_engine::flow::{Inserted, Pin, Table};
use sluice_engine::{Flow, Limits, Settings, State, Timeouts};
use sluice_tables::slots::Slot;
use sluice_tables::{InstanceSlot, PeerSlot};
use sluice_wire::{DropReason, Family, FlowKey, InstanceIp, Ip, Protocol};

const PAIRS: u32 = 5_000_000;
/// What one owner may have begun: a quarter of an eighth of the table.
const QUOTA: u32 = FLOWS_MAX / 32;
const FLOWS_MAX: u32 = 1 << 16;
/// Established flows of the flooder, and as many of another instance or peer.
const ESTABLISHED: u32 = 500;

fn limits() -> Limits {
    Limits {
        flows_max: FLOWS_MAX,
        seed: Some(1),
        fragments_max: 64,
        ..Limits::default()
    }
}

/// Flow `number` between an instance of this node and one of a peer, begun by either.
fn flow(number: u32, local: u32, peer: u32, passive: bool) -> Flow {
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    let [src_port, dst_port] = [number as u16, (number >> 16) as u16];
    let ip = |kind: u8, of: u32| Ip::v4([10, 30, kind, u8::try_from(of).unwrap()]);
    let pin = |slot| Pin {
        slot: InstanceSlot::from_index(slot),
        epoch: 1,
    };
    Flow {
        forward: FlowKey {
            src: ip(1, local),
            dst: ip(2, peer),
            src_port,
            dst_port,
            protocol: Protocol::Tcp.key(),
        },
        remote_ip: InstanceIp::new(ip(3, peer)),
        wire_src_port: src_port,
        wire_dst_port: dst_port,
        local: pin(local),
        remote: pin(100 + peer),
        service: None,
        peer: Some(PeerSlot::from_index(peer)),
        created_s: 1,
        state: State::new(Protocol::Tcp, passive, 1),
        index: 0,
    }
}

/// A number without pattern (splitmix64).
fn random(seed: u32) -> u64 {
    let mut mixed = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// The flow table alone: the flooder has its quota, and nothing else changes however long the flood lasts.
#[test]
fn five_million_pairs_take_the_quota_and_no_more() {
    for passive in [false, true] {
        let table = Table::new(&limits()).unwrap();
        let insert = |flow: &Flow, seed: u32| table.insert(flow, random(seed));
        let mut kept = Vec::new();
        for number in 0..ESTABLISHED {
            for owner in [1, 2] {
                let begun = flow(PAIRS + number, owner, owner, passive);
                let Inserted::Created(mut flow) = insert(&begun, number) else {
                    panic!("an empty table has room");
                };
                for outbound in [!passive, passive, !passive] {
                    table.update(&flow, outbound, ACK, 1);
                    flow = table.find_forward(&flow.forward).unwrap().unwrap();
                }
                assert!(flow.state.is_established());
                kept.push(flow);
            }
        }
        let (mut created, mut refused) = (0, 0);
        for number in 0..PAIRS {
            match insert(&flow(number, 1, 1, passive), number) {
                Inserted::Created(_) => created += 1,
                Inserted::Quota => refused += 1,
                other => panic!("{other:?} for pair {number}"),
            }
        }
        assert_eq!((created, refused), (QUOTA, PAIRS - QUOTA));
        assert_eq!(
            (table.evicted(), table.used()),
            (0, 2 * ESTABLISHED + QUOTA)
        );
        for flow in &kept {
            assert_eq!(table.find_forward(&flow.forward), Ok(Some(*flow)));
            assert_eq!(table.find_reverse(&flow.reverse()), Ok(Some(*flow)));
        }
        // Others begin as before, in the crowd of embryonic flows.
        let Inserted::Created(other) = insert(&flow(PAIRS, 3, 3, passive), 0) else {
            panic!("another owner has a quota of its own");
        };
        assert_eq!(table.evicted(), 0);
        // Once the flood's flows have timed out, the flooder begins anew, and in the same memory.
        let idle_s = Timeouts::default().tcp_embryonic_s + 2;
        assert_eq!(
            table.sweep(table.used(), &Timeouts::default(), idle_s, |_| true),
            QUOTA + 1
        );
        assert_eq!(table.find_forward(&other.forward), Ok(None));
        assert!(matches!(
            insert(&flow(PAIRS + ESTABLISHED, 1, 1, passive), 0),
            Inserted::Created(_)
        ));
        assert_eq!(table.used(), 2 * ESTABLISHED + QUOTA + 1);
    }
}

/// A SYN towards each pair of `pairs`, whose addresses are those of `packet`.
fn syns(packet: &Packet, pairs: std::ops::Range<u16>) -> Vec<Vec<u8>> {
    pairs
        .map(|port| syn((packet.src, port), (packet.dst, 81)).build())
        .collect()
}

/// The whole path, both ways in: the quota is the reason named, and established connections, also the flooder's own, go to
/// the instances they went to before.
#[test]
fn established_connections_keep_their_instances_under_a_flood() {
    both(|family| {
        by_an_instance(family);
        by_a_peer(family);
    });
}

fn flooded_site(node: u8) -> Gateway {
    let mut gateway = Gateway::with(node, &Settings::default(), &limits());
    let callers = gateway.service(1);
    for n in [1, 2] {
        gateway.place(callers, n, 1);
    }
    let servers = gateway.service(2);
    let slots: Vec<InstanceSlot> = (3..6).map(|n| gateway.place(servers, n, 2)).collect();
    gateway.writer.set_candidates(servers, &slots);
    gateway.publish();
    gateway
}

fn by_an_instance(family: Family) {
    let mut one = flooded_site(1);
    let dialled = (service_ip(family, 2), 80);
    let callers = [1, 2].map(|n| ns_ip(family, 1, n));
    let mut kept = Vec::new();
    for port in 1..=100 {
        for caller in callers {
            let packet = |flags| tcp((caller, port), dialled, flags);
            let (_, first) = tunnelled(&one.out(&syn((caller, port), dialled)));
            let server = (3..6).find(|&n| ns_ip(family, 2, n) == first.dst).unwrap();
            let answer = tcp((instance_ip(family, server), 80), (caller, port), ACK | 2);
            delivered(&one.inn(node(2), &answer));
            tunnelled(&one.out(&packet(ACK)));
            kept.push((packet(ACK), first.dst));
        }
    }
    let flood = syns(&syn((callers[0], 0), (dialled.0, 0)), 1000..61_000);
    let begun = one.out_bytes(&flood).len();
    assert_eq!(begun, QUOTA as usize);
    check(&mut one, flood.len() - begun);
    for (packet, instance) in kept {
        assert_eq!(tunnelled(&one.out(&packet)).1.dst, instance);
    }
    // The other caller may begin.
    tunnelled(&one.out(&syn((callers[1], 5000), dialled)));
}

fn by_a_peer(family: Family) {
    let mut two = flooded_site(2);
    let server = (ns_ip(family, 2, 3), 80);
    let callers = [1, 2].map(|n| instance_ip(family, n));
    let mut kept = Vec::new();
    for port in 1..=100 {
        for caller in callers {
            let packet = tcp((caller, port), server, ACK);
            delivered(&two.inn(node(1), &syn((caller, port), server)));
            tunnelled(&two.out(&tcp(server, (caller, port), ACK | 2)));
            let first = delivered(&two.inn(node(1), &packet));
            kept.push((packet, first));
        }
    }
    let flood = syns(&syn((callers[0], 0), (server.0, 0)), 1000..61_000);
    let begun = two.in_bytes(node(1), &flood).len();
    assert_eq!(begun, QUOTA as usize);
    check(&mut two, flood.len() - begun);
    for (packet, first) in kept {
        assert_eq!(delivered(&two.inn(node(1), &packet)), first);
    }
}

fn check(flooded: &mut Gateway, refused: usize) {
    assert_eq!(flooded.dropped(DropReason::FlowQuota), refused as u64);
    assert_eq!(flooded.shared.flows().evicted(), 0);
    assert_eq!(flooded.shared.flows().used(), 200 + QUOTA);
}
