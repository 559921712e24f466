//! Keeps a peer that misbehaves from filling the log: a few lines per site and period, the rest is counted.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Lines a site may write per [`PERIOD`]: enough to see what happens, too few to fill a disk.
const LINES_MAX: u32 = 5;
const PERIOD: Duration = Duration::from_secs(10);

/// The allowance of one place that logs.
#[derive(Debug)]
pub(crate) struct LogLimit(Mutex<Window>);

#[derive(Debug)]
struct Window {
    began: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl LogLimit {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Window {
            began: None,
            lines: 0,
            suppressed: 0,
        }))
    }

    /// Whether a line may be written now, and how many were left out since the last one.
    pub(crate) fn allow(&self) -> Option<u64> {
        self.allow_at(Instant::now())
    }

    fn allow_at(&self, now: Instant) -> Option<u64> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began.is_none_or(|began| now >= began + PERIOD) {
            window.began = Some(now);
            window.lines = 0;
        }
        if window.lines == LINES_MAX {
            window.suppressed += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

/// `tracing::warn!` at most a few times per period; `suppressed` says how many lines were left out.
macro_rules! warn_limited {
    ($($line:tt)*) => {{
        static LIMIT: $crate::log_limit::LogLimit = $crate::log_limit::LogLimit::new();
        if let Some(suppressed) = LIMIT.allow() {
            tracing::warn!(suppressed, $($line)*);
        }
    }};
}
pub(crate) use warn_limited;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_writes_a_few_lines_and_then_says_how_many_it_left_out() {
        let limit = LogLimit::new();
        let start = Instant::now();
        let written: Vec<_> = (0..8).map(|_| limit.allow_at(start)).collect();
        assert_eq!(written, [[Some(0); 5].as_slice(), &[None; 3]].concat());
        assert_eq!(limit.allow_at(start + PERIOD), Some(3));
        assert_eq!(limit.allow_at(start + PERIOD), Some(0));
    }
}
