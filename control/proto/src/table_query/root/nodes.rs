//! Nodes by their public key, as the rows of the services name them.

use super::{Root, Service, Work};
use crate::message::{NodeEntry, NodeKey};
use crate::table_query::Key;
use std::collections::BTreeSet;

impl Service {
    /// The nodes with keys on which instances run, once for each instance.
    fn keyed_nodes(&self) -> impl Iterator<Item = NodeEntry> {
        let rows = self.job.instance_list.iter();
        rows.filter_map(NodeEntry::of_row)
    }

    pub(super) fn node_keys(&self) -> BTreeSet<NodeKey> {
        self.keyed_nodes().map(|node| node.public_key).collect()
    }
}

impl Root {
    /// The node with this key; of several that claim it, one.
    #[must_use]
    pub fn node_with(&self, key: &NodeKey) -> Option<NodeEntry> {
        let services = self.node_keys.jobs(key).into_iter().flatten();
        let services = services.filter_map(|id| self.services.get(id));
        let mut nodes = services.flat_map(Service::keyed_nodes);
        nodes.find(|node| node.public_key == *key)
    }

    /// Notes which keys the services that a command touched name now. Whoever asked for one that was nobody's hears it.
    pub(super) fn note_node_keys(&mut self, now_s: u64, work: &mut Work) {
        for id in work.services.clone() {
            let service = self.services.get(&id);
            let keys = service.map(Service::node_keys).unwrap_or_default();
            let before = self.node_keys.of_job(&id);
            let new: Vec<Key> = keys.difference(&before).copied().map(Key::Node).collect();
            let name = service.map(|service| service.job.job_name.clone());
            self.node_keys.set(&id, keys);
            if let Some(name) = name {
                self.end_absences(&name, new, now_s, work);
            }
        }
    }
}
