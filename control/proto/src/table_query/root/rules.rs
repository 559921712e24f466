//! Rules of the root: added, deleted, and told with the jobs that they allow calls to.

use super::{Refusal, Reply, Root, Work, refuse};
use crate::isolation::Rule;
use crate::message::{Job, UpdateKind};
use crate::names::ServiceName;

/// Rules at a time: every job that is told is compared with each of them.
pub const RULES_MAX: usize = 4096;

impl Root {
    pub(super) fn rule_add(&mut self, rule: &Rule, work: &mut Work) -> Result<Reply, Refusal> {
        if !self.rules.contains(rule) {
            if self.rules.len() >= RULES_MAX {
                return refuse(
                    409,
                    format!(
                        "rule `{rule}` is one too many: there are {RULES_MAX}; delete one, or write a wider pattern"
                    ),
                );
            }
            self.rules.insert(rule.clone());
            self.rule_changed(rule, work);
        }
        Ok(Reply::json(rule))
    }

    pub(super) fn rule_delete(&mut self, rule: &Rule, work: &mut Work) -> Result<Reply, Refusal> {
        if !self.rules.remove(rule) {
            return refuse(
                404,
                format!("there is no rule `{rule}`; `sluice rule list` shows those there are"),
            );
        }
        self.rule_changed(rule, work);
        Ok(Reply::json(rule))
    }

    /// Whoever has a job that the rule is about must ask for it again.
    fn rule_changed(&mut self, rule: &Rule, work: &mut Work) {
        self.counters.rules = self.next_revision();
        work.rules.insert(rule.clone());
        let told: Vec<ServiceName> = self
            .interests
            .keys()
            .filter(|job| rule.to.matches(job))
            .cloned()
            .collect();
        for job in told {
            self.notify(&job, -1, UpdateKind::Deployment, work);
        }
    }

    /// All rules, in order.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    /// A job as clusters are told of it: with its rules, with a revision that grows with them, too, and with what nodes asked for.
    pub(super) fn told(&self, job: &Job) -> Job {
        let rules = self.rules.iter();
        let attached = self.services.get(&job.id).map(|it| it.requests.keys());
        Job {
            revision: job.revision.max(self.counters.rules),
            rules: rules
                .filter(|rule| rule.to.matches(&job.job_name))
                .cloned()
                .collect(),
            attached: attached.into_iter().flatten().copied().collect(),
            ..job.clone()
        }
    }
}
