//! Two ends that know each other, and datagrams carried between them by hand.

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use sluice_tables::PeerSlot;
use sluice_tables::slots::Slot;
use sluice_tunnel::address::Address;
use sluice_tunnel::key::{Identity, PresharedKey, PrivateKey};
use sluice_tunnel::lane::{Event, Transmit};
use sluice_tunnel::peer::PeerSettings;
use sluice_tunnel::session::{HEADROOM, TAILROOM};
use sluice_tunnel::speaker::{Received, SendError};
use sluice_tunnel::{Refusal, Speaker};
use sluice_wire::Ip;
use std::time::Duration;

pub(crate) const START: Duration = Duration::from_secs(5_000);
pub(crate) const UNIX: Duration = Duration::from_secs(1_800_000_000);
pub(crate) const MTU: usize = 1_420;

/// The other end, at either end.
pub(crate) fn peer() -> PeerSlot {
    PeerSlot::from_index(3)
}

pub(crate) fn address(host: u8) -> Address {
    Address {
        ip: Ip::v4([192, 0, 2, host]),
        port: 50_103,
    }
}

pub(crate) fn identity(host: u8) -> Identity {
    Identity::new(PrivateKey::from_bytes(&[host; 32]))
}

pub(crate) fn preshared() -> PresharedKey {
    PresharedKey::from_bytes(&[0x33; 32])
}

pub(crate) fn settings(host: u8) -> PeerSettings {
    PeerSettings {
        key: *identity(host).public(),
        preshared: preshared(),
        address: Some(address(host)),
        keepalive: None,
    }
}

/// The end of a host, without peers, that starts at `now` with random bytes of a seed.
fn started(host: u8, seed: u64, now: Duration) -> Speaker {
    let mut random = StdRng::seed_from_u64(seed);
    let fill = Box::new(move |bytes: &mut [u8]| random.fill_bytes(bytes));
    Speaker::new(identity(host), fill, UNIX + (now - START), now)
}

/// The end of a host, without peers.
pub(crate) fn alone(host: u8) -> Speaker {
    started(host, u64::from(host), START)
}

/// The end of a host that has forgotten all but its keys, whose peer is the other.
pub(crate) fn anew(host: u8, other: u8, now: Duration) -> Speaker {
    let mut speaker = started(host, 1_000 + u64::from(host), now);
    speaker.add(peer(), settings(other), now).unwrap();
    speaker
}

/// The end of a host whose peer is the other.
pub(crate) fn end(host: u8, other: u8) -> Speaker {
    let mut speaker = alone(host);
    speaker.add(peer(), settings(other), START).unwrap();
    speaker
}

/// Hosts 1 and 2.
pub(crate) fn ends() -> (Speaker, Speaker) {
    (end(1, 2), end(2, 1))
}

pub(crate) fn transmits(speaker: &mut Speaker) -> Vec<Transmit> {
    std::iter::from_fn(|| speaker.poll_transmit()).collect()
}

pub(crate) fn events(speaker: &mut Speaker) -> Vec<Event> {
    std::iter::from_fn(|| speaker.poll_event()).collect()
}

/// The one datagram that waits to be sent.
pub(crate) fn only(speaker: &mut Speaker) -> Vec<u8> {
    let waiting = transmits(speaker);
    let [one] = &waiting[..] else {
        panic!("{} datagrams wait, not one", waiting.len());
    };
    one.datagram().to_vec()
}

/// Seals a packet; the datagram.
pub(crate) fn send(
    speaker: &mut Speaker,
    packet: &[u8],
    now: Duration,
) -> Result<Vec<u8>, SendError> {
    let mut buffer = [&[0; HEADROOM], packet, &[0; TAILROOM]].concat();
    let sealed = speaker.seal(peer(), &mut buffer, packet.len(), MTU, now)?;
    buffer.truncate(sealed.len);
    Ok(buffer)
}

/// Takes a datagram from a host: the packet in it, with what fills it up, or nothing.
pub(crate) fn receive(
    speaker: &mut Speaker,
    datagram: &[u8],
    from: u8,
    now: Duration,
) -> Result<Vec<u8>, Refusal> {
    let mut datagram = datagram.to_vec();
    let received = speaker.handle_datagram(&mut datagram, address(from), now)?;
    Ok(match received {
        Received::Nothing => Vec::new(),
        Received::Packet { len, peer: sender } => {
            assert_eq!(sender, peer());
            datagram[HEADROOM..][..len].to_vec()
        }
    })
}

/// Carries all that waits, both ways, until nothing does.
pub(crate) fn settle(one: &mut Speaker, two: &mut Speaker, now: Duration) {
    loop {
        let (from_one, from_two) = (transmits(one), transmits(two));
        if from_one.is_empty() && from_two.is_empty() {
            return;
        }
        for transmit in from_one {
            receive(two, transmit.datagram(), 1, now).unwrap();
        }
        for transmit in from_two {
            receive(one, transmit.datagram(), 2, now).unwrap();
        }
    }
}

/// Both ends after a handshake that host 1 began.
pub(crate) fn connected() -> (Speaker, Speaker) {
    let (mut one, mut two) = ends();
    one.request(peer(), START);
    settle(&mut one, &mut two, START);
    events(&mut one);
    events(&mut two);
    (one, two)
}

/// Lets time pass until the end sends something by itself: when, and what.
pub(crate) fn next_by_itself(speaker: &mut Speaker) -> (Duration, Vec<u8>) {
    loop {
        let now = speaker.poll_timeout().unwrap();
        speaker.handle_timeout(now);
        if let [one] = &transmits(speaker)[..] {
            return (now, one.datagram().to_vec());
        }
    }
}
