//! Node subnets: cut from the node ranges in order, one per node and family; one that comes back rests, and is given
//! again only when there is no fresh one.

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
    #[error(
        "node range {range} is used up: no /{length} is left for another node, {resting} rest after use; the next is free in {wait_s} s"
    )]
    Resting {
        range: Subnet,
        length: u8,
        resting: usize,
        wait_s: u64,
    },
    #[error("{0} is not the network address of a node subnet of this plan")]
    Foreign(Ip),
}

/// All node subnets of an installation. A node keeps its subnet while it is away, until it leaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Subnets {
    plan: AddressPlan,
    given: BTreeSet<Ip>,
    /// Until when (seconds of the [`Calendar`](super::Calendar)), and what was given together.
    resting: BTreeSet<(u64, Option<Ip>, Option<Ip>)>,
    next: Dual<Ip>,
}

impl Subnets {
    #[must_use]
    pub fn new(plan: &AddressPlan) -> Self {
        Self {
            plan: *plan,
            given: BTreeSet::new(),
            resting: BTreeSet::new(),
            next: Dual {
                v4: plan.node_first(Family::V4),
                v6: plan.node_first(Family::V6),
            },
        }
    }

    /// The network addresses of the next subnet of every family that the plan has: fresh ones, else those that rested
    /// longest. `now_s` is the [`Calendar`](super::Calendar)'s time in seconds.
    ///
    /// # Errors
    /// Names the range that is used up; then nothing is given.
    pub fn allocate(&mut self, now_s: u64) -> Result<Dual<Ip>, SubnetError> {
        let found = match self.fresh() {
            Err(SubnetError::Exhausted { range, length }) => self.rested(range, length, now_s)?,
            fresh => fresh?,
        };
        self.given.extend(found.iter());
        Ok(found)
    }

    /// Takes back what was given together; it rests until `until_s`. What nobody has stays as it is.
    pub fn release(&mut self, networks: &Dual<Ip>, until_s: u64) {
        let mut had = false;
        for network in networks.iter() {
            had |= self.given.remove(&network);
        }
        if had {
            self.resting.insert((until_s, networks.v4, networks.v6));
        }
    }

    fn rested(&mut self, range: Subnet, length: u8, now_s: u64) -> Result<Dual<Ip>, SubnetError> {
        let Some(&(until_s, v4, v6)) = self.resting.first() else {
            return Err(SubnetError::Exhausted { range, length });
        };
        if now_s < until_s {
            return Err(SubnetError::Resting {
                range,
                length,
                resting: self.resting.len(),
                wait_s: until_s - now_s,
            });
        }
        self.resting.pop_first();
        Ok(Dual { v4, v6 })
    }

    fn fresh(&mut self) -> Result<Dual<Ip>, SubnetError> {
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
        Ok(found)
    }

    /// Marks a subnet of a stored state as given, or as resting until then.
    ///
    /// # Errors
    /// When it is no subnet of this plan: the plan was changed under a running installation.
    pub fn restore(
        &mut self,
        networks: &Dual<Ip>,
        rests_until_s: Option<u64>,
    ) -> Result<(), SubnetError> {
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
        if let Some(until_s) = rests_until_s {
            self.release(networks, until_s);
        }
        Ok(())
    }

    /// Subnets that somebody has, counting each family.
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
            let networks = subnets.allocate(0).unwrap();
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
                match subnets.allocate(0) {
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
        let first = subnets.allocate(0).unwrap();
        let mut restored = Subnets::new(&plan);
        restored.restore(&first, None).unwrap();
        assert_eq!(restored.allocate(0), subnets.allocate(0));
        let foreign = Dual {
            v4: Some("10.18.0.1".parse().unwrap()),
            v6: None,
        };
        assert!(restored.restore(&foreign, None).is_err());
    }

    /// Four subnets.
    fn small() -> AddressPlan {
        AddressPlan {
            nodes: Dual::both(
                "10.18.0.0/24".parse().unwrap(),
                "fc00::/118".parse().unwrap(),
            ),
            ..AddressPlan::oakestra()
        }
    }

    #[test]
    fn a_returned_subnet_is_given_again_after_its_rest_when_no_fresh_one_is_left() {
        let mut subnets = Subnets::new(&small());
        let first = subnets.allocate(0).unwrap();
        subnets.release(&first, 700);
        for _ in 0..3 {
            assert_ne!(
                subnets.allocate(1000).unwrap(),
                first,
                "fresh ones come first"
            );
        }
        let last = subnets.allocate(1000).unwrap();
        assert_eq!(last, first);
        subnets.release(&last, 1600);
        assert_eq!(
            subnets.allocate(1599).unwrap_err().to_string(),
            "node range 10.18.0.0/24 is used up: no /26 is left for another node, 1 rest after use; the next is free in 1 s"
        );
        assert_eq!(subnets.allocate(1600), Ok(last));
    }

    /// Against sets, with a restart now and then: no subnet has two owners, none is given while it rests, and one that
    /// is neither is given.
    #[test]
    fn no_subnet_has_two_owners_and_none_is_given_before_its_rest_ends() {
        const REST_S: u64 = 600;
        let plan = small();
        bolero::check!()
            .with_type::<Vec<(u8, u8, u16)>>()
            .for_each(|steps| {
                let mut subnets = Subnets::new(&plan);
                let mut living: Vec<Dual<Ip>> = Vec::new();
                let mut freed: Vec<(Dual<Ip>, u64)> = Vec::new();
                let mut now_s = 0;
                for (verb, which, pause) in steps {
                    now_s += u64::from(*pause) / 64;
                    match verb % 5 {
                        0..=2 => match subnets.allocate(now_s) {
                            Ok(given) => {
                                assert!(!living.contains(&given), "{given:?} twice");
                                if let Some(at) = freed.iter().position(|(it, _)| *it == given) {
                                    let (_, since) = freed.remove(at);
                                    assert!(now_s >= since + REST_S, "{given:?} did not rest");
                                }
                                living.push(given);
                            }
                            Err(_) => {
                                let has_rested = |(_, since): &(_, u64)| now_s >= since + REST_S;
                                assert!(!freed.iter().any(has_rested));
                                assert_eq!(living.len() + freed.len(), 4);
                            }
                        },
                        3 if !living.is_empty() => {
                            let gone = living.swap_remove(usize::from(*which) % living.len());
                            subnets.release(&gone, now_s + REST_S);
                            freed.push((gone, now_s));
                        }
                        _ => {
                            let mut restored = Subnets::new(&plan);
                            for networks in &living {
                                restored.restore(networks, None).unwrap();
                            }
                            for (networks, since) in &freed {
                                restored.restore(networks, Some(since + REST_S)).unwrap();
                            }
                            assert_eq!(restored, subnets);
                        }
                    }
                }
            });
    }
}
