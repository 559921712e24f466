//! The root's state as records, and back.

use super::{Counters, Grant, Root, Service, Work};
use crate::alloc::{Owner, Use};
use crate::message::IpType;
use crate::record::{Change, RestoreError, read};
use sluice_wire::{AddressPlan, InstanceIp, Ip};
use std::collections::BTreeMap;

impl Root {
    pub(super) fn changes(&mut self, work: &Work) -> Vec<Change> {
        let mut changes = Vec::new();
        for id in &work.services {
            let key = format!("service/{id}");
            changes.push(match self.services.get(id) {
                Some(service) => Change::put(key, service),
                None => Change::Delete { key },
            });
        }
        for id in &work.clusters {
            let key = format!("cluster/{id}");
            changes.extend(
                self.clusters
                    .get(id)
                    .map(|cluster| Change::put(key, cluster)),
            );
        }
        for job in &work.interests {
            let key = format!("interest/{}", job.as_str().to_ascii_lowercase());
            changes.push(match self.interests.get(job) {
                Some(clusters) => Change::put(key, &(job, clusters)),
                None => Change::Delete { key },
            });
        }
        for rule in &work.rules {
            let key = format!("rule/{rule}");
            changes.push(if self.rules.contains(rule) {
                Change::put(key, rule)
            } else {
                Change::Delete { key }
            });
        }
        for node_key in &work.revoked {
            let key = format!("revoked/{node_key}");
            changes.push(if self.revoked.contains(node_key) {
                Change::put(key, node_key)
            } else {
                Change::Delete { key }
            });
        }
        for number in &work.grants {
            let key = format!("subnet/{number:08}");
            changes.push(match self.grants.get(number) {
                Some(grant) => Change::put(key, grant),
                None => Change::Delete { key },
            });
        }
        for (ip, rest) in self.semantic.changed() {
            let key = format!("resting/{ip}");
            changes.push(match rest {
                Some(rest) => Change::put(key, &rest),
                None => Change::Delete { key },
            });
        }
        changes
    }

    /// Builds the state from what was written: every [`Change::Put`] that no later change replaced.
    ///
    /// # Errors
    /// Names the record that cannot be read or contradicts another.
    pub fn restore<'a>(
        plan: &AddressPlan,
        records: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, RestoreError> {
        let mut root = Self::new(plan);
        for (key, value) in records {
            let (kind, id) = key.split_once('/').unwrap_or((key, ""));
            match kind {
                "service" => root.restore_service(key, read(key, value)?)?,
                "cluster" => {
                    root.clusters.insert(id.to_owned(), read(key, value)?);
                }
                "interest" => {
                    let (job, clusters) = read(key, value)?;
                    root.interests.insert(job, clusters);
                }
                "rule" => {
                    root.rules.insert(read(key, value)?);
                }
                "revoked" => {
                    root.revoked.insert(read(key, value)?);
                }
                "subnet" => {
                    root.restore_grant(key, id, read(key, value)?)?;
                }
                "resting" => {
                    let ip = read_ip(key, id)?;
                    root.semantic.restore_rest(ip, read(key, value)?);
                }
                "counters" => root.restore_counters(key, read(key, value)?)?,
                _ => {
                    return Err(RestoreError::Kind {
                        key: key.to_owned(),
                    });
                }
            }
        }
        Ok(root)
    }

    fn restore_grant(&mut self, key: &str, number: &str, grant: Grant) -> Result<(), RestoreError> {
        let conflict = |conflict: String| RestoreError::Conflict {
            key: key.to_owned(),
            conflict,
        };
        let number = number
            .parse()
            .map_err(|_| conflict(format!("`{number}` is not a number")))?;
        self.subnets
            .restore(&grant.subnet.networks(), grant.rests_until_s)
            .map_err(|error| conflict(error.to_string()))?;
        self.grants.insert(number, grant);
        Ok(())
    }

    fn restore_counters(&mut self, key: &str, counters: Counters) -> Result<(), RestoreError> {
        for (first, next) in &counters.cursors {
            self.semantic
                .restore_cursor(read_ip(key, first)?, read_ip(key, next)?);
        }
        self.counters = counters;
        Ok(())
    }

    fn restore_service(&mut self, key: &str, service: Service) -> Result<(), RestoreError> {
        let id = service.job.id.clone();
        let name = service.job.job_name.clone();
        let owner = |usage, number| Owner {
            service: name.as_str().to_ascii_lowercase(),
            usage,
            number,
        };
        let mut taken: BTreeMap<Ip, Owner> = BTreeMap::new();
        for range in &service.ranges {
            for number in range.from..range.to {
                for ip in range.addresses(number).unwrap_or_default().iter() {
                    taken.insert(ip, owner(Use::Instance, Some(number)));
                }
            }
        }
        for entry in &service.job.service_ip_list {
            let usage = match entry.ip_type {
                IpType::RoundRobin => Use::RoundRobin,
                IpType::Closest => Use::Closest,
                IpType::Instance(_) => Use::Instance,
            };
            for ip in entry.ips().iter() {
                taken.insert(ip, owner(usage, None));
                self.addresses.insert(ip, id.clone());
            }
        }
        for entry in &service.job.instance_list {
            for ip in entry.instance_ips().iter().map(InstanceIp::ip) {
                taken.insert(ip, owner(Use::Instance, Some(entry.instance_number)));
                self.addresses.insert(ip, id.clone());
            }
        }
        for (ip, owner) in taken {
            self.semantic
                .restore_taken(ip, owner)
                .map_err(|other| RestoreError::Conflict {
                    key: key.to_owned(),
                    conflict: format!("{ip} is also {other}"),
                })?;
        }
        self.node_keys.set(&id, service.node_keys());
        self.names.insert(name, id.clone());
        self.services.insert(id, service);
        Ok(())
    }
}

fn read_ip(key: &str, text: &str) -> Result<Ip, RestoreError> {
    text.parse().map_err(|_| RestoreError::Conflict {
        key: key.to_owned(),
        conflict: format!("`{text}` is not an address"),
    })
}
