//! Under a flood of initiations: few are looked at, and who receives at its address gets through.

use crate::ends::*;
use sluice_tunnel::Refusal;
use sluice_tunnel::load::{INITIATIONS_PER_SECOND, LOAD_MESSAGES};
use std::time::Duration;

/// An initiation to host 2 by a host with a key of its own.
fn stranger(seed: u8, now: Duration) -> Vec<u8> {
    let mut end = end(seed, 2);
    end.request(peer(), now);
    only(&mut end)
}

#[test]
fn a_flood_costs_few_key_agreements_and_is_answered_by_less() {
    let mut two = end(2, 1);
    let flood: Vec<_> = (10..74).map(|seed| stranger(seed, START)).collect();
    let (mut asked, mut answered) = (0, 0);
    for step in 0..4_000u32 {
        let now = START + Duration::from_micros(500) * step;
        let from = (step % 200) as u8;
        let datagram = &flood[step as usize % flood.len()];
        asked += datagram.len();
        receive(&mut two, datagram, from, now).unwrap_err();
        for reply in transmits(&mut two) {
            assert_eq!(reply.to, address(from));
            assert_eq!(reply.datagram().len(), 64);
            assert!(reply.datagram().len() < datagram.len());
            answered += reply.datagram().len();
        }
        events(&mut two);
    }
    // Before the load was noticed.
    let looked_at = two.refused(Refusal::UnknownInitiator);
    assert_eq!(looked_at, LOAD_MESSAGES as u64 - 1);
    assert_eq!(two.refused(Refusal::CookieSent), 4_000 - looked_at);
    assert!(answered < asked / 2);
}

#[test]
fn a_flood_by_senders_with_cookies_is_held_to_the_limit() {
    let mut two = end(2, 1);
    let mut looked_at = Vec::new();
    for step in 0..400u32 {
        let now = START + Duration::from_millis(5) * step;
        let host = 10 + (step % 200) as u8;
        let mut one = end(host, 2);
        one.request(peer(), now);
        let first = only(&mut one);
        let mut refusal = receive(&mut two, &first, host, now).unwrap_err();
        if refusal == Refusal::CookieSent {
            receive(&mut one, &only(&mut two), 2, now).unwrap();
            let (_, again) = next_by_itself(&mut one);
            refusal = receive(&mut two, &again, host, now).unwrap_err();
            assert_ne!(refusal, Refusal::CookieSent, "it showed its cookie");
        }
        if refusal == Refusal::UnknownInitiator {
            looked_at.push(now);
        }
        events(&mut two);
    }
    for &end in &looked_at {
        let second = looked_at
            .iter()
            .filter(|&&at| at <= end && end - at < Duration::from_secs(1));
        assert!(second.count() <= INITIATIONS_PER_SECOND);
    }
    assert!(
        looked_at.len() >= 2 * INITIATIONS_PER_SECOND,
        "{}",
        looked_at.len()
    );
    assert!(two.refused(Refusal::TooMany) > 0);
}

#[test]
fn a_peer_gets_through_a_flood_with_its_cookie_though_one_source_floods() {
    let (mut one, mut two) = ends();
    let flood = stranger(9, START);
    let burst = |two: &mut sluice_tunnel::Speaker, now| {
        for _ in 0..100 {
            receive(two, &flood, 9, now).unwrap_err();
        }
        transmits(two);
        events(two);
    };
    burst(&mut two, START);
    one.request(peer(), START);
    assert_eq!(
        receive(&mut two, &only(&mut one), 1, START),
        Err(Refusal::CookieSent)
    );
    receive(&mut one, &only(&mut two), 2, START).unwrap();
    assert!(
        transmits(&mut one).is_empty(),
        "a cookie is not answered at once"
    );
    let (now, again) = next_by_itself(&mut one);
    burst(&mut two, now);
    receive(&mut two, &again, 1, now).unwrap();
    settle(&mut one, &mut two, now);
    assert!(send(&mut two, b"packet", now).is_ok());
}

#[test]
fn a_responder_gets_a_cookie_from_an_initiator_under_load() {
    let (mut one, mut two) = ends();
    one.request(peer(), START);
    let first = only(&mut one);
    receive(&mut two, &first, 1, START).unwrap();
    let response = only(&mut two);
    let mut flooder = end(9, 1);
    flooder.request(peer(), START);
    let flood = only(&mut flooder);
    for _ in 0..LOAD_MESSAGES {
        receive(&mut one, &flood, 9, START).unwrap_err();
    }
    transmits(&mut one);
    assert_eq!(
        receive(&mut one, &response, 2, START),
        Err(Refusal::CookieSent)
    );
    receive(&mut two, &only(&mut one), 1, START).unwrap();

    // The repeated initiation is answered with the cookie, while the load goes on.
    let (now, again) = next_by_itself(&mut one);
    receive(&mut two, &again, 1, now).unwrap();
    for _ in 0..LOAD_MESSAGES {
        receive(&mut one, &flood, 9, now).unwrap_err();
    }
    transmits(&mut one);
    receive(&mut one, &only(&mut two), 2, now).unwrap();
    assert!(send(&mut one, b"packet", now).is_ok());
}
