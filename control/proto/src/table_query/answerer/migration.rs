//! Instances that move: the new place counts from the moment it runs, and the old one is not heard any more.
//!
//! Both nodes have the instance for a while, under one number, epoch and InstanceIP. The node that it moved away from
//! goes on saying what runs there whenever it connects; that must not move the instance back.

use super::{Answerer, Known, Placement, Timer};
use crate::message::NodeId;
use crate::names::ServiceName;
use crate::table_query::SENT_ON_MAX;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// So long a node is told what it needs for that. A little longer than it sends on: it looks at its clock once a second.
pub(super) const SENDING_ON_FOR: Duration = SENT_ON_MAX.saturating_add(Duration::from_secs(5));

/// By instance number, the ids of nodes that it moved away from and that have not said its end yet.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct Left(BTreeMap<u32, BTreeSet<String>>);

impl Left {
    /// The instance runs on `node` now.
    pub(super) fn moved(
        &mut self,
        number: u32,
        former: Option<&Placement>,
        node: &NodeId,
        epoch: u64,
    ) {
        self.end(number, node);
        if let Some(former) = former
            && former.node != *node
            && former.epoch == epoch
        {
            self.insert(number, &former.node);
        }
    }

    pub(super) fn insert(&mut self, number: u32, node: &NodeId) {
        let nodes = self.0.entry(number).or_default();
        nodes.insert(node.as_str().to_owned());
    }

    /// The node has ended it, or has it anew. True when it had left.
    pub(super) fn end(&mut self, number: u32, node: &NodeId) -> bool {
        let Some(nodes) = self.0.get_mut(&number) else {
            return false;
        };
        let had = nodes.remove(node.as_str());
        if nodes.is_empty() {
            self.0.remove(&number);
        }
        had
    }

    /// The node has ended all that it had. True when there was something.
    pub(super) fn end_all(&mut self, node: &NodeId) -> bool {
        let numbers: Vec<u32> = self.0.keys().copied().collect();
        let ended = numbers.into_iter().filter(|number| self.end(*number, node));
        ended.count() > 0
    }

    fn has(&self, number: u32, node: &NodeId) -> bool {
        let nodes = self.0.get(&number);
        nodes.is_some_and(|nodes| nodes.contains(node.as_str()))
    }

    /// Where instances run that have moved away.
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        let nodes = self.0.values().flatten();
        nodes.filter_map(|node| NodeId::new(node.clone()).ok())
    }

    pub(super) fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        self.0.retain(|number, _| keep(*number));
    }
}

impl Known {
    /// The node has not ended the instance that moved away from it, or still sends on what comes for it: its own callers
    /// and others follow to where it says.
    pub(super) fn has_moved_from(&self, number: u32, node: &NodeId) -> bool {
        self.left.has(number, node) || self.sending_on.has(number, node)
    }
}

impl Answerer {
    /// The node repeats that it runs an instance which has moved away from it. Without an epoch it is a new deployment
    /// by an orchestrator, or a legacy node, which never says an end.
    pub(super) fn has_left(
        &self,
        job: &ServiceName,
        number: u32,
        node: &NodeId,
        epoch: u64,
    ) -> bool {
        let known = self.jobs.get(job);
        known.is_some_and(|known| {
            epoch != 0 && epoch == known.epoch_of(number) && known.left.has(number, node)
        })
    }

    /// The node has ended what moved away from it, and sends on what still comes for it.
    pub(super) fn begin_sending_on(
        &mut self,
        job: &ServiceName,
        number: u32,
        node: &NodeId,
        now: Duration,
    ) {
        if let Some(known) = self.jobs.get_mut(job) {
            known.sending_on.insert(number, node);
            let timer = Timer::SendingOn(job.clone(), node.clone());
            self.timers.set(timer, now + SENDING_ON_FOR);
            self.dirty.job(job);
            self.note_residents(job);
        }
    }

    pub(super) fn end_sending_on(&mut self, job: &ServiceName, node: &NodeId) {
        self.timers
            .cancel(&Timer::SendingOn(job.clone(), node.clone()));
        if let Some(known) = self.jobs.get_mut(job)
            && known.sending_on.end_all(node)
        {
            self.dirty.job(job);
            self.note_residents(job);
            // It may be shown less now.
            self.push_to(job, node);
        }
    }
}
