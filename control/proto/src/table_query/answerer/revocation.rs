//! Keys of nodes that count no more, as the root says for all clusters, or an operator for this one: nobody is told that something
//! runs behind one, and a node that says it of itself is refused.
//!
//! The root says with each answer how often its list has changed; the list is asked for when that is news.

use super::upward::{Asked, Method};
use super::{Answerer, PublishError, REQUEST_WAIT, Report, Timer};
use crate::message::{InstanceStatus, Job, NodeId, NodeKey, RevokedKeys, read};
use crate::names::ServiceName;
use std::collections::BTreeSet;
use std::time::Duration;

/// What is revoked.
#[derive(Clone, Debug, Default)]
pub(super) struct Revoked {
    /// The root's list, as it was last heard.
    pub(super) root: RevokedKeys,
    /// Revoked here, for this cluster alone.
    pub(super) own: BTreeSet<NodeKey>,
    /// Both.
    all: BTreeSet<NodeKey>,
    /// The request for the root's list, and when it left.
    asked: Option<(u64, Duration)>,
    refused: u64,
}

impl Revoked {
    pub(super) fn contains(&self, key: &NodeKey) -> bool {
        self.all.contains(key)
    }

    /// After one of the lists changed. Gives the keys that were not revoked before.
    pub(super) fn unite(&mut self) -> BTreeSet<NodeKey> {
        let all: BTreeSet<NodeKey> = self.root.keys.union(&self.own).copied().collect();
        let new = all.difference(&self.all).copied().collect();
        self.all = all;
        new
    }

    /// Forgets what the root may know still: that instances of a job run behind such keys.
    pub(super) fn strike(&self, job: &mut Job) {
        if !self.all.is_empty() {
            for row in &mut job.instance_list {
                row.strike(|key| self.all.contains(key));
            }
        }
    }
}

impl Answerer {
    /// An operator revokes a key for this cluster. Gives how many instances of its nodes ran behind it.
    pub fn handle_key_revoked(&mut self, key: NodeKey, now: Duration) -> usize {
        if self.revoked.own.insert(key) {
            self.dirty.revoked(key);
        }
        let new = self.revoked.unite();
        self.strike(&new, now)
    }

    /// Takes that back; false when the key was not revoked here. What the root has revoked stays revoked.
    pub fn handle_key_allowed(&mut self, key: &NodeKey) -> bool {
        let was_revoked = self.revoked.own.remove(key);
        if was_revoked {
            self.dirty.revoked(*key);
            self.revoked.unite();
        }
        was_revoked
    }

    /// The root says how often its list of revoked keys has changed.
    pub fn handle_revocations(&mut self, revision: u64, now: Duration) {
        let is_asked = |(_, at): (u64, Duration)| now < at + REQUEST_WAIT;
        if revision == self.revoked.root.revision || self.revoked.asked.is_some_and(is_asked) {
            return;
        }
        let path = format!("/api/net/revoked_keys{}", self.as_cluster());
        let id = self.send(Asked::Revoked, Method::Get, path, None);
        self.revoked.asked = Some((id, now));
    }

    /// The keys that are revoked, in order, and whether the root has revoked them.
    pub fn revoked(&self) -> impl Iterator<Item = (&NodeKey, bool)> {
        let all = self.revoked.all.iter();
        all.map(|key| (key, self.revoked.root.keys.contains(key)))
    }

    /// How many messages were refused because their node's key is revoked. Every [`Answerer::handle_publish`] may change it.
    #[must_use]
    pub const fn refused_keys(&self) -> u64 {
        self.revoked.refused
    }

    pub(super) fn revoked_replied(&mut self, status: u16, body: &[u8], now: Duration) {
        self.revoked.asked = None;
        // Anything else is asked for again with the next answer.
        if (200..300).contains(&status)
            && let Ok(list) = read::<RevokedKeys>("list of keys", body)
        {
            self.revoked.root = list;
            self.dirty.revoked_by_root();
            let new = self.revoked.unite();
            self.strike(&new, now);
        }
    }

    pub(super) const fn revoked_unsaid(&mut self) {
        self.revoked.asked = None;
    }

    /// Refuses, and counts, what a node says with a revoked key.
    pub(super) fn check_key(
        &mut self,
        node: &NodeId,
        key: Option<NodeKey>,
    ) -> Result<(), PublishError> {
        match key.filter(|key| self.revoked.contains(key)) {
            Some(key) => {
                self.revoked.refused += 1;
                let node = node.clone();
                Err(PublishError::Revoked { node, key })
            }
            None => Ok(()),
        }
    }

    /// Nothing runs behind these keys any more. Instances live on, for whom they are scheduled or allotted to; gives how many of our
    /// nodes' ran.
    fn strike(&mut self, keys: &BTreeSet<NodeKey>, now: Duration) -> usize {
        if keys.is_empty() {
            return 0;
        }
        let is_struck = |key: &Option<NodeKey>| key.is_some_and(|key| keys.contains(&key));
        let nodes = self.node_keys.iter();
        let nodes: Vec<NodeId> = nodes
            .filter(|(_, key)| keys.contains(*key))
            .map(|(node, _)| node.clone())
            .collect();
        for node in nodes {
            self.note_key(&node, None);
        }
        self.unsay_struck(|status| is_struck(&status.public_key));
        let mut withdrawn = 0;
        let names: Vec<ServiceName> = self.jobs.keys().cloned().collect();
        for name in names {
            let Some(known) = self.jobs.get_mut(&name) else {
                continue;
            };
            let mut ended = Vec::new();
            known.placements.retain(|_, placement| {
                let is_struck = is_struck(&placement.status.public_key);
                if is_struck {
                    ended.push((placement.node.clone(), placement.status.clone()));
                }
                !is_struck
            });
            let rows = known.job.instance_list.iter_mut();
            let struck = rows.filter_map(|row| row.strike(|key| keys.contains(key)).then_some(()));
            let is_shown = struck.count() > 0;
            withdrawn += ended.len();
            let suspended = ended.iter();
            let suspended = suspended.map(|(node, status)| (status.instance_number, node.clone()));
            known.suspended.extend(suspended);
            for (_, status) in ended.iter().cloned() {
                self.unplace(&name, status.instance_number, status, now);
            }
            if ended.is_empty() && is_shown {
                self.changed(&name, crate::message::UpdateKind::Undeployment);
            }
            self.await_all_taking(&name, now);
        }
        withdrawn
    }

    /// What was to be reported of jobs that are not known yet.
    fn unsay_struck(&mut self, is_struck: impl Fn(&InstanceStatus) -> bool) {
        let reports = self.reports.iter();
        let struck: Vec<_> = reports
            .filter(|((job, _), outgoing)| {
                let Report::Placed(status) = &outgoing.report else {
                    return false;
                };
                is_struck(status) && !self.jobs.contains_key(job)
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in struck {
            self.reports.remove(&key);
            self.dirty.report(&key);
            self.timers.cancel(&Timer::Report(key.0.clone(), key.1));
            self.note_residents(&key.0);
        }
    }
}
