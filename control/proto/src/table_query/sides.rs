//! A relation seen from both sides: which jobs have which nodes or keys.

use std::collections::{BTreeMap, BTreeSet};

/// See the module. Nothing is kept of a job without others, nor the other way round.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Sides<Job, Other> {
    by_job: BTreeMap<Job, BTreeSet<Other>>,
    by_other: BTreeMap<Other, BTreeSet<Job>>,
}

impl<Job, Other> Default for Sides<Job, Other> {
    fn default() -> Self {
        Self {
            by_job: BTreeMap::new(),
            by_other: BTreeMap::new(),
        }
    }
}

impl<Job: Clone + Ord, Other: Clone + Ord> Sides<Job, Other> {
    /// What a job has.
    pub(crate) fn of_job(&self, job: &Job) -> BTreeSet<Other> {
        self.by_job.get(job).cloned().unwrap_or_default()
    }

    /// The jobs that have it; `None` when there is none.
    pub(crate) fn jobs(&self, other: &Other) -> Option<&BTreeSet<Job>> {
        self.by_other.get(other)
    }

    /// Replaces what a job has.
    pub(crate) fn set(&mut self, job: &Job, others: BTreeSet<Other>) {
        for other in self.of_job(job).difference(&others) {
            if let Some(jobs) = self.by_other.get_mut(other) {
                jobs.remove(job);
                if jobs.is_empty() {
                    self.by_other.remove(other);
                }
            }
        }
        for other in &others {
            let jobs = self.by_other.entry(other.clone()).or_default();
            jobs.insert(job.clone());
        }
        if others.is_empty() {
            self.by_job.remove(job);
        } else {
            self.by_job.insert(job.clone(), others);
        }
    }
}
