//! Known jobs asked again, some at a time: after the root was away, after a restart, and once in a while.

use super::upward::Asked;
use super::{Answerer, ServiceName};
use crate::table_query::Key;
use std::collections::BTreeSet;
use std::time::Duration;

/// Jobs that are asked again at a time. However many there are, the root has time for new questions between them.
const AT_ONCE: usize = 32;

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Turn {
    Opened,
    Other,
}

/// Jobs that the root may know differently by now.
#[derive(Clone, Debug, Default)]
pub(super) struct Resync {
    /// Their turn comes: first of those that a rule opens, because it may have been revoked and flows go on by it.
    waiting: BTreeSet<(Turn, ServiceName)>,
    /// Their question is on its way.
    asked: BTreeSet<ServiceName>,
}

impl Answerer {
    /// All jobs are asked again.
    pub(super) fn resync_all(&mut self, now: Duration) {
        let jobs = self.jobs.keys().cloned();
        self.resync.waiting = jobs.map(|job| (self.turn(&job), job)).collect();
        self.go_on_resyncing(now);
    }

    /// The job is asked again when it is its turn: at the next reply or timeout.
    pub(super) fn resync(&mut self, job: ServiceName) {
        self.resync.waiting.insert((self.turn(&job), job));
    }

    fn turn(&self, job: &ServiceName) -> Turn {
        let known = self.jobs.get(job);
        match known.is_some_and(|known| !known.job.rules.is_empty()) {
            true => Turn::Opened,
            false => Turn::Other,
        }
    }

    /// Asks as many as may be on their way. A root that is away is not asked: all are, when it is back.
    pub(super) fn go_on_resyncing(&mut self, now: Duration) {
        while !self.root_lost
            && self.resync.asked.len() < AT_ONCE
            && let Some((_, job)) = self.resync.waiting.pop_first()
        {
            if self.jobs.contains_key(&job) {
                self.resync.asked.insert(job.clone());
                self.fetch(Key::Name(job), None, now);
            }
        }
    }

    /// Something came of a question, whatever it is: one that failed is repeated in its own time, and holds nobody up.
    pub(super) fn resynced(&mut self, asked: &Asked) {
        if let Asked::Job(Key::Name(job)) = asked {
            self.resync.asked.remove(job);
        }
    }
}
