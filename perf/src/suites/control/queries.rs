//! Table queries over MQTT: as many as the manager can answer, and how long each takes at the rate that is the goal.

use super::site::{Site, joined, parse, topic, within};
use super::{INTEREST_S, NODES_ASKING, Pace, SERVICES_PER_NODE, asked_by};
use crate::lab::LabError;
use crate::lab::clock::now;
use crate::report::{Goal, Report, Row, quantile};
use crate::traffic::mqtt::Connection;
use rumqttc::mqttbytes::v4::Publish;
use serde::Deserialize;
use sluice_proto::message::{Verb, write};
use sluice_proto::table_query::Key;
use sluice_wire::Ip;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::{Instant as TokioInstant, sleep_until};

/// Queries that each node has on their way when as many as possible are to be answered.
const IN_FLIGHT: usize = 4;
/// Queries per second of all nodes when the time of each is measured.
const RATE: f64 = 10_000.0;
/// Answers that come late are waited for so long; one that has not come then counts as if it came at that moment.
const GRACE: Duration = Duration::from_secs(2);

/// How a node asks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Manner {
    /// The next one when one was answered, so many at a time.
    Eager(usize),
    /// So many per second and node, answered or not.
    Steady(f64),
}

/// What became of the queries of one node, or of all.
#[derive(Debug, Default)]
pub(super) struct Answered {
    /// Milliseconds, of each query that was answered within the time.
    pub(super) took_ms: Vec<f64>,
    pub(super) unanswered: usize,
}

/// `queries_mqtt`, `queries_mqtt_manager_us`, `query_p99_ms`.
pub(super) async fn run(
    site: &Site,
    nodes: &mut Vec<Connection>,
    pace: &Pace,
    report: &mut Report,
) -> Result<(), LabError> {
    // Every interest is new once; afterwards it is renewed, as those of gateways are.
    all_ask(site, nodes, Manner::Eager(IN_FLIGHT), 1.0).await?;
    let (mut rates, mut costs, mut p99s, mut offered) = (vec![], vec![], vec![], vec![]);
    for _ in 0..pace.rounds {
        let before = site.manager_cpu_s()?;
        let eager = all_ask(site, nodes, Manner::Eager(IN_FLIGHT), pace.seconds).await?;
        let cpu_s = site.manager_cpu_s()? - before;
        let answered = eager.took_ms.len() as f64;
        rates.push(answered / pace.seconds);
        costs.push(cpu_s * 1e6 / answered);
        let each = RATE / NODES_ASKING as f64;
        let steady = all_ask(site, nodes, Manner::Steady(each), pace.seconds).await?;
        let late = std::iter::repeat_n(GRACE.as_secs_f64() * 1e3, steady.unanswered);
        let took_ms: Vec<f64> = steady.took_ms.iter().copied().chain(late).collect();
        offered.push(steady.took_ms.len() as f64 / pace.seconds);
        p99s.push(quantile(&took_ms, 0.99));
    }
    for row in [
        Row::median("queries_mqtt", "queries/s", &rates).with_goal(Goal::ValueAtLeast(RATE)),
        Row::median("queries_mqtt_manager_us", "CPU us/query", &costs),
        Row::median("query_p99_ms", "ms", &p99s).with_goal(Goal::ValueBelow(5.0)),
        Row::median("query_p99_rate", "queries/s", &offered),
    ] {
        report.push(row);
    }
    Ok(())
}

/// Has the nodes that ask do so for some seconds.
pub(super) async fn all_ask(
    site: &Site,
    nodes: &mut Vec<Connection>,
    manner: Manner,
    seconds: f64,
) -> Result<Answered, LabError> {
    let rest = nodes.split_off(NODES_ASKING);
    let mut asking = JoinSet::new();
    for (index, connection) in nodes.drain(..).enumerate() {
        let keys = (0..SERVICES_PER_NODE).map(|turn| site.service_ips[asked_by(index, turn)]);
        let node = Node {
            index,
            connection,
            topic: topic(index, Verb::TableQueryRequest)?,
            keys: keys.collect(),
            sent: BTreeMap::new(),
            next: 0,
            put_off: 0,
        };
        asking.spawn(within("a node's queries", node.ask(manner, seconds)));
    }
    let mut all = Answered::default();
    let mut back = BTreeMap::new();
    while let Some(done) = asking.join_next().await {
        let (node, answered) = joined(done)?;
        all.took_ms.extend(answered.took_ms);
        all.unanswered += answered.unanswered;
        back.insert(node.index, node.connection);
    }
    nodes.extend(back.into_values().chain(rest));
    Ok(all)
}

/// A node that asks.
struct Node {
    index: usize,
    connection: Connection,
    topic: String,
    keys: Vec<Ip>,
    /// When a key was asked for that is not answered yet.
    sent: BTreeMap<String, Instant>,
    next: usize,
    put_off: usize,
}

/// What is read of an answer.
#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    query_key: String,
    instance_list: Vec<serde::de::IgnoredAny>,
}

impl Node {
    async fn ask(mut self, manner: Manner, seconds: f64) -> Result<(Self, Answered), LabError> {
        let begin = TokioInstant::now();
        let end = begin + Duration::from_secs_f64(seconds);
        let interval = match manner {
            Manner::Eager(at_once) => {
                for _ in 0..at_once {
                    self.query()?;
                }
                None
            }
            Manner::Steady(rate) => Some(Duration::from_secs_f64(1.0 / rate)),
        };
        // Not all nodes at the same moment.
        let part = self.index as f64 / NODES_ASKING as f64;
        let mut due = interval.map(|interval| begin + interval.mul_f64(part));
        let mut answered = Answered::default();
        loop {
            let wake = due.map_or(end, |due| due.min(end));
            tokio::select! {
                publish = self.connection.next() => {
                    let took = self.take(&publish?)?;
                    answered.took_ms.extend(took);
                    if took.is_some() && interval.is_none() {
                        self.query()?;
                    }
                }
                () = sleep_until(wake) => {
                    if wake >= end {
                        break;
                    }
                    self.query()?;
                    self.connection.flush().await?;
                    due = due.zip(interval).map(|(due, interval)| due + interval);
                }
            }
        }
        self.rest(&mut answered, interval.is_some()).await?;
        Ok((self, answered))
    }

    /// What is still on its way: it counts if `counts`.
    async fn rest(&mut self, answered: &mut Answered, counts: bool) -> Result<(), LabError> {
        let limit = TokioInstant::now() + GRACE;
        while !self.sent.is_empty() {
            tokio::select! {
                publish = self.connection.next() => {
                    let took = self.take(&publish?)?;
                    answered.took_ms.extend(took.filter(|_| counts));
                }
                () = sleep_until(limit) => break,
            }
        }
        answered.unanswered = self.sent.len() + self.put_off;
        self.sent.clear();
        self.connection.flush().await
    }

    /// Asks for the next service that is not being asked for.
    fn query(&mut self) -> Result<(), LabError> {
        for _ in 0..self.keys.len() {
            let key = self.keys[self.next % self.keys.len()];
            self.next += 1;
            let request = Key::Address(key).request(Some(INTEREST_S));
            if !self.sent.contains_key(request.key()) {
                self.sent.insert(request.key().to_owned(), now());
                return self.connection.publish(&self.topic, &write(&request));
            }
        }
        // The manager is so slow that a question has to wait for an answer: it counts as one that was not answered.
        self.put_off += 1;
        Ok(())
    }

    /// Milliseconds from the question to this answer; `None` for what nobody asked for.
    fn take(&mut self, publish: &Publish) -> Result<Option<f64>, LabError> {
        if publish.topic.starts_with("jobs/") {
            return Ok(None);
        }
        let reply: Reply = parse(&publish.payload)?;
        let Some(sent) = self.sent.remove(&reply.query_key) else {
            return Ok(None);
        };
        if reply.instance_list.is_empty() {
            return Err(LabError::Reply {
                what: format!("the answer about {}", reply.query_key),
                text: "no instance".to_owned(),
            });
        }
        Ok(Some(sent.elapsed().as_secs_f64() * 1e3))
    }
}
