//! What a cluster manager keeps across restarts: jobs with their interests and placements, subnets, unsent reports.

use super::leave::{Returning, StoredReturn};
use super::migration::SENDING_ON_FOR;
use super::start::StoredNode;
use super::vacancy::Tenancy;
use super::{
    Answerer, Attached, INTEREST_DEFAULT, Interest, Known, Outgoing, Placement, Report, Settings,
    Timer,
};
use crate::message::{InstanceStatus, Job, NodeId, NodeKey, SubnetGrant};
use crate::names::ServiceName;
use crate::record::{Change, RestoreError, read};
use serde::{Deserialize, Serialize};
use sluice_wire::Ip;
use std::collections::BTreeSet;
use std::time::Duration;

/// The record with the identity of the root's store.
const ROOT_STORE: &str = "root_store";
/// The record with the id of the request for a subnet that is not answered.
const SUBNET_REQUEST: &str = "subnet_request";
/// The record with the keys that the root has revoked.
const REVOKED_BY_ROOT: &str = "revoked_by_root";

/// A job as it is kept across restarts.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct StoredJob {
    job: Job,
    /// Node, whether its interest expires, and the instances it asked for.
    interests: Vec<(String, bool, BTreeSet<u32>)>,
    /// What nodes said: node, status, epoch.
    placements: Vec<(String, InstanceStatus, u64)>,
    attached: BTreeSet<u32>,
    /// Deleted here: number and epoch.
    removed: Vec<(u32, u64)>,
    scheduled: bool,
    #[serde(default)]
    left: super::migration::Left,
    /// Nodes that send on what moved away from them.
    #[serde(default)]
    sending_on: super::migration::Left,
    /// Instances and nodes whose keys are revoked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    suspended: Vec<(u32, String)>,
    #[serde(default)]
    tenancy: Tenancy,
}

#[derive(Debug, Deserialize, Serialize)]
struct StoredReport {
    job: ServiceName,
    number: u32,
    /// `None`: removed.
    placed: Option<InstanceStatus>,
    epoch: u64,
}

/// Records that differ from the store.
#[derive(Clone, Debug, Default)]
pub(super) struct Dirty {
    jobs: BTreeSet<ServiceName>,
    nodes: BTreeSet<NodeId>,
    spares: BTreeSet<String>,
    returning: BTreeSet<Ip>,
    reports: BTreeSet<(ServiceName, u32)>,
    revoked: BTreeSet<NodeKey>,
    revoked_by_root: bool,
    root_store: bool,
    subnet_request: bool,
}

impl Dirty {
    pub(super) const fn subnet_request(&mut self) {
        self.subnet_request = true;
    }

    pub(super) fn revoked(&mut self, key: NodeKey) {
        self.revoked.insert(key);
    }

    pub(super) const fn revoked_by_root(&mut self) {
        self.revoked_by_root = true;
    }

    pub(super) const fn root_store(&mut self) {
        self.root_store = true;
    }

    pub(super) fn job(&mut self, name: &ServiceName) {
        self.jobs.insert(name.clone());
    }

    pub(super) fn node(&mut self, node: &NodeId) {
        self.nodes.insert(node.clone());
    }

    pub(super) fn spare(&mut self, grant: &SubnetGrant) {
        self.spares.insert(spare_key(grant));
    }

    pub(super) fn returning(&mut self, network: Ip) {
        self.returning.insert(network);
    }

    pub(super) fn report(&mut self, key: &(ServiceName, u32)) {
        self.reports.insert(key.clone());
    }
}

fn spare_key(grant: &SubnetGrant) -> String {
    let first = grant.subnet_addr.or(grant.subnet_addr_v6);
    first.map_or_else(String::new, |ip| format!("spare/{ip}"))
}

impl Answerer {
    /// What is kept of a job, if it is known.
    pub(super) fn record(&self, name: &ServiceName) -> Option<StoredJob> {
        self.jobs.get(name).map(stored)
    }

    pub(super) fn next_change(&mut self) -> Option<Change> {
        if std::mem::take(&mut self.dirty.root_store) {
            return Some(Change::put(ROOT_STORE.to_owned(), &self.root_store));
        }
        if std::mem::take(&mut self.dirty.subnet_request) {
            return Some(match &self.subnet_request {
                Some(id) => Change::put(SUBNET_REQUEST.to_owned(), id),
                None => Change::Delete {
                    key: SUBNET_REQUEST.to_owned(),
                },
            });
        }
        if std::mem::take(&mut self.dirty.revoked_by_root) {
            let key = REVOKED_BY_ROOT.to_owned();
            return Some(Change::put(key, &self.revoked.root));
        }
        if let Some(node_key) = self.dirty.revoked.pop_first() {
            let key = format!("revoked/{node_key}");
            return Some(if self.revoked.own.contains(&node_key) {
                Change::put(key, &node_key)
            } else {
                Change::Delete { key }
            });
        }
        if let Some(name) = self.dirty.jobs.pop_first() {
            let key = format!("job/{}", name.as_str().to_ascii_lowercase());
            return Some(match self.jobs.get(&name) {
                Some(known) => Change::put(key, &stored(known)),
                None => Change::Delete { key },
            });
        }
        if let Some(node) = self.dirty.nodes.pop_first() {
            let key = format!("node/{node}");
            return Some(match self.nodes.get(&node) {
                Some(grant) => {
                    let start = self.starts.get(&node).cloned();
                    let grant = grant.clone();
                    let public_key = self.node_keys.get(&node).copied();
                    let stored = StoredNode {
                        grant,
                        start,
                        public_key,
                    };
                    Change::put(key, &stored)
                }
                None => Change::Delete { key },
            });
        }
        if let Some(key) = self.dirty.spares.pop_first() {
            let spare = self.spare.iter().find(|grant| spare_key(grant) == key);
            return Some(match spare {
                Some(grant) => Change::put(key, grant),
                None => Change::Delete { key },
            });
        }
        if let Some(network) = self.dirty.returning.pop_first() {
            let key = format!("returning/{network}");
            return Some(match self.returning.get(&network) {
                Some(returning) => Change::put(key, &returning.stored),
                None => Change::Delete { key },
            });
        }
        let (job, number) = self.dirty.reports.pop_first()?;
        let key = format!("report/{}/{number}", job.as_str().to_ascii_lowercase());
        Some(match self.reports.get(&(job.clone(), number)) {
            Some(outgoing) => {
                let (placed, epoch) = match &outgoing.report {
                    Report::Placed(status) => (Some(status.clone()), status.epoch),
                    Report::Removed { epoch } => (None, *epoch),
                };
                let stored = StoredReport {
                    job,
                    number,
                    placed,
                    epoch,
                };
                Change::put(key, &stored)
            }
            None => Change::Delete { key },
        })
    }

    /// A manager that goes on from what was written. It answers at once from that, and asks the root for every job anew.
    ///
    /// # Errors
    /// Names the record that cannot be read.
    pub fn restore<'a>(
        settings: Settings,
        seed: u64,
        records: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        now: Duration,
    ) -> Result<Self, RestoreError> {
        let mut answerer = Self::new(settings, seed, now);
        for (key, value) in records {
            let (kind, id) = key.split_once('/').unwrap_or((key, ""));
            match kind {
                "job" => answerer.restore_job(key, read(key, value)?, now)?,
                "node" => {
                    let node = node_of(key, id)?;
                    let StoredNode {
                        grant,
                        start,
                        public_key,
                    } = read(key, value)?;
                    answerer
                        .starts
                        .extend(start.map(|start| (node.clone(), start)));
                    answerer
                        .node_keys
                        .extend(public_key.map(|key| (node.clone(), key)));
                    answerer.nodes.insert(node, grant);
                }
                ROOT_STORE => answerer.root_store = read(key, value)?,
                REVOKED_BY_ROOT => answerer.revoked.root = read(key, value)?,
                "revoked" => {
                    answerer.revoked.own.insert(read(key, value)?);
                }
                SUBNET_REQUEST => answerer.subnet_request = Some(read(key, value)?),
                "spare" => answerer.spare.push_back(read(key, value)?),
                "returning" => {
                    let stored: StoredReturn = read(key, value)?;
                    if let Some(network) = stored.grant.networks().iter().next() {
                        answerer.timers.set(Timer::Return(network), now);
                        answerer.returning.insert(network, Returning::new(stored));
                    }
                }
                "report" => {
                    let stored: StoredReport = read(key, value)?;
                    let report = match stored.placed {
                        Some(status) => Report::Placed(status),
                        None => Report::Removed {
                            epoch: stored.epoch,
                        },
                    };
                    answerer
                        .timers
                        .set(Timer::Report(stored.job.clone(), stored.number), now);
                    answerer.reports.insert(
                        (stored.job, stored.number),
                        Outgoing {
                            report,
                            attempts: 0,
                            sent: None,
                            again: false,
                        },
                    );
                }
                _ => {
                    return Err(RestoreError::Kind {
                        key: key.to_owned(),
                    });
                }
            }
        }
        answerer.revoked.unite();
        answerer.restore_residents();
        Ok(answerer)
    }

    fn restore_job(
        &mut self,
        key: &str,
        stored: StoredJob,
        now: Duration,
    ) -> Result<(), RestoreError> {
        let name = stored.job.job_name.clone();
        let mut known = Known::new(stored.job, now);
        known.attached = stored
            .attached
            .into_iter()
            .map(|number| (number, Attached::default()))
            .collect();
        known.scheduled = stored.scheduled;
        known.left = stored.left;
        known.tenancy = stored.tenancy;
        if known.tenancy.owes() {
            self.owing.insert(name.clone());
        }
        known.removed = stored
            .removed
            .into_iter()
            .map(|(number, epoch)| (number, (epoch, 0)))
            .collect();
        for (node, expires, asked) in stored.interests {
            let node = node_of(key, &node)?;
            let until = expires.then(|| now + INTEREST_DEFAULT);
            if let Some(until) = until {
                self.timers
                    .set(Timer::Interest(name.clone(), node.clone()), until);
            }
            self.interested.add(&node, &name);
            let interest = Interest {
                until,
                asked,
                unreachable: BTreeSet::new(),
            };
            known.interests.insert(node, interest);
        }
        for node in stored.sending_on.nodes() {
            let timer = Timer::SendingOn(name.clone(), node);
            self.timers.set(timer, now + SENDING_ON_FOR);
        }
        known.sending_on = stored.sending_on;
        for (number, node) in stored.suspended {
            known.suspended.insert(number, node_of(key, &node)?);
        }
        for (node, status, epoch) in stored.placements {
            let placement = Placement {
                node: node_of(key, &node)?,
                epoch,
                after: 0,
                status,
            };
            known
                .placements
                .insert(placement.status.instance_number, placement);
        }
        for ip in known.addresses() {
            self.addresses.insert(ip, name.clone());
        }
        self.jobs.insert(name.clone(), known);
        self.await_all_taking(&name, now);
        self.resync(name);
        Ok(())
    }
}

fn node_of(key: &str, id: &str) -> Result<NodeId, RestoreError> {
    NodeId::new(id).map_err(|error| RestoreError::Conflict {
        key: key.to_owned(),
        conflict: error.to_string(),
    })
}

fn stored(known: &Known) -> StoredJob {
    StoredJob {
        job: known.job.clone(),
        interests: known
            .interests
            .iter()
            .map(|(node, interest)| {
                let node = node.as_str().to_owned();
                (node, interest.until.is_some(), interest.asked.clone())
            })
            .collect(),
        placements: known
            .placements
            .values()
            .map(|placement| {
                let node = placement.node.as_str().to_owned();
                (node, placement.status.clone(), placement.epoch)
            })
            .collect(),
        attached: known.attached.keys().copied().collect(),
        removed: known
            .removed
            .iter()
            .map(|(number, (epoch, _))| (*number, *epoch))
            .collect(),
        scheduled: known.scheduled,
        left: known.left.clone(),
        sending_on: known.sending_on.clone(),
        suspended: known
            .suspended
            .iter()
            .map(|(number, node)| (*number, node.as_str().to_owned()))
            .collect(),
        tenancy: known.tenancy,
    }
}
