//! Many seeds at once, on all cores, and what they came to.

use crate::planted::Bug;
use crate::seed::{self, Outcome};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

/// What came of many seeds.
#[derive(Debug)]
pub struct Summary {
    pub seeds: u64,
    /// Failed seeds in order.
    pub violations: Vec<Outcome>,
    /// Requests of applications that were answered.
    pub answered: u64,
}

/// Runs the seeds `from..to` on `threads` threads.
///
/// # Panics
/// Never by what a seed finds: that is in the summary.
#[must_use]
pub fn run(from: u64, to: u64, threads: usize) -> Summary {
    let (next, answered) = (AtomicU64::new(from), AtomicU64::new(0));
    let violations = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        return;
                    }
                    let outcome = seed::run(seed, None);
                    answered.fetch_add(outcome.answered, Ordering::Relaxed);
                    if outcome.violation.is_some() {
                        let mut violations = violations.lock().expect("nobody panics with it");
                        violations.push(outcome);
                    }
                }
            });
        }
    });
    let mut violations = violations.into_inner().expect("nobody panics with it");
    violations.sort_by_key(|outcome| outcome.seed);
    Summary {
        seeds: to.saturating_sub(from),
        violations,
        answered: answered.into_inner(),
    }
}

/// What finds each of [`Bug::ALL`] among the seeds `0..seeds`, on `threads` threads.
///
/// # Panics
/// Never by what a seed finds.
#[must_use]
pub fn find_all(seeds: u64, threads: usize) -> Vec<Option<Outcome>> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Bug::ALL.map(|_| None));
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(bug) = Bug::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = first_seed(*bug, seeds);
                    let mut found = found.lock().expect("nobody panics with it");
                    found[*bug as usize] = outcome;
                }
            });
        }
    });
    let found = found.into_inner().expect("nobody panics with it");
    found.into()
}

/// The first of the seeds `0..seeds` that finds a planted mistake.
#[must_use]
pub fn first_seed(bug: Bug, seeds: u64) -> Option<Outcome> {
    let mut outcomes = (0..seeds).map(|seed| seed::run(seed, Some(bug)));
    outcomes.find(|outcome| outcome.violation.is_some())
}
