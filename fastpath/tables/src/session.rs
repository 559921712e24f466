//! How packets to a peer are wrapped, and the addresses that stand for the sessions of encrypted peers.
//!
//! To the engine a peer is an outer address: what comes from it may have inner sources that are placed there, and what goes to
//! it goes there. A plain peer is its node's address, which anybody on the way can write. An encrypted peer is an address that no
//! datagram has (links drop what pretends to): the worker writes it where it opened a packet with the peer's session, and seals what the engine sends to it. So
//! everything that asks "is it from there?" asks for the session, and what missed the sealing has nowhere to go.

use crate::slots::{PeerSlot, Slot};
use sluice_wire::Ip;

/// How packets to a peer are wrapped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TunnelFormat {
    /// The raw inner packet, nothing else (OAKESTRA-WIRE section 4.4).
    Plain,
    /// WireGuard's: encrypted, and known by the node's static public key (Curve25519, as RFC 7748 writes it).
    WireGuard { key: [u8; 32] },
}

impl TunnelFormat {
    /// The key of the node that speaks it.
    #[must_use]
    pub const fn key(self) -> Option<[u8; 32]> {
        match self {
            Self::Plain => None,
            Self::WireGuard { key } => Some(key),
        }
    }
}

/// The prefix of such addresses, `100::/64`: what is sent there is discarded (RFC 6666).
const PREFIX: u128 = 0x0100 << 112;

/// The address that stands for the session of the peer that has this slot, and had it since `epoch`.
#[must_use]
pub fn session_address(peer: PeerSlot, epoch: u32) -> Ip {
    Ip::from_bits(PREFIX | u128::from(epoch) << 32 | u128::from(peer.index()))
}

/// The inverse of [`session_address`]: slot and epoch.
#[inline]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "cut into its parts")]
pub fn session_of(ip: Ip) -> Option<(PeerSlot, u32)> {
    let bits = ip.to_bits();
    ip.is_discard_only()
        .then(|| (PeerSlot::from_index(bits as u32), (bits >> 32) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_a_session_is_known_for_one_and_no_other_is() {
        for (index, epoch) in [(0, 0), (7, 3), (u32::MAX, u32::MAX)] {
            let peer = PeerSlot::from_index(index);
            assert_eq!(
                session_of(session_address(peer, epoch)),
                Some((peer, epoch))
            );
        }
        let slot = PeerSlot::from_index(7);
        assert_eq!(session_address(slot, 3), "100::3:0:7".parse().unwrap());
        for ip in ["192.0.2.1", "::", "101::", "100:0:0:1::", "fd00::1"] {
            assert_eq!(session_of(ip.parse().unwrap()), None, "{ip}");
        }
    }
}
