//! The outer traffic class of encrypted packets: ECN is the inner packet's (RFC 6040 section 4.1), DSCP as configured.

use sluice_wire::traffic_class::{self, ECN};

/// The DSCP (RFC 2474) of encrypted datagrams.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dscp {
    /// This one, 0 to 63, whatever the packet inside says: nobody on the way learns what kind of packet it is.
    Fixed(u8),
    /// That of the packet inside. What has none inside has 0.
    Inner,
}

impl Default for Dscp {
    /// As WireGuard has it.
    fn default() -> Self {
        Self::Fixed(0)
    }
}

impl Dscp {
    /// The class of the datagram for a packet.
    #[inline]
    pub(super) fn class_of(self, packet: &[u8]) -> u8 {
        let inner = traffic_class::of(packet);
        match self {
            Self::Fixed(dscp) => dscp << 2 | inner & ECN,
            Self::Inner => inner,
        }
    }

    /// The class of handshake messages and keepalives.
    pub(super) const fn own_class(self) -> u8 {
        match self {
            Self::Fixed(dscp) => dscp << 2,
            Self::Inner => 0,
        }
    }
}
