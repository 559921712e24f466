//! Parsing: every header form, lengths that contradict, and fragments.

use crate::packets::{FAMILIES, L4, L4_ALL, Spec, hosts, ip};
use etherparse::{
    IpAuthHeader, IpFragOffset, IpNumber, Ipv6FragmentHeader, Ipv6RawExtHeader,
    Ipv6RoutingExtensions,
};
use sluice_wire::{
    Address, DropReason, Family, FlowKey, Fragment, IcmpError, IcmpKind, Parsed, Protocol, parse,
    parse_quote, tcp_flag,
};

fn parsed(bytes: &[u8]) -> Parsed {
    parse(bytes).unwrap_or_else(|reason| panic!("{reason}: {bytes:02x?}"))
}

#[test]
fn every_protocol_in_both_families() {
    for family in FAMILIES {
        for l4 in L4_ALL {
            let spec = Spec::new(family, l4);
            let bytes = spec.build();
            let parsed = parsed(&bytes);
            let l3_len = if family == Family::V4 { 20 } else { 40 };
            let (protocol, l4_len, icmp) = match l4 {
                L4::Tcp => (Protocol::Tcp, 20, None),
                L4::Udp => (Protocol::Udp, 8, None),
                L4::EchoRequest => (Protocol::Icmp, 8, Some(IcmpKind::EchoRequest)),
                L4::EchoReply => (Protocol::Icmp, 8, Some(IcmpKind::EchoReply)),
            };
            let echo = icmp.is_some();
            let expected = Parsed {
                src: spec.src,
                dst: spec.dst,
                total_len: bytes.len() as u32,
                l3_len,
                l4_len,
                src_port: spec.src_port,
                dst_port: if echo { spec.src_port } else { spec.dst_port },
                family,
                protocol,
                hop_limit: 63,
                tcp_flags: if l4 == L4::Tcp { tcp_flag::ACK } else { 0 },
                dont_fragment: true,
                fragment: Fragment::Whole,
                icmp,
            };
            assert_eq!(parsed, expected);
            assert_eq!(parsed.payload_len(), spec.payload.len());
            assert_eq!(parsed.fragment_key(), None);
        }
    }
}

#[test]
fn trailing_bytes_are_not_the_packets() {
    for family in FAMILIES {
        for l4 in L4_ALL {
            let mut bytes = Spec::new(family, l4).build();
            let whole = parsed(&bytes);
            bytes.extend([0; 6]);
            assert_eq!(parsed(&bytes), whole);
        }
    }
}

/// Cut anywhere, a packet is refused by name; a quote of it is understood once ports are there.
#[test]
fn truncated_packets_are_malformed() {
    for family in FAMILIES {
        for l4 in L4_ALL {
            let bytes = Spec::new(family, l4).build();
            let whole = parsed(&bytes);
            for len in 1..bytes.len() {
                let cut = &bytes[..len];
                assert_eq!(parse(cut), Err(DropReason::Malformed), "{len} bytes");
                let quote = parse_quote(cut);
                if len < usize::from(whole.l3_len) + 8 {
                    assert_eq!(quote, Err(DropReason::Malformed));
                } else {
                    let quote = quote.unwrap();
                    assert_eq!(quote.flow_key(), whole.flow_key());
                    assert_eq!(quote.total_len as usize, len);
                    assert!(quote.header_len() <= len);
                }
            }
        }
    }
}

#[test]
fn other_versions_and_nothing_are_named() {
    assert_eq!(parse(&[]), Err(DropReason::Empty));
    for first in [0x00, 0x01, 0x35, 0x50, 0xff] {
        assert_eq!(parse(&[first; 64]), Err(DropReason::NotIp));
    }
}

#[test]
fn contradicting_headers_are_malformed() {
    let tcp4 = Spec::new(Family::V4, L4::Tcp).build();
    let tcp6 = Spec::new(Family::V6, L4::Tcp).build();
    let udp4 = Spec::new(Family::V4, L4::Udp).build();
    let udp6 = Spec::new(Family::V6, L4::Udp).build();
    for (what, packet, offset, value) in [
        ("header length of 16", &tcp4, 0, 0x44),
        ("header length past the packet", &tcp4, 0, 0x4f),
        ("total length below the header", &tcp4, 3, 19),
        ("total length above the buffer", &tcp4, 2, 1),
        ("TCP offset of 16", &tcp4, 32, 0x40),
        ("TCP offset past the packet", &tcp4, 32, 0xf0),
        ("TCP offset of 0 over IPv6", &tcp6, 52, 0x00),
        ("payload length above the buffer", &tcp6, 4, 1),
        ("UDP length of 7", &udp4, 25, 7),
        ("UDP length above the packet", &udp4, 24, 1),
        ("UDP length of 0 over IPv6", &udp6, 45, 0),
    ] {
        let mut bytes = packet.clone();
        bytes[offset] = value;
        assert_eq!(parse(&bytes), Err(DropReason::Malformed), "{what}");
    }
}

#[test]
fn a_mapped_address_in_an_ipv6_header_is_malformed() {
    let mut bytes = Spec::new(Family::V6, L4::Udp).build();
    bytes[8..24].copy_from_slice(&ip("10.18.0.2").octets_v6());
    assert_eq!(parse(&bytes), Err(DropReason::Malformed));
}

#[test]
fn ipv4_options_move_layer_4() {
    let mut spec = Spec::new(Family::V4, L4::Udp);
    spec.ipv4_options = vec![1; 40];
    let parsed = parsed(&spec.build());
    assert_eq!((parsed.l3_len, parsed.dst_port), (60, 80));
}

fn raw_extension(len: usize) -> Ipv6RawExtHeader {
    Ipv6RawExtHeader::new_raw(IpNumber::UDP, &vec![0; len - 2]).unwrap()
}

fn fragment_header(offset: u16, more: bool) -> Ipv6FragmentHeader {
    Ipv6FragmentHeader::new(
        IpNumber::UDP,
        IpFragOffset::try_new(offset / 8).unwrap(),
        more,
        0xdead_beef,
    )
}

#[test]
fn ipv6_extensions_are_skipped() {
    let routing = Ipv6RoutingExtensions {
        routing: Ipv6RawExtHeader::new_raw(IpNumber::UDP, &[0; 22]).unwrap(),
        final_destination_options: Some(raw_extension(8)),
    };
    let auth = IpAuthHeader::new(IpNumber::UDP, 1, 2, &[0; 12]).unwrap();
    let mut spec = Spec::new(Family::V6, L4::Udp);
    let mut expected = 40;
    for step in 0..5 {
        match step {
            0 => spec.extensions.hop_by_hop_options = Some(raw_extension(16)),
            1 => spec.extensions.destination_options = Some(raw_extension(2048)),
            2 => spec.extensions.routing = Some(routing.clone()),
            3 => spec.extensions.fragment = Some(fragment_header(0, false)),
            _ => spec.extensions.auth = Some(auth.clone()),
        }
        expected += [16, 2048, 24 + 8, 8, 24][step];
        let parsed = parsed(&spec.build());
        assert_eq!(usize::from(parsed.l3_len), expected, "step {step}");
        assert_eq!((parsed.protocol, parsed.dst_port), (Protocol::Udp, 80));
        // An atomic fragment (RFC 6946) is whole.
        assert_eq!(parsed.fragment, Fragment::Whole);
    }
}

#[test]
fn a_chain_of_extensions_ends() {
    let mut bytes = Spec::new(Family::V6, L4::Udp).build();
    // Destination options that name themselves as next header, up to the end of a large packet.
    bytes[6] = 60;
    bytes[4..6].copy_from_slice(&8000u16.to_be_bytes());
    bytes.truncate(40);
    bytes.extend([60, 0, 1, 4, 0, 0, 0, 0].repeat(1000));
    assert_eq!(parse(&bytes), Err(DropReason::Malformed));
}

#[test]
fn a_source_route_in_use_is_refused() {
    let mut spec = Spec::new(Family::V6, L4::Udp);
    spec.extensions.routing = Some(Ipv6RoutingExtensions {
        routing: Ipv6RawExtHeader::new_raw(IpNumber::UDP, &[0, 1, 0, 0, 0, 0]).unwrap(),
        final_destination_options: None,
    });
    assert_eq!(parse(&spec.build()), Err(DropReason::ProtocolUnsupported));
}

#[test]
fn other_protocols_are_left_to_the_caller() {
    for family in FAMILIES {
        // ESP, "no next header", SCTP, and the other family's ICMP.
        let foreign_icmp = if family == Family::V4 { 58 } else { 1 };
        for number in [50, 59, 132, foreign_icmp] {
            let mut bytes = Spec::new(family, L4::Udp).build();
            bytes[if family == Family::V4 { 9 } else { 6 }] = number;
            let parsed = parsed(&bytes);
            assert_eq!(parsed.protocol, Protocol::Other(number));
            assert_eq!(
                (parsed.l4_len, parsed.src_port, parsed.checksum_offset()),
                (0, 0, None)
            );
        }
    }
}

#[test]
fn ipv4_fragments() {
    let packet = Spec::new(Family::V4, L4::Udp).build();
    for (flags, fragment) in [
        (0x4000, Fragment::Whole),
        (0x2000, Fragment::First { id: 7 }),
        (
            0x2001,
            Fragment::Later {
                id: 7,
                offset: 8,
                more: true,
            },
        ),
        (
            0x1fff,
            Fragment::Later {
                id: 7,
                offset: 65_528,
                more: false,
            },
        ),
    ] {
        let mut bytes = packet.clone();
        bytes[6..8].copy_from_slice(&u16::to_be_bytes(flags));
        let parsed = parsed(&bytes);
        assert_eq!(parsed.fragment, fragment);
        assert_eq!(parsed.dont_fragment, flags == 0x4000);
        let later = matches!(fragment, Fragment::Later { .. });
        assert_eq!(parsed.src_port, if later { 0 } else { 40_000 });
        if fragment != Fragment::Whole {
            let key = parsed.fragment_key().unwrap();
            assert_eq!((key.id, key.protocol), (7, 17));
        }
    }
}

/// The first fragment's UDP length counts the whole datagram.
#[test]
fn a_first_fragment_may_be_longer_than_itself() {
    let mut bytes = Spec::new(Family::V4, L4::Udp).build();
    bytes[6] = 0x20;
    bytes[24..26].copy_from_slice(&60_008u16.to_be_bytes());
    assert_eq!(parsed(&bytes).fragment, Fragment::First { id: 7 });
    bytes[6] = 0;
    assert_eq!(parse(&bytes), Err(DropReason::Malformed));
}

#[test]
fn ipv6_fragments() {
    let id = 0xdead_beef;
    for (offset, more, expected) in [
        (0, true, Fragment::First { id }),
        (
            1448,
            true,
            Fragment::Later {
                id,
                offset: 1448,
                more: true,
            },
        ),
        (
            65_528,
            false,
            Fragment::Later {
                id,
                offset: 65_528,
                more: false,
            },
        ),
    ] {
        let mut spec = Spec::new(Family::V6, L4::Udp);
        spec.extensions.fragment = Some(fragment_header(offset, more));
        let parsed = parsed(&spec.build());
        assert_eq!(parsed.fragment, expected);
        assert_eq!(parsed.l3_len, 48);
        assert_eq!(parsed.has_ports(), offset == 0);
        let key = parsed.fragment_key().unwrap();
        assert_eq!((key.id, key.protocol), (id, 0));
    }
}

/// Behind a later fragment's header is payload, even where its next header names an extension.
#[test]
fn a_later_fragment_ends_the_chain() {
    let mut spec = Spec::new(Family::V6, L4::Udp);
    spec.extensions.fragment = Some(fragment_header(8, true));
    let mut bytes = spec.build();
    bytes[40] = 60;
    let parsed = parsed(&bytes);
    assert_eq!((parsed.l3_len, parsed.protocol), (48, Protocol::Other(60)));
}

#[test]
fn super_frames_up_to_the_last_length() {
    for family in FAMILIES {
        let mut spec = Spec::new(family, L4::Tcp);
        let headers = if family == Family::V4 { 40 } else { 20 };
        spec.payload = vec![9; 65_535 - headers];
        let bytes = spec.build();
        let parsed = parsed(&bytes);
        assert_eq!(parsed.total_len as usize, bytes.len());
        assert_eq!(parsed.payload_len(), spec.payload.len());
    }
}

#[test]
fn icmp_errors_of_both_families_mean_the_same() {
    use IcmpError::{ParameterProblem, TimeExceeded, TooBig, Unreachable};
    for (family, number, code, rest, expected) in [
        (Family::V4, 3, 1, 0, Unreachable { code: 1 }),
        (Family::V4, 3, 4, 1400, TooBig { mtu: 1400 }),
        (Family::V4, 11, 0, 0, TimeExceeded { code: 0 }),
        (Family::V4, 12, 0, 0, ParameterProblem { code: 0 }),
        (Family::V6, 1, 4, 0, Unreachable { code: 4 }),
        (Family::V6, 2, 0, 100_000, TooBig { mtu: 100_000 }),
        (Family::V6, 3, 1, 0, TimeExceeded { code: 1 }),
        (Family::V6, 4, 1, 0, ParameterProblem { code: 1 }),
    ] {
        let quote = Spec::new(family, L4::Udp);
        let mut outer = Spec::new(family, L4::EchoRequest);
        (outer.src, outer.dst) = (quote.dst, quote.src);
        outer.payload = quote.build();
        let mut bytes = outer.build();
        let l3_len = if family == Family::V4 { 20 } else { 40 };
        bytes[l3_len] = number;
        bytes[l3_len + 1] = code;
        bytes[l3_len + 4..l3_len + 8].copy_from_slice(&u32::to_be_bytes(rest));
        let outer = parsed(&bytes);
        assert_eq!(outer.icmp, Some(IcmpKind::Error(expected)));
        let inner = parse::quoted(&bytes, &outer).unwrap();
        assert_eq!((inner.src, inner.dst), hosts(family));
        assert_eq!((inner.src_port, inner.dst_port), (40_000, 80));
    }
}

#[test]
fn a_packet_without_a_quote_has_none_to_parse() {
    let bytes = Spec::new(Family::V4, L4::EchoRequest).build();
    let parsed = parsed(&bytes);
    assert_eq!(parsed.quote_range(), None);
    let quoted = parse::quoted(&bytes, &parsed);
    assert_eq!(quoted, Err(DropReason::Malformed));
}

#[test]
fn a_flow_key_survives_words_and_reversal() {
    bolero::check!()
        .with_type::<(u128, u128, u16, u16, u8)>()
        .for_each(|&(src, dst, src_port, dst_port, protocol)| {
            let key = FlowKey {
                src: sluice_wire::Ip::from_bits(src),
                dst: sluice_wire::Ip::from_bits(dst),
                src_port,
                dst_port,
                protocol,
            };
            assert_eq!(FlowKey::from_words(key.words()), key);
            assert_eq!(key.reversed().reversed(), key);
            #[expect(clippy::cast_possible_truncation, reason = "any address will do")]
            let v4 = FlowKey {
                src: sluice_wire::Ip::v4((src as u32).to_be_bytes()),
                dst: sluice_wire::Ip::v4((dst as u32).to_be_bytes()),
                ..key
            };
            assert_eq!(FlowKey::from_words(v4.words()), v4);
            assert_eq!(
                <u32 as Address>::ends(&v4.words()),
                [src as u32, dst as u32]
            );
        });
}
