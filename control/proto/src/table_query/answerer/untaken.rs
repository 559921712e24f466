//! What the root allotted and nobody took: an instance goes back, and a subnet is asked for until it is here.
//!
//! A node takes an instance up by saying that it runs, seconds after it was allotted. One whose gateway has gone meanwhile never
//! says it, nor that it does not.

use super::upward::escaped;
use super::{Answerer, Known, Timer};
use crate::message::InstanceEntry;
use crate::names::ServiceName;
use std::time::Duration;

/// An instance that no node has taken for so long goes back to the root, where its addresses rest. A gateway waits 10 s for
/// one; what it took and could not say for so long ends there, when it can.
const TAKEN_WITHIN: Duration = Duration::from_secs(600);

impl Known {
    /// Remembers what the root allotted here, though this manager was killed before it heard that, or lost its store.
    pub(super) fn learn_attached(&mut self, is_ours: impl Fn(&InstanceEntry) -> bool) {
        let told = self.job.attached.iter().copied();
        let ours: Vec<u32> = told
            .filter(|number| {
                let entry = self.entry(*number);
                entry.is_some_and(|entry| is_ours(entry) && !self.is_removed(entry))
            })
            .collect();
        for number in ours {
            self.attached.entry(number).or_default();
        }
    }

    /// The epoch of an instance that was allotted here, as far as it is known.
    pub(super) fn allotted_epoch(&self, number: u32) -> Option<u64> {
        let attached = self.attached.get(&number)?;
        Some(attached.epoch.max(self.epoch_of(number)))
    }

    /// Allotted here, and no node of ours says that it runs.
    fn is_untaken(&self, number: u32) -> bool {
        self.attached.contains_key(&number) && !self.placements.contains_key(&number)
    }

    fn runs_elsewhere(&self, number: u32) -> bool {
        self.entry(number).is_some_and(InstanceEntry::is_placed)
    }
}

impl Answerer {
    /// From now on a node has the time to take the instance.
    pub(super) fn await_taking(&mut self, name: &ServiceName, number: u32, now: Duration) {
        let timer = Timer::Allotted(name.clone(), number);
        self.timers.set(timer, now + TAKEN_WITHIN);
    }

    /// The same for all that is allotted and that no node has taken yet, if its time does not run already.
    pub(super) fn await_all_taking(&mut self, name: &ServiceName, now: Duration) {
        let Some(known) = self.jobs.get(name) else {
            return;
        };
        let attached = known.attached.keys().copied();
        let untaken: Vec<u32> = attached
            .filter(|number| known.is_untaken(*number))
            .collect();
        for number in untaken {
            if !self.timers.is_set(&Timer::Allotted(name.clone(), number)) {
                self.await_taking(name, number, now);
            }
        }
    }

    pub(super) fn allotment_due(&mut self, name: ServiceName, number: u32, now: Duration) {
        let Some(known) = self.jobs.get(&name) else {
            return;
        };
        if !known.is_untaken(number) {
            return;
        }
        if known.runs_elsewhere(number) {
            // It is to move here; or its node has not spoken since this manager lost its store.
            self.await_taking(&name, number, now);
            return;
        }
        if let Some(epoch) = known.allotted_epoch(number) {
            self.end_allotted(&name, number, epoch, now);
        }
    }

    /// The id of the request for a subnet: that of the one that is not answered, in whichever life it was asked.
    pub(super) fn subnet_request_id(&mut self) -> String {
        if let Some(id) = &self.subnet_request {
            return id.clone();
        }
        self.subnet_requests += 1;
        // With the cluster's id in it: the root may not know yet who asks.
        let cluster = escaped(&self.settings.cluster_id);
        let (incarnation, count) = (self.settings.incarnation, self.subnet_requests);
        let id = format!("{cluster}-{incarnation}-{count}");
        self.subnet_request = Some(id.clone());
        self.dirty.subnet_request();
        id
    }

    pub(super) fn end_subnet_request(&mut self) {
        self.subnet_request = None;
        self.dirty.subnet_request();
    }
}
