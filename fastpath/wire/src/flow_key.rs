//! What names a flow: addresses, ports and the layer-4 protocol.

use crate::addr::{Family, Ip};

/// The layer-4 protocol, the same value in both families: ICMP is protocol 1 over IPv4 and 58 over IPv6.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Protocol {
    Tcp,
    Udp,
    Icmp,
    /// Any other protocol by its IANA number, ESP (50) and "no next header" (59) among them.
    Other(u8),
}

impl Protocol {
    /// The protocol of an IPv4 protocol field or an IPv6 next-header field. ICMP of the other family is `Other`.
    #[must_use]
    pub const fn from_number(number: u8, family: Family) -> Self {
        match (number, family) {
            (6, _) => Self::Tcp,
            (17, _) => Self::Udp,
            (1, Family::V4) | (58, Family::V6) => Self::Icmp,
            _ => Self::Other(number),
        }
    }

    /// The number in a header of that family; the inverse of [`Protocol::from_number`].
    #[must_use]
    pub const fn number(self, family: Family) -> u8 {
        match (self, family) {
            (Self::Tcp, _) => 6,
            (Self::Udp, _) => 17,
            (Self::Icmp, Family::V4) => 1,
            (Self::Icmp, Family::V6) => 58,
            (Self::Other(number), _) => number,
        }
    }

    /// The number in a [`FlowKey`]: as in IPv4 headers, for both families.
    #[must_use]
    pub const fn key(self) -> u8 {
        self.number(Family::V4)
    }
}

/// One direction of a flow. Ports are in host order; for ICMP echo both are the identifier, so that request and
/// reply have the same key but for the addresses.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FlowKey {
    pub src: Ip,
    pub dst: Ip,
    pub src_port: u16,
    pub dst_port: u16,
    /// [`Protocol::key`].
    pub protocol: u8,
}

impl FlowKey {
    /// The key of the opposite direction.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            protocol: self.protocol,
        }
    }

    /// The key as five words, for hashing and for tables of plain words: source (high, low), destination (high,
    /// low), then `is_v4 << 40 | protocol << 32 | src_port << 16 | dst_port`. Of two IPv4 keys the high halves are equal, so
    /// that whoever finds [`FlowKey::V4`] need not compare them.
    #[must_use]
    #[inline]
    pub const fn words(self) -> [u64; 5] {
        let ([src_high, src_low], [dst_high, dst_low]) = (self.src.halves(), self.dst.halves());
        [
            src_high,
            src_low,
            dst_high,
            dst_low,
            (if self.src.is_v4() && self.dst.is_v4() {
                Self::V4
            } else {
                0
            }) | (self.protocol as u64) << 32
                | (self.src_port as u64) << 16
                | self.dst_port as u64,
        ]
    }

    /// In the last of [`FlowKey::words`]: both addresses are of IPv4.
    pub const V4: u64 = 1 << 40;

    /// The inverse of [`FlowKey::words`].
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the last word is cut into its three fields"
    )]
    pub const fn from_words(words: [u64; 5]) -> Self {
        let [src_high, src_low, dst_high, dst_low, rest] = words;
        Self {
            src: Ip::from_bits((src_high as u128) << 64 | src_low as u128),
            dst: Ip::from_bits((dst_high as u128) << 64 | dst_low as u128),
            src_port: (rest >> 16) as u16,
            dst_port: rest as u16,
            protocol: (rest >> 32) as u8,
        }
    }
}

/// What the fragments of one datagram share (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FragmentKey {
    pub src: Ip,
    pub dst: Ip,
    /// The identification field: 16 bits over IPv4, 32 over IPv6.
    pub id: u32,
    /// The IPv4 protocol field. Zero over IPv6, where the identification alone tells datagrams apart and a later
    /// fragment may not show the layer-4 protocol.
    pub protocol: u8,
}
