//! Tells an orchestrator's webhook that a service has no instance left: one call at a time, repeated with back-off until
//! it was taken. What is still to be told is the answerer's to remember, so that a restart loses nothing.

use crate::config::WebhookConfig;
use crate::http::{Answer, CallError, Client};
use crate::log_limit::warn_limited;
use hyper::Method;
use sluice_proto::ServiceName;
use sluice_proto::table_query::answerer::Vacancy;
use std::time::Duration;
use tokio::task::JoinSet;

const CONNECT_WAIT: Duration = Duration::from_secs(2);
const CALL_WAIT: Duration = Duration::from_secs(5);
/// Between attempts: doubled from the first to the last.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(60);

/// The webhook, if there is one.
pub(super) struct Webhook {
    target: Option<(Client, WebhookConfig)>,
    running: JoinSet<(Vacancy, Result<Answer, CallError>)>,
    failures: u32,
    retry_at: Duration,
    /// Whose event was not taken at the last attempt: the others are tried before it is again.
    refused: Option<ServiceName>,
}

impl Webhook {
    pub(super) fn new(config: Option<WebhookConfig>) -> Self {
        Self {
            target: config.map(|config| (Client::new(config.token.clone(), CONNECT_WAIT), config)),
            running: JoinSet::new(),
            failures: 0,
            retry_at: Duration::ZERO,
            refused: None,
        }
    }

    pub(super) const fn is_wanted(&self) -> bool {
        self.target.is_some()
    }

    /// Whether the next event may be sent.
    pub(super) fn is_free(&self, now: Duration) -> bool {
        self.is_wanted() && self.running.is_empty() && self.retry_at <= now
    }

    /// When, after a failure, the next event may be sent.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        (self.failures > 0 && self.running.is_empty()).then_some(self.retry_at)
    }

    pub(super) const fn refused(&self) -> Option<&ServiceName> {
        self.refused.as_ref()
    }

    /// Sends an event; what came of it is [`Webhook::finished`].
    pub(super) fn send(&mut self, vacancy: Vacancy, body: Vec<u8>) {
        let Some((client, config)) = &self.target else {
            return;
        };
        let (client, config) = (client.clone(), config.clone());
        self.running.spawn(async move {
            let answer = client
                .call(
                    Method::POST,
                    &config.authority,
                    &config.path,
                    body,
                    CALL_WAIT,
                )
                .await;
            (vacancy, answer)
        });
    }

    /// What came of the call: the event, when the receiver has taken it or never will. Never completes without a call.
    pub(super) async fn finished(&mut self) -> (Vacancy, Result<Answer, CallError>) {
        loop {
            match self.running.join_next().await {
                Some(Ok(finished)) => return finished,
                // Only a panic ends a call without an outcome; its message was printed where it happened.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Whether the receiver has taken the event. A refusal (4xx) is no success either: a receiver that is not configured
    /// yet must not lose events.
    pub(super) fn is_told(
        &mut self,
        vacancy: &Vacancy,
        answer: &Result<Answer, CallError>,
        now: Duration,
    ) -> bool {
        let told = match answer {
            Ok(answer) if answer.status.is_success() => true,
            Ok(answer) => {
                warn_limited!(status = %answer.status, "the webhook does not take an event");
                false
            }
            Err(error) => {
                warn_limited!(%error, "the webhook is away");
                false
            }
        };
        let outcome = if told { "told" } else { "retried" };
        metrics::counter!("sluice_cluster_events_total", "outcome" => outcome).increment(1);
        if told {
            self.failures = 0;
            self.refused = None;
        } else {
            self.refused = Some(vacancy.service.clone());
            let wait = RETRY_FIRST * (1 << self.failures.min(7));
            self.failures = self.failures.saturating_add(1);
            self.retry_at = now + wait.min(RETRY_LAST);
        }
        told
    }
}
