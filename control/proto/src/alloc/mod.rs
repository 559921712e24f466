//! Who has which address: semantic addresses and node subnets, allocated as values.

pub mod semantic;
pub mod subnets;

pub use semantic::{AllocError, Owner, QUARANTINE_S, Semantic, Use};
pub use subnets::{SubnetError, Subnets};
