//! Services of the root: applied, applied again, deleted.

use super::{Refusal, Reply, Root, Service, Work, refuse};
use crate::alloc::{AllocError, Owner, Semantic, Use};
use crate::descriptor::{self, ServiceSpec};
use crate::message::{IpType, Job, ServiceDeploy, ServiceIpEntry, UpdateKind};
use serde_json::Value;
use sluice_wire::{Dual, Ip};
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
        taken.or_else(|error| refuse(500, error.to_string()))
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

/// Keys of a job that are ours; a descriptor that came back from a table query may contain them.
const OWN_KEYS: [&str; 6] = [
    "_id",
    "job_name",
    "service_ip_list",
    "instance_list",
    "revision",
    "rules",
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
