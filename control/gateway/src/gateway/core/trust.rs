//! Whose rows are believed: the key with which the cluster manager signs, from the configuration or from the cluster
//! manager itself, and never from the broker.

use super::{Core, Found};
use crate::client::{Call, Client, ClientError, Endpoint, Role};
use crate::config::HostPort;
use crate::gateway::state::Registration;
use crate::metrics::ROWS_REFUSED;
use hyper::StatusCode;
use sluice_proto::message::NodeKey;
use sluice_proto::signature::ClusterKey;
use sluice_proto::table_query::Key;
use sluice_proto::table_query::asker::Refused;
use std::time::Duration;

/// The port of a cluster manager's REST interface (OAKESTRA-WIRE section 3.1).
const API_PORT: u16 = 10110;
/// A cluster manager that does not answer within this time is away.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// While it has not answered, it is asked again so often; when rows turn out to be forged, at most so often.
const ASK_PAUSE: Duration = Duration::from_secs(5);

/// What a cluster manager said: its key, that it has none, or nothing.
#[derive(Debug)]
pub(crate) enum Said {
    Key(ClusterKey),
    /// It signs nothing, like Oakestra's.
    NoKey,
    Nothing(String),
}

/// Where the gateway is with that.
#[derive(Debug, Default)]
pub(super) struct Trust {
    asked_at: Option<Duration>,
    /// The answer is on its way.
    asks: bool,
    /// It did not answer, or not in words that are understood.
    owes: bool,
    /// The broker is to be connected when it has, or has not.
    connects: bool,
    /// As last looked at.
    refused: Refused,
}

impl Core {
    /// Connects to the broker, but first learns whose rows are to be believed, if that was never known.
    pub(super) fn trust_and_connect(&mut self, registration: &Registration, now: Duration) {
        let configured = self.config.gateway.cluster_key;
        if let Some(key) = configured.or(registration.cluster_key) {
            self.asker.handle_cluster_key(key, now);
            self.connect(registration);
            return;
        }
        self.trust.connects = true;
        self.ask_cluster_key(now);
    }

    /// Asks the cluster manager for its key, unless the configuration says it.
    pub(super) fn ask_cluster_key(&mut self, now: Duration) {
        let Some(registration) = &self.registration else {
            return;
        };
        if self.config.gateway.cluster_key.is_some() || self.trust.asks {
            return;
        }
        self.trust.asks = true;
        self.trust.asked_at = Some(now);
        let usual = HostPort {
            host: registration.host.clone(),
            port: API_PORT,
        };
        let api = self.config.gateway.cluster_api.clone().unwrap_or(usual);
        let found = self.found.clone();
        tokio::spawn(async move {
            let said = ask(api.to_string()).await;
            // The core is gone only when the gateway stops.
            let _ = found.send(Found::ClusterKey(said)).await;
        });
    }

    pub(super) fn take_cluster_key(&mut self, said: Said, now: Duration) {
        self.trust.asks = false;
        self.trust.owes = matches!(said, Said::Nothing(_));
        let known = self.asker.cluster_key().copied();
        match said {
            Said::Key(key) if known == Some(key) => {}
            Said::Key(key) => {
                match known {
                    None => tracing::info!(%key, "the cluster signs where instances run"),
                    Some(former) => {
                        tracing::warn!(%former, %key, "the cluster manager signs with another key");
                    }
                }
                self.asker.handle_cluster_key(key, now);
                if let Some(registration) = &mut self.registration {
                    registration.cluster_key = Some(key);
                }
                self.state_changed = true;
            }
            Said::NoKey if known.is_none() => {
                tracing::info!(
                    "the cluster manager does not sign where instances run: its broker is believed"
                );
            }
            Said::NoKey => {
                tracing::warn!(
                    "the cluster manager has no key any more; rows without the signature of before are refused. If it was replaced on \
                     purpose: `sluice gateway --remove`, and start anew"
                );
            }
            Said::Nothing(why) if known.is_none() => {
                tracing::warn!(
                    why,
                    "the cluster manager does not say with which key it signs; until then its broker is believed"
                );
            }
            Said::Nothing(why) => tracing::debug!(why, "the cluster manager does not say its key"),
        }
        if std::mem::take(&mut self.trust.connects)
            && let Some(registration) = self.registration.clone()
        {
            self.connect(&registration);
        }
    }

    /// Asks again what was not answered.
    pub(super) fn look_for_cluster_key(&mut self, now: Duration) {
        let unknown = self.trust.owes && self.asker.cluster_key().is_none();
        if unknown && self.has_not_asked_lately(now) {
            self.ask_cluster_key(now);
        }
    }

    /// Counts the rows that were refused. The cluster manager may have another key: it is asked.
    pub(super) fn look_at_refused(&mut self, now: Duration) {
        let refused = self.asker.refused();
        let before = std::mem::replace(&mut self.trust.refused, refused);
        let forged = refused.forged - before.forged;
        let outdated = refused.outdated - before.outdated;
        if forged > 0 {
            metrics::counter!(ROWS_REFUSED, "reason" => "forged").increment(forged);
            if self.has_not_asked_lately(now) {
                tracing::warn!(
                    rows = forged,
                    "what the broker says about instances is not signed by the cluster manager, and is not believed"
                );
                self.ask_cluster_key(now);
            }
        }
        if outdated > 0 {
            metrics::counter!(ROWS_REFUSED, "reason" => "outdated").increment(outdated);
        }
    }

    /// Somebody wants a session with a key that no row says: the managers know where its node is.
    pub(super) fn resolve_initiator(&mut self, key: NodeKey, now: Duration) {
        self.asker.handle_question(&Key::Node(key), now);
    }

    fn has_not_asked_lately(&self, now: Duration) -> bool {
        self.trust.asked_at.is_none_or(|at| at + ASK_PAUSE <= now)
    }
}

async fn ask(authority: String) -> Said {
    let client = Client {
        role: Role::Cluster,
        endpoint: Endpoint::Tcp {
            authority,
            token: None,
        },
    };
    let answer = client.json(Call::read("/v1/signing_key"));
    match tokio::time::timeout(ANSWER_WAIT, answer).await {
        Ok(Ok(body)) => {
            let text = body["signing_key"].as_str().unwrap_or_default();
            text.parse().map_or_else(
                |error| Said::Nothing(format!("`signing_key`: {error}")),
                Said::Key,
            )
        }
        Ok(Err(ClientError::Refused {
            status: StatusCode::NOT_FOUND,
            ..
        })) => Said::NoKey,
        Ok(Err(error)) => Said::Nothing(error.to_string()),
        Err(_) => Said::Nothing(format!("no answer within {} s", ANSWER_WAIT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::routing::get;
    use tokio::net::TcpListener;

    /// What a cluster manager with these routes says.
    async fn said(routes: Router) -> Said {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move { axum::serve(listener, routes).await });
        let said = ask(authority).await;
        server.abort();
        said
    }

    #[tokio::test]
    async fn a_cluster_manager_says_its_key_none_or_nothing() {
        let key = sluice_proto::signature::Signer::from_seed(&[1; 32]).public();
        let body = serde_json::json!({ "signing_key": key }).to_string();
        let routes = |body: String| Router::new().route("/v1/signing_key", get(async || body));
        let answer = said(routes(body)).await;
        assert!(matches!(answer, Said::Key(it) if it == key), "{answer:?}");
        // Oakestra's has no such path.
        assert!(matches!(said(Router::new()).await, Said::NoKey));
        for nonsense in ["{}", "[]", r#"{"signing_key":"c2hvcnQ="}"#, "no JSON"] {
            let answer = said(routes(nonsense.to_owned())).await;
            assert!(matches!(answer, Said::Nothing(_)), "{answer:?}");
        }
        let Said::Nothing(why) = ask("127.0.0.1:1".to_owned()).await else {
            panic!("nobody listens there");
        };
        assert!(why.contains("127.0.0.1:1"), "{why}");
    }
}
