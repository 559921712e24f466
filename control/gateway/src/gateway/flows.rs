//! The flow table as rows for people.

use super::plane::now;
use crate::admin_api::FlowRow;
use sluice_engine::{Flow, Shared};
use sluice_tables::{InstanceSlot, Publisher, Tables};
use sluice_wire::{Family, Ip, Protocol};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

type Lister = Arc<dyn Fn(usize) -> (Vec<FlowRow>, u64) + Send + Sync>;

/// Lists at most so many flows, and says how many there are.
pub(crate) fn lister(shared: Arc<Shared>, publisher: Publisher) -> Lister {
    Arc::new(move |limit| {
        let tables = publisher.snapshot();
        let now_s = u32::try_from(now().as_secs()).unwrap_or(u32::MAX);
        let rows = shared
            .flows()
            .iter_from(0)
            .take(limit)
            .map(|flow| row(&flow, &tables, now_s))
            .collect();
        (rows, shared.flows().live())
    })
}

fn row(flow: &Flow, tables: &Tables, now_s: u32) -> FlowRow {
    let family = flow.forward.src.family();
    let local = endpoint(
        instance_ip(tables, flow.local.slot, family).unwrap_or(flow.forward.src),
        flow.forward.src_port,
    );
    let remote = endpoint(flow.remote_ip.ip(), flow.wire_dst_port);
    let dialled = endpoint(flow.forward.dst, flow.forward.dst_port);
    let passive = flow.state.is_passive();
    FlowRow {
        protocol: name(flow.forward.protocol),
        direction: if passive { "inbound" } else { "outbound" }.to_owned(),
        caller: if passive {
            remote.clone()
        } else {
            local.clone()
        },
        dialled: if passive { local.clone() } else { dialled },
        instance: if passive { local } else { remote },
        state: flow.state.name().to_owned(),
        offloaded: flow.state.is_offloaded(),
        idle_s: now_s.saturating_sub(flow.state.last_s()),
    }
}

/// The name of a flow key's protocol.
fn name(key: u8) -> String {
    match Protocol::from_number(key, Family::V4) {
        Protocol::Tcp => "tcp".to_owned(),
        Protocol::Udp => "udp".to_owned(),
        Protocol::Icmp => "icmp".to_owned(),
        Protocol::Other(number) => number.to_string(),
    }
}

fn instance_ip(tables: &Tables, slot: InstanceSlot, family: Family) -> Option<Ip> {
    tables
        .instance(slot)?
        .instance_ip
        .of(family)
        .map(sluice_wire::InstanceIp::ip)
}

fn endpoint(ip: Ip, port: u16) -> String {
    SocketAddr::new(IpAddr::from(ip), port).to_string()
}
