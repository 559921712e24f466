//! Rewriting: the packet after it equals the packet built anew, checksums included.

use crate::packets::{FAMILIES, L4, L4_ALL, Spec, host, hosts, slow_sum};
use bolero::TypeGenerator;
use sluice_wire::checksum::{
    self, complete_ipv4_header, complete_l4, partial_l4, verify_ipv4_header, verify_l4,
};
use sluice_wire::{Family, Fragment, Parsed, Rewrite, parse, rewrite, rewrite_quote};

#[derive(Clone, Debug, TypeGenerator)]
struct Case {
    v6: bool,
    l4: L4,
    addresses: (u64, u64),
    ports: (u16, u16),
    new_src: Option<u64>,
    new_dst: Option<u64>,
    new_src_port: Option<u16>,
    new_dst_port: Option<u16>,
    payload: Vec<u8>,
    options: bool,
}

impl Case {
    fn spec(&self) -> Spec {
        let family = if self.v6 { Family::V6 } else { Family::V4 };
        let mut spec = Spec::new(family, self.l4);
        spec.src = host(family, self.addresses.0);
        spec.dst = host(family, self.addresses.1);
        (spec.src_port, spec.dst_port) = self.ports;
        spec.payload.clone_from(&self.payload);
        if self.options {
            spec.ipv4_options = vec![1; 12];
        }
        spec
    }

    fn rewrite(&self) -> Rewrite {
        let family = if self.v6 { Family::V6 } else { Family::V4 };
        Rewrite {
            src: self.new_src.map(|n| host(family, n)),
            dst: self.new_dst.map(|n| host(family, n)),
            src_port: self.new_src_port,
            dst_port: self.new_dst_port,
        }
    }

    /// The packet built anew with what `rewrite` wants.
    fn rewritten_spec(&self) -> Spec {
        let (mut spec, to) = (self.spec(), self.rewrite());
        spec.src = to.src.unwrap_or(spec.src);
        spec.dst = to.dst.unwrap_or(spec.dst);
        match self.l4 {
            L4::Tcp | L4::Udp => {
                spec.src_port = to.src_port.unwrap_or(spec.src_port);
                spec.dst_port = to.dst_port.unwrap_or(spec.dst_port);
            }
            L4::EchoRequest => {
                spec.src_port = to.src_port.or(to.dst_port).unwrap_or(spec.src_port);
            }
            L4::EchoReply => {
                spec.src_port = to.dst_port.or(to.src_port).unwrap_or(spec.src_port);
            }
        }
        spec
    }
}

fn is_right(bytes: &[u8]) -> Parsed {
    let parsed = parse(bytes).unwrap();
    assert!(verify_ipv4_header(bytes, &parsed));
    assert!(verify_l4(bytes, &parsed));
    parsed
}

#[test]
fn update_equals_recompute() {
    bolero::check!().with_type::<Case>().for_each(|case| {
        let mut bytes = case.spec().build();
        let before = is_right(&bytes);
        let to = case.rewrite();
        rewrite(&mut bytes, &before, true, &to);
        let mut expected = case.rewritten_spec().build();
        if checksums_equal(&bytes, &expected) {
            expected.clone_from(&bytes);
        }
        assert_eq!(bytes, expected, "{case:?}");
        assert_eq!(parse(&bytes).unwrap(), before.rewritten(&to));
        is_right(&bytes);
        // And the other way of saying it: a full computation changes nothing.
        let after = before.rewritten(&to);
        complete_ipv4_header(&mut expected, &after);
        complete_l4(&mut expected, &after);
        assert_eq!(bytes, expected, "{case:?}");
    });
}

/// Whether two packets differ at most in a TCP or ICMP checksum of 0 against 0xffff, which are the same number.
fn checksums_equal(a: &[u8], b: &[u8]) -> bool {
    let parsed = parse(a).unwrap();
    let at = parsed.checksum_offset().unwrap();
    let differ = |i: &usize| a[*i] != b[*i];
    (0..a.len().min(b.len()))
        .filter(differ)
        .all(|i| i == at || i == at + 1)
        && slow_sum(&a[at..at + 2]) % 0xffff == slow_sum(&b[at..at + 2]) % 0xffff
        && a.len() == b.len()
}

/// A partial checksum that is rewritten and then completed by whoever sends the frame is the complete one.
#[test]
fn partial_update_equals_recompute() {
    bolero::check!().with_type::<Case>().for_each(|case| {
        let mut bytes = case.spec().build();
        let before = parse(&bytes).unwrap();
        partial_l4(&mut bytes, &before);
        let to = case.rewrite();
        rewrite(&mut bytes, &before, false, &to);
        let after = before.rewritten(&to);
        assert_eq!(parse(&bytes).unwrap(), after);
        finish_partial(&mut bytes, &after);
        is_right(&bytes);
    });
}

/// What hardware does with a partial checksum: sum from the start of layer 4, field included, store the complement.
fn finish_partial(bytes: &mut [u8], parsed: &Parsed) {
    let at = parsed.checksum_offset().unwrap();
    let sum = slow_sum(&bytes[usize::from(parsed.l3_len)..]);
    bytes[at..at + 2].copy_from_slice(&(!sum).to_be_bytes());
}

#[test]
fn the_reverse_rewrite_restores_the_bytes() {
    bolero::check!().with_type::<Case>().for_each(|case| {
        let bytes = case.spec().build();
        let before = parse(&bytes).unwrap();
        let to = case.rewrite();
        let back = Rewrite {
            src: to.src.map(|_| before.src),
            dst: to.dst.map(|_| before.dst),
            src_port: to.src_port.map(|_| before.src_port),
            dst_port: to.dst_port.map(|_| before.dst_port),
        };
        for complete in [true, false] {
            let mut there = bytes.clone();
            if !complete {
                partial_l4(&mut there, &before);
            }
            let original = there.clone();
            rewrite(&mut there, &before, complete, &to);
            rewrite(&mut there, &before.rewritten(&to), complete, &back);
            assert!(there == original || checksums_equal(&there, &original));
        }
    });
}

/// A packet damaged before stays damaged: nobody recomputes what was wrong.
#[test]
fn damage_is_not_repaired() {
    for family in FAMILIES {
        for l4 in L4_ALL {
            let spec = Spec::new(family, l4);
            let mut bytes = spec.build();
            let parsed = parse(&bytes).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            let to = Rewrite {
                src: Some(host(family, 9)),
                dst: Some(host(family, 10)),
                src_port: Some(1),
                dst_port: None,
            };
            rewrite(&mut bytes, &parsed, true, &to);
            assert!(!verify_l4(&bytes, &parse(&bytes).unwrap()));
        }
    }
}

#[test]
fn a_zero_udp_checksum_stays_zero_and_a_computed_zero_is_sent_as_ones() {
    let mut bytes = Spec::new(Family::V4, L4::Udp).build();
    bytes[26..28].fill(0);
    let parsed = parse(&bytes).unwrap();
    assert!(verify_l4(&bytes, &parsed));
    let to = Rewrite {
        dst: Some(host(Family::V4, 1)),
        ..Rewrite::default()
    };
    rewrite(&mut bytes, &parsed, true, &to);
    assert_eq!(bytes[26..28], [0, 0]);
    // A zero checksum over IPv6 is wrong.
    let mut bytes = Spec::new(Family::V6, L4::Udp).build();
    bytes[46..48].fill(0);
    assert!(!verify_l4(&bytes, &parse(&bytes).unwrap()));

    for family in FAMILIES {
        let mut zeroes = 0;
        for port in 0..=u16::MAX {
            let mut bytes = Spec::new(family, L4::Udp).build();
            let parsed = parse(&bytes).unwrap();
            let to = Rewrite {
                src_port: Some(port),
                ..Rewrite::default()
            };
            rewrite(&mut bytes, &parsed, true, &to);
            let at = parsed.checksum_offset().unwrap();
            assert_ne!(bytes[at..at + 2], [0, 0]);
            zeroes += u32::from(bytes[at..at + 2] == [0xff, 0xff]);
            if port % 1021 == 0 || bytes[at..at + 2] == [0xff, 0xff] {
                is_right(&bytes);
            }
        }
        // Two ports apart by 0xffff are the same number: 0 and 0xffff.
        assert!((1..=2).contains(&zeroes));
    }
}

#[test]
fn fragments() {
    let mut spec = Spec::new(Family::V4, L4::Udp);
    spec.payload = (0..64).collect();
    let whole = spec.build();
    let to = Rewrite {
        src: Some(host(Family::V4, 1)),
        dst: Some(host(Family::V4, 2)),
        src_port: Some(5),
        dst_port: Some(6),
    };
    // 20 bytes of header, the first 40 bytes of the datagram, and the rest.
    let mut first = whole[..60].to_vec();
    let mut later = [&whole[..20], &whole[60..]].concat();
    for (bytes, flags) in [(&mut first, 0x2000u16), (&mut later, 5)] {
        bytes[6..8].copy_from_slice(&flags.to_be_bytes());
        let len = bytes.len() as u16;
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        let parsed = parse(&bytes[..]).unwrap();
        complete_ipv4_header(bytes, &parsed);
        let payload = bytes[20..].to_vec();
        rewrite(bytes, &parsed, true, &to);
        let after = parse(&bytes[..]).unwrap();
        assert!(verify_ipv4_header(bytes, &after));
        assert_eq!(after, parsed.rewritten(&to));
        assert_eq!((after.src, after.dst), (to.src.unwrap(), to.dst.unwrap()));
        if matches!(after.fragment, Fragment::Later { .. }) {
            assert_eq!(bytes[20..], payload);
        }
    }
    // Together they are the rewritten datagram.
    let joined = [&whole[..20], &first[20..], &later[20..]].concat();
    let mut expected = whole.clone();
    rewrite(&mut expected, &parse(&whole).unwrap(), true, &to);
    assert_eq!(joined[20..], expected[20..]);
}

#[derive(Clone, Debug, TypeGenerator)]
struct QuoteCase {
    inner: Case,
    /// How much of the quoted packet is there.
    quoted_len: u8,
    full: bool,
}

/// A quote is rewritten with all its checksums, whatever part of it is there, and the ICMP checksum stays right.
#[test]
fn a_rewritten_quote_equals_the_quote_built_anew() {
    bolero::check!().with_type::<QuoteCase>().for_each(|case| {
        let inner = case.inner.spec();
        let packet = inner.build();
        let headers = usize::from(parse(&packet).unwrap().l3_len) + 8;
        let quoted_len = if case.full {
            packet.len()
        } else {
            (headers + usize::from(case.quoted_len)).min(packet.len())
        };
        let mut bytes = error_about(&packet[..quoted_len], &inner);
        let outer = is_right(&bytes);
        let quote = parse::quoted(&bytes, &outer).unwrap();
        let to = case.inner.rewrite();
        rewrite_quote(&mut bytes, &outer, &quote, true, &to);
        is_right(&bytes);
        let after = parse::quoted(&bytes, &outer).unwrap();
        assert_eq!(after, quote.rewritten(&to));
        let quoted = &bytes[outer.quote_range().unwrap()];
        let anew = case.inner.rewritten_spec().build();
        let checksum_at = quote.checksum_offset();
        for (i, byte) in quoted.iter().enumerate() {
            // The checksum itself is compared as a number: 0 and 0xffff are the same.
            let in_checksum = checksum_at.is_some_and(|at| i == at || i == at + 1);
            let unreachable_checksum = i >= headers && checksum_at.is_none();
            assert!(
                in_checksum || unreachable_checksum || *byte == anew[i],
                "byte {i}"
            );
        }
        if let Some(at) = checksum_at {
            let word = |b: &[u8]| slow_sum(&b[at..at + 2]) % 0xffff;
            assert_eq!(word(quoted), word(&anew));
        }
    });
}

/// An ICMP error from the packet's destination about `quote`.
fn error_about(quote: &[u8], inner: &Spec) -> Vec<u8> {
    let family = inner.src.family();
    let mut outer = Spec::new(family, L4::EchoRequest);
    (outer.src, outer.dst) = hosts(family);
    outer.payload = quote.to_vec();
    let mut bytes = outer.build();
    let l3_len = if family == Family::V4 { 20 } else { 40 };
    let number = if family == Family::V4 { 3 } else { 1 };
    bytes[l3_len..l3_len + 8].copy_from_slice(&[number, 1, 0, 0, 0, 0, 0, 0]);
    let parsed = parse(&bytes).unwrap();
    complete_l4(&mut bytes, &parsed);
    bytes
}

#[test]
fn the_fast_sum_equals_the_slow_sum() {
    bolero::check!().for_each(|bytes: &[u8]| {
        assert_eq!(checksum::fold(checksum::sum(bytes)), slow_sum(bytes));
    });
    let long: Vec<u8> = (0..65_535u32).map(|i| ((i * 31) >> 3) as u8).collect();
    for start in 0..9 {
        for end in (0..300).chain(65_400..=65_535) {
            let bytes = &long[start..end.max(start)];
            assert_eq!(checksum::sum(bytes), u32::from(slow_sum(bytes)));
        }
    }
    assert_eq!(
        checksum::sum(&[0xff; 65_535]),
        u32::from(slow_sum(&[0xff; 65_535]))
    );
}

/// Built by the other voice: header and layer-4 checksums agree with `etherparse` in every form.
#[test]
fn complete_checksums_agree_with_another_implementation() {
    for family in FAMILIES {
        for l4 in L4_ALL {
            for len in [0, 1, 2, 3, 63, 64, 65, 1448, 60_001] {
                let mut spec = Spec::new(family, l4);
                spec.payload = (0..len).map(|i: u32| (i * 7) as u8).collect();
                let expected = spec.build();
                let mut bytes = expected.clone();
                let parsed = is_right(&bytes);
                let at = parsed.checksum_offset().unwrap();
                bytes[at..at + 2].fill(0x55);
                if family == Family::V4 {
                    bytes[10..12].fill(0x55);
                    assert!(!verify_ipv4_header(&bytes, &parsed));
                }
                assert!(!verify_l4(&bytes, &parsed));
                complete_ipv4_header(&mut bytes, &parsed);
                complete_l4(&mut bytes, &parsed);
                assert_eq!(bytes, expected, "{family:?} {l4:?} {len}");
            }
        }
    }
}
