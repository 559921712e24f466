//! Answers to packets that cannot go on: ICMP errors of both families (RFC 1812 section 4.3, RFC 4443) and TCP resets.
//!
//! Nothing is answered that must not be: ICMP errors (and any ICMP but echo), fragments other than the first,
//! packets to a group or broadcast address, and packets whose source is not one host.

use crate::addr::{Family, Ip};
use crate::checksum;
use crate::flow_key::Protocol;
use crate::parse::{Fragment, IcmpKind, Parsed, parse_quote, tcp_flag};

/// The longest ICMP error over IPv4: what every host can take (RFC 1812 section 4.3.2.3).
pub const ERROR_LEN_MAX_V4: usize = 576;
/// The longest ICMPv6 error: the minimum MTU (RFC 4443 section 2.4).
pub const ERROR_LEN_MAX_V6: usize = 1280;
/// The length of a reset: an IPv6 and a TCP header.
pub const RESET_LEN_MAX: usize = 60;

/// Hop limit of what the gateway itself sends.
const HOP_LIMIT: u8 = 64;

/// Why a destination cannot be reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unreachable {
    /// No route to the network.
    Network,
    /// The host, or address, does not answer.
    Host,
    /// Nothing listens at the port.
    Port,
    /// A policy forbids it.
    Prohibited,
}

/// Writes a "destination unreachable" from `from` to `to` about the packet `quote` into `out`. Returns its length, or
/// `None` when there must be no answer (see the module), when an address is of another family than the packet, or
/// when `out` has no room for the headers. [`ERROR_LEN_MAX_V6`] bytes are always enough; with less, less is quoted.
#[must_use]
pub fn unreachable(
    quote: &[u8],
    from: Ip,
    to: Ip,
    reason: Unreachable,
    out: &mut [u8],
) -> Option<usize> {
    // RFC 792, RFC 1812 section 5.2.7.1; RFC 4443 section 3.1.
    let (code_v4, code_v6) = match reason {
        Unreachable::Network => (0, 0),
        Unreachable::Host => (1, 3),
        Unreachable::Port => (3, 4),
        Unreachable::Prohibited => (13, 1),
    };
    emit(quote, from, to, [3, code_v4], [1, code_v6], 0, out)
}

/// Writes a "fragmentation needed" or "packet too big" with the next hop's `mtu`; otherwise as [`unreachable()`].
#[must_use]
pub fn too_big(quote: &[u8], from: Ip, to: Ip, mtu: u16, out: &mut [u8]) -> Option<usize> {
    emit(quote, from, to, [3, 4], [2, 0], u32::from(mtu), out)
}

/// Writes a "time exceeded in transit"; otherwise as [`unreachable()`].
#[must_use]
pub fn time_exceeded(quote: &[u8], from: Ip, to: Ip, out: &mut [u8]) -> Option<usize> {
    emit(quote, from, to, [11, 0], [3, 0], 0, out)
}

/// Whether a packet may be answered with an ICMP error.
#[must_use]
pub fn may_answer(parsed: &Parsed) -> bool {
    let talkative = match parsed.icmp {
        None => parsed.protocol != Protocol::Icmp,
        Some(IcmpKind::EchoRequest | IcmpKind::EchoReply) => true,
        Some(IcmpKind::Error(_) | IcmpKind::Other(_)) => false,
    };
    talkative
        && !matches!(parsed.fragment, Fragment::Later { .. })
        && is_one_host(parsed.src)
        && !is_group(parsed.dst)
}

/// Multicast, and over IPv4 class E with the broadcast address (RFC 1112, RFC 4291 section 2.7).
const fn is_group(ip: Ip) -> bool {
    match ip.family() {
        Family::V4 => ip.octets_v4()[0] >= 224,
        Family::V6 => ip.octets_v6()[0] == 0xff,
    }
}

/// RFC 1812 section 4.3.2.7: not "this network", loopback or a group.
const fn is_one_host(ip: Ip) -> bool {
    match ip.family() {
        Family::V4 => !matches!(ip.octets_v4()[0], 0 | 127) && !is_group(ip),
        Family::V6 => ip.to_bits() > 1 && !is_group(ip),
    }
}

fn emit(
    quote: &[u8],
    from: Ip,
    to: Ip,
    kind_v4: [u8; 2],
    kind_v6: [u8; 2],
    rest: u32,
    out: &mut [u8],
) -> Option<usize> {
    let about = parse_quote(quote).ok()?;
    if !may_answer(&about) {
        return None;
    }
    let (len_max, kind) = match about.family {
        Family::V4 => (ERROR_LEN_MAX_V4, kind_v4),
        Family::V6 => (ERROR_LEN_MAX_V6, kind_v6),
    };
    let l3_len = ip_header_len(about.family);
    let quote = quote.get(..about.total_len as usize)?;
    let room = len_max.min(out.len()).checked_sub(l3_len + 8)?;
    // Without the quoted ports nobody can tell whom it concerns.
    if room < usize::from(about.l3_len) + 8 {
        return None;
    }
    let quote = quote.get(..room).unwrap_or(quote);
    let total_len = l3_len + 8 + quote.len();
    let out = out.get_mut(..total_len)?;
    emit_ip(out, from, to, Protocol::Icmp, about.family)?;
    let (_, message) = out.split_at_mut_checked(l3_len)?;
    let (header, body) = message.split_first_chunk_mut::<8>()?;
    let [r0, r1, r2, r3] = rest.to_be_bytes();
    *header = [kind[0], kind[1], 0, 0, r0, r1, r2, r3];
    body.copy_from_slice(quote);
    finish(out)
}

/// Writes the reset that answers a TCP segment for which there is no connection (RFC 9293 section 3.10.7.1), from the
/// segment's destination to its source. `None` when the segment is itself a reset, is not TCP, is a fragment, or may
/// not be answered at all; or when `out` is shorter than [`RESET_LEN_MAX`].
#[must_use]
pub fn tcp_reset(bytes: &[u8], parsed: &Parsed, out: &mut [u8]) -> Option<usize> {
    if parsed.protocol != Protocol::Tcp
        || parsed.tcp_flags & tcp_flag::RST != 0
        || parsed.fragment != Fragment::Whole
        || !may_answer(parsed)
    {
        return None;
    }
    let header = bytes.get(usize::from(parsed.l3_len)..)?;
    let &[_, _, _, _, s0, s1, s2, s3, a0, a1, a2, a3] = header.first_chunk::<12>()?;
    let has = |flag| u32::from(parsed.tcp_flags & flag != 0);
    let (sequence, acknowledgment, flags) = if parsed.tcp_flags & tcp_flag::ACK != 0 {
        ([a0, a1, a2, a3], [0; 4], tcp_flag::RST)
    } else {
        let payload_len = u32::try_from(parsed.payload_len()).ok()?;
        let segment_len = payload_len + has(tcp_flag::SYN) + has(tcp_flag::FIN);
        let next = u32::from_be_bytes([s0, s1, s2, s3]).wrapping_add(segment_len);
        ([0; 4], next.to_be_bytes(), tcp_flag::RST | tcp_flag::ACK)
    };
    let l3_len = ip_header_len(parsed.family);
    let out = out.get_mut(..l3_len + 20)?;
    emit_ip(out, parsed.dst, parsed.src, Protocol::Tcp, parsed.family)?;
    let tcp = out.get_mut(l3_len..)?.first_chunk_mut::<20>()?;
    let [p0, p1] = parsed.dst_port.to_be_bytes();
    let [p2, p3] = parsed.src_port.to_be_bytes();
    let [s0, s1, s2, s3] = sequence;
    let [a0, a1, a2, a3] = acknowledgment;
    *tcp = [
        p0, p1, p2, p3, s0, s1, s2, s3, a0, a1, a2, a3, 0x50, flags, 0, 0, 0, 0, 0, 0,
    ];
    finish(out)
}

pub(crate) const fn ip_header_len(family: Family) -> usize {
    match family {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

/// Writes an IP header for all of `out`, without the IPv4 checksum.
pub(crate) fn emit_ip(
    out: &mut [u8],
    from: Ip,
    to: Ip,
    protocol: Protocol,
    family: Family,
) -> Option<()> {
    if from.family() != family || to.family() != family {
        return None;
    }
    let number = protocol.number(family);
    let total_len = u16::try_from(out.len()).ok()?;
    match family {
        Family::V4 => {
            let header = out.first_chunk_mut::<20>()?;
            let [l0, l1] = total_len.to_be_bytes();
            let [s0, s1, s2, s3] = from.octets_v4();
            let [d0, d1, d2, d3] = to.octets_v4();
            // DF makes it an atomic datagram, whose identification means nothing (RFC 6864).
            *header = [
                0x45, 0, l0, l1, 0, 0, 0x40, 0, HOP_LIMIT, number, 0, 0, s0, s1, s2, s3, d0, d1,
                d2, d3,
            ];
        }
        Family::V6 => {
            let (header, _) = out.split_first_chunk_mut::<40>()?;
            let [l0, l1] = (total_len - 40).to_be_bytes();
            header[..8].copy_from_slice(&[0x60, 0, 0, 0, l0, l1, number, HOP_LIMIT]);
            header[8..24].copy_from_slice(&from.octets_v6());
            header[24..].copy_from_slice(&to.octets_v6());
        }
    }
    Some(())
}

/// Writes the checksums and returns the length.
pub(crate) fn finish(out: &mut [u8]) -> Option<usize> {
    let parsed = crate::parse::parse(out).ok()?;
    checksum::complete_ipv4_header(out, &parsed);
    checksum::complete_l4(out, &parsed);
    Some(out.len())
}
