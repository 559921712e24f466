//! What the admin socket may see of a running gateway: read-only handles, and the way to its core.

use crate::command::Commands;
use crate::dns::Watcher;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sluice_managers::SecretFile;
use sluice_memory::Accounts;
use sluice_proto::table_query::asker::Refused;
use sluice_tables::Publisher;
use sluice_wire::{Dual, Ip, Subnet};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, watch};

/// Everything the admin interface reads and calls. The core makes one and keeps `state` current.
#[derive(Clone)]
pub struct GatewayView {
    pub state: watch::Receiver<GatewayState>,
    pub publisher: Publisher,
    /// One per worker, in worker order.
    pub accounts: Arc<[Arc<Accounts>]>,
    /// What BPF programs forwarded or dropped before any worker. Takes some system calls.
    pub early: Arc<dyn Fn() -> Arc<Accounts> + Send + Sync>,
    pub commands: Commands,
    /// The workers' clock in whole seconds, the one that `Used` rows are stamped with.
    pub now_s: fn() -> u32,
    /// At most so many flows, and how many there are in all. Runs on the control thread: it must not take long.
    pub flows: Arc<dyn Fn(usize) -> (Vec<FlowRow>, u64) + Send + Sync>,
    /// The underlay's NIC, read back from the kernel. Takes some system calls.
    pub hardware: Arc<dyn Fn() -> Value + Send + Sync>,
    /// Begins a trace; it ends when the receiver is dropped.
    pub trace:
        Arc<dyn Fn(TraceFilter) -> Result<mpsc::Receiver<TraceRecord>, String> + Send + Sync>,
    /// The node's private key, on disk.
    pub key_file: Arc<Mutex<SecretFile>>,
    /// The name server.
    pub(crate) names: Watcher,
}

impl GatewayView {
    /// The accounts of what runs here: the workers', and that of the BPF programs while some are attached.
    #[must_use]
    pub fn running(&self) -> Vec<Arc<Accounts>> {
        let mut accounts = self.accounts.to_vec();
        if self.state.borrow().workers.len() > accounts.len() {
            accounts.push((self.early)());
        }
        accounts
    }
}

impl std::fmt::Debug for GatewayView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatewayView").finish_non_exhaustive()
    }
}

/// What the core says about itself.
#[derive(Clone, Debug, Default)]
pub struct GatewayState {
    pub node_id: String,
    /// By which other nodes know this one.
    pub public_key: String,
    pub node_address: Option<Ip>,
    pub tunnel_port: u16,
    pub exposed_port: u16,
    /// The node's subnets, once leased.
    pub subnet: Dual<Subnet>,
    /// `host:port` of the cluster's broker; empty before it is known.
    pub cluster: String,
    pub cluster_connected: bool,
    /// Whose rows are believed; `None`: everybody's that the broker passes on.
    pub cluster_key: Option<String>,
    /// Rows that were not.
    pub refused: Refused,
    /// For how long no manager has stood by the known routes; zero while they answer.
    pub routes_age: Duration,
    /// Questions to the managers that have no answer yet.
    pub questions_open: usize,
    /// Tunnels that are active now.
    pub tunnels: usize,
    /// `tunnel.encrypt`.
    pub encrypts: bool,
    /// Nodes that are not spoken to: no row says their key, and plain is not allowed there.
    pub unspoken: BTreeSet<(Ip, u16)>,
    /// One per worker, and one more while BPF programs are attached.
    pub workers: Vec<WorkerState>,
    /// AF_XDP sockets, one row for each device; empty with other links.
    pub sockets: Vec<SocketRow>,
    /// Where established flows are offloaded to the kernel, or why they are not.
    pub offload: String,
    pub flows_offloaded: usize,
    /// `gateway.isolation`.
    pub isolation: &'static str,
    /// Flows begun across namespaces that no rule allows, where that is only observed.
    pub flows_observed: u64,
    /// What local instances have inside in place of these NsIPs: they moved here with their addresses.
    pub kept: BTreeMap<Ip, Ip>,
    /// Frames sent on to where their instance moved, and answers to them.
    pub frames_relayed: u64,
    /// Why the gateway cannot serve yet, in words; empty when it can.
    pub not_ready: String,
}

/// The AF_XDP sockets of one device, read back from them.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct SocketRow {
    pub device: String,
    /// `native` or `generic`.
    pub mode: String,
    /// `zero-copy` or `copy`.
    pub binding: String,
    pub queues: u32,
    /// Entries of each ring.
    pub ring: u32,
    /// Absent on a kernel that does not tell.
    pub busy_poll_us: Option<u32>,
    pub prefer_busy_poll: Option<bool>,
    /// Of the frames' memory: 2 MiB are large pages.
    pub page_bytes: u64,
    /// What the driver offers to be asked for by frames that are sent, like `checksum`, and to tell of received ones, like
    /// `hash`. None of it is used.
    pub tx_metadata: Vec<&'static str>,
    pub rx_metadata: Vec<&'static str>,
    /// Frames lost for want of a buffer, and of room in the receive ring.
    pub no_buffer: u64,
    pub ring_full: u64,
    /// Descriptors that the kernel refused.
    pub refused: u64,
    /// Times that the kernel found no buffer waiting.
    pub fill_empty: u64,
}

/// What a worker runs on.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WorkerState {
    /// The core it is pinned to, if it is.
    pub core: Option<usize>,
    /// Its links with what their self-tests found, like `tun sluicetun0 (offload)`.
    pub links: Vec<String>,
}

/// One flow, as the caller sees it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct FlowRow {
    /// `tcp`, `udp` or `icmp`.
    pub protocol: String,
    /// `outbound` or `inbound`, from the local instance's viewpoint.
    pub direction: String,
    /// InstanceIP and port of who began it.
    pub caller: String,
    /// The address and port it dialled.
    pub dialled: String,
    /// InstanceIP of who serves it.
    pub instance: String,
    /// `opening`, `open` or `closing`.
    pub state: String,
    /// The kernel forwards it; `idle_s` is then known to the second before the last.
    #[serde(default)]
    pub offloaded: bool,
    pub idle_s: u32,
}

/// Which packets to follow; all that is set must match, as the packet carries it where it enters
/// the gateway. Packets of the other direction, from `dst` to `src`, match too.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TraceFilter {
    #[serde(with = "text", skip_serializing_if = "Option::is_none")]
    pub src: Option<Ip>,
    #[serde(with = "text", skip_serializing_if = "Option::is_none")]
    pub dst: Option<Ip>,
    /// Either port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// IP protocol number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
}

/// One stage's decision about one packet.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TraceRecord {
    /// Numbers the followed packets from 1.
    pub packet: u64,
    /// Nanoseconds of the worker's clock.
    pub at_ns: u64,
    /// `outbound` or `inbound`.
    pub direction: String,
    /// The stage's name, as in the engine's list.
    pub stage: String,
    /// What it decided, in words.
    pub decided: String,
    /// The packet's fate is sealed: forwarded, held, delivered or dropped.
    pub last: bool,
}

/// Addresses as text in JSON.
mod text {
    use serde::{Deserialize, Deserializer, Serializer};
    use sluice_wire::Ip;

    #[expect(clippy::ref_option, reason = "the signature that serde calls")]
    pub(super) fn serialize<S: Serializer>(ip: &Option<Ip>, out: S) -> Result<S::Ok, S::Error> {
        match ip {
            Some(ip) => out.collect_str(ip),
            None => out.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Ip>, D::Error> {
        Option::<String>::deserialize(from)?
            .map(|text| text.parse().map_err(serde::de::Error::custom))
            .transpose()
    }
}
