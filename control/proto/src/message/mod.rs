//! What managers and gateways say to each other: the JSON of OAKESTRA-WIRE sections 2 and 3 as types.
//!
//! Field names, types and order are Oakestra's; separators are compact (a JSON reader does not see the difference to
//! Python's `", "`). Our own fields are marked *extension*: absent by default, ignored by legacy programs. Unknown
//! fields of others are ignored here, because legacy peers add some. IPv6 texts are always canonical (RFC 5952).

pub mod topic;
pub mod key;
pub mod table_query;
pub mod node;
pub mod job;
pub mod event;
pub(crate) mod text;

pub use event::NoInstanceLeft;
pub use job::{
    ClusterRegistration, InstanceDeploy, InstanceDeployed, InstanceStatus, Job, JobUpdate,
    NetDeployStatus, NetDeployment, ServiceDeploy, SubnetGrant, UpdateKind,
};
pub use key::{NodeKey, NotAKey, RevokedKeys};
pub use node::{
    Deployed, InstanceRequest, InstanceResult, InterestRemove, LeaveRequest, LeaveResult,
    SubnetRequest, SubnetResult, Undeployed, UpdatesAvailable,
};
pub use table_query::{
    FormerPlace, InstanceEntry, IpType, NAMED_MAX, NodeEntry, Revision, ServiceIpEntry,
    TableQueryRequest, TableQueryResult,
};
pub use topic::{NodeId, Topic, TopicError, Verb};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Longest message that is read, in bytes. A table of 24 instances takes 8 KiB.
pub const MESSAGE_LENGTH_MAX: usize = 1 << 20;

/// Why bytes are not the message they should be.
#[derive(Debug, Error)]
pub enum MessageError {
    #[error("a {what} of {length} bytes is longer than 1 MiB")]
    Long { what: &'static str, length: usize },
    #[error("not a {what}: {source}")]
    Json {
        what: &'static str,
        source: serde_json::Error,
    },
}

/// Reads a message; `what` names it in the error.
///
/// # Errors
/// When the bytes are too long, are not JSON, or lack a field.
pub fn read<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, MessageError> {
    if bytes.len() > MESSAGE_LENGTH_MAX {
        return Err(MessageError::Long {
            what,
            length: bytes.len(),
        });
    }
    serde_json::from_slice(bytes).map_err(|source| MessageError::Json { what, source })
}

/// The bytes of a message.
#[must_use]
pub fn write<T: Serialize>(message: &T) -> Vec<u8> {
    serde_json::to_vec(message).expect("our messages have text keys and no failing serialiser")
}
