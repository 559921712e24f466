//! What a session promises, between two ends that share keys.

use super::*;
use crate::noise::message::Kind;
use crate::replay::COUNTER_MAX;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;
use std::thread;
use zeroize::Zeroizing;

const START: Duration = Duration::from_secs(1_000);
const MTU: usize = 1_420;

/// The initiator's end and the responder's.
fn pair() -> (Session, Session) {
    let keys = |initiated| {
        let (one, other) = (Zeroizing::new([1; 32]), Zeroizing::new([2; 32]));
        let (sending, receiving) = if initiated {
            (one, other)
        } else {
            (other, one)
        };
        TransportKeys {
            sending,
            receiving,
            local_index: if initiated { 10 } else { 20 },
            remote_index: if initiated { 20 } else { 10 },
            initiated,
        }
    };
    let end = |initiated| Session::new(&keys(initiated), Arc::default(), START);
    (end(true), end(false))
}

/// A buffer with a packet in it, and garbage around it.
fn buffer(packet: &[u8]) -> Vec<u8> {
    [&[0xee; HEADROOM], packet, &[0xee; TAILROOM]].concat()
}

fn sealed(by: &Session, packet: &[u8], now: Duration) -> Vec<u8> {
    let mut buffer = buffer(packet);
    let sealed = by.seal(&mut buffer, packet.len(), MTU, now).unwrap();
    buffer.truncate(sealed.len);
    buffer
}

#[test]
fn what_one_end_seals_the_other_opens_filled_up_with_zeros() {
    let (ours, theirs) = pair();
    for (len, padded) in [
        (0, 0),
        (1, 16),
        (16, 16),
        (17, 32),
        (1_408, 1_408),
        (1_409, 1_420),
        (1_420, 1_420),
        (9_000, 9_000),
    ] {
        let packet = vec![0xab; len];
        for (from, to) in [(&ours, &theirs), (&theirs, &ours)] {
            let mut datagram = sealed(from, &packet, START);
            assert_eq!(Kind::of(&datagram), Ok(Kind::Transport));
            assert_eq!(datagram.len(), HEADROOM + padded + 16, "a packet of {len}");
            let opened = to.open(&mut datagram, START).unwrap();
            assert_eq!(opened.len, padded);
            assert_eq!(datagram[HEADROOM..][..len], packet);
            assert_eq!(
                datagram[HEADROOM + len..][..padded - len],
                vec![0; padded - len]
            );
        }
    }
}

#[test]
fn a_buffer_that_is_too_short_costs_no_counter() {
    let (ours, _) = pair();
    let packet = [7; 100];
    let needed = HEADROOM + 112 + 16;
    for len in 0..needed {
        let mut buffer = buffer(&packet)[..len].to_vec();
        let before = buffer.clone();
        let buffer_len = buffer.len();
        assert_eq!(
            ours.seal(&mut buffer, 100, MTU, START),
            Err(SealError::NoRoom {
                packet_len: 100,
                buffer_len
            })
        );
        assert_eq!(buffer, before);
    }
    let error = ours.seal(&mut [0; 64], usize::MAX, MTU, START).unwrap_err();
    assert!(matches!(error, SealError::NoRoom { .. }));
    assert_eq!(
        TransportHeader::parse(&sealed(&ours, &packet, START))
            .unwrap()
            .counter,
        0
    );
}

#[test]
fn no_changed_bit_and_no_shorter_datagram_is_opened() {
    let (ours, theirs) = pair();
    let datagram = sealed(&ours, &[7; 40], START);
    for bit in 0..8 * datagram.len() {
        let mut changed = datagram.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let refusal = theirs.open(&mut changed, START).unwrap_err();
        let expected: &[_] = match bit / 8 {
            0..4 => &[Refusal::Malformed],
            4..8 => &[Refusal::UnknownSession],
            // Counters are read before they are known to be authentic.
            8..16 => &[Refusal::Forged, Refusal::SessionEnded],
            _ => &[Refusal::Forged],
        };
        assert!(expected.contains(&refusal), "bit {bit}: {refusal:?}");
    }
    for len in 0..datagram.len() {
        assert!(theirs.open(&mut datagram[..len].to_vec(), START).is_err());
    }
    assert!(theirs.open(&mut datagram.clone(), START).unwrap().first);
}

#[test]
fn of_a_hundred_thousand_replays_none_is_delivered_and_any_order_is() {
    let (ours, theirs) = pair();
    let mut random = StdRng::seed_from_u64(1);
    let datagrams: Vec<_> = (0..10_000u32)
        .map(|number| sealed(&ours, &number.to_be_bytes(), START))
        .collect();
    let mut delivered = BTreeSet::new();
    let mut replays = 0;
    let mut order: Vec<usize> = (0..datagrams.len()).collect();
    // No packet moves by more than the window is wide.
    for stretch in order.chunks_mut(4_000) {
        stretch.shuffle(&mut random);
    }
    for (at, &number) in order.iter().enumerate() {
        let mut datagram = datagrams[number].clone();
        let opened = theirs.open(&mut datagram, START).unwrap();
        assert_eq!(opened.first, at == 0);
        assert!(delivered.insert(datagram[HEADROOM..][..4].to_vec()));
        for _ in 0..10 {
            let again = order[random.random_range(0..=at)];
            let refusal = theirs
                .open(&mut datagrams[again].clone(), START)
                .unwrap_err();
            assert!(matches!(refusal, Refusal::Replayed | Refusal::TooOld));
            replays += 1;
        }
    }
    assert_eq!((delivered.len(), replays), (10_000, 100_000));
}

#[test]
fn workers_never_draw_the_same_counter_nor_deliver_a_packet_twice() {
    const WORKERS: usize = 4;
    const PACKETS: usize = 2_000;
    let (ours, theirs) = pair();
    let made: Vec<Vec<u8>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                scope.spawn(|| {
                    (0..PACKETS)
                        .map(|_| sealed(&ours, b"packet", START))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });
    let counters: BTreeSet<u64> = made
        .iter()
        .map(|datagram| TransportHeader::parse(datagram).unwrap().counter)
        .collect();
    assert_eq!(counters, (0..(WORKERS * PACKETS) as u64).collect());

    // Each worker receives all of them: between them each is delivered once.
    let opened: Vec<(usize, usize)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                scope.spawn(|| {
                    let all = made
                        .iter()
                        .map(|datagram| theirs.open(&mut datagram.clone(), START));
                    let opened: Vec<_> = all.flatten().collect();
                    (
                        opened.len(),
                        opened.iter().filter(|opened| opened.first).count(),
                    )
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .collect()
    });
    assert_eq!(
        opened.iter().map(|(packets, _)| packets).sum::<usize>(),
        WORKERS * PACKETS
    );
    assert_eq!(opened.iter().map(|(_, first)| first).sum::<usize>(), 1);
}

#[test]
fn counters_end_before_they_come_round() {
    let (ours, theirs) = pair();
    ours.counter
        .store(REKEY_AFTER_MESSAGES - 1, Ordering::Relaxed);
    let mut room = buffer(b"packet");
    assert!(!ours.seal(&mut room, 6, MTU, START).unwrap().rekey_due);
    assert!(ours.seal(&mut room, 6, MTU, START).unwrap().rekey_due);

    ours.counter
        .store(REJECT_AFTER_MESSAGES - 1, Ordering::Relaxed);
    assert!(ours.seal(&mut room, 6, MTU, START).is_ok());
    for _ in 0..20_000 {
        assert_eq!(ours.seal(&mut room, 6, MTU, START), Err(SealError::Ended));
    }
    assert_eq!(ours.counter.load(Ordering::Relaxed), REJECT_AFTER_MESSAGES);

    // A peer that goes on for too long is not listened to.
    ours.counter.store(COUNTER_MAX, Ordering::Relaxed);
    let mut last = sealed(&ours, b"packet", START);
    let mut beyond = sealed(&ours, b"packet", START);
    assert!(theirs.open(&mut last, START).is_ok());
    assert_eq!(theirs.open(&mut beyond, START), Err(Refusal::SessionEnded));
}

#[test]
fn a_session_is_renewed_by_its_initiator_and_ends_after_three_minutes() {
    let (ours, theirs) = pair();
    let (second, mut room) = (Duration::from_secs(1), buffer(b"packet"));
    let mut due = |by: &Session, age| by.seal(&mut room, 6, MTU, START + age).unwrap().rekey_due;
    assert!(!due(&ours, REKEY_AFTER_TIME - second));
    assert!(due(&ours, REKEY_AFTER_TIME));
    assert!(!due(&theirs, REKEY_AFTER_TIME));

    let receive = |from: &Session, to: &Session, age| {
        let mut datagram = sealed(from, b"packet", START);
        to.open(&mut datagram, START + age)
            .map(|opened| opened.rekey_due)
    };
    assert_eq!(
        receive(&theirs, &ours, REKEY_AFTER_TIME_RECEIVING - second),
        Ok(false)
    );
    assert_eq!(
        receive(&theirs, &ours, REKEY_AFTER_TIME_RECEIVING),
        Ok(true)
    );
    assert_eq!(
        receive(&ours, &theirs, REKEY_AFTER_TIME_RECEIVING),
        Ok(false)
    );
    assert!(receive(&ours, &theirs, REJECT_AFTER_TIME - second).is_ok());
    assert_eq!(
        receive(&ours, &theirs, REJECT_AFTER_TIME),
        Err(Refusal::SessionEnded)
    );
    assert_eq!(
        ours.seal(&mut buffer(b""), 0, MTU, START + REJECT_AFTER_TIME),
        Err(SealError::Ended)
    );
}
