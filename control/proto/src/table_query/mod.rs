//! The table query (thesis 3.6.6): a gateway asks, its cluster manager answers, the root knows everything.
//!
//! [`asker`] runs in a gateway, [`answerer`] in a cluster manager, [`root`] in the root manager. An address or a name
//! is resolved by the first usable answer; the question also registers an interest, and while that lives every change
//! is pushed down.

pub mod asker;
pub mod answerer;
pub mod root;
pub mod notifier;
pub(crate) mod backoff;
pub(crate) mod sides;
pub(crate) mod timers;

use crate::message::{
    FormerPlace, InstanceEntry, IpType, NodeEntry, NodeKey, ServiceIpEntry, TableQueryRequest,
};
use crate::names::ServiceName;
use sluice_wire::{Dual, InstanceIp, Ip, NsIp, ServiceIp};
use std::fmt;
use std::time::Duration;

/// The oldest that a route can be in a gateway that reaches its managers, when every notice about its instance was
/// lost: the gateway asks anew when it renews its interest, its cluster manager had asked the root a refresh before, and
/// each waits for its answer. Nothing may be given to another owner sooner. Without managers a route lives on for as long
/// as flows use it.
pub const STALE_ROUTE_MAX: Duration = asker::RENEW
    .saturating_add(asker::ANSWER_MAX)
    .saturating_add(answerer::REFRESH_EVERY)
    .saturating_add(answerer::REQUEST_WAIT);

/// The longest that a node sends on what still comes for an instance that moved away, after it ended there: gateways are told
/// how long.
pub const SENT_ON_MAX: Duration = Duration::from_secs(120);

/// What a question is about.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Key {
    /// A ServiceIP or an InstanceIP.
    Address(Ip),
    Name(ServiceName),
    /// A node's public key: where is that node? No interest follows from the question.
    Node(NodeKey),
}

impl Key {
    /// Reads a `query_key`; `None` when the text is no address, service name or public key. No text is two of them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.parse()
            .map(Self::Address)
            .or_else(|_| ServiceName::parse(text).map(Self::Name))
            .or_else(|_| text.parse().map(Self::Node))
            .ok()
    }

    /// The question with this key; `interest_s` is how long the interest lives.
    #[must_use]
    pub fn request(&self, interest_s: Option<u32>) -> TableQueryRequest {
        let mut request = TableQueryRequest {
            interest_s,
            ..TableQueryRequest::default()
        };
        match self {
            Self::Address(ip) => request.sip = ip.to_string(),
            Self::Name(name) => request.sname = name.to_string(),
            Self::Node(key) => {
                request.node_key = key.to_string();
                request.interest_s = None;
            }
        }
        request
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip) => ip.fmt(f),
            Self::Name(name) => name.fmt(f),
            Self::Node(key) => key.fmt(f),
        }
    }
}

/// How a ServiceIP chooses (thesis 3.6.1).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Policy {
    RoundRobin,
    Closest,
}

/// A ServiceIP and its policy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ServiceAddress {
    pub policy: Policy,
    pub ip: Dual<ServiceIp>,
}

impl ServiceAddress {
    /// `None` for the address of an instance, or when no address is of its family.
    #[must_use]
    pub fn of_entry(entry: &ServiceIpEntry) -> Option<Self> {
        let policy = match entry.ip_type {
            IpType::RoundRobin => Policy::RoundRobin,
            IpType::Closest => Policy::Closest,
            IpType::Instance(_) => return None,
        };
        let ips = entry.ips();
        ips.iter().next()?;
        Some(Self {
            policy,
            ip: Dual {
                v4: ips.v4.map(ServiceIp::new),
                v6: ips.v6.map(ServiceIp::new),
            },
        })
    }

    /// The wire form.
    #[must_use]
    pub fn entry(&self) -> ServiceIpEntry {
        let ip_type = match self.policy {
            Policy::RoundRobin => IpType::RoundRobin,
            Policy::Closest => IpType::Closest,
        };
        ServiceIpEntry::new(
            ip_type,
            Dual {
                v4: self.ip.v4.map(ServiceIp::ip),
                v6: self.ip.v6.map(ServiceIp::ip),
            },
        )
    }
}

/// Where a node is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodePlace {
    pub key: NodeKey,
    /// Node address and exposed tunnel port.
    pub host: Ip,
    pub port: u16,
    /// The node's id, when the manager said it.
    pub node: Option<String>,
}

impl NodePlace {
    /// `None` for a port that nobody has.
    #[must_use]
    pub fn of_entry(entry: &NodeEntry) -> Option<Self> {
        (entry.host_port != 0).then(|| Self {
            key: entry.public_key,
            host: entry.host_ip.into(),
            port: entry.host_port,
            node: entry.worker_id.clone(),
        })
    }
}

/// Where an instance runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// At least one family is present.
    pub ns_ip: Dual<NsIp>,
    /// Node address and exposed tunnel port.
    pub host: Ip,
    pub port: u16,
    /// The node's id, when the manager said it.
    pub node: Option<String>,
    /// The node's public key; `None` when it speaks the plain format only.
    pub key: Option<NodeKey>,
    /// The node's gateway says that it answers probes, beside the namespace address.
    pub answers_probes: bool,
}

/// One instance of a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Row {
    pub number: u32,
    /// Grows whenever the number is given to another instance; 0 when the manager does not say.
    pub epoch: u64,
    pub instance_ip: Dual<InstanceIp>,
    /// `None`: scheduled, but not running yet.
    pub place: Option<Place>,
    pub cluster_id: Option<String>,
    /// It may call us; we may only answer.
    pub reply_only: bool,
    /// The nodes where it ran before, the last one last.
    pub former: Vec<FormerPlace>,
}

impl Row {
    /// `None` when the entry has no InstanceIP: nothing could be sent to it or come from it.
    #[must_use]
    pub fn of_entry(entry: &InstanceEntry) -> Option<Self> {
        let instance_ip = entry.instance_ips();
        instance_ip.iter().next()?;
        let place = match (entry.host_ip, entry.host_port, entry.ns_ips()) {
            (Some(host), Some(port), ns_ip) if port != 0 && ns_ip.iter().next().is_some() => {
                Some(Place {
                    ns_ip,
                    host,
                    port,
                    node: entry.worker_id.clone(),
                    key: entry.public_key,
                    answers_probes: entry.answers_probes,
                })
            }
            _ => None,
        };
        Some(Self {
            number: entry.instance_number,
            epoch: entry.epoch,
            instance_ip,
            place,
            cluster_id: entry.cluster_id.clone(),
            reply_only: entry.reply_only,
            former: entry.former.clone(),
        })
    }

    /// The wire form, without the list of ServiceIPs.
    #[must_use]
    pub fn entry(&self) -> InstanceEntry {
        let place = self.place.as_ref();
        InstanceEntry {
            instance_number: self.number,
            cluster_id: self.cluster_id.clone(),
            worker_id: place.and_then(|place| place.node.clone()),
            instance_ip: self.instance_ip.v4.map(InstanceIp::ip),
            instance_ip_v6: self.instance_ip.v6.map(InstanceIp::ip),
            namespace_ip: place.and_then(|place| place.ns_ip.v4).map(NsIp::ip),
            namespace_ip_v6: place.and_then(|place| place.ns_ip.v6).map(NsIp::ip),
            host_ip: place.map(|place| place.host),
            host_port: place.map(|place| place.port),
            public_key: place.and_then(|place| place.key),
            service_ip: Vec::new(),
            epoch: self.epoch,
            answers_probes: place.is_some_and(|place| place.answers_probes),
            reply_only: self.reply_only,
            former: self.former.clone(),
            ..InstanceEntry::default()
        }
    }
}
