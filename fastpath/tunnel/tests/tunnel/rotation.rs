//! Keys that are replaced while packets go both ways.

use crate::ends::*;
use sluice_tunnel::Refusal;
use sluice_tunnel::key::PresharedKey;
use sluice_tunnel::peer::PeerSettings;
use sluice_tunnel::timers::FORMER_KEY_LASTS;
use std::time::Duration;

/// How the other end is known since it has the key of host 3.
fn another_key() -> PeerSettings {
    PeerSettings {
        key: *identity(3).public(),
        ..settings(1)
    }
}

/// A packet goes each way at `now`.
fn talk(one: &mut sluice_tunnel::Speaker, two: &mut sluice_tunnel::Speaker, now: Duration) {
    let there = send(one, b"there", now).unwrap();
    assert_eq!(receive(two, &there, 1, now).unwrap()[..5], *b"there");
    let back = send(two, b"back", now).unwrap();
    assert_eq!(receive(one, &back, 2, now).unwrap()[..4], *b"back");
}

#[test]
fn a_node_takes_another_key_and_no_packet_is_lost() {
    let (mut one, mut two) = connected();
    let late = send(&mut one, b"late", START).unwrap();
    let at = START + Duration::from_secs(1);
    one.set_identity(identity(3), at);
    talk(&mut one, &mut two, at);
    // It shows the key at once; the peer has not been told of it.
    let initiation = only(&mut one);
    assert_eq!(
        receive(&mut two, &initiation, 1, at),
        Err(Refusal::UnknownInitiator)
    );
    talk(&mut one, &mut two, at);
    let told = at + Duration::from_millis(700);
    two.add(peer(), another_key(), told).unwrap();
    talk(&mut one, &mut two, told);
    settle(&mut one, &mut two, told);
    talk(&mut one, &mut two, told);
    for end in [&one, &two] {
        let current = end.sessions(peer()).unwrap().current.as_ref().unwrap();
        assert_eq!(current.established(), told, "a session of the new key");
    }
    assert_eq!(receive(&mut two, &late, 1, told).unwrap()[..4], *b"late");
    // A session of the former key ends in time, in which everything else goes on.
    let over = told + FORMER_KEY_LASTS;
    assert!(two.poll_timeout().is_some_and(|at| at <= over));
    two.handle_timeout(over);
    settle(&mut one, &mut two, over);
    talk(&mut one, &mut two, over);
    let mut sessions = two.sessions(peer()).unwrap().iter();
    assert!(sessions.all(|session| session.established() >= told));
}

#[test]
fn a_peer_whose_next_key_never_speaks_is_heard_by_its_former_one_for_a_while_only() {
    let (mut one, mut two) = connected();
    let at = START + Duration::from_secs(1);
    two.add(peer(), another_key(), at).unwrap();
    let begins = transmits(&mut two);
    assert_eq!(begins.len(), 1, "a handshake with the new key");
    talk(&mut one, &mut two, at);
    let sent = send(&mut one, b"more", at).unwrap();
    let over = at + FORMER_KEY_LASTS;
    two.handle_timeout(over - Duration::from_millis(1));
    assert_eq!(receive(&mut two, &sent, 1, over).unwrap()[..4], *b"more");
    let sent = send(&mut one, b"last", over).unwrap();
    two.handle_timeout(over);
    assert_eq!(
        receive(&mut two, &sent, 1, over),
        Err(Refusal::UnknownSession)
    );
    assert!(two.sessions(peer()).unwrap().iter().next().is_none());
}

#[test]
fn what_waits_for_the_answer_of_a_former_key_waits_for_the_next() {
    let (mut one, mut two) = ends();
    two.request(peer(), START);
    let initiation = only(&mut two);
    let mut other = settings(1);
    other.preshared = PresharedKey::none();
    two.add(peer(), other.clone(), START).unwrap();
    assert_ne!(only(&mut two), initiation);
    other.key = *identity(3).public();
    two.add(peer(), other.clone(), START).unwrap();
    one.set_identity(identity(3), START);
    let mut known = settings(2);
    known.preshared = PresharedKey::none();
    one.add(peer(), known, START).unwrap();
    settle(&mut one, &mut two, START);
    talk(&mut one, &mut two, START);
}
