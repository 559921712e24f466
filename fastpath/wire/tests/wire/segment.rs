//! Cutting and joining super-frames: what one side makes, the other undoes.

use crate::packets::{FAMILIES, L4, Spec, host, slow_sum};
use bolero::TypeGenerator;
use etherparse::{SlicedPacket, TcpOptionElement, TransportSlice};
use sluice_wire::checksum::{partial_l4, verify_ipv4_header, verify_l4};
use sluice_wire::segment::{Cutter, HEADER_LEN_MAX, Joined, Run};
use sluice_wire::{Family, Rewrite, parse, rewrite, tcp_flag};

/// Cuts a super-frame into packets, each of which is checked.
fn cut(bytes: &[u8], segment_size: u16) -> Vec<Vec<u8>> {
    let parsed = parse(bytes).unwrap();
    let cutter = Cutter::new(bytes, &parsed, segment_size).unwrap();
    let payload = &bytes[parsed.header_len()..parsed.total_len as usize];
    // In any order: a header does not depend on those before it.
    let mut packets: Vec<_> = (0..cutter.segments())
        .rev()
        .map(|index| {
            let payload = &payload[cutter.payload(index)];
            let mut header = [0xee; HEADER_LEN_MAX];
            let len = cutter.header(index, payload, &mut header).unwrap();
            assert_eq!(len, cutter.header_len());
            let packet = [&header[..len], payload].concat();
            let parsed = parse(&packet).unwrap();
            assert_eq!(parsed.total_len as usize, packet.len());
            assert!(verify_ipv4_header(&packet, &parsed));
            assert!(verify_l4(&packet, &parsed));
            packet
        })
        .collect();
    packets.reverse();
    packets
}

/// Joins packets as a link does: one after the other in a buffer. `None` when any of them is not taken.
fn join(packets: &[Vec<u8>]) -> Option<(Vec<u8>, Joined)> {
    let (first, rest) = packets.split_first()?;
    let mut run = Run::start(first, &parse(first).unwrap())?;
    for next in rest {
        if !run.join(first, next, &parse(next).unwrap()) {
            return None;
        }
    }
    assert_eq!(run.packets() as usize, packets.len());
    let mut train = packets.concat();
    let joined = run.finish(&mut train)?;
    // Take the headers of all but the first out, as the kernel sees it.
    let header_len = joined.parsed.header_len();
    let mut bytes = train[..first.len()].to_vec();
    for next in rest {
        bytes.extend(&next[header_len..]);
    }
    assert_eq!(parse(&bytes).unwrap(), joined.parsed);
    Some((bytes, joined))
}

#[derive(Clone, Debug, TypeGenerator)]
struct Case {
    v6: bool,
    udp: bool,
    sequence: u32,
    identification: u16,
    dont_fragment: bool,
    payload: Vec<u8>,
    repeat: u8,
    segment_size: u16,
    fin: bool,
    psh: bool,
    ece: bool,
    timestamp: Option<(u32, u32)>,
}

impl Case {
    fn spec(&self) -> Spec {
        let family = if self.v6 { Family::V6 } else { Family::V4 };
        let mut spec = Spec::new(family, if self.udp { L4::Udp } else { L4::Tcp });
        spec.identification = self.identification;
        spec.dont_fragment = self.dont_fragment;
        spec.payload = self.payload.repeat(usize::from(self.repeat) + 1);
        spec.payload.push(1);
        spec.payload.truncate(60_000);
        let tcp = &mut spec.tcp;
        tcp.sequence_number = self.sequence;
        (tcp.fin, tcp.psh, tcp.ece) = (self.fin, self.psh, self.ece);
        if let Some((value, echo)) = self.timestamp {
            tcp.set_options(&[
                TcpOptionElement::Noop,
                TcpOptionElement::Noop,
                TcpOptionElement::Timestamp(value, echo),
            ])
            .unwrap();
        }
        spec
    }

    fn segment_size(&self) -> u16 {
        self.segment_size % 9000 + 1
    }
}

/// A super-frame as a local stack hands it over: its layer-4 checksum partial.
fn super_frame(spec: &Spec) -> Vec<u8> {
    let mut bytes = spec.build();
    let parsed = parse(&bytes).unwrap();
    partial_l4(&mut bytes, &parsed);
    bytes
}

#[test]
fn cut_then_join_is_identity() {
    bolero::check!().with_type::<Case>().for_each(|case| {
        let frame = super_frame(&case.spec());
        let packets = cut(&frame, case.segment_size());
        if packets.len() < 2 {
            // Nothing was cut, and a lone packet is no super-frame.
            assert!(join(&packets).is_none());
            return;
        }
        let (bytes, joined) = join(&packets).expect("what was cut can be joined");
        assert_eq!(bytes, frame, "{case:?}");
        assert_eq!(joined.segment_size, case.segment_size());
        assert_eq!(joined.packets as usize, packets.len());
    });
}

#[test]
fn join_then_rewrite_then_cut_is_rewriting_each() {
    bolero::check!().with_type::<Case>().for_each(|case| {
        let family = if case.v6 { Family::V6 } else { Family::V4 };
        let to = Rewrite {
            src: Some(host(family, 77)),
            dst: Some(host(family, 78)),
            src_port: Some(1),
            dst_port: None,
        };
        let packets = cut(&super_frame(&case.spec()), case.segment_size());
        let Some((mut bytes, joined)) = join(&packets) else {
            return;
        };
        rewrite(&mut bytes, &joined.parsed, false, &to);
        let cut = cut(&bytes, joined.segment_size);
        assert_eq!(cut.len(), packets.len());
        for (cut, mut packet) in cut.into_iter().zip(packets) {
            let parsed = parse(&packet).unwrap();
            rewrite(&mut packet, &parsed, true, &to);
            let at = parsed.checksum_offset().unwrap();
            let number = |bytes: &[u8]| slow_sum(&bytes[at..at + 2]) % 0xffff;
            assert_eq!(number(&cut), number(&packet));
            packet[at..at + 2].copy_from_slice(&cut[at..at + 2]);
            assert_eq!(cut, packet);
        }
    });
}

#[test]
fn flags_identifications_and_sequence_numbers_of_segments() {
    for family in FAMILIES {
        let mut spec = Spec::new(family, L4::Tcp);
        spec.payload = (0..10).collect();
        spec.identification = 0xffff;
        spec.tcp.sequence_number = u32::MAX - 3;
        (spec.tcp.fin, spec.tcp.psh, spec.tcp.cwr, spec.tcp.ece) = (true, true, true, true);
        let packets = cut(&super_frame(&spec), 4);
        let common = tcp_flag::ACK | tcp_flag::ECE;
        let flags = [
            common | tcp_flag::CWR,
            common,
            common | tcp_flag::FIN | tcp_flag::PSH,
        ];
        let payloads: [&[u8]; 3] = [&[0, 1, 2, 3], &[4, 5, 6, 7], &[8, 9]];
        for (i, packet) in packets.iter().enumerate() {
            let sliced = SlicedPacket::from_ip(packet).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
                panic!("no TCP: {sliced:?}")
            };
            assert_eq!(tcp.payload(), payloads[i]);
            assert_eq!(tcp.sequence_number(), [u32::MAX - 3, 0, 4][i]);
            assert_eq!(parse(packet).unwrap().tcp_flags, flags[i]);
            if family == Family::V4 {
                assert_eq!(packet[4..6], u16::to_be_bytes([0xffff, 0, 1][i]));
            }
        }
        assert_eq!(packets.len(), 3);
    }
}

/// Of the 65,536 values of one payload word, one makes the sum of a segment what would be sent as 0.
#[test]
fn a_computed_zero_udp_checksum_is_sent_as_ones() {
    for family in FAMILIES {
        let frame = super_frame(&Spec::new(family, L4::Udp));
        let parsed = parse(&frame).unwrap();
        let cutter = Cutter::new(&frame, &parsed, 2).unwrap();
        let checksum = |word: u16| {
            let mut header = [0; HEADER_LEN_MAX];
            let len = cutter.header(0, &word.to_be_bytes(), &mut header).unwrap();
            [header[len - 2], header[len - 1]]
        };
        let ones = (0..=u16::MAX).filter(|&word| {
            assert_ne!(checksum(word), [0, 0]);
            checksum(word) == [0xff, 0xff]
        });
        assert!((1..=2).contains(&ones.count()));
    }
}

#[test]
fn ip_options_and_extensions_are_in_every_segment() {
    let mut v4 = Spec::new(Family::V4, L4::Udp);
    v4.ipv4_options = vec![1; 8];
    let mut v6 = Spec::new(Family::V6, L4::Tcp);
    v6.extensions.destination_options =
        Some(etherparse::Ipv6RawExtHeader::new_raw(etherparse::IpNumber::TCP, &[0; 6]).unwrap());
    for spec in [v4, v6] {
        let frame = super_frame(&spec);
        let l3_len = usize::from(parse(&frame).unwrap().l3_len);
        for packet in cut(&frame, 5) {
            assert_eq!(parse(&packet).unwrap().l3_len, l3_len as u16);
        }
        // They are cut, but not joined: rare, and compared by nobody.
        assert!(join(&cut(&frame, 5)).is_none());
    }
}

#[test]
fn a_cutter_refuses_what_it_cannot_cut() {
    let tcp = Spec::new(Family::V4, L4::Tcp).build();
    let parsed = parse(&tcp).unwrap();
    assert!(Cutter::new(&tcp, &parsed, 0).is_none());
    assert!(Cutter::new(&tcp[..39], &parsed, 5).is_none());
    let cutter = Cutter::new(&tcp, &parsed, 5).unwrap();
    assert_eq!((cutter.segments(), cutter.payload(2)), (3, 10..12));
    assert!(cutter.payload(3).is_empty() && cutter.payload(usize::MAX).is_empty());
    let mut out = [0; HEADER_LEN_MAX];
    assert_eq!(cutter.header(3, &[], &mut out), None);
    assert_eq!(cutter.header(2, &[0; 5], &mut out), None);
    assert_eq!(cutter.header(0, &[0; 5], &mut out[..39]), None);
    assert_eq!(cutter.header(0, &[0; 5], &mut out), Some(40));
    let mut long = Spec::new(Family::V6, L4::Udp);
    long.extensions.destination_options =
        Some(etherparse::Ipv6RawExtHeader::new_raw(etherparse::IpNumber::UDP, &[0; 94]).unwrap());
    for spec in [long, Spec::new(Family::V4, L4::EchoRequest)] {
        let bytes = spec.build();
        assert!(Cutter::new(&bytes, &parse(&bytes).unwrap(), 5).is_none());
    }
    let mut empty = Spec::new(Family::V4, L4::Tcp);
    empty.payload.clear();
    assert_eq!(cut(&empty.build(), 5), [empty.build()]);
}

/// Each row changes the second of two packets that would be joined, and says whether they still are.
#[test]
fn only_what_one_header_can_say_is_joined() {
    type Change = fn(&mut Spec);
    let tcp: [(&str, Change, bool); 19] = [
        ("nothing", |_| {}, true),
        ("PSH", |s| s.tcp.psh = true, true),
        ("FIN", |s| s.tcp.fin = true, true),
        ("shorter", |s| s.payload.truncate(3), true),
        ("longer", |s| s.payload.push(0), false),
        ("empty", |s| s.payload.clear(), false),
        ("a gap", |s| s.tcp.sequence_number += 1, false),
        ("an overlap", |s| s.tcp.sequence_number -= 1, false),
        ("SYN", |s| s.tcp.syn = true, false),
        ("RST", |s| s.tcp.rst = true, false),
        ("URG", |s| s.tcp.urg = true, false),
        ("CWR", |s| s.tcp.cwr = true, false),
        ("ECE", |s| s.tcp.ece = true, false),
        ("NS", |s| s.tcp.ns = true, false),
        ("no ACK", |s| s.tcp.ack = false, false),
        (
            "acknowledgment",
            |s| s.tcp.acknowledgment_number += 1,
            false,
        ),
        ("window", |s| s.tcp.window_size += 1, false),
        (
            "options",
            |s| {
                s.tcp
                    .set_options(&[TcpOptionElement::Timestamp(1, 2)])
                    .unwrap()
            },
            false,
        ),
        ("urgent pointer", |s| s.tcp.urgent_pointer = 1, false),
    ];
    let both: [(&str, Change, bool); 6] = [
        ("source port", |s| s.src_port += 1, false),
        ("destination port", |s| s.dst_port += 1, false),
        ("source", |s| s.src = host(s.src.family(), 5), false),
        ("destination", |s| s.dst = host(s.src.family(), 5), false),
        ("identification under DF", |s| s.identification += 9, true),
        ("DF", |s| s.dont_fragment = false, false),
    ];
    for family in FAMILIES {
        for l4 in [L4::Tcp, L4::Udp] {
            let rows = tcp.iter().take(if l4 == L4::Tcp { 19 } else { 0 });
            for (what, change, joined) in rows.chain(&both) {
                let first = Spec::new(family, l4);
                let mut next = first.clone();
                next.identification += 1;
                next.tcp.sequence_number += first.payload.len() as u32;
                change(&mut next);
                // IPv6 has no DF to differ in.
                let joined = *joined || (*what == "DF" && family == Family::V6);
                let result = join(&[first.build(), next.build()]);
                assert_eq!(result.is_some(), joined, "{family:?} {l4:?}: {what}");
            }
        }
    }
}

#[test]
fn without_df_identifications_must_count_up() {
    for (step, joined) in [(0, false), (1, true), (2, false)] {
        let mut first = Spec::new(Family::V4, L4::Udp);
        first.dont_fragment = false;
        let mut next = first.clone();
        next.identification += step;
        assert_eq!(join(&[first.build(), next.build()]).is_some(), joined);
    }
}

/// Bytes of the second packet's header, changed with its checksums made right again.
#[test]
fn header_fields_that_no_builder_sets_are_compared_too() {
    for family in FAMILIES {
        let first = Spec::new(family, L4::Udp).build();
        let (service, hop_limit) = if family == Family::V4 { (1, 8) } else { (1, 7) };
        for offset in [service, hop_limit] {
            let mut next = first.clone();
            next[offset] ^= 1;
            let parsed = parse(&next).unwrap();
            sluice_wire::checksum::complete_ipv4_header(&mut next, &parsed);
            assert!(join(&[first.clone(), next]).is_none(), "byte {offset}");
        }
    }
}

#[test]
fn a_run_ends_where_its_header_ends_to_be_true() {
    for last in ["short", "psh", "fin"] {
        let mut first = Spec::new(Family::V4, L4::Tcp);
        let mut second = first.clone();
        match last {
            "short" => {
                first.payload.push(0);
            }
            "psh" => second.tcp.psh = true,
            _ => second.tcp.fin = true,
        }
        second.tcp.sequence_number += first.payload.len() as u32;
        let mut third = second.clone();
        third.tcp.sequence_number += second.payload.len() as u32;
        let (first, second, third) = (first.build(), second.build(), third.build());
        assert!(join(&[first.clone(), second.clone()]).is_some(), "{last}");
        assert!(join(&[first, second, third]).is_none(), "{last}");
    }
}

#[test]
fn nothing_follows_a_first_packet_with_psh_or_fin() {
    for psh in [true, false] {
        let mut first = Spec::new(Family::V4, L4::Tcp);
        (first.tcp.psh, first.tcp.fin) = (psh, !psh);
        let mut next = first.clone();
        next.tcp.sequence_number += first.payload.len() as u32;
        let bytes = first.build();
        assert!(Run::start(&bytes, &parse(&bytes).unwrap()).is_some_and(|run| run.is_closed()));
        assert!(join(&[bytes, next.build()]).is_none());
    }
}

#[test]
fn what_cannot_begin_a_run() {
    let start = |bytes: &[u8]| Run::start(bytes, &parse(bytes).unwrap()).is_some();
    for family in FAMILIES {
        assert!(start(&Spec::new(family, L4::Tcp).build()));
        assert!(!start(&Spec::new(family, L4::EchoRequest).build()));
        let mut udp = Spec::new(family, L4::Udp).build();
        assert!(start(&udp));
        let at = parse(&udp).unwrap().checksum_offset().unwrap();
        udp[at..at + 2].fill(0);
        assert!(!start(&udp), "no checksum to have verified");
        let mut no_ack = Spec::new(family, L4::Tcp);
        no_ack.tcp.ack = false;
        assert!(!start(&no_ack.build()), "no ACK");
        let mut shorter = Spec::new(family, L4::Udp).build();
        shorter[at - 1] -= 2;
        let parsed = parse(&shorter).unwrap();
        sluice_wire::checksum::complete_l4(&mut shorter, &parsed);
        assert!(verify_l4(&shorter, &parsed));
        assert!(!start(&shorter), "bytes after the datagram's end");
        let mut trailing = Spec::new(family, L4::Tcp).build();
        trailing.push(0);
        assert!(!start(&trailing), "bytes after its end");
    }
    let mut damaged = Spec::new(Family::V4, L4::Tcp).build();
    damaged[10] ^= 1;
    assert!(!start(&damaged), "wrong IPv4 header checksum");
    let mut fragment = Spec::new(Family::V4, L4::Udp).build();
    fragment[6] = 0x20;
    let parsed = parse(&fragment).unwrap();
    sluice_wire::checksum::complete_ipv4_header(&mut fragment, &parsed);
    assert!(!start(&fragment), "a fragment");
}

#[test]
fn a_super_frame_never_exceeds_a_total_length() {
    for family in FAMILIES {
        let mut spec = Spec::new(family, L4::Tcp);
        spec.payload = vec![1; 1400];
        let first = spec.build();
        let mut run = Run::start(&first, &parse(&first).unwrap()).unwrap();
        let mut count = 1;
        loop {
            spec.tcp.sequence_number += 1400;
            let next = spec.build();
            if !run.join(&first, &next, &parse(&next).unwrap()) {
                break;
            }
            count += 1;
        }
        assert_eq!(count, 46);
        let mut train = first.repeat(46);
        let joined = run.finish(&mut train).unwrap();
        assert!(joined.parsed.total_len <= 65_535);
        assert_eq!(joined.checksum_offset, 16);
    }
}
