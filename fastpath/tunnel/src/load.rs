//! How many handshakes are looked at: under a flood few, and those of senders that receive at their address.

use crate::address::Address;
use std::collections::BTreeMap;
use std::time::Duration;

/// Initiations per second that cost a key agreement, whoever sends them.
pub const INITIATIONS_PER_SECOND: usize = 50;

/// Handshake messages within a second from which on we are under load.
pub const LOAD_MESSAGES: usize = 25;

/// How long we are under load since there were so many last.
const LOAD_LASTS: Duration = Duration::from_secs(1);

const SECOND: Duration = Duration::from_secs(1);

/// Under load a source prefix (an IPv4 address, an IPv6 /64) may send one handshake message per so much time, ...
const SOURCE_INTERVAL: Duration = Duration::from_millis(50);

/// ... and so many at once.
const SOURCE_BURST: u32 = 5;

/// Source prefixes that are remembered. Only such that showed their cookie are, so it takes that many hosts to fill it.
const SOURCES_MAX: usize = 4_096;

/// When the last N things happened.
#[derive(Debug)]
struct Last<const N: usize> {
    times: [Option<Duration>; N],
    next: usize,
}

impl<const N: usize> Last<N> {
    const fn new() -> Self {
        Self {
            times: [None; N],
            next: 0,
        }
    }

    fn push(&mut self, now: Duration) {
        self.times[self.next] = Some(now);
        self.next = (self.next + 1) % N;
    }

    /// Whether N happened within the last second.
    fn all_within_a_second(&self, now: Duration) -> bool {
        self.times[self.next].is_some_and(|oldest| now.saturating_sub(oldest) < SECOND)
    }
}

/// The judgement over handshake messages, of all peers.
#[derive(Debug)]
pub(crate) struct Load {
    arrived: Last<LOAD_MESSAGES>,
    admitted: Last<INITIATIONS_PER_SECOND>,
    until: Duration,
    /// When a source prefix may send next, had it never sent more than it may.
    sources: BTreeMap<u128, Duration>,
    swept: Duration,
}

impl Load {
    pub(crate) const fn new() -> Self {
        Self {
            arrived: Last::new(),
            admitted: Last::new(),
            until: Duration::ZERO,
            sources: BTreeMap::new(),
            swept: Duration::ZERO,
        }
    }

    /// Notes a handshake message that knows our public key; whether we are under load.
    pub(crate) fn note(&mut self, now: Duration) -> bool {
        self.arrived.push(now);
        if self.arrived.all_within_a_second(now) {
            self.until = now + LOAD_LASTS;
        }
        now < self.until
    }

    /// Whether one more initiation may cost a key agreement; if so, it is counted.
    pub(crate) fn admit_initiation(&mut self, now: Duration) -> bool {
        let admitted = !self.admitted.all_within_a_second(now);
        if admitted {
            self.admitted.push(now);
        }
        admitted
    }

    /// Whether a source that showed its cookie may send one more message; if so, it is counted.
    pub(crate) fn admit_source(&mut self, from: Address, now: Duration) -> bool {
        if now.saturating_sub(self.swept) >= SECOND {
            self.swept = now;
            self.sources.retain(|_, next| *next > now);
        }
        let prefix = prefix(from);
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&prefix) {
            return false;
        }
        let next = self.sources.entry(prefix).or_insert(now);
        *next = (*next).max(now);
        let admitted = *next - now <= SOURCE_INTERVAL * (SOURCE_BURST - 1);
        if admitted {
            *next += SOURCE_INTERVAL;
        }
        admitted
    }
}

/// What one host may change of its address at will is left out.
fn prefix(from: Address) -> u128 {
    let bits = from.ip.to_bits();
    if from.ip.is_v4() {
        bits
    } else {
        bits >> 64 << 64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_wire::Ip;

    const START: Duration = Duration::from_secs(10);

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn in_no_second_more_initiations_are_admitted_than_the_limit() {
        let mut load = Load::new();
        let mut admitted = Vec::new();
        for step in 0..4_000 {
            let now = START + ms(step);
            for _ in 0..3 {
                if load.admit_initiation(now) {
                    admitted.push(now);
                }
            }
        }
        for &end in &admitted {
            let within = admitted
                .iter()
                .filter(|&&at| at <= end && end - at < SECOND);
            assert!(within.count() <= INITIATIONS_PER_SECOND);
        }
        assert_eq!(admitted.len(), 4 * INITIATIONS_PER_SECOND);
    }

    #[test]
    fn load_begins_with_many_messages_and_ends_a_second_after() {
        let mut load = Load::new();
        for message in 1..LOAD_MESSAGES {
            assert!(!load.note(START), "message {message}");
        }
        assert!(load.note(START));
        assert!(load.note(START + ms(999)), "one of two dozen in a second");
        assert!(!load.note(START + ms(2_000)));
        let mut calm = Load::new();
        assert!(
            (0..100).all(|at| !calm.note(START + ms(45 * at))),
            "22 a second"
        );
    }

    #[test]
    fn a_source_has_a_burst_and_then_its_rate() {
        let mut load = Load::new();
        let from = |last: u8, port| Address {
            ip: Ip::v4([192, 0, 2, last]),
            port,
        };
        let burst = |load: &mut Load, now| {
            (0..100)
                .filter(|&port| load.admit_source(from(1, port), now))
                .count()
        };
        assert_eq!(burst(&mut load, START), 5);
        assert_eq!(burst(&mut load, START + ms(49)), 0);
        assert_eq!(burst(&mut load, START + ms(50)), 1);
        assert_eq!(burst(&mut load, START + ms(1_000)), 5);
        assert!(
            load.admit_source(from(2, 1), START + ms(1_000)),
            "another source"
        );

        let six = |low: u8| Address {
            ip: Ip::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, low]),
            port: 1,
        };
        let spread = (0..100)
            .filter(|&low| load.admit_source(six(low), START))
            .count();
        assert_eq!(spread, 5, "a /64 is one source");
    }

    #[test]
    fn a_full_table_of_sources_admits_no_new_one_until_it_is_swept() {
        let mut load = Load::new();
        let from = |number: u32| Address {
            ip: Ip::v4(number.to_be_bytes()),
            port: 1,
        };
        let admitted = (0..10_000)
            .filter(|&number| load.admit_source(from(number), START))
            .count();
        assert_eq!(admitted, SOURCES_MAX);
        assert!(load.admit_source(from(0), START), "known");
        assert!(load.admit_source(from(10_000), START + SECOND));
        assert_eq!(load.sources.len(), 1);
    }
}
