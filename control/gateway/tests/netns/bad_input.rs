//! Bad input at every door: the tunnel port, the broker, the REST interfaces, the sockets of the node.
//!
//! ```text
//!  caller ── gateway 1 ── wire ── gateway 2 ── echo b
//!                          └── stranger
//! ```

use crate::world::{ECHO, Instance, World, service_ip, sluice, tcp, udp_socket};
use sluice_perf::lab::clock::wait_for;
use sluice_perf::lab::http::{self, Answer};
use sluice_perf::lab::{NetNs, Program};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

const TUNNEL: u16 = 50103;

/// A host on the wire that is no node.
fn stranger(world: &mut World) -> NetNs {
    let stranger = NetNs::new("stranger").unwrap();
    let wire = world.sites.wire.as_mut().unwrap();
    wire.join(&stranger, "eth0", 1500).unwrap();
    stranger
        .ip("address add 192.168.77.99/24 dev eth0")
        .unwrap();
    stranger
}

pub(crate) fn send(from: &NetNs, to: IpAddr, payloads: Vec<Vec<u8>>) {
    from.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for payload in payloads {
            socket.send_to(&payload, (to, TUNNEL)).unwrap();
        }
    });
}

/// An IPv4 UDP packet with correct checksums, as a plain tunnel carries it.
pub(crate) fn inner(src: IpAddr, dst: IpAddr, dst_port: u16, payload: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (src, dst) else {
        panic!("IPv4 only");
    };
    let mut bytes = Vec::new();
    etherparse::PacketBuilder::ipv4(src.octets(), dst.octets(), 63)
        .udp(4000, dst_port)
        .write(&mut bytes, payload)
        .unwrap();
    bytes
}

#[test]
#[ignore = "needs root"]
fn garbage_on_the_tunnel_port_is_counted_and_harms_nobody() {
    let mut world = World::new("garbage");
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    tcp(&caller.namespace, service_ip(0)).unwrap();
    let stranger = stranger(&mut world);
    let good = inner(caller.ip(0), b.ns_ip(0), 7000, b"?");
    let mut payloads: Vec<Vec<u8>> = (0..good.len()).map(|len| good[..len].to_vec()).collect();
    payloads.extend([
        vec![0; 1],
        vec![0xff; 20],
        vec![0x45; 40],
        vec![0x60; 60],
        vec![0x45; 60_000],
    ]);
    // Nearly right ones: every byte of the header damaged in turn.
    payloads.extend((0..28).map(|at| {
        let mut bytes = good.clone();
        bytes[at] ^= 0xff;
        bytes
    }));
    // From a host that is no node, and from one that is.
    for from in [stranger, world.sites.gateways[0].namespace().clone()] {
        send(&from, world.sites.gateways[1].address[0], payloads.clone());
    }
    world.wait_for_drop(1, "malformed");
    tcp(&caller.namespace, service_ip(0)).unwrap();
    tcp(&caller.namespace, b.ip(1)).unwrap();
    world.check();
}

/// A stranger, and a node that speaks for another node's instance.
#[test]
#[ignore = "needs root"]
fn forged_inner_sources_reach_nobody() {
    let mut world = World::new("forged");
    let (caller, b) = (world.caller(0), world.echo(1, "b"));
    let spy = udp_socket(&b.namespace, 0, 4444);
    spy.set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    tcp(&caller.namespace, service_ip(0)).unwrap();
    let stranger = stranger(&mut world);
    let to = world.sites.gateways[1].address[0];
    let unknown: IpAddr = [10, 30, 123, 45].into();
    let foreign: IpAddr = [192, 0, 2, 1].into();
    for source in [caller.ip(0), b.ip(0), unknown, foreign, b.ns_ip(0)] {
        let packet = inner(source, b.ns_ip(0), 4444, b"forged");
        send(&stranger, to, vec![packet.clone()]);
        // The caller lives at gateway 1, so that gateway 1's host may speak for it; for nobody else.
        if source != caller.ip(0) {
            send(world.sites.gateways[0].namespace(), to, vec![packet]);
        }
    }
    assert!(
        spy.recv(&mut [0; 100]).is_err(),
        "a forged packet was delivered"
    );
    let dropped = world.accounts(1).drops;
    assert!(dropped.values().sum::<u64>() >= 9, "{dropped:?}");
    // The true owner is not locked out by what was said in its name.
    tcp(&caller.namespace, service_ip(0)).unwrap();
    world.check();
}

/// Raw MQTT 3.1.1: enough to publish as a node.
fn mqtt(stream: &mut TcpStream, node: &str, token: &str) {
    let text = |text: &str| {
        let len = u16::try_from(text.len()).unwrap().to_be_bytes();
        [&len[..], text.as_bytes()].concat()
    };
    let body = [
        text("MQTT"),
        vec![4, 0b1100_0010, 0, 30],
        text(node),
        text(node),
        text(token),
    ]
    .concat();
    stream.write_all(&packet(0x10, &body)).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0x20, 2, 0, 0], "the broker accepts the connection");
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    let mut len = body.len();
    loop {
        let seven = u8::try_from(len % 128).unwrap();
        len /= 128;
        bytes.push(if len > 0 { seven | 0x80 } else { seven });
        if len == 0 {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(topic.len()).unwrap().to_be_bytes();
    packet(0x30, &[&len[..], topic.as_bytes(), payload].concat())
}

#[test]
#[ignore = "needs root"]
fn malformed_mqtt_and_payloads_stop_nobody() {
    let world = World::new("mqtt");
    let (caller, _b) = (world.caller(0), world.echo(1, "b"));
    let token = fs::read_to_string(world.sites.scratch.path().join("token")).unwrap();
    let host = world.sites.gateways[0].namespace().clone();
    let broker: SocketAddr = "192.168.78.2:10003".parse().unwrap();
    let connect = || {
        let stream = host.run(move || TcpStream::connect(broker)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        stream
    };
    // Not MQTT at all, cut off, impossible lengths, wrong order.
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0x10],
        &[0x10, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x30, 0x02, 0x00, 0x01],
        &[0x00; 64],
        &[0xff; 64],
    ] {
        // The broker may hang up while we still talk.
        let _ = connect().write_all(bytes);
    }
    let node = "ffffffffffffffffffffffff";
    let mut stream = connect();
    mqtt(&mut stream, node, token.trim());
    for what in [
        "subnet",
        "tablequery/request",
        "service/deployed",
        "service/undeployed",
        "interest/remove",
        "instance/request",
        "service/address-changed",
    ] {
        for payload in [
            &b""[..],
            b"{",
            b"null",
            b"[]",
            b"{\"sip\":5}",
            b"{\"sname\":null,\"sip\":{}}",
            b"\xff\xfe",
            b"{\"appname\":\"a.b\",\"nsip\":\"x\",\"instance_number\":-5}",
            &[b'['; 5000],
        ] {
            let topic = format!("nodes/{node}/net/{what}");
            if stream.write_all(&publish(&topic, payload)).is_err() {
                stream = connect();
                mqtt(&mut stream, node, token.trim());
            }
        }
    }
    // The same said to a gateway, by a client that is no node.
    let mut stream = connect();
    mqtt(&mut stream, "operator", token.trim());
    let gateway = format!("{:024x}", 0xed6e_0001_u64);
    for verb in [
        "tablequery/result",
        "subnetwork/result",
        "v1/instance/result",
    ] {
        let topic = format!("nodes/{gateway}/net/{verb}");
        stream
            .write_all(&publish(&topic, b"{\"app_name\":5"))
            .unwrap();
    }
    let admin = &world.sites.gateways[0].role.admin;
    wait_for("three malformed messages", Duration::from_secs(5), || {
        let text = call(admin, "GET", "/metrics", "").body;
        text.contains("sluice_gateway_malformed_total 3")
            .then_some(())
            .ok_or(text)
    })
    .unwrap();
    // Everyone is still served, also with what has to be asked anew.
    tcp(&caller.namespace, service_ip(0)).unwrap();
    let late = world.caller(1);
    tcp(&late.namespace, service_ip(1)).unwrap();
    world.check();
}

fn call(socket: &Path, method: &str, path: &str, body: &str) -> Answer {
    http::request(socket, method, path, Some(body), Duration::from_secs(15)).unwrap()
}

#[test]
#[ignore = "needs root"]
fn malformed_json_is_a_400_everywhere() {
    let world = World::new("json");
    let (caller, _b) = (world.caller(0), world.echo(1, "b"));
    let gateway = &world.sites.gateways[0];
    for body in [
        "",
        "{",
        "[]",
        "null",
        "{\"service\":5}",
        &"[".repeat(10_000),
    ] {
        for path in ["/v1/attach", "/v1/detach"] {
            let answer = call(&gateway.role.admin, "POST", path, body);
            assert!(
                (400..500).contains(&answer.status),
                "{path} {body:.20}: {answer:?}"
            );
        }
        for path in ["/container/deploy", "/container/undeploy", "/register"] {
            let answer = call(&gateway.node_socket, "POST", path, body);
            assert!(
                (400..=500).contains(&answer.status),
                "{path} {body:.20}: {answer:?}"
            );
        }
        let answer = call(&world.sites.root.admin, "POST", "/v1/services", body);
        assert!(
            (400..500).contains(&answer.status),
            "{body:.20}: {answer:?}"
        );
    }
    tcp(&caller.namespace, service_ip(0)).unwrap();
    world.check();
}

#[test]
#[ignore = "needs root"]
fn wrong_names_pids_and_registrations_get_clear_errors() {
    let world = World::new("wrong-names");
    let gateway = &world.sites.gateways[0];
    let attach = |arguments: &[&str]| {
        let admin = gateway.role.admin.to_string_lossy().into_owned();
        let all = [&["attach", "--socket", &admin], arguments].concat();
        world.sites.sluice(all).unwrap_err().to_string()
    };
    let gone = "4194000";
    let error = attach(&["--service", ECHO, "--pid", gone]);
    assert!(error.contains(gone), "{error}");
    let error = attach(&["--service", ECHO, "--netns", "no-such-namespace"]);
    assert!(error.contains("no-such-namespace"), "{error}");
    for name in ["a.b.c", "a.b.c.d.e", "a..c.d", "a.b.c.d!", ""] {
        let error = attach(&["--service", name, "--pid", &std::process::id().to_string()]);
        assert!(name.is_empty() || error.contains(name), "{name}: {error}");
    }
    let own = format!("{:024x}", 0xed6e_0001_u64);
    let register = |id: &str| {
        let body = format!("{{\"client_id\":\"{id}\",\"cluster_address\":\"192.168.78.2\"}}");
        call(&gateway.node_socket, "POST", "/register", &body)
    };
    assert_eq!(register(&own).status, 200, "the same id again is fine");
    let refused = register("0123456789abcdef01234567");
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.body.contains(&own), "{refused:?}");
    world.check();
}

#[test]
#[ignore = "needs root"]
fn overlapping_ranges_are_refused_by_name() {
    let world = World::built("overlap", &crate::world::one_site());
    let file = world
        .sites
        .scratch
        .file(
            "overlap.toml",
            "[plan]\nsemantic_v4 = \"10.16.0.0/12\"\nnodes_v4 = \"10.18.0.0/16\"\n",
        )
        .unwrap();
    let check = Program::new(sluice()).args(["config", "check"]).arg(file);
    let error = world
        .sites
        .root
        .namespace
        .succeed(&check)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("10.16.0.0/12") && error.contains("10.18.0.0/16"),
        "{error}"
    );
}

/// What is known goes on without the broker; what is not yet known is answered when it is back.
#[test]
#[ignore = "needs root"]
fn a_broker_that_vanishes_and_comes_back_costs_only_news() {
    let mut world = World::new("broker");
    let (caller, _b) = (world.caller(0), world.echo(1, "b"));
    tcp(&caller.namespace, service_ip(0)).unwrap();
    world.sites.clusters[0].kill();
    for _ in 0..20 {
        tcp(&caller.namespace, service_ip(0)).unwrap();
    }
    world.sites.clusters[0].ready().unwrap();
    let late: Instance = wait_for("attaching to work again", Duration::from_secs(20), || {
        let namespace = NetNs::new("late").unwrap();
        let target = sluice_perf::lab::sites::Target::Namespace(&namespace);
        match world.sites.attach(1, crate::world::CALLER, target) {
            Ok(attached) => Ok(Instance {
                namespace,
                attached,
            }),
            Err(error) => Err(error.to_string()),
        }
    })
    .unwrap();
    tcp(&late.namespace, service_ip(1)).unwrap();
    tcp(&caller.namespace, service_ip(0)).unwrap();
    world.check();
}
