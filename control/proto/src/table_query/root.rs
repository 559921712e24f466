//! The root manager as a value: services, instances, clusters, interests and subnets (OAKESTRA-WIRE section 3.2).
//!
//! A command changes the state and says what to answer, whom to tell and what to write. The shell writes (and syncs)
//! the [`Change`]s before it sends the answer; when that fails it answers 500 and builds the root anew with
//! [`Root::restore`], which gives exactly the state of the last successful write.

mod store;
mod views;

pub use views::ClusterView;

use crate::alloc::{AllocError, Owner, Semantic, Subnets, Use};
use crate::descriptor::{self, InstanceRange, ServiceSpec};
use crate::message::{
    ClusterRegistration, InstanceDeploy, InstanceDeployed, InstanceEntry, InstanceStatus, IpType,
    Job, JobUpdate, NetDeployStatus, ServiceDeploy, ServiceIpEntry, SubnetGrant, UpdateKind,
};
use crate::names::ServiceName;
use crate::record::Change;
use crate::table_query::Key;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sluice_wire::{AddressPlan, Dual, Ip};
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
    /// request does not meet a later one.
    InstanceDelete {
        id: String,
        number: i64,
        epoch: Option<u64>,
    },
    /// POST `/api/net/service/net_deploy_status`
    Status(NetDeployStatus),
    /// GET `/api/net/service/<name>/instances` and `/api/net/service/ip/<ip>/instances`; registers the interest.
    Query { key: Key, caller: Caller },
    /// DELETE `/api/net/interest/<name>`
    InterestRemove { job: ServiceName, caller: Caller },
    /// GET `/api/net/subnet`. With a request id (extension), which no other cluster uses, a
    /// repetition gets the same subnet.
    Subnet {
        caller: Caller,
        request_id: Option<String>,
    },
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
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
struct Counters {
    /// The last instance epoch given.
    epoch: u64,
    /// The last job revision given.
    revision: u64,
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
    grants: Vec<Grant>,
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
    grants: BTreeSet<usize>,
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
            grants: Vec::new(),
            semantic: Semantic::new(plan),
            subnets: Subnets::new(plan),
            counters: Counters::default(),
        }
    }

    /// Does what a request says. `now_s` is wall-clock time in seconds (addresses rest across restarts); it may go
    /// back without harm beyond a longer or shorter rest.
    pub fn apply(&mut self, command: &Command, now_s: u64) -> Applied {
        let counters = self.counters.clone();
        let mut work = Work::default();
        let reply = match self.run(command, now_s, &mut work) {
            Ok(reply) | Err(Refusal(reply)) => reply,
        };
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
            Command::InstanceDelete { id, number, epoch } => {
                self.instance_delete(id, *number, *epoch, now_s, work)
            }
            Command::Status(status) => self.status(status, work),
            Command::Query { key, caller } => self.query(key, caller, work),
            Command::InterestRemove { job, caller } => self.interest_remove(job, caller, work),
            Command::Subnet { caller, request_id } => {
                self.subnet(caller, request_id.as_deref(), work)
            }
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

    fn service_deploy(
        &mut self,
        deploy: &ServiceDeploy,
        now_s: u64,
        work: &mut Work,
    ) -> Result<Reply, Refusal> {
        let id = &deploy.id;
        if id.len() != 24 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return refuse(400, "Invalid _id");
        }
        let spec = descriptor::from_deployment(&deploy.deployment_descriptor)
            .or_else(|error| refuse(400, format!("Invalid deployment scriptor: {error}")))?;
        if let Some(holder) = self.names.get(&spec.name)
            && holder != id
        {
            let name = &spec.name;
            return refuse(400, format!("{name} is deployed already, as {holder}"));
        }
        if self.services.contains_key(id) {
            return self.service_again(id, spec, work);
        }
        let service_ip_list = self.take_addresses(&spec, now_s)?;
        let mut job = Job {
            id: id.clone(),
            job_name: spec.name.clone(),
            service_ip_list,
            instance_list: Vec::new(),
            revision: self.next_revision(),
            descriptor: spec.descriptor,
        };
        strip(&mut job);
        for ip in job.service_ip_list.iter().flat_map(|entry| {
            let ips = entry.ips();
            ips.v4.into_iter().chain(ips.v6)
        }) {
            self.addresses.insert(ip, id.clone());
        }
        self.names.insert(spec.name, id.clone());
        self.services.insert(
            id.clone(),
            Service {
                job,
                ranges: spec.instances,
                requests: BTreeMap::new(),
            },
        );
        work.services.insert(id.clone());
        Ok(Reply::text(200, "Instance info added"))
    }

    /// The same service once more: the descriptor may change, what has been promised to callers may not.
    fn service_again(
        &mut self,
        id: &str,
        spec: ServiceSpec,
        work: &mut Work,
    ) -> Result<Reply, Refusal> {
        let revision = self.counters.revision + 1;
        let Some(service) = self.services.get_mut(id) else {
            return refuse(400, "Invalid _id");
        };
        let has = |ip_type: &IpType, wanted: Dual<Ip>| {
            let mut entries = service.job.service_ip_list.iter();
            let have = entries.find(|entry| entry.ip_type == *ip_type);
            let have = have.map(ServiceIpEntry::ips).unwrap_or_default();
            (wanted.v4.is_none() || wanted.v4 == have.v4)
                && (wanted.v6.is_none() || wanted.v6 == have.v6)
        };
        let same = service.job.job_name == spec.name
            && has(&IpType::RoundRobin, spec.round_robin)
            && has(&IpType::Closest, spec.closest)
            && service.ranges == spec.instances;
        if !same {
            return refuse(
                400,
                format!(
                    "{} exists with another name or other addresses; delete it first",
                    service.job.job_name
                ),
            );
        }
        if service.job.descriptor != stripped(&spec.descriptor) {
            service.job.descriptor = stripped(&spec.descriptor);
            service.job.revision = revision;
            self.counters.revision = revision;
            work.services.insert(id.to_owned());
        }
        Ok(Reply::text(200, "Instance info added"))
    }

    /// One ServiceIP per policy, and the reserved InstanceIPs; all or nothing.
    fn take_addresses(
        &mut self,
        spec: &ServiceSpec,
        now_s: u64,
    ) -> Result<Vec<ServiceIpEntry>, Refusal> {
        let service = spec.name.as_str().to_ascii_lowercase();
        let owner = |usage, number| Owner {
            service: service.clone(),
            usage,
            number,
        };
        let mut semantic = self.semantic.clone();
        let mut take = || -> Result<Vec<ServiceIpEntry>, AllocError> {
            let mut reserved = Vec::new();
            for range in &spec.instances {
                for number in range.from..range.to {
                    let who = owner(Use::Instance, Some(number));
                    let ips = range.addresses(number).unwrap_or_default();
                    reserved.extend(ips.iter().map(|ip| (ip, who.clone())));
                }
            }
            semantic.claim_all(&reserved, now_s)?;
            let round_robin =
                semantic.claim(&spec.round_robin, &owner(Use::RoundRobin, None), now_s)?;
            let mut entries = vec![ServiceIpEntry::new(IpType::RoundRobin, round_robin)];
            if spec.closest.iter().next().is_some() {
                let closest = semantic.claim(&spec.closest, &owner(Use::Closest, None), now_s)?;
                entries.push(ServiceIpEntry::new(IpType::Closest, closest));
            }
            Ok(entries)
        };
        match take() {
            Ok(entries) => {
                self.semantic = semantic;
                Ok(entries)
            }
            Err(error) => refuse(500, error.to_string()),
        }
    }

    fn service_delete(&mut self, id: &str, now_s: u64, work: &mut Work) -> Result<Reply, Refusal> {
        let Some(service) = self.services.get(id) else {
            return refuse(404, "Job not found");
        };
        if !service.job.instance_list.is_empty() {
            return refuse(400, "There are services still deployed");
        }
        let Some(service) = self.services.remove(id) else {
            return refuse(404, "Job not found");
        };
        let name = service.job.job_name;
        self.names.remove(&name);
        for entry in &service.job.service_ip_list {
            for ip in entry.ips().iter() {
                self.addresses.remove(&ip);
                self.semantic.release(ip, now_s);
            }
        }
        for range in &service.ranges {
            for number in range.from..range.to {
                for ip in range.addresses(number).unwrap_or_default().iter() {
                    self.semantic.release(ip, now_s);
                }
            }
        }
        self.notify(&name, -1, UpdateKind::Undeployment, work);
        self.interests.remove(&name);
        work.interests.insert(name);
        work.services.insert(id.to_owned());
        Ok(Reply::text(200, "Job removed successfully"))
    }

    fn instance_deploy(
        &mut self,
        deploy: &InstanceDeploy,
        now_s: u64,
        work: &mut Work,
    ) -> Result<Reply, Refusal> {
        let epoch = self.counters.epoch + 1;
        let revision = self.counters.revision + 1;
        let Some(service) = self.services.get_mut(&deploy.id) else {
            // Oakestra says 200 here; with our extension the caller can bear the truth.
            return match deploy.request_id {
                Some(_) => refuse(404, "Job not found"),
                None => Ok(Reply::text(200, "Instance info added")),
            };
        };
        if let Some(request) = &deploy.request_id
            && let Some(number) = service
                .requests
                .iter()
                .find_map(|(number, known)| (known == request).then_some(*number))
            && let Some(entry) = entry_of(&service.job, number)
        {
            return Ok(Reply::json(&deployed(entry)));
        }
        let number = match deploy.instance_number {
            -1 => (0..INSTANCES_MAX).find(|number| entry_of(&service.job, *number).is_none()),
            number => u32::try_from(number)
                .ok()
                .filter(|number| *number < INSTANCES_MAX),
        };
        let Some(number) = number else {
            return refuse(400, "instance_number must be -1 or 0 to 65535");
        };
        let name = service.job.job_name.clone();
        let cluster_id = Some(deploy.cluster_id.clone()).filter(|id| !id.is_empty());
        if let Some(entry) = entry_of_mut(&mut service.job, number) {
            if deploy.request_id.is_some() {
                return refuse(409, format!("instance {number} of {name} exists already"));
            }
            // Scheduled once more, perhaps elsewhere: it keeps its InstanceIP for its whole life (thesis 3.6.1).
            if entry.cluster_id != cluster_id {
                entry.cluster_id.clone_from(&cluster_id);
                entry.unplace();
                service.job.revision = revision;
                self.counters.revision = revision;
                work.services.insert(deploy.id.clone());
            }
        } else {
            let owner = Owner {
                service: name.as_str().to_ascii_lowercase(),
                usage: Use::Instance,
                number: Some(number),
            };
            let reserved = service
                .ranges
                .iter()
                .find_map(|range| range.addresses(number))
                .unwrap_or_default();
            let ips = self
                .semantic
                .complete(&reserved, &owner, now_s)
                .or_else(|error| refuse(500, error.to_string()))?;
            for ip in ips.iter() {
                self.addresses.insert(ip, deploy.id.clone());
            }
            let entry = InstanceEntry {
                instance_number: number,
                cluster_id: cluster_id.clone(),
                instance_ip: ips.v4,
                instance_ip_v6: ips.v6,
                epoch,
                ..InstanceEntry::default()
            };
            let list = &mut service.job.instance_list;
            let at = list.partition_point(|other| other.instance_number < number);
            list.insert(at, entry);
            if let Some(request) = &deploy.request_id {
                service.requests.insert(number, request.clone());
            }
            service.job.revision = revision;
            self.counters.epoch = epoch;
            self.counters.revision = revision;
            work.services.insert(deploy.id.clone());
        }
        let reply = match (&deploy.request_id, entry_of(&service.job, number)) {
            (Some(_), Some(entry)) => Reply::json(&deployed(entry)),
            _ => Reply::text(200, "Instance info added"),
        };
        if let Some(cluster) = cluster_id.filter(|id| self.clusters.contains_key(id)) {
            // Deployment interest: a cluster must know all that concerns the services it runs (thesis 3.6.6).
            self.interest(&name, cluster, work);
        }
        Ok(reply)
    }

    fn instance_delete(
        &mut self,
        id: &str,
        number: i64,
        epoch: Option<u64>,
        now_s: u64,
        work: &mut Work,
    ) -> Result<Reply, Refusal> {
        let revision = self.counters.revision + 1;
        let Some(service) = self.services.get_mut(id) else {
            return refuse(400, "Job not found");
        };
        let goes = |entry: &InstanceEntry| {
            (number == -1 || i64::from(entry.instance_number) == number)
                && epoch.is_none_or(|epoch| entry.epoch == epoch)
        };
        let list = std::mem::take(&mut service.job.instance_list);
        let (gone, kept): (Vec<_>, Vec<_>) = list.into_iter().partition(goes);
        service.job.instance_list = kept;
        if gone.is_empty() {
            return Ok(Reply::text(200, "Instance info cleared"));
        }
        for entry in &gone {
            service.requests.remove(&entry.instance_number);
            let reserved = service
                .ranges
                .iter()
                .find_map(|range| range.addresses(entry.instance_number))
                .unwrap_or_default();
            for ip in entry.instance_ips().iter().map(sluice_wire::InstanceIp::ip) {
                self.addresses.remove(&ip);
                // A reserved address stays with its service, for the next instance of that number.
                if !reserved.iter().any(|reserved| reserved == ip) {
                    self.semantic.release(ip, now_s);
                }
            }
        }
        service.job.revision = revision;
        self.counters.revision = revision;
        let name = service.job.job_name.clone();
        let was_running = gone.iter().any(InstanceEntry::is_placed);
        let runs = service
            .job
            .instance_list
            .iter()
            .any(InstanceEntry::is_placed);
        work.services.insert(id.to_owned());
        self.notify(&name, number, UpdateKind::Undeployment, work);
        if was_running && !runs {
            work.effects.push(Effect::NoInstanceLeft { job: name });
        }
        Ok(Reply::text(200, "Instance info cleared"))
    }

    fn status(&mut self, status: &NetDeployStatus, work: &mut Work) -> Result<Reply, Refusal> {
        let revision = self.counters.revision + 1;
        let Some(service) = self.services.get_mut(&status.job_id) else {
            return refuse(404, "Job not found");
        };
        let unknown = status.instances.iter().find(|instance| {
            entry_of(&service.job, instance.instance_number)
                .is_none_or(|entry| instance.epoch != 0 && instance.epoch != entry.epoch)
        });
        if let Some(unknown) = unknown {
            let (number, name) = (unknown.instance_number, &service.job.job_name);
            return refuse(400, format!("instance {number} of {name} does not exist"));
        }
        let ran = service
            .job
            .instance_list
            .iter()
            .any(InstanceEntry::is_placed);
        let mut changed = Vec::new();
        for instance in &status.instances {
            if let Some(entry) = entry_of_mut(&mut service.job, instance.instance_number) {
                let before = entry.clone();
                place(entry, instance);
                if *entry != before {
                    changed.push((instance.instance_number, entry.is_placed()));
                }
            }
        }
        if changed.is_empty() {
            return Ok(Reply::text(200, "Status updated"));
        }
        service.job.revision = revision;
        self.counters.revision = revision;
        let name = service.job.job_name.clone();
        let runs = service
            .job
            .instance_list
            .iter()
            .any(InstanceEntry::is_placed);
        work.services.insert(status.job_id.clone());
        for (number, _) in changed {
            self.notify(&name, i64::from(number), UpdateKind::Deployment, work);
        }
        if ran && !runs {
            work.effects.push(Effect::NoInstanceLeft { job: name });
        }
        Ok(Reply::text(200, "Status updated"))
    }

    fn query(&mut self, key: &Key, caller: &Caller, work: &mut Work) -> Result<Reply, Refusal> {
        let Some(cluster) = self.cluster_of(caller) else {
            return refuse(400, "Invalid cluster address, is the cluster registered?");
        };
        let Some(job) = self.job(key) else {
            // Oakestra's answer for "does not exist"; no interest is registered for it (thesis 3.6.6, exception 2).
            return Ok(Reply::json(&serde_json::Map::new()));
        };
        let (reply, name) = (Reply::json(job), job.job_name.clone());
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

    fn subnet(
        &mut self,
        caller: &Caller,
        request_id: Option<&str>,
        work: &mut Work,
    ) -> Result<Reply, Refusal> {
        let cluster = self.cluster_of(caller);
        if request_id.is_some()
            && let Some(grant) = self
                .grants
                .iter()
                .find(|grant| grant.request_id.as_deref() == request_id)
        {
            return Ok(Reply::json(&grant.subnet));
        }
        let networks = self
            .subnets
            .allocate()
            .or_else(|error| refuse(500, error.to_string()))?;
        let grant = Grant {
            subnet: SubnetGrant {
                subnet_addr: networks.v4,
                subnet_addr_v6: networks.v6,
            },
            cluster,
            request_id: request_id.map(str::to_owned),
        };
        let reply = Reply::json(&grant.subnet);
        work.grants.insert(self.grants.len());
        self.grants.push(grant);
        Ok(reply)
    }

    fn interest(&mut self, job: &ServiceName, cluster: String, work: &mut Work) {
        let clusters = self.interests.entry(job.clone()).or_default();
        if clusters.insert(cluster) {
            work.interests.insert(job.clone());
        }
    }

    fn notify(&self, job: &ServiceName, number: i64, kind: UpdateKind, work: &mut Work) {
        for cluster in self.interests.get(job).into_iter().flatten() {
            work.effects.push(Effect::Notify {
                cluster: cluster.clone(),
                update: JobUpdate {
                    job_name: job.clone(),
                    instance_number: number,
                    kind,
                },
            });
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

fn entry_of(job: &Job, number: u32) -> Option<&InstanceEntry> {
    job.instance_list
        .binary_search_by_key(&number, |entry| entry.instance_number)
        .ok()
        .and_then(|at| job.instance_list.get(at))
}

fn entry_of_mut(job: &mut Job, number: u32) -> Option<&mut InstanceEntry> {
    job.instance_list
        .binary_search_by_key(&number, |entry| entry.instance_number)
        .ok()
        .and_then(|at| job.instance_list.get_mut(at))
}

const fn deployed(entry: &InstanceEntry) -> InstanceDeployed {
    InstanceDeployed {
        instance_number: entry.instance_number,
        instance_ip: entry.instance_ip,
        instance_ip_v6: entry.instance_ip_v6,
        epoch: entry.epoch,
    }
}

fn place(entry: &mut InstanceEntry, status: &InstanceStatus) {
    if status.namespace_ip.is_none() && status.namespace_ip_v6.is_none() {
        entry.unplace();
        return;
    }
    entry.namespace_ip = status.namespace_ip;
    entry.namespace_ip_v6 = status.namespace_ip_v6;
    entry.host_ip = status.host_ip;
    entry.host_port = Some(status.host_port);
    entry.worker_id.clone_from(&status.worker_id);
}

/// Keys of a job that are ours; a descriptor that came back from a table query may contain them.
const OWN_KEYS: [&str; 5] = [
    "_id",
    "job_name",
    "service_ip_list",
    "instance_list",
    "revision",
];

fn strip(job: &mut Job) {
    job.descriptor = stripped(&job.descriptor);
}

fn stripped(descriptor: &serde_json::Map<String, Value>) -> serde_json::Map<String, Value> {
    let mut descriptor = descriptor.clone();
    for key in OWN_KEYS {
        descriptor.remove(key);
    }
    descriptor
}

#[cfg(test)]
mod tests;
