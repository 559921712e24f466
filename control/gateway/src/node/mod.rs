//! The node's wiring: bridge, gateway uplink, instances and their guards, made by netlink and adopted after a restart.
//!
//! ```text
//!   instance ns                 host                                    worker
//!   eth-sluice ── slv0a120002 ┐ (isolated, guarded)
//!   eth-sluice ── slv0a120003 ┤ sluicebr0 ── sluice0p ── sluice0 ── routes ── sluicetun0
//!                             ┘ (no address)           subnet + 1    semantic ranges
//! ```
//! The gateway's address is not on the bridge but behind it: a bridge with an address answers ARP itself, and an
//! AF_XDP link could not take the uplink over. With AF_XDP there is no TUN device, and the routes lead nowhere: the
//! program on the uplink takes what is for the semantic ranges. Where the instances are hosts on a LAN ([`lan`]), that
//! program is on the device towards them, and nothing of the drawing is there. All calls block for a few milliseconds; [`thread::Node`] runs them on a
//! thread of their own.

pub mod attach;
pub(crate) mod devices;
pub(crate) mod foreign;
mod guard;
pub(crate) mod hops;
pub(crate) mod ipsec;
pub mod lan;
pub(crate) mod legacy_iptables;
pub(crate) mod nic;
pub mod leases;
pub mod namespace;
pub mod netlink;
pub(crate) mod nft;
pub mod port_mapping;
mod rules;
pub mod state;
pub mod sysctl;
pub mod thread;
pub mod unikernel;
pub mod watch;

use std::path::PathBuf;

use sluice_link::sys::ethtool;
use sluice_proto::alloc::Reading;
use sluice_wire::{AddressPlan, Dual, Family, Ip, Subnet};
use thiserror::Error;

use crate::command::{InstanceName, Refusal};
use attach::Attachment;
use devices::{Devices, LinkState, Mac, Route};
use leases::{Exhausted, GATEWAY, Leases};
use legacy_iptables::LegacyForward;
use namespace::{Namespace, NamespaceError};
use netlink::NetlinkError;
use port_mapping::PortMappingError;
use rules::Port;
use state::{State, StateError};
use sysctl::SysctlError;

/// What the node is made of.
#[derive(Clone, Debug)]
pub struct Wiring {
    /// Joins the instances; at most 15 bytes.
    pub bridge: String,
    /// The device towards the hosts that are this node's instances; then there is no bridge and no uplink.
    pub lan: Option<String>,
    /// The gateway's end of the veth pair whose other end, named with a `p` appended, is a bridge port; at most 14.
    pub uplink: String,
    /// The device of the service-side link; the link opens it.
    pub tun: String,
    /// Queues of the uplink: one per worker of an AF_XDP link, else 1.
    pub uplink_queues: u32,
    /// Bytes; of the bridge, every veth and the TUN device. Legacy peers send up to 1450.
    pub mtu: u32,
    /// Bytes; the path MTU of an instance's routes towards the semantic ranges.
    pub inner_mtu: u32,
    pub plan: AddressPlan,
    /// How long an NsIP rests before another instance can have it.
    pub rest: std::time::Duration,
    /// Where the state file is kept.
    pub state_dir: PathBuf,
}

/// Something about the node's wiring failed.
#[derive(Debug, Error)]
pub enum NodeError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    #[error(transparent)]
    PortMapping(#[from] PortMappingError),
    #[error("device name `{name}` must have 1 to {max} bytes, without `/` and blanks")]
    DeviceName { name: String, max: usize },
    #[error("device {name} exists and is a {kind}, not a {expected}; remove it or name another")]
    Occupied {
        name: String,
        kind: String,
        expected: &'static str,
    },
    #[error("device {0} vanished while it was set up")]
    Vanished(String),
    #[error("device {0} does not exist: the TUN link must be opened before it is wired")]
    NoTun(String),
    #[error("device {device}: its checksum offload cannot be switched: {source}")]
    Checksum {
        device: String,
        source: std::io::Error,
    },
    #[error(
        "there is no device {0}; `fastpath.service` names the NIC towards the hosts that are instances"
    )]
    NoLanDevice(String),
    #[error(
        "the instances of this node are hosts behind {0} (`fastpath.service`): attach one with --host ADDRESS"
    )]
    HostsOnly(String),
    #[error("a host can be an instance only where `fastpath.service` names the NIC towards it")]
    NoLan,
    #[error("{address} cannot be attached: it {why}")]
    NotAHost { address: Ip, why: String },
    #[error("{0} is attached already")]
    AlreadyAttached(InstanceName),
    #[error(
        "the network namespace is already attached as {0}; an instance has a namespace of its own"
    )]
    NamespaceTaken(InstanceName),
    #[error(
        "that process shares the gateway's own network namespace; only a separate one can be attached"
    )]
    OwnNamespace,
    #[error("host port {port} is already mapped to {owner}")]
    HostPortTaken { port: String, owner: InstanceName },
    #[error("the node's thread has stopped")]
    Stopped,
    #[error("making a tap device for {instance} with /dev/net/tun: {source}")]
    Guest {
        instance: InstanceName,
        source: std::io::Error,
    },
}

impl From<NodeError> for Refusal {
    fn from(error: NodeError) -> Self {
        let text = error.to_string();
        match error {
            NodeError::AlreadyAttached(instance) => Self::AlreadyAttached(instance),
            NodeError::PortMapping(_)
            | NodeError::OwnNamespace
            | NodeError::HostsOnly(_)
            | NodeError::NoLan
            | NodeError::NotAHost { .. } => Self::BadRequest(text),
            NodeError::Namespace(inner) if inner.is_absence() => Self::NoTarget(text),
            NodeError::NamespaceTaken(_) | NodeError::HostPortTaken { .. } => Self::Conflict(text),
            NodeError::Exhausted(_) => Self::Exhausted(text),
            NodeError::Stopped => Self::Stopping,
            NodeError::Netlink(_)
            | NodeError::Sysctl(_)
            | NodeError::Namespace(_)
            | NodeError::State(_)
            | NodeError::DeviceName { .. }
            | NodeError::Occupied { .. }
            | NodeError::Vanished(_)
            | NodeError::NoTun(_)
            | NodeError::NoLanDevice(_)
            | NodeError::Checksum { .. }
            | NodeError::Guest { .. } => Self::Wiring(text),
        }
    }
}

/// The wiring of this node, and what is attached to it.
#[derive(Debug)]
pub struct NodeNet {
    wiring: Wiring,
    subnet: Dual<Subnet>,
    state: State,
}

/// The subnet this node had when it was last wired, if it was: a restarted gateway works with it while the managers
/// are away.
///
/// # Errors
/// When the state file exists but cannot be used.
pub fn remembered_subnet(wiring: &Wiring) -> Result<Option<Dual<Subnet>>, StateError> {
    Ok(State::load(&wiring.state_dir)?.map(|state| state.subnet()))
}

/// Removes a device if it is there.
///
/// # Errors
/// When the kernel refuses.
pub fn remove_device(name: &str) -> Result<(), NodeError> {
    Ok(Devices::open()?.delete(name)?)
}

impl NodeNet {
    /// Adopts what an earlier gateway left, as far as it still is what the state file says, and makes the rest.
    ///
    /// Instances that are still there keep their devices and addresses untouched, see [`NodeNet::attachments`]; those
    /// whose device is gone lose their lease. With another subnet than last time everything is made anew. A node without
    /// any state lets the addresses that were `held` before rest. `now` is what the clocks show.
    ///
    /// # Errors
    /// Names the device, setting or file that stands in the way.
    pub fn adopt_or_create(
        wiring: Wiring,
        subnet: Dual<Subnet>,
        held: &[Ip],
        now: &Reading,
    ) -> Result<Self, NodeError> {
        check_names(&wiring)?;
        let subnet = Dual {
            v6: subnet.v6.filter(|_| sysctl::has_ipv6()),
            ..subnet
        };
        let state = match State::load(&wiring.state_dir)? {
            Some(state) if state.subnet() == subnet && state.lan() == wiring.lan.as_deref() => {
                state
            }
            Some(old) => {
                tracing::warn!(
                    old = ?old.subnet(),
                    new = ?subnet,
                    "the node's subnet or its service side changed; its instances are detached"
                );
                Self {
                    wiring: wiring.clone(),
                    subnet: old.subnet(),
                    state: old,
                }
                .teardown()?;
                State::new(&subnet, wiring.lan.as_deref())
            }
            None => {
                let mut state = State::new(&subnet, wiring.lan.as_deref());
                state.leases = Leases::after(&subnet, held, now);
                state
            }
        };
        let mut node = Self {
            wiring,
            subnet,
            state,
        };
        node.build(now)?;
        Ok(node)
    }

    fn build(&mut self, now: &Reading) -> Result<(), NodeError> {
        if self.wiring.lan.is_some() {
            // The device and what is behind it are as they are.
            return Ok(self.state.save(&self.wiring.state_dir)?);
        }
        let mut devices = Devices::open()?;
        sysctl::forwarding()?;
        let bridge = self.bridge(&mut devices)?;
        self.uplink(&mut devices, bridge.index)?;
        self.keep_living(&mut devices, bridge.index, now)?;
        // An uplink made anew has forgotten them.
        for attachment in &self.state.attachments {
            self.know_keeper(&mut devices, attachment)?;
        }
        rules::install(&self.wiring, &self.subnet, &self.ports())?;
        if let Err(error) = foreign::accept(&self.wiring) {
            tracing::warn!(%error, "accepting our devices in FORWARD chains");
        }
        self.state.save(&self.wiring.state_dir)?;
        Ok(())
    }

    fn bridge(&self, devices: &mut Devices) -> Result<LinkState, NodeError> {
        let name = &self.wiring.bridge;
        if !exists(devices, name, "bridge")? {
            // A fixed address: otherwise the bridge takes the lowest of its ports and changes it under its neighbours.
            devices.create_bridge(name, mac(0xb0, self.gateway()), self.wiring.mtu)?;
        }
        // Addresses and ARP answers belong to the uplink; the bridge only joins.
        sysctl::ipv4(name, "arp_ignore", 1)?;
        sysctl::ipv6(name, "disable_ipv6", 1)?;
        let bridge = present(devices, name)?;
        devices.set_up(bridge.index, Some(self.wiring.mtu), None)?;
        Ok(bridge)
    }

    fn uplink(&self, devices: &mut Devices, bridge: u32) -> Result<(), NodeError> {
        let name = &self.wiring.uplink;
        let port_name = self.wiring.uplink_port();
        let queues = self.wiring.uplink_queues;
        let mut is_there = exists(devices, name, "veth")?;
        // A veth pair keeps the queues it was made with. Nobody notices that it is made anew: its addresses are ours.
        if is_there && ethtool::receive_queues(name).unwrap_or(1) < queues {
            devices.delete(name)?;
            is_there = false;
        }
        if !is_there {
            devices.create_veth(
                (name, Some(gateway_mac(self.gateway()))),
                (&port_name, Some(mac(0x02, self.gateway()))),
                self.wiring.mtu,
                queues,
                None,
            )?;
        }
        let port = present(devices, &port_name)?;
        sysctl::ipv6(&port_name, "disable_ipv6", 1)?;
        if port.controller != Some(bridge) {
            devices.set_port(port.index, bridge, false)?;
        }
        devices.set_up(port.index, Some(self.wiring.mtu), None)?;
        // Loose: strict checking would need the route back to every caller over this very device.
        sysctl::ipv4(name, "rp_filter", 2)?;
        sysctl::ipv4(name, "arp_announce", 2)?;
        sysctl::ipv4(name, "accept_redirects", 0)?;
        sysctl::ipv4(name, "send_redirects", 0)?;
        sysctl::ipv6(name, "accept_ra", 0)?;
        sysctl::ipv6(name, "accept_redirects", 0)?;
        sysctl::ipv6(name, "accept_dad", 0)?;
        let uplink = present(devices, name)?;
        devices.set_up(uplink.index, Some(self.wiring.mtu), None)?;
        for subnet in self.subnet.iter() {
            if let Some(gateway) = subnet.nth(u128::from(GATEWAY)) {
                devices.add_address(uplink.index, gateway, subnet.length(), true)?;
            }
        }
        Ok(())
    }

    /// Drops what is remembered but gone, and removes ports that nobody remembers (a crash between plumbing and
    /// writing).
    fn keep_living(
        &mut self,
        devices: &mut Devices,
        bridge: u32,
        now: &Reading,
    ) -> Result<(), NodeError> {
        let links = devices.links()?;
        let (living, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.state.attachments)
            .into_iter()
            .partition(|attachment| {
                links.iter().any(|link| {
                    link.name == attachment.host_device
                        && link.controller == Some(bridge)
                        && link.alias == attachment.alias()
                }) && attachment.process_lives()
            });
        self.state.attachments = living;
        for attachment in &mut self.state.attachments {
            if let Some(link) = links
                .iter()
                .find(|link| link.name == attachment.host_device)
            {
                attachment.host_index = link.index;
            }
        }
        for attachment in gone {
            tracing::info!(instance = %attachment.instance, "an instance ended while the gateway was away");
            self.state.leases.give_back(attachment.offset, now);
            devices.delete(&attachment.host_device)?;
            self.forget_keeper(devices, &attachment)?;
            attachment.remove_guest_namespace()?;
        }
        for link in &links {
            let known = self
                .state
                .attachments
                .iter()
                .any(|attachment| attachment.host_device == link.name);
            if link.controller == Some(bridge) && link.name != self.wiring.uplink_port() && !known {
                tracing::warn!(device = %link.name, "removing a bridge port that belongs to no instance");
                devices.delete(&link.name)?;
            }
        }
        Ok(())
    }

    /// Sets the TUN device up: MTU, queue, addresses and the routes of the semantic ranges. The service-side link
    /// must have opened it; it is called again when the link opened it anew.
    ///
    /// # Errors
    /// When the device does not exist, or the kernel refuses.
    pub fn wire_tun(&self) -> Result<(), NodeError> {
        /// Packets; room for what several queues hand over at once (the default 500 drops under load).
        const QUEUE: u32 = 1000;
        let mut devices = Devices::open()?;
        let name = &self.wiring.tun;
        let tun = devices
            .link(name)?
            .ok_or_else(|| NodeError::NoTun(name.clone()))?;
        sysctl::ipv4(name, "rp_filter", 2)?;
        // ICMP errors of the gateway itself come out of the TUN device with a source address of this host.
        sysctl::ipv4(name, "accept_local", 1)?;
        sysctl::ipv4(name, "accept_redirects", 0)?;
        sysctl::ipv4(name, "send_redirects", 0)?;
        sysctl::ipv6(name, "accept_ra", 0)?;
        // Nothing on this link listens to link-local addresses; without one the kernel sends no solicitations into it.
        sysctl::ipv6(name, "addr_gen_mode", 1)?;
        devices.set_up(tun.index, Some(self.wiring.mtu), Some(QUEUE))?;
        if let Some(gateway) = self.gateway().v4 {
            // With no address at all, a loose rp_filter still drops what has a local source (`last_resort` in
            // `fib_validate_source`).
            devices.add_address(tun.index, gateway, 32, false)?;
        }
        for route in self.semantic_routes(Some(tun.index)) {
            devices.set_route(&route)?;
        }
        self.finish_checksums(false)
    }

    /// Prepares for a service-side link that takes frames from a device itself: the kernel finishes checksums before the
    /// uplink (those of a LAN's frames are complete), and has no other way for the semantic ranges, so that nothing leaves over the default route while no worker
    /// listens. A TUN device of an earlier gateway goes.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn wire_xdp(&self) -> Result<(), NodeError> {
        let mut devices = Devices::open()?;
        if matches!(devices.link(&self.wiring.tun)?, Some(tun) if tun.kind == "tun") {
            devices.delete(&self.wiring.tun)?;
        }
        for route in self.semantic_routes(None) {
            devices.set_route(&route)?;
        }
        match self.wiring.lan {
            Some(_) => Ok(()),
            None => self.finish_checksums(true),
        }
    }

    /// The routes of the semantic ranges through `device`, or to nowhere.
    fn semantic_routes(&self, device: Option<u32>) -> impl Iterator<Item = Route> {
        let gateway = self.gateway();
        let ranges: Vec<Subnet> = self.wiring.plan.semantic.iter().collect();
        ranges.into_iter().filter_map(move |range| {
            // A node without IPv6 has no use for the range.
            let gateway = gateway.of(range.family())?;
            Some(Route {
                destination: Some(range),
                device,
                gateway: None,
                // What the host itself sends there comes from the gateway.
                source: device.map(|_| gateway),
                mtu: None,
            })
        })
    }

    /// Makes the stack finish checksums of what the bridge hands to the uplink, or leaves them to whoever needs them.
    fn finish_checksums(&self, finish: bool) -> Result<(), NodeError> {
        let device = self.wiring.uplink_port();
        ethtool::set_tx_checksum(&device, !finish)
            .map_err(|source| NodeError::Checksum { device, source })
    }

    /// The device that frames of instances come in at, as the kernel describes it: the gateway's end of the uplink, or
    /// that towards the LAN.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn service_link(&self) -> Result<LinkState, NodeError> {
        let mut devices = Devices::open()?;
        match &self.wiring.lan {
            None => present(&mut devices, &self.wiring.uplink),
            Some(lan) => devices
                .link(lan)?
                .ok_or_else(|| NodeError::NoLanDevice(lan.clone())),
        }
    }

    /// Looks again whether a foreign FORWARD chain drops our packets; cheap, to be called every few seconds. Returns
    /// how many chains had to be changed.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn recheck(&self) -> Result<usize, NodeError> {
        match self.wiring.lan {
            Some(_) => Ok(0),
            None => Ok(foreign::accept(&self.wiring)?),
        }
    }

    /// The address families whose FORWARD chain of the legacy iptables backend drops what passes our uplink. Only its
    /// owner can change that: such a table can only be replaced as a whole, under whoever else edits it.
    #[must_use]
    pub fn legacy_in_the_way(&self) -> Vec<Family> {
        let in_the_way = |family: &Family| {
            self.wiring.lan.is_none()
                && legacy_iptables::forward(*family, &self.wiring.uplink)
                    .is_ok_and(|chain| chain.is_some_and(LegacyForward::is_in_the_way))
        };
        [Family::V4, Family::V6]
            .into_iter()
            .filter(in_the_way)
            .collect()
    }

    /// Removes all that was made: instances' devices, bridge, uplink, the TUN device with its routes, tables, rules and
    /// the state file. Forwarding stays on, as others may use it.
    ///
    /// # Errors
    /// The first thing that could not be removed; the rest is removed all the same.
    pub fn teardown(self) -> Result<(), NodeError> {
        let mut first = Ok(());
        let mut note = |result: Result<(), NodeError>| {
            if first.is_ok() {
                first = result;
            } else if let Err(error) = result {
                tracing::warn!(%error, "teardown");
            }
        };
        match Devices::open() {
            Ok(mut devices) => {
                // Its routes go with it. The link may have made it to outlive the process.
                if matches!(devices.link(&self.wiring.tun), Ok(Some(tun)) if tun.kind == "tun") {
                    note(devices.delete(&self.wiring.tun).map_err(NodeError::from));
                }
                for attachment in &self.state.attachments {
                    note(
                        devices
                            .delete(&attachment.host_device)
                            .map_err(NodeError::from),
                    );
                    note(attachment.remove_guest_namespace());
                }
                for route in self.semantic_routes(None) {
                    note(devices.delete_route(&route).map_err(NodeError::from));
                }
                note(devices.delete(&self.wiring.uplink).map_err(NodeError::from));
                note(devices.delete(&self.wiring.bridge).map_err(NodeError::from));
            }
            Err(error) => note(Err(error.into())),
        }
        note(foreign::remove().map_err(NodeError::from));
        note(rules::remove().map_err(NodeError::from));
        note(State::remove(&self.wiring.state_dir).map_err(NodeError::from));
        first
    }

    /// The gateway's own address, subnet + 1.
    #[must_use]
    pub fn gateway(&self) -> Dual<Ip> {
        leases::addresses(&self.subnet, GATEWAY)
    }

    #[must_use]
    pub const fn subnet(&self) -> Dual<Subnet> {
        self.subnet
    }

    /// What is attached now, in the order of attaching.
    #[must_use]
    pub fn attachments(&self) -> &[Attachment] {
        &self.state.attachments
    }

    fn ports(&self) -> Vec<Port<'_>> {
        self.state
            .attachments
            .iter()
            .map(|attachment| attachment.port())
            .collect()
    }

    /// An address is a lease in both families; an IPv4-only node gives only that.
    fn ns_addresses(&self, offset: u32) -> Dual<Ip> {
        leases::addresses(&self.subnet, offset)
    }
}

impl Wiring {
    fn uplink_port(&self) -> String {
        port_name(&self.uplink)
    }
}

/// The other end of the uplink of that name: the bridge's port.
pub(crate) fn port_name(uplink: &str) -> String {
    format!("{uplink}p")
}

fn check_names(wiring: &Wiring) -> Result<(), NodeError> {
    for (name, max) in [
        (&wiring.bridge, 15),
        (&wiring.uplink, 14),
        (&wiring.tun, 15),
    ] {
        let sound = (1..=max).contains(&name.len())
            && !name.contains(|letter: char| letter == '/' || letter.is_whitespace())
            && name != "."
            && name != "..";
        if !sound {
            return Err(NodeError::DeviceName {
                name: name.clone(),
                max,
            });
        }
    }
    Ok(())
}

fn exists(devices: &mut Devices, name: &str, expected: &'static str) -> Result<bool, NodeError> {
    match devices.link(name)? {
        None => Ok(false),
        Some(link) if link.kind == expected => Ok(true),
        Some(link) => Err(NodeError::Occupied {
            name: link.name,
            kind: if link.kind.is_empty() {
                "hardware device".to_owned()
            } else {
                link.kind
            },
            expected,
        }),
    }
}

fn present(devices: &mut Devices, name: &str) -> Result<LinkState, NodeError> {
    devices
        .link(name)?
        .ok_or_else(|| NodeError::Vanished(name.to_owned()))
}

/// A locally administered address made of the IPv4 address (or the end of the IPv6 one): the same after every restart,
/// and different for every device of a node.
fn mac(kind: u8, address: Dual<Ip>) -> Mac {
    let [a, b, c, d] = tail(address);
    [0x52, kind, a, b, c, d]
}

/// Of the uplink's end that has the gateway's address.
fn gateway_mac(gateway: Dual<Ip>) -> Mac {
    mac(0x01, gateway)
}

fn tail(address: Dual<Ip>) -> [u8; 4] {
    let bits = address
        .v4
        .or(address.v6)
        .map_or(0, |ip| ip.to_bits() & 0xffff_ffff);
    u32::try_from(bits).unwrap_or(0).to_be_bytes()
}

/// Whether a namespace is the gateway's own.
fn is_own(namespace: &Namespace) -> Result<bool, NamespaceError> {
    Ok(Namespace::own()?.id() == namespace.id())
}

/// The inputs worth keeping of one parser.
#[cfg(test)]
pub(crate) fn corpus(parser: &str) -> Vec<Vec<u8>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz-corpus")
        .join(parser);
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
        .iter()
        .filter_map(|file| std::fs::read(file).ok())
        .collect()
}
