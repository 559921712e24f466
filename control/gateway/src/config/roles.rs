//! From the configuration of all roles to what one manager needs: here its tokens are read.

use super::check::MAKE_TOKEN;
use super::{Broker, Config};
use sluice_managers::{
    Access, BrokerConfig, ClusterConfig, RootConfig, Token, TokenError, WebhookConfig,
};
use sluice_wire::Subnet;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a role cannot start from a valid configuration.
#[derive(Debug, Error)]
pub enum RoleError {
    #[error("`{key}` = \"{}\": {source}; make one with `{MAKE_TOKEN}`", file.display())]
    Token {
        key: &'static str,
        file: PathBuf,
        source: TokenError,
    },
    #[error(transparent)]
    Config(#[from] sluice_managers::ConfigError),
}

impl Config {
    /// What the root manager runs with.
    ///
    /// # Errors
    /// When its token file holds no token.
    pub fn root_manager(&self) -> Result<RootConfig, RoleError> {
        let config = RootConfig {
            listen: self.root.listen,
            access: access(
                "root.token_file",
                self.root.token_file.as_deref(),
                &self.root.allow_without_token,
            )?,
            jwt_key_server: self.root.jwt_key_server.as_ref().map(ToString::to_string),
            data_dir: self.root.data_dir.clone(),
            admin_socket: Some(self.root.admin_socket.clone()),
            rests: self.root.rests,
            plan: self.plan,
        };
        config.check()?;
        Ok(config)
    }

    /// What the cluster manager runs with.
    ///
    /// # Errors
    /// When one of its token files holds no token.
    pub fn cluster_manager(&self) -> Result<ClusterConfig, RoleError> {
        let cluster = &self.cluster;
        let config = ClusterConfig {
            id: cluster.id.clone(),
            listen: cluster.listen,
            access: access(
                "cluster.token_file",
                cluster.token_file.as_deref(),
                &cluster.allow_without_token,
            )?,
            root: cluster.root.to_string(),
            root_token: token(
                "cluster.root_token_file",
                cluster.root_token_file.as_deref(),
            )?,
            advertise: cluster.advertise,
            data_dir: cluster.data_dir.clone(),
            admin_socket: Some(cluster.admin_socket.clone()),
            broker: match &cluster.broker {
                Broker::Embedded {
                    listen,
                    token_file,
                    node_credentials,
                } => BrokerConfig::Embedded {
                    listen: *listen,
                    access: access(
                        "cluster.broker.token_file",
                        token_file.as_deref(),
                        &cluster.allow_without_token,
                    )?,
                    node_credentials: *node_credentials,
                },
                Broker::External {
                    address,
                    user,
                    token_file,
                } => BrokerConfig::External {
                    address: address.to_string(),
                    login: token("cluster.broker.token_file", token_file.as_deref())?
                        .map(|token| (user.clone(), token)),
                },
            },
            isolation: cluster.isolation,
            instances_max: cluster.instances_max,
            webhook: match &cluster.event_webhook {
                None => None,
                Some((authority, path)) => Some(WebhookConfig {
                    authority: authority.to_string(),
                    path: path.clone(),
                    token: token(
                        "cluster.event_token_file",
                        cluster.event_token_file.as_deref(),
                    )?,
                }),
            },
            plan: self.plan,
        };
        config.check()?;
        Ok(config)
    }

    /// The gateway's password at its cluster's broker.
    ///
    /// # Errors
    /// When the token file holds no token.
    pub fn gateway_token(&self) -> Result<Option<Token>, RoleError> {
        token(
            "gateway.cluster_token_file",
            self.gateway.cluster_token_file.as_deref(),
        )
    }
}

fn token(key: &'static str, file: Option<&Path>) -> Result<Option<Token>, RoleError> {
    file.map(|file| {
        Token::from_file(file).map_err(|source| RoleError::Token {
            key,
            file: file.to_owned(),
            source,
        })
    })
    .transpose()
}

fn access(
    key: &'static str,
    file: Option<&Path>,
    allow_without_token: &[Subnet],
) -> Result<Access, RoleError> {
    Ok(Access {
        token: token(key, file)?,
        allow_without_token: allow_without_token.to_vec(),
    })
}
