//! What is really the case, kept apart from all protocols: which instances live, where, who ever
//! had an address, and who may call whom.

use crate::tenants::Rules;
use sluice_proto::ServiceName;
use sluice_wire::Ip;
use std::collections::{BTreeMap, BTreeSet};

/// An instance by service, number and epoch.
pub type Identity = (ServiceName, u32, u64);

/// See the module.
#[derive(Debug, Default)]
pub struct Truth {
    /// Instances whose process runs, and the node it runs on.
    pub living: BTreeMap<Identity, usize>,
    pub rules: Rules,
    /// Every address ever seen, with its first owner.
    owners: BTreeMap<Ip, String>,
    /// Node subnets ever seen, with their node.
    subnets: BTreeMap<Ip, usize>,
}

impl Truth {
    /// An address was given to an owner.
    ///
    /// # Panics
    /// When another owner ever had it: quarantine outlasts every run.
    pub fn address_given(&mut self, ip: Ip, owner: &str) {
        let first = self.owners.entry(ip).or_insert_with(|| owner.to_owned());
        assert_eq!(first, owner, "{ip} has two owners");
    }

    /// Whether the address was ever given to anybody: one that the root has only written down may yet be lost.
    #[must_use]
    pub fn is_given(&self, ip: Ip) -> bool {
        self.owners.contains_key(&ip)
    }

    /// A node got its subnet.
    ///
    /// # Panics
    /// When another node has it.
    pub fn subnet_given(&mut self, network: Ip, node: usize) {
        let first = *self.subnets.entry(network).or_insert(node);
        assert_eq!(first, node, "subnet {network} was given to two nodes");
    }

    /// The numbers of the living instances of a service.
    #[must_use]
    pub fn living_of(&self, service: &ServiceName) -> BTreeSet<(u32, u64)> {
        self.living
            .keys()
            .filter(|(job, _, _)| job == service)
            .map(|(_, number, epoch)| (*number, *epoch))
            .collect()
    }
}
