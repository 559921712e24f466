//! What a peer's timers must know about packets, noted by workers without a lock.
//!
//! Times are whole milliseconds, plus one, so that zero is "never". A mark that is set already is not written again: then
//! workers share its cache line without a fight.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One point in time, or none.
#[derive(Debug, Default)]
struct Mark(AtomicU64);

impl Mark {
    #[inline]
    fn set(&self, now: Duration) {
        let value = millis(now);
        if self.0.load(Ordering::Relaxed) != value {
            self.0.store(value, Ordering::Relaxed);
        }
    }

    #[inline]
    fn set_if_none(&self, now: Duration) {
        if self.0.load(Ordering::Relaxed) == 0 {
            self.0.store(millis(now), Ordering::Relaxed);
        }
    }

    #[inline]
    fn clear(&self) {
        if self.0.load(Ordering::Relaxed) != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    fn get(&self) -> Option<Duration> {
        let value = self.0.load(Ordering::Relaxed);
        value.checked_sub(1).map(Duration::from_millis)
    }
}

#[inline]
fn millis(now: Duration) -> u64 {
    now.as_secs() * 1_000 + u64::from(now.subsec_millis()) + 1
}

/// Of one peer, whichever session the packets are in. Only what was authenticated counts; `data` is a packet that is not empty.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// Anything went or came.
    last: Mark,
    /// The first data that came since anything went.
    owing_since: Mark,
    /// The first data that went since anything came.
    unheard_since: Mark,
}

impl Activity {
    #[inline]
    pub(crate) fn sent(&self, data: bool, now: Duration) {
        self.last.set(now);
        self.owing_since.clear();
        if data {
            self.unheard_since.set_if_none(now);
        }
    }

    #[inline]
    pub(crate) fn received(&self, data: bool, now: Duration) {
        self.last.set(now);
        self.unheard_since.clear();
        if data {
            self.owing_since.set_if_none(now);
        }
    }

    /// When anything went or came last.
    pub(crate) fn last(&self) -> Option<Duration> {
        self.last.get()
    }

    /// Since when the peer waits for a sign of life.
    pub(crate) fn owing_since(&self) -> Option<Duration> {
        self.owing_since.get()
    }

    /// Since when we wait for one.
    pub(crate) fn unheard_since(&self) -> Option<Duration> {
        self.unheard_since.get()
    }

    /// Nobody waits any longer: it was of no use.
    pub(crate) fn give_up(&self) {
        self.owing_since.clear();
        self.unheard_since.clear();
    }
}
