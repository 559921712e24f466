//! What a node may know: the jobs that its instances may call, and those whose instances may call them.
//!
//! A node that has no instance is told everything: nothing on it can call, a message may have been lost with
//! this manager's store, and its gateway and those of its callees enforce the rules by themselves.

use super::{Answerer, Isolation, Known, Report, Timer, Waiter};
use crate::isolation::may_call;
use crate::message::{NodeId, TableQueryRequest};
use crate::names::ServiceName;
use crate::table_query::Key;
use crate::table_query::sides::Sides;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Where a node stands towards a job.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Standing {
    /// One of its instances may call the job's.
    Calls,
    /// The job's instances may call one of its own, which may only answer.
    Answers,
    /// The job is none of its business.
    Nothing,
    /// One of its services is not known here yet, so that nothing can be said. Its questions wait for that, and it is
    /// told of changes then.
    Unsaid,
}

/// Nodes, and where each stood towards the jobs it is interested in.
pub(super) type Standings = Vec<(NodeId, BTreeMap<ServiceName, Standing>)>;

/// Which services have instances on which node.
#[derive(Clone, Debug, Default)]
pub(super) struct Residents {
    known: Homes,
    /// Those of which a node has said that an instance runs, while the root has not told us the service yet.
    awaited: Homes,
}

/// Services and nodes.
type Homes = Sides<ServiceName, NodeId>;

impl Residents {
    /// Services of which an instance is on the node.
    pub(super) fn known_on(&self, node: &NodeId) -> impl Iterator<Item = &ServiceName> {
        self.known.jobs(node).into_iter().flatten()
    }

    /// Services of which the node has said that an instance runs, and the root nothing yet.
    pub(super) fn awaited_on(&self, node: &NodeId) -> impl Iterator<Item = &ServiceName> {
        self.awaited.jobs(node).into_iter().flatten()
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
        let awaited = self.residents.awaited.jobs(node).is_some();
        let Some(residents) = self.residents.known.jobs(node) else {
            return if awaited {
                Standing::Unsaid
            } else {
                Standing::Calls
            };
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
        } else if awaited {
            Standing::Unsaid
        } else {
            Standing::Nothing
        }
    }

    /// A service of the node that must be known before its question about the job can be answered.
    /// One that the root does not know either is not waited for: the orchestrator has not told it yet.
    fn awaited_by(&self, node: &NodeId, job: &ServiceName, now: Duration) -> Option<Key> {
        let known = self.jobs.get(job)?;
        if self.standing(node, known) != Standing::Unsaid {
            return None;
        }
        let mut awaited = self.residents.awaited_on(node).cloned().map(Key::Name);
        awaited.find(|key| !self.is_absent(key, now))
    }

    /// Puts a question aside until it is known what the node's instances may call. True when that is so.
    pub(super) fn awaits_resident(
        &mut self,
        job: &ServiceName,
        node: &NodeId,
        request: &TableQueryRequest,
        now: Duration,
    ) -> bool {
        let Some(key) = self.awaited_by(node, job, now) else {
            return false;
        };
        let waiter = Waiter::Caller {
            node: node.clone(),
            request: request.clone(),
        };
        self.fetch(key.clone(), Some(waiter), now);
        self.answer_while_lost(&key, node, request);
        true
    }

    /// To be called before the rules or the residents of these nodes change; then [`Answerer::tell_standings`].
    fn standings(&self, nodes: impl IntoIterator<Item = NodeId>) -> Standings {
        if self.settings.isolation != Isolation::Enforce {
            return Vec::new();
        }
        nodes
            .into_iter()
            .map(|node| {
                let interested = self.interested.of(&node);
                let known = interested.filter_map(|name| self.jobs.get_key_value(name));
                let standings = known
                    .map(|(name, known)| (name.clone(), self.standing(&node, known)))
                    .collect();
                (node, standings)
            })
            .collect()
    }

    /// Where the nodes stand for which it matters that a job's rules are about to change: they have instances of it, or were
    /// refused it.
    pub(super) fn standings_beside(&self, job: &ServiceName) -> Standings {
        let mut nodes = self.residents.known.of_job(job);
        nodes.extend(self.refusals.nodes(job).cloned());
        self.standings(nodes)
    }

    /// Tells nodes what has changed for them since `before`, also of what they asked for and were refused.
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
            self.tell_refused(&node);
        }
    }

    /// Notes on which nodes a job's instances are, after that may have changed; what the nodes may know changes with it.
    pub(super) fn note_residents(&mut self, job: &ServiceName) {
        let [known, awaited] = self.homes_of(job);
        let were_known = self.residents.known.of_job(job);
        let were_awaited = self.residents.awaited.of_job(job);
        if known == were_known && awaited == were_awaited {
            return;
        }
        let changed: BTreeSet<NodeId> = known
            .symmetric_difference(&were_known)
            .chain(awaited.symmetric_difference(&were_awaited))
            .cloned()
            .collect();
        let before = self.standings(changed);
        self.residents.known.set(job, known);
        self.residents.awaited.set(job, awaited);
        self.tell_standings(before);
    }

    /// The same, and the keys of nodes, for all jobs after a restart: they are read one by one, but nothing has changed for any node since it was
    /// told last. A node that is judged by a part of its services would be told that the others' do not exist.
    pub(super) fn restore_residents(&mut self) {
        let reported = self.reports.keys().map(|(job, _)| job);
        let jobs: BTreeSet<ServiceName> = self.jobs.keys().chain(reported).cloned().collect();
        for job in jobs {
            let [known, awaited] = self.homes_of(&job);
            self.residents.known.set(&job, known);
            self.residents.awaited.set(&job, awaited);
            self.note_node_keys(&job);
        }
    }

    /// The nodes that a job's instances are on, and those that have said so while the root has not told us the job yet.
    fn homes_of(&self, job: &ServiceName) -> [BTreeSet<NodeId>; 2] {
        match self.jobs.get(job) {
            Some(known) => [known.resident_nodes(), BTreeSet::new()],
            None => [BTreeSet::new(), self.nodes_reporting(job)],
        }
    }

    /// The nodes that have said that an instance of the job runs, which the root has not heard yet.
    fn nodes_reporting(&self, job: &ServiceName) -> BTreeSet<NodeId> {
        let reports = self
            .reports
            .range((job.clone(), 0)..=(job.clone(), u32::MAX));
        reports
            .filter_map(|(_, outgoing)| match &outgoing.report {
                Report::Placed(status) => NodeId::new(status.worker_id.clone()?).ok(),
                Report::Removed { .. } => None,
            })
            .collect()
    }

    /// The node must not be told of the job any more. The job itself goes with the next look at whether anybody uses it.
    pub(super) fn interest_lost(&mut self, job: &ServiceName, node: &NodeId) {
        if let Some(known) = self.jobs.get_mut(job)
            && known.interests.remove(node).is_some()
        {
            self.interested.remove(node, job);
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
            .chain(self.attached.values().filter_map(|it| it.node.clone()))
            // What moved away runs there until the node says its end, and learns from the rows where its callers go then; it
            // has to know both while it sends on what they send.
            .chain(self.left.nodes())
            .chain(self.sending_on.nodes())
            .chain(self.suspended.values().cloned())
            .collect()
    }
}

#[cfg(test)]
mod tests;
