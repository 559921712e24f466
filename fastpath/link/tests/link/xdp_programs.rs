//! What the XDP programs say about frames: a table of frames, verdicts and counted reasons, run by the kernel itself.

use etherparse::{Ethernet2Slice, PacketBuilder};
use sluice_link::bpf::{ProgramSettings, Programs, Side, SourceLimit, TALLIES, Verdict};
use sluice_wire::{DropReason, Dual};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

const PORT: u16 = 50103;
const SERVICE_MAC: [u8; 6] = [0x52, 1, 10, 18, 0, 1];
const UNDERLAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

fn settings() -> ProgramSettings {
    ProgramSettings {
        service_mac: SERVICE_MAC,
        service_ranges: Dual::both(
            "10.30.0.0/16".parse().unwrap(),
            "fdff::/16".parse().unwrap(),
        ),
        underlay_mac: UNDERLAY_MAC,
        tunnel_port: PORT,
        blocked: Vec::new(),
        source_limit: None,
        offload: None,
    }
}

/// The programs with a socket for queue 0 of each side, so that what is steered is redirected and not passed.
struct Bench {
    programs: Programs,
    _sockets: [OwnedFd; 2],
}

impl Bench {
    fn new(settings: &ProgramSettings) -> Self {
        let mut programs = Programs::load(settings).unwrap();
        let own = ["192.0.2.9", "2001:db8::9"].map(|ip| ip.parse().unwrap());
        programs.set_own_addresses(&own).unwrap();
        let sockets = [Side::Service, Side::Underlay].map(|side| {
            // SAFETY: no pointers are passed.
            let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
            assert!(fd >= 0, "AF_XDP needs root");
            // SAFETY: `fd` was just made and belongs to nobody else.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            programs.set_socket(side, 0, socket.as_fd()).unwrap();
            socket
        });
        Self {
            programs,
            _sockets: sockets,
        }
    }

    /// The verdict, and the reason if a drop was counted.
    fn judge(&mut self, side: Side, frame: &[u8]) -> (Verdict, Option<DropReason>) {
        let before = self.programs.tallies().unwrap();
        let (verdict, after_run) = self.programs.test_run(side, frame).unwrap();
        assert_eq!(after_run, frame, "the programs change no byte");
        let after = self.programs.tallies().unwrap();
        let counted = (0..TALLIES.len()).find(|&at| after[at] > before[at]);
        assert!(after.iter().sum::<u64>() <= before.iter().sum::<u64>() + 1);
        (verdict, counted.map(|at| TALLIES[at]))
    }

    fn check(&mut self, side: Side, rows: &[(&str, Vec<u8>, Verdict, Option<DropReason>)]) {
        for (what, frame, verdict, reason) in rows {
            assert_eq!(self.judge(side, frame), (*verdict, *reason), "{what}");
        }
    }
}

fn v4(source: [u8; 4], destination: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(FAR_MAC, UNDERLAY_MAC)
        .ipv4(source, destination, 64)
        .udp(40000, port)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

fn v6(source: &str, destination: &str, port: u16, payload: &[u8]) -> Vec<u8> {
    let octets = |ip: &str| ip.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(FAR_MAC, UNDERLAY_MAC)
        .ipv6(octets(source), octets(destination), 64)
        .udp(40000, port)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// `frame` with `change` applied.
fn with(mut frame: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut frame);
    frame
}

/// `frame` with an 802.1Q tag.
fn tagged(frame: &[u8]) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    [addresses, &[0x81, 0, 0, 5], rest].concat()
}

const FAR: [u8; 4] = [192, 0, 2, 7];
const OWN: [u8; 4] = [192, 0, 2, 9];

#[test]
#[ignore = "needs root"]
fn only_tunnel_datagrams_to_us_are_steered_and_impossible_ones_end() {
    use DropReason::{Empty, Malformed, MartianSource};
    use Verdict::{Drop, Pass, Redirect};
    let good = v4(FAR, OWN, PORT, b"E");
    let good_v6 = v6("2001:db8::7", "2001:db8::9", PORT, b"`");
    let rows = [
        ("a datagram of a node", good.clone(), Redirect, None),
        ("over IPv6", good_v6.clone(), Redirect, None),
        (
            "padded to 60 bytes",
            with(good.clone(), |frame| frame.resize(60, 0)),
            Redirect,
            None,
        ),
        ("another port: DNS", v4(FAR, OWN, 53, b"E"), Pass, None),
        (
            "our port of another host",
            v4(FAR, [192, 0, 2, 8], PORT, b"E"),
            Pass,
            None,
        ),
        (
            "for another MAC",
            with(good.clone(), |frame| frame[5] = 0x55),
            Pass,
            None,
        ),
        (
            "broadcast",
            with(good.clone(), |frame| frame[..6].fill(0xff)),
            Pass,
            None,
        ),
        ("with a VLAN tag", tagged(&good), Pass, None),
        (
            "ARP",
            with(good.clone(), |frame| frame[12..14].copy_from_slice(&[8, 6])),
            Pass,
            None,
        ),
        (
            "TCP to our port number",
            with(good.clone(), |frame| frame[23] = 6),
            Pass,
            None,
        ),
        (
            "IPv4 options",
            with(good.clone(), |frame| frame[14] = 0x46),
            Pass,
            None,
        ),
        (
            "a first fragment",
            with(good.clone(), |frame| frame[20] |= 0x20),
            Pass,
            None,
        ),
        (
            "a later fragment",
            with(good.clone(), |frame| frame[21] = 1),
            Pass,
            None,
        ),
        (
            "do not fragment",
            with(good.clone(), |frame| frame[20] |= 0x40),
            Redirect,
            None,
        ),
        (
            "an IPv6 fragment",
            with(good_v6.clone(), |frame| frame[20] = 44),
            Pass,
            None,
        ),
        ("cut inside the UDP header", good[..38].to_vec(), Pass, None),
        ("an Ethernet header alone", good[..14].to_vec(), Pass, None),
        (
            "shorter than IPv4 says",
            with(good.clone(), |frame| frame[17] += 1),
            Drop,
            Some(Malformed),
        ),
        (
            "shorter than IPv6 says",
            with(good_v6.clone(), |frame| frame[19] += 1),
            Drop,
            Some(Malformed),
        ),
        (
            "IPv4 length below its header",
            with(good.clone(), |frame| frame[17] = 19),
            Drop,
            Some(Malformed),
        ),
        (
            "UDP longer than IPv4",
            with(good.clone(), |frame| frame[39] += 1),
            Drop,
            Some(Malformed),
        ),
        (
            "UDP length below its header",
            with(good.clone(), |frame| frame[39] = 7),
            Drop,
            Some(Malformed),
        ),
        ("no payload", v4(FAR, OWN, PORT, b""), Drop, Some(Empty)),
        (
            "from 0.0.0.0/8",
            v4([0, 1, 2, 3], OWN, PORT, b"E"),
            Drop,
            Some(MartianSource),
        ),
        (
            "from loopback",
            v4([127, 0, 0, 1], OWN, PORT, b"E"),
            Drop,
            Some(MartianSource),
        ),
        (
            "from multicast",
            v4([224, 0, 0, 1], OWN, PORT, b"E"),
            Drop,
            Some(MartianSource),
        ),
        (
            "from broadcast",
            v4([255; 4], OWN, PORT, b"E"),
            Drop,
            Some(MartianSource),
        ),
        (
            "from ourselves",
            v4(OWN, OWN, PORT, b"E"),
            Drop,
            Some(MartianSource),
        ),
        (
            "from ::",
            v6("::", "2001:db8::9", PORT, b"`"),
            Drop,
            Some(MartianSource),
        ),
        (
            "from ::1",
            v6("::1", "2001:db8::9", PORT, b"`"),
            Drop,
            Some(MartianSource),
        ),
        (
            "from ff02::1",
            v6("ff02::1", "2001:db8::9", PORT, b"`"),
            Drop,
            Some(MartianSource),
        ),
        (
            "from a mapped address",
            v6("::ffff:1.2.3.4", "2001:db8::9", PORT, b"`"),
            Drop,
            Some(MartianSource),
        ),
        (
            "from ourselves over IPv6",
            v6("2001:db8::9", "2001:db8::9", PORT, b"`"),
            Drop,
            Some(MartianSource),
        ),
        (
            "a martian for another port",
            v4([127, 0, 0, 1], OWN, 53, b"E"),
            Pass,
            None,
        ),
    ];
    Bench::new(&settings()).check(Side::Underlay, &rows);
}

#[test]
#[ignore = "needs root"]
fn frames_for_the_service_ranges_are_steered_with_options_and_fragments() {
    use Verdict::{Pass, Redirect};
    let to_us = |mut frame: Vec<u8>| {
        frame[..6].copy_from_slice(&SERVICE_MAC);
        frame
    };
    let good = to_us(v4([10, 18, 0, 2], [10, 30, 1, 0], 80, b""));
    let rows = [
        ("to a service", good.clone(), Redirect, None),
        (
            "over IPv6",
            to_us(v6("fc00::2", "fdff::1", 80, b"")),
            Redirect,
            None,
        ),
        (
            "to the last address",
            to_us(v4([10, 18, 0, 2], [10, 30, 255, 255], 80, b"")),
            Redirect,
            None,
        ),
        (
            "to an instance beside",
            to_us(v4([10, 18, 0, 2], [10, 18, 0, 3], 80, b"")),
            Pass,
            None,
        ),
        (
            "to the Internet",
            to_us(v4([10, 18, 0, 2], [10, 31, 0, 0], 80, b"")),
            Pass,
            None,
        ),
        (
            "to the gateway over IPv6",
            to_us(v6("fc00::2", "fc00::1", 80, b"")),
            Pass,
            None,
        ),
        (
            "for another MAC",
            with(good.clone(), |frame| frame[5] = 9),
            Pass,
            None,
        ),
        ("with a VLAN tag", tagged(&good), Pass, None),
        (
            "IPv4 options",
            with(good.clone(), |frame| frame[14] = 0x46),
            Redirect,
            None,
        ),
        (
            "a later fragment",
            with(good.clone(), |frame| frame[21] = 1),
            Redirect,
            None,
        ),
        (
            "cut inside the IPv4 header",
            good[..33].to_vec(),
            Pass,
            None,
        ),
    ];
    assert!(Ethernet2Slice::from_slice_without_fcs(&good).is_ok());
    Bench::new(&settings()).check(Side::Service, &rows);
}

#[test]
#[ignore = "needs root"]
fn blocked_prefixes_end_and_their_neighbours_do_not() {
    let mut bench = Bench::new(&ProgramSettings {
        blocked: vec![
            "198.51.100.0/25".parse().unwrap(),
            "2001:db8:bad::/48".parse().unwrap(),
        ],
        ..settings()
    });
    let blocked = (Verdict::Drop, Some(DropReason::BlockedSource));
    let steered = (Verdict::Redirect, None);
    for (source, expected) in [(127, blocked), (128, steered)] {
        let frame = v4([198, 51, 100, source], OWN, PORT, b"E");
        assert_eq!(bench.judge(Side::Underlay, &frame), expected, "{source}");
    }
    for (source, expected) in [("2001:db8:bad::1", blocked), ("2001:db8:bae::1", steered)] {
        let frame = v6(source, "2001:db8::9", PORT, b"`");
        assert_eq!(bench.judge(Side::Underlay, &frame), expected, "{source}");
    }
}

/// A token a second, three at once: this test takes less than a second to take four.
#[test]
#[ignore = "needs root"]
fn a_source_prefix_over_its_limit_ends_and_others_do_not() {
    let mut bench = Bench::new(&ProgramSettings {
        source_limit: Some(SourceLimit {
            rate: 1,
            burst: 3,
            length_v4: 24,
            length_v6: 56,
        }),
        ..settings()
    });
    let steered = (Verdict::Redirect, None);
    let limited = (Verdict::Drop, Some(DropReason::SourceLimit));
    for (host, expected) in [(1, steered), (2, steered), (3, steered), (4, limited)] {
        let frame = v4([203, 0, 113, host], OWN, PORT, b"E");
        assert_eq!(bench.judge(Side::Underlay, &frame), expected, "{host}");
    }
    let beside = v4([203, 0, 114, 1], OWN, PORT, b"E");
    assert_eq!(bench.judge(Side::Underlay, &beside), steered);
    for (source, expected) in [
        ("2001:db8:0:1::1", steered),
        ("2001:db8:0:2::1", steered),
        ("2001:db8:0:ff::1", steered),
        ("2001:db8:0:3::1", limited),
        ("2001:db8:0:100::1", steered),
    ] {
        let frame = v6(source, "2001:db8::9", PORT, b"`");
        assert_eq!(bench.judge(Side::Underlay, &frame), expected, "{source}");
    }
}
