//! The three roles: logs, signals and systemd around what runs them.

use super::CliError;
use crate::config::Config;
use crate::{log, notify, output};
use std::fmt::Display;
use tokio::signal::unix::{SignalKind, signal};

/// `sluice root`
pub(super) async fn root(config: Config) -> Result<(), CliError> {
    log::start(&config.log)?;
    let failed = failed("root");
    let stop = stop_signal()?;
    let server = sluice_managers::root::Server::bind(config.root_manager()?)
        .await
        .map_err(&failed)?;
    notify::ready();
    server.run(stop).await.map_err(&failed)
}

/// `sluice cluster`
pub(super) async fn cluster(config: Config) -> Result<(), CliError> {
    log::start(&config.log)?;
    let failed = failed("cluster");
    let stop = stop_signal()?;
    let server = sluice_managers::cluster::Server::bind(config.cluster_manager()?)
        .await
        .map_err(&failed)?;
    notify::ready();
    server.run(stop).await.map_err(&failed)
}

/// `sluice gateway`. It tells systemd that it is ready once it can be registered.
pub(super) async fn gateway(config: Config) -> Result<(), CliError> {
    log::start(&config.log)?;
    let stop = stop_signal()?;
    crate::gateway::run(config, stop)
        .await
        .map_err(failed("gateway"))
}

/// `sluice gateway --remove`
pub(super) async fn remove_gateway(config: &Config) -> Result<(), CliError> {
    log::start(&config.log)?;
    let heard = crate::gateway::leave(config)
        .await
        .map_err(failed("gateway"))?;
    output::print(&format!("{heard}\n"));
    Ok(())
}

/// Completes at the first SIGTERM or Ctrl-C.
fn stop_signal() -> Result<impl Future<Output = ()> + Send + 'static, CliError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(CliError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::Runtime)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        notify::stopping();
    })
}

/// Names the role in whatever ended it.
fn failed<E: Display>(role: &'static str) -> impl Fn(E) -> CliError {
    move |error| CliError::Daemon {
        role,
        message: error.to_string(),
    }
}
