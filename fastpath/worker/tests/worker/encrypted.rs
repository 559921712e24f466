//! Two gateways that speak the encrypted format, on links in memory: every datagram between them is looked at, lost, repeated or
//! sent from elsewhere as the test likes.

use crate::site::{Site, TUNNEL_PORT, assert_balanced, drops, instance_ip, ns_ip, service_ip};
use etherparse::PacketBuilder;
use sluice_engine::Now;
use sluice_link::MemLink;
use sluice_link::mem::{Far, Memory, Packet};
use sluice_memory::{Checksum, Endpoint, Gso, GsoKind};
use sluice_tables::slots::Slot;
use sluice_tables::{PeerSlot, TunnelFormat, Upcall, Upcalls, session_address};
use sluice_tunnel::Speaker;
use sluice_tunnel::key::{Identity, PrivateKey};
use sluice_wire::{DropReason, Family, Ip, parse};
use sluice_worker::{Orders, Ready, Tunnel, Worker};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

pub(crate) fn key(node: u8) -> PrivateKey {
    PrivateKey::from_bytes(&[node; 32])
}

pub(crate) fn encrypted(node: u8) -> TunnelFormat {
    TunnelFormat::WireGuard {
        key: *key(node).public().as_bytes(),
    }
}

pub(crate) fn node(node: u8) -> Endpoint {
    Endpoint {
        ip: Ip::v4([192, 0, 2, node]),
        port: TUNNEL_PORT,
    }
}

/// Bytes that differ from call to call, the same in each run.
pub(crate) fn fill(seed: u8) -> sluice_tunnel::entropy::Fill {
    let mut state = u64::from(seed) + 1;
    Box::new(move |bytes| {
        for byte in bytes {
            // splitmix64 (Steele, Lea, Flood 2014).
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            *byte = (mixed >> 56) as u8;
        }
    })
}

/// One worker of a gateway, with the far ends of its links.
pub(crate) struct Lane {
    pub(crate) worker: Worker<MemLink, MemLink>,
    pub(crate) service: Far,
    pub(crate) underlay: Far,
}

impl Lane {
    pub(crate) fn new(site: &Site, tunnel: Option<Tunnel>) -> Self {
        let (service, service_far) = MemLink::new("service", 256, Memory::Own).unwrap();
        let (underlay, underlay_far) = MemLink::new("underlay", 256, Memory::Own).unwrap();
        let worker = site.worker(service, underlay);
        Self {
            worker: match tunnel {
                Some(tunnel) => worker.with_tunnel(tunnel),
                None => worker,
            },
            service: service_far,
            underlay: underlay_far,
        }
    }

    pub(crate) fn turn(&mut self, now: Now) {
        self.worker.turn(Ready::BOTH, now).unwrap();
        assert_balanced(&self.worker.accounts);
    }

    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.worker
            .accounts
            .total(|account| account.dropped(reason))
    }

    pub(crate) fn drops(&self) -> Vec<(&'static str, u64)> {
        drops(&self.worker.accounts)
    }

    /// A datagram comes from the network.
    pub(crate) fn come(&mut self, bytes: Vec<u8>, from: Endpoint, now: Now) {
        self.underlay.push(Packet {
            bytes,
            outer: Some(from),
            ..Packet::default()
        });
        self.turn(now);
    }

    pub(crate) fn sent(&self) -> Vec<Packet> {
        std::iter::from_fn(|| self.underlay.pop()).collect()
    }

    pub(crate) fn delivered(&self) -> Vec<Packet> {
        std::iter::from_fn(|| self.service.pop()).collect()
    }
}

/// Of the workers of a node, begun at the beginning of time.
pub(crate) fn tunnels(node: u8, workers: usize) -> Vec<Tunnel> {
    tunnels_at(node, workers, Duration::ZERO)
}

pub(crate) fn tunnels_at(node: u8, workers: usize, now: Duration) -> Vec<Tunnel> {
    tunnels_heard(node, workers, now, Arc::new(Upcalls::new(64))).1
}

/// A node's end, whose wall clock does not matter to any other that begins at the same time.
pub(crate) fn speaker(node: u8, now: Duration) -> Speaker {
    let unix = Duration::from_secs(1_700_000_000);
    Speaker::new(Identity::new(key(node)), fill(node), unix, now)
}

/// With what control can do, and what it hears.
fn tunnels_heard(
    node: u8,
    workers: usize,
    now: Duration,
    upcalls: Arc<Upcalls>,
) -> (Orders, Vec<Tunnel>) {
    Tunnel::of_workers(speaker(node, now), workers, upcalls).unwrap()
}

/// Two gateways with one worker each, whose clocks are one.
pub(crate) struct Pair {
    pub(crate) ends: [Lane; 2],
    /// Where each sends from.
    pub(crate) at: [Endpoint; 2],
    pub(crate) sites: [Site; 2],
    pub(crate) now: Now,
    /// What went over the wire, with its sender.
    pub(crate) seen: Vec<(usize, Vec<u8>)>,
    pub(crate) orders: Vec<Orders>,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let mut sites = [Site::new(1), Site::new(2)];
        sites[0].learn_of(1, node(2), encrypted(2));
        sites[1].learn_of(2, node(1), encrypted(1));
        let mut orders = Vec::new();
        let ends = [1, 2].map(|at| {
            let site = &sites[usize::from(at) - 1];
            let upcalls = Arc::clone(&site.upcalls);
            let (mine, mut tunnels) = tunnels_heard(at, 1, Duration::ZERO, upcalls);
            orders.push(mine);
            Lane::new(site, tunnels.pop())
        });
        Self {
            ends,
            at: [node(1), node(2)],
            sites,
            now: Now::from_s(1000),
            seen: Vec::new(),
            orders,
        }
    }

    /// Carries datagrams until none is on the way. Everything goes to where it is addressed, or is lost.
    pub(crate) fn settle(&mut self) {
        loop {
            let mut is_quiet = true;
            for from in [0, 1] {
                self.ends[from].turn(self.now);
                for packet in self.ends[from].sent() {
                    is_quiet = false;
                    assert_eq!(packet.gso, None);
                    assert!((1..=4).contains(&packet.bytes[0]), "nothing is in plain");
                    self.seen.push((from, packet.bytes.clone()));
                    if packet.outer == Some(self.at[1 - from]) {
                        self.ends[1 - from].come(packet.bytes, self.at[from], self.now);
                    }
                }
            }
            if is_quiet {
                return;
            }
        }
    }

    pub(crate) fn wait_ms(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        self.settle();
    }

    /// The caller, on node 1, asks, and is answered: both as they are delivered.
    pub(crate) fn ask_and_answer(&mut self, family: Family) -> [Vec<Packet>; 2] {
        let question = udp(
            (ns_ip(family, 1), 4000),
            (service_ip(family), 53),
            b"question",
        );
        self.ends[0].service.push(question);
        self.settle();
        let asked = self.ends[1].delivered();
        let reply = udp(
            (ns_ip(family, 2), 53),
            (instance_ip(family, 1), 4000),
            b"reply",
        );
        self.ends[1].service.push(reply);
        self.settle();
        [asked, self.ends[0].delivered()]
    }

    pub(crate) fn check_ask_and_answer(&mut self, family: Family) {
        let [asked, answered] = self.ask_and_answer(family);
        let ends = |packets: &[Packet]| -> Vec<_> {
            let parsed = packets.iter().map(|packet| parse(&packet.bytes).unwrap());
            parsed.map(|parsed| (parsed.src, parsed.dst)).collect()
        };
        assert_eq!(ends(&asked), [(instance_ip(family, 1), ns_ip(family, 2))]);
        assert_eq!(ends(&answered), [(service_ip(family), ns_ip(family, 1))]);
    }

    pub(crate) fn assert_at_rest(&self) {
        for end in &self.ends {
            assert_balanced(&end.worker.accounts);
            assert_eq!(end.worker.accounts.total(|account| account.held.value()), 0);
            assert_eq!(end.worker.pool.outstanding(), 0);
        }
    }
}

pub(crate) fn udp(from: (Ip, u16), to: (Ip, u16), payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = if from.0.is_v4() {
        PacketBuilder::ipv4(from.0.octets_v4(), to.0.octets_v4(), 64)
    } else {
        PacketBuilder::ipv6(from.0.octets_v6(), to.0.octets_v6(), 64)
    };
    let builder = builder.udp(from.1, to.1);
    builder.write(&mut bytes, payload).unwrap();
    bytes
}

#[test]
fn the_first_packet_waits_for_the_handshake_and_nothing_on_the_wire_can_be_read() {
    for family in FAMILIES {
        let mut pair = Pair::new();
        pair.check_ask_and_answer(family);
        for (_, datagram) in &pair.seen {
            let holds = |text: &[u8]| datagram.windows(text.len()).any(|part| part == text);
            assert!(!holds(b"question") && !holds(b"reply"));
        }
        // Initiation, response, keepalive, question, reply.
        let kinds: Vec<u8> = pair.seen.iter().map(|(_, datagram)| datagram[0]).collect();
        assert_eq!(kinds, [1, 2, 4, 4, 4]);
        for end in &pair.ends {
            assert_eq!(end.drops(), []);
        }
        pair.assert_at_rest();
    }
}

#[test]
fn both_formats_come_by_one_port_and_a_plain_packet_is_not_taken_from_an_encrypted_peer() {
    let family = Family::V4;
    let mut pair = Pair::new();
    pair.check_ask_and_answer(family);
    let inner = udp(
        (instance_ip(family, 1), 4000),
        (ns_ip(family, 2), 53),
        b"forged",
    );
    let session = Endpoint {
        ip: session_address(PeerSlot::from_index(0), 0),
        port: 0,
    };
    for from in [pair.at[0], session] {
        pair.ends[1].come(inner.clone(), from, pair.now);
        assert!(pair.ends[1].delivered().is_empty(), "{from:?}");
    }
    assert_eq!(pair.ends[1].dropped(DropReason::SourceForged), 1);
    assert_eq!(pair.ends[1].dropped(DropReason::MartianSource), 1);
    // The peer turns to the plain format.
    pair.sites[1].learn(2, node(1));
    pair.ends[1].come(inner, pair.at[0], pair.now);
    assert_eq!(pair.ends[1].delivered().len(), 1);
}

#[test]
fn a_replayed_packet_is_dropped_once_and_counted() {
    let family = Family::V4;
    let mut pair = Pair::new();
    pair.check_ask_and_answer(family);
    let packets = pair.seen.clone();
    let mut refused = 0;
    for (from, datagram) in packets {
        let end = &mut pair.ends[1 - from];
        end.come(datagram, node(7), pair.now);
        assert!(end.delivered().is_empty());
        assert!(end.sent().is_empty(), "silence");
        refused += 1;
    }
    let count = |reason| -> u64 { pair.ends.iter().map(|end| end.dropped(reason)).sum() };
    // The response is to a handshake that is over.
    assert_eq!(
        count(DropReason::Replayed) + count(DropReason::NoSession),
        refused
    );
    assert_eq!(count(DropReason::NoSession), 1);
    pair.assert_at_rest();
    // Nobody roamed to where replays came from.
    pair.check_ask_and_answer(family);
}

#[test]
fn a_peer_that_roams_is_answered_where_it_is() {
    let family = Family::V6;
    let mut pair = Pair::new();
    pair.check_ask_and_answer(family);
    pair.at[0] = Endpoint {
        ip: "2001:db8::77".parse().unwrap(),
        port: 999,
    };
    pair.check_ask_and_answer(family);
    for end in &pair.ends {
        assert_eq!(end.drops(), []);
    }
}

#[test]
fn a_peer_whose_row_says_another_address_is_spoken_to_there() {
    let family = Family::V4;
    let mut pair = Pair::new();
    pair.check_ask_and_answer(family);
    pair.at[1].ip = Ip::v4([198, 51, 100, 7]);
    let moved = pair.at[1];
    pair.sites[0].learn_of(1, moved, encrypted(2));
    pair.settle();
    pair.check_ask_and_answer(family);
    assert_eq!(pair.ends[0].drops(), []);
}

#[test]
fn garbage_is_answered_by_nothing_and_counted_by_name() {
    let mut pair = Pair::new();
    pair.check_ask_and_answer(Family::V4);
    let before: usize = pair.ends[1].drops().len();
    assert_eq!(before, 0);
    let mut random = fill(77);
    let mut count = 0;
    for first in 1..=4_u8 {
        for len in [1, 31, 32, 64, 92, 148, 149, 1400] {
            let mut bytes = vec![0; len];
            random(&mut bytes);
            bytes[..len.min(4)].copy_from_slice(&[first, 0, 0, 0][..len.min(4)]);
            pair.ends[1].come(bytes, node(66), pair.now);
            count += 1;
        }
    }
    assert!(pair.ends[1].sent().is_empty());
    assert!(pair.ends[1].delivered().is_empty());
    let end = &pair.ends[1];
    assert_eq!(
        end.dropped(DropReason::NotAuthentic) + end.dropped(DropReason::NoSession),
        count,
        "{:?}",
        end.drops()
    );
    pair.assert_at_rest();
    pair.check_ask_and_answer(Family::V4);
}

#[test]
fn sessions_are_renewed_under_traffic_without_a_loss() {
    let family = Family::V4;
    let mut pair = Pair::new();
    for _ in 0..300 {
        pair.check_ask_and_answer(family);
        pair.wait_ms(2_000);
    }
    let initiations = pair.seen.iter().filter(|(_, datagram)| datagram[0] == 1);
    // Ten minutes, a session each two.
    assert!((4..=7).contains(&initiations.count()));
    for end in &pair.ends {
        assert_eq!(end.drops(), []);
    }
    pair.assert_at_rest();
}

#[test]
fn a_node_takes_another_key_while_packets_go_both_ways_and_none_is_lost() {
    let family = Family::V4;
    let mut pair = Pair::new();
    pair.check_ask_and_answer(family);
    pair.orders[0].set_identity(Identity::new(key(9)));
    pair.check_ask_and_answer(family);
    pair.wait_ms(300);
    pair.check_ask_and_answer(family);
    // Node 2 hears of it.
    pair.sites[1].learn_of(2, node(1), encrypted(9));
    let seen = pair.seen.len();
    for _ in 0..60 {
        pair.check_ask_and_answer(family);
        pair.wait_ms(1_000);
    }
    let handshakes = pair.seen[seen..].iter();
    assert!(handshakes.clone().any(|(_, datagram)| datagram[0] == 2));
    assert_eq!(pair.ends[0].drops(), []);
    let unknown = ("peer-unknown", 1);
    assert_eq!(pair.ends[1].drops(), [unknown], "the initiation before");
}

#[test]
fn an_initiation_of_a_clock_that_was_behind_is_answered_once_the_clock_is_set() {
    let family = Family::V4;
    let mut pair = Pair::new();
    pair.check_ask_and_answer(family);
    // Node 1 starts anew without a clock of its own: in 1970.
    let speaker = Speaker::new(
        Identity::new(key(1)),
        fill(7),
        Duration::ZERO,
        Duration::from_nanos(pair.now.ns),
    );
    let upcalls = Arc::clone(&pair.sites[0].upcalls);
    let (orders, mut tunnels) = Tunnel::of_workers(speaker, 1, upcalls).unwrap();
    pair.ends[0] = Lane::new(&pair.sites[0], tunnels.pop());
    pair.ask_and_answer(family);
    assert_eq!(pair.ends[1].dropped(DropReason::Replayed), 1);
    orders.set_wall_clock(Duration::from_secs(1_700_001_001), pair.now);
    for _ in 0..6 {
        pair.wait_ms(1_000);
    }
    assert_eq!(
        pair.ends[1].delivered().len(),
        1,
        "the question that waited"
    );
    pair.check_ask_and_answer(family);
}

#[test]
fn a_peer_that_restarted_finds_whoever_sends_to_it_at_once() {
    let family = Family::V4;
    let mut pair = Pair::new();
    pair.check_ask_and_answer(family);
    // Its clock went on.
    pair.wait_ms(30_000);
    pair.ends[1] = Lane::new(&pair.sites[1], tunnels(2, 1).pop());
    let [asked, _] = pair.ask_and_answer(family);
    assert!(asked.is_empty(), "sealed for its life before");
    assert_eq!(pair.ends[1].dropped(DropReason::NoSession), 1);
    pair.check_ask_and_answer(family);
    // Anybody can send such a datagram in the name of a peer: it changes nothing.
    let seen = pair.seen.len();
    let stray = [&[4, 0, 0, 0, 9, 9, 9, 9][..], &[0; 40]].concat();
    pair.ends[1].come(stray, node(1), pair.now);
    pair.settle();
    assert_eq!(pair.seen.len(), seen);
    pair.check_ask_and_answer(family);
}

#[test]
fn packets_to_a_silent_peer_are_held_for_a_while_and_then_dropped_by_name() {
    let family = Family::V4;
    let mut pair = Pair::new();
    pair.at[1] = node(99);
    for _ in 0..40 {
        let question = udp(
            (ns_ip(family, 1), 4000),
            (service_ip(family), 53),
            b"question",
        );
        pair.ends[0].service.push(question);
    }
    pair.settle();
    let held = |pair: &Pair| {
        pair.ends[0]
            .worker
            .accounts
            .total(|account| account.held.value())
    };
    assert_eq!(held(&pair), 32);
    assert_eq!(pair.ends[0].dropped(DropReason::PeerSilent), 8);
    pair.wait_ms(6_000);
    assert_eq!(held(&pair), 32);
    pair.wait_ms(2_000);
    assert_eq!(pair.ends[0].dropped(DropReason::PeerSilent), 40);
    pair.assert_at_rest();
    // It comes back: the next packet finds it.
    pair.at[1] = node(2);
    for _ in 0..20 {
        pair.wait_ms(1_000);
    }
    pair.check_ask_and_answer(family);
}

#[test]
fn who_is_not_in_the_tables_is_refused() {
    let mut pair = Pair::new();
    // Node 2 does not know the key of node 1.
    pair.sites[1].learn_of(2, node(1), encrypted(9));
    let [asked, _] = pair.ask_and_answer(Family::V4);
    assert!(asked.is_empty());
    assert_eq!(pair.ends[1].dropped(DropReason::PeerUnknown), 1);
    assert!(
        pair.seen.iter().all(|(_, datagram)| datagram[0] == 1),
        "silence"
    );
    let key = *key(1).public().as_bytes();
    assert_eq!(
        pair.sites[1].upcalls.pop(),
        Some(Upcall::Initiator { key }),
        "control is asked"
    );
    // It learns it, and remembers who knocked.
    pair.sites[1].learn_of(2, node(1), encrypted(1));
    pair.settle();
    assert_eq!(pair.ends[1].delivered().len(), 1);
}

#[test]
fn a_super_frame_crosses_as_sealed_packets() {
    let mut pair = Pair::new();
    pair.check_ask_and_answer(Family::V4);
    let from = (ns_ip(Family::V4, 1), 4000);
    let payload: Vec<u8> = (0..=255).cycle().take(50_000).collect();
    let mut bytes = udp(from, (service_ip(Family::V4), 53), &payload);
    // The pseudo-header's sum, not complemented, as a kernel leaves it.
    let parsed = parse(&bytes).unwrap();
    sluice_wire::checksum::partial_l4(&mut bytes, &parsed);
    pair.ends[0].service.push(Packet {
        bytes,
        checksum: Checksum::Partial {
            start: 20,
            offset: 6,
        },
        gso: Some(Gso {
            kind: GsoKind::Udp,
            segment_size: 1200,
            header_len: 28,
        }),
        ..Packet::default()
    });
    pair.settle();
    let came = pair.ends[1].delivered();
    assert_eq!(came.len(), 42);
    let mut joined = Vec::new();
    for packet in &came {
        let parsed = parse(&packet.bytes).unwrap();
        assert!(sluice_wire::checksum::verify_l4(&packet.bytes, &parsed));
        joined.extend_from_slice(&packet.bytes[28..]);
    }
    assert_eq!(joined, payload);
    pair.assert_at_rest();
}

#[test]
fn any_worker_opens_and_the_first_one_shakes_hands() {
    let family = Family::V4;
    let mut pair = Pair::new();
    let mut workers = tunnels(2, 2);
    let other = workers.pop();
    pair.ends[1] = Lane::new(&pair.sites[1], other);
    let mut keeper = Lane::new(&pair.sites[1], workers.pop());
    let question = udp(
        (ns_ip(family, 1), 4000),
        (service_ip(family), 53),
        b"question",
    );
    pair.ends[0].service.push(question);
    // Everything comes to the worker that does not shake hands.
    let mut came = Vec::new();
    for _ in 0..8 {
        pair.settle();
        keeper.turn(pair.now);
        for packet in keeper.sent() {
            assert_eq!(packet.outer, Some(pair.at[0]));
            pair.ends[0].come(packet.bytes, pair.at[1], pair.now);
        }
        came.extend(pair.ends[1].delivered());
    }
    assert_eq!(came.len(), 1);
    assert_eq!(pair.ends[1].drops(), []);
    assert_balanced(&keeper.worker.accounts);
    // And it seals, too.
    pair.check_ask_and_answer(family);
    assert!(keeper.sent().is_empty());
    assert_eq!(keeper.drops(), []);
}
