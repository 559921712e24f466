//! Packets as values: built and read by `etherparse`, an independent voice, with every checksum verified.

use etherparse::{
    IcmpEchoHeader, Icmpv4Type, Icmpv6Type, IpNumber, NetSlice, PacketBuilder, SlicedPacket,
    TransportSlice,
};
use sluice_wire::{Family, Ip};

/// What a test cares about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Packet {
    pub src: Ip,
    pub dst: Ip,
    pub content: Content,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Content {
    Tcp {
        src_port: u16,
        dst_port: u16,
        flags: u8,
        mss: Option<u16>,
        payload: Vec<u8>,
    },
    Udp {
        src_port: u16,
        dst_port: u16,
        payload: Vec<u8>,
    },
    Echo {
        request: bool,
        id: u16,
    },
    /// An ICMP error: type, code and the packet it quotes, which may be cut.
    Error {
        kind: u8,
        code: u8,
        mtu: u32,
        quote: Box<Quote>,
    },
    /// A fragment, as it is.
    Fragment {
        offset: u16,
        more: bool,
        payload: Vec<u8>,
    },
}

/// Addresses and ports of a quoted packet; for echoes, twice the identifier.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Quote {
    pub src: Ip,
    pub dst: Ip,
    pub src_port: u16,
    pub dst_port: u16,
}

pub const SYN: u8 = 2;
pub const ACK: u8 = 16;
pub const RST: u8 = 4;
pub const FIN: u8 = 1;

pub fn udp(src: (Ip, u16), dst: (Ip, u16)) -> Packet {
    Packet {
        src: src.0,
        dst: dst.0,
        content: Content::Udp {
            src_port: src.1,
            dst_port: dst.1,
            payload: b"payload".to_vec(),
        },
    }
}

pub fn tcp(src: (Ip, u16), dst: (Ip, u16), flags: u8) -> Packet {
    Packet {
        src: src.0,
        dst: dst.0,
        content: Content::Tcp {
            src_port: src.1,
            dst_port: dst.1,
            flags,
            mss: None,
            payload: Vec::new(),
        },
    }
}

pub fn syn(src: (Ip, u16), dst: (Ip, u16)) -> Packet {
    tcp(src, dst, SYN)
}

pub fn ack(src: (Ip, u16), dst: (Ip, u16)) -> Packet {
    tcp(src, dst, ACK)
}

pub fn echo(src: Ip, dst: Ip, id: u16, request: bool) -> Packet {
    Packet {
        src,
        dst,
        content: Content::Echo { request, id },
    }
}

impl Packet {
    /// With the MSS option, on a SYN.
    pub fn with_mss(mut self, value: u16) -> Self {
        if let Content::Tcp { mss, .. } = &mut self.content {
            *mss = Some(value);
        }
        self
    }

    pub fn with_payload(mut self, bytes: Vec<u8>) -> Self {
        match &mut self.content {
            Content::Tcp { payload, .. } | Content::Udp { payload, .. } => *payload = bytes,
            other => panic!("{other:?} has no payload to set"),
        }
        self
    }

    /// The bytes, with complete checksums and hop limit 64. Errors and fragments are built by [`error`] and [`fragments`].
    pub fn build(&self) -> Vec<u8> {
        let ip = match self.src.family() {
            Family::V4 => PacketBuilder::ipv4(self.src.octets_v4(), self.dst.octets_v4(), 64),
            Family::V6 => PacketBuilder::ipv6(self.src.octets_v6(), self.dst.octets_v6(), 64),
        };
        let mut bytes = Vec::new();
        match &self.content {
            Content::Udp {
                src_port,
                dst_port,
                payload,
            } => ip
                .udp(*src_port, *dst_port)
                .write(&mut bytes, payload)
                .unwrap(),
            Content::Tcp {
                src_port,
                dst_port,
                flags,
                mss,
                payload,
            } => {
                let mut tcp = ip.tcp(*src_port, *dst_port, 1000, 4096);
                if flags & SYN != 0 {
                    tcp = tcp.syn();
                }
                if flags & ACK != 0 {
                    tcp = tcp.ack(2000);
                }
                if flags & RST != 0 {
                    tcp = tcp.rst();
                }
                if flags & FIN != 0 {
                    tcp = tcp.fin();
                }
                if let Some(mss) = mss {
                    let option = etherparse::TcpOptionElement::MaximumSegmentSize(*mss);
                    tcp = tcp.options(&[option]).unwrap();
                }
                tcp.write(&mut bytes, payload).unwrap();
            }
            Content::Echo { request, id } => match (self.src.family(), request) {
                (Family::V4, true) => ip
                    .icmpv4_echo_request(*id, 1)
                    .write(&mut bytes, b"x")
                    .unwrap(),
                (Family::V4, false) => ip
                    .icmpv4_echo_reply(*id, 1)
                    .write(&mut bytes, b"x")
                    .unwrap(),
                (Family::V6, true) => ip
                    .icmpv6_echo_request(*id, 1)
                    .write(&mut bytes, b"x")
                    .unwrap(),
                (Family::V6, false) => ip
                    .icmpv6_echo_reply(*id, 1)
                    .write(&mut bytes, b"x")
                    .unwrap(),
            },
            other => panic!("{other:?} is not built from its description"),
        }
        bytes
    }

    /// What the bytes say. Panics when a checksum is wrong.
    pub fn read(bytes: &[u8]) -> Self {
        let sliced = SlicedPacket::from_ip(bytes).unwrap();
        let (src, dst) = addresses(sliced.net.as_ref().unwrap());
        if let Some(content) = fragment(&sliced) {
            return Self { src, dst, content };
        }
        let content = match sliced.transport.as_ref().expect("a transport header") {
            TransportSlice::Udp(udp) => {
                let header = udp.to_header();
                let expected = match sliced.net.as_ref().unwrap() {
                    NetSlice::Ipv4(ip) => header
                        .calc_checksum_ipv4(&ip.header().to_header(), udp.payload())
                        .unwrap(),
                    NetSlice::Ipv6(ip) => header
                        .calc_checksum_ipv6(&ip.header().to_header(), udp.payload())
                        .unwrap(),
                    NetSlice::Arp(_) => panic!("no ARP here"),
                };
                assert_eq!(header.checksum, expected, "UDP checksum");
                Content::Udp {
                    src_port: udp.source_port(),
                    dst_port: udp.destination_port(),
                    payload: udp.payload().to_vec(),
                }
            }
            TransportSlice::Tcp(tcp) => {
                let header = tcp.to_header();
                let expected = match sliced.net.as_ref().unwrap() {
                    NetSlice::Ipv4(ip) => header
                        .calc_checksum_ipv4(&ip.header().to_header(), tcp.payload())
                        .unwrap(),
                    NetSlice::Ipv6(ip) => header
                        .calc_checksum_ipv6(&ip.header().to_header(), tcp.payload())
                        .unwrap(),
                    NetSlice::Arp(_) => panic!("no ARP here"),
                };
                assert_eq!(header.checksum, expected, "TCP checksum");
                let mss = tcp.options_iterator().find_map(|option| match option {
                    Ok(etherparse::TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
                    _ => None,
                });
                Content::Tcp {
                    src_port: tcp.source_port(),
                    dst_port: tcp.destination_port(),
                    flags: tcp.slice()[13],
                    mss,
                    payload: tcp.payload().to_vec(),
                }
            }
            TransportSlice::Icmpv4(icmp) => {
                assert_eq!(
                    icmp.header().icmp_type.calc_checksum(icmp.payload()),
                    icmp.checksum(),
                    "ICMP checksum"
                );
                match icmp.icmp_type() {
                    Icmpv4Type::EchoRequest(IcmpEchoHeader { id, .. }) => {
                        Content::Echo { request: true, id }
                    }
                    Icmpv4Type::EchoReply(IcmpEchoHeader { id, .. }) => {
                        Content::Echo { request: false, id }
                    }
                    _ => read_error(icmp.slice()),
                }
            }
            TransportSlice::Igmp(_) => panic!("no IGMP here"),
            TransportSlice::Icmpv6(icmp) => {
                assert!(
                    icmp.is_checksum_valid(src.octets_v6(), dst.octets_v6()),
                    "ICMPv6 checksum"
                );
                match icmp.icmp_type() {
                    Icmpv6Type::EchoRequest(IcmpEchoHeader { id, .. }) => {
                        Content::Echo { request: true, id }
                    }
                    Icmpv6Type::EchoReply(IcmpEchoHeader { id, .. }) => {
                        Content::Echo { request: false, id }
                    }
                    _ => read_error(icmp.slice()),
                }
            }
        };
        Self { src, dst, content }
    }
}

fn addresses(net: &NetSlice<'_>) -> (Ip, Ip) {
    match net {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(
                header.header_checksum,
                header.calc_header_checksum(),
                "IPv4 header checksum"
            );
            (Ip::v4(header.source), Ip::v4(header.destination))
        }
        NetSlice::Ipv6(ip) => (
            Ip::v6(ip.header().source()),
            Ip::v6(ip.header().destination()),
        ),
        NetSlice::Arp(_) => panic!("no ARP here"),
    }
}

fn fragment(sliced: &SlicedPacket<'_>) -> Option<Content> {
    let (offset, more, payload) = match sliced.net.as_ref()? {
        NetSlice::Ipv4(ip) if ip.header().is_fragmenting_payload() => (
            ip.header().fragments_offset().value(),
            ip.header().more_fragments(),
            ip.payload().payload,
        ),
        NetSlice::Ipv6(ip) if ip.is_payload_fragmented() => {
            let header =
                ip.extensions()
                    .clone()
                    .into_iter()
                    .find_map(|extension| match extension {
                        etherparse::Ipv6ExtensionSlice::Fragment(header) => {
                            Some(header.to_header())
                        }
                        _ => None,
                    })?;
            (
                header.fragment_offset.value(),
                header.more_fragments,
                ip.payload().payload,
            )
        }
        _ => return None,
    };
    Some(Content::Fragment {
        offset: offset * 8,
        more,
        payload: payload.to_vec(),
    })
}

fn read_error(icmp: &[u8]) -> Content {
    let quote = &icmp[8..];
    let (src, dst, ports_at, is_icmp) = if quote[0] >> 4 == 4 {
        let at = |from: usize| Ip::v4(quote[from..from + 4].try_into().unwrap());
        (
            at(12),
            at(16),
            usize::from(quote[0] & 15) * 4,
            quote[9] == 1,
        )
    } else {
        let at = |from: usize| Ip::v6(quote[from..from + 16].try_into().unwrap());
        (at(8), at(24), 40, quote[6] == 58)
    };
    let port = |at: usize| u16::from_be_bytes([quote[at], quote[at + 1]]);
    let (src_port, dst_port) = if is_icmp {
        (port(ports_at + 4), port(ports_at + 4))
    } else {
        (port(ports_at), port(ports_at + 2))
    };
    Content::Error {
        kind: icmp[0],
        code: icmp[1],
        mtu: u32::from_be_bytes(icmp[4..8].try_into().unwrap()),
        quote: Box::new(Quote {
            src,
            dst,
            src_port,
            dst_port,
        }),
    }
}

/// An ICMP error of that type and code about the packet `about`, quoting it whole.
pub fn error(src: Ip, dst: Ip, v4: (u8, u8), v6: (u8, u8), about: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match src.family() {
        Family::V4 => PacketBuilder::ipv4(src.octets_v4(), dst.octets_v4(), 64)
            .icmpv4_raw(v4.0, v4.1, [0; 4])
            .write(&mut bytes, about)
            .unwrap(),
        Family::V6 => PacketBuilder::ipv6(src.octets_v6(), dst.octets_v6(), 64)
            .icmpv6_raw(v6.0, v6.1, [0; 4])
            .write(&mut bytes, about)
            .unwrap(),
    }
    bytes
}

/// A UDP datagram cut into fragments whose packets carry at most `step` bytes (a multiple of 8) after the IP header.
pub fn fragments(packet: &Packet, id: u16, step: usize) -> Vec<Vec<u8>> {
    let whole = packet.build();
    let header_len = match packet.src.family() {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    let payload = &whole[header_len..];
    let count = payload.len().div_ceil(step);
    payload
        .chunks(step)
        .enumerate()
        .map(|(number, part)| {
            let more = number + 1 < count;
            let units = u16::try_from(number * step / 8).unwrap();
            let mut bytes = Vec::new();
            match packet.src.family() {
                Family::V4 => {
                    let mut header = etherparse::Ipv4Header::new(
                        u16::try_from(part.len()).unwrap(),
                        64,
                        IpNumber::UDP,
                        packet.src.octets_v4(),
                        packet.dst.octets_v4(),
                    )
                    .unwrap();
                    header.dont_fragment = false;
                    header.identification = id;
                    header.more_fragments = more;
                    header.fragment_offset = units.try_into().unwrap();
                    header.header_checksum = header.calc_header_checksum();
                    header.write(&mut bytes).unwrap();
                }
                Family::V6 => {
                    bytes.extend_from_slice(&whole[..40]);
                    bytes[6] = 44;
                    let len = u16::try_from(part.len() + 8).unwrap();
                    bytes[4..6].copy_from_slice(&len.to_be_bytes());
                    let field = units << 3 | u16::from(more);
                    bytes.extend_from_slice(&[17, 0]);
                    bytes.extend_from_slice(&field.to_be_bytes());
                    bytes.extend_from_slice(&u32::from(id).to_be_bytes());
                }
            }
            bytes.extend_from_slice(part);
            bytes
        })
        .collect()
}

/// Puts the fragments of one datagram together again, first to last, and reads the datagram.
pub fn reassembled(pieces: &[Packet]) -> Packet {
    let mut sorted: Vec<(u16, bool, &Vec<u8>)> = pieces
        .iter()
        .map(|piece| match &piece.content {
            Content::Fragment {
                offset,
                more,
                payload,
            } => (*offset, *more, payload),
            other => panic!("a fragment expected, got {other:?}"),
        })
        .collect();
    sorted.sort_unstable_by_key(|(offset, ..)| *offset);
    let mut payload = Vec::new();
    for (offset, more, part) in &sorted {
        assert_eq!(usize::from(*offset), payload.len(), "no hole");
        payload.extend_from_slice(part);
        assert_eq!(*more, *offset != sorted.last().unwrap().0);
    }
    let (src, dst) = (pieces[0].src, pieces[0].dst);
    let mut bytes = Vec::new();
    match src.family() {
        Family::V4 => etherparse::Ipv4Header::new(
            u16::try_from(payload.len()).unwrap(),
            64,
            IpNumber::UDP,
            src.octets_v4(),
            dst.octets_v4(),
        )
        .unwrap()
        .write(&mut bytes)
        .unwrap(),
        Family::V6 => etherparse::Ipv6Header {
            payload_length: u16::try_from(payload.len()).unwrap(),
            next_header: IpNumber::UDP,
            hop_limit: 64,
            source: src.octets_v6(),
            destination: dst.octets_v6(),
            ..Default::default()
        }
        .write(&mut bytes)
        .unwrap(),
    }
    bytes.extend_from_slice(&payload);
    Packet::read(&bytes)
}
