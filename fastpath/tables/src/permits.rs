//! Who may begin a conversation with whom: services of one tenant, and the pairs that a rule allows.
//!
//! Asked when a flow begins only. Control compiles names and rules into numbers: a tenant per service and a sorted list of
//! pairs, so that an answer is two loads and, across tenants, a binary search.

use crate::slots::ServiceSlot;
use std::sync::Arc;

/// What becomes of a conversation that is not allowed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Isolation {
    /// It is refused.
    #[default]
    Enforce,
    /// It goes on, and control is told.
    Observe,
    /// Everything is allowed.
    Off,
}

/// The allowed pairs of one snapshot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Permits {
    pub(crate) isolation: Isolation,
    /// Caller and callee of different tenants, sorted.
    pairs: Arc<[(ServiceSlot, ServiceSlot)]>,
}

impl Permits {
    pub(crate) fn allow(&self, caller: ServiceSlot, callee: ServiceSlot) -> bool {
        self.pairs.binary_search(&(caller, callee)).is_ok()
    }

    /// Replaces the pairs; any order will do.
    pub(crate) fn set_pairs(
        &mut self,
        pairs: impl IntoIterator<Item = (ServiceSlot, ServiceSlot)>,
    ) {
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.sort_unstable();
        self.pairs = pairs.into();
    }
}
