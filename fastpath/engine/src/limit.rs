//! Rate limits by key: token buckets in a fixed number of cells.

use crate::batch::Now;

const CELLS: usize = 256;

/// Up to `burst` at once and `per_s` in the long run, for every cell of keys. Keys that fall into one cell share it.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// When a cell's bucket would be full again, in nanoseconds: the whole token bucket in one number.
    full_at_ns: Box<[u64; CELLS]>,
    interval_ns: u64,
    burst: u64,
    key: u64,
}

impl Limiter {
    pub(crate) fn new(per_s: u32, burst: u32, key: u64) -> Self {
        Self {
            full_at_ns: Box::new([0; CELLS]),
            interval_ns: 1_000_000_000 / u64::from(per_s.max(1)),
            burst: u64::from(burst.max(1)),
            key,
        }
    }

    /// Takes a token of `key`'s cell; false when it has none.
    pub(crate) fn allows(&mut self, key: u128, now: Now) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "both halves are mixed")]
        let mixed = ((key >> 64) as u64 ^ (key as u64).rotate_left(29) ^ self.key)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let cell = &mut self.full_at_ns[(mixed >> 56) as usize % CELLS];
        let full_at = (*cell).max(now.ns);
        let next = full_at + self.interval_ns;
        if next - now.ns > self.burst * self.interval_ns {
            return false;
        }
        *cell = next;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_a_rate() {
        let mut limiter = Limiter::new(10, 3, 1);
        let allowed =
            |limiter: &mut Limiter, now: Now| (0..10).filter(|_| limiter.allows(7, now)).count();
        assert_eq!(allowed(&mut limiter, Now::from_s(5)), 3);
        assert_eq!(allowed(&mut limiter, Now::from_s(5).plus_ms(100)), 1);
        assert_eq!(allowed(&mut limiter, Now::from_s(60)), 3);
    }
}
