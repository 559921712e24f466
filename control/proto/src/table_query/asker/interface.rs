//! What goes into an asker and what comes out of it: settings, transmissions, events.

use crate::isolation::Rule;
use crate::message::{InterestRemove, NodeId, TableQueryRequest, Topic, Verb, write};
use crate::names::ServiceName;
use crate::table_query::{Key, NodePlace, Row, ServiceAddress};
use std::collections::BTreeSet;
use std::time::Duration;

/// A used job is asked again so often.
pub const RENEW: Duration = Duration::from_secs(60);
/// After so long without an answer a question is given up.
pub const ANSWER_MAX: Duration = Duration::from_secs(10);

/// "There is no such thing" is never believed for longer.
pub const ABSENT_MAX: Duration = Duration::from_secs(8);

/// Times and limits of an [`super::Asker`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// A job that nothing used for so long is forgotten. Oakestra waits 10 s, which makes a service called twice a
    /// minute pay the first-packet delay every time.
    pub interest_idle: Duration,
    /// A used job is asked again so often. Three missed renewals end the interest at the manager.
    pub renew: Duration,
    /// First repetition of an unanswered query; doubles up to `retry_max`.
    pub retry_first: Duration,
    pub retry_max: Duration,
    /// Who asked is told that the managers cannot say now after so long without an answer. The question goes on.
    pub patience: Duration,
    /// After so long without an answer a question is given up (and may be asked again).
    pub answer_max: Duration,
    /// How long "there is no such thing" is believed at first; doubles with every repetition up to `absent_max`.
    pub absent_first: Duration,
    pub absent_max: Duration,
    /// Unanswered questions at a time, and remembered absent keys, each so many of addresses, of names and of nodes: a scan
    /// must not fill the memory, nor invented names the place of packets' questions.
    pub questions_max: usize,
    pub absent_keys_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interest_idle: Duration::from_secs(60),
            renew: RENEW,
            retry_first: Duration::from_millis(500),
            retry_max: Duration::from_secs(8),
            patience: Duration::from_millis(900),
            answer_max: ANSWER_MAX,
            absent_first: Duration::from_secs(1),
            absent_max: ABSENT_MAX,
            questions_max: 4096,
            absent_keys_max: 4096,
        }
    }
}

/// What to say to the broker.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Transmit {
    /// Ask; the question also registers the interest.
    Query(TableQueryRequest),
    InterestRemove(ServiceName),
    Subscribe(ServiceName),
    Unsubscribe(ServiceName),
}

/// The same in MQTT's terms. Everything is QoS 1, not retained.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Mqtt {
    Publish { topic: String, payload: Vec<u8> },
    Subscribe { topic: String },
    Unsubscribe { topic: String },
}

impl Transmit {
    /// The packet that `node` sends.
    #[must_use]
    pub fn mqtt(&self, node: &NodeId) -> Mqtt {
        let publish = |verb, payload| Mqtt::Publish {
            topic: Topic::node(node.clone(), verb).to_string(),
            payload,
        };
        match self {
            Self::Query(request) => publish(Verb::TableQueryRequest, write(request)),
            Self::InterestRemove(job) => publish(
                Verb::InterestRemove,
                write(&InterestRemove {
                    appname: job.to_string(),
                }),
            ),
            Self::Subscribe(job) => Mqtt::Subscribe {
                topic: Topic::updates(job).to_string(),
            },
            Self::Unsubscribe(job) => Mqtt::Unsubscribe {
                topic: Topic::updates(job).to_string(),
            },
        }
    }
}

/// Everything known about one service; replaces what was said before.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Routes {
    pub job: ServiceName,
    pub service_ips: Vec<ServiceAddress>,
    /// Those that allow calls to the service from other namespaces; legacy managers say none.
    pub rules: Vec<Rule>,
    /// The instances that a new flow may choose, in number order. One that was listed before and is missing now keeps
    /// its flows until it is [`Event::Withdrawn`] or its job is [`Event::Forgotten`].
    pub instances: Vec<Row>,
    /// Numbers of the instances that live, and that the managers leave out of their answers to this node because there are
    /// many.
    pub unlisted: BTreeSet<u32>,
}

/// What changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// At least one instance runs.
    Routes(Routes),
    /// The service exists, but none of its instances runs.
    Unavailable(Routes),
    /// The node that was asked for by its public key. The asker keeps nothing of it: the next question is a new one.
    Node(NodePlace),
    /// Nothing has this key. Believed until [`Event::Unknown`].
    Absent { key: Key },
    /// The managers cannot say what this key means, because they or their root are away; the answer comes by itself
    /// once there is one. Believed until [`Event::Unknown`].
    Unresolved { key: Key },
    /// An absent or unresolved key is unknown again.
    Unknown { key: Key },
    /// Too many questions are open; the next one about the key is a new one.
    Unanswered { key: Key },
    /// The instance is gone: its flows end.
    Withdrawn {
        job: ServiceName,
        number: u32,
        epoch: u64,
    },
    /// Nothing is known about the job any more. Its instances were not withdrawn.
    Forgotten { job: ServiceName },
}
