//! The way to other nodes over one device, by the kernel's own tables: route, source address, neighbour, MTU.
//!
//! The tables are asked again whenever [`Changes`] is readable; nothing is remembered here that could be out of date.

use super::devices::{Devices, LinkState, Mac, neighbour};
use super::ipsec::Policies;
use super::netlink::{NetlinkError, RouteSocket};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::{NETLINK_ROUTE, NETLINK_XFRM};
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use sluice_link::af_xdp::Hop;
use sluice_link::sys::Epoll;
use sluice_wire::Ip;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};

/// `RTMGRP_LINK`, `RTMGRP_NEIGH`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_IFADDR`, `RTMGRP_IPV6_ROUTE`.
const GROUPS: u32 = 1 | 4 | 0x10 | 0x40 | 0x100 | 0x400;

/// `XFRMNLGRP_POLICY`.
const IPSEC_GROUPS: u32 = 8;

/// Readable when links, addresses, routes, neighbours or IPsec policies have changed.
pub(crate) struct Changes {
    sockets: Vec<Socket>,
    readable: Epoll,
}

impl Changes {
    /// # Errors
    /// When the socket cannot be opened.
    pub(crate) fn watch() -> io::Result<Self> {
        let mut sockets = vec![listening(NETLINK_ROUTE, GROUPS)?];
        match listening(NETLINK_XFRM, IPSEC_GROUPS) {
            Ok(socket) => sockets.push(socket),
            // A kernel without IPsec.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::PROTONOSUPPORT) => {}
            Err(error) => return Err(error),
        }
        let readable = Epoll::new(sockets.iter().map(Socket::as_fd))?;
        Ok(Self { sockets, readable })
    }

    /// Takes what has come. What it says does not matter: the tables are read anew, also when the kernel had more to say
    /// than the socket holds.
    pub(crate) fn drain(&self) {
        let mut bytes = Vec::with_capacity(1 << 16);
        for socket in &self.sockets {
            loop {
                bytes.clear();
                match socket.recv(&mut bytes, 0) {
                    Ok(_) => {}
                    Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => {}
                    Err(_) => break,
                }
            }
        }
    }
}

fn listening(protocol: isize, groups: u32) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind(&SocketAddr::new(0, groups))?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

impl AsRawFd for Changes {
    fn as_raw_fd(&self) -> RawFd {
        self.readable.as_fd().as_raw_fd()
    }
}

/// Asks the kernel about the way over one device.
pub(crate) struct Hops {
    socket: RouteSocket,
    device: LinkState,
    /// Nodes that an IPsec policy keeps from us, as last said in the log.
    guarded: BTreeSet<Ip>,
}

impl Hops {
    pub(crate) fn over(device: LinkState) -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: RouteSocket::open()?,
            device,
            guarded: BTreeSet::new(),
        })
    }

    /// Takes the device's MTU as it is now, and says whether it is still the device it was: not replaced by another of its
    /// name, and with the same address. A bond that fails over may change it.
    pub(crate) fn look_again(&mut self) -> Result<bool, NetlinkError> {
        let now = Devices::open()?.link(&self.device.name)?;
        Ok(now.is_some_and(|now| {
            self.device.mtu = now.mtu;
            now.index == self.device.index && now.mac == self.device.mac
        }))
    }

    /// The ways that are known now. A node is left out that is reached over another device, or whose next hop has no known
    /// link-layer address, or to which an IPsec policy applies: its packets are the kernel's.
    pub(crate) fn resolve(&mut self, nodes: &[Ip]) -> Result<BTreeMap<Ip, Way>, NetlinkError> {
        let neighbours = self.neighbours()?;
        let policies = Policies::read()?;
        let (mut ways, mut guarded) = (BTreeMap::new(), BTreeSet::new());
        for &node in nodes {
            let Some((next, source, mtu)) = self.route(node) else {
                continue;
            };
            if policies.cover_sent(source, node) {
                guarded.insert(node);
                continue;
            }
            if let Some(&(mac, is_static)) = neighbours.get(&next) {
                let hop = Hop { mac, source, mtu };
                let way = Way {
                    next,
                    hop,
                    is_static,
                };
                ways.insert(node, way);
            }
        }
        if guarded != self.guarded {
            tracing::info!(nodes = ?guarded, "IPsec policies apply to datagrams to these nodes: the kernel sends them");
            self.guarded = guarded;
        }
        Ok(ways)
    }

    /// Next hop, source address and MTU towards `node`, if it is reached over the device.
    fn route(&mut self, node: Ip) -> Option<(Ip, Ip, u16)> {
        let mut ask = RouteMessage::default();
        ask.header.address_family = family(node);
        ask.header.destination_prefix_length = if node.is_v4() { 32 } else { 128 };
        ask.attributes = vec![RouteAttribute::Destination(IpAddr::from(node).into())];
        // No route is an answer too: the error says so.
        let found = self
            .socket
            .request(RouteNetlinkMessage::GetRoute(ask), NLM_F_ACK, String::new)
            .ok()?;
        let route = found.into_iter().find_map(|message| {
            if let RouteNetlinkMessage::NewRoute(route) = message {
                Some(route)
            } else {
                None
            }
        })?;
        if route.header.kind != RouteType::Unicast {
            return None;
        }
        let (mut next, mut source, mut device, mut mtu) = (node, None, None, self.device.mtu);
        for attribute in &route.attributes {
            if let RouteAttribute::Oif(index) = attribute {
                device = Some(*index);
            } else if let RouteAttribute::Gateway(gateway) = attribute {
                next = route_ip(gateway)?;
            } else if let RouteAttribute::PrefSource(ip) = attribute {
                source = route_ip(ip);
            } else if let RouteAttribute::EncapType(_) = attribute {
                // A lightweight tunnel (MPLS, SRv6): the kernel puts more around the packet than we would.
                return None;
            } else if let RouteAttribute::Via(_) = attribute {
                // A next hop of the other family: rare, and the kernel knows the way.
                return None;
            } else if let RouteAttribute::Metrics(metrics) = attribute {
                for metric in metrics {
                    if let RouteMetric::Mtu(narrower) = metric
                        && *narrower > 0
                    {
                        mtu = mtu.min(*narrower);
                    }
                }
            }
        }
        if device != Some(self.device.index) {
            return None;
        }
        Some((next, source?, u16::try_from(mtu).unwrap_or(u16::MAX)))
    }

    /// The link-layer addresses that the kernel itself would send to, and whether they were set by hand.
    fn neighbours(&mut self) -> Result<BTreeMap<Ip, (Mac, bool)>, NetlinkError> {
        let ask = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let found = self.socket.dump(ask, || "listing neighbours".to_owned())?;
        let mut neighbours = BTreeMap::new();
        for message in found {
            let RouteNetlinkMessage::NewNeighbour(row) = message else {
                continue;
            };
            let usable = matches!(
                row.header.state,
                NeighbourState::Reachable
                    | NeighbourState::Stale
                    | NeighbourState::Delay
                    | NeighbourState::Probe
                    | NeighbourState::Permanent
            );
            if row.header.ifindex != self.device.index || !usable {
                continue;
            }
            let (mut ip, mut mac) = (None, None);
            for attribute in &row.attributes {
                if let NeighbourAttribute::Destination(address) = attribute {
                    ip = neighbour_ip(address);
                } else if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
                    mac = Mac::try_from(bytes.as_slice()).ok();
                }
            }
            if let (Some(ip), Some(mac)) = (ip, mac) {
                let is_static = row.header.state == NeighbourState::Permanent;
                neighbours.insert(ip, (mac, is_static));
            }
        }
        Ok(neighbours)
    }

    /// Says that a next hop is in use. The kernel does not see our frames, and would let its knowledge grow old: now it
    /// asks the neighbour when it is no longer sure, and we hear of the answer, or of its absence.
    pub(crate) fn confirm(&mut self, next: Ip) -> Result<(), NetlinkError> {
        let mut message = neighbour(self.device.index, next);
        message.header.flags = NeighbourFlags::Use;
        self.change(message, NLM_F_CREATE | NLM_F_REPLACE, next)
    }

    /// Asks a known neighbour whether it is still there, however sure the kernel is: within a few seconds it is sure, or
    /// knows it no more. Not for one that was set by hand, which would be forgotten.
    pub(crate) fn probe(&mut self, next: Ip) -> Result<(), NetlinkError> {
        let mut message = neighbour(self.device.index, next);
        message.header.state = NeighbourState::Probe;
        self.change(message, 0, next)
    }

    fn change(&mut self, ask: NeighbourMessage, flags: u16, of: Ip) -> Result<(), NetlinkError> {
        self.socket
            .change(RouteNetlinkMessage::NewNeighbour(ask), flags, || {
                format!("asking neighbour {of}")
            })
    }

    /// Makes the kernel look for `node`, if it is reached over the device.
    pub(crate) fn seek(&mut self, node: Ip) -> Result<(), NetlinkError> {
        match self.route(node) {
            Some((next, ..)) => self.confirm(next),
            None => Ok(()),
        }
    }

    /// Every address that this host answers for over the device: the device's own, and those of the loopback device that
    /// others can reach. One that an IPsec policy guards is left out: only the kernel knows what may come for it.
    pub(crate) fn own_addresses(&self) -> Result<Vec<Ip>, NetlinkError> {
        /// `lo`, in every network namespace.
        const LOOPBACK: u32 = 1;
        let (device, policies) = (self.device.index, Policies::read()?);
        Ok(Devices::open()?
            .addresses()?
            .into_iter()
            .filter(|row| {
                row.device == device
                    || row.device == LOOPBACK && !IpAddr::from(row.address).is_loopback()
            })
            .map(|row| row.address)
            .filter(|&own| !policies.cover_received(own))
            .collect())
    }
}

/// The way to one node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Way {
    /// The neighbour: the node itself or a router.
    pub(crate) next: Ip,
    pub(crate) hop: Hop,
    /// The neighbour's address was set by hand.
    pub(crate) is_static: bool,
}

/// The device of that name, or the one that has the address `own`.
pub(crate) fn underlay(name: Option<&str>, own: Ip) -> Result<Option<LinkState>, NetlinkError> {
    let mut devices = Devices::open()?;
    let links = devices.links()?;
    let index = match name {
        Some(_) => None,
        None => devices
            .addresses()?
            .into_iter()
            .find(|row| row.address == own)
            .map(|row| row.device),
    };
    Ok(links
        .into_iter()
        .find(|link| name.is_some_and(|name| link.name == name) || index == Some(link.index)))
}

const fn family(ip: Ip) -> AddressFamily {
    if ip.is_v4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

fn route_ip(address: &RouteAddress) -> Option<Ip> {
    if let RouteAddress::Inet(ip) = address {
        Some((*ip).into())
    } else if let RouteAddress::Inet6(ip) = address {
        Some((*ip).into())
    } else {
        None
    }
}

fn neighbour_ip(address: &NeighbourAddress) -> Option<Ip> {
    if let NeighbourAddress::Inet(ip) = address {
        Some((*ip).into())
    } else if let NeighbourAddress::Inet6(ip) = address {
        Some((*ip).into())
    } else {
        None
    }
}
