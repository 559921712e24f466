//! Nodes that are asked for by their public key. Who has a key may learn where its node is: a node shows its key only to those it
//! speaks to, and encrypted.
//!
//! What the rows here do not say the root is asked, once for all who wait. Such a question is not repeated: who asked does that.

use super::upward::{Asked, Method, escaped};
use super::{Answerer, Known, REQUEST_WAIT, Timer};
use crate::message::{
    NodeEntry, NodeId, NodeKey, TableQueryRequest, TableQueryResult, Verb, read, write,
};
use crate::names::ServiceName;
use crate::signature::Signed;
use crate::table_query::Key;
use crate::table_query::sides::Sides;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Questions to the root at a time: invented keys are not to take the place of packets' questions.
const ASKED_MAX: usize = 256;
/// Nodes that wait for one.
const WAITING_MAX: usize = 64;

/// A question on its way to the root.
#[derive(Clone, Debug)]
struct Ask {
    sent: u64,
    waiting: BTreeSet<NodeId>,
    /// Something changed after it left.
    again: bool,
}

/// Where nodes are, by key.
#[derive(Clone, Debug, Default)]
pub(super) struct Nodes {
    /// The keys that rows name.
    keys: Sides<ServiceName, NodeKey>,
    asks: BTreeMap<NodeKey, Ask>,
}

impl Known {
    /// The nodes with keys on which instances run, once for each instance.
    fn keyed_nodes(&self) -> impl Iterator<Item = NodeEntry> {
        let rows = self.job.instance_list.iter();
        let rows = rows.filter_map(|entry| self.row(entry));
        rows.filter_map(|(entry, placement)| match placement {
            Some(placement) => NodeEntry::of_status(&placement.status),
            None => NodeEntry::of_row(entry),
        })
    }
}

impl Answerer {
    pub(super) fn handle_node_question(
        &mut self,
        node: &NodeId,
        request: &TableQueryRequest,
        key: NodeKey,
        now: Duration,
    ) {
        if let Some(entry) = self.node_with(&key) {
            self.tell_node(node, entry);
        } else if self.is_absent(&Key::Node(key), now) {
            self.tell_absent(node, request, now);
        } else if self.root_lost || !self.wait_for_node(node, key, now) {
            self.answer_unavailable(node, request);
        }
    }

    /// Lets a node wait for the root's answer, which is asked for unless that is on its way; false when too many wait.
    fn wait_for_node(&mut self, node: &NodeId, key: NodeKey, now: Duration) -> bool {
        if let Some(ask) = self.nodes_by_key.asks.get_mut(&key) {
            let has_room = ask.waiting.len() < WAITING_MAX || ask.waiting.contains(node);
            if has_room {
                ask.waiting.insert(node.clone());
            }
            return has_room;
        }
        let has_room = self.nodes_by_key.asks.len() < ASKED_MAX;
        if has_room {
            self.ask_node(key, BTreeSet::from([node.clone()]), now);
        }
        has_room
    }

    fn ask_node(&mut self, key: NodeKey, waiting: BTreeSet<NodeId>, now: Duration) {
        let public_key = escaped(&key.to_string());
        let path = format!("/api/net/node{}&public_key={public_key}", self.as_cluster());
        let sent = self.send(Asked::Node(key), Method::Get, path, None);
        let ask = Ask {
            sent,
            waiting,
            again: false,
        };
        self.nodes_by_key.asks.insert(key, ask);
        self.timers.set(Timer::Node(key), now + REQUEST_WAIT);
    }

    pub(super) fn node_replied(&mut self, key: NodeKey, status: u16, body: &[u8], now: Duration) {
        if !(200..300).contains(&status) {
            // The root does not know this cluster (400), knows no such question as Oakestra's (404), or has a problem.
            if status == 400 {
                self.timers.set(Timer::Register, now);
            }
            self.node_unsaid(&key);
            return;
        }
        let Some(ask) = self.end_ask(&key) else {
            return;
        };
        let said = read::<NodeEntry>("node", body).ok();
        let said = said.filter(|entry| entry.public_key == key && entry.host_port != 0);
        // What our own nodes have said meanwhile is newer.
        match self.node_with(&key).or(said) {
            Some(entry) => {
                for node in ask.waiting {
                    self.tell_node(&node, entry.clone());
                }
            }
            None if ask.again => self.ask_node(key, ask.waiting, now),
            None => {
                self.remember_absent(Key::Node(key), now);
                let request = Key::Node(key).request(None);
                for node in ask.waiting {
                    self.tell_absent(&node, &request, now);
                }
            }
        }
    }

    /// The root cannot say now: so hear those who wait.
    pub(super) fn node_unsaid(&mut self, key: &NodeKey) {
        let request = Key::Node(*key).request(None);
        for node in self.end_ask(key).into_iter().flat_map(|ask| ask.waiting) {
            self.answer_unavailable(&node, &request);
        }
    }

    fn end_ask(&mut self, key: &NodeKey) -> Option<Ask> {
        self.timers.cancel(&Timer::Node(*key));
        let ask = self.nodes_by_key.asks.remove(key)?;
        self.asked.remove(&ask.sent);
        Some(ask)
    }

    /// The answers on their way may say that a key is nobody's, and be overtaken. True when there are some.
    pub(super) fn doubt_node_absences(&mut self) -> bool {
        for ask in self.nodes_by_key.asks.values_mut() {
            ask.again = true;
        }
        !self.nodes_by_key.asks.is_empty()
    }

    /// Notes which keys the rows of a job name, after that may have changed. Who was told that nobody has one hears it.
    pub(super) fn note_node_keys(&mut self, job: &ServiceName) {
        let known = self.jobs.get(job);
        let nodes = known.into_iter().flat_map(Known::keyed_nodes);
        let keys: BTreeSet<_> = nodes.map(|node| node.public_key).collect();
        let before = self.nodes_by_key.keys.of_job(job);
        if keys == before {
            return;
        }
        self.nodes_by_key.keys.set(job, keys.clone());
        for key in keys.difference(&before) {
            let told = self.absent.end(&Key::Node(*key)).unwrap_or_default();
            for node in told.keys() {
                if let Some(entry) = self.node_with(key) {
                    self.tell_node(node, entry);
                }
            }
        }
    }

    /// The node with a key, as rows say; of several the one that has said itself that the key is its own.
    fn node_with(&self, key: &NodeKey) -> Option<NodeEntry> {
        let jobs = self.nodes_by_key.keys.jobs(key).into_iter().flatten();
        let known = jobs.filter_map(|job| self.jobs.get(job));
        let nodes = known.flat_map(Known::keyed_nodes);
        nodes
            .filter(|node| node.public_key == *key)
            .max_by_key(|node| {
                let id = node.worker_id.as_deref();
                let id = id.and_then(|id| NodeId::new(id).ok());
                id.is_some_and(|id| self.node_keys.get(&id) == Some(key))
            })
    }

    fn tell_node(&mut self, node: &NodeId, mut entry: NodeEntry) {
        let signer = self.settings.signer.as_ref();
        entry.signature = signer.map(|signer| signer.sign(&Signed::of_node(&entry)));
        let result = TableQueryResult {
            query_key: entry.public_key.to_string(),
            node: Some(entry),
            ..TableQueryResult::default()
        };
        self.publish(node, Verb::TableQueryResult, write(&result));
    }
}
