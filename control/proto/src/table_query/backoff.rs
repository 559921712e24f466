//! Exponential back-off with seeded jitter, so that many gateways do not ask in step.

use std::time::Duration;

/// SplitMix64: enough for jitter, and the same on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A part of `span`, from none to all of it.
    pub(crate) fn part_of(&mut self, span: Duration) -> Duration {
        let permille = u32::try_from(self.next() % 1001).unwrap_or(0);
        span * permille / 1000
    }
}

/// Waits `first`, then twice as long each time up to `max`, each shortened by up to a quarter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) max: Duration,
}

impl Backoff {
    /// How long to wait after `attempt` attempts (from 1) failed.
    pub(crate) fn wait(&self, attempt: u32, random: &mut Random) -> Duration {
        let doublings = attempt.saturating_sub(1).min(16);
        let wait = self.first.saturating_mul(1 << doublings).min(self.max);
        wait - random.part_of(wait / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_to_the_maximum_and_jitters_downwards() {
        let backoff = Backoff {
            first: Duration::from_millis(500),
            max: Duration::from_secs(8),
        };
        let mut random = Random::new(1);
        for (attempt, most_ms) in [(1, 500), (2, 1000), (3, 2000), (6, 8000), (60, 8000)] {
            let most = Duration::from_millis(most_ms);
            for _ in 0..100 {
                let wait = backoff.wait(attempt, &mut random);
                assert!(wait <= most && wait >= most * 3 / 4, "{attempt}: {wait:?}");
            }
        }
    }
}
