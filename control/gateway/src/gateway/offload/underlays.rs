//! The devices towards other nodes beside TUN links: each is attached to once, before there is traffic.

use super::{Refused, for_good, for_now};
use crate::node::devices::{Devices, Outlet};
use sluice_link::offload::Offload;
use sluice_link::sys::ethtool;
use sluice_wire::Ip;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(super) struct Underlays {
    /// Devices that were tried: the name, and why its packets are left to the worker, if they are.
    tried: BTreeMap<u32, (String, Option<String>)>,
    /// Peers whose device was looked for.
    met: BTreeSet<Ip>,
}

impl Underlays {
    /// Attaches to the device towards a peer, once.
    pub(super) fn take_up(
        &mut self,
        outlet: &Outlet,
        programs: &mut Offload,
    ) -> Result<(), Refused> {
        let (_, reason) = match self.tried.entry(outlet.device) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(attach(outlet.device, programs)?),
        };
        match reason {
            None => Ok(()),
            Some(_) => Err(for_good("the device towards its peer cannot be taken up")),
        }
    }

    /// Attaches to the devices towards these nodes before there is traffic: a driver may lose frames meanwhile.
    pub(super) fn meet(&mut self, peers: impl Iterator<Item = Ip>, programs: &mut Offload) {
        let new: Vec<Ip> = peers.filter(|ip| !self.met.contains(ip)).collect();
        if new.is_empty() {
            return;
        }
        let Ok(mut devices) = Devices::open() else {
            return;
        };
        for ip in new {
            if let Ok(Some(outlet)) = devices.outlet(ip) {
                self.met.insert(ip);
                if let Err(Refused { reason, .. }) = self.take_up(&outlet, programs) {
                    tracing::debug!(peer = %ip, reason, "no offload towards a peer");
                }
            }
        }
    }

    /// For `sluice status`: each device with how, or why not.
    pub(super) fn text(&self) -> String {
        self.tried
            .values()
            .fold(String::new(), |text, (name, reason)| {
                text + &match reason {
                    None => format!(", XDP {name}"),
                    Some(reason) => format!(", not {name}: {reason}"),
                }
            })
    }
}

/// The device's name, and why the programs cannot be there.
fn attach(device: u32, programs: &mut Offload) -> Result<(String, Option<String>), Refused> {
    let links = Devices::open().and_then(|mut devices| devices.links());
    let link = links
        .unwrap_or_default()
        .into_iter()
        .find(|link| link.index == device)
        .ok_or(for_now("the device towards its peer is gone"))?;
    let attached = match link.mac {
        Some(_) => finish_checksums(&link.name).and_then(|()| {
            programs
                .attach_underlay((&link.name, link.index))
                .map_err(|error| error.to_string())
        }),
        None => Err("it is no Ethernet device".to_owned()),
    };
    match &attached {
        Ok(()) => tracing::info!(device = link.name, "offload on an underlay device"),
        Err(reason) => {
            tracing::warn!(
                device = link.name,
                reason,
                "no offload on an underlay device"
            );
        }
    }
    Ok((link.name, attached.err()))
}

/// Devices that hand a packet to another stack with its checksum unfinished, as a note beside the bytes. A worker at the
/// other end receives the bytes alone.
const UNFINISHED: [&str; 4] = ["veth", "virtio_net", "tun", "netkit"];

/// Has the kernel finish the checksums of what leaves over such a device. It stays so: others only get what they could
/// have computed themselves.
pub(in crate::gateway) fn finish_checksums(device: &str) -> Result<(), String> {
    match ethtool::driver(device) {
        Ok(driver) if UNFINISHED.contains(&driver.as_str()) => {
            ethtool::set_tx_checksum(device, false)
                .map_err(|error| format!("switching its tx checksums off: {error}"))
        }
        // A device that does not say is a real one or does nothing of the kind.
        Ok(_) | Err(_) => Ok(()),
    }
}
