//! A glance at what nearly every packet is: TCP or UDP, whole, without IP options or extension headers.
//!
//! Says the same as [`parse()`](crate::parse()) and [`rewrite()`](crate::rewrite()) do of such packets, in the form in which a
//! flow table compares and with one check of bounds per header. Of all others it says nothing.

use crate::addr::Family;
use crate::checksum::{fold64, udp_checksum, update, update_partial};
use crate::flow_key::{Address, FlowKey};

/// Protocol numbers of TCP and UDP, in both families.
const TCP: u8 = 6;
const UDP: u8 = 17;
/// The low half of an IPv6 address that stands for an IPv4 one begins so.
const MAPPED: u64 = 0xffff;
/// The addresses of a key are its first words; the last one is family, protocol and ports.
const REST: usize = 4;

/// What a glance tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Glance {
    /// The packet's [`FlowKey::words`](crate::FlowKey::words).
    pub key: [u64; 5],
    pub family: Family,
    /// Of TCP: [`tcp_flag`](crate::tcp_flag); else 0.
    pub tcp_flags: u8,
    protocol: u8,
}

/// Glances at a packet. `None` means that it must be parsed: it is of another kind, not well formed, or its hop limit is
/// used up.
#[inline(always)]
#[must_use]
pub fn glance(bytes: &[u8]) -> Option<Glance> {
    match glance_family(bytes)? {
        Family::V4 => glance_ipv4(bytes),
        Family::V6 => glance_ipv6(bytes),
    }
}

/// The family of a packet that [`glance`] may have something to say about.
#[inline(always)]
#[must_use]
pub fn glance_family(bytes: &[u8]) -> Option<Family> {
    match bytes.first()? {
        0x45 => Some(Family::V4),
        0x60..=0x6f => Some(Family::V6),
        _ => None,
    }
}

/// [`glance`] at a packet that [`glance_family`] says is of the family of `A`: for code that is compiled once per family.
#[inline(always)]
#[must_use]
pub fn glance_at<A: Address>(bytes: &[u8]) -> Option<Glance> {
    match A::FAMILY {
        Family::V4 => glance_ipv4(bytes),
        Family::V6 => glance_ipv6(bytes),
    }
}

#[inline(always)]
fn glance_ipv4(bytes: &[u8]) -> Option<Glance> {
    // Both layer-4 headers have at least 8 bytes.
    let start = bytes.first_chunk::<28>()?;
    let stated_len = usize::from(be16(start, 2));
    let is_fragment = be16(start, 6) & 0x3fff != 0;
    let (hop_limit, protocol) = (start[8], start[9]);
    if stated_len > bytes.len() || is_fragment || hop_limit == 0 {
        return None;
    }
    let tcp_flags = layer4(bytes, 20, stated_len, protocol)?;
    Some(Glance {
        key: [
            be64(start, 12),
            0,
            0,
            0,
            FlowKey::V4 | u64::from(protocol) << 32 | u64::from(be32(start, 20)),
        ],
        family: Family::V4,
        tcp_flags,
        protocol,
    })
}

#[inline(always)]
fn glance_ipv6(bytes: &[u8]) -> Option<Glance> {
    let start = bytes.first_chunk::<48>()?;
    let stated_len = usize::from(be16(start, 4));
    let (protocol, hop_limit) = (start[6], start[7]);
    if stated_len > bytes.len() - 40 || hop_limit == 0 {
        return None;
    }
    let key = [
        be64(start, 8),
        be64(start, 16),
        be64(start, 24),
        be64(start, 32),
        u64::from(protocol) << 32 | u64::from(be32(start, 40)),
    ];
    let is_mapped = |high: u64, low: u64| high == 0 && low >> 32 == MAPPED;
    if is_mapped(key[0], key[1]) || is_mapped(key[2], key[3]) {
        return None;
    }
    let tcp_flags = layer4(bytes, 40, 40 + stated_len, protocol)?;
    Some(Glance {
        key,
        family: Family::V6,
        tcp_flags,
        protocol,
    })
}

/// The TCP flags, or 0 for UDP, when the bytes from `at` to `end` of the packet begin with a header that fits them.
#[inline(always)]
fn layer4(bytes: &[u8], at: usize, end: usize, protocol: u8) -> Option<u8> {
    match protocol {
        UDP => {
            let stated_len = usize::from(be16(bytes.get(at..)?.first_chunk::<8>()?, 4));
            (stated_len >= 8 && at + stated_len <= end).then_some(0)
        }
        TCP => {
            let header = bytes.get(at..)?.first_chunk::<20>()?;
            let header_len = usize::from(header[12] >> 4) * 4;
            (header_len >= 20 && at + header_len <= end).then_some(header[13])
        }
        _ => None,
    }
}

impl Glance {
    /// As [`verify_ipv4_header`](crate::checksum::verify_ipv4_header) of the same bytes.
    #[inline(always)]
    #[must_use]
    pub fn verifies_ipv4_header(&self, bytes: &[u8]) -> bool {
        self.family == Family::V6
            || bytes.first_chunk::<20>().is_some_and(|header| {
                let (words, _) = header.as_chunks::<4>();
                // The order of bytes does not matter to a sum that is all ones.
                let sum: u64 = words
                    .iter()
                    .map(|word| u64::from(u32::from_ne_bytes(*word)))
                    .sum();
                fold64(sum) == 0xffff
            })
    }

    /// Makes the packet `bytes`, of which this is the glance, one of key `to`: addresses and ports, and every checksum over
    /// them, as [`rewrite`](crate::rewrite()) does. `complete` as there. Family, which is that of `A`, and protocol stay.
    #[inline(always)]
    pub fn rewrite<A: Address>(&self, bytes: &mut [u8], complete: bool, to: &[u64; 5]) {
        // One check of bounds for all that is written: up to the layer-4 checksum.
        match (A::FAMILY, self.protocol) {
            (Family::V4, UDP) => bytes
                .first_chunk_mut()
                .map(|start| self.rewrite_ipv4::<28>(start, complete, to)),
            (Family::V4, _) => bytes
                .first_chunk_mut()
                .map(|start| self.rewrite_ipv4::<40>(start, complete, to)),
            (Family::V6, UDP) => bytes
                .first_chunk_mut()
                .map(|start| self.rewrite_ipv6::<48>(start, complete, to)),
            (Family::V6, _) => bytes
                .first_chunk_mut()
                .map(|start| self.rewrite_ipv6::<60>(start, complete, to)),
        };
    }

    /// `N` is the length of both headers, and so tells TCP from UDP.
    #[inline(always)]
    fn rewrite_ipv4<const N: usize>(&self, start: &mut [u8; N], complete: bool, to: &[u64; 5]) {
        start[12..20].copy_from_slice(&to[0].to_be_bytes());
        let change = u32::from(fold64(change(self.key[0], to[0])));
        let field = update(be16(start, 10), change);
        start[10..12].copy_from_slice(&field.to_be_bytes());
        self.rewrite_layer4::<N, 20>(start, complete, to[REST], change);
    }

    #[inline(always)]
    fn rewrite_ipv6<const N: usize>(&self, start: &mut [u8; N], complete: bool, to: &[u64; 5]) {
        let changed = |at: usize| change(self.key[at], to[at]);
        start[8..16].copy_from_slice(&to[0].to_be_bytes());
        start[16..24].copy_from_slice(&to[1].to_be_bytes());
        start[24..32].copy_from_slice(&to[2].to_be_bytes());
        start[32..40].copy_from_slice(&to[3].to_be_bytes());
        let change = changed(0) + changed(1) + changed(2) + changed(3);
        self.rewrite_layer4::<N, 40>(start, complete, to[REST], u32::from(fold64(change)));
    }

    /// Ports and checksum, over which the pseudo-header changed by `change`. `rest` is the last word of the new key, of which
    /// the ports count.
    #[inline(always)]
    fn rewrite_layer4<const N: usize, const AT: usize>(
        &self,
        start: &mut [u8; N],
        complete: bool,
        rest: u64,
        mut change: u32,
    ) {
        let (from, to) = (low(self.key[REST]), low(rest));
        if to != from {
            start[AT..AT + 4].copy_from_slice(&to.to_be_bytes());
            if complete {
                change += u32::from(fold64(u64::from(!from) + u64::from(to)));
            }
        }
        let is_udp = N == AT + 8;
        let field_at = AT + if is_udp { 6 } else { 16 };
        let old = be16(start, field_at);
        let new = match (complete, is_udp) {
            (false, _) => update_partial(old, change),
            // RFC 768: zero means that there is none.
            (true, true) if old == 0 => 0,
            (true, true) => udp_checksum(update(old, change)),
            (true, false) => update(old, change),
        };
        start[field_at..field_at + 2].copy_from_slice(&new.to_be_bytes());
    }
}

/// What replacing a word changes in a sum, not folded.
#[inline(always)]
fn change(from: u64, to: u64) -> u64 {
    (!from >> 32) + u64::from(low(!from)) + (to >> 32) + u64::from(low(to))
}

#[inline(always)]
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline(always)]
fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from(be16(bytes, at)) << 16 | u32::from(be16(bytes, at + 2))
}

#[inline(always)]
fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low half")]
const fn low(word: u64) -> u32 {
    word as u32
}
