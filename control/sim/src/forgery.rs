//! A broker that says what no cluster manager said: nobody may believe where it places instances.

use crate::manager::signer_of;
use crate::world::World;
use sluice_proto::message::{NodeKey, TableQueryResult, Topic, Verb, write};
use sluice_proto::signature::Signed;

/// It is no node's.
const FOREIGN: NodeKey = NodeKey::from_bytes([0xff; 32]);

impl World {
    /// The broker tells a node that the instances of a service it knows are behind another key. Of the rows some are still signed,
    /// some never were, and some are by another signer.
    ///
    /// # Panics
    /// When the node believes it.
    pub fn forge(&mut self, index: usize, which: usize, how: u32) {
        let node = &self.nodes[index];
        if !node.is_connected() || node.leaving.is_some() {
            return;
        }
        let jobs = node.asker.jobs().count();
        let Some(job) = node.asker.jobs().nth(which % jobs.max(1)).cloned() else {
            return;
        };
        let answerer = &self.clusters[node.cluster].answerer;
        let Some(mut said) = answerer.view(&job, &node.id) else {
            return;
        };
        if said.instance_list.is_empty() {
            return;
        }
        let foreign = signer_of(u64::from(how));
        for entry in &mut said.instance_list {
            entry.public_key = Some(FOREIGN);
            match how % 3 {
                0 => entry.signature = Some(foreign.sign(&Signed::of(&job, entry))),
                1 => entry.signature = None,
                _ => {}
            }
        }
        // The newest of all, if the gateway went by that.
        if let Some(revision) = &mut said.revision {
            revision.number += 1_000_000;
        }
        self.note(format!("node{index} hears forged rows of {job}"));
        self.tell_forged(index, &said);
    }

    fn tell_forged(&mut self, index: usize, said: &TableQueryResult) {
        let node = &self.nodes[index];
        let topic = Topic::node(node.id.clone(), Verb::TableQueryResult).to_string();
        let before = node.asker.refused().forged;
        let is_verified = node.asker.cluster_key().is_some();
        self.node_receives(index, &topic, &write(said));
        let after = self.nodes[index].asker.refused().forged;
        let rows = said.instance_list.len() as u64;
        assert!(
            !is_verified || after == before + rows,
            "node{index} refused {} of {rows} forged rows",
            after - before
        );
    }
}
