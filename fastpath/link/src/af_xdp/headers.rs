//! The headers an Ethernet link takes off and puts on: Ethernet, and for the underlay IP and UDP.

use super::{Hop, Mac};
use sluice_memory::{Endpoint, Frame};
use sluice_wire::{DropReason, Family, Ip, checksum};

const ETHERNET_LEN: usize = 14;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const UDP_LEN: usize = 8;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const PROTOCOL_UDP: u8 = 17;
const HOP_LIMIT: u8 = 64;

/// Bytes that a tunnelled packet grows by on the wire, without Ethernet.
pub(super) const fn outer_len(family: Family) -> usize {
    match family {
        Family::V4 => IPV4_LEN + UDP_LEN,
        Family::V6 => IPV6_LEN + UDP_LEN,
    }
}

/// Puts all headers in front of a tunnelled packet that goes to `to` by `hop`, from the device with address `from`.
///
/// # Errors
/// `TooBig` for `hop`, `NoTunnel` when `to` is of another family, `NotIp` for what is no packet, `LinkError` without
/// headroom.
#[inline]
pub fn wrap(
    frame: &mut Frame,
    hop: &Hop,
    source_port: u16,
    to: Endpoint,
    from: Mac,
) -> Result<(), DropReason> {
    push_datagram(frame, hop, source_port, to)?;
    push_ethernet(frame, hop.mac, from)
}

/// Takes all headers off a tunnelled packet and says who sent it.
///
/// # Errors
/// `NotIp` for another ethertype, `Malformed` for headers that the XDP program would not have let through.
#[inline]
pub fn unwrap(frame: &mut Frame) -> Result<Endpoint, DropReason> {
    let family = strip_ethernet(frame)?;
    strip_datagram(frame, family)
}

/// Takes the Ethernet header off, and the padding that makes short frames 60 bytes long.
///
/// # Errors
/// `NotIp` for another ethertype, `Malformed` for a frame shorter than its headers.
#[inline]
pub(super) fn strip_ethernet(frame: &mut Frame) -> Result<Family, DropReason> {
    let header: &[u8; ETHERNET_LEN] = frame.bytes().first_chunk().ok_or(DropReason::Malformed)?;
    let family = match [header[12], header[13]] {
        ETHERTYPE_IPV4 => Family::V4,
        ETHERTYPE_IPV6 => Family::V6,
        _ => return Err(DropReason::NotIp),
    };
    frame
        .pull_front(ETHERNET_LEN)
        .ok_or(DropReason::Malformed)?;
    let packet = frame.bytes();
    let len = match family {
        Family::V4 => word(packet, 2)?,
        Family::V6 => word(packet, 4)? + IPV6_LEN,
    };
    // One that says more than it has is left as it is: the stages name what is wrong with it.
    frame.truncate(len);
    Ok(family)
}

/// Takes IP and UDP headers off and says who sent the datagram. The XDP program has checked that they are there, without
/// options, and agree in their lengths.
///
/// # Errors
/// `Malformed` when they are not.
#[inline]
fn strip_datagram(frame: &mut Frame, family: Family) -> Result<Endpoint, DropReason> {
    let bytes = frame.bytes();
    let (ip, header_len) = match family {
        Family::V4 => (Ip::v4(octets(bytes, 12)?), IPV4_LEN),
        Family::V6 => (Ip::v6(octets(bytes, 8)?), IPV6_LEN),
    };
    let port = u16::from_be_bytes(octets(bytes, header_len)?);
    let len = word(bytes, header_len + 4)?
        .checked_sub(UDP_LEN)
        .ok_or(DropReason::Malformed)?;
    frame
        .pull_front(header_len + UDP_LEN)
        .ok_or(DropReason::Malformed)?;
    frame.truncate(len);
    Ok(Endpoint { ip, port })
}

/// Puts an Ethernet header in front of an IP packet.
///
/// # Errors
/// `NotIp` when it is none, `LinkError` without headroom.
#[inline]
pub(super) fn push_ethernet(frame: &mut Frame, to: Mac, from: Mac) -> Result<(), DropReason> {
    let ethertype = match frame.bytes().first().map(|first| first >> 4) {
        Some(4) => ETHERTYPE_IPV4,
        Some(6) => ETHERTYPE_IPV6,
        _ => return Err(DropReason::NotIp),
    };
    let front = frame
        .push_front(ETHERNET_LEN)
        .ok_or(DropReason::LinkError)?;
    front[..6].copy_from_slice(&to);
    front[6..12].copy_from_slice(&from);
    front[12..].copy_from_slice(&ethertype);
    Ok(())
}

/// Puts UDP and IP headers in front of a tunnelled packet, from `source_port` of `hop.source` to `to`.
///
/// # Errors
/// `TooBig` for `hop`, `NoTunnel` when `to` is of another family, `LinkError` without headroom.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "checked against the MTU")]
fn push_datagram(
    frame: &mut Frame,
    hop: &Hop,
    source_port: u16,
    to: Endpoint,
) -> Result<(), DropReason> {
    let family = to.ip.family();
    if hop.source.family() != family {
        return Err(DropReason::NoTunnel);
    }
    let total = frame.len() + outer_len(family);
    if total > usize::from(hop.mtu) {
        return Err(DropReason::TooBig);
    }
    let datagram = (frame.len() + UDP_LEN) as u16;
    let udp = frame.push_front(UDP_LEN).ok_or(DropReason::LinkError)?;
    udp[..2].copy_from_slice(&source_port.to_be_bytes());
    udp[2..4].copy_from_slice(&to.port.to_be_bytes());
    udp[4..6].copy_from_slice(&datagram.to_be_bytes());
    // RFC 768: zero is "no checksum". Every inner packet has checksums of its own; RFC 8200 section 8.1 asks for one
    // over IPv6 all the same.
    udp[6..].fill(0);
    match family {
        Family::V4 => {
            let header = frame.push_front(IPV4_LEN).ok_or(DropReason::LinkError)?;
            header[..2].copy_from_slice(&[0x45, 0]);
            header[2..4].copy_from_slice(&(total as u16).to_be_bytes());
            // RFC 6864 section 4.1: what must not be fragmented needs no identification.
            header[4..8].copy_from_slice(&[0, 0, 0x40, 0]);
            header[8..12].copy_from_slice(&[HOP_LIMIT, PROTOCOL_UDP, 0, 0]);
            header[12..16].copy_from_slice(&hop.source.octets_v4());
            header[16..].copy_from_slice(&to.ip.octets_v4());
            let sum = !checksum::fold(checksum::sum(header));
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        Family::V6 => {
            let pseudo =
                checksum::pseudo_header_sum(hop.source, to.ip, PROTOCOL_UDP, u32::from(datagram));
            let bytes = frame.bytes_mut();
            let computed = !checksum::fold(add(pseudo, checksum::sum(bytes)));
            bytes[6..8].copy_from_slice(&checksum::udp_checksum(computed).to_be_bytes());
            let header = frame.push_front(IPV6_LEN).ok_or(DropReason::LinkError)?;
            header[..4].copy_from_slice(&[0x60, 0, 0, 0]);
            header[4..6].copy_from_slice(&datagram.to_be_bytes());
            header[6..8].copy_from_slice(&[PROTOCOL_UDP, HOP_LIMIT]);
            header[8..24].copy_from_slice(&hop.source.octets_v6());
            header[24..].copy_from_slice(&to.ip.octets_v6());
        }
    }
    Ok(())
}

/// The destination of an IP packet; `None` when it is too short or none.
#[inline]
pub(super) fn destination(packet: &[u8]) -> Option<Ip> {
    match packet.first()? >> 4 {
        4 => Some(Ip::v4(octets(packet, 16).ok()?)),
        6 => Some(Ip::v6(octets(packet, 24).ok()?)),
        _ => None,
    }
}

/// The sum of two sums, with the end-around carry.
const fn add(a: u32, b: u32) -> u32 {
    checksum::fold(a) as u32 + checksum::fold(b) as u32
}

#[inline]
fn octets<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], DropReason> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk().copied())
        .ok_or(DropReason::Malformed)
}

#[inline]
fn word(bytes: &[u8], at: usize) -> Result<usize, DropReason> {
    Ok(usize::from(u16::from_be_bytes(octets(bytes, at)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{payload, udp};
    use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
    use sluice_memory::Pool;

    const US: Mac = [2, 0, 0, 0, 0, 1];
    const THEM: Mac = [2, 0, 0, 0, 0, 2];

    fn frame_of(pool: &mut Pool, bytes: &[u8]) -> Frame {
        let mut frame = Frame::new(pool.take().unwrap());
        frame.fill(bytes);
        frame
    }

    fn hop(source: &str, mtu: u16) -> Hop {
        Hop {
            mac: THEM,
            source: source.parse().unwrap(),
            mtu,
        }
    }

    fn to(ip: &str) -> Endpoint {
        Endpoint {
            ip: ip.parse().unwrap(),
            port: 50103,
        }
    }

    /// What is put on is what an independent parser reads, and comes off again, over both families and any length.
    #[test]
    fn outer_headers_are_understood_by_others_and_come_off_again() {
        let mut pool = Pool::new(1, 2000).unwrap();
        for (from, node) in [
            ("192.0.2.1", "198.51.100.7"),
            ("2001:db8::1", "2001:db8:7::9"),
        ] {
            for len in [0, 1, 17, 1000, 1300] {
                let inner = udp(false, 4000, &payload(len));
                let mut frame = frame_of(&mut pool, &inner);
                push_datagram(&mut frame, &hop(from, 1500), 50103, to(node)).unwrap();
                push_ethernet(&mut frame, THEM, US).unwrap();
                let read = PacketHeaders::from_ethernet_slice(frame.bytes()).unwrap();
                let ethernet = read.link.unwrap().ethernet2().unwrap();
                assert_eq!((ethernet.source, ethernet.destination), (US, THEM));
                let Some(TransportHeader::Udp(datagram)) = read.transport else {
                    panic!("{node}: a datagram")
                };
                assert_eq!(
                    (datagram.source_port, datagram.destination_port),
                    (50103, 50103)
                );
                let content = read.payload.slice();
                assert_eq!(content, inner);
                match read.net.unwrap() {
                    NetHeaders::Ipv4(header, _) => {
                        assert_eq!(header.header_checksum, header.calc_header_checksum());
                        assert!(header.dont_fragment);
                        assert_eq!(datagram.checksum, 0);
                    }
                    NetHeaders::Ipv6(header, _) => assert_eq!(
                        datagram.checksum,
                        datagram.calc_checksum_ipv6(&header, content).unwrap()
                    ),
                    NetHeaders::Arp(_) => panic!("{node}: an IP packet"),
                }
                // Short frames arrive padded.
                let padding = 60_usize.saturating_sub(frame.len());
                frame.append(&vec![0xee; padding]);
                let family = strip_ethernet(&mut frame).unwrap();
                let source = strip_datagram(&mut frame, family).unwrap();
                assert_eq!((source, frame.bytes()), (to(from), &inner[..]));
                pool.release(frame.into_buffer());
            }
        }
    }

    #[test]
    fn what_does_not_fit_or_is_no_ip_is_named() {
        let mut pool = Pool::new(1, 2000).unwrap();
        let inner = udp(false, 4000, &payload(1000));
        let mut frame = frame_of(&mut pool, &inner);
        let narrow = u16::try_from(inner.len()).unwrap() + 27;
        for (hop, expected) in [
            (hop("192.0.2.1", narrow), DropReason::TooBig),
            (hop("2001:db8::1", 1500), DropReason::NoTunnel),
        ] {
            let result = push_datagram(&mut frame, &hop, 50103, to("198.51.100.7"));
            assert_eq!(result, Err(expected));
            assert_eq!(frame.bytes(), inner, "nothing was put on");
        }
        frame.fill(&[0x20; 30]);
        assert_eq!(push_ethernet(&mut frame, THEM, US), Err(DropReason::NotIp));
        let mut arp = Vec::new();
        PacketBuilder::ethernet2(THEM, US)
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1, 2)
            .write(&mut arp, &[])
            .unwrap();
        arp[13] = 6;
        frame.fill(&arp);
        assert_eq!(strip_ethernet(&mut frame), Err(DropReason::NotIp));
        for len in 0..arp.len() {
            arp[13] = 0;
            frame.fill(&arp[..len]);
            let end =
                strip_ethernet(&mut frame).and_then(|family| strip_datagram(&mut frame, family));
            assert_eq!(end, Err(DropReason::Malformed), "cut to {len}");
        }
        pool.release(frame.into_buffer());
    }

    #[test]
    fn destinations_are_read_from_both_families() {
        assert_eq!(destination(&udp(false, 1, &[])), "10.30.0.1".parse().ok());
        let v6 = destination(&udp(true, 1, &[])).unwrap().octets_v6();
        assert_eq!((v6[0], v6[15]), (0xfd, 2));
        assert_eq!(destination(&[0x45; 19]), None);
        assert_eq!(destination(&[]), None);
    }
}
