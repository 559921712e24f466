//! Links, addresses, neighbours and routes by netlink: the few verbs the node's wiring needs, each idempotent where it can be.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;
use sluice_wire::{Family, Ip, Subnet};

use super::netlink::{NetlinkError, RouteSocket, tolerate};

/// Bytes of the largest super-frame an instance sends. On the plain tunnel each of its segments carries headers of its
/// own, and all of it must fit one send of 65,507 bytes: 46 segments of an IPv6 TCP connection with timestamps add 3,312.
const SUPER_FRAME_MAX: u32 = 62_000;

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

/// What the kernel says about one link.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct LinkState {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: String,
    /// `bridge`, `veth`, `tun`...; empty for hardware.
    pub(crate) kind: String,
    /// Index of the bridge this is a port of.
    pub(crate) controller: Option<u32>,
    pub(crate) mac: Option<Mac>,
    pub(crate) up: bool,
    /// Whether the other end of the cable is there.
    pub(crate) carrier: bool,
    /// Bytes.
    pub(crate) mtu: u32,
    /// Packets that wait for the device at most (`txqueuelen`).
    pub(crate) queue: u32,
    /// Id of the XDP program that is attached, if one is.
    pub(crate) xdp_program: Option<u32>,
}

/// An address as the kernel lists it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ListedAddress {
    /// Index of the link.
    pub(crate) device: u32,
    pub(crate) address: Ip,
    /// In the family's own units.
    pub(crate) length: u8,
}

/// A unicast route of the main table as the kernel lists it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ListedRoute {
    /// A length of 0 is the default route.
    pub(crate) destination: Subnet,
    /// Index of the link; absent with several next hops.
    pub(crate) device: Option<u32>,
    /// Whether this program made it.
    pub(crate) ours: bool,
    /// Whether a router's advertisement made it: without the next one it expires.
    pub(crate) advertised: bool,
}

/// A route to set: destination, way and the path MTU towards it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    /// `None` is the default route of the gateway's family.
    pub(crate) destination: Option<Subnet>,
    /// `None` answers that there is no way.
    pub(crate) device: Option<u32>,
    pub(crate) gateway: Option<Ip>,
    pub(crate) source: Option<Ip>,
    /// Bytes; the device's own MTU when absent.
    pub(crate) mtu: Option<u32>,
}

/// Where packets to a destination leave this host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Outlet {
    /// Its index.
    pub(crate) device: u32,
    /// Their source address.
    pub(crate) source: Ip,
}

/// The verbs, bound to the namespace the thread was in at `open`.
pub(crate) struct Devices {
    socket: RouteSocket,
}

impl Devices {
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: RouteSocket::open()?,
        })
    }

    pub(crate) fn links(&mut self) -> Result<Vec<LinkState>, NetlinkError> {
        let found = self
            .socket
            .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), || {
                "listing links".to_owned()
            })?;
        Ok(found
            .into_iter()
            .filter_map(|message| {
                if let RouteNetlinkMessage::NewLink(link) = message {
                    Some(link_state(&link))
                } else {
                    None
                }
            })
            .collect())
    }

    pub(crate) fn link(&mut self, name: &str) -> Result<Option<LinkState>, NetlinkError> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// A bridge without snooping: its ports are isolated, so there is no group to learn.
    pub(crate) fn create_bridge(
        &mut self,
        name: &str,
        mac: Mac,
        mtu: u32,
    ) -> Result<(), NetlinkError> {
        let message = named(
            name,
            vec![
                LinkAttribute::Mtu(mtu),
                LinkAttribute::Address(mac.to_vec()),
                LinkAttribute::LinkInfo(vec![
                    LinkInfo::Kind(InfoKind::Bridge),
                    LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)])),
                ]),
            ],
        );
        self.create(message, || format!("creating bridge {name}"))
    }

    /// A veth pair with `queues` in each direction of either end. With `peer_namespace` the peer is born there and is
    /// never seen here.
    pub(crate) fn create_veth(
        &mut self,
        near: (&str, Option<Mac>),
        far: (&str, Option<Mac>),
        mtu: u32,
        queues: u32,
        peer_namespace: Option<BorrowedFd<'_>>,
    ) -> Result<(), NetlinkError> {
        let shape = [
            LinkAttribute::Mtu(mtu),
            LinkAttribute::GsoMaxSize(SUPER_FRAME_MAX),
            LinkAttribute::NumTxQueues(queues),
            LinkAttribute::NumRxQueues(queues),
        ];
        let mut peer = shape.to_vec();
        peer.extend(far.1.map(|mac| LinkAttribute::Address(mac.to_vec())));
        peer.extend(peer_namespace.map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd())));
        let mut own = shape.to_vec();
        own.extend(near.1.map(|mac| LinkAttribute::Address(mac.to_vec())));
        own.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(named(far.0, peer)))),
        ]));
        self.create(named(near.0, own), || {
            format!("creating veth pair {} and {}", near.0, far.0)
        })
    }

    fn create(
        &mut self,
        message: LinkMessage,
        what: impl FnOnce() -> String,
    ) -> Result<(), NetlinkError> {
        self.socket.change(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
            what,
        )
    }

    /// Makes `index` a port of `bridge`.
    pub(crate) fn set_port(
        &mut self,
        index: u32,
        bridge: u32,
        isolated: bool,
    ) -> Result<(), NetlinkError> {
        self.set(index, vec![LinkAttribute::Controller(bridge)], || {
            format!("making link {index} a port of bridge {bridge}")
        })?;
        // The port's options exist only once it is a port. The kernel reads them in RTM_NEWLINK (without the create
        // flag) and ignores them in RTM_SETLINK.
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = vec![LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(
                isolated,
            )])),
        ])];
        self.socket
            .change(RouteNetlinkMessage::NewLink(message), 0, || {
                format!("isolating bridge port {index}")
            })
    }

    /// `mtu` in bytes, `queue` in packets; both only when given.
    pub(crate) fn set_up(
        &mut self,
        index: u32,
        mtu: Option<u32>,
        queue: Option<u32>,
    ) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes.extend(mtu.map(LinkAttribute::Mtu));
        message
            .attributes
            .extend(queue.map(LinkAttribute::TxQueueLen));
        self.socket
            .change(RouteNetlinkMessage::SetLink(message), 0, || {
                format!("setting link {index} up")
            })
    }

    /// Packets that wait for the device at most; nothing else is changed.
    pub(crate) fn set_queue(&mut self, index: u32, packets: u32) -> Result<(), NetlinkError> {
        self.set(index, vec![LinkAttribute::TxQueueLen(packets)], || {
            format!("setting the queue of link {index} to {packets} packets")
        })
    }

    /// The text `ip link` shows as alias; at most 255 bytes.
    pub(crate) fn set_alias(&mut self, index: u32, alias: &str) -> Result<(), NetlinkError> {
        self.set(
            index,
            vec![LinkAttribute::IfAlias(alias.to_owned())],
            || format!("naming link {index} {alias}"),
        )
    }

    fn set(
        &mut self,
        index: u32,
        attributes: Vec<LinkAttribute>,
        what: impl FnOnce() -> String,
    ) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = attributes;
        self.socket
            .change(RouteNetlinkMessage::SetLink(message), 0, what)
    }

    /// A link that is gone already is no error.
    pub(crate) fn delete(&mut self, name: &str) -> Result<(), NetlinkError> {
        let message = named(name, Vec::new());
        let result = self
            .socket
            .change(RouteNetlinkMessage::DelLink(message), 0, || {
                format!("deleting link {name}")
            });
        tolerate(result, &[Errno::NODEV])
    }

    /// Without duplicate address detection: the address is ours by lease.
    pub(crate) fn add_address(
        &mut self,
        index: u32,
        address: Ip,
        length: u8,
        prefix_route: bool,
    ) -> Result<(), NetlinkError> {
        let ip = IpAddr::from(address);
        let mut message = AddressMessage::default();
        message.header.family = family(address.family());
        message.header.prefix_len = length;
        message.header.flags = AddressHeaderFlags::Nodad;
        message.header.scope = AddressScope::Universe;
        message.header.index = index;
        message.attributes = vec![AddressAttribute::Address(ip), AddressAttribute::Local(ip)];
        let mut flags = AddressFlags::Nodad;
        if !prefix_route {
            flags |= AddressFlags::Noprefixroute;
        }
        message.attributes.push(AddressAttribute::Flags(flags));
        self.socket.change(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            || format!("adding address {address}/{length} to link {index}"),
        )
    }

    /// Who has `ip` on that link, for good: nobody is asked.
    pub(crate) fn set_neighbour(
        &mut self,
        index: u32,
        ip: Ip,
        mac: Mac,
    ) -> Result<(), NetlinkError> {
        let mut message = neighbour(index, ip);
        message.header.state = NeighbourState::Permanent;
        let mac = NeighbourAttribute::LinkLayerAddress(mac.to_vec());
        message.attributes.push(mac);
        self.socket.change(
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            || format!("setting neighbour {ip} of link {index}"),
        )
    }

    /// One that is gone already is no error.
    pub(crate) fn delete_neighbour(&mut self, index: u32, ip: Ip) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelNeighbour(neighbour(index, ip));
        let result = self.socket.change(message, 0, || {
            format!("removing neighbour {ip} of link {index}")
        });
        tolerate(result, &[Errno::NOENT])
    }

    /// Addresses of all links, both families.
    pub(crate) fn addresses(&mut self) -> Result<Vec<ListedAddress>, NetlinkError> {
        let found = self.socket.dump(
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            || "listing addresses".to_owned(),
        )?;
        Ok(found.iter().filter_map(listed_address).collect())
    }

    /// Unicast routes of the main table, both families.
    pub(crate) fn routes(&mut self) -> Result<Vec<ListedRoute>, NetlinkError> {
        let mut found = Vec::new();
        for of in [Family::V4, Family::V6] {
            let mut ask = RouteMessage::default();
            ask.header.address_family = family(of);
            let routes = self.socket.dump(RouteNetlinkMessage::GetRoute(ask), || {
                "listing routes".to_owned()
            })?;
            found.extend(
                routes
                    .iter()
                    .filter_map(|message| listed_route(message, of)),
            );
        }
        Ok(found)
    }

    pub(crate) fn set_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let message = route_message(route);
        self.socket.change(
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            || format!("adding {route}"),
        )
    }

    /// A route that is gone already is no error.
    pub(crate) fn delete_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let message = route_message(route);
        let result = self
            .socket
            .change(RouteNetlinkMessage::DelRoute(message), 0, || {
                format!("removing {route}")
            });
        tolerate(result, &[Errno::SRCH])
    }

    /// The kernel's way to an address, as a socket would take it; `None` when there is none.
    pub(crate) fn outlet(&mut self, to: Ip) -> Result<Option<Outlet>, NetlinkError> {
        let mut ask = RouteMessage::default();
        ask.header.address_family = family(to.family());
        ask.header.destination_prefix_length = if to.is_v4() { 32 } else { 128 };
        ask.attributes
            .push(RouteAttribute::Destination(route_address(to)));
        let found = self.socket.ask(RouteNetlinkMessage::GetRoute(ask), || {
            format!("the route to {to}")
        })?;
        Ok(found.iter().find_map(|message| {
            let RouteNetlinkMessage::NewRoute(route) = message else {
                return None;
            };
            let (mut device, mut source) = (None, None);
            for attribute in &route.attributes {
                if let RouteAttribute::Oif(index) = attribute {
                    device = Some(*index);
                } else if let RouteAttribute::PrefSource(RouteAddress::Inet(ip)) = attribute {
                    source = Some(IpAddr::V4(*ip));
                } else if let RouteAttribute::PrefSource(RouteAddress::Inet6(ip)) = attribute {
                    source = Some(IpAddr::V6(*ip));
                }
            }
            Some(Outlet {
                device: device?,
                source: source?.into(),
            })
        }))
    }

    /// Whether a default route of this family exists through another device than `except`.
    pub(crate) fn has_default_route(
        &mut self,
        of: Family,
        except: u32,
    ) -> Result<bool, NetlinkError> {
        let mut ask = RouteMessage::default();
        ask.header.address_family = family(of);
        let routes = self.socket.dump(RouteNetlinkMessage::GetRoute(ask), || {
            "listing routes".to_owned()
        })?;
        Ok(routes.iter().any(|message| {
            let RouteNetlinkMessage::NewRoute(route) = message else {
                return false;
            };
            route.header.address_family == family(of)
                && route.header.destination_prefix_length == 0
                && route.header.kind == RouteType::Unicast
                && route.header.table == RouteHeader::RT_TABLE_MAIN
                && !route.attributes.contains(&RouteAttribute::Oif(except))
        }))
    }
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.destination {
            Some(destination) => write!(f, "route {destination}")?,
            None => write!(f, "default route")?,
        }
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        match self.device {
            Some(device) => write!(f, " over link {device}"),
            None => write!(f, " to nowhere"),
        }
    }
}

/// The routing protocol number `ip route` shows for our routes (`/etc/iproute2/rt_protos` has no name for it).
const RTPROT_SLUICE: u8 = 0x5c;

fn route_message(route: &Route) -> RouteMessage {
    let of = route
        .destination
        .map(|destination| destination.family())
        .or_else(|| route.gateway.map(Ip::family))
        .unwrap_or(Family::V4);
    let mut message = RouteMessage::default();
    message.header.address_family = family(of);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(RTPROT_SLUICE);
    message.header.kind = match route.device {
        Some(_) => RouteType::Unicast,
        None => RouteType::Unreachable,
    };
    message.header.scope = if route.gateway.is_some() || route.device.is_none() || of == Family::V6
    {
        RouteScope::Universe
    } else {
        RouteScope::Link
    };
    if let Some(destination) = route.destination {
        message.header.destination_prefix_length = destination.length();
        message
            .attributes
            .push(RouteAttribute::Destination(route_address(
                destination.network(),
            )));
    }
    message
        .attributes
        .extend(route.device.map(RouteAttribute::Oif));
    message.attributes.extend(
        route
            .gateway
            .map(|ip| RouteAttribute::Gateway(route_address(ip))),
    );
    message.attributes.extend(
        route
            .source
            .map(|ip| RouteAttribute::PrefSource(route_address(ip))),
    );
    message.attributes.extend(
        route
            .mtu
            .map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])),
    );
    message
}

/// A neighbour of that link, of which only the address is said.
pub(crate) fn neighbour(index: u32, ip: Ip) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(ip.family());
    message.header.ifindex = index;
    message.attributes = vec![NeighbourAttribute::Destination(match ip.into() {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    })];
    message
}

fn route_address(ip: Ip) -> RouteAddress {
    IpAddr::from(ip).into()
}

const fn family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn named(name: &str, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = attributes;
    message
        .attributes
        .insert(0, LinkAttribute::IfName(name.to_owned()));
    message
}

fn link_state(message: &LinkMessage) -> LinkState {
    let mut state = LinkState {
        index: message.header.index,
        name: String::new(),
        alias: String::new(),
        kind: String::new(),
        controller: None,
        mac: None,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        mtu: 0,
        queue: 0,
        xdp_program: None,
    };
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            state.name.clone_from(name);
        } else if let LinkAttribute::IfAlias(alias) = attribute {
            state.alias.clone_from(alias);
        } else if let LinkAttribute::Controller(index) = attribute {
            state.controller = Some(*index);
        } else if let LinkAttribute::Address(bytes) = attribute {
            state.mac = bytes.as_slice().try_into().ok();
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            state.mtu = *mtu;
        } else if let LinkAttribute::TxQueueLen(queue) = attribute {
            state.queue = *queue;
        } else if let LinkAttribute::Xdp(facts) = attribute {
            state.xdp_program = facts.iter().find_map(|fact| {
                if let LinkXdp::ProgId(id) = fact {
                    Some(*id)
                } else {
                    None
                }
            });
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            for info in infos {
                if let LinkInfo::Kind(kind) = info {
                    state.kind = kind.to_string();
                }
            }
        }
    }
    state
}

fn listed_address(message: &RouteNetlinkMessage) -> Option<ListedAddress> {
    let RouteNetlinkMessage::NewAddress(message) = message else {
        return None;
    };
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| {
            if let AddressAttribute::Local(ip) = attribute
                && local
            {
                Some(*ip)
            } else if let AddressAttribute::Address(ip) = attribute
                && !local
            {
                Some(*ip)
            } else {
                None
            }
        })
    };
    Some(ListedAddress {
        device: message.header.index,
        // IFA_ADDRESS is the far end of a point-to-point link.
        address: find(true).or_else(|| find(false))?.into(),
        length: message.header.prefix_len,
    })
}

fn listed_route(message: &RouteNetlinkMessage, of: Family) -> Option<ListedRoute> {
    let RouteNetlinkMessage::NewRoute(route) = message else {
        return None;
    };
    if route.header.address_family != family(of)
        || route.header.kind != RouteType::Unicast
        || route.header.table != RouteHeader::RT_TABLE_MAIN
    {
        return None;
    }
    let (mut network, mut device) = (None, None);
    for attribute in &route.attributes {
        if let RouteAttribute::Destination(RouteAddress::Inet(ip)) = attribute {
            network = Some(Ip::from(IpAddr::from(*ip)));
        } else if let RouteAttribute::Destination(RouteAddress::Inet6(ip)) = attribute {
            network = Some(Ip::from(IpAddr::from(*ip)));
        } else if let RouteAttribute::Oif(index) = attribute {
            device = Some(*index);
        }
    }
    let any = match of {
        Family::V4 => Ip::v4([0; 4]),
        Family::V6 => Ip::v6([0; 16]),
    };
    Some(ListedRoute {
        destination: Subnet::new(
            network.unwrap_or(any),
            route.header.destination_prefix_length,
        )
        .ok()?,
        device,
        ours: route.header.protocol == RouteProtocol::Other(RTPROT_SLUICE),
        advertised: route.header.protocol == RouteProtocol::Ra,
    })
}
