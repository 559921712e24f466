//! Messages on their way: delayed, and while faults are on also lost, repeated, reordered and cut off.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Who sends and receives.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Party {
    Node(usize),
    Cluster(usize),
    Root,
}

/// TCP sends again after this at least (RFC 6298; Linux' smallest).
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// How bad the network is.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Delay of a message, from and to.
    pub delay: (Duration, Duration),
    /// Of 1000 messages so many are lost, so many arrive twice.
    pub lost: u32,
    pub repeated: u32,
    /// A write is on disk after so long at most.
    pub sync: Duration,
}

impl Weather {
    /// Every message takes exactly `delay`.
    #[must_use]
    pub const fn calm(delay: Duration) -> Self {
        Self {
            delay: (delay, delay),
            lost: 0,
            repeated: 0,
            sync: Duration::ZERO,
        }
    }

    /// Loss, repetition, and delays so different that messages overtake each other.
    #[must_use]
    pub const fn storm() -> Self {
        Self {
            delay: (Duration::from_millis(1), Duration::from_millis(400)),
            lost: 150,
            repeated: 100,
            sync: Duration::from_millis(200),
        }
    }
}

/// The messages on their way. See the module.
#[derive(Debug)]
pub struct Network<M> {
    random: StdRng,
    pub weather: Weather,
    sent: u64,
    queue: BTreeMap<(Duration, u64), (Party, Party, M)>,
    cut: BTreeSet<(Party, Party)>,
    slow: BTreeMap<Party, Duration>,
    slow_between: BTreeMap<(Party, Party), Duration>,
    /// When the last message of each stream arrives.
    streams: BTreeMap<(Party, Party), Duration>,
}

impl<M: Clone> Network<M> {
    #[must_use]
    pub fn new(seed: u64, weather: Weather) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            weather,
            sent: 0,
            queue: BTreeMap::new(),
            cut: BTreeSet::new(),
            slow: BTreeMap::new(),
            slow_between: BTreeMap::new(),
            streams: BTreeMap::new(),
        }
    }

    /// How long the next write takes.
    pub fn sync_time(&mut self) -> Duration {
        self.random.random_range(Duration::ZERO..=self.weather.sync)
    }

    /// What a slow party says comes late, and so does what it is told.
    pub fn slow_down(&mut self, party: Party, by: Duration) {
        self.slow.insert(party, by);
    }

    /// What the two say to each other comes late.
    pub fn slow_between(&mut self, a: Party, b: Party, by: Duration) {
        self.slow_between.insert((a.min(b), a.max(b)), by);
    }

    /// Nobody is slow any more; what the slow ones had not come to yet is lost with their connections. Gives the parties
    /// that were slow in everything.
    pub fn speed_up(&mut self, now: Duration) -> Vec<Party> {
        if !self.slow.is_empty() || !self.slow_between.is_empty() {
            let late = now + self.weather.delay.1;
            self.queue.retain(|(at, _), _| *at <= late);
            self.slow_between.clear();
            self.streams.clear();
        }
        std::mem::take(&mut self.slow).into_keys().collect()
    }

    /// As TCP does it: what is lost comes again and late, nothing overtakes, and a cut loses everything.
    pub fn send_in_order(&mut self, from: Party, to: Party, message: M, now: Duration) {
        if self.is_cut(from, to) {
            return;
        }
        let is_lost = self.random.random_range(0..1000) < self.weather.lost;
        let again = if is_lost {
            RETRANSMISSION
        } else {
            Duration::ZERO
        };
        let at = now + again + self.delay(from, to);
        let last = self.streams.entry((from, to)).or_default();
        *last = at.max(*last);
        let at = *last;
        self.enqueue(from, to, message, at);
    }

    pub fn send(&mut self, from: Party, to: Party, message: M, now: Duration) {
        if self.is_cut(from, to) || self.random.random_range(0..1000) < self.weather.lost {
            return;
        }
        if self.random.random_range(0..1000) < self.weather.repeated {
            let at = now + self.delay(from, to);
            self.enqueue(from, to, message.clone(), at);
        }
        let at = now + self.delay(from, to);
        self.enqueue(from, to, message, at);
    }

    fn delay(&mut self, from: Party, to: Party) -> Duration {
        let (least, most) = self.weather.delay;
        let slow = |party: &Party| self.slow.get(party).copied().unwrap_or_default();
        let between = (from.min(to), from.max(to));
        let way = self.slow_between.get(&between).copied();
        self.random.random_range(least..=most) + slow(&from) + slow(&to) + way.unwrap_or_default()
    }

    fn enqueue(&mut self, from: Party, to: Party, message: M, at: Duration) {
        self.sent += 1;
        self.queue.insert((at, self.sent), (from, to, message));
    }

    /// When the next message arrives.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// Grows with every message that is sent.
    #[must_use]
    pub const fn arrivals(&self) -> u64 {
        self.sent
    }

    /// Takes a message that has arrived.
    pub fn receive(&mut self, now: Duration) -> Option<(Party, Party, M)> {
        if self.next()? > now {
            return None;
        }
        self.queue.pop_first().map(|(_, message)| message)
    }

    /// Nothing passes between the two, and what was on its way is lost.
    pub fn cut(&mut self, a: Party, b: Party) {
        self.cut.insert((a.min(b), a.max(b)));
        self.lose_between(a, b);
    }

    /// What is on its way between the two is lost: the connection ends that carried it.
    pub fn lose_between(&mut self, a: Party, b: Party) {
        self.drop_between(|from, to| (from.min(to), from.max(to)) == (a.min(b), a.max(b)));
    }

    pub fn join(&mut self, a: Party, b: Party) {
        self.cut.remove(&(a.min(b), a.max(b)));
    }

    /// Joins all that was cut.
    pub fn join_all(&mut self) {
        self.cut.clear();
    }

    #[must_use]
    pub fn is_cut(&self, a: Party, b: Party) -> bool {
        self.cut.contains(&(a.min(b), a.max(b)))
    }

    /// What a party that restarts had sent or would have received is lost with its connections.
    pub fn reset(&mut self, party: Party) {
        self.drop_between(|from, to| from == party || to == party);
    }

    fn drop_between(&mut self, gone: impl Fn(Party, Party) -> bool) {
        self.queue.retain(|_, (from, to, _)| !gone(*from, *to));
        self.streams.retain(|(from, to), _| !gone(*from, *to));
    }
}
