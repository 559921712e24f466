//! Eight 16-bit lanes of two words, compared at once: the tags of a table's bucket.

/// The lanes that hold `value`, as bits; the lowest lane of the first word is bit 0.
#[must_use]
#[inline]
pub fn equal_lanes(words: [u64; 2], value: u16) -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: every x86-64 has SSE2.
        unsafe { equal_lanes_sse2(words, value) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        equal_lanes_each(words, value)
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[inline]
fn equal_lanes_sse2(words: [u64; 2], value: u16) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi16, _mm_movemask_epi8, _mm_packs_epi16, _mm_set_epi64x, _mm_set1_epi16,
        _mm_setzero_si128,
    };
    let [low, high] = words.map(u64::cast_signed);
    let equal = _mm_cmpeq_epi16(
        _mm_set_epi64x(high, low),
        _mm_set1_epi16(value.cast_signed()),
    );
    _mm_movemask_epi8(_mm_packs_epi16(equal, _mm_setzero_si128())).cast_unsigned()
}

/// The same without vectors.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn equal_lanes_each(words: [u64; 2], value: u16) -> u32 {
    let lane = |lane: usize| (words[lane / 4] >> (lane % 4 * 16)) & 0xffff;
    (0..8)
        .map(|at| u32::from(lane(at) == u64::from(value)) << at)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_of_lanes_is_found() {
        for value in [0, 1, 0x7fff, 0x8000, 0xffff] {
            for bits in 0..256_u32 {
                // The other lanes differ in one bit, so that a carry between lanes would show.
                let word = |first: u32| {
                    (0..4).fold(0, |word, lane| {
                        let is_equal = bits >> (first + lane) & 1 != 0;
                        let other = value ^ 1 << (first + lane);
                        word | u64::from(if is_equal { value } else { other }) << (lane * 16)
                    })
                };
                let words = [word(0), word(4)];
                assert_eq!(equal_lanes(words, value), bits);
                assert_eq!(equal_lanes_each(words, value), bits);
            }
        }
    }
}
