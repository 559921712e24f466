//! An NsIP has one instance: what a node says runs at an address ends what ran there before.
//!
//! A gateway lets an NsIP rest before it gives it again, so this is a node that lost its state, or a legacy one that keeps no
//! rest. Callers of the former instance must not reach the new one.

use super::{Answerer, Report};
use crate::message::{InstanceStatus, NodeId};
use crate::names::ServiceName;
use std::time::Duration;

/// Whether both are at one NsIP.
fn share_address(one: &InstanceStatus, other: &InstanceStatus) -> bool {
    let same = |one: Option<_>, other| one.is_some() && one == other;
    same(one.namespace_ip, other.namespace_ip) || same(one.namespace_ip_v6, other.namespace_ip_v6)
}

impl Answerer {
    /// Ends the node's other instances at the NsIPs of this one, which runs there now.
    pub(super) fn end_predecessors(
        &mut self,
        job: &ServiceName,
        node: &NodeId,
        status: &InstanceStatus,
        now: Duration,
    ) {
        let number = status.instance_number;
        let is_other = |name: &ServiceName, other: u32| (name, other) != (job, number);
        let mut placed = Vec::new();
        for name in self.residents.known_on(node) {
            let placements = self.jobs.get(name).map(|known| &known.placements);
            for (other, placement) in placements.into_iter().flatten() {
                if is_other(name, *other)
                    && placement.node == *node
                    && share_address(&placement.status, status)
                {
                    placed.push((name.clone(), *other));
                }
            }
        }
        let mut said = Vec::new();
        for name in self.residents.awaited_on(node) {
            let reports = self
                .reports
                .range((name.clone(), 0)..=(name.clone(), u32::MAX));
            for (key, outgoing) in reports {
                if let Report::Placed(other) = &outgoing.report
                    && is_other(name, key.1)
                    && share_address(other, status)
                {
                    said.push(key.clone());
                }
            }
        }
        for (name, other) in placed {
            self.end_placement(&name, other, now);
        }
        for key in said {
            self.unsay(&key, node);
        }
    }
}
