//! Keys of nodes that count no more: nothing is told to run behind one, and nothing new is believed to.

use super::{Effect, Refusal, Reply, Root, Work, refuse};
use crate::message::{NodeKey, RevokedKeys, UpdateKind};
use serde_json::json;

/// Keys at a time: every cluster manager keeps them all.
pub const REVOKED_MAX: usize = 65_536;

impl Root {
    /// Where its rows say that instances run behind the key, they run nowhere from now on; clusters are told of these, and of
    /// the key by [`Root::revocations`].
    pub(super) fn key_revoke(&mut self, key: NodeKey, work: &mut Work) -> Result<Reply, Refusal> {
        if !self.revoked.contains(&key) && self.revoked.len() >= REVOKED_MAX {
            return refuse(
                409,
                format!(
                    "{key} is one too many: {REVOKED_MAX} keys are revoked; allow one that no node has any more"
                ),
            );
        }
        if self.revoked.insert(key) {
            self.counters.revocations += 1;
            work.revoked.insert(key);
        }
        let withdrawn = self.strike(key, work);
        Ok(Reply::json(
            &json!({"public_key": key, "withdrawn": withdrawn}),
        ))
    }

    /// The key counts again. Who has it says so when its gateway connects the next time.
    pub(super) fn key_allow(&mut self, key: NodeKey, work: &mut Work) -> Result<Reply, Refusal> {
        if !self.revoked.remove(&key) {
            return refuse(
                404,
                format!("{key} is not revoked; `sluice key revoked` shows those that are"),
            );
        }
        self.counters.revocations += 1;
        work.revoked.insert(key);
        Ok(Reply::json(&json!({"public_key": key})))
    }

    /// GET `/api/net/revoked_keys`
    pub(super) fn revoked_reply(&self) -> Reply {
        Reply::json(&RevokedKeys {
            revision: self.counters.revocations,
            keys: self.revoked.iter().copied().collect(),
        })
    }

    /// The keys that are revoked, in order.
    pub fn revoked(&self) -> impl Iterator<Item = &NodeKey> {
        self.revoked.iter()
    }

    /// Grows with every change of the keys that are revoked. To be told with every answer, so that clusters ask for them.
    #[must_use]
    pub const fn revocations(&self) -> u64 {
        self.counters.revocations
    }

    /// Gives how many instances ran behind the key.
    fn strike(&mut self, key: NodeKey, work: &mut Work) -> usize {
        let mut withdrawn = 0;
        let ids: Vec<String> = self.services.keys().cloned().collect();
        for id in ids {
            let Some(service) = self.services.get_mut(&id) else {
                continue;
            };
            let rows = &mut service.job.instance_list;
            let ran = rows.iter().filter(|row| row.is_placed()).count();
            let struck = rows
                .iter_mut()
                .filter_map(|row| row.strike(|it| *it == key).then_some(()));
            if struck.count() == 0 {
                continue;
            }
            let runs = rows.iter().filter(|row| row.is_placed()).count();
            withdrawn += ran - runs;
            let name = service.job.job_name.clone();
            let revision = self.next_revision();
            if let Some(service) = self.services.get_mut(&id) {
                service.job.revision = revision;
            }
            work.services.insert(id);
            self.notify(&name, -1, UpdateKind::Undeployment, work);
            if ran > 0 && runs == 0 {
                work.effects.push(Effect::NoInstanceLeft { job: name });
            }
        }
        withdrawn
    }
}
