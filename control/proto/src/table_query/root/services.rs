//! Services of the root: applied, applied again, deleted.

use super::{Refusal, Reply, Root, Service, Work, refuse};
use crate::alloc::{AllocError, Owner, Semantic, Use};
use crate::descriptor::{self, ServiceSpec};
use crate::message::{IpType, Job, ServiceDeploy, ServiceIpEntry, UpdateKind};
use crate::table_query::Key;
use serde_json::Value;
use std::collections::BTreeMap;

impl Root {
    pub(super) fn service_deploy(
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
            rules: Vec::new(),
            attached: Vec::new(),
            descriptor: spec.descriptor,
        };
        strip(&mut job);
        let mut keys = vec![Key::Name(spec.name.clone())];
        for ip in job.service_ip_list.iter().flat_map(|entry| {
            let ips = entry.ips();
            ips.v4.into_iter().chain(ips.v6)
        }) {
            self.addresses.insert(ip, id.clone());
            keys.push(Key::Address(ip));
        }
        self.end_absences(&spec.name, keys, now_s, work);
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
        if let Some(change) = promise_broken(service, &spec) {
            return refuse(400, format!("{change}; delete the service first"));
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
        let take = |semantic: &mut Semantic| -> Result<Vec<ServiceIpEntry>, AllocError> {
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
        let taken = self.semantic.all_or_nothing(take);
        taken.or_else(|error| refuse(500, self.with_holder(&error)))
    }

    /// The error and, where an address is a node's, which one's.
    fn with_holder(&self, error: &AllocError) -> String {
        let AllocError::Outside { ip, .. } = error else {
            return error.to_string();
        };
        let mut living = self.grants.values().filter(|it| it.rests_until_s.is_none());
        let holder = living.find_map(|grant| {
            let subnet = grant.subnet.networks().iter().find_map(|network| {
                let subnet = self.subnets.subnet(network)?;
                subnet.contains(*ip).then_some(subnet)
            })?;
            Some((subnet, grant.cluster.as_deref()))
        });
        match (holder, self.subnets.range_of(*ip)) {
            (Some((subnet, Some(cluster))), _) => {
                format!("{error}: it is in {subnet}, the subnet of a node of cluster {cluster}")
            }
            (Some((subnet, None)), _) => format!("{error}: it is in {subnet}, a node's subnet"),
            (None, Some(range)) => {
                format!("{error}: it is in {range}, the range of nodes' subnets")
            }
            (None, None) => error.to_string(),
        }
    }

    pub(super) fn service_delete(
        &mut self,
        id: &str,
        now_s: u64,
        work: &mut Work,
    ) -> Result<Reply, Refusal> {
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
}

/// What a descriptor would change of that which callers rely on.
fn promise_broken(service: &Service, spec: &ServiceSpec) -> Option<String> {
    let name = &service.job.job_name;
    if *name != spec.name {
        return Some(format!("{} is {name}, not {}", service.job.id, spec.name));
    }
    for (ip_type, policy, wanted) in [
        (IpType::RoundRobin, "round robin", spec.round_robin),
        (IpType::Closest, "closest", spec.closest),
    ] {
        let mut entries = service.job.service_ip_list.iter();
        let have = entries.find(|entry| entry.ip_type == ip_type);
        let have = have.map(ServiceIpEntry::ips).unwrap_or_default();
        for wanted in wanted.iter() {
            match have.of(wanted.family()) {
                Some(have) if have == wanted => {}
                Some(have) => {
                    return Some(format!(
                        "the {policy} address of {name} is {have}, not {wanted}"
                    ));
                }
                None => return Some(format!("{name} has no {policy} address, not {wanted}")),
            }
        }
    }
    (service.ranges != spec.instances)
        .then(|| format!("{name} has other ranges of instance addresses"))
}

/// Keys of a job that are ours; a descriptor that came back from a table query may contain them.
const OWN_KEYS: [&str; 7] = [
    "_id",
    "job_name",
    "service_ip_list",
    "instance_list",
    "revision",
    "rules",
    "attached",
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
