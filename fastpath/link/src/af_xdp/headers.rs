//! The headers an Ethernet link takes off and puts on: Ethernet, and for the underlay IP and UDP.

use super::{Hop, Mac};
use sluice_memory::{Endpoint, Frame};
use sluice_wire::{DropReason, Family, Ip, checksum, traffic_class};

const ETHERNET_LEN: usize = 14;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const UDP_LEN: usize = 8;
/// Ethernet, IP and UDP.
const IPV4_ALL: usize = ETHERNET_LEN + IPV4_LEN + UDP_LEN;
const IPV6_ALL: usize = ETHERNET_LEN + IPV6_LEN + UDP_LEN;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const PROTOCOL_UDP: u8 = 17;
const HOP_LIMIT: u8 = 64;
/// The sum of what is the same in every outer IPv4 header: version, "don't fragment", hop limit and protocol.
const IPV4_CONSTANT: u64 = 0x4500 + 0x4000 + (HOP_LIMIT as u64 * 256 + PROTOCOL_UDP as u64);

/// Bytes that a tunnelled packet grows by on an underlay of that family, without Ethernet.
#[must_use]
pub const fn outer_len(family: Family) -> usize {
    match family {
        Family::V4 => IPV4_LEN + UDP_LEN,
        Family::V6 => IPV6_LEN + UDP_LEN,
    }
}

/// Puts all headers in front of a tunnelled packet that goes from `source_port` of `hop.source` to `to` by `hop`, from the
/// device with address `from`.
///
/// # Errors
/// `TooBig` for `hop`, `NoTunnel` when `to` is of another family, `LinkError` without headroom.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "checked against the MTU")]
pub fn wrap(
    frame: &mut Frame,
    hop: &Hop,
    source_port: u16,
    to: Endpoint,
    from: Mac,
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
    let class = frame.class;
    match family {
        Family::V4 => {
            let header: &mut [u8; IPV4_ALL] = frame.push_header().ok_or(DropReason::LinkError)?;
            write_ethernet(header, hop.mac, from, ETHERTYPE_IPV4);
            let (src, dst) = (hop.source.octets_v4(), to.ip.octets_v4());
            header[14..16].copy_from_slice(&[0x45, class]);
            header[16..18].copy_from_slice(&(total as u16).to_be_bytes());
            // RFC 6864 section 4.1: what must not be fragmented needs no identification.
            header[18..22].copy_from_slice(&[0, 0, 0x40, 0]);
            header[22..24].copy_from_slice(&[HOP_LIMIT, PROTOCOL_UDP]);
            let sum = IPV4_CONSTANT
                + u64::from(class)
                + total as u64
                + u64::from(u32::from_be_bytes(src))
                + u64::from(u32::from_be_bytes(dst));
            header[24..26].copy_from_slice(&(!checksum::fold64(sum)).to_be_bytes());
            header[26..30].copy_from_slice(&src);
            header[30..34].copy_from_slice(&dst);
            // RFC 768: zero is "no checksum". Every inner packet has checksums of its own; RFC 8200 section 8.1 asks for
            // one over IPv6 all the same.
            write_udp::<_, 34>(header, source_port, to.port, datagram, 0);
        }
        Family::V6 => {
            let (src, dst) = (hop.source, to.ip);
            let pseudo = checksum::pseudo_header_sum(src, dst, PROTOCOL_UDP, u32::from(datagram));
            let ports = u32::from(source_port) + u32::from(to.port) + u32::from(datagram);
            let computed = !checksum::fold(pseudo + ports + checksum::sum(frame.bytes()));
            let header: &mut [u8; IPV6_ALL] = frame.push_header().ok_or(DropReason::LinkError)?;
            write_ethernet(header, hop.mac, from, ETHERTYPE_IPV6);
            header[14..18].copy_from_slice(&[0x60 | class >> 4, class << 4, 0, 0]);
            header[18..20].copy_from_slice(&datagram.to_be_bytes());
            header[20..22].copy_from_slice(&[PROTOCOL_UDP, HOP_LIMIT]);
            header[22..38].copy_from_slice(&src.octets_v6());
            header[38..54].copy_from_slice(&dst.octets_v6());
            let sum = checksum::udp_checksum(computed);
            write_udp::<_, 54>(header, source_port, to.port, datagram, sum);
        }
    }
    Ok(())
}

/// Takes all headers off a tunnelled packet and says who sent it. The XDP program has checked that they are there, without
/// options, and agree in their lengths.
///
/// # Errors
/// `NotIp` for another ethertype, `Malformed` for headers that the XDP program would not have let through.
#[inline]
pub fn unwrap(frame: &mut Frame) -> Result<Endpoint, DropReason> {
    let bytes = frame.bytes();
    let ethernet: &[u8; ETHERNET_LEN] = bytes.first_chunk().ok_or(DropReason::Malformed)?;
    match [ethernet[12], ethernet[13]] {
        ETHERTYPE_IPV4 => {
            let header: &[u8; IPV4_ALL] = bytes.first_chunk().ok_or(DropReason::Malformed)?;
            let source = Endpoint {
                ip: Ip::v4(cut::<_, 26, _>(header)),
                port: u16::from_be_bytes(cut::<_, 34, _>(header)),
            };
            let total = usize::from(u16::from_be_bytes(cut::<_, 16, _>(header)));
            let datagram = u16::from_be_bytes(cut::<_, 38, _>(header));
            strip(frame, IPV4_ALL, total, datagram)?;
            Ok(source)
        }
        ETHERTYPE_IPV6 => {
            let header: &[u8; IPV6_ALL] = bytes.first_chunk().ok_or(DropReason::Malformed)?;
            let source = Endpoint {
                ip: Ip::v6(cut::<_, 22, _>(header)),
                port: u16::from_be_bytes(cut::<_, 54, _>(header)),
            };
            let total = usize::from(u16::from_be_bytes(cut::<_, 18, _>(header))) + IPV6_LEN;
            let datagram = u16::from_be_bytes(cut::<_, 58, _>(header));
            strip(frame, IPV6_ALL, total, datagram)?;
            Ok(source)
        }
        _ => Err(DropReason::NotIp),
    }
}

/// The traffic class of a frame's IP header, in front of which is Ethernet.
#[inline]
pub(super) fn outer_class(frame: &Frame) -> u8 {
    traffic_class::of(frame.bytes().get(ETHERNET_LEN..).unwrap_or_default())
}

/// Takes off `header_len` bytes, and what is behind the end of an IP packet of `total` bytes or of a UDP datagram of
/// `datagram` bytes.
///
/// # Errors
/// `Malformed` when the lengths leave no room for the headers.
#[inline]
fn strip(
    frame: &mut Frame,
    header_len: usize,
    total: usize,
    datagram: u16,
) -> Result<(), DropReason> {
    let in_datagram = usize::from(datagram).checked_sub(UDP_LEN);
    let in_packet = (ETHERNET_LEN + total)
        .min(frame.len())
        .checked_sub(header_len);
    let (Some(in_datagram), Some(in_packet)) = (in_datagram, in_packet) else {
        return Err(DropReason::Malformed);
    };
    frame.pull_front(header_len).ok_or(DropReason::Malformed)?;
    frame.truncate(in_packet.min(in_datagram));
    Ok(())
}

#[inline]
fn write_ethernet<const N: usize>(header: &mut [u8; N], to: Mac, from: Mac, ethertype: [u8; 2]) {
    header[..6].copy_from_slice(&to);
    header[6..12].copy_from_slice(&from);
    header[12..14].copy_from_slice(&ethertype);
}

/// Writes a UDP header of a datagram of `len` bytes, from `AT` on.
#[inline]
fn write_udp<const N: usize, const AT: usize>(
    header: &mut [u8; N],
    source_port: u16,
    port: u16,
    len: u16,
    sum: u16,
) {
    for (field, value) in
        header[AT..AT + UDP_LEN]
            .as_chunks_mut()
            .0
            .iter_mut()
            .zip([source_port, port, len, sum])
    {
        *field = value.to_be_bytes();
    }
}

/// The `M` bytes from `AT` on.
#[inline]
fn cut<const N: usize, const AT: usize, const M: usize>(header: &[u8; N]) -> [u8; M] {
    std::array::from_fn(|at| header[AT + at])
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
    let header: &mut [u8; ETHERNET_LEN] = frame.push_header().ok_or(DropReason::LinkError)?;
    write_ethernet(header, to, from, ethertype);
    Ok(())
}

/// The Ethernet source of a frame and the source of the IP packet in it; `None` when it is too short or holds none.
#[inline]
pub(super) fn sources(frame: &[u8]) -> Option<(Mac, Ip)> {
    let (header, packet) = frame.split_at_checked(ETHERNET_LEN)?;
    let ip = match [header[12], header[13]] {
        ETHERTYPE_IPV4 => Ip::v4(octets(packet, 12).ok()?),
        ETHERTYPE_IPV6 => Ip::v6(octets(packet, 8).ok()?),
        _ => return None,
    };
    Some((octets(header, 6).ok()?, ip))
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
                let class = u8::try_from(len % 256).unwrap();
                frame.class = class;
                wrap(&mut frame, &hop(from, 1500), 50103, to(node), US).unwrap();
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
                        let (dscp, ecn) = (header.dscp.value(), header.ecn.value());
                        assert_eq!(dscp << 2 | ecn, class);
                        assert_eq!(datagram.checksum, 0);
                    }
                    NetHeaders::Ipv6(header, _) => {
                        assert_eq!(header.traffic_class, class);
                        assert_eq!(
                            datagram.checksum,
                            datagram.calc_checksum_ipv6(&header, content).unwrap()
                        );
                    }
                    NetHeaders::Arp(_) => panic!("{node}: an IP packet"),
                }
                // Short frames arrive padded.
                let padding = 60_usize.saturating_sub(frame.len());
                frame.append(&vec![0xee; padding]);
                assert_eq!(outer_class(&frame), class);
                let source = unwrap(&mut frame).unwrap();
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
            let result = wrap(&mut frame, &hop, 50103, to("198.51.100.7"), US);
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
            assert_eq!(
                unwrap(&mut frame),
                Err(DropReason::Malformed),
                "cut to {len}"
            );
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
