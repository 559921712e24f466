//! Which answers are believed: those whose rows the cluster signed, and that speak of no instance which has been succeeded.

use super::{Asker, Held, Job};
use crate::message::{InstanceEntry, NodeEntry, TableQueryResult};
use crate::names::ServiceName;
use crate::signature::{ClusterKey, Signed};
use crate::table_query::Row;
use std::collections::BTreeMap;
use std::time::Duration;

/// Rows, and answers about nodes, that were not believed since the asker was made. The answers that they were in changed nothing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Refused {
    /// Without a signature, or it is not the cluster's.
    pub forged: u64,
    /// Their instance number belongs to a later instance by now.
    pub outdated: u64,
}

/// The rows of an answer by instance number, each with what of it was verified, in short; `None`: nothing is.
pub(super) type Believed = BTreeMap<u32, (Row, Option<[u8; 32]>)>;

impl Asker {
    /// Believes only rows that this key signed. When it is another one than before, all is asked anew, because nothing that
    /// is held was verified by it; until it is answered it stays.
    pub fn handle_cluster_key(&mut self, key: ClusterKey, now: Duration) {
        if self.cluster_key.replace(key) == Some(key) {
            return;
        }
        for job in self.jobs.values_mut() {
            for held in job.rows.values_mut() {
                held.verified = None;
            }
        }
        if self.connected {
            self.refresh_all(now);
        }
    }

    /// Whose rows are believed; `None`: everybody's.
    #[must_use]
    pub const fn cluster_key(&self) -> Option<&ClusterKey> {
        self.cluster_key.as_ref()
    }

    /// How many rows were not believed. Every [`Asker::handle_result`] may change it.
    #[must_use]
    pub const fn refused(&self) -> Refused {
        self.refused
    }

    /// Whether the cluster's key, if one is known, signed what an answer says about a node; counted when it did not.
    pub(super) fn believe_node(&mut self, node: &NodeEntry) -> bool {
        let is_signed = |key: &ClusterKey| {
            let signature = node.signature.as_ref();
            signature.is_some_and(|signature| key.verifies(&Signed::of_node(node), signature))
        };
        let believed = self.cluster_key.as_ref().is_none_or(is_signed);
        self.refused.forged += u64::from(!believed);
        believed
    }

    /// The rows of an answer about a job; `None`, and counted, when one of them is not to be believed.
    pub(super) fn believe(
        &mut self,
        name: &ServiceName,
        result: &TableQueryResult,
    ) -> Option<Believed> {
        let job = self.jobs.get(name);
        let mut refused = Refused::default();
        let mut believed = Believed::new();
        for entry in &result.instance_list {
            let number = entry.instance_number;
            let held = job.and_then(|job| job.rows.get(&number));
            let verified = match &self.cluster_key {
                Some(key) => {
                    let verified = verified(key, name, entry, held);
                    refused.forged += u64::from(verified.is_none());
                    verified
                }
                None => None,
            };
            let latest = job.and_then(|job| job.epochs.get(&number));
            if entry.epoch != 0 && latest.is_some_and(|latest| entry.epoch < *latest) {
                refused.outdated += 1;
            }
            believed.extend(Row::of_entry(entry).map(|row| (number, (row, verified))));
        }
        self.refused.forged += refused.forged;
        self.refused.outdated += refused.outdated;
        (refused == Refused::default()).then_some(believed)
    }
}

/// The rows of what was believed in an earlier life.
pub(super) fn believed_before(result: &TableQueryResult) -> Believed {
    let rows = result.instance_list.iter().filter_map(Row::of_entry);
    rows.map(|row| (row.number, (row, None))).collect()
}

/// What was verified, in short; `None` when the cluster did not sign it. What is held already is not verified again.
fn verified(
    key: &ClusterKey,
    name: &ServiceName,
    entry: &InstanceEntry,
    held: Option<&Held>,
) -> Option<[u8; 32]> {
    let signature = entry.signature.as_ref()?;
    let signed = Signed::of(name, entry);
    let digest = signed.digest(Some(signature));
    let is_known = held.is_some_and(|held| held.verified == Some(digest));
    (is_known || key.verifies(&signed, signature)).then_some(digest)
}

impl Job {
    /// Notes which instance of each number is the latest. It is remembered when the instance is withdrawn, too.
    pub(super) fn note_epochs(&mut self) {
        for (number, held) in &self.rows {
            let latest = self.epochs.entry(*number).or_default();
            *latest = held.row.epoch.max(*latest);
        }
    }
}
