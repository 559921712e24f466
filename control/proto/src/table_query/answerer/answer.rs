//! What an answer says: the rows of a job, pruned for the node that asks.

use super::isolation::Standing;
use super::{Answerer, Known, Placement, Settings};
use crate::message::{
    InstanceEntry, InstanceStatus, Job, NodeId, Revision, ServiceIpEntry, TableQueryResult,
};
use crate::table_query::Key;
use crate::table_query::backoff::Random;
use sluice_wire::{Dual, InstanceIp, Ip};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Rows per answer unless configured (k of thesis 3.6.6).
pub const INSTANCES_MAX_DEFAULT: usize = 24;

impl Known {
    pub(super) fn new(job: Job, now: Duration) -> Self {
        Self {
            job,
            revision: 1,
            fetched_at: now,
            interests: BTreeMap::new(),
            placements: BTreeMap::new(),
            attached: BTreeMap::new(),
            removed: BTreeMap::new(),
            scheduled: false,
            left: super::migration::Left::default(),
            sending_on: super::migration::Left::default(),
            suspended: BTreeMap::new(),
            tenancy: super::vacancy::Tenancy::default(),
            bodies: super::body::Bodies::default(),
            signatures: super::signing::Signatures::default(),
        }
    }

    /// The epoch of an instance that the root named; 0 when it did not.
    pub(super) fn epoch_of(&self, number: u32) -> u64 {
        self.entry(number).map_or(0, |entry| entry.epoch)
    }

    pub(super) fn exists(&self, number: u32) -> bool {
        self.entry(number).is_some()
    }

    pub(super) fn entry(&self, number: u32) -> Option<&InstanceEntry> {
        let mut entries = self.job.instance_list.iter();
        entries.find(|entry| entry.instance_number == number)
    }

    /// Where the root says that an instance runs, if that is on the node and no node of ours says anything: a store that knew
    /// more was lost. `epoch` is the node's word, 0 when it cannot say.
    pub(super) fn only_root_places(
        &self,
        number: u32,
        node: &NodeId,
        epoch: u64,
    ) -> Option<InstanceStatus> {
        let entry = self.entry(number)?;
        let is_meant = epoch == 0 || entry.epoch == epoch;
        let is_here = entry.worker_id.as_deref() == Some(node.as_str());
        let is_said = self.is_removed(entry) || self.placements.contains_key(&number);
        (is_meant && is_here && entry.is_placed() && !is_said).then(|| InstanceStatus {
            instance_number: number,
            namespace_ip: entry.namespace_ip,
            namespace_ip_v6: entry.namespace_ip_v6,
            host_ip: entry.host_ip,
            host_port: entry.host_port.unwrap_or_default(),
            worker_id: entry.worker_id.clone(),
            epoch: entry.epoch,
            public_key: entry.public_key,
            answers_probes: entry.answers_probes,
        })
    }

    /// Forgets the root's older word about where an instance runs; what nodes say is kept apart.
    pub(super) fn unplace(&mut self, number: u32) {
        let mut entries = self.job.instance_list.iter_mut();
        if let Some(entry) = entries.find(|entry| entry.instance_number == number) {
            entry.unplace();
        }
    }

    /// The instance that has this InstanceIP.
    pub(super) fn number_of(&self, ip: Ip) -> Option<u32> {
        let mut entries = self.job.instance_list.iter();
        entries
            .find(|entry| has(entry, ip))
            .map(|entry| entry.instance_number)
    }

    /// Those of the numbers that instances have.
    pub(super) fn existing(&self, numbers: &BTreeSet<u32>) -> BTreeSet<u32> {
        let instances = self.job.instance_list.iter();
        instances
            .map(|entry| entry.instance_number)
            .filter(|number| numbers.contains(number))
            .collect()
    }

    /// True when the answer to `key` names something that runs.
    pub(super) fn runs(&self, key: &Key) -> bool {
        let number = match key {
            Key::Address(ip) => self.number_of(*ip),
            Key::Name(_) | Key::Node(_) => None,
        };
        self.job
            .instance_list
            .iter()
            .filter(|entry| number.is_none_or(|number| entry.instance_number == number))
            .filter_map(|entry| self.row(entry))
            .any(|(entry, placement)| {
                placement.map_or_else(|| entry.is_placed(), |it| it.status.is_placed())
            })
    }

    /// All addresses that mean this job or an instance of it.
    pub(super) fn addresses(&self) -> BTreeSet<Ip> {
        let services = self.job.service_ip_list.iter().map(ServiceIpEntry::ips);
        let instances = self.job.instance_list.iter().map(instance_ips);
        services
            .chain(instances)
            .flat_map(|ips| ips.v4.into_iter().chain(ips.v6))
            .collect()
    }

    /// The instances as they are now: the root's rows, without those deleted here, placed as our nodes say.
    pub(super) fn entries(&self) -> Vec<InstanceEntry> {
        let rows = self.job.instance_list.iter();
        rows.filter_map(|entry| self.row(entry))
            .map(|(entry, placement)| {
                let mut entry = entry.clone();
                if let Some(placement) = placement {
                    entry.place(&placement.status);
                }
                entry
            })
            .collect()
    }

    /// A row of the root's, and what a node of ours says instead about where the instance runs; `None` when there is no such
    /// instance any more.
    pub(super) fn row<'a>(
        &'a self,
        entry: &'a InstanceEntry,
    ) -> Option<(&'a InstanceEntry, Option<&'a Placement>)> {
        if self.is_removed(entry) {
            return None;
        }
        let Some(placement) = self.placements.get(&entry.instance_number) else {
            return Some((entry, None));
        };
        let epochs_say = entry.epoch != 0 && placement.epoch != 0;
        match placement.epoch.cmp(&entry.epoch) {
            // The number is another instance's by now; the root has not told us its addresses yet.
            Ordering::Greater if epochs_say => None,
            Ordering::Less if epochs_say => Some((entry, None)),
            Ordering::Less | Ordering::Equal | Ordering::Greater => Some((entry, Some(placement))),
        }
    }

    pub(super) fn is_removed(&self, entry: &InstanceEntry) -> bool {
        self.removed
            .get(&entry.instance_number)
            .is_some_and(|(epoch, _)| entry.epoch <= *epoch)
    }

    pub(super) const fn revision_on_wire(&self, settings: &Settings) -> Revision {
        Revision {
            incarnation: settings.incarnation,
            number: self.revision,
        }
    }
}

impl Answerer {
    /// What `node` is told of a job; `None` when the job is none of its business, or that is not known yet.
    pub(super) fn result(
        &self,
        known: &Known,
        node: &NodeId,
        query_key: &str,
    ) -> Option<TableQueryResult> {
        let reply_only = match self.standing(node, known) {
            Standing::Calls => false,
            Standing::Answers => true,
            Standing::Nothing | Standing::Unsaid => return None,
        };
        let mut entries = known.rows();
        let live = entries
            .iter()
            .map(|entry| (entry.instance_number, entry.epoch))
            .collect();
        let interest = known.interests.get(node);
        let pruning = Pruning {
            node,
            must_know: |number| {
                known.has_moved_from(number, node)
                    || interest.is_some_and(|interest| interest.asked.contains(&number))
            },
            is_unreachable: |number| {
                interest.is_some_and(|interest| interest.unreachable.contains(&number))
            },
        };
        pruning.prune(&mut entries, &self.settings);
        for entry in &mut entries {
            entry.reply_only = reply_only;
            entry.signature = known.signature(entry.instance_number);
        }
        Some(TableQueryResult {
            app_name: known.job.job_name.to_string(),
            query_key: query_key.to_owned(),
            instance_list: entries,
            service_ip_list: Some(known.job.service_ip_list.clone()),
            revision: Some(known.revision_on_wire(&self.settings)),
            live: Some(live),
            rules: known.job.rules.clone(),
            ..TableQueryResult::default()
        })
    }
}

/// What a node is to be told when there are more rows than an answer has.
struct Pruning<'a, M, U> {
    node: &'a NodeId,
    must_know: M,
    is_unreachable: U,
}

impl<M: Fn(u32) -> bool, U: Fn(u32) -> bool> Pruning<'_, M, U> {
    /// Keeps the `instances_max` rows that are most relevant to the node, and of those that it must know (its own instances,
    /// those that moved away from it and those it asked for) all: first what runs, then what it can reach, then the same
    /// cluster, then a choice of its own, so that nodes together load all instances evenly and each keeps its choice when
    /// others come and go. Rows that it must know and cannot reach take nobody's place.
    ///
    /// One order for both policies: no distance between nodes is known beyond "same node" and "same cluster".
    fn prune(&self, entries: &mut Vec<InstanceEntry>, settings: &Settings) {
        if entries.len() <= settings.instances_max {
            return;
        }
        let node = self.node.as_str();
        let seed = fnv1a(node.as_bytes());
        let must = |entry: &InstanceEntry| {
            entry.worker_id.as_deref() == Some(node) || (self.must_know)(entry.instance_number)
        };
        let rank = |entry: &InstanceEntry| {
            let number = entry.instance_number;
            let near = entry.cluster_id.as_deref() == Some(settings.cluster_id.as_str());
            let can_reach = !(self.is_unreachable)(number);
            // Highest random weight: a node's order of the others does not change with one instance.
            let own_choice = Random::new(seed ^ u64::from(number) << 32).next();
            let runs = entry.is_placed();
            (!must(entry), !runs, !can_reach, !near, own_choice, number)
        };
        let musts = entries.iter().filter(|entry| must(entry));
        let (lost, reached): (Vec<_>, Vec<_>) =
            musts.partition(|entry| (self.is_unreachable)(entry.instance_number));
        let keep = lost.len() + settings.instances_max.max(reached.len());
        entries.sort_by_cached_key(rank);
        entries.truncate(keep);
        entries.sort_by_key(|entry| entry.instance_number);
    }
}

/// FNV-1a, 64 bits: the same on every machine and in every run.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

pub(super) fn instance_ips(entry: &InstanceEntry) -> Dual<Ip> {
    let ips = entry.instance_ips();
    Dual {
        v4: ips.v4.map(InstanceIp::ip),
        v6: ips.v6.map(InstanceIp::ip),
    }
}

fn has(entry: &InstanceEntry, ip: Ip) -> bool {
    instance_ips(entry).iter().any(|own| own == ip)
}
