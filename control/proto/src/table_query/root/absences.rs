//! Who asked lately for what does not exist: a cluster that is to be told when it does. Nothing is stored, and no interest
//! follows from it (thesis 3.6.6, exception 2): clusters and gateways believe in an absence for seconds only.

use super::{Caller, Root, Work};
use crate::message::UpdateKind;
use crate::names::ServiceName;
use crate::table_query::{Key, answerer, asker};
use std::collections::{BTreeMap, BTreeSet};

/// Keys remembered: a scan must not fill the memory.
const KEYS_MAX: usize = 4096;
/// In seconds: the cluster says it to its nodes without asking again, the last of them believes it, and the way there.
const BELIEVED_S: u64 = answerer::ABSENT_MAX.as_secs() + asker::ABSENT_MAX.as_secs() + 3;

/// By key, the clusters that asked and until when they are told. Keys of nodes, which anybody can invent, do not take the place of
/// what packets ask for.
#[derive(Clone, Debug, Default)]
pub(super) struct Absences {
    jobs: Asked,
    nodes: Asked,
}

type Asked = BTreeMap<Key, BTreeMap<String, u64>>;

/// Not part of the state that the store has.
impl PartialEq for Absences {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Absences {
    const fn beside(&mut self, key: &Key) -> &mut Asked {
        match key {
            Key::Address(_) | Key::Name(_) => &mut self.jobs,
            Key::Node(_) => &mut self.nodes,
        }
    }

    fn note(&mut self, key: &Key, cluster: String, now_s: u64) {
        let all = self.beside(key);
        if all.len() >= KEYS_MAX && !all.contains_key(key) {
            all.retain(|_, asked| asked.values().any(|until_s| now_s < *until_s));
            if all.len() >= KEYS_MAX {
                return;
            }
        }
        let asked = all.entry(key.clone()).or_default();
        asked.insert(cluster, now_s.saturating_add(BELIEVED_S));
    }

    fn end(&mut self, keys: impl IntoIterator<Item = Key>, now_s: u64) -> BTreeSet<String> {
        let asked = keys
            .into_iter()
            .filter_map(|key| self.beside(&key).remove(&key));
        let believing = asked.flatten().filter(|(_, until_s)| now_s < *until_s);
        believing.map(|(cluster, _)| cluster).collect()
    }
}

impl Root {
    /// The caller asked for `key`, which means nothing. Oakestra's clusters, which do not say who they are, are not noted:
    /// they ask for every packet anew.
    pub(super) fn note_absence(&mut self, key: &Key, caller: &Caller, cluster: String, now_s: u64) {
        if caller.cluster_id.is_some() {
            self.absences.note(key, cluster, now_s);
        }
    }

    /// These keys mean the job, or an instance of it, from now on: whoever asked for one hears that.
    pub(super) fn end_absences(
        &mut self,
        job: &ServiceName,
        keys: impl IntoIterator<Item = Key>,
        now_s: u64,
        work: &mut Work,
    ) {
        for cluster in self.absences.end(keys, now_s) {
            work.tell(&cluster, job, -1, UpdateKind::Deployment);
        }
    }
}
