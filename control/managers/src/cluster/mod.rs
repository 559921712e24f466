//! A cluster manager: answers the nodes of one site, and asks the root for what it does not know.

mod api;
mod bus;
mod calls;
mod notices;
mod site;
mod views;
mod webhook;

use crate::admin;
use crate::broker::Broker;
use crate::clock::{Clock, incarnation};
use crate::config::{BrokerConfig, ClusterConfig, ConfigError};
use crate::credential::{BrokerAccess, NodeCredentials};
use crate::http::{self, AdminSocket, Client, ListenError};
use crate::secret_file::{SecretFile, SecretFileError};
use crate::store::{Store, StoreError};
use bus::Bus;
use calls::Calls;
use site::Site;
use sluice_proto::message::Topic;
use sluice_proto::record::RestoreError;
use sluice_proto::signature::Signer;
use sluice_proto::table_query::answerer::{Answerer, Settings};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use webhook::Webhook;

/// Beside the store: the key that signs rows.
const SIGNING_KEY: &str = "signing.key";
/// What to do about one that cannot be used.
const KEY_WAY_OUT: &str =
    "remove it, and the next start makes a new one, which gateways ask for when they connect";

/// How long the root may take to accept a connection.
const CONNECT_WAIT: Duration = Duration::from_millis(500);
/// The first repetition of a request that the root did not answer: it may only have been restarted.
const RETRY_FIRST: Duration = Duration::from_millis(250);
/// A root that comes back is found within this time.
const RETRY_LAST: Duration = Duration::from_secs(1);
/// A root that was restarted between two requests is noticed within this time.
const REGISTER_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Error)]
pub enum ClusterError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Key(#[from] SecretFileError),
    /// The store holds something that no cluster manager wrote.
    #[error("{path}: {source}")]
    Restore { path: PathBuf, source: RestoreError },
}

/// Runs a cluster manager until `shutdown` completes.
///
/// # Errors
/// When the configuration cannot be used, an address is taken, or the store cannot be read or written.
pub async fn run(
    config: ClusterConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ClusterError> {
    Server::bind(config).await?.run(shutdown).await
}

/// A cluster manager whose sockets are open and whose state is read: connections wait until [`Server::run`].
pub struct Server {
    config: ClusterConfig,
    listener: TcpListener,
    address: SocketAddr,
    broker: Option<(TcpListener, SocketAddr, Option<NodeCredentials>)>,
    admin: Option<AdminSocket>,
    path: PathBuf,
    store: Store,
    records: BTreeMap<String, Vec<u8>>,
    signer: Signer,
}

impl Server {
    /// Opens everything.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn bind(config: ClusterConfig) -> Result<Self, ClusterError> {
        config.check()?;
        // Before anything is counted, or the first counts would be lost.
        admin::recorder();
        let path = config.data_dir.join("cluster.redb");
        let (store, records) = Store::open(&path)?;
        let key = SecretFile::new(config.data_dir.join(SIGNING_KEY), KEY_WAY_OUT);
        let secret = key.read_or_make()?;
        let signer = Signer::from_seed(&secret);
        let (listener, address) = http::bind(config.listen).await?;
        let broker = match &config.broker {
            BrokerConfig::Embedded {
                listen,
                node_credentials,
                ..
            } => {
                let of_manager = || NodeCredentials::of_manager(&config.data_dir);
                let nodes = node_credentials.then(of_manager).transpose()?;
                let (listener, address) = http::bind(*listen).await?;
                Some((listener, address, nodes))
            }
            BrokerConfig::External { .. } => None,
        };
        let admin = match &config.admin_socket {
            Some(path) => Some(AdminSocket::bind(path).await?),
            None => None,
        };
        Ok(Self {
            config,
            listener,
            address,
            broker,
            admin,
            path,
            store,
            records,
            signer,
        })
    }

    /// Where its REST interface listens; tells the port when the configuration left the choice to the kernel (port 0).
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the embedded broker listens.
    #[must_use]
    pub fn broker_address(&self) -> Option<SocketAddr> {
        self.broker.as_ref().map(|(_, address, _)| *address)
    }

    /// Serves until `shutdown` completes.
    ///
    /// # Errors
    /// When the store holds no valid state, or a write to it fails.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ClusterError> {
        let (stop, stopped) = watch::channel(false);
        let (ready, readiness) = watch::channel(false);
        let mut tasks = tokio::task::JoinSet::new();

        let client_id = format!("sluice-cluster-{}", self.config.id);
        let (broker, bus) = match (&self.config.broker, self.broker) {
            (BrokerConfig::Embedded { access, .. }, Some((listener, address, nodes))) => {
                tracing::info!(listen = %address, "embedded broker runs");
                let broker = Broker::new(BrokerAccess {
                    access: access.clone(),
                    nodes,
                });
                tasks.spawn(broker.clone().serve(listener, stopped.clone()));
                let bus = Bus::embedded(&broker, Topic::ALL_NODES);
                (Some(broker), bus)
            }
            (BrokerConfig::External { address, login }, _) => {
                let bus = Bus::external(
                    address,
                    login.as_ref(),
                    &client_id,
                    Topic::ALL_NODES,
                    stopped.clone(),
                )?;
                (None, bus)
            }
            (BrokerConfig::Embedded { .. }, None) => {
                unreachable!("bind opened a listener for the embedded broker")
            }
        };

        let clock = Clock::start();
        let records = self
            .records
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_slice()));
        let advertised = self.config.advertise.unwrap_or(self.address);
        let settings = Settings {
            retry_first: RETRY_FIRST,
            retry_max: RETRY_LAST,
            register_every: REGISTER_EVERY,
            isolation: self.config.isolation,
            instances_max: self.config.instances_max,
            signer: Some(self.signer.clone()),
            ..Settings::new(
                &self.config.id,
                &advertised.ip().to_string(),
                advertised.port(),
                incarnation(),
            )
        };
        let answerer =
            Answerer::restore(settings, incarnation(), records, clock.now()).map_err(|source| {
                ClusterError::Restore {
                    path: self.path,
                    source,
                }
            })?;
        let client = Client::new(self.config.root_token.clone(), CONNECT_WAIT);
        let calls = Calls::new(client, &self.config.root);
        let webhook = Webhook::new(self.config.webhook);
        let site = Site::new(
            answerer,
            clock,
            (bus, broker),
            (calls, webhook),
            self.store,
            ready,
        );
        tracing::info!(listen = %self.address, cluster = self.config.id, "cluster manager runs");

        let (asks, asked) = mpsc::channel(api::ASKS_MAX);
        let admin_routes = admin::routes(readiness).merge(api::views(asks.clone()));
        // The root shows the token that it asks for itself.
        let from_root = crate::Access {
            token: self.config.root_token.clone(),
            allow_without_token: vec![],
        };
        let access = match from_root.token {
            Some(_) => vec![self.config.access, from_root],
            None => vec![self.config.access],
        };
        tasks.spawn(http::serve(
            self.listener,
            api::routes(asks),
            // Public, and asked for by gateways, whose tokens are the broker's.
            api::signing_key(&self.config.id, self.signer.public()),
            access,
            stopped.clone(),
        ));
        if let Some(socket) = self.admin {
            tasks.spawn(http::serve_admin(socket, admin_routes, stopped.clone()));
        }
        let outcome = {
            let site = site.run(asked, stopped);
            tokio::pin!(site);
            tokio::select! {
                () = shutdown => {
                    stop.send_replace(true);
                    site.await
                }
                outcome = &mut site => outcome,
            }
        };
        stop.send_replace(true);
        while tasks.join_next().await.is_some() {}
        tracing::info!("cluster manager stopped");
        Ok(outcome?)
    }
}

#[cfg(test)]
mod tests;
