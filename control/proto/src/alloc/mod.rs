//! Who has which address: semantic addresses and node subnets, allocated as values.

pub mod calendar;
pub mod semantic;
pub mod subnets;

pub use calendar::{Calendar, Reading};
pub use semantic::{AllocError, Owner, Semantic, Use};
pub use subnets::{SubnetError, Subnets};

/// How long what was given back rests before somebody else can have it, in seconds of the [`Calendar`]: longer than a stale route lives
/// (see [`STALE_ROUTE_MAX`](crate::table_query::STALE_ROUTE_MAX)).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rests {
    /// ServiceIPs and InstanceIPs. Clients remember these for long, outside of any gateway.
    pub addresses_s: u64,
    /// Subnets of nodes that left.
    pub subnets_s: u64,
}

impl Default for Rests {
    fn default() -> Self {
        Self {
            addresses_s: 24 * 3600,
            subnets_s: 600,
        }
    }
}
