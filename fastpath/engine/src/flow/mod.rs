//! The flow table and the stage that looks a batch up in it.

pub mod entry;
pub(crate) mod index;
pub(crate) mod quota;
pub mod table;

pub use entry::{Flow, Pin, State, Timeouts};
pub use table::{Inserted, Limits, SharedError, Table};
