//! `/api/pubnet`: networking information for Oakestra's web interface, for callers with a token of its issuer.
//!
//! Paths and answers are those of Oakestra's root, spelled as Flask spells them. Two things are stricter: a token must say
//! when it ends, and while the issuer's key is not known the answer is 503.

mod jwt;
mod key_server;
#[cfg(test)]
pub(super) mod testing;

use super::shared::Shared;
use crate::clock::wall_clock;
use crate::log_limit::warn_limited;
use crate::reply::Reply;
use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use key_server::{Closed, KeyServer};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sluice_proto::message::Job;
use sluice_proto::table_query::Key;
use sluice_wire::Family;
use std::sync::Arc;

/// Most free addresses of a family in one answer: the walk holds up everybody else.
const AVAILABLE_MAX: usize = 1024;

type Root = State<Arc<Shared>>;

/// The routes, behind tokens that are signed with the key of the server at `key_server` (`host:port`).
pub(super) fn routes(shared: Arc<Shared>, key_server: String) -> Router {
    let key_server = Arc::new(KeyServer::new(key_server));
    let netinfo = Router::new()
        .route("/available-ip", get(available_one))
        .route("/available-ip/", get(available_one))
        .route("/available-ip/{count}", get(available))
        .route("/ip/{ip}", get(by_address))
        .route("/{name}", get(by_name))
        .layer(middleware::from_fn_with_state(key_server, admit))
        .with_state(shared);
    Router::new().nest("/api/pubnet/service/netinfo", netinfo)
}

async fn admit(State(keys): State<Arc<KeyServer>>, request: Request, next: Next) -> Response {
    let token = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let outcome = match token {
        Some(token) => keys.verify(token, wall_clock().as_secs()).await,
        None => Err(Closed::Refused(jwt::Refused::Malformed)),
    };
    match outcome {
        Ok(()) => next.run(request).await,
        Err(Closed::Refused(reason)) => {
            metrics::counter!("sluice_http_refused_total").increment(1);
            warn_limited!(%reason, path = request.uri().path(), "token refused");
            flask(StatusCode::UNAUTHORIZED, &json!({})).into_response()
        }
        Err(Closed::NoKey { retry }) => {
            let wait = (header::RETRY_AFTER, (retry.as_secs() + 1).to_string());
            let message = json!({"message": "the key to verify tokens with is not known yet"});
            let reply = flask(StatusCode::SERVICE_UNAVAILABLE, &message);
            ([wait], reply).into_response()
        }
    }
}

/// In paths of Oakestra the dots of names are underscores, which no name contains.
async fn by_name(State(root): Root, Path(name): Path<String>) -> Reply {
    let key = name.replace('_', ".").parse().ok().map(Key::Name);
    netinfo(&root, key).await
}

/// The same for the dots of IPv4 addresses; IPv6 addresses come as they are.
async fn by_address(State(root): Root, Path(ip): Path<String>) -> Reply {
    let key = ip.replace('_', ".").parse().ok().map(Key::Address);
    netinfo(&root, key).await
}

/// An unknown service has no instances and no addresses, and is no error: Oakestra's root answers so.
async fn netinfo(root: &Shared, key: Option<Key>) -> Reply {
    root.answer_all(|state| {
        let job = key.and_then(|key| state.root.job(&key));
        let lists = || json!({"instance_list": [], "service_ip_list": []});
        flask(StatusCode::OK, &job.map_or_else(lists, describe))
    })
    .await
}

fn describe(job: &Job) -> Value {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            fields.insert(name.to_owned(), value);
        }
    };
    let [app_name, app_ns, service_name, service_ns] = job.job_name.parts();
    for (name, part) in [
        ("app_name", app_name),
        ("app_ns", app_ns),
        ("service_name", service_name),
        ("service_ns", service_ns),
        ("_id", &job.id),
        ("service_job_id", &job.id),
    ] {
        put(name, part.into());
    }
    put("applicationID", descriptor_text(job, "applicationID"));
    put(
        "service_ip_list",
        job.service_ip_list
            .iter()
            .map(|entry| pick(entry, &["Address", "Address_v6", "IpType"]))
            .collect(),
    );
    put(
        "instance_list",
        job.instance_list
            .iter()
            .map(|entry| {
                pick(
                    entry,
                    &[
                        "cluster_id",
                        "instance_number",
                        "instance_ip",
                        "instance_ip_v6",
                    ],
                )
            })
            .collect(),
    );
    Value::Object(fields)
}

fn descriptor_text(job: &Job, name: &str) -> Value {
    match job.descriptor.get(name) {
        None | Some(Value::Null) => Value::Null,
        Some(Value::String(text)) => text.as_str().into(),
        Some(other) => other.to_string().into(),
    }
}

/// These fields of an entry's wire form, without those that are absent.
fn pick<T: serde::Serialize>(entry: &T, names: &[&str]) -> Value {
    let entry = serde_json::to_value(entry).unwrap_or_default();
    names
        .iter()
        .filter_map(|name| {
            let value = entry.get(name).filter(|value| !value.is_null())?;
            Some(((*name).to_owned(), value.clone()))
        })
        .collect::<Map<_, _>>()
        .into()
}

#[derive(Deserialize)]
struct Version {
    v: Option<String>,
}

async fn available_one(root: Root, version: Query<Version>) -> Reply {
    available(root, version, Path("1".to_owned())).await
}

/// The next free ServiceIPs, reserved for nobody. In IPv6 those of the round robin range: Oakestra's root lists instance
/// addresses there, and then refuses them in a descriptor.
async fn available(
    State(root): Root,
    Query(version): Query<Version>,
    Path(count): Path<String>,
) -> Reply {
    let Ok(count) = count.parse::<usize>() else {
        return Reply::bad_request("Invalid number of addresses");
    };
    let families: &[Family] = match version.v.as_deref() {
        Some("4") => &[Family::V4],
        Some("6") => &[Family::V6],
        _ => &[Family::V4, Family::V6],
    };
    let mut state = root.lock();
    let now_s = state.now_s();
    let ips: Vec<_> = families
        .iter()
        .flat_map(|family| {
            let free = state.root.free_service_ips(*family, now_s);
            free.take(count.min(AVAILABLE_MAX))
        })
        .map(|ip| match ip.family() {
            Family::V4 => json!({"Address": ip.to_string(), "Address_v6": null, "IpType": "IPv4"}),
            Family::V6 => json!({"Address": null, "Address_v6": ip.to_string(), "IpType": "IPv6"}),
        })
        .collect();
    flask(StatusCode::OK, &json!({"available_service_ips": ips}))
}

/// JSON as Flask writes it: no spaces, keys in order (as [`Map`] keeps them), a line feed at the end.
fn flask(status: StatusCode, value: &Value) -> Reply {
    Reply::json_with(status, value).with_line_feed()
}

#[cfg(test)]
mod tests;
