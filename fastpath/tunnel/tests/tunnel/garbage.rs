//! Whatever comes that no peer made: nothing panics, nothing is answered, nothing changes.

use crate::ends::*;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use sluice_tunnel::noise::MacKeys;
use sluice_tunnel::{Refusal, Speaker};
use std::time::Duration;

/// Datagrams per run; the debug build is for correctness, the release build for the number of the issue.
const DATAGRAMS: u32 = if cfg!(debug_assertions) {
    50_000
} else {
    1_000_000
};

/// One of each message to host 2, and host 2, which has seen none of them and waits for the response.
fn messages() -> (Speaker, [Vec<u8>; 4]) {
    let (mut one, mut two) = connected();
    let transport = send(&mut one, &[7; 100], START).unwrap();
    let later = START + Duration::from_secs(30);
    two.request(peer(), later);
    let ask = only(&mut two);
    receive(&mut one, &ask, 2, later).unwrap();
    let response = only(&mut one);
    let mut stranger = end(9, 1);
    stranger.request(peer(), later);
    let flood = only(&mut stranger);
    for _ in 0..30 {
        receive(&mut one, &flood, 9, later).unwrap_err();
    }
    transmits(&mut one);
    // What host 2 asked once more is answered by a cookie.
    assert_eq!(receive(&mut one, &ask, 2, later), Err(Refusal::CookieSent));
    let cookie = only(&mut one);
    one.request(peer(), later + Duration::from_secs(1));
    let initiation = only(&mut one);
    (two, [initiation, response, cookie, transport])
}

/// Whether a message is as good as the real one. The sender index of handshake messages, `4..8`, is covered only by `mac1`, which
/// whoever knows our public key can make; and without load nobody asks for `mac2`.
fn same(message: &[u8], datagram: &[u8]) -> bool {
    let meant = |bytes: &[u8]| match bytes.len() {
        len @ (148 | 92) => [&bytes[..4], &bytes[8..len - 32]].concat(),
        _ => bytes.to_vec(),
    };
    meant(message) == meant(datagram)
}

fn unchanged(two: &mut Speaker) {
    assert!(transmits(two).is_empty(), "answered");
    assert!(events(two).is_empty());
}

#[test]
fn every_truncation_is_refused_in_silence() {
    let (mut two, messages) = messages();
    let now = START + Duration::from_secs(31);
    for message in &messages {
        for len in 0..message.len() {
            assert!(receive(&mut two, &message[..len], 1, now).is_err());
            let longer = [message.as_slice(), &vec![0; len + 1]].concat();
            assert!(receive(&mut two, &longer, 1, now).is_err());
            unchanged(&mut two);
        }
    }
    // They were good: each is taken now, the cookie first, as it is about what waits for the response.
    let [initiation, response, cookie, transport] = &messages;
    for message in [transport, cookie, response, initiation] {
        assert!(receive(&mut two, message, 1, now).is_ok());
    }
}

#[test]
fn garbage_and_changed_messages_are_refused_in_silence() {
    let (mut two, messages) = messages();
    let now = START + Duration::from_secs(31);
    let mut random = StdRng::seed_from_u64(7);
    let keys = MacKeys::new(identity(2).public());
    let mut refused = [0u32; Refusal::ALL.len()];
    for round in 0..DATAGRAMS {
        // So slowly that the few that know our public key make no load, which would hide what a key agreement finds; and
        // so fast that the session does not end meanwhile.
        let now = now + Duration::from_micros(120) * round;
        let mut datagram = messages[random.random_range(0..4)].clone();
        match random.random_range(0..10) {
            0 => {
                datagram = vec![0; random.random_range(0..1_500)];
                random.fill_bytes(&mut datagram);
            }
            1 => {
                datagram.resize([148, 92, 64, 200][random.random_range(0..4)], 0);
                random.fill_bytes(&mut datagram[4..]);
            }
            2..9 => {
                for _ in 0..random.random_range(1..4) {
                    let at = random.random_range(0..datagram.len());
                    datagram[at] ^= 1 << random.random_range(0..8);
                }
            }
            _ => {
                let at = random.random_range(8..64);
                datagram[at] ^= 0x10;
            }
        }
        if round % 400 == 0 && matches!(datagram.len(), 148 | 92) {
            keys.stamp(&mut datagram, None);
        }
        if messages.iter().any(|message| same(message, &datagram)) {
            continue;
        }
        let refusal = receive(&mut two, &datagram, 1, now).unwrap_err();
        refused[refusal as usize] += 1;
        unchanged(&mut two);
    }
    for expected in [
        Refusal::Malformed,
        Refusal::WrongMac1,
        Refusal::Forged,
        Refusal::UnknownSession,
    ] {
        assert!(
            refused[expected as usize] > DATAGRAMS / 1_000,
            "{expected:?}: {refused:?}"
        );
    }
}
