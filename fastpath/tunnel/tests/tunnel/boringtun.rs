//! Another implementation of WireGuard, boringtun, understands us and we understand it.

use crate::ends::*;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use sluice_tunnel::Speaker;
use std::sync::Arc;
use std::time::Duration;

/// boringtun as host 2, whose one peer is host 1. With `load`, it is under load from so many handshakes a second on.
fn host_2(load: Option<u64>) -> Tunn {
    let private = x25519::StaticSecret::from([2; 32]);
    let public = x25519::PublicKey::from(&private);
    let limit = load.map(|load| Arc::new(RateLimiter::new(&public, load)));
    let other = x25519::PublicKey::from(&x25519::StaticSecret::from([1; 32]));
    Tunn::new(private, other, Some([0x33; 32]), None, 7, limit)
}

/// An IPv4 packet of a length, without which boringtun delivers nothing.
fn packet(len: u16, fill: u8) -> Vec<u8> {
    let mut packet = vec![fill; usize::from(len)];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet
}

/// What boringtun answers to a datagram of ours: the datagrams that it sends, and the packets that it delivers.
fn give(tunn: &mut Tunn, datagram: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut sends, mut delivers) = (Vec::new(), Vec::new());
    let mut input = datagram;
    let mut room = [0; 2_048];
    loop {
        let from = Some([192, 0, 2, 1].into());
        match tunn.decapsulate(from, input, &mut room) {
            TunnResult::WriteToNetwork(datagram) => sends.push(datagram.to_vec()),
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                delivers.push(packet.to_vec());
                return (sends, delivers);
            }
            TunnResult::Done => return (sends, delivers),
            TunnResult::Err(error) => panic!("{error:?}"),
        }
        input = &[];
    }
}

/// Carries what both want to send until nothing does; what boringtun delivers.
fn settle_with(
    one: &mut Speaker,
    tunn: &mut Tunn,
    first: Option<Vec<u8>>,
    now: Duration,
) -> Vec<Vec<u8>> {
    let mut delivered = Vec::new();
    let mut to_one: Vec<Vec<u8>> = first.into_iter().collect();
    loop {
        for datagram in to_one.drain(..) {
            receive(one, &datagram, 2, now).unwrap();
        }
        let ours = transmits(one);
        if ours.is_empty() {
            return delivered;
        }
        for transmit in ours {
            let (sends, delivers) = give(tunn, transmit.datagram());
            to_one.extend(sends);
            delivered.extend(delivers);
        }
    }
}

fn sent(result: TunnResult<'_>) -> Vec<u8> {
    let TunnResult::WriteToNetwork(datagram) = result else {
        panic!("nothing to send: {result:?}");
    };
    datagram.to_vec()
}

/// Packets of many lengths, both ways.
fn talk(one: &mut Speaker, tunn: &mut Tunn, now: Duration) {
    for len in [20, 21, 36, 100, 1_404, 1_419, 1_420] {
        let there = packet(len, 0xaa);
        let datagram = send(one, &there, now).unwrap();
        let (_, delivered) = give(tunn, &datagram);
        assert_eq!(delivered, [there]);

        let back = packet(len, 0xbb);
        let mut room = [0; 2_048];
        let datagram = sent(tunn.encapsulate(&back, &mut room));
        let received = receive(one, &datagram, 2, now).unwrap();
        assert_eq!(received[..back.len()], back);
        assert!(received[back.len()..].iter().all(|&byte| byte == 0));
    }
}

#[test]
fn it_answers_us_and_packets_go_both_ways_through_new_sessions() {
    let (mut one, mut tunn) = (end(1, 2), host_2(None));
    let mut now = START;
    for _ in 0..4 {
        one.request(peer(), now);
        settle_with(&mut one, &mut tunn, None, now);
        talk(&mut one, &mut tunn, now);
        // The clock of its load does not follow ours, but its timestamps need ours to go on.
        now += Duration::from_secs(121);
    }
}

#[test]
fn we_answer_it_and_packets_go_both_ways_through_new_sessions() {
    let (mut one, mut tunn) = (end(1, 2), host_2(None));
    let mut now = START;
    for _ in 0..4 {
        let mut room = [0; 2_048];
        let initiation = sent(tunn.format_handshake_initiation(&mut room, true));
        settle_with(&mut one, &mut tunn, Some(initiation), now);
        talk(&mut one, &mut tunn, now);
        now += Duration::from_secs(10);
    }
}

#[test]
fn we_show_its_cookie_when_it_is_under_load() {
    let (mut one, mut tunn) = (end(1, 2), host_2(Some(0)));
    one.request(peer(), START);
    let (sends, _) = give(&mut tunn, &only(&mut one));
    assert_eq!(sends.len(), 1);
    assert_eq!((sends[0][0], sends[0].len()), (3, 64), "a cookie reply");
    receive(&mut one, &sends[0], 2, START).unwrap();
    let (now, again) = next_by_itself(&mut one);
    let (response, _) = give(&mut tunn, &again);
    settle_with(&mut one, &mut tunn, response.into_iter().next(), now);
    talk(&mut one, &mut tunn, now);
}

#[test]
fn it_shows_our_cookie_when_we_are_under_load() {
    let (mut one, mut tunn) = (end(1, 2), host_2(None));
    let mut stranger = end(9, 1);
    stranger.request(peer(), START);
    let flood = only(&mut stranger);
    for _ in 0..100 {
        receive(&mut one, &flood, 9, START).unwrap_err();
    }
    transmits(&mut one);
    events(&mut one);
    let mut room = [0; 2_048];
    let initiation = sent(tunn.format_handshake_initiation(&mut room, true));
    receive(&mut one, &initiation, 2, START).unwrap_err();
    let cookie = only(&mut one);
    assert_eq!((cookie[0], cookie.len()), (3, 64));
    assert_eq!(give(&mut tunn, &cookie), (vec![], vec![]));
    let initiation = sent(tunn.format_handshake_initiation(&mut room, true));
    settle_with(&mut one, &mut tunn, Some(initiation), START);
    talk(&mut one, &mut tunn, START);
}
