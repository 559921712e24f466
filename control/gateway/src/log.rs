//! Logs to standard error, as text or one JSON object per line.

use crate::config::{Log, LogFormat};
use std::io::IsTerminal;
use thiserror::Error;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// Overrides `log.level`.
pub const LEVEL_VARIABLE: &str = "SLUICE_LOG";

#[derive(Debug, Error)]
pub enum LogError {
    #[error("{LEVEL_VARIABLE}=\"{0}\" is no log level; try `info`, or `info,sluice_link=debug`")]
    Level(String),
    #[error("another part of this process logs already")]
    Taken,
}

/// Starts logging for the whole process.
///
/// # Errors
/// When `SLUICE_LOG` cannot be understood, or logging was started before.
pub fn start(log: &Log) -> Result<(), LogError> {
    let level = std::env::var(LEVEL_VARIABLE).unwrap_or_else(|_| log.level.clone());
    let filter: Targets = level.parse().map_err(|_| LogError::Level(level))?;
    let stderr = std::io::stderr;
    let layer = match log.format {
        LogFormat::Text => fmt::layer()
            .with_writer(stderr)
            .with_ansi(stderr().is_terminal())
            .boxed(),
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(stderr)
            .boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()
        .map_err(|_| LogError::Taken)
}
