//! MQTT topics of OAKESTRA-WIRE section 2.2, built and parsed.

use super::text::shown;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Longest node id, in characters. Oakestra's are 24 hexadecimal digits.
const NODE_LENGTH_MAX: usize = 64;

/// A node's id as it appears in topics: letters, digits, `-` and `_`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeId(String);

impl NodeId {
    /// # Errors
    /// When the id is empty, too long, or could change the meaning of a topic.
    pub fn new(id: impl Into<String>) -> Result<Self, TopicError> {
        let id = id.into();
        let fits = (1..=NODE_LENGTH_MAX).contains(&id.len())
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if fits {
            Ok(Self(id))
        } else {
            Err(TopicError::Node(shown(&id)))
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NodeId {
    type Err = TopicError;

    fn from_str(id: &str) -> Result<Self, TopicError> {
        Self::new(id)
    }
}

macro_rules! verbs {
    ($($(#[$doc:meta])* $variant:ident $path:literal;)*) => {
        /// What is said about a node: the part of the topic after `nodes/N/net/`.
        #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
        pub enum Verb {
            $($(#[$doc])* $variant,)*
        }

        impl Verb {
            /// All verbs.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The topic's end.
            #[must_use]
            pub const fn path(self) -> &'static str {
                match self { $(Self::$variant => $path,)* }
            }
        }
    };
}

verbs! {
    /// Node to cluster: [`super::SubnetRequest`].
    Subnet "subnet";
    /// Cluster to node: [`super::SubnetResult`].
    SubnetResult "subnetwork/result";
    /// Node to cluster: [`super::Deployed`].
    Deployed "service/deployed";
    /// Node to cluster: [`super::Undeployed`].
    Undeployed "service/undeployed";
    /// Node to cluster: [`super::Deployed`] with empty texts.
    AddressChanged "service/address-changed";
    /// Node to cluster: [`super::TableQueryRequest`].
    TableQueryRequest "tablequery/request";
    /// Cluster to node: [`super::TableQueryResult`].
    TableQueryResult "tablequery/result";
    /// Node to cluster: [`super::InterestRemove`].
    InterestRemove "interest/remove";
    /// Node to cluster, extension: [`super::InstanceRequest`].
    InstanceRequest "v1/instance/request";
    /// Cluster to node, extension: [`super::InstanceResult`].
    InstanceResult "v1/instance/result";
    /// Node to cluster, extension: [`super::LeaveRequest`].
    LeaveRequest "v1/leave/request";
    /// Cluster to node, extension: [`super::LeaveResult`].
    LeaveResult "v1/leave/result";
}

impl Verb {
    /// True when nodes send it and cluster managers read it; a manager also receives what it sent itself, because it
    /// subscribes to `nodes/+/net/#`.
    #[must_use]
    pub const fn is_upward(self) -> bool {
        match self {
            Self::Subnet
            | Self::Deployed
            | Self::Undeployed
            | Self::AddressChanged
            | Self::TableQueryRequest
            | Self::InterestRemove
            | Self::InstanceRequest
            | Self::LeaveRequest => true,
            Self::SubnetResult
            | Self::TableQueryResult
            | Self::InstanceResult
            | Self::LeaveResult => false,
        }
    }
}

/// A topic of the networking part.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Topic {
    /// `nodes/N/net/...`
    Node { node: NodeId, verb: Verb },
    /// `jobs/J/updates_available`; J is a job name, or (from legacy nodes) an address text.
    Updates { job: String },
}

/// Why a topic is not ours.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum TopicError {
    #[error("topic `{0}` is neither nodes/<id>/net/<verb> nor jobs/<name>/updates_available")]
    Shape(String),
    #[error("node id `{0}` is not 1 to 64 letters, digits, `-` or `_`")]
    Node(String),
}

impl Topic {
    /// What a cluster manager subscribes to.
    pub const ALL_NODES: &'static str = "nodes/+/net/#";

    /// What a gateway subscribes to when it connects.
    #[must_use]
    pub fn of_gateway(node: &NodeId) -> [Self; 3] {
        [
            Verb::SubnetResult,
            Verb::TableQueryResult,
            Verb::InstanceResult,
        ]
        .map(|verb| Self::node(node.clone(), verb))
    }

    #[must_use]
    pub const fn node(node: NodeId, verb: Verb) -> Self {
        Self::Node { node, verb }
    }

    #[must_use]
    pub fn updates(job: impl fmt::Display) -> Self {
        Self::Updates {
            job: job.to_string(),
        }
    }

    /// Whether a topic that this crate has written tells of a job, to whoever listens: of a change, or that no instance is left.
    #[must_use]
    pub fn tells_of_a_job(topic: &str) -> bool {
        topic.starts_with("jobs/")
    }

    /// # Errors
    /// When the topic is not of the networking part, or its node id is impossible.
    pub fn parse(topic: &str) -> Result<Self, TopicError> {
        let shape = || TopicError::Shape(shown(topic));
        if let Some(rest) = topic.strip_prefix("nodes/") {
            let (node, rest) = rest.split_once('/').ok_or_else(shape)?;
            let path = rest.strip_prefix("net/").ok_or_else(shape)?;
            let verb = Verb::ALL
                .iter()
                .copied()
                .find(|verb| verb.path() == path)
                .ok_or_else(shape)?;
            Ok(Self::Node {
                node: NodeId::new(node)?,
                verb,
            })
        } else if let Some(rest) = topic.strip_prefix("jobs/") {
            let job = rest
                .strip_suffix("/updates_available")
                .filter(|job| !job.is_empty() && !job.contains(['/', '+', '#', '\0']))
                .ok_or_else(shape)?;
            Ok(Self::updates(job))
        } else {
            Err(shape())
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node { node, verb } => write!(f, "nodes/{node}/net/{}", verb.path()),
            Self::Updates { job } => write!(f, "jobs/{job}/updates_available"),
        }
    }
}

impl FromStr for Topic {
    type Err = TopicError;

    fn from_str(topic: &str) -> Result<Self, TopicError> {
        Self::parse(topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_survives_its_text() {
        let node = NodeId::new("64b8f0c9d2a1e3f405162738").unwrap();
        for &verb in Verb::ALL {
            let topic = Topic::node(node.clone(), verb);
            assert_eq!(Topic::parse(&topic.to_string()), Ok(topic));
        }
        assert_eq!(
            Topic::node(node, Verb::SubnetResult).to_string(),
            "nodes/64b8f0c9d2a1e3f405162738/net/subnetwork/result"
        );
        let topic = Topic::updates("demo.default.client.test");
        assert_eq!(
            topic.to_string(),
            "jobs/demo.default.client.test/updates_available"
        );
        assert_eq!(Topic::parse(&topic.to_string()), Ok(topic));
    }

    #[test]
    fn foreign_topics_are_refused_by_name() {
        for topic in [
            "",
            "nodes",
            "nodes//net/subnet",
            "nodes/a/net/",
            "nodes/a/net/subnet/more",
            "nodes/a+b/net/subnet",
            "nodes/a/control/deploy",
            "jobs//updates_available",
            "jobs/a/b/updates_available",
            "jobs/resources",
        ] {
            assert!(Topic::parse(topic).is_err(), "{topic}");
        }
    }

    #[test]
    fn any_text_is_a_topic_or_a_named_error() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            if let Ok(topic) = Topic::parse(&text) {
                assert_eq!(topic.to_string(), text);
            }
        });
    }
}
