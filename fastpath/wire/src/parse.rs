//! Bytes to a [`Parsed`] packet: one bounded pass over the IP header, its options or extensions, and layer 4.
//!
//! No bytes make it panic. What is truncated or contradicts itself is `Malformed`; what is well formed but not
//! understood is [`Protocol::Other`] and left to the caller.

use crate::addr::{Family, Ip};
use crate::drop_reason::DropReason;
use crate::flow_key::{FlowKey, FragmentKey, Protocol};
use crate::rewrite::Rewrite;
use std::ops::Range;

/// TCP flag bits of [`Parsed::tcp_flags`] (RFC 9293 section 3.1).
pub mod tcp_flag {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
    pub const ECE: u8 = 0x40;
    pub const CWR: u8 = 0x80;
}

/// IPv6 extension headers followed in one packet. Real packets have at most three; the bound keeps a crafted chain cheap.
pub const EXTENSIONS_MAX: usize = 8;

/// Which part of a fragmented datagram a packet is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Fragment {
    /// Not fragmented. An IPv6 "atomic fragment" (offset 0, nothing follows; RFC 6946) is whole.
    Whole,
    /// The first fragment: it has the layer-4 header, and more follow.
    First { id: u32 },
    /// A later fragment: no layer-4 header. `offset` is in bytes from the start of the datagram's payload; `more`
    /// is unset on the last one.
    Later { id: u32, offset: u16, more: bool },
}

/// What an ICMP or ICMPv6 message is about.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum IcmpKind {
    EchoRequest,
    EchoReply,
    /// A message that quotes a packet: [`Parsed::quote_range`].
    Error(IcmpError),
    /// Everything else by its type: redirects, router and neighbour discovery, timestamps.
    Other(u8),
}

/// The errors that are translated, the same for both families.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum IcmpError {
    /// Destination unreachable, with the family's own code.
    Unreachable {
        code: u8,
    },
    /// Fragmentation needed (type 3 code 4; `mtu` 0 from routers older than RFC 1191), or ICMPv6 packet too big.
    TooBig {
        mtu: u32,
    },
    TimeExceeded {
        code: u8,
    },
    ParameterProblem {
        code: u8,
    },
}

/// A packet's headers as a plain value. Lengths and offsets are bytes, ports are in host order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Parsed {
    pub src: Ip,
    pub dst: Ip,
    /// The packet's own length, headers included; at most the buffer's, which may be longer (Ethernet padding).
    /// Up to 65,575: an IPv6 payload length does not count the header.
    pub total_len: u32,
    /// The IP header with IPv4 options or IPv6 extension headers: where layer 4 starts. A multiple of 4.
    pub l3_len: u16,
    /// The layer-4 header: TCP with options, UDP 8, ICMP 8; 0 for later fragments and other protocols. In a
    /// quote, never more than what was quoted.
    pub l4_len: u16,
    /// For ICMP echo both ports are the identifier; zero where there are none.
    pub src_port: u16,
    pub dst_port: u16,
    pub family: Family,
    pub protocol: Protocol,
    pub hop_limit: u8,
    /// Of TCP: [`tcp_flag`]; else 0.
    pub tcp_flags: u8,
    /// Must not be fragmented on the way: IPv4 with DF, and every IPv6 packet.
    pub dont_fragment: bool,
    pub fragment: Fragment,
    /// For ICMP that is not a later fragment.
    pub icmp: Option<IcmpKind>,
}

impl Parsed {
    #[must_use]
    pub const fn flow_key(&self) -> FlowKey {
        FlowKey {
            src: self.src,
            dst: self.dst,
            src_port: self.src_port,
            dst_port: self.dst_port,
            protocol: self.protocol.key(),
        }
    }

    /// What the fragments of this datagram share; `None` for a whole packet.
    #[must_use]
    pub const fn fragment_key(&self) -> Option<FragmentKey> {
        let id = match self.fragment {
            Fragment::Whole => return None,
            Fragment::First { id } | Fragment::Later { id, .. } => id,
        };
        Some(FragmentKey {
            src: self.src,
            dst: self.dst,
            id,
            protocol: match self.family {
                Family::V4 => self.protocol.number(Family::V4),
                Family::V6 => 0,
            },
        })
    }

    /// Layer-3 and layer-4 header bytes.
    #[must_use]
    pub const fn header_len(&self) -> usize {
        self.l3_len as usize + self.l4_len as usize
    }

    /// Bytes after the layer-4 header.
    #[must_use]
    pub const fn payload_len(&self) -> usize {
        (self.total_len as usize).saturating_sub(self.header_len())
    }

    /// Where the layer-4 checksum is, from the start of the packet; `None` without a layer-4 header.
    #[must_use]
    pub const fn checksum_offset(&self) -> Option<usize> {
        let in_l4 = match self.protocol {
            Protocol::Tcp => 16,
            Protocol::Udp => 6,
            Protocol::Icmp => 2,
            Protocol::Other(_) => return None,
        };
        if (self.l4_len as usize) < in_l4 + 2 {
            return None;
        }
        Some(self.l3_len as usize + in_l4)
    }

    /// Whether the layer-4 checksum covers a pseudo-header of the addresses: everything but ICMP over IPv4.
    #[must_use]
    pub const fn has_pseudo_header(&self) -> bool {
        !matches!((self.protocol, self.family), (Protocol::Icmp, Family::V4))
    }

    /// Where an ICMP error's quote is, from the start of the packet.
    #[must_use]
    pub const fn quote_range(&self) -> Option<Range<usize>> {
        match self.icmp {
            Some(IcmpKind::Error(_)) => Some(self.header_len()..self.total_len as usize),
            _ => None,
        }
    }

    /// These headers after [`crate::rewrite::rewrite`] with the same argument.
    #[must_use]
    pub fn rewritten(mut self, to: &Rewrite) -> Self {
        let ours = |ip: &Ip| ip.family() == self.family;
        self.src = to.src.filter(ours).unwrap_or(self.src);
        self.dst = to.dst.filter(ours).unwrap_or(self.dst);
        if let Some(identifier) = to.identifier(self.icmp) {
            (self.src_port, self.dst_port) = (identifier, identifier);
        } else if self.has_ports() {
            self.src_port = to.src_port.unwrap_or(self.src_port);
            self.dst_port = to.dst_port.unwrap_or(self.dst_port);
        }
        self
    }

    /// Whether this packet shows TCP or UDP ports.
    #[must_use]
    pub const fn has_ports(&self) -> bool {
        matches!(self.protocol, Protocol::Tcp | Protocol::Udp) && self.l4_len >= 4
    }
}

/// Parses a packet that must be there whole, up to the length its IP header states.
///
/// # Errors
/// `Empty` for no bytes, `NotIp` for another version, `Malformed` for truncated or contradictory headers, and
/// `ProtocolUnsupported` for an IPv6 source route still in use, whose checksum is over an address not yet there.
#[inline]
pub fn parse(bytes: &[u8]) -> Result<Parsed, DropReason> {
    read(bytes, false)
}

/// Parses the packet quoted in an ICMP error: its payload, and all but 8 bytes of its layer-4 header, may be missing.
/// Offsets are from the start of the quote, and `total_len` is what is there of it.
///
/// # Errors
/// As [`parse`].
pub fn parse_quote(bytes: &[u8]) -> Result<Parsed, DropReason> {
    read(bytes, true)
}

/// Parses the packet quoted in the ICMP error `bytes`.
///
/// # Errors
/// As [`parse`]; `Malformed` also when `parsed` is no ICMP error or not of these bytes.
pub fn quoted(bytes: &[u8], parsed: &Parsed) -> Result<Parsed, DropReason> {
    let quote = parsed.quote_range().and_then(|range| bytes.get(range));
    parse_quote(quote.ok_or(DropReason::Malformed)?)
}

#[inline]
fn read(bytes: &[u8], quote: bool) -> Result<Parsed, DropReason> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => read_ipv4(bytes, quote),
        Some(6) => read_ipv6(bytes, quote),
        Some(_) => Err(DropReason::NotIp),
        None => Err(DropReason::Empty),
    }
}

#[inline]
fn read_ipv4(bytes: &[u8], quote: bool) -> Result<Parsed, DropReason> {
    let Some(header) = bytes.first_chunk::<20>() else {
        return Err(DropReason::Malformed);
    };
    let l3_len = u16::from(header[0] & 0xf) * 4;
    let stated_len = be16([header[2], header[3]]);
    if l3_len < 20 || stated_len < l3_len || (!quote && usize::from(stated_len) > bytes.len()) {
        return Err(DropReason::Malformed);
    }
    let packet = bytes.get(..usize::from(stated_len)).unwrap_or(bytes);
    let Some(l4_bytes) = packet.get(usize::from(l3_len)..) else {
        return Err(DropReason::Malformed);
    };
    let flags_offset = be16([header[6], header[7]]);
    let fragment = if flags_offset & 0x3fff == 0 {
        Fragment::Whole
    } else {
        let id = u32::from(be16([header[4], header[5]]));
        match (flags_offset << 3, flags_offset & 0x2000 != 0) {
            (0, _) => Fragment::First { id },
            (offset, more) => Fragment::Later { id, offset, more },
        }
    };
    let protocol = Protocol::from_number(header[9], Family::V4);
    let l4 = read_layer4(protocol, Family::V4, fragment, l4_bytes, quote)?;
    Ok(Parsed {
        src: Ip::v4([header[12], header[13], header[14], header[15]]),
        dst: Ip::v4([header[16], header[17], header[18], header[19]]),
        total_len: len32(packet),
        l3_len,
        l4_len: l4.len,
        src_port: l4.src_port,
        dst_port: l4.dst_port,
        family: Family::V4,
        protocol,
        hop_limit: header[8],
        tcp_flags: l4.tcp_flags,
        dont_fragment: flags_offset & 0x4000 != 0,
        fragment,
        icmp: l4.icmp,
    })
}

#[inline]
fn read_ipv6(bytes: &[u8], quote: bool) -> Result<Parsed, DropReason> {
    let Some((header, rest)) = bytes.split_first_chunk::<40>() else {
        return Err(DropReason::Malformed);
    };
    let stated_len = usize::from(be16([header[4], header[5]]));
    if !quote && stated_len > rest.len() {
        return Err(DropReason::Malformed);
    }
    let payload = rest.get(..stated_len).unwrap_or(rest);
    let (_, addresses) = header.split_at(8);
    let (Some(src), Some(dst)) = (addresses.first_chunk(), addresses.last_chunk()) else {
        return Err(DropReason::Malformed);
    };
    let (src, dst) = (Ip::v6(*src), Ip::v6(*dst));
    // RFC 4942 section 2.2: mapped addresses never travel; here one would pass for an address of the other family.
    if src.is_v4() || dst.is_v4() {
        return Err(DropReason::Malformed);
    }
    let (number, l4_bytes, fragment) = if is_extension(header[6]) {
        skip_extensions(header[6], payload)?
    } else {
        (header[6], payload, Fragment::Whole)
    };
    // At most EXTENSIONS_MAX extensions of at most 2,048 bytes each, so it fits.
    let Ok(l3_len) = u16::try_from(40 + payload.len() - l4_bytes.len()) else {
        return Err(DropReason::Malformed);
    };
    let protocol = Protocol::from_number(number, Family::V6);
    let l4 = read_layer4(protocol, Family::V6, fragment, l4_bytes, quote)?;
    Ok(Parsed {
        src,
        dst,
        total_len: 40 + len32(payload),
        l3_len,
        l4_len: l4.len,
        src_port: l4.src_port,
        dst_port: l4.dst_port,
        family: Family::V6,
        protocol,
        hop_limit: header[7],
        tcp_flags: l4.tcp_flags,
        dont_fragment: true,
        fragment,
        icmp: l4.icmp,
    })
}

/// Hop-by-hop (0), routing (43), fragment (44), authentication (51) and destination options (60) headers
/// (RFC 8200 section 4).
#[inline]
const fn is_extension(number: u8) -> bool {
    matches!(number, 0 | 43 | 44 | 51 | 60)
}

/// Follows extension headers. Returns the number that ends the chain, the bytes after it, and which fragment this is.
#[cold]
fn skip_extensions(mut number: u8, mut rest: &[u8]) -> Result<(u8, &[u8], Fragment), DropReason> {
    let mut fragment = Fragment::Whole;
    for _ in 0..=EXTENSIONS_MAX {
        if !is_extension(number) || matches!(fragment, Fragment::Later { .. }) {
            return Ok((number, rest, fragment));
        }
        let Some(&[next, len, b2, b3, b4, b5, b6, b7]) = rest.first_chunk::<8>() else {
            return Err(DropReason::Malformed);
        };
        let extension_len = match number {
            44 => {
                let offset_more = be16([b2, b3]);
                let id = u32::from_be_bytes([b4, b5, b6, b7]);
                fragment = match (offset_more & !7, offset_more & 1 != 0) {
                    (0, false) => fragment,
                    (0, true) => Fragment::First { id },
                    (offset, more) => Fragment::Later { id, offset, more },
                };
                8
            }
            // RFC 4302 section 2.2: in 4-byte units, minus 2.
            51 => (usize::from(len) + 2) * 4,
            // A routing header with segments left: the pseudo-header's destination is not the header's.
            43 if b3 != 0 => return Err(DropReason::ProtocolUnsupported),
            _ => (usize::from(len) + 1) * 8,
        };
        let Some(after) = rest.get(extension_len..) else {
            return Err(DropReason::Malformed);
        };
        (number, rest) = (next, after);
    }
    Err(DropReason::Malformed)
}

/// What [`Parsed`] takes from the layer-4 header.
#[derive(Default)]
struct Layer4 {
    len: u16,
    src_port: u16,
    dst_port: u16,
    tcp_flags: u8,
    icmp: Option<IcmpKind>,
}

#[inline]
fn read_layer4(
    protocol: Protocol,
    family: Family,
    fragment: Fragment,
    bytes: &[u8],
    quote: bool,
) -> Result<Layer4, DropReason> {
    if matches!(fragment, Fragment::Later { .. }) || matches!(protocol, Protocol::Other(_)) {
        return Ok(Layer4::default());
    }
    // RFC 792 and RFC 4443 promise 8 bytes in a quote; every header here has at least as many.
    let Some(&[b0, b1, b2, b3, b4, b5, b6, b7]) = bytes.first_chunk::<8>() else {
        return Err(DropReason::Malformed);
    };
    let mut l4 = Layer4 {
        len: 8,
        src_port: be16([b0, b1]),
        dst_port: be16([b2, b3]),
        tcp_flags: 0,
        icmp: None,
    };
    match protocol {
        Protocol::Tcp => {
            if let Some(header) = bytes.first_chunk::<20>() {
                l4.tcp_flags = header[13];
                l4.len = u16::from(header[12] >> 4) * 4;
                if l4.len < 20 || (!quote && usize::from(l4.len) > bytes.len()) {
                    return Err(DropReason::Malformed);
                }
                if usize::from(l4.len) > bytes.len() {
                    l4.len = 20;
                }
            } else if !quote {
                return Err(DropReason::Malformed);
            }
        }
        Protocol::Udp => {
            let stated_len = usize::from(be16([b4, b5]));
            let whole = !quote && matches!(fragment, Fragment::Whole);
            if stated_len < 8 || (whole && stated_len > bytes.len()) {
                return Err(DropReason::Malformed);
            }
        }
        Protocol::Icmp => {
            let kind = icmp_kind(family, b0, b1, [b4, b5, b6, b7]);
            let identifier = match kind {
                IcmpKind::EchoRequest | IcmpKind::EchoReply => be16([b4, b5]),
                IcmpKind::Error(_) | IcmpKind::Other(_) => 0,
            };
            (l4.src_port, l4.dst_port) = (identifier, identifier);
            l4.icmp = Some(kind);
        }
        Protocol::Other(_) => {}
    }
    Ok(l4)
}

/// RFC 792 and RFC 4443; `rest` is the second word of the header.
const fn icmp_kind(family: Family, number: u8, code: u8, rest: [u8; 4]) -> IcmpKind {
    use IcmpError::{ParameterProblem, TimeExceeded, TooBig, Unreachable};
    match (family, number, code) {
        (Family::V4, 8, _) | (Family::V6, 128, _) => IcmpKind::EchoRequest,
        (Family::V4, 0, _) | (Family::V6, 129, _) => IcmpKind::EchoReply,
        (Family::V4, 3, 4) => IcmpKind::Error(TooBig {
            // RFC 1191 section 4: the next hop's MTU is the low half.
            mtu: u32::from_be_bytes([0, 0, rest[2], rest[3]]),
        }),
        (Family::V6, 2, _) => IcmpKind::Error(TooBig {
            mtu: u32::from_be_bytes(rest),
        }),
        (Family::V4, 3, _) | (Family::V6, 1, _) => IcmpKind::Error(Unreachable { code }),
        (Family::V4, 11, _) | (Family::V6, 3, _) => IcmpKind::Error(TimeExceeded { code }),
        (Family::V4, 12, _) | (Family::V6, 4, _) => IcmpKind::Error(ParameterProblem { code }),
        _ => IcmpKind::Other(number),
    }
}

const fn be16(bytes: [u8; 2]) -> u16 {
    u16::from_be_bytes(bytes)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "called with slices already cut to a 16-bit length"
)]
const fn len32(bytes: &[u8]) -> u32 {
    bytes.len() as u32
}
