//! The node's wiring in namespaces of its own; `ip`, `nft`, `ping` and `iptables-nft` are the independent voice.
//!
//! ```text
//!   <host>-a ── slv…2 ┐
//!   <host>-b ── slv…3 ┤ sluicebr0 ── sluice0p ── sluice0 (10.18.0.1, fc00::1)   all in <host>
//! ```
#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

mod host;

use host::{Host, Ns, name, request, subnet};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4, icmpv6};
use rustix::event::{PollFd, PollFlags};
use sluice::node::NodeError;
use sluice::node::namespace::Workload;
use sluice::node::watch::Watch;
use sluice_link::Link;
use sluice_proto::alloc::Reading;
use sluice_wire::Dual;

/// What the clocks show, always the same.
fn now() -> Reading {
    Reading {
        boot: Some("only".to_owned()),
        uptime: Duration::from_secs(1000),
        wall: Duration::from_secs(1_000_000),
    }
}

#[test]
#[ignore = "needs root"]
fn an_instance_reaches_its_gateway_and_its_gateway_it() {
    let host = Host::new("reach");
    let mut node = host.node(subnet("10.18.0.0/26"));
    let a = host.instance("a");
    let attached = host.attach(&mut node, &a, 0, "").unwrap();
    assert_eq!(attached.ns_address, "10.18.0.2".parse().ok());
    assert_eq!(attached.ns_address_v6, "fc00::2".parse().ok());
    for gateway in ["10.18.0.1", "fc00::1"] {
        a.succeeds(&["ping", "-c1", "-W2", gateway]);
    }
    for instance in ["10.18.0.2", "fc00::2"] {
        host.ns.succeeds(&["ping", "-c1", "-W2", instance]);
    }
    let routes = a.output(&["ip", "route"]);
    assert!(routes.contains("default via 10.18.0.1"), "{routes}");
    assert!(
        routes.contains("10.30.0.0/16 via 10.18.0.1") && routes.contains("mtu 1420"),
        "{routes}"
    );
    let routes = a.output(&["ip", "-6", "route"]);
    assert!(routes.contains("default via fc00::1"), "{routes}");
    assert!(routes.contains("fdff::/16 via fc00::1"), "{routes}");
    host.teardown(node);
}

#[test]
#[ignore = "needs root"]
fn two_instances_do_not_meet_but_through_the_gateway() {
    let host = Host::new("apart");
    let mut node = host.node(subnet("10.18.0.0/26"));
    let (a, b) = (host.instance("a"), host.instance("b"));
    host.attach(&mut node, &a, 0, "").unwrap();
    host.attach(&mut node, &b, 1, "").unwrap();
    for other in ["10.18.0.3", "fc00::3"] {
        a.fails(&["ping", "-c1", "-W1", other]);
    }
    // Not by the kernel's routing either, with or without the bridge's own address as the next hop.
    let bridge_mac = host.mac_of("sluicebr0");
    a.succeeds(&["ip", "route", "add", "10.18.0.3/32", "via", "10.18.0.1"]);
    a.fails(&["ping", "-c1", "-W1", "10.18.0.3"]);
    a.succeeds(&[
        "ip",
        "neigh",
        "replace",
        "10.18.0.1",
        "lladdr",
        &bridge_mac,
        "dev",
        "eth-sluice",
    ]);
    a.fails(&["ping", "-c1", "-W1", "10.18.0.3"]);
    a.fails(&["ping", "-c1", "-W1", "10.18.0.1"]);
    b.succeeds(&["ping", "-c1", "-W2", "10.18.0.1"]);
    host.teardown(node);
}

#[test]
#[ignore = "needs root"]
fn a_forged_source_goes_nowhere() {
    let host = Host::new("forge");
    let mut node = host.node(subnet("10.18.0.0/26"));
    let (a, b) = (host.instance("a"), host.instance("b"));
    host.attach(&mut node, &a, 0, "").unwrap();
    host.attach(&mut node, &b, 1, "").unwrap();
    for (address, length) in [("10.18.0.9", "26"), ("fc00::9", "120")] {
        let with_length = format!("{address}/{length}");
        a.succeeds(&[
            "ip",
            "addr",
            "add",
            &with_length,
            "dev",
            "eth-sluice",
            "nodad",
        ]);
    }
    a.fails(&["ping", "-c1", "-W1", "-I", "10.18.0.9", "10.18.0.1"]);
    a.fails(&["ping", "-c1", "-W1", "-I", "fc00::9", "fc00::1"]);
    // Neither an ARP reply nor a neighbour advertisement for another's address is heard.
    for forged in ["10.18.0.9", "fc00::9"] {
        host.ns.fails(&["ping", "-c1", "-W1", forged]);
        let neighbours = host.ns.output(&["ip", "neigh", "show", forged]);
        assert!(!neighbours.contains("lladdr"), "{neighbours}");
    }
    for own in [["10.18.0.2", "10.18.0.1"], ["fc00::2", "fc00::1"]] {
        a.succeeds(&["ping", "-c1", "-W2", "-I", own[0], own[1]]);
    }
    a.succeeds(&[
        "ip",
        "link",
        "set",
        "eth-sluice",
        "address",
        "02:00:00:00:00:99",
    ]);
    a.succeeds(&["ip", "neigh", "flush", "all"]);
    a.fails(&["ping", "-c1", "-W1", "10.18.0.1"]);
    a.fails(&["ping", "-c1", "-W1", "fc00::1"]);
    host.teardown(node);
}

#[test]
#[ignore = "needs root"]
fn detach_and_teardown_leave_nothing() {
    let host = Host::new("clean");
    let before = host.everything();
    let mut node = host.node(subnet("10.18.0.0/26"));
    host.tun(&node);
    let idle = host.everything();
    let a = host.instance("a");
    host.attach(&mut node, &a, 0, "8080:80;53/udp").unwrap();
    assert_ne!(host.everything(), idle);
    host.ns
        .inside(|| node.detach(&name(0), &now()))
        .unwrap()
        .unwrap();
    assert_eq!(host.everything(), idle);
    assert!(!a.output(&["ip", "link"]).contains("sluice"));
    assert_eq!(
        host.ns.inside(|| node.detach(&name(0), &now())).unwrap(),
        None
    );
    host.attach(&mut node, &a, 0, "").unwrap();
    host.teardown(node);
    assert_eq!(host.everything(), before);
    assert_eq!(std::fs::read_dir(&host.state_dir).unwrap().count(), 0);
}

#[test]
#[ignore = "needs root"]
fn a_restart_adopts_what_lives_and_forgets_what_ended() {
    let host = Host::new("adopt");
    let mut node = host.node(subnet("10.18.0.0/26"));
    let (a, b, c) = (host.instance("a"), host.instance("b"), host.instance("c"));
    host.attach(&mut node, &a, 0, "8080:80").unwrap();
    host.attach(&mut node, &b, 1, "").unwrap();
    let mut sleeper = c.spawn(&["sleep", "1000"]);
    let pid = i32::try_from(sleeper.id()).unwrap();
    let workload = Workload::of_process(pid).unwrap();
    host.ns
        .inside(|| node.attach(request(2, ""), &workload, &now()).cloned())
        .unwrap();
    let links = host.ns.output(&["ip", "-o", "link", "show", "slv0a120002"]);
    // As after kill -9: nothing of the first gateway runs any more.
    drop(node);
    b.fails(&["ip", "link", "del", "nothing"]);
    b.succeeds(&["ip", "link", "del", "eth-sluice"]);
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    host.ns
        .succeeds(&["ip", "link", "add", "slvstray", "type", "veth"]);
    host.ns
        .succeeds(&["ip", "link", "set", "slvstray", "master", "sluicebr0"]);
    let mut node = host.node(subnet("10.18.0.0/26"));
    let left: Vec<_> = node
        .attachments()
        .iter()
        .map(|attachment| (attachment.instance.clone(), attachment.note.clone()))
        .collect();
    assert_eq!(left, [(name(0), "note 0".to_owned())]);
    assert_eq!(
        host.ns.output(&["ip", "-o", "link", "show", "slv0a120002"]),
        links
    );
    host.ns.fails(&["ip", "link", "show", "slvstray"]);
    host.ns.fails(&["ip", "link", "show", "slv0a120004"]);
    a.succeeds(&["ping", "-c1", "-W2", "10.18.0.1"]);
    assert!(host.rules().contains("dnat ip to 10.18.0.2:80"));
    let again = host.attach(&mut node, &b, 1, "").unwrap();
    assert_eq!(
        again.ns_address,
        "10.18.0.5".parse().ok(),
        "10.18.0.3 rests"
    );
    host.teardown(node);
}

#[test]
#[ignore = "needs root"]
fn an_ended_process_and_a_dead_namespace_are_reported() {
    let host = Host::new("gone");
    let mut node = host.node(subnet("10.18.0.0/26"));
    let (a, b) = (host.instance("a"), host.instance("b"));
    let mut sleeper = a.spawn(&["sleep", "1000"]);
    let pid = i32::try_from(sleeper.id()).unwrap();
    let workload = Workload::of_process(pid).unwrap();
    let first = host
        .ns
        .inside(|| node.attach(request(0, ""), &workload, &now()).cloned())
        .unwrap();
    drop(workload);
    let second = host.attach(&mut node, &b, 1, "").unwrap();
    host.ns.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (watch, mut gone) = Watch::start().unwrap();
            watch.add(&first);
            watch.add(&second);
            tokio::task::yield_now().await;
            assert!(gone.try_recv().is_err());
            sleeper.kill().unwrap();
            sleeper.wait().unwrap();
            assert_eq!(gone.recv().await, Some(name(0)));
            drop(b);
            assert_eq!(gone.recv().await, Some(name(1)));
            // What ended before it was watched is reported as well.
            watch.add(&first);
            assert_eq!(gone.recv().await, Some(name(0)));
            watch.add(&second);
            assert_eq!(gone.recv().await, Some(name(1)));
        });
    });
    host.teardown(node);
}

#[test]
#[ignore = "needs root"]
fn a_forward_policy_of_drop_does_not_stop_us_nor_we_it() {
    let host = Host::new("docker");
    let outside = host.outside();
    for tool in ["iptables-nft", "ip6tables-nft"] {
        host.ns.succeeds(&[tool, "-P", "FORWARD", "DROP"]);
    }
    let before = host.rules();
    let mut node = host.node(subnet("10.18.0.0/26"));
    let a = host.instance("a");
    host.attach(&mut node, &a, 0, "").unwrap();
    for address in ["192.0.2.2", "2001:db8::2"] {
        a.succeeds(&["ping", "-c1", "-W2", address]);
    }
    let listed = host.ns.output(&["iptables-nft", "-S", "FORWARD"]);
    assert!(
        listed.contains("-A FORWARD -i sluice0 -m comment --comment sluice -j ACCEPT"),
        "{listed}"
    );
    // Docker starts anew and brings its chain for users.
    host.ns.succeeds(&["iptables-nft", "-F", "FORWARD"]);
    host.ns.succeeds(&["iptables-nft", "-N", "DOCKER-USER"]);
    host.ns
        .succeeds(&["iptables-nft", "-I", "FORWARD", "-j", "DOCKER-USER"]);
    a.fails(&["ping", "-c1", "-W1", "192.0.2.2"]);
    assert_eq!(host.ns.inside(|| node.recheck()).unwrap(), 1);
    assert_eq!(host.ns.inside(|| node.recheck()).unwrap(), 0);
    a.succeeds(&["ping", "-c1", "-W2", "192.0.2.2"]);
    let listed = host.ns.output(&["iptables-nft", "-S", "DOCKER-USER"]);
    assert!(
        listed.contains("-A DOCKER-USER -o sluice0 -m comment --comment sluice -j ACCEPT"),
        "{listed}"
    );
    host.ns
        .succeeds(&["iptables-nft", "-D", "FORWARD", "-j", "DOCKER-USER"]);
    host.teardown(node);
    host.ns.succeeds(&["iptables-nft", "-X", "DOCKER-USER"]);
    assert_eq!(host.rules(), before);
    drop(outside);
}

/// The gateway's own ICMP errors come out of the TUN device with a source address of this very host.
#[test]
#[ignore = "needs root"]
fn errors_of_the_gateway_reach_the_instance_though_rp_filter_is_strict() {
    let host = Host::new("rpf");
    host.ns
        .succeeds(&["sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1"]);
    let mut node = host.node(subnet("10.18.0.0/26"));
    let settings = sluice_link::tun::TunSettings {
        name: "sluicetun0".to_owned(),
        workers: 1,
        offload: false,
        one_packet_per_syscall: true,
        persistent: false,
    };
    let links = host
        .ns
        .inside(|| sluice_link::tun::open(&settings))
        .unwrap();
    let tun = links[0].fd().unwrap();
    host.ns.inside(|| node.wire_tun()).unwrap();
    let a = host.instance("a");
    host.attach(&mut node, &a, 0, "").unwrap();
    for (from, to, gateway) in [
        ("10.18.0.2:7", "10.30.0.1:9", "10.18.0.1"),
        ("[fc00::2]:7", "[fdff::1]:9", "fc00::1"),
    ] {
        let socket = a.inside(|| UdpSocket::bind(from)).unwrap();
        socket.connect(to).unwrap();
        socket.send(b"x").unwrap();
        let mut asked = [0; 2000];
        let length = receive(tun, &mut asked);
        let (header, packet) = asked[..length].split_at(VNET_HEADER);
        let error = unreachable(gateway, packet);
        rustix::io::write(tun, &[header, &error].concat()).unwrap();
        let answer = socket.recv(&mut [0; 10]).unwrap_err();
        assert_eq!(answer.kind(), ErrorKind::ConnectionRefused, "{to}");
    }
    let tracked = host
        .ns
        .output(&["sysctl", "-n", "net.netfilter.nf_conntrack_count"]);
    assert_eq!(tracked.trim(), "0", "the overlay is not tracked");
    drop(links);
    host.teardown(node);
}

/// Of a TUN queue with IFF_VNET_HDR.
const VNET_HEADER: usize = 10;

/// The next packet for a semantic address; the device hears multicast reports as well.
fn receive(tun: BorrowedFd<'_>, packet: &mut [u8]) -> usize {
    loop {
        rustix::event::poll(&mut [PollFd::new(&tun, PollFlags::IN)], None).unwrap();
        let length = rustix::io::read(tun, &mut *packet).unwrap();
        let ip = &packet[VNET_HEADER..length];
        if ip.starts_with(&[0x45]) || ip.get(24..26) == Some(&[0xfd, 0xff]) {
            return length;
        }
    }
}

/// "Port unreachable" about `packet` to whoever sent it.
fn unreachable(from: &str, packet: &[u8]) -> Vec<u8> {
    let mut error = Vec::new();
    match from.parse().unwrap() {
        IpAddr::V4(from) => {
            let to = packet[12..16].try_into().unwrap();
            PacketBuilder::ipv4(from.octets(), to, 64)
                .icmpv4(Icmpv4Type::DestinationUnreachable(
                    icmpv4::DestUnreachableHeader::Port,
                ))
                .write(&mut error, packet)
        }
        IpAddr::V6(from) => {
            let to = packet[8..24].try_into().unwrap();
            PacketBuilder::ipv6(from.octets(), to, 64)
                .icmpv6(Icmpv6Type::DestinationUnreachable(
                    icmpv6::DestUnreachableCode::Port,
                ))
                .write(&mut error, packet)
        }
    }
    .unwrap();
    error
}

#[test]
#[ignore = "needs root"]
fn the_outside_reaches_mapped_ports_only() {
    let host = Host::new("ports");
    let outside = host.outside();
    let mut node = host.node(subnet("10.18.0.0/26"));
    let a = host.instance("a");
    host.attach(&mut node, &a, 0, "8080:80").unwrap();
    // A server that tells its callers who they are.
    let server = a.inside(|| TcpListener::bind("[::]:80")).unwrap();
    std::thread::spawn(move || {
        for caller in server.incoming() {
            let mut caller = caller.unwrap();
            let who = caller.peer_addr().unwrap().ip().to_canonical();
            caller.write_all(who.to_string().as_bytes()).unwrap();
        }
    });
    let ask = |from: &Ns, address: &str, port: u16| {
        let mut who = String::new();
        from.inside(|| TcpStream::connect((address, port)))
            .unwrap()
            .read_to_string(&mut who)
            .unwrap();
        who
    };
    assert_eq!(ask(&outside, "192.0.2.1", 8080), "192.0.2.2");
    assert_eq!(ask(&outside, "2001:db8::1", 8080), "2001:db8::2");
    assert_eq!(ask(&host.ns, "192.0.2.1", 8080), "192.0.2.1");
    // A neighbour that knows a way to the subnet still gets nothing else.
    outside.succeeds(&["ip", "route", "add", "10.18.0.0/26", "via", "192.0.2.1"]);
    outside.fails(&["ping", "-c1", "-W1", "10.18.0.2"]);
    let error = host.attach(&mut node, &host.instance("b"), 1, "8080:81");
    assert!(matches!(error, Err(NodeError::HostPortTaken { .. })));
    host.teardown(node);
}

#[test]
#[ignore = "needs root"]
fn bad_requests_are_named_and_leave_nothing() {
    let host = Host::new("bad");
    let mut node = host.node(subnet("10.18.0.0/30"));
    let idle = host.everything();
    let a = host.instance("a");
    let own = host.ns.inside(|| {
        let workload = Workload::of_namespace(Path::new("/proc/thread-self/ns/net")).unwrap();
        node.attach(request(9, ""), &workload, &now()).map(drop)
    });
    assert!(matches!(own, Err(NodeError::OwnNamespace)), "{own:?}");
    assert_eq!(host.everything(), idle);
    host.attach(&mut node, &a, 0, "").unwrap();
    let error = host.attach(&mut node, &a, 1, "").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("already attached as app.ns.svc.prod instance 0")
    );
    let error = host
        .attach(&mut node, &host.instance("b"), 0, "")
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "app.ns.svc.prod instance 0 is attached already"
    );
    let b = host.instance("c");
    let error = host.attach(&mut node, &b, 1, "").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no address left in 10.18.0.0/30"),
        "{error}"
    );
    host.teardown(node);
}

#[test]
#[ignore = "needs root"]
fn another_subnet_starts_anew() {
    let host = Host::new("anew");
    let mut node = host.node(subnet("10.18.0.0/26"));
    host.attach(&mut node, &host.instance("a"), 0, "").unwrap();
    drop(node);
    let node = host.node(subnet("10.18.0.64/26"));
    assert!(node.attachments().is_empty());
    let addresses = host.ns.output(&["ip", "addr", "show", "sluice0"]);
    assert!(addresses.contains("10.18.0.65/26") && !addresses.contains("10.18.0.1/"));
    host.teardown(node);
}

#[test]
#[ignore = "needs root"]
fn a_namespace_with_a_default_route_keeps_it() {
    let host = Host::new("keeps");
    let mut node = host.node(subnet("10.18.0.0/26"));
    let a = host.instance("a");
    a.succeeds(&["ip", "link", "add", "eth0", "type", "veth"]);
    a.succeeds(&["ip", "addr", "add", "198.51.100.2/24", "dev", "eth0"]);
    a.succeeds(&["ip", "link", "set", "eth0", "up"]);
    a.succeeds(&["ip", "route", "add", "default", "via", "198.51.100.1"]);
    host.attach(&mut node, &a, 0, "").unwrap();
    let routes = a.output(&["ip", "route"]);
    assert!(routes.contains("default via 198.51.100.1"), "{routes}");
    assert!(!routes.contains("default via 10.18.0.1"), "{routes}");
    assert!(routes.contains("10.30.0.0/16 via 10.18.0.1"), "{routes}");
    a.succeeds(&["ping", "-c1", "-W2", "10.18.0.1"]);
    host.teardown(node);
}

#[test]
#[ignore = "needs root"]
fn a_unikernel_gets_a_namespace_with_a_guest_network() {
    let host = Host::new("guest");
    let mut node = host.node(subnet("10.18.0.0/26"));
    let attached = host
        .ns
        .inside(|| node.attach_unikernel(request(0, ""), &now()))
        .unwrap();
    let ns = Ns::of_another("app.ns.svc.prod.instance.0");
    assert_eq!(attached.guest_namespace.as_deref(), Some(&*ns.name));
    assert!(
        ns.output(&["ip", "addr", "show", "virbr0"])
            .contains("192.168.1.1/30")
    );
    assert!(
        ns.output(&["ip", "link", "show", "tap0"])
            .contains("master virbr0")
    );
    // A guest on the bridge, in place of one behind the tap device.
    let guest = host.instance("g");
    ns.succeeds(&[
        "ip",
        "link",
        "add",
        "vg",
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        &guest.name,
    ]);
    ns.succeeds(&["ip", "link", "set", "vg", "master", "virbr0", "up"]);
    guest.succeeds(&["ip", "addr", "add", "192.168.1.2/30", "dev", "eth0"]);
    guest.succeeds(&["ip", "link", "set", "eth0", "up"]);
    guest.succeeds(&["ip", "route", "add", "default", "via", "192.168.1.1"]);
    guest.succeeds(&["ping", "-c1", "-W2", "10.18.0.1"]);
    host.ns.succeeds(&["ping", "-c1", "-W2", "10.18.0.2"]);
    let counted = guest.output(&["ip", "-s", "link", "show", "eth0"]);
    assert!(counted.contains("RX"), "{counted}");
    host.ns.inside(|| node.detach(&name(0), &now())).unwrap();
    assert!(!Path::new("/run/netns").join(&ns.name).exists());
    host.teardown(node);
}

/// The first addresses of a workload that began on another node.
const KEPT: [&str; 2] = ["10.18.7.9", "fc00::709"];

#[test]
#[ignore = "needs root"]
fn what_comes_from_a_foreign_address_is_refused_at_once() {
    let host = Host::new("foreign");
    let mut node = host.node(subnet("10.18.0.0/26"));
    let a = host.instance("a");
    host.attach(&mut node, &a, 0, "").unwrap();
    for (kept, gateway, to) in [
        (KEPT[0], "10.18.0.1", "10.30.9.9"),
        (KEPT[1], "fc00::1", "fdff:9::9"),
    ] {
        a.succeeds(&["ip", "addr", "add", kept, "dev", "eth-sluice", "nodad"]);
        a.succeeds(&["ip", "route", "add", to, "via", gateway, "src", kept]);
        // The gateway is known, as to every workload that has talked before.
        a.succeeds(&["ping", "-c1", "-W2", gateway]);
        let to: IpAddr = to.parse().unwrap();
        let refused = a
            .inside(|| TcpStream::connect_timeout(&(to, 80).into(), Duration::from_secs(30)))
            .unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
        let socket = a.inside(|| UdpSocket::bind((kept, 0)).unwrap());
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        socket.connect((to, 80)).unwrap();
        socket.send(b"?").unwrap();
        let refused = socket.recv(&mut [0; 16]).unwrap_err();
        let expected = if to.is_ipv4() {
            ErrorKind::HostUnreachable
        } else {
            ErrorKind::PermissionDenied
        };
        assert_eq!(refused.kind(), expected, "{refused}");
    }
    let guard = ["nft", "list", "chain", "netdev", "sluice", "slv0a120002"];
    let rules = host.ns.output(&guard);
    let answers = rules.lines().filter(|rule| rule.contains("reject"));
    for rule in answers.clone() {
        assert!(rule.contains("limit rate 100/second"), "{rule}");
        assert!(!rule.contains("counter packets 0"), "{rule}");
    }
    assert_eq!(answers.count(), 4, "{rules}");
    host.teardown(node);
}

/// Whether one side sends and the other gets what it was sent, whole.
fn talk(server: &Ns, at: &str, client: &Ns, to: (&str, u16)) {
    const BYTES: usize = 1_000_000;
    let at: IpAddr = at.parse().unwrap();
    let to = SocketAddr::new(to.0.parse().unwrap(), to.1);
    let listener = server.inside(|| TcpListener::bind((at, 7000)).unwrap());
    let sent: Vec<u8> = (0..=250).cycle().take(BYTES).collect();
    let received = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut received = Vec::new();
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_to_end(&mut received).unwrap();
            received
        });
        let limit = Duration::from_secs(30);
        let mut stream = client
            .inside(|| TcpStream::connect_timeout(&to, limit))
            .unwrap();
        stream.write_all(&sent).unwrap();
        drop(stream);
        reader.join().unwrap()
    });
    assert_eq!(received, sent);
}

/// A datagram to a port where nobody listens: the error quotes the addresses that its reader knows.
fn nobody_listens(client: &Ns, to: &str) {
    let to: IpAddr = to.parse().unwrap();
    let any: IpAddr = if to.is_ipv4() {
        [0; 4].into()
    } else {
        [0; 16].into()
    };
    let socket = client.inside(|| UdpSocket::bind((any, 0)).unwrap());
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    socket.connect((to, 7001)).unwrap();
    socket.send(b"?").unwrap();
    let refused = socket.recv(&mut [0; 16]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to}");
}

#[test]
#[ignore = "needs root"]
fn a_workload_that_moved_here_keeps_its_address_inside() {
    let host = Host::new("kept");
    let outside = host.outside();
    let mut node = host.node(subnet("10.18.0.0/26"));
    host.tun(&node);
    let idle = host.rules();
    let neighbours = ["ip", "neigh", "show", "nud", "permanent"];
    let a = host.instance("a");
    let workload = Workload::of_namespace(Path::new(&a.name)).unwrap();
    let mut request = request(0, "8080:7000");
    request.kept = Dual::both(KEPT[0].parse().unwrap(), KEPT[1].parse().unwrap());
    let attached = host
        .ns
        .inside(|| node.attach(request, &workload, &now()).cloned())
        .unwrap();
    assert_eq!(attached.ns_address, "10.18.0.2".parse().ok());
    assert_eq!(attached.kept_address, KEPT[0].parse().ok());
    let addresses = a.output(&["ip", "-br", "addr", "show", "eth-sluice"]);
    assert!(
        KEPT.iter().all(|kept| addresses.contains(kept)) && !addresses.contains("10.18.0.2"),
        "{addresses}"
    );
    for _ in 0..2 {
        let ends = [("10.18.0.1", "10.18.0.2"), ("fc00::1", "fc00::2")];
        for ((gateway, ns_ip), kept) in ends.into_iter().zip(KEPT) {
            a.succeeds(&["ping", "-c1", "-W2", "-I", kept, gateway]);
            host.ns
                .succeeds(&["ping", "-c1", "-W2", "-s", "9000", ns_ip]);
            talk(&a, kept, &host.ns, (ns_ip, 7000));
            talk(&host.ns, gateway, &a, (gateway, 7000));
            nobody_listens(&a, gateway);
            nobody_listens(&host.ns, ns_ip);
        }
        for to in ["192.0.2.2", "2001:db8::2"] {
            a.succeeds(&["ping", "-c1", "-W2", to]);
        }
        talk(&a, KEPT[0], &outside, ("192.0.2.1", 8080));
        // As after kill -9.
        drop(node);
        node = host.node(subnet("10.18.0.0/26"));
    }
    // Its NsIP is not its own any more, inside.
    a.succeeds(&["ip", "addr", "add", "10.18.0.2", "dev", "eth-sluice"]);
    a.fails(&["ping", "-c1", "-W1", "-I", "10.18.0.2", "10.18.0.1"]);
    assert_eq!(host.ns.output(&neighbours).lines().count(), 2);
    host.ns
        .inside(|| node.detach(&name(0), &now()))
        .unwrap()
        .unwrap();
    assert_eq!(host.rules(), idle);
    assert_eq!(host.ns.output(&neighbours), "");
    host.teardown(node);
}

/// An address that means something else to the workload here, or of a family that the node has not, is not kept.
#[test]
#[ignore = "needs root"]
fn an_address_that_clashes_is_not_kept() {
    let host = Host::new("clash");
    let mut node = host.node(subnet("10.18.0.0/26"));
    let mut attached_ones = Vec::new();
    for (number, v4, v6) in [
        (0, "10.18.0.1", "fc00::1"),
        (1, "10.30.0.9", "fdff::9"),
        (2, "10.18.0.4", "fc00::4"),
    ] {
        let a = host.instance(&number.to_string());
        let workload = Workload::of_namespace(Path::new(&a.name)).unwrap();
        let mut request = request(number, "");
        request.kept = Dual::both(v4.parse().unwrap(), v6.parse().unwrap());
        let attached = host
            .ns
            .inside(|| node.attach(request, &workload, &now()).cloned())
            .unwrap();
        assert_eq!(
            (attached.kept_address, attached.kept_address_v6),
            (None, None)
        );
        a.succeeds(&["ping", "-c1", "-W2", "10.18.0.1"]);
        attached_ones.push(a);
    }
    host.teardown(node);
}
