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
        self.absent.values().any(|absent| {
            now < absent.until || absent.told.values().any(|at| now < *at + BELIEVED_MAX)
        })
    }

    /// Addresses that are being asked about are asked once more if they mean nothing: the answer may have been overtaken by
    /// the notice of what they mean now. True when there are some.
    pub(super) fn doubt_absences(&mut self) -> bool {
        let mut some = false;
        for (key, fetch) in &mut self.fetches {
            if matches!(key, Key::Address(_)) && fetch.sent.is_some() {
                fetch.again = true;
                some = true;
            }
        }
        some
    }

    pub(super) fn remember_absent(&mut self, key: Key, now: Duration) {
        if self.absent.len() >= self.settings.keys_max && !self.absent.contains_key(&key) {
            self.absent.retain(|_, absent| now < absent.until);
            if self.absent.len() >= self.settings.keys_max {
                self.absent.pop_first();
            }
        }
        let backoff = Backoff {
            first: self.settings.absent_first,
            max: self.settings.absent_max,
        };
        let absent = self.absent.entry(key).or_insert_with(|| Absent {
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
        // A legacy node asks for every packet anew.
        if request.interest_s.is_some()
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
            .filter_map(|key| absent.remove(&key).map(|it| (key, it.told)))
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
