//! What strangers on the network can do to a worker: garbage, replays, floods of handshakes; and many handshakes by ourselves.

use crate::encrypted::{FAMILIES, Pair, fill, key, node, udp};
use crate::site::{TUNNEL_PORT, instance_ip, ns_ip, service_ip};
use sluice_link::mem::Packet;
use sluice_memory::{BATCH_MAX, Endpoint};
use sluice_tunnel::key::{Identity, PrivateKey};
use sluice_tunnel::load::{INITIATIONS_PER_SECOND, LOAD_MESSAGES};
use sluice_tunnel::noise::{Initiator, MacKeys, Timestamp};
use sluice_wire::{DropReason, Family, Ip};
use std::collections::BTreeSet;
use std::time::Duration;

/// The debug build is for correctness, the release build for the number of the issue.
const GARBAGE: usize = if cfg!(debug_assertions) {
    200_000
} else {
    10_000_000
};
const REPLAYS: usize = 100_000;

/// Of one direction of a session: what may be late at least (tunnel/src/replay.rs).
const WINDOW: usize = 8_128;

/// Random numbers of a seed.
struct Random(sluice_tunnel::entropy::Fill);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        let mut bytes = [0; 8];
        self.0(&mut bytes);
        usize::try_from(u64::from_le_bytes(bytes) % end as u64).unwrap()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0(&mut bytes);
        bytes
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

/// Lets datagrams come to node 2, a batch at a time; what it delivered.
fn come(pair: &mut Pair, datagrams: impl IntoIterator<Item = (Endpoint, Vec<u8>)>) -> Vec<Packet> {
    let mut delivered = Vec::new();
    let mut datagrams = datagrams.into_iter().peekable();
    while datagrams.peek().is_some() {
        for (from, bytes) in datagrams.by_ref().take(BATCH_MAX) {
            assert!(pair.ends[1].underlay.push(Packet {
                bytes,
                outer: Some(from),
                ..Packet::default()
            }));
        }
        pair.ends[1].turn(pair.now);
        delivered.extend(pair.ends[1].delivered());
    }
    delivered
}

fn dropped(pair: &Pair) -> u64 {
    pair.ends[1].drops().iter().map(|(_, count)| count).sum()
}

/// The datagrams of numbered packets that node 1 sends, not delivered yet.
fn sealed(pair: &mut Pair, count: usize) -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    for number in 0..count {
        let (from, to) = (ns_ip(Family::V4, 1), service_ip(Family::V4));
        let packet = udp((from, 4000), (to, 53), &number.to_be_bytes());
        assert!(pair.ends[0].service.push(packet));
        if number % BATCH_MAX == BATCH_MAX - 1 || number == count - 1 {
            pair.ends[0].turn(pair.now);
            let sent = pair.ends[0].sent();
            datagrams.extend(sent.into_iter().map(|packet| packet.bytes));
        }
    }
    assert_eq!(datagrams.len(), count);
    datagrams
}

#[test]
fn garbage_is_answered_by_no_byte_and_a_peer_goes_on_beside_it() {
    let mut pair = Pair::new();
    pair.check_ask_and_answer(Family::V4);
    // What somebody on the way may have seen.
    let seen: Vec<Vec<u8>> = pair.seen.iter().map(|(_, bytes)| bytes.clone()).collect();
    let transport = sealed(&mut pair, 1).remove(0);
    let mut random = Random(fill(5));
    let mut made = 0;
    while made < GARBAGE {
        let batch: Vec<_> = (0..10_000)
            .map(|_| {
                let kind = u8::try_from(random.below(8)).unwrap();
                let mut bytes = match kind {
                    0 => {
                        let len = 1 + random.below(1_400);
                        random.bytes(len)
                    }
                    1 => random.bytes(148),
                    2 => random.bytes(92),
                    3 => random.bytes(64),
                    4 => random.bytes(32),
                    5 => seen[random.below(seen.len())].clone(),
                    _ => transport.clone(),
                };
                match kind {
                    // A message of some kind by its front.
                    1..=4 => bytes[..4].copy_from_slice(&[kind, 0, 0, 0]),
                    // A real one with a bit turned behind the session's name, but not in what only counts under load: that would
                    // be a replay, and many of those get a cookie.
                    5.. => {
                        let unread = if matches!(bytes.len(), 148 | 92) {
                            16
                        } else {
                            0
                        };
                        let at = 8 + random.below(bytes.len() - 8 - unread);
                        bytes[at] ^= 1 << random.below(8);
                    }
                    _ => {}
                }
                // From anywhere, the peer's own address among them.
                let from = match random.below(4) {
                    0 => pair.at[0],
                    _ => node(u8::try_from(3 + random.below(250)).unwrap()),
                };
                (from, bytes)
            })
            .collect();
        made += batch.len();
        assert!(come(&mut pair, batch).is_empty());
        assert!(pair.ends[1].sent().is_empty(), "silence");
        pair.check_ask_and_answer(Family::V4);
        pair.now = pair.now.plus_ms(1);
    }
    // The datagrams it was made of are still good, and each garbage one is counted, by name.
    assert_eq!(dropped(&pair), made as u64, "{:?}", pair.ends[1].drops());
    assert_eq!(come(&mut pair, [(node(1), transport)]).len(), 1);
    pair.assert_at_rest();
}

#[test]
fn packets_out_of_order_within_the_window_are_all_taken_and_no_replay_is() {
    let mut pair = Pair::new();
    pair.check_ask_and_answer(Family::V4);
    let mut random = Random(fill(6));
    let mut recorded = Vec::new();
    for order in 0..3 {
        let mut datagrams = sealed(&mut pair, WINDOW);
        match order {
            0 => datagrams.reverse(),
            1 => random.shuffle(&mut datagrams),
            _ => {}
        }
        let from = pair.at[0];
        let coming = datagrams.iter().map(|bytes| (from, bytes.clone()));
        let numbers: BTreeSet<Vec<u8>> = come(&mut pair, coming)
            .into_iter()
            .map(|packet| packet.bytes[28..].to_vec())
            .collect();
        assert_eq!(numbers.len(), WINDOW, "order {order}");
        recorded.append(&mut datagrams);
    }
    assert_eq!(pair.ends[1].drops(), []);
    let replays: Vec<_> = (0..REPLAYS)
        .map(|_| {
            let from = [pair.at[0], node(9)][random.below(2)];
            (from, recorded[random.below(recorded.len())].clone())
        })
        .collect();
    for some in replays.chunks(5_000) {
        assert!(come(&mut pair, some.to_vec()).is_empty());
        assert!(pair.ends[1].sent().is_empty(), "silence");
        pair.check_ask_and_answer(Family::V4);
    }
    let all = [("replayed", REPLAYS as u64)];
    assert_eq!(pair.ends[1].drops(), all);
    pair.assert_at_rest();
}

#[test]
fn of_a_flood_of_handshakes_few_are_looked_at_and_answers_are_shorter_than_questions() {
    const SECONDS: usize = 10;
    const PER_SECOND: usize = 1_000;
    let mut pair = Pair::new();
    pair.check_ask_and_answer(Family::V4);
    let macs = MacKeys::new(&key(2).public());
    let mut random = Random(fill(7));
    let mut private = || PrivateKey::from_bytes(&random.bytes(32).try_into().unwrap());
    // Of strangers who know the public key of node 2, each a good one.
    let flood: Vec<Vec<u8>> = (0..200)
        .map(|index| {
            let time = Timestamp::at(Duration::from_secs(1_800_000_000));
            let stranger = Identity::new(private());
            let (_, initiation) =
                Initiator::start(&stranger, &key(2).public(), private(), index, time).unwrap();
            let mut bytes = initiation.to_bytes();
            macs.stamp(&mut bytes, None);
            bytes.to_vec()
        })
        .collect();
    let mut random = Random(fill(8));
    for second in 0..SECONDS {
        let looked_at = pair.ends[1].dropped(DropReason::PeerUnknown);
        for _ in 0..PER_SECOND / 10 {
            let some: Vec<_> = (0..10)
                .map(|_| {
                    let from = Endpoint {
                        ip: Ip::v4(random.bytes(4).try_into().unwrap()),
                        port: TUNNEL_PORT,
                    };
                    (from, flood[random.below(flood.len())].clone())
                })
                .filter(|(from, _)| !from.ip.is_discard_only())
                .collect();
            assert!(come(&mut pair, some).is_empty());
            for answer in pair.ends[1].sent() {
                assert_eq!(answer.bytes[0], 3, "a cookie");
                assert!(answer.bytes.len() < 148);
            }
            pair.now = pair.now.plus_ms(10);
        }
        let looked_at = pair.ends[1].dropped(DropReason::PeerUnknown) - looked_at;
        assert!(
            looked_at <= INITIATIONS_PER_SECOND as u64,
            "{looked_at} in second {second}"
        );
        // Who is known goes on.
        pair.check_ask_and_answer(Family::V4);
    }
    let looked_at = pair.ends[1].dropped(DropReason::PeerUnknown);
    assert!(looked_at < LOAD_MESSAGES as u64, "before the load was seen");
    assert_eq!(dropped(&pair), (SECONDS * PER_SECOND) as u64);
    pair.assert_at_rest();
}

#[test]
fn a_new_session_every_three_seconds_for_minutes_loses_nothing() {
    const SECONDS: usize = 300;
    let mut pair = Pair::new();
    for step in 0..SECONDS * 10 {
        if step % 30 == 0 {
            // One of them begins anew, or the other, or both at once.
            for end in [0, 1] {
                if step / 30 % 3 != end {
                    let identity = Identity::new(key(if end == 0 { 1 } else { 2 }));
                    pair.orders[end].set_identity(identity);
                }
            }
        }
        for family in FAMILIES {
            let (caller, callee) = ((ns_ip(family, 1), 4000), (ns_ip(family, 2), 53));
            let question = udp(caller, (service_ip(family), 53), b"question");
            assert!(pair.ends[0].service.push(question));
            if step > 0 {
                let answer = udp(callee, (instance_ip(family, 1), 4000), b"answer");
                assert!(pair.ends[1].service.push(answer));
            }
        }
        pair.settle();
        assert_eq!(pair.ends[1].delivered().len(), 2, "step {step}");
        let answers = if step > 0 { 2 } else { 0 };
        assert_eq!(pair.ends[0].delivered().len(), answers, "step {step}");
        pair.now = pair.now.plus_ms(100);
    }
    let responses = pair.seen.iter().filter(|(_, datagram)| datagram[0] == 2);
    assert!(responses.count() >= SECONDS / 3);
    for end in &pair.ends {
        assert_eq!(end.drops(), []);
    }
    pair.assert_at_rest();
}
