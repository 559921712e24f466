//! The frame generator and the sink: what is sent is what a stack would send, and what arrives is counted.
#![cfg(feature = "suites")]

use sluice_perf::instrument::{Count, Counted, Generate, Generated, MacText, ask};
use sluice_perf::lab::wire::veth;
use sluice_perf::lab::{Host, NetNs};
use sluice_perf::report::Report;
use sluice_perf::traffic::frames::Generator;
use sluice_perf::traffic::stream::Stream;
use sluice_wire::checksum::{verify_ipv4_header, verify_l4};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// `XDP_REDIRECT`.
const REDIRECT: u32 = 4;

fn stream(bytes: u16, first: u32, flows: u32) -> Stream {
    Stream {
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, 2],
        source: [10, 18, 255, 2].into(),
        destination: [10, 30, 255, 254].into(),
        bytes,
        first,
        flows,
    }
}

/// Each flow has its turn, no two have the same ports, and all checksums are right.
#[test]
#[ignore = "needs root"]
fn frames_are_valid_and_every_flow_has_its_turn() {
    for (bytes, first, flows) in [(64, 0, 1), (1400, 32_768, 256), (64, 0, 512), (42, 0, 2)] {
        let mut generator = Generator::new(&stream(bytes, first, flows), 1, None).unwrap();
        let mut ports = BTreeSet::new();
        for _ in 0..flows {
            let (verdict, frame) = generator.dry_run().unwrap();
            assert_eq!((verdict, frame.len()), (REDIRECT, usize::from(bytes)));
            assert_eq!(frame[..14], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
            let packet = &frame[14..];
            let parsed = sluice_wire::parse(packet).unwrap();
            assert!(verify_ipv4_header(packet, &parsed) && verify_l4(packet, &parsed));
            assert_eq!(parsed.total_len, u32::from(bytes) - 14);
            ports.insert(packet[20..24].to_vec());
        }
        assert_eq!(ports.len(), flows as usize);
        let (_, again) = generator.dry_run().unwrap();
        assert!(ports.contains(&again[34..38]));
    }
}

#[test]
fn a_stream_that_cannot_be_says_what_can() {
    for (bytes, first, flows, said) in [
        (41, 0, 1, "42 to 1514"),
        (1515, 0, 1, "42 to 1514"),
        (64, 0, 0, "a power of two"),
        (64, 0, 48, "a power of two"),
        (64, 1, 1 << 24, "up to number 16777216"),
    ] {
        let wrong = stream(bytes, first, flows).wrong().unwrap();
        assert!(wrong.contains(said), "{wrong}");
    }
    assert_eq!(stream(64, 0, 1 << 24).wrong(), None);
}

/// ```text
/// generator ── sink
/// ```
#[test]
#[ignore = "needs root"]
fn what_arrives_is_counted_and_nothing_else() {
    let program = Path::new(env!("CARGO_BIN_EXE_sluice-perf"));
    let ends = [
        NetNs::new("generator").unwrap(),
        NetNs::new("sink").unwrap(),
    ];
    veth((&ends[0], "eth0"), (&ends[1], "eth0"), 1500).unwrap();
    let [generator, sink] = ends.map(Host::Namespace);
    let generate = Generate {
        interface: "eth0".into(),
        source_mac: MacText([2, 0, 0, 0, 0, 1]),
        destination_mac: MacText(sink.device("eth0").unwrap().mac),
        source: [192, 0, 2, 1].into(),
        destination: [192, 0, 2, 2].into(),
        bytes: 64,
        flows: 4096,
        first: 0,
        seconds: 1.5,
        rate: Some(20_000),
        core: Some(0),
    };
    let count = |inner_destination: [u8; 4]| Count {
        interface: "eth0".into(),
        port: 7000,
        // The frame's own IP header.
        inner_at: 14,
        inner_destination: inner_destination.into(),
        after: 0.1,
        seconds: 0.3,
        core: Some(0),
    };
    std::thread::scope(|scope| {
        let generated =
            scope.spawn(|| -> Generated { ask(&generator, &generate.program(program)).unwrap() });
        let right: Counted = ask(&sink, &count([192, 0, 2, 2]).program(program)).unwrap();
        let wrong: Counted = ask(&sink, &count([192, 0, 2, 3]).program(program)).unwrap();
        let generated = generated.join().unwrap();
        assert!(right.expected > 0 && right.other == 0, "{right:?}");
        assert!(wrong.expected == 0 && wrong.other > 0, "{wrong:?}");
        assert!(right.expected + wrong.other < generated.frames);
    });
}

/// The suite runs, against real gateways and the kernel, and writes the rows that are promised.
#[test]
#[ignore = "needs root"]
fn the_suite_writes_its_rows() {
    let program = Path::new(env!("CARGO_BIN_EXE_sluice-perf"));
    let sluice = program.with_file_name("sluice");
    assert!(sluice.exists(), "build it first: cargo build -p sluice");
    let file = std::env::temp_dir().join(format!("sluice-perf-rows.{}.json", std::process::id()));
    let output = Command::new(program)
        .args(["fastpath", "--quick", "--only", "af_xdp", "--json"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let report: Report = serde_json::from_slice(&text).unwrap();
    let rows: Vec<(&str, Option<&str>)> = report
        .rows
        .iter()
        .map(|row| (row.name.as_str(), row.peer.as_deref()))
        .collect();
    assert_eq!(
        rows,
        [
            ("af_xdp_64b", Some("vxlan_dnat_threaded")),
            ("af_xdp_64b", Some("vxlan_dnat_inline")),
            ("af_xdp_64b", Some("bare_forwarder")),
            ("path_cost_percent", None),
            ("af_xdp_64b_offload", Some("vxlan_dnat_threaded")),
            ("af_xdp_64b_offload", Some("vxlan_dnat_inline")),
        ]
    );
    for row in report.rows.iter().filter(|row| row.peer.is_some()) {
        assert!(row.value > 0.0 && row.peer_value > Some(0.0), "{row:?}");
    }
}
