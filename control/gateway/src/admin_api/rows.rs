//! The rows of the read calls, made from a snapshot and the accounts.

use super::view::{GatewayState, GatewayView};
use serde_json::{Value, json};
use sluice_memory::{Account, Accounts, Counter};
use sluice_tables::{
    Instance, InstanceState, Known, Peer, PeerSlot, Placement, Policy, Reach, Tables, Target,
    TunnelFormat,
};
use sluice_wire::{DropReason, InstanceIp, Ip, NsIp};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

/// `/v1/status`.
pub(super) fn status(view: &GatewayView) -> Value {
    let state = view.state.borrow().clone();
    let tables = view.publisher.snapshot();
    let (_, flows) = (view.flows)(0);
    let live = || {
        tables
            .instances()
            .filter(|(_, row)| row.state != InstanceState::Withdrawn)
    };
    json!({
        "role": "gateway",
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "ready": state.not_ready.is_empty(),
        "not_ready": state.not_ready,
        "node_id": state.node_id,
        "public_key": state.public_key,
        "node_address": optional(state.node_address),
        "tunnel_port": state.tunnel_port,
        "exposed_port": state.exposed_port,
        "subnet_v4": optional(state.subnet.v4),
        "subnet_v6": optional(state.subnet.v6),
        "gateway_v4": optional(tables.gateway.v4),
        "gateway_v6": optional(tables.gateway.v6),
        "cluster": state.cluster,
        "cluster_connected": state.cluster_connected,
        "cluster_key": state.cluster_key,
        "rows_forged": state.refused.forged,
        "rows_outdated": state.refused.outdated,
        "routes_age_s": state.routes_age.as_secs(),
        "questions_open": state.questions_open,
        "tables_generation": tables.generation,
        "services": tables.services().filter(|(_, row)| !row.name.is_empty()).count(),
        "instances_local": live().filter(|(_, row)| row.placement == Placement::Local).count(),
        "instances_remote": live().filter(|(_, row)| row.placement != Placement::Local).count(),
        "peers": known_peers(&tables).count(),
        "tunnels": state.tunnels,
        "encrypt": state.encrypts,
        "peers_plain": plain_peers(&tables),
        "peers_refused": state.unspoken.iter().map(|&(ip, port)| endpoint(ip, port)).collect::<Vec<_>>(),
        "flows": flows,
        "hardware": (view.hardware)(),
        "names": view.names.status(),
        "flows_offloaded": state.flows_offloaded,
        "isolation": state.isolation,
        "flows_observed": state.flows_observed,
        "frames_relayed": state.frames_relayed,
        "offload": state.offload,
        "sockets": state.sockets,
        "workers": workers(&state, &view.running()),
    })
}

fn workers(state: &GatewayState, accounts: &[Arc<Accounts>]) -> Vec<Value> {
    accounts
        .iter()
        .enumerate()
        .map(|(index, accounts)| {
            let about = state.workers.get(index).cloned().unwrap_or_default();
            let (left, right) = accounts.balance();
            let mut row = json!({
                "worker": index,
                "core": about.core,
                "links": about.links,
                // Equal when nothing is on its way; see the identity in `sluice_memory::account`.
                "account_left": left,
                "account_right": right,
            });
            for (name, term) in TERMS {
                row[name] = json!(accounts.total(|account| term(account).value()));
            }
            row["dropped"] = json!(accounts.total(dropped));
            for (place, account) in accounts.places() {
                let part = &mut row["per_link"][place];
                for (name, term) in TERMS {
                    part[name] = json!(term(account).value());
                }
                part["dropped"] = json!(dropped(account));
            }
            row
        })
        .collect()
}

/// A term of an account with its name.
type Term = (&'static str, fn(&Account) -> &Counter);

const TERMS: [Term; 10] = [
    ("received", |account| &account.received),
    ("received_bytes", |account| &account.received_bytes),
    ("forwarded", |account| &account.forwarded),
    ("forwarded_bytes", |account| &account.forwarded_bytes),
    ("originated", |account| &account.originated),
    ("split", |account| &account.split),
    ("merged", |account| &account.merged),
    ("taken", |account| &account.taken),
    ("held", |account| &account.held),
    ("copied", |account| &account.copied),
];

fn dropped(account: &Account) -> u64 {
    DropReason::ALL
        .iter()
        .map(|&reason| account.dropped(reason))
        .sum()
}

/// `/v1/instances`: all that are not withdrawn, local ones first.
pub(super) fn instances(tables: &Tables, kept: &BTreeMap<Ip, Ip>, now_s: u32) -> Vec<Value> {
    let mut rows: Vec<_> = tables
        .instances()
        .filter(|(_, row)| row.state != InstanceState::Withdrawn)
        .map(|(_, row)| {
            (
                row.placement != Placement::Local,
                instance(tables, row, kept, now_s),
            )
        })
        .collect();
    rows.sort_by_key(|(remote, row)| {
        let service = row["service"].as_str().unwrap_or_default().to_owned();
        (*remote, service, row["instance"].as_u64())
    });
    rows.into_iter().map(|(_, row)| row).collect()
}

fn instance(tables: &Tables, row: &Instance, kept: &BTreeMap<Ip, Ip>, now_s: u32) -> Value {
    let kept = |ns_ip: Option<NsIp>| {
        let is_local = row.placement == Placement::Local;
        optional(ns_ip.filter(|_| is_local).and_then(|ip| kept.get(&ip.ip())))
    };
    json!({
        "service": tables.service(row.service).map_or("", |service| &*service.name),
        "instance": row.number,
        "state": match row.state {
            InstanceState::Live => "live",
            InstanceState::Suspect => "suspect",
            InstanceState::Withdrawn => "withdrawn",
        },
        "reach": match row.reach {
            Reach::Any => "any",
            Reach::ReplyOnly => "reply-only",
        },
        "instance_ip": optional(row.instance_ip.v4.map(InstanceIp::ip)),
        "instance_ip_v6": optional(row.instance_ip.v6.map(InstanceIp::ip)),
        "ns_ip": optional(row.ns_ip.v4.map(NsIp::ip)),
        "ns_ip_v6": optional(row.ns_ip.v6.map(NsIp::ip)),
        "kept_ip": kept(row.ns_ip.v4),
        "kept_ip_v6": kept(row.ns_ip.v6),
        "node": match row.placement {
            Placement::Local => "here".to_owned(),
            Placement::Peer(slot) => tables
                .peer(slot)
                .map_or_else(|| "unknown".to_owned(), |peer| endpoint(peer.node, peer.port)),
            Placement::Nowhere => "unknown".to_owned(),
        },
        "used_s_ago": used(row.used.last_s(), now_s),
    })
}

/// A forgotten peer's row stays until its slot is used again, but is in no index.
fn known_peers(tables: &Tables) -> impl Iterator<Item = (PeerSlot, &Peer)> {
    let is_known = |(slot, peer): &(PeerSlot, &Peer)| tables.peers_at(peer.ip).contains(slot);
    tables.peers().filter(is_known)
}

/// Peers into whose tunnels anybody on the way can write.
fn plain_peers(tables: &Tables) -> Vec<String> {
    let plain = known_peers(tables).filter(|(_, peer)| peer.format == TunnelFormat::Plain);
    let mut places: Vec<_> = plain.map(|(_, peer)| (peer.node, peer.port)).collect();
    places.sort_unstable();
    let texts = places.into_iter().map(|(ip, port)| endpoint(ip, port));
    texts.collect()
}

/// `/v1/peers`.
pub(super) fn peers(tables: &Tables) -> Vec<Value> {
    let mut rows: Vec<_> = known_peers(tables)
        .map(|(slot, peer)| {
            let instances = tables.instances().filter(|(_, row)| {
                row.placement == Placement::Peer(slot) && row.state != InstanceState::Withdrawn
            });
            let row = json!({
                "node": endpoint(peer.node, peer.port),
                "format": match peer.format {
                    TunnelFormat::Plain => "plain",
                    TunnelFormat::WireGuard { .. } => "wireguard",
                },
                "mtu": peer.mtu,
                "instances": instances.count(),
            });
            ((peer.node, peer.port), row)
        })
        .collect();
    rows.sort_by_key(|(place, _)| *place);
    rows.into_iter().map(|(_, row)| row).collect()
}

/// `/v1/tables`: what every known semantic address of a service or an instance means.
pub(super) fn tables(tables: &Tables, now_s: u32) -> Value {
    let mut services: Vec<_> = tables
        .services()
        .filter(|(_, row)| !row.name.is_empty())
        .map(|(slot, row)| {
            let candidates: Vec<_> = row
                .candidates
                .iter()
                .filter_map(|&slot| tables.instance(slot).map(|row| row.number))
                .collect();
            let ips = row.service_ips.iter().map(|(policy, ips)| {
                json!({
                    "policy": match policy {
                        Policy::RoundRobin => "round-robin",
                    },
                    "service_ip": optional(ips.v4.map(|ip| ip.ip())),
                    "service_ip_v6": optional(ips.v6.map(|ip| ip.ip())),
                    "known": ips.iter().all(|ip| matches!(
                        tables.semantic(ip.ip()),
                        Some(Known::Target(Target::Service { service, .. })) if service == slot
                    )),
                })
            });
            json!({
                "service": &*row.name,
                "service_ips": ips.collect::<Vec<_>>(),
                "candidates": candidates,
                "used_s_ago": used(row.used.last_s(), now_s),
            })
        })
        .collect();
    services.sort_by_key(|row| row["service"].as_str().unwrap_or_default().to_owned());
    json!({
        "generation": tables.generation,
        "plan": {
            "semantic_v4": optional(tables.plan.semantic.v4),
            "semantic_v6": optional(tables.plan.semantic.v6),
            "nodes_v4": optional(tables.plan.nodes.v4),
            "nodes_v6": optional(tables.plan.nodes.v6),
        },
        "addresses_known": tables.semantic_len(),
        "services": services,
    })
}

/// `/v1/drops`: every reason, with the documentation.
pub(super) fn drops(accounts: &[Arc<Accounts>]) -> Vec<Value> {
    DropReason::ALL
        .iter()
        .map(|&reason| {
            let counts: Vec<u64> = accounts
                .iter()
                .map(|accounts| accounts.total(|account| account.dropped(reason)))
                .collect();
            let mut per_link = json!({});
            for (place, account) in accounts.iter().flat_map(|accounts| accounts.places()) {
                let before = per_link[place].as_u64().unwrap_or_default();
                per_link[place] = json!(before + account.dropped(reason));
            }
            json!({
                "reason": reason.name(),
                "count": counts.iter().sum::<u64>(),
                "per_worker": counts,
                "per_link": per_link,
                "cause": reason.cause(),
                "cure": reason.cure(),
            })
        })
        .collect()
}

fn endpoint(ip: Ip, port: u16) -> String {
    std::net::SocketAddr::new(ip.into(), port).to_string()
}

fn optional(value: Option<impl Display>) -> Value {
    value.map_or(Value::Null, |value| Value::String(value.to_string()))
}

/// Seconds since the last use; null before the first.
fn used(last_s: u32, now_s: u32) -> Value {
    match last_s {
        0 => Value::Null,
        last_s => json!(now_s.saturating_sub(last_s)),
    }
}
