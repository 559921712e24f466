//! Instances that answers leave out because there are many, and that flows of this node use all the same: who uses one
//! hears where it goes.

use super::absences::kind;
use super::{Asker, Key};
use crate::names::ServiceName;
use sluice_wire::InstanceIp;
use std::time::Duration;

/// A manager that does not list it even then is asked again no sooner.
const AGAIN: Duration = Duration::from_secs(10);

impl Asker {
    /// Packets use an instance. If the last answer does not list it, it is asked for by its address: a manager of ours lists
    /// to a node what it asked for so, in every answer from then on.
    pub fn handle_used_instance(&mut self, job: &ServiceName, number: u32, now: Duration) {
        let job = self.jobs.get_mut(job);
        let Some(held) = job.and_then(|job| job.rows.get_mut(&number)) else {
            return;
        };
        let was_asked = held.asked_at.is_some_and(|at| now < at + AGAIN);
        let Some(ip) = held.row.instance_ip.iter().next() else {
            return;
        };
        let key = Key::Address(InstanceIp::ip(ip));
        let is_full = self.open[kind(&key)] >= self.settings.questions_max;
        if held.listed || was_asked || is_full || !self.connected || self.queries.contains_key(&key)
        {
            return;
        }
        held.asked_at = Some(now);
        self.ask(key, false, now);
    }
}
