//! Root and cluster managers: shells around the protocol values of `sluice-proto`.
//!
//! They own sockets, files and time, and decide nothing about addresses, interests or routes. `control/README.md`
//! follows a table query through both.
#![forbid(unsafe_code)]

mod access;
mod secret_file;
mod credential;
mod config;
mod log_limit;
mod clock;
mod store;
mod reply;
mod http;
mod admin;
pub mod mqtt;
mod broker;
pub mod cluster;
pub mod root;
#[cfg(test)]
mod testing;

pub use access::{Access, Token, TokenError, Unprotected};
pub use clock::{clocks, wall_clock};
pub use config::{BrokerConfig, ClusterConfig, ConfigError, RootConfig, WebhookConfig};
pub use credential::NodeCredentials;
pub use http::ListenError;
pub use secret_file::{Secret, SecretFile, SecretFileError};
pub use store::StoreError;
