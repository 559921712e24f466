//! Keys that mean nothing, as the root said: believed for a while, and until the key means something. Then the nodes that were
//! told of the absence hear that it is over, as they believe it for a while, too.

use super::{Answerer, Backoff};
use crate::message::{NodeId, TableQueryRequest, Verb};
use crate::names::ServiceName;
use crate::table_query::{Key, asker};
use std::collections::BTreeMap;
use std::time::Duration;

/// Nodes that are remembered for each key. Others find out when they ask again.
const TOLD_MAX: usize = 64;
/// A node asks again before it has believed it for longer.
pub(super) const BELIEVED_MAX: Duration = asker::ABSENT_MAX;

#[derive(Clone, Debug)]
pub(super) struct Absent {
    until: Duration,
    strikes: u32,
    /// Sluice nodes that were told, and when last.
    told: BTreeMap<NodeId, Duration>,
}

/// What is believed to mean nothing. Keys of nodes, which anybody can invent, do not push out what packets ask for.
#[derive(Clone, Debug, Default)]
pub(super) struct Absences {
    jobs: BTreeMap<Key, Absent>,
    nodes: BTreeMap<Key, Absent>,
}

impl Absences {
    const fn beside(&self, key: &Key) -> &BTreeMap<Key, Absent> {
        match key {
            Key::Address(_) | Key::Name(_) => &self.jobs,
            Key::Node(_) => &self.nodes,
        }
    }

    const fn beside_mut(&mut self, key: &Key) -> &mut BTreeMap<Key, Absent> {
        match key {
            Key::Address(_) | Key::Name(_) => &mut self.jobs,
            Key::Node(_) => &mut self.nodes,
        }
    }

    fn get(&self, key: &Key) -> Option<&Absent> {
        self.beside(key).get(key)
    }

    fn get_mut(&mut self, key: &Key) -> Option<&mut Absent> {
        self.beside_mut(key).get_mut(key)
    }

    /// The key means something. Gives the nodes that were told that it does not, and when.
    pub(super) fn end(&mut self, key: &Key) -> Option<BTreeMap<NodeId, Duration>> {
        self.beside_mut(key).remove(key).map(|absent| absent.told)
    }
}

/// The absences that end with an answer, and the nodes that believe in them.
pub(super) type Ended = Vec<(Key, BTreeMap<NodeId, Duration>)>;

impl Answerer {
    pub(super) fn is_absent(&self, key: &Key, now: Duration) -> bool {
        self.absent
            .get(key)
            .is_some_and(|absent| now < absent.until)
    }

    /// Whether some node may still believe that a key means nothing.
    pub(super) fn believes_absences(&self, now: Duration) -> bool {
        let mut all = (self.absent.jobs.values()).chain(self.absent.nodes.values());
        all.any(|absent| {
            now < absent.until || absent.told.values().any(|at| now < *at + BELIEVED_MAX)
        })
    }

    /// Addresses that are being asked about are asked once more if they mean nothing: the answer may have been overtaken by
    /// the notice of what they mean now. True when there are some.
    pub(super) fn doubt_absences(&mut self) -> bool {
        let mut some = self.doubt_node_absences();
        for (key, fetch) in &mut self.fetches {
            if matches!(key, Key::Address(_)) && fetch.sent.is_some() {
                fetch.again = true;
                some = true;
            }
        }
        some
    }

    pub(super) fn remember_absent(&mut self, key: Key, now: Duration) {
        let keys_max = self.settings.keys_max;
        let all = self.absent.beside_mut(&key);
        if all.len() >= keys_max && !all.contains_key(&key) {
            all.retain(|_, absent| now < absent.until);
            if all.len() >= keys_max {
                all.pop_first();
            }
        }
        let backoff = Backoff {
            first: self.settings.absent_first,
            max: self.settings.absent_max,
        };
        let absent = all.entry(key).or_insert_with(|| Absent {
            until: now,
            strikes: 0,
            told: BTreeMap::new(),
        });
        absent.strikes = absent.strikes.saturating_add(1);
        absent.until = now + backoff.wait(absent.strikes, &mut self.random);
    }

    /// Answers that the key means nothing, which is remembered.
    pub(super) fn tell_absent(
        &mut self,
        node: &NodeId,
        request: &TableQueryRequest,
        now: Duration,
    ) {
        self.answer_absent(node, request);
        let key = Key::parse(request.key());
        // A legacy node asks for every packet anew, and for no node.
        if (request.interest_s.is_some() || matches!(key, Some(Key::Node(_))))
            && let Some(absent) = key.and_then(|key| self.absent.get_mut(&key))
        {
            absent.told.retain(|_, at| now < *at + BELIEVED_MAX);
            if absent.told.len() < TOLD_MAX || absent.told.contains_key(node) {
                absent.told.insert(node.clone(), now);
            }
        }
    }

    /// These keys mean something.
    pub(super) fn end_absences(&mut self, keys: impl IntoIterator<Item = Key>) -> Ended {
        let absent = &mut self.absent;
        keys.into_iter()
            .filter_map(|key| absent.end(&key).map(|told| (key, told)))
            .collect()
    }

    /// Answers once more those who believe that the keys mean nothing, as far as the job is their business.
    pub(super) fn tell_ended(&mut self, name: &ServiceName, ended: Ended, now: Duration) {
        for (key, told) in ended {
            for (node, _) in told.into_iter().filter(|(_, at)| now < *at + BELIEVED_MAX) {
                self.answer_again(name, &node, &key);
            }
        }
    }

    /// Answers a question that was answered before with nothing; false if the job is none of the node's business.
    pub(super) fn answer_again(&mut self, name: &ServiceName, node: &NodeId, key: &Key) -> bool {
        let body = self.body(name, node, &key.to_string());
        let may_know = body.is_some();
        if let Some(body) = body {
            self.publish(node, Verb::TableQueryResult, body);
        }
        may_know
    }
}
