//! The laboratory's clock: it is a shell, so it may read time and wait.

use super::error::LabError;
use std::time::{Duration, Instant};

/// The time now.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the laboratory is a shell")]
pub fn now() -> Instant {
    Instant::now()
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
