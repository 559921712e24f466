//! The underlay interface: which one it is, and what the kernel says about it.

use super::HardwareError;
use super::sysfs::Sysfs;
use crate::config::Config;
use crate::gateway;
use crate::node::devices::Devices;
use crate::node::nic;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{CapabilitySet, capabilities};
use sluice_hw_profiles::{Facts, Kernel};
use sluice_link::sys::ethtool;
use std::net::IpAddr;
use std::path::Path;

/// An interface of this network namespace.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) facts: Facts,
    /// The kernel's number of it.
    pub(super) index: u32,
    /// `None` when this process sees another namespace's sysfs and may not open its own.
    pub(super) sysfs: Option<Sysfs>,
}

impl Device {
    /// Looks at the interface of that name.
    pub(super) fn look(interface: &str) -> Result<Self, HardwareError> {
        let link = Devices::open()?
            .link(interface)?
            .ok_or_else(|| HardwareError::NoInterface(interface.to_owned()))?;
        let mac = link.mac.unwrap_or_default();
        let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let sysfs = Sysfs::open(interface, link.index, &mac.join(":"));
        let proc = Path::new("/proc");
        let mut facts = match &sysfs {
            Some(sysfs) => Facts::read(sysfs.path(), proc, interface)?,
            None => Facts::of_machine(proc, interface),
        };
        if facts.driver.is_none() {
            // Virtual devices have a driver only in ethtool; some have none at all.
            facts.driver = ethtool::driver(interface)
                .ok()
                .or_else(|| Some(link.kind).filter(|kind| !kind.is_empty()));
        }
        if facts.machine.is_empty() {
            // Kernels before 6.1 have no file for it.
            std::env::consts::ARCH.clone_into(&mut facts.machine);
        }
        facts.kernel = kernel(link.index)?;
        Ok(Self {
            facts,
            index: link.index,
            sysfs,
        })
    }
}

/// The name of the underlay interface: the configured one, or the one with this node's address.
pub(super) fn underlay(config: &Config) -> Result<String, HardwareError> {
    if let Some(interface) = &config.hardware.interface {
        return Ok(interface.clone());
    }
    let cluster: Option<IpAddr> = config
        .gateway
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.host.parse().ok())
        .filter(|ip: &IpAddr| !ip.is_loopback());
    let address = config
        .gateway
        .node_address
        .or_else(|| gateway::source_towards(cluster))
        .ok_or(HardwareError::NoUnderlay)?;
    let mut devices = Devices::open()?;
    let index = devices
        .addresses()?
        .into_iter()
        .find(|listed| listed.address == address)
        .map(|listed| listed.device);
    devices
        .links()?
        .into_iter()
        .find(|link| Some(link.index) == index)
        .map(|link| link.name)
        .ok_or_else(|| HardwareError::NobodysAddress(address.into()))
}

/// What decides about AF_XDP.
fn kernel(index: u32) -> Result<Kernel, HardwareError> {
    let socket = socket_with(
        AddressFamily::XDP,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    );
    let may_load = capabilities(None).is_ok_and(|sets| {
        let has = |capability| sets.effective.contains(capability);
        let base = CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW;
        has(base) && (has(CapabilitySet::BPF) || has(CapabilitySet::SYS_ADMIN))
    });
    Ok(Kernel {
        // A kernel that has the family asks for the privilege next.
        xdp_sockets: Some(!matches!(socket, Err(Errno::AFNOSUPPORT))),
        may_load: Some(may_load),
        xdp_features: nic::xdp_features(index)?.map(|features| features.actions),
    })
}
