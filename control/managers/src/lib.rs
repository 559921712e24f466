//! Root and cluster managers: shells around the protocol values of `sluice-proto`.
#![forbid(unsafe_code)]

mod access;
mod config;

pub use access::{Access, Token, TokenError, Unprotected};
pub use config::{BrokerConfig, ClusterConfig, ConfigError, RootConfig};
