//! What nodes are told: answers, pushed changes, refusals.

use super::body::Bodies;
use super::isolation::Standing;
use super::{Answerer, Transmit};
use crate::message::{
    InstanceResult, NodeId, TableQueryRequest, TableQueryResult, Topic, UpdateKind,
    UpdatesAvailable, Verb, write,
};
use crate::names::ServiceName;
use std::time::Duration;

impl Answerer {
    /// Something of the job that shows in an answer may have changed: counts it, writes it, and tells everybody.
    pub(super) fn changed(&mut self, name: &ServiceName, kind: UpdateKind) {
        let Some(known) = self.jobs.get_mut(name) else {
            return;
        };
        known.revision += 1;
        known.bodies = Bodies::default();
        self.dirty.job(name);
        self.note_residents(name);
        self.note_node_keys(name);
        self.note_vacancy(name);
        self.push(name, kind);
    }

    pub(super) fn publish(&mut self, node: &NodeId, verb: Verb, payload: Vec<u8>) {
        self.transmits.push_back(Transmit::Publish {
            topic: Topic::node(node.clone(), verb).to_string(),
            payload,
        });
    }

    /// Answers a question about a job that is known. What is none of the node's business is
    /// answered as if it did not exist.
    pub(super) fn answer(
        &mut self,
        name: &ServiceName,
        node: &NodeId,
        request: &TableQueryRequest,
        now: Duration,
    ) {
        let Some(known) = self.jobs.get(name) else {
            return;
        };
        match self.standing(node, known) {
            Standing::Calls | Standing::Answers => {
                if let Some(body) = self.body(name, node, request.key()) {
                    self.publish(node, Verb::TableQueryResult, body);
                }
            }
            Standing::Nothing => self.refuse(name, node, request, now),
            Standing::Unsaid => self.answer_unavailable(node, request),
        }
    }

    pub(super) fn answer_absent(&mut self, node: &NodeId, request: &TableQueryRequest) {
        let by_name = request.sip.is_empty();
        let result = TableQueryResult {
            app_name: if by_name {
                request.sname.clone()
            } else {
                String::new()
            },
            query_key: request.key().to_owned(),
            live: Some(Vec::new()),
            ..TableQueryResult::default()
        };
        self.publish(node, Verb::TableQueryResult, write(&result));
    }

    /// Rows to the Sluice nodes that are interested, and the notice that makes legacy nodes ask.
    pub(super) fn push(&mut self, name: &ServiceName, kind: UpdateKind) {
        let Some(known) = self.jobs.get(name) else {
            return;
        };
        let nodes: Vec<NodeId> = known.interests.keys().cloned().collect();
        let revision = Some(known.revision_on_wire(&self.settings));
        for node in nodes {
            self.push_to(name, &node);
        }
        self.broadcast(name, kind, revision);
    }

    /// The same to one node, if it is a Sluice node; a job that is none of its business any more does not exist for it.
    pub(super) fn push_to(&mut self, name: &ServiceName, node: &NodeId) {
        let Some(known) = self.jobs.get(name) else {
            return;
        };
        let interest = known.interests.get(node);
        if interest.is_none_or(|interest| interest.until.is_none()) {
            return;
        }
        let body = match self.standing(node, known) {
            Standing::Calls | Standing::Answers => self.body(name, node, ""),
            Standing::Nothing => {
                self.interest_lost(name, node);
                Some(write(&TableQueryResult::gone(name)))
            }
            Standing::Unsaid => None,
        };
        if let Some(body) = body {
            self.publish(node, Verb::TableQueryResult, body);
        }
    }

    pub(super) fn broadcast(
        &mut self,
        name: &ServiceName,
        kind: UpdateKind,
        revision: Option<crate::message::Revision>,
    ) {
        let update = UpdatesAvailable {
            kind: Some(kind),
            revision,
        };
        self.transmits.push_back(Transmit::Publish {
            topic: Topic::updates(name).to_string(),
            payload: write(&update),
        });
    }

    pub(super) fn instance_failed(
        &mut self,
        node: &NodeId,
        request_id: &str,
        error: &str,
        retry: bool,
    ) {
        let result = InstanceResult {
            request_id: request_id.to_owned(),
            error: Some(error.to_owned()),
            retry,
            ..InstanceResult::default()
        };
        self.publish(node, Verb::InstanceResult, write(&result));
    }
}
