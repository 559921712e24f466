//! Changing addresses and ports in place, with every checksum over them (RFC 1624, RFC 3022 section 4.2).

use crate::addr::{Family, Ip};
use crate::checksum::{
    delta, fold64, read_u16, sum, udp_checksum, update, update_partial, word_delta, write_u16,
};
use crate::flow_key::Protocol;
use crate::parse::{IcmpKind, Parsed};

/// What to change; `None` stays. Addresses are of the packet's family. For ICMP echo a port is the identifier.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Rewrite {
    pub src: Option<Ip>,
    pub dst: Option<Ip>,
    pub src_port: Option<u16>,
    pub dst_port: Option<u16>,
}

impl Rewrite {
    /// The same for the packet that goes the other way: source and destination exchanged.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
        }
    }

    /// The identifier that an echo message gets: a request is known by its source port, a reply by its destination
    /// port; the other one serves when that one stays.
    pub(crate) const fn identifier(&self, icmp: Option<IcmpKind>) -> Option<u16> {
        let (first, second) = match icmp {
            Some(IcmpKind::EchoRequest) => (self.src_port, self.dst_port),
            Some(IcmpKind::EchoReply) => (self.dst_port, self.src_port),
            Some(IcmpKind::Error(_) | IcmpKind::Other(_)) | None => return None,
        };
        match first {
            Some(identifier) => Some(identifier),
            None => second,
        }
    }
}

/// Rewrites the packet `bytes`, which `parsed` describes, and updates the IPv4 header checksum and the layer-4
/// checksum by what changed: a packet that was damaged before stays recognisably damaged.
///
/// `complete` says what the layer-4 checksum field holds: a complete checksum, or a partial one (the folded, not
/// complemented pseudo-header sum), in which only addresses count. A later fragment has its addresses changed and
/// nothing else. A zero UDP checksum stays zero. An address of the other family is left out. `parsed` still
/// describes the packet as it was; [`Parsed::rewritten`] gives the new description.
#[inline]
pub fn rewrite(bytes: &mut [u8], parsed: &Parsed, complete: bool, to: &Rewrite) {
    let addresses = rewrite_addresses(bytes, parsed, to);
    let Some(l4) = bytes.get_mut(usize::from(parsed.l3_len)..) else {
        return;
    };
    match parsed.protocol {
        _ if parsed.l4_len == 0 => {}
        Protocol::Tcp => {
            let change = rewrite_ports(l4, parsed, complete, to) + addresses;
            update_field::<16>(l4, complete, change, false);
        }
        Protocol::Udp => {
            let change = rewrite_ports(l4, parsed, complete, to) + addresses;
            update_field::<6>(l4, complete, change, true);
        }
        Protocol::Icmp => {
            let mut change = if parsed.has_pseudo_header() {
                addresses
            } else {
                0
            };
            if let Some(identifier) = to.identifier(parsed.icmp) {
                write_u16(l4, 4, identifier);
                if complete {
                    change += word_delta(parsed.src_port, identifier);
                }
            }
            update_field::<2>(l4, complete, change, false);
        }
        Protocol::Other(_) => {}
    }
}

/// Rewrites the packet quoted in the ICMP error `bytes`, its checksums as far as they are quoted, and the ICMP
/// checksum over it when that is `complete`. `quote` is what [`crate::parse::quoted`] gave. The outer packet's own
/// addresses are [`rewrite`]'s part.
pub fn rewrite_quote(
    bytes: &mut [u8],
    parsed: &Parsed,
    quote: &Parsed,
    complete: bool,
    to: &Rewrite,
) {
    let Some(range) = parsed.quote_range() else {
        return;
    };
    let Some(quoted) = bytes.get_mut(range) else {
        return;
    };
    // Only the quoted headers change; they start and end at even offsets under the ICMP checksum.
    let Some(headers) = quoted.get_mut(..quote.header_len()) else {
        return;
    };
    let before = sum(headers);
    rewrite(headers, quote, true, to);
    let change = delta(before, sum(headers));
    if complete
        && let Some(offset) = parsed.checksum_offset()
        && let Some(field) = read_u16(bytes, offset)
    {
        write_u16(bytes, offset, update(field, change));
    }
}

/// Writes the addresses and the IPv4 header checksum; returns what that changed in a pseudo-header sum.
#[inline]
fn rewrite_addresses(bytes: &mut [u8], parsed: &Parsed, to: &Rewrite) -> u32 {
    let src = to.src.filter(|ip| ip.family() == parsed.family);
    let dst = to.dst.filter(|ip| ip.family() == parsed.family);
    let mut change = 0;
    match parsed.family {
        Family::V4 => {
            let Some(header) = bytes.first_chunk_mut::<20>() else {
                return 0;
            };
            if let Some(src) = src {
                header[12..16].copy_from_slice(&src.octets_v4());
                change += address_change_v4(parsed.src, src);
            }
            if let Some(dst) = dst {
                header[16..20].copy_from_slice(&dst.octets_v4());
                change += address_change_v4(parsed.dst, dst);
            }
            let change = u32::from(fold64(change));
            let field = u16::from_be_bytes([header[10], header[11]]);
            [header[10], header[11]] = update(field, change).to_be_bytes();
            change
        }
        Family::V6 => {
            let Some(header) = bytes.first_chunk_mut::<40>() else {
                return 0;
            };
            if let Some(src) = src {
                header[8..24].copy_from_slice(&src.octets_v6());
                change += address_change_v6(parsed.src, src);
            }
            if let Some(dst) = dst {
                header[24..40].copy_from_slice(&dst.octets_v6());
                change += address_change_v6(parsed.dst, dst);
            }
            u32::from(fold64(change))
        }
    }
}

/// The change of a sum by an address, unfolded: complement of the old words plus the new ones, 32 bits at a time.
#[inline]
fn address_change_v4(old: Ip, new: Ip) -> u64 {
    let (old, new) = (old.octets_v4(), new.octets_v4());
    u64::from(!u32::from_be_bytes(old)) + u64::from(u32::from_be_bytes(new))
}

/// As [`address_change_v4`].
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "addresses are cut into 32-bit words"
)]
fn address_change_v6(old: Ip, new: Ip) -> u64 {
    let words = |bits: u128| {
        let (high, low) = ((bits >> 64) as u64, bits as u64);
        (high >> 32) + (high & 0xffff_ffff) + (low >> 32) + (low & 0xffff_ffff)
    };
    words(!old.to_bits()) + words(new.to_bits())
}

/// Writes TCP or UDP ports; returns what that changed in the checksum.
#[inline]
fn rewrite_ports(l4: &mut [u8], parsed: &Parsed, complete: bool, to: &Rewrite) -> u32 {
    let Some(ports) = l4.first_chunk_mut::<4>() else {
        return 0;
    };
    let mut change = 0;
    if let Some(port) = to.src_port {
        [ports[0], ports[1]] = port.to_be_bytes();
        change += word_delta(parsed.src_port, port);
    }
    if let Some(port) = to.dst_port {
        [ports[2], ports[3]] = port.to_be_bytes();
        change += word_delta(parsed.dst_port, port);
    }
    if complete { change } else { 0 }
}

/// Updates the checksum field at `OFFSET` of a layer-4 header; a quote may end before it.
#[inline]
fn update_field<const OFFSET: usize>(l4: &mut [u8], complete: bool, change: u32, is_udp: bool) {
    let Some(field) = l4.get_mut(OFFSET..).and_then(<[u8]>::first_chunk_mut::<2>) else {
        return;
    };
    let old = u16::from_be_bytes(*field);
    let new = if !complete {
        update_partial(old, change)
    } else if is_udp && old == 0 {
        0
    } else if is_udp {
        udp_checksum(update(old, change))
    } else {
        update(old, change)
    };
    *field = new.to_be_bytes();
}
