//! Established flows that the kernel forwards by itself: whole, counted, and taken out when something changes.
//!
//! ```text
//!  caller ── gateway 1 (tc, XDP) ── wire ── gateway 2 (XDP, tc) ── echo b, sink
//! ```

use crate::world::{
    Answer, Instance, World, again, connect, one_plain_site, service_ip, udp, udp_socket,
};
use sluice_perf::lab::NetNs;
use sluice_perf::lab::clock::{pause, wait_for};
use sluice_perf::lab::sites::Layout;
use sluice_perf::lab::wire::offload;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);
const TRANSFER_LIMIT: Duration = Duration::from_secs(60);
const SINK_PORT: u16 = 7002;

/// What status says under a name.
pub(crate) fn status(world: &World, gateway: usize, key: &str) -> serde_json::Value {
    let all = world.sites.gateways[gateway]
        .role
        .ask("/v1/status")
        .unwrap_or_else(|error| panic!("{error}"));
    all[key].clone()
}

/// Frames that the kernel forwarded by itself at that gateway.
pub(crate) fn forwarded(world: &World, gateway: usize) -> u64 {
    let workers = status(world, gateway, "workers");
    workers
        .as_array()
        .into_iter()
        .flatten()
        .filter(|row| {
            row["links"][0] == "established flows in the kernel"
                || row["links"][0] == "XDP programs"
        })
        .filter_map(|row| row["forwarded"].as_u64())
        .sum()
}

/// Waits until so many flows are offloaded at that gateway.
pub(crate) fn wait_for_flows(world: &World, gateway: usize, count: u64) {
    wait_for(&format!("{count} offloaded flows"), LIMIT, || {
        let flows = status(world, gateway, "flows_offloaded");
        if flows == count {
            return Ok(());
        }
        let how = status(world, gateway, "offload");
        Err(format!("{flows} are, {how}"))
    })
    .unwrap_or_else(|error| {
        let said = world.sites.gateways[gateway].role.said();
        panic!("{error}\n{said}")
    });
}

/// Does `ask` until both gateways have offloaded so many flows.
pub(crate) fn ask_until_offloaded(
    world: &World,
    count: u64,
    mut ask: impl FnMut() -> io::Result<Answer>,
) {
    wait_for("the flow to be offloaded", LIMIT, || {
        ask().map_err(|error| error.to_string())?;
        pause(Duration::from_millis(50));
        let all = [0, 1].map(|gateway| status(world, gateway, "flows_offloaded"));
        if all.iter().all(|flows| *flows == count) {
            return Ok(());
        }
        let how = [0, 1].map(|gateway| status(world, gateway, "offload"));
        Err(format!("{all:?}, {how:?}"))
    })
    .unwrap_or_else(|error| {
        let said = world.sites.gateways[0].role.said();
        panic!("{error}\n{said}")
    });
}

/// Bytes of a transfer, different at every place: what arrives twice, not at all or elsewhere is seen.
pub(crate) fn content(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_ne_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Only the first gateway offloads.
fn one_sided(name: &str) -> World {
    let mut world = World::laid(name, &one_plain_site());
    let other = &mut world.sites.gateways[1].role;
    other
        .configure(|text| text.replace("[fastpath]\n", "[fastpath]\noffload = false\n"))
        .unwrap();
    other.stop();
    other.start().unwrap();
    other.ready().unwrap();
    world
}

/// Accepts connections in a namespace and reads each to its end.
struct Sink {
    arrived: Receiver<Vec<u8>>,
}

impl Sink {
    /// For so many connections.
    fn new(namespace: &NetNs, connections: usize) -> Self {
        let listener =
            namespace.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, SINK_PORT)).unwrap());
        let (arrive, arrived) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().take(connections) {
                let (mut stream, arrive) = (stream.unwrap(), arrive.clone());
                std::thread::spawn(move || {
                    let mut bytes = Vec::new();
                    stream.read_to_end(&mut bytes).unwrap();
                    arrive.send(bytes).unwrap();
                });
            }
        });
        Self { arrived }
    }

    /// What a connection brought that has ended.
    fn next(&self) -> Vec<u8> {
        self.arrived.recv_timeout(TRANSFER_LIMIT).unwrap()
    }
}

fn connect_to_sink(from: &NetNs, to: IpAddr) -> TcpStream {
    let to = SocketAddr::new(to, SINK_PORT);
    let stream = from.run(move || TcpStream::connect(to)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends `sent` to the sink over a new connection, its first bytes one by one until `established` says so, and returns
/// what arrived there.
fn transfer(
    from: &NetNs,
    sink: &NetNs,
    to: IpAddr,
    sent: &[u8],
    mut established: impl FnMut() -> bool,
) -> Vec<u8> {
    let sink = Sink::new(sink, 1);
    let mut stream = connect_to_sink(from, to);
    let mut bytes = sent;
    while !established() {
        let (first, rest) = bytes.split_at(1);
        stream.write_all(first).unwrap();
        bytes = rest;
        pause(Duration::from_millis(10));
    }
    stream.write_all(bytes).unwrap();
    drop(stream);
    sink.next()
}

/// Transfers of so many bytes in both directions and families arrive whole, at least half of each by the offload.
pub(crate) fn both_ways_are_offloaded(world: &World, caller: &Instance, b: &Instance, len: usize) {
    let sent = content(len);
    for family in [0, 1] {
        for (from, to) in [(caller, b), (b, caller)] {
            let mut before = [0; 2];
            let offloaded = || {
                before = [0, 1].map(|gateway| forwarded(world, gateway));
                [0, 1]
                    .iter()
                    .all(|gateway| status(world, *gateway, "flows_offloaded") == 1)
            };
            let received = transfer(
                &from.namespace,
                &to.namespace,
                to.ip(family),
                &sent,
                offloaded,
            );
            assert!(received == sent, "{} of {len} bytes", received.len());
            for gateway in [0, 1] {
                // A super-frame has at most 64 KB; a pause of the lease may hand some to the worker.
                let frames = u64::try_from(len / 2 / 65_536).unwrap();
                let now = forwarded(world, gateway) - before[gateway];
                assert!(now >= frames, "{now} frames of {len} bytes");
            }
            for gateway in [0, 1] {
                wait_for_flows(world, gateway, 0);
            }
        }
    }
}

/// Both directions of both families, bytes compared, without loss and with. In the last round the instances finish their
/// checksums themselves, so that the ends verify what the programs made of them.
#[test]
#[ignore = "needs root"]
fn transfers_are_offloaded_and_arrive_whole() {
    let mut world = World::laid("offload-transfer", &one_plain_site());
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    for (percent, len, finished) in [
        (0, 100 << 20, false),
        (2, 8 << 20, false),
        (0, 100 << 20, true),
    ] {
        world.sites.wire.as_mut().unwrap().lose(percent).unwrap();
        if finished {
            for end in [&caller, &b] {
                offload(&end.namespace, "eth-sluice", &["tx", "off"]).unwrap();
            }
        }
        both_ways_are_offloaded(&world, &caller, &b, len);
    }
    world.check();
}

/// An unconnected socket's datagrams, small and of all sizes that fit, come back from what was dialled.
#[test]
#[ignore = "needs root"]
fn datagrams_are_offloaded_and_keep_their_addresses() {
    let world = World::laid("offload-datagrams", &one_plain_site());
    let (caller, _b) = (world.caller(0), world.echo(1, "b"));
    for family in [0, 1] {
        let socket = udp_socket(&caller.namespace, family, 5000);
        let to = service_ip(family);
        ask_until_offloaded(&world, family as u64 + 1, || udp(&socket, to));
        let answer = udp(&socket, to).unwrap();
        assert_eq!((answer.peer, answer.from.ip()), (caller.ip(family), to));
        let before = [0, 1].map(|gateway| forwarded(&world, gateway));
        all_sizes_come_back(&socket, to);
        let now = [0, 1].map(|gateway| forwarded(&world, gateway));
        assert_eq!(now, before.map(|frames| frames + 2 * SIZES.len() as u64));
        // Fragments, for the worker.
        let sent = content(4000);
        socket.send_to(&sent, (to, crate::world::PORT)).unwrap();
        let mut bytes = vec![0; 5000];
        let (received, _) = socket.recv_from(&mut bytes).unwrap();
        assert_eq!(&bytes[..received], &sent[..]);
    }
    world.check();
}

/// Withdrawn, the instance gets nothing more from an offloaded connection: the caller is reset, and nothing hangs.
pub(crate) fn a_withdrawn_instance_takes_its_flows(world: World) {
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    let mut stream = connect(&caller.namespace, service_ip(0)).unwrap();
    ask_until_offloaded(&world, 1, || again(&mut stream));
    world.sites.detach(1, &b.attached).unwrap();
    wait_for("the caller to be told", LIMIT, || {
        match again(&mut stream) {
            Ok(answer) => Err(format!("{answer:?}")),
            Err(_) => Ok(()),
        }
    })
    .unwrap();
    for gateway in [0, 1] {
        wait_for_flows(&world, gateway, 0);
    }
    world.check();
}

#[test]
#[ignore = "needs root"]
fn a_withdrawn_instance_takes_its_offloaded_flows_with_it() {
    a_withdrawn_instance_takes_its_flows(World::laid("offload-withdrawn", &one_plain_site()));
}

/// A connection that ends leaves the offload by its own last packets; the pair of ports can be used again at once.
#[test]
#[ignore = "needs root"]
fn an_ended_connection_leaves_and_its_ports_are_free() {
    let world = World::laid("offload-ended", &one_plain_site());
    let (caller, _b): (Instance, Instance) = (world.caller(0), world.echo(1, "b"));
    for _ in 0..2 {
        let mut stream = connect(&caller.namespace, service_ip(0)).unwrap();
        ask_until_offloaded(&world, 1, || again(&mut stream));
        drop(stream);
        for gateway in [0, 1] {
            wait_for_flows(&world, gateway, 0);
        }
    }
    world.check();
}

/// A segment that is received together with the end of its connection is delivered, though the end takes the flow out.
#[test]
#[ignore = "needs root"]
fn what_comes_with_the_end_of_a_connection_is_delivered() {
    const CONNECTIONS: usize = 32;
    let world = World::laid("offload-last-words", &one_plain_site());
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    let last_words = content(100_000);
    for (from, to) in [(&caller, &b), (&b, &caller)] {
        for family in [0, 1] {
            let sink = Sink::new(&to.namespace, CONNECTIONS);
            let mut streams: Vec<TcpStream> = (0..CONNECTIONS)
                .map(|_| connect_to_sink(&from.namespace, to.ip(family)))
                .collect();
            let mut first_words = 0;
            wait_for("the flows to be offloaded", LIMIT, || {
                for stream in &mut streams {
                    stream.write_all(b"?").map_err(|error| error.to_string())?;
                }
                first_words += 1;
                pause(Duration::from_millis(20));
                let flows = [0, 1].map(|gateway| status(&world, gateway, "flows_offloaded"));
                flows
                    .iter()
                    .all(|flows| *flows == CONNECTIONS)
                    .then_some(())
                    .ok_or_else(|| format!("{flows:?}"))
            })
            .unwrap_or_else(|error| panic!("{error}"));
            for mut stream in streams {
                stream.write_all(&last_words).unwrap();
            }
            for _ in 0..CONNECTIONS {
                let received = sink.next();
                assert!(
                    received[first_words..] == last_words,
                    "{} bytes",
                    received.len()
                );
            }
            for gateway in [0, 1] {
                wait_for_flows(&world, gateway, 0);
            }
        }
    }
    for gateway in [0, 1] {
        assert_eq!(world.accounts(gateway).dropped("flow-busy"), 0);
    }
    world.check();
}

/// Answers HTTP requests for `/LEN` with so many bytes, one per connection.
fn serve_pages(namespace: &NetNs) {
    let listener = namespace.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, SINK_PORT)).unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                    request.extend(byte);
                }
                let len = std::str::from_utf8(&request)
                    .ok()
                    .and_then(|text| text.split(['/', ' ']).nth(2)?.parse().ok());
                let page = content(len.unwrap_or_default());
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", page.len());
                let _ = stream.write_all(&[head.as_bytes(), &page].concat());
            });
        }
    });
}

/// Gets a page over a connection of its own.
fn get_page(from: &NetNs, to: IpAddr, len: usize) {
    let mut stream = connect_to_sink(from, to);
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    write!(stream, "GET /{len} HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .unwrap_or_else(|error| panic!("{error} after {} of {len} bytes", answer.len()));
    assert!(
        answer.ends_with(&content(len)) && answer.starts_with(b"HTTP/1.1 200"),
        "{} for {len} bytes",
        answer.len()
    );
}

/// Gets 2,000 pages from the other node, several at a time: about half of the connections get offloaded in their short lives.
fn get_pages(world: &World) {
    const CALLERS: usize = 4;
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    serve_pages(&b.namespace);
    std::thread::scope(|scope| {
        for number in 0..CALLERS {
            let (from, to) = (&caller.namespace, b.ip(number % 2));
            scope.spawn(move || {
                for page in 0..500 {
                    get_page(from, to, [10, 1000, 3000, 30_000, 100_000][page % 5]);
                }
            });
        }
    });
    assert!(forwarded(world, 0) > 0, "nothing was offloaded");
}

/// Flows come and go while they are offloaded: no page is lost, and no packet either.
#[test]
#[ignore = "needs root"]
fn short_connections_lose_nothing() {
    let world = World::laid("offload-short", &one_plain_site());
    get_pages(&world);
    for gateway in [0, 1] {
        let accounts = world.accounts(gateway);
        assert_eq!(accounts.dropped("flow-busy"), 0, "{accounts:?}");
    }
    world.check();
}

/// The same towards a gateway whose worker gets everything.
#[test]
#[ignore = "needs root"]
fn short_connections_lose_nothing_with_one_side_offloaded() {
    let world = one_sided("offload-short-one-side");
    get_pages(&world);
    assert_eq!(forwarded(&world, 1), 0);
    world.check();
}

/// Packets that a device of a gateway's host sent.
fn sent_by(world: &World, gateway: usize, device: &str) -> u64 {
    let namespace = world.sites.gateways[gateway].namespace();
    let text = namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap());
    let counters = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("{device}: {text}"));
    // Eight columns are of what it received.
    counters.split_whitespace().nth(9).unwrap().parse().unwrap()
}

/// What comes in for an offloaded flow goes into the instance's namespace, not over the bridge; a later instance has a way of
/// its own.
#[test]
#[ignore = "needs root"]
fn offloaded_flows_go_past_the_bridge() {
    let world = World::laid("offload-past-the-bridge", &one_plain_site());
    let caller = world.caller(0);
    for name in ["b", "c"] {
        let callee = world.echo(1, name);
        let mut stream = connect(&caller.namespace, callee.ip(0)).unwrap();
        ask_until_offloaded(&world, 1, || again(&mut stream));
        let before = sent_by(&world, 1, "sluice0");
        let carried = forwarded(&world, 1);
        for _ in 0..100 {
            assert_eq!(again(&mut stream).unwrap().name, name);
        }
        assert!(forwarded(&world, 1) >= carried + 200);
        let over_the_bridge = sent_by(&world, 1, "sluice0") - before;
        assert!(over_the_bridge < 50, "{over_the_bridge} of 100 questions");
        world.sites.detach(1, &callee.attached).unwrap();
        drop(stream);
        for gateway in [0, 1] {
            wait_for_flows(&world, gateway, 0);
        }
    }
    world.check();
}

/// A full table makes room for a flow that is used, in place of one that is not.
#[test]
#[ignore = "needs root"]
fn an_idle_flow_makes_room_in_a_full_table() {
    const IDLE_LIMIT: Duration = Duration::from_secs(60);
    let world = World::laid(
        "offload-full",
        &Layout {
            fastpath: "offload_flows_max = 1".to_owned(),
            ..one_plain_site()
        },
    );
    let (caller, _b) = (world.caller(0), world.echo(1, "b"));
    let [first, second] = [5000, 5001].map(|port| udp_socket(&caller.namespace, 0, port));
    ask_until_offloaded(&world, 1, || udp(&first, service_ip(0)));
    let before = [0, 1].map(|gateway| forwarded(&world, gateway));
    wait_for("the second flow to be offloaded", IDLE_LIMIT, || {
        udp(&second, service_ip(0)).map_err(|error| error.to_string())?;
        pause(Duration::from_millis(50));
        let now = [0, 1].map(|gateway| forwarded(&world, gateway));
        (now[0] > before[0] && now[1] > before[1])
            .then_some(())
            .ok_or_else(|| format!("{before:?}, {now:?}"))
    })
    .unwrap();
    assert_eq!(status(&world, 0, "flows_offloaded"), 1);
    world.check();
}

/// Switched off, and said so; everything else is as with it.
#[test]
#[ignore = "needs root"]
fn the_offload_can_be_switched_off() {
    let world = World::laid(
        "offload-off",
        &Layout {
            fastpath: "offload = false".to_owned(),
            ..one_plain_site()
        },
    );
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    let sent = content(4 << 20);
    let received = transfer(&caller.namespace, &b.namespace, b.ip(0), &sent, || true);
    assert!(received == sent, "{} bytes", received.len());
    assert_eq!(forwarded(&world, 0), 0);
    assert_eq!(
        status(&world, 0, "offload"),
        "off: `fastpath.offload` is false"
    );
    world.check();
}

/// Only the caller's side is offloaded: the other side's worker gets segments whose checksums are finished, though the
/// cable would carry unfinished ones.
#[test]
#[ignore = "needs root"]
fn a_worker_receives_what_an_offloaded_sender_sends() {
    let world = one_sided("offload-one-side");
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    let sent = content(32 << 20);
    for family in [0, 1] {
        let mut before = 0;
        let offloaded = || {
            before = forwarded(&world, 0);
            status(&world, 0, "flows_offloaded") == 1
        };
        let received = transfer(
            &caller.namespace,
            &b.namespace,
            b.ip(family),
            &sent,
            offloaded,
        );
        assert!(received == sent, "{} bytes", received.len());
        let frames = u64::try_from(sent.len() / 2 / 65_536).unwrap();
        let now = forwarded(&world, 0) - before;
        assert!(now >= frames, "{now} frames");
        wait_for_flows(&world, 0, 0);
    }
    assert_eq!(forwarded(&world, 1), 0);
    world.check();
}

/// Nodes that know each other by IPv6 addresses.
pub(crate) fn over_ipv6(name: &str, layout: &Layout) -> World {
    let mut world = World::built(name, layout);
    for gateway in &world.sites.gateways {
        let [v4, v6] = gateway.address;
        let by_v6 = |text: String| {
            text.replace(
                &format!("node_address = \"{v4}\""),
                &format!("node_address = \"{v6}\""),
            )
        };
        gateway.role.configure(by_v6).unwrap();
    }
    world.start();
    world
}

/// Over an IPv6 underlay, where the programs write the outer checksum that other kernels check: with the offload on both
/// sides, and with a worker's socket on the other one.
#[test]
#[ignore = "needs root"]
fn flows_are_offloaded_over_ipv6() {
    let mut world = over_ipv6("offload-ipv6", &one_plain_site());
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    for (percent, len) in [(0, 50 << 20), (2, 8 << 20)] {
        world.sites.wire.as_mut().unwrap().lose(percent).unwrap();
        both_ways_are_offloaded(&world, &caller, &b, len);
    }
    world.sites.wire.as_mut().unwrap().lose(0).unwrap();
    for family in [0, 1] {
        let socket = udp_socket(&caller.namespace, family, 0);
        let to = b.ip(family);
        ask_until_offloaded(&world, family as u64 + 1, || udp(&socket, to));
        all_sizes_come_back(&socket, to);
    }
    let other = &mut world.sites.gateways[1].role;
    other
        .configure(|text| text.replace("[fastpath]\n", "[fastpath]\noffload = false\n"))
        .unwrap();
    other.stop();
    other.start().unwrap();
    other.ready().unwrap();
    for family in [0, 1] {
        let before = forwarded(&world, 0);
        let sent = content(4 << 20);
        let offloaded = || status(&world, 0, "flows_offloaded").as_u64() > Some(2);
        let received = transfer(
            &caller.namespace,
            &b.namespace,
            b.ip(family),
            &sent,
            offloaded,
        );
        assert!(received == sent, "{} bytes", received.len());
        assert!(forwarded(&world, 0) > before);
    }
    world.check();
}

/// Bytes of datagrams that are answered by themselves, up to the longest that fits.
pub(crate) const SIZES: [usize; 5] = [101, 512, 1000, 1001, 1372];

/// Datagrams of all [`SIZES`] come back as they were.
pub(crate) fn all_sizes_come_back(socket: &std::net::UdpSocket, to: IpAddr) {
    for len in SIZES {
        let sent = content(len);
        socket.send_to(&sent, (to, crate::world::PORT)).unwrap();
        let mut bytes = vec![0; 2000];
        let (received, from) = socket.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..received], from.ip()), (&sent[..], to));
    }
}
