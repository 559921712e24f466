//! The one place that reads clocks; protocols get the time as an argument.

use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// Time since this manager started; never goes back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(&self) -> Duration {
        self.0.elapsed()
    }

    /// Waits until [`Clock::now`] is `at`; forever without one.
    pub(crate) async fn reaches(&self, at: Option<Duration>) {
        match at {
            Some(at) => tokio::time::sleep_until(self.0 + at).await,
            None => std::future::pending().await,
        }
    }
}

/// Time since 1970: rests of addresses outlive a restart.
#[expect(
    clippy::disallowed_methods,
    reason = "a shell reads the calendar here, and nowhere else"
)]
pub(crate) fn wall_clock() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// A number that differs between two starts: orders lives of a manager, and spreads repetitions.
pub(crate) fn incarnation() -> u64 {
    u64::try_from(wall_clock().as_micros()).unwrap_or(u64::MAX)
}
