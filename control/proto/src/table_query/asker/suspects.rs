//! Instances to which delivery fails: they are a reason to ask, and, where answers leave instances out because there are
//! many, a reason to be shown others.

use super::{Asker, Job, Key};
use crate::names::ServiceName;
use std::collections::BTreeSet;
use std::time::Duration;

impl Asker {
    /// Delivery to an instance of the job failed. `suspects` are all of the job's to which it fails now. The managers are
    /// asked again, once however many failed.
    pub fn handle_failure(&mut self, job: &ServiceName, suspects: BTreeSet<u32>, now: Duration) {
        if let Some(known) = self.jobs.get_mut(job) {
            known.suspects = suspects;
            self.ask_for_others(job, now);
        }
    }

    /// Delivery to these instances of the job fails, and to all others it does not. The managers are asked again if that
    /// changes which ones they are to show.
    pub fn handle_suspects(&mut self, job: &ServiceName, suspects: BTreeSet<u32>, now: Duration) {
        let Some(known) = self.jobs.get_mut(job) else {
            return;
        };
        if known.suspects == suspects {
            return;
        }
        known.suspects = suspects;
        if known.is_pruned() || known.has_told_suspects {
            self.ask_for_others(job, now);
        }
    }

    pub(super) fn ask_for_others(&mut self, job: &ServiceName, now: Duration) {
        if let Some(known) = self.jobs.get_mut(job) {
            // The answer to a question that is on its way is not the one wanted, however new it is.
            known.told = None;
            let name = known.name.clone();
            self.refresh(name, now);
        }
    }

    /// What a question with this key says about instances that cannot be reached.
    pub(super) fn unreachable(&mut self, key: &Key) -> Option<BTreeSet<u32>> {
        let job = self.job_of(key)?;
        let job = self.jobs.get_mut(&job)?;
        if !job.is_pruned() && !job.has_told_suspects {
            return None;
        }
        job.has_told_suspects |= !job.suspects.is_empty();
        Some(job.suspects.clone())
    }
}

impl Job {
    /// Answers leave instances out, and the manager does not know that some of those listed cannot be reached.
    pub(super) fn owes_suspects(&self) -> bool {
        self.is_pruned() && !self.has_told_suspects && !self.suspects.is_empty()
    }
}
