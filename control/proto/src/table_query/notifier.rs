//! Tells clusters what changed, until they acknowledge: one message on its way per cluster, repeated with back-off.
//!
//! A cluster that is away misses nothing and delays nobody else. What waits for it is kept per instance, so a thousand
//! changes of one instance are one message.

use super::backoff::{Backoff, Random};
use super::timers::Timers;
use crate::message::{JobUpdate, UpdateKind};
use crate::names::ServiceName;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// One small message per cluster that is away, beside the half a second that an attempt may take. What waits for it may be
/// the end of an instance or of a rule, which must be known within a second of its return.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(100),
    max: Duration::from_millis(250),
};

/// POST `/api/net/job/update` to a cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Notice {
    pub cluster: String,
    pub update: JobUpdate,
}

#[derive(Clone, Debug, Default)]
struct Outbox {
    waiting: BTreeMap<(ServiceName, i64), UpdateKind>,
    sent: Option<JobUpdate>,
    failures: u32,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Notifier {
    random: Random,
    outboxes: BTreeMap<String, Outbox>,
    timers: Timers<String>,
    notices: VecDeque<Notice>,
}

impl Notifier {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            outboxes: BTreeMap::new(),
            timers: Timers::default(),
            notices: VecDeque::new(),
        }
    }

    /// A cluster has to be told.
    pub fn handle_update(&mut self, cluster: &str, update: &JobUpdate) {
        let outbox = self.outboxes.entry(cluster.to_owned()).or_default();
        let key = (update.job_name.clone(), update.instance_number);
        outbox.waiting.insert(key, update.kind);
        if outbox.failures == 0 {
            self.send(cluster);
        }
    }

    /// The cluster answered the message on its way with success (`told`), or did not.
    pub fn handle_reply(&mut self, cluster: &str, told: bool, now: Duration) {
        let Some(outbox) = self.outboxes.get_mut(cluster) else {
            return;
        };
        let Some(update) = outbox.sent.take() else {
            return;
        };
        if told {
            outbox.failures = 0;
            self.timers.cancel(&cluster.to_owned());
            self.send(cluster);
        } else {
            outbox.failures = outbox.failures.saturating_add(1);
            outbox
                .waiting
                .entry((update.job_name, update.instance_number))
                .or_insert(update.kind);
            let wait = BACKOFF.wait(outbox.failures, &mut self.random);
            self.timers.set(cluster.to_owned(), now + wait);
        }
    }

    /// A cluster registered: it can be reached again, so what waits is sent at once.
    pub fn handle_registered(&mut self, cluster: &str) {
        if let Some(outbox) = self.outboxes.get_mut(cluster) {
            outbox.failures = 0;
            self.timers.cancel(&cluster.to_owned());
            self.send(cluster);
        }
    }

    /// Repeats what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        while let Some(cluster) = self.timers.pop_due(now) {
            self.send(&cluster);
        }
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.timers.next()
    }

    pub fn poll_transmit(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Changes that clusters have not acknowledged.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.outboxes
            .values()
            .map(|outbox| outbox.waiting.len() + usize::from(outbox.sent.is_some()))
            .sum()
    }

    fn send(&mut self, cluster: &str) {
        let Some(outbox) = self.outboxes.get_mut(cluster) else {
            return;
        };
        if outbox.sent.is_some() {
            return;
        }
        if let Some(((job_name, instance_number), kind)) = outbox.waiting.pop_first() {
            let update = JobUpdate {
                job_name,
                instance_number,
                kind,
            };
            outbox.sent = Some(update.clone());
            self.notices.push_back(Notice {
                cluster: cluster.to_owned(),
                update,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(number: i64, kind: UpdateKind) -> JobUpdate {
        JobUpdate {
            job_name: "a.b.c.d".parse().unwrap(),
            instance_number: number,
            kind,
        }
    }

    #[test]
    fn a_cluster_that_is_away_gets_the_last_state_and_delays_nobody() {
        let mut notifier = Notifier::new(1);
        let now = Duration::ZERO;
        notifier.handle_update("a", &update(0, UpdateKind::Deployment));
        notifier.handle_update("b", &update(0, UpdateKind::Deployment));
        assert_eq!(notifier.poll_transmit().unwrap().cluster, "a");
        assert_eq!(notifier.poll_transmit().unwrap().cluster, "b");
        notifier.handle_reply("b", true, now);
        notifier.handle_reply("a", false, now);
        notifier.handle_update("a", &update(0, UpdateKind::Undeployment));
        assert_eq!(notifier.poll_transmit(), None);
        let due = notifier.poll_timeout().unwrap();
        notifier.handle_timeout(due);
        let notice = notifier.poll_transmit().unwrap();
        assert_eq!(notice.update, update(0, UpdateKind::Undeployment));
        notifier.handle_reply("a", true, due);
        assert_eq!((notifier.poll_transmit(), notifier.waiting()), (None, 0));
    }
}
