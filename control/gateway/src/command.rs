//! What the HTTP interfaces ask of the gateway's core: one message per request, one reply each.

use sluice_wire::{Dual, InstanceIp, Ip, Subnet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sluice_tunnel::key::Identity;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// The sending half every HTTP interface holds.
pub type Commands = mpsc::Sender<Command>;

/// Where the core answers. A requester that left is no error.
pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// One request to the core.
#[derive(Debug)]
pub enum Command {
    /// The NodeEngine names this node (`POST /register`). Idempotent for the same id.
    Register(Register, Reply<()>),
    /// An orchestrator gives the node its subnet (`POST /api/register` of the thesis). Idempotent for the same subnet.
    RegisterSubnet(Dual<Subnet>, Reply<()>),
    /// An orchestrator that already has an instance number plumbs a workload (`/container/deploy`, `/unikernel/deploy`).
    Deploy(Deploy, Reply<Deployed>),
    /// The reverse of `Deploy`. An unknown instance is [`Refusal::UnknownInstance`]; the node API answers 200 all the same.
    Undeploy(InstanceName, Reply<()>),
    /// Stand-alone use: the managers allot the instance number and the addresses first.
    Attach(Attach, Reply<Attached>),
    /// The reverse of `Attach`.
    Detach(Detach, Reply<()>),
    /// The node has another key, which is in its file already.
    SetIdentity(Identity, Reply<()>),
}

/// The body of `POST /register`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Register {
    /// Worker id: 24 hexadecimal digits with Oakestra, but any text without `/`, `+`, `#` is an MQTT client id.
    pub client_id: String,
    /// Host of the cluster's broker; empty keeps the configured one.
    pub cluster_address: String,
}

/// One instance of a service by its names.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct InstanceName {
    /// `app.appns.service.servicens`, as the caller wrote it.
    pub service: String,
    pub instance_number: u32,
}

impl std::fmt::Display for InstanceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} instance {}", self.service, self.instance_number)
    }
}

/// What is being deployed: the two runtimes of the node API differ in who makes the namespace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DeployKind {
    /// The network namespace of this process, which exists already.
    Container { pid: i32 },
    /// A namespace `<service>.instance.<n>` that the gateway makes, with a bridge and a tap for the guest.
    Unikernel,
}

/// The body of the deploy calls.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Deploy {
    pub instance: InstanceName,
    pub kind: DeployKind,
    /// `host[:container][/tcp|/udp]` separated by `;`; empty for none.
    pub port_mappings: String,
    /// As the caller knows it. Empty: the managers say it.
    pub instance_ip: Dual<InstanceIp>,
}

/// The reply to a deploy call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Deployed {
    pub service: String,
    pub ns_address: Option<Ipv4Addr>,
    pub ns_address_v6: Option<Ipv6Addr>,
}

/// Where a workload is found: its network namespace, or its host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AttachTarget {
    /// The namespace of a running process.
    Pid(i32),
    /// A name under `/run/netns`, or a path.
    Netns(PathBuf),
    /// A container of a running Docker or containerd: full id, unique prefix, or (Docker) name.
    Container(String),
    /// A host on the LAN, by its addresses.
    Host(Dual<Ip>),
}

impl std::fmt::Display for AttachTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "process {pid}"),
            Self::Netns(path) => write!(f, "network namespace {}", path.display()),
            Self::Container(id) => write!(f, "container {id}"),
            Self::Host(address) => {
                let texts: Vec<String> = address.iter().map(|ip| ip.to_string()).collect();
                write!(f, "host {}", texts.join(" "))
            }
        }
    }
}

/// The body of `POST /v1/attach`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attach {
    /// `app.appns.service.servicens`.
    pub service: String,
    /// The next free number when absent.
    pub instance_number: Option<u32>,
    /// The instance runs elsewhere and moves here. With a number only.
    pub migrate: bool,
    pub target: AttachTarget,
    /// As in [`Deploy::port_mappings`].
    pub port_mappings: String,
}

/// The reply to an attach call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attached {
    pub instance: InstanceName,
    pub instance_ip: Option<Ipv4Addr>,
    pub instance_ip_v6: Option<Ipv6Addr>,
    pub ns_address: Option<Ipv4Addr>,
    pub ns_address_v6: Option<Ipv6Addr>,
    /// What it has inside in place of `ns_address`, where it moved here with its address.
    pub kept_address: Option<Ipv4Addr>,
    pub kept_address_v6: Option<Ipv6Addr>,
    /// Who resolves names for it; `None` where names are off.
    pub name_server: Option<Ipv4Addr>,
    pub name_server_v6: Option<Ipv6Addr>,
}

/// The body of `POST /v1/detach`: at least one of the two.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Detach {
    pub service: String,
    /// All local instances of the service when both this and `target` are absent.
    pub instance_number: Option<u32>,
    pub target: Option<AttachTarget>,
}

/// Why a command was not carried out.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Refusal {
    #[error(
        "this gateway is registered as {registered} and cannot also be {asked}; restart it to change its id"
    )]
    OtherNode { registered: String, asked: String },
    #[error("this gateway is not registered: POST /register, or set gateway.cluster")]
    NotRegistered,
    #[error("bad request: {0}")]
    BadRequest(String),
    #[error("`{0}` is not a service name like app.appns.service.servicens")]
    ServiceName(String),
    #[error("{0} is not attached here")]
    UnknownInstance(String),
    #[error("{0} is attached already")]
    AlreadyAttached(InstanceName),
    /// The process, namespace or container named in the request is not there.
    #[error("{0}")]
    NoTarget(String),
    #[error("the managers did not answer: {0}")]
    ManagersAway(String),
    #[error("the managers refused: {0}")]
    ManagersRefused(String),
    /// Something else already holds what was asked for: the namespace, a host port.
    #[error("{0}")]
    Conflict(String),
    /// No address is left; the text names the subnet.
    #[error("{0}")]
    Exhausted(String),
    /// The node's wiring failed; the text names the device or address.
    #[error("{0}")]
    Wiring(String),
    #[error("the gateway is stopping")]
    Stopping,
}

impl Refusal {
    /// The HTTP status of `/v1` calls. The node API has its own, older rule (anything but "not registered" is a 500).
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::BadRequest(_) | Self::ServiceName(_) | Self::OtherNode { .. } => 400,
            Self::UnknownInstance(_) | Self::NoTarget(_) => 404,
            Self::AlreadyAttached(_) | Self::ManagersRefused(_) | Self::Conflict(_) => 409,
            Self::Wiring(_) => 500,
            Self::NotRegistered | Self::ManagersAway(_) | Self::Exhausted(_) | Self::Stopping => {
                503
            }
        }
    }
}
