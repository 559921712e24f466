//! The laboratory's clock: it is a shell, so it may read time and wait.

use super::error::LabError;
use nix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// The time now.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the laboratory is a shell")]
pub fn now() -> Instant {
    Instant::now()
}

/// The CPU time of the calling thread, as the kernel counts it: what else runs on the machine is not in it.
#[derive(Clone, Copy, Debug)]
pub struct CpuClock {
    /// What reading it takes.
    cost: Duration,
}

impl CpuClock {
    #[must_use]
    pub fn new() -> Self {
        let mut clock = Self {
            cost: Duration::ZERO,
        };
        let costs = (0..1000).map(|_| clock.since(clock.now()));
        clock.cost = costs.min().unwrap_or_default();
        clock
    }

    /// For [`CpuClock::since`], on the same thread.
    #[must_use]
    pub fn now(&self) -> Duration {
        let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
        now.map(Duration::from).unwrap_or_default()
    }

    /// CPU time since `begin`, less what reading the clock took.
    #[must_use]
    pub fn since(&self, begin: Duration) -> Duration {
        self.now().saturating_sub(begin).saturating_sub(self.cost)
    }
}

impl Default for CpuClock {
    fn default() -> Self {
        Self::new()
    }
}

/// Lets time pass.
#[expect(clippy::disallowed_methods, reason = "the laboratory is a shell")]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(5);

/// Looks at `condition` until it gives a value, or `limit` has passed. What it said last is part of the error.
///
/// # Errors
/// [`LabError::Deadline`] when it never gave one.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<T, String>,
) -> Result<T, LabError> {
    let begin = now();
    loop {
        let seen = match condition() {
            Ok(value) => return Ok(value),
            Err(seen) => seen,
        };
        if begin.elapsed() >= limit {
            return Err(LabError::Deadline {
                what: what.to_owned(),
                waited_ms: begin.elapsed().as_millis(),
                seen,
            });
        }
        pause(POLL);
    }
}
