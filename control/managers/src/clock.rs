//! The one place that reads clocks; protocols get the time as an argument.

use sluice_proto::alloc::Reading;
use std::fs;
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

/// Time since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "a shell reads the calendar here, and nowhere else"
)]
pub(crate) fn wall_clock() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// What all clocks show, for a [`Calendar`](sluice_proto::alloc::Calendar): rests outlive the process, and even the boot.
#[must_use]
pub fn clocks() -> Reading {
    let uptime = fs::read_to_string("/proc/uptime").ok().and_then(|text| {
        let seconds = text.split_whitespace().next()?.parse().ok()?;
        Duration::try_from_secs_f64(seconds).ok()
    });
    // Of no use without the time since then.
    let boot = uptime.and_then(|_| fs::read_to_string("/proc/sys/kernel/random/boot_id").ok());
    Reading {
        boot: boot.map(|id| id.trim().to_owned()),
        uptime: uptime.unwrap_or_default(),
        wall: wall_clock(),
    }
}

/// A number that differs between two starts: orders lives of a manager, and spreads repetitions.
pub(crate) fn incarnation() -> u64 {
    u64::try_from(wall_clock().as_micros()).unwrap_or(u64::MAX)
}
