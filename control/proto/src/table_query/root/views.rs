//! What the root knows, for answers that change nothing.

use super::Root;
use crate::alloc::Use;
use crate::message::{Job, SubnetGrant};
use crate::names::ServiceName;
use crate::table_query::Key;
use sluice_wire::{Family, Ip};
use std::collections::BTreeSet;

/// A registered cluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClusterView<'a> {
    pub id: &'a str,
    pub address: &'a str,
    pub port: u16,
}

/// A subnet that was given to a node's cluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SubnetView<'a> {
    pub subnet: &'a SubnetGrant,
    /// The cluster that asked, where it said who it was.
    pub cluster: Option<&'a str>,
    /// Its node has left: until when it rests, in seconds of the [`Calendar`](crate::alloc::Calendar).
    pub rests_until_s: Option<u64>,
}

impl Root {
    /// The job that has this address or name.
    #[must_use]
    pub fn job(&self, key: &Key) -> Option<&Job> {
        let id = match key {
            Key::Address(ip) => self.addresses.get(ip),
            Key::Name(name) => self.names.get(name),
            Key::Node(_) => None,
        }?;
        self.job_by_id(id)
    }

    #[must_use]
    pub fn job_by_id(&self, id: &str) -> Option<&Job> {
        self.services.get(id).map(|service| &service.job)
    }

    /// All jobs, in name order.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.names.values().filter_map(|id| self.job_by_id(id))
    }

    /// The id to deploy `name` with: the one it has, else a new one of 24 hexadecimal digits that depends on the name only.
    #[must_use]
    pub fn id_for(&self, name: &ServiceName) -> String {
        if let Some(id) = self.names.get(name) {
            return id.clone();
        }
        // FNV-1a with 96 of 128 bits; a collision with a living id is stepped over.
        let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        for byte in name.as_str().to_ascii_lowercase().bytes() {
            hash = (hash ^ u128::from(byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
        }
        loop {
            let id = format!("{:024x}", hash >> 32);
            if !self.services.contains_key(&id) {
                return id;
            }
            hash = hash.wrapping_add(1 << 32);
        }
    }

    #[must_use]
    pub fn cluster(&self, id: &str) -> Option<ClusterView<'_>> {
        self.clusters
            .get_key_value(id)
            .map(|(id, cluster)| ClusterView {
                id,
                address: &cluster.address,
                port: cluster.port,
            })
    }

    /// All clusters, in id order.
    pub fn clusters(&self) -> impl Iterator<Item = ClusterView<'_>> {
        self.clusters.keys().filter_map(|id| self.cluster(id))
    }

    /// The clusters that are told of a job's changes.
    #[must_use]
    pub fn interested(&self, job: &ServiceName) -> Option<&BTreeSet<String>> {
        self.interests.get(job)
    }

    /// Every interest: after a restart each of them is told once, since a notice may have been lost with the process.
    pub fn interests(&self) -> impl Iterator<Item = (&ServiceName, &str)> {
        self.interests
            .iter()
            .flat_map(|(job, clusters)| clusters.iter().map(move |cluster| (job, cluster.as_str())))
    }

    /// Addresses that the next services may choose as their round robin address, in the order in which they are given.
    /// The range is not searched without end: what comes after many taken addresses is left out.
    pub fn free_service_ips(&self, family: Family, now_s: u64) -> impl Iterator<Item = Ip> + '_ {
        const SEARCH_MAX: u128 = 1 << 16;
        self.semantic
            .free(Use::RoundRobin, family, SEARCH_MAX, now_s)
    }

    /// All subnets that were given, also those that rest.
    pub fn subnets(&self) -> impl Iterator<Item = SubnetView<'_>> {
        self.grants.values().map(|grant| SubnetView {
            subnet: &grant.subnet,
            cluster: grant.cluster.as_deref(),
            rests_until_s: grant.rests_until_s,
        })
    }
}
