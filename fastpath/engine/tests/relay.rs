//! An instance moved and its caller's node has not heard: what comes to the old node is sent on, and answers come back
//! the same way, until the callers' nodes know, or the old node has done it for long enough.

mod common;

use common::packet::{Content, error, fragments};
use common::{
    FAMILIES, Gateway, Packet, ack, both, delivered, dual, echo, instance_ip, node, ns_ip,
    service_ip, syn, tcp, tunnelled, udp,
};
use sluice_memory::{Endpoint, Gso, GsoKind};
use sluice_tables::{InstanceSlot, Suspicion, TunnelFormat, Upcall};
use sluice_wire::tcp_flag::{ACK, RST, SYN};
use sluice_wire::{DropReason, Family, Ip, NsIp};

/// The caller is instance 1 on node 1. Instance 2 ran on node 2 under NsIP 2; wherever it goes, it gets the next NsIP.
struct Sites {
    gateways: Vec<Gateway>,
    servers: Vec<InstanceSlot>,
}

const CALLER: u8 = 1;
const SERVER: u8 = 2;
const PORT: u16 = 80;

impl Sites {
    fn new() -> Self {
        let (mut gateways, mut servers) = (Vec::new(), Vec::new());
        for at in 1..=4 {
            let mut gateway = Gateway::new(at);
            let callers = gateway.service(1);
            gateway.place(callers, CALLER, 1);
            let service = gateway.service(2);
            let server = gateway.place(service, SERVER, 2);
            gateway.writer.set_candidates(service, &[server]);
            gateway.publish();
            gateways.push(gateway);
            servers.push(server);
        }
        Self { gateways, servers }
    }

    fn at(&mut self, node: u8) -> &mut Gateway {
        &mut self.gateways[usize::from(node) - 1]
    }

    /// Node `at` hears that the server is on `place` under NsIP `ns`.
    fn tell(&mut self, at: u8, place: u8, ns: u8) {
        let gateway = self.at(at);
        let service = gateway.service(2);
        gateway.place_at(service, SERVER, place, node(place), ns);
        gateway.publish();
    }

    /// The server leaves `from`, where it had NsIP `old`, for `to`; only these two and `told` hear of it.
    fn move_on(&mut self, (from, old): (u8, u8), (to, new): (u8, u8), told: &[u8]) {
        for at in [from, to].iter().chain(told) {
            self.tell(*at, to, new);
        }
        let server = self.servers[usize::from(from) - 1];
        let left = dual(|family| NsIp::new(ns_ip(family, from, old)));
        let gateway = self.at(from);
        gateway.writer.set_left(left, server);
        gateway.publish();
        self.comes_from(to, &[from]);
    }

    fn comes_from(&mut self, at: u8, from: &[u8]) {
        let server = self.servers[usize::from(at) - 1];
        let gateway = self.at(at);
        let peers = from.iter().map(|from| {
            let Endpoint { ip, port } = node(*from);
            gateway
                .writer
                .upsert_peer(ip, port, TunnelFormat::Plain, 1450)
        });
        let peers = peers.collect();
        gateway.writer.set_came(server, peers);
        gateway.publish();
    }

    /// Carries what left a node on until it is delivered or gone: the nodes it came to, and what was delivered.
    fn carry(&mut self, from: u8, mut left: Vec<Frame>) -> (Vec<u8>, Option<Packet>) {
        let (mut way, mut from) = (Vec::new(), from);
        loop {
            match &left[..] {
                [] => return (way, None),
                [(None, bytes)] => return (way, Some(Packet::read(bytes))),
                [(Some(to), bytes)] => {
                    assert!(way.len() < 12, "it goes round: {way:?}");
                    let (at, bytes) = (to.ip.octets_v4()[3], bytes.clone());
                    way.push(at);
                    left = self.at(at).carry_all(Some(node(from)), &[bytes], |_| {});
                    from = at;
                }
                more => panic!("one packet expected: {more:?}"),
            }
        }
    }

    /// An instance on node `at` sends a packet.
    fn sends(&mut self, at: u8, bytes: &[u8]) -> (Vec<u8>, Option<Packet>) {
        let left = self.at(at).carry_all(None, &[bytes.to_vec()], |_| {});
        self.carry(at, left)
    }

    /// The caller sends a packet: the nodes it goes to, and what is delivered.
    fn call(&mut self, packet: &Packet) -> (Vec<u8>, Packet) {
        let (way, packet) = self.sends(1, &packet.build());
        (way, packet.expect("a packet is delivered"))
    }

    /// The server, on `at`, sends a packet.
    fn answer(&mut self, at: u8, packet: &Packet) -> (Vec<u8>, Packet) {
        let (way, packet) = self.sends(at, &packet.build());
        (way, packet.expect("a packet is delivered"))
    }
}

/// What left a gateway: through the tunnel or to an instance.
type Frame = (Option<Endpoint>, Vec<u8>);

fn caller(family: Family) -> (Ip, u16) {
    (ns_ip(family, 1, CALLER), 4000)
}

fn dialled(family: Family) -> (Ip, u16) {
    (service_ip(family, 2), PORT)
}

fn inner_caller(family: Family) -> (Ip, u16) {
    (instance_ip(family, CALLER), 4000)
}

/// It had been called where it was; then it moved to node 3, and node 1 has not heard.
fn moved(family: Family) -> Sites {
    let mut sites = Sites::new();
    let (way, packet) = sites.call(&udp(caller(family), dialled(family)));
    assert_eq!(way, [2]);
    assert_eq!(packet.dst, ns_ip(family, 2, 2));
    sites.move_on((2, 2), (3, 9), &[]);
    sites
}

#[test]
fn stragglers_and_their_answers_go_by_the_old_node() {
    both(|family| {
        let mut sites = moved(family);
        let new = (ns_ip(family, 3, 9), PORT);
        let request = udp(caller(family), dialled(family));
        // More than one, so that the established flow is met, too.
        for _ in 0..3 {
            let (way, packet) = sites.call(&request);
            assert_eq!(way, [2, 3]);
            assert_eq!(packet, udp(inner_caller(family), new));
            let (way, packet) = sites.answer(3, &udp(new, inner_caller(family)));
            assert_eq!(way, [2, 1]);
            assert_eq!(packet, udp(dialled(family), caller(family)), "as dialled");
            sites.at(3).now = sites.at(3).now.plus_ms(2000);
        }
        let relayed = sites.at(2).engine.counters().relayed.value();
        assert_eq!(relayed, 6);
        assert_eq!(
            sites.at(2).shared.flows().live(),
            0,
            "its flows ended there"
        );
        for at in 1..=4 {
            assert_eq!(sites.at(at).drops(), [], "{at}");
        }
    });
}

/// Between the two nodes it names both by InstanceIP, with few hops left; all of it otherwise as it was.
#[test]
fn a_straggler_names_both_instances() {
    both(|family| {
        let mut sites = moved(family);
        let sent = sites.at(1).out(&udp(caller(family), dialled(family)));
        let (_, sent) = tunnelled(&sent);
        let on = sites
            .at(2)
            .carry_all(Some(node(1)), &[sent.build()], |_| {});
        let [(Some(to), bytes)] = &on[..] else {
            panic!("{on:?}");
        };
        assert_eq!(*to, node(3));
        let hop_limit = bytes[if family == Family::V4 { 8 } else { 7 }];
        assert_eq!(hop_limit, 8);
        let server = (instance_ip(family, SERVER), PORT);
        assert_eq!(Packet::read(bytes), udp(inner_caller(family), server));
    });
}

#[test]
fn echo_and_tcp_are_sent_on_too() {
    both(|family| {
        let mut sites = moved(family);
        let new = (ns_ip(family, 3, 9), PORT);
        let (way, packet) = sites.call(&echo(caller(family).0, dialled(family).0, 7, true));
        assert_eq!((way, packet.dst), (vec![2, 3], new.0));
        let reply = echo(new.0, inner_caller(family).0, 7, false);
        let (way, packet) = sites.answer(3, &reply);
        assert_eq!((way, packet.src), (vec![2, 1], dialled(family).0));
        // A new connection opens as any other.
        let (way, packet) = sites.call(&syn(caller(family), dialled(family)).with_mss(1460));
        assert_eq!((way, packet.dst), (vec![2, 3], new.0));
        let (way, packet) = sites.answer(3, &tcp(new, inner_caller(family), SYN | ACK));
        assert_eq!((way, packet.src), (vec![2, 1], dialled(family).0));
        let (way, _) = sites.call(&ack(caller(family), dialled(family)));
        assert_eq!(way, [2, 3]);
    });
}

/// A connection whose state did not move is reset by the new place, at its first segment.
#[test]
fn a_connection_that_did_not_move_is_reset_by_the_new_place() {
    both(|family| {
        let mut sites = Sites::new();
        let (old, new) = ((ns_ip(family, 2, 2), PORT), (ns_ip(family, 3, 9), PORT));
        sites.call(&syn(caller(family), dialled(family)));
        sites.answer(2, &tcp(old, inner_caller(family), SYN | ACK));
        sites.call(&ack(caller(family), dialled(family)));
        sites.move_on((2, 2), (3, 9), &[]);
        let (way, _) = sites.call(&ack(caller(family), dialled(family)));
        assert_eq!(way, [2, 3]);
        let (way, packet) = sites.answer(3, &tcp(new, inner_caller(family), RST));
        assert_eq!(way, [2, 1]);
        assert_eq!(packet, tcp(dialled(family), caller(family), RST));
    });
}

#[test]
fn once_the_callers_node_knows_both_ways_are_straight() {
    both(|family| {
        let mut sites = moved(family);
        let new = (ns_ip(family, 3, 9), PORT);
        let (request, answer) = (
            udp(caller(family), dialled(family)),
            udp(new, inner_caller(family)),
        );
        let late = sites.at(1).carry_all(None, &[request.build()], |_| {});
        sites.call(&request);
        sites.tell(1, 3, 9);
        assert_eq!(sites.call(&request).0, [3]);
        assert_eq!(sites.answer(3, &answer).0, [1]);
        // One that was on its way by the old node is delivered, and changes nothing.
        let (way, left) = sites.carry(1, late);
        assert_eq!(way, [2, 3]);
        assert_eq!(left.unwrap().dst, new.0);
        assert_eq!(sites.answer(3, &answer).0, [1]);
    });
}

#[test]
fn when_the_old_node_stops_the_caller_is_told() {
    both(|family| {
        let mut sites = moved(family);
        let request = udp(caller(family), dialled(family));
        sites.call(&request);
        let left = dual(|family| NsIp::new(ns_ip(family, 2, 2)));
        sites.at(2).writer.end_left(left);
        sites.at(2).publish();
        let (way, told) = sites.call(&request);
        assert_eq!(way, [2, 1]);
        let Content::Error { quote, .. } = told.content else {
            panic!("{told:?}");
        };
        assert_eq!(
            (quote.src, quote.dst),
            (caller(family).0, dialled(family).0)
        );
        let told = sites.at(1).told();
        assert!(matches!(told[..], [Upcall::Suspect { .. }]), "{told:?}");
        assert_eq!(sites.at(2).dropped(DropReason::DestinationNotLocal), 1);
    });
}

/// The caller listens for half a minute and longer. The old node is gone by then, and nobody there says so.
#[test]
fn an_answer_after_a_long_silence_goes_straight() {
    both(|family| {
        let mut sites = moved(family);
        let new = (ns_ip(family, 3, 9), PORT);
        let (request, answer) = (
            udp(caller(family), dialled(family)),
            udp(new, inner_caller(family)),
        );
        sites.call(&request);
        // What is sent meanwhile does not keep the detour alive.
        for _ in 0..6 {
            assert_eq!(sites.answer(3, &answer).0, [2, 1]);
            sites.at(3).now = sites.at(3).now.plus_ms(5_000);
        }
        assert_eq!(sites.answer(3, &answer).0, [2, 1]);
        sites.at(3).now = sites.at(3).now.plus_ms(1_000);
        let left = dual(|family| NsIp::new(ns_ip(family, 2, 2)));
        sites.at(2).writer.end_left(left);
        sites.at(2).publish();
        sites.tell(1, 3, 9);
        for _ in 0..3 {
            let (way, packet) = sites.answer(3, &answer);
            assert_eq!(way, [1]);
            assert_eq!(packet, udp(dialled(family), caller(family)), "as dialled");
            sites.at(3).now = sites.at(3).now.plus_ms(60_000);
            sites.at(3).wait_quietly(0);
        }
        assert_eq!(sites.at(3).shared.flows().live(), 1, "it is in use");
        for at in 1..=4 {
            assert_eq!(sites.at(at).drops(), [], "{at}");
        }
    });
}

/// For how long old nodes send on is set: the new one reckons with that.
#[test]
fn answers_go_straight_when_the_old_node_has_stopped_by_the_time_that_is_set() {
    both(|family| {
        let mut sites = moved(family);
        sites.at(3).writer.set_sent_on_s(5);
        sites.at(3).publish();
        sites.call(&udp(caller(family), dialled(family)));
        let answer = udp((ns_ip(family, 3, 9), PORT), inner_caller(family)).build();
        for (pause_ms, way) in [(5_000, &[2, 1][..]), (1_000, &[1])] {
            sites.at(3).now = sites.at(3).now.plus_ms(pause_ms);
            assert_eq!(sites.sends(3, &answer).0, way);
        }
    });
}

/// The same when the caller's node has not heard: it asks.
#[test]
fn an_answer_after_a_long_silence_makes_the_callers_node_ask() {
    both(|family| {
        let mut sites = moved(family);
        sites.call(&udp(caller(family), dialled(family)));
        sites.at(3).now = sites.at(3).now.plus_ms(31_000);
        let answer = udp((ns_ip(family, 3, 9), PORT), inner_caller(family));
        let (way, got) = sites.sends(3, &answer.build());
        assert_eq!((way, got), (vec![1], None));
        let told = sites.at(1).told();
        let why = Suspicion::Elsewhere;
        assert!(
            matches!(told[..], [Upcall::Suspect { why: it, .. }] if it == why),
            "{told:?}"
        );
    });
}

/// The caller's node hears of the move between the request and its answer, which comes from the old node all the same: it
/// was on its way from there, or the new node sends it back that way.
#[test]
fn an_answer_from_where_it_was_is_taken_for_a_moment() {
    both(|family| {
        for by_the_new_node in [false, true] {
            let mut sites = Sites::new();
            let (request, old) = (
                udp(caller(family), dialled(family)),
                (ns_ip(family, 2, 2), PORT),
            );
            sites.call(&request);
            let late = udp(old, inner_caller(family));
            let late = if by_the_new_node {
                sites.move_on((2, 2), (3, 9), &[]);
                sites.call(&request);
                let late = udp((ns_ip(family, 3, 9), PORT), inner_caller(family)).build();
                let left = sites.at(3).carry_all(None, &[late], |_| {});
                sites
                    .at(2)
                    .carry_all(Some(node(3)), &[left[0].1.clone()], |_| {})
            } else {
                sites.at(2).carry_all(None, &[late.build()], |_| {})
            };
            let [(Some(to), late)] = &late[..] else {
                panic!("{late:?}");
            };
            assert_eq!(*to, node(1));
            sites.tell(1, 3, 9);
            sites.comes_from(1, &[2]);
            let came = |sites: &mut Sites, from, bytes: &[u8]| {
                let left = sites
                    .at(1)
                    .carry_all(Some(node(from)), &[bytes.to_vec()], |_| {});
                let read = left.iter().map(|(_, bytes)| Packet::read(bytes));
                read.collect::<Vec<_>>()
            };
            let answer = udp(dialled(family), caller(family));
            assert_eq!(came(&mut sites, 2, late), vec![answer.clone()]);
            assert_eq!(came(&mut sites, 3, late), [answer], "as dialled");
            assert_eq!(came(&mut sites, 4, late), [], "it was never there");
            // What it begins there is not answered there.
            let begun = udp((instance_ip(family, SERVER), 5000), caller(family));
            assert_eq!(came(&mut sites, 2, &begun.build()), []);
            sites.comes_from(1, &[]);
            assert_eq!(came(&mut sites, 2, late), []);
            assert_eq!(sites.at(1).dropped(DropReason::SourceForged), 3);
        }
    });
}

#[test]
fn errors_and_fragments_take_the_detour() {
    both(|family| {
        let mut sites = moved(family);
        let new = (ns_ip(family, 3, 9), PORT);
        let (_, request) = sites.call(&udp(caller(family), dialled(family)));
        // The server's port is closed.
        let closed = error(
            new.0,
            inner_caller(family).0,
            (3, 3),
            (1, 4),
            &request.build(),
        );
        let (way, told) = sites.sends(3, &closed);
        assert_eq!(way, [2, 1]);
        let Some(Content::Error { quote, .. }) = told.map(|told| told.content) else {
            panic!("an error");
        };
        assert_eq!(
            (quote.src, quote.dst),
            (caller(family).0, dialled(family).0)
        );
        // Fragments, the second of which comes first at the new node.
        let datagram = udp(inner_caller(family), (ns_ip(family, 2, 2), PORT));
        let pieces = fragments(&datagram.with_payload(vec![5; 64]), 3, 32);
        let mut on: Vec<Vec<u8>> = Vec::new();
        for (_, bytes) in sites.at(2).carry_all(Some(node(1)), &pieces, |_| {}) {
            on.push(bytes);
        }
        assert_eq!(on.len(), pieces.len(), "{:?}", sites.at(2).drops());
        on.reverse();
        let mut got = Vec::new();
        for bytes in on {
            got.extend(sites.at(3).carry_all(Some(node(2)), &[bytes], |_| {}));
        }
        assert_eq!(got.len(), pieces.len());
        for (outer, bytes) in got {
            assert_eq!(outer, None);
            assert_eq!(Packet::read(&bytes).dst, new.0);
        }
    });
}

/// A super-frame is sent on as one.
#[test]
fn a_super_frame_stays_whole() {
    let family = Family::V4;
    let mut sites = moved(family);
    let inner = ack(inner_caller(family), (ns_ip(family, 2, 2), PORT)).with_payload(vec![7; 3000]);
    let left = sites
        .at(2)
        .carry_all(Some(node(1)), &[inner.build()], |frame| {
            frame.gso = Some(Gso {
                kind: GsoKind::Tcp4,
                segment_size: 1000,
                header_len: 40,
            });
        });
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].0, Some(node(3)));
}

/// A to B to C: who sent it on knows where it is now, and the last place knows all that it came from.
#[test]
fn two_moves_in_quick_succession() {
    both(|family| {
        let mut sites = moved(family);
        sites.move_on((3, 9), (4, 5), &[2]);
        sites.comes_from(4, &[2, 3]);
        let (way, packet) = sites.call(&udp(caller(family), dialled(family)));
        assert_eq!((way, packet.dst), (vec![2, 4], ns_ip(family, 4, 5)));
        let new = (ns_ip(family, 4, 5), PORT);
        let (way, _) = sites.answer(4, &udp(new, inner_caller(family)));
        assert_eq!(way, [2, 1]);
        // A caller whose node heard of the first move only.
        sites.tell(1, 3, 9);
        let (way, _) = sites.call(&udp((caller(family).0, 4001), dialled(family)));
        assert_eq!(way, [3, 4]);
        let (way, _) = sites.answer(4, &udp(new, (inner_caller(family).0, 4001)));
        assert_eq!(way, [3, 1]);
    });
}

/// A to B to A.
#[test]
fn it_came_back() {
    both(|family| {
        let mut sites = moved(family);
        let request = udp(caller(family), dialled(family));
        sites.call(&request);
        sites.move_on((3, 9), (2, 6), &[]);
        let back = (ns_ip(family, 2, 6), PORT);
        let (way, packet) = sites.call(&request);
        assert_eq!((way, packet.dst), (vec![2], back.0));
        let (way, packet) = sites.answer(2, &udp(back, inner_caller(family)));
        assert_eq!((way, packet.src), (vec![1], dialled(family).0));
        // And one that had heard of the first move.
        sites.tell(1, 3, 9);
        let (way, packet) = sites.call(&request);
        assert_eq!((way, packet.dst), (vec![3, 2], back.0));
    });
}

/// Two old nodes that each believe the instance to be at the other: nothing goes to and fro.
#[test]
fn what_was_sent_on_is_never_sent_on_again() {
    both(|family| {
        let mut sites = moved(family);
        sites.move_on((3, 9), (4, 5), &[]);
        sites.tell(3, 2, 2);
        let (way, got) = sites.sends(1, &udp(caller(family), dialled(family)).build());
        assert_eq!((way, got), (vec![2, 3], None));
        assert_eq!(sites.at(3).dropped(DropReason::SourceForged), 1);
    });
}

#[test]
fn only_where_it_came_from_may_send_on() {
    both(|family| {
        let mut sites = moved(family);
        let on = udp(inner_caller(family), (instance_ip(family, SERVER), PORT));
        assert_eq!(sites.at(3).inn(node(4), &on), []);
        // Not even the caller's own node, which is told so.
        let (to, told) = tunnelled(&sites.at(3).inn(node(1), &on));
        assert!(to == node(1) && matches!(told.content, Content::Error { .. }));
        assert_eq!(
            delivered(&sites.at(3).inn(node(2), &on)).dst,
            ns_ip(family, 3, 9)
        );
        sites.comes_from(3, &[]);
        assert_eq!(sites.at(3).inn(node(2), &on), []);
        // To the old node: only from where the source is.
        let call = udp(inner_caller(family), (ns_ip(family, 2, 2), PORT));
        assert_eq!(sites.at(2).inn(node(4), &call), []);
        let answer = udp((instance_ip(family, SERVER), PORT), inner_caller(family));
        assert_eq!(sites.at(2).inn(node(4), &answer), []);
        assert_eq!(sites.at(2).dropped(DropReason::SourceForged), 2);
    });
}

#[test]
fn what_may_go_no_further_ends() {
    both(|family| {
        let mut sites = moved(family);
        let call = udp(inner_caller(family), (ns_ip(family, 2, 2), PORT));
        let mut old = call.build();
        if family == Family::V4 {
            old[8] = 1;
            // 64 became 1: the header's sum is 63 << 8 less.
            let sum = u16::from_be_bytes([old[10], old[11]]);
            let (sum, over) = sum.overflowing_add(63 << 8);
            old[10..12].copy_from_slice(&(sum + u16::from(over)).to_be_bytes());
        } else {
            old[7] = 1;
        }
        assert_eq!(sites.at(2).in_bytes(node(1), &[old]), []);
        assert_eq!(sites.at(2).dropped(DropReason::TtlExpired), 1);
        // Too big for the way onward: its sender is told.
        let tables = sites.at(2).publisher.snapshot();
        let peer = tables.peers_at(node(3).ip)[0];
        let row = tables.peer(peer).unwrap();
        let (ip, port, format) = (row.ip, row.port, row.format);
        sites.at(2).writer.upsert_peer(ip, port, format, 1300);
        sites.at(2).publish();
        let whole = call.with_payload(vec![1; 1350]);
        let mut bytes = whole.build();
        if family == Family::V4 && bytes[6] & 0x40 == 0 {
            bytes[6] |= 0x40;
            let sum = u16::from_be_bytes([bytes[10], bytes[11]]);
            let (sum, under) = sum.overflowing_sub(0x4000);
            bytes[10..12].copy_from_slice(&(sum - u16::from(under)).to_be_bytes());
        }
        let left = sites.at(2).in_bytes(node(1), &[bytes]);
        let (to, told) = tunnelled(&left);
        assert_eq!(to, node(1));
        let Content::Error { mtu, .. } = told.content else {
            panic!("{told:?}");
        };
        assert_eq!(mtu, 1300);
        assert_eq!(sites.at(2).dropped(DropReason::TooBig), 1);
    });
}

/// A caller that the new node does not know: held, and sent on its way when control has answered.
#[test]
fn a_held_straggler_is_still_one() {
    both(|family| {
        let mut sites = moved(family);
        let on = udp(
            (instance_ip(family, 7), 4000),
            (instance_ip(family, SERVER), PORT),
        );
        let new = sites.at(3);
        assert_eq!(new.inn(node(2), &on), []);
        let told = new.told();
        assert!(matches!(told[..], [Upcall::Ask(_)]), "{told:?}");
        let callers = new.service(1);
        new.place(callers, 7, 1);
        new.publish();
        let packet = delivered(&new.release());
        assert_eq!(packet.dst, ns_ip(family, 3, 9));
    });
}

/// Both moved between nodes 2 and 3, each of which believes both to be at the other.
#[test]
fn what_two_nodes_send_to_and_fro_ends_soon() {
    both(|family| {
        let mut sites = Sites::new();
        for (at, elsewhere) in [(2, 3), (3, 2)] {
            for (service, instance) in [(1, CALLER), (2, SERVER)] {
                let gateway = sites.at(at);
                let service = gateway.service(service);
                let place = node(elsewhere);
                let slot = gateway.place_at(service, instance, elsewhere, place, instance);
                let left = dual(|family| NsIp::new(ns_ip(family, at, instance)));
                gateway.writer.set_left(left, slot);
            }
            sites.at(at).publish();
        }
        let answer = udp((instance_ip(family, SERVER), PORT), inner_caller(family));
        let left = sites
            .at(2)
            .carry_all(Some(node(3)), &[answer.build()], |_| {});
        let (way, got) = sites.carry(2, left);
        assert_eq!((way.len(), got), (8, None), "{way:?}");
        let ended = [2, 3].map(|at| sites.at(at).dropped(DropReason::TtlExpired));
        assert_eq!(ended.iter().sum::<u64>(), 1);
    });
}

/// Whatever four nodes believe about where two instances are, were and came from: what either sends to the other is somewhere,
/// or gone, after eight old nodes.
#[test]
fn no_belief_makes_a_loop() {
    #[derive(Clone, Debug, bolero::TypeGenerator)]
    struct Belief {
        place: u8,
        left: [bool; 4],
        came: [bool; 4],
    }
    bolero::check!()
        .with_type::<[[Belief; 2]; 4]>()
        .for_each(|beliefs| {
            let mut sites = Sites::new();
            for (at, both) in (1..).zip(beliefs) {
                for (instance, belief) in [CALLER, SERVER].into_iter().zip(both) {
                    let gateway = sites.at(at);
                    let place = belief.place % 4 + 1;
                    let service = gateway.service(instance);
                    let ns = 10 * instance + place;
                    let slot = gateway.place_at(service, instance, place, node(place), ns);
                    for (place, _) in (1..).zip(belief.left).filter(|(_, left)| *left) {
                        let ns = 10 * instance + place;
                        let left = dual(|family| NsIp::new(ns_ip(family, at, ns)));
                        gateway.writer.set_left(left, slot);
                    }
                    let tables = gateway.writer.tables();
                    let came = (1..).zip(belief.came).filter(|(_, came)| *came);
                    let peers = came.filter_map(|(from, _)| tables.peers_at(node(from).ip).first());
                    let peers = peers.copied().collect();
                    gateway.writer.set_came(slot, peers);
                }
                sites.at(at).publish();
            }
            for (at, both) in (1..).zip(beliefs) {
                let is_here = |belief: &Belief| belief.place % 4 + 1 == at;
                for family in FAMILIES {
                    let of = |instance: u8| ns_ip(family, at, 10 * instance + at);
                    let call = udp((of(CALLER), 4000), dialled(family));
                    let answer = udp((of(SERVER), PORT), inner_caller(family));
                    for (packet, sender) in [call, answer].iter().zip(both) {
                        if is_here(sender) {
                            let (way, _) = sites.sends(at, &packet.build());
                            assert!(way.len() <= 9, "{way:?}");
                        }
                    }
                }
            }
        });
}
