//! What a shell gives an [`Answerer`](super::Answerer) and gets from it.

use super::answer::INSTANCES_MAX_DEFAULT;
use super::upward::RootRequest;
use super::vacancy::Vacancy;
use crate::isolation::Isolation;
use crate::message::{MessageError, NodeId, NodeKey, TopicError};
use crate::names::{NameError, ServiceName};
use crate::signature::Signer;
use std::time::Duration;
use thiserror::Error;

/// A job is asked again so often although the root said nothing.
pub const REFRESH_EVERY: Duration = Duration::from_secs(60);

/// "There is no such thing" is never believed for longer without asking the root again.
pub const ABSENT_MAX: Duration = Duration::from_secs(4);

/// Identity, times and limits of an [`Answerer`](super::Answerer).
#[derive(Clone, Debug)]
pub struct Settings {
    pub cluster_id: String,
    /// Where the root calls this manager.
    pub address: String,
    pub port: u16,
    /// One life of the process; never used twice, for instance the start in milliseconds since 1970.
    pub incarnation: u64,
    /// Rows per answer (thesis 3.6.6: "in the order of the dozens").
    pub instances_max: usize,
    /// Subnets kept in reserve, so that nodes can join while the root is away.
    pub subnets_spare: usize,
    /// First repetition of an unanswered request to the root; doubles up to `retry_max`.
    pub retry_first: Duration,
    pub retry_max: Duration,
    /// How long "there is no such thing" is believed at first; doubles up to `absent_max`.
    pub absent_first: Duration,
    pub absent_max: Duration,
    /// How often a job is asked again although the root said nothing: bounds how long a lost notice can matter.
    pub refresh_every: Duration,
    /// How often the registration is repeated.
    pub register_every: Duration,
    /// Whether a node is told only what its instances may know; what is merely observed is observed by the gateways.
    pub isolation: Isolation,
    /// Signs the rows that nodes are told; `None` leaves them unsigned.
    pub signer: Option<Signer>,
    /// Absent keys that are remembered, refused ones, and keys that are asked at a time: a scan must not fill the memory.
    pub keys_max: usize,
}

impl Settings {
    /// Defaults for everything but the identity.
    #[must_use]
    pub fn new(cluster_id: &str, address: &str, port: u16, incarnation: u64) -> Self {
        Self {
            cluster_id: cluster_id.to_owned(),
            address: address.to_owned(),
            port,
            incarnation,
            instances_max: INSTANCES_MAX_DEFAULT,
            subnets_spare: 4,
            retry_first: Duration::from_millis(500),
            retry_max: Duration::from_secs(4),
            absent_first: Duration::from_secs(1),
            absent_max: ABSENT_MAX,
            refresh_every: REFRESH_EVERY,
            register_every: Duration::from_secs(15),
            isolation: Isolation::default(),
            signer: None,
            keys_max: 4096,
        }
    }
}
/// What to send.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Transmit {
    /// To the broker, QoS 1, not retained.
    Publish { topic: String, payload: Vec<u8> },
    /// To the root; the answer goes to [`handle_root_reply`](super::Answerer::handle_root_reply).
    Root(RootRequest),
}

/// What somebody outside waits for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// A POST `/api/net/deployment` can be answered: 200 when `stored`, else 500.
    Deployment { ticket: u64, stored: bool },
    /// A service that ran here has no instance left anywhere. Also to be had from
    /// [`untold`](super::Answerer::untold) until [`handle_told`](super::Answerer::handle_told).
    NoInstanceLeft(Vacancy),
}

/// Why a message of a node was refused. Nothing changed.
#[derive(Debug, Error)]
pub enum PublishError {
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("node {node} says that instance {number} of {job} runs, but not at which address")]
    NoPlace {
        node: NodeId,
        job: ServiceName,
        number: u32,
    },
    #[error(
        "node {node} shows the public key {key}, which is revoked: `sluice key rotate` there makes a new one"
    )]
    Revoked { node: NodeId, key: NodeKey },
}
