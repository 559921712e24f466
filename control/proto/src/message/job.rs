//! REST bodies between system manager, root and cluster managers (OAKESTRA-WIRE section 3), and the job they are about.

use super::key::NodeKey;
use super::table_query::{InstanceEntry, ServiceIpEntry, dual, is_false, is_zero};
use super::text;
use crate::isolation::Rule;
use crate::names::ServiceName;
use serde::{Deserialize, Serialize};
use sluice_wire::{Dual, Ip, NsIp};

/// A service as the root stores and tells it: the whole descriptor it was deployed with, and these fields.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Job {
    /// 24 hexadecimal digits in Oakestra.
    #[serde(rename = "_id")]
    pub id: String,
    pub job_name: ServiceName,
    #[serde(default)]
    pub service_ip_list: Vec<ServiceIpEntry>,
    #[serde(default)]
    pub instance_list: Vec<InstanceEntry>,
    /// Extension: grows with every change; 0 when the root does not say.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: u64,
    /// Extension: the rules that allow calls to this service from other namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Extension: the numbers of the instances that a node asked for, without an orchestrator. Their end is their deletion.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attached: Vec<u32>,
    /// Everything else of the descriptor, as it came.
    #[serde(flatten)]
    pub descriptor: serde_json::Map<String, serde_json::Value>,
}

/// What a change is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum UpdateKind {
    Deployment,
    Undeployment,
}

/// Root to cluster: a job changed (POST `/api/net/job/update`).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct JobUpdate {
    pub job_name: ServiceName,
    /// -1: all.
    pub instance_number: i64,
    #[serde(rename = "type")]
    pub kind: UpdateKind,
}

/// Cluster manager to cluster service manager: a job was scheduled here (POST `/api/net/deployment`).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NetDeployment {
    pub job_name: ServiceName,
}

/// Registers a cluster at the root (POST `/api/net/cluster`).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ClusterRegistration {
    pub cluster_id: String,
    pub cluster_address: String,
    #[serde(deserialize_with = "text::port_text::deserialize")]
    pub cluster_port: u16,
}

/// Cluster to root: instances run (POST `/api/net/service/net_deploy_status`).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NetDeployStatus {
    pub job_id: String,
    pub instances: Vec<InstanceStatus>,
    /// Extension: who says it. A cluster that the instance was moved away from cannot place it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
}

/// Where one instance runs. Extension: without any namespace address it runs nowhere for now, but still exists.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct InstanceStatus {
    pub instance_number: u32,
    #[serde(with = "text::address")]
    pub namespace_ip: Option<Ip>,
    #[serde(with = "text::address")]
    pub namespace_ip_v6: Option<Ip>,
    #[serde(with = "text::address")]
    pub host_ip: Option<Ip>,
    #[serde(with = "text::port_text")]
    pub host_port: u16,
    /// Extension: the node's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<String>,
    /// Extension: which instance of this number; a report about an earlier one is refused. 0: not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u64,
    /// Extension: the node's public key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<NodeKey>,
    /// Extension: see [`Deployed::answers_probes`](super::Deployed::answers_probes).
    #[serde(default, skip_serializing_if = "is_false")]
    pub answers_probes: bool,
}

impl InstanceStatus {
    /// Its namespace addresses.
    #[must_use]
    pub fn ns_ips(&self) -> Dual<NsIp> {
        dual(self.namespace_ip, self.namespace_ip_v6, NsIp::new)
    }

    /// True when it says where the instance runs.
    #[must_use]
    pub fn is_placed(&self) -> bool {
        self.host_ip.is_some() && self.ns_ips().iter().next().is_some()
    }
}

/// System manager to root: a new service (POST `/api/net/service/deploy`).
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ServiceDeploy {
    #[serde(rename = "_id")]
    pub id: String,
    pub deployment_descriptor: serde_json::Value,
}

/// System manager to root: an instance was scheduled (POST `/api/net/instance/deploy`).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct InstanceDeploy {
    #[serde(rename = "_id")]
    pub id: String,
    /// Extension: -1 lets the root choose the next free number.
    pub instance_number: i64,
    #[serde(default)]
    pub cluster_id: String,
    /// Extension: repeated requests with the same id get the same instance, and the answer is [`InstanceDeployed`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Extension, with a request id: the instance exists and moves to this cluster.
    #[serde(default, skip_serializing_if = "is_false")]
    pub migrate: bool,
}

/// Extension: the answer to an [`InstanceDeploy`] with a request id.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct InstanceDeployed {
    pub instance_number: u32,
    #[serde(default, with = "text::address")]
    pub instance_ip: Option<Ip>,
    #[serde(default, with = "text::address")]
    pub instance_ip_v6: Option<Ip>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u64,
    /// Of an instance that moves: see [`InstanceEntry::kept_ip`](super::InstanceEntry::kept_ip).
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
}

/// Root to cluster: one node subnet (GET `/api/net/subnet`).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SubnetGrant {
    #[serde(with = "text::address")]
    pub subnet_addr: Option<Ip>,
    #[serde(default, with = "text::address")]
    pub subnet_addr_v6: Option<Ip>,
    /// Extension: which giving of this subnet, for its return. 0: the root does not say.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub grant_id: u64,
}

impl SubnetGrant {
    /// The network addresses.
    #[must_use]
    pub const fn networks(&self) -> Dual<Ip> {
        Dual {
            v4: self.subnet_addr,
            v6: self.subnet_addr_v6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{read, write};
    use super::*;

    fn golden<T: serde::de::DeserializeOwned + Serialize>(text: &str) -> T {
        let message: T = read("message", text.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(write(&message)).unwrap(), text);
        message
    }

    #[test]
    fn the_documented_bodies_survive_byte_for_byte() {
        golden::<JobUpdate>(r#"{"job_name":"a.b.c.d","instance_number":-1,"type":"UNDEPLOYMENT"}"#);
        golden::<NetDeployment>(r#"{"job_name":"a.b.c.d"}"#);
        golden::<SubnetGrant>(r#"{"subnet_addr":"10.18.0.0","subnet_addr_v6":"fc00::"}"#);
        golden::<InstanceDeploy>(r#"{"_id":"64b8","instance_number":0,"cluster_id":"65f0"}"#);
        golden::<ClusterRegistration>(
            r#"{"cluster_id":"65f0","cluster_address":"192.0.2.1","cluster_port":10110}"#,
        );
        golden::<ServiceDeploy>(
            r#"{"_id":"64b8","deployment_descriptor":{"app_name":"a","app_ns":"b"}}"#,
        );
    }

    /// The five fields of a status are all required, as in Oakestra; its port may be a text.
    #[test]
    fn a_deploy_status_needs_its_five_fields() {
        let text = r#"{"job_id":"64b8","instances":[{"instance_number":0,"namespace_ip":"10.18.0.2","namespace_ip_v6":"<nil>","host_ip":"192.0.2.1","host_port":"50103"}]}"#;
        let status: NetDeployStatus = read("status", text.as_bytes()).unwrap();
        assert_eq!(status.instances[0].host_port, 50103);
        for field in [
            "namespace_ip",
            "namespace_ip_v6",
            "host_ip",
            "host_port",
            "instance_number",
        ] {
            let without = text.replace(&format!("\"{field}\""), "\"x\"");
            assert!(
                read::<NetDeployStatus>("status", without.as_bytes()).is_err(),
                "{field}"
            );
        }
    }

    #[test]
    fn a_job_keeps_the_whole_descriptor() {
        let text = r#"{"_id":"64b8","job_name":"a.b.c.d","service_ip_list":[],"instance_list":[],"app_name":"a","requirements":{"cpu":1}}"#;
        let job = golden::<Job>(text);
        assert_eq!(job.descriptor["requirements"]["cpu"], 1);
        assert!(read::<Job>("job", b"{}").is_err());
    }
}
