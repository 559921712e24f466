//! What a node asked for and may not know, which it was told does not exist. It believes that for a while; the job stays
//! known here for so long, and with it what the root says of its rules, so that the node hears at once when it may know.

use super::absence::BELIEVED_MAX;
use super::{Answerer, Timer};
use crate::message::{NodeId, TableQueryRequest};
use crate::names::ServiceName;
use crate::table_query::Key;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Keys remembered for each node: one that asks for more is told of the last ones only.
const KEYS_PER_NODE: usize = 64;
/// How often it is looked what is believed no more.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keys of jobs, the nodes that were refused them, and when last.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusals {
    /// A job without any was refused to somebody since the last look.
    by_job: BTreeMap<ServiceName, BTreeMap<(NodeId, Key), Duration>>,
    by_node: BTreeMap<NodeId, BTreeSet<(ServiceName, Key)>>,
    len: usize,
}

impl Refusals {
    /// Remembers one, unless there are `max` of other nodes.
    fn note(&mut self, job: &ServiceName, node: &NodeId, key: &Key, now: Duration, max: usize) {
        let entry = (job.clone(), key.clone());
        let mine = self.by_node.get(node);
        if mine.is_none_or(|mine| !mine.contains(&entry)) {
            if mine.is_some_and(|mine| mine.len() >= KEYS_PER_NODE) {
                self.forget_oldest(node);
            }
            if self.len >= max {
                return;
            }
            self.by_node.entry(node.clone()).or_default().insert(entry);
            self.len += 1;
        }
        let refused = self.by_job.entry(job.clone()).or_default();
        refused.insert((node.clone(), key.clone()), now);
    }

    fn forget_oldest(&mut self, node: &NodeId) {
        let oldest = self.of(node).min_by_key(|(job, key)| {
            let refused = self.by_job.get(job);
            refused.and_then(|it| it.get(&(node.clone(), key.clone())))
        });
        if let Some((job, key)) = oldest.cloned() {
            self.end(&job, node, &key);
        }
    }

    /// The node does not believe it any more. The job is remembered until the next look.
    fn end(&mut self, job: &ServiceName, node: &NodeId, key: &Key) {
        let refused = self.by_job.get_mut(job);
        let is_refused = refused.and_then(|it| it.remove(&(node.clone(), key.clone())));
        if is_refused.is_some() {
            self.end_for_node(job, node, key);
        }
    }

    fn end_for_node(&mut self, job: &ServiceName, node: &NodeId, key: &Key) {
        if let Some(mine) = self.by_node.get_mut(node) {
            self.len -= usize::from(mine.remove(&(job.clone(), key.clone())));
            if mine.is_empty() {
                self.by_node.remove(node);
            }
        }
    }

    /// Jobs, and the keys by which they were refused to the node.
    fn of(&self, node: &NodeId) -> impl Iterator<Item = &(ServiceName, Key)> {
        self.by_node.get(node).into_iter().flatten()
    }

    /// Nodes that the job was refused to.
    pub(super) fn nodes(&self, job: &ServiceName) -> impl Iterator<Item = &NodeId> {
        let refused = self.by_job.get(job).into_iter().flatten();
        refused.map(|((node, _), _)| node)
    }

    /// Whether the job was refused to somebody who may believe that it does not exist.
    pub(super) fn contains(&self, job: &ServiceName) -> bool {
        self.by_job.contains_key(job)
    }

    /// The job does not exist.
    pub(super) fn forget(&mut self, job: &ServiceName) {
        for (node, key) in self.by_job.remove(job).unwrap_or_default().keys() {
            self.end_for_node(job, node, key);
        }
    }

    /// Forgets what nobody believes any more; gives the jobs of which nothing is left.
    fn look(&mut self, now: Duration) -> Vec<ServiceName> {
        let mut over = Vec::new();
        let mut empty = Vec::new();
        for (job, refused) in &mut self.by_job {
            refused.retain(|(node, key), at| {
                let believes = now < *at + BELIEVED_MAX;
                if !believes {
                    over.push((job.clone(), node.clone(), key.clone()));
                }
                believes
            });
            if refused.is_empty() {
                empty.push(job.clone());
            }
        }
        for (job, node, key) in over {
            self.end_for_node(&job, &node, &key);
        }
        for job in &empty {
            self.by_job.remove(job);
        }
        empty
    }
}

impl Answerer {
    /// Answers that the job does not exist, which is remembered.
    pub(super) fn refuse(
        &mut self,
        job: &ServiceName,
        node: &NodeId,
        request: &TableQueryRequest,
        now: Duration,
    ) {
        self.interest_lost(job, node);
        self.answer_absent(node, request);
        // A legacy node asks for every packet anew.
        if request.interest_s.is_some()
            && let Some(key) = Key::parse(request.key())
        {
            let max = self.settings.keys_max;
            self.refusals.note(job, node, &key, now, max);
            if !self.timers.is_set(&Timer::Refusals) {
                self.timers.set(Timer::Refusals, now + LOOK_EVERY);
            }
        }
    }

    /// Answers once more what was refused to the node, as far as it may know it by now.
    pub(super) fn tell_refused(&mut self, node: &NodeId) {
        let refused: Vec<_> = self.refusals.of(node).cloned().collect();
        for (job, key) in refused {
            if self.answer_again(&job, node, &key) {
                self.refusals.end(&job, node, &key);
            }
        }
    }

    pub(super) fn refusals_due(&mut self, now: Duration) {
        for job in self.refusals.look(now) {
            self.drop_unused(&job);
        }
        if !self.refusals.by_job.is_empty() {
            self.timers.set(Timer::Refusals, now + LOOK_EVERY);
        }
    }
}
