//! The whole system from a seed: gateways, managers, applications and a lossy network on virtual time.
//!
//! One seed is one run. [`world::World`] holds the real values (askers, answerers, brokers, a root, each gateway's tables and
//! engine) and moves messages and packets between them through [`network::Network`], which delays, loses, repeats and
//! reorders them. A minute of virtual time takes a fraction of a second; nothing here knows a socket or a clock.
#![forbid(unsafe_code)]

pub mod network;
pub mod truth;
pub mod bus;
pub mod manager;
pub mod node;
pub mod probes;
pub mod packet;
pub mod plane;
pub mod tenants;
pub mod traffic;
pub mod planted;
mod acts;
mod faults;
mod forgery;
mod leaving;
mod deliver;
mod moves;
pub mod world;
pub mod check;
pub mod seed;
pub mod report;
pub mod matrix;
