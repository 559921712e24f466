//! What a manager needs to know to run: plain structs that can only be valid after `check`.

use crate::access::{Access, Token, Unprotected};
use sluice_proto::alloc::Rests;
use sluice_proto::isolation::Isolation;
use sluice_wire::AddressPlan;
use sluice_wire::plan::PlanError;
use std::net::SocketAddr;
use std::path::PathBuf;
use thiserror::Error;

/// The root manager.
#[derive(Clone, Debug)]
pub struct RootConfig {
    /// Where the REST interface listens; Oakestra's port is 10099.
    pub listen: SocketAddr,
    pub access: Access,
    /// `host:port` of the server whose key signs the tokens of `/api/pubnet`; none = those paths do not exist.
    pub jwt_key_server: Option<String>,
    /// Holds `root.redb`.
    pub data_dir: PathBuf,
    /// Unix socket for health, metrics and `/v1`; none = no admin interface.
    pub admin_socket: Option<PathBuf>,
    /// How long addresses and subnets rest before they are given again.
    pub rests: Rests,
    pub plan: AddressPlan,
}

/// A cluster manager.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Names this cluster at the root; 1 to 64 of letters, digits, `-`, `_` and `.`.
    pub id: String,
    /// Where the REST interface listens; Oakestra's port is 10110.
    pub listen: SocketAddr,
    pub access: Access,
    /// Address of the root manager, `host:port`.
    pub root: String,
    /// What the root asks of us.
    pub root_token: Option<Token>,
    /// `ip:port` at which the root reaches this manager; none = the address it listens on, and where that is
    /// unspecified, the source address of its own requests.
    pub advertise: Option<SocketAddr>,
    /// Holds the pool of node subnets and what is known of nodes.
    pub data_dir: PathBuf,
    /// Unix socket for health, metrics and `/v1`; none = no admin interface.
    pub admin_socket: Option<PathBuf>,
    pub broker: BrokerConfig,
    /// Whether nodes are told only what their instances may know.
    pub isolation: Isolation,
    /// Rows per service that a node is shown (k of thesis 3.6.6); at least 1.
    pub instances_max: usize,
    /// Whom events are told, beside MQTT.
    pub webhook: Option<WebhookConfig>,
    pub plan: AddressPlan,
}

/// How a cluster manager and its nodes exchange messages.
#[derive(Clone, Debug)]
pub enum BrokerConfig {
    /// The cluster manager is the broker.
    Embedded {
        /// Oakestra's port is 10003.
        listen: SocketAddr,
        access: Access,
        /// Every node shows a credential of its own ([`NodeCredentials`](crate::NodeCredentials)); otherwise a client that
        /// `access` admits is the node that it says it is.
        node_credentials: bool,
    },
    /// A broker of the installation, for example Mosquitto.
    External {
        /// `host:port`
        address: String,
        /// User name and password, when the broker asks for them.
        login: Option<(String, Token)>,
    },
}

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error(transparent)]
    Unprotected(#[from] Unprotected),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("`{0}` is not a cluster id: 1 to 64 letters, digits, `-`, `_` or `.`")]
    ClusterId(String),
    #[error("`{0}` is not host:port")]
    HostPort(String),
}

/// Where events go.
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// `host:port`
    pub authority: String,
    /// With its leading slash.
    pub path: String,
    /// Presented as a bearer token.
    pub token: Option<Token>,
}

impl RootConfig {
    /// # Errors
    /// Names the value that cannot be used.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.access.check(self.listen)?;
        self.plan.check()?;
        if let Some(server) = &self.jwt_key_server {
            host_port(server)?;
        }
        Ok(())
    }
}

impl ClusterConfig {
    /// # Errors
    /// Names the value that cannot be used.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.access.check(self.listen)?;
        self.plan.check()?;
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !(1..=64).contains(&self.id.len()) || !self.id.bytes().all(valid) {
            return Err(ConfigError::ClusterId(self.id.clone()));
        }
        host_port(&self.root)?;
        if let Some(webhook) = &self.webhook {
            host_port(&webhook.authority)?;
        }
        match &self.broker {
            // Without credentials something else has to keep strangers out.
            BrokerConfig::Embedded {
                listen,
                access,
                node_credentials: false,
            } => access.check(*listen)?,
            BrokerConfig::Embedded { .. } => {}
            BrokerConfig::External { address, login: _ } => {
                host_port(address)?;
            }
        }
        Ok(())
    }
}

/// Splits `host:port`; an IPv6 host stands in brackets, which are not part of the result.
pub(crate) fn host_port(text: &str) -> Result<(&str, u16), ConfigError> {
    let wrong = || ConfigError::HostPort(text.to_owned());
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let host = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(host) => host,
        None if host.contains(':') => return Err(wrong()),
        None => host,
    };
    let port = port.parse().map_err(|_| wrong())?;
    if host.is_empty() || port == 0 {
        return Err(wrong());
    }
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_split_with_and_without_brackets() {
        assert_eq!(host_port("a.example:10099").unwrap(), ("a.example", 10099));
        assert_eq!(host_port("[::1]:1").unwrap(), ("::1", 1));
        for wrong in ["", "host", ":1", "host:", "host:0", "host:70000", "::1:1"] {
            assert!(host_port(wrong).is_err(), "{wrong}");
        }
    }
}
