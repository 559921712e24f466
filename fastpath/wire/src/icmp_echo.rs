//! ICMP echo of the gateways themselves (RFC 792, RFC 4443 section 4): how one finds out that another forwards.

use crate::addr::{Family, Ip};
use crate::checksum;
use crate::flow_key::Protocol;
use crate::icmp_error::{emit_ip, finish, ip_header_len};
use crate::parse::{Fragment, IcmpKind, Parsed, parse};

/// The length of a request over IPv6; over IPv4 it is shorter.
pub const REQUEST_LEN_MAX: usize = 48;

/// Writes an echo request without data into `out` and returns its length; `None` when the addresses differ in their
/// family or `out` is too short ([`REQUEST_LEN_MAX`] is enough).
#[must_use]
pub fn request(from: Ip, to: Ip, identifier: u16, sequence: u16, out: &mut [u8]) -> Option<usize> {
    let family = from.family();
    let l3_len = ip_header_len(family);
    let out = out.get_mut(..l3_len + 8)?;
    emit_ip(out, from, to, Protocol::Icmp, family)?;
    let kind = match family {
        Family::V4 => 8,
        Family::V6 => 128,
    };
    let message = out.get_mut(l3_len..)?.first_chunk_mut::<8>()?;
    let ([i0, i1], [s0, s1]) = (identifier.to_be_bytes(), sequence.to_be_bytes());
    *message = [kind, 0, 0, 0, i0, i1, s0, s1];
    finish(out)
}

/// Turns an echo request into its reply where it is. False, and nothing done, when it is no whole echo request.
#[must_use]
pub fn turn_round(bytes: &mut [u8], request: &Parsed) -> bool {
    if request.icmp != Some(IcmpKind::EchoRequest) || request.fragment != Fragment::Whole {
        return false;
    }
    let (source_at, address_len, kind) = match request.family {
        Family::V4 => (12, 4, 0),
        Family::V6 => (8, 16, 129),
    };
    let Some(message) = bytes.get_mut(usize::from(request.l3_len)) else {
        return false;
    };
    *message = kind;
    let Some(addresses) = bytes.get_mut(source_at..source_at + 2 * address_len) else {
        return false;
    };
    let (source, destination) = addresses.split_at_mut(address_len);
    source.swap_with_slice(destination);
    checksum::complete_l4(bytes, request);
    true
}

/// The identifier and sequence number of an echo reply; `None` when the bytes are something else.
#[must_use]
pub fn reply(bytes: &[u8]) -> Option<(u16, u16)> {
    let parsed = parse(bytes).ok()?;
    if parsed.icmp != Some(IcmpKind::EchoReply) || parsed.fragment != Fragment::Whole {
        return None;
    }
    let &[_, _, _, _, i0, i1, s0, s1] = bytes.get(usize::from(parsed.l3_len)..)?.first_chunk()?;
    Some((u16::from_be_bytes([i0, i1]), u16::from_be_bytes([s0, s1])))
}
