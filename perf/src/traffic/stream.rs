//! What the frames of a generator are: who sends them to whom, how long they are, and how many flows they belong to.

use sluice_wire::checksum::{fold, pseudo_header_sum, sum};
use std::net::Ipv4Addr;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Bytes of the Ethernet, IPv4 and UDP headers.
pub const HEADERS: usize = 42;
/// Most flows of one stream: 32 thousand source ports with 512 destination ports.
pub const FLOWS_MAX: u32 = 1 << 24;

/// UDP datagrams over IPv4, all alike but for their ports.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stream {
    pub source_mac: Mac,
    pub destination_mac: Mac,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    /// Bytes of a frame without its FCS: [`HEADERS`]..=1514.
    pub bytes: u16,
    /// The number of the first flow.
    pub first: u32,
    /// Flows: a power of two, and at most [`FLOWS_MAX`] with those before the first.
    pub flows: u32,
}

impl Stream {
    /// Why there can be no such stream.
    #[must_use]
    pub fn wrong(&self) -> Option<String> {
        if !(HEADERS..=1514).contains(&usize::from(self.bytes)) {
            return Some(format!(
                "frames of {} bytes; {HEADERS} to 1514 are possible",
                self.bytes
            ));
        }
        let end = u64::from(self.first) + u64::from(self.flows);
        if !self.flows.is_power_of_two() || end > u64::from(FLOWS_MAX) {
            return Some(format!(
                "{} flows from number {}; a power of two is possible, up to number {FLOWS_MAX}",
                self.flows, self.first
            ));
        }
        None
    }

    /// A frame with ports and UDP checksum of zero; its payload is zeros, too.
    #[must_use]
    pub(super) fn frame(&self) -> Vec<u8> {
        let bytes = usize::from(self.bytes);
        let length = |from: usize| {
            u16::try_from(bytes - from)
                .unwrap_or(u16::MAX)
                .to_be_bytes()
        };
        let mut ip = [0; 20];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&length(14));
        // Not to be fragmented; 64 hops; UDP.
        ip[6] = 0x40;
        ip[8] = 64;
        ip[9] = 17;
        ip[12..16].copy_from_slice(&self.source.octets());
        ip[16..20].copy_from_slice(&self.destination.octets());
        let checksum = !fold(sum(&ip));
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        let mut frame = Vec::with_capacity(bytes);
        frame.extend(self.destination_mac);
        frame.extend(self.source_mac);
        frame.extend([8, 0]);
        frame.extend(ip);
        frame.extend([0; 4]);
        frame.extend(length(34));
        frame.resize(bytes, 0);
        frame
    }

    /// The sum of all that the UDP checksum covers but the ports (RFC 768), in the byte order of memory.
    #[must_use]
    pub(super) fn sum(&self) -> u32 {
        let length = u32::from(self.bytes) - 34;
        let pseudo = pseudo_header_sum(self.source.into(), self.destination.into(), 17, length);
        u32::from(fold(pseudo + length).to_be())
    }
}
