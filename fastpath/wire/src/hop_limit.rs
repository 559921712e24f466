//! The hop limit (TTL) of a packet that is forwarded as it is (RFC 1812 section 5.3.1, RFC 8200 section 3).

use crate::addr::Family;
use crate::checksum::{read_u16, update, word_delta, write_u16};
use crate::parse::Parsed;

/// Takes one off the hop limit, or as much as leaves `most`, and updates the IPv4 header checksum by the difference
/// (RFC 1624). False, and nothing done, when it would become zero: the packet must go no further. `parsed` describes the
/// packet as it was; `most` is not zero.
#[must_use]
pub fn lower(bytes: &mut [u8], parsed: &Parsed, most: u8) -> bool {
    if parsed.hop_limit <= 1 {
        return false;
    }
    let at = match parsed.family {
        Family::V4 => 8,
        Family::V6 => 7,
    };
    let before = read_u16(bytes, 8);
    let Some(hop_limit) = bytes.get_mut(at) else {
        return false;
    };
    *hop_limit = (parsed.hop_limit - 1).min(most);
    if parsed.family == Family::V4
        && let (Some(before), Some(after)) = (before, read_u16(bytes, 8))
        && let Some(checksum) = read_u16(bytes, 10)
    {
        write_u16(bytes, 10, update(checksum, word_delta(before, after)));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::verify_ipv4_header;
    use crate::parse;

    /// Every value, over IPv4 with a checksum that stays right, and over IPv6.
    #[test]
    fn it_goes_down_to_one_and_the_header_stays_right() {
        let v4 = |hop_limit| {
            let mut header = [0_u8; 28];
            (header[0], header[3], header[8], header[9]) = (0x45, 28, hop_limit, 17);
            header[12..20].copy_from_slice(&[10, 30, 0, 1, 10, 18, 0, 2]);
            header[25] = 8;
            let sum = !crate::checksum::fold(crate::checksum::sum(&header[..20]));
            write_u16(&mut header, 10, sum);
            header.to_vec()
        };
        let v6 = |hop_limit| {
            let mut header = [0_u8; 48];
            (header[0], header[5], header[6], header[7]) = (0x60, 8, 17, hop_limit);
            header[45] = 8;
            header.to_vec()
        };
        for (hop_limit, most) in (1..=255).flat_map(|at| [(at, 255), (at, 7)]) {
            for mut packet in [v4(hop_limit), v6(hop_limit)] {
                let before = (packet.clone(), parse(&packet).unwrap());
                assert_eq!(lower(&mut packet, &before.1, most), hop_limit > 1);
                let after = parse(&packet).unwrap();
                assert!(verify_ipv4_header(&packet, &after), "{hop_limit}");
                if hop_limit > 1 {
                    assert_eq!(after.hop_limit, most.min(hop_limit - 1));
                } else {
                    assert_eq!(packet, before.0);
                }
            }
        }
    }
}
