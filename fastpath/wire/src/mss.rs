//! The MSS option of TCP: lowered so that full-size segments fit the tunnel (RFC 9293 section 3.7.1, RFC 4459 section 3.2).

use crate::addr::Family;
use crate::checksum::{read_u16, update, word_delta, write_u16};
use crate::flow_key::Protocol;
use crate::parse::{Fragment, Parsed, tcp_flag};

/// The largest MSS whose segments fit `mtu` without options: the MTU less the fixed IP and TCP headers.
#[must_use]
pub const fn limit(family: Family, mtu: u16) -> u16 {
    mtu.saturating_sub(match family {
        Family::V4 => 40,
        Family::V6 => 60,
    })
}

/// Lowers the MSS option of a SYN or SYN-ACK to `mss_max` and updates a `complete` checksum; a partial one does not
/// cover it. Returns whether the packet was changed. A SYN without the option is left alone: its peer then assumes
/// 536 or 1220 bytes, which always fit.
pub fn clamp(bytes: &mut [u8], parsed: &Parsed, mss_max: u16, complete: bool) -> bool {
    let Some(offset) = option_offset(bytes, parsed) else {
        return false;
    };
    let Some(old) = read_u16(bytes, offset).filter(|&old| old > mss_max) else {
        return false;
    };
    write_u16(bytes, offset, mss_max);
    if complete
        && let Some(at) = parsed.checksum_offset()
        && let Some(field) = read_u16(bytes, at)
    {
        // At an odd offset the value straddles two words of the sum: both contribute with bytes swapped (RFC 1071
        // section 2 (B)).
        let change = if offset % 2 == 0 {
            word_delta(old, mss_max)
        } else {
            word_delta(old.swap_bytes(), mss_max.swap_bytes())
        };
        write_u16(bytes, at, update(field, change));
    }
    true
}

/// The value of the MSS option of a SYN.
#[must_use]
pub fn value(bytes: &[u8], parsed: &Parsed) -> Option<u16> {
    read_u16(bytes, option_offset(bytes, parsed)?)
}

/// Where the value of the MSS option is, from the start of the packet.
fn option_offset(bytes: &[u8], parsed: &Parsed) -> Option<usize> {
    if parsed.protocol != Protocol::Tcp
        || parsed.tcp_flags & tcp_flag::SYN == 0
        || matches!(parsed.fragment, Fragment::Later { .. })
    {
        return None;
    }
    let mut offset = usize::from(parsed.l3_len) + 20;
    let mut options = bytes.get(offset..parsed.header_len())?;
    loop {
        // RFC 9293 section 3.1: 0 ends the list, 1 is padding, all others have a length that counts itself.
        let len = match *options {
            [] | [0, ..] | [_] => return None,
            [1, ..] => 1,
            [2, 4, _, _, ..] => return Some(offset + 2),
            [_, len, ..] if len >= 2 => usize::from(len),
            [_, _, ..] => return None,
        };
        offset += len;
        options = options.get(len..)?;
    }
}
