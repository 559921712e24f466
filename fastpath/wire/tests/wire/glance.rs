//! A glance says what parsing says, and rewrites as rewriting does: whole packets, damaged ones and cut ones.

use crate::packets::{FAMILIES, L4_ALL, Spec};
use sluice_wire::checksum::verify_ipv4_header;
use sluice_wire::{
    Family, FlowKey, Fragment, Glance, Ip, Protocol, Rewrite, glance, parse, rewrite,
};

/// A packet by its template, what is changed in it, and what it is rewritten to.
#[derive(Clone, Debug, bolero::TypeGenerator)]
struct Case {
    template: u8,
    changes: Vec<(u8, u8)>,
    len: Option<u16>,
    addresses: [u128; 2],
    ports: [u16; 2],
    change_ports: bool,
    complete: bool,
}

fn templates() -> Vec<Vec<u8>> {
    let specs = FAMILIES
        .iter()
        .flat_map(|&family| L4_ALL.iter().map(move |&l4| Spec::new(family, l4)));
    let options = specs.clone().map(|spec| Spec {
        ipv4_options: vec![1; 8],
        ..spec
    });
    specs.chain(options).map(|spec| spec.build()).collect()
}

fn key_of(case: &Case, from: &FlowKey) -> FlowKey {
    let ip = |bits: u128| match from.src.family() {
        Family::V4 => Ip::v4((bits as u32).to_be_bytes()),
        // No mapped address.
        Family::V6 => Ip::from_bits(bits | 1 << 127),
    };
    FlowKey {
        src: ip(case.addresses[0]),
        dst: ip(case.addresses[1]),
        src_port: if case.change_ports {
            case.ports[0]
        } else {
            from.src_port
        },
        dst_port: if case.change_ports {
            case.ports[1]
        } else {
            from.dst_port
        },
        protocol: from.protocol,
    }
}

fn rewrite_quickly(glance: &Glance, bytes: &mut [u8], complete: bool, to: &FlowKey) {
    match glance.family {
        Family::V4 => glance.rewrite::<u32>(bytes, complete, &to.words()),
        Family::V6 => glance.rewrite::<[u64; 2]>(bytes, complete, &to.words()),
    }
}

fn agrees(case: &Case, bytes: &[u8]) -> bool {
    let parsed = parse(bytes);
    let Some(glance) = glance(bytes) else {
        if let Ok(parsed) = parsed {
            let plain = matches!(parsed.protocol, Protocol::Tcp | Protocol::Udp)
                && parsed.fragment == Fragment::Whole
                && matches!(
                    (parsed.family, parsed.l3_len),
                    (Family::V4, 20) | (Family::V6, 40)
                );
            assert!(
                !plain || parsed.hop_limit == 0,
                "a glance is enough for {parsed:?}"
            );
        }
        return false;
    };
    let parsed = parsed.expect("what a glance takes can be parsed");
    assert_eq!(glance.key, parsed.flow_key().words());
    assert_eq!(
        (glance.family, glance.tcp_flags, parsed.fragment),
        (parsed.family, parsed.tcp_flags, Fragment::Whole)
    );
    assert!(parsed.hop_limit > 0);
    assert_eq!(
        glance.verifies_ipv4_header(bytes),
        verify_ipv4_header(bytes, &parsed)
    );
    let to = key_of(case, &parsed.flow_key());
    let (mut quick, mut slow) = (bytes.to_vec(), bytes.to_vec());
    rewrite_quickly(&glance, &mut quick, case.complete, &to);
    let changes = Rewrite {
        src: Some(to.src),
        dst: Some(to.dst),
        src_port: Some(to.src_port),
        dst_port: Some(to.dst_port),
    };
    rewrite(&mut slow, &parsed, case.complete, &changes);
    assert_eq!(quick, slow);
    // Bytes it is not the glance of: shorter ones.
    for len in 0..bytes.len().min(60) {
        rewrite_quickly(&glance, &mut bytes[..len].to_vec(), case.complete, &to);
        let _ = glance.verifies_ipv4_header(&bytes[..len]);
    }
    true
}

#[test]
fn a_glance_is_the_long_look() {
    let templates = templates();
    let whole = templates.clone();
    let case = Case {
        template: 0,
        changes: Vec::new(),
        len: None,
        addresses: [7, 9],
        ports: [1, 2],
        change_ports: true,
        complete: true,
    };
    let enough = whole.iter().filter(|bytes| agrees(&case, bytes)).count();
    // Of both families TCP and UDP, and the same again over IPv6, which has no IPv4 options.
    assert_eq!(enough, 6);
    bolero::check!()
        .with_type::<Case>()
        .with_iterations(20_000)
        .for_each(|case| {
            let mut bytes = templates[usize::from(case.template) % templates.len()].clone();
            for &(at, value) in &case.changes {
                if let Some(byte) = bytes.get_mut(usize::from(at)) {
                    *byte = value;
                }
            }
            if let Some(len) = case.len {
                bytes.truncate(usize::from(len));
            }
            agrees(case, &bytes);
        });
}

/// Every byte of the headers at every value: lengths, offsets, flags and versions one off.
#[test]
fn every_single_byte_is_judged_alike() {
    let case = Case {
        template: 0,
        changes: Vec::new(),
        len: None,
        addresses: [u128::MAX, 0],
        ports: [0, 0xffff],
        change_ports: true,
        complete: true,
    };
    for template in templates() {
        for at in 0..template.len() {
            let mut bytes = template.clone();
            for value in 0..=255 {
                bytes[at] = value;
                agrees(&case, &bytes);
            }
        }
        for len in 0..template.len() {
            agrees(&case, &template[..len]);
        }
    }
}
