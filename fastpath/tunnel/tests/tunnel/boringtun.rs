//! Another implementation of WireGuard, boringtun, understands us and we understand it.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "helpers of tests, where a panic is the message"
)]

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use sluice_tunnel::key::{Identity, PresharedKey, PrivateKey, PublicKey};
use sluice_tunnel::noise::{Initiation, Initiator, MacKeys, Responder, Response, Timestamp};
use std::time::Duration;

const OURS: [u8; 32] = [0x11; 32];
const THEIRS: [u8; 32] = [0x22; 32];
const PRESHARED: [u8; 32] = [0x33; 32];

/// boringtun with the static key [`THEIRS`], whose one peer is us.
fn boringtun() -> Tunn {
    Tunn::new(
        x25519::StaticSecret::from(THEIRS),
        x25519::PublicKey::from(&x25519::StaticSecret::from(OURS)),
        Some(PRESHARED),
        None,
        7,
        None,
    )
}

fn theirs() -> PublicKey {
    PrivateKey::from_bytes(&THEIRS).public()
}

fn sent(result: TunnResult<'_>) -> Vec<u8> {
    let TunnResult::WriteToNetwork(datagram) = result else {
        panic!("nothing to send: {result:?}");
    };
    datagram.to_vec()
}

#[test]
fn it_answers_our_initiation() {
    let ours = Identity::new(PrivateKey::from_bytes(&OURS));
    let time = Timestamp::at(Duration::from_secs(1_800_000_000));
    let ephemeral = PrivateKey::from_bytes(&[0x44; 32]);
    let (initiator, initiation) =
        Initiator::start(&ours, &theirs(), ephemeral, 0xa1b2_c3d4, time).unwrap();
    let mut datagram = initiation.to_bytes();
    MacKeys::new(&theirs()).stamp(&mut datagram, None);

    let mut room = [0; 2048];
    let answer = sent(boringtun().decapsulate(None, &datagram, &mut room));
    assert!(MacKeys::new(ours.public()).mac1(&answer).is_some());
    let response = Response::parse(&answer).unwrap();
    let preshared = PresharedKey::from_bytes(&PRESHARED);
    let keys = initiator.finish(&ours, &preshared, &response).unwrap();
    assert_eq!(
        (keys.local_index, keys.remote_index),
        (0xa1b2_c3d4, response.sender)
    );
}

#[test]
fn it_takes_our_response() {
    let ours = Identity::new(PrivateKey::from_bytes(&OURS));
    let mut tunn = boringtun();
    let mut room = [0; 2048];
    let datagram = sent(tunn.format_handshake_initiation(&mut room, false));
    assert!(MacKeys::new(ours.public()).mac1(&datagram).is_some());
    let responder = Responder::read(&ours, &Initiation::parse(&datagram).unwrap()).unwrap();
    assert_eq!(responder.initiator(), &theirs());

    let preshared = PresharedKey::from_bytes(&PRESHARED);
    let ephemeral = PrivateKey::from_bytes(&[0x44; 32]);
    let (_, response) = responder.respond(&preshared, &ephemeral, 5).unwrap();
    let mut datagram = response.to_bytes();
    MacKeys::new(&theirs()).stamp(&mut datagram, None);
    let keepalive = sent(tunn.decapsulate(None, &datagram, &mut room));
    assert_eq!(
        keepalive[..8],
        [4, 0, 0, 0, 5, 0, 0, 0],
        "an empty packet of session 5"
    );
    assert_eq!(keepalive.len(), 32);
}
