//! A node that starts gets its subnet, the one that it had before if there is one. When it knows nothing of before, what ran
//! there has ended, and it hears which NsIPs that had: only the node can let them rest.

use super::{Answerer, Report};
use crate::message::{
    NodeId, NodeKey, SubnetGrant, SubnetRequest, SubnetResult, Undeployed, Verb, text, write,
};
use crate::names::ServiceName;
use serde::{Deserialize, Serialize};
use sluice_wire::{Ip, NsIp};
use std::collections::BTreeSet;
use std::time::Duration;

/// The last start of a node that knew nothing.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Start {
    /// The node's own name for it: a repeated request, or a late one, ends nothing that runs there by now.
    id: u64,
    #[serde(with = "text::addresses")]
    held: Vec<Ip>,
}

/// A node as it is kept across restarts.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct StoredNode {
    #[serde(flatten)]
    pub(super) grant: SubnetGrant,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) start: Option<Start>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) public_key: Option<NodeKey>,
}

impl Answerer {
    /// A node needs its subnet: the one it had, else one of the reserve, else the next that the root gives. Its `fresh` names
    /// its start if it knows nothing of an earlier life.
    pub fn handle_subnet_request(&mut self, node: &NodeId, request: &SubnetRequest, now: Duration) {
        self.note_key(node, request.public_key);
        let known = self.starts.get(node).map(|start| start.id);
        if let Some(id) = request.fresh.filter(|id| known != Some(*id)) {
            let held = self.end_instances_of(node, now).into_iter().collect();
            self.starts.insert(node.clone(), Start { id, held });
            self.dirty.node(node);
        }
        if self.nodes.contains_key(node) {
            self.tell_subnet(node);
            return;
        }
        self.nodes_waiting.insert(node.clone());
        self.give_subnets();
        self.ask_subnet(now);
    }

    /// The node's key as it says it now.
    pub(super) fn note_key(&mut self, node: &NodeId, key: Option<NodeKey>) {
        let before = match key {
            Some(key) => self.node_keys.insert(node.clone(), key),
            None => self.node_keys.remove(node),
        };
        if before != key {
            self.dirty.node(node);
        }
    }

    pub(super) fn tell_subnet(&mut self, node: &NodeId) {
        let Some(grant) = self.nodes.get(node) else {
            return;
        };
        let start = self.starts.get(node);
        let result = SubnetResult {
            address: grant.subnet_addr,
            addressv6: grant.subnet_addr_v6,
            held: start.map(|start| start.held.clone()).unwrap_or_default(),
        };
        self.publish(node, Verb::SubnetResult, write(&result));
    }

    /// Nothing runs on the node any more, and it is interested in nothing. Gives the NsIPs that were in use there.
    pub(super) fn end_instances_of(&mut self, node: &NodeId, now: Duration) -> BTreeSet<Ip> {
        let mut held = BTreeSet::new();
        let names: Vec<ServiceName> = self.jobs.keys().cloned().collect();
        for name in names {
            let Some(known) = self.jobs.get_mut(&name) else {
                continue;
            };
            if known.left.end_all(node) {
                self.dirty.job(&name);
                self.note_residents(&name);
            }
            let Some(known) = self.jobs.get(&name) else {
                continue;
            };
            let placed = known.placements.iter();
            let mine: Vec<u32> = placed
                .filter(|(_, placement)| placement.node == *node)
                .inspect(|(_, placement)| {
                    held.extend(placement.status.ns_ips().iter().map(NsIp::ip))
                })
                .map(|(number, _)| *number)
                .collect();
            let allotted = known.attached.iter().filter(|(number, it)| {
                let suspended = known.suspended.get(*number);
                it.node.as_ref().or(suspended) == Some(node)
                    && !known.placements.contains_key(number)
            });
            let allotted: Vec<(u32, u64)> = allotted
                .filter_map(|(number, _)| Some((*number, known.allotted_epoch(*number)?)))
                .collect();
            if let Some(known) = self.jobs.get_mut(&name)
                && known.suspended.values().any(|it| it == node)
            {
                known.suspended.retain(|_, it| it != node);
                self.dirty.job(&name);
                self.note_residents(&name);
            }
            for number in mine {
                self.end_placement(&name, number, now);
            }
            for (number, epoch) in allotted {
                self.end_allotted(&name, number, epoch, now);
            }
            self.end_sending_on(&name, node);
            self.interest_ended(&name, node);
        }
        let mut said = Vec::new();
        for name in self.residents.awaited_on(node) {
            let all = (name.clone(), 0)..=(name.clone(), u32::MAX);
            for (key, outgoing) in self.reports.range(all) {
                if let Report::Placed(status) = &outgoing.report
                    && status.worker_id.as_deref() == Some(node.as_str())
                {
                    held.extend(status.ns_ips().iter().map(NsIp::ip));
                    said.push((key.clone(), status.epoch));
                }
            }
        }
        for (key, epoch) in said {
            self.unsay(&key, node);
            let (name, number) = key;
            let undeployed = Undeployed {
                appname: name.to_string(),
                instance_number: number,
                epoch,
            };
            self.undeploy_unknown(name, node, undeployed, now);
        }
        held
    }
}
