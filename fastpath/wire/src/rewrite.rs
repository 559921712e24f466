//! Changing addresses and ports in place, with every checksum over them (RFC 1624, RFC 3022 section 4.2).

use crate::addr::{Family, Ip};
use crate::checksum::{
    address_sum, delta, fold, read_u16, sum, udp_checksum, update, update_partial, write_u16,
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
    let ports = rewrite_ports(bytes, parsed, to);
    let mut change = if parsed.has_pseudo_header() {
        addresses
    } else {
        0
    };
    if complete {
        change += ports;
    }
    let Some(offset) = parsed.checksum_offset() else {
        return;
    };
    let Some(field) = read_u16(bytes, offset) else {
        return;
    };
    let updated = match (complete, parsed.protocol) {
        (false, _) => update_partial(field, change),
        (true, Protocol::Udp) if field == 0 => return,
        (true, Protocol::Udp) => udp_checksum(update(field, change)),
        (true, Protocol::Tcp | Protocol::Icmp | Protocol::Other(_)) => update(field, change),
    };
    write_u16(bytes, offset, updated);
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
    let mut change = 0;
    for (new, old, is_dst) in [(to.src, parsed.src, false), (to.dst, parsed.dst, true)] {
        let Some(new) = new.filter(|new| new.family() == parsed.family) else {
            continue;
        };
        change += delta(address_sum(old), address_sum(new));
        match parsed.family {
            Family::V4 => write_at(bytes, if is_dst { 16 } else { 12 }, new.octets_v4()),
            Family::V6 => write_at(bytes, if is_dst { 24 } else { 8 }, new.octets_v6()),
        }
    }
    if parsed.family == Family::V4
        && let Some(field) = read_u16(bytes, 10)
    {
        write_u16(bytes, 10, update(field, change));
    }
    u32::from(fold(change))
}

/// Writes ports, or the identifier of an echo; returns what that changed in a complete checksum.
#[inline]
fn rewrite_ports(bytes: &mut [u8], parsed: &Parsed, to: &Rewrite) -> u32 {
    let start = usize::from(parsed.l3_len);
    if let Some(identifier) = to.identifier(parsed.icmp) {
        write_u16(bytes, start + 4, identifier);
        return delta(u32::from(parsed.src_port), u32::from(identifier));
    }
    if !parsed.has_ports() {
        return 0;
    }
    let mut change = 0;
    for (new, old, offset) in [
        (to.src_port, parsed.src_port, start),
        (to.dst_port, parsed.dst_port, start + 2),
    ] {
        if let Some(new) = new {
            write_u16(bytes, offset, new);
            change += delta(u32::from(old), u32::from(new));
        }
    }
    change
}

#[inline]
fn write_at<const N: usize>(bytes: &mut [u8], offset: usize, value: [u8; N]) {
    if let Some(field) = bytes.get_mut(offset..).and_then(<[u8]>::first_chunk_mut) {
        *field = value;
    }
}
