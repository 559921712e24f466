//! The root manager as a value: services, instances, clusters, interests and subnets (OAKESTRA-WIRE section 3.2).
//!
//! A command changes the state and says what to answer, whom to tell and what to write. The shell writes (and syncs)
//! the [`Change`]s before it sends the answer; when that fails it answers 500 and builds the root anew with
//! [`Root::restore`], which gives exactly the state of the last successful write.

mod absences;
mod services;
mod instances;
mod nodes;
mod revocation;
mod rules;
mod store;
mod subnets;
mod views;

pub use revocation::REVOKED_MAX;
pub use rules::RULES_MAX;
pub use views::{ClusterView, SubnetView};

use crate::alloc::{Rests, Semantic, Subnets};
use crate::descriptor::InstanceRange;
use crate::isolation::Rule;
use crate::message::{
    ClusterRegistration, InstanceDeploy, Job, JobUpdate, NetDeployStatus, NodeKey, ServiceDeploy,
    SubnetGrant, UpdateKind,
};
use crate::names::ServiceName;
use crate::record::Change;
use crate::table_query::Key;
use crate::table_query::sides::Sides;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sluice_wire::{AddressPlan, Ip};
use std::collections::{BTreeMap, BTreeSet};

/// Most instances of one service, and highest instance number plus one.
pub const INSTANCES_MAX: u32 = 65_536;

/// Who sends a command, as far as the request says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Caller {
    /// From our extension `?cluster_id=`.
    pub cluster_id: Option<String>,
    /// From `?cluster_ip=` or `?cluster_address=`, else the source address of the request.
    pub address: Option<String>,
}

/// A request that may change the state.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// POST `/api/net/cluster`
    ClusterRegister(ClusterRegistration),
    /// POST `/api/net/service/deploy`
    ServiceDeploy(ServiceDeploy),
    /// DELETE `/api/net/service/<id>`
    ServiceDelete { id: String },
    /// POST `/api/net/instance/deploy`
    InstanceDeploy(InstanceDeploy),
    /// DELETE `/api/net/<id>/<number>`; -1: all. Extension `?epoch=`: only that instance of the number, so that a repeated
    /// request does not meet a later one. With `?cluster_id=` it is a cluster that says that its instance ended: one that
    /// moved to another cluster meanwhile lives on.
    InstanceDelete {
        id: String,
        number: i64,
        epoch: Option<u64>,
        cluster_id: Option<String>,
    },
    /// POST `/api/net/service/net_deploy_status`
    Status(NetDeployStatus),
    /// GET `/api/net/service/<name>/instances` and `/api/net/service/ip/<ip>/instances`; registers the interest. For a
    /// node's key (extension), GET `/api/net/node?public_key=`; registers none.
    Query { key: Key, caller: Caller },
    /// DELETE `/api/net/interest/<name>`
    InterestRemove { job: ServiceName, caller: Caller },
    /// GET `/api/net/subnet`. With a request id (extension), which no other cluster uses, a
    /// repetition gets the same subnet.
    Subnet {
        caller: Caller,
        request_id: Option<String>,
    },
    /// DELETE `/api/net/subnet/<network>` (extension): its node has left, the subnet rests.
    SubnetReturn {
        /// Where it begins, in either family.
        network: Ip,
        /// Which giving of it; `None` from clusters that did not note it.
        grant_id: Option<u64>,
        caller: Caller,
    },
    /// POST `/v1/rules` (extension); one that exists already stays.
    RuleAdd(Rule),
    /// DELETE `/v1/rules` (extension)
    RuleDelete(Rule),
    /// POST `/v1/revoked_keys` (extension); one that is revoked already stays so.
    KeyRevoke(NodeKey),
    /// DELETE `/v1/revoked_keys` (extension)
    KeyAllow(NodeKey),
    /// GET `/api/net/revoked_keys` (extension)
    RevokedKeys,
}

/// An HTTP answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    pub status: u16,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// `text/html` in Oakestra; callers look at the status only.
    Text(String),
    Json(Value),
}

impl Reply {
    fn text(status: u16, text: impl Into<String>) -> Self {
        Self {
            status,
            body: Body::Text(text.into()),
        }
    }

    fn json<T: Serialize>(value: &T) -> Self {
        Self {
            status: 200,
            body: Body::Json(serde_json::to_value(value).expect("our replies have text keys only")),
        }
    }

    /// The body's bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match &self.body {
            Body::Text(text) => text.clone().into_bytes(),
            Body::Json(value) => crate::message::write(value),
        }
    }
}

/// What a command causes elsewhere.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Tell a cluster, until it acknowledges (see [`super::notifier`]).
    Notify { cluster: String, update: JobUpdate },
    /// A service that had a running instance has none now; an orchestrator may want to know.
    NoInstanceLeft { job: ServiceName },
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    pub reply: Reply,
    pub effects: Vec<Effect>,
    /// To be written before the reply is sent; empty when nothing changed.
    pub changes: Vec<Change>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Service {
    job: Job,
    ranges: Vec<InstanceRange>,
    /// Request ids of attached instances, by instance number.
    requests: BTreeMap<u32, String>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Cluster {
    address: String,
    port: u16,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Grant {
    subnet: SubnetGrant,
    cluster: Option<String>,
    request_id: Option<String>,
    /// It came back and rests until then, in seconds of the [`Calendar`](crate::alloc::Calendar).
    #[serde(default)]
    rests_until_s: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
struct Counters {
    /// The last instance epoch given.
    epoch: u64,
    /// The last job revision given.
    revision: u64,
    /// The revision that the last change of a rule was given.
    #[serde(default)]
    rules: u64,
    /// How often the revoked keys have changed.
    #[serde(default)]
    revocations: u64,
    cursors: Vec<(String, String)>,
}

/// All state of the root manager. See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Root {
    services: BTreeMap<String, Service>,
    names: BTreeMap<ServiceName, String>,
    addresses: BTreeMap<Ip, String>,
    clusters: BTreeMap<String, Cluster>,
    interests: BTreeMap<ServiceName, BTreeSet<String>>,
    absences: absences::Absences,
    /// The keys of the nodes on which the instances of each service run.
    node_keys: Sides<String, NodeKey>,
    rules: BTreeSet<Rule>,
    revoked: BTreeSet<NodeKey>,
    /// By the order of giving. An entry goes only when its subnet is given again, under a later number.
    grants: BTreeMap<u64, Grant>,
    rests: Rests,
    semantic: Semantic,
    subnets: Subnets,
    counters: Counters,
}

/// A refusal; nothing has changed.
struct Refusal(Reply);

fn refuse<T>(status: u16, text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(Reply::text(status, text)))
}

/// What a command did so far.
#[derive(Default)]
struct Work {
    effects: Vec<Effect>,
    services: BTreeSet<String>,
    clusters: BTreeSet<String>,
    interests: BTreeSet<ServiceName>,
    rules: BTreeSet<Rule>,
    revoked: BTreeSet<NodeKey>,
    grants: BTreeSet<u64>,
}

impl Work {
    fn tell(&mut self, cluster: &str, job: &ServiceName, number: i64, kind: UpdateKind) {
        self.effects.push(Effect::Notify {
            cluster: cluster.to_owned(),
            update: JobUpdate {
                job_name: job.clone(),
                instance_number: number,
                kind,
            },
        });
    }
}

impl Root {
    #[must_use]
    pub fn new(plan: &AddressPlan) -> Self {
        Self {
            services: BTreeMap::new(),
            names: BTreeMap::new(),
            addresses: BTreeMap::new(),
            clusters: BTreeMap::new(),
            interests: BTreeMap::new(),
            absences: absences::Absences::default(),
            node_keys: Sides::default(),
            rules: BTreeSet::new(),
            revoked: BTreeSet::new(),
            grants: BTreeMap::new(),
            rests: Rests::default(),
            semantic: Semantic::new(plan),
            subnets: Subnets::new(plan),
            counters: Counters::default(),
        }
    }

    /// Lets what comes back from now on rest for so long; what rests already does so as it was told.
    pub const fn set_rests(&mut self, rests: Rests) {
        self.rests = rests;
        self.semantic.set_rest(rests.addresses_s);
    }

    /// Does what a request says. `now_s` is the time of the [`Calendar`](crate::alloc::Calendar) in seconds, as addresses
    /// rest across restarts.
    pub fn apply(&mut self, command: &Command, now_s: u64) -> Applied {
        let counters = self.counters.clone();
        let mut work = Work::default();
        let reply = match self.run(command, now_s, &mut work) {
            Ok(reply) | Err(Refusal(reply)) => reply,
        };
        self.note_node_keys(now_s, &mut work);
        self.counters.cursors = self.semantic.cursors();
        let mut changes = self.changes(&work);
        if self.counters != counters {
            changes.push(Change::put("counters".to_owned(), &self.counters));
        }
        Applied {
            reply,
            effects: work.effects,
            changes,
        }
    }

    fn run(&mut self, command: &Command, now_s: u64, work: &mut Work) -> Result<Reply, Refusal> {
        match command {
            Command::ClusterRegister(registration) => self.cluster_register(registration, work),
            Command::ServiceDeploy(deploy) => self.service_deploy(deploy, now_s, work),
            Command::ServiceDelete { id } => self.service_delete(id, now_s, work),
            Command::InstanceDeploy(deploy) => self.instance_deploy(deploy, now_s, work),
            Command::InstanceDelete {
                id,
                number,
                epoch,
                cluster_id,
            } => self.instance_delete(id, *number, *epoch, cluster_id.as_deref(), now_s, work),
            Command::Status(status) => self.status(status, now_s, work),
            Command::Query { key, caller } => self.query(key, caller, now_s, work),
            Command::InterestRemove { job, caller } => self.interest_remove(job, caller, work),
            Command::Subnet { caller, request_id } => {
                self.subnet(caller, request_id.as_deref(), now_s, work)
            }
            Command::SubnetReturn {
                network,
                grant_id,
                caller,
            } => self.subnet_return(*network, *grant_id, caller, now_s, work),
            Command::RuleAdd(rule) => self.rule_add(rule, work),
            Command::RuleDelete(rule) => self.rule_delete(rule, work),
            Command::KeyRevoke(key) => self.key_revoke(*key, work),
            Command::KeyAllow(key) => self.key_allow(*key, work),
            Command::RevokedKeys => Ok(self.revoked_reply()),
        }
    }

    fn cluster_register(
        &mut self,
        registration: &ClusterRegistration,
        work: &mut Work,
    ) -> Result<Reply, Refusal> {
        let id = &registration.cluster_id;
        if id.is_empty() || id.len() > 128 || registration.cluster_address.is_empty() {
            return refuse(400, "cluster_id and cluster_address must not be empty");
        }
        let cluster = Cluster {
            address: registration.cluster_address.clone(),
            port: registration.cluster_port,
        };
        if self.clusters.get(id) != Some(&cluster) {
            self.clusters.insert(id.clone(), cluster);
            work.clusters.insert(id.clone());
        }
        Ok(Reply::text(200, "cluster registered"))
    }

    fn query(
        &mut self,
        key: &Key,
        caller: &Caller,
        now_s: u64,
        work: &mut Work,
    ) -> Result<Reply, Refusal> {
        let Some(cluster) = self.cluster_of(caller) else {
            return refuse(400, "Invalid cluster address, is the cluster registered?");
        };
        if let Key::Node(node) = key
            && let Some(entry) = self.node_with(node)
        {
            return Ok(Reply::json(&entry));
        }
        let Some(job) = self.job(key) else {
            // Oakestra's answer for "does not exist"; no interest is registered for it (thesis 3.6.6, exception 2).
            self.note_absence(key, caller, cluster, now_s);
            return Ok(Reply::json(&serde_json::Map::new()));
        };
        let (reply, name) = (Reply::json(&self.told(job)), job.job_name.clone());
        self.interest(&name, cluster, work);
        Ok(reply)
    }

    fn interest_remove(
        &mut self,
        job: &ServiceName,
        caller: &Caller,
        work: &mut Work,
    ) -> Result<Reply, Refusal> {
        let Some(cluster) = self.cluster_of(caller) else {
            return refuse(404, "Cluster not registered");
        };
        if let Some(clusters) = self.interests.get_mut(job)
            && clusters.remove(&cluster)
        {
            if clusters.is_empty() {
                self.interests.remove(job);
            }
            work.interests.insert(job.clone());
        }
        Ok(Reply::text(200, "deregistered"))
    }

    fn interest(&mut self, job: &ServiceName, cluster: String, work: &mut Work) {
        let clusters = self.interests.entry(job.clone()).or_default();
        if clusters.insert(cluster) {
            work.interests.insert(job.clone());
        }
    }

    fn notify(&self, job: &ServiceName, number: i64, kind: UpdateKind, work: &mut Work) {
        for cluster in self.interests.get(job).into_iter().flatten() {
            work.tell(cluster, job, number, kind);
        }
    }

    fn next_revision(&mut self) -> u64 {
        self.counters.revision += 1;
        self.counters.revision
    }

    fn cluster_of(&self, caller: &Caller) -> Option<String> {
        if let Some(id) = &caller.cluster_id {
            return self.clusters.contains_key(id).then(|| id.clone());
        }
        let address = caller.address.as_deref()?;
        // As addresses where both are: one may be written as a mapped IPv6 address.
        let ip: Option<Ip> = address.parse().ok();
        self.clusters
            .iter()
            .find(|(_, cluster)| {
                cluster.address == address || (ip.is_some() && cluster.address.parse().ok() == ip)
            })
            .map(|(id, _)| id.clone())
    }
}

#[cfg(test)]
mod tests;
