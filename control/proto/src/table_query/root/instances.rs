//! Instances of the root: numbered and addressed, placed, ended.

use super::{Effect, INSTANCES_MAX, Refusal, Reply, Root, Work, refuse};
use crate::alloc::{Owner, Use};
use crate::message::{
    InstanceDeploy, InstanceDeployed, InstanceEntry, InstanceStatus, Job, NetDeployStatus,
    UpdateKind,
};
use crate::names::ServiceName;
use crate::table_query::Key;
use sluice_wire::Dual;

impl Root {
    pub(super) fn instance_deploy(
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
        let exists = entry_of(&service.job, number).is_some();
        if deploy.migrate && !exists {
            return refuse(
                404,
                format!("{name} has no such instance to migrate: {number}"),
            );
        }
        let mut new = Dual::default();
        if let Some(entry) = entry_of_mut(&mut service.job, number) {
            if deploy.request_id.is_some() && !deploy.migrate {
                return refuse(409, format!("instance {number} of {name} exists already"));
            }
            // Scheduled once more, perhaps elsewhere: it keeps its InstanceIP for its whole life (thesis 3.6.1), and is
            // where it was until it runs at the new place.
            let before = entry.clone();
            entry.cluster_id.clone_from(&cluster_id);
            // From now on an orchestrator says when it ends.
            let taken_over =
                deploy.request_id.is_none() && service.requests.remove(&number).is_some();
            if deploy.migrate {
                entry.keep_ns_ip();
            } else {
                entry.begin_anew();
            }
            if *entry != before || taken_over {
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
            new = ips;
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
        self.end_absences(&name, new.iter().map(Key::Address), now_s, work);
        if let Some(cluster) = cluster_id.filter(|id| self.clusters.contains_key(id)) {
            // Deployment interest: a cluster must know all that concerns the services it runs (thesis 3.6.6).
            self.interest(&name, cluster, work);
        }
        Ok(reply)
    }

    pub(super) fn instance_delete(
        &mut self,
        id: &str,
        number: i64,
        epoch: Option<u64>,
        cluster_id: Option<&str>,
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
        let moved = service.job.instance_list.iter().find(|entry| {
            let cluster = cluster_id.zip(entry.cluster_id.as_deref());
            goes(entry) && cluster.is_some_and(|(speaker, cluster)| speaker != cluster)
        });
        if let Some(moved) = moved {
            return refuse_moved(moved.instance_number, &service.job.job_name);
        }
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

    pub(super) fn status(
        &mut self,
        status: &NetDeployStatus,
        now_s: u64,
        work: &mut Work,
    ) -> Result<Reply, Refusal> {
        let revision = self.counters.revision + 1;
        let mut keys = status.instances.iter().filter_map(|it| it.public_key);
        let revoked = keys.find(|key| self.revoked.contains(key));
        let Some(service) = self.services.get_mut(&status.job_id) else {
            return refuse(404, "Job not found");
        };
        let unknown = status.instances.iter().find(|instance| {
            entry_of(&service.job, instance.instance_number)
                .is_none_or(|entry| instance.epoch != 0 && instance.epoch != entry.epoch)
        });
        let moved = status.instances.iter().find(|instance| {
            entry_of(&service.job, instance.instance_number)
                .is_some_and(|entry| is_elsewhere(entry, status.cluster_id.as_ref(), instance))
        });
        if let Some(moved) = moved {
            return refuse_moved(moved.instance_number, &service.job.job_name);
        }
        if let Some(key) = revoked {
            return refuse(403, format!("the public key {key} is revoked"));
        }
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
                entry.strike(|key| self.revoked.contains(key));
                entry.age_former(now_s);
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
}

fn refuse_moved(number: u32, name: &ServiceName) -> Result<Reply, Refusal> {
    refuse(
        409,
        format!("instance {number} of {name} moved to another cluster"),
    )
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

pub(super) const fn deployed(entry: &InstanceEntry) -> InstanceDeployed {
    InstanceDeployed {
        instance_number: entry.instance_number,
        instance_ip: entry.instance_ip,
        instance_ip_v6: entry.instance_ip_v6,
        epoch: entry.epoch,
        kept_ip: entry.kept_ip,
        kept_ip_v6: entry.kept_ip_v6,
    }
}

/// The instance was moved away from the cluster that speaks, which may still say that the former place has ended.
fn is_elsewhere(entry: &InstanceEntry, speaker: Option<&String>, status: &InstanceStatus) -> bool {
    let (Some(speaker), Some(cluster)) = (speaker, &entry.cluster_id) else {
        return false;
    };
    let ends = status.namespace_ip.is_none() && status.namespace_ip_v6.is_none();
    let same = entry.host_ip == status.host_ip && entry.host_port == Some(status.host_port);
    speaker != cluster && !(ends && same)
}

fn place(entry: &mut InstanceEntry, status: &InstanceStatus) {
    if status.namespace_ip.is_none() && status.namespace_ip_v6.is_none() {
        entry.unplace();
    } else {
        entry.place(status);
    }
}
