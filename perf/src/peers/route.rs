//! Plain kernel routing between a client and a server on two nodes: the upper bound on the same cable.

use super::vxlan::Node;
use crate::lab::wire::veth;
use crate::lab::{LabError, NetNs};
use std::net::IpAddr;

/// A client and a server attached to two nodes, which route between them.
#[derive(Debug)]
pub struct Route {
    pub client: NetNs,
    pub server: NetNs,
    /// The server's addresses, IPv4 and IPv6.
    pub address: [IpAddr; 2],
}

impl Route {
    /// Sets it up. `v6` are the nodes' IPv6 addresses on the cable.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(
        client_at: Node<'_>,
        server_at: Node<'_>,
        v6: [IpAddr; 2],
    ) -> Result<Self, LabError> {
        let (client, server) = (NetNs::new("route-client")?, NetNs::new("route-server")?);
        for (node, other, other_v6, host, own, far) in [
            (client_at, server_at, v6[1], &client, 1, 2),
            (server_at, client_at, v6[0], &server, 2, 1),
        ] {
            let namespace = node.namespace;
            for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
                namespace.sysctl(key, "1")?;
            }
            veth((namespace, "plain0"), (host, "eth0"), 1500)?;
            namespace.ip(&format!(
                "address add 10.97.{own}.1/24 dev plain0\n\
                 address add fd97:{own}::1/64 dev plain0 nodad\n\
                 route add 10.97.{far}.0/24 via {}\n\
                 route add fd97:{far}::/64 via {other_v6}",
                other.address
            ))?;
            host.ip(&format!(
                "address add 10.97.{own}.2/24 dev eth0\n\
                 address add fd97:{own}::2/64 dev eth0 nodad\n\
                 route add default via 10.97.{own}.1\n\
                 route add ::/0 via fd97:{own}::1"
            ))?;
        }
        Ok(Self {
            client,
            server,
            address: [
                [10, 97, 2, 2].into(),
                IpAddr::from([0xfd97, 2, 0, 0, 0, 0, 0, 2]),
            ],
        })
    }
}
