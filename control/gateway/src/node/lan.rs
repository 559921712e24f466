//! Hosts on the LAN as instances: known by the addresses they have. Their wiring is their own; the kernel's tables say
//! where they are.

use super::attach::Wired;
use super::devices::Devices;
use super::{NodeError, NodeNet};
use crate::command::InstanceName;
use serde::{Deserialize, Serialize};
use sluice_wire::{Dual, Ip, NsIp};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A host that is attached; a unit of the state file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Host {
    pub instance: InstanceName,
    pub address: Option<Ipv4Addr>,
    pub address_v6: Option<Ipv6Addr>,
}

impl Host {
    /// Its addresses, which are the instance's NsIPs.
    #[must_use]
    pub fn ns_ip(&self) -> Dual<NsIp> {
        Dual {
            v4: self.address.map(|ip| NsIp::new(ip.into())),
            v6: self.address_v6.map(|ip| NsIp::new(ip.into())),
        }
    }
}

impl From<&Host> for Wired {
    fn from(host: &Host) -> Self {
        Self {
            instance: host.instance.clone(),
            ns_ip: host.ns_ip(),
            veth: None,
        }
    }
}

impl NodeNet {
    /// Makes the host with these addresses an instance, until [`NodeNet::detach_host`].
    ///
    /// # Errors
    /// When the service side is no LAN, or an address cannot be a host's: the gateway's own, in a service range, not
    /// reached over the LAN, or another instance's.
    pub fn attach_host(
        &mut self,
        instance: InstanceName,
        address: Dual<Ip>,
    ) -> Result<Host, NodeError> {
        self.check_host(&instance, address)?;
        let host = Host {
            instance,
            address: address.v4.and_then(|ip| match ip.into() {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(_) => None,
            }),
            address_v6: address.v6.and_then(|ip| match ip.into() {
                IpAddr::V6(ip) => Some(ip),
                IpAddr::V4(_) => None,
            }),
        };
        // The same again is a host that came back.
        if !self.state.hosts.contains(&host) {
            self.state.hosts.push(host.clone());
            if let Err(error) = self.state.save(&self.wiring.state_dir) {
                self.state.hosts.pop();
                return Err(error.into());
            }
        }
        Ok(host)
    }

    /// Forgets a host; false when it was not attached.
    ///
    /// # Errors
    /// When the state file cannot be written.
    pub fn detach_host(&mut self, instance: &InstanceName) -> Result<bool, NodeError> {
        let before = self.state.hosts.len();
        self.state.hosts.retain(|host| host.instance != *instance);
        let was_attached = self.state.hosts.len() < before;
        if was_attached {
            self.state.save(&self.wiring.state_dir)?;
        }
        Ok(was_attached)
    }

    fn check_host(&self, instance: &InstanceName, address: Dual<Ip>) -> Result<(), NodeError> {
        let lan = self.wiring.lan.as_ref().ok_or(NodeError::NoLan)?;
        let mut devices = Devices::open()?;
        let device = devices
            .link(lan)?
            .ok_or_else(|| NodeError::NoLanDevice(lan.clone()))?;
        let own = devices.addresses()?;
        for ip in address.iter() {
            let refused = |why: &str| {
                Err(NodeError::NotAHost {
                    address: ip,
                    why: why.to_owned(),
                })
            };
            let semantic = self.wiring.plan.semantic;
            if semantic.iter().any(|range| range.contains(ip)) {
                return refused("is in a service range");
            }
            if own.iter().any(|row| row.address == ip) {
                return refused("is this machine's");
            }
            // No route at all is an error of the kernel's.
            let outlet = devices.outlet(ip).ok().flatten();
            if outlet.map(|outlet| outlet.device) != Some(device.index) {
                return refused(&format!("is not reached over {lan}"));
            }
            let same = |host: &&Host| host.ns_ip().iter().any(|known| known.ip() == ip);
            match self.state.hosts.iter().find(same) {
                Some(other) if other.instance != *instance => {
                    return refused(&format!("is attached as {}", other.instance));
                }
                Some(_) | None => {}
            }
        }
        let known = self
            .state
            .hosts
            .iter()
            .find(|host| host.instance == *instance);
        match known {
            Some(host) if !host.ns_ip().iter().map(NsIp::ip).eq(address.iter()) => {
                Err(NodeError::AlreadyAttached(host.instance.clone()))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The hosts that are attached now, in the order of attaching.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.state.hosts
    }
}
