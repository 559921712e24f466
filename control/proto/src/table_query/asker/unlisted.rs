//! Instances that answers leave out because there are many, and that this node needs all the same: whoever uses one hears
//! where it goes, and whoever asks for one by name hears where it is.

use super::absences::kind;
use super::{Asker, Key};
use crate::message::NAMED_MAX;
use crate::names::ServiceName;
use sluice_wire::InstanceIp;
use std::collections::BTreeSet;
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

    /// Somebody needs to know the instance with this number of a job that is known. If the last answer leaves it out, the
    /// managers are asked to list it from now on.
    pub fn handle_instance_question(&mut self, job: &ServiceName, number: u32, now: Duration) {
        let Some(known) = self.jobs.get_mut(job) else {
            self.handle_question(&Key::Name(job.clone()), now);
            return;
        };
        known.used_at = now;
        let is_asked = known.named.contains(&number);
        if !known.unlisted.contains(&number) || (!is_asked && known.named.len() >= NAMED_MAX) {
            return;
        }
        known.named.insert(number);
        let asked_lately = self.queries.contains_key(&Key::Name(known.name.clone()));
        if !(is_asked && asked_lately) {
            self.ask_for_others(job, now);
        }
    }

    /// Which instances a question with this key names.
    pub(super) fn named(&self, key: &Key) -> BTreeSet<u32> {
        let job = match key {
            Key::Name(name) => self.jobs.get(name),
            Key::Address(_) | Key::Node(_) => None,
        };
        job.map(|job| job.named.clone()).unwrap_or_default()
    }
}
