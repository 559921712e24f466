//! A real root and a real cluster manager with ten thousand services, and the nodes of the site as MQTT connections.

use super::{
    INSTANCES_EACH, LOAD, MANAGER, NODES, PATIENCE, SERVICES, SERVICES_ASKED, node_id, service_name,
};
use crate::lab::clock::wait_for;
use crate::lab::scratch::Scratch;
use crate::lab::sites::{Cable, Layout, Sites};
use crate::lab::{LabError, cores};
use crate::suites::Settings;
use crate::suites::footprint::cpu_ticks;
use crate::traffic::mqtt::Connection;
use serde::de::DeserializeOwned;
use sluice_proto::message::{
    self, Deployed, InstanceRequest, InstanceResult, NodeId, Topic, Verb, write,
};
use sluice_wire::Ip;
use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Services of one descriptor.
const APPLIED_AT_ONCE: usize = 500;
/// The managers' work for all that was attached.
const SETTLED: Duration = Duration::from_secs(60);
const BROKER_PORT: u16 = 10003;
const TUNNEL_PORT: u16 = 50103;
/// Instances that are asked for at a time: what the managers have at a time, too, so that no request waits for its turn
/// longer than it may take.
const ATTACHED_AT_ONCE: usize = 32;
/// Before an instance that could not be had is asked for again.
const AGAIN: Duration = Duration::from_millis(200);

/// The managers, running, and what is known of the services.
pub(super) struct Site {
    sites: Sites,
    broker: SocketAddr,
    token: String,
    /// The round-robin ServiceIP of each service, by its number.
    pub(super) service_ips: Vec<Ip>,
}

impl Site {
    /// Starts both managers, the cluster's on a core of its own, and describes the services to the root.
    pub(super) fn new(settings: &Settings) -> Result<Self, LabError> {
        let scratch = Scratch::new("sluice-perf-control")?;
        // Its namespace is where the nodes are; it is never started.
        let layout = Layout::measured(1, Cable::Switch);
        let mut sites = Sites::built(&settings.sluice, scratch, &layout)?;
        sites.start_managers()?;
        for (role, core) in [(&sites.clusters[0], MANAGER), (&sites.root, LOAD)] {
            cores::pin_process(role.pid().unwrap_or_default(), core)?;
        }
        let names: Vec<String> = (0..SERVICES).map(microservice_name).collect();
        for part in names.chunks(APPLIED_AT_ONCE) {
            sites.apply_measured("control", part)?;
        }
        let token = sites.scratch.path().join("token");
        Ok(Self {
            broker: SocketAddr::new(sites.cluster_address(0), BROKER_PORT),
            token: fs::read_to_string(&token)
                .map_err(LabError::file(token))?
                .trim()
                .to_owned(),
            service_ips: service_ips(&sites.root.ask("/v1/services")?)?,
            sites,
        })
    }

    /// A node's connection, which hears the answers to its questions.
    pub(super) async fn connect(&self, node: usize) -> Result<Connection, LabError> {
        let id = node_id(node);
        let namespace = self.sites.gateways[0].namespace();
        let mut connection = Connection::open(namespace, self.broker, &id, &self.token).await?;
        for verb in [Verb::TableQueryResult, Verb::InstanceResult] {
            connection.subscribe(&topic(node, verb)?).await?;
        }
        Ok(connection)
    }

    /// Connects all nodes, and has every service run: each node has its share of the instances.
    pub(super) async fn populate(&self) -> Result<Vec<Connection>, LabError> {
        let mut nodes = JoinSet::new();
        let turns = Arc::new(Semaphore::new(ATTACHED_AT_ONCE));
        for node in 0..NODES {
            let connection = self.connect(node).await?;
            nodes.spawn(attach_share(node, connection, Arc::clone(&turns)));
        }
        let mut connections = BTreeMap::new();
        while let Some(done) = nodes.join_next().await {
            let (node, connection) = joined(done)?;
            connections.insert(node, connection);
        }
        Ok(connections.into_values().collect())
    }

    /// Waits until the root knows where every instance runs: then the managers have nothing left to do.
    pub(super) fn settled(&self) -> Result<(), LabError> {
        wait_for("the root to know all instances", SETTLED, || {
            let rows = self.sites.root.ask("/v1/nodes");
            let rows = rows.map_err(|error| error.to_string())?;
            let counts = rows.as_array().into_iter().flatten();
            let placed: u64 = counts.filter_map(|row| row["instances"].as_u64()).sum();
            if placed == instances().count() as u64 {
                return Ok(());
            }
            crate::lab::clock::pause(AGAIN);
            Err(format!("{placed} of {} instances", instances().count()))
        })
    }

    /// CPU seconds of the cluster manager so far.
    pub(super) fn manager_cpu_s(&self) -> Result<f64, LabError> {
        let pid = self.sites.clusters[0].pid().unwrap_or_default();
        cpu_ticks(pid).map(|ticks| ticks / 100.0)
    }
}

/// Service and number of every instance.
fn instances() -> impl Iterator<Item = (usize, usize)> {
    (0..SERVICES).flat_map(|service| {
        let count = if service < SERVICES_ASKED {
            INSTANCES_EACH
        } else {
            1
        };
        (0..count).map(move |number| (service, number))
    })
}

/// The node that has an instance: those of a service are on different nodes.
pub(super) const fn node_of(service: usize, number: usize) -> usize {
    (service + number * 251) % NODES
}

async fn attach_share(
    node: usize,
    mut connection: Connection,
    turns: Arc<Semaphore>,
) -> Result<(usize, Connection), LabError> {
    let _turn = turns.acquire().await;
    let own = instances().filter(|(service, number)| node_of(*service, *number) == node);
    for (index, (service, number)) in own.enumerate() {
        let attach = attach(node, service, number, &mut connection);
        let result = within("an instance", attach).await?;
        let deployed = deployed(
            service,
            result.instance_number,
            result.epoch,
            ns_ip(node, index),
        );
        connection.publish(&topic(node, Verb::Deployed)?, &write(&deployed))?;
    }
    connection.flush().await?;
    Ok((node, connection))
}

/// Asks for an instance, again while the managers are too busy.
async fn attach(
    node: usize,
    service: usize,
    number: usize,
    connection: &mut Connection,
) -> Result<InstanceResult, LabError> {
    let wrong = |text: String| LabError::Reply {
        what: format!("an instance of {}", service_name(service)),
        text,
    };
    let request = InstanceRequest {
        request_id: format!("{node}-{service}-{number}"),
        service: service_name(service)
            .parse()
            .map_err(|error: sluice_proto::NameError| wrong(error.to_string()))?,
        instance_number: None,
        migrate: false,
    };
    let topic = topic(node, Verb::InstanceRequest)?;
    loop {
        connection.publish(&topic, &write(&request))?;
        let publish = connection.next().await?;
        let result: InstanceResult = parse(&publish.payload)?;
        match &result.error {
            None if result.request_id == request.request_id => return Ok(result),
            None => {}
            Some(_) if result.retry => tokio::time::sleep(AGAIN).await,
            Some(error) => return Err(wrong(error.clone())),
        }
    }
}

/// The message that an instance runs at a namespace address of its node.
pub(super) fn deployed(service: usize, number: u32, epoch: u64, ns_ip: Ipv4Addr) -> Deployed {
    Deployed {
        appname: service_name(service),
        status: "DEPLOYED".to_owned(),
        instance_number: number,
        nsip: Some(Ip::from(ns_ip)),
        nsipv6: None,
        host_port: TUNNEL_PORT,
        host_ip: Some(Ip::from(Ipv4Addr::new(192, 0, 2, 1))),
        epoch,
        public_key: None,
        answers_probes: true,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a thousand nodes, few instances each"
)]
const fn ns_ip(node: usize, index: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a12_0000 + (node as u32) * 64 + 2 + index as u32)
}

/// A topic of a node.
pub(super) fn topic(node: usize, verb: Verb) -> Result<String, LabError> {
    match NodeId::new(node_id(node)) {
        Ok(id) => Ok(Topic::node(id, verb).to_string()),
        Err(error) => Err(LabError::Request(error.to_string())),
    }
}

/// A message of the managers.
pub(super) fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<T, LabError> {
    message::read("a message of the cluster manager", payload).map_err(|error| LabError::Reply {
        what: String::from_utf8_lossy(payload).chars().take(200).collect(),
        text: error.to_string(),
    })
}

/// `work`, unless it takes longer than anything here may.
pub(super) async fn within<T>(
    what: &'static str,
    work: impl Future<Output = Result<T, LabError>>,
) -> Result<T, LabError> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| {
        Err(LabError::Deadline {
            what: what.to_owned(),
            waited_ms: PATIENCE.as_millis(),
            seen: "nothing that ends it".to_owned(),
        })
    })
}

/// What a task came to.
pub(super) fn joined<T>(
    outcome: Result<Result<T, LabError>, tokio::task::JoinError>,
) -> Result<T, LabError> {
    match outcome {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn microservice_name(service: usize) -> String {
    format!("s{service:05}")
}

/// The round-robin addresses of `/v1/services`, in the order of the services' names.
fn service_ips(rows: &serde_json::Value) -> Result<Vec<Ip>, LabError> {
    let ip_of = |row: &serde_json::Value| -> Option<(String, Ip)> {
        let name = row["service"].as_str()?.to_owned();
        let policies = row["service_ips"].as_array()?;
        let round_robin = policies.iter().find(|ip| ip["policy"] == "round-robin")?;
        Some((name, round_robin["service_ip"].as_str()?.parse().ok()?))
    };
    let ips: BTreeMap<String, Ip> = rows
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(ip_of)
        .collect();
    if ips.len() == SERVICES {
        return Ok(ips.into_values().collect());
    }
    Err(LabError::Reply {
        what: "the root's list of services".to_owned(),
        text: format!("{} services with a ServiceIP, not {SERVICES}", ips.len()),
    })
}
