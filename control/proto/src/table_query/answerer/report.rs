//! What the root is told about instances of our nodes, until it acknowledges.

use super::upward::{Asked, Method};
use super::{Answerer, Outgoing, REQUEST_WAIT, Report, Timer};
use crate::message::{NetDeployStatus, NodeId, write};
use crate::names::ServiceName;
use crate::table_query::Key;
use std::time::Duration;

impl Answerer {
    /// Reports that waited for the job's id.
    pub(super) fn send_waiting_reports(&mut self, name: &ServiceName, now: Duration) {
        let waiting: Vec<_> = self
            .reports
            .range((name.clone(), 0)..=(name.clone(), u32::MAX))
            .filter(|(_, outgoing)| outgoing.sent.is_none())
            .map(|(key, _)| key.clone())
            .collect();
        for key in waiting {
            self.send_report(&key, now);
        }
    }

    /// Tells the root about an instance until it acknowledges; a newer report replaces an older one.
    pub(super) fn report(&mut self, job: ServiceName, number: u32, report: Report, now: Duration) {
        let key = (job, number);
        self.dirty.report(&key);
        if let Some(outgoing) = self.reports.get_mut(&key) {
            outgoing.report = report;
            if outgoing.sent.is_some() {
                // Two at a time could overtake each other.
                outgoing.again = true;
                return;
            }
        } else {
            let outgoing = Outgoing {
                report,
                attempts: 0,
                sent: None,
                again: false,
            };
            self.reports.insert(key.clone(), outgoing);
            self.note_residents(&key.0);
        }
        self.send_report(&key, now);
    }

    /// The node's instance ended before the root could be told that it runs.
    pub(super) fn unsay(&mut self, key: &(ServiceName, u32), node: &NodeId) {
        let outgoing = self.reports.get(key);
        let is_said = outgoing.is_some_and(|outgoing| match &outgoing.report {
            Report::Placed(status) => status.worker_id.as_deref() == Some(node.as_str()),
            Report::Removed { .. } => false,
        });
        if is_said {
            self.reports.remove(key);
            self.dirty.report(key);
            self.timers.cancel(&Timer::Report(key.0.clone(), key.1));
            self.note_residents(&key.0);
        }
    }

    pub(super) fn send_report(&mut self, key: &(ServiceName, u32), now: Duration) {
        let (job, number) = key;
        let id = self.jobs.get(job).map(|known| known.job.id.clone());
        let Some(outgoing) = self.reports.get_mut(key) else {
            return;
        };
        outgoing.attempts = outgoing.attempts.saturating_add(1);
        outgoing.again = false;
        let report = outgoing.report.clone();
        if let Some(sent) = outgoing.sent.take() {
            self.asked.remove(&sent);
        }
        self.timers
            .set(Timer::Report(job.clone(), *number), now + REQUEST_WAIT);
        let Some(id) = id else {
            // The root names its jobs by id; it is being asked for it.
            self.fetch(Key::Name(job.clone()), None, now);
            return;
        };
        let asked = Asked::Report(job.clone(), *number);
        let sent = match report {
            Report::Placed(status) => {
                let body = write(&NetDeployStatus {
                    job_id: id,
                    instances: vec![status],
                    cluster_id: Some(self.settings.cluster_id.clone()),
                });
                let path = format!("/api/net/service/net_deploy_status{}", self.as_cluster());
                self.send(asked, Method::Post, path, Some(body))
            }
            Report::Removed { epoch } => {
                let only = if epoch == 0 {
                    String::new()
                } else {
                    format!("&epoch={epoch}")
                };
                let path = format!("/api/net/{id}/{number}{}{only}", self.as_cluster());
                self.send(asked, Method::Delete, path, None)
            }
        };
        if let Some(outgoing) = self.reports.get_mut(key) {
            outgoing.sent = Some(sent);
        }
    }

    pub(super) fn report_replied(
        &mut self,
        id: u64,
        key: (ServiceName, u32),
        status: u16,
        now: Duration,
    ) {
        let Some(outgoing) = self
            .reports
            .get_mut(&key)
            .filter(|out| out.sent == Some(id))
        else {
            return;
        };
        if outgoing.again {
            outgoing.sent = None;
            self.send_report(&key, now);
            return;
        }
        if status >= 500 {
            self.repeat_later(Asked::Report(key.0, key.1), now);
            return;
        }
        self.reports.remove(&key);
        self.dirty.report(&key);
        self.timers.cancel(&Timer::Report(key.0.clone(), key.1));
        if !(200..300).contains(&status) {
            // The root does not know the instance (any more); its own word about the job decides.
            self.refetch(Key::Name(key.0), now);
        }
    }
}
