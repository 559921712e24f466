//! Delivery failures: who is suspect, for how long, and what is asked then. Others take new flows at once; flows that
//! are there stay with their instance until it is withdrawn.

use super::Core;
use crate::gateway::probes::ProbeResult;
use sluice_proto::ServiceName;
use sluice_proto::liveness::{Event, Loss, NodeAddress};
use sluice_tables::{InstanceSlot, Suspicion};
use std::collections::BTreeSet;
use std::time::Duration;

/// The workers' clock is ours in whole seconds; a use this old is one of now.
const IN_USE_S: u64 = 1;
/// How often it is looked at who is in use.
const LOOK: Duration = Duration::from_millis(250);

impl Core {
    /// Delivery to an instance failed, or it speaks from elsewhere.
    pub(super) fn handle_suspicion(
        &mut self,
        instance: InstanceSlot,
        epoch: u32,
        why: Suspicion,
        now: Duration,
    ) {
        // That an instance speaks from elsewhere may be forged: it is a reason to ask, not to avoid it.
        let job = match why {
            Suspicion::Unreachable => self.routes.suspect(instance, epoch),
            Suspicion::Elsewhere => self.routes.job_of(instance),
        };
        if let Some(job) = job {
            if why == Suspicion::Unreachable {
                self.suspects.add(instance, now);
            }
            tracing::debug!(%job, ?why, "delivery to an instance failed");
            self.routes_changed = true;
            self.refresh(&job, now);
        }
    }

    /// An instance that was suspect speaks.
    pub(super) fn handle_heard(&mut self, instance: InstanceSlot) {
        if self.suspects.clear(instance) {
            self.routes.trust(instance);
            self.routes_changed = true;
        }
    }

    /// A probe came back.
    pub(crate) fn handle_probe(&mut self, result: ProbeResult, now: Duration) {
        match result {
            ProbeResult::Answered { node, sequence } => {
                self.prober.handle_answer(node, sequence, now);
            }
            ProbeResult::Refused { node } => self.prober.handle_refused(node, now),
        }
        self.take_prober_events(now);
    }

    /// Sends the probes that are due, and judges those before.
    pub(super) fn probe_nodes(&mut self, now: Duration) {
        if self.prober.poll_timeout().is_none_or(|due| due > now) {
            return;
        }
        let routes = &self.routes;
        self.prober.handle_timeout(now, |node| routes.heard(*node));
        let own = self.routes.tables().gateway;
        while let Some(probe) = self.prober.poll_transmit() {
            if !self.probes.send(probe, own) {
                self.prober.handle_unsent(probe.node);
            }
        }
        self.take_prober_events(now);
    }

    /// What is due every [`LOOK`]: which nodes are in use, which are gone, which suspects are tried again.
    pub(super) fn look_at_failures(&mut self, now: Duration) {
        if now < self.look_at {
            return;
        }
        self.look_at = now + LOOK;
        let since_s = u32::try_from(now.as_secs().saturating_sub(IN_USE_S)).unwrap_or(u32::MAX);
        let mut wanted: BTreeSet<NodeAddress> = self.prober.lost_nodes().collect();
        for node in self.routes.nodes_in_use(since_s) {
            let answers_probes = self.probes.open(&node) && node.answers_probes;
            self.prober.handle_used(node.address, answers_probes, now);
            wanted.insert(node.address);
        }
        wanted.extend(self.prober.probed_nodes());
        let routes = &self.routes;
        self.prober.retain(|node| routes.is_node(*node));
        wanted.retain(|node| routes.is_node(*node));
        self.probes.retain(&wanted);
        // A row that went and came back between two looks begins without what is known of its node.
        for node in self.prober.lost_nodes().collect::<Vec<_>>() {
            self.routes_changed |= !self.routes.set_lost(node, true).is_empty();
        }
        for slot in self.suspects.due(now) {
            self.routes.trust(slot);
            self.routes_changed = true;
        }
    }

    fn take_prober_events(&mut self, now: Duration) {
        while let Some(event) = self.prober.poll_event() {
            let (node, lost) = match event {
                Event::Lost { node, why } => {
                    let why = match why {
                        Loss::Silent => "it does not answer any more",
                        Loss::Refused => "nobody listens at its tunnel port",
                    };
                    tracing::warn!(node = %node.0, port = node.1, why, "a node is lost; others take new flows");
                    (node, true)
                }
                Event::Found { node } => {
                    tracing::info!(node = %node.0, port = node.1, "a lost node is there again");
                    (node, false)
                }
            };
            let jobs = self.routes.set_lost(node, lost);
            self.routes_changed |= !jobs.is_empty();
            for job in jobs.iter().filter(|_| lost) {
                self.refresh(job, now);
            }
        }
    }

    /// Asks the managers about a job again, once however many of its instances failed.
    fn refresh(&mut self, job: &ServiceName, now: Duration) {
        let suspects = self.routes.suspects_of(job);
        self.asker.handle_failure(job, suspects, now);
    }

    /// Where answers leave instances out, others are to be listed in place of suspects.
    pub(super) fn tell_suspects(&mut self, now: Duration) {
        for (job, suspects) in self.routes.take_doubted() {
            self.asker.handle_suspects(&job, suspects, now);
        }
    }
}
