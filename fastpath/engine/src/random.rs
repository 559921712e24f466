//! Cheap random numbers from a seed, for choices that an outsider should not guess but need not be secret.

/// xorshift64* (Vigna 2016).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        // Zero would stay zero.
        Self(seed ^ 0x9e37_79b9_7f4a_7c15 | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A port outside the well-known ones.
    pub(crate) fn port(&mut self) -> u16 {
        #[expect(clippy::cast_possible_truncation, reason = "below 64,512")]
        let offset = (((self.next() >> 32) * (65_536 - 1024)) >> 32) as u16;
        1024 + offset
    }
}
