//! The one place that reads clocks; protocols get the time as an argument.

use rustix::time::{ClockId, clock_gettime};
use sluice_proto::alloc::Reading;
use std::fs;
use std::sync::OnceLock;
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
#[must_use]
pub fn wall_clock() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// What all clocks show, for a [`Calendar`](sluice_proto::alloc::Calendar): rests outlive the process, and even the boot.
#[must_use]
pub fn clocks() -> Reading {
    Reading {
        boot: boot().map(str::to_owned),
        uptime: uptime(),
        wall: wall_clock(),
    }
}

/// Also while the machine sleeps. Not from `/proc/uptime`: that is a container's age in some containers.
fn uptime() -> Duration {
    let since = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(since.tv_sec).unwrap_or_default();
    Duration::from_secs(seconds)
}

/// The name of this boot; the same for the life of the process, which it outlives.
fn boot() -> Option<&'static str> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    BOOT.get_or_init(|| {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(id.trim().to_owned())
    })
    .as_deref()
}

/// A number that differs between two starts: orders lives of a manager, and spreads repetitions.
pub(crate) fn incarnation() -> u64 {
    u64::try_from(wall_clock().as_micros()).unwrap_or(u64::MAX)
}
