//! The root's REST interface towards system manager and clusters (`/api/net`), paths, texts and codes as in Oakestra.

use super::identity::{Named, registered_address};
use super::shared::Shared;
use super::strangers::guard_clusters;
use crate::http::{INCARNATION, REVOCATIONS, STORE};
use crate::reply::Reply;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sluice_proto::ServiceName;
use sluice_proto::message::{self, ClusterRegistration, NodeKey};
use sluice_proto::table_query::Key;
use sluice_proto::table_query::root::Command;
use std::net::SocketAddr;
use std::sync::Arc;

type Root = State<Arc<Shared>>;
type Peer = ConnectInfo<SocketAddr>;

pub(super) fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/api/net/cluster", post(register_cluster))
        .route("/api/net/interest/{job}", delete(remove_interest))
        .route("/api/net/service/net_deploy_status", post(deploy_status))
        .route("/api/net/service/deploy", post(deploy_service))
        .route("/api/net/service/{id}", delete(remove_service))
        .route("/api/net/instance/deploy", post(deploy_instance))
        .route("/api/net/{id}/{instance}", delete(remove_instance))
        .route("/api/net/service/{name}/instances", get(query_by_name))
        .route("/api/net/service/ip/{ip}/instances", get(query_by_address))
        .route("/api/net/node", get(query_by_node_key))
        .route("/api/net/revoked_keys", get(revoked_keys))
        .route("/api/net/subnet", get(subnet))
        .route("/api/net/subnet/{network}", delete(return_subnet))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&shared),
            guard_clusters,
        ))
        .layer(middleware::map_response_with_state(
            Arc::clone(&shared),
            with_store,
        ))
        .with_state(shared)
}

async fn with_store(State(root): Root, mut response: Response) -> Response {
    let identity = root.store_identity.clone();
    let revocations = root.lock().root.revocations();
    let headers = response.headers_mut();
    headers.insert(STORE, identity);
    headers.insert(REVOCATIONS, revocations.into());
    response
}

async fn register_cluster(
    State(root): Root,
    ConnectInfo(peer): Peer,
    body: Bytes,
) -> Result<Response, Reply> {
    let mut registration: ClusterRegistration = read("cluster registration", &body)?;
    registration.cluster_address = registered_address(&registration.cluster_address, peer.ip());
    let reply = root
        .answer(|_| Command::ClusterRegister(registration))
        .await;
    Ok(([(INCARNATION, root.incarnation.to_string())], reply).into_response())
}

async fn remove_interest(
    State(root): Root,
    ConnectInfo(peer): Peer,
    Query(named): Query<Named>,
    Path(job): Path<String>,
) -> Reply {
    let Ok(job) = job.parse::<ServiceName>() else {
        return Reply::bad_request("Invalid job name");
    };
    root.answer(|root| Command::InterestRemove {
        job,
        caller: named.caller(root, peer.ip()),
    })
    .await
}

async fn deploy_status(State(root): Root, body: Bytes) -> Result<Reply, Reply> {
    let status = read("deploy status", &body)?;
    Ok(root.answer(|_| Command::Status(status)).await)
}

async fn deploy_service(State(root): Root, body: Bytes) -> Result<Reply, Reply> {
    let service = read("service", &body)?;
    Ok(root.answer(|_| Command::ServiceDeploy(service)).await)
}

async fn remove_service(State(root): Root, Path(id): Path<String>) -> Reply {
    root.answer(|_| Command::ServiceDelete { id }).await
}

async fn deploy_instance(State(root): Root, body: Bytes) -> Result<Reply, Reply> {
    let instance = read("instance", &body)?;
    Ok(root.answer(|_| Command::InstanceDeploy(instance)).await)
}

async fn remove_instance(
    State(root): Root,
    named: Query<Named>,
    Path((id, instance)): Path<(String, String)>,
) -> Reply {
    let Ok(number) = instance.parse() else {
        return Reply::bad_request("Invalid instance number");
    };
    let Query(named) = named;
    root.answer(|_| Command::InstanceDelete {
        id,
        number,
        epoch: named.epoch,
        cluster_id: named.cluster_id,
    })
    .await
}

/// In paths of Oakestra the dots of names are underscores, which no name contains.
async fn query_by_name(
    State(root): Root,
    peer: Peer,
    named: Query<Named>,
    Path(name): Path<String>,
) -> Reply {
    let key = name.replace('_', ".").parse().ok().map(Key::Name);
    query(&root, peer, named, key).await
}

/// The same for the dots of IPv4 addresses; IPv6 addresses come as they are.
async fn query_by_address(
    State(root): Root,
    peer: Peer,
    named: Query<Named>,
    Path(ip): Path<String>,
) -> Reply {
    let key = ip.replace('_', ".").parse().ok().map(Key::Address);
    query(&root, peer, named, key).await
}

/// Extension: where the node with a public key is.
async fn query_by_node_key(
    State(root): Root,
    peer: Peer,
    named: Query<Named>,
    Query(OfNode { public_key }): Query<OfNode>,
) -> Reply {
    query(&root, peer, named, Some(Key::Node(public_key))).await
}

/// Which node a request is about.
#[derive(Deserialize)]
struct OfNode {
    public_key: NodeKey,
}

/// A key that breaks the grammar is the key of nothing.
async fn query(
    root: &Shared,
    ConnectInfo(peer): Peer,
    Query(named): Query<Named>,
    key: Option<Key>,
) -> Reply {
    let Some(key) = key else {
        return Reply::json(&serde_json::Map::new());
    };
    root.answer(|root| Command::Query {
        key,
        caller: named.caller(root, peer.ip()),
    })
    .await
}

/// Extension: what clusters ask for when the number in [`REVOCATIONS`] has changed.
async fn revoked_keys(State(root): Root) -> Reply {
    root.answer(|_| Command::RevokedKeys).await
}

async fn subnet(
    State(root): Root,
    ConnectInfo(peer): Peer,
    Query(mut named): Query<Named>,
) -> Reply {
    let request_id = named.request_id.take();
    root.answer(|root| Command::Subnet {
        caller: named.caller(root, peer.ip()),
        request_id,
    })
    .await
}

async fn return_subnet(
    State(root): Root,
    ConnectInfo(peer): Peer,
    Query(named): Query<Named>,
    Path(network): Path<String>,
) -> Reply {
    let Ok(network) = network.parse() else {
        return Reply::bad_request("Invalid network address");
    };
    let grant_id = named.grant_id;
    root.answer(|root| Command::SubnetReturn {
        network,
        grant_id,
        caller: named.caller(root, peer.ip()),
    })
    .await
}

fn read<T: DeserializeOwned>(what: &'static str, body: &[u8]) -> Result<T, Reply> {
    message::read(what, body).map_err(|error| Reply::bad_request(error.to_string()))
}
