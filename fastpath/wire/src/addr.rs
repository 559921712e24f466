//! Addresses as types: what an address means is part of its type.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The Internet protocol version of a packet or an address.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Family {
    V4,
    V6,
}

/// An IPv4 or IPv6 address in 16 bytes: host-order integer of the IPv6 form, IPv4 as `::ffff:a.b.c.d`
/// (RFC 4291 section 2.5.5.2). Comparing and hashing cost the same for both families.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(transparent)]
pub struct Ip(u128);

const V4_MAPPED: u128 = 0xffff_0000_0000;

impl Ip {
    /// The all-zero IPv6 address; never the address of anything.
    pub const UNSPECIFIED: Self = Self(0);

    #[must_use]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self(V4_MAPPED | u32::from_be_bytes(octets) as u128)
    }

    #[must_use]
    pub const fn v6(octets: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(octets))
    }

    /// The integer form (see the type); the inverse of [`Ip::from_bits`].
    #[must_use]
    pub const fn to_bits(self) -> u128 {
        self.0
    }

    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// In `100::/64`, from which and to which nothing is ever sent (RFC 6666).
    #[must_use]
    #[inline]
    pub const fn is_discard_only(self) -> bool {
        self.0 >> 64 == 0x0100 << 48
    }

    /// The high and the low half of the integer form.
    #[must_use]
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "cut into its two halves")]
    pub const fn halves(self) -> [u64; 2] {
        [(self.0 >> 64) as u64, self.0 as u64]
    }

    #[must_use]
    pub const fn is_v4(self) -> bool {
        self.0 >> 32 == V4_MAPPED >> 32
    }

    #[must_use]
    pub const fn family(self) -> Family {
        if self.is_v4() { Family::V4 } else { Family::V6 }
    }

    /// Network-order bytes of the IPv4 form. Meaningful only when [`Ip::is_v4`].
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low 32 bits are the IPv4 address"
    )]
    pub const fn octets_v4(self) -> [u8; 4] {
        (self.0 as u32).to_be_bytes()
    }

    /// Network-order bytes of the IPv6 form (the mapped form of an IPv4 address).
    #[must_use]
    pub const fn octets_v6(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The address `offset` after this one. Wraps inside the 128-bit form; callers keep inside a [`crate::Subnet`].
    #[must_use]
    pub const fn offset(self, offset: u128) -> Self {
        Self(self.0.wrapping_add(offset))
    }
}

impl From<IpAddr> for Ip {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => ip.into(),
        }
    }
}

impl From<Ipv4Addr> for Ip {
    fn from(ip: Ipv4Addr) -> Self {
        Self::v4(ip.octets())
    }
}

/// A mapped IPv6 address becomes the IPv4 address it stands for.
impl From<Ipv6Addr> for Ip {
    fn from(ip: Ipv6Addr) -> Self {
        Self::v6(ip.octets())
    }
}

impl From<Ip> for IpAddr {
    fn from(ip: Ip) -> Self {
        match ip.family() {
            Family::V4 => Self::V4(Ipv4Addr::from(ip.octets_v4())),
            Family::V6 => Self::V6(Ipv6Addr::from(ip.octets_v6())),
        }
    }
}

/// The canonical text (RFC 5952 for IPv6), as table queries compare it.
impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Ip {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<IpAddr>().map(Self::from)
    }
}

macro_rules! address_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[repr(transparent)]
        pub struct $name(Ip);

        impl $name {
            /// Says that `ip` has this meaning. [`crate::AddressPlan::class`] decides; this only names it.
            #[must_use]
            pub const fn new(ip: Ip) -> Self {
                Self(ip)
            }

            #[must_use]
            pub const fn ip(self) -> Ip {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

address_type! {
    /// Names a service and how to choose an instance of it. A client dials it; no packet carries it between nodes.
    ServiceIp
}
address_type! {
    /// Names one instance of a service, for its whole life, through migrations (thesis 3.6.1).
    InstanceIp
}
address_type! {
    /// The real address of an instance inside its node's subnet ("namespace address"); changes when it moves.
    NsIp
}

/// The same thing in both families; at least one is present wherever this describes something that exists.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Dual<T> {
    pub v4: Option<T>,
    pub v6: Option<T>,
}

impl<T> Default for Dual<T> {
    fn default() -> Self {
        Self { v4: None, v6: None }
    }
}

impl<T: Copy> Dual<T> {
    #[must_use]
    pub const fn both(v4: T, v6: T) -> Self {
        Self {
            v4: Some(v4),
            v6: Some(v6),
        }
    }

    #[must_use]
    pub const fn of(&self, family: Family) -> Option<T> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = T> {
        self.v4.into_iter().chain(self.v6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_text_and_bits() {
        for text in [
            "10.30.0.1",
            "fdff::1",
            "0.0.0.0",
            "255.255.255.255",
            "::1",
            "fc00::102",
        ] {
            let ip: Ip = text.parse().unwrap();
            assert_eq!(ip.to_string(), text);
            assert_eq!(Ip::from_bits(ip.to_bits()), ip);
            assert_eq!(ip.is_v4(), !text.contains(':'));
        }
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        assert_eq!(
            "::ffff:10.0.0.1".parse::<Ip>().unwrap(),
            Ip::v4([10, 0, 0, 1])
        );
    }
}
