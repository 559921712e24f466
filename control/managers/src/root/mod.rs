//! The root manager: knows every service, gives every address, and tells clusters what they asked for.

mod api;
mod identity;
mod notices;
mod pubnet;
pub(crate) mod revocation;
mod rules;
mod shared;
mod strangers;
mod v1;

use crate::admin;
use crate::config::{ConfigError, RootConfig};
use crate::http::{self, AdminSocket, Client, ListenError};
use crate::store::{Store, StoreError};
use axum::{Router, middleware};
use shared::{Shared, calendar_of};
use sluice_proto::alloc::Calendar;
use sluice_proto::record::RestoreError;
use sluice_proto::table_query::root::Root;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// How long a cluster may take to accept a connection; as long as a notice waits for a lost one after a way's healing.
const CONNECT_WAIT: Duration = Duration::from_millis(500);

#[derive(Debug, Error)]
pub enum RootError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store holds something that no root manager wrote, or the address plan was changed.
    #[error("{path}: {source}")]
    Restore { path: PathBuf, source: RestoreError },
}

/// Runs the root manager until `shutdown` completes.
///
/// # Errors
/// When the configuration cannot be used, an address is taken, or the store cannot be read or written. After a
/// failed write nothing more is acknowledged; start again once the disk is well.
pub async fn run(config: RootConfig, shutdown: impl Future<Output = ()>) -> Result<(), RootError> {
    Server::bind(config).await?.run(shutdown).await
}

/// A root manager whose sockets are open and whose state is read: connections wait until [`Server::run`].
pub struct Server {
    config: RootConfig,
    listener: TcpListener,
    address: SocketAddr,
    admin: Option<AdminSocket>,
    store: Store,
    root: Root,
    calendar: Calendar,
}

impl Server {
    /// Opens everything.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn bind(config: RootConfig) -> Result<Self, RootError> {
        config.check()?;
        // Before anything is counted, or the first counts would be lost.
        admin::recorder();
        let path = config.data_dir.join("root.redb");
        let (store, mut records) = Store::open(&path)?;
        let restore = |source| RootError::Restore {
            path: path.clone(),
            source,
        };
        let calendar = calendar_of(&mut records).map_err(restore)?;
        let records = records
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_slice()));
        let mut root = Root::restore(&config.plan, records).map_err(restore)?;
        root.set_rests(config.rests);
        let (listener, address) = http::bind(config.listen).await?;
        let admin = match &config.admin_socket {
            Some(path) => Some(AdminSocket::bind(path).await?),
            None => None,
        };
        Ok(Self {
            config,
            listener,
            address,
            admin,
            store,
            root,
            calendar,
        })
    }

    /// Where it listens; tells the port when the configuration left the choice to the kernel (port 0).
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` completes.
    ///
    /// # Errors
    /// When a write to the store fails.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), RootError> {
        let (stop, stopped) = watch::channel(false);
        let (ready, readiness) = watch::channel(true);
        let shared = Arc::new(Shared::new(self.root, self.calendar, self.store));
        // Where callers without a token are admitted, one of them could register itself as a cluster and be sent ours.
        let access = &self.config.access;
        let token = access
            .token
            .clone()
            .filter(|_| access.allow_without_token.is_empty());
        let client = Client::new(token, CONNECT_WAIT);
        tracing::info!(listen = %self.address, "root manager runs");

        let v1 = v1::routes(Arc::clone(&shared))
            .merge(rules::routes(Arc::clone(&shared)))
            .merge(revocation::routes(Arc::clone(&shared)))
            .layer(middleware::from_fn_with_state(
                Arc::clone(&shared),
                strangers::guard_changes,
            ));
        let admin_routes = admin::routes(readiness).merge(v1.clone());
        let public_routes = api::routes(Arc::clone(&shared)).merge(v1);
        let guarded_routes = self
            .config
            .jwt_key_server
            .map_or_else(Router::new, |server| {
                pubnet::routes(Arc::clone(&shared), server)
            });
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(http::serve(
            self.listener,
            public_routes,
            guarded_routes,
            vec![self.config.access],
            stopped.clone(),
        ));
        if let Some(socket) = self.admin {
            tasks.spawn(http::serve_admin(socket, admin_routes, stopped.clone()));
        }
        tasks.spawn(notices::deliver(Arc::clone(&shared), client, stopped));
        let outcome = tokio::select! {
            () = shutdown => Ok(()),
            error = shared.failed() => Err(RootError::Store(error)),
        };
        ready.send_replace(false);
        stop.send_replace(true);
        while tasks.join_next().await.is_some() {}
        tracing::info!("root manager stopped");
        outcome
    }
}

#[cfg(test)]
mod tests;
