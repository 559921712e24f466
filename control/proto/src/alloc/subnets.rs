//! Node subnets: cut from the node ranges in order, one per node and family, never given twice.

use sluice_wire::{AddressPlan, Dual, Family, Ip, Subnet};
use std::collections::BTreeSet;
use thiserror::Error;

/// Addresses inside the node ranges that legacy gateways give to their TUN devices (OAKESTRA-WIRE section 4.1): a node
/// whose subnet contained one could not be reached from them.
const LEGACY_TUN: [&str; 2] = ["10.19.1.254", "fcef::dead:beef"];

/// Why no subnet can be given.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum SubnetError {
    #[error("node range {range} is used up: no /{length} is left for another node")]
    Exhausted { range: Subnet, length: u8 },
    #[error("{0} is not the network address of a node subnet of this plan")]
    Foreign(Ip),
}

/// All node subnets of an installation. They are not taken back: a node keeps its subnet while it is away.
#[derive(Clone, Debug, PartialEq)]
pub struct Subnets {
    plan: AddressPlan,
    given: BTreeSet<Ip>,
    next: Dual<Ip>,
}

impl Subnets {
    #[must_use]
    pub fn new(plan: &AddressPlan) -> Self {
        Self {
            plan: *plan,
            given: BTreeSet::new(),
            next: Dual {
                v4: plan.node_first(Family::V4),
                v6: plan.node_first(Family::V6),
            },
        }
    }

    /// The network addresses of the next free subnet of every family that the plan has.
    ///
    /// # Errors
    /// Names the range that is used up; then nothing is given.
    pub fn allocate(&mut self) -> Result<Dual<Ip>, SubnetError> {
        let mut found = Dual::default();
        let mut next = self.next;
        for family in [Family::V4, Family::V6] {
            let Some(range) = self.plan.nodes.of(family) else {
                continue;
            };
            let (network, after) = self.search(range, family)?;
            match family {
                Family::V4 => (found.v4, next.v4) = (Some(network), Some(after)),
                Family::V6 => (found.v6, next.v6) = (Some(network), Some(after)),
            }
        }
        self.next = next;
        self.given.extend(found.iter());
        Ok(found)
    }

    /// Marks a subnet of a stored state as given.
    ///
    /// # Errors
    /// When it is no subnet of this plan: the plan was changed under a running installation.
    pub fn restore(&mut self, networks: &Dual<Ip>) -> Result<(), SubnetError> {
        for network in networks.iter() {
            let family = network.family();
            let fits = self.plan.nodes.of(family).is_some_and(|range| {
                range.contains(network) && Subnet::new(network, self.length(family)).is_ok()
            });
            if !fits {
                return Err(SubnetError::Foreign(network));
            }
            self.given.insert(network);
            let after = network.offset(self.size(family));
            let next = match family {
                Family::V4 => &mut self.next.v4,
                Family::V6 => &mut self.next.v6,
            };
            *next = (*next).max(Some(after));
        }
        Ok(())
    }

    /// Subnets given so far, counting each family.
    #[must_use]
    pub fn given_len(&self) -> usize {
        self.given.len()
    }

    /// The node subnet that begins there.
    #[must_use]
    pub fn subnet(&self, network: Ip) -> Option<Subnet> {
        Subnet::new(network, self.length(network.family())).ok()
    }

    /// The range of nodes' subnets that has this address.
    #[must_use]
    pub fn range_of(&self, ip: Ip) -> Option<Subnet> {
        let range = self.plan.nodes.of(ip.family());
        range.filter(|range| range.contains(ip))
    }

    const fn length(&self, family: Family) -> u8 {
        match family {
            Family::V4 => self.plan.node_length_v4,
            Family::V6 => self.plan.node_length_v6,
        }
    }

    fn size(&self, family: Family) -> u128 {
        let bits = match family {
            Family::V4 => 32,
            Family::V6 => 128,
        };
        1 << (bits - u32::from(self.length(family)))
    }

    /// The first free subnet from the cursor on, and where to go on after it.
    fn search(&self, range: Subnet, family: Family) -> Result<(Ip, Ip), SubnetError> {
        let length = self.length(family);
        let exhausted = SubnetError::Exhausted { range, length };
        let Some(mut network) = self.next.of(family) else {
            return Err(exhausted);
        };
        loop {
            if !range.contains(network) {
                return Err(exhausted);
            }
            let Ok(subnet) = Subnet::new(network, length) else {
                return Err(exhausted);
            };
            let after = network.offset(self.size(family));
            if let Some(semantic) = self.plan.semantic.of(family)
                && semantic.overlaps(&subnet)
            {
                // One step over the whole semantic range, which may hold thousands of subnets.
                network = semantic.last().max(subnet.last()).offset(1);
                continue;
            }
            if !self.given.contains(&network) && !is_legacy_tun(&subnet) {
                return Ok((network, after));
            }
            network = after;
        }
    }
}

fn is_legacy_tun(subnet: &Subnet) -> bool {
    LEGACY_TUN
        .iter()
        .any(|ip| ip.parse().is_ok_and(|ip| subnet.contains(ip)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oakestras_subnets_come_in_order() {
        let mut subnets = Subnets::new(&AddressPlan::oakestra());
        let mut next = || {
            let networks = subnets.allocate().unwrap();
            (
                networks.v4.unwrap().to_string(),
                networks.v6.unwrap().to_string(),
            )
        };
        assert_eq!(next(), ("10.18.0.0".to_owned(), "fc00::".to_owned()));
        assert_eq!(next(), ("10.18.0.64".to_owned(), "fc00::100".to_owned()));
    }

    /// All of the plan: no overlap with the semantic range or a legacy TUN, none twice, and the end is named.
    #[test]
    fn every_subnet_is_given_once_until_the_range_is_used_up() {
        for plan in [
            AddressPlan::oakestra(),
            AddressPlan::thesis(),
            AddressPlan::large(),
        ] {
            let mut subnets = Subnets::new(&plan);
            let mut seen = BTreeSet::new();
            let error = loop {
                match subnets.allocate() {
                    Ok(networks) => {
                        let v4 = Subnet::new(networks.v4.unwrap(), plan.node_length_v4).unwrap();
                        assert!(seen.insert(networks.v4.unwrap()));
                        assert!(!v4.overlaps(&plan.semantic.v4.unwrap()));
                        assert!(!v4.contains("10.19.1.254".parse().unwrap()));
                    }
                    Err(error) => break error.to_string(),
                }
            };
            assert!(
                error.contains(&plan.nodes.v4.unwrap().to_string()),
                "{error}"
            );
            assert!(seen.len() > 3000, "{}", seen.len());
        }
    }

    #[test]
    fn a_restored_subnet_is_not_given_again() {
        let plan = AddressPlan::oakestra();
        let mut subnets = Subnets::new(&plan);
        let first = subnets.allocate().unwrap();
        let mut restored = Subnets::new(&plan);
        restored.restore(&first).unwrap();
        assert_eq!(restored.allocate(), subnets.allocate());
        let foreign = Dual {
            v4: Some("10.18.0.1".parse().unwrap()),
            v6: None,
        };
        assert!(restored.restore(&foreign).is_err());
    }
}
