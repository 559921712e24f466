//! The control plane from a seed: gateways, managers and a lossy network on virtual time.
//!
//! One seed is one run. [`world::World`] holds the real protocol values (askers, answerers, a root) and moves messages
//! between them through [`network::Network`], which delays, loses, repeats and reorders them. A run of ten minutes of
//! virtual time takes milliseconds; nothing here knows a socket or a clock.
#![forbid(unsafe_code)]

pub mod network;
pub mod truth;
pub mod manager;
pub mod node;
pub mod world;
pub mod check;
