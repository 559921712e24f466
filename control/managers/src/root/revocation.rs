//! `/v1/revoked_keys` of the root: keys of nodes that count no more, in all clusters.

use super::shared::Shared;
use crate::reply::Reply;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_proto::message::{self, NodeKey};
use sluice_proto::table_query::root::{self, Command};
use std::sync::Arc;

/// Which key a request is about.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfKey {
    pub(crate) public_key: NodeKey,
}

pub(super) fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/revoked_keys", get(list).post(revoke).delete(allow))
        .with_state(shared)
}

/// A row of the list, of the root's and of a cluster manager's.
pub(crate) fn row(key: &NodeKey, is_by_root: bool) -> Value {
    json!({"public_key": key, "by": if is_by_root { "root" } else { "cluster" }})
}

async fn list(State(shared): State<Arc<Shared>>) -> Reply {
    let state = shared.lock();
    let rows: Vec<_> = state.root.revoked().map(|key| row(key, true)).collect();
    Reply::json(&rows)
}

/// Revoking a key that is revoked is no error, so that it can be repeated.
async fn revoke(State(shared): State<Arc<Shared>>, body: Bytes) -> Reply {
    match message::read("key", &body) {
        Ok(OfKey { public_key }) => change(&shared, Command::KeyRevoke(public_key)).await,
        Err(error) => Reply::error(StatusCode::BAD_REQUEST, error),
    }
}

async fn allow(State(shared): State<Arc<Shared>>, Query(of): Query<OfKey>) -> Reply {
    change(&shared, Command::KeyAllow(of.public_key)).await
}

async fn change(shared: &Shared, command: Command) -> Reply {
    shared
        .answer_all(|state| {
            let root::Reply { status, body } = state.apply(&command);
            match (status, body) {
                (200, body) | (_, body @ root::Body::Json(_)) => {
                    Reply::from(root::Reply { status, body })
                }
                (status, root::Body::Text(text)) => {
                    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::CONFLICT);
                    Reply::error(status, text)
                }
            }
        })
        .await
}
