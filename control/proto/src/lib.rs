//! Control protocols as values: table query, leases, descriptors, the broker; no socket, clock or tokio.
//!
//! Every protocol is a value driven by `handle_*(.., now)` and drained by `poll_*`; `now` is a [`Duration`] since any
//! fixed moment, never going back. Randomness comes from a seed given at birth, and everything whose order shows is
//! sorted, so that one seed is one run.
//!
//! [`Duration`]: std::time::Duration
#![forbid(unsafe_code)]

pub mod names;
pub mod isolation;
pub mod message;
pub mod signature;
pub mod record;
pub mod alloc;
pub mod descriptor;
pub mod table_query;
pub mod dns;
pub mod liveness;
pub mod connection;
pub mod packet_ids;
pub mod broker;

pub use names::{NameError, ServiceName};
