//! How sessions begin, and with whom.

use crate::ends::*;
use sluice_tables::PeerSlot;
use sluice_tables::slots::Slot;
use sluice_tunnel::Refusal;
use sluice_tunnel::key::{PresharedKey, PrivateKey, PublicKey};
use sluice_tunnel::lane::Event;
use sluice_tunnel::speaker::{AddError, SendError};
use std::sync::mpsc;
use std::time::Duration;

fn changed() -> Event {
    Event::SessionsChanged { peer: peer() }
}

fn established() -> Event {
    Event::Established { peer: peer() }
}

#[test]
fn a_packet_begins_a_handshake_and_the_next_one_goes() {
    let (mut one, mut two) = ends();
    assert_eq!(send(&mut one, b"held", START), Err(SendError::NoSession));
    assert_eq!(send(&mut one, b"held", START), Err(SendError::NoSession));
    let initiation = only(&mut one);
    assert_eq!(initiation.len(), 148);

    assert_eq!(receive(&mut two, &initiation, 1, START), Ok(vec![]));
    assert_eq!(events(&mut two), [changed()]);
    let sessions = two.sessions(peer()).unwrap();
    assert!(sessions.next.is_some() && sessions.current.is_none());

    let response = only(&mut two);
    assert_eq!(response.len(), 92);
    assert_eq!(receive(&mut one, &response, 2, START), Ok(vec![]));
    assert_eq!(events(&mut one), [changed(), established()]);
    // The keepalive is what allows the responder to send.
    let keepalive = only(&mut one);
    assert_eq!(keepalive.len(), 32);
    assert_eq!(receive(&mut two, &keepalive, 1, START), Ok(vec![]));
    assert_eq!(events(&mut two), [changed(), established()]);

    let there = send(&mut one, b"there", START).unwrap();
    assert_eq!(receive(&mut two, &there, 1, START).unwrap()[..5], *b"there");
    let back = send(&mut two, b"back", START).unwrap();
    assert_eq!(receive(&mut one, &back, 2, START).unwrap()[..4], *b"back");
    assert!(transmits(&mut one).is_empty() && transmits(&mut two).is_empty());
}

#[test]
fn workers_do_the_packets_and_the_speaker_hears_of_the_first() {
    let (mut one, mut two) = ends();
    one.request(peer(), START);
    receive(&mut two, &only(&mut one), 1, START).unwrap();
    receive(&mut one, &only(&mut two), 2, START).unwrap();
    let (keepalive, later) = (only(&mut one), START + Duration::from_secs(121));
    events(&mut two);

    // Each end's sessions are with a worker of its own thread.
    let ours = one.sessions(peer()).unwrap().current.clone().unwrap();
    let theirs = two.sessions(peer()).unwrap().next.clone().unwrap();
    let worker = std::thread::spawn(move || {
        let opened = theirs.open(&mut keepalive.clone(), START).unwrap();
        (theirs.local_index(), opened)
    });
    let (index, opened) = worker.join().unwrap();
    assert!(opened.first && opened.len == 0);
    two.handle_opened(index, opened, address(1), START);
    assert_eq!(events(&mut two), [changed(), established()]);
    assert!(send(&mut two, b"back", START).is_ok());

    let worker = std::thread::spawn(move || ours.seal(&mut [0; 100], 40, MTU, later).unwrap());
    assert!(worker.join().unwrap().rekey_due);
    one.request(peer(), later);
    settle(&mut one, &mut two, later);
    let current = two.sessions(peer()).unwrap().current.clone().unwrap();
    assert_eq!(current.established(), later);
}

#[test]
fn a_recorded_initiation_or_response_is_refused() {
    let (mut one, mut two) = ends();
    one.request(peer(), START);
    let initiation = only(&mut one);
    receive(&mut two, &initiation, 1, START).unwrap();
    let response = only(&mut two);
    assert_eq!(
        receive(&mut two, &initiation, 1, START),
        Err(Refusal::OldInitiation)
    );
    let later = START + Duration::from_secs(3_600);
    assert_eq!(
        receive(&mut two, &initiation, 9, later),
        Err(Refusal::OldInitiation)
    );
    assert_eq!(two.refused(Refusal::OldInitiation), 2);
    assert!(transmits(&mut two).is_empty(), "a replay is not answered");

    receive(&mut one, &response, 2, START).unwrap();
    only(&mut one);
    assert_eq!(
        receive(&mut one, &response, 2, START),
        Err(Refusal::UnknownSession)
    );
}

#[test]
fn a_recorded_initiation_from_elsewhere_moves_no_packets() {
    let (mut one, mut two) = ends();
    one.request(peer(), START);
    let initiation = only(&mut one);
    // The thief is faster.
    receive(&mut two, &initiation, 9, START).unwrap();
    let waiting = transmits(&mut two);
    assert_eq!(waiting[0].to, address(9));
    assert_eq!(two.address(peer()), Some(address(1)));
}

#[test]
fn packets_follow_the_first_authentic_one_from_elsewhere() {
    let (mut one, mut two) = connected();
    let mut forged = send(&mut one, b"packet", START).unwrap();
    let real = forged.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(receive(&mut two, &forged, 7, START), Err(Refusal::Forged));
    assert_eq!(two.address(peer()), Some(address(1)));
    receive(&mut two, &real, 7, START).unwrap();
    assert_eq!(two.address(peer()), Some(address(7)));
    let roamed = Event::Roamed {
        peer: peer(),
        address: address(7),
    };
    assert_eq!(events(&mut two), [roamed]);
    assert_eq!(receive(&mut two, &real, 8, START), Err(Refusal::Replayed));
    assert_eq!(
        two.address(peer()),
        Some(address(7)),
        "a replay is not followed"
    );
}

#[test]
fn an_unknown_key_is_answered_when_it_becomes_a_peers() {
    let (mut one, mut two) = (end(1, 2), alone(2));
    one.request(peer(), START);
    let initiation = only(&mut one);
    assert_eq!(
        receive(&mut two, &initiation, 1, START),
        Err(Refusal::UnknownInitiator)
    );
    let unknown = Event::Unknown {
        key: *identity(1).public(),
        from: address(1),
    };
    assert_eq!(events(&mut two), [unknown]);
    assert!(transmits(&mut two).is_empty());
    assert_eq!(two.poll_timeout(), Some(START + Duration::from_secs(5)));

    let admitted = START + Duration::from_millis(300);
    let mut learnt = settings(1);
    learnt.address = None;
    two.add(peer(), learnt, admitted).unwrap();
    settle(&mut one, &mut two, admitted);
    assert_eq!(two.address(peer()), Some(address(1)));
    let back = send(&mut two, b"back", admitted).unwrap();
    assert_eq!(
        receive(&mut one, &back, 2, admitted).unwrap()[..4],
        *b"back"
    );
}

#[test]
fn an_unknown_key_that_is_admitted_too_late_repeats_itself() {
    let (mut one, mut two) = (end(1, 2), alone(2));
    one.request(peer(), START);
    receive(&mut two, &only(&mut one), 1, START).unwrap_err();
    let late = START + Duration::from_secs(5);
    two.handle_timeout(late);
    assert_eq!(two.poll_timeout(), None);
    two.add(peer(), settings(1), late).unwrap();
    assert!(transmits(&mut two).is_empty());
    let repeats = one.poll_timeout().unwrap();
    one.handle_timeout(repeats);
    settle(&mut one, &mut two, repeats);
    assert!(send(&mut one, b"packet", repeats).is_ok());
}

#[test]
fn of_many_unknown_keys_the_latest_are_kept() {
    let mut two = alone(2);
    let mut now = START;
    for host in 10..110 {
        // Slowly enough to be looked at without a cookie.
        now += Duration::from_millis(50);
        let mut one = end(host, 2);
        one.request(peer(), now);
        receive(&mut two, &only(&mut one), host, now).unwrap_err();
    }
    two.add(peer(), settings(10), now).unwrap();
    assert!(transmits(&mut two).is_empty());
    two.add(peer(), settings(109), now).unwrap();
    assert_eq!(transmits(&mut two).len(), 1);
}

#[test]
fn another_preshared_key_makes_no_session() {
    let (mut one, mut two) = (end(1, 2), alone(2));
    let mut other = settings(1);
    other.preshared = PresharedKey::none();
    two.add(peer(), other, START).unwrap();
    one.request(peer(), START);
    receive(&mut two, &only(&mut one), 1, START).unwrap();
    assert_eq!(
        receive(&mut one, &only(&mut two), 2, START),
        Err(Refusal::Forged)
    );
    assert!(one.sessions(peer()).unwrap().current.is_none());
}

#[test]
fn both_begin_at_once_and_both_can_send_and_renew() {
    let (mut one, mut two) = ends();
    one.request(peer(), START);
    two.request(peer(), START);
    settle(&mut one, &mut two, START);
    for (now, renewed) in [(START, false), (START + Duration::from_secs(121), true)] {
        for _ in 0..3 {
            let there = send(&mut one, b"there", now).unwrap();
            assert_eq!(receive(&mut two, &there, 1, now).unwrap()[..5], *b"there");
            let back = send(&mut two, b"back", now).unwrap();
            assert_eq!(receive(&mut one, &back, 2, now).unwrap()[..4], *b"back");
        }
        let began = one
            .sessions(peer())
            .unwrap()
            .current
            .as_ref()
            .unwrap()
            .established();
        settle(&mut one, &mut two, now);
        let current = one
            .sessions(peer())
            .unwrap()
            .current
            .as_ref()
            .unwrap()
            .established();
        assert_eq!(current > began, renewed);
    }
}

#[test]
fn a_peer_that_is_removed_has_no_sessions() {
    let (mut one, mut two) = connected();
    let datagram = send(&mut one, b"packet", START).unwrap();
    let kept = two.sessions(peer()).unwrap().current.clone().unwrap();
    two.remove(peer());
    assert!(two.sessions(peer()).is_none());
    assert_eq!(send(&mut two, b"packet", START), Err(SendError::NoPeer));
    assert_eq!(
        receive(&mut two, &datagram, 1, START),
        Err(Refusal::UnknownSession)
    );
    assert_eq!(events(&mut two), [changed()]);
    let opened = kept.open(&mut datagram.clone(), START);
    assert!(opened.is_ok(), "by a worker that has not let go of it");
}

#[test]
fn the_same_peer_again_keeps_its_sessions_and_where_it_roamed_to() {
    let (mut one, mut two) = connected();
    receive(
        &mut two,
        &send(&mut one, b"roams", START).unwrap(),
        7,
        START,
    )
    .unwrap();
    let mut again = settings(1);
    again.keepalive = Some(Duration::from_secs(25));
    two.add(peer(), again.clone(), START).unwrap();
    assert_eq!(two.address(peer()), Some(address(7)));
    assert_eq!(
        two.poll_timeout(),
        Some(START + Duration::from_secs(10)),
        "owed"
    );
    again.address = Some(address(8));
    two.add(peer(), again, START).unwrap();
    assert_eq!(two.address(peer()), Some(address(8)));
    let back = send(&mut two, b"back", START).unwrap();
    assert_eq!(
        two.poll_timeout(),
        Some(START + Duration::from_secs(15)),
        "unheard"
    );
    assert_eq!(receive(&mut one, &back, 2, START).unwrap()[..4], *b"back");
}

#[test]
fn keys_that_cannot_be_a_peers_are_refused() {
    let mut one = end(1, 2);
    let other = PeerSlot::from_index(4);
    let own = *identity(1).public();
    assert_eq!(
        one.add(other, settings(1), START),
        Err(AddError::OwnKey(own))
    );
    let used = *identity(2).public();
    assert_eq!(
        one.add(other, settings(2), START),
        Err(AddError::KeyInUse(used))
    );
    let mut low = settings(5);
    low.key = PublicKey::from_bytes([0; 32]);
    assert_eq!(
        one.add(other, low.clone(), START),
        Err(AddError::BadKey(low.key))
    );
    one.remove(peer());
    assert_eq!(one.add(other, settings(2), START), Ok(()));
}

#[test]
fn a_clock_that_goes_back_stops_only_who_starts_anew_with_it() {
    let (mut one, mut two) = connected();
    let second = Duration::from_secs(1);
    one.set_wall_clock(second, START);
    let now = START + 10 * second;
    one.request(peer(), now);
    settle(&mut one, &mut two, now);
    let current = one.sessions(peer()).unwrap().current.clone().unwrap();
    assert_eq!(current.established(), now);

    let now = START + 20 * second;
    let mut one = anew(1, 2, now);
    one.set_wall_clock(second, now);
    one.request(peer(), now);
    assert_eq!(
        receive(&mut two, &only(&mut one), 1, now),
        Err(Refusal::OldInitiation)
    );
    one.set_wall_clock(UNIX + 20 * second, now);
    let (now, again) = next_by_itself(&mut one);
    receive(&mut two, &again, 1, now).unwrap();
    settle(&mut one, &mut two, now);
    assert!(send(&mut one, b"packet", now).is_ok());
}

#[test]
fn an_end_does_not_print_its_secrets() {
    let (mut one, mut two) = (end(1, 2), end(2, 1));
    // Under load, so that there is a cookie, too.
    for at in 0..30 {
        let mut stranger = end(40 + at, 2);
        stranger.request(peer(), START);
        receive(&mut two, &only(&mut stranger), 9, START).unwrap_err();
    }
    transmits(&mut two);
    one.request(peer(), START);
    receive(&mut two, &only(&mut one), 1, START).unwrap_err();
    receive(&mut one, &only(&mut two), 2, START).unwrap();
    let (now, again) = next_by_itself(&mut one);
    receive(&mut two, &again, 1, now).unwrap();
    // What is printed of bytes in a row are public keys and what everybody makes of them.
    let printed = format!("{one:?} {two:?}");
    let rows = printed
        .match_indices('[')
        .filter(|(at, _)| printed[at + 1..].starts_with(char::is_numeric));
    for (at, _) in rows {
        let before = &printed[..at];
        let name = before.trim_end_matches([' ', ':', '(']);
        let name = name.rsplit([' ', '(', '{']).next().unwrap();
        assert!(
            ["mac1", "cookie", "Timestamp", "bytes", "refused"].contains(&name),
            "{name} in {printed}"
        );
    }
    for part in [
        "PrivateKey(secret)",
        "CookieSecret(secret)",
        "CookieJar(secret)",
        "PresharedKey(secret)",
    ] {
        assert!(printed.contains(part), "{part} in {printed}");
    }
}

#[test]
fn the_keys_of_a_handshake_are_told_to_who_asked_for_them_on_either_side() {
    for asked in [0, 1] {
        let (one, two) = ends();
        let mut ends = [one, two];
        let (tell, told) = mpsc::channel();
        ends[asked].set_key_log(Box::new(move |lines| tell.send(lines.to_owned()).unwrap()));
        let [mut one, mut two] = ends;
        one.request(peer(), START);
        settle(&mut one, &mut two, START);
        let log = told.try_iter().collect::<String>();
        let lines: Vec<_> = log
            .lines()
            .map(|line| line.split_once(" = ").unwrap())
            .collect();
        let names: Vec<_> = lines.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            [
                "LOCAL_STATIC_PRIVATE_KEY",
                "REMOTE_STATIC_PUBLIC_KEY",
                "LOCAL_EPHEMERAL_PRIVATE_KEY",
                "PRESHARED_KEY"
            ]
        );
        let (ours, theirs) = [(1, 2), (2, 1)][asked];
        let local: PrivateKey = lines[0].1.parse().unwrap();
        assert_eq!(local.public(), *identity(ours).public());
        assert_eq!(lines[1].1, identity(theirs).public().to_string());
        assert!(lines[2].1.parse::<PrivateKey>().is_ok());
        assert_eq!(lines[3].1.parse(), Ok(preshared()));
    }
}
