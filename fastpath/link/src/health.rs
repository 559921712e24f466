//! What a link tells control while a worker owns it: plain counters, read from any thread.

use sluice_memory::Counter;
use std::sync::atomic::{AtomicI32, Ordering};

/// Deviations of one link. All counts since the start; control logs when they change, the link never does.
#[derive(Debug, Default)]
pub struct Health {
    /// Super-frames that the kernel refused to send as one and that were sent again as single datagrams.
    pub gso_refused: Counter,
    /// Sends that found the link full and were tried again.
    pub full_retries: Counter,
    /// Errors of earlier datagrams (ICMP) that the kernel reported on a later call.
    pub late_errors: Counter,
    last_errno: AtomicI32,
}

impl Health {
    /// Remembers `errno` as the last one met.
    pub fn note_errno(&self, errno: i32) {
        self.last_errno.store(errno, Ordering::Relaxed);
    }

    /// The last error the kernel returned for a frame, if any.
    #[must_use]
    pub fn last_error(&self) -> Option<std::io::Error> {
        match self.last_errno.load(Ordering::Relaxed) {
            0 => None,
            errno => Some(std::io::Error::from_raw_os_error(errno)),
        }
    }
}
