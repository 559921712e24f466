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

    /// The key as five words, for hashing and for tables of plain words: the addresses, then `is_v4 << 40 | protocol << 32 |
    /// src_port << 16 | dst_port`. Two addresses of IPv4 are one word, `src << 32 | dst`, and three of zeros; others are
    /// four: source (high, low), destination (high, low).
    #[must_use]
    #[inline]
    pub const fn words(self) -> [u64; 5] {
        let ([src_high, src_low], [dst_high, dst_low]) = (self.src.halves(), self.dst.halves());
        let rest =
            (self.protocol as u64) << 32 | (self.src_port as u64) << 16 | self.dst_port as u64;
        if self.src.is_v4() && self.dst.is_v4() {
            [
                src_low << 32 | dst_low & 0xffff_ffff,
                0,
                0,
                0,
                Self::V4 | rest,
            ]
        } else {
            [src_high, src_low, dst_high, dst_low, rest]
        }
    }

    /// In the last of [`FlowKey::words`]: both addresses are of IPv4.
    pub const V4: u64 = 1 << 40;

    /// The inverse of [`FlowKey::words`].
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "words are cut into their fields"
    )]
    pub const fn from_words(words: [u64; 5]) -> Self {
        let [src_high, src_low, dst_high, dst_low, rest] = words;
        let (src, dst) = if rest & Self::V4 != 0 {
            let (src, dst) = ((src_high >> 32) as u32, src_high as u32);
            (Ip::v4(src.to_be_bytes()), Ip::v4(dst.to_be_bytes()))
        } else {
            (
                Ip::from_bits((src_high as u128) << 64 | src_low as u128),
                Ip::from_bits((dst_high as u128) << 64 | dst_low as u128),
            )
        };
        Self {
            src,
            dst,
            src_port: (rest >> 16) as u16,
            dst_port: rest as u16,
            protocol: (rest >> 32) as u8,
        }
    }
}

/// An address as [`FlowKey::words`] have it: `u32` of IPv4, high and low half of one of IPv6.
pub trait Address: Copy + Eq {
    const FAMILY: Family;

    /// `ip` is of that family.
    fn of(ip: Ip) -> Self;

    /// Source and destination of a key.
    fn ends(words: &[u64; 5]) -> [Self; 2];

    /// The key with these ends and that last word.
    fn words(src: Self, dst: Self, rest: u64) -> [u64; 5];
}

impl Address for u32 {
    const FAMILY: Family = Family::V4;

    #[inline(always)]
    fn of(ip: Ip) -> Self {
        Self::from_be_bytes(ip.octets_v4())
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    fn ends(words: &[u64; 5]) -> [Self; 2] {
        [(words[0] >> 32) as Self, words[0] as Self]
    }

    #[inline(always)]
    fn words(src: Self, dst: Self, rest: u64) -> [u64; 5] {
        [u64::from(src) << 32 | u64::from(dst), 0, 0, 0, rest]
    }
}

impl Address for [u64; 2] {
    const FAMILY: Family = Family::V6;

    #[inline(always)]
    fn of(ip: Ip) -> Self {
        ip.halves()
    }

    #[inline(always)]
    fn ends(words: &[u64; 5]) -> [Self; 2] {
        [[words[0], words[1]], [words[2], words[3]]]
    }

    #[inline(always)]
    fn words(src: Self, dst: Self, rest: u64) -> [u64; 5] {
        [src[0], src[1], dst[0], dst[1], rest]
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
