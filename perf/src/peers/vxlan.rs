//! The kernel's own way to the same end: VXLAN between the nodes, and nft DNAT from a virtual to a real address.

use crate::lab::{Host, LabError, NetNs, Program};
use std::net::{IpAddr, Ipv4Addr};

/// A client and a server in namespaces of their own, attached to two nodes that VXLAN joins.
#[derive(Debug)]
pub struct VxlanDnat {
    pub client: NetNs,
    pub server: NetNs,
    /// The addresses a client dials; the first node translates them to the server's.
    pub service: [IpAddr; 2],
    /// The server's own IPv4 address.
    pub server_address: IpAddr,
}

/// One node of the pair.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    pub namespace: &'a NetNs,
    /// Its address on the cable.
    pub address: IpAddr,
}

/// The same between hosts, IPv4 only, its client and server in namespaces of their own there. Dropping it takes away what it
/// made, except that the hosts go on forwarding.
#[derive(Debug)]
pub struct VxlanBetweenHosts {
    nodes: [Host; 2],
    pub client: Host,
    /// Its address is [`OTHER_CLIENT`].
    pub other_client: Host,
    pub server: Host,
}

const CLIENT: &str = "sluice-perf-from";
const CLIENT_TOO: &str = "sluice-perf-too";
const SERVER_AT: &str = "sluice-perf-to";

impl VxlanBetweenHosts {
    /// Each node with its own address on the underlay.
    ///
    /// # Errors
    /// When a kernel refuses.
    pub fn new(nodes: [(Host, Ipv4Addr); 2]) -> Result<Self, LabError> {
        let [(client_at, first), (server_at, second)] = nodes;
        let path = Self {
            client: client_at.inside(CLIENT),
            other_client: client_at.inside(CLIENT_TOO),
            server: server_at.inside(SERVER_AT),
            nodes: [client_at, server_at],
        };
        // What a run that was killed has left.
        path.remove();
        let [client_at, server_at] = &path.nodes;
        for (node, end, end_name) in [
            (client_at, &path.client, CLIENT),
            (client_at, &path.other_client, CLIENT_TOO),
            (server_at, &path.server, SERVER_AT),
        ] {
            node.ip(&format!("netns add {end_name}"))?;
            end.ip("link set lo up")?;
        }
        let [first, second] = [first, second].map(IpAddr::from);
        let sides = [
            (client_at, first, second, &path.client, CLIENT, 1, 2),
            (server_at, second, first, &path.server, SERVER_AT, 2, 1),
        ];
        for (node, address, other, end, end_name, own, far) in sides {
            Side {
                node,
                address,
                other,
                end,
                end_name,
                own,
                far,
            }
            .set_up()?;
        }
        translate(client_at)?;
        join(client_at, &path.other_client, CLIENT_TOO)?;
        Ok(path)
    }

    /// As [`VxlanDnat::headers`].
    ///
    /// # Errors
    /// When a node has no VXLAN device.
    pub fn headers(&self) -> Result<Vec<u8>, LabError> {
        headers(&self.nodes[0], &self.nodes[1])
    }

    /// What is not there needs no removing.
    fn remove(&self) {
        let [first, second] = &self.nodes;
        let _ = first.nft(&format!("delete table inet {TABLE}\n"));
        for (node, end) in [(first, CLIENT), (first, CLIENT_TOO), (second, SERVER_AT)] {
            for command in [
                format!("netns delete {end}"),
                "link delete vx0".to_owned(),
                "link delete vxbr0".to_owned(),
            ] {
                let _ = node.ip(&command);
            }
        }
    }
}

impl Drop for VxlanBetweenHosts {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The address that is dialled, and the server's own.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 2, 2);
/// Of a second client.
pub const OTHER_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 3);
/// What translates.
const TABLE: &str = "vxlan_dnat";

/// The UDP port of its tunnel.
pub const PORT: u16 = 4789;
/// The VXLAN header and the outer headers take 50 bytes of the cable's 1500.
const MTU: u16 = 1450;

impl VxlanDnat {
    /// Sets it up between the two nodes, in address ranges that Sluice does not use.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(client_at: Node<'_>, server_at: Node<'_>) -> Result<Self, LabError> {
        let (client, server) = (NetNs::new("vxlan-client")?, NetNs::new("vxlan-server")?);
        for (node, other, end, own, far) in [
            (client_at, server_at, &client, 1, 2),
            (server_at, client_at, &server, 2, 1),
        ] {
            let side = Side {
                node: &node.namespace.into(),
                address: node.address,
                other: other.address,
                end: &end.into(),
                end_name: &end.path().display().to_string(),
                own,
                far,
            };
            side.set_up()?;
            side.set_up_v6()?;
        }
        let node = Host::from(client_at.namespace);
        translate(&node)?;
        node.nft(&format!(
            "add rule inet {TABLE} prerouting ip6 daddr fd98::1 dnat ip6 to fd99:2::2\n"
        ))?;
        Ok(Self {
            client,
            server,
            service: [SERVICE.into(), IpAddr::from([0xfd98, 0, 0, 0, 0, 0, 0, 1])],
            server_address: SERVER.into(),
        })
    }

    /// One more client at the first node, IPv4 only, and its address.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn another_client(client_at: Node<'_>) -> Result<(NetNs, Ipv4Addr), LabError> {
        let host = NetNs::new("vxlan-client-2")?;
        let name = host.path().display().to_string();
        join(&client_at.namespace.into(), &(&host).into(), &name)?;
        Ok((host, OTHER_CLIENT))
    }

    /// What precedes a packet from the first node to the second inside the tunnel's datagram: the VXLAN header (RFC 7348
    /// section 5) and Ethernet.
    ///
    /// # Errors
    /// When a node has no VXLAN device.
    pub fn headers(client_at: Node<'_>, server_at: Node<'_>) -> Result<Vec<u8>, LabError> {
        headers(&client_at.namespace.into(), &server_at.namespace.into())
    }
}

fn headers(client_at: &Host, server_at: &Host) -> Result<Vec<u8>, LabError> {
    let (from, to) = (client_at.device("vx0")?.mac, server_at.device("vx0")?.mac);
    Ok([&[8, 0, 0, 0, 0, 0, 99, 0][..], &to, &from, &[8, 0]].concat())
}

/// Attaches a second client to the first node; `name` is what `ip` calls its namespace there.
fn join(node: &Host, end: &Host, name: &str) -> Result<(), LabError> {
    node.ip(&format!(
        "link add vxport1 mtu {MTU} type veth peer name eth0 mtu {MTU} netns {name}\n\
         link set vxport1 up\n\
         link set vxport1 master vxbr0"
    ))?;
    end.ip(&format!(
        "link set eth0 up\naddress add {OTHER_CLIENT}/24 dev eth0\nroute add default via 10.99.1.1"
    ))
}

/// One node and what is attached to it.
struct Side<'a> {
    node: &'a Host,
    /// Of the node on the cable, and of the other one.
    address: IpAddr,
    other: IpAddr,
    /// The namespace of the client or server, and what `ip` calls it at the node.
    end: &'a Host,
    end_name: &'a str,
    /// The number of this side in its networks, and of the other one.
    own: u8,
    far: u8,
}

impl Side<'_> {
    fn set_up(&self) -> Result<(), LabError> {
        let Self {
            address,
            other,
            end_name,
            own,
            far,
            ..
        } = self;
        self.node
            .succeed(&Program::new("sysctl").args(["-qw", "net.ipv4.ip_forward=1"]))?;
        self.node.ip(&format!(
            "link add vxbr0 mtu {MTU} type bridge\n\
             link set vxbr0 up\n\
             address add 10.99.{own}.1/24 dev vxbr0\n\
             link add vx0 mtu {MTU} type vxlan id 99 dstport {PORT} local {address} remote {other}\n\
             link set vx0 up\n\
             address add 10.99.0.{own}/24 dev vx0\n\
             route add 10.99.{far}.0/24 via 10.99.0.{far}\n\
             link add vxport0 mtu {MTU} type veth peer name eth0 mtu {MTU} netns {end_name}\n\
             link set vxport0 up\n\
             link set vxport0 master vxbr0"
        ))?;
        self.end.ip(&format!(
            "link set eth0 up\n\
             address add 10.99.{own}.2/24 dev eth0\n\
             route add default via 10.99.{own}.1"
        ))
    }

    /// After [`Side::set_up`].
    fn set_up_v6(&self) -> Result<(), LabError> {
        let Self { own, far, .. } = self;
        self.node
            .succeed(&Program::new("sysctl").args(["-qw", "net.ipv6.conf.all.forwarding=1"]))?;
        self.node.ip(&format!(
            "address add fd99:{own}::1/64 dev vxbr0 nodad\n\
             address add fd99::{own}/64 dev vx0 nodad\n\
             route add fd99:{far}::/64 via fd99::{far}"
        ))?;
        self.end.ip(&format!(
            "address add fd99:{own}::2/64 dev eth0 nodad\n\
             route add ::/0 via fd99:{own}::1"
        ))
    }
}

/// Has the first node translate [`SERVICE`] to the server's address.
fn translate(node: &Host) -> Result<(), LabError> {
    node.nft(&format!(
        "table inet {TABLE} {{\n\
         chain prerouting {{\n\
         type nat hook prerouting priority -100\n\
         ip daddr {SERVICE} dnat ip to {SERVER}\n\
         }}\n}}\n"
    ))
}
