//! What tests of several modules need.

use crate::entropy::{Entropy, Fill};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

/// The bytes of a text in hexadecimal digits.
pub(crate) fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    assert_eq!(hex.len(), 2 * N);
    std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
}

/// Random bytes of a seed.
pub(crate) fn fill(seed: u64) -> Fill {
    let mut random = StdRng::seed_from_u64(seed);
    Box::new(move |bytes| random.fill_bytes(bytes))
}

pub(crate) fn entropy(seed: u64) -> Entropy {
    Entropy::new(fill(seed))
}
