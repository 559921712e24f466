//! The path in the kernel, in one direction: what comes in at one device is translated by nft DNAT and leaves in VXLAN.

use crate::lab::{Host, LabError, Program};
use std::fs;
use std::net::Ipv4Addr;

/// The virtual address, the real one behind it, and who calls.
pub const DIALLED: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);
pub const BEHIND: Ipv4Addr = Ipv4Addr::new(10, 99, 2, 2);
pub const CALLER: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 2);
/// UDP port of the tunnel.
pub const PORT: u16 = 4789;
/// Where in a frame the inner IPv4 packet begins: outer headers, VXLAN header, inner Ethernet header.
pub const INNER_AT: u8 = 42 + 8 + 14;

/// Sets it up on `host`: frames come in at `service`; `node` and `other` are its own address and the other node's on the
/// underlay, whose device has its address already.
///
/// # Errors
/// When the kernel refuses.
pub fn set_up(host: &Host, service: &str, node: Ipv4Addr, other: Ipv4Addr) -> Result<(), LabError> {
    host.succeed(&Program::new("sysctl").args(["-qw", "net.ipv4.ip_forward=1"]))?;
    host.ip(&format!(
        "address add 10.99.1.1/24 dev {service}\n\
         link add vxpath0 mtu 1450 type vxlan id 99 dstport {PORT} local {node} remote {other}\n\
         link set vxpath0 up\n\
         address add 10.99.0.1/24 dev vxpath0\n\
         neighbour add 10.99.0.2 lladdr 02:00:00:99:00:02 dev vxpath0 nud permanent\n\
         route add 10.99.2.0/24 via 10.99.0.2"
    ))?;
    host.nft(&format!(
        "table ip vxlan_path {{\n\
         chain prerouting {{\n\
         type nat hook prerouting priority -100\n\
         ip daddr {DIALLED} dnat to {BEHIND}\n\
         }}\n}}\n"
    ))
}

/// Takes away what [`set_up`] made; forwarding stays on.
///
/// # Errors
/// When the kernel refuses, for example because it is not there.
pub fn remove(host: &Host, service: &str) -> Result<(), LabError> {
    host.nft("delete table ip vxlan_path\n")?;
    host.ip(&format!(
        "link delete vxpath0\naddress delete 10.99.1.1/24 dev {service}"
    ))
}

const LIMIT: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// Connection tracking has room for so many flows as long as this lives; then the machine's limit is what it was. A
/// namespace cannot have more than the machine.
#[derive(Debug)]
pub struct Room {
    before: Option<String>,
}

impl Room {
    /// # Errors
    /// When the limit is lower and may not be raised.
    pub fn at_least(flows: u32) -> Result<Self, LabError> {
        let limit = fs::read_to_string(LIMIT).map_err(LabError::file(LIMIT))?;
        if limit.trim().parse().is_ok_and(|limit: u32| limit >= flows) {
            return Ok(Self { before: None });
        }
        fs::write(LIMIT, flows.to_string()).map_err(LabError::file(LIMIT))?;
        Ok(Self {
            before: Some(limit),
        })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // It was written before; a limit that stays higher harms nobody.
            let _ = fs::write(LIMIT, before);
        }
    }
}
