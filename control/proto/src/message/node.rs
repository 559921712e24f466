//! What a node and its cluster manager say besides the table query: subnet, deployments, interests, instances.

use super::job::UpdateKind;
use super::key::NodeKey;
use super::table_query::{Revision, is_false, is_zero};
use super::text;
use crate::names::ServiceName;
use serde::{Deserialize, Serialize};
use sluice_wire::Ip;

/// A node asks for its subnet (`net/subnet`): `{"METHOD":"GET"}`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SubnetRequest {
    #[serde(rename = "METHOD")]
    pub method: String,
    /// Extension: the node knows nothing of an earlier life, and this number names its start. What ran there has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh: Option<u64>,
    /// Extension: the node's public key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<NodeKey>,
}

impl SubnetRequest {
    #[must_use]
    pub fn get() -> Self {
        Self {
            method: "GET".to_owned(),
            fresh: None,
            public_key: None,
        }
    }
}

/// The answer: network addresses without prefix; the lengths are the plan's (`net/subnetwork/result`).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SubnetResult {
    #[serde(with = "text::address")]
    pub address: Option<Ip>,
    #[serde(default, with = "text::address")]
    pub addressv6: Option<Ip>,
    /// Extension: the NsIPs that were in use when the node started without knowing them.
    #[serde(
        default,
        with = "text::addresses",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub held: Vec<Ip>,
}

/// An instance runs on the node (`net/service/deployed`). `host_port` is a text here.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Deployed {
    pub appname: String,
    #[serde(default)]
    pub status: String,
    pub instance_number: u32,
    #[serde(default, with = "text::address")]
    pub nsip: Option<Ip>,
    #[serde(default, with = "text::address")]
    pub nsipv6: Option<Ip>,
    #[serde(with = "text::port_text")]
    pub host_port: u16,
    #[serde(with = "text::address")]
    pub host_ip: Option<Ip>,
    /// Extension: which instance of this number. 0: the node does not know.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u64,
    /// Extension: the node's public key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<NodeKey>,
    /// Extension: the node's gateway answers probes ([`liveness`](crate::liveness)) at the first address of the subnet that the
    /// namespace address is in, so that its silence says something. Legacy gateways answer none.
    #[serde(default, skip_serializing_if = "is_false")]
    pub answers_probes: bool,
}

/// An instance of the node is gone (`net/service/undeployed`). Legacy nodes never send it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Undeployed {
    pub appname: String,
    pub instance_number: u32,
    /// Extension: which instance of this number. 0: the node does not know.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u64,
}

/// The node no longer uses a job (`net/interest/remove`). Legacy nodes also put an address text into `appname`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct InterestRemove {
    pub appname: String,
}

/// A job changed (`jobs/J/updates_available`). The reaction is a table query by name.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct UpdatesAvailable {
    #[serde(rename = "type", default)]
    pub kind: Option<UpdateKind>,
    /// Extension: the revision the job has now; a node that already got it need not ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
}

/// Extension, for attaching without an orchestrator: a node asks for a new instance (`net/v1/instance/request`).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct InstanceRequest {
    /// Chosen by the node; a repeated request with the same id gets the same instance.
    pub request_id: String,
    pub service: ServiceName,
    /// Absent: the next free number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_number: Option<u32>,
    /// The instance exists and runs elsewhere: it moves here, once the node says that it runs.
    #[serde(default, skip_serializing_if = "is_false")]
    pub migrate: bool,
}

/// The answer to [`InstanceRequest`] (`net/v1/instance/result`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct InstanceResult {
    pub request_id: String,
    #[serde(default)]
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
    /// Why there is no instance; then the other fields mean nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// With `error`: the same request may succeed later.
    #[serde(default, skip_serializing_if = "is_false")]
    pub retry: bool,
}

/// Extension: the node leaves for good (`net/v1/leave/request`). Its instances end and its subnet goes back.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct LeaveRequest {
    /// Which subnet it leaves, so that a late word does not end a later life of the node. Both `None`: it never got one.
    #[serde(with = "text::address")]
    pub address: Option<Ip>,
    #[serde(default, with = "text::address")]
    pub addressv6: Option<Ip>,
}

/// The answer to [`LeaveRequest`] (`net/v1/leave/result`): the cluster manager has it on disk. It names the same subnet.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct LeaveResult {
    #[serde(with = "text::address")]
    pub address: Option<Ip>,
    #[serde(default, with = "text::address")]
    pub addressv6: Option<Ip>,
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
    fn the_observed_messages_survive_byte_for_byte() {
        assert_eq!(
            golden::<SubnetRequest>(r#"{"METHOD":"GET"}"#),
            SubnetRequest::get()
        );
        golden::<SubnetRequest>(r#"{"METHOD":"GET","fresh":7}"#);
        golden::<SubnetRequest>(
            r#"{"METHOD":"GET","public_key":"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="}"#,
        );
        golden::<SubnetResult>(r#"{"address":"10.18.0.0","addressv6":"fc00::"}"#);
        golden::<SubnetResult>(
            r#"{"address":"10.18.0.0","addressv6":"fc00::","held":["10.18.0.2","fc00::2"]}"#,
        );
        let deployed = golden::<Deployed>(
            r#"{"appname":"demo.default.client.test","status":"DEPLOYED","instance_number":0,"nsip":"10.18.0.2","nsipv6":"fc00::2","host_port":"50103","host_ip":"192.168.77.11"}"#,
        );
        assert_eq!((deployed.host_port, deployed.public_key), (50103, None));
        let deployed = golden::<Deployed>(
            r#"{"appname":"a.b.c.d","status":"DEPLOYED","instance_number":0,"nsip":"10.18.0.2","nsipv6":"fc00::2","host_port":"50103","host_ip":"192.168.77.11","public_key":"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="}"#,
        );
        let key = NodeKey::from_bytes(std::array::from_fn(|at| u8::try_from(at + 1).unwrap()));
        assert_eq!(deployed.public_key, Some(key));
        assert!(!deployed.answers_probes, "gateways without it answer none");
        let ours = golden::<Deployed>(
            r#"{"appname":"demo.default.client.test","status":"DEPLOYED","instance_number":0,"nsip":"10.18.0.2","nsipv6":"fc00::2","host_port":"50103","host_ip":"192.168.77.11","epoch":7,"answers_probes":true}"#,
        );
        assert!(ours.answers_probes);
        golden::<InterestRemove>(r#"{"appname":"demo.default.client.test"}"#);
        golden::<UpdatesAvailable>(r#"{"type":"DEPLOYMENT"}"#);
        golden::<UpdatesAvailable>(r#"{"type":"UNDEPLOYMENT"}"#);
        let unknown: UpdatesAvailable = read("update", br#"{"type":null}"#).unwrap();
        assert_eq!(unknown.kind, None);
    }

    #[test]
    fn a_port_is_read_as_number_and_as_text() {
        let number = r#"{"appname":"a.b.c.d","status":"","instance_number":1,"nsip":"10.18.0.2","nsipv6":"<nil>","host_port":50103,"host_ip":"10.0.0.1"}"#;
        let deployed: Deployed = read("deployed", number.as_bytes()).unwrap();
        assert_eq!((deployed.host_port, deployed.nsipv6), (50103, None));
        let bad = number.replace("50103", "\"70000\"");
        let error = read::<Deployed>("deployed", bad.as_bytes())
            .unwrap_err()
            .to_string();
        assert!(error.contains("`70000` is not a port"), "{error}");
    }

    #[test]
    fn a_text_that_is_no_key_is_refused() {
        let text = br#"{"METHOD":"GET","public_key":"c2hvcnQ="}"#;
        let error = read::<SubnetRequest>("subnet request", text).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("`c2hvcnQ=` is no public key"), "{error}");
    }
}
