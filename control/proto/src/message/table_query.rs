//! The table query (thesis 3.6.6) on the wire: question, answer and the rows of an answer.

use super::job::InstanceStatus;
use super::key::NodeKey;
use super::text;
use crate::isolation::Rule;
use crate::names::ServiceName;
use crate::signature::Signature;
use serde::{Deserialize, Serialize};
use sluice_wire::{Dual, InstanceIp, Ip, NsIp};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// "Which service has this address or this name?" (`tablequery/request`). The address wins when both are given; the
/// question also registers the node's interest.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct TableQueryRequest {
    /// Job name or empty.
    #[serde(default)]
    pub sname: String,
    /// Address text or empty. Kept as text: the answer repeats it exactly.
    #[serde(default)]
    pub sip: String,
    /// Extension: for how long the interest lives without another question, in seconds. Absent: until removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interest_s: Option<u32>,
    /// Extension: numbers of the instances that the node cannot reach now, while answers leave some of the job's out. They
    /// come last in its answers until it says otherwise. Absent: as it said before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<BTreeSet<u32>>,
    /// Extension: numbers of instances that the node asks for by name. As with one asked for by its address, answers to this
    /// node never leave them out from then on.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub instances: BTreeSet<u32>,
    /// Extension: base64 of a node's public key, when name and address are empty: which node has it, and where is that? No
    /// interest follows from it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_key: String,
}

/// A question names at most so many instances in one list.
pub const NAMED_MAX: usize = 1_024;

impl TableQueryRequest {
    /// What is believed of a question: nothing beside the address that wins, and no more than [`NAMED_MAX`] instances in
    /// each list. A manager keeps it for as long as the interest lives.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        if !self.sip.is_empty() {
            self.sname = String::new();
        }
        if !self.sip.is_empty() || !self.sname.is_empty() {
            self.node_key = String::new();
        }
        for numbers in self.unreachable.iter_mut().chain([&mut self.instances]) {
            if let Some(first_beyond) = numbers.iter().nth(NAMED_MAX).copied() {
                numbers.split_off(&first_beyond);
            }
        }
        self
    }

    /// The text that the answer repeats as `query_key`.
    #[must_use]
    pub fn key(&self) -> &str {
        let texts = [&self.sip, &self.sname];
        let text = texts.into_iter().find(|text| !text.is_empty());
        text.unwrap_or(&self.node_key)
    }
}

/// Orders the answers of one cluster manager about one job. Written as `[incarnation, number]`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
pub struct Revision {
    /// One life of the manager; another number is another life.
    pub incarnation: u64,
    /// Grows with every change of the job within an incarnation.
    pub number: u64,
}

impl From<(u64, u64)> for Revision {
    fn from((incarnation, number): (u64, u64)) -> Self {
        Self {
            incarnation,
            number,
        }
    }
}

impl From<Revision> for (u64, u64) {
    fn from(revision: Revision) -> Self {
        (revision.incarnation, revision.number)
    }
}

/// The answer (`tablequery/result`), also pushed to interested Sluice nodes when the job changes.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct TableQueryResult {
    /// Job name; empty when an address is unknown.
    #[serde(default)]
    pub app_name: String,
    /// Exactly the text that was asked; empty when pushed.
    #[serde(default)]
    pub query_key: String,
    #[serde(default)]
    pub instance_list: Vec<InstanceEntry>,
    /// Extension: the job's ServiceIPs, also when no instance is listed. Present only when the job exists, so that
    /// *unavailable* and *does not exist* differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_ip_list: Option<Vec<ServiceIpEntry>>,
    /// Extension: orders answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// Extension: `[number, epoch]` of every instance that exists, listed or pruned. An instance that is not here is
    /// withdrawn. Absent: nothing is said about instances that are not listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Vec<(u32, u64)>>,
    /// Extension: the rules that allow calls to this service from other namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Extension: the manager cannot say now, because its root is away. Nothing else is said then; the answer comes by
    /// itself once there is one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unavailable: bool,
    /// Extension: the node that was asked for by its public key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeEntry>,
}

impl TableQueryResult {
    /// Nothing of this job lives, as far as the node that is told may know.
    #[must_use]
    pub fn gone(job: &ServiceName) -> Self {
        Self {
            app_name: job.to_string(),
            query_key: job.to_string(),
            live: Some(Vec::new()),
            ..Self::default()
        }
    }
}

/// One instance. Fields of the placement are missing while it is scheduled but not deployed.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct InstanceEntry {
    pub instance_number: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<String>,
    #[serde(default, with = "text::address")]
    pub instance_ip: Option<Ip>,
    #[serde(default, with = "text::address")]
    pub instance_ip_v6: Option<Ip>,
    #[serde(
        default,
        with = "text::address",
        skip_serializing_if = "Option::is_none"
    )]
    pub namespace_ip: Option<Ip>,
    #[serde(
        default,
        with = "text::address",
        skip_serializing_if = "Option::is_none"
    )]
    pub namespace_ip_v6: Option<Ip>,
    #[serde(
        default,
        with = "text::address",
        skip_serializing_if = "Option::is_none"
    )]
    pub host_ip: Option<Ip>,
    #[serde(
        default,
        deserialize_with = "text::port::deserialize",
        skip_serializing_if = "Option::is_none"
    )]
    pub host_port: Option<u16>,
    /// Extension: the public key of the node where it runs. Absent: the node speaks the plain format only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<NodeKey>,
    /// The job's ServiceIPs and this instance's InstanceIP; legacy gateways find the sender's InstanceIP only here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_ip: Vec<ServiceIpEntry>,
    /// Extension: grows whenever this number is given to another instance. 0: unknown.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u64,
    /// Extension, of the placement: see [`Deployed::answers_probes`](super::Deployed::answers_probes).
    #[serde(default, skip_serializing_if = "is_false")]
    pub answers_probes: bool,
    /// Extension: it may call the asker's services but not be called (rules are directional).
    #[serde(default, skip_serializing_if = "is_false")]
    pub reply_only: bool,
    /// Extension: the nodes where it ran before, the last one last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<FormerPlace>,
    /// Extension, of an instance that moves or moved: the NsIP of the place where its workload began, which it keeps as its
    /// address inside. Its sockets may be bound to it.
    #[serde(
        default,
        with = "text::address",
        skip_serializing_if = "Option::is_none"
    )]
    pub kept_ip: Option<Ip>,
    #[serde(
        default,
        with = "text::address",
        skip_serializing_if = "Option::is_none"
    )]
    pub kept_ip_v6: Option<Ip>,
    /// Extension: by the cluster manager that sends the row. See [`Signed`](crate::signature::Signed).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

/// Where the node with a public key is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NodeEntry {
    pub public_key: NodeKey,
    /// Absent when whoever said where its instances run does not name nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<String>,
    pub host_ip: IpAddr,
    /// The tunnel port, never 0.
    pub host_port: u16,
    /// By the cluster manager that answers a node. See [`Signed::of_node`](crate::signature::Signed::of_node).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

impl NodeEntry {
    /// The node where an instance runs; `None` when it runs nowhere, or its node has no key.
    #[must_use]
    pub fn of_row(row: &InstanceEntry) -> Option<Self> {
        let place = (row.host_ip?, row.host_port?);
        Self::new(row.is_placed(), row.public_key, &row.worker_id, place)
    }

    /// The same by a node's own word.
    #[must_use]
    pub fn of_status(status: &InstanceStatus) -> Option<Self> {
        let place = (status.host_ip?, status.host_port);
        let worker_id = &status.worker_id;
        Self::new(status.is_placed(), status.public_key, worker_id, place)
    }

    fn new(
        is_placed: bool,
        key: Option<NodeKey>,
        worker_id: &Option<String>,
        (host, host_port): (Ip, u16),
    ) -> Option<Self> {
        Some(Self {
            public_key: key.filter(|_| is_placed && host_port != 0)?,
            worker_id: worker_id.clone(),
            host_ip: host.into(),
            host_port,
            signature: None,
        })
    }
}

/// A node where an instance ran before it moved, as others reach it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct FormerPlace {
    pub host_ip: IpAddr,
    pub host_port: u16,
    /// When it was left, in seconds since 1970 by the root's clock; 0: a moment ago, and the root has not said yet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_s: u64,
    /// The public key that the node had when it was left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<NodeKey>,
}

impl FormerPlace {
    /// Node address and tunnel port.
    #[must_use]
    pub fn address(self) -> (Ip, u16) {
        (self.host_ip.into(), self.host_port)
    }
}

/// Of one instance; callers follow within seconds.
const FORMER_MAX: usize = 4;
/// For so long a new node takes what former ones send on; afterwards their addresses may be others'.
const FORMER_FOR_S: u64 = 600;

impl InstanceEntry {
    /// The InstanceIPs; `None` for a family whose text names an address of the other family.
    #[must_use]
    pub fn instance_ips(&self) -> Dual<InstanceIp> {
        dual(self.instance_ip, self.instance_ip_v6, InstanceIp::new)
    }

    /// The namespace addresses.
    #[must_use]
    pub fn ns_ips(&self) -> Dual<NsIp> {
        dual(self.namespace_ip, self.namespace_ip_v6, NsIp::new)
    }

    /// True when it says where the instance runs.
    #[must_use]
    pub fn is_placed(&self) -> bool {
        self.host_ip.is_some() && self.host_port.is_some() && self.ns_ips().iter().next().is_some()
    }

    /// Where the instance runs from now on; where it ran is remembered, if that is another node: an address that its node has
    /// given up may be anybody's, and nothing is sent on from there.
    pub fn place(&mut self, status: &InstanceStatus) {
        if self.is_on_node_of(status) {
            self.host_ip = None;
            if (self.namespace_ip, self.namespace_ip_v6)
                != (status.namespace_ip, status.namespace_ip_v6)
            {
                self.begin_anew();
            }
        }
        self.unplace();
        self.worker_id.clone_from(&status.worker_id);
        self.namespace_ip = status.namespace_ip;
        self.namespace_ip_v6 = status.namespace_ip_v6;
        self.host_ip = status.host_ip;
        self.host_port = Some(status.host_port);
        self.public_key = status.public_key;
        self.answers_probes = status.answers_probes;
        let here = self.here().map(FormerPlace::address);
        self.former.retain(|former| Some(former.address()) != here);
        let excess = self.former.len().saturating_sub(FORMER_MAX);
        self.former.drain(..excess);
    }

    /// Whether it runs on the node that says so. Managers that do not name nodes are taken by their word about the namespace:
    /// every node has a subnet of its own, and who goes elsewhere gets an address there.
    fn is_on_node_of(&self, status: &InstanceStatus) -> bool {
        let is_same = |one: Option<Ip>, other: Option<Ip>| one.is_some() && one == other;
        match (&self.worker_id, &status.worker_id) {
            (Some(one), Some(other)) => one == other,
            (None, _) | (_, None) => {
                is_same(self.namespace_ip, status.namespace_ip)
                    || is_same(self.namespace_ip_v6, status.namespace_ip_v6)
            }
        }
    }

    /// Its workload goes on elsewhere, with the address it has inside.
    pub fn keep_ns_ip(&mut self) {
        self.kept_ip = self.kept_ip.or(self.namespace_ip);
        self.kept_ip_v6 = self.kept_ip_v6.or(self.namespace_ip_v6);
    }

    /// Another workload takes its place, and keeps nothing.
    pub const fn begin_anew(&mut self) {
        self.kept_ip = None;
        self.kept_ip_v6 = None;
    }

    fn here(&self) -> Option<FormerPlace> {
        Some(FormerPlace {
            host_ip: self.host_ip?.into(),
            host_port: self.host_port.filter(|port| *port != 0)?,
            left_s: 0,
            public_key: self.public_key,
        })
    }

    /// Notes when the last place was left, and forgets those that were left long ago. `now_s` as in [`FormerPlace`].
    pub(crate) fn age_former(&mut self, now_s: u64) {
        self.former.retain_mut(|former| {
            if former.left_s == 0 {
                former.left_s = now_s;
            }
            now_s < former.left_s.saturating_add(FORMER_FOR_S)
        });
    }

    /// Forgets that it runs, or ran before, behind a revoked key. True when it did.
    pub(crate) fn strike(&mut self, is_revoked: impl Fn(&NodeKey) -> bool) -> bool {
        let before = self.former.len();
        let runs = self.public_key.as_ref().is_some_and(&is_revoked);
        if runs {
            self.unplace();
        }
        let is_revoked = |key: &Option<NodeKey>| key.as_ref().is_some_and(&is_revoked);
        self.former.retain(|former| !is_revoked(&former.public_key));
        runs || self.former.len() < before
    }

    /// Forgets where the instance runs.
    pub fn unplace(&mut self) {
        if let Some(here) = self.here() {
            let is_elsewhere = |former: &FormerPlace| former.address() != here.address();
            self.former.retain(is_elsewhere);
            self.former.push(here);
        }
        self.worker_id = None;
        self.namespace_ip = None;
        self.namespace_ip_v6 = None;
        self.host_ip = None;
        self.host_port = None;
        self.public_key = None;
        self.answers_probes = false;
    }
}

pub(crate) fn dual<T>(v4: Option<Ip>, v6: Option<Ip>, of: impl Fn(Ip) -> T) -> Dual<T> {
    Dual {
        v4: v4.filter(|ip| ip.is_v4()).map(&of),
        v6: v6.filter(|ip| !ip.is_v4()).map(&of),
    }
}

/// A semantic address and what it means.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServiceIpEntry {
    #[serde(rename = "IpType")]
    pub ip_type: IpType,
    #[serde(rename = "Address", default, with = "text::address")]
    pub address: Option<Ip>,
    #[serde(rename = "Address_v6", default, with = "text::address")]
    pub address_v6: Option<Ip>,
}

impl ServiceIpEntry {
    #[must_use]
    pub const fn new(ip_type: IpType, ips: Dual<Ip>) -> Self {
        Self {
            ip_type,
            address: ips.v4,
            address_v6: ips.v6,
        }
    }

    /// Both addresses, each only if its text was of the right family.
    #[must_use]
    pub fn ips(&self) -> Dual<Ip> {
        dual(self.address, self.address_v6, |ip| ip)
    }
}

/// How a semantic address chooses an instance.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(from = "String", into = "String")]
pub enum IpType {
    /// `RR`
    RoundRobin,
    /// `Closest`
    Closest,
    /// `instance_ip`, and every other text, which legacy gateways read so too.
    Instance(String),
}

impl IpType {
    /// The type of an InstanceIP as Oakestra writes it.
    #[must_use]
    pub fn instance() -> Self {
        Self::Instance("instance_ip".to_owned())
    }
}

impl From<String> for IpType {
    fn from(text: String) -> Self {
        match text.as_str() {
            "RR" => Self::RoundRobin,
            "Closest" | "closest" => Self::Closest,
            _ => Self::Instance(text),
        }
    }
}

impl From<IpType> for String {
    fn from(ip_type: IpType) -> Self {
        match ip_type {
            IpType::RoundRobin => "RR".to_owned(),
            IpType::Closest => "Closest".to_owned(),
            IpType::Instance(text) => text,
        }
    }
}
pub(crate) const fn is_zero(number: &u64) -> bool {
    *number == 0
}
pub(crate) const fn is_false(flag: &bool) -> bool {
    !*flag
}

#[cfg(test)]
mod tests {
    use super::super::{read, write};
    use super::*;

    const RESULT: &str = r#"{"app_name":"demo.default.server.test","query_key":"10.30.50.2","instance_list":[{"instance_number":0,"cluster_id":"65f0","worker_id":"64b8","instance_ip":"10.30.0.1","instance_ip_v6":"fdff::1","namespace_ip":"10.18.0.66","namespace_ip_v6":"fc00::102","host_ip":"192.168.77.12","host_port":50103,"service_ip":[{"IpType":"RR","Address":"10.30.50.2","Address_v6":"fdff:2000::1"},{"IpType":"instance_ip","Address":"10.30.0.1","Address_v6":"fdff::1"}]}]}"#;

    #[test]
    fn the_observed_result_survives_byte_for_byte() {
        let result: TableQueryResult = read("result", RESULT.as_bytes()).unwrap();
        assert!(result.instance_list[0].is_placed());
        assert_eq!(String::from_utf8(write(&result)).unwrap(), RESULT);
    }

    #[test]
    fn an_unknown_address_is_an_empty_list() {
        let text = r#"{"app_name":"","instance_list":[],"query_key":"10.30.99.99"}"#;
        let result: TableQueryResult = read("result", text.as_bytes()).unwrap();
        assert_eq!(result.app_name, "");
        let ours: serde_json::Value = serde_json::from_slice(&write(&result)).unwrap();
        assert_eq!(
            ours,
            serde_json::from_str::<serde_json::Value>(text).unwrap()
        );
    }

    #[test]
    fn a_request_is_kept_within_its_bounds() {
        let request = |sname: &str, numbers: BTreeSet<u32>| TableQueryRequest {
            sip: "10.30.50.2".to_owned(),
            sname: sname.to_owned(),
            unreachable: Some(numbers.clone()),
            instances: numbers,
            ..TableQueryRequest::default()
        };
        let endless = request(&"x".repeat(60_000), (0..50_000).collect());
        assert_eq!(endless.bounded(), request("", (0..1_024).collect()));
        let usual = request("", (7..1_031).collect());
        assert_eq!(usual.clone().bounded(), usual);
    }

    #[test]
    fn a_request_is_the_observed_one_and_its_address_wins() {
        let request = TableQueryRequest {
            sip: "10.30.50.2".to_owned(),
            sname: String::new(),
            ..TableQueryRequest::default()
        };
        assert_eq!(write(&request), br#"{"sname":"","sip":"10.30.50.2"}"#);
        let both: TableQueryRequest =
            read("request", br#"{"sname":"a.b.c.d","sip":"10.30.0.1"}"#).unwrap();
        assert_eq!(both.key(), "10.30.0.1");
        let name: TableQueryRequest = read("request", br#"{"sname":"a.b.c.d"}"#).unwrap();
        assert_eq!(name.key(), "a.b.c.d");
    }

    /// A unikernel's IPv6, a text port, a foreign field and a scheduled instance are all read.
    #[test]
    fn legacy_oddities_are_tolerated() {
        let text = r#"{"app_name":"a.b.c.d","query_key":"a.b.c.d","status":"x","instance_list":[
            {"instance_number":0,"instance_ip":"10.30.0.1","instance_ip_v6":"FDFF:0:0::1","namespace_ip":"10.18.0.2","namespace_ip_v6":"<nil>","host_ip":"10.0.0.1","host_port":"50103","service_ip":[{"IpType":"fps","Address":"10.30.0.9","Address_v6":null}]},
            {"instance_number":1,"cluster_id":"c","instance_ip":"10.30.0.2","instance_ip_v6":"fdff::2"}]}"#;
        let result: TableQueryResult = read("result", text.as_bytes()).unwrap();
        let [first, second] = result.instance_list.as_slice() else {
            panic!("two instances")
        };
        assert_eq!(first.ns_ips().v6, None);
        assert_eq!(first.host_port, Some(50103));
        assert_eq!(first.instance_ip_v6.unwrap().to_string(), "fdff::1");
        assert!(first.is_placed() && !second.is_placed());
        assert!(
            read::<TableQueryResult>("result", br#"{"instance_list":[{"instance_number":-1}]}"#)
                .is_err()
        );
    }
}
