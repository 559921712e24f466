//! What comes over the underlay beside plain datagrams, and what the kernel says about it, with AF_XDP links.
//!
//! ```text
//!  a ── gateway 1 eth0 ── wire (and a tap, to put any frame on it) ── eth0 gateway 2 ── b, caller
//! ```

use crate::world::{Instance, World, one_plain_site, tcp, tcp_impatient, udp, udp_socket};
use etherparse::PacketBuilder;
use sluice_perf::lab::clock::wait_for;
use sluice_perf::lab::sites::Layout;
use sluice_perf::lab::tap::{self, Kind};
use sluice_perf::lab::wire::offload;
use sluice_perf::lab::{NetNs, Program};
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);
/// Where the instance listens for what is put on the wire.
const PORT: u16 = 7001;
/// Bytes of an Ethernet header and of an IPv4 header without options.
const ETHERNET: usize = 14;
const IP: usize = 20;

/// In plain: what is on the wire is written and read here.
fn layout(fastpath: &str) -> Layout {
    Layout {
        fastpath: fastpath.to_owned(),
        ..one_plain_site()
    }
}

fn v4(ip: IpAddr) -> [u8; 4] {
    match ip {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(ip) => panic!("{ip} is no IPv4 address"),
    }
}

fn mac(namespace: &NetNs, device: &str) -> [u8; 6] {
    let program = Program::new("ip").args(["-o", "link", "show", "dev", device]);
    let text = namespace.succeed(&program).unwrap();
    let octets: Vec<u8> = text.split("link/ether ").nth(1).unwrap()[..17]
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).unwrap())
        .collect();
    octets.try_into().unwrap()
}

/// A wire with two gateways, an instance on the first, and a place to put frames on.
struct Bench {
    world: World,
    wire: File,
    to: [u8; 6],
    a: Instance,
    far: Instance,
    listener: UdpSocket,
}

impl Bench {
    fn new(name: &str) -> Self {
        let world = World::laid(name, &layout("link = \"af_xdp\"\n"));
        let (a, far) = (world.caller(0), world.caller(1));
        let switch = world.sites.wire.as_ref().unwrap().namespace();
        let wire = tap::open(switch, Kind::Tap, "odd").unwrap();
        switch.ip("link set odd master switch up mtu 3400").unwrap();
        let listener = a
            .namespace
            .run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap());
        listener.set_read_timeout(Some(LIMIT)).unwrap();
        Self {
            to: mac(world.sites.gateways[0].namespace(), "eth0"),
            world,
            wire,
            a,
            far,
            listener,
        }
    }

    /// The frame in which the far gateway would send `text` from its instance to ours.
    fn frame(&self, text: &[u8]) -> Vec<u8> {
        let mut inner = Vec::new();
        PacketBuilder::ipv4(v4(self.far.ip(0)), v4(self.a.ns_ip(0)), 64)
            .udp(4000, PORT)
            .write(&mut inner, text)
            .unwrap();
        let [near, far] = [0, 1].map(|index| v4(self.world.sites.gateways[index].address[0]));
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 0x99], self.to)
            .ipv4(far, near, 64)
            .udp(50103, 50103)
            .write(&mut frame, &inner)
            .unwrap();
        frame
    }

    fn send(&mut self, frame: &[u8]) {
        self.wire.write_all(frame).unwrap();
    }

    fn hear(&self) -> String {
        let mut bytes = [0; 100];
        let (len, from) = self
            .listener
            .recv_from(&mut bytes)
            .unwrap_or_else(|error| panic!("{error}\n{:?}", self.world.accounts(0)));
        assert_eq!(from.ip(), self.far.ip(0));
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    }

    fn received(&self) -> u64 {
        self.world.accounts(0).received
    }
}

/// With a tag of 802.1Q.
fn tagged(frame: &[u8], vid: u8) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    [addresses, &[0x81, 0, 0, vid], rest].concat()
}

/// With so many bytes of options: no-operations.
fn with_options(mut frame: Vec<u8>, bytes: u8) -> Vec<u8> {
    let options = vec![1; usize::from(bytes)];
    frame.splice(ETHERNET + IP..ETHERNET + IP, options);
    frame[ETHERNET] += bytes / 4;
    finish(frame)
}

/// In two fragments, the first with so many bytes of payload.
fn fragments(frame: &[u8], first: u16) -> [Vec<u8>; 2] {
    let (headers, payload) = frame.split_at(ETHERNET + IP);
    let (one, two) = payload.split_at(usize::from(first));
    let piece = |offset: u16, payload: &[u8]| {
        let mut piece = [headers, payload].concat();
        piece[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&[0x12, 0x34]);
        piece[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&offset.to_be_bytes());
        finish(piece)
    };
    [piece(0x2000, one), piece(first / 8, two)]
}

/// Length and checksum of the IPv4 header as they must be.
fn finish(mut frame: Vec<u8>) -> Vec<u8> {
    let len = u16::try_from(frame.len() - ETHERNET).unwrap();
    frame[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&len.to_be_bytes());
    frame[ETHERNET + 10..ETHERNET + 12].fill(0);
    let header = usize::from(frame[ETHERNET] & 15) * 4;
    let mut sum: u32 = frame[ETHERNET..ETHERNET + header]
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).unwrap();
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// Options, fragments and a priority tag are taken off by the kernel, which hands the datagram to the gateway's socket: it
/// arrives, and is counted, like any other. A tag of another network is not for us, and is not counted.
#[test]
#[ignore = "needs root"]
fn what_the_program_does_not_take_apart_comes_through_the_kernel() {
    let mut bench = Bench::new("underlay-odd");
    // On a cable the tag is in the frame.
    let switch = bench.world.sites.wire.as_ref().unwrap().namespace();
    offload(switch, "port0", &["tx-vlan-hw-insert", "off"]).unwrap();
    let plain = bench.frame(b"plain");
    bench.send(&plain);
    assert_eq!(bench.hear(), "plain");
    let options = with_options(bench.frame(b"options"), 8);
    let [first, second] = fragments(&bench.frame(b"in two fragments"), 24);
    let priority = tagged(&bench.frame(b"priority"), 0);
    for (frames, said) in [
        (vec![options], "options"),
        (vec![first.clone(), second.clone()], "in two fragments"),
        (vec![second, first], "in two fragments"),
        (vec![priority], "priority"),
    ] {
        let before = bench.received();
        for frame in &frames {
            bench.send(frame);
        }
        assert_eq!(bench.hear(), said);
        assert_eq!(bench.received() - before, 1, "{said}");
    }
    let before = bench.received();
    let elsewhere = tagged(&bench.frame(b"elsewhere"), 5);
    bench.send(&elsewhere);
    bench.send(&plain);
    assert_eq!(bench.hear(), "plain");
    assert_eq!(bench.received() - before, 1);
    bench.world.check();
}

/// A frame that is longer than a buffer, because the device's MTU was raised while the gateway ran, is dropped by name.
#[test]
#[ignore = "needs root"]
fn a_frame_above_the_chunk_is_a_counted_drop() {
    let mut bench = Bench::new("underlay-long");
    let gateway = bench.world.sites.gateways[0].namespace();
    gateway.ip("link set eth0 mtu 3400").unwrap();
    let switch = bench.world.sites.wire.as_ref().unwrap().namespace();
    switch
        .ip("link set port0 mtu 3400\nlink set switch mtu 3400")
        .unwrap();
    let long = bench.frame(&[7; 3000]);
    let before = bench.received();
    bench.send(&long);
    bench.world.wait_for_drop(0, "pool-empty");
    let accounts = bench.world.accounts(0);
    assert_eq!(
        (accounts.dropped("pool-empty"), accounts.received - before),
        (1, 1)
    );
    let plain = bench.frame(b"plain");
    bench.send(&plain);
    assert_eq!(bench.hear(), "plain");
    bench.world.check();
}

/// Frames of several buffers, because MTUs were raised far above a page while the gateway ran: from the wire they come by
/// the kernel's socket, which has no buffer as long either; from an instance they end in the program. Each is counted once.
#[test]
#[ignore = "needs root"]
fn frames_of_several_buffers_are_counted_drops() {
    const MTU: usize = 9000;
    let mut bench = Bench::new("underlay-buffers");
    let gateway = bench.world.sites.gateways[0].namespace();
    let ports = gateway
        .succeed(&Program::new("ip").args(["-o", "link", "show", "type", "veth"]))
        .unwrap();
    for line in ports.lines() {
        let name = line.split(": ").nth(1).unwrap();
        let name = name.split('@').next().unwrap();
        gateway.ip(&format!("link set {name} mtu {MTU}")).unwrap();
    }
    let switch = bench.world.sites.wire.as_ref().unwrap().namespace();
    for device in ["port0", "odd", "switch"] {
        switch.ip(&format!("link set {device} mtu {MTU}")).unwrap();
    }
    for (len, reason) in [(3000, "pool-empty"), (8000, "too-big")] {
        let before = bench.world.accounts(0);
        let long = bench.frame(&vec![7; len]);
        bench.send(&long);
        bench.world.wait_for_drop(0, reason);
        let accounts = bench.world.accounts(0);
        assert_eq!(
            accounts.dropped(reason) - before.dropped(reason),
            1,
            "{len} {accounts:?}"
        );
        assert_eq!(accounts.received - before.received, 1);
    }
    let gateway = bench.world.sites.gateways[0].namespace();
    let bridges = Program::new("ip").args(["-o", "link", "show", "type", "bridge"]);
    let bridge = gateway.succeed(&bridges).unwrap();
    let bridge = bridge.split(": ").nth(1).unwrap();
    gateway.ip(&format!("link set {bridge} mtu {MTU}")).unwrap();
    let instance = &bench.a.namespace;
    let shown = Program::new("ip").args(["route", "show", "10.30.0.0/16"]);
    let route = instance.succeed(&shown).unwrap();
    let wide = route.trim().replace("mtu 1420", &format!("mtu {MTU}"));
    instance
        .ip(&format!(
            "link set eth-sluice mtu {MTU}\nroute replace {wide}"
        ))
        .unwrap();
    let before = bench.world.accounts(0);
    let socket = udp_socket(instance, 0, 0);
    socket.send_to(&[7; 8000], (bench.far.ip(0), PORT)).unwrap();
    wait_for("the drop to be counted", LIMIT, || {
        let now = bench.world.accounts(0);
        let all = (now.received, now.dropped("too-big"));
        if all == (before.received + 1, before.dropped("too-big") + 1) {
            Ok(())
        } else {
            Err(format!("{now:?}, before {before:?}"))
        }
    })
    .unwrap();
    let plain = bench.frame(b"plain");
    bench.send(&plain);
    assert_eq!(bench.hear(), "plain");
    bench.world.check();
}

/// A device whose frames no buffer holds is none for AF_XDP: said, and done without.
#[test]
#[ignore = "needs root"]
fn a_device_with_jumbo_frames_is_left_to_tun() {
    let mut world = World::built("underlay-jumbo", &layout("link = \"auto\"\n"));
    let gateway = world.sites.gateways[0].namespace();
    gateway.ip("link set eth0 mtu 9000").unwrap();
    world.start();
    let status = world.sites.gateways[0].role.ask("/v1/status").unwrap();
    let link = status["workers"][0]["links"][0].to_string();
    assert!(link.contains("tun "), "{link}");
    let said = world.sites.gateways[0].role.said();
    assert!(said.contains("eth0 has an MTU of 9000"), "{said}");
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    assert_eq!(tcp(&caller.namespace, b.ip(0)).unwrap().name, "b");
    world.check();
}

/// Datagrams that an IPsec policy covers do not go around it, in neither direction; without it they come and go as before.
#[test]
#[ignore = "needs root"]
fn ipsec_policies_are_obeyed() {
    obeys_ipsec("af_xdp");
}

/// The same where the kernel forwards established flows by itself.
#[test]
#[ignore = "needs root"]
fn ipsec_policies_are_obeyed_by_the_offload_of_tun() {
    obeys_ipsec("tun");
}

fn obeys_ipsec(link: &str) {
    let fastpath = format!("link = \"{link}\"\n");
    let world = World::laid(&format!("underlay-ipsec-{link}"), &layout(&fastpath));
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    let [near, far] = [0, 1].map(|index| &world.sites.gateways[index]);
    let socket = udp_socket(&caller.namespace, 0, 0);
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let answered = || {
        wait_for("answers", LIMIT, || {
            udp(&socket, b.ip(0)).map_err(|error| error.to_string())
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", near.role.said()));
    };
    let offloaded = || {
        wait_for("the flow to be offloaded", LIMIT, || {
            let _ = udp(&socket, b.ip(0));
            let status = near.role.ask("/v1/status").unwrap();
            match status["flows_offloaded"].as_u64() {
                Some(1..) => Ok(()),
                _ => Err(status["offload"].to_string()),
            }
        })
        .unwrap();
    };
    answered();
    for (direction, source, destination) in [
        ("out", near.address[0], far.address[0]),
        ("in", far.address[0], near.address[0]),
    ] {
        let policy = format!("src {source} dst {destination} proto udp dir {direction}");
        let xfrm = |verb: &str, action: &str| {
            let arguments = format!("xfrm policy {verb} {policy} {action}");
            let program = Program::new("ip").args(arguments.split_whitespace());
            near.namespace().succeed(&program).unwrap();
        };
        offloaded();
        xfrm("add", "action block");
        wait_for("the policy to be obeyed", LIMIT, || {
            match udp(&socket, b.ip(0)) {
                Err(_) => Ok(()),
                Ok(answer) => Err(format!("{answer:?}")),
            }
        })
        .unwrap();
        xfrm("delete", "");
        answered();
    }
    let said = near.role.said();
    assert!(
        link == "tun" || said.contains("IPsec policies apply"),
        "{said}"
    );
    world.check();
}

/// What the hardware settings say about sockets is what the sockets say themselves.
#[test]
#[ignore = "needs root"]
fn settings_of_sockets_are_read_back() {
    let mut world = World::built("underlay-sockets", &layout("link = \"af_xdp\"\n"));
    let set = "[hardware.set]\nxsk_ring = 512\nbusy_poll_us = 30\nprefer_busy_poll = true\n";
    world.sites.gateways[0]
        .role
        .configure(|text| text + set)
        .unwrap();
    world.start();
    let rows = |gateway: usize| {
        let status = world.sites.gateways[gateway]
            .role
            .ask("/v1/status")
            .unwrap();
        status["sockets"].as_array().unwrap().clone()
    };
    for (gateway, ring, microseconds) in [(0, 512, 30), (1, 2048, 0)] {
        let rows = rows(gateway);
        let devices: Vec<&str> = rows
            .iter()
            .map(|row| row["device"].as_str().unwrap())
            .collect();
        assert_eq!(devices, ["sluice0", "eth0"]);
        for row in &rows {
            assert_eq!(row["binding"], "copy", "{row}");
            assert_eq!(row["ring"], ring, "{row}");
            assert_eq!(row["busy_poll_us"], microseconds, "{row}");
            assert_eq!(row["prefer_busy_poll"], microseconds > 0, "{row}");
            assert!(row["page_bytes"].as_u64().unwrap() >= 4096, "{row}");
        }
    }
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    assert_eq!(tcp(&caller.namespace, b.ip(0)).unwrap().name, "b");
    world.check();
}

/// The NIC has another address than the programs were made for: the gateway ends, says so, and opens it anew at its next start.
#[test]
#[ignore = "needs root"]
fn a_nic_with_another_address_is_opened_anew() {
    let mut world = World::laid("underlay-mac", &layout("link = \"af_xdp\"\n"));
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    assert_eq!(tcp(&caller.namespace, b.ip(0)).unwrap().name, "b");
    let near = world.sites.gateways[0].namespace().clone();
    near.ip("link set eth0 address 02:00:00:00:00:55").unwrap();
    let error = wait_for("the gateway to end", LIMIT, || {
        match world.sites.gateways[0].role.alive() {
            Ok(()) => Err("it runs".to_owned()),
            Err(error) => Ok(error.to_string()),
        }
    })
    .unwrap();
    assert!(
        error.contains("was replaced, or has another address"),
        "{error}"
    );
    world.sites.gateways[0].role.start().unwrap();
    world.sites.gateways[0].role.ready().unwrap();
    wait_for("answers", LIMIT, || {
        tcp_impatient(&caller.namespace, b.ip(0)).map_err(|error| error.to_string())
    })
    .unwrap();
    world.check();
}
