//! Node subnets: a few are fetched from the root before anybody asks, so that a node can join while the root is away.

use crate::store::Batch;
use serde::{Deserialize, Serialize};
use sluice_proto::message::{self, NodeId, SubnetGrant, SubnetResult};
use std::collections::{BTreeMap, BTreeSet};

/// Subnets kept ready. A site grows by a few nodes between two moments when the root can be reached.
const READY: usize = 4;

/// Which node has which subnet, and which are free. A node that asks again gets the same one.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    free: BTreeMap<String, SubnetGrant>,
    nodes: BTreeMap<NodeId, SubnetGrant>,
    waiting: BTreeSet<NodeId>,
    fetching: usize,
    changes: Batch,
}

/// A record on disk: a subnet, and the node that has it.
#[derive(Debug, Deserialize, Serialize)]
struct Record {
    #[serde(flatten)]
    grant: SubnetGrant,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<String>,
}

/// Prefix of our keys in the store.
pub(crate) const RECORDS: &str = "subnet/";

impl Pool {
    /// Takes over the records of an earlier life; those that cannot be read are named in the result.
    pub(crate) fn restore<'a>(
        &mut self,
        records: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Vec<String> {
        let mut unreadable = Vec::new();
        for (key, bytes) in records {
            let Ok(record) = message::read::<Record>("subnet record", bytes) else {
                unreadable.push(key.to_owned());
                continue;
            };
            match record.node.map(NodeId::new) {
                None => {
                    self.free.insert(name(&record.grant), record.grant);
                }
                Some(Ok(node)) => {
                    self.nodes.insert(node, record.grant);
                }
                Some(Err(_)) => unreadable.push(key.to_owned()),
            }
        }
        unreadable
    }

    /// The subnet of `node`, now if there is one; else with a later [`Pool::handle_grant`].
    pub(crate) fn handle_request(&mut self, node: &NodeId) -> Option<SubnetResult> {
        if let Some(grant) = self.nodes.get(node) {
            return Some(result(grant));
        }
        let Some((_, grant)) = self.free.pop_first() else {
            self.waiting.insert(node.clone());
            return None;
        };
        Some(self.assign(node, grant))
    }

    /// The root gave a subnet: to the node that waits, if any.
    pub(crate) fn handle_grant(&mut self, grant: SubnetGrant) -> Option<(NodeId, SubnetResult)> {
        self.fetching = self.fetching.saturating_sub(1);
        if let Some(node) = self.waiting.pop_first() {
            let result = self.assign(&node, grant);
            return Some((node, result));
        }
        self.record(&grant, None);
        self.free.insert(name(&grant), grant);
        None
    }

    /// The root gave none.
    pub(crate) fn handle_failure(&mut self) {
        self.fetching = self.fetching.saturating_sub(1);
    }

    /// How many more to ask the root for; they count as asked from now on.
    pub(crate) fn fetch(&mut self) -> usize {
        let missing = (READY + self.waiting.len()).saturating_sub(self.free.len() + self.fetching);
        self.fetching += missing;
        missing
    }

    /// What has to be on disk before an answer that was given since the last call may go out.
    pub(crate) fn take_changes(&mut self) -> Batch {
        std::mem::take(&mut self.changes)
    }

    pub(crate) fn subnet_of(&self, node: &NodeId) -> Option<&SubnetGrant> {
        self.nodes.get(node)
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    fn assign(&mut self, node: &NodeId, grant: SubnetGrant) -> SubnetResult {
        self.record(&grant, Some(node));
        let result = result(&grant);
        self.nodes.insert(node.clone(), grant);
        result
    }

    fn record(&mut self, grant: &SubnetGrant, node: Option<&NodeId>) {
        let record = Record {
            grant: grant.clone(),
            node: node.map(|node| node.as_str().to_owned()),
        };
        self.changes
            .put(format!("{RECORDS}{}", name(grant)), message::write(&record));
    }
}

/// Names a subnet in the store.
fn name(grant: &SubnetGrant) -> String {
    let family = |ip: Option<sluice_wire::Ip>| ip.map(|ip| ip.to_string()).unwrap_or_default();
    format!(
        "{} {}",
        family(grant.subnet_addr),
        family(grant.subnet_addr_v6)
    )
}

fn result(grant: &SubnetGrant) -> SubnetResult {
    SubnetResult {
        address: grant.subnet_addr,
        addressv6: grant.subnet_addr_v6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(number: u8) -> SubnetGrant {
        SubnetGrant {
            subnet_addr: Some(format!("10.18.0.{number}").parse().unwrap()),
            subnet_addr_v6: Some(format!("fc00::{number}00").parse().unwrap()),
        }
    }

    fn node(id: &str) -> NodeId {
        NodeId::new(id).unwrap()
    }

    #[test]
    fn a_node_joins_from_the_pool_while_the_root_is_away_and_keeps_its_subnet() {
        let mut pool = Pool::default();
        assert_eq!(pool.fetch(), READY);
        assert_eq!(pool.fetch(), 0, "they are on their way");
        assert!(pool.handle_grant(grant(0)).is_none());
        for _ in 1..READY {
            pool.handle_failure();
        }
        let first = pool.handle_request(&node("a")).unwrap();
        assert_eq!(first.address, grant(0).subnet_addr);
        assert_eq!(pool.handle_request(&node("a")), Some(first));
        assert_eq!(pool.handle_request(&node("b")), None);
        assert_eq!(pool.fetch(), READY + 1);
        let (waited, result) = pool.handle_grant(grant(64)).unwrap();
        assert_eq!(waited, node("b"));
        assert_eq!(result.address, grant(64).subnet_addr);
    }

    #[test]
    fn after_a_restart_every_node_and_every_free_subnet_is_what_it_was() {
        let mut pool = Pool::default();
        pool.fetch();
        pool.handle_grant(grant(0));
        pool.handle_grant(grant(64));
        let given = pool.handle_request(&node("a")).unwrap();
        let mut disk = BTreeMap::new();
        for (key, value) in pool.take_changes().changes {
            disk.insert(key, value.unwrap());
        }
        disk.insert("subnet/broken".to_owned(), b"{".to_vec());
        let mut again = Pool::default();
        let records = disk
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_slice()));
        assert_eq!(again.restore(records), ["subnet/broken"]);
        assert_eq!(again.handle_request(&node("a")), Some(given));
        assert_eq!(again.free(), 1);
        let other = again.handle_request(&node("b")).unwrap();
        assert_eq!(other.address, grant(64).subnet_addr);
    }
}
