//! The address plan: which ranges are semantic, which belong to nodes.

use crate::addr::{Dual, Family, Ip};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A network prefix of either family.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Subnet {
    network: Ip,
    /// Prefix length in the 128-bit form: an IPv4 /26 is 122.
    prefix_bits: u8,
}

#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum SubnetError {
    #[error("`{0}` is not a network prefix like 10.30.0.0/16 or fdff::/16")]
    Syntax(String),
    #[error("prefix length {length} of {network} is above {max}")]
    Length { network: Ip, length: u8, max: u8 },
    #[error("{network}/{length} has host bits set; the network is {expected}/{length}")]
    HostBits {
        network: Ip,
        length: u8,
        expected: Ip,
    },
}

impl Subnet {
    /// `length` is in the family's own units (0..=32 or 0..=128).
    ///
    /// # Errors
    /// When the length is out of range or `network` has bits below it.
    pub fn new(network: Ip, length: u8) -> Result<Self, SubnetError> {
        let max = if network.is_v4() { 32 } else { 128 };
        if length > max {
            return Err(SubnetError::Length {
                network,
                length,
                max,
            });
        }
        let prefix_bits = length + (128 - max);
        let subnet = Self {
            network: Ip::from_bits(network.to_bits() & mask(prefix_bits)),
            prefix_bits,
        };
        if subnet.network != network {
            return Err(SubnetError::HostBits {
                network,
                length,
                expected: subnet.network,
            });
        }
        Ok(subnet)
    }

    #[must_use]
    pub const fn network(&self) -> Ip {
        self.network
    }

    /// Prefix length in the family's own units.
    #[must_use]
    pub const fn length(&self) -> u8 {
        if self.network.is_v4() {
            self.prefix_bits - 96
        } else {
            self.prefix_bits
        }
    }

    #[must_use]
    pub const fn family(&self) -> Family {
        self.network.family()
    }

    #[must_use]
    pub const fn contains(&self, ip: Ip) -> bool {
        ip.to_bits() & mask(self.prefix_bits) == self.network.to_bits()
    }

    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    /// The number of addresses; `u128::MAX` stands for 2^128.
    #[must_use]
    pub const fn size(&self) -> u128 {
        if self.prefix_bits == 0 {
            u128::MAX
        } else {
            1 << (128 - self.prefix_bits as u32)
        }
    }

    /// The last address.
    #[must_use]
    pub const fn last(&self) -> Ip {
        Ip::from_bits(self.network.to_bits() | !mask(self.prefix_bits))
    }

    /// The address `offset` after the network address, if it is inside.
    #[must_use]
    pub fn nth(&self, offset: u128) -> Option<Ip> {
        (offset < self.size()).then(|| self.network.offset(offset))
    }
}

const fn mask(prefix_bits: u8) -> u128 {
    if prefix_bits == 0 {
        0
    } else {
        u128::MAX << (128 - prefix_bits as u32)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length())
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let syntax = || SubnetError::Syntax(text.to_owned());
        let (network, length) = text.split_once('/').ok_or_else(syntax)?;
        Self::new(
            network.parse().map_err(|_| syntax())?,
            length.parse().map_err(|_| syntax())?,
        )
    }
}

/// What an address means under a plan.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Class {
    /// A ServiceIP or an InstanceIP.
    Semantic,
    /// An address of some node's subnet: an NsIP or a gateway.
    Node,
    /// Not ours.
    Foreign,
}

/// The ranges of one installation. The presets are `oakestra` (default), `thesis` and `large`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AddressPlan {
    /// ServiceIPs and InstanceIPs.
    pub semantic: Dual<Subnet>,
    /// Node subnets are cut from these.
    pub nodes: Dual<Subnet>,
    /// Prefix length of one node's subnet, in the family's own units.
    pub node_length_v4: u8,
    pub node_length_v6: u8,
}

#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum PlanError {
    #[error("semantic range {semantic} overlaps node range {nodes}")]
    Overlap { semantic: Subnet, nodes: Subnet },
    #[error("{subnet} is not an {expected} range")]
    Family {
        subnet: Subnet,
        expected: &'static str,
    },
    #[error(
        "a node subnet /{length} does not fit the node range {nodes} (need at least 4 addresses)"
    )]
    NodeLength { nodes: Subnet, length: u8 },
}

impl AddressPlan {
    /// Matches Oakestra (OAKESTRA-WIRE section 4.1): nodes /26 from 10.18.0.0 up to 10.29.255.255 and /120 from
    /// fc00::, semantic 10.30.0.0/16 and fdff::/16. The node range is 10.16.0.0/12 without the semantic part; its
    /// first subnet is 10.18.0.0 because 10.16 and 10.17 are reserved there (see [`AddressPlan::node_first`]).
    #[must_use]
    pub fn oakestra() -> Self {
        Self::preset(
            ["10.30.0.0/16", "fdff::/16", "10.16.0.0/12", "fc00::/8"],
            26,
            120,
        )
    }

    /// The thesis's original ranges (section 3.4): 172.16.0.0/12 with 172.30.0.0/16 for ServiceIPs.
    #[must_use]
    pub fn thesis() -> Self {
        Self::preset(
            ["172.30.0.0/16", "fdff::/16", "172.16.0.0/12", "fc00::/8"],
            26,
            120,
        )
    }

    /// For many services: semantic 10.0.0.0/9 and nodes /25 from 10.128.0.0/9.
    #[must_use]
    pub fn large() -> Self {
        Self::preset(
            ["10.0.0.0/9", "fdff::/16", "10.128.0.0/9", "fc00::/8"],
            25,
            120,
        )
    }

    fn preset(ranges: [&str; 4], node_length_v4: u8, node_length_v6: u8) -> Self {
        let [semantic_v4, semantic_v6, nodes_v4, nodes_v6] =
            ranges.map(|text| text.parse().expect("a preset is a valid prefix"));
        Self {
            semantic: Dual::both(semantic_v4, semantic_v6),
            nodes: Dual::both(nodes_v4, nodes_v6),
            node_length_v4,
            node_length_v6,
        }
    }

    /// The preset of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "oakestra" => Some(Self::oakestra()),
            "thesis" => Some(Self::thesis()),
            "large" => Some(Self::large()),
            _ => None,
        }
    }

    /// Checks a free plan. A node range may *contain* the semantic range (as Oakestra's /12 does); the
    /// allocator then leaves that part out. The reverse is an error.
    ///
    /// # Errors
    /// Names the two ranges, or the range and the length, that cannot be used together.
    pub fn check(&self) -> Result<(), PlanError> {
        for (semantic, nodes, length) in [
            (self.semantic.v4, self.nodes.v4, self.node_length_v4),
            (self.semantic.v6, self.nodes.v6, self.node_length_v6),
        ] {
            let (Some(semantic), Some(nodes)) = (semantic, nodes) else {
                continue;
            };
            if semantic.contains(nodes.network()) && semantic.length() <= nodes.length() {
                return Err(PlanError::Overlap { semantic, nodes });
            }
            let max = if nodes.family() == Family::V4 {
                30
            } else {
                126
            };
            if length < nodes.length() || length > max {
                return Err(PlanError::NodeLength { nodes, length });
            }
        }
        for (subnet, v4) in [
            (self.semantic.v4, true),
            (self.nodes.v4, true),
            (self.semantic.v6, false),
            (self.nodes.v6, false),
        ] {
            if let Some(subnet) = subnet
                && subnet.network().is_v4() != v4
            {
                return Err(PlanError::Family {
                    subnet,
                    expected: if v4 { "IPv4" } else { "IPv6" },
                });
            }
        }
        Ok(())
    }

    /// The first node subnet of a family: Oakestra hands out 10.18.0.0 and thesis 172.18.0.0 first, because the two
    /// /16 before it are reserved when the node range is a /12.
    #[must_use]
    pub fn node_first(&self, family: Family) -> Option<Ip> {
        let nodes = self.nodes.of(family)?;
        let reserved = if family == Family::V4 && nodes.length() == 12 {
            2 << 16
        } else {
            0
        };
        nodes.nth(reserved)
    }

    /// What `ip` means. Semantic wins where a node range contains the semantic one.
    #[must_use]
    pub fn class(&self, ip: Ip) -> Class {
        let inside = |range: &Dual<Subnet>| {
            range
                .of(ip.family())
                .is_some_and(|subnet| subnet.contains(ip))
        };
        if inside(&self.semantic) {
            Class::Semantic
        } else if inside(&self.nodes) {
            Class::Node
        } else {
            Class::Foreign
        }
    }
}

impl Default for AddressPlan {
    fn default() -> Self {
        Self::oakestra()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_classify() {
        for name in ["oakestra", "thesis", "large"] {
            AddressPlan::named(name).unwrap().check().unwrap();
        }
        let plan = AddressPlan::oakestra();
        let class = |text: &str| plan.class(text.parse().unwrap());
        assert_eq!(class("10.30.0.1"), Class::Semantic);
        assert_eq!(class("fdff:2000::1"), Class::Semantic);
        assert_eq!(class("10.18.0.2"), Class::Node);
        assert_eq!(class("fc00::102"), Class::Node);
        assert_eq!(class("192.0.2.1"), Class::Foreign);
        assert_eq!(
            plan.node_first(Family::V4).unwrap().to_string(),
            "10.18.0.0"
        );
        assert_eq!(plan.node_first(Family::V6).unwrap().to_string(), "fc00::");
    }

    #[test]
    fn a_prefix_with_host_bits_names_the_network() {
        let error = "10.30.0.1/16".parse::<Subnet>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "10.30.0.1/16 has host bits set; the network is 10.30.0.0/16"
        );
        assert!("10.30.0.0".parse::<Subnet>().is_err());
        assert!("10.30.0.0/33".parse::<Subnet>().is_err());
    }
}
