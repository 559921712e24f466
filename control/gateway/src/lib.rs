//! The gateway: where the planes meet. `main` is only the command line around this library.

pub mod config;
pub mod admin_api;
pub mod command;
pub mod container;
pub mod node;
mod node_key;
pub mod node_api;
pub mod hardware;
mod dns;
pub mod metrics;
pub mod client;
pub mod output;
pub mod cli;
pub mod log;
pub mod notify;
pub mod demo;
mod doctor;
pub mod gateway;
