//! The shortcut decides what the stages decide: two gateways see the same, and one of them traces every packet, which
//! sends it the long way.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "helpers of tests, where a panic is the message"
)]

mod common;

use common::packet::{ACK, FIN, RST, SYN, tcp};
use common::*;
use sluice_engine::Flow;
use sluice_engine::trace::Filter;
use sluice_memory::{Checksum, Endpoint, Frame, Gso, GsoKind};
use sluice_tables::InstanceSlot;
use sluice_wire::{Family, checksum, parse};

/// What happens next.
#[derive(Clone, Debug, bolero::TypeGenerator)]
enum Step {
    Send(Vec<Sent>),
    Receive { node: u8, packets: Vec<Sent> },
    Wait { ms: u16 },
    Withdraw { instance: u8 },
    Move { instance: u8, node: u8 },
}

/// One packet. Few ports and instances, so that flows are met again.
#[derive(Clone, Debug, bolero::TypeGenerator)]
struct Sent {
    is_v6: bool,
    is_tcp: bool,
    flags: u8,
    instance: u8,
    port: u8,
    /// Outbound: 0 dials the service, 1 its other address, 2 the instance; inbound: the caller, or nobody.
    to: u8,
    len: u8,
    is_partial: bool,
    is_super: bool,
    has_options: bool,
    damage: Option<(u8, u8)>,
}

const SERVER_PORT: u16 = 80;

impl Sent {
    fn bytes(&self, outbound: bool) -> Vec<u8> {
        let family = if self.is_v6 { Family::V6 } else { Family::V4 };
        // 2, 3 and 4 begin on node 2; 5 beside the caller, 1.
        let instance = 2 + self.instance % 4;
        let caller = (ns_ip(family, 1, 1), 4000 + u16::from(self.port % 3));
        let (src, dst) = if outbound {
            let to = match self.to % 3 {
                0 => service_ip(family, 2),
                1 => other_service_ip(family, 2),
                _ => instance_ip(family, instance),
            };
            (caller, (to, SERVER_PORT))
        } else {
            let nobody = (ns_ip(family, 1, 9), caller.1);
            let to = if self.to.is_multiple_of(8) {
                nobody
            } else {
                caller
            };
            ((instance_ip(family, instance), SERVER_PORT), to)
        };
        let payload = vec![self.len; usize::from(self.len) * 7];
        let packet = if self.is_tcp {
            let flags = [SYN, ACK, ACK, ACK, SYN | ACK, FIN | ACK, RST, 0];
            tcp(src, dst, flags[usize::from(self.flags % 8)]).with_payload(payload)
        } else {
            udp(src, dst).with_payload(payload)
        };
        let mut bytes = if self.has_options {
            packet.with_mss(1460).build()
        } else {
            packet.build()
        };
        if let Some((at, value)) = self.damage
            && let Some(byte) = bytes.get_mut(usize::from(at))
        {
            *byte = value;
        }
        bytes
    }

    /// The link's metadata, consistent with the bytes where they can be parsed.
    fn set(&self, frame: &mut Frame) {
        let Ok(packet) = parse(frame.bytes()) else {
            return;
        };
        if self.is_partial
            && let Some(offset) = packet.checksum_offset()
        {
            checksum::partial_l4(frame.bytes_mut(), &packet);
            frame.checksum = Checksum::Partial {
                start: packet.l3_len,
                offset: u16::try_from(offset).unwrap() - packet.l3_len,
            };
        }
        if self.is_super && packet.payload_len() > 100 {
            frame.gso = Some(Gso {
                kind: match (packet.tcp_flags, packet.family) {
                    (0, _) => GsoKind::Udp,
                    (_, Family::V4) => GsoKind::Tcp4,
                    (_, Family::V6) => GsoKind::Tcp6,
                },
                segment_size: 100,
                header_len: u16::try_from(packet.header_len()).unwrap(),
            });
        }
    }
}

/// A gateway with an instance of the service beside the caller, and the slots by instance number.
fn site(traced: bool) -> (Gateway, Vec<InstanceSlot>) {
    let mut gateway = Gateway::new(1);
    let callers = gateway.service(1);
    gateway.place(callers, 1, 1);
    let servers = gateway.service(2);
    let slots: Vec<InstanceSlot> = (2..6)
        .map(|n| gateway.place(servers, n, if n == 5 { 1 } else { 2 }))
        .collect();
    gateway.writer.set_candidates(servers, &slots);
    gateway.publish();
    if traced {
        gateway.shared.tracer().start(Filter {
            count: u64::MAX,
            ..Filter::default()
        });
    }
    (gateway, slots)
}

/// Takes one step; what left.
fn take(
    step: &Step,
    gateway: &mut Gateway,
    slots: &[InstanceSlot],
) -> Vec<(Option<Endpoint>, Vec<u8>)> {
    match step {
        Step::Send(packets) => carry(gateway, None, packets),
        Step::Receive { node, packets } => {
            let from = Endpoint {
                port: 9,
                ..common::node(2 + node % 2)
            };
            carry(gateway, Some(from), packets)
        }
        Step::Wait { ms } => {
            gateway.wait_quietly(u64::from(*ms));
            Vec::new()
        }
        Step::Withdraw { instance } => {
            let slot = slots[usize::from(*instance) % slots.len()];
            gateway.writer.withdraw_instance(slot);
            gateway.publish();
            Vec::new()
        }
        Step::Move { instance, node } => {
            let service = gateway.service(2);
            gateway.place(service, 2 + instance % 4, 1 + node % 3);
            gateway.publish();
            Vec::new()
        }
    }
}

fn carry(
    gateway: &mut Gateway,
    from: Option<Endpoint>,
    packets: &[Sent],
) -> Vec<(Option<Endpoint>, Vec<u8>)> {
    let mut left = Vec::new();
    for some in packets.chunks(sluice_memory::BATCH_MAX) {
        let bytes: Vec<_> = some.iter().map(|sent| sent.bytes(from.is_none())).collect();
        let at = std::cell::Cell::new(0);
        left.extend(gateway.carry_all(from, &bytes, |frame| {
            some[at.replace(at.get() + 1)].set(frame)
        }));
    }
    left
}

fn flows(gateway: &Gateway) -> Vec<Flow> {
    gateway.shared.flows().iter_from(0).collect()
}

fn both_ways(steps: &[Step]) {
    let (mut quick, slots) = site(false);
    let (mut traced, _) = site(true);
    for step in steps {
        let left = take(step, &mut quick, &slots);
        assert_eq!(left, take(step, &mut traced, &slots), "after {step:?}");
        assert_eq!(quick.drops(), traced.drops(), "after {step:?}");
        assert_eq!(flows(&quick), flows(&traced), "after {step:?}");
        assert_eq!(quick.told(), traced.told(), "after {step:?}");
        let used = |gateway: &Gateway| -> Vec<u32> {
            let tables = gateway.publisher.snapshot();
            let instances = tables.instances().map(|(_, row)| row.used.last_s());
            let services = tables.services().map(|(_, row)| row.used.last_s());
            instances.chain(services).collect()
        };
        assert_eq!(used(&quick), used(&traced), "after {step:?}");
    }
}

#[test]
fn the_shortcut_is_the_long_way() {
    bolero::check!()
        .with_type::<Vec<Step>>()
        .with_max_len(4096)
        .with_iterations(100)
        .for_each(|steps| both_ways(steps));
}

/// The same without chance: every kind of packet on a flow that is established, idle for a second, moved and withdrawn.
#[test]
fn a_flow_has_the_same_life_both_ways() {
    for bits in 0..64_u8 {
        let sent = |flags, is_partial, is_super| Sent {
            is_v6: bits & 1 != 0,
            is_tcp: bits & 2 != 0,
            flags,
            instance: if bits & 4 != 0 { 3 } else { 0 },
            port: 0,
            to: 2,
            len: if bits & 8 != 0 { 255 } else { 40 },
            is_partial,
            is_super,
            has_options: false,
            damage: None,
        };
        let all = |flags: &[u8]| -> Vec<Sent> {
            let partial = [false, true].into_iter();
            let each = partial.flat_map(|partial| [(partial, false), (partial, true)]);
            each.flat_map(|(partial, big)| flags.iter().map(move |&flag| sent(flag, partial, big)))
                .collect()
        };
        let answers = |flags: &[u8]| Step::Receive {
            node: 0,
            packets: all(flags),
        };
        let long = bits & 16 != 0;
        both_ways(&[
            Step::Send(vec![sent(0, false, false)]),
            answers(&[4]),
            Step::Send(all(&[1, 1])),
            answers(&[1, 1]),
            Step::Wait {
                ms: if long { 1500 } else { 10 },
            },
            Step::Send(all(&[1])),
            answers(&[1]),
            Step::Receive {
                node: 1,
                packets: all(&[1]),
            },
            Step::Move {
                instance: bits >> 2 & 3,
                node: bits >> 4,
            },
            Step::Send(all(&[1])),
            answers(&[1]),
            Step::Send(all(&[5])),
            Step::Withdraw {
                instance: 3 * (bits >> 2 & 1),
            },
            // Its slot is used again: by itself, as another instance.
            Step::Move {
                instance: 3 * (bits >> 2 & 1),
                node: 1,
            },
            Step::Send(all(&[1, 0])),
            answers(&[1]),
        ]);
    }
}
