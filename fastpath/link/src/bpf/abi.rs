//! What the BPF programs and we share; the same as `bpf/abi.h`, which explains the fields.

use sluice_wire::{Family, Ip, Subnet};

/// Queues of one device that can have a socket.
pub const QUEUES_MAX: u32 = 64;

/// `struct address`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(transparent)]
pub struct Address(pub [u8; 16]);

impl From<Ip> for Address {
    fn from(ip: Ip) -> Self {
        Self(ip.octets_v6())
    }
}

/// `struct range`. Words are in network byte order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Range {
    network: [u32; 4],
    mask: [u32; 4],
}

impl Range {
    /// No destination is in it.
    pub const NONE: Self = Self {
        network: [0; 4],
        mask: [u32::MAX; 4],
    };
}

impl From<Option<Subnet>> for Range {
    fn from(subnet: Option<Subnet>) -> Self {
        let Some(subnet) = subnet else {
            return Self::NONE;
        };
        let bits = subnet.length() + if subnet.family() == Family::V4 { 96 } else { 0 };
        let mask = u128::MAX
            .checked_shl(128 - u32::from(bits))
            .unwrap_or_default();
        let words = |value: u128| {
            let mut words = [0; 4];
            for (word, octets) in words.iter_mut().zip(value.to_be_bytes().chunks_exact(4)) {
                *word = u32::from_ne_bytes([octets[0], octets[1], octets[2], octets[3]]);
            }
            words
        };
        Self {
            network: words(subnet.network().to_bits()),
            mask: words(mask),
        }
    }
}

/// `struct settings`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Settings {
    pub service_mac: [u8; 6],
    pub underlay_mac: [u8; 6],
    /// Network byte order.
    pub tunnel_port: u16,
    pub blocking: u16,
    pub service_v4: Range,
    pub service_v6: Range,
    pub source_rate: u32,
    pub source_burst: u32,
    pub source_length_v4: u32,
    pub source_length_v6: u32,
}

macro_rules! pod {
    ($($kind:ty)*) => {
        $(
            // SAFETY: it consists of integers without padding, so that any bytes are a value and all bytes are set.
            unsafe impl aya::Pod for $kind {}
        )*
    };
}
pod!(Address Range Settings);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::OBJECT;
    use object::{Object as _, ObjectSection as _};
    use sluice_wire::DropReason;
    use std::mem::{offset_of, size_of};

    #[test]
    fn c_and_rust_lay_the_shared_structs_out_alike() {
        let file = object::File::parse(OBJECT).unwrap();
        let section = file
            .section_by_name("abi")
            .expect("bpf/programs.c has abi_layout");
        let c: Vec<usize> = section
            .data()
            .unwrap()
            .chunks_exact(4)
            .map(|word| u32::from_ne_bytes(word.try_into().unwrap()) as usize)
            .collect();
        let rust = vec![
            size_of::<Address>(),
            size_of::<Range>(),
            size_of::<Settings>(),
            offset_of!(Settings, underlay_mac),
            offset_of!(Settings, tunnel_port),
            offset_of!(Settings, blocking),
            offset_of!(Settings, service_v4),
            offset_of!(Settings, service_v6),
            offset_of!(Settings, source_rate),
            offset_of!(Settings, source_burst),
            offset_of!(Settings, source_length_v4),
            offset_of!(Settings, source_length_v6),
            // `struct prefix` is the key type of aya, a packed length and address.
            size_of::<aya::maps::lpm_trie::Key<Address>>(),
            4,
            crate::bpf::TALLIES.len(),
            QUEUES_MAX as usize,
        ];
        assert_eq!(c, rust);
        assert!(crate::bpf::TALLIES.contains(&DropReason::MartianSource));
    }

    #[test]
    fn a_range_covers_its_subnet_in_the_programs_arithmetic() {
        let covers = |range: &Range, ip: &str| {
            let words: Vec<u32> = ip
                .parse::<Ip>()
                .unwrap()
                .octets_v6()
                .chunks_exact(4)
                .map(|octets| u32::from_ne_bytes(octets.try_into().unwrap()))
                .collect();
            (0..4).all(|at| words[at] & range.mask[at] == range.network[at])
        };
        for (subnet, inside, outside) in [
            ("10.30.0.0/16", "10.30.255.1", "10.31.0.1"),
            ("10.128.0.0/9", "10.200.0.1", "10.127.255.255"),
            ("fdff::/16", "fdff:ffff::1", "fdfe::1"),
            ("fdff::/57", "fdff:0:0:7f::1", "fdff:0:0:80::1"),
        ] {
            let range = Range::from(Some(subnet.parse().unwrap()));
            assert!(covers(&range, inside), "{subnet} {inside}");
            assert!(!covers(&range, outside), "{subnet} {outside}");
            assert!(!covers(&Range::NONE, inside), "{inside}");
        }
    }
}
