//! A worker and another implementation of the encrypted format, over a real wire, which Wireshark reads with the key log.
//!
//! ```text
//!   sluice-wA                                            sluice-wB
//!   10.18.1.2 -- TUN -- worker -- veth .1 ==== .2 veth -- wireguard-go or boringtun -- TUN -- 10.18.2.2, 10.30.0.2
//! ```

use crate::encrypted::speaker;
use crate::namespaces::{Case, FULL, Lab, Node, finish, start_with, stream};
use crate::site::{instance_ip, ns_ip, service_ip};
use crate::stock::{Capture, FAMILIES, Other, Stock, tshark};
use sluice_tables::Upcalls;
use sluice_wire::Family;
use sluice_worker::Tunnel;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const TRANSFER: usize = 400_000;

/// Who sends first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum First {
    Sluice,
    Stock,
}

/// Node 1, which notes the keys of its handshakes in a file.
fn start_noting(lab: &Lab, underlay: Family, key_log: PathBuf) -> Node {
    let case = Case {
        underlay,
        encrypted: true,
        ..FULL
    };
    start_with(lab, 1, case, move |now| {
        let mut file = File::create(key_log).unwrap();
        let mut speaker = speaker(1, now);
        speaker.set_key_log(Box::new(move |lines| {
            file.write_all(lines.as_bytes()).unwrap();
        }));
        let upcalls = Arc::new(Upcalls::new(64));
        Tunnel::of_workers(speaker, 1, upcalls).unwrap().1
    })
    .0
}

/// The instance of node 1 dials the service, whose instance is on node 2, and knows its caller by where it is.
fn ask(lab: &Lab, family: Family) {
    let from = stream(
        lab,
        (1, ns_ip(family, 1)),
        service_ip(family),
        (2, instance_ip(family, 2)),
        TRANSFER,
    );
    assert_eq!(from, ns_ip(family, 1));
}

/// The instance of node 2 dials that of node 1 where it is.
fn ask_back(lab: &Lab, family: Family) {
    let from = stream(
        lab,
        (2, instance_ip(family, 2)),
        ns_ip(family, 1),
        (1, ns_ip(family, 1)),
        TRANSFER,
    );
    assert_eq!(from, instance_ip(family, 2));
}

fn check(other: Other, first: First, underlay: Family) {
    let lab = Lab::new();
    let name = format!("{other:?}-{first:?}-{underlay:?}");
    let key_log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.keys"));
    let capture = Capture::start(&lab, &format!("{name}.pcapng"));
    let node = start_noting(&lab, underlay, key_log.clone());
    let stock = Stock::start(&lab, other);
    stock.meet(underlay);
    for family in FAMILIES {
        match first {
            First::Sluice => {
                ask(&lab, family);
                ask_back(&lab, family);
            }
            First::Stock => {
                ask_back(&lab, family);
                ask(&lab, family);
            }
        }
    }
    drop(stock);
    let capture = capture.finish();
    finish(node);

    let shown = |filter: &str, fields: &[&str]| tshark(&capture, &key_log, filter, fields);
    let initiations = shown("wg.type == 1", &["ip.src", "ipv6.src"]);
    let initiator = match (first, underlay) {
        (First::Sluice, Family::V4) => "192.0.2.1",
        (First::Stock, Family::V4) => "192.0.2.2",
        (First::Sluice, Family::V6) => "2001:db8::1",
        (First::Stock, Family::V6) => "2001:db8::2",
    };
    let [by] = &initiations[..] else {
        panic!("{name}: {initiations:?}");
    };
    assert_eq!(by.trim(), initiator, "{name}");
    // What is inside can be read: the first segment of each of the streams, and all that follow.
    let mut opened = shown(
        "wg.type == 4 && tcp.flags.syn == 1 && tcp.flags.ack == 0 && tcp.dstport == 8080",
        &["tcp.stream"],
    );
    opened.dedup();
    assert_eq!(opened.len(), 4, "{name}: {opened:?}");
    let unread = shown(
        "wg.type == 4 && !tcp && udp.length != 40",
        &["frame.number", "wg.counter"],
    );
    assert!(unread.is_empty(), "{name}: {unread:?}");
    let plain = shown("tcp && !wg", &["frame.number"]);
    assert!(plain.is_empty(), "{name}: {plain:?}");
    for file in [capture, key_log] {
        std::fs::remove_file(file).unwrap();
    }
}

fn check_all(other: Other) {
    for first in [First::Sluice, First::Stock] {
        for underlay in FAMILIES {
            check(other, first, underlay);
        }
    }
}

#[test]
#[ignore = "needs root"]
fn streams_cross_both_ways_with_wireguard_go_whoever_begins_and_a_capture_can_be_read() {
    check_all(Other::WireGuardGo);
}

#[test]
#[ignore = "needs root"]
fn streams_cross_both_ways_with_boringtun_whoever_begins_and_a_capture_can_be_read() {
    check_all(Other::Boringtun);
}
