//! The traffic class of a packet (IPv4: type of service): six bits DSCP (RFC 2474), two bits ECN (RFC 3168), and what becomes of
//! ECN where a tunnel ends (RFC 6040).

use crate::checksum::{read_u16, update, word_delta, write_u16};
use crate::drop_reason::DropReason;

/// The two bits of ECN.
pub const ECN: u8 = 0b11;

/// The transport does not speak ECN.
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
/// Congestion was experienced.
const CE: u8 = 0b11;

/// The traffic class of an IP packet; 0 for what is none.
#[must_use]
#[inline]
pub fn of(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 4 => *second,
        [first, second, ..] if first >> 4 == 6 => first << 4 | second >> 4,
        _ => 0,
    }
}

/// Carries what routers between two tunnel ends wrote into the `outer` class over to the packet that was inside (RFC 6040 section
/// 4.2). DSCP stays the inner one.
///
/// # Errors
/// `Congested`: the outer header met congestion, and the inner one cannot say so.
#[inline]
pub fn decapsulate(outer: u8, packet: &mut [u8]) -> Result<(), DropReason> {
    // Only ECT(1) and CE outside change anything inside.
    if outer & ECT_1 == 0 {
        return Ok(());
    }
    let inner = of(packet);
    let ecn = match (inner & ECN, outer & ECN) {
        (NOT_ECT, CE) => return Err(DropReason::Congested),
        (NOT_ECT, _) | (CE, _) => return Ok(()),
        (_, CE) => CE,
        // ECT(1) outside, and one of both ECT inside.
        (_, _) => ECT_1,
    };
    set(packet, inner & !ECN | ecn);
    Ok(())
}

/// Writes the class, and the IPv4 header checksum by the difference (RFC 1624).
fn set(packet: &mut [u8], class: u8) {
    let Some(before) = read_u16(packet, 0) else {
        return;
    };
    if before >> 12 == 4 {
        let after = before & 0xff00 | u16::from(class);
        write_u16(packet, 0, after);
        if let Some(checksum) = read_u16(packet, 10) {
            write_u16(packet, 10, update(checksum, word_delta(before, after)));
        }
    } else {
        write_u16(packet, 0, before & 0xf00f | u16::from(class) << 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checksum, parse};
    use etherparse::{IpDscp, IpEcn, Ipv4Header, Ipv6Header, PacketBuilder};

    fn packet(is_v4: bool, class: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        if is_v4 {
            let mut header =
                Ipv4Header::new(12, 64, etherparse::IpNumber::UDP, [1; 4], [2; 4]).unwrap();
            header.dscp = IpDscp::try_new(class >> 2).unwrap();
            header.ecn = IpEcn::try_new(class & ECN).unwrap();
            PacketBuilder::ip(etherparse::IpHeaders::Ipv4(header, Default::default()))
        } else {
            let header = Ipv6Header {
                traffic_class: class,
                flow_label: 0xa_bcde.try_into().unwrap(),
                hop_limit: 64,
                source: [1; 16],
                destination: [2; 16],
                ..Ipv6Header::default()
            };
            PacketBuilder::ip(etherparse::IpHeaders::Ipv6(header, Default::default()))
        }
        .udp(1, 2)
        .write(&mut bytes, b"data")
        .unwrap();
        bytes
    }

    /// RFC 6040 figure 4, row by row: the inner field, and what is forwarded for outer Not-ECT, ECT(0), ECT(1) and CE.
    #[test]
    fn a_tunnels_end_combines_both_fields_as_the_table_says() {
        let [ect_0, ect_1, ce] = [0b10, 0b01, 0b11];
        let lost = None;
        let outers = [0, ect_0, ect_1, ce];
        let table = [
            (0, [Some(0), Some(0), Some(0), lost]),
            (ect_0, [Some(ect_0), Some(ect_0), Some(ect_1), Some(ce)]),
            (ect_1, [Some(ect_1), Some(ect_1), Some(ect_1), Some(ce)]),
            (ce, [Some(ce); 4]),
        ];
        for is_v4 in [true, false] {
            for (inner, forwarded) in table {
                for (outer, forwarded) in outers.into_iter().zip(forwarded) {
                    let dscp = 46 << 2;
                    let mut bytes = packet(is_v4, dscp | inner);
                    // The DSCP outside says nothing.
                    let result = decapsulate(9 << 2 | outer, &mut bytes);
                    match forwarded {
                        None => assert_eq!(result, Err(DropReason::Congested)),
                        Some(ecn) => {
                            assert_eq!(result, Ok(()));
                            assert_eq!(bytes, packet(is_v4, dscp | ecn), "{inner} in {outer}");
                        }
                    }
                    let parsed = parse(&bytes).unwrap();
                    assert!(checksum::verify_ipv4_header(&bytes, &parsed));
                }
            }
        }
    }

    #[test]
    fn what_is_no_packet_has_no_class_and_stays_as_it_is() {
        for bytes in [&[][..], &[0x45], &[0x70, 3], &[0x45, 2]] {
            let mut changed = bytes.to_vec();
            let _ = decapsulate(3, &mut changed);
            assert_eq!(changed.len(), bytes.len());
            if bytes.first() != Some(&0x45) || bytes.len() < 2 {
                assert_eq!(of(bytes), 0);
                assert_eq!(changed, bytes);
            }
        }
    }
}
