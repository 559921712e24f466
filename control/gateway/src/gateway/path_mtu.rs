//! How long a packet may be to fit the path to a peer in one datagram, by the kernel's word.

use rustix::net::sockopt::{ip_mtu, ipv6_mtu};
use sluice_tables::TunnelFormat;
use sluice_wire::Ip;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// The longest inner packet any plain peer takes: Oakestra's devices have this MTU.
pub(crate) const PEER_MTU: u16 = 1450;
/// Every IPv6 link carries this much (RFC 8200 section 5); of a path that is said to be narrower nothing is believed.
const PATH_MTU_MIN: u32 = 1280;
/// UDP and IP headers around an inner packet.
const OUTER_V4: u32 = 8 + 20;
const OUTER_V6: u32 = 8 + 40;
/// What sealing adds: a header of 16 bytes and a tag of 16.
const SEALING: u32 = 16 + 16;

/// The longest inner packet, in bytes, that fits the route to that peer; [`PEER_MTU`] when there is no route yet.
///
/// The kernel knows the device's MTU and what routers on the path have said. It is asked when the peer's row is written,
/// and again and again after that.
pub(crate) fn inner_mtu_to(ip: Ip, port: u16, format: TunnelFormat) -> u16 {
    let sealing = match format {
        TunnelFormat::Plain => 0,
        TunnelFormat::WireGuard { .. } => SEALING,
    };
    let Ok((mtu, outer)) = route_mtu(ip.into(), port) else {
        return PEER_MTU;
    };
    let inner = mtu.max(PATH_MTU_MIN) - outer - sealing;
    u16::try_from(inner).unwrap_or(PEER_MTU).min(PEER_MTU)
}

/// The path MTU and the length of the outer headers, both in bytes. Asks through a connected socket; nothing is sent.
///
/// # Errors
/// When there is no route.
pub(crate) fn route_mtu(ip: IpAddr, port: u16) -> io::Result<(u32, u32)> {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((ip, port))?;
    Ok(match ip {
        IpAddr::V4(_) => (ip_mtu(&socket)?, OUTER_V4),
        IpAddr::V6(_) => (ipv6_mtu(&socket)?, OUTER_V6),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loopback has an MTU of 65,536: the peer's limit is what counts.
    #[test]
    fn a_wide_path_leaves_the_peers_limit() {
        for format in [
            TunnelFormat::Plain,
            TunnelFormat::WireGuard { key: [1; 32] },
        ] {
            let mtu = inner_mtu_to("127.0.0.1".parse().unwrap(), 50103, format);
            assert_eq!(mtu, PEER_MTU);
        }
    }
}
