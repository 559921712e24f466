//! AF_XDP links on veth pairs: frames in and out of both sides, what goes the kernel's way, and what is left alone.

use crate::lab::{At, INSTANCE_MAC, Lab, NIC_MAC, UPLINK_MAC, WIRE_MAC};
use sluice_link::Link;
use sluice_link::af_xdp::{self, Hop, Neighbour, Pair, QueueSettings, XdpLinks, XdpSettings};
use sluice_link::bpf::Mode;
use sluice_link::sys::{monotonic_ns, wait_readable};
use sluice_memory::{Account, Batch, Endpoint, Frame, Pages};
use sluice_wire::{DropReason, Dual, Ip, checksum, parse};
use std::net::UdpSocket;
use std::time::Duration;

const PORT: u16 = 50103;
/// Nothing here takes longer unless it is broken.
const PATIENCE: Duration = Duration::from_secs(10);

fn settings(lab: &Lab, workers: usize) -> XdpSettings {
    XdpSettings {
        service: lab.device("uplink", UPLINK_MAC),
        underlay: lab.device("nic", NIC_MAC),
        service_ranges: Dual::both(
            "10.30.0.0/16".parse().unwrap(),
            "fdff::/16".parse().unwrap(),
        ),
        tunnel_port: PORT,
        workers,
        queue: QueueSettings {
            ring_entries: 256,
            ..QueueSettings::default()
        },
        guard_sources: false,
        native: true,
        pages: Pages::Small,
        blocked: Vec::new(),
        source_limit: None,
        offload: None,
    }
}

const INSTANCE: Neighbour = Neighbour {
    mac: INSTANCE_MAC,
    mtu: 1450,
};

fn ip(text: &str) -> Ip {
    text.parse().unwrap()
}

/// Opens the links in the calling thread's namespace and tells them who stands where.
fn open(settings: &XdpSettings) -> XdpLinks {
    let mut links = af_xdp::open(settings).unwrap();
    let control = &mut links.control;
    let own = [ip("192.0.2.9"), ip("2001:db8::9")];
    control.programs.set_own_addresses(&own).unwrap();
    control.neighbours.publish(
        [(ip("10.18.0.2"), INSTANCE), (ip("fc00::2"), INSTANCE)]
            .into_iter()
            .collect(),
    );
    control.hops.publish(
        [("192.0.2.7", "192.0.2.9"), ("2001:db8::7", "2001:db8::9")]
            .map(|(to, source)| {
                let hop = Hop {
                    mac: WIRE_MAC,
                    source: ip(source),
                    mtu: 1500,
                };
                (ip(to), hop)
            })
            .into_iter()
            .collect(),
    );
    links
}

/// `count` frames of one side, as they came.
fn receive_frames(pair: &mut Pair, service: bool, count: usize) -> Batch {
    let account = Account::default();
    let mut all = Batch::new();
    let deadline = monotonic_ns() + u64::try_from(PATIENCE.as_nanos()).unwrap();
    loop {
        let mut batch = Batch::new();
        let Pair {
            service: services,
            underlay,
            pool,
        } = pair;
        let fd = if service {
            services.receive(pool, &account, &mut batch).unwrap();
            services.fd()
        } else {
            underlay.receive(pool, &account, &mut batch).unwrap();
            underlay.fd()
        };
        all.extend(batch);
        if all.len() >= count {
            return all;
        }
        assert!(monotonic_ns() < deadline, "{} of {count} came", all.len());
        wait_readable(&[fd.unwrap()], Some(100_000_000)).unwrap();
    }
}

fn receive(pair: &mut Pair, service: bool, count: usize) -> Vec<Vec<u8>> {
    receive_frames(pair, service, count)
        .into_iter()
        .map(|frame| {
            let bytes = frame.bytes().to_vec();
            pair.pool.release(frame.into_buffer());
            bytes
        })
        .collect()
}

/// Sends `packets` on one side; returns what was dropped instead.
fn transmit(pair: &mut Pair, service: bool, packets: &[Vec<u8>], to: Option<&str>) -> u64 {
    let account = Account::default();
    let mut batch = Batch::new();
    for packet in packets {
        let mut frame = Frame::new(pair.pool.take().unwrap());
        frame.fill(packet);
        frame.outer = to.map(|to| Endpoint {
            ip: ip(to),
            port: PORT,
        });
        account.originated.add(1);
        batch.push(frame);
    }
    if service {
        pair.service.transmit(&mut batch, &mut pair.pool, &account);
    } else {
        pair.underlay.transmit(&mut batch, &mut pair.pool, &account);
    }
    let (left, right) = account.balance();
    assert_eq!(left, right);
    packets.len() as u64 - account.forwarded.value()
}

fn bound(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn udp_packet(source: [u8; 4], destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    etherparse::PacketBuilder::ipv4(source, destination, 64)
        .udp(7, 4000)
        .write(&mut packet, payload)
        .unwrap();
    packet
}

/// An instance's datagrams come in with complete checksums, over both families; answers reach its socket.
#[test]
#[ignore = "needs root"]
fn instances_and_gateway_exchange_packets() {
    let lab = Lab::new(1, 1450);
    let settings = settings(&lab, 1);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let node = lab.inside(At::Node, move || {
        let mut links = open(&settings);
        assert_eq!(links.control.sides[0].mode, Mode::Native);
        assert_eq!(
            links.control.sides[0].to_string(),
            "af_xdp uplink (native, copy, 1 queue)"
        );
        ready.send(()).unwrap();
        let pair = &mut links.pairs[0];
        let came = receive(pair, true, 2);
        for (packet, len) in came.iter().zip([28 + 5, 48 + 6]) {
            let parsed = parse(packet).unwrap();
            assert_eq!(packet.len(), len, "without Ethernet padding");
            assert!(checksum::verify_l4(packet, &parsed));
        }
        assert!(came[0].ends_with(b"hello") && came[1].ends_with(b"hello6"));
        let answer = udp_packet([10, 30, 0, 1], [10, 18, 0, 2], b"answer");
        assert_eq!(transmit(pair, true, &[answer], None), 0);
        let nobody = udp_packet([10, 30, 0, 1], [10, 18, 0, 3], b"answer");
        assert_eq!(transmit(pair, true, &[nobody], None), 1, "no neighbour");
        let long = |len: usize| udp_packet([10, 30, 0, 1], [10, 18, 0, 2], &vec![7; len - 28]);
        assert_eq!(transmit(pair, true, &[long(1451)], None), 1, "too big");
        assert_eq!(transmit(pair, true, &[long(1450)], None), 0, "fits");
    });
    is_ready.recv().unwrap();
    let instance = lab.inside(At::Instance, || {
        let socket = bound("0.0.0.0:4000");
        socket.send_to(b"hello", "10.30.0.1:7").unwrap();
        let six = bound("[::]:4001");
        six.send_to(b"hello6", "[fdff::1]:7").unwrap();
        let mut bytes = [0; 100];
        let (len, from) = socket.recv_from(&mut bytes).unwrap();
        assert_eq!(
            (&bytes[..len], from),
            (&b"answer"[..], "10.30.0.1:7".parse().unwrap())
        );
        let mut bytes = [0; 2000];
        assert_eq!(socket.recv_from(&mut bytes).unwrap().0, 1450 - 28);
    });
    instance.join().unwrap();
    node.join().unwrap();
}

/// A known instance's frames come from its own Ethernet address: others are dropped by name, where that is asked for.
#[test]
#[ignore = "needs root"]
fn frames_in_anothers_name_are_dropped() {
    let lab = Lab::new(1, 1450);
    let settings = XdpSettings {
        guard_sources: true,
        ..settings(&lab, 1)
    };
    let (ready, is_ready) = std::sync::mpsc::channel();
    let node = lab.inside(At::Node, move || {
        let mut links = open(&settings);
        let other = Neighbour {
            mac: WIRE_MAC,
            ..INSTANCE
        };
        let rows = [(ip("10.18.0.2"), other), (ip("fc00::2"), INSTANCE)];
        links.control.neighbours.publish(rows.into_iter().collect());
        ready.send(()).unwrap();
        let Pair { service, pool, .. } = &mut links.pairs[0];
        let (account, mut batch) = (Account::default(), Batch::new());
        while batch.is_empty() {
            let fd = service.fd().unwrap();
            assert!(wait_readable(&[fd], Some(5_000_000_000)).unwrap() != 0);
            service.receive(pool, &account, &mut batch).unwrap();
        }
        assert_eq!(account.dropped(DropReason::SourceForged), 1);
        let frame = batch.pop().unwrap();
        assert!(frame.bytes().ends_with(b"its own"));
        pool.release(frame.into_buffer());
    });
    is_ready.recv().unwrap();
    let instance = lab.inside(At::Instance, || {
        bound("0.0.0.0:0")
            .send_to(b"forged", "10.30.0.1:7")
            .unwrap();
        bound("[::]:0").send_to(b"its own", "[fdff::1]:7").unwrap();
    });
    instance.join().unwrap();
    node.join().unwrap();
}

/// Datagrams of another node's kernel come in and ours are accepted by it, over both families; a node without a known hop
/// is reached through the kernel.
#[test]
#[ignore = "needs root"]
fn nodes_exchange_datagrams_with_a_kernel() {
    let lab = Lab::new(1, 1500);
    let settings = settings(&lab, 1);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (heard, has_heard) = std::sync::mpsc::channel::<()>();
    let node = lab.inside(At::Node, move || {
        let mut links = open(&settings);
        ready.send(()).unwrap();
        let pair = &mut links.pairs[0];
        let frames = receive_frames(pair, false, 2);
        for (frame, from) in frames.into_iter().zip(["192.0.2.7", "2001:db8::7"]) {
            let outer = frame.outer.unwrap();
            assert_eq!((outer.ip, outer.port), (ip(from), PORT));
            assert_eq!(frame.bytes(), format!("E from {from}").as_bytes());
            pair.pool.release(frame.into_buffer());
        }
        let packet = |text: &str| vec![text.as_bytes().to_vec()];
        for to in ["192.0.2.7", "2001:db8::7"] {
            assert_eq!(transmit(pair, false, &packet("by hop"), Some(to)), 0);
        }
        // The kernel has no neighbour for it either, asks, and holds the datagram until it is answered.
        assert_eq!(
            transmit(pair, false, &packet("by kernel"), Some("192.0.2.77")),
            0
        );
        let too_big = vec![vec![0x45; 1473]];
        assert_eq!(transmit(pair, false, &too_big, Some("192.0.2.7")), 1);
        let fits = vec![vec![0x45; 1472]];
        assert_eq!(transmit(pair, false, &fits, Some("192.0.2.7")), 0);
        has_heard.recv().unwrap();
    });
    is_ready.recv().unwrap();
    lab.run(At::Far, "ip addr add 192.0.2.77/24 dev wire");
    let far = lab.inside(At::Far, || {
        let four = bound("192.0.2.7:50103");
        let six = bound("[2001:db8::7]:50103");
        let second = bound("192.0.2.77:50103");
        four.send_to(b"E from 192.0.2.7", "192.0.2.9:50103")
            .unwrap();
        six.send_to(b"E from 2001:db8::7", "[2001:db8::9]:50103")
            .unwrap();
        let mut bytes = [0; 2000];
        for (socket, expected) in [(&four, "by hop"), (&six, "by hop"), (&second, "by kernel")] {
            let (len, from) = socket.recv_from(&mut bytes).unwrap();
            assert_eq!((&bytes[..len], from.port()), (expected.as_bytes(), PORT));
        }
        assert_eq!(four.recv_from(&mut bytes).unwrap().0, 1472);
    });
    far.join().unwrap();
    heard.send(()).unwrap();
    node.join().unwrap();
}

/// A datagram in fragments and one with IP options are not for the program: the kernel takes them apart, and they come by
/// the socket. (VLAN tags are in the table of `xdp_programs`; kernels without VLAN devices exist.)
#[test]
#[ignore = "needs root"]
fn fragments_and_options_come_through_the_kernel() {
    let lab = Lab::new(1, 1500);
    let settings = settings(&lab, 1);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let node = lab.inside(At::Node, move || {
        let mut links = open(&settings);
        ready.send(()).unwrap();
        let pair = &mut links.pairs[0];
        let lens: Vec<usize> = receive(pair, false, 2).iter().map(Vec::len).collect();
        assert_eq!(lens, [1600, 77]);
    });
    is_ready.recv().unwrap();
    let far = lab.inside(At::Far, || {
        let socket = bound("0.0.0.0:50103");
        let mut packet = vec![0x45; 1600];
        socket.send_to(&packet, "192.0.2.9:50103").unwrap();
        packet.truncate(77);
        // A record-route option (RFC 791): seven bytes, padded to eight.
        let option = [7_u8, 7, 4, 0, 0, 0, 0, 0];
        // SAFETY: `option` is readable for its length.
        let set = unsafe {
            libc::setsockopt(
                std::os::fd::AsRawFd::as_raw_fd(&socket),
                libc::IPPROTO_IP,
                libc::IP_OPTIONS,
                option.as_ptr().cast(),
                8,
            )
        };
        assert_eq!(set, 0);
        socket.send_to(&packet, "192.0.2.9:50103").unwrap();
    });
    far.join().unwrap();
    node.join().unwrap();
}

/// The kernel's own traffic on both devices goes on: ping, TCP, another UDP port.
#[test]
#[ignore = "needs root"]
fn what_is_not_ours_stays_with_the_kernel() {
    let lab = Lab::new(2, 1500);
    let settings = settings(&lab, 2);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let node = lab.inside(At::Node, move || {
        let listener = std::net::TcpListener::bind("0.0.0.0:22").unwrap();
        let dns = bound("0.0.0.0:53");
        let links = open(&settings);
        assert_eq!(
            links.control.sides.each_ref().map(|side| side.queues),
            [2, 2]
        );
        ready.send(()).unwrap();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
        }
        let mut bytes = [0; 100];
        assert_eq!(dns.recv_from(&mut bytes).unwrap().0, 5);
        is_done.recv().unwrap();
        let dropped: u64 = links.control.programs.tallies().unwrap().iter().sum();
        assert_eq!(dropped, 0);
    });
    is_ready.recv().unwrap();
    lab.run(At::Far, "ping -c 2 -i 0.01 -W 5 192.0.2.9");
    lab.run(At::Far, "ping -c 2 -i 0.01 -W 5 2001:db8::9");
    lab.run(At::Instance, "ping -c 2 -i 0.01 -W 5 10.18.0.1");
    for (at, address) in [(At::Far, "192.0.2.9:22"), (At::Instance, "10.18.0.1:22")] {
        let talk = lab.inside(at, move || {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            let sent: Vec<u8> = (0..=255).cycle().take(200_000).collect();
            let mut writer = stream.try_clone().unwrap();
            let copy = sent.clone();
            let write = std::thread::spawn(move || {
                writer.write_all(&copy).unwrap();
                writer.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let mut back = Vec::new();
            stream.read_to_end(&mut back).unwrap();
            write.join().unwrap();
            assert_eq!(back, sent);
        });
        talk.join().unwrap();
    }
    lab.inside(At::Far, || {
        bound("0.0.0.0:0")
            .send_to(b"query", "192.0.2.9:53")
            .unwrap();
    })
    .join()
    .unwrap();
    done.send(()).unwrap();
    node.join().unwrap();
}

/// As many frames as several rings hold go both ways through one pool, and every buffer comes back.
#[test]
#[ignore = "needs root"]
fn frames_cross_between_the_sides_without_a_copy() {
    const FRAMES: usize = 5000;
    let lab = Lab::new(1, 1500);
    let settings = settings(&lab, 1);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let node = lab.inside(At::Node, move || {
        let mut links = open(&settings);
        let pair = &mut links.pairs[0];
        ready.send(()).unwrap();
        let account = Account::default();
        let mut moved = 0;
        let deadline = monotonic_ns() + u64::try_from(PATIENCE.as_nanos()).unwrap();
        while moved < FRAMES && monotonic_ns() < deadline {
            let mut batch = Batch::new();
            pair.service
                .receive(&mut pair.pool, &account, &mut batch)
                .unwrap();
            if batch.is_empty() {
                wait_readable(&[pair.service.fd().unwrap()], Some(1_000_000)).unwrap();
            }
            moved += batch.len();
            for frame in &mut batch {
                frame.outer = Some(Endpoint {
                    ip: ip("192.0.2.7"),
                    port: PORT,
                });
            }
            pair.underlay.transmit(&mut batch, &mut pair.pool, &account);
        }
        assert_eq!(account.balance().0, account.balance().1);
        assert_eq!(account.copied.value(), 0);
        assert_eq!(account.forwarded.value(), moved as u64);
        // The instance sends one after the other is heard: none may be lost.
        assert_eq!(moved, FRAMES);
    });
    is_ready.recv().unwrap();
    let (heard, has_heard) = std::sync::mpsc::channel::<()>();
    let far = lab.inside(At::Far, move || {
        let socket = bound("192.0.2.7:50103");
        heard.send(()).unwrap();
        let mut bytes = [0; 2000];
        for expected in 0..FRAMES {
            let (len, _) = socket.recv_from(&mut bytes).unwrap();
            let number = usize::from_be_bytes(bytes[len - 8..len].try_into().unwrap());
            assert_eq!((len, number), (36, expected));
            heard.send(()).unwrap();
        }
    });
    let instance = lab.inside(At::Instance, move || {
        let socket = bound("0.0.0.0:4000");
        has_heard.recv().unwrap();
        let mut ahead = 0;
        for number in 0..FRAMES {
            socket
                .send_to(&number.to_be_bytes(), "10.30.0.1:7")
                .unwrap();
            ahead += 1;
            // Fewer than a ring holds are on their way at once.
            while ahead >= 100 {
                has_heard.recv_timeout(PATIENCE).unwrap();
                ahead -= 1;
            }
        }
        for _ in 0..ahead {
            has_heard.recv_timeout(PATIENCE).unwrap();
        }
    });
    instance.join().unwrap();
    far.join().unwrap();
    node.join().unwrap();
}

/// A second gateway cannot have the queues while the first has them, and has them as soon as it is gone.
#[test]
#[ignore = "needs root"]
fn queues_pass_from_one_process_to_the_next() {
    let lab = Lab::new(1, 1500);
    let settings = settings(&lab, 1);
    let node = lab.inside(At::Node, move || {
        let links = open(&settings);
        let error = af_xdp::open(&settings).unwrap_err().to_string();
        assert!(error.contains("attaching"), "{error}");
        drop(links);
        let again = open(&settings);
        assert_eq!(again.control.sides[1].mode, Mode::Native);
    });
    node.join().unwrap();
}

/// More workers than queues, and a device too wide for a chunk, are refused with the way out.
#[test]
#[ignore = "needs root"]
fn what_the_device_lacks_is_said() {
    let lab = Lab::new(1, 9000);
    let mut settings = settings(&lab, 2);
    let node = lab.inside(At::Node, move || {
        let error = af_xdp::open(&settings).unwrap_err().to_string();
        assert!(error.contains("MTU of 9000"), "{error}");
        settings.service.mtu = 1450;
        settings.underlay.mtu = 1500;
        let error = af_xdp::open(&settings).unwrap_err().to_string();
        assert!(error.contains("1 receive queues for 2 workers"), "{error}");
    });
    node.join().unwrap();
}
