//! The kernel's own way to the same end: VXLAN between the nodes, and nft DNAT from a virtual to a real address.

use crate::lab::wire::veth;
use crate::lab::{LabError, NetNs, Program, tools};
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
        for (node, other, host, own, far) in [
            (client_at, server_at, &client, 1, 2),
            (server_at, client_at, &server, 2, 1),
        ] {
            let namespace = node.namespace;
            for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
                namespace.sysctl(key, "1")?;
            }
            namespace.ip(&format!(
                "link add vxbr0 mtu {MTU} type bridge\n\
                 link set vxbr0 up\n\
                 address add 10.99.{own}.1/24 dev vxbr0\n\
                 address add fd99:{own}::1/64 dev vxbr0 nodad\n\
                 link add vx0 mtu {MTU} type vxlan id 99 dstport {PORT} local {} remote {}\n\
                 link set vx0 up\n\
                 address add 10.99.0.{own}/24 dev vx0\n\
                 address add fd99::{own}/64 dev vx0 nodad\n\
                 route add 10.99.{far}.0/24 via 10.99.0.{far}\n\
                 route add fd99:{far}::/64 via fd99::{far}",
                node.address, other.address
            ))?;
            veth((namespace, "vxport0"), (host, "eth0"), MTU)?;
            namespace.ip("link set vxport0 master vxbr0")?;
            host.ip(&format!(
                "address add 10.99.{own}.2/24 dev eth0\n\
                 address add fd99:{own}::2/64 dev eth0 nodad\n\
                 route add default via 10.99.{own}.1\n\
                 route add ::/0 via fd99:{own}::1"
            ))?;
        }
        client_at.namespace.nft(
            "table inet peer {\n\
             chain prerouting {\n\
             type nat hook prerouting priority -100\n\
             ip daddr 10.98.0.1 dnat ip to 10.99.2.2\n\
             ip6 daddr fd98::1 dnat ip6 to fd99:2::2\n\
             }\n}\n",
        )?;
        Ok(Self {
            client,
            server,
            service: [
                [10, 98, 0, 1].into(),
                IpAddr::from([0xfd98, 0, 0, 0, 0, 0, 0, 1]),
            ],
            server_address: [10, 99, 2, 2].into(),
        })
    }

    /// One more client at the first node, IPv4 only, and its address.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn another_client(client_at: Node<'_>) -> Result<(NetNs, Ipv4Addr), LabError> {
        let host = NetNs::new("vxlan-client-2")?;
        veth((client_at.namespace, "vxport1"), (&host, "eth0"), MTU)?;
        client_at.namespace.ip("link set vxport1 master vxbr0")?;
        host.ip("address add 10.99.1.3/24 dev eth0\nroute add default via 10.99.1.1")?;
        Ok((host, Ipv4Addr::new(10, 99, 1, 3)))
    }

    /// What precedes a packet from the first node to the second inside the tunnel's datagram: the VXLAN header (RFC 7348
    /// section 5) and Ethernet.
    ///
    /// # Errors
    /// When a node has no VXLAN device.
    pub fn headers(client_at: Node<'_>, server_at: Node<'_>) -> Result<Vec<u8>, LabError> {
        let (from, to) = (mac(client_at.namespace)?, mac(server_at.namespace)?);
        Ok([&[8, 0, 0, 0, 0, 0, 99, 0][..], &to, &from, &[8, 0]].concat())
    }
}

/// The Ethernet address of a node's VXLAN device.
fn mac(node: &NetNs) -> Result<[u8; 6], LabError> {
    let show = Program::new(tools::find("ip")?).args(["-o", "link", "show", "vx0"]);
    let text = node.succeed(&show)?;
    let octets: Option<Vec<u8>> = text.split_once("link/ether ").and_then(|(_, rest)| {
        let mac = rest.split_whitespace().next()?;
        mac.split(':')
            .map(|octet| u8::from_str_radix(octet, 16).ok())
            .collect()
    });
    octets
        .and_then(|octets| octets.try_into().ok())
        .ok_or_else(|| LabError::Reply {
            what: show.to_string(),
            text,
        })
}
