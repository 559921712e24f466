//! The gateway end to end: real `sluice` processes in network namespaces, real kernels' sockets at the ends.
//!
//! Each file draws its topology. Every test ends by checking that each gateway accounts for every frame.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, with the whole state in the message"
)]

mod world;
mod paths;
mod limits;
mod names;
mod bad_input;
mod outliving;
mod migration;
mod membership;
mod keys;
mod encrypted;
mod failover;
mod roaming;
mod fault_table;
mod neighbours;
mod doctor;
mod hardware;
mod af_xdp;
mod lan;
mod underlay;
mod offload;
mod offload_xdp;
mod isolation;
mod node_engine;
