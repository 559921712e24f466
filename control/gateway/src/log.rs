//! Logs to standard error, as text or one JSON object per line; a place that logs too often is cut short.

use crate::config::{Log, LogFormat};
use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use thiserror::Error;
use tracing::callsite::Identifier;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterExt, Targets};
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// Overrides `log.level`.
pub const LEVEL_VARIABLE: &str = "SLUICE_LOG";
/// Lines that one place in the code may write per [`PERIOD`]: a burst is readable, a flood does not fill a disk.
const LINES_MAX: u32 = 20;
const PERIOD: Duration = Duration::from_secs(10);

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
    let targets: Targets = level.parse().map_err(|_| LogError::Level(level))?;
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
        .with(layer.with_filter(targets.and(Limit::default())))
        .try_init()
        .map_err(|_| LogError::Taken)
}

/// Lets each place in the code write [`LINES_MAX`] lines per [`PERIOD`]; the rest is counted in
/// `sluice_log_suppressed_total`. Debug and trace lines are not limited: somebody asked for them.
#[derive(Debug, Default)]
struct Limit(Mutex<HashMap<Identifier, Window>>);

#[derive(Debug)]
struct Window {
    began: Instant,
    lines: u32,
}

impl Limit {
    fn allow(&self, place: Identifier, now: Instant) -> bool {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let window = windows.entry(place).or_insert(Window {
            began: now,
            lines: 0,
        });
        if now >= window.began + PERIOD {
            *window = Window {
                began: now,
                lines: 0,
            };
        }
        window.lines = window.lines.saturating_add(1);
        window.lines <= LINES_MAX
    }
}

impl<S: Subscriber> Filter<S> for Limit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let allowed =
            *metadata.level() > Level::INFO || self.allow(metadata.callsite(), monotonic());
        if !allowed {
            metrics::counter!("sluice_log_suppressed_total").increment(1);
        }
        allowed
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        None
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a log line has no caller who could bring the time"
)]
fn monotonic() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Write};
    use std::sync::Arc;

    /// Collects what is logged.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A flood from one place ends after a burst; other places and debug lines go on.
    #[test]
    fn a_flood_is_cut_short_where_it_comes_from() {
        let lines = Lines::default();
        let writer = lines.clone();
        let targets: Targets = "debug".parse().unwrap();
        let layer = fmt::layer()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .with_filter(targets.and(Limit::default()));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for _ in 0..100 {
                tracing::warn!("flood");
                tracing::debug!("asked for");
            }
            tracing::warn!("elsewhere");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let count = |word: &str| text.matches(word).count();
        assert_eq!(count("flood"), LINES_MAX as usize);
        assert_eq!((count("asked for"), count("elsewhere")), (100, 1));
    }
}
