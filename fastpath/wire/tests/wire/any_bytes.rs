//! No bytes make this crate panic: a fuzz harness, and the corpus it starts from.

use sluice_wire::checksum::{
    complete_ipv4_header, complete_l4, partial_l4, verify_ipv4_header, verify_l4,
};
use sluice_wire::icmp_error::{Unreachable, tcp_reset, time_exceeded, too_big, unreachable};
use sluice_wire::segment::{Cutter, Run};
use sluice_wire::{Ip, Parsed, Rewrite, mss, parse, parse_quote, rewrite, rewrite_quote};
use std::path::Path;

/// Everything that reads or changes packet bytes, on these bytes.
fn take(bytes: &[u8]) {
    for parsed in [parse(bytes), parse_quote(bytes)].into_iter().flatten() {
        consistent(bytes, &parsed);
        use_all(bytes, &parsed);
    }
    let mut out = [0; 1280];
    for (from, to) in [
        (Ip::v4([10, 0, 0, 1]), Ip::v4([10, 0, 0, 2])),
        (Ip::v6([1; 16]), Ip::v6([2; 16])),
    ] {
        for room in [0, 27, 28, 56, 80, 576, 1280] {
            let out = &mut out[..room];
            let answers = [
                unreachable(bytes, from, to, Unreachable::Host, out),
                too_big(bytes, from, to, 1280, out),
                time_exceeded(bytes, from, to, out),
            ];
            for len in answers.into_iter().flatten() {
                assert!(len <= room);
            }
            if let [.., Some(len)] = answers {
                let parsed = parse(&out[..len]).expect("what we send can be parsed");
                assert!(verify_l4(&out[..len], &parsed) && verify_ipv4_header(out, &parsed));
            }
        }
    }
}

/// What every accessor relies on.
fn consistent(bytes: &[u8], parsed: &Parsed) {
    let total_len = parsed.total_len as usize;
    assert!(parsed.header_len() <= total_len && total_len <= bytes.len());
    assert_eq!(parsed.l3_len % 4, 0);
    assert_eq!(parsed.src.family(), parsed.family);
    assert_eq!(parsed.dst.family(), parsed.family);
    if let Some(offset) = parsed.checksum_offset() {
        assert!(offset + 2 <= total_len);
    }
}

fn use_all(bytes: &[u8], parsed: &Parsed) {
    let _ = (verify_l4(bytes, parsed), verify_ipv4_header(bytes, parsed));
    let _ = (parsed.flow_key(), parsed.fragment_key());
    let to = Rewrite {
        src: Some(parsed.dst),
        dst: Some(parsed.src),
        src_port: Some(1),
        dst_port: Some(2),
    };
    for complete in [true, false] {
        let mut copy = bytes.to_vec();
        mss::clamp(&mut copy, parsed, 536, complete);
        if let Ok(quote) = parse::quoted(&copy, parsed) {
            rewrite_quote(&mut copy, parsed, &quote, complete, &to);
            let after = parse::quoted(&copy, parsed).expect("rewriting keeps the form");
            assert_eq!(after, quote.rewritten(&to));
        }
        rewrite(&mut copy, parsed, complete, &to);
        complete_ipv4_header(&mut copy, parsed);
        complete_l4(&mut copy, parsed);
        partial_l4(&mut copy, parsed);
    }
    let mut out = [0; 256];
    let _ = tcp_reset(bytes, parsed, &mut out);
    if let Some(cutter) = Cutter::new(bytes, parsed, 100) {
        let payload = bytes.get(parsed.header_len()..).unwrap_or(&[]);
        for index in 0..cutter.segments() {
            let payload = payload.get(cutter.payload(index)).unwrap_or(&[]);
            let _ = cutter.header(index, payload, &mut out);
        }
    }
    if let Some(mut run) = Run::start(bytes, parsed) {
        let _ = run.join(bytes, bytes, parsed);
        let _ = run.finish(&mut [bytes, bytes].concat());
    }
    // Bytes that `parsed` does not describe: shorter, and other ones.
    for other in [&bytes[..bytes.len() / 2], &[0xff; 70], &[]] {
        let mut copy = other.to_vec();
        let _ = (verify_l4(other, parsed), verify_ipv4_header(other, parsed));
        rewrite(&mut copy, parsed, true, &to);
        rewrite_quote(&mut copy, parsed, parsed, true, &to);
        mss::clamp(&mut copy, parsed, 1, true);
        complete_l4(&mut copy, parsed);
        complete_ipv4_header(&mut copy, parsed);
        let _ = tcp_reset(other, parsed, &mut out);
        let _ = Cutter::new(other, parsed, 1);
        if let Some(mut run) = Run::start(bytes, parsed) {
            let _ = run.join(other, bytes, parsed);
            let _ = run.finish(&mut copy);
        }
    }
}

/// Half the runs are bytes as they come; the other half are made to look like IP, so that they get further.
#[test]
fn nothing_panics() {
    bolero::check!().for_each(|bytes: &[u8]| {
        take(bytes);
        let mut likely = bytes.to_vec();
        let Some((&first, rest)) = bytes.split_first() else {
            return;
        };
        if first & 1 == 0 {
            likely[0] = 0x45 + (first >> 4 & 3);
            let len = (likely.len() as u16).to_be_bytes();
            if let Some(field) = likely.get_mut(2..4) {
                field.copy_from_slice(&len);
            }
            if let Some(protocol) = likely.get_mut(9) {
                *protocol = [1, 6, 17, *protocol][usize::from(*protocol & 3)];
            }
        } else {
            likely[0] = 0x60;
            let len = (rest.len().saturating_sub(39) as u16).to_be_bytes();
            if let Some(field) = likely.get_mut(4..6) {
                field.copy_from_slice(&len);
            }
            if let Some(next) = likely.get_mut(6) {
                *next = [58, 6, 17, 44, 60, 0, 51, *next][usize::from(*next & 7)];
            }
        }
        take(&likely);
    });
}

/// Inputs worth keeping: one packet of every form, and what has once been wrong. Each, cut at every length and with
/// every byte set to the extremes, goes through the harness.
#[test]
fn the_corpus_is_replayed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz-corpus");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 20, "the corpus is there");
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        for len in 0..=bytes.len() {
            take(&bytes[..len]);
        }
        for at in 0..bytes.len().min(100) {
            for value in [
                0x00,
                0x01,
                0x7f,
                0xff,
                bytes[at] ^ 0x80,
                bytes[at].wrapping_add(1),
            ] {
                let mut changed = bytes.clone();
                changed[at] = value;
                take(&changed);
            }
        }
    }
}
