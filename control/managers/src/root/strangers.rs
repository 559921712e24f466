//! Clusters that belong to another store than this root's: they are refused. While it has no cluster of its own, so is every
//! change, as it is then a root that lost its store, and gives away what is taken.

use super::shared::Shared;
use crate::http::STORE;
use crate::log_limit::warn_limited;
use crate::reply::Reply;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sluice_proto::table_query::root::Root;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// A cluster looks for its root once a second at least; one that has not done so for this long is switched off, or calls
/// another root by now.
const GONE_AFTER: Duration = Duration::from_secs(30);
/// Addresses remembered, far above the clusters of an installation.
const KEPT_MAX: usize = 256;

/// Who called in the name of another store, and when last.
#[derive(Debug, Default)]
pub(super) struct Strangers(BTreeMap<IpAddr, Duration>);

impl Strangers {
    fn handle_call(&mut self, from: IpAddr, now: Duration) {
        self.0.retain(|_, at| now < *at + GONE_AFTER);
        if self.0.len() < KEPT_MAX || self.0.contains_key(&from) {
            self.0.insert(from, now);
        }
    }

    /// From where they call, in order.
    pub(super) fn addresses(&self, now: Duration) -> impl Iterator<Item = IpAddr> {
        let calling = self.0.iter().filter(move |(_, at)| now < **at + GONE_AFTER);
        calling.map(|(from, _)| *from)
    }

    /// Why nothing may be changed now, if so.
    fn refusal(&self, root: &Root, now: Duration) -> Option<String> {
        if root.clusters().next().is_some() {
            return None;
        }
        let calling: Vec<String> = self.addresses(now).map(|ip| ip.to_string()).collect();
        (!calling.is_empty()).then(|| {
            format!(
                "this root has another store than the one that its clusters belong to (they call from {}), so that it would \
                 give their addresses away: bring that store back, or begin anew without the `data_dir` of these clusters, too",
                calling.join(", ")
            )
        })
    }
}

/// For the paths of clusters: refuses those of another store, and while [`Strangers::refusal`] says so every change but a
/// registration, by which one of its own may come.
pub(super) async fn guard_clusters(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let theirs = request.headers().get(STORE);
    if theirs.is_some_and(|theirs| *theirs != shared.store_identity) {
        let from = peer.ip().to_canonical();
        let now = shared.clock.now();
        shared.lock().strangers.handle_call(from, now);
        metrics::counter!("sluice_root_strange_total").increment(1);
        warn_limited!(
            %from,
            "a cluster belongs to another store than this root's, and is refused: bring that store back, or begin anew \
             without the `data_dir` of the cluster, too"
        );
        let text = "this cluster belongs to another store than this root's";
        return Reply::text(StatusCode::CONFLICT, text).into_response();
    }
    let is_registration = request.uri().path() == "/api/net/cluster";
    match refusal(&shared, &request).filter(|_| !is_registration) {
        Some(why) => Reply::text(StatusCode::CONFLICT, why).into_response(),
        None => next.run(request).await,
    }
}

/// For the paths of people and scripts: the same for changes.
pub(super) async fn guard_changes(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    match refusal(&shared, &request) {
        Some(why) => Reply::error(StatusCode::CONFLICT, why).into_response(),
        None => next.run(request).await,
    }
}

fn refusal(shared: &Shared, request: &Request) -> Option<String> {
    // Asking for a subnet takes it.
    let takes = request.uri().path() == "/api/net/subnet";
    if *request.method() == Method::GET && !takes {
        return None;
    }
    let now = shared.clock.now();
    let state = shared.lock();
    state.strangers.refusal(&state.root, now)
}
