//! `/v1` of the root: services by descriptor, and lists for people and scripts.

use super::identity::authority;
use super::shared::{Shared, State as Locked};
use crate::reply::Reply;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{delete, get};
use serde_json::{Value, json};
use sluice_proto::ServiceName;
use sluice_proto::descriptor::{self, ServiceSpec};
use sluice_proto::message::{InstanceEntry, IpType, Job, ServiceDeploy, ServiceIpEntry};
use sluice_proto::table_query::Key;
use sluice_proto::table_query::root::{Command, SubnetView};
use sluice_wire::Ip;
use std::sync::Arc;

type Root = State<Arc<Shared>>;

pub(super) fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/services", get(services).post(apply))
        .route("/v1/services/{name}", delete(remove))
        .route("/v1/instances", get(instances))
        .route("/v1/nodes", get(nodes))
        .route("/v1/clusters", get(clusters))
        .route("/v1/status", get(status))
        .with_state(shared)
}

/// Creates the services of a descriptor, YAML or JSON, or finds that they exist as described. All are attempted in
/// order; the first that cannot be ends it.
async fn apply(State(root): Root, body: Bytes) -> Reply {
    let text = match std::str::from_utf8(&body) {
        Ok(text) => text,
        Err(error) => return Reply::error(StatusCode::BAD_REQUEST, error),
    };
    let specs = match descriptor::parse("descriptor", text) {
        Ok(specs) => specs,
        Err(error) => return Reply::error(StatusCode::BAD_REQUEST, error),
    };
    root.answer_all(|state| apply_all(state, specs)).await
}

fn apply_all(state: &mut Locked, specs: Vec<ServiceSpec>) -> Reply {
    let mut rows = Vec::new();
    for spec in specs {
        let name = spec.name;
        let command = Command::ServiceDeploy(ServiceDeploy {
            id: state.root.id_for(&name),
            deployment_descriptor: Value::Object(spec.descriptor),
        });
        let reply = state.apply(&command);
        match (reply.status, state.root.job(&Key::Name(name))) {
            (200, Some(job)) => rows.push(service(job)),
            (status, _) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::CONFLICT);
                let text = String::from_utf8_lossy(&reply.bytes()).into_owned();
                return Reply::error(status, text);
            }
        }
    }
    Reply::json(&rows)
}

/// Withdraws every instance of the service and forgets it.
async fn remove(State(root): Root, Path(name): Path<String>) -> Reply {
    let name: ServiceName = match name.parse() {
        Ok(name) => name,
        Err(error) => return Reply::error(StatusCode::BAD_REQUEST, error),
    };
    root.answer_all(|state| {
        let Some(job) = state.root.job(&Key::Name(name.clone())) else {
            return Reply::error(StatusCode::NOT_FOUND, format!("there is no service {name}"));
        };
        let id = job.id.clone();
        let instances = job.instance_list.len();
        state.apply(&Command::InstanceDelete {
            id: id.clone(),
            number: -1,
            epoch: None,
            cluster_id: None,
        });
        let reply = state.apply(&Command::ServiceDelete { id });
        match reply.status {
            200 => Reply::json(&json!({"service": name, "instances": instances})),
            _ => Reply::from(reply),
        }
    })
    .await
}

async fn services(State(root): Root) -> Reply {
    let state = root.lock();
    Reply::json(&state.root.jobs().map(service).collect::<Vec<_>>())
}

async fn instances(State(root): Root) -> Reply {
    let state = root.lock();
    let rows: Vec<_> = state
        .root
        .jobs()
        .flat_map(|job| job.instance_list.iter().map(|entry| instance(job, entry)))
        .collect();
    Reply::json(&rows)
}

/// The nodes on which instances run, and the subnets of nodes that left, while these rest.
async fn nodes(State(root): Root) -> Reply {
    let mut state = root.lock();
    let now_s = state.now_s();
    let mut rows = std::collections::BTreeMap::new();
    for entry in state.root.jobs().flat_map(|job| &job.instance_list) {
        if !entry.is_placed() {
            continue;
        }
        let place = (entry.worker_id.clone(), entry.host_ip, entry.host_port);
        let row = rows
            .entry(place)
            .or_insert_with(|| (entry.cluster_id.clone(), 0));
        row.1 += 1;
    }
    let rows: Vec<_> = rows
        .into_iter()
        .map(|((node, ip, port), (cluster, instances))| {
            json!({
                "node": node,
                "cluster": cluster,
                "address": ip.zip(port).map(|(ip, port)| authority(&ip.to_string(), port)),
                "instances": instances,
                "state": "serving",
            })
        })
        .chain(state.root.subnets().filter_map(|it| resting(it, now_s)))
        .collect();
    Reply::json(&rows)
}

/// A subnet whose node has left.
fn resting(view: SubnetView<'_>, now_s: u64) -> Option<Value> {
    let until_s = view.rests_until_s?;
    let rest_s = until_s.saturating_sub(now_s);
    Some(json!({
        "cluster": view.cluster,
        "subnet_v4": view.subnet.subnet_addr.map(|ip| ip.to_string()),
        "subnet_v6": view.subnet.subnet_addr_v6.map(|ip| ip.to_string()),
        "instances": 0,
        "state": if rest_s > 0 { "resting" } else { "rested" },
        "rest_s": rest_s,
    }))
}

/// Those that registered, and those that this root refuses.
async fn clusters(State(root): Root) -> Reply {
    let state = root.lock();
    let strangers = state.strangers.addresses(root.clock.now());
    let rows: Vec<_> = state
        .root
        .clusters()
        .map(|cluster| {
            json!({
                "cluster": cluster.id,
                "address": authority(cluster.address, cluster.port),
                "state": "registered",
            })
        })
        .chain(strangers.map(|ip| {
            json!({
                "cluster": null,
                "address": ip.to_string(),
                "state": "of another store",
            })
        }))
        .collect();
    Reply::json(&rows)
}

async fn status(State(root): Root) -> Reply {
    let state = root.lock();
    let instances: usize = state.root.jobs().map(|job| job.instance_list.len()).sum();
    Reply::json(&json!({
        "role": "root",
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": root.clock.now().as_secs(),
        "services": state.root.jobs().count(),
        "instances": instances,
        "clusters": state.root.clusters().count(),
        "clusters_of_another_store": state.strangers.addresses(root.clock.now()).count(),
        "subnets": state.root.subnets().filter(|it| it.rests_until_s.is_none()).count(),
        "subnets_resting": state.root.subnets().filter(|it| it.rests_until_s.is_some()).count(),
        "notices_waiting": state.notifier.waiting(),
    }))
}

/// A row of `/v1/services`.
fn service(job: &Job) -> Value {
    let ips: Vec<_> = job.service_ip_list.iter().map(service_ip).collect();
    json!({
        "service": job.job_name,
        "id": job.id,
        "service_ips": ips,
        "instances": job.instance_list.len(),
        "revision": job.revision,
    })
}

fn service_ip(entry: &ServiceIpEntry) -> Value {
    let policy = match &entry.ip_type {
        IpType::RoundRobin => "round-robin",
        IpType::Closest => "closest",
        IpType::Instance(text) => text,
    };
    json!({
        "policy": policy,
        "service_ip": text(entry.address),
        "service_ip_v6": text(entry.address_v6),
    })
}

/// A row of `/v1/instances`.
fn instance(job: &Job, entry: &InstanceEntry) -> Value {
    json!({
        "service": job.job_name,
        "instance": entry.instance_number,
        "state": if entry.is_placed() { "running" } else { "scheduled" },
        "cluster": entry.cluster_id,
        "node": entry.worker_id,
        "instance_ip": text(entry.instance_ip),
        "instance_ip_v6": text(entry.instance_ip_v6),
        "ns_ip": text(entry.namespace_ip),
        "ns_ip_v6": text(entry.namespace_ip_v6),
        "address": entry.host_ip.zip(entry.host_port).map(|(ip, port)| authority(&ip.to_string(), port)),
    })
}

fn text(ip: Option<Ip>) -> Option<String> {
    ip.map(|ip| ip.to_string())
}
