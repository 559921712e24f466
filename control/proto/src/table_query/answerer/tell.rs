//! What nodes are told: answers, pushed changes, refusals.

use super::{Answerer, Transmit};
use crate::message::{
    InstanceResult, NodeId, TableQueryRequest, TableQueryResult, Topic, UpdateKind,
    UpdatesAvailable, Verb, write,
};
use crate::names::ServiceName;

impl Answerer {
    /// Something of the job that shows in an answer may have changed: counts it, writes it, and tells everybody.
    pub(super) fn changed(&mut self, name: &ServiceName, kind: UpdateKind) {
        let Some(known) = self.jobs.get_mut(name) else {
            return;
        };
        known.revision += 1;
        self.dirty.job(name);
        self.push(name, kind);
    }

    pub(super) fn publish(&mut self, node: &NodeId, verb: Verb, payload: Vec<u8>) {
        self.transmits.push_back(Transmit::Publish {
            topic: Topic::node(node.clone(), verb).to_string(),
            payload,
        });
    }

    pub(super) fn answer(&mut self, name: &ServiceName, node: &NodeId, query_key: &str) {
        if let Some(known) = self.jobs.get(name) {
            let interest = known.interests.get(node);
            let result = known.result(&self.settings, node, interest, query_key);
            self.publish(node, Verb::TableQueryResult, write(&result));
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
        let mut messages = Vec::new();
        for (node, interest) in &known.interests {
            if interest.until.is_some() {
                let result = known.result(&self.settings, node, Some(interest), "");
                messages.push((node.clone(), write(&result)));
            }
        }
        let revision = Some(known.revision_on_wire(&self.settings));
        for (node, payload) in messages {
            self.publish(&node, Verb::TableQueryResult, payload);
        }
        self.broadcast(name, kind, revision);
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
