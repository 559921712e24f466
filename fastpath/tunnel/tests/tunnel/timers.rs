//! What an end does by itself, to the millisecond.

use crate::ends::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sluice_tunnel::Speaker;
use sluice_tunnel::lane::Event;
use sluice_tunnel::speaker::SendError;
use std::time::Duration;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// All that the end sends by itself until then: when, and the first byte.
fn alone_until(speaker: &mut Speaker, until: Duration) -> Vec<(Duration, u8)> {
    let mut sent = Vec::new();
    while let Some(now) = speaker.poll_timeout().filter(|&at| at < until) {
        speaker.handle_timeout(now);
        let made = transmits(speaker);
        assert!(
            !made.is_empty() || speaker.poll_timeout() != Some(now),
            "a timer that does nothing comes again and again"
        );
        sent.extend(made.iter().map(|transmit| (now, transmit.datagram()[0])));
    }
    sent
}

#[test]
fn an_initiation_is_repeated_for_a_minute_and_a_half() {
    let mut one = end(1, 2);
    assert_eq!(one.poll_timeout(), None, "nothing to do");
    assert_eq!(send(&mut one, b"held", START), Err(SendError::NoSession));
    assert_eq!(transmits(&mut one).len(), 1);
    let repeated = alone_until(&mut one, START + seconds(1_000));
    let mut last = START;
    for &(at, kind) in &repeated {
        assert_eq!(kind, 1);
        assert!((seconds(5)..=Duration::from_millis(5_333)).contains(&(at - last)));
        last = at;
    }
    assert!(
        (START + seconds(84)..START + seconds(91)).contains(&last),
        "{last:?}"
    );
    assert!((16..=17).contains(&repeated.len()), "{}", repeated.len());
    assert_eq!(events(&mut one), [Event::Unreachable { peer: peer() }]);
    assert_eq!(one.poll_timeout(), None);
    // The next packet begins again.
    assert_eq!(
        send(&mut one, b"held", START + seconds(1_000)),
        Err(SendError::NoSession)
    );
    assert_eq!(transmits(&mut one).len(), 1);
}

#[test]
fn packets_that_wait_keep_the_attempts_going() {
    let mut one = end(1, 2);
    let mut attempts = 0;
    for second in 0..300 {
        let now = START + seconds(second);
        assert_eq!(send(&mut one, b"held", now), Err(SendError::NoSession));
        one.handle_timeout(now);
        attempts += transmits(&mut one).len();
    }
    assert!((45..=60).contains(&attempts), "{attempts}");
    assert!(events(&mut one).is_empty());
}

#[test]
fn whoever_only_receives_says_so_after_ten_seconds() {
    let (mut one, mut two) = connected();
    for second in [0, 1, 9] {
        let datagram = send(&mut one, b"packet", START + seconds(second)).unwrap();
        receive(&mut two, &datagram, 1, START + seconds(second)).unwrap();
    }
    assert_eq!(two.poll_timeout(), Some(START + seconds(10)));
    two.handle_timeout(START + seconds(10));
    let keepalive = only(&mut two);
    assert_eq!(keepalive.len(), 32);
    receive(&mut one, &keepalive, 2, START + seconds(10)).unwrap();
    // A keepalive is not answered.
    assert!(alone_until(&mut one, START + seconds(500)).is_empty());
    assert!(alone_until(&mut two, START + seconds(500)).is_empty());
}

#[test]
fn whoever_answers_sends_no_keepalive() {
    let (mut one, mut two) = connected();
    for second in 0..60 {
        let now = START + seconds(second);
        let there = send(&mut one, b"there", now).unwrap();
        receive(&mut two, &there, 1, now).unwrap();
        let back = send(&mut two, b"back", now).unwrap();
        receive(&mut one, &back, 2, now).unwrap();
        two.handle_timeout(now);
        assert!(transmits(&mut two).is_empty());
    }
}

#[test]
fn a_peer_that_is_silent_for_fifteen_seconds_is_asked() {
    let (mut one, _) = connected();
    send(&mut one, b"lost", START + seconds(1)).unwrap();
    send(&mut one, b"lost", START + seconds(9)).unwrap();
    let asked = alone_until(&mut one, START + seconds(17));
    assert_eq!(asked, [(START + seconds(16), 1)]);
}

#[test]
fn a_mapping_is_kept_alive_from_the_start() {
    let (mut one, mut two) = (alone(1), end(2, 1));
    let mut kept = settings(2);
    kept.keepalive = Some(seconds(25));
    one.add(peer(), kept, START).unwrap();
    assert_eq!(one.poll_timeout(), Some(START));
    one.handle_timeout(START);
    settle(&mut one, &mut two, START);
    let mut now = START;
    let mut initiations = 0;
    while now < START + seconds(600) {
        now = one.poll_timeout().unwrap();
        one.handle_timeout(now);
        for transmit in transmits(&mut one) {
            initiations += usize::from(transmit.datagram()[0] == 1);
            receive(&mut two, transmit.datagram(), 1, now).unwrap();
        }
        settle(&mut one, &mut two, now);
        assert!(one.poll_timeout().unwrap() > now);
        assert!(one.poll_timeout().unwrap() <= now + seconds(25));
    }
    // Keepalives are packets, too: a session lasts for five of them.
    assert!((4..=5).contains(&initiations), "{initiations}");
}

#[test]
fn a_mapping_is_tried_for_as_long_as_it_is_configured() {
    let mut one = alone(1);
    let mut kept = settings(2);
    kept.keepalive = Some(seconds(25));
    one.add(peer(), kept, START).unwrap();
    let sent = alone_until(&mut one, START + seconds(1_000));
    let gap = sent
        .windows(2)
        .map(|pair| pair[1].0 - pair[0].0)
        .max()
        .unwrap();
    assert!(gap <= seconds(30), "{gap:?}");
    assert!(sent.len() > 100);
}

#[test]
fn all_secrets_are_forgotten_after_nine_minutes() {
    let (mut one, _) = connected();
    let forgets = START + seconds(540);
    assert_eq!(one.poll_timeout(), Some(forgets));
    one.handle_timeout(forgets - Duration::from_millis(1));
    assert_eq!(one.sessions(peer()).unwrap().iter().count(), 1);
    one.handle_timeout(forgets);
    assert_eq!(one.sessions(peer()).unwrap().iter().count(), 0);
    assert_eq!(events(&mut one), [Event::SessionsChanged { peer: peer() }]);
    assert_eq!(one.poll_timeout(), None);
}

#[test]
fn a_keepalive_that_comes_too_late_for_its_session_leaves_it_to_the_handshake() {
    let (mut one, mut two) = (alone(1), end(2, 1));
    let mut kept = settings(2);
    kept.keepalive = Some(seconds(3));
    one.add(peer(), kept, START).unwrap();
    one.handle_timeout(START);
    settle(&mut one, &mut two, START);
    one.handle_timeout(START + seconds(176));
    assert_eq!(
        transmits(&mut one).len(),
        2,
        "a keepalive and an initiation"
    );
    assert_eq!(one.poll_timeout(), Some(START + seconds(179)));
    let late = START + Duration::from_millis(180_500);
    one.handle_timeout(late);
    assert!(transmits(&mut one).is_empty());
    assert!(one.poll_timeout().unwrap() > late);
}

#[test]
fn whatever_happened_a_timer_that_was_handled_lies_ahead() {
    let mut random = StdRng::seed_from_u64(3);
    for keepalive in [None, Some(seconds(25))] {
        let (mut one, mut two) = (alone(1), end(2, 1));
        let mut kept = settings(2);
        kept.keepalive = keepalive;
        one.add(peer(), kept, START).unwrap();
        let mut now = START;
        for step in 0..300 {
            // At times the machine sleeps.
            let longest = [10, 5_000, 30_000, 700_000][random.random_range(0..4)];
            now += Duration::from_millis(random.random_range(0..longest));
            if random.random_range(0..3) == 0 {
                for end in [&mut one, &mut two] {
                    end.handle_timeout(now);
                    let next = end.poll_timeout();
                    assert!(
                        next.is_none_or(|at| at > now),
                        "step {step}: {next:?} at {now:?}"
                    );
                }
            }
            let (from, to, host) = if random.random_range(0..2) == 0 {
                (&mut one, &mut two, 1)
            } else {
                (&mut two, &mut one, 2)
            };
            if let Ok(datagram) = send(from, b"packet", now)
                && random.random_range(0..3) > 0
            {
                let _ = receive(to, &datagram, host, now);
            }
            for transmit in transmits(from) {
                if random.random_range(0..3) > 0 {
                    let _ = receive(to, transmit.datagram(), host, now);
                }
            }
        }
    }
}

#[test]
fn the_timers_see_what_workers_did() {
    let (one, mut two) = connected();
    let worker = one.sessions(peer()).unwrap().current.clone().unwrap();
    let mut buffer = [0; 128];
    let sealed = worker
        .seal(&mut buffer, 20, MTU, START + seconds(1))
        .unwrap();
    assert_eq!(one.poll_timeout(), Some(START + seconds(16)));

    let other = two.sessions(peer()).unwrap().current.clone().unwrap();
    let opened = other
        .open(&mut buffer[..sealed.len], START + seconds(1))
        .unwrap();
    assert_eq!(two.poll_timeout(), Some(START + seconds(11)));
    assert!(!opened.first, "the keepalive was");
    two.handle_opened(other.local_index(), opened, address(6), START + seconds(1));
    assert_eq!(two.address(peer()), Some(address(6)));
}
