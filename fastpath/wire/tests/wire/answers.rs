//! ICMP errors, resets and the MSS clamp.

use crate::packets::{FAMILIES, L4, L4_ALL, Spec, host, hosts, ip};
use etherparse::{SlicedPacket, TcpOptionElement, TransportSlice};
use sluice_wire::checksum::{complete_l4, partial_l4, verify_ipv4_header, verify_l4};
use sluice_wire::icmp_error::{
    ERROR_LEN_MAX_V6, RESET_LEN_MAX, Unreachable, tcp_reset, time_exceeded, too_big, unreachable,
};
use sluice_wire::{Family, IcmpError, IcmpKind, Parsed, mss, parse, tcp_flag};

/// A valid packet, by our own reading and by the other voice's.
fn is_right(bytes: &[u8]) -> Parsed {
    let parsed = parse(bytes).unwrap();
    assert!(verify_ipv4_header(bytes, &parsed) && verify_l4(bytes, &parsed));
    SlicedPacket::from_ip(bytes).unwrap();
    parsed
}

fn gateway(family: Family) -> sluice_wire::Ip {
    host(family, 1)
}

#[test]
fn errors_quote_the_packet_in_both_families() {
    type Answer = fn(&[u8], sluice_wire::Ip, sluice_wire::Ip, &mut [u8]) -> Option<usize>;
    let answers: [(Answer, IcmpError, IcmpError); 6] = [
        (
            |quote, from, to, out| unreachable(quote, from, to, Unreachable::Network, out),
            IcmpError::Unreachable { code: 0 },
            IcmpError::Unreachable { code: 0 },
        ),
        (
            |quote, from, to, out| unreachable(quote, from, to, Unreachable::Host, out),
            IcmpError::Unreachable { code: 1 },
            IcmpError::Unreachable { code: 3 },
        ),
        (
            |quote, from, to, out| unreachable(quote, from, to, Unreachable::Port, out),
            IcmpError::Unreachable { code: 3 },
            IcmpError::Unreachable { code: 4 },
        ),
        (
            |quote, from, to, out| unreachable(quote, from, to, Unreachable::Prohibited, out),
            IcmpError::Unreachable { code: 13 },
            IcmpError::Unreachable { code: 1 },
        ),
        (
            |quote, from, to, out| too_big(quote, from, to, 1400, out),
            IcmpError::TooBig { mtu: 1400 },
            IcmpError::TooBig { mtu: 1400 },
        ),
        (
            time_exceeded,
            IcmpError::TimeExceeded { code: 0 },
            IcmpError::TimeExceeded { code: 0 },
        ),
    ];
    for family in FAMILIES {
        for l4 in L4_ALL {
            for payload_len in [0, 12, 2000, 60_000] {
                let mut spec = Spec::new(family, l4);
                spec.payload = vec![7; payload_len];
                let packet = spec.build();
                for (answer, error_v4, error_v6) in answers {
                    let mut out = [0; ERROR_LEN_MAX_V6];
                    let len = answer(&packet, gateway(family), spec.src, &mut out).unwrap();
                    let (len_max, error) = match family {
                        Family::V4 => (576, error_v4),
                        Family::V6 => (1280, error_v6),
                    };
                    let bytes = &out[..len];
                    let parsed = is_right(bytes);
                    assert_eq!((parsed.src, parsed.dst), (gateway(family), spec.src));
                    assert_eq!(parsed.icmp, Some(IcmpKind::Error(error)));
                    let quote = &bytes[parsed.quote_range().unwrap()];
                    assert!(packet.starts_with(quote));
                    assert!(quote.len() == packet.len() || len == len_max);
                }
            }
        }
    }
}

#[test]
fn a_short_buffer_quotes_less_but_never_too_little() {
    let spec = Spec::new(Family::V4, L4::Tcp);
    let packet = spec.build();
    let answer = |len: usize| {
        let mut out = vec![0; len];
        time_exceeded(&packet, gateway(Family::V4), spec.src, &mut out)
    };
    assert_eq!(answer(55), None);
    assert_eq!(answer(56), Some(56));
    assert_eq!(answer(60), Some(60));
    assert_eq!(answer(2000), Some(28 + packet.len()));
}

/// RFC 1812 section 4.3.2.7 and RFC 4443 section 2.4 (e).
#[test]
fn what_must_not_be_answered_is_not() {
    let mut out = [0; ERROR_LEN_MAX_V6];
    for family in FAMILIES {
        let (src, dst) = hosts(family);
        let mut answer =
            |packet: &[u8]| unreachable(packet, gateway(family), src, Unreachable::Host, &mut out);
        let (bad_src, bad_dst): (&[&str], &[&str]) = match family {
            Family::V4 => (
                &[
                    "0.0.0.0",
                    "0.1.2.3",
                    "127.0.0.1",
                    "224.0.0.1",
                    "255.255.255.255",
                ],
                &["224.0.0.251", "239.1.1.1", "255.255.255.255"],
            ),
            Family::V6 => (&["::", "::1", "ff02::1"], &["ff02::1", "ff02::fb"]),
        };
        for bad in bad_src {
            let mut spec = Spec::new(family, L4::Udp);
            spec.src = ip(bad);
            assert_eq!(answer(&spec.build()), None, "from {bad}");
        }
        for bad in bad_dst {
            let mut spec = Spec::new(family, L4::Udp);
            spec.dst = ip(bad);
            assert_eq!(answer(&spec.build()), None, "to {bad}");
        }
        // An error about an error, and about a redirect or another message that is no echo.
        let mut error = [0; ERROR_LEN_MAX_V6];
        let packet = Spec::new(family, L4::Udp).build();
        let len = time_exceeded(&packet, dst, src, &mut error).unwrap();
        let l3_len = if family == Family::V4 { 20 } else { 40 };
        for number in [error[l3_len], 5, 137] {
            error[l3_len] = number;
            assert_eq!(answer(&error[..len]), None, "about type {number}");
        }
        // Garbage.
        for len in 0..packet.len().min(l3_len + 8) {
            assert_eq!(answer(&packet[..len]), None);
        }
    }
    let mut later = Spec::new(Family::V4, L4::Udp).build();
    later[6..8].copy_from_slice(&[0, 1]);
    let (src, dst) = hosts(Family::V4);
    assert_eq!(time_exceeded(&later, dst, src, &mut out), None);
    // The first fragment may be.
    later[6..8].copy_from_slice(&[0x20, 0]);
    assert!(time_exceeded(&later, dst, src, &mut out).is_some());
}

#[test]
fn addresses_of_the_other_family_get_no_answer() {
    let mut out = [0; ERROR_LEN_MAX_V6];
    let packet = Spec::new(Family::V4, L4::Udp).build();
    let (src_v6, dst_v6) = hosts(Family::V6);
    assert_eq!(time_exceeded(&packet, dst_v6, src_v6, &mut out), None);
}

/// RFC 9293 section 3.10.7.1, CLOSED state.
#[test]
fn a_reset_is_one_that_the_caller_believes() {
    for family in FAMILIES {
        let mut syn = Spec::new(family, L4::Tcp);
        (syn.tcp.syn, syn.tcp.ack, syn.payload) = (true, false, vec![]);
        let mut fin = Spec::new(family, L4::Tcp);
        (fin.tcp.fin, fin.tcp.ack) = (true, false);
        let data = Spec::new(family, L4::Tcp);
        for (spec, sequence, acknowledgment) in [
            (syn, 0, Some(1001)),
            (fin, 0, Some(1000 + 12 + 1)),
            (data, 77, None),
        ] {
            let packet = spec.build();
            let parsed = parse(&packet).unwrap();
            let mut out = [0; RESET_LEN_MAX];
            let len = tcp_reset(&packet, &parsed, &mut out).unwrap();
            let reset = is_right(&out[..len]);
            assert_eq!(reset.flow_key(), parsed.flow_key().reversed());
            let sliced = SlicedPacket::from_ip(&out[..len]).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
                panic!("no TCP: {sliced:?}")
            };
            assert_eq!(tcp.sequence_number(), sequence);
            assert_eq!(
                tcp.ack().then(|| tcp.acknowledgment_number()),
                acknowledgment
            );
            assert!(tcp.rst() && !tcp.syn() && !tcp.fin());
        }
    }
}

#[test]
fn a_reset_is_never_answered_nor_is_anything_but_tcp() {
    let mut out = [0; RESET_LEN_MAX];
    for family in FAMILIES {
        let mut reset = Spec::new(family, L4::Tcp);
        reset.tcp.rst = true;
        let mut group = Spec::new(family, L4::Tcp);
        group.dst = ip(if family == Family::V4 {
            "224.0.0.1"
        } else {
            "ff02::1"
        });
        for spec in [reset, group, Spec::new(family, L4::Udp)] {
            let packet = spec.build();
            let parsed = parse(&packet).unwrap();
            assert_eq!(tcp_reset(&packet, &parsed, &mut out), None);
        }
        let packet = Spec::new(family, L4::Tcp).build();
        let parsed = parse(&packet).unwrap();
        assert_eq!(tcp_reset(&packet, &parsed, &mut out[..39]), None);
    }
}

/// How long the segment is that begins in a fragment is not known, so neither is what to acknowledge.
#[test]
fn a_fragment_is_not_reset() {
    let mut packet = Spec::new(Family::V4, L4::Tcp).build();
    packet[6..8].copy_from_slice(&[0x20, 0]);
    let parsed = parse(&packet).unwrap();
    let mut out = [0; RESET_LEN_MAX];
    assert_eq!(tcp_reset(&packet, &parsed, &mut out), None);
}

fn syn(family: Family, options: &[TcpOptionElement]) -> Vec<u8> {
    let mut spec = Spec::new(family, L4::Tcp);
    spec.tcp.syn = true;
    spec.tcp.set_options(options).unwrap();
    spec.build()
}

/// The other voice's reading of the MSS option.
fn mss_of(bytes: &[u8]) -> Option<u16> {
    let sliced = SlicedPacket::from_ip(bytes).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
        return None;
    };
    for option in tcp.options_iterator().flatten() {
        if let TcpOptionElement::MaximumSegmentSize(mss) = option {
            return Some(mss);
        }
    }
    None
}

#[test]
fn the_mss_is_lowered_and_the_checksum_follows() {
    use TcpOptionElement::{
        MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp,
    };
    let odd = [Noop, MaximumSegmentSize(1460), Noop];
    let last = [
        Timestamp(1, 0),
        SelectiveAcknowledgementPermitted,
        MaximumSegmentSize(1460),
    ];
    for family in FAMILIES {
        for options in [&[MaximumSegmentSize(1460)][..], &odd, &last] {
            for (limit, expected) in [(1380, 1380), (1460, 1460), (9000, 1460), (0x0102, 0x0102)] {
                let mut bytes = syn(family, options);
                let parsed = parse(&bytes).unwrap();
                assert_eq!(mss::value(&bytes, &parsed), Some(1460));
                let changed = mss::clamp(&mut bytes, &parsed, limit, true);
                assert_eq!(changed, expected != 1460);
                assert_eq!(mss_of(&bytes), Some(expected));
                is_right(&bytes);

                let mut partial = syn(family, options);
                partial_l4(&mut partial, &parsed);
                mss::clamp(&mut partial, &parsed, limit, false);
                complete_l4(&mut partial, &parsed);
                assert_eq!(partial, bytes);
            }
        }
    }
    assert_eq!(
        (mss::limit(Family::V4, 1420), mss::limit(Family::V6, 1420)),
        (1380, 1360)
    );
}

#[test]
fn what_has_no_mss_is_left_alone() {
    let mut spec = Spec::new(Family::V4, L4::Tcp);
    spec.tcp
        .set_options(&[TcpOptionElement::MaximumSegmentSize(1460)])
        .unwrap();
    let not_syn = spec.build();
    let none = syn(Family::V6, &[TcpOptionElement::Timestamp(1, 2)]);
    // Options that end before the end, are cut off, or have a length of 0 or 1.
    let mut endless = syn(Family::V4, &[TcpOptionElement::MaximumSegmentSize(1460)]);
    endless[40..44].copy_from_slice(&[8, 0, 5, 180]);
    let mut ended = endless.clone();
    ended[40] = 0;
    let mut cut = endless.clone();
    cut[40..44].copy_from_slice(&[1, 1, 1, 2]);
    for packet in [
        not_syn,
        none,
        endless,
        ended,
        cut,
        Spec::new(Family::V4, L4::Udp).build(),
    ] {
        let parsed = parse(&packet).unwrap();
        let mut bytes = packet.clone();
        assert!(!mss::clamp(&mut bytes, &parsed, 536, true));
        assert_eq!(mss::value(&bytes, &parsed), None);
        assert_eq!(bytes, packet);
    }
    assert_eq!(tcp_flag::SYN | tcp_flag::ACK, 0x12);
}
