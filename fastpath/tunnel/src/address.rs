//! Where datagrams of a peer come from and go to.

use sluice_wire::Ip;

/// An outer IP address and UDP port.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Address {
    pub ip: Ip,
    pub port: u16,
}
