//! What `/v1` of a cluster manager shows.

use super::site::Site;
use crate::root::revocation::row;
use serde_json::{Value, json};
use sluice_proto::message::{InstanceEntry, NodeId, TableQueryResult};
use sluice_wire::Ip;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// The nodes that have a subnet here, and those that left while the root does not have their subnets back.
pub(super) fn nodes(site: &Site) -> Value {
    let results = results(site);
    let mut places = BTreeMap::new();
    for entry in results.iter().flat_map(|result| &result.instance_list) {
        if let Some(node) = entry.worker_id.as_deref() {
            let (address, instances) = places.entry(node).or_insert((None, 0));
            *address = address_of(entry).or_else(|| address.take());
            *instances += 1;
        }
    }
    let connected = site.broker.as_ref().map(crate::broker::Broker::clients);
    let rows: Vec<_> = site
        .answerer
        .nodes()
        .map(|(node, subnet)| {
            let (address, instances) = places.get(node.as_str()).cloned().unwrap_or_default();
            let state = connected.as_ref().map(|connected| {
                let is = connected.iter().any(|client| client == node.as_str());
                if is { "connected" } else { "away" }
            });
            json!({
                "node": node.as_str(),
                "address": address,
                "public_key": site.answerer.node_key(node).map(ToString::to_string),
                "subnet_v4": text(subnet.subnet_addr),
                "subnet_v6": text(subnet.subnet_addr_v6),
                "instances": instances,
                "state": state,
            })
        })
        .chain(site.answerer.returning().map(|(node, subnet)| {
            json!({
                "node": node,
                "subnet_v4": text(subnet.subnet_addr),
                "subnet_v6": text(subnet.subnet_addr_v6),
                "instances": 0,
                "state": "left",
            })
        }))
        .collect();
    json!(rows)
}

/// The services known here, with the number of nodes that are told of their changes.
pub(super) fn jobs(site: &Site) -> Value {
    let rows: Vec<_> = results(site)
        .iter()
        .map(|result| {
            let ips: Vec<_> = result
                .service_ip_list
                .iter()
                .flatten()
                .map(|ip| {
                    json!({
                        "policy": String::from(ip.ip_type.clone()),
                        "service_ip": text(ip.address),
                        "service_ip_v6": text(ip.address_v6),
                    })
                })
                .collect();
            let interested = result
                .app_name
                .parse()
                .map_or(0, |job| site.answerer.interested(&job).count());
            json!({
                "service": result.app_name,
                "service_ips": ips,
                "instances": result.instance_list.len(),
                "interested_nodes": interested,
            })
        })
        .collect();
    json!(rows)
}

/// The instances known here.
pub(super) fn instances(site: &Site) -> Value {
    let rows: Vec<_> = results(site)
        .iter()
        .flat_map(|result| {
            result.instance_list.iter().map(|entry| {
                json!({
                    "service": result.app_name,
                    "instance": entry.instance_number,
                    "state": if entry.is_placed() { "running" } else { "scheduled" },
                    "cluster": entry.cluster_id,
                    "node": entry.worker_id,
                    "instance_ip": text(entry.instance_ip),
                    "instance_ip_v6": text(entry.instance_ip_v6),
                    "ns_ip": text(entry.namespace_ip),
                    "ns_ip_v6": text(entry.namespace_ip_v6),
                    "address": address_of(entry),
                })
            })
        })
        .collect();
    json!(rows)
}

/// The keys that are revoked, here or by the root.
pub(super) fn revoked_keys(site: &Site) -> Value {
    let keys = site.answerer.revoked();
    let rows: Vec<_> = keys.map(|(key, is_by_root)| row(key, is_by_root)).collect();
    json!(rows)
}

pub(super) fn status(site: &Site) -> Value {
    json!({
        "role": "cluster",
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": site.clock.now().as_secs(),
        "broker_connected": site.bus.is_connected(),
        "signing_key": site.answerer.signing_key().map(|key| key.to_string()),
        "root_answers": site.answerer.root_answers(),
        "services": site.answerer.jobs().count(),
        "nodes": site.answerer.nodes().count(),
    })
}

/// Everything known about each job, as no node in particular would be told.
fn results(site: &Site) -> Vec<TableQueryResult> {
    let Ok(nobody) = NodeId::new("nobody") else {
        unreachable!("`nobody` is letters only");
    };
    site.answerer
        .jobs()
        .filter_map(|job| site.answerer.view(job, &nobody))
        .collect()
}

fn address_of(entry: &InstanceEntry) -> Option<String> {
    let (ip, port) = entry.host_ip.zip(entry.host_port)?;
    Some(SocketAddr::new(IpAddr::from(ip), port).to_string())
}

fn text(ip: Option<Ip>) -> Option<String> {
    ip.map(|ip| ip.to_string())
}
