//! Tells clusters what changed, in the background: one call per cluster at a time, so that a dead one delays no other.

use super::identity::authority;
use super::shared::Shared;
use crate::http::{Answer, CallError, Client, stopped};
use crate::log_limit::warn_limited;
use hyper::Method;
use sluice_proto::message;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// As in Oakestra.
const CALL_WAIT: Duration = Duration::from_secs(2);

type Calls = JoinSet<(String, Result<Answer, CallError>)>;

/// Runs until `stop`.
pub(super) async fn deliver(shared: Arc<Shared>, client: Client, stop: watch::Receiver<bool>) {
    let mut calls = Calls::new();
    loop {
        let timeout = start(&shared, &client, &mut calls);
        tokio::select! {
            () = shared.told.notified() => {}
            Some(finished) = calls.join_next() => {
                if let Ok((cluster, answer)) = finished {
                    let told = is_told(&cluster, &answer);
                    let now = shared.clock.now();
                    shared.lock().notifier.handle_reply(&cluster, told, now);
                }
            }
            () = shared.clock.reaches(timeout) => {
                shared.lock().notifier.handle_timeout(shared.clock.now());
            }
            () = stopped(stop.clone()) => return,
        }
    }
}

/// Starts every call that is due; returns when to look again.
fn start(shared: &Shared, client: &Client, calls: &mut Calls) -> Option<Duration> {
    let mut state = shared.lock();
    while let Some(notice) = state.notifier.poll_transmit() {
        let address = state
            .root
            .cluster(&notice.cluster)
            .map(|cluster| authority(cluster.address, cluster.port));
        let client = client.clone();
        calls.spawn(async move {
            // A cluster without an address never registered; it will be told when it does.
            let address = address.unwrap_or_default();
            let answer = client
                .call(
                    Method::POST,
                    &address,
                    "/api/net/job/update",
                    message::write(&notice.update),
                    CALL_WAIT,
                )
                .await;
            (notice.cluster, answer)
        });
    }
    state.notifier.poll_timeout()
}

/// Whether the cluster has taken the notice, or will never take it.
fn is_told(cluster: &str, answer: &Result<Answer, CallError>) -> bool {
    let (told, outcome) = match answer {
        Ok(answer) if answer.status.is_success() => (true, "told"),
        Ok(answer) if answer.status.is_client_error() => {
            warn_limited!(cluster, status = %answer.status, "a cluster refuses a notice");
            (true, "refused")
        }
        Ok(answer) => {
            warn_limited!(cluster, status = %answer.status, "a cluster cannot take a notice now");
            (false, "retried")
        }
        Err(error) => {
            warn_limited!(cluster, %error, "a cluster is away");
            (false, "retried")
        }
    };
    metrics::counter!("sluice_root_notices_total", "outcome" => outcome).increment(1);
    told
}
