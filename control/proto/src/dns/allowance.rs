//! How many questions to the managers each asking instance may cause: a bucket of tokens for each source address.

use sluice_wire::Ip;
use std::collections::BTreeMap;
use std::time::Duration;

/// Buckets, each full at first.
#[derive(Debug, Default)]
pub(super) struct Allowances(BTreeMap<Ip, Bucket>);

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: u32,
    /// The tokens are those of this moment.
    at: Duration,
}

impl Allowances {
    /// Takes a token of `from`; false when there is none. A bucket has `burst` tokens at most, and gets one `every` so often.
    pub(super) fn take(&mut self, from: Ip, burst: u32, every: Duration, now: Duration) -> bool {
        let full = Bucket {
            tokens: burst,
            at: now,
        };
        let bucket = self.0.entry(from).or_insert(full);
        let passed = now.saturating_sub(bucket.at).as_nanos() / every.as_nanos().max(1);
        let new = u32::try_from(passed).unwrap_or(u32::MAX);
        if new >= burst - bucket.tokens {
            *bucket = full;
        } else {
            bucket.tokens += new;
            bucket.at += every * new;
        }
        let has = bucket.tokens > 0;
        bucket.tokens = bucket.tokens.saturating_sub(1);
        has
    }

    /// Forgets those who ask no more.
    pub(super) fn retain(&mut self, asks: impl Fn(Ip) -> bool) {
        self.0.retain(|from, _| asks(*from));
    }
}
