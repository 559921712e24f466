//! Packets as the tests want them, built by `etherparse`.

use etherparse::{
    Icmpv4Type, Icmpv6Type, IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv4Options,
    Ipv6Extensions, Ipv6Header, PacketBuilder, TcpHeader,
};
use sluice_wire::{Family, Ip};

/// The layer-4 protocols the gateway translates.
#[derive(Clone, Copy, Debug, Eq, PartialEq, bolero::TypeGenerator)]
pub(crate) enum L4 {
    Tcp,
    Udp,
    EchoRequest,
    EchoReply,
}

pub(crate) const L4_ALL: [L4; 4] = [L4::Tcp, L4::Udp, L4::EchoRequest, L4::EchoReply];

/// One packet; `build` gives its bytes with complete checksums.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) src: Ip,
    pub(crate) dst: Ip,
    pub(crate) l4: L4,
    pub(crate) src_port: u16,
    pub(crate) dst_port: u16,
    pub(crate) payload: Vec<u8>,
    /// IPv4 options (a multiple of 4 bytes).
    pub(crate) ipv4_options: Vec<u8>,
    pub(crate) extensions: Ipv6Extensions,
    pub(crate) tcp: TcpHeader,
    pub(crate) identification: u16,
    pub(crate) dont_fragment: bool,
}

pub(crate) fn ip(text: &str) -> Ip {
    text.parse().unwrap()
}

/// Two hosts of a family.
pub(crate) fn hosts(family: Family) -> (Ip, Ip) {
    match family {
        Family::V4 => (ip("10.18.0.2"), ip("10.30.0.1")),
        Family::V6 => (ip("fc00::2"), ip("fdff:2000::1")),
    }
}

/// The host `n` of a family, for generated cases.
pub(crate) fn host(family: Family, n: u64) -> Ip {
    match family {
        Family::V4 => Ip::v4([10, (n >> 16) as u8, (n >> 8) as u8, n as u8]),
        Family::V6 => Ip::from_bits(0xfd << 120 | u128::from(n)),
    }
}

impl Spec {
    pub(crate) fn new(family: Family, l4: L4) -> Self {
        let (src, dst) = hosts(family);
        Self {
            src,
            dst,
            l4,
            src_port: 40_000,
            dst_port: 80,
            payload: b"hello, world".to_vec(),
            ipv4_options: Vec::new(),
            extensions: Ipv6Extensions::default(),
            tcp: TcpHeader {
                sequence_number: 1000,
                acknowledgment_number: 77,
                ack: true,
                window_size: 500,
                ..TcpHeader::default()
            },
            identification: 7,
            dont_fragment: true,
        }
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let ip_headers = match (self.src.family(), self.dst.family()) {
            (Family::V4, Family::V4) => {
                let mut header = Ipv4Header::new(
                    0,
                    63,
                    IpNumber::TCP,
                    self.src.octets_v4(),
                    self.dst.octets_v4(),
                )
                .unwrap();
                header.options = Ipv4Options::try_from(self.ipv4_options.as_slice()).unwrap();
                header.identification = self.identification;
                header.dont_fragment = self.dont_fragment;
                header.fragment_offset = IpFragOffset::ZERO;
                IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
            }
            _ => IpHeaders::Ipv6(
                Ipv6Header {
                    hop_limit: 63,
                    source: self.src.octets_v6(),
                    destination: self.dst.octets_v6(),
                    ..Ipv6Header::default()
                },
                self.extensions.clone(),
            ),
        };
        let ip = PacketBuilder::ip(ip_headers);
        let mut bytes = Vec::new();
        let payload = &self.payload;
        let echo = etherparse::IcmpEchoHeader {
            id: self.src_port,
            seq: 3,
        };
        match (self.l4, self.src.family()) {
            (L4::Tcp, _) => {
                let mut tcp = self.tcp.clone();
                (tcp.source_port, tcp.destination_port) = (self.src_port, self.dst_port);
                ip.tcp_header(tcp).write(&mut bytes, payload)
            }
            (L4::Udp, _) => ip
                .udp(self.src_port, self.dst_port)
                .write(&mut bytes, payload),
            (L4::EchoRequest, Family::V4) => ip
                .icmpv4(Icmpv4Type::EchoRequest(echo))
                .write(&mut bytes, payload),
            (L4::EchoReply, Family::V4) => ip
                .icmpv4(Icmpv4Type::EchoReply(echo))
                .write(&mut bytes, payload),
            (L4::EchoRequest, Family::V6) => ip
                .icmpv6(Icmpv6Type::EchoRequest(echo))
                .write(&mut bytes, payload),
            (L4::EchoReply, Family::V6) => ip
                .icmpv6(Icmpv6Type::EchoReply(echo))
                .write(&mut bytes, payload),
        }
        .unwrap();
        bytes
    }
}

pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The Internet checksum in its plainest form: the slow way that fast ways are compared with.
pub(crate) fn slow_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}
