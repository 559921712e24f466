//! One instance: its lease, its veth pair, its guard, and what its namespace needs to talk.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use serde::{Deserialize, Serialize};
use sluice_proto::alloc::Reading;
use sluice_routes::Veth;
use sluice_wire::{Class, Dual, Family, Ip, NsIp, Subnet};

use super::devices::{Devices, Mac, Route};
use super::namespace::{Namespace, NamespaceId, Process, Workload};
use super::port_mapping::PortMapping;
use super::rules::{self, Port};
use super::{NodeError, NodeNet, foreign, gateway_mac, is_own, mac, present, sysctl, tail};
use crate::command::InstanceName;

/// An instance as this node carries it; the unit of the state file.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Attachment {
    pub instance: InstanceName,
    pub ns_address: Option<Ipv4Addr>,
    pub ns_address_v6: Option<Ipv6Addr>,
    /// The address that the instance has inside in place of `ns_address`: that of its first place, from which it moved.
    #[serde(default)]
    pub kept_address: Option<Ipv4Addr>,
    #[serde(default)]
    pub kept_address_v6: Option<Ipv6Addr>,
    /// Position in the node's subnet.
    pub(crate) offset: u32,
    /// The host's end of the veth pair, a bridge port.
    pub host_device: String,
    /// Its interface index.
    pub(crate) host_index: u32,
    /// The other end, inside the namespace.
    pub instance_device: String,
    pub(crate) mac: Mac,
    pub namespace: NamespaceId,
    /// Whose end is also the instance's end.
    pub process: Option<ProcessId>,
    pub port_mappings: Vec<PortMapping>,
    /// The name of the namespace when this node made it (unikernels).
    pub guest_namespace: Option<String>,
    /// Whatever the gateway's core wants to find again after a restart.
    pub note: String,
}

/// An instance of this node, wherever it runs: who it is, and where it is reached.
#[derive(Clone, Debug)]
pub(crate) struct Wired {
    pub(crate) instance: InstanceName,
    pub(crate) ns_ip: Dual<NsIp>,
    /// `None`: it is where the kernel's neighbour table says.
    pub(crate) veth: Option<Veth>,
}

impl From<&Attachment> for Wired {
    fn from(attachment: &Attachment) -> Self {
        Self {
            instance: attachment.instance.clone(),
            ns_ip: attachment.ns_ip(),
            veth: Some(attachment.veth()),
        }
    }
}

/// A process number and what tells it from a later process with the same one.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ProcessId {
    pub pid: i32,
    /// Clock ticks after boot.
    pub started: u64,
}

/// What to attach.
#[derive(Debug)]
pub struct Request {
    pub instance: InstanceName,
    pub port_mappings: Vec<PortMapping>,
    /// The addresses that the workload has had so far, which it keeps inside where that can be.
    pub kept: Dual<Ip>,
    /// See [`Attachment::note`].
    pub note: String,
}

impl Attachment {
    /// The instance's real addresses.
    #[must_use]
    pub fn ns_ip(&self) -> Dual<NsIp> {
        Dual {
            v4: self.ns_address.map(|ip| NsIp::new(ip.into())),
            v6: self.ns_address_v6.map(|ip| NsIp::new(ip.into())),
        }
    }

    /// What `ip link` shows on the host's end, and by which a restarted gateway knows that the device is this one.
    pub(crate) fn alias(&self) -> String {
        let mut alias = format!("sluice {}", self.instance);
        // The kernel's limit; names of the grammar are shorter.
        alias.truncate(255);
        alias
    }

    pub(crate) fn veth(&self) -> Veth {
        Veth {
            host_index: self.host_index,
            mac: self.mac,
            kept: self.kept(),
        }
    }

    pub(crate) fn port(&self) -> Port<'_> {
        Port {
            device: &self.host_device,
            mac: self.mac,
            address: self.addresses(),
            kept: self.kept(),
            mappings: &self.port_mappings,
        }
    }

    /// The process is still the one that was attached; also when there is none to ask.
    pub(crate) fn process_lives(&self) -> bool {
        self.process.is_none_or(|known| {
            Process::open(known.pid).is_ok_and(|process| process.started == known.started)
        })
    }

    pub(crate) fn remove_guest_namespace(&self) -> Result<(), NodeError> {
        if let Some(name) = &self.guest_namespace {
            Namespace::delete_named(name)?;
        }
        Ok(())
    }

    fn addresses(&self) -> Dual<Ip> {
        Dual {
            v4: self.ns_address.map(Ip::from),
            v6: self.ns_address_v6.map(Ip::from),
        }
    }

    pub(crate) fn kept(&self) -> Dual<Ip> {
        Dual {
            v4: self.kept_address.map(Ip::from),
            v6: self.kept_address_v6.map(Ip::from),
        }
    }
}

impl NodeNet {
    /// Gives the workload an address and wires its namespace to this node. `now` is what the clocks show.
    ///
    /// # Errors
    /// Names what stands in the way; nothing is left of the attempt.
    pub fn attach(
        &mut self,
        request: Request,
        workload: &Workload,
        now: &Reading,
    ) -> Result<&Attachment, NodeError> {
        self.attach_inner(request, workload, None, now)
    }

    pub(crate) fn attach_inner(
        &mut self,
        request: Request,
        workload: &Workload,
        guest_namespace: Option<String>,
        now: &Reading,
    ) -> Result<&Attachment, NodeError> {
        self.check(&request, workload)?;
        let offset = self
            .state
            .leases
            .take(&self.subnet, self.wiring.rest, now)?;
        let address = self.ns_addresses(offset);
        let kept = self.keepable(request.kept, address);
        let attachment = Attachment {
            instance: request.instance,
            ns_address: address.v4.and_then(v4),
            ns_address_v6: address.v6.and_then(v6),
            kept_address: kept.v4.and_then(v4),
            kept_address_v6: kept.v6.and_then(v6),
            offset,
            host_device: host_device(address),
            host_index: 0,
            instance_device: String::new(),
            mac: mac(0x00, address),
            namespace: workload.namespace.id(),
            process: workload.process.as_ref().map(|process| ProcessId {
                pid: process.pid,
                started: process.started,
            }),
            port_mappings: request.port_mappings,
            guest_namespace,
            note: request.note,
        };
        match self.plumb_keeping(attachment, workload) {
            Ok(attachment) => {
                self.state.attachments.push(attachment);
                if let Err(error) = self.state.save(&self.wiring.state_dir) {
                    let attachment = self.state.attachments.pop();
                    self.undo(attachment.as_ref().map(|it| &*it.host_device), offset);
                    return Err(error.into());
                }
            }
            Err(error) => {
                self.undo(Some(&host_device(address)), offset);
                return Err(error);
            }
        }
        // Somebody else's chains may be changing this very moment; the recheck repeats it.
        if let Err(error) = foreign::accept(&self.wiring) {
            tracing::warn!(%error, "accepting our devices in FORWARD chains");
        }
        Ok(self
            .state
            .attachments
            .last()
            .unwrap_or_else(|| unreachable!("it was pushed above")))
    }

    fn check(&self, request: &Request, workload: &Workload) -> Result<(), NodeError> {
        if let Some(lan) = &self.wiring.lan {
            return Err(NodeError::HostsOnly(lan.clone()));
        }
        if is_own(&workload.namespace)? {
            return Err(NodeError::OwnNamespace);
        }
        for known in &self.state.attachments {
            if known.instance == request.instance {
                return Err(NodeError::AlreadyAttached(known.instance.clone()));
            }
            if known.namespace == workload.namespace.id() {
                return Err(NodeError::NamespaceTaken(known.instance.clone()));
            }
            let taken = request.port_mappings.iter().find(|wanted| {
                known.port_mappings.iter().any(|mapping| {
                    (mapping.host_port, mapping.transport) == (wanted.host_port, wanted.transport)
                })
            });
            if let Some(mapping) = taken {
                return Err(NodeError::HostPortTaken {
                    port: mapping.to_string(),
                    owner: known.instance.clone(),
                });
            }
        }
        Ok(())
    }

    /// Which of the addresses that a workload has had can stay its own: those of the families that it has an NsIP of, and
    /// that mean nothing else to it.
    fn keepable(&self, wanted: Dual<Ip>, address: Dual<Ip>) -> Dual<Ip> {
        let keep = |of: Family| {
            let (kept, ns_ip) = (wanted.of(of)?, address.of(of)?);
            let means_else = self.wiring.plan.class(kept) == Class::Semantic
                || self.gateway().of(of) == Some(kept)
                || kept.family() != of;
            (kept != ns_ip && !means_else).then_some(kept)
        };
        Dual {
            v4: keep(Family::V4),
            v6: keep(Family::V6),
        }
    }

    /// Without the kept address where the kernel cannot translate it: what its sockets send is then refused at once.
    fn plumb_keeping(
        &self,
        attachment: Attachment,
        workload: &Workload,
    ) -> Result<Attachment, NodeError> {
        if attachment.kept().iter().next().is_none() {
            return self.plumb(attachment, workload);
        }
        self.plumb(attachment.clone(), workload).or_else(|error| {
            tracing::warn!(
                instance = %attachment.instance,
                %error,
                "the instance does not keep the address it had: its sockets that are bound to it are refused"
            );
            self.unplumb(&attachment.host_device);
            let anew = Attachment {
                kept_address: None,
                kept_address_v6: None,
                ..attachment
            };
            self.plumb(anew, workload)
        })
    }

    fn plumb(
        &self,
        mut attachment: Attachment,
        workload: &Workload,
    ) -> Result<Attachment, NodeError> {
        let mut devices = Devices::open()?;
        let host_device = attachment.host_device.clone();
        // A leftover of that name belongs to an instance that is gone: its address was given out again.
        devices.delete(&host_device)?;
        let instance_device = workload.namespace.run(free_device_name)??;
        attachment.instance_device = instance_device.clone();
        devices.create_veth(
            (&host_device, None),
            (&instance_device, Some(attachment.mac)),
            self.wiring.mtu,
            1,
            Some(workload.namespace.as_fd()),
        )?;
        let link = present(&mut devices, &host_device)?;
        attachment.host_index = link.index;
        sysctl::ipv6(&host_device, "disable_ipv6", 1)?;
        devices.set_alias(link.index, &attachment.alias())?;
        // The guard stands before the port carries its first frame.
        let mut ports = self.ports();
        ports.push(attachment.port());
        rules::add_port(&self.wiring, &attachment.port(), &ports)?;
        let bridge = present(&mut devices, &self.wiring.bridge)?;
        devices.set_port(link.index, bridge.index, true)?;
        devices.set_up(link.index, None, None)?;
        let inside = Inside {
            device: &instance_device,
            address: attachment.addresses(),
            kept: attachment.kept(),
            subnet: self.subnet,
            gateway: self.gateway(),
            semantic: self.wiring.plan.semantic,
            inner_mtu: self.wiring.inner_mtu,
        };
        workload.namespace.run(|| inside.wire())??;
        self.know_keeper(&mut devices, &attachment)?;
        Ok(attachment)
    }

    /// Nobody answers for the NsIP of an instance that keeps another address: who has it is said by us.
    pub(super) fn know_keeper(
        &self,
        devices: &mut Devices,
        attachment: &Attachment,
    ) -> Result<(), NodeError> {
        let uplink = present(devices, &self.wiring.uplink)?;
        for of in [Family::V4, Family::V6] {
            if let (Some(ip), Some(_)) = (attachment.addresses().of(of), attachment.kept().of(of)) {
                devices.set_neighbour(uplink.index, ip, attachment.mac)?;
            }
        }
        Ok(())
    }

    pub(super) fn forget_keeper(
        &self,
        devices: &mut Devices,
        attachment: &Attachment,
    ) -> Result<(), NodeError> {
        if attachment.kept().iter().next().is_some() {
            let uplink = present(devices, &self.wiring.uplink)?;
            for ip in attachment.addresses().iter() {
                devices.delete_neighbour(uplink.index, ip)?;
            }
        }
        Ok(())
    }

    /// After a failed attempt; what fails here was not there.
    fn unplumb(&self, host_device: &str) {
        if let Ok(mut devices) = Devices::open() {
            let _ = devices.delete(host_device);
            let _ = rules::remove_port(&self.wiring, host_device, &self.ports());
        }
    }

    fn undo(&mut self, host_device: Option<&str>, offset: u32) {
        if let Some(name) = host_device {
            self.unplumb(name);
        }
        self.state.leases.undo(offset);
    }

    /// Takes an instance away: its devices, rules and mappings at once, its address after a rest. `None` when it was
    /// not attached.
    ///
    /// # Errors
    /// Names what could not be removed; the instance is forgotten all the same.
    pub fn detach(
        &mut self,
        instance: &InstanceName,
        now: &Reading,
    ) -> Result<Option<Attachment>, NodeError> {
        let Some(at) = self
            .state
            .attachments
            .iter()
            .position(|known| known.instance == *instance)
        else {
            return Ok(None);
        };
        let attachment = self.state.attachments.remove(at);
        self.state.leases.give_back(attachment.offset, now);
        let saved = self.state.save(&self.wiring.state_dir);
        let mut devices = Devices::open()?;
        devices.delete(&attachment.host_device)?;
        rules::remove_port(&self.wiring, &attachment.host_device, &self.ports())?;
        self.forget_keeper(&mut devices, &attachment)?;
        attachment.remove_guest_namespace()?;
        saved?;
        Ok(Some(attachment))
    }
}

/// The host's end is named after the instance's address: unique on the node, and the same after a restart.
fn host_device(address: Dual<Ip>) -> String {
    format!("slv{:08x}", u32::from_be_bytes(tail(address)))
}

/// `eth-sluice`, unless the namespace has one already.
fn free_device_name() -> Result<String, NodeError> {
    const NAME: &str = "eth-sluice";
    let links = Devices::open()?.links()?;
    let mut name = NAME.to_owned();
    let mut number = 2;
    while links.iter().any(|link| link.name == name) {
        name = format!("{NAME}{number}");
        number += 1;
    }
    Ok(name)
}

/// The address, if it is of that family.
pub(crate) fn v4(ip: Ip) -> Option<Ipv4Addr> {
    match IpAddr::from(ip) {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

/// The address, if it is of that family.
pub(crate) fn v6(ip: Ip) -> Option<Ipv6Addr> {
    match IpAddr::from(ip) {
        IpAddr::V6(ip) => Some(ip),
        IpAddr::V4(_) => None,
    }
}

/// The subnet of this one address.
fn host(ip: Ip) -> Subnet {
    let length = match ip.family() {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    Subnet::new(ip, length).unwrap_or_else(|_| unreachable!("an address is a subnet of itself"))
}

/// What is done inside the instance's namespace.
struct Inside<'a> {
    device: &'a str,
    address: Dual<Ip>,
    kept: Dual<Ip>,
    subnet: Dual<Subnet>,
    gateway: Dual<Ip>,
    semantic: Dual<Subnet>,
    /// Bytes.
    inner_mtu: u32,
}

impl Inside<'_> {
    fn wire(&self) -> Result<(), NodeError> {
        let mut devices = Devices::open()?;
        let device = self.device;
        // Runtimes switch IPv6 off in namespaces that have no IPv6 of their own.
        sysctl::ipv6(device, "disable_ipv6", 0)?;
        sysctl::ipv6(device, "accept_ra", 0)?;
        sysctl::ipv6(device, "accept_redirects", 0)?;
        sysctl::ipv6(device, "accept_dad", 0)?;
        sysctl::ipv6(device, "dad_transmits", 0)?;
        // The guard knows one link-local address, the one made of the MAC.
        sysctl::ipv6(device, "addr_gen_mode", 0)?;
        // The guard lets through what says its own address, also when the instance has other addresses.
        sysctl::ipv4(device, "arp_announce", 2)?;
        let lo = present(&mut devices, "lo")?;
        devices.set_up(lo.index, None, None)?;
        let link = present(&mut devices, device)?;
        devices.set_up(link.index, None, None)?;
        for family in [Family::V4, Family::V6] {
            let (Some(address), Some(subnet), Some(gateway)) = (
                self.address.of(family),
                self.subnet.of(family),
                self.gateway.of(family),
            ) else {
                continue;
            };
            let route = |destination, mtu| Route {
                destination,
                device: Some(link.index),
                gateway: Some(gateway),
                source: None,
                mtu,
            };
            let address = match self.kept.of(family) {
                None => {
                    devices.add_address(link.index, address, subnet.length(), true)?;
                    address
                }
                Some(kept) => {
                    // The gateway is in another subnet than this address, and hears no question that names it.
                    let alone = host(kept);
                    devices.add_address(link.index, kept, alone.length(), false)?;
                    devices.set_neighbour(link.index, gateway, gateway_mac(self.gateway))?;
                    devices.set_route(&Route {
                        gateway: None,
                        ..route(Some(host(gateway)), None)
                    })?;
                    kept
                }
            };
            if !devices.has_default_route(family, link.index)? {
                devices.set_route(&route(None, None))?;
            }
            if let Some(range) = self.semantic.of(family) {
                // With a source: the instance may have other addresses, and only this one passes.
                let route = route(Some(range), Some(self.inner_mtu));
                devices.set_route(&Route {
                    source: Some(address),
                    ..route
                })?;
            }
        }
        Ok(())
    }
}
