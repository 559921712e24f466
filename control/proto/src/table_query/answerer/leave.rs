//! A node that leaves for good: its instances end, nothing more is told to it, and its subnet goes back to the root.
//!
//! The subnet is the root's to give again, after a rest. Until the root has taken it back it stands in the store of this
//! manager, which repeats the return.

use super::upward::{Asked, Method, Single};
use super::{Answerer, REQUEST_WAIT, Timer};
use crate::message::{LeaveRequest, LeaveResult, NodeId, SubnetGrant, Verb, write};
use serde::{Deserialize, Serialize};
use sluice_wire::Ip;
use std::time::Duration;

/// A subnet on its way back.
#[derive(Clone, Debug)]
pub(super) struct Returning {
    pub(super) stored: StoredReturn,
    request: Single,
}

/// As it is kept across restarts.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct StoredReturn {
    /// The node that left.
    pub(super) node: String,
    pub(super) grant: SubnetGrant,
}

impl Returning {
    pub(super) fn new(stored: StoredReturn) -> Self {
        let request = Single::default();
        Self { stored, request }
    }
}

impl Answerer {
    /// The node leaves. A subnet that it does not have (any more) ends nothing: that is a late or repeated word.
    pub fn handle_leave(&mut self, node: &NodeId, leave: &LeaveRequest, now: Duration) {
        let grant = self.nodes.get(node);
        let named = (leave.address, leave.addressv6);
        if grant.is_none_or(|grant| (grant.subnet_addr, grant.subnet_addr_v6) == named) {
            self.end_node(node, now);
        }
        let result = LeaveResult {
            address: leave.address,
            addressv6: leave.addressv6,
        };
        self.publish(node, Verb::LeaveResult, write(&result));
    }

    /// The subnets that are on their way back to the root, by the node that left.
    pub fn returning(&self) -> impl Iterator<Item = (&str, &SubnetGrant)> {
        let all = self.returning.values();
        all.map(|it| (it.stored.node.as_str(), &it.stored.grant))
    }

    fn end_node(&mut self, node: &NodeId, now: Duration) {
        self.end_instances_of(node, now);
        self.nodes_waiting.remove(node);
        self.starts.remove(node);
        self.node_keys.remove(node);
        if let Some(grant) = self.nodes.remove(node) {
            self.dirty.node(node);
            self.give_back(node, grant, now);
        }
    }

    fn give_back(&mut self, node: &NodeId, grant: SubnetGrant, now: Duration) {
        let Some(network) = grant.networks().iter().next() else {
            return;
        };
        let node = node.as_str().to_owned();
        let returning = Returning::new(StoredReturn { node, grant });
        self.returning.insert(network, returning);
        self.dirty.returning(network);
        self.send_return(network, now);
    }

    pub(super) fn send_return(&mut self, network: Ip, now: Duration) {
        let cluster = self.as_cluster();
        let Some(returning) = self.returning.get_mut(&network) else {
            return;
        };
        returning.request.attempts = returning.request.attempts.saturating_add(1);
        let id = returning.stored.grant.grant_id;
        if let Some(sent) = returning.request.sent.take() {
            self.asked.remove(&sent);
        }
        let only = if id == 0 {
            String::new()
        } else {
            format!("&grant_id={id}")
        };
        let path = format!("/api/net/subnet/{network}{cluster}{only}");
        let sent = self.send(Asked::Return(network), Method::Delete, path, None);
        if let Some(returning) = self.returning.get_mut(&network) {
            returning.request.sent = Some(sent);
        }
        self.timers.set(Timer::Return(network), now + REQUEST_WAIT);
    }

    /// So many requests were made for it; none is on its way any more.
    pub(super) fn return_failed(&mut self, network: Ip) -> Option<u32> {
        let returning = self.returning.get_mut(&network)?;
        returning.request.sent = None;
        Some(returning.request.attempts)
    }

    /// Done, already done or given again (409), or never to be done: Oakestra's root knows no return (404, 405), and the
    /// subnet is never given again. Anything else may pass, as a token that is not accepted yet.
    pub(super) fn return_replied(&mut self, network: Ip, status: u16, now: Duration) {
        if !matches!(status, 200 | 404 | 405 | 409) {
            self.repeat_later(Asked::Return(network), now);
            return;
        }
        self.returning.remove(&network);
        self.dirty.returning(network);
        self.timers.cancel(&Timer::Return(network));
    }
}
