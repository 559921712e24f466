//! Which counters of a session came already, for several workers at once: none is taken twice.
//!
//! The bitmap of RFC 6479, a ring of blocks in which a newer block takes an older one's place; but each block is one atomic
//! word that carries its number beside its bits. So one compare-and-exchange is the whole decision, workers share no
//! "newest counter", and need no order among each other. A word only grows, which is why a counter that was taken, or whose
//! block lost its place, can never be taken again.

use crate::refusal::Refusal;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one block; its word has a bit for each, in the lower half.
const BLOCK_COUNTERS: u64 = 32;

/// Blocks in the ring: 2 KiB a session.
const BLOCKS: usize = 256;

/// How far behind the newest counter that came another one may be and is sure to be taken, if it was not before. At least
/// the 8,128 of the Linux implementation.
pub const WINDOW: u64 = (BLOCKS as u64 - 1) * BLOCK_COUNTERS;

/// The greatest counter that is taken, 2^45 - 1: the laps up to it fit the upper half of a word. The paper would allow nearly
/// 2^64, but nobody reaches this one in the three minutes of a session: it takes 195 packets a nanosecond.
pub const COUNTER_MAX: u64 = (1 << 32) * BLOCKS as u64 * BLOCK_COUNTERS - 1;

/// The counters that came. The order of memory around it does not matter: only what each word decides does.
pub(crate) struct ReplayWindow {
    /// The block's lap around the ring, above one bit for each of its counters. Zero is right from the start: lap 0, nothing came.
    words: [AtomicU64; BLOCKS],
}

/// Where a counter is noted.
struct Place {
    lap: u64,
    bit: u64,
}

impl Place {
    #[inline]
    const fn of(counter: u64) -> Result<Self, Refusal> {
        if counter > COUNTER_MAX {
            return Err(Refusal::SessionEnded);
        }
        Ok(Self {
            lap: counter / (BLOCKS as u64 * BLOCK_COUNTERS),
            bit: 1 << (counter % BLOCK_COUNTERS),
        })
    }

    /// The word once the counter is taken, given the word before.
    #[inline]
    const fn take(&self, word: u64) -> Result<u64, Refusal> {
        let lap = word >> BLOCK_COUNTERS;
        if lap > self.lap {
            Err(Refusal::TooOld)
        } else if lap < self.lap {
            Ok((self.lap << BLOCK_COUNTERS) | self.bit)
        } else if word & self.bit != 0 {
            Err(Refusal::Replayed)
        } else {
            Ok(word | self.bit)
        }
    }
}

impl ReplayWindow {
    pub(crate) fn new() -> Self {
        Self {
            words: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Whether [`ReplayWindow::take`] would refuse now: saves decrypting what came already.
    ///
    /// # Errors
    /// As [`ReplayWindow::take`].
    #[inline]
    pub(crate) fn check(&self, counter: u64) -> Result<(), Refusal> {
        Place::of(counter)?.take(self.word(counter).load(Ordering::Relaxed))?;
        Ok(())
    }

    /// Takes a counter whose packet is authentic.
    ///
    /// # Errors
    /// [`Refusal::Replayed`], [`Refusal::TooOld`], and [`Refusal::SessionEnded`] above [`COUNTER_MAX`].
    #[inline]
    pub(crate) fn take(&self, counter: u64) -> Result<(), Refusal> {
        let place = Place::of(counter)?;
        let word = self.word(counter);
        let mut before = word.load(Ordering::Relaxed);
        loop {
            let after = place.take(before)?;
            match word.compare_exchange_weak(before, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => before = now,
            }
        }
    }

    #[inline]
    fn word(&self, counter: u64) -> &AtomicU64 {
        &self.words[(counter / BLOCK_COUNTERS % BLOCKS as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::thread;

    const RING: u64 = BLOCKS as u64 * BLOCK_COUNTERS;

    /// The window as a set of all counters that were ever taken.
    #[derive(Default)]
    struct Model {
        taken: BTreeSet<u64>,
    }

    impl Model {
        /// What is sure about a counter: `None` where both answers are right, behind the window.
        fn take(&mut self, counter: u64, answer: Result<(), Refusal>) {
            let newest = self.taken.last().copied().unwrap_or(0);
            if self.taken.contains(&counter) {
                assert!(answer.is_err(), "{counter} twice");
            } else if newest.saturating_sub(counter) <= WINDOW {
                assert_eq!(answer, Ok(()), "{counter} within the window of {newest}");
            }
            if answer.is_ok() {
                self.taken.insert(counter);
            }
        }
    }

    #[test]
    fn nothing_twice_and_everything_within_the_window() {
        /// Where the next counter is, from the newest so far.
        #[derive(Clone, Copy, Debug, bolero::TypeGenerator)]
        enum Step {
            Ahead(u8),
            FarAhead(u16),
            Behind(u16),
            Lap(bool),
            Anywhere(u64),
        }
        bolero::check!().with_type::<Vec<Step>>().for_each(|steps| {
            let window = ReplayWindow::new();
            let mut model = Model::default();
            for step in steps {
                let newest = model.taken.last().copied().unwrap_or(0);
                let counter = match *step {
                    Step::Ahead(by) => newest.saturating_add(u64::from(by)),
                    Step::FarAhead(by) => newest.saturating_add(u64::from(by)),
                    Step::Behind(by) => newest.saturating_sub(u64::from(by)),
                    Step::Lap(true) => newest.saturating_add(RING),
                    Step::Lap(false) => newest.saturating_sub(RING),
                    Step::Anywhere(counter) => counter,
                }
                .min(COUNTER_MAX);
                let check = window.check(counter);
                let answer = window.take(counter);
                assert_eq!(check, answer);
                model.take(counter, answer);
            }
        });
    }

    #[test]
    fn the_window_is_as_wide_as_it_says() {
        const { assert!(WINDOW >= 8_128) };
        for newest in [WINDOW, WINDOW + 5, 3 * RING - 1, 3 * RING, COUNTER_MAX] {
            let window = ReplayWindow::new();
            assert_eq!(window.take(newest), Ok(()));
            for counter in (newest - WINDOW)..newest {
                assert_eq!(window.take(counter), Ok(()), "{counter} after {newest}");
            }
            for counter in (newest - WINDOW)..=newest {
                assert_eq!(
                    window.take(counter),
                    Err(Refusal::Replayed),
                    "{counter} again"
                );
            }
        }
        let window = ReplayWindow::new();
        assert_eq!(window.take(RING + 7), Ok(()));
        assert_eq!(window.take(0), Err(Refusal::TooOld));
        assert_eq!(window.take(COUNTER_MAX + 1), Err(Refusal::SessionEnded));
    }

    #[test]
    fn workers_that_race_for_a_counter_get_it_once() {
        const COUNTERS: u64 = 3 * RING;
        const WORKERS: u64 = 4;
        let window = ReplayWindow::new();
        let taken: Vec<Vec<u64>> = thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS)
                .map(|worker| {
                    let window = &window;
                    // Every counter is tried by every worker, in a shuffled order within stretches of 64.
                    let order = (0..COUNTERS).map(move |at| at ^ (worker * 21 % 64));
                    scope.spawn(move || order.filter(|&at| window.take(at).is_ok()).collect())
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap())
                .collect()
        });
        let all: Vec<u64> = taken.into_iter().flatten().collect();
        let distinct: BTreeSet<u64> = all.iter().copied().collect();
        assert_eq!(all.len(), distinct.len(), "taken twice");
        // A worker tries all counters of a block before it takes the block's place, so none is lost either.
        assert_eq!(distinct, (0..COUNTERS).collect());
    }
}
