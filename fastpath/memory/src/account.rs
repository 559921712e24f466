//! The account of frames: each term is counted at its own site, so that the identity can fail when code is wrong.
//!
//! `received + originated + split = forwarded + held + merged + taken + sum of drops`, exact when quiescent.

use sluice_wire::DropReason;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter with one writer, the worker that owns it, and any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Not a read-modify-write: only the owner may call it.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    /// Takes `n` away, for gauges.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_sub(n),
            Ordering::Relaxed,
        );
    }

    /// Says what a gauge shows now.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one worker counts: each of its links for itself, and the engine what it decides between them. The identity
/// holds for their sum, as a frame seldom leaves where it came in.
#[derive(Debug, Default)]
pub struct Accounts {
    /// The link towards local services.
    pub service: Account,
    /// The link towards other nodes.
    pub underlay: Account,
    pub engine: Account,
}

impl Accounts {
    /// Each with its name for people.
    #[must_use]
    pub const fn places(&self) -> [(&'static str, &Account); 3] {
        [
            ("service", &self.service),
            ("underlay", &self.underlay),
            ("engine", &self.engine),
        ]
    }

    /// The sum of one term.
    pub fn total(&self, term: impl Fn(&Account) -> u64) -> u64 {
        self.places().iter().map(|(_, account)| term(account)).sum()
    }

    /// Left and right side of the identity; equal when the worker is quiescent.
    #[must_use]
    pub fn balance(&self) -> (u64, u64) {
        let sides = self.places().map(|(_, account)| account.balance());
        sides
            .into_iter()
            .fold((0, 0), |sum, side| (sum.0 + side.0, sum.1 + side.1))
    }
}

/// One account. Links and the engine count into it, each at its own site.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Account {
    /// Frames taken from a link, as received: a GRO buffer is one.
    pub received: Counter,
    /// Frames this gateway made: ICMP errors, resets, copies, handshake messages; and those that another worker handed over.
    pub originated: Counter,
    /// Frames gained by cutting one into several: n pieces count n - 1.
    pub split: Counter,
    /// Frames given to a link that accepted them, as sent: a super-frame is one.
    pub forwarded: Counter,
    /// Frames waiting for an answer or a first fragment. A gauge.
    pub held: Counter,
    /// Frames lost by joining several into one: n joined count n - 1.
    pub merged: Counter,
    /// Frames that were for the gateway itself: handshake messages and empty packets of encrypted tunnels.
    pub taken: Counter,
    /// Bytes of `received` and `forwarded`, layer 3.
    pub received_bytes: Counter,
    pub forwarded_bytes: Counter,
    /// Copies between memory pools or out of multi-segment buffers. Not part of the identity.
    pub copied: Counter,
    drops: Drops,
}

/// One counter per reason.
#[derive(Debug)]
struct Drops([Counter; DropReason::COUNT]);

impl Default for Drops {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl Account {
    /// Counts one dropped frame.
    #[inline]
    pub fn drop_frame(&self, reason: DropReason) {
        self.drops.0[reason.index()].add(1);
    }

    /// Says how many frames were dropped for `reason`, for an account whose counting is done elsewhere.
    pub fn set_dropped(&self, reason: DropReason, frames: u64) {
        self.drops.0[reason.index()].set(frames);
    }

    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.0[reason.index()].value()
    }

    /// Left and right side of the identity; equal when the worker is quiescent.
    #[must_use]
    pub fn balance(&self) -> (u64, u64) {
        let drops: u64 = self.drops.0.iter().map(Counter::value).sum();
        (
            self.received.value() + self.originated.value() + self.split.value(),
            self.forwarded.value()
                + self.held.value()
                + self.merged.value()
                + self.taken.value()
                + drops,
        )
    }
}
