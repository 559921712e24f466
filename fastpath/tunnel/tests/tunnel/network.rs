//! Two ends and a network that loses, repeats and reorders, on virtual time: what it delivers is received, once.

use crate::ends::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sluice_tunnel::Speaker;
use sluice_tunnel::lane::Event;
use sluice_tunnel::speaker::SendError;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// What the network does to a datagram. Chances are in percent.
#[derive(Clone, Copy, Debug)]
struct Faults {
    lost: u32,
    repeated: u32,
    delay_max: Duration,
}

/// A datagram on its way, and the number of the packet in it.
struct Flying {
    to: usize,
    datagram: Vec<u8>,
    number: Option<u64>,
}

struct World {
    ends: [Speaker; 2],
    random: StdRng,
    faults: Faults,
    now: Duration,
    /// By time of arrival; the second number keeps two of the same time apart.
    flying: BTreeMap<(Duration, u64), Flying>,
    flown: u64,
    /// Packets that wait for a session.
    held: [VecDeque<u64>; 2],
    /// Numbers whose datagrams arrived at each end, and those that it received.
    arrived: [BTreeSet<u64>; 2],
    received: [BTreeSet<u64>; 2],
    sessions: usize,
}

impl World {
    fn new(seed: u64, faults: Faults) -> Self {
        let (one, two) = ends();
        Self {
            ends: [one, two],
            random: StdRng::seed_from_u64(seed),
            faults,
            now: START,
            flying: BTreeMap::new(),
            flown: 0,
            held: Default::default(),
            arrived: Default::default(),
            received: Default::default(),
            sessions: 0,
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn fly(&mut self, from: usize, datagram: &[u8], number: Option<u64>) {
        let copies = 1 + u32::from(self.chance(self.faults.repeated));
        for _ in 0..copies {
            if self.chance(self.faults.lost) {
                continue;
            }
            let delay = self
                .random
                .random_range(Duration::from_millis(1)..=self.faults.delay_max);
            self.flown += 1;
            let flying = Flying {
                to: 1 - from,
                datagram: datagram.to_vec(),
                number,
            };
            self.flying.insert((self.now + delay, self.flown), flying);
        }
    }

    /// An application sends packet `number`.
    fn send(&mut self, from: usize, number: u64) {
        match send(&mut self.ends[from], &number.to_be_bytes(), self.now) {
            Ok(datagram) => self.fly(from, &datagram, Some(number)),
            Err(SendError::NoSession) => self.held[from].push_back(number),
            Err(error) => panic!("{error}"),
        }
        self.drain(from);
    }

    /// Sends what the end wants to send, and what waited for a session.
    fn drain(&mut self, end: usize) {
        for transmit in transmits(&mut self.ends[end]) {
            self.fly(end, transmit.datagram(), None);
        }
        for event in events(&mut self.ends[end]) {
            match event {
                Event::Established { .. } => {
                    self.sessions += 1;
                    for number in std::mem::take(&mut self.held[end]) {
                        self.send(end, number);
                    }
                }
                Event::SessionsChanged { .. } | Event::Unreachable { .. } => {}
                Event::Roamed { .. } | Event::Unknown { .. } => panic!("{event:?}"),
            }
        }
    }

    /// Lets time pass: arrivals and timers, in order.
    fn run_until(&mut self, until: Duration) {
        loop {
            let arrival = self.flying.first_key_value().map(|((at, _), _)| *at);
            let timers = [0, 1].map(|end| self.ends[end].poll_timeout());
            let next = timers.into_iter().flatten().chain(arrival).min();
            let Some(next) = next.filter(|&at| at <= until) else {
                self.now = until;
                return;
            };
            self.now = self.now.max(next);
            if arrival == Some(next) {
                let (_, flying) = self.flying.pop_first().unwrap();
                self.arrive(&flying);
            } else {
                for end in [0, 1] {
                    self.ends[end].handle_timeout(self.now);
                    self.drain(end);
                }
            }
        }
    }

    fn arrive(&mut self, flying: &Flying) {
        let from = u8::try_from(2 - flying.to).unwrap();
        let end = &mut self.ends[flying.to];
        let received = receive(end, &flying.datagram, from, self.now);
        if let Some(number) = flying.number {
            self.arrived[flying.to].insert(number);
        }
        if let Ok(packet) = received
            && let Some(&number) = packet.first_chunk()
        {
            let number = u64::from_be_bytes(number);
            assert_eq!(Some(number), flying.number, "another packet than was sent");
            assert!(self.received[flying.to].insert(number), "{number} twice");
        }
        self.drain(flying.to);
    }
}

/// Packets both ways for a while, with a new session wanted every `renewed`; how many sessions there were.
fn carries_all(seed: u64, faults: Faults, length: Duration, renewed: Option<Duration>) -> usize {
    let mut world = World::new(seed, faults);
    let (mut number, mut renew_at) = (0, START);
    while world.now < START + length {
        let pause = Duration::from_millis(world.random.random_range(0..200));
        world.run_until(world.now + pause);
        for _ in 0..world.random.random_range(1..8) {
            number += 1;
            let from = world.random.random_range(0..2);
            world.send(from, number);
        }
        if let Some(renewed) = renewed
            && world.now >= renew_at
        {
            renew_at = world.now + renewed;
            // At times both at once.
            for end in [0, 1] {
                if world.chance(60) {
                    let now = world.now;
                    world.ends[end].request(peer(), now);
                    world.drain(end);
                }
            }
        }
    }
    world.run_until(START + length + Duration::from_secs(120));
    for end in [0, 1] {
        assert_eq!(
            world.arrived[end], world.received[end],
            "seed {seed}, {faults:?}"
        );
        assert!(
            world.held[end].is_empty(),
            "seed {seed}: packets still wait"
        );
    }
    let sent = world.received.iter().map(BTreeSet::len).sum::<usize>();
    assert!(
        sent as u64 >= number * u64::from(90 - faults.lost) / 100,
        "seed {seed}: {sent} of {number}"
    );

    // They agree on keys: without faults, what either seals now the other opens.
    world.faults = PERFECT;
    for from in [0, 1] {
        number += 1;
        world.send(from, number);
        let until = world.now + Duration::from_secs(1);
        world.run_until(until);
        assert!(world.received[1 - from].contains(&number), "seed {seed}");
    }
    world.sessions
}

const PERFECT: Faults = Faults {
    lost: 0,
    repeated: 0,
    delay_max: Duration::from_millis(2),
};

#[test]
fn all_that_arrives_is_received_through_many_sessions() {
    for seed in 0..3 {
        let faults = Faults {
            lost: [0, 5, 20][seed as usize],
            repeated: 10,
            delay_max: Duration::from_millis(300),
        };
        // Twelve minutes: a session every two.
        let sessions = carries_all(seed, faults, Duration::from_secs(720), None);
        assert!(sessions >= 10, "seed {seed}: {sessions}");
    }
}

#[test]
fn all_that_arrives_is_received_with_a_new_session_every_few_seconds() {
    for seed in 0..9 {
        let faults = Faults {
            lost: [0, 1, 10][seed as usize % 3],
            repeated: 5,
            delay_max: Duration::from_millis([2, 100, 1_500][seed as usize / 3]),
        };
        let sessions = carries_all(
            seed,
            faults,
            Duration::from_secs(180),
            Some(Duration::from_secs(6)),
        );
        assert!(sessions >= 20, "seed {seed}: {sessions}");
    }
}

/// One packet a second from one end; when the first of them was received, since now.
fn until_received(world: &mut World, from: usize, first: u64) -> Duration {
    let began = world.now;
    for number in first..first + 100 {
        world.send(from, number);
        let until = world.now + Duration::from_secs(1);
        world.run_until(until);
        if world.received[1 - from].range(first..).next().is_some() {
            return world.now - began;
        }
    }
    panic!("nothing was received for 100 seconds");
}

#[test]
fn after_a_cut_of_any_length_packets_go_again_within_seconds() {
    for cut in [1, 60, 170, 600] {
        for from in [0, 1] {
            let mut world = World::new(cut, PERFECT);
            until_received(&mut world, 0, 0);
            world.faults.lost = 100;
            let end = world.now + Duration::from_secs(cut);
            let mut number = 1_000;
            while world.now < end {
                world.send(from, number);
                number += 1;
                let until = world.now + Duration::from_secs(1);
                world.run_until(until);
            }
            world.faults = PERFECT;
            let healed = until_received(&mut world, from, 100_000);
            // An initiation is repeated after at most 5.3 seconds.
            assert!(
                healed <= Duration::from_secs(7),
                "cut of {cut} s: {healed:?}"
            );
        }
    }
}

#[test]
fn an_end_that_starts_anew_is_back() {
    for (from, limit) in [(0, 1), (1, 21)] {
        let mut world = World::new(5, PERFECT);
        until_received(&mut world, 0, 0);
        let later = world.now + Duration::from_secs(10);
        world.run_until(later);
        world.ends[0] = anew(1, 2, world.now);
        // If it sends, at once; if the other does, when that misses a sign of life for 15 seconds.
        let back = until_received(&mut world, from, 1_000);
        assert!(back <= Duration::from_secs(limit), "{back:?}");
    }
}
