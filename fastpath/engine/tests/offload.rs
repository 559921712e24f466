//! Which flows control is told about, so that the kernel forwards them by itself.

mod common;

use common::{
    Gateway, ack, both, instance_ip, node, ns_ip, service_ip, small, syn, tunnelled, udp,
};
use sluice_engine::Settings;
use sluice_engine::flow::Offloading;
use sluice_memory::{Frame, Gso, GsoKind};
use sluice_tables::Upcall;
use sluice_wire::tcp_flag::{ACK, FIN, SYN};
use sluice_wire::{Family, Ip};

/// Node 1: the caller is instance 1, instance 2 is on node 2 and instance 3 here.
fn gateway(offload: bool) -> Gateway {
    let settings = Settings {
        offload,
        ..Settings::default()
    };
    let mut gateway = Gateway::with(1, &settings, &small());
    let callers = gateway.service(1);
    gateway.place(callers, 1, 1);
    let servers = gateway.service(2);
    let remote = gateway.place(servers, 2, 2);
    gateway.place(servers, 3, 1);
    gateway.writer.set_candidates(servers, &[remote]);
    gateway.publish();
    gateway
}

fn caller(family: Family) -> (Ip, u16) {
    (ns_ip(family, 1, 1), 4000)
}

fn handshake(gateway: &mut Gateway, family: Family) {
    let service = (service_ip(family, 2), 80);
    tunnelled(&gateway.out(&syn(caller(family), service)));
    let answer = common::tcp((instance_ip(family, 2), 80), caller(family), SYN | ACK);
    gateway.inn(node(2), &answer);
    gateway.out(&ack(caller(family), service));
}

/// Sends a segment of 3,000 bytes from the caller, which is one frame, or with `is_super` three.
fn send(gateway: &mut Gateway, family: Family, to: Ip, is_super: bool) {
    let header_len = if family == Family::V4 { 40 } else { 60 };
    let payload = if is_super { 3000 } else { 100 };
    let packet = ack(caller(family), (to, 80)).with_payload(vec![7; payload]);
    let set = |frame: &mut Frame| {
        frame.gso = is_super.then_some(Gso {
            kind: match family {
                Family::V4 => GsoKind::Tcp4,
                Family::V6 => GsoKind::Tcp6,
            },
            segment_size: 1000,
            header_len,
        });
    };
    gateway.carry_all(None, &[packet.build()], set);
}

fn asks(gateway: &Gateway) -> Vec<(u32, u16)> {
    gateway
        .told()
        .into_iter()
        .filter_map(|upcall| match upcall {
            Upcall::Offload { flow, generation } => Some((flow, generation)),
            Upcall::Ask(_)
            | Upcall::Suspect { .. }
            | Upcall::NotAllowed { .. }
            | Upcall::Heard { .. }
            | Upcall::Initiator { .. } => None,
        })
        .collect()
}

/// Once, when it is established and moves a super-frame; again when control has taken it out.
#[test]
fn a_transfer_asks_once() {
    both(|family| {
        let mut gateway = gateway(true);
        handshake(&mut gateway, family);
        let to = service_ip(family, 2);
        send(&mut gateway, family, to, false);
        assert_eq!(asks(&gateway), []);
        send(&mut gateway, family, to, true);
        let asked = asks(&gateway);
        let [(index, generation)] = asked[..] else {
            panic!("{asked:?}");
        };
        let flow = gateway.shared.flows().at(index, generation).unwrap();
        assert_eq!(flow.forward.src, caller(family).0);
        for _ in 0..3 {
            gateway.now = gateway.now.plus_ms(1000);
            send(&mut gateway, family, to, true);
        }
        assert_eq!(asks(&gateway), []);
        assert!(!flow.state.is_offloaded());
        let flows = gateway.shared.flows();
        assert!(flows.set_offloading(&flow, Offloading::Done));
        assert!(flows.at(index, generation).unwrap().state.is_offloaded());
        assert!(flows.set_offloading(&flow, Offloading::No));
        send(&mut gateway, family, to, true);
        assert_eq!(asks(&gateway), [(index, generation)]);
    });
}

/// Without super-frames, a flow that lasts into another second.
#[test]
fn a_lasting_flow_asks() {
    both(|family| {
        let mut gateway = gateway(true);
        let to = (service_ip(family, 2), 53);
        for ms in [0, 100] {
            gateway.now = gateway.now.plus_ms(ms);
            gateway.out(&udp(caller(family), to));
        }
        let answer = udp((instance_ip(family, 2), 53), caller(family));
        gateway.inn(node(2), &answer);
        assert_eq!(asks(&gateway), [], "one question, one answer");
        gateway.now = gateway.now.plus_ms(1000);
        gateway.out(&udp(caller(family), to));
        assert_eq!(asks(&gateway).len(), 1);
    });
}

/// One batch in 8 is looked at: a busy flow need not wait, and each of many short ones is not asked about.
#[test]
fn a_busy_flow_asks_within_a_few_requests() {
    both(|family| {
        let mut gateway = gateway(true);
        let to = (service_ip(family, 2), 53);
        let answer = udp((instance_ip(family, 2), 53), caller(family));
        for _ in 0..3 {
            gateway.out(&udp(caller(family), to));
            gateway.inn(node(2), &answer);
        }
        assert_eq!(asks(&gateway), [], "six batches");
        gateway.out(&udp(caller(family), to));
        gateway.inn(node(2), &answer);
        assert_eq!(asks(&gateway).len(), 1, "eight batches");
        for _ in 0..64 {
            gateway.out(&udp(caller(family), to));
        }
        assert_eq!(asks(&gateway), [], "it asks once");
    });
}

#[test]
fn what_cannot_be_offloaded_does_not_ask() {
    both(|family| {
        let to = service_ip(family, 2);
        let mut switched_off = gateway(false);
        handshake(&mut switched_off, family);
        send(&mut switched_off, family, to, true);
        assert_eq!(asks(&switched_off), []);

        let mut half_open = gateway(true);
        half_open.out(&syn(caller(family), (to, 80)));
        send(&mut half_open, family, to, true);
        assert_eq!(asks(&half_open), []);

        let mut closing = gateway(true);
        handshake(&mut closing, family);
        let fin = common::tcp(caller(family), (to, 80), FIN | ACK);
        closing.out(&fin);
        send(&mut closing, family, to, true);
        assert_eq!(asks(&closing), []);

        let mut beside = gateway(true);
        let near = instance_ip(family, 3);
        beside.out(&udp(caller(family), (near, 53)));
        beside.now = beside.now.plus_ms(1000);
        beside.out(&udp(caller(family), (near, 53)));
        assert_eq!(asks(&beside), []);
    });
}

/// What went by in the kernel keeps the flow alive, and never makes it older.
#[test]
fn packets_seen_elsewhere_count_as_uses() {
    let mut gateway = gateway(true);
    handshake(&mut gateway, Family::V4);
    send(&mut gateway, Family::V4, service_ip(Family::V4, 2), true);
    let [(index, generation)] = asks(&gateway)[..] else {
        panic!("asked once");
    };
    let flows = gateway.shared.flows();
    let flow = flows.at(index, generation).unwrap();
    let last_s = || flows.at(index, generation).unwrap().state.last_s();
    let before = last_s();
    flows.seen(&flow, before + 7);
    assert_eq!(last_s(), before + 7);
    flows.seen(&flow, before + 2);
    assert_eq!(last_s(), before + 7);
}
