//! Which nodes a job is shown to, and when nobody wants it any more.

use super::body::Bodies;
use super::{Answerer, Interest, Timer};
use crate::message::{NodeId, TableQueryRequest};
use crate::names::ServiceName;
use crate::table_query::Key;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The jobs that each node is interested in: [`Known::interests`](super::Known), seen from the nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Interested(BTreeMap<NodeId, BTreeSet<ServiceName>>);

impl Interested {
    pub(super) fn add(&mut self, node: &NodeId, job: &ServiceName) {
        let jobs = self.0.entry(node.clone()).or_default();
        jobs.insert(job.clone());
    }

    pub(super) fn remove(&mut self, node: &NodeId, job: &ServiceName) {
        if let Some(jobs) = self.0.get_mut(node) {
            jobs.remove(job);
            if jobs.is_empty() {
                self.0.remove(node);
            }
        }
    }

    pub(super) fn of(&self, node: &NodeId) -> impl Iterator<Item = &ServiceName> {
        self.0.get(node).into_iter().flatten()
    }
}

impl Answerer {
    pub(super) fn interest(
        &mut self,
        name: &ServiceName,
        node: &NodeId,
        key: &Key,
        request: &TableQueryRequest,
        now: Duration,
    ) {
        if !self.may_know(node, name) {
            return;
        }
        let Some(known) = self.jobs.get_mut(name) else {
            return;
        };
        let numbers: BTreeSet<u32> = match key {
            Key::Address(ip) => known.number_of(*ip).into_iter().collect(),
            Key::Name(_) => known.existing(&request.instances),
            Key::Node(_) => BTreeSet::new(),
        };
        let unreachable = request.unreachable.as_ref();
        let unreachable = unreachable.map(|numbers| known.existing(numbers));
        let until = (request.interest_s).map(|s| now + Duration::from_secs(s.into()));
        let is_new = !known.interests.contains_key(node);
        if is_new {
            self.interested.add(node, name);
        }
        let interest = known
            .interests
            .entry(node.clone())
            .or_insert_with(|| Interest {
                until,
                asked: BTreeSet::new(),
                unreachable: BTreeSet::new(),
            });
        let asked_more = !interest.asked.is_superset(&numbers);
        interest.asked.extend(numbers);
        if is_new || asked_more || interest.until.is_some() != until.is_some() {
            self.dirty.job(name);
        }
        let before = if is_new { None } else { interest.until };
        interest.until = until;
        if let Some(unreachable) = unreachable {
            let changed = interest.unreachable != unreachable;
            interest.unreachable = unreachable;
            if changed && known.job.instance_list.len() > self.settings.instances_max {
                // Its next answer is another one, and nothing sent before it is to replace that.
                known.revision += 1;
            }
        }
        // Most questions renew: the timer stays where it is, and looks again when its time has come.
        if before.is_some() && until >= before {
            return;
        }
        let timer = Timer::Interest(name.clone(), node.clone());
        match until {
            Some(until) => self.timers.set(timer, until),
            None => self.timers.cancel(&timer),
        }
    }

    pub(super) fn interest_due(&mut self, name: &ServiceName, node: &NodeId, now: Duration) {
        let until = self
            .jobs
            .get(name)
            .and_then(|known| known.interests.get(node))
            .and_then(|interest| interest.until);
        match until {
            Some(until) if until <= now => self.interest_ended(name, node),
            Some(until) => {
                let timer = Timer::Interest(name.clone(), node.clone());
                self.timers.set(timer, until);
            }
            None => {}
        }
    }

    pub(super) fn interest_ended(&mut self, name: &ServiceName, node: &NodeId) {
        let Some(known) = self.jobs.get_mut(name) else {
            return;
        };
        self.timers
            .cancel(&Timer::Interest(name.clone(), node.clone()));
        if known.interests.remove(node).is_some() {
            if known.interests.is_empty() {
                known.bodies = Bodies::default();
            }
            self.interested.remove(node, name);
            self.dirty.job(name);
            self.drop_unused(name);
        }
    }

    /// Forgets a job that no node asks for and that does not run here (thesis 3.6.6: the two conditions of renewal), unless
    /// it was just refused to one.
    pub(super) fn drop_unused(&mut self, name: &ServiceName) {
        let cluster_id = &self.settings.cluster_id;
        let unused = self.jobs.get(name).is_some_and(|known| {
            known.interests.is_empty()
                && known.placements.is_empty()
                && !known.scheduled
                && !known.tenancy.owes()
                && !self.refusals.contains(name)
                && !known
                    .job
                    .instance_list
                    .iter()
                    .any(|entry| entry.cluster_id.as_ref() == Some(cluster_id))
        });
        let asked = self.fetches.contains_key(&Key::Name(name.clone()))
            || self
                .instances
                .values()
                .any(|ask| ask.request.service == *name);
        if unused && !asked {
            self.forget(name);
            self.remove_interest(name);
        }
    }

    pub(super) fn forget(&mut self, name: &ServiceName) {
        let Some(known) = self.jobs.remove(name) else {
            return;
        };
        self.forgotten_revision = self.forgotten_revision.max(known.revision);
        for ip in known.addresses() {
            if self.addresses.get(&ip) == Some(name) {
                self.addresses.remove(&ip);
            }
        }
        self.timers.cancel(&Timer::Refresh(name.clone()));
        for node in known.interests.keys() {
            self.interested.remove(node, name);
            self.timers
                .cancel(&Timer::Interest(name.clone(), node.clone()));
        }
        for node in known.sending_on.nodes() {
            self.timers.cancel(&Timer::SendingOn(name.clone(), node));
        }
        self.owing.remove(name);
        self.refusals.forget(name);
        self.dirty.job(name);
        self.note_residents(name);
        self.note_node_keys(name);
    }
}
