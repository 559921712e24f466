//! How a query ended: every one under exactly one name, counted for the operator.

use std::sync::atomic::{AtomicU64, Ordering};

/// How a query ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(usize)]
pub enum Outcome {
    /// An address of a service or instance.
    Answered,
    /// The name exists, without an address of that family.
    NoData,
    /// No such name, or none that the asking instance may know of.
    NxDomain,
    /// The managers could not say in time.
    Unresolved,
    /// An upstream resolver answered.
    Forwarded,
    /// No upstream resolver answered in time.
    ForwardFailed,
    /// Whoever asked is no instance of this node, or asked for what is not served.
    Refused,
    /// No DNS query; answered where an answer is possible.
    Malformed,
    /// More queries at once than are held or forwarded.
    Overloaded,
    /// An instance asks for more unknown services than the managers are to be asked about.
    Limited,
}

impl Outcome {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 10] = [
        Self::Answered,
        Self::NoData,
        Self::NxDomain,
        Self::Unresolved,
        Self::Forwarded,
        Self::ForwardFailed,
        Self::Refused,
        Self::Malformed,
        Self::Overloaded,
        Self::Limited,
    ];

    /// As metrics and status spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::NoData => "no_data",
            Self::NxDomain => "nxdomain",
            Self::Unresolved => "unresolved",
            Self::Forwarded => "forwarded",
            Self::ForwardFailed => "forward_failed",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::Overloaded => "overloaded",
            Self::Limited => "limited",
        }
    }
}

/// A counter for each outcome. One thread counts, any thread reads.
#[derive(Debug, Default)]
pub struct Counts([AtomicU64; Outcome::ALL.len()]);

impl Counts {
    pub(super) fn add(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    #[must_use]
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize].load(Ordering::Relaxed)
    }
}
