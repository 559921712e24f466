//! What the table query answers and what runs on this node, as the tables that workers read. No socket, no clock.
//!
//! The gateway and the simulation both write their tables with [`Routes`].
#![forbid(unsafe_code)]

mod isolation;
mod routes;
mod suspects;

pub use routes::{Formats, LocalInstance, NodeInUse, PeerMtu, Routes, Veth};
pub use suspects::Suspects;
