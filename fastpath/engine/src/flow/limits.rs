//! Sizes of what all workers share, and what can be wrong with them.

use std::hash::{BuildHasher, RandomState};
use thiserror::Error;

/// The most flows a table can have: entries are numbered by 32 bits, and 256 M of them are 32 GiB.
pub const FLOWS_MAX: u32 = 1 << 28;

/// Sizes of what all workers share.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Flows at once, embryonic ones included; 1..=[`FLOWS_MAX`].
    pub flows_max: u32,
    /// Embryonic flows at once; 0 means an eighth of `flows_max`.
    pub embryonic_max: u32,
    /// Embryonic flows one instance may have begun at once, and one peer; 0 means a quarter of `embryonic_max`.
    pub embryonic_per_owner_max: u32,
    /// Flows one instance may have begun at once, and one peer; 0 means seven eighths of `flows_max`.
    pub flows_per_owner_max: u32,
    /// Fragmented datagrams on their way at once.
    pub fragments_max: u32,
    /// Seed of the keyed hashes; `None` takes one from the operating system.
    pub seed: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows_max: 1 << 20,
            embryonic_max: 0,
            embryonic_per_owner_max: 0,
            flows_per_owner_max: 0,
            fragments_max: 4096,
            seed: None,
        }
    }
}

#[derive(Debug, Error)]
pub enum SharedError {
    #[error("`flows_max` of {0} is out of range 1..={FLOWS_MAX}")]
    FlowsMax(u32),
    #[error("`fragments_max` of {0} is out of range 1..=1048576")]
    FragmentsMax(u32),
    #[error("mapping {words} words for {what} failed: {source}; lower its limit or free memory")]
    Map {
        what: &'static str,
        words: usize,
        source: std::io::Error,
    },
}

pub(crate) fn seed_of(limits: &Limits) -> u64 {
    limits
        .seed
        .unwrap_or_else(|| RandomState::new().hash_one(0_u8))
}
