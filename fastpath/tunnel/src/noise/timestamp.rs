//! The time in an initiation (TAI64N): it only grows, so that a recorded initiation is worth nothing later.

use super::message::TIMESTAMP_LEN;
use std::time::Duration;

/// TAI64 of 1970-01-01 00:00:00 UTC, with the ten seconds that TAI was ahead of it.
const TAI64_UNIX_EPOCH: u64 = (1 << 62) + 10;

/// Timestamps are multiples of this, about 17 ms: finer ones would tell a stranger about our clock.
const GRANULE_NS: u32 = 1 << 24;

/// TAI64N: seconds, then nanoseconds, both big-endian, so that later ones are greater, byte by byte.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Timestamp([u8; TIMESTAMP_LEN]);

impl Timestamp {
    /// The time since 1970-01-01 00:00:00 UTC, rounded down.
    #[must_use]
    pub fn at(unix: Duration) -> Self {
        let nanoseconds = unix.subsec_nanos() / GRANULE_NS * GRANULE_NS;
        Self::new(TAI64_UNIX_EPOCH.saturating_add(unix.as_secs()), nanoseconds)
    }

    /// This time, or the next one after `last` if this is not later.
    #[must_use]
    pub fn after(self, last: Option<Self>) -> Self {
        match last {
            Some(last) if last >= self => last.next(),
            _ => self,
        }
    }

    pub(super) const fn from_bytes(bytes: [u8; TIMESTAMP_LEN]) -> Self {
        Self(bytes)
    }

    pub(super) const fn as_bytes(&self) -> &[u8; TIMESTAMP_LEN] {
        &self.0
    }

    fn new(seconds: u64, nanoseconds: u32) -> Self {
        let mut bytes = [0; TIMESTAMP_LEN];
        bytes[..8].copy_from_slice(&seconds.to_be_bytes());
        bytes[8..].copy_from_slice(&nanoseconds.to_be_bytes());
        Self(bytes)
    }

    fn next(self) -> Self {
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3] = self.0;
        let seconds = u64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        match u32::from_be_bytes([n0, n1, n2, n3]).checked_add(GRANULE_NS) {
            Some(nanoseconds) if nanoseconds < 1_000_000_000 => Self::new(seconds, nanoseconds),
            _ => Self::new(seconds.saturating_add(1), 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_tai64n() {
        let bytes = Timestamp::at(Duration::new(1_700_000_000, 20_000_000)).0;
        assert_eq!(bytes, [0x40, 0, 0, 0, 0x65, 0x53, 0xf1, 0x0a, 1, 0, 0, 0]);
    }

    #[test]
    fn the_next_one_is_later_even_when_the_clock_stands_or_goes_back() {
        let clock = Timestamp::at(Duration::from_secs(1_000));
        let mut last = clock.after(None);
        assert_eq!(last, clock);
        for step in 0..200 {
            let next = Timestamp::at(Duration::from_secs(1_000 - step)).after(Some(last));
            assert!(next > last);
            last = next;
        }
        let later = Timestamp::at(Duration::from_secs(2_000));
        assert!(later > last, "200 steps are about three seconds");
        assert_eq!(later.after(Some(last)), later);
    }
}
