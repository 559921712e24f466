//! Socket addresses as the kernel lays them out, without a union: bytes with checked fields.

use sluice_memory::Endpoint;
use sluice_wire::{Family, Ip};

/// `struct sockaddr_in` or `struct sockaddr_in6`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C, align(4))]
pub struct SocketAddress {
    bytes: [u8; Self::LEN_V6],
}

impl SocketAddress {
    const LEN_V4: usize = 16;
    const LEN_V6: usize = 28;

    /// The address of `endpoint` for a socket of `family`; an IPv4 endpoint on an IPv6 socket is mapped. An IPv6
    /// endpoint on an IPv4 socket gives an IPv6 address, which the kernel refuses (EAFNOSUPPORT).
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "address families are 2 and 10"
    )]
    pub fn new(endpoint: Endpoint, family: Family) -> Self {
        let mut bytes = [0; Self::LEN_V6];
        bytes[2..4].copy_from_slice(&endpoint.port.to_be_bytes());
        if family == Family::V4 && endpoint.ip.is_v4() {
            bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            bytes[4..8].copy_from_slice(&endpoint.ip.octets_v4());
        } else {
            bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            bytes[8..24].copy_from_slice(&endpoint.ip.octets_v6());
        }
        Self { bytes }
    }

    fn is_v4(&self) -> bool {
        i32::from(u16::from_ne_bytes([self.bytes[0], self.bytes[1]])) == libc::AF_INET
    }

    /// Who it is; a mapped address is the IPv4 address.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        let port = u16::from_be_bytes([self.bytes[2], self.bytes[3]]);
        let mut ip = [0; 16];
        if self.is_v4() {
            let mut ip = [0; 4];
            ip.copy_from_slice(&self.bytes[4..8]);
            return Endpoint {
                ip: Ip::v4(ip),
                port,
            };
        }
        ip.copy_from_slice(&self.bytes[8..24]);
        Endpoint {
            ip: Ip::v6(ip),
            port,
        }
    }

    /// Bytes the kernel is told.
    #[expect(clippy::cast_possible_truncation, reason = "16 or 28")]
    pub(super) fn len(&self) -> libc::socklen_t {
        (if self.is_v4() {
            Self::LEN_V4
        } else {
            Self::LEN_V6
        }) as libc::socklen_t
    }

    /// The most bytes the kernel may write.
    #[expect(clippy::cast_possible_truncation, reason = "28")]
    pub(super) const CAPACITY: libc::socklen_t = Self::LEN_V6 as libc::socklen_t;

    pub(super) const fn as_ptr(&self) -> *const libc::c_void {
        self.bytes.as_ptr().cast()
    }

    pub(super) const fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        self.bytes.as_mut_ptr().cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_survive_both_families_of_socket() {
        for (ip, family, len) in [
            ("192.0.2.7", Family::V4, 16),
            ("192.0.2.7", Family::V6, 28),
            ("2001:db8::7", Family::V6, 28),
            ("2001:db8::7", Family::V4, 28),
        ] {
            let endpoint = Endpoint {
                ip: ip.parse().unwrap(),
                port: 50103,
            };
            let address = SocketAddress::new(endpoint, family);
            assert_eq!((address.endpoint(), address.len()), (endpoint, len));
        }
    }
}
