//! What a node may know: the jobs that its instances may call, and those whose instances may call them.
//!
//! A node of which no instance is known is told everything: nothing on it can call, a message may have been lost with
//! this manager's store, and its gateway and those of its callees enforce the rules by themselves.

use super::{Answerer, Isolation, Known, Report, Timer};
use crate::isolation::may_call;
use crate::message::NodeId;
use crate::names::ServiceName;
use std::collections::{BTreeMap, BTreeSet};

/// Where a node stands towards a job.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Standing {
    /// One of its instances may call the job's.
    Calls,
    /// The job's instances may call one of its own, which may only answer.
    Answers,
    /// The job is none of its business.
    Nothing,
    /// One of its services is not known here yet, so that nothing can be said.
    Unsaid,
}

/// Nodes, and where each stood towards the jobs it is interested in.
pub(super) type Standings = Vec<(NodeId, BTreeMap<ServiceName, Standing>)>;

/// Which services have instances on which node.
#[derive(Clone, Debug, Default)]
pub(super) struct Residents {
    by_node: BTreeMap<NodeId, BTreeSet<ServiceName>>,
    by_job: BTreeMap<ServiceName, BTreeSet<NodeId>>,
}

impl Residents {
    fn nodes(&self, job: &ServiceName) -> BTreeSet<NodeId> {
        self.by_job.get(job).cloned().unwrap_or_default()
    }

    fn set(&mut self, job: &ServiceName, nodes: BTreeSet<NodeId>) {
        for node in self.nodes(job).difference(&nodes) {
            if let Some(jobs) = self.by_node.get_mut(node) {
                jobs.remove(job);
                if jobs.is_empty() {
                    self.by_node.remove(node);
                }
            }
        }
        for node in &nodes {
            let jobs = self.by_node.entry(node.clone()).or_default();
            jobs.insert(job.clone());
        }
        if nodes.is_empty() {
            self.by_job.remove(job);
        } else {
            self.by_job.insert(job.clone(), nodes);
        }
    }
}

impl Answerer {
    pub(super) fn standing(&self, node: &NodeId, known: &Known) -> Standing {
        if self.settings.isolation != Isolation::Enforce {
            return Standing::Calls;
        }
        self.standing_by_rules(node, known)
    }

    /// Whether the node may be told that the job exists.
    pub(super) fn may_know(&self, node: &NodeId, job: &ServiceName) -> bool {
        self.jobs.get(job).is_some_and(|known| {
            let standing = self.standing(node, known);
            matches!(standing, Standing::Calls | Standing::Answers)
        })
    }

    fn standing_by_rules(&self, node: &NodeId, known: &Known) -> Standing {
        let Some(residents) = self.residents.by_node.get(node) else {
            return Standing::Calls;
        };
        let job = &known.job;
        if residents
            .iter()
            .any(|resident| may_call(resident, &job.job_name, &job.rules))
        {
            return Standing::Calls;
        }
        let is_called = residents.iter().any(|resident| {
            let rules = self.jobs.get(resident).map(|known| &known.job.rules);
            may_call(&job.job_name, resident, rules.into_iter().flatten())
        });
        if is_called {
            Standing::Answers
        } else if self.has_unknown_resident(node) {
            Standing::Unsaid
        } else {
            Standing::Nothing
        }
    }

    /// True while the node has said that an instance runs whose job the root has not told us yet.
    fn has_unknown_resident(&self, node: &NodeId) -> bool {
        self.reports.iter().any(|((job, _), outgoing)| {
            let Report::Placed(status) = &outgoing.report else {
                return false;
            };
            status.worker_id.as_deref() == Some(node.as_str()) && !self.jobs.contains_key(job)
        })
    }

    /// To be called before the rules or the residents of these nodes change; then [`Answerer::tell_standings`].
    fn standings(&self, nodes: impl IntoIterator<Item = NodeId>) -> Standings {
        if self.settings.isolation != Isolation::Enforce {
            return Vec::new();
        }
        nodes
            .into_iter()
            .map(|node| {
                let interested = self.jobs.iter();
                let standings = interested
                    .filter(|(_, known)| known.interests.contains_key(&node))
                    .map(|(name, known)| (name.clone(), self.standing(&node, known)))
                    .collect();
                (node, standings)
            })
            .collect()
    }

    /// Where the nodes stand that have instances of a job whose rules are about to change.
    pub(super) fn standings_beside(&self, job: &ServiceName) -> Standings {
        self.standings(self.residents.nodes(job))
    }

    /// Tells nodes what has changed for them since `before`.
    pub(super) fn tell_standings(&mut self, before: Standings) {
        for (node, before) in before {
            for (name, before) in before {
                let now = self
                    .jobs
                    .get(&name)
                    .map(|known| self.standing(&node, known));
                if now.is_some_and(|now| now != before) {
                    self.push_to(&name, &node);
                }
            }
        }
    }

    /// Notes on which nodes a job's instances are, after that may have changed; what the nodes may know changes with it.
    pub(super) fn note_residents(&mut self, job: &ServiceName) {
        let nodes = self
            .jobs
            .get(job)
            .map_or_else(BTreeSet::new, Known::resident_nodes);
        let old = self.residents.nodes(job);
        if nodes == old {
            return;
        }
        let before = self.standings(old.symmetric_difference(&nodes).cloned());
        self.residents.set(job, nodes);
        self.tell_standings(before);
    }

    /// The node must not be told of the job any more. The job itself goes with the next look at whether anybody uses it.
    pub(super) fn interest_lost(&mut self, job: &ServiceName, node: &NodeId) {
        if let Some(known) = self.jobs.get_mut(job)
            && known.interests.remove(node).is_some()
        {
            self.timers
                .cancel(&Timer::Interest(job.clone(), node.clone()));
            self.dirty.job(job);
        }
    }
}

impl Known {
    fn resident_nodes(&self) -> BTreeSet<NodeId> {
        let rows = self.entries().into_iter();
        rows.filter_map(|entry| NodeId::new(entry.worker_id?).ok())
            .chain(self.placements.values().map(|it| it.node.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests;
