//! The cluster manager's REST interface: Oakestra's `/api/net` paths with its texts and codes, and `/v1` for people.

use crate::reply::Reply;
use crate::root::revocation::OfKey;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use serde_json::json;
use sluice_proto::ServiceName;
use sluice_proto::message::{self, JobUpdate, NetDeployment, NodeKey};
use sluice_proto::signature::ClusterKey;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// What a handler asks of the task that owns the state.
#[derive(Debug)]
pub(super) enum Ask {
    /// A job was scheduled here; the answer comes when the root has said what it is.
    Deployment(ServiceName, oneshot::Sender<Resolution>),
    Remove(ServiceName),
    Update(JobUpdate),
    Look(View, oneshot::Sender<serde_json::Value>),
    /// A key counts no more (true), or again. The answer, once that is on disk, is how many instances were withdrawn; `None`: the
    /// key was not revoked here.
    Key(NodeKey, bool, oneshot::Sender<Option<usize>>),
}

/// What came of a deployment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Resolution {
    Stored,
    /// The root does not know the job, or does not answer.
    Failed,
}

/// A list that `/v1` shows.
#[derive(Clone, Copy, Debug)]
pub(super) enum View {
    Nodes,
    Jobs,
    Instances,
    RevokedKeys,
    Status,
}

/// Handlers that wait for the task; more than that many wait in their sockets.
pub(super) const ASKS_MAX: usize = 256;

/// A cluster manager waits this long for its service manager at most; the root is asked several times meanwhile.
const RESOLUTION_WAIT: Duration = Duration::from_secs(5);

type Asks = State<mpsc::Sender<Ask>>;

/// The paths of Oakestra and `/v1`.
pub(super) fn routes(asks: mpsc::Sender<Ask>) -> Router {
    Router::new()
        .route("/api/net/deployment", post(deployment))
        .route("/api/net/deployment/{job}", delete(remove))
        .route("/api/net/job/update", post(update))
        .with_state(asks.clone())
        .merge(views(asks))
}

/// `/v1` alone, for the admin socket. Jobs are services here.
pub(super) fn views(asks: mpsc::Sender<Ask>) -> Router {
    let mut routes = Router::new();
    for (path, view) in [
        ("/v1/nodes", View::Nodes),
        ("/v1/jobs", View::Jobs),
        ("/v1/services", View::Jobs),
        ("/v1/instances", View::Instances),
        ("/v1/status", View::Status),
    ] {
        routes = routes.route(path, get(async move |asks: Asks| look(asks, view).await));
    }
    let keys = get(async |asks: Asks| look(asks, View::RevokedKeys).await);
    let keys = keys.post(revoke_key).delete(allow_key);
    routes.route("/v1/revoked_keys", keys).with_state(asks)
}

async fn revoke_key(asks: Asks, body: Bytes) -> Reply {
    match message::read("key", &body) {
        Ok(OfKey { public_key }) => change_key(asks, public_key, true).await,
        Err(error) => Reply::error(StatusCode::BAD_REQUEST, error),
    }
}

async fn allow_key(asks: Asks, Query(of): Query<OfKey>) -> Reply {
    change_key(asks, of.public_key, false).await
}

async fn change_key(State(asks): Asks, key: NodeKey, is_revoked: bool) -> Reply {
    let (sender, done) = oneshot::channel();
    if asks.send(Ask::Key(key, is_revoked, sender)).await.is_err() {
        return stopping();
    }
    match done.await {
        Ok(Some(withdrawn)) if is_revoked => {
            Reply::json(&json!({"public_key": key, "withdrawn": withdrawn}))
        }
        Ok(Some(_)) => Reply::json(&json!({"public_key": key})),
        Ok(None) => Reply::error(
            StatusCode::NOT_FOUND,
            format!(
                "{key} is not revoked here; `sluice key revoked --at cluster` shows what is, and by whom"
            ),
        ),
        Err(_) => stopping(),
    }
}

/// With which key this cluster manager signs rows: what gateways learn it by, so that the broker cannot say it.
pub(super) fn signing_key(cluster_id: &str, key: ClusterKey) -> Router {
    let body = json!({ "cluster_id": cluster_id, "signing_key": key });
    Router::new().route("/v1/signing_key", get(async move || Reply::json(&body)))
}

async fn deployment(State(asks): Asks, body: Bytes) -> Reply {
    let deployment: NetDeployment = match message::read("deployment", &body) {
        Ok(deployment) => deployment,
        Err(error) => return Reply::bad_request(error.to_string()),
    };
    let (sender, resolution) = oneshot::channel();
    if asks
        .send(Ask::Deployment(deployment.job_name, sender))
        .await
        .is_err()
    {
        return stopping();
    }
    match tokio::time::timeout(RESOLUTION_WAIT, resolution).await {
        // Spelled as Oakestra spells it.
        Ok(Ok(Resolution::Stored)) => Reply::ok("job stored succesfully"),
        Ok(Ok(Resolution::Failed)) | Err(_) => Reply::text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Service resolution failed",
        ),
        Ok(Err(_)) => stopping(),
    }
}

async fn remove(State(asks): Asks, Path(job): Path<String>) -> Reply {
    let Ok(job) = job.parse() else {
        return Reply::bad_request("Invalid job name");
    };
    match asks.send(Ask::Remove(job)).await {
        Ok(()) => Reply::ok("job removed succesfully"),
        Err(_) => stopping(),
    }
}

async fn update(State(asks): Asks, body: Bytes) -> Reply {
    let update: JobUpdate = match message::read("job update", &body) {
        Ok(update) => update,
        Err(error) => return Reply::bad_request(error.to_string()),
    };
    if update.instance_number < -1 {
        return Reply::bad_request("instance_number is below -1");
    }
    match asks.send(Ask::Update(update)).await {
        Ok(()) => Reply::ok("update notification received"),
        Err(_) => stopping(),
    }
}

async fn look(State(asks): Asks, view: View) -> Reply {
    let (sender, list) = oneshot::channel();
    if asks.send(Ask::Look(view, sender)).await.is_err() {
        return stopping();
    }
    match list.await {
        Ok(list) => Reply::json(&list),
        Err(_) => stopping(),
    }
}

fn stopping() -> Reply {
    Reply::text(StatusCode::SERVICE_UNAVAILABLE, "stopping")
}
