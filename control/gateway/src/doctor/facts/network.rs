//! What netlink says of this namespace: devices, addresses, routes, firewall chains that drop, offloads, XDP modes.

use crate::config::Config;
use crate::node::devices::{Devices, LinkState, ListedAddress, ListedRoute};
use crate::node::foreign::{self, DroppingChain};
use crate::node::legacy_iptables::{self, LegacyForward};
use crate::node::netlink::NetlinkError;
use crate::node::nft::{HOOK_INPUT, ListedChain, Match, list_chains, list_elements, list_rules};
use crate::node::nic::{self, Offload, XdpModes};
use sluice_wire::{Dual, Family, Ip};

#[derive(Clone, Debug, Default)]
pub(crate) struct Network {
    pub(crate) links: Vec<LinkState>,
    pub(crate) addresses: Vec<ListedAddress>,
    pub(crate) routes: Vec<ListedRoute>,
    /// The device that the configuration names as the underlay, if it does.
    pub(crate) chosen: Option<String>,
    /// The address other nodes know this one by, as configured or as the routes say.
    pub(crate) own_address: Option<Ip>,
    /// nf_tables chains that drop forwarded packets by policy.
    pub(crate) forward: Vec<DroppingChain>,
    /// FORWARD of the legacy iptables backend, where that has a filter table.
    pub(crate) legacy_forward: Dual<LegacyForward>,
    /// nf_tables chains that drop by policy what comes for this host.
    pub(crate) input: Vec<InputChain>,
    /// Of the underlay's device.
    pub(crate) offloads: Vec<Offload>,
    /// Of the underlay's device, where the kernel tells.
    pub(crate) xdp: Option<XdpModes>,
    /// Of the NIC towards hosts, where the kernel tells.
    pub(crate) lan_xdp: Option<XdpModes>,
    /// What could not be read, and why.
    pub(crate) unseen: Vec<String>,
}

/// An input chain with policy drop.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct InputChain {
    /// `inet filter input`
    pub(crate) name: String,
    /// Whether any rule of its table names the tunnel's port.
    pub(crate) names_port: bool,
}

impl Network {
    pub(crate) fn read(config: &Config, own_address: Option<Ip>) -> Self {
        let mut network = Self {
            own_address,
            chosen: config.hardware.interface.clone(),
            ..Self::default()
        };
        let mut unseen = Vec::new();
        match Devices::open() {
            Ok(mut devices) => {
                network.links = noted(devices.links(), &mut unseen);
                network.addresses = noted(devices.addresses(), &mut unseen);
                network.routes = noted(devices.routes(), &mut unseen);
            }
            Err(error) => unseen.push(error.to_string()),
        }
        network.forward = noted(foreign::dropping(), &mut unseen);
        network.input = noted(input_chains(config.fastpath.tunnel_port), &mut unseen);
        for family in [Family::V4, Family::V6] {
            match legacy_iptables::forward(family, &config.gateway.uplink) {
                Ok(found) if family == Family::V4 => network.legacy_forward.v4 = found,
                Ok(found) => network.legacy_forward.v6 = found,
                Err(error) => unseen.push(format!("reading legacy iptables: {error}")),
            }
        }
        if let Some(underlay) = network.underlay().cloned() {
            network.offloads = noted(nic::offloads(&underlay.name), &mut unseen);
            network.xdp = noted(nic::xdp_modes(underlay.index), &mut unseen);
        }
        let lan = config.fastpath.service.lan();
        if let Some(lan) = lan
            .and_then(|name| network.link(name))
            .map(|link| link.index)
        {
            network.lan_xdp = noted(nic::xdp_modes(lan), &mut unseen);
        }
        unseen.dedup();
        network.unseen = unseen;
        network
    }

    /// The device that carries tunnels: the one that is named, else the one with our address, else that of a default route.
    pub(crate) fn underlay(&self) -> Option<&LinkState> {
        if let Some(name) = &self.chosen {
            return self.link(name);
        }
        let own = self
            .addresses
            .iter()
            .find(|listed| Some(listed.address) == self.own_address)
            .map(|listed| listed.device);
        let default = || {
            let mut routes = self.routes.iter();
            routes.find(|route| route.destination.length() == 0)?.device
        };
        let index = own.or_else(default)?;
        self.links.iter().find(|link| link.index == index)
    }

    pub(crate) fn link(&self, name: &str) -> Option<&LinkState> {
        self.links.iter().find(|link| link.name == name)
    }

    /// A device's name, or its number where it has gone.
    pub(crate) fn name(&self, index: u32) -> String {
        self.links
            .iter()
            .find(|link| link.index == index)
            .map_or_else(|| format!("link {index}"), |link| link.name.clone())
    }
}

fn noted<T: Default>(result: Result<T, NetlinkError>, unseen: &mut Vec<String>) -> T {
    result.unwrap_or_else(|error| {
        unseen.push(error.to_string());
        T::default()
    })
}

fn input_chains(port: u16) -> Result<Vec<InputChain>, NetlinkError> {
    let chains = list_chains()?;
    chains
        .iter()
        .filter(|chain| chain.hook == Some(HOOK_INPUT) && chain.policy_drop)
        .map(|base| {
            // Its rules may be anywhere in the table, behind jumps.
            let mut names_port = false;
            for chain in &chains {
                if chain.family == base.family && chain.table == base.table {
                    names_port |= chain_names(chain, port)?;
                }
            }
            Ok(InputChain {
                name: base.to_string(),
                names_port,
            })
        })
        .collect()
}

fn chain_names(chain: &ListedChain, port: u16) -> Result<bool, NetlinkError> {
    for rule in list_rules(chain.family, &chain.table, &chain.name)? {
        for compared in rule.matches {
            let named = match compared {
                Match::Value(value) => value == port.to_be_bytes(),
                Match::Set(set) => list_elements(chain.family, &chain.table, &set)?
                    .iter()
                    .any(|key| key.starts_with(&port.to_be_bytes())),
                Match::Extension { name, data } => extension_names(&name, &data, port),
            };
            if named {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// `struct xt_udp`: a range of source ports, one of destination ports. `struct xt_multiport_v1`: flags, count, ports.
fn extension_names(name: &str, data: &[u8], port: u16) -> bool {
    let shorts = |bytes: &[u8]| -> Vec<u16> {
        bytes
            .chunks_exact(2)
            .map(|two| u16::from_ne_bytes([two[0], two[1]]))
            .collect()
    };
    match name {
        "udp" => matches!(shorts(data).get(2..4), Some(&[first, last])
            if (first, last) != (0, u16::MAX) && (first..=last).contains(&port)),
        "multiport" => {
            let ports = shorts(data.get(2..).unwrap_or_default());
            ports.iter().take(15).any(|named| *named == port)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_of_iptables_name_ports() {
        let bytes = |numbers: &[u16]| -> Vec<u8> {
            numbers
                .iter()
                .flat_map(|number| number.to_ne_bytes())
                .collect()
        };
        for (name, data, expected) in [
            ("udp", bytes(&[0, 65535, 50103, 50103, 0]), true),
            ("udp", bytes(&[0, 65535, 50000, 51000, 0]), true),
            ("udp", bytes(&[0, 65535, 0, 65535, 0]), false),
            ("udp", bytes(&[50103, 50103, 0, 65535, 0]), false),
            ("udp", bytes(&[0]), false),
            ("multiport", bytes(&[0x0201, 22, 50103]), true),
            ("multiport", bytes(&[0x0201, 22, 80]), false),
            ("limit", bytes(&[50103]), false),
        ] {
            assert_eq!(
                extension_names(name, &data, 50103),
                expected,
                "{name} {data:?}"
            );
        }
    }
}
